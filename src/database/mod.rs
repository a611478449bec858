//! The database as a worker sees it: a pool, a borrowed connection, statements, and rows written as JSON.
//!
//! Every call blocks the worker that makes it, and none blocks past the request's deadline by more than the half second
//! that a cancelled statement is given to end. Knows nothing of HTTP but the status that an error becomes.

mod comment;
mod disclosure;
mod error;
mod json;
mod pool;
pub mod postgres;
mod rows;
mod settings;
pub mod sqlite;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// SQLite's driver, whose connection [`Connection::sqlite`] lends.
pub use ::rusqlite;
pub use error::{Category, Error, Refusal, SQLITE_CODES, SQLSTATES};
pub use pool::Gauges;
pub use rows::{RowWriter, Shape};

use self::comment::Comment;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::value::{Type, Value};
use crate::config::{self, StatementComment};
use crate::telemetry::activity::{Activity, Doing};
use crate::telemetry::metrics::{self, Unserved};

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// SQLite, in this process.
    Sqlite,
}

impl Kind {
    /// What OpenTelemetry calls it.
    pub fn system(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Sqlite => "sqlite",
        }
    }
}

/// What a statement may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The database refuses to write.
    ReadOnly,
    /// Everything that the database's user may do.
    ReadWrite,
}

/// A database and its pool of connections. Cheap to clone; the last clone to go closes the connections.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    pool: AnyPool,
    display_url: String,
    name: String,
    metrics: Arc<metrics::Pool>,
    /// What the URL has the database call its sessions, whatever `application_name` says.
    own_name: Option<String>,
}

enum AnyPool {
    Postgres(pool::Pool<postgres::Driver>),
    Sqlite(pool::Pool<sqlite::Driver>),
}

impl Database {
    /// Opens the pool on `sqlite:FILE` or `postgres://…`; `settings.url` is not looked at.
    ///
    /// # Errors
    /// [`Error::Url`] when the URL cannot be used; [`Error::Open`] when the first connection cannot be made, at once
    /// when trying again is no use, else after 5 s.
    pub fn open(settings: &config::Database, url: &str) -> Result<Self, Error> {
        let metrics = Arc::<metrics::Pool>::default();
        let mut own_name = None;
        let (pool, display_url, name) = if let Some(file) = url.strip_prefix("sqlite:") {
            let driver = sqlite::Driver::new(file, settings)?;
            (AnyPool::Sqlite(pool::Pool::open(driver, settings, &metrics)?), url.to_owned(), file.to_owned())
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let driver = postgres::Driver::new(url, settings)?;
            own_name = driver.own_name().map(str::to_owned);
            let name = driver.database_name().to_owned();
            let pool = pool::Pool::open(driver, settings, &metrics)?;
            (AnyPool::Postgres(pool), postgres::display_url(url), name)
        } else {
            return Err(Error::Url("expected sqlite:FILE or postgres://user@host/database".to_owned()));
        };
        Ok(Self(Arc::new(Inner { pool, display_url, name, metrics, own_name })))
    }

    /// Which database it is.
    pub fn kind(&self) -> Kind {
        match self.0.pool {
            AnyPool::Postgres(_) => Kind::Postgres,
            AnyPool::Sqlite(_) => Kind::Sqlite,
        }
    }

    /// The URL without its password.
    pub fn display_url(&self) -> &str {
        &self.0.display_url
    }

    /// PostgreSQL's name of it, or SQLite's file.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The statement in this database's notation; `params` are those that `sql.slots` index.
    ///
    /// # Panics
    /// When a slot indexes no parameter; `config` makes none such.
    pub fn statement(&self, sql: &config::Sql, params: &[config::Param]) -> Statement {
        let sign = match self.kind() {
            Kind::Postgres => '$',
            Kind::Sqlite => '?',
        };
        Statement::new(sql, params, sign)
    }

