//! PostgreSQL: one session of the pool, and how it is opened.
//!
//! tokio-postgres opens a session; from then on the protocol is spoken here, in batches of messages, by the worker that borrowed the
//! session, so that every wait has a bound. Nothing reads the session while it is idle.

mod answer;
mod bind;
mod channel;
mod connect;
mod effects;
mod json;
mod pipeline;
mod pooler;
mod privileges;
mod refusal;
mod row;
mod simple;
mod socket;
mod statements;
mod tls;
mod types;
mod url;
mod wire;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

pub use postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::types::Kind;

use self::answer::{Answer as Coming, Reader};
use self::effects::AllEffects;
pub(crate) use self::pipeline::{Answer, Fetched, Form};
pub use self::pipeline::{Parameter, Question};
use self::row::Fields;
pub use self::row::{Row, RowIndex};
pub use self::statements::Column;
use self::statements::{Described, Prepared, Statements, columns_of, first_word};
use self::types::Types;
use self::wire::{Failure, Limit, Wait, Wire};
use super::comment::Comment;
use super::settings::Settings;
use super::{Access, Category, Column as ColumnDescription, Description, Error, RowWriter, Statement};
use super::{note_cancelled, pool};
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::value::Value;
use crate::config;
use crate::telemetry::activity::{Activity, Doing};
use crate::telemetry::metrics;

/// How long a rollback may take, whatever the request's deadline: it is quick, or the session is not worth keeping.
const ROLLBACK_TIMEOUT: Duration = Duration::from_millis(500);

/// The SQLSTATE of a write where nothing may be written.
const READ_ONLY: &str = "25006";

/// The SQLSTATE with which a standby refuses to begin what may write; for other commands it says something else.
const NOT_SUPPORTED: &str = "0A000";

/// The SQLSTATE of a prepared statement that is not there.
const NO_STATEMENT: &str = "26000";

/// How often a statement is run when it is found to be prepared for an older schema each time. Two in a row is an ALTER
/// between preparing it and running it.
const ATTEMPTS_MAX: u32 = 4;

/// Parameters as a handler in Rust writes them: `&[&id, &name]`.
pub type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// The URL without its password.
pub(super) fn display_url(url: &str) -> String {
    url::display(url)
}

/// PostgreSQL's type for a parameter that is declared as `kind`: what to cast it to where the statement leaves its type open.
pub fn type_to_cast(kind: crate::base::value::Type) -> String {
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
    effects: Arc<AllEffects>,
}

impl Driver {
    pub(super) fn new(url: &str, configured: &config::Database) -> Result<Self, Error> {
        let target = url::Target::parse(url)?;
        let tls = target.tls.connector().map_err(Error::Url)?;
        Ok(Self { target, tls, settings: Arc::new(Settings::new(configured)), effects: Arc::default() })
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

    /// Sessions prepare what they run anew from their next checkout on.
    pub(super) fn forget_statements(&self) {
        self.settings.note_schema_change();
    }

    fn open_wire(&self, deadline: Deadline) -> Result<(Wire, Option<i32>), Error> {
        Wire::open(&self.target, &self.config(), &self.tls, deadline)
    }

    /// The error of a session that opened and cannot be used.
    fn unusable(&self, reason: String, transient: bool) -> Error {
        Error::Open { target: self.target.name.clone(), reason, transient }
    }

    /// Gives a new session its settings, unless a pooler would lend it to others as well. Returns what sets them again.
    fn initialize(
        &self,
        wire: &mut Wire,
        process: Option<i32>,
        deadline: Deadline,
    ) -> Result<Box<str>, Error> {
        let limit = Limit::until(deadline);
        let failed = |what: &str, error: &Error| {
            self.unusable(format!("{what}: {}", error.in_full()), may_pass(error))
        };
        let set =
            pooler::set_if_direct(wire, process, &limit).map_err(|error| failed("a new session", &error))?;
        let mut settings = Box::<str>::from(effects::SETTINGS);
        if let Some(server_process) = set {
            let patience = pooler::PATIENCE.min(deadline.left() / 3);
            let open = || Ok(self.open_wire(deadline.within(patience))?.0);
            match pooler::shares(wire, &server_process, open, &limit, patience) {
                Ok(false) => {}
                Ok(true) => return Err(self.unusable(pooler::ADVICE.to_owned(), false)),
                Err(error) => return Err(failed("a new session", &error)),
            }
            settings = pooler::settings(&self.config()).into();
            simple::run(wire, &settings, &limit).map_err(|error| failed("a new session", &error))?;
            wire.is_pooled = true;
        }
        if let Some(sql) = self.settings.init_sql() {
            simple::run(wire, &sql, &limit).map_err(|error| failed("connection_init_sql", &error))?;
        }
        Ok(settings)
    }
}

/// Whether opening a session may succeed a moment later.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Refused(refusal) => {
            matches!(refusal.category, Category::Down | Category::Busy | Category::Exhausted)
        }
        _ => true,
    }
}

impl pool::Driver for Driver {
    /// Boxed: the pool moves it at each checkout and checkin.
    type Session = Box<Session>;

    fn reconfigure(&self, configured: &config::Database) -> bool {
        self.settings.set(configured)
    }

