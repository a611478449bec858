//! One open session: its state, the statements of handlers in Rust, and its checkout and checkin.
//!
//! Owns [`Session`] and implements a database session's interface for it. Runs on the worker that borrowed the session;
//! nothing reads a session while it is idle. The parts stand below:
//!
//! - [`run`] sends a statement and reads its answer.
//! - [`work`] has the uses of a statement.
//! - [`transaction`] begins and ends transactions.
//! - [`outcome`] says what was committed.
//! - [`pipeline`] shares a round trip.
//! - [`privileges`] asks for the user's privileges.

mod outcome;
mod pipeline;
mod privileges;
mod run;
mod transaction;
mod work;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use self::outcome::Commits;
use self::transaction::Transaction;
use self::work::{EndpointRun, HandlerRuns};
use super::bind;
use super::cleaning::{self, Untidy};
use super::effects::SessionEffects;
use super::prepared::Prepared;
use super::row::{Parameters, Row};
use super::simple;
use super::statements::Statements;
use super::text::first_word;
use super::types::Types;
use super::wire::{Limit, Wire};
use crate::base::deadline::Deadline;
use crate::base::value::{self, Value};
use crate::database::comment::Comment;
use crate::database::driver::{self, Borrower, RoundTrip};
use crate::database::pool::{self, Session as _};
use crate::database::settings::Settings;
use crate::database::{Access, Column, Description, Error, Kind, RowWriter, Statement};
use crate::telemetry::activity::Activity;
use crate::telemetry::metrics;

/// An open session. Handlers in Rust run their statements on it. Each statement is prepared once and kept, and ends by
/// the deadline of the connection's checkout. A comment stands behind its text only if `database.statement_comment`
/// asks for it and the connection [names the request](crate::database::Connection::name_request).
pub struct Session {
    wire: Wire,
    settings: Arc<Settings>,
    effects: Arc<SessionEffects>,
    /// SQL that sets the settings of a new session again.
    initial_settings: Box<str>,
    /// `settings.schema_changes()` at the time when the oldest statement was prepared, or earlier.
    schema_changes: u64,
    statements: Statements,
    types: Types,
    /// The default access of the session's transactions; `None`: not known.
    access: Option<Access>,
    transaction: Transaction,
    limit: Limit,
    /// Names the request for which the session is borrowed, if statements must name it.
    request: Comment,
    /// The account for the waits, and the counters of the pool.
    activity: Activity,
    metrics: Arc<metrics::Pool>,
    /// The work that this borrow leaves for the checkin.
    untidy: Untidy,
    /// The unsent work of earlier borrows. It is sent before the next statement.
    deferred: Option<Untidy>,
    /// The work in a batch that was not sent yet.
    departing: Option<Untidy>,
}

impl Session {
    pub(super) fn new(
        wire: Wire,
        settings: &Arc<Settings>,
        effects: &Arc<SessionEffects>,
        initial_settings: Box<str>,
        limit: Limit,
    ) -> Self {
        Self {
            wire,
            settings: Arc::clone(settings),
            effects: Arc::clone(effects),
            initial_settings,
            schema_changes: settings.schema_changes(),
            statements: Statements::default(),
            types: Types::default(),
            access: None,
            transaction: Transaction::None,
            limit,
            request: Comment::default(),
            activity: Activity::default(),
            metrics: Arc::default(),
            untidy: Untidy::default(),
            deferred: None,
            departing: None,
        }
    }

    /// All rows of a statement.
    ///
    /// Outside a transaction, every statement of a request whose method may change something, such as POST, counts as
    /// having committed something. A `select` counts as well, because it may call a function that writes. A later 504
    /// or 503 of that request is then an unknown outcome. To avoid that, run a reading statement in a transaction with
    /// [`Access::ReadOnly`].
    ///
    /// # Errors
    /// [`Error::Deadline`], and any error of the database.
    pub fn query(&mut self, sql: &str, parameters: &Parameters<'_>) -> Result<Vec<Row>, Error> {
        self.rows(sql, parameters, Access::ReadWrite, self.commits_of_query(sql))
    }

