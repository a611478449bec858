//! Several requests' statements on one session, as in libpq's pipeline mode. They are sent together, or one behind the other before
//! the answers have come, each with a Sync of its own. So each is a transaction by itself, and the failure of one does not affect
//! the others. The answers come in the same order.
//!
//! Owns [`Pipeline`]. The statements only read, so a request that gets no answer here can run its statement again. Runs
//! on the worker that borrowed the session.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio_postgres::types::ToSql;

use super::Session;
use super::transaction::Transaction;
use super::work::put_endpoint;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::database::comment::Comment;
use crate::database::driver::{Fetched, RoundTrip, Waits};
use crate::database::postgres::answer::{AnswerReader, RowTaker};
use crate::database::postgres::prepared::{Prepared, write_row};
use crate::database::postgres::row::Row;
use crate::database::postgres::wire::{Failure, Limit, Pause, Wait, Wire};
use crate::database::question::{Answer, Form, Question};
use crate::database::{Access, Error, RowWriter, note_cancelled};

/// Statements on their way to the server and back. Their answers are fetched one after the other.
pub(super) struct Pipeline<'a> {
    session: &'a mut Session,
    /// The statements without an answer, in the order in which they were sent. An error is the reason why a statement was not sent.
    waiting: VecDeque<(Question, Result<Arc<Prepared>, Error>)>,
    /// The number of statements that were sent and have no answer yet.
    owed: usize,
    next_answer: PartialAnswer,
    /// Statements are being put into the batch. If that ends in a panic, the batch is not whole.
    is_sending: bool,
}

/// An answer that may have come in part.
#[derive(Default)]
struct PartialAnswer {
    reader: AnswerReader,
    so_far: Option<Answer>,
}

impl PartialAnswer {
    fn read(
        &mut self,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
        question: &Question,
        prepared: &Arc<Prepared>,
    ) -> Result<Answer, Failure> {
        let so_far = self.so_far.get_or_insert_with(|| match question {
            Question::Endpoint { form, .. } => Answer::Written(form.begun(), 0),
            Question::Handler { .. } => Answer::Rows(Vec::new()),
        });
        let mut taker = AnswerTaker { question, so_far };
        let count = self.reader.read(wire, wait, prepared, question.text(), &mut taker)?;
        if let Some(Answer::Written(_, rows)) = &mut self.so_far
            && prepared.plan.is_empty()
        {
            *rows = count;
        }
        self.so_far.take().ok_or_else(|| Failure::Lost(Error::Lost("its answer was taken".to_owned())))
    }
}

/// Adds rows to an answer.
struct AnswerTaker<'a> {
    question: &'a Question,
    so_far: &'a mut Answer,
}

impl RowTaker for AnswerTaker<'_> {
    fn row(&mut self, prepared: &Arc<Prepared>, fields: &[u8]) -> Result<(), Error> {
        match (&mut *self.so_far, self.question) {
            (Answer::Written(body, count), Question::Endpoint { form, .. }) => {
                let Form { shape, bytes_max, rows_max, opening } = *form;
                let mut rows = RowWriter::new(body, shape, bytes_max, rows_max).behind(opening.len(), *count);
                write_row(prepared, fields, &mut rows)?;
                *count = rows.rows();
            }
            (Answer::Rows(rows), _) => rows.push(Row::new(prepared, fields)),
            (Answer::Written(..), Question::Handler { .. }) => {}
        }
        Ok(())
    }
}

/// Puts a question into the batch, as a part of its own. No comment names its request.
fn put(question: &Question, prepared: &Prepared, wire: &mut Wire) -> Result<(), Error> {
    match question {
        Question::Endpoint { statement, values, .. } => {
            put_endpoint(prepared, statement, values, &Comment::default(), wire)?;
        }
        Question::Handler { sql, parameters } => {
            let parameters = parameters.iter().map(|one| &**one as &(dyn ToSql + Sync));
            prepared.put(prepared.text_if_open(sql).as_deref(), parameters, wire)?;
        }
    }
    wire.add_sync();
    Ok(())
}

impl Session {
    /// Begins a pipeline.
    pub(super) fn pipeline(&mut self) -> Result<Pipeline<'_>, Error> {
        if self.transaction != Transaction::None {
            return Err(Error::Usage("a transaction is open already".to_owned()));
        }
        Ok(Pipeline {
            session: self,
            waiting: VecDeque::new(),
            owed: 0,
            next_answer: PartialAnswer::default(),
            is_sending: false,
        })
    }

    /// The prepared statement, if it is known to change nothing about the session. A statement that could would be seen by the later
    /// ones.
    fn harmless(&mut self, sql: &str, may_prepare: bool) -> Result<Arc<Prepared>, Error> {
        let prepared = match self.statements.known(sql) {
            Some(prepared) => Arc::clone(prepared),
            None if may_prepare => self.prepared(sql, Access::ReadOnly)?,
            None => return Err(Error::Usage("it is not prepared".to_owned())),
        };
        if prepared.effect.is_none() {
            return Ok(prepared);
        }
        Err(Error::Usage("it may change the session that others share".to_owned()))
    }
}

