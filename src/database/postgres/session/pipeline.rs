//! Several requests' statements in one round trip, as in libpq's pipeline mode. All are sent together, each with a Sync
//! of its own. So each is a transaction by itself, and the failure of one does not affect the others. The answers come
//! in the same order.
//!
//! Owns [`Pipeline`]. The statements only read, so a request that gets no answer here can run its statement again. Runs
//! on the worker that borrowed the session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::types::ToSql;

use super::Session;
use super::transaction::Transaction;
use super::work::checked;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::database::driver::{Fetched, RoundTrip};
use crate::database::postgres::answer::{AnswerReader, RowTaker};
use crate::database::postgres::bind;
use crate::database::postgres::prepared::{Prepared, write_row};
use crate::database::postgres::row::Row;
use crate::database::postgres::wire::{Failure, Limit, Wait, Wire};
use crate::database::question::{Answer, Form, Question};
use crate::database::{Access, Error, RowWriter, note_cancelled};
use crate::telemetry::metrics;

/// Statements that were sent together. Their answers are fetched one after the other.
pub(super) struct Pipeline<'a> {
    wire: &'a mut Wire,
    questions: Arc<[Question]>,
    /// The statements behind the next one. An error is the reason why a statement was not sent.
    prepared: std::vec::IntoIter<Result<Arc<Prepared>, Error>>,
    /// The next statement.
    next: Option<Result<Arc<Prepared>, Error>>,
    /// The number of statements that were sent and have no answer yet.
    owed: usize,
    statement_timeout: Option<Duration>,
    metrics: &'a metrics::Pool,
    fetched: usize,
    next_answer: PartialAnswer,
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

/// Puts a question into the batch.
fn put(question: &Question, prepared: &Prepared, wire: &mut Wire) -> Result<(), Error> {
    match question {
        Question::Endpoint { statement, values, .. } => {
            checked(prepared, statement, values)?;
            let text = prepared.text_if_open(&statement.text);
            let bound = statement.bound.iter().map(|bound| bind::Parameter(&values[bound.index]));
            prepared.run(text.as_deref(), bound, wire)
        }
        Question::Handler { sql, parameters } => {
            let parameters = parameters.iter().map(|one| &**one as &(dyn ToSql + Sync));
            prepared.run(prepared.text_if_open(sql).as_deref(), parameters, wire)
        }
    }
}

impl Session {
    /// Sends the questions. Leaves out a statement that cannot be sent, and one that could change the session: the
    /// later statements would see the change.
    pub(super) fn pipeline(&mut self, questions: &Arc<[Question]>) -> Result<Pipeline<'_>, Error> {
        if self.transaction != Transaction::None {
            return Err(Error::Usage("a transaction is open already".to_owned()));
        }
        let prepared_before = self.statements.count();
        let mut all: Vec<_> = questions.iter().map(|question| self.harmless(question.text())).collect();
        let may_be_replaced = self.statements.count() != prepared_before;
        self.wire.take_refusal();
        self.wire.begin_batch();
        self.put_deferred(Access::ReadOnly)?;
        let command = self.command_before(Access::ReadOnly);
        let Self { wire, limit, metrics, statements, untidy, .. } = self;
        if let Some(command) = command {
            command.put(wire)?;
        }
        let mut last: Option<Arc<Prepared>> = None;
        for (question, prepared) in questions.iter().zip(&mut all) {
            let Ok(known) = prepared else { continue };
            // Another statement may have replaced it.
            let is_kept = !may_be_replaced
                || statements.known(question.text()).is_some_and(|kept| Arc::ptr_eq(kept, known));
            let put = if is_kept {
                wire.try_put(|wire| put(question, known, wire))
            } else {
                Err(Error::Usage("it is not prepared any more".to_owned()))
            };
            match put {
                // Most often all questions have the same statement.
                Ok(()) if last.as_ref().is_some_and(|last| Arc::ptr_eq(last, known)) => {}
                Ok(()) => {
                    untidy.ask_planner(question.text(), known);
                    last = Some(Arc::clone(known));
                }
                Err(error) => *prepared = Err(error),
            }
        }
        let mut wait = wire.begin(limit, None)?;
        let sent = wire.send(&mut wait);
        wire.conclude(wait, sent, false)?;
        self.deferred = None;
        if command.is_some() {
            self.access = Some(Access::ReadOnly);
        }
        Ok(Pipeline {
            wire,
            owed: all.iter().filter(|prepared| prepared.is_ok()).count(),
            questions: Arc::clone(questions),
            prepared: all.into_iter(),
            next: None,
            statement_timeout: limit.statement,
            metrics,
            fetched: 0,
            next_answer: PartialAnswer::default(),
        })
    }

    /// The prepared statement, if it is known to change nothing about the session.
    fn harmless(&mut self, sql: &str) -> Result<Arc<Prepared>, Error> {
        let prepared = self.prepared(sql, Access::ReadOnly)?;
        if prepared.effect.is_none() {
            return Ok(prepared);
        }
        Err(Error::Usage("it may change the session that others share".to_owned()))
    }
}

impl RoundTrip for Pipeline<'_> {
    fn fetch(
        &mut self,
        client: &Presence,
        deadline: Deadline,
        patience: Option<(Instant, Duration)>,
    ) -> Option<Fetched> {
        let Self { wire, questions, owed, statement_timeout, fetched, next_answer, .. } = self;
        let question = questions.get(*fetched)?;
        let prepared = match self.next.take().or_else(|| self.prepared.next())? {
            Ok(prepared) => prepared,
            Err(error) => {
                *fetched += 1;
                return Some(Fetched::Answer(Err(error)));
            }
        };
        let limit = Limit { client: client.clone(), deadline, statement: *statement_timeout };
        let answered = match wire.begin(&limit, patience) {
            Ok(mut wait) => {
                // The rest of an earlier answer may be unread.
                let before = wire.skip_to(*owed, &mut wait);
                let read = before.and_then(|()| next_answer.read(wire, &mut wait, question, &prepared));
                if let Err(Failure::Slow) = read {
                    self.next = Some(Ok(prepared));
                    return Some(Fetched::Slow);
                }
                wire.conclude(wait, read, false)
            }
            Err(error) => Err(error),
        };
        *next_answer = PartialAnswer::default();
        *fetched += 1;
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
            note_cancelled(error, self.metrics);
        }
        Some(Fetched::Answer(answered))
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        self.wire.settle();
    }
}

impl std::fmt::Debug for Pipeline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("len", &self.questions.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
