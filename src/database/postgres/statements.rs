//! The statements that a session keeps prepared, and how their parameters are sent and their rows are read.
//!
//! Runs on the worker that borrowed the session.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{
    CLOSE_COMPLETE_TAG, ERROR_RESPONSE_TAG, NO_DATA_TAG, PARAMETER_DESCRIPTION_TAG, PARSE_COMPLETE_TAG,
    READY_FOR_QUERY_TAG, ROW_DESCRIPTION_TAG,
};
use postgres_protocol::message::frontend;
use tokio_postgres::types::{BorrowToSql, Format, IsNull as Null, Oid, Type};

use super::effects::Effects;
use super::json::Encoder;
use super::refusal::{is_fatal, refused};
use super::type_name;
use super::types::Types;
use super::wire::{Failure, Wait, Wire, unsendable};
use crate::config;
use crate::database::Error;
use crate::database::comment::{self, Comment};

/// A column of a statement's rows.
#[derive(Clone, Debug)]
pub struct Column {
    name: String,
    kind: Type,
}

impl Column {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its values.
    pub fn type_(&self) -> &Type {
        &self.kind
    }
}

/// A column as the server describes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Described {
    name: String,
    /// Of which table; 0: of none.
    table: Oid,
    kind: Oid,
}

impl Described {
    /// The columns that a description has (the manual, 55.7).
    pub(super) fn columns(mut body: &[u8]) -> Result<Vec<Self>, Error> {
        /// Behind its name a column has: table, number, type, size, modifier, format.
        const BEHIND: usize = 18;
        const TYPE_AT: usize = 6;
        let mut read = || {
            let (count, mut rest) = body.split_first_chunk()?;
            let mut columns = Vec::new();
            for _ in 0..u16::from_be_bytes(*count) {
                let end = rest.iter().position(|byte| *byte == 0)?;
                let (name, behind) = (&rest[..end], rest.get(end + 1..)?);
                let number = |at| Some(Oid::from_be_bytes(*behind.get(at..)?.first_chunk()?));
                let name = String::from_utf8_lossy(name).into_owned();
                columns.push(Self { name, table: number(0)?, kind: number(TYPE_AT)? });
                rest = behind.get(BEHIND..)?;
            }
            body = rest;
            body.is_empty().then_some(columns)
        };
        read().ok_or_else(|| Error::Lost("it described columns in another form".to_owned()))
    }
}

/// A statement that the server has prepared, and how its rows are written.
///
/// It is run as it was prepared, or as another text: its own with a comment that names the request. That is another text each time,
/// so it is sent as the unnamed statement, with its values and all else that it takes, in one batch: the types of its parameters are
/// known from the one that was prepared.
pub(super) struct Prepared {
    name: Box<str>,
    pub(super) params: Vec<Type>,
    pub(super) columns: Vec<Column>,
    pub(super) plan: Vec<ColumnPlan>,
    /// Up to where its text goes when a comment is to stand behind it; `None`: it has one.
    end: Option<usize>,
    /// Whether the server may go on with its columns after they were renamed. Such a statement is sent with its text each time.
    is_open: bool,
    /// What it may do to the session.
    pub(super) effects: Arc<Effects>,
}

/// How a column's values are written as JSON.
pub(super) struct ColumnPlan {
    /// `"name":`
    pub(super) key: Box<[u8]>,
    pub(super) encoder: Option<Encoder>,
}

impl Prepared {
    /// Of a statement that is run once, whose rows are read by their positions.
    pub(super) fn of_columns(count: usize) -> Self {
        let column = || Column { name: String::new(), kind: Type::UNKNOWN };
        Self {
            name: "".into(),
            params: Vec::new(),
            columns: (0..count).map(|_| column()).collect(),
            plan: Vec::new(),
            end: None,
            is_open: false,
            effects: Arc::default(),
        }
    }

    /// The same statement, whose columns are others now.
    pub(super) fn with_columns(&self, columns: Vec<Column>) -> Self {
        Self {
            name: self.name.clone(),
            params: self.params.clone(),
            plan: plan_of(&columns),
            columns,
            end: self.end,
            is_open: self.is_open,
            effects: Arc::clone(&self.effects),
        }
    }

    /// What is sent in place of `sql`, which it was prepared from, to name the request, if that is to be done, or because its
    /// columns are open.
    pub(super) fn text_for(&self, sql: &str, request: &Comment) -> Option<String> {
        let Some(end) = self.end.filter(|_| !request.is_empty()) else { return self.text_if_open(sql) };
        let mut text = sql[..end].to_owned();
        request.write(&Comment::default(), &mut text);
        Some(text)
    }