impl Pipeline<'_> {
    /// Puts the statements into the batch, except those that cannot be sent.
    fn put(&mut self, questions: &mut dyn Iterator<Item = Question>) -> Result<(), Error> {
        // Nothing can be prepared while answers are on their way.
        let is_first = self.waiting.is_empty();
        let Self { session, waiting, owed, .. } = self;
        let prepared_before = session.statements.count();
        let first = waiting.len();
        for question in questions {
            let prepared = session.harmless(question.text(), is_first);
            waiting.push_back((question, prepared));
        }
        let may_be_replaced = session.statements.count() != prepared_before;
        session.wire.begin_batch();
        if is_first {
            session.wire.take_refusal();
            session.put_deferred(Access::ReadOnly, true)?;
            if let Some(command) = session.command_before(Access::ReadOnly) {
                command.put(&mut session.wire)?;
                command.note(&mut session.transaction, &mut session.access);
            }
        }
        let mut last: Option<Arc<Prepared>> = None;
        for (question, prepared) in waiting.range_mut(first..) {
            let Ok(known) = prepared else { continue };
            // Another statement may have replaced it.
            let is_kept = !may_be_replaced
                || session.statements.known(question.text()).is_some_and(|kept| Arc::ptr_eq(kept, known));
            let put = if is_kept {
                session.wire.try_put(|wire| put(question, known, wire))
            } else {
                Err(Error::Usage("it is not prepared any more".to_owned()))
            };
            if let Err(error) = put {
                *prepared = Err(error);
                continue;
            }
            *owed += 1;
            // Most often all questions have the same statement.
            if !last.as_ref().is_some_and(|last| Arc::ptr_eq(last, known)) {
                session.untidy.ask(question.text(), known);
                last = Some(Arc::clone(known));
            }
        }
        Ok(())
    }
}

impl RoundTrip for Pipeline<'_> {
    fn send(
        &mut self,
        questions: &mut dyn Iterator<Item = Question>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let limit = Limit { statement: self.session.limit.statement, ..Limit::until(deadline) };
        let mut wait = self.session.wire.begin(&limit, None)?;
        self.is_sending = true;
        let sends = self.session.wire.sends;
        let put = self.put(questions);
        self.is_sending = false;
        let Self { session, .. } = self;
        let sent = put.map_err(Failure::from).and_then(|()| session.wire.send(&mut wait));
        session.note_departed(sends);
        let sent = session.wire.conclude(wait, sent, false);
        match sent {
            Ok(()) => session.access = session.access.or(Some(Access::ReadOnly)),
            Err(_) => session.wire.close(),
        }
        sent
    }

    fn fetch(&mut self, client: &Presence, deadline: Deadline, waits: Waits<'_>) -> Option<Fetched> {
        let Self { session, waiting, owed, next_answer, .. } = self;
        let (question, Ok(prepared)) = waiting.front()? else {
            let (question, unsent) = waiting.pop_front()?;
            return Some(Fetched::Answer(question, Err(unsent.err()?)));
        };
        let limit = Limit { client: client.clone(), deadline, statement: session.limit.statement };
        let (patience, bell) = match waits {
            Waits::Not => (None, None),
            Waits::Until { patience, bell } => (patience, bell),
        };
        let wire = &mut session.wire;
        let answered = match wire.begin(&limit, patience) {
            Ok(mut wait) => {
                if let Waits::Not = waits {
                    wait.cut_short();
                }
                wait.listen_to(bell);
                // The rest of an earlier answer may be unread.
                let before = wire.skip_to(*owed, &mut wait);
                match before.and_then(|()| next_answer.read(wire, &mut wait, question, prepared)) {
                    Err(Failure::NotYet(Pause::Bell)) => return Some(Fetched::NotYet),
                    Err(Failure::NotYet(Pause::Patience)) => return Some(Fetched::Slow),
                    read => wire.conclude(wait, read, false),
                }
            }
            Err(error) => Err(error),
        };
        *next_answer = PartialAnswer::default();
        *owed -= 1;
        // The statements have only read, but the session itself may write.
        let answered = match wire.take_refusal() {
            Some(refusal) => {
                wire.close();
                answered.and(Err(refusal))
            }
            None => answered,
        };
        if let Err(error) = &answered {
            note_cancelled(error, &session.metrics);
        }
        let (question, _) = waiting.pop_front()?;
        Some(Fetched::Answer(question, answered))
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        if self.is_sending {
            self.session.wire.close();
        }
        self.session.wire.settle();
    }
}

impl std::fmt::Debug for Pipeline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
