//! One open session: its state, its checkout and its checkin.
//!
//! Owns [`Session`] and implements a database session's interface for it. Runs on the worker that borrowed the session; nothing reads
//! a session while it is idle. The parts stand below:
//!
//! - [`run`] sends a statement and reads its answer.
//! - [`pipeline`] sends the statements of several requests.
//! - [`together`] sends the steps of a transaction together.
//! - [`transaction`] begins and ends transactions.
//! - [`rows`] takes rows, and [`state`] says what the session may do.
//! - [`opening`] gives a session its settings, when it is opened and when it is reset.
//!
//! Outside a transaction that writes, a session only reads: that is its own default, so whatever fails, no statement of a GET can
//! write. A write is preceded by `start transaction read write`, or by `set transaction read write`, which holds for one statement. Only a
//! statement that commits halfway needs a session that writes.

mod opening;
mod pipeline;
mod rows;
mod run;
mod state;
mod together;
mod transaction;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use self::opening::Asked;
pub(super) use self::opening::open;
use self::rows::{NoRows, Sink};
use self::state::{Transaction, Writable};
use super::effects::Leaves;
use super::row::Row;
use super::statements::{Statements, other_count};
use super::wire::{Command, Wire};
use crate::base::deadline::Deadline;
use crate::base::value::Value;
use crate::database::driver::{self, Borrower, Note, RoundTrip, Steps, Together};
use crate::database::limit::Limit;
use crate::database::outcome::Commits;
use crate::database::pool;
use crate::database::settings::Settings;
use crate::database::statement::command;
use crate::database::{Access, Column, Description, Error, Kind, RowWriter, Statement};
use crate::telemetry::activity::{Activity, WorkerState};
use crate::telemetry::metrics;
use crate::telemetry::sparing::sparingly;

/// An open session. Handlers in Rust run their statements on it. Each statement is prepared once and kept, and ends by the deadline
/// of the connection's checkout.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Session {
    wire: Wire,
    settings: Arc<Settings>,
    statements: Statements,
    transaction: Transaction,
    limit: Limit,
    /// The account for the waits, and the counters of the pool.
    activity: Activity,
    metrics: Arc<metrics::Pool>,
    /// The traces that this borrow leaves for the next one.
    leaves: Leaves,
    /// Work for the next borrow's first batch: a lock may have to be released.
    releases_locks: bool,
    /// The settings of a reset, whose answers are still to come.
    asked: VecDeque<Asked>,
    /// The borrow has run no statement yet. `row_count()` is of an earlier one.
    is_fresh: bool,
    /// The borrow has run no statement that gave out a number. `last_insert_id()` is of an earlier one.
    has_foreign_id: bool,
    /// The server tells of changes of the session.
    is_tracking: bool,
    is_writable: Writable,
    /// The server's own bound on a statement, in seconds; 0: none. It ends a statement that no kill reaches, for example because the
    /// process is gone.
    backstop: u64,
}

impl Session {
    /// All rows of a statement. The values take the places of its `?`, in their order.
    ///
    /// A `select` of a request whose method changes nothing only reads. Outside a transaction, every statement of another request
    /// counts as having committed something, because a `select` may call a function that writes. A later 504 or 503 of that request is
    /// then an unknown outcome. To avoid that, run a reading statement in a [transaction](Self::transaction) with
    /// [`Access::ReadOnly`].
    ///
    /// # Errors
    /// [`Error::Deadline`], and any error of the database.
    pub fn query(&mut self, sql: &str, values: &[Value]) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        self.for_handler(sql, values, &mut rows)?;
        Ok(rows)
    }

    /// Runs a statement. Returns the number of rows that it found to change.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, Error> {
        self.for_handler(sql, values, &mut Vec::new())
    }

    /// Runs `work` in a transaction. Commits it if `work` returns `Ok`, otherwise rolls it back.
    ///
    /// # Errors
    /// The error of `work`, or of the transaction's beginning or its commit.
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

    fn for_handler(&mut self, sql: &str, values: &[Value], rows: &mut Vec<Row>) -> Result<u64, Error> {
        let values: Vec<&Value> = values.iter().collect();
        let commits =
            if self.limit.client.is_safe() { Commits::of_query(sql) } else { Commits::of_write(sql) };
        let access = if commits.may_happen() { Access::ReadWrite } else { Access::ReadOnly };
        let activity = self.activity.clone();
        let waiting = activity.wait_for(WorkerState::Database).on(|| command(sql));
        let done = self.with_statement(sql, &values, access, commits, Some(Sink::Handler(rows)));
        waiting.end(done, Error::kind)
    }

    /// Whether the server has kept the connection open while it was idle. Looks at the socket, sends nothing.
    fn is_open(&mut self) -> bool {
        if !self.wire.is_broken() && self.asked.is_empty() && !self.wire.is_silent() {
            self.wire.close();
        }
        !self.wire.is_broken()
    }

    /// Refuses to send a commit to a server that has already closed the connection. Otherwise the commit's outcome would be unknown.
    fn refuse_closed(&mut self) -> Result<(), Error> {
        if self.wire.is_broken() || self.is_open() {
            return Ok(());
        }
        Err(Error::Lost("it was found closed before anything was sent".to_owned()))
    }

    /// Whether the server answers by `deadline`: one round trip.
    fn answers(&mut self, deadline: Deadline) -> bool {
        let limit = Limit::until(deadline);
        self.wire.begin_batch();
        let asked = self.wire.add(Command::Ping, |_| Ok(())).and_then(|()| self.wire.begin(&limit));
        let Ok(mut wait) = asked else { return false };
        let done = self.wire.send(&mut wait);
        let done = done.and_then(|()| self.read_settings(&mut wait));
        let done = done.and_then(|()| self.wire.result("", &mut wait, &mut NoRows));
        self.wire.conclude(wait, done, false).inspect_err(|_| self.wire.close()).is_ok()
    }

    /// The most statements that this session keeps: all sessions together must not have more than the server allows.
    fn statements_max(&self) -> usize {
        let configured = self.settings.max_prepared_statements();
        let share = self.wire.prepared_max.map(|all| all / self.settings.maximum_pool_size().max(1));
        share.map_or(configured, |share| configured.min(share)).max(1)
    }

    /// Undoes what a borrow may have left, without waiting: the next borrow reads the answers.
    fn clean(&mut self) {
        match mem::take(&mut self.leaves) {
            Leaves::Nothing => {}
            Leaves::TriggersLocks => self.releases_locks = true,
            Leaves::Locks => self.send_or_close(Self::begin_release),
            Leaves::Anything => self.send_or_close(Self::begin_reset),
        }
    }
}