    fn open(&self, deadline: Deadline) -> Result<Box<Session>, Error> {
        let (mut wire, process) = self.open_wire(deadline)?;
        let initial_settings = self.initialize(&mut wire, process, deadline)?;
        Ok(Box::new(Session {
            wire,
            settings: Arc::clone(&self.settings),
            effects: Arc::clone(&self.effects),
            initial_settings,
            schema_changes: self.settings.schema_changes(),
            statements: Statements::default(),
            types: Types::default(),
            access: None,
            transaction: Transaction::None,
            limit: Limit::until(deadline),
            request: Comment::default(),
            activity: Activity::default(),
            metrics: Arc::default(),
            untidy: Untidy::default(),
            deferred: None,
        }))
    }
}

/// An open session. Handlers in Rust run their statements on it; each is prepared once and kept, and ends by the deadline
/// that the connection was checked out with. Only where it was said [for which request](super::Connection::name_request) the
/// session is borrowed, and `database.statement_comment` asks for it, does a comment stand behind their text.
pub struct Session {
    wire: Wire,
    settings: Arc<Settings>,
    effects: Arc<AllEffects>,
    /// SQL that sets the settings of a new session again.
    initial_settings: Box<str>,
    /// `settings.schema_changes()` when the oldest of its statements was prepared, or before.
    schema_changes: u64,
    statements: Statements,
    types: Types,
    /// What the session's transactions may do unless they say it themselves; `None` when that is not known.
    access: Option<Access>,
    transaction: Transaction,
    limit: Limit,
    /// For which request it is borrowed, where statements are to say so.
    request: Comment,
    /// Whose waits its statements are, and where those are counted that were cancelled.
    activity: Activity,
    metrics: Arc<metrics::Pool>,
    /// The work that this borrow leaves for the checkin.
    untidy: Untidy,
    /// The work that earlier borrows have left, and that is not sent yet. It goes before the next statement.
    deferred: Option<Untidy>,
}

/// Work that a session needs before another request has it.
#[derive(Default)]
struct Untidy {
    /// A statement may have changed it, so it is to be cleaned.
    is_touched: bool,
    /// A statement may have prepared others by SQL, so the cleaning is to look for them. A write of rows does not, unless a trigger
    /// makes up its SQL, and the look takes a third of the cleaning's time.
    may_have_leftovers: bool,
    /// The statements of which the planner is to be asked.
    looks: Vec<(Box<str>, Arc<Prepared>)>,
}

impl Untidy {
    /// Puts it into the batch. The planner is asked on a clean session, and runs functions as well, so the session is cleaned after
    /// that again.
    fn put(&self, cleaning: &str, wire: &mut Wire) -> Result<(), Error> {
        if self.is_touched {
            effects::clean(cleaning, wire)?;
        }
        for (sql, prepared) in &self.looks {
            effects::look(sql, prepared, wire)?;
        }
        if !self.looks.is_empty() {
            effects::clean(cleaning, wire)?;
        }
        Ok(())
    }
}

/// What a statement does outside a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing that lasts.
    Reads,
    /// It may write, and the server commits it as a whole: its error says that nothing was committed.
    MayWrite,
    /// It may write, and the server commits its parts one by one: its error says nothing of the parts before.
    MayWriteParts,
}

impl Effect {
    /// By its first word alone: a `select` is taken to read, whatever the functions in it do.
    fn of_query(sql: &str) -> Self {
        const READ: [&str; 5] = ["select", "values", "table", "show", "explain"];
        let word = first_word(sql);
        let reads = READ.iter().any(|read| word.eq_ignore_ascii_case(read));
        if reads { Self::Reads } else { Self::of_write(sql) }
    }

    /// The effect of a statement that may write. A procedure and a `do` block may commit halfway, and so may some commands of
    /// administrators, as `create index concurrently` does.
    fn of_write(sql: &str) -> Self {
        const WHOLE: [&str; 8] = ["delete", "insert", "merge", "select", "table", "update", "values", "with"];
        let word = first_word(sql);
        let is_whole = WHOLE.iter().any(|whole| word.eq_ignore_ascii_case(whole));
        if is_whole { Self::MayWrite } else { Self::MayWriteParts }
    }

    fn of_access(access: Access, sql: &str) -> Self {
        match access {
            Access::ReadOnly => Self::Reads,
            Access::ReadWrite => Self::of_write(sql),
        }
    }

    /// The same statement run so many times: each run is committed by itself.
    fn times(self, runs: usize) -> Self {
        if self == Self::MayWrite && runs > 1 { Self::MayWriteParts } else { self }
    }

    fn may_write(self) -> bool {
        self != Self::Reads
    }

    /// Whether a statement with this effect has committed nothing when it fails with this error.
    fn is_undone(self, error: &Error) -> bool {
        let refused = match error {
            // An error of the connection may be a pooler's word, whose server was lost during the statement.
            Error::Refused(refusal) => !refusal.is_of_connection(),
            // The server's word is behind what a cancelled statement comes to; the others were found before it was sent.
            Error::Deadline | Error::StatementTimeout | Error::Usage(_) | Error::BadValue { .. } => true,
            _ => false,
        };
        refused && self != Self::MayWriteParts
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
        self.is_open()
    }

    fn validate(&mut self, deadline: Deadline) -> bool {
        self.tidy();
        self.wire.answers(deadline)
    }

    fn is_broken(&self) -> bool {
        self.wire.is_broken()
    }

    fn is_untidy(&self) -> bool {
        Session::is_untidy(self)
    }

