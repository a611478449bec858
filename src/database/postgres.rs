//! PostgreSQL: one session of the pool, and how it is opened.
//!
//! tokio-postgres runs inside each blocking call, as in the `postgres` crate; that it is driven here is what puts a bound on
//! every read. Nothing polls the session while it is idle. Runs on the worker that borrowed it.

mod bind;
mod connect;
mod direct;
mod json;
mod pipeline;
mod privileges;
mod row;
mod socket;
mod tls;
mod url;
mod wire;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::{join, join_all};
pub use postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::types::Kind;
use tokio_postgres::{Client, Column as PostgresColumn, Row as DriverRow};

use self::direct::Direct;
use self::json::Encoder;
use self::pipeline::Place;
pub(crate) use self::pipeline::{Answer, Fetched, Form};
pub use self::pipeline::{Parameter, Question};
pub use self::row::{Row, RowIndex};
use self::wire::{Limit, Wire};
use super::comment::{self, Comment};
use super::settings::Settings;
use super::{Access, Category, Column, Description, Error, RowWriter, Statement, note_cancelled, pool};
use crate::activity::{Activity, Doing};
use crate::config;
use crate::deadline::Deadline;
use crate::metrics;
use crate::presence::Presence;
use crate::value::Value;

/// How long a rollback may take, whatever the request's deadline: it is quick, or the session is not worth keeping.
const ROLLBACK_TIMEOUT: Duration = Duration::from_millis(500);

/// The SQLSTATE of a write where nothing may be written.
const READ_ONLY: &str = "25006";

/// The SQLSTATE with which a standby refuses to begin what may write; for other commands it says something else.
const NOT_SUPPORTED: &str = "0A000";

/// Parameters as a handler in Rust writes them: `&[&id, &name]`.
pub type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// The URL without its password.
pub(super) fn display_url(url: &str) -> String {
    url::display(url)
}

/// PostgreSQL's type for a parameter that is declared as `kind`: what to cast it to where the statement leaves its type open.
pub fn type_to_cast(kind: crate::value::Type) -> String {
    bind::names(kind).1
}

/// A connection outside of any pool, driven by the plain `postgres` crate: for loading data and other work before a server
/// starts. TLS is as the URL says.
///
/// # Errors
/// [`Error::Url`] and [`Error::Open`], as for a pool.
pub fn client(url: &str) -> Result<::postgres::Client, Error> {
    let driver = Driver::new(url, &config::Database::default())?;
    let mut failure = String::new();
    for mode in driver.target.tls.attempts() {
        let mut config = ::postgres::Config::from(driver.config());
        match config.ssl_mode(*mode).connect(driver.tls.clone()) {
            Ok(client) => return Ok(client),
            Err(error) => failure = url::explain(&error),
        }
    }
    Err(Error::Open { target: driver.target.name, reason: failure, transient: false })
}

/// Opens sessions on one server.
pub(super) struct Driver {
    target: url::Target,
    tls: tokio_postgres_rustls::MakeRustlsConnect,
    settings: Arc<Settings>,
}

impl Driver {
    pub(super) fn new(url: &str, configured: &config::Database) -> Result<Self, Error> {
        let target = url::Target::parse(url)?;
        let tls = target.tls.connector().map_err(Error::Url)?;
        Ok(Self { target, tls, settings: Arc::new(Settings::new(configured)) })
    }

    /// What the URL has the database call its sessions, whatever `application_name` says.
    pub(super) fn own_name(&self) -> Option<&str> {
        self.target.config.get_application_name()
    }

    /// Which database: where the URL does not say it, the one that is called like the user.
    pub(super) fn database_name(&self) -> &str {
        let config = &self.target.config;
        config.get_dbname().or(config.get_user()).unwrap_or_default()
    }

    /// How to connect now.
    fn config(&self) -> tokio_postgres::Config {
        let mut config = self.target.config.clone();
        if self.own_name().is_none() {
            config.application_name(self.settings.application_name());
        }
        config
    }

