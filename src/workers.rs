//! The bounded pool of request threads. Each takes a job, runs its handler, writes the answer and takes the next.
//!
//! Holds the one `catch_unwind`: a handler that panics costs its own request a 500 and nothing else. Knows no socket and
//! no route.

mod account;
mod pacer;
mod pipeline;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use crate::base::system::{ThreadId, this_thread, wait_for_turn};
use crossbeam_channel::{Receiver, Sender};
use http::{StatusCode, Version};
use log::Level;

use self::account::{Account, BodyEnd};
use self::pipeline::Asked;
use crate::base::deadline::Deadline;
use crate::base::queue::{Batch, Queue, Ticket};
use crate::database::Database;
use crate::exchange::job::{Claim, Delivery, Job, waited_too_long, would_wait_too_long};
use crate::handler::{Context, Error, FAILED};
use crate::http::{BodyWriter, Outline, Request, Response, Sink, WriteBody, problem};
use crate::telemetry::activity::{Activity, Doing};
use crate::telemetry::journal::{Entry, Journal};
use crate::telemetry::metrics::{CLIENT_LEFT, Metrics, Reason};
use crate::telemetry::sparing::sparingly;
use crate::telemetry::traces::Traces;

/// The running request threads.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    team: Mutex<Team>,
    /// Disconnected once the last worker has ended.
    ended: Receiver<Infallible>,
}

struct Team {
    count: usize,
    /// How many were ever started, for their names.
    started: usize,
    /// Each worker has a clone.
    running: Sender<Infallible>,
}

/// What every worker shares.
struct Shared {
    queue: Queue<Job>,
    database: Option<Database>,
    metrics: Arc<Metrics>,
    journal: Journal,
    traces: Traces,
    /// Whether answers say where their request's time went.
    server_timing: AtomicBool,
    /// How many requests may be asked of the database together.
    pipelined_max: AtomicUsize,
    /// Each worker that there is, by its number.
    present: Mutex<BTreeMap<usize, Worker>>,
}

struct Worker {
    activity: Activity,
    thread: ThreadId,
    /// Upgradable while the thread lives.
    life: Weak<()>,
}

impl Workers {
    /// Starts `count` threads that serve the queue until it is closed and empty.
    ///
    /// # Errors
    /// When the system has no more threads to give.
    pub(crate) fn start(
        count: usize,
        queue: Queue<Job>,
        database: Option<Database>,
        metrics: Arc<Metrics>,
        (journal, traces): (Journal, Traces),
    ) -> io::Result<Self> {
        let (server_timing, pipelined_max) = (AtomicBool::default(), AtomicUsize::new(1));
        let present = Mutex::default();
        let shared =
            Shared { queue, database, metrics, journal, traces, server_timing, pipelined_max, present };
        let shared = Arc::new(shared);
        let (running, ended) = crossbeam_channel::bounded(0);
        let team = Mutex::new(Team { count: 0, started: 0, running });
        let workers = Self { shared, team, ended };
        workers.resize(count)?;
        let (shared, ended) = (Arc::clone(&workers.shared), workers.ended.clone());
        thread::Builder::new().name("pacer".to_owned()).spawn(move || pacer::run(&shared, &ended))?;
        Ok(workers)
    }

    /// How many there are to be.
    pub(crate) fn count(&self) -> usize {
        self.team.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// Whether answers say where their request's time went; see `server.server_timing`. Not unless told.
    pub(crate) fn tell_timing(&self, tell: bool) {
        self.shared.server_timing.store(tell, Relaxed);
    }

    /// How many requests may be asked of the database together, one at least; see `database.max_pipelined_requests`. One unless
    /// told.
    pub(crate) fn pipeline(&self, max: usize) {
        self.shared.pipelined_max.store(max.max(1), Relaxed);
    }

    /// Changes how many there are: new ones start, or as many end once they have done their job.
    ///
    /// # Errors
    /// When the system has no more threads to give; then there are as many as before.
    pub(crate) fn resize(&self, count: usize) -> io::Result<()> {
        let mut team = self.team.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = &self.shared.queue;
        queue.set_workers(count);
        for _ in queue.workers_present()..count {
            queue.add_worker();
            let (shared, running) = (Arc::clone(&self.shared), team.running.clone());
            let number = team.started;
            let serve = move || {
                shared.serve(number);
                drop(running);
            };
            let name = name(number);
            if let Err(error) = thread::Builder::new().name(name).spawn(serve) {
                queue.remove_worker();
                queue.set_workers(team.count);
                return Err(error);
            }
            team.started += 1;
        }
        team.count = count;
        Ok(())
    }

    /// For whoever looks: what each worker does now, by its name.
    pub(crate) fn activities(&self) -> impl Fn() -> Vec<(String, Activity)> + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move || {
            let present = shared.present();
            present.iter().map(|(number, worker)| (name(*number), worker.activity.clone())).collect()
        }
    }

