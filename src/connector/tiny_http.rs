//! The simple connector. The crate tiny_http 0.12 speaks HTTP; queue, workers and handlers are the same as for the
//! native connector. It is here because it is small.
//!
//! tiny_http uses a thread per connection, without a limit on connections and without timeouts for clients. The worker
//! reads a request's body, so a slow client holds a worker. The worker writes the answer, so a slow reader holds one
//! too. A handler that ignores its deadline is waited for. `docs/tiny_http.md` has the whole list.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use super::{Connector, Drained, Listener, Pulse, Settings, Stopper};
use crate::base::deadline::Deadline;
use crate::base::guard::supervise;
use crate::base::presence::Presence;
use crate::base::request_id::{RequestId, RequestIds};
use crate::exchange::job::{Admission, BodyPlan, Claim, Client, Delivery, Service, Stream};
use crate::handler::{BodyUse, unavailable};
use crate::http::{
    Body, Form, KeptOutline, Limits, Refusal, Request, Response, Sink, Source, Timing, encode_head,
    parse_head, problem,
};
use crate::telemetry::journal::{Entry, Journal};
use crate::telemetry::metrics::{Endpoint, Metrics, Reason};
use crate::telemetry::sparing::sparingly;

/// The refusal for wrong chunks. tiny_http does not say what is wrong with them.
const UNREADABLE: Refusal = Refusal::new(StatusCode::BAD_REQUEST, "the body cannot be read");

/// The longest body that tiny_http may have to skip. When a request is dropped, tiny_http skips the rest of its body
/// and reserves memory for all of that rest at once. A process that does not get that memory is aborted. So a refused
/// request that announces more is never dropped, which costs its connection and a thread.
const MOST_SKIPPED: usize = 1 << 30;

/// The running connector.
pub(crate) struct TinyHttp {
    server: Arc<tiny_http::Server>,
    receiver: JoinHandle<()>,
    in_flight: Arc<InFlight>,
    intake: Arc<RwLock<Intake>>,
    /// Nobody holds it once the receiver has ended.
    life: Weak<()>,
}

/// The settings and the service for new requests. A reload changes them.
#[derive(Clone)]
struct Intake {
    limits: Limits,
    request_ids: Arc<RequestIds>,
    journal: Journal,
    service: Arc<dyn Service>,
}

/// The number of requests that were read and not answered yet.
#[derive(Debug, Default)]
struct InFlight {
    count: Mutex<usize>,
    changed: Condvar,
    draining: AtomicBool,
    stopped: AtomicBool,
}

/// One request, on tiny_http's side.
struct Exchange {
    /// Taken by the thread that answers.
    request: Mutex<Option<tiny_http::Request>>,
    request_id: RequestId,
    journal: Journal,
    /// The access log's data about the request, if there is an access log. Used when no worker answers.
    logged: Option<LoggedRequest>,
    body_use: BodyUse,
    max_body_bytes: usize,
    /// Kept for its drop.
    _counted: Counted,
}

/// Counts a request as in flight until it is dropped, however its answer ends.
struct Counted(Arc<InFlight>);

/// A request whose head was read, as the access log needs it.
struct LoggedRequest {
    at: Instant,
    form: Form,
    outline: KeptOutline,
    endpoint: Option<Arc<Endpoint>>,
}

impl Intake {
    fn new(settings: &Settings, service: Arc<dyn Service>) -> Self {
        let (request_ids, journal) = (Arc::clone(&settings.request_ids), settings.journal.clone());
        Self { limits: settings.limits, request_ids, journal, service }
    }
}

