//! Batches: one worker answers several requests together. Each of them asks the database one statement that only reads,
//! and all statements go in one round trip.
//!
//! While every worker is busy, requests wait in the queue. Most of a request's cost is then its way to the database: a
//! system call to send, one to wait, the change of thread to the database and back. A batch pays for one way, and each
//! request is answered as soon as its own answer is there.
//!
//! A request that fails in a batch goes back to the queue, and a free worker runs it by itself in the regular way: its
//! statement has only read. So one place reports failures, and no request waits for long behind a statement that turns
//! out to be slow.

use std::collections::VecDeque;
use std::iter;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Admitted, Shared, admit, final_response, guarded};
use crate::base::queue::Ticket;
use crate::database::{self, Connection, Fetched, Question};
use crate::exchange::job::Job;
use crate::handler::{Batched, BatchedStatement, Error};
use crate::telemetry::activity::{Activity, Doing, Spent};

/// How long the statements of a batch may take together, by their mean times. The limit is several times the cost of
/// the way that a batch saves. It is also short enough that no request waits for long that another worker could have
/// run.
pub(super) const BATCH_TIME_MAX: Duration = Duration::from_millis(1);

/// How long the rest of a batch waits for an answer that does not come. Then other workers run the rest.
const PATIENCE: Duration = Duration::from_millis(10);

impl Shared {
    /// Returns the rule by which jobs join a batch, one after another: whether this job's statement can be sent with
    /// those before.
    pub(super) fn together(&self) -> impl FnMut(&Job) -> bool {
        let mut left = Duration::from_nanos(self.batch_time_max_ns.load(Relaxed));
        move |job| {
            // A trace needs this request's own times, and the rest of a body that streams has not come yet.
            let can = job.request.source.is_none() && !self.traces.wants(&job.request);
            let takes = job.batched.as_ref().filter(|_| can).and_then(|batched| batched.0.takes());
            let after = takes.and_then(|takes| left.checked_sub(takes));
            left = after.unwrap_or_default();
            after.is_some()
        }
    }

    /// Answers the first job and the others. Each of the others comes with a mark that says whether it is stale.
    pub(super) fn answer_together(
        &self,
        first: Job,
        others: &mut Vec<(Job, bool)>,
        Asked(all): &mut Asked,
        begun: &mut Ticket,
        activity: &Activity,
    ) {
        let mut questions = Vec::with_capacity(1 + others.len());
        for (mut job, is_stale) in iter::once((first, begun.is_stale())).chain(others.drain(..)) {
            activity.begin(job.endpoint.id, begun.began(), job.deadline.instant());
            let (response, reason) = match (admit(&mut job, begun.began(), is_stale), job.batched.take()) {
                (Admitted::Gone, _) => continue,
                (Admitted::Refused(response, reason), _) => (response, Some(reason)),
                (Admitted::Granted, None) => (self.run(&job, activity), None),
                (Admitted::Granted, Some(Batched(statement))) => {
                    match self.attempt(&job, || statement.question(&job.request)) {
                        Ok(question) => {
                            questions.push(question);
                            all.push_back((job, statement));
                            continue;
                        }
                        Err(response) => (response, None),
                    }
                }
            };
            self.deliver(&job, response, reason, begun, activity);
        }
        let Some((first, _)) = all.front() else { return activity.turn_to(Doing::Idle, Instant::now()) };
        activity.begin(first.endpoint.id, begun.began(), first.deadline.instant());
        match self.context(first, activity).database() {
            Ok(connection) => self.ask_together(all, &questions.into(), connection, begun, activity),
            Err(error) => {
                let first = all.pop_front();
                self.give_back(all, begun);
                if let Some((job, _)) = first {
                    let refusal = self.attempt(&job, || Err(error.into())).unwrap_or_else(|refusal| refusal);
                    self.deliver(&job, refusal, None, begun, activity);
                }
            }
        }
        activity.turn_to(Doing::Idle, Instant::now());
    }

    fn ask_together(
        &self,
        all: &mut VecDeque<(Job, Arc<dyn BatchedStatement>)>,
        questions: &Arc<[Question]>,
        mut connection: Connection,
        begun: &mut Ticket,
        activity: &Activity,
    ) {
        let pool = activity.spent().pool;
        let sent = Instant::now();
        activity.turn_to(Doing::Database, sent);
        // A handler's code makes the parameters, and it may panic.
        let sending = guarded(|| connection.share(questions));
        let mut round_trip = match sending.and_then(|sent| sent.map_err(Error::from)) {
            Ok(round_trip) => round_trip,
            Err(error) => {
                log::debug!("a batch of {} requests was not sent: {error:?}", all.len());
                return self.give_back(all, begun);
            }
        };
        if let Some(database) = &self.database {
            database.metrics().pipelined(questions.len());
        }
        let (mut before, mut failed, mut last) = (sent, VecDeque::new(), None);
        for question in &**questions {
            let Some(asked) = all.pop_front() else { break };
            let (job, statement) = &asked;
            activity.begin(job.endpoint.id, begun.began(), job.deadline.instant());
            activity.turn_to(Doing::Database, before);
            let patience = (!all.is_empty()).then_some((before, PATIENCE));
            let mut fetched = round_trip.fetch(&job.presence, job.deadline, patience);
            if let Some(Fetched::Slow) = fetched {
                self.give_back(all, begun);
                fetched = round_trip.fetch(&job.presence, job.deadline, None);
            }
            let now = Instant::now();
            activity.spend(Spent { pool, database: now - sent });
            activity.turn_to(Doing::Handler, now);
            let took = now - mem::replace(&mut before, now);
            let Some(Fetched::Answer(answer)) = fetched else {
                failed.push_back(asked);
                break;
            };
            let response = self.attempt(job, || {
                statement.note(question, took, &self.context(job, activity));
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
                None => failed.push_back(asked),
                // The last answer needs the database's session no more, and a streamed answer may wait for its client.
                Some(response) if all.is_empty() || response.length().is_none() => {
                    last = Some((asked, response));
                    break;
                }
                Some(response) => self.deliver(job, response, None, begun, activity),
            }
        }
        drop(round_trip);
        drop(connection);
        self.give_back(all, begun);
        self.give_back(&mut failed, begun);
        if let Some(((job, _), response)) = last {
            self.deliver(&job, response, None, begun, activity);
        }
    }

    /// Returns the jobs to the front of the queue, in this order. Each of them is run by itself.
    fn give_back(&self, all: &mut VecDeque<(Job, Arc<dyn BatchedStatement>)>, begun: &mut Ticket) {
        for (mut job, _) in all.drain(..).rev() {
            job.again = true;
            self.queue.return_job(begun, job.lane, job);
        }
    }
}

/// The jobs whose statements were sent together. A worker keeps it, to use its memory again.
#[derive(Default)]
pub(super) struct Asked(VecDeque<(Job, Arc<dyn BatchedStatement>)>);

/// Whether running the request again would be of no use: the error would come again, or there is no time left.
fn is_final(error: &database::Error) -> bool {
    use database::Error::{ClientLeft, Deadline, ResponseTooLarge, StatementTimeout};
    matches!(error, ClientLeft | Deadline | ResponseTooLarge { .. } | StatementTimeout)
}