    /// For whoever looks: whether no worker has ended in another way than by itself, such as by a panic outside of a handler.
    pub(crate) fn pulse(&self) -> impl Fn() -> Result<(), &'static str> + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move || {
            let has_ended = |worker: &Worker| worker.life.strong_count() == 0;
            if shared.present().values().any(has_ended) { Err("a worker has ended") } else { Ok(()) }
        }
    }

    /// Waits until every job is done, or until the deadline, or until `stop` is disconnected: a handler that ignores its own
    /// deadline cannot be ended. The queue must be closed. Returns whether all workers have ended.
    pub(crate) fn join(self, deadline: Deadline, stop: &Receiver<Infallible>) -> bool {
        drop(self.team);
        crossbeam_channel::select! {
            recv(self.ended) -> _ => true,
            recv(stop) -> _ => false,
            recv(crossbeam_channel::at(deadline.instant())) -> _ => false,
        }
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("count", &self.count()).finish_non_exhaustive()
    }
}

/// A worker's thread.
fn name(number: usize) -> String {
    format!("worker-{number}")
}

impl Shared {
    fn serve(&self, number: usize) {
        wait_for_turn();
        let activity = Activity::default();
        let life = Arc::new(());
        let worker =
            Worker { activity: activity.clone(), thread: this_thread(), life: Arc::downgrade(&life) };
        self.present().insert(number, worker);
        let mut done = None;
        let (mut others, mut asked) = (Batch::none(), Asked::default());
        loop {
            others.max = self.pipelined_max.load(Relaxed) - 1;
            if let Some(database) = &self.database {
                database.tidy(|| self.queue.is_empty());
            }
            let next = self.queue.next_batch(done, &mut others, self.together());
            let Some((job, mut begun)) = next else { break };
            if others.jobs.is_empty() {
                self.answer(job, &begun, &activity);
            } else {
                self.answer_together(job, &mut others.jobs, &mut asked, &mut begun, &activity);
            }
            done = Some(begun);
        }
        self.present().remove(&number);
    }