    /// All rows of a statement that is only allowed to read.
    pub(crate) fn read(&mut self, sql: &str, parameters: &Parameters<'_>) -> Result<Vec<Row>, Error> {
        // CALL and DO may end the read-only transaction, and begin one that writes.
        if ["call", "do"].iter().any(|word| first_word(sql).eq_ignore_ascii_case(word)) {
            return Err(Error::Usage(format!("{} does not only read", first_word(sql))));
        }
        self.rows(sql, parameters, Access::ReadOnly, Commits::Nothing)
    }

    /// The commits of a query. If the request's method is safe (RFC 9110 section 9.2.1), or there is no request, the
    /// query's text decides whether it only reads. A query of any other request may call a function that writes.
    fn commits_of_query(&self, sql: &str) -> Commits {
        if self.limit.client.is_safe() { Commits::of_query(sql) } else { Commits::of_write(sql) }
    }

    fn rows(
        &mut self,
        sql: &str,
        parameters: &Parameters<'_>,
        access: Access,
        commits: Commits,
    ) -> Result<Vec<Row>, Error> {
        let runs = [parameters];
        let mut runs = HandlerRuns::of(sql, &runs);
        self.with_prepared(sql, access, commits, &mut runs)?;
        Ok(runs.rows)
    }

    /// The one row of a statement.
    ///
    /// # Errors
    /// As [`Session::query`]; [`Error::RowCount`] when the number of rows is not one.
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