    /// The same with a comment at its end, where `settings` say so and the database is PostgreSQL: whose statement it is, by
    /// `application_name` and `origin`, in which each key is a word that sqlcommenter has or could have. A statement that has a
    /// comment already keeps that one alone, as sqlcommenter asks.
    ///
    /// # Panics
    /// As [`statement`](Self::statement).
    pub fn statement_of(
        &self,
        origin: &[(&'static str, &str)],
        settings: &config::Database,
        sql: &config::Sql,
        params: &[config::Param],
    ) -> Statement {
        let mut statement = self.statement(sql, params);
        let said = |wanted: &str| origin.iter().find(|(key, _)| *key == wanted);
        statement.name = said("statement").map_or_else(String::new, |(_, name)| (*name).to_owned());
        let wanted = self.kind() == Kind::Postgres && settings.statement_comment != StatementComment::Off;
        if !wanted || sql.has_comment() {
            return statement;
        }
        let application = self.0.own_name.as_ref().unwrap_or(&settings.application_name);
        let application = [("application", application.as_str())];
        statement.with_comment(Comment::new(application.into_iter().chain(origin.iter().copied())))
    }

    /// Borrows a connection, waiting until `deadline` and at most `connection_timeout`. It keeps the deadline for
    /// whatever runs on it.
    ///
    /// # Errors
    /// [`Error::NoConnection`] when none came free in time; [`Error::Deadline`] when the deadline had passed already.
    pub fn checkout(&self, deadline: Deadline) -> Result<Connection, Error> {
        self.checkout_for(&Presence::default(), &Activity::default(), deadline)
    }

    /// The same on behalf of a client who may leave: then the wait and whatever runs end early. `activity`: whose waits they
    /// are.
    ///
    /// # Errors
    /// As [`checkout`](Self::checkout); [`Error::ClientLeft`].
    pub fn checkout_for(
        &self,
        client: &Presence,
        activity: &Activity,
        deadline: Deadline,
    ) -> Result<Connection, Error> {
        let metrics = &self.0.metrics;
        let began = Instant::now();
        let waiting = activity.wait_since(Doing::Pool, began);
        let lent = match &self.0.pool {
            AnyPool::Postgres(pool) => pool.checkout(client, deadline, began).map(Lent::Postgres),
            AnyPool::Sqlite(pool) => pool.checkout(client, deadline, began).map(Lent::Sqlite),
        };
        let ended = Instant::now();
        metrics.acquire.record(ended - began);
        let lent = waiting.until(ended).end(lent, Error::kind);
        let mut lent = lent.inspect_err(|error| metrics.unserved(unserved(error)))?;
        match &mut lent {
            Lent::Postgres(session) => session.borrow(client, activity, metrics, deadline),
            Lent::Sqlite(session) => session.borrow(client, deadline),
        }
        // It may have left while it waited.
        if client.has_left() {
            metrics.unserved(Unserved::ClientLeft);
            return Err(Error::ClientLeft);
        }
        Ok(Connection { lent, activity: activity.clone(), metrics: Arc::clone(metrics) })
    }

    /// Opens a connection of no pool, to `url`, with what a new connection of the pool would get by these settings. It needs no
    /// thread, so the process can do this when it has none left. The connection must open by `open_by` and keeps `deadline` for
    /// what runs on it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn connect_beside(
        settings: &config::Database,
        url: &str,
        open_by: Deadline,
        deadline: Deadline,
    ) -> Result<Connection, Error> {
        let (metrics, activity) = (Arc::<metrics::Pool>::default(), Activity::default());
        let lent = if let Some(file) = url.strip_prefix("sqlite:") {
            let mut session = pool::Driver::open(&sqlite::Driver::new(file, settings)?, open_by)?;
            session.borrow(&Presence::default(), deadline);
            Lent::Sqlite(pool::Lent::alone(session))
        } else {
            let mut session = pool::Driver::open(&postgres::Driver::new(url, settings)?, open_by)?;
            session.borrow(&Presence::default(), &activity, &metrics, deadline);
            Lent::Postgres(pool::Lent::alone(session))
        };
        Ok(Connection { lent, activity, metrics })
    }

    /// What is counted of the pool.
    pub fn metrics(&self) -> &Arc<metrics::Pool> {
        &self.0.metrics
    }

    /// Takes over the pool's sizes and times while connections are in use; what `url` says stays.
    pub fn reconfigure(&self, settings: &config::Database) {
        match &self.0.pool {
            AnyPool::Postgres(pool) => pool.reconfigure(settings),
            AnyPool::Sqlite(pool) => pool.reconfigure(settings),
        }
    }

    /// Has connections that nobody uses cleaned of what their last requests have left, if the caller has nothing else to do. Waits for
    /// nothing.
    pub(crate) fn tidy(&self, is_idle: impl FnOnce() -> bool) {
        match &self.0.pool {
            AnyPool::Postgres(pool) => pool.tidy(is_idle),
            // A connection that was changed is closed.
            AnyPool::Sqlite(_) => {}
        }
    }

    /// Makes each connection prepare its statements anew. wharf notices most changes of the schema by itself; a column that became
    /// wider, and that no statement returns, is one that it does not notice.
    pub fn forget_statements(&self) {
        match &self.0.pool {
            AnyPool::Postgres(pool) => pool.driver().forget_statements(),
            // SQLite notices every change by itself.
            AnyPool::Sqlite(_) => {}
        }
    }

    /// The pool at this moment.
    pub fn gauges(&self) -> Gauges {
        match &self.0.pool {
            AnyPool::Postgres(pool) => pool.gauges(),
            AnyPool::Sqlite(pool) => pool.gauges(),
        }
    }
}

/// Why a checkout failed, as it is counted.
fn unserved(error: &Error) -> Unserved {
    match error {
        Error::NoConnection { .. } => Unserved::Timeout,
        Error::Down { .. } => Unserved::Down,
        Error::Crowded { .. } => Unserved::Crowded,
        Error::ClientLeft => Unserved::ClientLeft,
        Error::Deadline => Unserved::Deadline,
        _ => Unserved::Other,
    }
}

/// Counts a statement that was cancelled.
fn note_cancelled(error: &Error, metrics: &metrics::Pool) {
    if let Error::Deadline | Error::StatementTimeout | Error::ClientLeft = error {
        metrics.cancelled.fetch_add(1, Relaxed);
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.0.display_url).finish()
    }
}

