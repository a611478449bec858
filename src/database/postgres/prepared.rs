//! A statement that the server has prepared: its parameters and columns, its runs, and the writing of its rows.
//!
//! Owns [`Prepared`] and its parts. Runs on the worker that borrowed the session; knows neither the session nor its
//! other statements.

use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use tokio_postgres::types::{BorrowToSql, Format, IsNull as Null, Kind, Oid, Type};

use super::effects::SessionEffect;
use super::fields::Fields;
use super::json::Encoder;
use super::single_insert::{ReturnedColumn, SingleInsert};
use super::text::{has_star, without_comments};
use super::wire::{Wire, unsendable};
use crate::config::{self, sql::Dialect};
use crate::database::comment::{self, Comment};
use crate::database::{Error, RowWriter, json};

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

    pub(super) fn new(name: String, kind: Type) -> Self {
        Self { name, kind }
    }

    /// The name of the type, for messages.
    pub(super) fn type_name(&self) -> String {
        match self.kind.kind() {
            Kind::Array(item) => format!("{item}[]"),
            _ => self.kind.to_string(),
        }
    }
}

/// A column as the server describes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DescribedColumn {
    pub(super) name: String,
    /// The table that it belongs to; 0: none.
    pub(super) table: Oid,
    /// The number of its type.
    pub(super) kind: Oid,
    /// The modifier of its type, such as the length in `varchar(20)`; negative: it has none.
    pub(super) modifier: i32,
}

impl DescribedColumn {
    /// Reads the columns of a description (the manual, 55.7).
    pub(super) fn columns(mut body: &[u8]) -> Result<Vec<Self>, Error> {
        /// The bytes behind a column's name: table, number, type, size, modifier, format.
        const BEHIND: usize = 18;
        const TYPE_AT: usize = 6;
        const MODIFIER_AT: usize = 12;
        let mut read = || {
            let (count, mut rest) = body.split_first_chunk()?;
            let mut columns = Vec::new();
            for _ in 0..u16::from_be_bytes(*count) {
                let end = rest.iter().position(|byte| *byte == 0)?;
                let (name, behind) = (&rest[..end], rest.get(end + 1..)?);
                let number = |at| Some(Oid::from_be_bytes(*behind.get(at..)?.first_chunk()?));
                let name = String::from_utf8_lossy(name).into_owned();
                let modifier = number(MODIFIER_AT)?.cast_signed();
                columns.push(Self { name, table: number(0)?, kind: number(TYPE_AT)?, modifier });
                rest = behind.get(BEHIND..)?;
            }
            body = rest;
            body.is_empty().then_some(columns)
        };
        read().ok_or_else(|| Error::Lost("it described columns in another form".to_owned()))
    }
}

/// A statement that the server has prepared, with the plan for writing its rows.
///
/// It is run as it was prepared, or with a comment that names the request. With a comment the text differs each time.
/// The text is then sent as the unnamed statement, together with its values. The types of its parameters are those of
/// the prepared statement.
pub(super) struct Prepared {
    pub(super) name: Box<str>,
    pub(super) params: Vec<Type>,
    pub(super) columns: Vec<Column>,
    pub(super) plan: Vec<ColumnPlan>,
    /// The end of its text, where a comment is added; `None`: it has a comment already.
    end: Option<usize>,
    /// Whether the server may keep the old names of its columns after they were renamed. Its text is sent with each run then.
    is_open: bool,
    /// Its effect on the session.
    pub(super) effect: Arc<SessionEffect>,
    /// Set if it is an insert that may need no transaction.
    pub(super) single_insert: Option<SingleInsert>,
}

/// The plan for writing a column's values as JSON.
pub(super) struct ColumnPlan {
    /// `"name":`
    pub(super) key: Box<[u8]>,
    pub(super) encoder: Option<Encoder>,
}

impl Prepared {
    /// A statement that is run once. Its rows are read by their positions.
    pub(super) fn of_columns(count: usize) -> Self {
        let column = || Column { name: String::new(), kind: Type::UNKNOWN };
        Self {
            name: "".into(),
            params: Vec::new(),
            columns: (0..count).map(|_| column()).collect(),
            plan: Vec::new(),
            end: None,
            is_open: false,
            effect: Arc::default(),
            single_insert: None,
        }
    }

    /// A statement that the server has just prepared from `sql`.
    pub(super) fn new(
        name: Box<str>,
        sql: &str,
        params: Vec<Type>,
        columns: Vec<Column>,
        described: &[DescribedColumn],
        effect: Arc<SessionEffect>,
    ) -> Self {
        let has_comment = config::Sql::without_parameters(sql).has_comment(Dialect::Standard);
        let end = (!has_comment).then(|| comment::end(sql));
        let is_open = has_open_columns(sql, described);
        let plan = plan_of(&columns);
        let may_be_single = !is_open && plan.iter().all(|column| column.encoder.is_some());
        let returned = described.iter().zip(&columns);
        let returned = returned.map(|(described, column)| ReturnedColumn {
            table: described.table,
            kind: &column.kind,
            modifier: described.modifier,
        });
        let returned: Vec<_> = returned.filter(|_| may_be_single).collect();
        let key_bytes = plan.iter().map(|column| column.key.len()).sum();
        let single_insert = SingleInsert::of(sql, &returned, key_bytes);
        Self { name, params, columns, plan, end, is_open, effect, single_insert }
    }

    /// The same statement with other columns.
    pub(super) fn with_columns(&self, columns: Vec<Column>) -> Self {
        Self {
            name: self.name.clone(),
            params: self.params.clone(),
            plan: plan_of(&columns),
            columns,
            end: self.end,
            is_open: self.is_open,
            effect: Arc::clone(&self.effect),
            single_insert: None,
        }
    }

