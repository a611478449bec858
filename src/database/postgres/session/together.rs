//! The statements of a transaction in one round trip: BEGIN and all statements are one part of a batch, and COMMIT or ROLLBACK
//! follows by itself.
//!
//! Owns the rules for sending them together, and for running them one after the other instead. Runs on the worker that borrowed the
//! session.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres_protocol::message::frontend;

use super::Session;
use super::run::{NO_STATEMENT, is_stale, may_be_stale};
use super::transaction::{AccessCommand, Transaction, refusal_of};
use super::work::Run;
use crate::database::driver::{Note, Together};
use crate::database::postgres::answer::{AnswerReader, RowTaker};
use crate::database::postgres::effects::Leaves;
use crate::database::postgres::fields::Fields;
use crate::database::postgres::prepared::Prepared;
use crate::database::postgres::single_insert::{self, SingleInsert};
use crate::database::postgres::wire::{Failure, Wait, Wire};
use crate::database::statement::first_word;
use crate::database::{Access, Error};
use crate::telemetry::activity::WorkerState;

/// The answers to an attempt.
#[derive(Default)]
struct Answers {
    /// The time and the number of rows of each run that succeeded.
    done: Vec<(Duration, u64)>,
    /// The time of the failed run until its failure.
    failed_after: Duration,
    /// The number of runs.
    expected: usize,
    /// The run that has no valid message. Nothing was sent.
    unsent: Option<usize>,
    /// The session must first be freed of leftovers. The server has run nothing.
    met_leftovers: bool,
}

impl Session {
    /// Runs the statements of the transaction that was begun, all in one round trip. The caller commits it, or rolls it back.
    ///
    /// # Errors
    /// The error of the first statement that failed, if every statement before it had an acceptable number of rows.
    pub(super) fn together<R: Run>(
        &mut self,
        runs: &mut [R],
        note: &mut Note<'_>,
    ) -> Result<Together, Error> {
        let before = self.transaction;
        let (Transaction::Pending(access) | Transaction::Open(access)) = before else {
            return Ok(Together::Apart);
        };
        let Some(prepared) = self.all_known(runs) else { return Ok(Together::Apart) };
        let insert = match &*prepared {
            [one] => one.single_insert.as_ref().filter(|insert| insert.is_due()),
            _ => None,
        };
        if runs.len() < 2 && insert.is_none() {
            return Ok(Together::Apart);
        }
        let mut answers = Answers { expected: runs.len(), ..Answers::default() };
        let ended = self.attempt_together(runs, &prepared, access, insert, &mut answers);
        for (index, (took, rows)) in answers.done.iter().enumerate() {
            if !note(index, *took, &Ok(*rows)) {
                self.fail_transaction();
                return Ok(Together::Refused);
            }
        }
        let Err(mut error) = ended else { return Ok(Together::Done) };
        let failed = answers.done.len();
        if self.wire.has_pooler && error.code() == Some(NO_STATEMENT) && !self.wire.has_begun() {
            error = self.lose_to_pooler();
        }
        if answers.met_leftovers {
            self.transaction = before;
            return Ok(Together::Apart);
        }
        if let Some(faulty) = answers.unsent {
            // The statements before the faulty one must run: the first that fails is reported.
            if may_be_stale(&error) && before == Transaction::Pending(access) {
                self.statements.forget_one(runs[faulty].sql());
                self.types.forget();
                self.is_other_now(runs[faulty].sql(), &prepared[faulty]);
            }
            return Ok(Together::Apart);
        }
        let can_help = match (runs.get(failed), prepared.get(failed)) {
            (Some(run), Some(remembered)) => self.can_help(before, run.sql(), remembered, &error),
            // The catalog has refused the question behind the runs.
            _ => insert.is_some() && error.code().is_some() && self.can_run_again(before),
        };
        if can_help {
            return Ok(Together::Apart);
        }
        self.fail_transaction();
        let Some(run) = runs.get(failed) else { return Err(error) };
        let failure = Err(run.located(error));
        note(failed, answers.failed_after, &failure);
        failure.map(|_| Together::Refused)
    }

    /// The prepared statements of all runs, if the runs can be sent together. The statements that are not prepared are
    /// prepared when their turn comes: an earlier one may create a table for them. A procedure and a block of code run by
    /// themselves.
    fn all_known<R: Run>(&self, runs: &[R]) -> Option<Vec<Arc<Prepared>>> {
        if self.wire.has_leftovers() {
            return None;
        }
        let known = runs.iter().map(|run| {
            let word = first_word(run.sql());
            let is_alone = ["call", "do"].iter().any(|alone| word.eq_ignore_ascii_case(alone));
            self.statements.known(run.sql()).filter(|_| !is_alone).cloned()
        });
        known.collect()
    }

    /// Whether it helps to run everything again after this error of the statement `sql`, and the failed attempt has left nothing.
    fn can_help(&mut self, before: Transaction, sql: &str, remembered: &Prepared, error: &Error) -> bool {
        if self.wire.has_begun() || self.wire.is_broken() {
            return false;
        }
        if is_stale(error) {
            self.settings.note_schema_change();
            self.forget_statements();
            return self.can_run_again(before);
        }
        if !may_be_stale(error) {
            return false;
        }
        self.statements.forget_one(sql);
        self.types.forget();
        self.can_run_again(before) && self.is_other_now(sql, remembered)
    }