/// A database's URL as it may be shown: without its password.
pub fn display_url(url: &str) -> String {
    if url.starts_with("sqlite:") { url.to_owned() } else { postgres::display_url(url) }
}

/// An endpoint's statement in one database's notation: `$1` or `?1` for each distinct parameter.
#[derive(Clone, Debug)]
pub struct Statement {
    /// What it is called; empty: nothing.
    name: String,
    text: String,
    /// How much of it is the user's.
    own: usize,
    /// What stands behind that.
    comment: Comment,
    bound: Vec<Bound>,
    marks: Vec<Mark>,
}

/// What `$n` stands for, n counted from 1.
#[derive(Clone, Debug)]
struct Bound {
    /// Into the endpoint's parameters, and so into its values.
    index: usize,
    name: String,
    /// What the client calls it.
    wire_name: String,
    kind: Type,
    /// Its value is shown to nobody.
    is_hidden: bool,
}

impl Bound {
    fn new(index: usize, param: &config::Param) -> Self {
        let config::Param { name, wire_name, kind, .. } = param;
        let (name, wire_name, is_hidden) = (name.clone(), wire_name.clone(), param.is_hidden());
        Self { index, name, wire_name, kind: *kind, is_hidden }
    }

    /// Its value cannot go where the statement has it.
    fn refuse(&self, expected: String, received: String) -> Error {
        let received = (!self.is_hidden).then_some(received);
        Error::BadValue { param: self.wire_name.clone(), expected, received }
    }
}

/// Where a parameter stands: the byte after it in [`Statement::text`], and in the text as written.
#[derive(Clone, Copy, Debug)]
struct Mark {
    text: usize,
    written: usize,
}