    /// The text to send in place of the prepared statement: `sql`, from which it was prepared, with a comment that
    /// names the request, or `sql` itself if its columns are open.
    pub(super) fn text_for(&self, sql: &str, request: &Comment) -> Option<String> {
        let Some(end) = self.end.filter(|_| !request.is_empty()) else { return self.text_if_open(sql) };
        let mut text = sql[..end].to_owned();
        request.write(&Comment::default(), &mut text);
        Some(text)
    }

    /// The text from which it was prepared, if its columns are open.
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

    /// Whether the statement had these columns when it was prepared.
    pub(super) fn has(&self, columns: &[DescribedColumn]) -> bool {
        let same = |(now, before): (&DescribedColumn, &Column)| {
            now.name == before.name && now.kind == before.kind.oid()
        };
        columns.len() == self.columns.len() && columns.iter().zip(&self.columns).all(same)
    }

    /// The first column that has no form in JSON.
    pub(super) fn unsupported(&self) -> Option<usize> {
        self.plan.iter().position(|column| column.encoder.is_none())
    }

    pub(super) fn refusal_of(&self, index: usize) -> Error {
        let (column, type_name) = self.column(index);
        let instead = as_text(&column);
        Error::UnsupportedType { column, type_name, instead }
    }

    /// A column's name and type, for messages.
    pub(super) fn column(&self, index: usize) -> (String, String) {
        let column = self.columns.get(index);
        column.map_or_else(Default::default, |column| (column.name.clone(), column.type_name()))
    }

    /// Puts a run of the statement into the batch. The caller ends the part. `text` is sent in place of the prepared
    /// statement. The values of the rows will come in binary.
    pub(super) fn put<P: BorrowToSql>(
        &self,
        text: Option<&str>,
        parameters: impl ExactSizeIterator<Item = P> + Clone,
        wire: &mut Wire,
    ) -> Result<(), Error> {
        let (expected, received) = (self.params.len(), parameters.len());
        if received != expected {
            return Err(Error::Usage(format!("expected {expected} parameters but got {received}")));
        }
        let batch = wire.batch();
        if let Some(text) = text {
            frontend::parse("", text, self.params.iter().map(Type::oid), batch).map_err(unsendable)?;
        }
        let name = if text.is_some() { "" } else { &self.name };
        bind(name, &self.params, parameters, batch)?;
        if text.is_some() {
            frontend::describe(b'P', "", batch).map_err(unsendable)?;
        }
        frontend::execute("", 0, batch).map_err(unsendable)
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

/// Writes a row as JSON.
pub(super) fn write_row(prepared: &Prepared, fields: &[u8], rows: &mut RowWriter<'_>) -> Result<(), Error> {
    let (plan, mut fields) = (&prepared.plan, Fields(fields));
    // The writer takes the columns one after the other, from the first on.
    rows.row(plan.iter().map(|column| &*column.key), |index, out| {
        let encoder = plan.get(index).and_then(|column| column.encoder.as_ref());
        let written = fields.next().zip(encoder).map(|(field, encoder)| encoder.write(out, field));
        written.and_then(Result::ok).ok_or_else(|| {
            let (column, type_name) = prepared.column(index);
            Error::Malformed { column, type_name }
        })
    })
}

fn plan_of(columns: &[Column]) -> Vec<ColumnPlan> {
    let plan = columns
        .iter()
        .map(|column| ColumnPlan { key: json::key(&column.name), encoder: Encoder::of(&column.kind) });
    plan.collect()
}

/// Whether some column's name comes from a function's row type, as in `select * from f()`. If that type is a table's
/// and the table's columns are renamed, PostgreSQL keeps the names from the time when it prepared the statement.
///
/// Such a column belongs to no table. Its name is no word of the statement, because it comes from a `*`.
fn has_open_columns(sql: &str, columns: &[DescribedColumn]) -> bool {
    /// PostgreSQL's name for a column that has no name.
    const NAMELESS: &str = "?column?";
    let text = without_comments(&sql.to_ascii_lowercase());
    let is_open = |column: &DescribedColumn| {
        column.table == 0 && column.name != NAMELESS && !text.contains(&column.name.to_ascii_lowercase())
    };
    has_star(&text) && columns.iter().any(is_open)
}

/// The types of a statement's parameters.
pub(super) fn oids(body: &[u8]) -> Result<Vec<Oid>, Error> {
    let read = || {
        let (count, rest) = body.split_first_chunk()?;
        let (oids, behind) = rest.as_chunks();
        let fits = oids.len() == usize::from(u16::from_be_bytes(*count)) && behind.is_empty();
        fits.then(|| oids.iter().map(|oid| Oid::from_be_bytes(*oid)).collect())
    };
    read().ok_or_else(|| Error::Lost("it described parameters in another form".to_owned()))
}

/// The column as text, which every type has.
pub(super) fn as_text(column: &str) -> String {
    format!("\"{column}\"::text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_that_are_cut_short_or_too_long_are_refused() {
        let column = [&b"\0\x01n\0\0\0\0\0\0\0\0\0\0\x17\0\x04"[..], &[255; 4], &[0, 0]].concat();
        assert_eq!(
            DescribedColumn::columns(&column).unwrap(),
            [DescribedColumn { name: "n".to_owned(), table: 0, kind: 23, modifier: -1 }]
        );
        for end in 0..column.len() {
            assert!(DescribedColumn::columns(&column[..end]).is_err(), "{end}");
        }
        assert!(DescribedColumn::columns(&[&column[..], b"x"].concat()).is_err());
        assert_eq!(oids(b"\0\x01\0\0\0\x17").unwrap(), [23]);
        assert!(oids(b"\0\x01\0\0\0").is_err() && oids(b"\0\x02\0\0\0\x17").is_err());
    }
}