    /// Runs `connection_init_sql` on a new session.
    fn initialize(&self, client: &Client, wire: &mut Wire, deadline: Deadline) -> Result<(), Error> {
        let Some(sql) = self.settings.init_sql() else { return Ok(()) };
        let sent = async { client.batch_execute(&sql).await.map_err(|error| wire::refused(&error, &sql)) };
        wire.complete(sent, &Limit::until(deadline), &Cell::new(false)).map_err(|error| Error::Open {
            target: self.target.name.clone(),
            transient: match &error {
                Error::Refused(refusal) => {
                    matches!(refusal.category, Category::Down | Category::Busy | Category::Exhausted)
                }
                _ => true,
            },
            reason: format!("connection_init_sql: {}", error.in_full()),
        })
    }
}

impl pool::Driver for Driver {
    /// Boxed: the pool moves it at each checkout and checkin.
    type Session = Box<Session>;

    fn reconfigure(&self, configured: &config::Database) {
        self.settings.set(configured);
    }

    fn open(&self, deadline: Deadline) -> Result<Box<Session>, Error> {
        let (client, mut wire) = Wire::open(&self.target, &self.config(), &self.tls, deadline)?;
        self.initialize(&client, &mut wire, deadline)?;
        let direct = Direct::new(wire.socket());
        Ok(Box::new(Session {
            client: Arc::new(client),
            wire,
            settings: Arc::clone(&self.settings),
            statements: Statements::default(),
            access: None,
            transaction: Transaction::None,
            limit: Limit::until(deadline),
            request: Comment::default(),
            activity: Activity::default(),
            metrics: Arc::default(),
            places: Vec::new(),
            direct,
        }))
    }
}

/// An open session. Handlers in Rust run their statements on it; each is prepared once and kept, and ends by the deadline
/// that the connection was checked out with. Only where it was said [for which request](super::Connection::name_request) the
/// session is borrowed, and `database.statement_comment` asks for it, does a comment stand behind their text.
pub struct Session {
    client: Arc<Client>,
    wire: Wire,
    settings: Arc<Settings>,
    statements: Statements,
    /// What the session's transactions may do unless they say it themselves; `None` when that is not known.
    access: Option<Access>,
    transaction: Transaction,
    limit: Limit,
    /// For which request it is borrowed, where statements are to say so.
    request: Comment,
    /// Whose waits its statements are, and where those are counted that were cancelled.
    activity: Activity,
    metrics: Arc<metrics::Pool>,
    /// For statements that are sent together.
    places: Vec<Box<dyn Place>>,
    direct: Direct,
}

/// What a statement does outside a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing that lasts.
    Reads,
    /// It may write, and is committed by itself then.
    MayWrite,
}

impl Effect {
    /// By its first word alone: a `select` is taken to read, whatever the functions in it do.
    fn of_query(sql: &str) -> Self {
        const READ: [&str; 5] = ["select", "values", "table", "show", "explain"];
        let word = first_word(sql);
        let reads = READ.iter().any(|read| word.eq_ignore_ascii_case(read));
        if reads { Self::Reads } else { Self::MayWrite }
    }