impl Statement {
    fn new(sql: &config::Sql, params: &[config::Param], sign: char) -> Self {
        let (mut text, mut written) = (String::new(), 0);
        let (mut bound, mut marks) = (Vec::<Bound>::new(), Vec::new());
        for (piece, slot) in sql.pieces.iter().zip(&sql.slots) {
            let param = &params[*slot];
            let known = bound.iter().position(|bound| bound.index == *slot);
            let number = known.unwrap_or(bound.len()) + 1;
            if known.is_none() {
                bound.push(Bound::new(*slot, param));
            }
            text.push_str(piece);
            text.push(sign);
            text.push_str(&number.to_string());
            written += piece.len() + ":".len() + param.name.len();
            marks.push(Mark { text: text.len(), written });
        }
        text.push_str(sql.pieces.last().map_or("", String::as_str));
        Self { name: String::new(), own: text.len(), text, comment: Comment::default(), bound, marks }
    }

    fn with_comment(mut self, comment: Comment) -> Self {
        self.own = comment::end(&self.text);
        self.text.truncate(self.own);
        comment.write(&Comment::default(), &mut self.text);
        Self { comment, ..self }
    }

    /// The text with `request` in its comment; `None` where the one has no comment or the other says nothing.
    fn text_for(&self, request: &Comment) -> Option<String> {
        if request.is_empty() || self.comment.is_empty() {
            return None;
        }
        let mut text = String::with_capacity(self.text.len() + 256);
        text.push_str(&self.text[..self.own]);
        self.comment.write(request, &mut text);
        Some(text)
    }

    /// The error, pointing into the user's own text: what the database misses at the end, it misses behind the comment.
    fn before_comment(&self, mut error: Error) -> Error {
        if let Error::Refused(refusal) = &mut error
            && let Some(offset) = &mut refusal.offset
        {
            *offset = self.own.min(*offset);
        }
        error
    }

    /// What it is called in a trace: its name, or what it does.
    fn name(&self) -> Cow<'static, str> {
        if self.name.is_empty() { command(&self.text) } else { Cow::Owned(self.name.clone()) }
    }

    /// The text that the database sees, unless its comment names a request too.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Name and declared type of the parameter that the database knows as `$number`, counted from 1.
    pub fn parameter(&self, number: usize) -> Option<(&str, Type)> {
        self.bound.get(number.checked_sub(1)?).map(|bound| (bound.name.as_str(), bound.kind))
    }

    /// The byte in the statement as the user wrote it (with its `:name`s) that byte `offset` of [`Statement::text`]
    /// comes from; [`Error::offset`] is such a byte.
    pub fn written_offset(&self, offset: usize) -> usize {
        let before = self.marks.iter().take_while(|mark| mark.text <= offset).last();
        before.map_or(offset, |mark| mark.written + (offset - mark.text))
    }
}

/// What a statement does, by its first word: all that its text says for certain without being understood.
fn command(sql: &str) -> Cow<'static, str> {
    const LONGEST: usize = 32;
    let word = sql.trim_start();
    let end = word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len());
    match &word[..end] {
        "" => "statement".into(),
        word if word.len() > LONGEST => "statement".into(),
        word => word.to_ascii_uppercase().into(),
    }
}

/// What the database says about a statement before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// The columns that its rows have, in order.
    pub columns: Vec<Column>,
    /// What will not work, each a sentence for the user: columns without a JSON form, parameters declared as something
    /// else than the database takes them for.
    pub problems: Vec<String>,
}

/// A column of a statement's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The database's name of its type; empty where SQLite has none (an expression).
    pub type_name: String,
}

/// A borrowed connection. Dropping it is the checkin: an open transaction is rolled back first, and a connection that is
/// not known to be clean is closed.
pub struct Connection {
    lent: Lent,
    activity: Activity,
    metrics: Arc<metrics::Pool>,
}

enum Lent {
    Postgres(pool::Lent<postgres::Driver>),
    Sqlite(pool::Lent<sqlite::Driver>),
}

