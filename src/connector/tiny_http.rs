//! The simple connector: tiny_http 0.12 speaks HTTP, the same queue, workers and handlers stand behind it.
//!
//! tiny_http spends a thread per connection and puts no limit on them, nor a timeout on anything a client does. A
//! request's body is read by the worker, so a slow client holds one; an answer is written by the worker, so a slow reader
//! does too; a handler that ignores its deadline is waited for. `docs/tiny_http.md` has the list. It is here because it is small.

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

/// tiny_http says no more of what is wrong with chunks.
const UNREADABLE: Refusal = Refusal::new(StatusCode::BAD_REQUEST, "the body cannot be read");

/// What is left of a body tiny_http skips when its request is dropped, and reserves memory for all of that at once: a process
/// that does not get so much is aborted. So a request that nobody wants and that announces more is never dropped, which
/// costs its connection and a thread.
const MOST_SKIPPED: usize = 1 << 30;

/// The running connector.
pub(crate) struct TinyHttp {
    server: Arc<tiny_http::Server>,
    receiver: JoinHandle<()>,
    in_flight: Arc<InFlight>,
    behind: Arc<RwLock<Behind>>,
    /// Nobody holds it once the receiver has ended.
    life: Weak<()>,
}

/// What new requests are read by and given to; changed by a reload.
#[derive(Clone)]
struct Behind {
    limits: Limits,
    request_ids: Arc<RequestIds>,
    journal: Journal,
    service: Arc<dyn Service>,
}

/// Requests that were read and not answered yet.
#[derive(Debug, Default)]
struct InFlight {
    count: Mutex<usize>,
    changed: Condvar,
    draining: AtomicBool,
    stopped: AtomicBool,
}

/// One request, from tiny_http's side.
struct Exchange {
    /// Taken by who answers.
    request: Mutex<Option<tiny_http::Request>>,
    request_id: RequestId,
    journal: Journal,
    /// What the access log says of it, where there is one and no worker answers.
    asked: Option<Asked>,
    body_use: BodyUse,
    max_body_bytes: usize,
    in_flight: Arc<InFlight>,
}

/// A request whose head was read.
struct Asked {
    at: Instant,
    form: Form,
    outline: KeptOutline,
    endpoint: Option<Arc<Endpoint>>,
}

impl Behind {
    fn new(settings: &Settings, service: Arc<dyn Service>) -> Self {
        let (request_ids, journal) = (Arc::clone(&settings.request_ids), settings.journal.clone());
        Self { limits: settings.limits, request_ids, journal, service }
    }
}