    fn tidy(&mut self) {
        Session::tidy(self);
    }

    fn is_clean(&mut self) -> bool {
        self.wire.has_no_errands() || self.is_open() && !self.wire.has_leftovers()
    }
}

impl Session {
    /// All rows of a statement.
    ///
    /// Outside a transaction, and for a request whose method may change something, such as POST, every statement is taken to have
    /// committed something, a `select` as well: it may call a function that writes. A later 504 or 503 of that request is then an
    /// unknown outcome. What only reads runs in a transaction with [`Access::ReadOnly`].
    ///
    /// # Errors
    /// [`Error::Deadline`]; whatever the database reports.
    pub fn query(&mut self, sql: &str, parameters: &Parameters<'_>) -> Result<Vec<Row>, Error> {
        self.rows(sql, parameters, Access::ReadWrite, self.effect_of_query(sql))
    }

    /// All rows of a statement that the server lets only read.
    pub(crate) fn read(&mut self, sql: &str, parameters: &Parameters<'_>) -> Result<Vec<Row>, Error> {
        // They may end the transaction that only reads, and begin one that does not.
        if ["call", "do"].iter().any(|word| first_word(sql).eq_ignore_ascii_case(word)) {
            return Err(Error::Usage(format!("{} does not only read", first_word(sql))));
        }
        self.rows(sql, parameters, Access::ReadOnly, Effect::Reads)
    }

    /// The text of a query says whether it reads, where the request's method is safe (RFC 9110 section 9.2.1) or there is no
    /// request. A query of any other request may call a function that writes.
    fn effect_of_query(&self, sql: &str) -> Effect {
        if self.limit.client.is_safe() { Effect::of_query(sql) } else { Effect::of_write(sql) }
    }

    fn rows(
        &mut self,
        sql: &str,
        parameters: &Parameters<'_>,
        access: Access,
        effect: Effect,
    ) -> Result<Vec<Row>, Error> {
        let runs = [parameters];
        let mut runs = Runs::of(sql, &runs);
        self.with_prepared(sql, access, effect, &mut runs)?;
        Ok(runs.rows)
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
        self.execute_each(sql, &[parameters])
    }

