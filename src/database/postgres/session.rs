//! One open session: its state, the statements of handlers in Rust, and its checkout and checkin.
//!
//! Owns [`Session`] and implements a database session's interface for it. Runs on the worker that borrowed the session;
//! nothing reads a session while it is idle. The parts stand below:
//!
//! - [`run`] sends a statement and reads its answer.
//! - [`together`] sends the statements of a transaction together.
//! - [`work`] has the uses of a statement.
//! - [`transaction`] begins and ends transactions.
//! - [`pipeline`] shares a round trip.
//! - [`privileges`] asks for the user's privileges.

mod pipeline;
mod privileges;
mod run;
mod together;
mod transaction;
mod work;

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::transaction::Transaction;
use self::work::{Alone, EndpointRun, HandlerRuns, HandlerStep};
use super::bind;
use super::cleaning::{self, Untidy};
use super::effects::SessionEffects;
use super::prepared::Prepared;
use super::row::{Parameters, Row};
use super::simple;
use super::statements::Statements;
use super::step::{Step, StepError, StepResult};
use super::types::Types;
use super::wire::Wire;
use crate::base::deadline::Deadline;
use crate::base::value::{self, Value};
use crate::database::comment::Comment;
use crate::database::driver::{self, Borrower, Note, RoundTrip, Steps, Together};
use crate::database::limit::Limit;
use crate::database::outcome::Commits;
use crate::database::pool::{self, Session as _};
use crate::database::settings::Settings;
use crate::database::statement::first_word;
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
    /// Whether the reading statements of several requests may be one transaction. A serializable transaction may fail at its end,
    /// after its first answers were given, and then these were not valid.
    pub(super) reads_join_transactions: bool,
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
            reads_join_transactions: false,
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

    /// Runs one statement many times in one transaction: all runs, or none. The runs are sent together, and the server answers them
    /// in one piece. Returns the rows of all runs, in their order. Takes one round trip.
    ///
    /// # Errors
    /// As [`Session::query`], from the first failed run. The other runs are undone. [`Error::Usage`] for a command that may
    /// commit by itself, such as CALL.
    pub fn query_all(&mut self, sql: &str, runs: &[&Parameters<'_>]) -> Result<Vec<Row>, Error> {
        Ok(self.run_all(sql, HandlerRuns::of(sql, runs), self.commits_of_query(sql))?.rows)
    }

    /// As [`Session::query_all`]. Returns the number of changed rows.
    ///
    /// # Errors
    /// As [`Session::query_all`].
    pub fn execute_all(&mut self, sql: &str, runs: &[&Parameters<'_>]) -> Result<u64, Error> {
        Ok(self.run_all(sql, HandlerRuns::of(sql, runs).without_rows(), Commits::of_write(sql))?.count)
    }

    fn run_all<'a>(
        &mut self,
        sql: &str,
        runs: HandlerRuns<'a>,
        commits: Commits,
    ) -> Result<HandlerRuns<'a>, Error> {
        if Commits::of_write(sql) == Commits::InParts {
            return Err(Error::Usage(format!(
                "{} may commit by itself, so it is run alone",
                first_word(sql)
            )));
        }
        let mut runs = runs.in_one_part();
        self.with_prepared(sql, Access::ReadWrite, commits, &mut runs)?;
        Ok(runs)
    }

    /// Runs the steps as one transaction in two round trips: all steps together, then COMMIT, or ROLLBACK if a step fails or has
    /// an unexpected number of rows. The first such step is reported. Steps that depend on each other by their
    /// [expected rows](Step::expect_rows) alone need no more. In a transaction that is open already, the steps take one
    /// round trip and become a part of it.
    ///
    /// All steps are sent before the first has its answer. So a step may run although the number of rows of an earlier step is not
    /// the expected one; it is undone then. A session runs the steps one after the other when it meets one of them for
    /// the first time, or if one is CALL or DO.
    ///
    /// # Errors
    /// [`StepError`]. All steps are undone, unless the outcome of COMMIT is unknown.
    pub fn run_together(&mut self, steps: &[Step<'_>]) -> Result<Vec<StepResult>, StepError> {
        let begins = self.transaction == Transaction::None;
        if begins {
            self.begin_transaction(Access::ReadWrite)
                .map_err(|error| StepError::Database { step: None, error })?;
        }
        let done = self.steps(steps).and_then(|results| {
            if begins {
                self.commit_transaction().map_err(|error| StepError::Database { step: None, error })?;
            }
            Ok(results)
        });
        if done.is_err()
            && begins
            && let Err(lost) = self.roll_back()
        {
            log::warn!("{lost}, while rolling back");
        }
        done
    }

    fn steps(&mut self, steps: &[Step<'_>]) -> Result<Vec<StepResult>, StepError> {
        let mut runs: Vec<_> = steps.iter().map(|step| HandlerStep::new(step.sql, step.parameters)).collect();
        let (mut failed, mut counts, mut unexpected) = (None, Vec::with_capacity(steps.len()), None);
        let mut note = |index: usize, _, done: &Result<u64, Error>| {
            let Ok(count) = done else {
                failed = Some(index);
                return false;
            };
            // The steps may run a second time.
            counts.truncate(index);
            counts.push(*count);
            unexpected = steps[index].unexpected(index, *count);
            unexpected.is_none()
        };
        let ended = match self.together(&mut runs, &mut note) {
            Ok(Together::Apart) => self.apart(&mut runs, &mut note),
            ended => ended.map(drop),
        };
        ended.map_err(|error| StepError::Database { step: failed, error })?;
        if let Some(unexpected) = unexpected {
            return Err(unexpected);
        }
        Ok(runs.into_iter().zip(counts).map(|(run, count)| StepResult { rows: run.rows, count }).collect())
    }

    /// Runs the steps of the open transaction one after the other.
    fn apart(&mut self, runs: &mut [HandlerStep<'_>], note: &mut Note<'_>) -> Result<(), Error> {
        for (index, run) in runs.iter_mut().enumerate() {
            let began = Instant::now();
            let sql = run.sql;
            let ran = self.with_prepared(sql, Access::ReadWrite, Commits::of_write(sql), run);
            if !note(index, began.elapsed(), &ran) {
                self.fail_transaction();
                return ran.map(drop);
            }
        }
        Ok(())
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
        let mut run = EndpointRun::new(statement, values, Some(rows));
        let commits = Commits::of_access(access, &statement.text);
        let ran = self.with_prepared(&statement.text, access, commits, &mut run);
        ran.map_err(|error| statement.before_comment(error))
    }

    fn run_together(
        &mut self,
        steps: &Steps<'_>,
        rows: &mut RowWriter<'_>,
        note: &mut Note<'_>,
    ) -> Result<Together, Error> {
        let Steps { statements, values, deadline, .. } = *steps;
        self.limit.deadline = deadline;
        let runs = statements.iter().map(|statement| EndpointRun::new(statement, values, None));
        let mut runs: Vec<_> = runs.collect();
        if let Some(last) = runs.last_mut() {
            last.rows = Some(rows);
        }
        self.together(&mut runs, note)
    }

    fn run_alone(
        &mut self,
        statement: &Statement,
        values: &[Value],
        deadline: Deadline,
        needs_row: bool,
        rows: &mut RowWriter<'_>,
    ) -> Result<Option<u64>, Error> {
        // A statement with a comment about its request is sent as text, and may then have other columns.
        let is_text = statement.text_for(&self.request).is_some();
        let alone = Alone { bytes_max: rows.bytes_max(), needs_row };
        let known = self.statements.known(&statement.text);
        if is_text || !known.is_some_and(|prepared| alone.allows(prepared)) {
            return Ok(None);
        }
        self.limit.deadline = deadline;
        let mut run = EndpointRun::new(statement, values, Some(rows));
        run.alone = Some(alone);
        let commits = Commits::of_access(Access::ReadWrite, &statement.text);
        let ran = self.with_prepared(&statement.text, Access::ReadWrite, commits, &mut run);
        if run.needs_transaction {
            return Ok(None);
        }
        ran.map(Some).map_err(|error| statement.before_comment(error))
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
