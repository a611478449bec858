//! The bounded pool of request threads. Each takes a job, runs its handler, writes the answer and takes the next.
//!
//! A handler that panics costs its own request a 500 and nothing else. It knows no socket and no route.

mod account;
mod pacer;
mod pipeline;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::system::{ThreadId, this_thread, wait_for_turn};
use crossbeam_channel::{Receiver, Sender};
use http::{StatusCode, Version};
use log::Level;

use self::account::{Account, BodyEnd};
pub(crate) use self::pipeline::joins_batches;
use self::pipeline::{InFlight, WORK_MAX};
use crate::base::deadline::Deadline;
use crate::base::guard::{Foreign, catch, supervise};
use crate::base::queue::{Batch, Queue, Ticket};
use crate::database::Database;
use crate::exchange::job::{Claim, Delivery, Job, waited_too_long, would_wait_too_long};
use crate::handler::{Context, Error, FAILED};
use crate::http::{BodyWriter, Outline, Request, Response, Sink, WriteBody, problem};
use crate::telemetry::activity::{Activity, WorkerState};
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
    /// How many workers were ever started, which numbers their names.
    started: usize,
    /// Each worker holds a clone, so that `ended` is disconnected with the last one.
    running: Sender<Infallible>,
}

/// The state that all workers share.
struct Shared {
    queue: Queue<Box<Job>>,
    database: Option<Database>,
    metrics: Arc<Metrics>,
    journal: Journal,
    traces: Traces,
    /// Whether answers carry `Server-Timing`.
    server_timing: AtomicBool,
    /// Whether fewer workers have a job while they would only wait for a core.
    paces: AtomicBool,
    /// The most requests that one batch may ask of the database.
    pipelined_max: AtomicUsize,
    /// How long the statements of a batch may take together, in nanoseconds.
    batch_time_max_ns: AtomicU64,
    /// The running workers by their numbers.
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
        queue: Queue<Box<Job>>,
        database: Option<Database>,
        metrics: Arc<Metrics>,
        (journal, traces): (Journal, Traces),
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue,
            database,
            metrics,
            journal,
            traces,
            server_timing: AtomicBool::new(false),
            paces: AtomicBool::new(true),
            pipelined_max: AtomicUsize::new(1),
            batch_time_max_ns: AtomicU64::new(nanoseconds(WORK_MAX)),
            present: Mutex::default(),
        });
        let (running, ended) = crossbeam_channel::bounded(0);
        let team = Mutex::new(Team { count: 0, started: 0, running });
        let workers = Self { shared, team, ended };
        workers.resize(count)?;
        let (shared, ended) = (Arc::clone(&workers.shared), workers.ended.clone());
        let pace = move || {
            supervise("the pacer", || shared.metrics.thread_panicked(), || pacer::run(&shared, &ended));
        };
        thread::Builder::new().name("pacer".to_owned()).spawn(pace)?;
        Ok(workers)
    }

    /// The configured number of workers.
    pub(crate) fn count(&self) -> usize {
        self.team.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// Sets whether answers say where their request's time went; see `server.server_timing`. Off at the start.
    pub(crate) fn set_server_timing(&self, on: bool) {
        self.shared.server_timing.store(on, Relaxed);
    }

    /// Sets whether fewer workers have a job while they would only wait for a core; see `server.pace_workers`. On at the start.
    pub(crate) fn pace(&self, on: bool) {
        self.shared.paces.store(on, Relaxed);
    }

    /// Sets how many requests may be asked of the database together, at least one; see
    /// `database.max_pipelined_requests`. One at the start.
    pub(crate) fn pipeline(&self, max: usize) {
        self.shared.pipelined_max.store(max.max(1), Relaxed);
    }

    /// Sets how long the statements of a batch may take together, by their mean times.
    pub(crate) fn limit_batch_time(&self, max: Duration) {
        self.shared.batch_time_max_ns.store(nanoseconds(max), Relaxed);
    }

    /// Changes the number of workers. New ones start, or surplus ones end when their job is done.
    ///
    /// # Errors
    /// When the system has no more threads to give. Then as many workers are kept as before.
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

    /// Returns a function that lists the current activity of each worker, with its thread's name.
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

    /// Waits until every job is done, the deadline passes, or `stop` is disconnected: a handler that ignores its own
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

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The name of a worker's thread.
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
        let (mut others, mut asked) = (Batch::none(), InFlight::default());
        loop {
            others.max = self.pipelined_max.load(Relaxed) - 1;
            if let Some(database) = &self.database {
                database.tidy(|| self.queue.is_empty());
            }
            let next = self.queue.next_batch(done, &mut others, self.together(Duration::ZERO));
            let Some((job, mut begun)) = next else { break };
            let answered = catch(|| {
                if others.jobs.is_empty() && !(others.max > 0 && self.can_be_joined(&job)) {
                    self.answer(job, &begun, &activity);
                } else {
                    self.answer_together(job, &mut others, &mut asked, &mut begun, &activity);
                }
            });
            if let Err(message) = answered {
                self.go_on(&message, &mut others, &mut asked, &mut begun, &activity);
            }
            done = Some(begun);
        }
        self.present().remove(&number);
    }

    /// Goes on after a panic outside of a handler, such as in the drop of a value that a handler made. The connector answers the
    /// request that the worker had, with 504 at its deadline. Other workers run the rest of a batch.
    fn go_on(
        &self,
        message: &str,
        others: &mut Batch<Box<Job>>,
        asked: &mut InFlight,
        begun: &mut Ticket,
        activity: &Activity,
    ) {
        self.metrics.thread_panicked();
        log::error!("a worker panicked outside of a handler and goes on: {message}");
        self.return_batch(others, asked, begun);
        activity.turn_to(WorkerState::Idle, Instant::now());
    }

    fn present(&self) -> MutexGuard<'_, BTreeMap<usize, Worker>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut job: Box<Job>, begun: &Ticket, activity: &Activity) {
        activity.begin(job.endpoint.id, begun.began(), job.deadline.instant());
        if self.traces.wants(&job.request) {
            activity.record();
        }
        match admit(&mut job, begun.began(), begun.is_stale()) {
            Admitted::Gone => activity.turn_to(WorkerState::Idle, Instant::now()),
            Admitted::Refused(response, reason) => {
                self.deliver(&job, response, Some(reason), begun.began(), activity);
            }
            Admitted::Granted => {
                let response = self.run(&job, activity);
                self.deliver(&job, response, None, begun.began(), activity);
            }
        }
    }

    /// Sends the answer to its client, and counts and records the request.
    fn deliver(
        &self,
        job: &Job,
        mut response: Response,
        refused: Option<Reason>,
        began: Instant,
        activity: &Activity,
    ) {
        response.name_request(job.request.id());
        let mut account = Account::of(job, began, activity, response.status().as_u16());
        response.timing = self.server_timing.load(Relaxed).then(|| account.timing());
        let streams = response.length().is_none() && job.request.form().has_body(&response);
        let (delivery, end, bytes) = if streams {
            self.stream(job, response)
        } else {
            // Taken before the answer leaves: once a client has its answer, it may leave.
            let (end, bytes) = (BodyEnd::of(job), job.request.form().body_length(&response));
            (job.client.answer(job.ticket, &job.request, response), end, bytes)
        };
        account.written(activity);
        self.journal.worked(&job.endpoint, &account.spans, job.request.request_id.as_ref(), || {
            Outline::of(&job.request)
        });
        let outcome = || account.outcome(job, delivery, refused, &end);
        self.traces.record(&job.request, Some(&job.endpoint), || {
            (account.request_times(job, began, activity), outcome())
        });
        if job.presence.take_cancelled() {
            self.metrics.cancelled();
        }
        // Each request is counted once: the connector has counted one whose answer came too late. A body that did not
        // end well is the client's fault, whatever the handler made of it.
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

    /// Writes the access log's line, if there is an access log.
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

    /// Writes a streamed answer's body, while the handler may still be reading the request's. Returns the bytes sent as
    /// well.
    fn stream(&self, job: &Job, mut response: Response) -> (Delivery, BodyEnd, u64) {
        if let Some(database) = &self.database {
            // The stream may keep this worker for long, so idle sessions are cleaned first.
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
    fn write(&self, job: &Job, write: Foreign<WriteBody>, stream: &dyn Sink) -> bool {
        let mut writer = BodyWriter::new(stream, job.request.version() == Version::HTTP_11);
        let written = guarded(move || {
            let written = (write.into_inner())(&mut writer);
            // Showing the error and dropping it may panic as well.
            written.map_err(|error| error.to_string())?;
            writer.finish().map_err(|error| error.to_string())
        });
        match written {
            Ok(Ok(())) => true,
            // The error goes to the log only: the client has the answer's head already.
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

    /// Runs a handler's code. An error or a panic becomes the answer.
    fn attempt<T>(&self, job: &Job, make: impl FnOnce() -> Result<T, Error>) -> Result<T, Response> {
        // The error's cause is the handler's code as well, and printing it may panic.
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

/// Whether a worker may run a job that it has taken.
#[expect(
    clippy::large_enum_variant,
    reason = "the value is taken apart at once, and a box would cost an allocation for each refusal"
)]
enum Admitted {
    /// The job has its answer already, or its client has left.
    Gone,
    /// This answer goes out in place of the handler's.
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

/// The way of a streamed body to its client, with the number of bytes that were taken.
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

/// Refuses a 1xx status from a handler. A request gets only this one answer (RFC 9110 section 15.2): after 1xx, its
/// client would take the next request's answer for this one's.
pub(crate) fn final_response(response: Response) -> Result<Response, Error> {
    if response.status().is_informational() {
        let cause = format!("the handler answered {}, which is no final status", response.status());
        return Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED).because(cause));
    }
    Ok(response)
}

/// Runs code from outside the crate. A panic in it becomes an error.
pub(crate) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Error> {
    catch(run).map_err(|message| {
        Error::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED).because(format!("panicked: {message}"))
    })
}

/// The error as the client may be told it. A database that says "try again" means its last statement. That is not true
/// of a request that may have committed something earlier.
fn known_outcome(job: &Job, error: Error) -> Error {
    if error.is_not_done() && job.presence.may_have_committed() {
        error.into_outcome_unknown()
    } else {
        error
    }
}

/// Logs an error with the details that only the log may have, and makes the client's answer of the rest. Both carry the
/// request's id, the answer when it is sent, so that one leads to the other. `shows_values`: whether the log may hold
/// clients' values.
pub(crate) fn answer_error(request: &Request, error: &Error, shows_values: bool) -> Response {
    let (id, method, path) = (request.id(), request.method(), request.path());
    let text = || error.log_text(shows_values);
    if error.lacks_privilege() {
        // No client can mend this, and the answer says too little for an operator who can.
        sparingly!(
            Level::Error,
            "requests for which the database's user lacks a privilege",
            "request {id}: {method} {path}: {}",
            text()
        );
        return error.to_response();
    }
    if !error.status().is_server_error() {
        log::debug!("request {id}: {method} {path}: {}", text());
        return error.to_response();
    }
    let expected = matches!(error.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
    if expected {
        // The observer reports the counts and their causes; this line shows one request as an example.
        sparingly!(
            Level::Warn,
            1 of "requests answered 503 or 504",
            "request {id}: {method} {path}: {}",
            text()
        );
    } else {
        sparingly!(Level::Error, "requests that failed", "request {id}: {method} {path}: {}", text());
    }
    error.to_response()
}
