//! Runs one statement of a session: the messages before it, its preparation, its runs, and a second attempt after an ALTER.
//!
//! Owns [`Attempt`] and the rules for another one. Runs on the worker that borrowed the session.

use std::sync::Arc;

use super::Session;
use super::transaction::{AccessCommand, NOT_SUPPORTED, Transaction, is_read_only, is_standby, refusal_of};
use super::work::{PrepareOnly, Work};
use crate::database::outcome::{Commits, begin_commit, end_commit};
use crate::database::postgres::effects::Leaves;
use crate::database::postgres::prepared::Prepared;
use crate::database::postgres::wire::{Failure, Wait};
use crate::database::{Access, Error, statement};
use crate::telemetry::activity::WorkerState;

/// The SQLSTATE of a prepared statement that does not exist.
pub(super) const NO_STATEMENT: &str = "26000";

/// The most runs of a statement that is each time found to be prepared for an older schema. Two such runs in a row mean
/// an ALTER between preparing and running it.
const ATTEMPTS_MAX: u32 = 4;

impl Session {
    /// Prepares the statement without running it.
    pub(super) fn prepared(&mut self, sql: &str, access: Access) -> Result<Arc<Prepared>, Error> {
        if let Some(prepared) = self.statements.known(sql) {
            return Ok(Arc::clone(prepared));
        }
        self.with_prepared(sql, access, Commits::Nothing, &mut PrepareOnly)
    }

    /// Does `work` with the prepared statement. Repeats the work if the session's prepared statement dates from before
    /// an ALTER.
    pub(super) fn with_prepared<W: Work>(
        &mut self,
        sql: &str,
        access: Access,
        commits: Commits,
        work: &mut W,
    ) -> Result<W::Output, Error> {
        let activity = self.activity.clone();
        let waiting = activity.wait_for(WorkerState::Database).on(|| statement::command(sql));
        let before = self.transaction;
        let remembered = self.statements.known(sql).cloned();
        let mut done = self.attempt(sql, access, commits, work);
        for _ in 1..ATTEMPTS_MAX {
            let Err(error) = &done else { break };
            if self.wire.has_begun() {
                // The server may have done some of the work.
                break;
            }
            if self.wire.has_pooler && error.code() == Some(NO_STATEMENT) {
                done = Err(self.lose_to_pooler());
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
            done = self.attempt(sql, access, commits, work);
        }
        if done.is_err() && matches!(self.transaction, Transaction::Open(_)) {
            self.transaction = Transaction::Failed;
        }
        waiting.end(done, Error::kind)
    }

    /// Closes a session whose prepared statement is gone. No other client can have deallocated the statement, so the pooler has
    /// changed the session. The next session that is opened detects the pooler.
    pub(super) fn lose_to_pooler(&mut self) -> Error {
        self.wire.close();
        Error::Lost("the pooler has given it another session of the server".to_owned())
    }

    /// Whether a failed attempt has left nothing. The transaction was in the state `before` when the attempt began.
    pub(super) fn can_run_again(&mut self, before: Transaction) -> bool {
        match before {
            Transaction::None => true,
            Transaction::Pending(_) => {
                let is_undone = self.roll_back().is_ok();
                self.transaction = before;
                is_undone
            }
            Transaction::Open(_) | Transaction::Failed => false,
        }
    }

    /// Prepares a statement again. Returns whether its parameters or columns differ from before.
    pub(super) fn is_other_now(&mut self, sql: &str, remembered: &Prepared) -> bool {
        let access = self.known_access().unwrap_or(Access::ReadOnly);
        let prepared = self.attempt(sql, access, Commits::Nothing, &mut PrepareOnly);
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
        commits: Commits,
        work: &mut W,
    ) -> Result<W::Output, Error> {
        if self.wire.has_leftovers() {
            self.wipe()?;
        }
        let commits_itself = W::RUNS && self.transaction == Transaction::None && commits.may_happen();
        if commits_itself {
            self.refuse_closed()?;
        }
        self.wire.begin_batch();
        self.wire.take_refusal();
        let sends = self.wire.sends;
        self.put_deferred(access, self.cannot_read_numbers::<W>(sql))?;
        let before = self.transaction;
        let command = self.command_before(access);
        let mut attempt = Attempt { command, commits_itself, ..Attempt::default() };
        let limit = self.limit.clone();
        let done = match self.wire.begin(&limit, None) {
            Ok(mut wait) => {
                let mut done = self.ask(sql, work, &mut attempt, &mut wait);
                if let Some(refusal) = self.wire.take_refusal() {
                    done =
                        Err(self.refused_before(&refusal, &mut attempt, done.is_err(), commits, &mut wait));
                }
                let is_run = !matches!(done, Err(Failure::NotRun(_)));
                let done = self.wire.conclude(wait, done, attempt.is_commit && is_run);
                match attempt.is_commit {
                    true if is_run => end_commit(&limit.client, &done, commits),
                    true => limit.client.end_commit(false),
                    false => {}
                }
                done
            }
            Err(error) => Err(error),
        };
        self.note_departed(sends);
        // An error may have left a part of an answer unread.
        self.wire.settle();
        if done.is_err() && self.wire.has_leftovers() && !self.wire.is_broken() {
            // The server has not begun the transaction.
            self.transaction = before;
            return self.attempt(sql, access, commits, work);
        }
        if attempt.is_run() {
            self.untidy.note_run(sql, attempt.leaves);
            if attempt.leaves == Leaves::Anything {
                self.access = None;
            }
        }
        if command.is_some_and(|command| command.begins) {
            return self.note(done, access);
        }
        if attempt.is_switched() && attempt.leaves != Leaves::Anything && done.is_ok() {
            self.access = Some(access);
        }
        let done = self.note(done, access);
        if attempt.is_switched() && done.is_err() {
            // Whether the command was done is not known.
            self.access = None;
        }
        done
    }

    /// Whether neither the statement nor a later one of this borrow can read the last numbers that sequences gave out
    /// to earlier borrowers. Numbers that the statement itself adds must stay for later statements.
    fn cannot_read_numbers<W: Work>(&self, sql: &str) -> bool {
        let leaves = self.statements.known(sql).map_or(Leaves::Anything, |prepared| prepared.effect.leaves());
        self.transaction == Transaction::None
            && match leaves {
                Leaves::Nothing => true,
                Leaves::Numbers => W::IS_ALONE,
                Leaves::Anything => false,
            }
    }

    /// Sends the statement, prepares it if necessary, and reads the answer.
    fn ask<W: Work>(
        &mut self,
        sql: &str,
        work: &mut W,
        attempt: &mut Attempt,
        wait: &mut Wait<'_>,
    ) -> Result<W::Output, Failure> {
        let Self { wire, effects, statements, types, request, untidy, limit, transaction, access, .. } = self;
        if let Some(command) = attempt.command {
            command.put(wire)?;
        }
        let prepared = if let Some(prepared) = statements.known(sql) {
            Arc::clone(prepared)
        } else {
            let name = statements.put_preparation(sql, wire)?;
            attempt.sent = Sent::Preparation;
            if let Some(command) = attempt.command {
                command.note(transaction, access);
            }
            wire.send(wait)?;
            let prepared = statements.read_preparation(name, sql, effects.of(sql), types, wire, wait)?;
            if let Some(refusal) = wire.take_refusal() {
                // The statement was not run, and must not be.
                return Err(refusal_of(attempt.command, &refusal).into());
            }
            wire.begin_batch();
            prepared
        };
        work.put(&prepared, request, wire)?;
        if W::RUNS {
            if attempt.commits_itself {
                begin_commit(&limit.client)?;
                attempt.is_commit = true;
            }
            attempt.leaves = prepared.effect.leaves();
            untidy.ask(sql, &prepared);
            attempt.sent = Sent::Runs;
            if let Some(command) = attempt.command {
                command.note(transaction, access);
            }
        }
        wire.send(wait)?;
        let done = work.read(&prepared, types, wire, wait);
        if work.has_other_columns() {
            // The statement was sent as text, so the server could not refuse the outdated one.
            statements.forget_one(sql);
        }
        done
    }

    /// The failure of a statement after the refusal of the command before it.
    fn refused_before(
        &mut self,
        refusal: &Error,
        attempt: &mut Attempt,
        statement_failed: bool,
        commits: Commits,
        wait: &mut Wait<'_>,
    ) -> Failure {
        let error = refusal_of(attempt.command, refusal);
        let begins = attempt.command.is_some_and(|command| command.begins);
        if begins || statement_failed || is_read_only(&error) && is_standby(&mut self.wire, wait) {
            return error.into();
        }
        // The command failed, for example by a late cancel, but the statement behind it ran all the same.
        attempt.is_commit |= commits.may_happen() && self.limit.client.begin_commit();
        let command = attempt.command.map_or("", |command| command.text);
        Failure::Lost(Error::Lost(format!("{error}, at {command}, and what came behind it was run")))
    }
}

/// One attempt to run a statement.
#[derive(Default)]
struct Attempt {
    /// The command before it.
    command: Option<AccessCommand>,
    sent: Sent,
    /// The state that the statement may leave on the session.
    leaves: Leaves,
    /// The statement commits by itself.
    commits_itself: bool,
    /// The messages that were sent may have committed something.
    is_commit: bool,
}

/// The messages of an attempt that were sent.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Sent {
    #[default]
    Nothing,
    /// The command before the statement, and its preparation.
    Preparation,
    /// The statement's runs.
    Runs,
}