    fn of_access(access: Access) -> Self {
        match access {
            Access::ReadOnly => Self::Reads,
            Access::ReadWrite => Self::MayWrite,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transaction {
    None,
    /// Begun here, but not yet on the server: BEGIN goes with the first statement and costs no round trip.
    Pending(Access),
    Open(Access),
    /// A statement failed in it: PostgreSQL answers COMMIT with a silent rollback.
    Failed,
}

impl pool::Session for Box<Session> {
    fn is_alive(&mut self) -> bool {
        !self.is_broken() && self.wire.is_open()
    }

    fn validate(&mut self, deadline: Deadline) -> bool {
        let Session { client, wire, .. } = &mut **self;
        wire.answers(client, deadline)
    }

    fn is_broken(&self) -> bool {
        self.wire.is_broken() || self.client.is_closed()
    }
}

impl Session {
    /// All rows of a statement.
    ///
    /// # Errors
    /// [`Error::Deadline`]; whatever the database reports.
    pub fn query(&mut self, sql: &str, parameters: &Parameters<'_>) -> Result<Vec<Row>, Error> {
        self.rows(sql, parameters, Access::ReadWrite, Effect::of_query(sql))
    }

    /// All rows of a statement that the server lets only read.
    pub(crate) fn read(&mut self, sql: &str, parameters: &Parameters<'_>) -> Result<Vec<Row>, Error> {
        self.rows(sql, parameters, Access::ReadOnly, Effect::Reads)
    }

    fn rows(
        &mut self,
        sql: &str,
        parameters: &Parameters<'_>,
        access: Access,
        effect: Effect,
    ) -> Result<Vec<Row>, Error> {
        self.with_prepared(sql, access, effect, async |client, prepared, request| {
            let named = prepared.text_for(sql, request);
            let rows = prepared.query(client, named.as_deref(), parameters).await;
            rows.map_err(|error| wire::refused(&error, sql))
        })
    }

    /// The one row of a statement.
    ///
    /// # Errors
    /// As [`Session::query`]; [`Error::RowCount`] when it is not one.
    pub fn query_one(&mut self, sql: &str, parameters: &Parameters<'_>) -> Result<Row, Error> {
        self.query_opt(sql, parameters)?.ok_or(Error::RowCount { expected: "one", received: 0 })
    }

    /// The one row of a statement, or none.
    ///
    /// # Errors
    /// As [`Session::query`]; [`Error::RowCount`] when there are several.
    pub fn query_opt(&mut self, sql: &str, parameters: &Parameters<'_>) -> Result<Option<Row>, Error> {
        let mut rows = self.query(sql, parameters)?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            received => Err(Error::RowCount { expected: "at most one", received }),
        }
    }

    /// Runs a statement: the number of rows it changed.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub fn execute(&mut self, sql: &str, parameters: &Parameters<'_>) -> Result<u64, Error> {
        self.with_prepared(sql, Access::ReadWrite, Effect::MayWrite, async |client, prepared, request| {
            let named = prepared.text_for(sql, request);
            let done = prepared.execute(client, named.as_deref(), parameters).await;
            done.map_err(|error| wire::refused(&error, sql))
        })
    }

    /// Runs one statement many times, all sent together: as many round trips as one. The rows of all, in their order.
    /// Outside a transaction each run stands by itself: what ran before or after a failed one stays.
    ///
    /// # Errors
    /// As [`Session::query`]: the first run's that failed.
    pub fn query_each(&mut self, sql: &str, runs: &[&Parameters<'_>]) -> Result<Vec<Row>, Error> {
        let effect = Effect::of_query(sql);
        self.with_prepared(sql, Access::ReadWrite, effect, async |client, prepared, request| {
            let named = prepared.text_for(sql, request);
            let named = named.as_deref();
            let answers = join_all(runs.iter().map(|values| prepared.query(client, named, values))).await;
            let mut rows = Vec::with_capacity(runs.len());
            for answer in answers {
                rows.append(&mut answer.map_err(|error| wire::refused(&error, sql))?);
            }
            Ok(rows)
        })
    }

    /// Runs one statement many times, all sent together: the number of rows they changed. Failures are as with
    /// [`Session::query_each`].
    ///
    /// # Errors
    /// As [`Session::query_each`].
    pub fn execute_each(&mut self, sql: &str, runs: &[&Parameters<'_>]) -> Result<u64, Error> {
        self.with_prepared(sql, Access::ReadWrite, Effect::MayWrite, async |client, prepared, request| {
            let named = prepared.text_for(sql, request);
            let named = named.as_deref();
            let answers = join_all(runs.iter().map(|values| prepared.execute(client, named, values))).await;
            answers.into_iter().sum::<Result<u64, _>>().map_err(|error| wire::refused(&error, sql))
        })
    }

    /// Runs `work` in a transaction: committed when it returns `Ok`, else rolled back.
    ///
    /// # Errors
    /// What `work` returns, or what beginning or committing reports.
    pub fn transaction<T, E: From<Error>>(
        &mut self,
        access: Access,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin(access)?;
        match work(self) {
            Ok(done) => {
                self.commit()?;
                Ok(done)
            }
            Err(error) => {
                if let Err(lost) = self.rollback() {
                    log::warn!("{lost}, while rolling back");
                }
                Err(error)
            }
        }
    }

    /// The checkout's part: for whom it is borrowed and until when.
    pub(super) fn borrow(
        &mut self,
        client: &Presence,
        activity: &Activity,
        metrics: &Arc<metrics::Pool>,
        deadline: Deadline,
    ) {
        self.activity.clone_from(activity);
        self.metrics.clone_from(metrics);
        let statement = self.settings.statement_timeout();
        self.limit = Limit { client: client.clone(), deadline, statement };
        self.statements.max = self.settings.max_prepared_statements();
    }

    /// For which request it is borrowed, until the checkin.
    pub(super) fn names_requests(&self) -> bool {
        self.settings.names_requests()
    }

    pub(super) fn name_request(&mut self, request_id: &str, traceparent: &str) {
        if self.settings.names_requests() {
            self.request = Comment::new([("request_id", request_id), ("traceparent", traceparent)]);
        }
    }

    /// The deadline for what runs from now on.
    pub(super) fn start(&mut self, deadline: Deadline) {
        self.limit.deadline = deadline;
    }

    pub(super) fn describe(&mut self, statement: &Statement) -> Result<Description, Error> {
        let described =
            self.with_prepared(&statement.text, Access::ReadOnly, Effect::Reads, async |_, prepared, _| {
                Ok(describe(statement, prepared))
            });
        described.map_err(|error| statement.before_comment(error))
    }

    pub(super) fn begin(&mut self, access: Access) -> Result<(), Error> {
        if self.transaction != Transaction::None {
            return Err(Error::Usage("a transaction is open already".to_owned()));
        }
        self.transaction = Transaction::Pending(access);
        Ok(())
    }

    pub(super) fn commit(&mut self) -> Result<(), Error> {
        match self.transaction {
            Transaction::None => Err(Error::Usage("no transaction is open".to_owned())),
            Transaction::Failed => {
                self.rollback()?;
                Err(Error::Usage("a statement in the transaction failed; it was rolled back".to_owned()))
            }
            Transaction::Pending(_) => {
                self.transaction = Transaction::None;
                Ok(())
            }
            Transaction::Open(access) => {
                self.refuse_closed()?;
                self.command("COMMIT", &self.limit.clone(), access == Access::ReadWrite)?;
                self.transaction = Transaction::None;
                Ok(())
            }
        }
    }

    pub(super) fn rollback(&mut self) -> Result<(), Error> {
        // Closing a session that is given up rolls back.
        if matches!(self.transaction, Transaction::None | Transaction::Pending(_)) || self.wire.is_broken() {
            self.transaction = Transaction::None;
            return Ok(());
        }
        let rolled_back = self.command("ROLLBACK", &Limit::until(Deadline::after(ROLLBACK_TIMEOUT)), false);
        self.transaction = Transaction::None;
        if rolled_back.is_err() {
            self.wire.close();
        }
        rolled_back
    }

    pub(super) fn run(
        &mut self,
        statement: &Statement,
        values: &[Value],
        access: Access,
        rows: &mut RowWriter<'_>,
    ) -> Result<u64, Error> {
        let effect = Effect::of_access(access);
        let ran = self.with_prepared(&statement.text, access, effect, async |client, prepared, request| {
            rows.restart();
            let named = statement.text_for(request);
            run(client, prepared, statement, named.as_deref(), values, rows).await
        });
        if matches!(ran, Err(Error::ResponseTooLarge { .. } | Error::Malformed { .. })) {
            self.wire.settle(&self.client);
        }
        ran.map_err(|error| statement.before_comment(error))
    }

    /// The checkin's part: whatever happened, the next request finds the session clean, or closed.
    pub(super) fn finish(&mut self) {
        if let Err(error) = self.rollback() {
            log::warn!("{error}, while rolling back; the connection is closed");
        }
        self.limit.client = Presence::default();
        self.request = Comment::default();
    }

    fn command(&mut self, sql: &str, limit: &Limit, commits: bool) -> Result<(), Error> {
        let activity = self.activity.clone();
        let waiting = activity.wait_for(Doing::Database).on(|| super::command(sql));
        let client = &self.client;
        let sent = async { client.batch_execute(sql).await.map_err(|error| wire::refused(&error, sql)) };
        let done = self.wire.complete(sent, limit, &Cell::new(commits));
        let done = self.note(done);
        waiting.end(done, Error::kind)
    }

    /// What commits is not sent where the server has closed the connection already: otherwise nobody could say that it was
    /// not committed.
    fn refuse_closed(&mut self) -> Result<(), Error> {
        if self.wire.is_broken() || self.wire.is_open() {
            return Ok(());
        }
        Err(Error::Lost("it was found closed before anything was sent".to_owned()))
    }

    /// What a failure is taken for, and what it means for what comes next.
    fn note<T>(&mut self, mut done: Result<T, Error>) -> Result<T, Error> {
        let Err(error) = &mut done else { return done };
        note_cancelled(error, &self.metrics);
        let access = match self.transaction {
            Transaction::Open(access) => Some(access),
            _ => self.access,
        };
        if access == Some(Access::ReadWrite) {
            take_for_read_only(error, &[READ_ONLY]);
        }
        if is_read_only(error) {
            // The server has become a standby: other sessions may reach the new primary.
            self.wire.close();
        }
        if matches!(self.transaction, Transaction::Open(_)) {
            self.transaction = Transaction::Failed;
        }
        done
    }

    /// Runs `work` with the prepared statement and what names the request, and once more when the server had thrown its plan
    /// away.
    fn with_prepared<T>(
        &mut self,
        sql: &str,
        access: Access,
        effect: Effect,
        mut work: impl AsyncFnMut(&Client, &Prepared, &Comment) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let activity = self.activity.clone();
        let waiting = activity.wait_for(Doing::Database).on(|| super::command(sql));
        let done = self.attempt_again_if_stale(sql, access, effect, &mut work);
        waiting.end(done, Error::kind)
    }

    fn attempt_again_if_stale<T>(
        &mut self,
        sql: &str,
        access: Access,
        effect: Effect,
        work: &mut impl AsyncFnMut(&Client, &Prepared, &Comment) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let before = self.transaction;
        let done = self.attempt(sql, access, effect, work);
        let Err(error) = &done else { return done };
        if !is_stale(error) {
            return done;
        }
        self.statements.forget();
        self.client.clear_type_cache();
        // Where nothing ran before it, it can run again.
        match before {
            Transaction::None => self.attempt(sql, access, effect, work),
            Transaction::Pending(_) => {
                self.rollback()?;
                self.transaction = before;
                self.attempt(sql, access, effect, work)
            }
            Transaction::Open(_) | Transaction::Failed => done,
        }
    }

    fn attempt<T>(
        &mut self,
        sql: &str,
        access: Access,
        effect: Effect,
        work: &mut impl AsyncFnMut(&Client, &Prepared, &Comment) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let commits_itself = self.transaction == Transaction::None && effect == Effect::MayWrite;
        if commits_itself {
            self.refuse_closed()?;
        }
        let switch = self.command_before(access);
        let (client, statements, request) = (&self.client, &mut self.statements, &self.request);
        let commits = Cell::new(false);
        let whole = async {
            let prepared_and_run = async {
                let prepared = statements.prepare(client, sql).await?;
                commits.set(commits_itself);
                work(client, &prepared, request).await
            };
            let Some(switch) = switch else {
                return prepared_and_run.await;
            };
            // Both are sent before either is answered: the command costs no round trip.
            let (switched, done) = join(client.batch_execute(switch.text), prepared_and_run).await;
            let Err(error) = switched else { return done };
            let error = switch.refused(&error);
            if done.is_err() || is_read_only(&error) && is_standby(client).await {
                return Err(error);
            }
            // The command failed, as by a cancel that hit it instead of the statement, which ran all the same, and
            // without its BEGIN.
            commits.set(effect == Effect::MayWrite);
            Err(Error::Lost(format!("{error}, at {}, and what came behind it was run", switch.text)))
        };
        let done = self.wire.complete(whole, &self.limit, &commits);
        if let Transaction::Pending(access) = self.transaction {
            // Even if the deadline leaves it unknown whether the server began it.
            self.transaction = Transaction::Open(access);
            return self.note(done);
        }
        if switch.is_some() {
            self.access = Some(access);
        }
        let done = self.note(done);
        if switch.is_some() && done.is_err() {
            // Whether it was switched is not known.
            self.access = None;
        }
        done
    }

    /// What goes before a statement: BEGIN, if that is due, or what makes single statements run with `access`, when they
    /// do not yet.
    fn command_before(&self, access: Access) -> Option<Switch> {
        match self.transaction {
            Transaction::Pending(access) => Some(Switch { text: begin_text(access), access }),
            Transaction::None if self.access != Some(access) => Some(Switch {
                text: match access {
                    Access::ReadOnly => "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                    Access::ReadWrite => "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
                },
                access,
            }),
            _ => None,
        }
    }
}

/// A command that says what the statement behind it may do.
#[derive(Clone, Copy)]
struct Switch {
    text: &'static str,
    access: Access,
}

impl Switch {
    /// Why it failed.
    fn refused(self, error: &tokio_postgres::Error) -> Error {
        let mut error = wire::refused(error, self.text);
        if self.access == Access::ReadWrite {
            take_for_read_only(&mut error, &[READ_ONLY, NOT_SUPPORTED]);
        }
        error
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("access", &self.access)
            .field("transaction", &self.transaction)
            .finish_non_exhaustive()
    }
}

/// What a server that recovers refuses of it, it refuses within the transaction: then nothing that was sent behind it is run, also
/// when the server has recovered meanwhile.
fn begin_text(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "BEGIN READ ONLY",
        Access::ReadWrite => "BEGIN; SET TRANSACTION READ WRITE",
    }
}

/// What was to write was refused with one of these codes: the server only reads.
fn take_for_read_only(error: &mut Error, codes: &[&str]) {
    if let Error::Refused(refusal) = error
        && codes.contains(&refusal.code.as_str())
    {
        refusal.category = Category::ReadOnly;
    }
}

fn is_read_only(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.category == Category::ReadOnly)
}

/// Whether nothing can have been written until now: a server that was promoted is never a standby again.
async fn is_standby(client: &Client) -> bool {
    let row = client.query_one("select pg_is_in_recovery()", &[]).await;
    row.is_ok_and(|row| row.try_get(0).unwrap_or(false))
}

/// "cached plan must not change result type" after an ALTER, and a statement that someone deallocated.
fn is_stale(error: &Error) -> bool {
    matches!(error.code(), Some(NOT_SUPPORTED | "26000")) && !is_read_only(error)
}

/// Runs an endpoint's statement; `named` is as with [`Prepared`].
async fn run(
    client: &Client,
    prepared: &Prepared,
    statement: &Statement,
    named: Option<&str>,
    values: &[Value],
    rows: &mut RowWriter<'_>,
) -> Result<u64, Error> {
    for (bound, kind) in statement.bound.iter().zip(prepared.statement.params()) {
        bind::check(bound, &values[bound.index], kind)?;
    }
    if let Some(index) = prepared.unsupported() {
        return Err(prepared.refusal_of(index));
    }
    let parameters = statement.bound.iter().map(|bound| bind::Parameter(&values[bound.index]));
    let refused = |error| wire::refused(&error, &statement.text);
    let answer = match named {
        Some(text) => {
            let types = prepared.statement.params().iter().cloned();
            client.query_typed_raw(text, parameters.zip(types)).await
        }
        None => client.query_raw(&prepared.statement, parameters).await,
    };
    let mut stream = pin!(answer.map_err(refused)?);
    let mut plan = Cow::Borrowed(&prepared.plan);
    while let Some(row) = stream.try_next().await.map_err(refused)? {
        if named.is_some() && rows.rows() == 0 && !prepared.fits(&row) {
            // A table was altered. The prepared statement would be refused for that, but this one has run.
            plan = Cow::Owned(plan_of(row.columns()));
        }
        rows.row(plan.iter().map(|column| &*column.key), |index, out| write(&row, &plan, index, out))?;
    }
    if prepared.plan.is_empty() { Ok(stream.rows_affected().unwrap_or(0)) } else { Ok(rows.rows()) }
}

fn describe(statement: &Statement, prepared: &Prepared) -> Description {
    let columns = prepared.statement.columns().iter();
    let columns =
        columns.map(|column| Column { name: column.name().to_owned(), type_name: type_name(column.type_()) });
    let unsupported = (0..prepared.plan.len()).filter(|index| prepared.plan[*index].encoder.is_none());
    let unsupported = unsupported.map(|index| prepared.refusal_of(index).to_string());
    let kinds = statement.bound.iter().zip(prepared.statement.params());
    let mismatches = kinds.filter_map(|(bound, kind)| bind::mismatch(bound, kind));
    Description { columns: columns.collect(), problems: unsupported.chain(mismatches).collect() }
}

fn type_name(kind: &Type) -> String {
    match kind.kind() {
        Kind::Array(item) => format!("{item}[]"),
        _ => kind.to_string(),
    }
}

/// A statement that the server has prepared, and how its rows are written.
///
/// It is run as it was prepared, or as `named`: its text with a comment that names the request. That is another text each time,
/// so it is sent as the unnamed statement, with its values and all else that it takes, in one message and one round trip: the
/// types of its parameters are known from the one that was prepared.
struct Prepared {
    statement: tokio_postgres::Statement,
    /// What the server calls it, where that is known.
    name: Option<Box<str>>,
    plan: Vec<ColumnPlan>,
    /// Up to where its text goes when a comment is to stand behind it; `None`: it has one.
    end: Option<usize>,
}

#[derive(Clone)]
struct ColumnPlan {
    /// `"name":`
    key: Box<[u8]>,
    encoder: Option<Encoder>,
}

/// A value's bytes, whatever its type.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl Prepared {
    fn new(statement: tokio_postgres::Statement, sql: &str) -> Self {
        let has_comment = config::Sql::without_parameters(sql).has_comment();
        let end = (!has_comment).then(|| comment::end(sql));
        Self { plan: plan_of(statement.columns()), name: name_of(&statement), statement, end }
    }

