//! The simple connector: tiny_http 0.12 speaks HTTP, the same queue, workers and handlers stand behind it.
//!
//! tiny_http spends a thread per connection and puts no limit on them, nor a timeout on anything a client does. A
//! request's body is read by the worker, so a slow client holds one; an answer is written by the worker, so a slow reader
//! does too; a handler that ignores its deadline is waited for. `docs/tiny_http.md` has the list. It is here because it is small.

use std::io::{self, Read};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use super::{Connector, Drained, Settings, Stopper};
use crate::http::{Limits, Refusal, Request, Response, parse_head, problem};
use crate::job::{Admission, Claim, Client, Delivery, Job, Service, Work};
use crate::metrics::{Metrics, Reason};

/// The running connector.
pub struct TinyHttp {
    server: Arc<tiny_http::Server>,
    receiver: JoinHandle<()>,
    in_flight: Arc<InFlight>,
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
    limits: Limits,
    in_flight: Arc<InFlight>,
}

impl TinyHttp {
    /// Starts the thread that receives requests, on a listener that is bound already.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        listener: TcpListener,
        settings: &Settings,
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let server = Arc::new(tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?);
        let in_flight = Arc::<InFlight>::default();
        let (incoming, flying, limits) = (Arc::clone(&server), Arc::clone(&in_flight), settings.limits);
        let receive = move || {
            while !flying.draining.load(Ordering::Acquire) {
                match incoming.recv() {
                    Ok(request) => Exchange::begin(request, limits, &flying, service.as_ref(), &metrics),
                    // `unblock` ends a wait like this; what else does has ended tiny_http's accepting for ever.
                    Err(error) if flying.draining.load(Ordering::Acquire) => log::debug!("draining: {error}"),
                    Err(error) => {
                        log::error!("tiny_http accepts no more connections: {error}");
                        return;
                    }
                }
            }
        };
        let receiver = thread::Builder::new().name("tiny_http".into()).spawn(receive)?;
        Ok(Self { server, receiver, in_flight })
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

    fn stopper(&self) -> Stopper {
        let in_flight = Arc::clone(&self.in_flight);
        Box::new(move || {
            in_flight.stopped.store(true, Ordering::Release);
            in_flight.changed.notify_all();
        })
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

impl Exchange {
    fn begin(
        request: tiny_http::Request,
        limits: Limits,
        in_flight: &Arc<InFlight>,
        service: &dyn Service,
        metrics: &Metrics,
    ) {
        in_flight.add();
        metrics.received();
        let read = read_head(&request, &limits);
        let exchange =
            Arc::new(Self { request: Mutex::new(Some(request)), limits, in_flight: Arc::clone(in_flight) });
        let admission = match read {
            Ok(request) => service.accept(request),
            Err(refusal) => {
                metrics.refused(Reason::Malformed);
                exchange.send(problem(refusal.status, refusal.detail, &[]));
                return;
            }
        };
        match admission {
            Admission::Answered(response) => {
                metrics.answered();
                exchange.send(response);
            }
            Admission::Work(Work { request, handler, start_by, deadline }) => {
                let client = Arc::clone(&exchange) as Arc<dyn Client>;
                let job = Job { request, handler, start_by, deadline, client, ticket: 1 };
                if let Err(response) = service.enqueue(job) {
                    metrics.refused(Reason::QueueFull);
                    exchange.send(response);
                }
            }
        }
    }

    fn send(&self, response: Response) -> Delivery {
        let Some(request) = self.request.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Delivery::TooLate;
        };
        let typed = response.content_type().map(|value| ("content-type", value));
        let headers =
            typed.into_iter().chain(response.headers().iter().map(|(name, value)| (name.as_str(), value)));
        let headers = headers
            // tiny_http knows ASCII values only.
            .filter_map(|(name, value)| tiny_http::Header::from_bytes(name, value.as_bytes()).ok())
            .collect();
        let (status, body) = (tiny_http::StatusCode(response.status().as_u16()), response.into_body());
        let length = Some(body.len());
        let sent =
            request.respond(tiny_http::Response::new(status, headers, io::Cursor::new(body), length, None));
        self.in_flight.remove();
        if sent.is_ok() { Delivery::Sent } else { Delivery::ClientLeft }
    }
}

impl Client for Exchange {
    /// Reads the body: tiny_http leaves it in the socket.
    fn claim(&self, _: u64, request: &mut Request) -> Claim {
        let mut slot = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(incoming) = slot.as_mut() else { return Claim::Gone };
        let mut body = Vec::new();
        let limit = self.limits.max_body_bytes;
        match incoming.as_reader().take(limit as u64 + 1).read_to_end(&mut body) {
            Ok(read) if read > limit => {
                let detail = "the body is longer than http.max_body_bytes";
                Claim::Unreadable(problem(StatusCode::PAYLOAD_TOO_LARGE, detail, &[]))
            }
            Ok(_) => {
                request.body = Bytes::from(body);
                Claim::Granted
            }
            Err(error) => {
                log::debug!("a body cannot be read: {error}");
                Claim::Unreadable(problem(StatusCode::BAD_REQUEST, "the body cannot be read", &[]))
            }
        }
    }

    fn answer(&self, _: u64, _: &Request, response: Response) -> Delivery {
        self.send(response)
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
        return Err(Refusal {
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            detail: "the head is longer than http.max_head_bytes",
        });
    }
    let mut request_read = parse_head(head.as_bytes(), limits)?.request;
    request_read.peer = request.remote_addr().copied();
    Ok(request_read)
}
