//! The transactions of a session.
//!
//! Owns COMMIT and ROLLBACK. Runs on the worker that borrowed the session.

use super::Session;
use super::rows::NoRows;
use super::state::Transaction;
use crate::base::deadline::Deadline;
use crate::database::limit::{Limit, ROLLBACK_TIMEOUT};
use crate::database::outcome::{Commits, begin_commit, end_commit};
use crate::database::statement::command;
use crate::database::{Access, Error, note_cancelled};
use crate::telemetry::activity::WorkerState;

impl Session {
    pub(super) fn begin_transaction(&mut self, access: Access) -> Result<(), Error> {
        if self.transaction != Transaction::None {
            return Err(Error::Usage("a transaction is open already".to_owned()));
        }
        self.transaction = Transaction::Pending(access);
        Ok(())
    }

    pub(super) fn commit_transaction(&mut self) -> Result<(), Error> {
        match self.transaction {
            Transaction::None => Err(Error::Usage("no transaction is open".to_owned())),
            Transaction::Failed => {
                self.roll_back()?;
                Err(Error::Usage("a statement in the transaction failed; it was rolled back".to_owned()))
            }
            Transaction::Pending(_) => {
                self.transaction = Transaction::None;
                Ok(())
            }
            Transaction::Open(access) => {
                self.refuse_closed()?;
                let committed = self.command("COMMIT", &self.limit.clone(), access == Access::ReadWrite);
                // An error rolls back, and so does the end of a session that is closed.
                self.transaction = if committed.is_ok() { Transaction::None } else { Transaction::Failed };
                committed
            }
        }
    }

    pub(super) fn roll_back(&mut self) -> Result<(), Error> {
        // A session that was given up rolls back when it is closed.
        if matches!(self.transaction, Transaction::None | Transaction::Pending(_)) || self.wire.is_broken() {
            self.transaction = Transaction::None;
            return Ok(());
        }
        // Rows that were not wanted may stand before the answer.
        self.wire.settle();
        let limit = Limit::until(Deadline::after(ROLLBACK_TIMEOUT));
        let rolled_back =
            if self.wire.is_broken() { Ok(()) } else { self.command("ROLLBACK", &limit, false) };
        self.transaction = Transaction::None;
        if rolled_back.is_err() {
            self.wire.close();
        }
        rolled_back
    }

    fn command(&mut self, sql: &str, limit: &Limit, commits: bool) -> Result<(), Error> {
        let activity = self.activity.clone();
        let waiting = activity.wait_for(WorkerState::Database).on(|| command(sql));
        let done = self.command_in_time(sql, limit, commits);
        if let Err(error) = &done {
            note_cancelled(error, &self.metrics);
        }
        waiting.end(done, Error::kind)
    }

    fn command_in_time(&mut self, sql: &str, limit: &Limit, commits: bool) -> Result<(), Error> {
        self.wire.begin_batch();
        self.wire.add_query(sql)?;
        let mut wait = self.wire.begin(limit)?;
        if commits {
            begin_commit(&limit.client)?;
        }
        let done = self.wire.send(&mut wait);
        let done = done.and_then(|()| self.wire.result(sql, &mut wait, &mut NoRows));
        let done = self.wire.conclude(wait, done.map(drop), commits);
        if commits {
            end_commit(&limit.client, &done, Commits::Whole);
        }
        done
    }
}
