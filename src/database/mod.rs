//! The database as a worker sees it: a pool, a borrowed connection, statements, and rows written as JSON.
//!
//! Every call blocks its worker, at most until the request's deadline and half a second more, in which a cancelled
//! statement ends. Knows nothing of HTTP but the status of an error. This file owns [`Database`] and [`Connection`],
//! which the rest of the crate uses, and the table of databases. The database behind them is a [`driver::Driver`].

mod comment;
mod disclosure;
mod driver;
mod error;
mod hosts;
mod json;
mod limit;
pub mod mysql;
mod outcome;
mod pool;
pub mod postgres;
mod question;
mod rows;
mod settings;
mod socket;
pub mod sqlite;
mod statement;
mod verification;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// SQLite's driver. [`Connection::sqlite`] lends its connection.
pub use ::rusqlite;

pub use crate::resource::Gauges;
pub(crate) use crate::resource::{LongLoan, Outage};
pub(crate) use driver::{Fetched, Outgoing, RoundTrip, Steps, Waits};
pub use error::{Category, Error, MYSQL_CODES, Refusal, SQLITE_CODES, SQLSTATES};
pub(crate) use question::{Answer, Form, Question};
pub use rows::{RowWriter, Shape};
pub use statement::{Column, Description, Statement};

use self::comment::Comment;
use self::driver::{Borrower, Driver, Note, Provider, Together};
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::value::{Type, Value};
use crate::config::{self, StatementComment};
use crate::telemetry::activity::{Activity, WorkerState};
use crate::telemetry::metrics::{self, Unserved};

/// The databases, found by the beginning of a URL. Another database needs one more line here, and one more [`Kind`].
const PROVIDERS: [Provider; 3] = [sqlite::PROVIDER, postgres::PROVIDER, mysql::PROVIDER];

/// The kind of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// MySQL or MariaDB.
    Mysql,
    /// PostgreSQL.
    Postgres,
    /// SQLite, in this process.
    Sqlite,
}

impl Kind {
    /// OpenTelemetry's name for it.
    pub fn system(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::Postgres => "postgresql",
            Self::Sqlite => "sqlite",
        }
    }

    /// Its name in a message.
    fn name(self) -> &'static str {
        match self {
            Self::Mysql => "MySQL",
            Self::Postgres => "PostgreSQL",
            Self::Sqlite => "SQLite",
        }
    }
}

/// The rights of a statement.
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
    pool: pool::Pool<Box<dyn Driver>>,
    display_url: String,
    metrics: Arc<metrics::Pool>,
}

impl Database {
    /// Opens the pool on `sqlite:FILE`, `postgres://…`, `mysql://…` or `mariadb://…`. `settings.url` is ignored.
    ///
    /// # Errors
    /// [`Error::Url`] when the URL cannot be used. [`Error::Open`] when the first connection cannot be made: at once if
    /// trying again is no use, otherwise after 5 s.
    pub fn open(settings: &config::Database, url: &str) -> Result<Self, Error> {
        Self::open_on(driver_of(settings, url)?, settings, url)
    }