impl Attempt {
    fn is_switched(&self) -> bool {
        self.command.is_some() && self.sent != Sent::Nothing
    }

    fn is_run(&self) -> bool {
        self.sent == Sent::Runs
    }
}

/// Whether the prepared statement is outdated: "cached plan must not change result type" after an ALTER, or a
/// deallocation by somebody else.
pub(super) fn is_stale(error: &Error) -> bool {
    match error.code() {
        // Functions may fail with this code as well.
        Some(NOT_SUPPORTED) => error.is_retryable(),
        code => code == Some(NO_STATEMENT),
    }
}

/// Whether the error may be due to an ALTER after the statement was prepared: the statement's parameters keep their old
/// types. The question makes sense only before the server has begun to run anything.
pub(super) fn may_be_stale(error: &Error) -> bool {
    /// A value of a wrong type, a value out of range, and a type that is gone.
    const CODES: [&str; 6] = ["22003", "22007", "22008", "22P02", "22P03", "XX000"];
    /// `insufficient_privilege`, the only code of class 42 that has nothing to do with types.
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

#[cfg(test)]
mod tests {
    use super::super::transaction::{READ_ONLY, take_for_read_only};
    use super::*;
    use crate::database::{Category, Refusal};

    fn refused_as(category: Category, code: &str) -> Error {
        Error::Refused(Box::new(Refusal::new(category, code, "")))
    }

    #[test]
    fn a_standbys_refusal_is_not_taken_for_a_stale_plan() {
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
