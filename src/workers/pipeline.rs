//! Batches: one worker answers several requests together. Each of them asks the database one statement that only reads,
//! and all statements go to the database on one session.
//!
//! Most of a short statement's cost is its way to the database: a system call to send, one to wait, the change of thread to the
//! database and back. A batch pays for one way, and each request is answered as soon as its own answer is there. While the answers
//! are on their way, the worker listens to the queue: a request that comes then joins the batch, and its statement is sent behind
//! the others. So a database that is far away needs no more workers and no more sessions than a near one.
//!
//! A request waits in a batch only for the work of the statements before its own, never for the way. So the limits count the
//! database's work: the time of a statement without the session's shortest round trip.
//!
//! A request that fails in a batch goes back to the queue, and a free worker runs it by itself in the regular way: its
//! statement has only read. So one place reports failures, and no request waits for long behind a statement that turns
//! out to be slow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Admitted, Shared, admit, final_response, guarded};
use crate::base::queue::{Batch, Joined, Load, Ticket};
use crate::base::system::Bell;
use crate::database::{self, Answer, Connection, Fetched, Outgoing, Question, RoundTrip, WAY_VARIES, Waits};
use crate::exchange::job::Job;
use crate::handler::{Batched, BatchedStatement, Error, Worked};
use crate::http::Response;
use crate::telemetry::activity::{Activity, Spent, WorkerState};

/// How long the database may work on the statements of a batch, by their means, while no worker is free. The limit is several
/// times the cost of a way to the database and back, which a batch saves. It is also short enough that no request waits for long
/// that another worker could run soon.
pub(super) const WORK_MAX: Duration = Duration::from_millis(1);

/// The same for statements that a free worker could take, by the times that they usually take. It is about the cost of waking that
/// worker, and of its own way to the database and back.
const WORK_MAX_BESIDE_FREE: Duration = Duration::from_micros(100);

/// A statement that usually takes longer does not join others: a free worker is woken for it.
const WORK_MAX_TO_JOIN: Duration = Duration::from_micros(50);

/// How long the database may work on the statements of one transaction, by the times that they usually take. Their answers come
/// together, so a request may wait as long for the statements behind its own. A transaction costs the database about as much as one
/// short statement, and so does the piece in which it sends the answers.
const TRANSACTION_WORK_MAX: Duration = Duration::from_micros(50);

/// A statement whose mean is longer is a transaction by itself: it may be slow now and then.
const TRANSACTION_MEAN_MAX: Duration = Duration::from_micros(250);

/// The most statements of one transaction. If one fails, those behind it run again.
const TRANSACTION_LENGTH_MAX: usize = 16;

/// How long requests wait behind an answer that does not come, beside the way to the database and back. Then other workers run them.
const PATIENCE: Duration = Duration::from_millis(10);

/// How long a worker takes further requests before it gives the session back.
const TAKES_ON_FOR: Duration = Duration::from_millis(100);

/// Whether a job most likely joins a batch even where workers are free.
pub(crate) fn joins_batches(job: &Job) -> bool {
    let Some(Batched(statement)) = &job.batched else { return false };
    let mean = statement.takes();
    mean.is_some_and(|mean| mean <= WORK_MAX) && statement.usually_takes() <= WORK_MAX_TO_JOIN
}

/// The requests whose statements are on their way, and what a worker keeps from one batch to the next.
#[derive(Default)]
pub(super) struct InFlight {
    requests: VecDeque<Pending>,
    /// Rings when a request comes that can join.
    bell: Option<Arc<Bell>>,
}

/// A request whose statement is on its way.
struct Pending {
    job: Box<Job>,
    statement: Arc<dyn BatchedStatement>,
    /// The time that the database is likely to work on it.
    takes: Duration,
    /// Its time is known, and is short nearly always. So others may wait for its answer.
    is_short: bool,
    is_stale: bool,
    /// When a worker took it, and when its statement was sent.
    began: Instant,
    sent: Instant,
    /// The number of statements in its transaction.
    together: u32,
}

/// The time of the statements of one transaction, whose answers come together.
struct Divided {
    /// The number of its statements that have no answer yet.
    left: u32,
    /// The part of each statement in the time since the answer before, and in the database's work.
    took: Duration,
    work: Worked,
}

impl Divided {
    fn new() -> Self {
        Self { left: 0, took: Duration::ZERO, work: Worked { time: Duration::ZERO, is_behind: false } }
    }

    /// Takes the next statement. If it is the first of a transaction of `together` statements, the times are theirs.
    fn next(&mut self, together: u32, took: Duration, mut work: Worked, distance: Duration) {
        if self.left == 0 {
            if !work.is_behind {
                work.time = work.time.saturating_sub(distance / WAY_VARIES);
            }
            work.time /= together;
            *self = Self { left: together, took: took / together, work };
        }
        self.left -= 1;
    }
}

