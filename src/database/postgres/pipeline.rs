//! Several requests' statements in one round trip, as libpq's pipeline mode has it: all are sent together, each with a Sync of its
//! own, so that each is a transaction by itself and none has a part in another's failure. The answers come in the same order.
//!
//! They only read, so whoever gets no answer here can run its statement again. Runs on the worker that borrowed the session.

use std::cell::Cell;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::future::{MaybeDone, maybe_done};
use tokio_postgres::Client;

use super::direct::Direct;
use super::wire::{self, Limit, Wire};
use super::{Prepared, Row, Session, ToSql, Transaction, run};
use crate::database::{Access, Error, RowWriter, Shape, Statement, note_cancelled};
use crate::deadline::Deadline;
use crate::metrics;
use crate::presence::Presence;
use crate::value::Value;

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

    async fn ask(&self, client: &Client, prepared: Arc<Prepared>) -> Result<Answer, Error> {
        match &self.0 {
            Kind::Written { statement, values, form } => {
                let Form { shape, bytes_max, rows_max, .. } = *form;
                let mut body = form.begun();
                let mut rows = RowWriter::new(&mut body, shape, bytes_max, rows_max);
                let count = run(client, &prepared, statement, None, values, &mut rows).await?;
                Ok(Answer::Written(body, count))
            }
            Kind::Rows { sql, parameters } => {
                let parameters: Vec<_> = parameters.iter().map(|one| &**one as &(dyn ToSql + Sync)).collect();
                let named = prepared.is_open.then_some(&**sql);
                let rows = prepared.query(client, named, &parameters).await;
                rows.map(Answer::Rows).map_err(|error| wire::refused(&error, sql))
            }
        }
    }
}

/// Statements that were sent together, the answers of which are fetched one after the other.
pub(crate) struct Pipeline<'a> {
    client: &'a Client,
    wire: &'a mut Wire,
    statement_timeout: Option<Duration>,
    metrics: &'a metrics::Pool,
    pub(super) way: Way<'a>,
    fetched: usize,
    /// Answers that nobody waits for any more may still come.
    is_left: bool,
}

