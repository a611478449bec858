//! Runs one statement of a session: the commands before it, its preparation and its run.
//!
//! Owns [`Attempt`] and the rules for another one. Runs on the worker that borrowed the session.

use std::borrow::Cow;

use super::Session;
use super::rows::{NoRows, Rows, Sink};
use super::state::{READ_ONCE, READS, RELEASE, Transaction, WRITE_ALWAYS, WRITE_ONCE, Writable};
use crate::base::value::Value;
use crate::database::mysql::bind::{LAST_PREPARED, put_execution};
use crate::database::mysql::effects::{Effects, Leaves};
use crate::database::mysql::packet::{Done, Malformed};
use crate::database::mysql::statements::Prepared;
use crate::database::mysql::wire::{Command, Failure, Wait};
use crate::database::outcome::{Commits, begin_commit, end_commit};
use crate::database::statement::first_word;
use crate::database::{Access, Category, Error, note_cancelled};

/// `ER_UNKNOWN_STMT_HANDLER` and `ER_NEED_REPREPARE`: the server has forgotten the prepared statement. It has run nothing of it.
pub(super) const FORGOTTEN: [&str; 2] = ["1243", "1615"];

/// `ER_MAX_PREPARED_STMT_COUNT_REACHED`: all sessions together have prepared as many statements as the server allows.
const TOO_MANY: &str = "1461";

/// `ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION`.
const READ_ONLY: &str = "1792";

/// The most attempts at a statement that the server forgets.
const ATTEMPTS_MAX: u32 = 3;

/// Forgets what an earlier borrower's statement has left for `last_insert_id()`, `row_count()` and `found_rows()`.
const FORGET: &str = "do last_insert_id(0)";

/// Refuses the commands that would end or begin a transaction unnoticed.
fn refuse_transaction_control(sql: &str) -> Result<(), Error> {
    const REFUSED: [&str; 10] = [
        "begin",
        "commit",
        "deallocate",
        "execute",
        "prepare",
        "release",
        "rollback",
        "savepoint",
        "start",
        "xa",
    ];
    let word = first_word(sql);
    if REFUSED.iter().any(|refused| word.eq_ignore_ascii_case(refused)) {
        let reason =
            format!("{word} is not a statement that can run here; transactions are begun and ended by wharf");
        return Err(Error::Usage(reason));
    }
    Ok(())
}

impl Session {
    /// Prepares a statement and, with `sink`, runs it. Returns the number of rows that were returned or changed.
    pub(super) fn with_statement(
        &mut self,
        sql: &str,
        values: &[&Value],
        access: Access,
        commits: Commits,
        mut sink: Option<Sink<'_, '_>>,
    ) -> Result<u64, Error> {
        refuse_transaction_control(sql)?;
        let mut attempt = 1;
        let done = loop {
            let done = self.attempt(sql, values, access, commits, sink.as_mut());
            let Err(error) = &done else { break done };
            let code = error.code().unwrap_or_default();
            if attempt == ATTEMPTS_MAX || self.wire.is_broken() {
                break done;
            }
            if FORGOTTEN.contains(&code) {
                self.statements.forget_one(sql);
            } else if code == TOO_MANY {
                self.statements.forget();
            } else {
                break done;
            }
            if Commits::of_write(sql) == Commits::InParts {
                // A procedure that prepares statements of its own may have failed halfway with the same error.
                break done;
            }
            attempt += 1;
        };
        self.note_failure(done, access)
    }

    /// Applies an error to the session's state. The statement ran with `access`, or with that of its transaction.
    pub(super) fn note_failure<T>(&mut self, mut done: Result<T, Error>, access: Access) -> Result<T, Error> {
        if let Err(error) = &mut done {
            note_cancelled(error, &self.metrics);
            let writes = match self.transaction {
                Transaction::Open(access) => access == Access::ReadWrite,
                _ => access == Access::ReadWrite,
            };
            if let Error::Refused(refusal) = error
                && refusal.code == READ_ONLY
                && writes
            {
                // The server began to refuse writes behind the command that allows this one.
                refusal.category = Category::ReadOnly;
                self.wire.close();
            }
            if matches!(self.transaction, Transaction::Open(_)) {
                self.transaction = Transaction::Failed;
            }
        }
        done
    }