    /// Runs one statement many times, all sent together: as many round trips as one. The rows of all, in their order.
    /// Outside a transaction each run stands by itself: what ran before or after a failed one stays.
    ///
    /// # Errors
    /// As [`Session::query`]: the first run's that failed.
    pub fn query_each(&mut self, sql: &str, runs: &[&Parameters<'_>]) -> Result<Vec<Row>, Error> {
        let mut runs = Runs::of(sql, runs);
        let effect = self.effect_of_query(sql).times(runs.parameters.len());
        self.with_prepared(sql, Access::ReadWrite, effect, &mut runs)?;
        Ok(runs.rows)
    }

    /// Runs one statement many times, all sent together: the number of rows they changed. Failures are as with
    /// [`Session::query_each`].
    ///
    /// # Errors
    /// As [`Session::query_each`].
    pub fn execute_each(&mut self, sql: &str, runs: &[&Parameters<'_>]) -> Result<u64, Error> {
        let mut runs = Runs { rows_wanted: false, ..Runs::of(sql, runs) };
        let effect = Effect::of_write(sql).times(runs.parameters.len());
        self.with_prepared(sql, Access::ReadWrite, effect, &mut runs)?;
        Ok(runs.count)
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
        let schema_changes = self.settings.schema_changes();
        if self.schema_changes != schema_changes {
            self.schema_changes = schema_changes;
            self.forget_statements();
        }
    }

    fn forget_statements(&mut self) {
        self.statements.forget();
        self.types.forget();
    }

    /// Whether a statement is known to change nothing of the session.
    pub(super) fn can_share(&self, sql: &str) -> bool {
        self.statements.known(sql).is_some_and(|prepared| prepared.effects.are_none())
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
        let prepared = self.prepared(&statement.text, Access::ReadOnly);
        let described = prepared.map(|prepared| describe(statement, &prepared));
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
        let mut written = Written { statement, values, rows, is_of_other_columns: false };
        let effect = Effect::of_access(access, &statement.text);
        let ran = self.with_prepared(&statement.text, access, effect, &mut written);
        ran.map_err(|error| statement.before_comment(error))
    }

    /// The checkin's part: whatever happened, the next request finds the session clean, or closed.
    pub(super) fn finish(&mut self) {
        if let Err(error) = self.rollback() {
            log::warn!("{error}, while rolling back; the connection is closed");
        }
        let is_workers = mem::take(&mut self.limit.client).is_tracked();
        self.request = Comment::default();
        // A handler's code that panics may leave some of an answer.
        self.wire.settle();
        if self.wire.is_in_transaction() {
            self.wire.close();
        }
        self.wire.shrink();
        let untidy = mem::take(&mut self.untidy);
        if untidy.is_touched || !untidy.looks.is_empty() {
            let mut all = self.deferred.take().unwrap_or_default();
            all.is_touched |= untidy.is_touched;
            all.may_have_leftovers |= untidy.may_have_leftovers;
            all.looks.extend(untidy.looks);
            self.deferred = Some(all);
        }
        // A worker that has another job uses the session at once. One that has none tidies up.
        if !is_workers {
            self.tidy();
        }
    }

    /// Whether there is something to [tidy](Self::tidy).
    pub(super) fn is_untidy(&self) -> bool {
        self.deferred.is_some() && !self.wire.is_broken()
    }

    /// Sends what cleans the session, and waits for nothing.
    pub(super) fn tidy(&mut self) {
        if !self.is_untidy() {
            return;
        }
        self.wire.begin_batch();
        let access = self.known_access().unwrap_or(Access::ReadWrite);
        match self.put_deferred(access) {
            Ok(()) => self.wire.send_at_once(),
            Err(error) => {
                log::warn!("{error}, while cleaning a session; the connection is closed");
                self.wire.close();
            }
        }
    }

    /// Puts what is deferred into the batch; behind it, the session's transactions have this access.
    fn put_deferred(&mut self, access: Access) -> Result<(), Error> {
        let Some(untidy) = self.deferred.take() else { return Ok(()) };
        let cleaning = self.cleaning(access, untidy.may_have_leftovers || !untidy.looks.is_empty());
        untidy.put(&cleaning, &mut self.wire)
    }

    fn cleaning(&mut self, access: Access, looks_for_leftovers: bool) -> String {
        self.access = Some(access);
        effects::cleaning(
            access,
            looks_for_leftovers,
            &self.initial_settings,
            self.settings.init_sql().as_deref(),
        )
    }

    /// Takes away what the cleaning has found and could not take away. Nothing was run on the session since.
    fn wipe(&mut self) -> Result<(), Error> {
        let limit = self.limit.clone();
        self.statements.forget_all_at_once();
        self.wire.note_wiped();
        let access = self.known_access().unwrap_or(Access::ReadWrite);
        let cleaning = self.cleaning(access, false);
        for sql in ["rollback", "deallocate all", &cleaning] {
            simple::run(&mut self.wire, sql, &limit).inspect_err(|_| self.wire.close())?;
        }
        Ok(())
    }

    fn command(&mut self, sql: &str, limit: &Limit, commits: bool) -> Result<(), Error> {
        let activity = self.activity.clone();
        let waiting = activity.wait_for(Doing::Database).on(|| super::command(sql));
        let done = if commits {
            self.commit_by(sql, limit)
        } else {
            simple::run(&mut self.wire, sql, limit).map(drop)
        };
        let access = self.known_access().unwrap_or(Access::ReadOnly);
        let done = self.note(done, access);
        waiting.end(done, Error::kind)
    }

    fn commit_by(&mut self, sql: &str, limit: &Limit) -> Result<(), Error> {
        let mut wait = self.wire.begin(limit, None)?;
        begin_commit(&limit.client)?;
        let done = simple::commit(&mut self.wire, sql, &mut wait);
        let done = self.wire.conclude(wait, done, true);
        end_commit(&limit.client, &done, Effect::MayWrite);
        done
    }

    /// Whether the server has not closed the connection while it was idle. Looks at the socket, sends nothing.
    fn is_open(&mut self) -> bool {
        if !self.wire.is_broken() && !matches!(self.wire.message_at_hand(), Ok(None)) {
            self.wire.close();
        }
        !self.wire.is_broken()
    }

    /// What commits is not sent where the server has closed the connection already: otherwise nobody could say that it was
    /// not committed.
    fn refuse_closed(&mut self) -> Result<(), Error> {
        if self.wire.is_broken() || self.is_open() {
            return Ok(());
        }
        Err(Error::Lost("it was found closed before anything was sent".to_owned()))
    }

    fn known_access(&self) -> Option<Access> {
        self.wire.reported_access().or(self.access)
    }

    /// Classifies the failure of a statement, which ran with `access` or with its transaction's, and keeps the session's state true
    /// after it.
    fn note<T>(&mut self, mut done: Result<T, Error>, access: Access) -> Result<T, Error> {
        let Err(error) = &mut done else { return done };
        note_cancelled(error, &self.metrics);
        let access = match self.transaction {
            Transaction::Open(access) => access,
            _ => access,
        };
        if access == Access::ReadWrite {
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

    /// The prepared statement, which is not run.
    fn prepared(&mut self, sql: &str, access: Access) -> Result<Arc<Prepared>, Error> {
        if let Some(prepared) = self.statements.known(sql) {
            return Ok(Arc::clone(prepared));
        }
        self.with_prepared(sql, access, Effect::Reads, &mut OnlyPrepared)
    }

    /// Runs `work` with the prepared statement, and again when what the session remembers of the statement no longer holds.
    fn with_prepared<W: Work>(
        &mut self,
        sql: &str,
        access: Access,
        effect: Effect,
        work: &mut W,
    ) -> Result<W::Output, Error> {
        let activity = self.activity.clone();
        let waiting = activity.wait_for(Doing::Database).on(|| super::command(sql));
        let before = self.transaction;
        let remembered = self.statements.known(sql).cloned();
        let mut done = self.attempt(sql, access, effect, work);
        for _ in 1..ATTEMPTS_MAX {
            let Err(error) = &done else { break };
            if self.wire.has_begun() {
                // Some of it may be done.
                break;
            }
            if self.wire.is_pooled && error.code() == Some(NO_STATEMENT) {
                // Nobody else can have deallocated it, so this is another of the pooler's sessions. The next one to be opened tells.
                self.wire.close();
                done = Err(Error::Lost("the pooler has given it another session of the server".to_owned()));
                break;
            }
            let can_help = if is_stale(error) {
                self.settings.note_schema_change();
                self.forget_statements();
                self.can_run_again(before)
            } else if let Some(remembered) = remembered.as_ref().filter(|_| may_be_stale(error)) {
                self.statements.forget_one(sql);
                self.types.forget();
                self.can_run_again(before) && self.is_other_now(sql, remembered)
            } else {
                false
            };
            if !can_help {
                break;
            }
            done = self.attempt(sql, access, effect, work);
        }
        if done.is_err() && matches!(self.transaction, Transaction::Open(_)) {
            self.transaction = Transaction::Failed;
        }
        waiting.end(done, Error::kind)
    }

    /// Whether nothing is left of an attempt that failed, in a transaction that was in this state when it began.
    fn can_run_again(&mut self, before: Transaction) -> bool {
        match before {
            Transaction::None => true,
            Transaction::Pending(_) => {
                let is_undone = self.rollback().is_ok();
                self.transaction = before;
                is_undone
            }
            Transaction::Open(_) | Transaction::Failed => false,
        }
    }

    /// Prepares a statement anew. Returns whether it has other parameters or columns than it had.
    fn is_other_now(&mut self, sql: &str, remembered: &Prepared) -> bool {
        let access = self.known_access().unwrap_or(Access::ReadOnly);
        let prepared = self.attempt(sql, access, Effect::Reads, &mut OnlyPrepared);
        let is_other = prepared.is_ok_and(|prepared| !prepared.is_like(remembered));
        if is_other {
            self.settings.note_schema_change();
        }
        is_other
    }

    fn attempt<W: Work>(
        &mut self,
        sql: &str,
        access: Access,
        effect: Effect,
        work: &mut W,
    ) -> Result<W::Output, Error> {
        if self.wire.has_leftovers() {
            self.wipe()?;
        }
        let commits_itself = W::RUNS && self.transaction == Transaction::None && effect.may_write();
        if commits_itself {
            self.refuse_closed()?;
        }
        self.wire.begin_batch();
        self.wire.take_refusal();
        self.put_deferred(access)?;
        let switch = self.command_before(access);
        let mut asked = Asked { switch, commits_itself, ..Asked::default() };
        let limit = self.limit.clone();
        let done = match self.wire.begin(&limit, None) {
            Ok(mut wait) => {
                let mut done = self.ask(sql, work, &mut asked, &mut wait);
                if let Some(refusal) = self.wire.take_refusal() {
                    done = Err(self.refused_before(&refusal, &mut asked, done.is_err(), effect, &mut wait));
                }
                let is_run = !matches!(done, Err(Failure::NotRun(_)));
                let done = self.wire.conclude(wait, done, asked.is_commit && is_run);
                match asked.is_commit {
                    true if is_run => end_commit(&limit.client, &done, effect),
                    true => limit.client.end_commit(false),
                    false => {}
                }
                done
            }
            Err(error) => Err(error),
        };
        // An error may have left the rest of an answer unread.
        self.wire.settle();
        if done.is_err() && self.wire.has_leftovers() && !self.wire.is_broken() {
            return self.attempt(sql, access, effect, work);
        }
        if asked.is_run() && asked.is_harmful {
            self.untidy.is_touched = true;
            self.untidy.may_have_leftovers |= !effects::writes_rows(sql);
            self.access = None;
        }
        if switch.is_some_and(|switch| switch.begins) {
            return self.note(done, access);
        }
        if asked.is_switched() && !asked.is_harmful && done.is_ok() {
            self.access = Some(access);
        }
        let done = self.note(done, access);
        if asked.is_switched() && done.is_err() {
            // Whether it was switched is not known.
            self.access = None;
        }
        done
    }

    /// Has the statement prepared, if it is not, and run.
    fn ask<W: Work>(
        &mut self,
        sql: &str,
        work: &mut W,
        asked: &mut Asked,
        wait: &mut Wait<'_>,
    ) -> Result<W::Output, Failure> {
        let Self { wire, effects, statements, types, request, untidy, limit, transaction, access, .. } = self;
        if let Some(switch) = asked.switch {
            switch.put(wire)?;
        }
        let prepared = if let Some(prepared) = statements.known(sql) {
            Arc::clone(prepared)
        } else {
            let name = statements.ask(sql, wire)?;
            asked.sent = Sent::Preparation;
            if let Some(switch) = asked.switch {
                switch.note(transaction, access);
            }
            wire.send(wait)?;
            let prepared = statements.learn(name, sql, effects.of(sql), types, wire, wait)?;
            if let Some(refusal) = wire.take_refusal() {
                // It was not run, and is not to be.
                return Err(refusal_of(asked.switch, &refusal).into());
            }
            wire.begin_batch();
            prepared
        };
        work.put(&prepared, request, wire)?;
        if W::RUNS {
            if asked.commits_itself {
                begin_commit(&limit.client)?;
                asked.is_commit = true;
            }
            asked.is_harmful = !prepared.effects.are_none();
            look_at(sql, &prepared, &mut untidy.looks);
            asked.sent = Sent::Runs;
            if let Some(switch) = asked.switch {
                switch.note(transaction, access);
            }
        }
        wire.send(wait)?;
        let done = work.read(&prepared, types, wire, wait);
        if work.is_of_other_columns() {
            // The server has not refused what was sent in its place.
            statements.forget_one(sql);
        }
        done
    }

    /// The command before the statement was refused.
    fn refused_before(
        &mut self,
        refusal: &Error,
        asked: &mut Asked,
        statement_failed: bool,
        effect: Effect,
        wait: &mut Wait<'_>,
    ) -> Failure {
        let error = refusal_of(asked.switch, refusal);
        let begins = asked.switch.is_some_and(|switch| switch.begins);
        if begins || statement_failed || is_read_only(&error) && is_standby(&mut self.wire, wait) {
            return error.into();
        }
        // The command failed, as by a cancel that hit it instead of the statement, which ran all the same.
        asked.is_commit |= effect.may_write() && self.limit.client.begin_commit();
        let command = asked.switch.map_or("", |switch| switch.text);
        Failure::Lost(Error::Lost(format!("{error}, at {command}, and what came behind it was run")))
    }

    /// What goes before a statement: BEGIN, if that is due, or what makes single statements run with `access`, when they
    /// do not yet.
    fn command_before(&self, access: Access) -> Option<Switch> {
        match self.transaction {
            Transaction::Pending(access) => Some(Switch { text: begin_text(access), access, begins: true }),
            Transaction::None if self.known_access() != Some(access) => Some(Switch {
                text: match access {
                    Access::ReadOnly => "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                    Access::ReadWrite => "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
                },
                access,
                begins: false,
            }),
            _ => None,
        }
    }
}

/// Announces a commit. Fails where the client was told already that nothing was done.
fn begin_commit(client: &Presence) -> Result<(), Error> {
    if client.begin_commit() { Ok(()) } else { Err(Error::Deadline) }
}

/// Says how the commit ended that [`begin_commit`] announced. Without an answer from the database the outcome stays open.
fn end_commit<T>(client: &Presence, done: &Result<T, Error>, effect: Effect) {
    match done {
        Ok(_) => client.end_commit(true),
        Err(error) if effect.is_undone(error) => client.end_commit(false),
        Err(_) => {}
    }
}

/// A command that says what the statement behind it may do.
#[derive(Clone, Copy)]
struct Switch {
    text: &'static str,
    access: Access,
    /// It begins a transaction. Where it fails, nothing behind it is run.
    begins: bool,
}

impl Switch {
    /// Puts it into the batch, before the statement.
    fn put(self, wire: &mut Wire) -> Result<(), Error> {
        if self.begins {
            return wire.add_begin(self.text);
        }
        wire.add_query(self.text)?;
        wire.add_errand(wire::Kind::Command, 1);
        Ok(())
    }
}

impl Switch {
    /// Notes that the command is about to be sent, so that a panic or a deadline in between leaves the session's state true: a
    /// transaction that may have begun is rolled back, and an access that may have changed is not relied on.
    fn note(self, transaction: &mut Transaction, access: &mut Option<Access>) {
        if self.begins {
            *transaction = Transaction::Open(self.access);
        } else {
            *access = None;
        }
    }
}

/// Adds a statement to those of which the planner is to be asked, if it is time for that.
fn look_at(sql: &str, prepared: &Arc<Prepared>, looks: &mut Vec<(Box<str>, Arc<Prepared>)>) {
    /// Questions for one checkin. All messages have to fit into the socket's buffer.
    const MAX: usize = 8;
    let is_there = looks.iter().any(|(_, known)| Arc::ptr_eq(&known.effects, &prepared.effects));
    if !is_there && looks.len() < MAX && prepared.effects.want_a_look() {
        looks.push((sql.into(), Arc::clone(prepared)));
    }
}

/// Why a command was refused that stands before a statement.
fn refusal_of(switch: Option<Switch>, refusal: &Error) -> Error {
    let mut error = match refusal {
        Error::Refused(refusal) => Error::Refused(refusal.clone()),
        other => Error::Lost(other.to_string()),
    };
    if switch.is_some_and(|switch| switch.access == Access::ReadWrite) {
        take_for_read_only(&mut error, &[READ_ONLY, NOT_SUPPORTED]);
    }
    error
}

/// The messages that were sent for a statement.
#[derive(Default)]
struct Asked {
    /// The command before it.
    switch: Option<Switch>,
    sent: Sent,
    /// It may have changed the session.
    is_harmful: bool,
    /// It is to commit by itself.
    commits_itself: bool,
    /// The messages that were sent may have committed something.
    is_commit: bool,
}

/// How much of it was sent.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Sent {
    #[default]
    Nothing,
    /// The command before the statement, and its preparation.
    Preparation,
    /// The statement's runs.
    Runs,
}

impl Asked {
    fn is_switched(&self) -> bool {
        self.switch.is_some() && self.sent != Sent::Nothing
    }

    fn is_run(&self) -> bool {
        self.sent == Sent::Runs
    }
}

/// A use of a prepared statement.
trait Work {
    /// The result.
    type Output;

    /// Whether the statement is run.
    const RUNS: bool;

    /// Puts its runs into the batch.
    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error>;

    /// Reads their answers.
    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        types: &Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
    ) -> Result<Self::Output, Failure>;

    /// Whether it was run as another text, and had other columns then.
    fn is_of_other_columns(&self) -> bool {
        false
    }
}

/// It is prepared, and that is all.
struct OnlyPrepared;

impl Work for OnlyPrepared {
    type Output = Arc<Prepared>;

    const RUNS: bool = false;

    fn put(&mut self, _: &Prepared, _: &Comment, _: &mut Wire) -> Result<(), Error> {
        Ok(())
    }

    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        _: &Types,
        _: &mut Wire,
        _: &mut Wait<'_>,
    ) -> Result<Arc<Prepared>, Failure> {
        Ok(Arc::clone(prepared))
    }
}

/// A handler's runs of a statement, all of which are sent together.
struct Runs<'a> {
    sql: &'a str,
    parameters: &'a [&'a Parameters<'a>],
    rows_wanted: bool,
    rows: Vec<Row>,
    count: u64,
    is_of_other_columns: bool,
}

