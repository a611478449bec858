//! The transactions of a session, and the access of its statements.
//!
//! Owns [`Transaction`], BEGIN, COMMIT and ROLLBACK, and [`AccessCommand`], which precedes a statement. Runs on the
//! worker that borrowed the session.

use super::Session;
use crate::base::deadline::Deadline;
use crate::database::limit::{Limit, ROLLBACK_TIMEOUT};
use crate::database::outcome::{Commits, begin_commit, end_commit};
use crate::database::postgres::errand::ErrandKind;
use crate::database::postgres::simple;
use crate::database::postgres::wire::{Wait, Wire};
use crate::database::statement::command;
use crate::database::{Access, Category, Error, note_cancelled};
use crate::telemetry::activity::WorkerState;

/// The SQLSTATE of a write where nothing may be written.
pub(super) const READ_ONLY: &str = "25006";

/// The SQLSTATE with which a standby refuses to begin a transaction that may write. Other commands fail with it for other reasons.
pub(super) const NOT_SUPPORTED: &str = "0A000";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transaction {
    None,
    /// Begun here, but not yet on the server: BEGIN goes with the first statement and costs no round trip.
    Pending(Access),
    Open(Access),
    /// A statement failed in it: PostgreSQL answers COMMIT with a silent rollback.
    Failed,
}

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
                self.command("COMMIT", &self.limit.clone(), access == Access::ReadWrite)?;
                self.transaction = Transaction::None;
                Ok(())
            }
        }
    }

    pub(super) fn roll_back(&mut self) -> Result<(), Error> {
        // A session that was given up rolls back when it is closed.
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

    pub(super) fn command(&mut self, sql: &str, limit: &Limit, commits: bool) -> Result<(), Error> {
        let activity = self.activity.clone();
        let waiting = activity.wait_for(WorkerState::Database).on(|| command(sql));
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
        end_commit(&limit.client, &done, Commits::Whole);
        done
    }

    /// Classifies the failure of a statement and keeps the session's state true. The statement ran with `access`, or
    /// with its transaction's access.
    pub(super) fn note<T>(&mut self, mut done: Result<T, Error>, access: Access) -> Result<T, Error> {
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

    /// The command that must precede a statement: BEGIN, if it is due, or the command that makes single statements run
    /// with `access`.
    pub(super) fn command_before(&self, access: Access) -> Option<AccessCommand> {
        match self.transaction {
            Transaction::Pending(access) => {
                Some(AccessCommand { text: begin_text(access), access, begins: true })
            }
            Transaction::None if self.known_access() != Some(access) => Some(AccessCommand {
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

/// A command before a statement, which sets the access of the statement.
#[derive(Clone, Copy)]
pub(super) struct AccessCommand {
    pub(super) text: &'static str,
    pub(super) access: Access,
    /// It begins a transaction. If it fails, nothing behind it is run.
    pub(super) begins: bool,
}

impl AccessCommand {
    /// Puts it into the batch, before the statement.
    pub(super) fn put(self, wire: &mut Wire) -> Result<(), Error> {
        if self.begins {
            return wire.add_begin(self.text);
        }
        wire.add_query(self.text)?;
        wire.add_errand(ErrandKind::Command, 1);
        Ok(())
    }

    /// Notes that the command is about to be sent. The session's state then stays true after a panic or a deadline: a
    /// transaction that may have begun is rolled back, and an access that may have changed is not relied on.
    pub(super) fn note(self, transaction: &mut Transaction, access: &mut Option<Access>) {
        if self.begins {
            *transaction = Transaction::Open(self.access);
        } else {
            *access = None;
        }
    }
}

/// The error of a statement after the refusal of the command before it.
pub(super) fn refusal_of(command: Option<AccessCommand>, refusal: &Error) -> Error {
    let mut error = match refusal {
        Error::Refused(refusal) => Error::Refused(refusal.clone()),
        other => Error::Lost(other.to_string()),
    };
    if command.is_some_and(|command| command.access == Access::ReadWrite) {
        take_for_read_only(&mut error, &[READ_ONLY, NOT_SUPPORTED]);
    }
    error
}

/// BEGIN with its access. A server in recovery refuses the access within the transaction. So it runs nothing that was
/// sent behind BEGIN, even if it has recovered meanwhile.
pub(super) fn begin_text(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "BEGIN READ ONLY",
        Access::ReadWrite => "BEGIN READ WRITE",
    }
}

/// Marks an error with one of these codes as a refusal to write.
pub(super) fn take_for_read_only(error: &mut Error, codes: &[&str]) {
    if let Error::Refused(refusal) = error
        && codes.contains(&refusal.code.as_str())
    {
        refusal.category = Category::ReadOnly;
    }
}

pub(super) fn is_read_only(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.category == Category::ReadOnly)
}

/// Whether the server is a standby. Nothing can then have been written until now, because a promoted server never
/// becomes a standby again.
pub(super) fn is_standby(wire: &mut Wire, wait: &mut Wait<'_>) -> bool {
    let answer = simple::ask(wire, "select pg_catalog.pg_is_in_recovery()", wait);
    answer.is_ok_and(|rows| {
        rows.iter().any(|row| row.first().is_some_and(|value| value.as_deref() == Some("t")))
    })
}