    /// Runs a statement. Returns the number of changed rows.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub fn execute(&mut self, sql: &str, parameters: &Parameters<'_>) -> Result<u64, Error> {
        self.execute_each(sql, &[parameters])
    }

    /// Runs one statement many times, with all runs sent together: as many round trips as for one run. Returns the rows
    /// of all runs, in their order. Outside a transaction each run stands by itself: the runs before and after a failed
    /// one stay.
    ///
    /// # Errors
    /// As [`Session::query`], from the first failed run.
    pub fn query_each(&mut self, sql: &str, runs: &[&Parameters<'_>]) -> Result<Vec<Row>, Error> {
        let mut runs = HandlerRuns::of(sql, runs);
        let commits = self.commits_of_query(sql).times(runs.parameters.len());
        self.with_prepared(sql, Access::ReadWrite, commits, &mut runs)?;
        Ok(runs.rows)
    }

    /// Runs one statement many times, with all runs sent together. Returns the number of changed rows. Failures are as
    /// with [`Session::query_each`].
    ///
    /// # Errors
    /// As [`Session::query_each`].
    pub fn execute_each(&mut self, sql: &str, runs: &[&Parameters<'_>]) -> Result<u64, Error> {
        let mut runs = HandlerRuns::of(sql, runs).without_rows();
        let commits = Commits::of_write(sql).times(runs.parameters.len());
        self.with_prepared(sql, Access::ReadWrite, commits, &mut runs)?;
        Ok(runs.count)
    }

    /// Runs `work` in a transaction. Commits it if `work` returns `Ok`, otherwise rolls it back.
    ///
    /// # Errors
    /// The error of `work`, or of BEGIN or COMMIT.
    pub fn transaction<T, E: From<Error>>(
        &mut self,
        access: Access,
        work: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.begin_transaction(access)?;
        match work(self) {
            Ok(done) => {
                self.commit_transaction()?;
                Ok(done)
            }
            Err(error) => {
                if let Err(lost) = self.roll_back() {
                    log::warn!("{lost}, while rolling back");
                }
                Err(error)
            }
        }
    }

    fn forget_statements(&mut self) {
        self.statements.forget();
        self.types.forget();
    }

    /// Puts the deferred work into the batch. If that cleans the session, its transactions have this access afterwards.
    /// With `keeps_numbers`, the next statement cannot read the last numbers of sequences. The caller notes when the
    /// batch is [sent](Session::note_departed).
    fn put_deferred(&mut self, access: Access, keeps_numbers: bool) -> Result<(), Error> {
        self.defer_unsent();
        if self.deferred.as_ref().is_none_or(|untidy| keeps_numbers && untidy.is_only_numbers()) {
            return Ok(());
        }
        let untidy = self.deferred.take().unwrap_or_default();
        let cleaning =
            if untidy.cleans() { self.cleaning(access, untidy.looks_for_leftovers()) } else { String::new() };
        let put = untidy.put(&cleaning, &mut self.wire);
        self.departing = Some(untidy);
        put
    }

    /// Notes the fate of the deferred work in a batch: whether the wire has sent anything since `sends`.
    fn note_departed(&mut self, sends: u64) {
        if self.wire.sends != sends {
            self.departing = None;
        }
    }

    /// Defers work that was put into a batch and not sent, for example because the request's deadline had passed.
    fn defer_unsent(&mut self) {
        if let Some(unsent) = self.departing.take() {
            self.access = None;
            self.deferred.get_or_insert_default().add(unsent);
        }
    }

    fn cleaning(&mut self, access: Access, looks_for_leftovers: bool) -> String {
        self.access = Some(access);
        cleaning::cleaning(
            access,
            looks_for_leftovers,
            &self.initial_settings,
            self.settings.init_sql().as_deref(),
        )
    }

    /// Removes the statements that the cleaning has found. Nothing was run on the session since the cleaning.
    fn wipe(&mut self) -> Result<(), Error> {
        let limit = self.limit.clone();
        self.statements.clear();
        self.wire.note_wiped();
        let access = self.known_access().unwrap_or(Access::ReadWrite);
        let cleaning = self.cleaning(access, false);
        for sql in ["rollback", "deallocate all", &cleaning] {
            simple::run(&mut self.wire, sql, &limit).inspect_err(|_| self.wire.close())?;
        }
        Ok(())
    }

    /// Whether the server has kept the connection open while it was idle. Looks at the socket, sends nothing.
    fn is_open(&mut self) -> bool {
        if !self.wire.is_broken() && !matches!(self.wire.message_at_hand(), Ok(None)) {
            self.wire.close();
        }
        !self.wire.is_broken()
    }

    /// Refuses to send a commit to a server that has already closed the connection. Otherwise the commit's outcome
    /// would be unknown.
    fn refuse_closed(&mut self) -> Result<(), Error> {
        if self.wire.is_broken() || self.is_open() {
            return Ok(());
        }
        Err(Error::Lost("it was found closed before anything was sent".to_owned()))
    }

    fn known_access(&self) -> Option<Access> {
        self.wire.reported_access().or(self.access)
    }
}

impl pool::Session for Session {
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
        // Numbers that a sequence gave out wait for a statement that could read them.
        let has_work = self.deferred.as_ref().is_some_and(|untidy| !untidy.is_only_numbers());
        has_work && !self.wire.is_broken()
    }

    fn tidy(&mut self) {
        if !self.is_untidy() {
            return;
        }
        self.wire.begin_batch();
        let access = self.known_access().unwrap_or(Access::ReadWrite);
        match self.put_deferred(access, false) {
            Ok(()) => {
                self.wire.send_at_once();
                self.departing = None;
            }
            Err(error) => {
                log::warn!("{error}, while cleaning a session; the session is closed");
                self.wire.close();
            }
        }
    }

    fn is_clean(&mut self) -> bool {
        self.wire.has_no_errands() || self.is_open() && !self.wire.has_leftovers()
    }
}

impl driver::Session for Session {
    fn kind(&self) -> Kind {
        Kind::Postgres
    }

    fn borrow(&mut self, borrower: &Borrower<'_>) {
        self.activity.clone_from(borrower.activity);
        self.metrics.clone_from(borrower.metrics);
        let statement = self.settings.statement_timeout();
        self.limit = Limit { client: borrower.client.clone(), deadline: borrower.deadline, statement };
        self.statements.max = self.settings.max_prepared_statements();
        let schema_changes = self.settings.schema_changes();
        if self.schema_changes != schema_changes {
            self.schema_changes = schema_changes;
            self.forget_statements();
        }
    }