    /// Like [`open`](Self::open), for the check of a configuration: no file is made or changed. A file that a server would make is an
    /// empty database.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_to_look(settings: &config::Database, url: &str) -> Result<Self, Error> {
        let mut driver = driver_of(settings, url)?;
        driver.only_look();
        Self::open_on(driver, settings, url)
    }

    fn open_on(driver: Box<dyn Driver>, settings: &config::Database, url: &str) -> Result<Self, Error> {
        let metrics = Arc::<metrics::Pool>::default();
        let pool = pool::Pool::open(driver, settings, &metrics)?;
        Ok(Self(Arc::new(Inner { pool, display_url: display_url(url), metrics })))
    }

    fn driver(&self) -> &dyn Driver {
        &**self.0.pool.driver()
    }

    /// The kind of the database.
    pub fn kind(&self) -> Kind {
        self.driver().kind()
    }

    /// Whether the statements of several requests can share a round trip.
    pub(crate) fn shares_round_trips(&self) -> bool {
        self.driver().shares_round_trips()
    }

    /// The URL without its password.
    pub fn display_url(&self) -> &str {
        &self.0.display_url
    }

    /// The name that the server gives the database, or SQLite's file.
    pub fn name(&self) -> &str {
        self.driver().database_name()
    }

    /// The statement in this database's notation. The slots of `sql` are indexes into `params`.
    ///
    /// # Panics
    /// A slot indexes no parameter; `config` never makes such a slot.
    pub fn statement(&self, sql: &config::Sql, params: &[config::Param]) -> Statement {
        Statement::new(sql, params, self.driver().notation())
    }

    /// As [`statement`](Self::statement), with a comment at the end, if `settings` ask for one and the database takes
    /// one. The comment names the application by `application_name`, and adds `origin`. Each key in `origin` must be a
    /// word that sqlcommenter has or could have. A statement with a comment already keeps only that one, as
    /// sqlcommenter asks.
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
        if let Some((_, name)) = origin.iter().find(|(key, _)| *key == "statement") {
            statement = statement.named(name);
        }
        let driver = self.driver();
        let wanted = driver.takes_comments() && settings.statement_comment != StatementComment::Off;
        if !wanted || sql.has_comment(driver.dialect()) {
            return statement;
        }
        let application = driver.application_name().unwrap_or(&settings.application_name);
        let application = [("application", application)];
        statement.with_comment(Comment::new(application.into_iter().chain(origin.iter().copied())))
    }

    /// Borrows a connection, waiting until `deadline` and at most `connection_timeout`. The deadline also ends
    /// statements on the connection.
    ///
    /// # Errors
    /// [`Error::NoConnection`] when no connection became free in time; [`Error::Deadline`] when the deadline had passed
    /// already.
    pub fn checkout(&self, deadline: Deadline) -> Result<Connection, Error> {
        self.checkout_for(&Presence::default(), &Activity::default(), deadline)
    }

    /// As [`checkout`](Self::checkout), for a client that may leave: a departure ends the wait and the statements
    /// early. The waits are added to `activity`.
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
        let waiting = activity.wait_since(WorkerState::Pool, began);
        let lent = self.0.pool.checkout(client, deadline, began);
        let ended = Instant::now();
        metrics.acquire.record(ended - began);
        let lent = waiting.until(ended).end(lent, Error::kind);
        let mut lent = lent.inspect_err(|error| metrics.unserved(unserved(error)))?;
        lent.borrow(&Borrower { client, activity, metrics, deadline });
        // The client may have left during the wait.
        if client.has_left() {
            metrics.unserved(Unserved::ClientLeft);
            return Err(Error::ClientLeft);
        }
        Ok(Connection { lent, activity: activity.clone() })
    }

    /// Opens a session outside any pool, on `url`, with the settings of a new session of the pool. This needs no
    /// thread, so it works even when the process has none left. The session must open by `open_by` and keeps
    /// `deadline` for its statements.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn connect_outside_pool(
        settings: &config::Database,
        url: &str,
        open_by: Deadline,
        deadline: Deadline,
    ) -> Result<Connection, Error> {
        let mut session = driver_of(settings, url)?.open(open_by)?;
        let (client, activity, metrics) = (Presence::default(), Activity::default(), Arc::default());
        session.borrow(&Borrower { client: &client, activity: &activity, metrics: &metrics, deadline });
        Ok(Connection { lent: pool::Lent::alone(session), activity })
    }

    /// The counters of the pool.
    pub fn metrics(&self) -> &Arc<metrics::Pool> {
        &self.0.metrics
    }

    /// Applies the pool's new sizes and times while connections are in use. The settings in the URL stay.
    pub fn reconfigure(&self, settings: &config::Database) {
        self.0.pool.reconfigure(settings);
    }

    /// Cleans the idle sessions of their last requests' remains, if the caller has nothing else to do. Waits for
    /// nothing.
    pub(crate) fn tidy(&self, is_idle: impl FnOnce() -> bool) {
        self.0.pool.tidy(is_idle);
    }

    /// Makes each connection prepare its statements anew. wharf notices most changes of the schema by itself. It does not notice that a
    /// column became wider, if no statement returns that column.
    pub fn forget_statements(&self) {
        self.driver().forget_statements();
    }

    /// The pool at this moment.
    pub fn gauges(&self) -> Gauges {
        self.0.pool.gauges()
    }

    /// Why the database is down. `None`: it is not.
    pub(crate) fn outage(&self) -> Option<Outage> {
        self.0.pool.outage()
    }

    /// The connections that are lent for longer than `leak_detection_threshold`, the oldest loan first, and the threshold.
    pub(crate) fn long_loans(&self) -> (Vec<LongLoan>, Duration) {
        self.0.pool.long_loans()
    }
}

/// The metrics' name for the failure of a checkout.
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

fn provider_of(url: &str) -> Option<&'static Provider> {
    const { &PROVIDERS }.iter().find(|provider| provider.schemes.iter().any(|scheme| url.starts_with(scheme)))
}

/// The kind of the database with this URL.
pub(crate) fn kind_of(url: &str) -> Option<Kind> {
    provider_of(url).map(|provider| provider.kind)
}

fn driver_of(settings: &config::Database, url: &str) -> Result<Box<dyn Driver>, Error> {
    let Some(provider) = provider_of(url) else {
        let forms: Vec<_> = PROVIDERS.iter().map(|provider| provider.url_form).collect();
        return Err(Error::Url(format!("expected {}", forms.join(" or "))));
    };
    (provider.driver)(url, settings)
}