impl TinyHttp {
    /// Starts the thread that receives requests on a bound listener.
    ///
    /// # Errors
    /// When the system refuses a thread, or when there are several listeners.
    pub(crate) fn start(
        listeners: Vec<Listener>,
        settings: &Settings,
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let count = listeners.len();
        let Ok([listener]) = <[Listener; 1]>::try_from(listeners) else {
            let said = format!("server.connector = \"tiny_http\" serves one listener, and there are {count}");
            return Err(io::Error::new(io::ErrorKind::Unsupported, said));
        };
        let listener = std::net::TcpListener::from(listener.into_socket());
        let server = Arc::new(tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?);
        let in_flight = Arc::<InFlight>::default();
        let intake = Arc::new(RwLock::new(Intake::new(settings, service)));
        let (incoming, flying, current) = (Arc::clone(&server), Arc::clone(&in_flight), Arc::clone(&intake));
        let (held, noted) = (Arc::new(()), Arc::clone(&metrics));
        let life = Arc::downgrade(&held);
        let mut receive = move || {
            while !flying.draining.load(Ordering::Acquire) {
                match incoming.recv() {
                    Ok(request) => {
                        let intake = current.read().unwrap_or_else(PoisonError::into_inner).clone();
                        Exchange::begin(request, &intake, &flying, &metrics);
                    }
                    // `unblock` ends a wait with an error as well. After any other error, tiny_http never accepts
                    // again.
                    Err(error) if flying.draining.load(Ordering::Acquire) => log::debug!("draining: {error}"),
                    Err(error) => {
                        log::error!("tiny_http accepts no more connections: {error}");
                        break;
                    }
                }
            }
        };
        let receive = move || {
            supervise("the tiny_http receiver", || noted.thread_panicked(), &mut receive);
            drop(held);
        };
        let receiver = thread::Builder::new().name("tiny_http".into()).spawn(receive)?;
        Ok(Self { server, receiver, in_flight, intake, life })
    }
}

impl Connector for TinyHttp {
    fn drain(self: Box<Self>, patience: Duration) -> Drained {
        self.in_flight.draining.store(true, Ordering::Release);
        self.server.unblock();
        if self.receiver.join().is_err() {
            log::error!("the tiny_http receiver panicked");
        }
        drop(self.server);
        match self.in_flight.wait_for_none(Instant::now() + patience) {
            0 => Drained::Complete,
            left => Drained::CutOff(left),
        }
    }

    fn reload(&self, settings: Settings, service: Arc<dyn Service>) {
        *self.intake.write().unwrap_or_else(PoisonError::into_inner) = Intake::new(&settings, service);
    }

    fn stopper(&self) -> Stopper {
        let in_flight = Arc::clone(&self.in_flight);
        Box::new(move || {
            // Taking the lock keeps this change from falling between another thread's check and its wait.
            let _count = in_flight.count.lock().unwrap_or_else(PoisonError::into_inner);
            in_flight.stopped.store(true, Ordering::Release);
            in_flight.changed.notify_all();
        })
    }

    fn pulse(&self) -> Pulse {
        let receiver = self.life.clone();
        Box::new(
            move |_| {
                if receiver.strong_count() == 0 { Err("tiny_http's receiver has ended") } else { Ok(()) }
            },
        )
    }
}

impl Counted {
    fn new(in_flight: &Arc<InFlight>) -> Self {
        *in_flight.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(Arc::clone(in_flight))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Self(in_flight) = self;
        *in_flight.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        in_flight.changed.notify_all();
    }
}