    fn attempt(
        &mut self,
        sql: &str,
        values: &[&Value],
        access: Access,
        commits: Commits,
        sink: Option<&mut Sink<'_, '_>>,
    ) -> Result<u64, Error> {
        if self.transaction == Transaction::Failed {
            return Err(Error::Usage("a statement in the transaction failed; roll it back".to_owned()));
        }
        let runs = sink.is_some();
        let commits_itself = runs && self.transaction == Transaction::None && commits.may_happen();
        if commits_itself {
            self.refuse_closed()?;
        }
        let limit = self.limit.clone();
        let mut wait = self.wire.begin(&limit)?;
        self.wire.begin_batch();
        let in_parts = commits_itself && commits == Commits::InParts;
        let mut attempt = Attempt { runs, commits_itself, in_parts, ..Attempt::default() };
        let done = self.ask(sql, values, access, sink, &mut attempt, &mut wait);
        let done = self.wire.conclude(wait, done, attempt.is_commit);
        if attempt.is_commit {
            end_commit(&limit.client, &done, commits);
        }
        self.note_attempt(&mut attempt);
        // An error may have left a part of the answer unread.
        self.wire.settle();
        done
    }

    /// Notes what an attempt may have left on the session.
    pub(super) fn note_attempt(&mut self, attempt: &mut Attempt) {
        self.statements.dismiss(&mut attempt.dismissed);
        if attempt.is_sent && attempt.runs {
            let mut leaves = attempt.effects.leaves;
            if attempt.changed_session || leaves == Leaves::Locks && !self.can_release_locks() {
                leaves = Leaves::Anything;
            } else if leaves == Leaves::TriggersLocks && !self.can_release_locks() {
                // An old server tells too little to find each trigger's traces, and a reset behind each write costs too much.
                leaves = Leaves::Nothing;
            }
            self.leaves = self.leaves.max(leaves);
            self.is_fresh = false;
        }
    }

    /// Notes what a statement has said at its end.
    pub(super) fn note_done(&mut self, done: Done, attempt: &mut Attempt) {
        if self.is_writable == Writable::Once {
            self.is_writable = Writable::No;
        }
        attempt.changed_session |= done.changed_session;
        if done.last_id != 0 {
            self.has_foreign_id = false;
        }
    }