    /// The text that it was prepared from, where that is sent because its columns are open.
    pub(super) fn text_if_open(&self, sql: &str) -> Option<String> {
        self.is_open.then(|| sql.to_owned())
    }

    /// Whether both have the same parameters and columns.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let same = |(one, other): (&Column, &Column)| one.name == other.name && one.kind == other.kind;
        self.params == other.params
            && self.columns.len() == other.columns.len()
            && self.columns.iter().zip(&other.columns).all(same)
    }

    /// Whether the columns are those that the statement had when it was prepared.
    pub(super) fn has(&self, columns: &[Described]) -> bool {
        let same =
            |(now, before): (&Described, &Column)| now.name == before.name && now.kind == before.kind.oid();
        columns.len() == self.columns.len() && columns.iter().zip(&self.columns).all(same)
    }

    /// The first column that has no form in JSON.
    pub(super) fn unsupported(&self) -> Option<usize> {
        self.plan.iter().position(|column| column.encoder.is_none())
    }

    pub(super) fn refusal_of(&self, index: usize) -> Error {
        let (column, type_name) = self.column(index);
        Error::UnsupportedType { column, type_name }
    }

    /// A column's name and type, for messages.
    pub(super) fn column(&self, index: usize) -> (String, String) {
        let column = self.columns.get(index);
        column.map_or_else(Default::default, |column| (column.name.clone(), type_name(&column.kind)))
    }

    /// Puts a run of it into the batch, as a part of its own; `named`: as this text instead. The values come in binary.
    pub(super) fn run<P: BorrowToSql>(
        &self,
        named: Option<&str>,
        parameters: impl ExactSizeIterator<Item = P> + Clone,
        wire: &mut Wire,
    ) -> Result<(), Error> {
        let (expected, received) = (self.params.len(), parameters.len());
        if received != expected {
            return Err(Error::Usage(format!("expected {expected} parameters but got {received}")));
        }
        let batch = wire.batch();
        if let Some(text) = named {
            frontend::parse("", text, self.params.iter().map(Type::oid), batch).map_err(unsendable)?;
        }
        let name = if named.is_some() { "" } else { &self.name };
        bind(name, &self.params, parameters, batch)?;
        if named.is_some() {
            frontend::describe(b'P', "", batch).map_err(unsendable)?;
        }
        frontend::execute("", 0, batch).map_err(unsendable)?;
        wire.add_sync();
        Ok(())
    }
}

fn bind<P: BorrowToSql>(
    name: &str,
    types: &[Type],
    parameters: impl ExactSizeIterator<Item = P> + Clone,
    batch: &mut BytesMut,
) -> Result<(), Error> {
    let formats =
        parameters.clone().zip(types).map(|(one, kind)| match one.borrow_to_sql().encode_format(kind) {
            Format::Text => 0,
            Format::Binary => 1,
        });
    let mut index = 0;
    let serialize = |(one, kind): (P, &Type), out: &mut BytesMut| {
        let null = one.borrow_to_sql().to_sql_checked(kind, out)?;
        index += 1;
        Ok(match null {
            Null::Yes => IsNull::Yes,
            Null::No => IsNull::No,
        })
    };
    let bound = frontend::bind("", name, formats, parameters.zip(types), serialize, Some(1), batch);
    bound.map_err(|error| match error {
        frontend::BindError::Conversion(error) => {
            Error::Usage(format!("error serializing parameter {index}: {error}"))
        }
        frontend::BindError::Serialization(error) => unsendable(error),
    })
}

fn plan_of(columns: &[Column]) -> Vec<ColumnPlan> {
    let plan = columns.iter().map(|column| ColumnPlan {
        key: super::super::json::key(&column.name),
        encoder: Encoder::of(&column.kind),
    });
    plan.collect()
}

/// What no other process calls its statements: a pooler may lend a server's session to several, and then a name that two of them use
/// would be one statement.
static PROCESS: LazyLock<u64> = LazyLock::new(|| fastrand::Rng::new().u64(..));

/// The hashes of statements' texts in their names.
static TEXTS: LazyLock<std::hash::RandomState> = LazyLock::new(std::hash::RandomState::new);

/// The session's prepared statements by their text; when full, the oldest makes room for the next one.
#[derive(Default)]
pub(super) struct Statements {
    pub(super) max: usize,
    known: HashMap<Arc<str>, Arc<Prepared>>,
    oldest_first: VecDeque<Arc<str>>,
    /// Those that the server is to forget.
    dismissed: Vec<Arc<Prepared>>,
    /// How many were prepared: no name is used twice.
    count: u64,
}

impl Statements {
    /// None of them is to be used any more.
    pub(super) fn forget(&mut self) {
        self.oldest_first.clear();
        self.dismissed.extend(self.known.drain().map(|(_, prepared)| prepared));
    }

