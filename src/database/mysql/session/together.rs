//! Runs the steps of a transaction in one round trip.
//!
//! Runs on the worker that borrowed the session. The server runs each command by itself, also behind one that failed. So a step may
//! run although an earlier one has failed or had another number of rows than expected; the transaction is rolled back then. If an
//! error has rolled it back already, the steps behind that error cannot write, because outside of transactions the session only reads.

use std::time::Instant;

use super::Session;
use super::rows::{Counted, NoRows, Rows, Sink};
use super::run::{Attempt, FORGOTTEN};
use super::state::Transaction;
use crate::base::value::Value;
use crate::database::driver::{Note, Steps, Together};
use crate::database::mysql::bind::put_execution;
use crate::database::mysql::wire::{Command, Failure, Wait};
use crate::database::statement::first_word;
use crate::database::{Error, RowWriter, Statement};
use crate::telemetry::activity::WorkerState;

/// The commands that neither commit nor begin a transaction.
const PLAIN: [&str; 7] = ["delete", "insert", "replace", "select", "update", "values", "with"];

impl Session {
    pub(super) fn run_steps_together(
        &mut self,
        steps: &Steps<'_>,
        rows: &mut RowWriter<'_>,
        note: &mut Note<'_>,
    ) -> Result<Together, Error> {
        let fits = |statement: &&Statement| {
            let word = first_word(&statement.text);
            PLAIN.iter().any(|plain| word.eq_ignore_ascii_case(plain))
        };
        if !matches!(self.transaction, Transaction::Pending(_)) || !steps.statements.iter().all(fits) {
            return Ok(Together::Apart);
        }
        let mut numbers = Vec::with_capacity(steps.statements.len());
        let mut effects = None;
        for statement in steps.statements {
            let Some(prepared) = self.statements.known(&statement.text) else { return Ok(Together::Apart) };
            let Ok(number) = prepared.check(statement.bound.len(), true) else { return Ok(Together::Apart) };
            numbers.push(number);
            effects = Some(prepared.effects.behind(effects));
        }
        let limit = self.limit.clone();
        let mut wait = self.wire.begin(&limit)?;
        self.wire.begin_batch();
        let mut attempt = Attempt::of_steps(effects.unwrap_or_default());
        let done = self.ask_together(steps, &numbers, rows, note, &mut attempt, &mut wait);
        let done = self.wire.conclude(wait, done, false);
        self.note_attempt(&mut attempt);
        self.wire.settle();
        let done = self.note_failure(done, steps.access);
        let is_forgotten = |error: &Error| error.code().is_some_and(|code| FORGOTTEN.contains(&code));
        if done.as_ref().is_err_and(is_forgotten) && !self.wire.is_broken() {
            self.statements.forget();
            self.roll_back()?;
            self.transaction = Transaction::Pending(steps.access);
            return Ok(Together::Apart);
        }
        done
    }

    fn ask_together(
        &mut self,
        steps: &Steps<'_>,
        numbers: &[u32],
        rows: &mut RowWriter<'_>,
        note: &mut Note<'_>,
        attempt: &mut Attempt,
        wait: &mut Wait<'_>,
    ) -> Result<Together, Failure> {
        self.add_dismissals(attempt)?;
        self.add_commands_before(steps.access, attempt)?;
        for (statement, number) in steps.statements.iter().zip(numbers) {
            let values: Vec<&Value> =
                statement.bound.iter().map(|bound| &steps.values[bound.index]).collect();
            let added = self.wire.add(Command::Execute, |out| put_execution(out, *number, &values));
            added.map_err(|error| statement.before_comment(error))?;
        }
        let activity = self.activity.clone();
        let mut began = Instant::now();
        attempt.send(self, wait)?;
        attempt.read_before(self, wait)?;
        let mut ended = attempt.refusal.take().map(Err);
        for (index, statement) in steps.statements.iter().enumerate() {
            if ended.is_some() {
                // The steps behind a failure are undone, so their answers say nothing.
                if let Err(lost @ (Failure::Lost(_) | Failure::NotRun(_))) =
                    self.wire.result(&statement.text, wait, &mut NoRows)
                {
                    return Err(lost);
                }
                continue;
            }
            let waiting = activity.wait_since(WorkerState::Database, began).on(|| statement.name());
            wait.begin_next();
            let is_last = index + 1 == steps.statements.len();
            let step = self.read_step(statement, is_last.then_some(&mut *rows), attempt, wait);
            let now = Instant::now();
            let took = now - began;
            began = now;
            drop(waiting.until(now));
            let step = match step {
                Ok(count) => Ok(count),
                Err(Failure::Known(error)) => Err(statement.before_comment(error)),
                Err(lost) => return Err(lost),
            };
            if !note(index, took, &step) {
                ended = Some(step.map(|_| Together::Refused));
            }
            if self.wire.is_broken() {
                break;
            }
        }
        ended.unwrap_or(Ok(Together::Done)).map_err(Failure::from)
    }

    /// Reads the answer to a step. Only the last one's rows are written.
    fn read_step(
        &mut self,
        statement: &Statement,
        rows: Option<&mut RowWriter<'_>>,
        attempt: &mut Attempt,
        wait: &mut Wait<'_>,
    ) -> Result<u64, Failure> {
        let sql = &*statement.text;
        let has_extended = self.wire.has_extended_types();
        let (done, returned) = if let (Some(rows), Some(prepared)) = (rows, self.statements.known(sql)) {
            let mut sink = Sink::Response(rows);
            sink.restart();
            let mut taker =
                Rows { prepared, sink: &mut sink, has_extended, has_columns: false, has_further: false };
            let done = self.wire.result(sql, wait, &mut taker)?;
            (done, taker.has_columns.then(|| taker.sink.count()))
        } else {
            let mut counted = Counted::default();
            let done = self.wire.result(sql, wait, &mut counted)?;
            (done, counted.0)
        };
        self.note_done(done, attempt);
        Ok(returned.unwrap_or(done.affected))
    }
}