    /// Tells the server which statements it can forget.
    pub(super) fn add_dismissals(&mut self, attempt: &mut Attempt) -> Result<(), Error> {
        attempt.dismissed = self.statements.take_dismissed();
        for id in &attempt.dismissed {
            self.wire.add(Command::Close, |out| {
                out.extend_from_slice(&id.to_le_bytes());
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Sends the statement, prepares it if necessary, and reads the answer.
    fn ask(
        &mut self,
        sql: &str,
        values: &[&Value],
        access: Access,
        sink: Option<&mut Sink<'_, '_>>,
        attempt: &mut Attempt,
        wait: &mut Wait<'_>,
    ) -> Result<u64, Failure> {
        let known = self.statements.known(sql);
        attempt.effects = known.as_ref().map_or_else(|| Effects::of(sql), |prepared| prepared.effects);
        let id = known.map(|prepared| prepared.check(values.len(), attempt.runs)).transpose()?;
        if id.is_some() && !attempt.runs {
            return Ok(0);
        }
        self.add_dismissals(attempt)?;
        if attempt.runs {
            self.add_commands_before(access, attempt)?;
        } else if id.is_none() && self.transaction == Transaction::None {
            // MariaDB refuses to prepare a write where the session only reads.
            attempt.add(self, WRITE_ONCE)?;
        }
        // MariaDB can run the statement that was prepared last without having told its number. A statement that commits by itself
        // waits, because its columns are not known to have a form.
        let is_direct =
            id.is_none() && attempt.runs && !attempt.commits_itself && self.wire.runs_last_prepared();
        if id.is_none() {
            self.wire.add(Command::Prepare, |out| {
                out.extend_from_slice(sql.as_bytes());
                Ok(())
            })?;
            if !is_direct {
                attempt.send(self, wait)?;
                attempt.read_before(self, wait)?;
                self.read_preparation(sql, values.len(), attempt, wait)?;
                if attempt.commits_itself && !attempt.in_parts {
                    // The preparation may have used the first one.
                    attempt.add(self, WRITE_ONCE)?;
                }
            }
        }
        let Some(sink) = sink else { return Ok(0) };
        let id = id.or_else(|| self.statements.known(sql).map(|prepared| prepared.id));
        let number = id.unwrap_or(LAST_PREPARED);
        self.wire.add(Command::Execute, |out| put_execution(out, number, values))?;
        if attempt.commits_itself {
            begin_commit(&self.limit.client)?;
            attempt.is_commit = true;
        }
        attempt.send(self, wait)?;
        attempt.read_before(self, wait)?;
        if is_direct && let Err(failure) = self.read_preparation(sql, values.len(), attempt, wait) {
            // The run was sent as well. It only read, or it is a part of a transaction that is rolled back.
            return match (failure, self.wire.result(sql, wait, &mut NoRows)) {
                (Failure::Known(error), Ok(_) | Err(Failure::Known(_))) => Err(error.into()),
                (Failure::Known(_), Err(lost)) | (lost, _) => Err(lost),
            };
        }
        wait.begin_next();
        sink.restart();
        let has_extended = self.wire.has_extended_types();
        let Some(prepared) = self.statements.known(sql) else { return Err(Malformed.into()) };
        let mut taker = Rows { prepared, sink, has_extended, has_columns: false, has_further: false };
        let done = self.wire.result(sql, wait, &mut taker);
        let (has_columns, count) = (taker.has_columns, taker.sink.count());
        if taker.has_further {
            // The server may leave out the description of a result that is like the last one, and the last one is not kept here.
            self.statements.forget_one(sql);
        }
        let done = match (done, attempt.refusal.take()) {
            // The command before it was refused. The session only reads by default, so nothing was written.
            (Ok(_) | Err(Failure::Known(_)), Some(refusal)) => return Err(refusal.into()),
            (done, _) => done?,
        };
        if done.changed_session
            && let Some(prepared) = self.statements.known(sql)
        {
            prepared.changes_session = true;
        }
        self.note_done(done, attempt);
        Ok(if has_columns { count } else { done.affected })
    }

    /// Reads the answer to the preparation, and keeps the statement.
    fn read_preparation(
        &mut self,
        sql: &str,
        bound: usize,
        attempt: &mut Attempt,
        wait: &mut Wait<'_>,
    ) -> Result<(), Failure> {
        let answer = match (self.wire.prepared(sql, wait), attempt.refusal.take()) {
            // The refusal of the command before it is the cause.
            (Ok(_) | Err(Failure::Known(_)), Some(refusal)) => return Err(refusal.into()),
            (answer, _) => answer?,
        };
        let prepared = Prepared::new(sql, answer, self.wire.has_extended_types())?;
        let checked = prepared.check(bound, attempt.runs);
        self.statements.add(sql, prepared);
        checked.map(drop).map_err(Failure::from)
    }

    /// Adds the commands that must precede the statement.
    pub(super) fn add_commands_before(&mut self, access: Access, attempt: &mut Attempt) -> Result<(), Error> {
        if self.releases_locks {
            attempt.add(self, RELEASE)?;
        }
        self.add_backstop(attempt)?;
        let Effects { reads_id, reads_count, .. } = attempt.effects;
        let is_foreign = reads_count && self.is_fresh || reads_id && self.has_foreign_id && !reads_count;
        if is_foreign {
            attempt.add(self, FORGET)?;
        }
        if self.is_writable == Writable::Always && !attempt.in_parts {
            attempt.add(self, READS)?;
        }
        match self.transaction {
            Transaction::Pending(Access::ReadOnly) => attempt.add(self, "start transaction read only"),
            Transaction::Pending(Access::ReadWrite) => attempt.add(self, "start transaction read write"),
            Transaction::None if attempt.in_parts => attempt.add(self, WRITE_ALWAYS),
            Transaction::None if access == Access::ReadWrite => attempt.add(self, WRITE_ONCE),
            Transaction::None if self.is_writable == Writable::Once => attempt.add(self, READ_ONCE),
            _ => Ok(()),
        }
    }

    /// Makes the server end each statement some time after the deadline. It has a new bound only if the old one is too short, or much
    /// too long, so it is seldom told.
    fn add_backstop(&mut self, attempt: &mut Attempt) -> Result<(), Error> {
        /// Bounds of MariaDB and of MySQL. The latter holds for reading statements only.
        const VARIABLES: [(&str, u64); 2] = [("max_statement_time", 1), ("max_execution_time", 1000)];
        let sets_own = || {
            self.settings.init_sql().is_some_and(|sql| VARIABLES.iter().any(|(name, _)| sql.contains(name)))
        };
        let needed = (self.limit.deadline.left().as_secs() + 2).next_power_of_two();
        let fits = needed <= self.backstop && self.backstop <= needed.saturating_mul(4);
        if fits || !self.wire.facts.is_at_least((10, 1), (5, 7)) || sets_own() {
            return Ok(());
        }
        attempt.backstop = Some(needed);
        let (name, unit) = VARIABLES[usize::from(!self.wire.facts.is_mariadb())];
        attempt.add(self, format!("set session {name} = {}", needed.saturating_mul(unit)))
    }

    /// Whether the server has `release_all_locks()`. MySQL has it since 5.7, MariaDB since 10.5.
    fn can_release_locks(&self) -> bool {
        self.is_tracking && self.wire.facts.is_at_least((10, 5), (5, 7))
    }
}

/// One attempt to run a statement.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Default)]
pub(super) struct Attempt {
    runs: bool,
    /// The statement commits by itself.
    commits_itself: bool,
    /// It may commit halfway.
    in_parts: bool,
    /// The commands that were sent may have committed something.
    is_commit: bool,
    is_sent: bool,
    effects: Effects,
    /// The server says that the session was changed.
    changed_session: bool,
    /// The commands before the statement.
    before: Vec<Cow<'static, str>>,
    /// The bound that one of them sets.
    backstop: Option<u64>,
    /// The statements that the server is told to forget, until it is told.
    dismissed: Vec<u32>,
    /// The first refusal of one of them.
    pub(super) refusal: Option<Error>,
}

impl Attempt {
    /// The attempt at the steps of a transaction, which have these effects together.
    pub(super) fn of_steps(effects: Effects) -> Self {
        Self { runs: true, effects, ..Self::default() }
    }

    fn add(&mut self, session: &mut Session, command: impl Into<Cow<'static, str>>) -> Result<(), Error> {
        let command = command.into();
        session.wire.add_query(&command)?;
        self.before.push(command);
        Ok(())
    }

    fn adds(&self, command: &str) -> bool {
        self.before.iter().any(|added| added == command)
    }

    /// Sends the batch, and notes first what its commands do, so that the session's state is true also after a panic.
    pub(super) fn send(&mut self, session: &mut Session, wait: &mut Wait<'_>) -> Result<(), Failure> {
        if !self.is_sent {
            if let Transaction::Pending(access) = session.transaction
                && self.runs
            {
                session.transaction = Transaction::Open(access);
            }
            if self.adds(WRITE_ALWAYS) {
                session.is_writable = Writable::Always;
            } else if self.adds(WRITE_ONCE) {
                session.is_writable = session.is_writable.max(Writable::Once);
            }
            session.releases_locks &= !self.adds(RELEASE);
            session.has_foreign_id &= !self.adds(FORGET);
            session.backstop = self.backstop.unwrap_or(session.backstop);
            self.dismissed.clear();
        }
        self.is_sent = true;
        session.wire.send(wait)
    }

    /// Reads the answers to the commands before the statement, if they are still to come.
    pub(super) fn read_before(&mut self, session: &mut Session, wait: &mut Wait<'_>) -> Result<(), Failure> {
        session.read_settings(wait)?;
        for command in std::mem::take(&mut self.before) {
            match session.wire.result(&command, wait, &mut NoRows) {
                Ok(_) => {
                    session.is_writable = match &*command {
                        READ_ONCE | READS => Writable::No,
                        WRITE_ONCE => Writable::Once,
                        WRITE_ALWAYS => Writable::Always,
                        _ => session.is_writable,
                    };
                }
                Err(Failure::Known(error)) => {
                    // Whether a lock is left, or whether an access holds, is not known any more.
                    session.leaves = Leaves::Anything;
                    self.refusal.get_or_insert(error);
                }
                Err(lost) => return Err(lost),
            }
        }
        Ok(())
    }
}
