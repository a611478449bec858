//! Several requests' statements in one round trip, as libpq's pipeline mode has it: all are sent together, each with a Sync of its
//! own, so that each is a transaction by itself and none has a part in another's failure. The answers come in the same order.
//!
//! They only read, so whoever gets no answer here can run its statement again. Runs on the worker that borrowed the session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{self, Reader};
use super::statements::Prepared;
use super::wire::{self, Failure, Limit, Wire};
use super::{Row, Session, ToSql, Transaction, bind, checked, look_at, write_row};
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::value::Value;
use crate::database::{Access, Error, RowWriter, Shape, Statement, note_cancelled};
use crate::telemetry::metrics;

/// A parameter of a statement, owned.
pub type Parameter = Box<dyn ToSql + Sync + Send>;

/// What one request asks the database, in one statement that only reads.
#[derive(Debug)]
pub struct Question(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    /// An endpoint's: its rows are written at once.
    Written { statement: Arc<Statement>, values: Vec<Value>, form: Form },
    /// A handler's in Rust, which reads the rows itself.
    Rows { sql: Arc<str>, parameters: Vec<Parameter> },
}

/// What the database answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The rows as JSON, behind what was to stand before them, and their number.
    Written(Vec<u8>, u64),
    /// The rows.
    Rows(Vec<Row>),
}

/// How the rows of an endpoint's statement are written; see [`RowWriter::new`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) shape: Shape,
    pub(crate) bytes_max: usize,
    pub(crate) rows_max: u64,
    /// What stands before them.
    pub(crate) opening: &'static str,
}

impl Form {
    /// A body to which the rows are added.
    pub(super) fn begun(self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        body.extend_from_slice(self.opening.as_bytes());
        body
    }
}

impl Answer {
    /// The rows of a handler's statement.
    pub(crate) fn into_rows(self) -> Vec<Row> {
        match self {
            Self::Rows(rows) => rows,
            Self::Written(..) => Vec::new(),
        }
    }

    /// What was written of an endpoint's, and the number of rows.
    pub(crate) fn into_written(self) -> (Vec<u8>, u64) {
        match self {
            Self::Written(body, rows) => (body, rows),
            Self::Rows(_) => (Vec::new(), 0),
        }
    }
}

impl Kind {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Written { statement, .. } => statement.text(),
            Self::Rows { sql, .. } => sql,
        }
    }
}

impl Question {
    /// A handler's own statement.
    pub(crate) fn of_handler(sql: &Arc<str>, parameters: Vec<Parameter>) -> Self {
        Self(Kind::Rows { sql: Arc::clone(sql), parameters })
    }

    /// An endpoint's, with the values of its parameters.
    pub(crate) fn of_endpoint(statement: &Arc<Statement>, values: Vec<Value>, form: Form) -> Self {
        Self(Kind::Written { statement: Arc::clone(statement), values, form })
    }

    /// The values that an endpoint's statement is run with.
    pub(crate) fn values(&self) -> &[Value] {
        match &self.0 {
            Kind::Written { values, .. } => values,
            Kind::Rows { .. } => &[],
        }
    }
}

/// Statements that were sent together, the answers of which are fetched one after the other.
pub(crate) struct Pipeline<'a> {
    wire: &'a mut Wire,
    questions: Arc<[Question]>,
    /// Their statements, those behind the next; or why one was not sent.
    prepared: std::vec::IntoIter<Result<Arc<Prepared>, Error>>,
    /// The next one's.
    next: Option<Result<Arc<Prepared>, Error>>,
    /// How many were sent and have no answer yet.
    owed: usize,
    statement_timeout: Option<Duration>,
    metrics: &'a metrics::Pool,
    fetched: usize,
    /// The next answer, as far as it has come.
    coming: Coming,
}

/// What is fetched.
pub(crate) enum Fetched {
    /// The next answer.
    Answer(Result<Answer, Error>),
    /// It has not come, and those behind it have waited for long enough.
    Slow,
}

/// An answer as far as it has come.
#[derive(Default)]
struct Coming {
    answer: answer::Answer,
    so_far: Option<Answer>,
}

impl Coming {
    fn read(
        &mut self,
        wire: &mut Wire,
        wait: &mut wire::Wait<'_>,
        Question(kind): &Question,
        prepared: &Arc<Prepared>,
    ) -> Result<Answer, Failure> {
        let so_far = self.so_far.get_or_insert_with(|| match kind {
            Kind::Written { form, .. } => Answer::Written(form.begun(), 0),
            Kind::Rows { .. } => Answer::Rows(Vec::new()),
        });
        let count = self.answer.read(wire, wait, prepared, kind.text(), &mut Rows { kind, so_far })?;
        if let Some(Answer::Written(_, rows)) = &mut self.so_far
            && prepared.plan.is_empty()
        {
            *rows = count;
        }
        self.so_far.take().ok_or_else(|| Failure::Lost(Error::Lost("its answer was taken".to_owned())))
    }
}