/// A database's URL without its password, fit to be shown. A URL of an unknown database is not shown at all.
pub fn display_url(url: &str) -> String {
    provider_of(url).map_or_else(|| "…".to_owned(), |provider| (provider.display_url)(url))
}

/// The time of a way varies by 1 over this of it. So much says nothing about the database's work.
pub(crate) const WAY_VARIES: u32 = 8;

/// A borrowed connection. Dropping it is the checkin: an open transaction is rolled back first. A connection that is
/// not known to be clean is closed.
pub struct Connection {
    lent: pool::Lent<Box<dyn Driver>>,
    activity: Activity,
}

impl Connection {
    /// Prepares the statement without running it.
    ///
    /// # Errors
    /// [`Error::Refused`] when the database does not understand it.
    pub fn describe(&mut self, statement: &Statement) -> Result<Description, Error> {
        let _waiting = self.activity.wait_for(WorkerState::Database);
        self.lent.describe(statement)
    }

    /// The database's message about the first privilege that its user lacks for the statement, which is not run. `None`: the user
    /// lacks none that can be seen before the statement runs, or the database has no privileges.
    ///
    /// # Errors
    /// When the database does not answer.
    pub fn missing_privilege(&mut self, statement: &Statement) -> Result<Option<String>, Error> {
        self.lent.missing_privilege(statement)
    }

    /// The database's type for a parameter of type `declared`, if `error` says that the statement leaves the type of a parameter
    /// open. A cast to it then helps.
    pub(crate) fn cast_against(&self, error: &Error, declared: Type) -> Option<String> {
        self.lent.cast_against(error, declared)
    }

    /// The part of a statement's time that the database worked: the time without the way there and back, and without that way's
    /// usual variation.
    pub(crate) fn work_in(&mut self, took: Duration) -> Duration {
        self.lent.note_round_trip(took);
        let distance = self.lent.distance();
        took.saturating_sub(distance + distance / WAY_VARIES)
    }

    /// Notes that a round trip took this long.
    pub(crate) fn note_round_trip(&mut self, took: Duration) {
        self.lent.note_round_trip(took);
    }

    /// The time of a round trip without work of the database, as far as it is known.
    pub(crate) fn distance(&self) -> Duration {
        self.lent.distance()
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`Error::Usage`] when one is open already.
    pub fn begin(&mut self, access: Access, deadline: Deadline) -> Result<(), Error> {
        let waiting = self.activity.wait_for(WorkerState::Database);
        let begun = self.lent.begin(access, deadline);
        if self.lent.defers_begin() { begun } else { waiting.on(|| "BEGIN".into()).end(begun, Error::kind) }
    }

    /// Commits the open transaction.
    ///
    /// # Errors
    /// Any error of the database. One is a failed statement in the transaction, which was then rolled back.
    pub fn commit(&mut self, deadline: Deadline) -> Result<(), Error> {
        let waiting = self.activity.wait_for(WorkerState::Database).on(|| "COMMIT".into());
        let committed = self.lent.commit(deadline);
        waiting.end(committed, Error::kind)
    }

    /// Rolls the open transaction back; without one, does nothing. Takes at most half a second, whatever the deadline.
    ///
    /// # Errors
    /// When the database cannot be reached; the connection is then closed at checkin, which rolls back as well.
    pub fn rollback(&mut self) -> Result<(), Error> {
        let waiting = self.activity.wait_for(WorkerState::Database).on(|| "ROLLBACK".into());
        let rolled_back = self.lent.rollback();
        waiting.end(rolled_back, Error::kind)
    }

    /// Runs a statement and writes its rows. Returns the number of rows, or the number of changed rows for a statement
    /// without columns. `values` are those of all the endpoint's parameters, in their order. Inside a transaction, the
    /// transaction's access applies.
    ///
    /// # Errors
    /// [`Error::Deadline`] when the deadline passed; the statement is cancelled then. [`Error::ResponseTooLarge`]; the
    /// rows written so far stay. Any error of the database.
    ///
    /// # Panics
    /// There are fewer values than parameters.
    pub fn run(
        &mut self,
        statement: &Statement,
        values: &[Value],
        access: Access,
        deadline: Deadline,
        rows: &mut RowWriter<'_>,
    ) -> Result<u64, Error> {
        let waiting = self.activity.wait_for(WorkerState::Database).on(|| statement.name());
        let ran = self.lent.run(statement, values, access, deadline, rows);
        waiting.end(ran, Error::kind)
    }