impl Session {
    fn send_or_close(&mut self, send: impl FnOnce(&mut Self) -> Result<(), Error>) {
        if let Err(error) = send(self) {
            log::debug!("a session is closed instead of being cleaned: {error}");
            self.wire.close();
        }
    }
}

impl pool::Session for Session {
    fn is_alive(&mut self) -> bool {
        self.is_open()
    }

    fn validate(&mut self, deadline: Deadline) -> bool {
        self.answers(deadline)
    }

    fn is_broken(&self) -> bool {
        self.wire.is_broken()
    }
}

impl driver::Session for Session {
    fn kind(&self) -> Kind {
        Kind::Mysql
    }

    fn borrow(&mut self, borrower: &Borrower<'_>) {
        self.activity.clone_from(borrower.activity);
        self.metrics.clone_from(borrower.metrics);
        let statement = self.settings.statement_timeout();
        self.limit = Limit { client: borrower.client.clone(), deadline: borrower.deadline, statement };
        self.statements.max = self.statements_max();
        self.is_fresh = true;
        self.has_foreign_id = true;
    }

    fn describe(&mut self, statement: &Statement) -> Result<Description, Error> {
        self.description(statement)
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
        let commits = Commits::of_access(access, &statement.text);
        let bound: Vec<&Value> = statement.bound.iter().map(|bound| &values[bound.index]).collect();
        let sink = Sink::Response(rows);
        let ran = self.with_statement(&statement.text, &bound, access, commits, Some(sink));
        ran.map_err(|error| statement.before_comment(error))
    }

    fn run_together(
        &mut self,
        steps: &Steps<'_>,
        rows: &mut RowWriter<'_>,
        note: &mut Note<'_>,
    ) -> Result<Together, Error> {
        self.limit.deadline = steps.deadline;
        self.run_steps_together(steps, rows, note)
    }

    fn can_share(&self, sql: &str) -> bool {
        self.is_harmless(sql)
    }

    fn share(&mut self) -> Result<Box<dyn RoundTrip + '_>, Error> {
        Ok(Box::new(self.pipeline()?))
    }

    fn distance(&self) -> Duration {
        self.wire.distance()
    }

    fn note_round_trip(&mut self, took: Duration) {
        self.wire.note_round_trip(took);
    }

    /// Makes the session clean for the next request, or closes it.
    fn finish(&mut self) {
        if let Err(error) = self.roll_back() {
            sparingly!(
                log::Level::Warn,
                "sessions closed in a rollback",
                "{error}, while rolling back; the session is closed"
            );
        }
        mem::take(&mut self.limit.client);
        // A panic in a handler's code may leave a part of an answer.
        self.wire.settle();
        if self.wire.is_in_transaction() {
            // A statement has begun it by itself.
            self.leaves = Leaves::Anything;
        }
        self.wire.shrink();
        if !self.wire.is_broken() {
            self.clean();
        }
    }
}

impl Session {
    fn description(&mut self, statement: &Statement) -> Result<Description, Error> {
        self.with_statement(&statement.text, &[], Access::ReadOnly, Commits::Nothing, None)
            .map_err(|error| statement.before_comment(error))?;
        let bound = statement.bound.len();
        let prepared = self.statements.known(&statement.text);
        let prepared = prepared.ok_or_else(|| Error::Lost("it forgot a statement".to_owned()))?;
        let columns = prepared.plan.columns();
        let columns = columns
            .map(|(name, type_name)| Column { name: name.to_owned(), type_name: type_name.to_owned() });
        let columns = columns.collect();
        let mut problems: Vec<String> = prepared.plan.refusals().map(|refusal| refusal.to_string()).collect();
        if prepared.parameter_count != bound {
            problems.push(other_count(prepared.parameter_count, bound).to_string());
        }
        Ok(Description { columns, problems })
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("transaction", &self.transaction).finish_non_exhaustive()
    }
}