impl Connection {
    /// Prepares the statement without running it.
    ///
    /// # Errors
    /// [`Error::Refused`] when the database does not understand it.
    pub fn describe(&mut self, statement: &Statement) -> Result<Description, Error> {
        let _waiting = self.activity.wait_for(Doing::Database);
        match &mut self.lent {
            Lent::Postgres(session) => session.describe(statement),
            Lent::Sqlite(session) => session.describe(statement),
        }
    }

    /// The database's message about the first privilege that its user lacks for the statement, which is not run. `None`: the user
    /// lacks none that can be seen before the statement runs. SQLite has no privileges.
    ///
    /// # Errors
    /// When the database does not answer.
    pub fn missing_privilege(&mut self, statement: &Statement) -> Result<Option<String>, Error> {
        match &mut self.lent {
            Lent::Postgres(session) => session.missing_privilege(statement),
            Lent::Sqlite(_) => Ok(None),
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`Error::Usage`] when one is open already.
    pub fn begin(&mut self, access: Access, deadline: Deadline) -> Result<(), Error> {
        let waiting = self.activity.wait_for(Doing::Database);
        match &mut self.lent {
            // It goes with the first statement.
            Lent::Postgres(session) => {
                session.start(deadline);
                session.begin(access)
            }
            Lent::Sqlite(session) => {
                session.start(deadline);
                waiting.on(|| "BEGIN".into()).end(session.begin(access), Error::kind)
            }
        }
    }

    /// Commits the open transaction.
    ///
    /// # Errors
    /// Whatever the database reports; also when a statement in the transaction failed, which was then rolled back.
    pub fn commit(&mut self, deadline: Deadline) -> Result<(), Error> {
        let waiting = self.activity.wait_for(Doing::Database).on(|| "COMMIT".into());
        let committed = match &mut self.lent {
            Lent::Postgres(session) => {
                session.start(deadline);
                session.commit()
            }
            Lent::Sqlite(session) => {
                session.start(deadline);
                session.commit()
            }
        };
        waiting.end(committed, Error::kind)
    }

    /// Rolls the open transaction back; without one, does nothing. Takes at most half a second, whatever the deadline.
    ///
    /// # Errors
    /// When the database cannot be reached; the connection is then closed at checkin, which rolls back as well.
    pub fn rollback(&mut self) -> Result<(), Error> {
        let waiting = self.activity.wait_for(Doing::Database).on(|| "ROLLBACK".into());
        let rolled_back = match &mut self.lent {
            Lent::Postgres(session) => session.rollback(),
            Lent::Sqlite(session) => session.rollback(),
        };
        waiting.end(rolled_back, Error::kind)
    }

    /// Runs a statement and writes its rows: the number of rows returned, or for a statement without columns, changed.
    /// `values` are those of all the endpoint's parameters, in their order. Inside a transaction its own access holds.
    ///
    /// # Errors
    /// [`Error::Deadline`] when the deadline passed, with the statement cancelled; [`Error::ResponseTooLarge`] with what
    /// was written so far left in place; whatever the database reports.
    ///
    /// # Panics
    /// When there are fewer values than parameters.
    pub fn run(
        &mut self,
        statement: &Statement,
        values: &[Value],
        access: Access,
        deadline: Deadline,
        rows: &mut RowWriter<'_>,
    ) -> Result<u64, Error> {
        let waiting = self.activity.wait_for(Doing::Database).on(|| statement.name());
        let ran = match &mut self.lent {
            Lent::Postgres(session) => {
                session.start(deadline);
                session.run(statement, values, access, rows)
            }
            Lent::Sqlite(session) => {
                session.start(deadline);
                let ran = session.run(statement, values, access, rows);
                ran.inspect_err(|error| note_cancelled(error, &self.metrics))
            }
        };
        waiting.end(ran, Error::kind)
    }

    /// Whether a statement that has run on this connection can share a round trip with others: it is known to change nothing of the
    /// session that those behind it would see.
    pub(crate) fn can_share(&self, sql: &str) -> bool {
        match &self.lent {
            Lent::Postgres(session) => session.can_share(sql),
            Lent::Sqlite(_) => false,
        }
    }

    /// Whether `database.statement_comment` asks for what [`name_request`](Self::name_request) is told.
    pub fn names_requests(&self) -> bool {
        match &self.lent {
            Lent::Postgres(session) => session.names_requests(),
            Lent::Sqlite(_) => false,
        }
    }

    /// Says for which request the connection is borrowed, by its id and its place in a trace (W3C's `traceparent`; either may
    /// be empty). With `database.statement_comment = "request"` and PostgreSQL, the comments of
    /// [statements that have one](Database::statement_of), and one behind what handlers in Rust run, say it until the checkin;
    /// otherwise it changes nothing.
    pub fn name_request(&mut self, request_id: &str, traceparent: &str) {
        match &mut self.lent {
            Lent::Postgres(session) => session.name_request(request_id, traceparent),
            Lent::Sqlite(_) => {}
        }
    }

    /// The PostgreSQL session, for handlers in Rust.
    ///
    /// # Errors
    /// [`Error::Usage`] when the database is another one.
    pub fn postgres(&mut self) -> Result<&mut postgres::Session, Error> {
        match &mut self.lent {
            Lent::Postgres(session) => Ok(&mut **session),
            Lent::Sqlite(_) => Err(Error::Usage("the database is SQLite, not PostgreSQL".to_owned())),
        }
    }

    /// The SQLite connection, for handlers in Rust, open for writing. Statements on it end with an interrupt when the
    /// deadline passes, and a commit becomes a rollback (`SQLITE_CONSTRAINT_COMMITHOOK`) once the client was told that nothing was
    /// done. Its busy handler, progress handler and commit hook do that, so they are not to be replaced. Ask a prepared statement
    /// for its columns only after its first row has come: another process may have changed the schema, and the first step is what
    /// notices.
    ///
    /// # Errors
    /// [`Error::Usage`] when the database is another one; when SQLite refuses to switch from reading to writing.
    pub fn sqlite(&mut self) -> Result<&mut rusqlite::Connection, Error> {
        match &mut self.lent {
            Lent::Postgres(_) => Err(Error::Usage("the database is PostgreSQL, not SQLite".to_owned())),
            Lent::Sqlite(session) => session.raw(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        match &mut self.lent {
            Lent::Postgres(session) => session.finish(),
            Lent::Sqlite(session) => session.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(name: &str) -> config::Param {
        config::Param::new(name, config::Place::Query, Type::One(crate::base::value::Scalar::Int))
    }

    #[test]
    fn each_distinct_parameter_has_one_number() {
        let pieces = ["select ", " + ", " - ", ""].map(str::to_owned).to_vec();
        let sql = config::Sql { pieces, slots: vec![1, 0, 1] };
        let statement = Statement::new(&sql, &[param("a"), param("long")], '$');
        assert_eq!(statement.text(), "select $1 + $2 - $1");
        assert_eq!(statement.bound.iter().map(|bound| bound.index).collect::<Vec<_>>(), [1, 0]);
        let written = "select :long + :a - :long";
        let of = |text: &str, from: &str| from.find(text).unwrap();
        assert_eq!(statement.written_offset(of("+", statement.text())), of("+", written));
        assert_eq!(statement.written_offset(of("-", statement.text())), of("-", written));
        assert_eq!(statement.written_offset(3), 3);
    }

    #[test]
    fn a_comment_stands_behind_the_statement_and_before_no_semicolon() {
        let sql = config::Sql { pieces: vec!["select ".to_owned(), " + \n;; ".to_owned()], slots: vec![0] };
        let plain = Statement::new(&sql, &[param("a")], '$');
        let statement = plain.clone().with_comment(Comment::new([("route", "/;")]));
        assert_eq!(statement.text(), "select $1 + /*route='%2F%3B'*/");
        let request = Comment::new([("request_id", "7")]);
        let named = statement.text_for(&request);
        assert_eq!(named.as_deref(), Some("select $1 + /*request_id='7',route='%2F%3B'*/"));
        assert_eq!(statement.text_for(&Comment::default()), None);
        assert_eq!(plain.text_for(&request), None, "it has a comment of its own, or is no endpoint's");
    }
}