impl<'a> Runs<'a> {
    fn of(sql: &'a str, parameters: &'a [&'a Parameters<'a>]) -> Self {
        Self { sql, parameters, rows_wanted: true, rows: Vec::new(), count: 0, is_of_other_columns: false }
    }
}

impl Work for Runs<'_> {
    type Output = ();

    const RUNS: bool = true;

    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error> {
        let named = prepared.text_for(self.sql, request);
        let mut runs = self.parameters.iter();
        runs.try_for_each(|parameters| prepared.run(named.as_deref(), parameters.iter().copied(), wire))
    }

    /// All answers come, and the first error is told.
    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        types: &Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
    ) -> Result<(), Failure> {
        (self.count, self.is_of_other_columns) = (0, false);
        self.rows.clear();
        let mut failed = None;
        for (index, _) in self.parameters.iter().enumerate() {
            // Some of an answer may be of no use, where a column has no type that is known.
            wire.skip_to(self.parameters.len() - index, wait)?;
            let mut reader = RowReader {
                types,
                rows: self.rows_wanted.then_some(&mut self.rows),
                is_of_other_columns: &mut self.is_of_other_columns,
            };
            match Coming::default().read(wire, wait, prepared, self.sql, &mut reader) {
                Ok(count) => self.count += count,
                Err(Failure::Known(error)) if !wire.is_broken() => _ = failed.get_or_insert(error),
                Err(lost) => return Err(lost),
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn is_of_other_columns(&self) -> bool {
        self.is_of_other_columns
    }
}

/// Keeps rows, if they are wanted.
struct RowReader<'a> {
    types: &'a Types,
    rows: Option<&'a mut Vec<Row>>,
    is_of_other_columns: &'a mut bool,
}

impl Reader for RowReader<'_> {
    fn row(&mut self, prepared: &Arc<Prepared>, fields: &[u8]) -> Result<(), Error> {
        if let Some(rows) = &mut self.rows {
            rows.push(Row::new(prepared, fields));
        }
        Ok(())
    }

    fn described(&mut self, prepared: &Arc<Prepared>, columns: &[Described]) -> Result<Arc<Prepared>, Error> {
        described(prepared, columns, self.types, self.is_of_other_columns)
    }
}

