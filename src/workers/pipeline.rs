//! Requests that one worker answers together: each asks the database one statement that only reads, and all of them go in one round
//! trip.
//!
//! Where every worker is busy, requests wait for one to be done. What each of them then costs is mostly the way: a system call to
//! send, one to wait, the change of thread to the database and back. Together they cost one way, and each is answered as soon as
//! its own answer is there.
//!
//! Whatever does not go well is run again, by itself and in the regular way, by whoever is free: the statements have only read. So
//! a failure is told by the one place that tells it, and nobody waits for long behind a statement that turns out to be slow.

use std::collections::VecDeque;
use std::iter;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Admitted, Shared, admit, final_response, guarded};
use crate::base::queue::Ticket;
use crate::database::{self, Connection, Fetched, Question};
use crate::exchange::job::Job;
use crate::handler::{Batched, BatchedStatement, Error};
use crate::telemetry::activity::{Activity, Doing, Spent};

/// What those that are sent together may take, all in all, by what their statements take in the mean. It is several times what the way
/// takes that they save, and little enough that none waits for long that could have been run by another worker.
const BUDGET: Duration = Duration::from_millis(1);

/// For how long the others wait for an answer that does not come; then other workers run them.
const PATIENCE: Duration = Duration::from_millis(10);

impl Shared {
    /// Says of one job after another whether its statement can be sent with those before it.
    pub(super) fn together(&self) -> impl FnMut(&Job) -> bool {
        let mut left = BUDGET;
        move |job| {
            // Who is told of in a trace is told exactly, and a body that streams has not come yet.
            let can = job.request.source.is_none() && !self.traces.wants(&job.request);
            let takes = job.batched.as_ref().filter(|_| can).and_then(|batched| batched.0.takes());
            let after = takes.and_then(|takes| left.checked_sub(takes));
            left = after.unwrap_or_default();
            after.is_some()
        }
    }

    /// Answers the first job and the others, each of which is marked when it is stale.
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
        // Parameters are handlers' code, and may panic.
        let sending = guarded(|| connection.share(questions));
        let mut round_trip = match sending.and_then(|sent| sent.map_err(Error::from)) {
            Ok(round_trip) => round_trip,
            Err(error) => {
                log::debug!("{} requests are not asked together: {error:?}", all.len());
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
                        log::debug!("{}: is asked again by itself: {error}", job.request.path());
                        Ok(None)
                    }
                }
            });
            match response.unwrap_or_else(Some) {
                None => failed.push_back(asked),
                // The last one needs no connection any more, and what streams may wait for its client.
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

    /// Other workers are to run all of them, each by itself, in this order and before whatever else waits.
    fn give_back(&self, all: &mut VecDeque<(Job, Arc<dyn BatchedStatement>)>, begun: &mut Ticket) {
        for (mut job, _) in all.drain(..).rev() {
            job.again = true;
            self.queue.return_job(begun, job.lane, job);
        }
    }
}

/// The jobs whose statements are sent together. A worker keeps the room for them.
#[derive(Default)]
pub(super) struct Asked(VecDeque<(Job, Arc<dyn BatchedStatement>)>);

/// Whether a request that comes to this error comes to it whenever it is run, or has no time to be run again.
fn is_final(error: &database::Error) -> bool {
    use database::Error::{ClientLeft, Deadline, ResponseTooLarge, StatementTimeout};
    matches!(error, ClientLeft | Deadline | ResponseTooLarge { .. } | StatementTimeout)
}