    /// What is sent in place of `sql`, which it was prepared from, to name the request, if that is to be done.
    fn text_for(&self, sql: &str, request: &Comment) -> Option<String> {
        let end = self.end.filter(|_| !request.is_empty())?;
        let mut text = sql[..end].to_owned();
        request.write(&Comment::default(), &mut text);
        Some(text)
    }

    /// All rows.
    async fn query(
        &self,
        client: &Client,
        named: Option<&str>,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let stream = match named.and_then(|text| Some((text, self.typed(parameters)?))) {
            Some((text, typed)) => client.query_typed_raw(text, typed).await?,
            None => client.query_raw(&self.statement, parameters.iter().copied()).await?,
        };
        stream.map_ok(Row::from).try_collect().await
    }

    /// How many rows it changed.
    async fn execute(
        &self,
        client: &Client,
        named: Option<&str>,
        parameters: &Parameters<'_>,
    ) -> Result<u64, tokio_postgres::Error> {
        match named.and_then(|text| Some((text, self.typed(parameters)?))) {
            Some((text, typed)) => client.execute_typed(text, &typed).await,
            None => client.execute(&self.statement, parameters).await,
        }
    }

    /// Parameters with their types; `None` where their number is wrong, which running what was prepared says.
    fn typed<'p>(&self, parameters: &Parameters<'p>) -> Option<Vec<(&'p (dyn ToSql + Sync), Type)>> {
        let types = self.statement.params();
        (types.len() == parameters.len())
            .then(|| parameters.iter().copied().zip(types.iter().cloned()).collect())
    }

    /// Whether a row is of the columns that the statement had when it was prepared.
    fn fits(&self, row: &DriverRow) -> bool {
        let same = |(now, before): (&PostgresColumn, &PostgresColumn)| {
            now.name() == before.name() && now.type_() == before.type_()
        };
        let (now, before) = (row.columns(), self.statement.columns());
        now.len() == before.len() && now.iter().zip(before).all(same)
    }

    /// The first column that has no form in JSON.
    fn unsupported(&self) -> Option<usize> {
        self.plan.iter().position(|column| column.encoder.is_none())
    }

    fn refusal_of(&self, index: usize) -> Error {
        let (column, type_name) = column(self.statement.columns(), index);
        Error::UnsupportedType { column, type_name }
    }
}