impl InFlight {
    /// The bell, if the system has a descriptor for it.
    fn bell(&mut self) -> Option<Arc<Bell>> {
        if self.bell.is_none() {
            self.bell = Bell::new().ok().map(Arc::new);
        }
        self.bell.clone()
    }

    /// How long a statement that is sent now is likely to wait for the database's work on these. The last answer came at `before`.
    /// The database works while the new statement is on its way, so most of that work may be done when it arrives.
    fn work_ahead(&self, before: Instant, distance: Duration) -> Duration {
        let ends = self
            .requests
            .iter()
            .fold(before, |ends, pending| ends.max(pending.sent + distance) + pending.takes);
        ends.saturating_duration_since(Instant::now() + distance)
    }
}

impl InFlight {
    /// Divides the statements of the last requests into transactions.
    fn in_transactions(&mut self, questions: Vec<Question>, may_join: bool) -> Vec<Outgoing> {
        let requests = &mut self.requests;
        let mut first = requests.len() - questions.len();
        let (mut index, mut work) = (first, Duration::ZERO);
        let outgoing = |question| {
            let this = &requests[index];
            work += this.takes;
            let fits = |next: &Pending| next.is_short && work + next.takes <= TRANSACTION_WORK_MAX;
            let is_followed = may_join
                && this.is_short
                && index + 1 - first < TRANSACTION_LENGTH_MAX
                && requests.get(index + 1).is_some_and(fits);
            index += 1;
            if !is_followed {
                let together = u32::try_from(index - first).unwrap_or(u32::MAX);
                requests.range_mut(first..index).for_each(|pending| pending.together = together);
                (first, work) = (index, Duration::ZERO);
            }
            Outgoing { question, is_followed }
        };
        questions.into_iter().map(outgoing).collect()
    }
}

impl Shared {
    /// Whether a job may join others. A trace needs the request's own times, and the rest of a body that streams has not come yet.
    fn can_join(&self, job: &Job) -> bool {
        job.request.source.is_none() && !self.traces.wants(&job.request)
    }

    /// Whether others may join this job on its way, so that it is worth listening for them.
    pub(super) fn can_be_joined(&self, job: &Job) -> bool {
        joins_batches(job) && self.can_join(job)
    }

    /// Returns the rule by which jobs join a batch, one after another: whether this job's statement can be sent with
    /// those before, on which the database works for `work`.
    pub(super) fn together(&self, work: Duration) -> impl FnMut(&Box<Job>, Load) -> bool {
        let mean_left = Duration::from_nanos(self.batch_time_max_ns.load(Relaxed));
        let (mut mean_left, mut usual_left) = (mean_left, WORK_MAX_BESIDE_FREE.saturating_sub(work));
        move |job, load| {
            let Some(Batched(statement)) = job.batched.as_ref().filter(|_| self.can_join(job)) else {
                return false;
            };
            let mean = statement.takes().and_then(|takes| mean_left.checked_sub(takes));
            let usual = usual_left.checked_sub(statement.usually_takes());
            mean_left = mean.unwrap_or_default();
            usual_left = usual.unwrap_or_default();
            mean.is_some() && (usual.is_some() || load == Load::AllBusy)
        }
    }

    /// Answers the first job and the others, and those that join them meanwhile.
    pub(super) fn answer_together(
        &self,
        first: Box<Job>,
        others: &mut Batch<Box<Job>>,
        flight: &mut InFlight,
        ticket: &mut Ticket,
        activity: &Activity,
    ) {
        let began = ticket.began();
        others.jobs.insert(0, (first, ticket.is_stale()));
        let questions = self.questions(others, began, flight, ticket, activity);
        let Some(first) = flight.requests.front() else {
            return activity.turn_to(WorkerState::Idle, Instant::now());
        };
        activity.begin(first.job.endpoint.id, began, first.job.deadline.instant());
        match self.context(&first.job, activity).database() {
            Ok(connection) => {
                self.run_together(questions, connection, others, flight, ticket, activity);
            }
            Err(error) => {
                let first = flight.requests.pop_front();
                self.give_back(&mut flight.requests, ticket);
                if let Some(Pending { job, began, .. }) = first {
                    let refusal = self.attempt(&job, || Err(error.into())).unwrap_or_else(|refusal| refusal);
                    self.deliver(&job, refusal, None, began, activity);
                }
            }
        }
        activity.turn_to(WorkerState::Idle, Instant::now());
    }