    /// The server has forgotten all of them.
    pub(super) fn forget_all_at_once(&mut self) {
        self.oldest_first.clear();
        self.known.clear();
        self.dismissed.clear();
    }

    /// This one is not to be used any more.
    pub(super) fn forget_one(&mut self, sql: &str) {
        self.oldest_first.retain(|text| **text != *sql);
        self.dismissed.extend(self.known.remove(sql));
    }

    /// How many were prepared so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn known(&self, sql: &str) -> Option<&Arc<Prepared>> {
        self.known.get(sql)
    }

    /// Puts into the batch, as a part of its own, what has the server prepare a statement. Returns its name.
    pub(super) fn ask(&mut self, sql: &str, wire: &mut Wire) -> Result<Box<str>, Error> {
        refuse_session_commands(sql)?;
        while self.known.len() >= self.max.max(1)
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.dismissed.extend(self.known.remove(&oldest));
        }
        let batch = wire.batch();
        for dismissed in &self.dismissed {
            frontend::close(b'S', &dismissed.name, batch).map_err(unsendable)?;
        }
        self.count += 1;
        let name = format!("w{:x}_{:x}_{}", *PROCESS, TEXTS.hash_one(sql), self.count);
        frontend::parse(&name, sql, [], batch).map_err(unsendable)?;
        frontend::describe(b'S', &name, batch).map_err(unsendable)?;
        wire.add_sync();
        Ok(name.into())
    }

    /// Reads what the server says to that, and keeps the statement.
    pub(super) fn learn(
        &mut self,
        name: Box<str>,
        sql: &str,
        effects: Arc<Effects>,
        types: &mut Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
    ) -> Result<Arc<Prepared>, Failure> {
        let (mut params, mut columns, mut refusal) = (Vec::new(), Vec::new(), None);
        loop {
            let message = wire.message(wait)?;
            let body = wire.body(&message);
            match message.tag {
                CLOSE_COMPLETE_TAG | PARSE_COMPLETE_TAG | NO_DATA_TAG => {}
                PARAMETER_DESCRIPTION_TAG => params = oids(body).map_err(Failure::Lost)?,
                ROW_DESCRIPTION_TAG => columns = Described::columns(body).map_err(Failure::Lost)?,
                ERROR_RESPONSE_TAG => {
                    let error = refused(body, sql);
                    if is_fatal(body) {
                        wire.close();
                        return Err(error.into());
                    }
                    refusal = Some(error);
                }
                READY_FOR_QUERY_TAG => break,
                tag => return Err(wire.unexpected(tag)),
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal.into());
        }
        self.dismissed.clear();
        types.learn(params.iter().copied().chain(columns.iter().map(|column| column.kind)), wire, wait)?;
        let known =
            |oid| types.known(oid).ok_or_else(|| Error::Usage(format!("the type number {oid} is not known")));
        let is_open = has_open_columns(sql, &columns);
        let params = params.into_iter().map(known).collect::<Result<_, _>>()?;
        let columns =
            columns.into_iter().map(|column| Ok(Column { kind: known(column.kind)?, name: column.name }));
        let columns: Vec<Column> = columns.collect::<Result<_, Error>>()?;
        let has_comment = config::Sql::without_parameters(sql).has_comment();
        let end = (!has_comment).then(|| comment::end(sql));
        let prepared =
            Arc::new(Prepared { name, params, plan: plan_of(&columns), columns, end, is_open, effects });
        self.keep(sql, &prepared);
        Ok(prepared)
    }

    fn keep(&mut self, sql: &str, prepared: &Arc<Prepared>) {
        let text: Arc<str> = sql.into();
        self.oldest_first.push_back(Arc::clone(&text));
        self.known.insert(text, Arc::clone(prepared));
    }
}

/// Whether some column's name comes from a function's row type, as in `select * from f()`. Where that type is a table's and the
/// table's columns are renamed, PostgreSQL goes on with the names that it knew when it prepared the statement.
///
/// Such a column belongs to no table, and its name is none of the statement's words, as it stands for a `*`.
fn has_open_columns(sql: &str, columns: &[Described]) -> bool {
    /// What PostgreSQL calls a column that has no name.
    const NAMELESS: &str = "?column?";
    let text = without_comments(&sql.to_ascii_lowercase());
    let is_open = |column: &Described| {
        column.table == 0 && column.name != NAMELESS && !text.contains(&column.name.to_ascii_lowercase())
    };
    has_star(&text) && columns.iter().any(is_open)
}