/// tokio-postgres keeps the names of its statements to itself but for this; where they are written otherwise, they are not known.
fn name_of(statement: &tokio_postgres::Statement) -> Option<Box<str>> {
    let text = format!("{statement:?}");
    let (name, _) = text.strip_prefix("Statement { name: \"s")?.split_once('"')?;
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| format!("s{name}").into())
}

fn plan_of(columns: &[PostgresColumn]) -> Vec<ColumnPlan> {
    let plan = columns.iter().map(|column| ColumnPlan {
        key: super::json::key(column.name()),
        encoder: Encoder::of(column.type_()),
    });
    plan.collect()
}

fn write(row: &DriverRow, plan: &[ColumnPlan], index: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let raw = row.try_get::<_, Option<Raw<'_>>>(index).ok();
    let encoder = plan.get(index).and_then(|column| column.encoder.as_ref());
    let written = raw.zip(encoder).map(|(raw, encoder)| encoder.write(out, raw.map(|raw| raw.0)));
    written.and_then(Result::ok).ok_or_else(|| {
        let (column, type_name) = column(row.columns(), index);
        Error::Malformed { column, type_name }
    })
}

/// A column's name and type, for messages.
fn column(columns: &[PostgresColumn], index: usize) -> (String, String) {
    let column = columns.get(index);
    column.map_or_else(Default::default, |column| (column.name().to_owned(), type_name(column.type_())))
}