    /// Makes the questions of the jobs in a batch, and adds their requests to those in flight. A job without one gets its answer.
    fn questions(
        &self,
        batch: &mut Batch<Box<Job>>,
        began: Instant,
        flight: &mut InFlight,
        ticket: &mut Ticket,
        activity: &Activity,
    ) -> Vec<Question> {
        let mut questions = Vec::with_capacity(batch.jobs.len());
        for (mut job, is_stale) in batch.jobs.drain(..) {
            activity.begin(job.endpoint.id, began, job.deadline.instant());
            let (lane, admitted) = (job.lane, admit(&mut job, began, is_stale));
            let (response, reason) = match (admitted, job.batched.take()) {
                (Admitted::Gone, _) => {
                    ticket.end_job(lane, is_stale);
                    continue;
                }
                (Admitted::Refused(response, reason), _) => (response, Some(reason)),
                (Admitted::Granted, None) => (self.run(&job, activity), None),
                (Admitted::Granted, Some(Batched(statement))) => {
                    match self.attempt(&job, || statement.question(&job.request)) {
                        Ok(question) => {
                            questions.push(question);
                            let takes = statement.usually_takes();
                            let is_short = !takes.is_zero()
                                && statement.takes().is_some_and(|mean| mean <= TRANSACTION_MEAN_MAX);
                            let pending = Pending {
                                job,
                                statement,
                                takes,
                                is_short,
                                is_stale,
                                began,
                                sent: began,
                                together: 1,
                            };
                            flight.requests.push_back(pending);
                            continue;
                        }
                        Err(response) => (response, None),
                    }
                }
            };
            self.deliver(&job, response, reason, began, activity);
            ticket.end_job(lane, is_stale);
        }
        questions
    }

    fn run_together(
        &self,
        questions: Vec<Question>,
        mut connection: Connection,
        batch: &mut Batch<Box<Job>>,
        flight: &mut InFlight,
        ticket: &mut Ticket,
        activity: &Activity,
    ) {
        let (pool, mut distance, max) = (activity.spent().pool, connection.distance(), 1 + batch.max);
        let ends = ticket.began() + TAKES_ON_FOR;
        let (mut before, mut has_rung, mut divided) = (ticket.began(), false, Divided::new());
        let (mut failed, mut last) = (VecDeque::new(), None);
        let Ok(mut round_trip) =
            connection.share().inspect_err(|error| log::debug!("nothing is shared: {error}"))
        else {
            return self.give_back(&mut flight.requests, ticket);
        };
        let mut is_sent = self.send(&mut *round_trip, questions, flight);
        while is_sent && let Some(next) = flight.requests.front() {
            let Pending { job, began, sent, .. } = next;
            activity.begin(job.endpoint.id, *began, job.deadline.instant());
            activity.turn_to(WorkerState::Database, before.max(*sent));
            // The database begins this one's work when it has done the work before, or when the statement arrives.
            let arrives = *sent + distance;
            let (is_behind, due) = (before >= arrives, before.max(arrives));
            let mut fetched = round_trip.fetch(&job.presence, job.deadline, Waits::Not);
            if let Some(Fetched::NotYet) = fetched {
                let work = flight.work_ahead(before, distance);
                batch.max = max.saturating_sub(flight.requests.len());
                let may_join = batch.max > 0 && work < WORK_MAX_BESIDE_FREE && Instant::now() < ends;
                let mut bell = if may_join { flight.bell() } else { None };
                has_rung = false;
                match bell.as_ref().map(|bell| self.queue.join(ticket, batch, bell, self.together(work))) {
                    Some(Joined::Taken(began)) => {
                        let questions = self.questions(batch, began, flight, ticket, activity);
                        is_sent = self.send(&mut *round_trip, questions, flight);
                        continue;
                    }
                    Some(Joined::Refused) => bell = None,
                    Some(Joined::Listening) | None => {}
                }
                let Some(Pending { job, .. }) = flight.requests.front() else { break };
                let patience = (flight.requests.len() > 1).then_some((due, PATIENCE));
                fetched = round_trip.fetch(
                    &job.presence,
                    job.deadline,
                    Waits::Until { patience, bell: bell.as_deref() },
                );
                has_rung = bell.is_some_and(|bell| self.queue.stop_listening(&bell));
                if let Some(Fetched::NotYet) = fetched {
                    continue;
                }
            }
            let Some(pending) = flight.requests.pop_front() else { break };
            let Pending { job, statement, began, sent, together, .. } = &pending;
            if let Some(Fetched::Slow) = fetched {
                self.give_back_delayed(&mut flight.requests, ticket);
                let waits = Waits::Until { patience: None, bell: None };
                fetched = round_trip.fetch(&job.presence, job.deadline, waits);
            }
            let now = Instant::now();
            let since = |then| now.saturating_duration_since(then);
            let work = Worked { time: since(due), is_behind };
            divided.next(*together, since(before.max(*sent)), work, distance);
            before = now;
            activity.spend(Spent { pool, database: since(*sent) });
            activity.turn_to(WorkerState::Handler, now);
            let (question, answer) = match fetched {
                Some(Fetched::Answer(question, answer)) => (question, answer),
                Some(Fetched::NotRun) => {
                    failed.push_back(pending);
                    continue;
                }
                None | Some(Fetched::NotYet | Fetched::Slow) => {
                    failed.push_back(pending);
                    break;
                }
            };
            if answer.is_ok() {
                distance = distance.min(since(*sent));
            }
            let response = self.attempt(job, || {
                statement.note(&question, divided.took, divided.work, &self.context(job, activity));
                response_of(&pending, answer)
            });
            match response.unwrap_or_else(Some) {
                None => failed.push_back(pending),
                // The last answer needs the database's session no more, and a streamed answer may wait for its client.
                Some(response) if flight.requests.is_empty() || response.length().is_none() => {
                    last = Some((pending, response));
                    break;
                }
                Some(response) => {
                    self.deliver(job, response, None, *began, activity);
                    ticket.end_job(job.lane, pending.is_stale);
                }
            }
        }
        drop(round_trip);
        connection.note_round_trip(distance);
        drop(connection);
        batch.max = max - 1;
        self.give_back(&mut flight.requests, ticket);
        self.give_back(&mut failed, ticket);
        if has_rung {
            // The jobs that the bell rang for may wait for this worker's last answer.
            self.queue.wake();
        }
        if let Some((Pending { job, began, .. }, response)) = last {
            self.deliver(&job, response, None, began, activity);
        }
    }