/// A statement as it was prepared, or with the columns that it has now.
fn described(
    prepared: &Arc<Prepared>,
    columns: &[Described],
    types: &Types,
    is_of_other_columns: &mut bool,
) -> Result<Arc<Prepared>, Error> {
    if prepared.has(columns) {
        return Ok(Arc::clone(prepared));
    }
    *is_of_other_columns = true;
    Ok(Arc::new(prepared.with_columns(columns_of(columns, types)?)))
}

/// An endpoint's run of its statement, whose rows are written at once.
struct Written<'a, 'r> {
    statement: &'a Statement,
    values: &'a [Value],
    rows: &'a mut RowWriter<'r>,
    is_of_other_columns: bool,
}

impl Work for Written<'_, '_> {
    type Output = u64;

    const RUNS: bool = true;

    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error> {
        let Self { statement, values, .. } = self;
        checked(prepared, statement, values)?;
        let named = statement.text_for(request).or_else(|| prepared.text_if_open(&statement.text));
        let bound = statement.bound.iter().map(|bound| bind::Parameter(&values[bound.index]));
        prepared.run(named.as_deref(), bound, wire)
    }

    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        types: &Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
    ) -> Result<u64, Failure> {
        self.rows.restart();
        self.is_of_other_columns = false;
        let Self { statement, rows, is_of_other_columns, .. } = self;
        let mut writer = Writer { types, rows, is_of_other_columns };
        let count = Coming::default().read(wire, wait, prepared, &statement.text, &mut writer)?;
        Ok(if prepared.plan.is_empty() { count } else { rows.rows() })
    }

    fn is_of_other_columns(&self) -> bool {
        self.is_of_other_columns
    }
}

