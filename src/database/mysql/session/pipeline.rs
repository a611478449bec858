//! Statements of several requests in one round trip: all are sent, and each answer is fetched when it is needed.
//!
//! The server reads its commands in their order and answers them in that order, so the next command may be sent before the last
//! answer has come. Each statement is a transaction by itself, and one that fails changes nothing for those behind it. Only statements
//! that are known to leave nothing on the session are sent together.
//!
//! Owns [`Pipeline`]. A request that gets no answer here can run its statement again. Runs on the worker that borrowed the session.

use std::collections::VecDeque;
use std::mem;

use super::Session;
use super::rows::{NoRows, Rows, Sink};
use super::run::{Attempt, FORGOTTEN};
use super::state::Transaction;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::value::Value;
use crate::database::driver::{Fetched, Outgoing, RoundTrip, Waits};
use crate::database::limit::Limit;
use crate::database::mysql::bind::put_execution;
use crate::database::mysql::effects::Effects;
use crate::database::mysql::packet::Malformed;
use crate::database::mysql::statements::Prepared;
use crate::database::mysql::wire::{Command, Failure, Pause, Wait};
use crate::database::outcome::Commits;
use crate::database::question::{Answer, Form, Question};
use crate::database::{Access, Error, RowWriter, note_cancelled};

/// Statements on their way to the server and back. Their answers are fetched one after the other.
pub(super) struct Pipeline<'a> {
    session: &'a mut Session,
    /// The statements without an answer, in the order in which they were sent.
    waiting: VecDeque<Waiting>,
    /// The commands before the first statement, whose answers are still to come.
    before: Option<Attempt>,
    /// The number of answers that nobody wants, and that come before the next one.
    unwanted: usize,
}

/// A statement without an answer.
struct Waiting {
    question: Question,
    /// An error is the reason why it was not sent.
    sent: Result<(), Error>,
}

impl Session {
    /// Begins a pipeline.
    pub(super) fn pipeline(&mut self) -> Result<Pipeline<'_>, Error> {
        if self.transaction != Transaction::None {
            return Err(Error::Usage("a transaction is open already".to_owned()));
        }
        Ok(Pipeline { session: self, waiting: VecDeque::new(), before: None, unwanted: 0 })
    }

    /// Whether a statement that has run on this session leaves nothing that the next one could see, neither by its text nor by what
    /// the server has told of its runs.
    pub(super) fn is_harmless(&self, sql: &str) -> bool {
        let is_tracking = self.is_tracking && self.wire.runs_last_prepared();
        is_tracking && self.statements.peek(sql).is_some_and(Prepared::is_harmless)
    }

    /// Prepares a statement of some request, within this limit.
    fn prepare_within(&mut self, sql: &str, limit: &Limit) -> Result<(), Error> {
        let own = mem::replace(&mut self.limit, limit.clone());
        let prepared = self.with_statement(sql, &[], Access::ReadOnly, Commits::Nothing, None);
        self.limit = own;
        prepared.map(drop)
    }

    /// Adds a statement to the batch.
    fn put(&mut self, question: &Question) -> Result<(), Error> {
        let Question::Endpoint { statement, values, .. } = question else {
            return Err(Error::Usage("a handler's parameters are PostgreSQL's".to_owned()));
        };
        if !self.is_harmless(&statement.text) {
            return Err(Error::Usage("it may change the session that others share".to_owned()));
        }
        let prepared = self.statements.known(&statement.text).ok_or_else(forgotten)?;
        let values: Vec<&Value> = statement.bound.iter().map(|bound| &values[bound.index]).collect();
        let id = prepared.check(values.len(), true)?;
        self.wire.add(Command::Execute, |out| put_execution(out, id, &values))
    }
}