impl TinyHttp {
    /// Starts the thread that receives requests, on a listener that is bound already.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(
        listener: Listener,
        settings: &Settings,
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::from(listener.into_socket());
        let server = Arc::new(tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?);
        let in_flight = Arc::<InFlight>::default();
        let behind = Arc::new(RwLock::new(Behind::new(settings, service)));
        let (incoming, flying, current) = (Arc::clone(&server), Arc::clone(&in_flight), Arc::clone(&behind));
        let held = Arc::new(());
        let life = Arc::downgrade(&held);
        let receive = move || {
            while !flying.draining.load(Ordering::Acquire) {
                match incoming.recv() {
                    Ok(request) => {
                        let behind = current.read().unwrap_or_else(PoisonError::into_inner).clone();
                        Exchange::begin(request, &behind, &flying, &metrics);
                    }
                    // `unblock` ends a wait like this; what else does has ended tiny_http's accepting for ever.
                    Err(error) if flying.draining.load(Ordering::Acquire) => log::debug!("draining: {error}"),
                    Err(error) => {
                        log::error!("tiny_http accepts no more connections: {error}");
                        break;
                    }
                }
            }
            // A panic drops it too.
            drop(held);
        };
        let receiver = thread::Builder::new().name("tiny_http".into()).spawn(receive)?;
        Ok(Self { server, receiver, in_flight, behind, life })
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
        *self.behind.write().unwrap_or_else(PoisonError::into_inner) = Behind::new(&settings, service);
    }

    fn stopper(&self) -> Stopper {
        let in_flight = Arc::clone(&self.in_flight);
        Box::new(move || {
            // Under the lock, so that it does not come between a waiter's look and its wait.
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

impl InFlight {
    fn add(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn remove(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.changed.notify_all();
    }

    /// Waits until no request is left, the time is over or the server is stopped; returns how many are left.
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
    fn begin(request: tiny_http::Request, behind: &Behind, in_flight: &Arc<InFlight>, metrics: &Metrics) {
        let Behind { limits, request_ids, journal, service } = behind;
        in_flight.add();
        metrics.received();
        let read = read_head(&request, limits).map(|mut read| {
            read.read_id(request_ids);
            read
        });
        let request_id = read.as_ref().ok().and_then(|read| read.request_id.clone());
        let request_id = request_id.unwrap_or_else(|| request_ids.unread());
        let asked = read.as_ref().ok().filter(|_| journal.has_access()).map(|read| Asked {
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
            in_flight.remove();
            return;
        }
        let too_long = wanted && length > max_body_bytes;
        let read = if too_long { read.and(Err(Refusal::BODY_TOO_LARGE)) } else { read };
        let in_flight = Arc::clone(in_flight);
        let exchange = Arc::new(Self {
            request: Mutex::new(Some(request)),
            request_id,
            journal: journal.clone(),
            asked,
            body_use,
            max_body_bytes,
            in_flight,
        });
        let admission = match read {
            Ok(request) => service.accept(request),
            Err(refusal) => {
                metrics.refused(refusal.fault.into());
                metrics.unmatched().responded(refusal.status.as_u16());
                let response = problem(refusal.status, refusal.detail, &[]);
                exchange.send_beside(response, Some(refusal.fault.into()));
                return;
            }
        };
        match admission {
            Admission::Answered(response, _) => {
                metrics.answered();
                exchange.send_beside(response, None);
            }
            Admission::Refused(response, reason, _) => {
                metrics.refused(reason);
                exchange.send_beside(response, Some(reason));
            }
            Admission::Work(work) => {
                let client = Arc::clone(&exchange) as Arc<dyn Client>;
                // tiny_http does not tell when a client leaves, but what was committed for it is to be known.
                let job = work.job_of(client, 1, &Presence::tracked());
                match service.enqueue(job) {
                    Ok(_) => service.wake(),
                    Err((reason, response)) => {
                        metrics.refused(reason);
                        exchange.send_beside(response, Some(reason));
                    }
                }
            }
        }
    }

    /// Sends an answer that no worker made, on a thread of its own: tiny_http waits for earlier answers on the connection,
    /// for the client to take this one, and for a body that nobody has read, and other clients' requests are not to.
    fn send_beside(self: Arc<Self>, mut response: Response, reason: Option<Reason>) {
        response.name_request(self.request_id.id());
        self.note_end(&response, reason);
        let exchange = Arc::clone(&self);
        let spawned = thread::Builder::new().name("answer".into()).spawn(move || exchange.send(response));
        if let Err(error) = spawned {
            sparingly!(log::Level::Error, "answers without a thread", "no thread sends an answer: {error}");
            let mut refusal = unavailable("the server is out of threads").to_response();
            refusal.name_request(self.request_id.id());
            self.send(refusal);
        }
    }

    /// The access log's line for an answer that no worker made.
    fn note_end(&self, response: &Response, reason: Option<Reason>) {
        let (asked, ended) = (self.asked.as_ref(), Instant::now());
        let outline = asked.map(|asked| asked.outline.outline());
        self.journal.ended(&Entry {
            outline,
            client: outline.and_then(|outline| outline.client()),
            request_id: Some(&self.request_id),
            status: response.status().as_u16(),
            bytes: asked.map_or(Form::CLOSE, |asked| asked.form).body_length(response),
            ended,
            total: asked.map_or(Duration::ZERO, |asked| ended - asked.at),
            spans: None,
            endpoint: asked.and_then(|asked| asked.endpoint.as_deref()),
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
            // tiny_http knows ASCII values only.
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
        self.in_flight.remove();
        if sent.is_ok() { Delivery::Sent } else { Delivery::ClientLeft }
    }

    fn take_request(&self) -> Option<tiny_http::Request> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Client for Exchange {
    /// Reads the body: tiny_http leaves it in the socket.
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
            // tiny_http takes the connection's end for the body's.
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

    /// The head and every chunk are written as the native connector writes them, and the client is to end the connection
    /// after them: tiny_http does so for HTTP/1.0 only.
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
            in_flight: Arc::clone(&self.in_flight),
        };
        // A client that has left is found out again by the first piece, and by the end.
        drop(stream.send(&head));
        Some(Box::new(stream))
    }
}

/// A streamed answer. What the client does not take holds the worker: tiny_http's sockets wait.
struct OpenStream {
    writer: RefCell<Box<dyn Write + Send>>,
    chunked: bool,
    /// The client has left.
    broken: Cell<bool>,
    /// The deadline has passed, and something was not sent.
    late: Cell<bool>,
    deadline: Deadline,
    in_flight: Arc<InFlight>,
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
        // The connection cannot be ended from here, so the client is given something that is no chunk.
        if self.chunked && !self.broken.get() && (self.late.get() || !complete) {
            drop(self.write(b"!\r\n"));
        }
        self.in_flight.remove();
        if self.broken.get() { Delivery::ClientLeft } else { Delivery::Sent }
    }
}

impl OpenStream {
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut writer = self.writer.borrow_mut();
        writer.write_all(bytes).and_then(|()| writer.flush())
    }
}

/// A body that a handler reads as it comes.
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
            // tiny_http takes the connection's end for the body's.
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

/// Reads the head by our own rules, from tiny_http's lines put together again.
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