struct Writer<'a, 'r> {
    types: &'a Types,
    rows: &'a mut RowWriter<'r>,
    is_of_other_columns: &'a mut bool,
}

impl Reader for Writer<'_, '_> {
    fn row(&mut self, prepared: &Arc<Prepared>, fields: &[u8]) -> Result<(), Error> {
        write_row(prepared, fields, self.rows)
    }

    fn described(&mut self, prepared: &Arc<Prepared>, columns: &[Described]) -> Result<Arc<Prepared>, Error> {
        described(prepared, columns, self.types, self.is_of_other_columns)
    }
}

/// Refuses what cannot be sent, or whose rows have no form in JSON, before anything is sent.
fn checked(prepared: &Prepared, statement: &Statement, values: &[Value]) -> Result<(), Error> {
    for (bound, kind) in statement.bound.iter().zip(&prepared.params) {
        bind::check(bound, &values[bound.index], kind)?;
    }
    prepared.unsupported().map_or(Ok(()), |index| Err(prepared.refusal_of(index)))
}

fn write_row(prepared: &Prepared, fields: &[u8], rows: &mut RowWriter<'_>) -> Result<(), Error> {
    let (plan, mut fields) = (&prepared.plan, Fields(fields));
    // One after the other, from the first on.
    rows.row(plan.iter().map(|column| &*column.key), |index, out| {
        let encoder = plan.get(index).and_then(|column| column.encoder.as_ref());
        let written = fields.next().zip(encoder).map(|(field, encoder)| encoder.write(out, field));
        written.and_then(Result::ok).ok_or_else(|| {
            let (column, type_name) = prepared.column(index);
            Error::Malformed { column, type_name }
        })
    })
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
        Access::ReadWrite => "BEGIN READ WRITE",
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
fn is_standby(wire: &mut Wire, wait: &mut Wait<'_>) -> bool {
    let answer = simple::ask(wire, "select pg_catalog.pg_is_in_recovery()", wait);
    answer.is_ok_and(|rows| {
        rows.iter().any(|row| row.first().is_some_and(|value| value.as_deref() == Some("t")))
    })
}

/// "cached plan must not change result type" after an ALTER, and a statement that someone deallocated.
fn is_stale(error: &Error) -> bool {
    match error.code() {
        // Functions may fail with this code as well.
        Some(NOT_SUPPORTED) => error.is_retryable(),
        code => code == Some(NO_STATEMENT),
    }
}

/// Whether a statement that was prepared before an ALTER can fail so and would not if it were prepared now: its parameters
/// keep the types that they were taken for then. It is asked only where the server has not begun to run anything.
fn may_be_stale(error: &Error) -> bool {
    /// A value that is none of its type, or out of its range, and a type that is gone.
    const CODES: [&str; 6] = ["22003", "22007", "22008", "22P02", "22P03", "XX000"];
    /// `insufficient_privilege`, the one of class 42 that has nothing to do with types.
    const PRIVILEGE: &str = "42501";
    match error {
        Error::BadValue { .. } | Error::UnsupportedType { .. } | Error::Usage(_) => true,
        Error::Refused(refusal) => {
            let code = refusal.code.as_str();
            CODES.contains(&code) || code.starts_with("42") && code != PRIVILEGE
        }
        _ => false,
    }
}

fn describe(statement: &Statement, prepared: &Prepared) -> Description {
    let columns = prepared.columns.iter();
    let columns = columns.map(|column| ColumnDescription {
        name: column.name().to_owned(),
        type_name: type_name(column.type_()),
    });
    let unsupported = (0..prepared.plan.len()).filter(|index| prepared.plan[*index].encoder.is_none());
    let unsupported = unsupported.map(|index| prepared.refusal_of(index).to_string());
    let kinds = statement.bound.iter().zip(&prepared.params);
    let mismatches = kinds.filter_map(|(bound, kind)| bind::mismatch(bound, kind));
    Description { columns: columns.collect(), problems: unsupported.chain(mismatches).collect() }
}

fn type_name(kind: &Type) -> String {
    match kind.kind() {
        Kind::Array(item) => format!("{item}[]"),
        _ => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Refusal;
    use super::*;

    fn refused(code: &str) -> Error {
        refused_as(Category::of_sqlstate(code), code)
    }

    fn refused_as(category: Category, code: &str) -> Error {
        Error::Refused(Box::new(Refusal::new(category, code, "")))
    }

    #[test]
    fn a_query_is_taken_to_read_by_its_first_word() {
        for (sql, effect) in [
            ("select 1", Effect::Reads),
            ("-- all\n VALUES (1)", Effect::Reads),
            ("insert into t values (1) returning a", Effect::MayWrite),
            ("with x as (delete from t returning a) select a from x", Effect::MayWrite),
            ("call halves()", Effect::MayWriteParts),
        ] {
            assert_eq!(Effect::of_query(sql), effect, "{sql}");
        }
    }

    #[test]
    fn only_the_servers_own_word_about_a_whole_statement_says_that_it_was_undone() {
        for (effect, error, undone) in [
            (Effect::MayWrite, refused("23505"), true),
            (Effect::MayWrite, Error::Deadline, true),
            (Effect::MayWrite, refused("08P01"), false),
            (Effect::MayWrite, Error::Lost(String::new()), false),
            (Effect::MayWrite.times(2), refused("23505"), false),
            (Effect::of_write("call p()"), Error::Deadline, false),
        ] {
            assert_eq!(effect.is_undone(&error), undone, "{effect:?}: {error:?}");
        }
    }

    #[test]
    fn what_a_standby_refuses_is_no_stale_plan() {
        let mut error = refused_as(Category::Retry, NOT_SUPPORTED);
        assert!(is_stale(&error) && is_stale(&refused_as(Category::Other, "26000")));
        assert!(!is_stale(&refused_as(Category::Other, NOT_SUPPORTED)), "a function may raise it");
        take_for_read_only(&mut error, &[READ_ONLY]);
        assert!(is_stale(&error), "that code says it of some commands only");
        take_for_read_only(&mut error, &[READ_ONLY, NOT_SUPPORTED]);
        assert!(!is_stale(&error));
        assert_eq!(error.status(), 503);
    }
}