    fn present(&self) -> MutexGuard<'_, BTreeMap<usize, Worker>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut job: Job, begun: &Ticket, activity: &Activity) {
        activity.begin(job.endpoint.id, begun.began(), job.deadline.instant());
        if self.traces.wants(&job.request) {
            activity.record();
        }
        match admit(&mut job, begun.began(), begun.is_stale()) {
            Admitted::Gone => activity.turn_to(Doing::Idle, Instant::now()),
            Admitted::Refused(response, reason) => {
                self.deliver(&job, response, Some(reason), begun, activity);
            }
            Admitted::Granted => {
                let response = self.run(&job, activity);
                self.deliver(&job, response, None, begun, activity);
            }
        }
    }

    /// The answer goes to its client, and the request is counted and noted.
    fn deliver(
        &self,
        job: &Job,
        mut response: Response,
        refused: Option<Reason>,
        begun: &Ticket,
        activity: &Activity,
    ) {
        response.name_request(job.request.id());
        let mut account = Account::of(job, begun, activity, response.status().as_u16());
        response.timing = self.server_timing.load(Relaxed).then(|| account.timing());
        let streams = response.length().is_none() && job.request.form().has_body(&response);
        let (delivery, end, bytes) = if streams {
            self.stream(job, response)
        } else {
            // Asked before the answer leaves: a client that has it may go.
            let (end, bytes) = (BodyEnd::of(job), job.request.form().body_length(&response));
            (job.client.answer(job.ticket, &job.request, response), end, bytes)
        };
        account.written(activity);
        self.journal.worked(&job.endpoint, &account.spans, job.request.request_id.as_ref(), || {
            Outline::of(&job.request)
        });
        let outcome = || account.outcome(job, delivery, refused, &end);
        self.traces
            .tell(&job.request, Some(&job.endpoint), || (account.course(job, begun, activity), outcome()));
        if job.presence.take_cancelled() {
            self.metrics.cancelled();
        }
        // Each request is counted once: one that came too late was counted by the connector. A body that came to no
        // good end is the client's fault, whatever the handler made of it.
        let count = |status, reason| {
            self.note_end(job, &account, status, bytes, reason);
            self.metrics.finished_by_worker(&job.endpoint, job.request.id(), status, &account.spans);
        };
        match (delivery, refused, end) {
            (Delivery::TooLate, ..) => {}
            (Delivery::ClientLeft, ..) | (_, None, BodyEnd::ClientLeft) => {
                count(CLIENT_LEFT, None);
                self.metrics.abandoned();
            }
            (Delivery::Sent, Some(reason), _) | (_, None, BodyEnd::Refused(reason)) => {
                count(account.status, Some(reason));
                self.metrics.refused(reason);
            }
            (Delivery::Sent, None, BodyEnd::Good) => {
                count(account.status, None);
                self.metrics.answered();
            }
        }
    }

    /// A line for the access log, if there is one.
    fn note_end(&self, job: &Job, account: &Account, status: u16, bytes: u64, reason: Option<Reason>) {
        if !self.journal.has_access() {
            return;
        }
        let outline = Outline::of(&job.request);
        self.journal.ended(&Entry {
            outline: Some(outline),
            client: outline.client(),
            request_id: job.request.request_id.as_ref(),
            status,
            bytes,
            ended: account.ended,
            total: account.spans.total(),
            spans: Some(&account.spans),
            endpoint: Some(&job.endpoint),
            reason,
        });
    }

    /// Lets a streamed response write its body, which may still be reading the request's. Returns its bytes as well.
    fn stream(&self, job: &Job, mut response: Response) -> (Delivery, BodyEnd, u64) {
        if let Some(database) = &self.database {
            // It may take long until this worker is done.
            database.tidy(|| true);
        }
        let client = Arc::clone(&job.client);
        let Some(stream) = client.open(job.ticket, &job.request, &response, job.deadline) else {
            return (Delivery::TooLate, BodyEnd::Good, 0);
        };
        let counted = Counted { sink: &*stream, bytes: Cell::new(0) };
        let complete = response.take_stream().is_none_or(|write| self.write(job, write, &counted));
        let (end, bytes) = (BodyEnd::of(job), counted.bytes.get());
        (stream.finish(complete), end, bytes)
    }

    /// Writes a body. Returns whether it is complete.
    fn write(&self, job: &Job, write: WriteBody, stream: &dyn Sink) -> bool {
        let mut writer = BodyWriter::new(stream, job.request.version() == Version::HTTP_11);
        let written = guarded(move || {
            write(&mut writer)?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(writer.finish()?)
        });
        match written {
            Ok(Ok(())) => true,
            // It stands in the log only: the client has its head.
            Ok(Err(error)) => {
                let (method, path) = (job.request.method(), job.request.path());
                let id = job.request.id();
                sparingly!(
                    Level::Warn,
                    "bodies that ended early",
                    "request {id}: {method} {path}: the answer's body ended early: {error}"
                );
                false
            }
            Err(panic) => {
                self.metrics.panicked();
                drop(answer_error(&job.request, &panic, self.journal.shows_values()));
                false
            }
        }
    }

    fn run(&self, job: &Job, activity: &Activity) -> Response {
        let answered = self.attempt(job, || {
            let answer = job.handler.handle(&job.request, &mut self.context(job, activity));
            answer.and_then(final_response)
        });
        answered.unwrap_or_else(|failed| failed)
    }

    fn context<'a>(&'a self, job: &'a Job, activity: &'a Activity) -> Context<'a> {
        Context {
            deadline: job.deadline,
            database: self.database.as_ref(),
            client: &job.presence,
            activity,
            request_id: job.request.request_id.as_ref(),
            journal: &self.journal,
        }
    }

    /// Runs a handler's code; an error and a panic become the answer.
    fn attempt<T>(&self, job: &Job, make: impl FnOnce() -> Result<T, Error>) -> Result<T, Response> {
        // The error's cause is the handler's as well: printing it may panic.
        let run = || {
            make().map_err(|error| {
                if job.presence.has_left() {
                    log::debug!(
                        "{} {}: its client has left: {error:?}",
                        job.request.method(),
                        job.request.path()
                    );
                    return error.to_response();
                }
                answer_error(&job.request, &known_outcome(job, error), self.journal.shows_values())
            })
        };
        guarded(run).unwrap_or_else(|panic| {
            self.metrics.panicked();
            Err(answer_error(&job.request, &panic, self.journal.shows_values()))
        })
    }
}