impl InFlight {
    /// Waits until no request is left, the time is over or the server is stopped. Returns how many are left.
    fn wait_for_none(&self, until: Instant) -> usize {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if *count == 0 || left.is_zero() || self.stopped.load(Ordering::Acquire) {
                return *count;
            }
            count = self.changed.wait_timeout(count, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("body_use", &self.body_use).finish_non_exhaustive()
    }
}

impl Exchange {
    fn begin(request: tiny_http::Request, intake: &Intake, in_flight: &Arc<InFlight>, metrics: &Metrics) {
        let Intake { limits, request_ids, journal, service } = intake;
        let counted = Counted::new(in_flight);
        metrics.received();
        let read = read_head(&request, limits).map(|mut read| {
            read.read_id(request_ids);
            read
        });
        let request_id = read.as_ref().ok().and_then(|read| read.request_id.clone());
        let request_id = request_id.unwrap_or_else(|| request_ids.unread());
        let logged = read.as_ref().ok().filter(|_| journal.has_access()).map(|read| LoggedRequest {
            at: Instant::now(),
            form: read.form(),
            outline: KeptOutline::of(read, read.peer().map(|peer| peer.ip())),
            endpoint: service.endpoint(read),
        });
        let plan = read.as_ref().map(|request| service.plan(request));
        let (wanted, body_use, max_body_bytes) = match plan {
            Ok(BodyPlan::Wanted { body_use, max_bytes }) => (true, body_use, max_bytes),
            Ok(BodyPlan::Unwanted(_) | BodyPlan::Refused) | Err(_) => (false, BodyUse::Whole, 0),
        };
        let length = request.body_length().unwrap_or(0);
        if length > max_body_bytes.max(MOST_SKIPPED) {
            metrics.refused(Reason::BodyBytes);
            metrics.unmatched().responded(Refusal::BODY_TOO_LARGE.status.as_u16());
            sparingly!(
                log::Level::Warn,
                "requests without an answer",
                "a request gets no answer: it announces a body of {length} bytes"
            );
            std::mem::forget(request);
            return;
        }
        let too_long = wanted && length > max_body_bytes;
        let read = if too_long { read.and(Err(Refusal::BODY_TOO_LARGE)) } else { read };
        let exchange = Arc::new(Self {
            request: Mutex::new(Some(request)),
            request_id,
            journal: journal.clone(),
            logged,
            body_use,
            max_body_bytes,
            _counted: counted,
        });
        let admission = match read {
            Ok(request) => service.accept(request),
            Err(refusal) => {
                metrics.refused(refusal.fault.into());
                metrics.unmatched().responded(refusal.status.as_u16());
                let response = problem(refusal.status, refusal.detail, &[]);
                exchange.send_without_worker(response, Some(refusal.fault.into()));
                return;
            }
        };
        match admission {
            Admission::Answered(response, _) => {
                metrics.answered();
                exchange.send_without_worker(response, None);
            }
            Admission::Refused(response, reason, _) => {
                metrics.refused(reason);
                exchange.send_without_worker(response, Some(reason));
            }
            Admission::Work(work) => {
                let client = Arc::clone(&exchange) as Arc<dyn Client>;
                // tiny_http does not report that a client has left. The presence is needed to know what was committed.
                let job = work.job_of(client, 1, &Presence::tracked());
                match service.enqueue(job) {
                    Ok(_) => service.wake(),
                    Err((reason, response)) => {
                        metrics.refused(reason);
                        exchange.send_without_worker(response, Some(reason));
                    }
                }
            }
        }
    }

    /// Sends an answer of no worker, on a thread of its own. tiny_http waits for earlier answers on the connection, for
    /// the client to take this one, and for a body that is not read. Requests of other clients must not wait for that.
    fn send_without_worker(self: Arc<Self>, mut response: Response, reason: Option<Reason>) {
        response.name_request(self.request_id.id());
        self.note_end(&response, reason);
        let exchange = Arc::clone(&self);
        let spawned = thread::Builder::new().name("answer".into()).spawn(move || exchange.send(response));
        if let Err(error) = spawned {
            sparingly!(
                log::Level::Error,
                "answers without a thread",
                "cannot start a thread that sends an answer: {error}"
            );
            let mut refusal = unavailable("the server is out of threads").to_response();
            refusal.name_request(self.request_id.id());
            self.send(refusal);
        }
    }

