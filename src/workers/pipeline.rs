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
use crate::database::{self, Connection, Fetched, Question, RoundTrip, Waits};
use crate::exchange::job::Job;
use crate::handler::{Batched, BatchedStatement, Error, Worked};
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
    job: Job,
    statement: Arc<dyn BatchedStatement>,
    /// The time that the database is likely to work on it.
    takes: Duration,
    is_stale: bool,
    /// When a worker took it, and when its statement was sent.
    began: Instant,
    sent: Instant,
}

impl InFlight {
    /// The bell, if the system has a descriptor for it.
    fn bell(&mut self) -> Option<Arc<Bell>> {
        if self.bell.is_none() {
            self.bell = Bell::new().ok().map(Arc::new);
        }
        self.bell.clone()
    }

    /// How long the database is likely to work on all of them.
    fn work(&self) -> Duration {
        self.requests.iter().map(|pending| pending.takes).sum()
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
    pub(super) fn together(&self, work: Duration) -> impl FnMut(&Job, Load) -> bool {
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
        first: Job,
        others: &mut Batch<Job>,
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
        batch: &mut Batch<Job>,
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
                            let pending = Pending { job, statement, takes, is_stale, began, sent: began };
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
        batch: &mut Batch<Job>,
        flight: &mut InFlight,
        ticket: &mut Ticket,
        activity: &Activity,
    ) {
        let (pool, distance, max) = (activity.spent().pool, connection.distance(), 1 + batch.max);
        let ends = ticket.began() + TAKES_ON_FOR;
        let (mut before, mut has_rung) = (ticket.began(), false);
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
                let work = flight.work();
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
            let Pending { job, statement, began, sent, .. } = &pending;
            if let Some(Fetched::Slow) = fetched {
                self.give_back(&mut flight.requests, ticket);
                fetched = round_trip.fetch(
                    &job.presence,
                    job.deadline,
                    Waits::Until { patience: None, bell: None },
                );
            }
            let now = Instant::now();
            let took = now.saturating_duration_since(before.max(*sent));
            before = now;
            activity.spend(Spent { pool, database: now.saturating_duration_since(*sent) });
            activity.turn_to(WorkerState::Handler, now);
            let Some(Fetched::Answer(question, answer)) = fetched else {
                failed.push_back(pending);
                break;
            };
            let response = self.attempt(job, || {
                let work = Worked { time: now.saturating_duration_since(due), is_behind };
                statement.note(&question, took, work, &self.context(job, activity));
                match answer {
                    Ok(answer) => statement.answer(&job.request, answer).and_then(final_response).map(Some),
                    Err(error) if is_final(&error) => Err(error.into()),
                    Err(error) => {
                        log::debug!("{}: runs again by itself: {error}", job.request.path());
                        Ok(None)
                    }
                }
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
        let InFlight { requests, .. } = flight;
        let new = requests.len() - count..;
        let deadline = requests.range(new.clone()).map(|pending| pending.job.deadline).max();
        let Some(deadline) = deadline else { return true };
        requests.range_mut(new).for_each(|pending| pending.sent = now);
        if let Some(database) = self.database.as_ref().filter(|_| requests.len() > 1) {
            database.metrics().pipelined(count);
        }
        // A handler's code makes the parameters, and it may panic.
        let sending = guarded(|| round_trip.send(&mut questions.into_iter(), deadline));
        let sent = sending.and_then(|sent| sent.map_err(Error::from));
        sent.inspect_err(|error| log::debug!("a batch of {count} requests was not sent: {error:?}")).is_ok()
    }

    /// Returns the jobs of a batch that broke off. The statements in flight have only read.
    pub(super) fn return_batch(&self, batch: &mut Batch<Job>, flight: &mut InFlight, ticket: &mut Ticket) {
        for (job, _) in batch.jobs.drain(..).rev() {
            self.queue.return_job(ticket, job.lane, job);
        }
        self.give_back(&mut flight.requests, ticket);
    }

    /// Returns the jobs to the front of the queue, in this order. Each of them is run by itself.
    fn give_back(&self, all: &mut VecDeque<Pending>, ticket: &mut Ticket) {
        for Pending { mut job, .. } in all.drain(..).rev() {
            job.again = true;
            self.queue.return_job(ticket, job.lane, job);
        }
    }
}

/// Whether running the request again would be of no use: the error would come again, or there is no time left.
fn is_final(error: &database::Error) -> bool {
    use database::Error::{ClientLeft, Deadline, ResponseTooLarge, StatementTimeout};
    matches!(error, ClientLeft | Deadline | ResponseTooLarge { .. } | StatementTimeout)
}