/// Whether a `*` in a statement in lower case stands for columns, and not for a multiplication or in `count(*)`.
fn has_star(text: &str) -> bool {
    const BEFORE: [&str; 6] = [".", ",", "select", "distinct", "all", "returning"];
    text.match_indices('*').any(|(at, _)| {
        let before = text[..at].trim_end();
        BEFORE.iter().any(|end| before.ends_with(end))
            || before.ends_with(')') && text.contains("distinct on")
    })
}

/// The statement as far as it says something to the database. What looks like a comment in a string goes as well.
fn without_comments(sql: &str) -> String {
    let (mut text, mut rest) = (String::with_capacity(sql.len()), sql);
    while let Some(begin) = rest.find("/*").into_iter().chain(rest.find("--")).min() {
        text.push_str(&rest[..begin]);
        let end = if rest[begin..].starts_with("/*") { "*/" } else { "\n" };
        rest = rest[begin + 2..].split_once(end).map_or("", |(_, behind)| behind);
    }
    text + rest
}

/// The types of a statement's parameters.
fn oids(body: &[u8]) -> Result<Vec<Oid>, Error> {
    let read = || {
        let (count, rest) = body.split_first_chunk()?;
        let (oids, behind) = rest.as_chunks();
        let fits = oids.len() == usize::from(u16::from_be_bytes(*count)) && behind.is_empty();
        fits.then(|| oids.iter().map(|oid| Oid::from_be_bytes(*oid)).collect())
    };
    read().ok_or_else(|| Error::Lost("it described parameters in another form".to_owned()))
}

/// The columns that a statement has now, where their types are known.
pub(super) fn columns_of(described: &[Described], types: &Types) -> Result<Vec<Column>, Error> {
    let columns = described.iter().map(|column| match types.known(column.kind) {
        Some(kind) => Ok(Column { name: column.name.clone(), kind }),
        None => Err(Error::UnsupportedType {
            column: column.name.clone(),
            type_name: format!("number {}, which is new", column.kind),
        }),
    });
    columns.collect()
}

/// Commands that would leave the session in a state that the checkin does not know of, or that speak another protocol.
fn refuse_session_commands(sql: &str) -> Result<(), Error> {
    const REFUSED: [&str; 12] = [
        "abort",
        "begin",
        "commit",
        "copy",
        "deallocate",
        "discard",
        "end",
        "prepare",
        "release",
        "rollback",
        "savepoint",
        "start",
    ];
    let word = first_word(sql);
    match REFUSED.iter().find(|refused| word.eq_ignore_ascii_case(refused)) {
        Some(_) => Err(Error::Usage(format!(
            "{word} is not a statement that can run here; transactions are begun and \
             ended by wharf"
        ))),
        None => Ok(()),
    }
}

pub(super) fn first_word(sql: &str) -> &str {
    let mut rest = sql.trim_start();
    loop {
        rest = if let Some(comment) = rest.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, after)| after)
        } else {
            break;
        }
        .trim_start();
    }
    rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_commands_are_refused_behind_comments_too() {
        assert!(refuse_session_commands("/* x */ -- y\n BEGIN").is_err());
        assert!(refuse_session_commands("commit;").is_err());
        assert!(refuse_session_commands("select 'begin'").is_ok());
        assert!(refuse_session_commands("with a as (select 1) select * from a").is_ok());
    }

    #[test]
    fn a_star_that_stands_for_columns_is_told_from_others() {
        for sql in ["select * from f()", "select a, *", "select f.*", "select distinct on (a) *"] {
            assert!(has_star(sql), "{sql}");
        }
        for sql in ["select 2 * a from f()", "select count(*) from f()", "select (a + b) * c"] {
            assert!(!has_star(sql), "{sql}");
        }
        let sql = without_comments("select /* a */ * -- b\nfrom c /*statement='d'*/");
        assert_eq!(sql, "select  * from c ");
        assert!(has_star(&sql));
    }

    #[test]
    fn descriptions_that_are_cut_short_or_too_long_are_refused() {
        let column = [&b"\0\x01n\0\0\0\0\0\0\0\0\0\0\x17\0\x04"[..], &[255; 4], &[0, 0]].concat();
        assert_eq!(
            Described::columns(&column).unwrap(),
            [Described { name: "n".to_owned(), table: 0, kind: 23 }]
        );
        for end in 0..column.len() {
            assert!(Described::columns(&column[..end]).is_err(), "{end}");
        }
        assert!(Described::columns(&[&column[..], b"x"].concat()).is_err());
        assert_eq!(oids(b"\0\x01\0\0\0\x17").unwrap(), [23]);
        assert!(oids(b"\0\x01\0\0\0").is_err() && oids(b"\0\x02\0\0\0\x17").is_err());
    }
}