    /// Writes the access log's line for an answer of no worker.
    fn note_end(&self, response: &Response, reason: Option<Reason>) {
        let (logged, ended) = (self.logged.as_ref(), Instant::now());
        let outline = logged.map(|logged| logged.outline.outline());
        self.journal.ended(&Entry {
            outline,
            client: outline.and_then(|outline| outline.client()),
            request_id: Some(&self.request_id),
            status: response.status().as_u16(),
            bytes: logged.map_or(Form::CLOSE, |logged| logged.form).body_length(response),
            ended,
            total: logged.map_or(Duration::ZERO, |logged| ended - logged.at),
            spans: None,
            endpoint: logged.and_then(|logged| logged.endpoint.as_deref()),
            reason,
        });
    }

    fn send(&self, response: Response) -> Delivery {
        let Some(request) = self.take_request() else { return Delivery::TooLate };
        let typed = response.content_type().map(|value| ("content-type", value));
        let headers =
            typed.into_iter().chain(response.headers().iter().map(|(name, value)| (name.as_str(), value)));
        let mut timing = Vec::new();
        if let Some(phases) = &response.timing {
            phases.write(&mut timing);
        }
        let timing = response.timing.map(|_| (Timing::HEADER, &*timing));
        let id = self.request_id.header().map(|name| (name.as_str(), self.request_id.id()));
        let headers = headers
            .filter(|(name, _)| id.is_none_or(|(ours, _)| ours != *name))
            .map(|(name, value)| (name, value.as_bytes()))
            .chain(id.map(|(name, id)| (name, id.as_bytes())))
            .chain(timing)
            // tiny_http takes only ASCII values.
            .filter_map(|(name, value)| tiny_http::Header::from_bytes(name, value).ok())
            .collect();
        let status = tiny_http::StatusCode(response.status().as_u16());
        let length = response.length().and_then(|length| usize::try_from(length).ok());
        let body: Box<dyn Read> = match response.body {
            Body::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
            Body::File(file) => Box::new(file.file.take(file.length)),
            Body::Stream(_) | Body::Feed(_) => Box::new(io::empty()),
        };
        let sent = request.respond(tiny_http::Response::new(status, headers, body, length, None));
        if sent.is_ok() { Delivery::Sent } else { Delivery::ClientLeft }
    }