    fn describe(&mut self, statement: &Statement) -> Result<Description, Error> {
        let prepared = self.prepared(&statement.text, Access::ReadOnly);
        let described = prepared.map(|prepared| describe(statement, &prepared));
        described.map_err(|error| statement.before_comment(error))
    }

    fn missing_privilege(&mut self, statement: &Statement) -> Result<Option<String>, Error> {
        self.find_missing_privilege(statement)
    }

    fn cast_against(&self, error: &Error, declared: value::Type) -> Option<String> {
        /// `ambiguous_parameter` and `indeterminate_datatype`: the type of a parameter before `is null` is open. This
        /// is the first trap on PostgreSQL.
        const UNTYPED: [&str; 2] = ["42P08", "42P18"];
        error.code().is_some_and(|code| UNTYPED.contains(&code)).then(|| bind::names(declared).1)
    }

    fn begin(&mut self, access: Access, deadline: Deadline) -> Result<(), Error> {
        self.limit.deadline = deadline;
        self.begin_transaction(access)
    }

    fn defers_begin(&self) -> bool {
        true
    }

    fn commit(&mut self, deadline: Deadline) -> Result<(), Error> {
        self.limit.deadline = deadline;
        self.commit_transaction()
    }

    fn rollback(&mut self) -> Result<(), Error> {
        self.roll_back()
    }

    fn run(
        &mut self,
        statement: &Statement,
        values: &[Value],
        access: Access,
        deadline: Deadline,
        rows: &mut RowWriter<'_>,
    ) -> Result<u64, Error> {
        self.limit.deadline = deadline;
        let mut run = EndpointRun { statement, values, rows, has_other_columns: false };
        let commits = Commits::of_access(access, &statement.text);
        let ran = self.with_prepared(&statement.text, access, commits, &mut run);
        ran.map_err(|error| statement.before_comment(error))
    }

    fn can_share(&self, sql: &str) -> bool {
        self.statements.known(sql).is_some_and(|prepared| prepared.effect.is_none())
    }

    fn distance(&self) -> Duration {
        self.wire.distance()
    }

    fn note_round_trip(&mut self, took: Duration) {
        self.wire.note_round_trip(took);
    }

    fn share(&mut self) -> Result<Box<dyn RoundTrip + '_>, Error> {
        Ok(Box::new(self.pipeline()?))
    }

    fn names_requests(&self) -> bool {
        self.settings.names_requests()
    }

    fn name_request(&mut self, request_id: &str, traceparent: &str) {
        if self.settings.names_requests() {
            self.request = Comment::new([("request_id", request_id), ("traceparent", traceparent)]);
        }
    }

    /// Makes the session clean for the next request, or closes it.
    fn finish(&mut self) {
        if let Err(error) = self.roll_back() {
            log::warn!("{error}, while rolling back; the session is closed");
        }
        let is_workers = mem::take(&mut self.limit.client).is_tracked();
        self.request = Comment::default();
        // A panic in a handler's code may leave a part of an answer.
        self.wire.settle();
        if self.wire.is_in_transaction() {
            self.wire.close();
        }
        self.wire.shrink();
        self.defer_unsent();
        let untidy = mem::take(&mut self.untidy);
        if !untidy.is_empty() {
            self.deferred.get_or_insert_default().add(untidy);
        }
        // A worker with another job uses the session at once. A worker without one tidies it.
        if !is_workers {
            self.tidy();
        }
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

fn describe(statement: &Statement, prepared: &Prepared) -> Description {
    let columns = prepared.columns.iter();
    let columns =
        columns.map(|column| Column { name: column.name().to_owned(), type_name: column.type_name() });
    let unsupported = (0..prepared.plan.len()).filter(|index| prepared.plan[*index].encoder.is_none());
    let unsupported = unsupported.map(|index| prepared.refusal_of(index).to_string());
    let kinds = statement.bound.iter().zip(&prepared.params);
    let mismatches = kinds.filter_map(|(bound, kind)| bind::mismatch(bound, kind));
    Description { columns: columns.collect(), problems: unsupported.chain(mismatches).collect() }
}