    /// Sends these questions, of the requests that came last. Returns whether they were sent.
    fn send(&self, round_trip: &mut dyn RoundTrip, questions: Vec<Question>, flight: &mut InFlight) -> bool {
        let (now, count) = (Instant::now(), questions.len());
        let requests = &mut flight.requests;
        let new = requests.len() - count..;
        let deadline = requests.range(new.clone()).map(|pending| pending.job.deadline).max();
        let Some(deadline) = deadline else { return true };
        requests.range_mut(new).for_each(|pending| pending.sent = now);
        let is_shared = requests.len() > 1;
        let mut statements = flight.in_transactions(questions, round_trip.joins_transactions()).into_iter();
        if let Some(database) = self.database.as_ref().filter(|_| is_shared) {
            database.metrics().pipelined(count);
        }
        // A handler's code makes the parameters, and it may panic.
        let sending = guarded(|| round_trip.send(&mut statements, deadline));
        let sent = sending.and_then(|sent| sent.map_err(Error::from));
        sent.inspect_err(|error| log::debug!("a batch of {count} requests was not sent: {error:?}")).is_ok()
    }

    /// Returns the jobs of a batch that broke off. The statements in flight have only read.
    pub(super) fn return_batch(
        &self,
        batch: &mut Batch<Box<Job>>,
        flight: &mut InFlight,
        ticket: &mut Ticket,
    ) {
        for (job, _) in batch.jobs.drain(..).rev() {
            self.queue.return_job(ticket, job.lane, job, false);
        }
        self.give_back(&mut flight.requests, ticket);
    }

    /// Returns the jobs to the front of the queue, in this order. Each of them is run by itself.
    fn give_back(&self, all: &mut VecDeque<Pending>, ticket: &mut Ticket) {
        for Pending { mut job, .. } in all.drain(..).rev() {
            job.again = true;
            self.queue.return_job(ticket, job.lane, job, false);
        }
    }

    /// Returns the jobs behind a slow statement to the front of the queue, in this order. They may join others.
    fn give_back_delayed(&self, all: &mut VecDeque<Pending>, ticket: &mut Ticket) {
        for Pending { mut job, statement, .. } in all.drain(..).rev() {
            job.again = true;
            job.batched = Some(Batched(statement));
            let joins = joins_batches(&job);
            self.queue.return_job(ticket, job.lane, job, joins);
        }
    }
}

/// The response to a request from the database's answer; `None`: the request runs again.
fn response_of(
    Pending { job, statement, .. }: &Pending,
    answer: Result<Answer, database::Error>,
) -> Result<Option<Response>, Error> {
    match answer {
        Ok(answer) => statement.answer(&job.request, answer).and_then(final_response).map(Some),
        Err(error) if is_final(&error) => Err(error.into()),
        Err(error) => {
            log::debug!("{}: runs again by itself: {error}", job.request.path());
            Ok(None)
        }
    }
}

/// Whether running the request again would be of no use: the error would come again, or there is no time left.
fn is_final(error: &database::Error) -> bool {
    use database::Error::{ClientLeft, Deadline, ResponseTooLarge, StatementTimeout};
    matches!(error, ClientLeft | Deadline | ResponseTooLarge { .. } | StatementTimeout)
}