    fn take_request(&self) -> Option<tiny_http::Request> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Client for Exchange {
    /// Reads the body, which tiny_http leaves in the socket.
    fn claim(self: Arc<Self>, _: u64, request: &mut Request) -> Claim {
        if self.body_use == BodyUse::Stream {
            request.source = Some(Arc::new(Incoming { exchange: self, read: Mutex::default() }));
            return Claim::Granted;
        }
        let mut slot = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(incoming) = slot.as_mut() else { return Claim::Gone };
        let (mut body, length) = (Vec::new(), incoming.body_length());
        let limit = self.max_body_bytes;
        match incoming.as_reader().take(limit as u64 + 1).read_to_end(&mut body) {
            Ok(read) if read > limit => Claim::Unreadable(Refusal::BODY_TOO_LARGE),
            // tiny_http takes the end of the connection for the end of the body.
            Ok(read) if length.is_some_and(|length| read < length) => {
                Claim::Unreadable(Refusal::BODY_INCOMPLETE)
            }
            Ok(_) => {
                request.body = Bytes::from(body);
                Claim::Granted
            }
            Err(error) => {
                log::debug!("a body cannot be read: {error}");
                Claim::Unreadable(UNREADABLE)
            }
        }
    }

    fn answer(&self, _: u64, _: &Request, response: Response) -> Delivery {
        self.send(response)
    }

    /// Writes head and chunks as the native connector does, and asks the client to close the connection after them.
    /// tiny_http itself closes it for HTTP/1.0 only.
    fn open(
        self: Arc<Self>,
        _: u64,
        request: &Request,
        response: &Response,
        deadline: Deadline,
    ) -> Option<Box<dyn Stream>> {
        let writer = self.take_request()?.into_writer();
        let mut form = request.form().of(response);
        form.keep_alive = false;
        let mut head = Vec::with_capacity(256);
        encode_head(response, form, Some(&self.request_id), &mut head);
        let stream = OpenStream {
            writer: RefCell::new(writer),
            chunked: !form.http_10,
            broken: Cell::new(false),
            late: Cell::new(false),
            deadline,
            _exchange: self,
        };
        // If the client has left, the first piece finds it out again, and so does the end.
        drop(stream.send(&head));
        Some(Box::new(stream))
    }
}

/// A streamed answer. A client that takes nothing holds the worker, because tiny_http's sockets block.
struct OpenStream {
    writer: RefCell<Box<dyn Write + Send>>,
    chunked: bool,
    /// The client has left.
    broken: Cell<bool>,
    /// The deadline has passed, and something was not sent.
    late: Cell<bool>,
    deadline: Deadline,
    /// Counts as in flight until the stream ends.
    _exchange: Arc<Exchange>,
}

impl Sink for OpenStream {
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        if self.deadline.has_passed() {
            self.late.set(true);
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.write(bytes).inspect_err(|_| self.broken.set(true))
    }
}

impl Stream for OpenStream {
    fn finish(self: Box<Self>, complete: bool) -> Delivery {
        // The connection cannot be closed from here. These bytes are no chunk, so the client sees that the answer is
        // cut.
        if self.chunked && !self.broken.get() && (self.late.get() || !complete) {
            drop(self.write(b"!\r\n"));
        }
        if self.broken.get() { Delivery::ClientLeft } else { Delivery::Sent }
    }
}

impl OpenStream {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut writer = self.writer.borrow_mut();
        writer.write_all(bytes).and_then(|()| writer.flush())
    }
}

/// A body that the handler reads as it comes.
#[derive(Debug)]
struct Incoming {
    exchange: Arc<Exchange>,
    read: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    bytes: usize,
    complete: bool,
    refusal: Option<Refusal>,
    left: bool,
}

impl Source for Incoming {
    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut slot = self.exchange.request.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(request) = slot.as_mut() else { return Err(io::ErrorKind::ConnectionAborted.into()) };
        let (read, length) = (request.as_reader().read(into), request.body_length());
        let mut progress = self.progress();
        let refusal = match read {
            Ok(0) if into.is_empty() => return Ok(0),
            // tiny_http takes the end of the connection for the end of the body.
            Ok(0) if length.is_some_and(|length| progress.bytes < length) => {
                progress.left = true;
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, Refusal::BODY_INCOMPLETE));
            }
            Ok(0) => {
                progress.complete = true;
                return Ok(0);
            }
            Ok(read) if progress.bytes + read <= self.exchange.max_body_bytes => {
                progress.bytes += read;
                return Ok(read);
            }
            Ok(_) => Refusal::BODY_TOO_LARGE,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => UNREADABLE,
            Err(error) => {
                progress.left = true;
                return Err(error);
            }
        };
        progress.refusal = Some(refusal);
        Err(io::Error::other(refusal))
    }

    fn is_complete(&self) -> bool {
        self.progress().complete
    }

    fn refusal(&self) -> Option<Refusal> {
        self.progress().refusal
    }

    fn has_left(&self) -> bool {
        self.progress().left
    }
}

impl Incoming {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the head by this crate's own rules. For that, tiny_http's lines are put together again.
fn read_head(request: &tiny_http::Request, limits: &Limits) -> Result<Request, Refusal> {
    let tiny_http::HTTPVersion(major, minor) = *request.http_version();
    let mut head = format!("{} {} HTTP/{major}.{minor}\r\n", request.method(), request.url());
    for header in request.headers() {
        head.extend([header.field.as_str().as_str(), ": ", header.value.as_str(), "\r\n"]);
    }
    head.push_str("\r\n");
    if head.len() > limits.max_head_bytes {
        return Err(Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head is longer than http.max_head_bytes",
        ));
    }
    let mut request_read = parse_head(head.as_bytes(), limits)?.request;
    request_read.peer = request.remote_addr().copied();
    Ok(request_read)
}