/// The session's prepared statements by their text; when full, the oldest goes, and the server is told with the next
/// statement.
#[derive(Default)]
struct Statements {
    max: usize,
    known: HashMap<Arc<str>, Arc<Prepared>>,
    oldest_first: VecDeque<Arc<str>>,
}

impl Statements {
    fn forget(&mut self) {
        self.known.clear();
        self.oldest_first.clear();
    }

    fn known(&self, sql: &str) -> Option<&Arc<Prepared>> {
        self.known.get(sql)
    }

    async fn prepare(&mut self, client: &Client, sql: &str) -> Result<Arc<Prepared>, Error> {
        if let Some(prepared) = self.known.get(sql) {
            return Ok(Arc::clone(prepared));
        }
        refuse_session_commands(sql)?;
        let statement = client.prepare(sql).await.map_err(|error| wire::refused(&error, sql))?;
        let prepared = Arc::new(Prepared::new(statement, sql));
        while self.known.len() >= self.max.max(1)
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
        let text: Arc<str> = sql.into();
        self.oldest_first.push_back(Arc::clone(&text));
        self.known.insert(text, Arc::clone(&prepared));
        Ok(prepared)
    }
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

fn first_word(sql: &str) -> &str {
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
    use super::super::Refusal;
    use super::*;

    #[test]
    fn a_query_is_taken_to_read_by_its_first_word() {
        for (sql, effect) in [
            ("select 1", Effect::Reads),
            ("-- all\n VALUES (1)", Effect::Reads),
            ("insert into t values (1) returning a", Effect::MayWrite),
            ("with x as (delete from t returning a) select a from x", Effect::MayWrite),
        ] {
            assert_eq!(Effect::of_query(sql), effect, "{sql}");
        }
    }

    #[test]
    fn what_a_standby_refuses_is_no_stale_plan() {
        let refused =
            |code: &str| Error::Refused(Box::new(Refusal::new(Category::of_sqlstate(code), code, "")));
        let mut error = refused(NOT_SUPPORTED);
        assert!(is_stale(&error) && is_stale(&refused("26000")));
        take_for_read_only(&mut error, &[READ_ONLY]);
        assert!(is_stale(&error), "that code says it of some commands only");
        take_for_read_only(&mut error, &[READ_ONLY, NOT_SUPPORTED]);
        assert!(!is_stale(&error));
        assert_eq!(error.status(), 503);
    }

    #[test]
    fn transaction_commands_are_refused_behind_comments_too() {
        assert!(refuse_session_commands("/* x */ -- y\n BEGIN").is_err());
        assert!(refuse_session_commands("commit;").is_err());
        assert!(refuse_session_commands("select 'begin'").is_ok());
        assert!(refuse_session_commands("with a as (select 1) select * from a").is_ok());
    }
}