/// Whether a worker is to do a job that it has taken.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and a box would be one for each refusal"
)]
enum Admitted {
    /// Somebody has answered it, or its client has left.
    Gone,
    /// It is answered with this instead.
    Refused(Response, Reason),
    Granted,
}

fn admit(job: &mut Job, began: Instant, is_stale: bool) -> Admitted {
    if job.again {
        return Admitted::Granted;
    }
    match Arc::clone(&job.client).claim(job.ticket, &mut job.request) {
        Claim::Gone => Admitted::Gone,
        Claim::Unreadable(refusal) => {
            Admitted::Refused(problem(refusal.status, refusal.detail, &[]), refusal.fault.into())
        }
        Claim::Granted if job.start_by.instant() <= began => {
            let (response, reason) = waited_too_long(job.deadline);
            Admitted::Refused(response, reason)
        }
        Claim::Granted if is_stale => Admitted::Refused(would_wait_too_long().to_response(), Reason::Shed),
        Claim::Granted => Admitted::Granted,
    }
}

/// A body on its way out, and how many bytes of it were taken.
struct Counted<'a> {
    sink: &'a dyn Sink,
    bytes: Cell<u64>,
}

impl Sink for Counted<'_> {
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.sink.send(bytes)?;
        self.bytes.set(self.bytes.get() + bytes.len() as u64);
        Ok(())
    }
}

/// A handler's answer is the only one that its request gets (RFC 9110 section 15.2): a client that is told 1xx would take
/// the next request's answer for this one's.
pub(crate) fn final_response(response: Response) -> Result<Response, Error> {
    if response.status().is_informational() {
        let cause = format!("the handler answered {}, which is no final status", response.status());
        return Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED).because(cause));
    }
    Ok(response)
}

/// Runs code that is not ours; a panic in it becomes an error.
///
/// The code's own state may be left broken by that, which is its author's to decide, as in any pool of threads.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let literal = panic.downcast_ref::<&str>().copied();
        let message = literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Error::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED)
            .because(format!("panicked: {}", message.unwrap_or("without a message")))
    })
}

/// The error as its client may be told it. A database's "come again" speaks of the last statement, and is not true of a request
/// that may have committed something before.
fn known_outcome(job: &Job, error: Error) -> Error {
    if error.is_not_done() && job.presence.may_have_committed() {
        error.into_outcome_unknown()
    } else {
        error
    }
}

/// Logs an error with what is for the log only, and makes the client's answer of the rest. Both have the request's id, the answer
/// when it is sent, so that one leads to the other. `shows_values`: whether the log may have values of clients.
pub(crate) fn answer_error(request: &Request, error: &Error, shows_values: bool) -> Response {
    let (id, method, path) = (request.id(), request.method(), request.path());
    let told = || error.told(shows_values);
    if error.lacks_privilege() {
        // No client can mend it, and the answer says too little for whoever can.
        sparingly!(
            Level::Error,
            "requests for which the database's user lacks a privilege",
            "request {id}: {method} {path}: {}",
            told()
        );
        return error.to_response();
    }
    if !error.status().is_server_error() {
        log::debug!("request {id}: {method} {path}: {}", told());
        return error.to_response();
    }
    let expected = matches!(error.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
    if expected {
        // What is short is counted, and said by the observer; one shows whose it is.
        sparingly!(
            Level::Warn,
            1 of "requests answered 503 or 504",
            "request {id}: {method} {path}: {}",
            told()
        );
    } else {
        sparingly!(Level::Error, "requests that failed", "request {id}: {method} {path}: {}", told());
    }
    error.to_response()
}