/// Adds rows to an answer.
struct Rows<'a> {
    kind: &'a Kind,
    so_far: &'a mut Answer,
}

impl Reader for Rows<'_> {
    fn row(&mut self, prepared: &Arc<Prepared>, fields: &[u8]) -> Result<(), Error> {
        match (&mut *self.so_far, self.kind) {
            (Answer::Written(body, count), Kind::Written { form, .. }) => {
                let Form { shape, bytes_max, rows_max, opening } = *form;
                let mut rows = RowWriter::new(body, shape, bytes_max, rows_max).behind(opening.len(), *count);
                write_row(prepared, fields, &mut rows)?;
                *count = rows.rows();
            }
            (Answer::Rows(rows), _) => rows.push(Row::new(prepared, fields)),
            (Answer::Written(..), Kind::Rows { .. }) => {}
        }
        Ok(())
    }
}

impl Question {
    /// Puts it into the batch.
    fn put(&self, prepared: &Prepared, wire: &mut Wire) -> Result<(), Error> {
        match &self.0 {
            Kind::Written { statement, values, .. } => {
                checked(prepared, statement, values)?;
                let bound = statement.bound.iter();
                let named = prepared.text_if_open(&statement.text);
                prepared.run(named.as_deref(), bound.map(|bound| bind::Parameter(&values[bound.index])), wire)
            }
            Kind::Rows { sql, parameters } => {
                let parameters = parameters.iter().map(|one| &**one as &(dyn ToSql + Sync));
                prepared.run(prepared.text_if_open(sql).as_deref(), parameters, wire)
            }
        }
    }
}

impl Session {
    /// Sends all of them but those that cannot be sent, or that could change the session: those behind it would see that.
    pub(crate) fn pipeline(&mut self, questions: &Arc<[Question]>) -> Result<Pipeline<'_>, Error> {
        if self.transaction != Transaction::None {
            return Err(Error::Usage("a transaction is open already".to_owned()));
        }
        let prepared_before = self.statements.count();
        let mut all: Vec<_> = questions.iter().map(|question| self.harmless(question.0.text())).collect();
        let may_be_replaced = self.statements.count() != prepared_before;
        self.wire.take_refusal();
        self.wire.begin_batch();
        self.put_deferred(Access::ReadOnly)?;
        let switch = self.command_before(Access::ReadOnly);
        let Self { wire, limit, metrics, statements, untidy, .. } = self;
        if let Some(switch) = switch {
            switch.put(wire)?;
        }
        let mut last: Option<Arc<Prepared>> = None;
        for (question, prepared) in questions.iter().zip(&mut all) {
            let Ok(known) = prepared else { continue };
            // Another one may have taken its place.
            let is_kept = !may_be_replaced
                || statements.known(question.0.text()).is_some_and(|kept| Arc::ptr_eq(kept, known));
            let put = if is_kept {
                wire.try_put(|wire| question.put(known, wire))
            } else {
                Err(Error::Usage("it is not prepared any more".to_owned()))
            };
            match put {
                // Most often all of them are one statement.
                Ok(()) if last.as_ref().is_some_and(|last| Arc::ptr_eq(last, known)) => {}
                Ok(()) => {
                    look_at(question.0.text(), known, &mut untidy.looks);
                    last = Some(Arc::clone(known));
                }
                Err(error) => *prepared = Err(error),
            }
        }
        let mut wait = wire.begin(limit, None)?;
        let sent = wire.send(&mut wait);
        wire.conclude(wait, sent, false)?;
        if switch.is_some() {
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
            coming: Coming::default(),
        })
    }

    /// The prepared statement, if it is known to change nothing of the session.
    fn harmless(&mut self, sql: &str) -> Result<Arc<Prepared>, Error> {
        let prepared = self.prepared(sql, Access::ReadOnly)?;
        if prepared.effects.are_none() {
            return Ok(prepared);
        }
        Err(Error::Usage("it may change the session that others share".to_owned()))
    }
}

impl Pipeline<'_> {
    /// Waits for the next answer, which is for `client`: until `deadline`, or where others wait behind it, for as long as they have
    /// patience, counted from a moment that has just passed; then it can be fetched again. `None`: there are no more.
    pub(crate) fn fetch(
        &mut self,
        client: &Presence,
        deadline: Deadline,
        patience: Option<(Instant, Duration)>,
    ) -> Option<Fetched> {
        let Self { wire, questions, owed, statement_timeout, fetched, coming, .. } = self;
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
                // Some of an earlier one was not waited for.
                let before = wire.skip_to(*owed, &mut wait);
                let read = before.and_then(|()| coming.read(wire, &mut wait, question, &prepared));
                if let Err(Failure::Slow) = read {
                    self.next = Some(Ok(prepared));
                    return Some(Fetched::Slow);
                }
                wire.conclude(wait, read, false)
            }
            Err(error) => Err(error),
        };
        *coming = Coming::default();
        *fetched += 1;
        *owed -= 1;
        // They have only read, but with what the session may do by itself.
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