    /// Runs the steps of the transaction that was begun: all in one round trip if the database can do that, otherwise one after
    /// the other. Writes the last one's rows, and notes each result. Returns whether the transaction can be committed.
    ///
    /// # Errors
    /// The error of the first step that failed. `note` got it as well, unless it belongs to no step.
    pub(crate) fn run_steps(
        &mut self,
        steps: &Steps<'_>,
        rows: &mut RowWriter<'_>,
        note: &mut Note<'_>,
    ) -> Result<bool, Error> {
        match self.lent.run_together(steps, rows, note)? {
            Together::Done => return Ok(true),
            Together::Refused => return Ok(false),
            Together::Apart => {}
        }
        let Steps { statements, values, access, deadline } = *steps;
        for (index, statement) in statements.iter().enumerate() {
            let began = Instant::now();
            let ran = if index + 1 == statements.len() {
                self.run(statement, values, access, deadline, rows)
            } else {
                let mut nothing = Vec::new();
                let mut discarded = RowWriter::new(&mut nothing, Shape::Discard, 0, u64::MAX);
                self.run(statement, values, access, deadline, &mut discarded)
            };
            if !note(index, began.elapsed(), &ran) {
                return ran.map(|_| false);
            }
        }
        Ok(true)
    }

    /// Runs a statement that returns rows without a transaction around it, if nothing can go wrong after its rows. `needs_row`: an
    /// answer without a row is an error. `None`: the statement needs a transaction, and nothing was done.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn run_alone(
        &mut self,
        statement: &Statement,
        values: &[Value],
        deadline: Deadline,
        needs_row: bool,
        rows: &mut RowWriter<'_>,
    ) -> Result<Option<u64>, Error> {
        let waiting = self.activity.wait_for(WorkerState::Database).on(|| statement.name());
        let ran = self.lent.run_alone(statement, values, deadline, needs_row, rows);
        waiting.end(ran, Error::kind)
    }

    /// Whether a statement that has run on this connection can share a round trip with others. It must be known to
    /// change nothing about the session.
    pub(crate) fn can_share(&self, sql: &str) -> bool {
        self.lent.can_share(sql)
    }

    /// Begins a round trip for the statements of several requests.
    ///
    /// # Errors
    /// The database answers one statement at a time ([`Database::shares_round_trips`]), or a transaction is open.
    pub(crate) fn share(&mut self) -> Result<Box<dyn RoundTrip + '_>, Error> {
        self.lent.share()
    }

    /// Whether `database.statement_comment` asks statements to [name their request](Self::name_request).
    pub fn names_requests(&self) -> bool {
        self.lent.names_requests()
    }

    /// Names the request for which the connection is borrowed, by its id and its place in a trace (W3C's `traceparent`;
    /// either may be empty). Until the checkin, comments then name the request: in [statements that have a
    /// comment](Database::statement_of), and behind the statements of handlers in Rust. This needs
    /// `database.statement_comment = "request"` and a database that takes comments. Otherwise it changes nothing.
    pub fn name_request(&mut self, request_id: &str, traceparent: &str) {
        self.lent.name_request(request_id, traceparent);
    }

    /// The MySQL session, for handlers in Rust.
    ///
    /// # Errors
    /// [`Error::Usage`] when the database is another one.
    pub fn mysql(&mut self) -> Result<&mut mysql::Session, Error> {
        self.session_of(Kind::Mysql)
    }

    /// The PostgreSQL session, for handlers in Rust.
    ///
    /// # Errors
    /// [`Error::Usage`] when the database is another one.
    pub fn postgres(&mut self) -> Result<&mut postgres::Session, Error> {
        self.session_of(Kind::Postgres)
    }

    /// The SQLite connection, for handlers in Rust, open for writing. The deadline interrupts statements on it. Once
    /// the client was told that nothing was done, a commit becomes a rollback (`SQLITE_CONSTRAINT_COMMITHOOK`). The
    /// connection's busy handler, progress handler and commit hook do that, so do not replace them. Ask a prepared
    /// statement for its columns only after its first row has come: another process may have changed the schema, and
    /// only the first step notices.
    ///
    /// # Errors
    /// [`Error::Usage`] when the database is another one, or when SQLite refuses to switch from reading to writing.
    pub fn sqlite(&mut self) -> Result<&mut rusqlite::Connection, Error> {
        self.session_of::<sqlite::Session>(Kind::Sqlite)?.raw()
    }

    /// The session itself, if its database is of the kind `wanted`.
    fn session_of<S: driver::Session>(&mut self, wanted: Kind) -> Result<&mut S, Error> {
        let kind = self.lent.kind();
        let session: &mut dyn Any = &mut **self.lent;
        session
            .downcast_mut()
            .ok_or_else(|| Error::Usage(format!("the database is {}, not {}", kind.name(), wanted.name())))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.lent.finish();
    }
}