    /// The transaction cannot be committed any more.
    pub(super) fn fail_transaction(&mut self) {
        if let Transaction::Open(_) = self.transaction {
            self.transaction = Transaction::Failed;
        }
    }

    /// Sends the runs with what must precede them, and reads the answers up to the first failure.
    fn attempt_together<R: Run>(
        &mut self,
        runs: &mut [R],
        prepared: &[Arc<Prepared>],
        access: Access,
        insert: Option<&SingleInsert>,
        answers: &mut Answers,
    ) -> Result<(), Error> {
        let activity = self.activity.clone();
        let mut began = Instant::now();
        let mut waiting = Some(activity.wait_since(WorkerState::Database, began).on(|| name_of(runs, 0)));
        let limit = self.limit.clone();
        self.wire.begin_batch();
        self.wire.take_refusal();
        let mut wait = self.wire.begin(&limit, None)?;
        let sends = self.wire.sends;
        // A handler may read sequences later in the transaction.
        self.put_deferred(access, false)?;
        let command = self.command_before(access);
        if let Err((faulty, error)) = self.put_together(runs, prepared, command, insert) {
            answers.unsent = Some(faulty);
            self.access = None;
            return Err(error);
        }
        let Self { wire, statements, types, transaction, access: session_access, .. } = self;
        if let Some(command) = command {
            command.note(transaction, session_access);
        }
        let mut done = wire.send(&mut wait);
        for (index, (run, prepared)) in runs.iter_mut().zip(prepared).enumerate() {
            if done.is_err() {
                break;
            }
            if index > 0 {
                waiting = Some(activity.wait_since(WorkerState::Database, began).on(|| run.name()));
                wait.begin_next();
            }
            wire.note_next();
            let is_last = index + 1 == answers.expected && insert.is_none();
            match run.read(prepared, types, wire, &mut wait, is_last) {
                Ok(rows) => {
                    let now = Instant::now();
                    answers.done.push((now - began, rows));
                    drop(waiting.take().map(|waiting| waiting.until(now)));
                    began = now;
                }
                Err(failure) => done = Err(failure),
            }
            if run.has_other_columns() {
                // The statement was sent as text, so the server could not refuse the outdated one.
                statements.forget_one(run.sql());
            }
        }
        if let (Some(insert), Ok(())) = (insert, &done) {
            waiting = Some(activity.wait_since(WorkerState::Database, began));
            wait.begin_next();
            wire.note_next();
            done = read_question(insert, wire, &mut wait);
        }
        if let Some(refusal) = wire.take_refusal() {
            done = Err(refusal_of(command, &refusal).into());
        }
        let done = wire.conclude(wait, done, false);
        let done = match waiting {
            Some(waiting) => waiting.end(done, Error::kind),
            None => done,
        };
        answers.failed_after = began.elapsed();
        // An error may have left a part of an answer unread.
        wire.settle();
        answers.met_leftovers = done.is_err() && wire.has_leftovers() && !wire.is_broken();
        self.note_departed(sends);
        self.note(done, access)
    }

    /// Fills the batch. All of it is one part, so that a failure stops what stands behind it. An error comes with the index of its run.
    fn put_together<R: Run>(
        &mut self,
        runs: &mut [R],
        prepared: &[Arc<Prepared>],
        command: Option<AccessCommand>,
        insert: Option<&SingleInsert>,
    ) -> Result<(), (usize, Error)> {
        let Self { wire, request, untidy, access, .. } = self;
        if let Some(command) = command {
            command.put(wire).map_err(|error| (0, error))?;
        }
        for (index, (run, prepared)) in runs.iter_mut().zip(prepared).enumerate() {
            if index > 0 {
                // The server sends each answer at once, so that each step has a time of its own.
                frontend::flush(wire.batch());
            }
            run.put(prepared, request, wire).map_err(|error| (index, error))?;
        }
        if let Some(insert) = insert {
            insert.put_question(wire).map_err(|error| (0, error))?;
        }
        wire.add_sync();
        for (run, prepared) in runs.iter().zip(prepared) {
            untidy.ask(run.sql(), prepared);
            let leaves = prepared.effect.leaves();
            untidy.note_run(run.sql(), leaves);
            if leaves == Leaves::Anything {
                *access = None;
            }
        }
        Ok(())
    }
}

/// The name of a run in a trace.
fn name_of<R: Run>(runs: &[R], index: usize) -> Cow<'static, str> {
    runs.get(index).map_or_else(Cow::default, Run::name)
}

/// Reads the catalog's answer about an insert.
fn read_question(insert: &SingleInsert, wire: &mut Wire, wait: &mut Wait<'_>) -> Result<(), Failure> {
    let mut verdict = Verdict::default();
    let prepared = Arc::new(Prepared::of_columns(single_insert::COLUMNS));
    let read = AnswerReader::default().read(wire, wait, &prepared, single_insert::QUESTION, &mut verdict);
    match read {
        Ok(_) => insert.learn(Some(verdict.0)),
        Err(Failure::Known(Error::Refused(_))) => insert.learn(None),
        Err(_) => {}
    }
    read.map(drop)
}

/// The catalog's answer.
#[derive(Default)]
struct Verdict(bool);

impl RowTaker for Verdict {
    fn row(&mut self, _: &Arc<Prepared>, fields: &[u8]) -> Result<(), Error> {
        self.0 = matches!(Fields(fields).next(), Some(Some([1])));
        Ok(())
    }
}