/// How statements go to the server and their answers come back.
pub(super) enum Way<'a> {
    Direct(&'a mut Direct, Arc<[Question]>),
    /// Through tokio-postgres. They have a statement each, in their order; of some the answer was fetched.
    Driven(&'a mut [Box<dyn Place>]),
}

/// What is fetched.
pub(crate) enum Fetched {
    /// The next answer.
    Answer(Result<Answer, Error>),
    /// It has not come, and those behind it have waited for long enough.
    Slow,
}

/// Where a statement is that was sent, until its answer has come. It is larger than what an allocator has at hand, so the next one
/// is put in the same place.
pub(super) trait Place: Send {
    /// Sends a question as far as the connection.
    fn ask(&mut self, sent: Sent);

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, Error>>;

    /// Nobody waits for the answer any more.
    fn leave(&mut self);
}

/// One of the questions that are sent together, and what it takes.
pub(super) struct Sent {
    questions: Arc<[Question]>,
    index: usize,
    client: Arc<Client>,
    prepared: Arc<Prepared>,
}

impl Sent {
    async fn answer(self) -> Result<Answer, Error> {
        self.questions[self.index].ask(&self.client, self.prepared).await
    }
}

struct Asker<A, F: Future> {
    ask: A,
    run: Pin<Box<MaybeDone<F>>>,
}

impl<A, F> Place for Asker<A, F>
where
    A: Fn(Sent) -> F + Send,
    F: Future<Output = Result<Answer, Error>> + Send,
{
    fn ask(&mut self, sent: Sent) {
        self.run.set(maybe_done((self.ask)(sent)));
        // What was polled once waits for its answer.
        let _ = self.run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        let answer = self.run.as_mut().poll(context).map(|()| self.run.as_mut().take_output());
        answer.map(|answer| answer.unwrap_or_else(|| Err(Error::Lost("its answer was taken".to_owned()))))
    }

    fn leave(&mut self) {
        self.run.set(MaybeDone::Gone);
    }
}

fn place() -> Box<dyn Place> {
    Box::new(Asker { ask: Sent::answer, run: Box::pin(MaybeDone::Gone) })
}

impl Session {
    /// Sends all of them. Nothing is sent where that fails.
    pub(crate) fn pipeline(&mut self, questions: &Arc<[Question]>) -> Result<Pipeline<'_>, Error> {
        if self.transaction != Transaction::None {
            return Err(Error::Usage("a transaction is open already".to_owned()));
        }
        if let Some(switch) = self.command_before(Access::ReadOnly) {
            self.access = None;
            self.command(switch.text, &self.limit.clone(), false)?;
            self.access = Some(Access::ReadOnly);
        }
        let Self { client, wire, statements, limit, metrics, places, direct, .. } = self;
        let statement_timeout = limit.statement;
        if let Some(bytes) = direct.compose(questions, statements)
            && wire.send_direct(bytes)?
        {
            direct.begin();
            let way = Way::Direct(direct, Arc::clone(questions));
            return Ok(Pipeline {
                client,
                wire,
                statement_timeout,
                metrics,
                way,
                fetched: 0,
                is_left: false,
            });
        }
        let prepared = async {
            let mut prepared = Vec::with_capacity(questions.len());
            for question in &**questions {
                prepared.push(statements.prepare(client, question.0.text()).await?);
            }
            Ok(prepared)
        };
        let prepared = wire.complete(prepared, limit, &Cell::new(false))?;
        places.resize_with(places.len().max(questions.len()), place);
        let places = &mut places[..questions.len()];
        wire.compose(|| {
            for ((index, prepared), place) in prepared.into_iter().enumerate().zip(&mut *places) {
                let (questions, client) = (Arc::clone(questions), Arc::clone(client));
                place.ask(Sent { questions, index, client, prepared });
            }
        });
        let way = Way::Driven(places);
        Ok(Pipeline { client, wire, statement_timeout, metrics, way, fetched: 0, is_left: false })
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
        let Self { wire, way, statement_timeout, fetched, .. } = self;
        let next = *fetched;
        if next >= way.len() {
            return None;
        }
        let limit = Limit { client: client.clone(), deadline, statement: *statement_timeout };
        let work = poll_fn(|context| match way {
            Way::Direct(direct, questions) => direct.poll(&questions[next]),
            Way::Driven(places) => places[next].poll(context),
        });
        let commits = Cell::new(false);
        let answered = match patience {
            Some(patience) => wire.complete_within(patience, work, &limit, &commits),
            None => Some(wire.complete(work, &limit, &commits)),
        };
        let Some(answered) = answered else { return Some(Fetched::Slow) };
        match way {
            Way::Direct(direct, _) => direct.leave(),
            Way::Driven(places) => places[next].leave(),
        }
        *fetched += 1;
        if let Err(error) = &answered {
            note_cancelled(error, self.metrics);
            // Of some errors more would have come.
            self.is_left = true;
        }
        Some(Fetched::Answer(answered))
    }

    /// Nobody waits for the answers behind the next any more.
    pub(crate) fn leave_others(&mut self) {
        self.leave_all_behind(self.fetched + 1);
    }

    fn leave_all_behind(&mut self, kept: usize) {
        // What comes directly is told apart when it comes.
        let Way::Driven(places) = &mut self.way else { return };
        let kept = kept.min(places.len());
        let (kept, left) = mem::take(places).split_at_mut(kept);
        *places = kept;
        self.is_left |= !left.is_empty();
        for place in left {
            place.leave();
        }
    }
}

impl Way<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Direct(_, questions) => questions.len(),
            Self::Driven(places) => places.len(),
        }
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        self.leave_all_behind(self.fetched);
        if let Way::Direct(direct, _) = &mut self.way {
            self.wire.end_direct(direct.is_owed().then(|| poll_fn(|_| direct.poll_rest())));
            if !direct.end() {
                self.wire.close();
            }
        } else if self.is_left && !self.wire.is_broken() {
            self.wire.settle(self.client);
        }
    }
}

impl std::fmt::Debug for Pipeline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("len", &self.way.len()).finish_non_exhaustive()
    }
}
