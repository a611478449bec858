//! Several requests' statements on one session, as in libpq's pipeline mode. They are sent together, or one behind the other before
//! the answers have come. The answers come in the same order.
//!
//! Statements that are sent together may be one transaction, which ends with one Sync. The server then commits once and sends one
//! piece, and both would cost it about as much as a short statement itself. Where a statement fails, the server leaves out those
//! behind it in its transaction. Statements of other transactions are not affected. No statement can affect a later one, because
//! only those are sent that change nothing about session and transaction (see `effects`).
//!
//! Owns [`Pipeline`]. The statements only read, so a request that gets no answer here can run its statement again. Runs
//! on the worker that borrowed the session.

use std::collections::VecDeque;
use std::sync::Arc;

use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, EMPTY_QUERY_RESPONSE_TAG, ERROR_RESPONSE_TAG,
};
use tokio_postgres::types::ToSql;

use super::Session;
use super::transaction::Transaction;
use super::work::put_endpoint;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::database::comment::Comment;
use crate::database::driver::{Fetched, Outgoing, RoundTrip, Waits};
use crate::database::limit::Limit;
use crate::database::postgres::answer::{AnswerReader, RowTaker};
use crate::database::postgres::prepared::{Prepared, write_row};
use crate::database::postgres::row::Row;
use crate::database::postgres::wire::{Failure, Pause, Wait, Wire};
use crate::database::question::{Answer, Form, Question};
use crate::database::{Access, Error, RowWriter, note_cancelled};

/// Statements on their way to the server and back. Their answers are fetched one after the other.
pub(super) struct Pipeline<'a> {
    session: &'a mut Session,
    /// The statements without an answer, in the order in which they were sent.
    waiting: VecDeque<Waiting>,
    /// The number of parts of batches, each of them a transaction, of which some statement has no answer yet.
    owed: usize,
    /// A statement of the first of these parts has failed. The server has run none behind it.
    has_failed: bool,
    /// The number of answers of this part that nobody wants, and that are not read to their ends.
    unwanted: usize,
    next_answer: PartialAnswer,
    /// Statements are being put into the batch. If that ends in a panic, the batch is not whole.
    is_sending: bool,
}

/// A statement without an answer.
struct Waiting {
    question: Question,
    /// An error is the reason why it was not sent.
    prepared: Result<Arc<Prepared>, Error>,
    /// It is the last of its part.
    ends_part: bool,
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

/// Reads the rest of the answers that nobody wants. Notes if one of them is an error, behind which the server has run nothing.
fn skip_answers(
    wire: &mut Wire,
    wait: &mut Wait<'_>,
    unwanted: &mut usize,
    has_failed: &mut bool,
) -> Result<(), Failure> {
    while *unwanted > 0 && !*has_failed {
        match wire.message(wait)?.tag {
            COMMAND_COMPLETE_TAG | EMPTY_QUERY_RESPONSE_TAG => *unwanted -= 1,
            ERROR_RESPONSE_TAG => *has_failed = true,
            _ => {}
        }
    }
    Ok(())
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

/// Puts a question into the batch. No comment names its request.
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
            has_failed: false,
            unwanted: 0,
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
    fn put(&mut self, statements: &mut dyn Iterator<Item = Outgoing>) -> Result<(), Error> {
        // Nothing can be prepared while answers are on their way.
        let is_first = self.waiting.is_empty();
        let Self { session, waiting, owed, .. } = self;
        let prepared_before = session.statements.count();
        let first = waiting.len();
        for Outgoing { question, is_followed } in statements {
            let prepared = session.harmless(question.text(), is_first);
            waiting.push_back(Waiting { question, prepared, ends_part: !is_followed });
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
        let mut asked: Option<Arc<Prepared>> = None;
        // The last statement of the part in the making.
        let mut last: Option<usize> = None;
        for index in first..waiting.len() {
            let ends_part = waiting[index].ends_part || index + 1 == waiting.len();
            let Waiting { question, prepared, ends_part: is_last } = &mut waiting[index];
            *is_last = false;
            if let Ok(known) = prepared {
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
                } else {
                    last = Some(index);
                    // Most often all questions have the same statement.
                    if !asked.as_ref().is_some_and(|asked| Arc::ptr_eq(asked, known)) {
                        session.untidy.ask(question.text(), known);
                        asked = Some(Arc::clone(known));
                    }
                }
            }
            if ends_part && let Some(last) = last.take() {
                session.wire.add_sync();
                waiting[last].ends_part = true;
                *owed += 1;
            }
        }
        Ok(())
    }

    /// Removes the first statement.
    fn pop(&mut self) -> Option<Question> {
        let Waiting { question, prepared, ends_part } = self.waiting.pop_front()?;
        if prepared.is_ok() && ends_part {
            self.owed -= 1;
            (self.has_failed, self.unwanted) = (false, 0);
        }
        Some(question)
    }
}

impl RoundTrip for Pipeline<'_> {
    fn joins_transactions(&self) -> bool {
        self.session.reads_join_transactions
    }

    fn send(
        &mut self,
        statements: &mut dyn Iterator<Item = Outgoing>,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let limit = Limit { statement: self.session.limit.statement, ..Limit::until(deadline) };
        let mut wait = self.session.wire.begin(&limit, None)?;
        self.is_sending = true;
        let sends = self.session.wire.sends;
        let put = self.put(statements);
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
        let Self { session, waiting, owed, has_failed, unwanted, next_answer, .. } = self;
        let Waiting { question, prepared: Ok(prepared), ends_part } = waiting.front()? else {
            let Waiting { question, prepared, .. } = waiting.pop_front()?;
            return Some(Fetched::Answer(question, Err(prepared.err()?)));
        };
        if *has_failed {
            self.pop()?;
            return Some(Fetched::NotRun);
        }
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
                let before = before.and_then(|()| skip_answers(wire, &mut wait, unwanted, has_failed));
                if *has_failed {
                    self.pop()?;
                    return Some(Fetched::NotRun);
                }
                next_answer.reader.set_followed(!ends_part);
                match before.and_then(|()| next_answer.read(wire, &mut wait, question, prepared)) {
                    Err(Failure::NotYet(Pause::Bell)) => return Some(Fetched::NotYet),
                    Err(Failure::NotYet(Pause::Patience)) => return Some(Fetched::Slow),
                    read => wire.conclude(wait, read, false),
                }
            }
            Err(error) => Err(error),
        };
        *next_answer = PartialAnswer::default();
        match &answered {
            Ok(_) => {}
            Err(Error::Refused(_)) => *has_failed = true,
            // The client has left, or the answer is too large. The answers behind it come all the same.
            Err(_) => *unwanted += 1,
        }
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
        Some(Fetched::Answer(self.pop()?, answered))
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