impl Pipeline<'_> {
    /// Adds the statements to the batch, except those that cannot be sent.
    fn put(
        &mut self,
        statements: &mut dyn Iterator<Item = Outgoing>,
        limit: &Limit,
    ) -> Result<Option<Attempt>, Error> {
        let Self { session, waiting, .. } = self;
        let is_first = waiting.is_empty();
        let first = waiting.len();
        for Outgoing { question, .. } in statements {
            // Nothing can be prepared while answers are on their way.
            let is_known = !is_first || session.statements.peek(question.text()).is_some();
            let sent = if is_known { Ok(()) } else { session.prepare_within(question.text(), limit) };
            waiting.push_back(Waiting { question, sent });
        }
        session.wire.begin_batch();
        let mut attempt = None;
        if is_first {
            let mut before = Attempt::of_steps(Effects::default());
            session.add_dismissals(&mut before)?;
            session.add_commands_before(Access::ReadOnly, &mut before)?;
            attempt = Some(before);
        }
        for Waiting { question, sent } in waiting.range_mut(first..) {
            if sent.is_ok() {
                *sent = session.put(question);
            }
        }
        Ok(attempt)
    }

    /// Reads the answer to the first statement.
    fn read(&mut self, wait: &mut Wait<'_>) -> Result<Answer, Failure> {
        let Self { session, waiting, unwanted, .. } = self;
        let Some(Waiting { question: Question::Endpoint { statement, form, .. }, .. }) = waiting.front()
        else {
            return Err(Malformed.into());
        };
        while *unwanted > 0 {
            match session.wire.result("", wait, &mut NoRows) {
                Ok(done) if done.changed_session => {
                    return Err(Failure::Lost(Error::Lost(
                        "a statement before this one changed it".to_owned(),
                    )));
                }
                Ok(_) | Err(Failure::Known(_)) => *unwanted -= 1,
                Err(failure) => return Err(failure),
            }
        }
        let has_extended = session.wire.has_extended_types();
        let Some(prepared) = session.statements.known(&statement.text) else { return Err(Malformed.into()) };
        let Form { shape, bytes_max, rows_max, .. } = *form;
        let mut body = form.begun();
        let mut rows = RowWriter::new(&mut body, shape, bytes_max, rows_max);
        let mut sink = Sink::Response(&mut rows);
        let mut taker =
            Rows { prepared, sink: &mut sink, has_extended, has_columns: false, has_further: false };
        let done = session.wire.result(&statement.text, wait, &mut taker);
        let (has_columns, count) = (taker.has_columns, taker.sink.count());
        let done = done?;
        if done.changed_session {
            // The answers behind this one may be of another session than they were asked on. Their statements run again.
            if let Some(prepared) = session.statements.known(&statement.text) {
                prepared.changes_session = true;
            }
            session.wire.close();
        }
        Ok(Answer::Written(body, if has_columns { count } else { done.affected }))
    }
}

fn forgotten() -> Error {
    Error::Usage("it is not prepared".to_owned())
}

impl RoundTrip for Pipeline<'_> {
    /// One transaction for several statements would need commands of its own.
    fn joins_transactions(&self) -> bool {
        false
    }

    fn send(
        &mut self,
        statements: &mut dyn Iterator<Item = Outgoing>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let limit = Limit { statement: self.session.limit.statement, ..Limit::until(deadline) };
        let mut attempt = self.put(statements, &limit).inspect_err(|_| self.session.wire.close())?;
        let mut wait = self.session.wire.begin(&limit).inspect_err(|_| self.session.wire.close())?;
        let sent = match &mut attempt {
            Some(attempt) => attempt.send(self.session, &mut wait),
            None => self.session.wire.send(&mut wait),
        };
        self.before = attempt.or(self.before.take());
        self.session.is_fresh = false;
        self.session.wire.conclude(wait, sent, false).inspect_err(|_| self.session.wire.close())
    }

    fn fetch(&mut self, client: &Presence, deadline: Deadline, waits: Waits<'_>) -> Option<Fetched> {
        if let Waiting { sent: Err(_), .. } = self.waiting.front()? {
            let Waiting { question, sent } = self.waiting.pop_front()?;
            return Some(Fetched::Answer(question, Err(sent.err()?)));
        }
        let limit = Limit { client: client.clone(), deadline, statement: self.session.limit.statement };
        let answered = match self.session.wire.begin(&limit) {
            Ok(mut wait) => {
                let before = self.before.take().map_or(Ok(()), |mut attempt| {
                    let read = attempt.read_before(self.session, &mut wait);
                    read.and_then(|()| attempt.refusal.take().map_or(Ok(()), |error| Err(error.into())))
                });
                match waits {
                    Waits::Not => wait.cut_short(),
                    Waits::Until { patience, bell } => wait.listen_to(patience, bell),
                }
                match before.and_then(|()| self.read(&mut wait)) {
                    Err(Failure::NotYet(Pause::Bell)) => return Some(Fetched::NotYet),
                    Err(Failure::NotYet(Pause::Patience)) => return Some(Fetched::Slow),
                    read => self.session.wire.conclude(wait, read, false),
                }
            }
            Err(error) => {
                // Its answer comes all the same.
                self.unwanted += 1;
                Err(error)
            }
        };
        // The rest of an answer that is too long.
        self.session.wire.settle();
        let Waiting { question, .. } = self.waiting.pop_front()?;
        if let Err(error) = &answered {
            note_cancelled(error, &self.session.metrics);
            if error.code().is_some_and(|code| FORGOTTEN.contains(&code)) {
                self.session.statements.forget_one(question.text());
            }
        }
        Some(Fetched::Answer(question, answered))
    }
}

impl Drop for Pipeline<'_> {
    /// Closes a session with answers that nobody has read: the next borrower would take them for its own.
    fn drop(&mut self) {
        let is_owed = self.waiting.iter().any(|waiting| waiting.sent.is_ok());
        if is_owed || self.unwanted > 0 || self.before.is_some() {
            self.session.wire.close();
        }
    }
}

impl std::fmt::Debug for Pipeline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}
