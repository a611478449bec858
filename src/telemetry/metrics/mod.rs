//! The counters of the server: every request that was read, and its outcome.
//!
//! Any thread. Relaxed atomics, and no lock except for readers and for a new route. `requests = answered + refused +
//! abandoned` once nothing is in flight.

mod census;
mod endpoint;
mod export;
mod failures;
mod histogram;
mod outcome;
mod pool;
mod process;

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

pub use census::{CENSUS, Census, ConnectionState, Sheet};
pub use endpoint::{Endpoint, PHASES, Phase, Spans, UNMATCHED};
pub use export::{CONTENT_TYPE, Detail, Exposition, Gauges, PoolGauges, QueueGauges, WorkerGauges};
pub use failures::{Failure, Failures};
pub use histogram::{Buckets, Counts, Histogram};
pub use outcome::{CLIENT_LEFT, Outcome, Outcomes};
pub use pool::{Pool, UNSERVED, Unserved};

use crate::http::Fault;

/// Why the server refused a request instead of letting its endpoint answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// The request is not HTTP, or in a form of HTTP that the server does not accept. The connection is closed.
    Malformed,
    /// Over `http.max_head_bytes`.
    HeadBytes,
    /// Over `http.max_headers`.
    HeaderCount,
    /// Over `http.max_target_bytes`.
    TargetBytes,
    /// Over `http.max_body_bytes`, or over the endpoint's own limit.
    BodyBytes,
    /// Its head did not come within `http.head_timeout`.
    HeadTimeout,
    /// Its body did not come within `http.body_timeout`.
    BodyTimeout,
    /// Its body came more slowly than `http.min_body_rate`.
    BodyRate,
    /// The server already had `http.max_connections`.
    ConnectionLimit,
    /// The client's address already had `http.max_connections_per_address`.
    AddressLimit,
    /// More clients came in a second than `http.max_accept_rate`.
    AcceptRate,
    /// The process had no file descriptor left.
    Descriptors,
    /// The queue was full.
    QueueFull,
    /// The request waited in the queue for longer than allowed.
    QueueWait,
    /// The request would have waited too long in the queue.
    Shed,
    /// The request's deadline passed.
    Deadline,
    /// A browser sent it for a page of another site that `access.origins` does not allow.
    CrossOrigin,
    /// Requests and answers used more memory than `http.max_buffered_bytes`, and this request had taken longest.
    Memory,
}

/// Every reason with its name.
pub const REASONS: [(Reason, &str); 18] = [
    (Reason::Malformed, "malformed"),
    (Reason::HeadBytes, "head_bytes"),
    (Reason::HeaderCount, "header_count"),
    (Reason::TargetBytes, "target_bytes"),
    (Reason::BodyBytes, "body_bytes"),
    (Reason::HeadTimeout, "head_timeout"),
    (Reason::BodyTimeout, "body_timeout"),
    (Reason::BodyRate, "body_rate"),
    (Reason::ConnectionLimit, "connection_limit"),
    (Reason::AddressLimit, "address_limit"),
    (Reason::AcceptRate, "accept_rate"),
    (Reason::Descriptors, "descriptors"),
    (Reason::QueueFull, "queue_full"),
    (Reason::QueueWait, "queue_wait"),
    (Reason::Shed, "shed"),
    (Reason::Deadline, "deadline"),
    (Reason::CrossOrigin, "cross_origin"),
    (Reason::Memory, "memory"),
];

impl Reason {
    /// The reasons that mean more work than the workers can do.
    pub const OVERLOAD: [Self; 3] = [Self::QueueFull, Self::QueueWait, Self::Shed];

    /// Its name.
    pub fn name(self) -> &'static str {
        REASONS[self as usize].1
    }
}

impl From<Fault> for Reason {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed => Self::Malformed,
            Fault::HeadBytes => Self::HeadBytes,
            Fault::HeaderCount => Self::HeaderCount,
            Fault::TargetBytes => Self::TargetBytes,
            Fault::BodyBytes => Self::BodyBytes,
            Fault::BodyTimeout => Self::BodyTimeout,
            Fault::BodyRate => Self::BodyRate,
        }
    }
}

/// Why the server ended a connection without refusing a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Closing {
    /// Nothing came for `http.idle_timeout`.
    Idle,
    /// The connection was idle for longest when a new one needed its place.
    Evicted,
    /// The connection had reached `http.max_requests_per_connection`.
    RequestLimit,
    /// The client did not take an answer within `http.write_timeout`.
    WriteTimeout,
    /// The TLS handshake failed, took too long, or exceeded the limit on handshakes.
    Handshake,
    /// The connection did not begin with a PROXY header, or its peer may not send one.
    ProxyHeader,
    /// Requests and answers used more memory than `http.max_buffered_bytes`, and this connection's client had taken longest to read its
    /// answer.
    Memory,
}

/// Every reason for closing, with its name.
pub const CLOSINGS: [(Closing, &str); 7] = [
    (Closing::Idle, "idle"),
    (Closing::Evicted, "evicted"),
    (Closing::RequestLimit, "request_limit"),
    (Closing::WriteTimeout, "write_timeout"),
    (Closing::Handshake, "handshake"),
    (Closing::ProxyHeader, "proxy_header"),
    (Closing::Memory, "memory"),
];

/// The counters of one server.
#[derive(Debug)]
pub struct Metrics {
    /// The states of connections.
    pub census: Census,
    /// The phases of all endpoints together.
    phases: [Histogram; PHASES.len()],
    /// The latest failures.
    failures: Arc<Failures>,
    /// How long pollers took to send the rest of answers that workers had begun.
    flush: Histogram,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    unmatched: Arc<Endpoint>,
    /// The endpoints that workers or pollers were given, by their id.
    endpoints: RwLock<Vec<Arc<Endpoint>>>,
    open: AtomicUsize,
    buffered: AtomicUsize,
    accepted: AtomicU64,
    requests: AtomicU64,
    answered: AtomicU64,
    abandoned: AtomicU64,
    cancelled: AtomicU64,
    panics: AtomicU64,
    thread_panics: AtomicU64,
    spans_exported: AtomicU64,
    spans_dropped: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
    closed: [AtomicU64; CLOSINGS.len()],
    /// When the first of the listeners' certificates expires.
    certificates_end: Mutex<Option<SystemTime>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let failures = Arc::<Failures>::default();
        let unmatched = Endpoint::new(0, String::new(), UNMATCHED.to_owned(), Arc::clone(&failures));
        let unmatched = Arc::new(unmatched);
        Self {
            census: Census::default(),
            phases: Default::default(),
            failures,
            flush: Histogram::default(),
            received_bytes: AtomicU64::default(),
            sent_bytes: AtomicU64::default(),
            endpoints: RwLock::new(vec![Arc::clone(&unmatched)]),
            unmatched,
            open: AtomicUsize::default(),
            buffered: AtomicUsize::default(),
            accepted: AtomicU64::default(),
            requests: AtomicU64::default(),
            answered: AtomicU64::default(),
            abandoned: AtomicU64::default(),
            cancelled: AtomicU64::default(),
            panics: AtomicU64::default(),
            thread_panics: AtomicU64::default(),
            spans_exported: AtomicU64::default(),
            spans_dropped: AtomicU64::default(),
            refused: Default::default(),
            closed: Default::default(),
            certificates_end: Mutex::default(),
        }
    }
}

impl Metrics {
    /// The counters of the endpoint with this method and route. Every call returns the same ones, also after a reload.
    pub fn endpoint(&self, method: &str, route: &str) -> Arc<Endpoint> {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = endpoints.iter().find(|known| known.method == method && known.route == route) {
            return Arc::clone(known);
        }
        let id = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let failures = Arc::clone(&self.failures);
        let new = Arc::new(Endpoint::new(id, method.to_owned(), route.to_owned(), failures));
        endpoints.push(Arc::clone(&new));
        new
    }

    /// The counters of requests that came to no endpoint.
    pub fn unmatched(&self) -> &Arc<Endpoint> {
        &self.unmatched
    }

    /// The counters of all endpoints, by id.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest answers with a status from 500, by endpoint and status.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Counts an answer that a worker gave to this endpoint's request with this id. Its time counts unless the status says that the
    /// request was not [served](Outcome::is_served).
    pub fn finished_by_worker(&self, endpoint: &Endpoint, request: &str, status: u16, spans: &Spans) {
        endpoint.responded_to(request, status);
        if !Outcome::of(status).is_served() {
            return;
        }
        endpoint.served(spans);
        for ((phase, _), histogram) in PHASES.into_iter().zip(&self.phases) {
            histogram.record(spans.of(phase));
        }
    }

    /// The time of all endpoints' requests in a phase.
    pub fn phase(&self, phase: Phase) -> Counts {
        self.phases[phase as usize].counts()
    }

    /// Counts the time that a poller took to send the rest of an answer.
    pub fn flushed(&self, took: Duration) {
        self.flush.record(took);
    }

    /// The times that pollers took to send the rest of answers.
    pub fn flushes(&self) -> Counts {
        self.flush.counts()
    }

    /// Counts bytes from clients.
    pub fn received_bytes(&self, count: usize) {
        self.received_bytes.fetch_add(count as u64, Relaxed);
    }

    /// Counts bytes to clients.
    pub fn sent_bytes(&self, count: usize) {
        self.sent_bytes.fetch_add(count as u64, Relaxed);
    }

    /// The bytes received and sent, as far as they were read and written. With TLS, received bytes count as on the
    /// wire, sent bytes before encryption.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received_bytes.load(Relaxed), self.sent_bytes.load(Relaxed))
    }

    /// Counts a client that connected.
    pub fn connected(&self) {
        self.open.fetch_add(1, Relaxed);
        self.accepted.fetch_add(1, Relaxed);
    }

    /// The number of clients that ever connected.
    pub fn connections(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// The number of handlers that panicked.
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    /// The number of answers from endpoints.
    pub fn answers(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Counts a connection that was closed.
    pub fn disconnected(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// The number of open connections. The tiny_http connector does not know it and counts none.
    pub fn open_connections(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Counts the change of the bytes that a connection's request and answer use.
    pub fn buffer(&self, before: usize, after: usize) {
        if after >= before {
            self.buffered.fetch_add(after - before, Relaxed);
        } else {
            self.buffered.fetch_sub(before - after, Relaxed);
        }
    }

    /// The bytes that requests and answers of all connections use; see `http.max_buffered_bytes`.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered.load(Relaxed)
    }

    /// Counts a request that was read: whole, or up to the point of its refusal.
    pub fn received(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Counts an endpoint's answer of any status that was handed to the connection.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Relaxed);
    }

    /// Counts a refused request.
    pub fn refused(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    /// Counts a connection that the server ended.
    pub fn closed(&self, closing: Closing) {
        self.closed[closing as usize].fetch_add(1, Relaxed);
    }

    /// Counts a request whose client left before the answer.
    pub fn abandoned(&self) {
        self.abandoned.fetch_add(1, Relaxed);
    }

    /// Notes when the first of the listeners' certificates expires.
    pub(crate) fn set_certificates_end(&self, end: Option<SystemTime>) {
        *self.certificates_end.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// When the first of the listeners' certificates expires. `None`: no listener speaks TLS.
    pub(crate) fn certificates_end(&self) -> Option<SystemTime> {
        *self.certificates_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a statement that was cancelled because its client had left. The request is counted as abandoned.
    pub fn cancelled(&self) {
        self.cancelled.fetch_add(1, Relaxed);
    }

    /// The number of clients that left before their answer.
    pub fn abandoned_by_clients(&self) -> u64 {
        self.abandoned.load(Relaxed)
    }

    /// The number of their statements that were cancelled.
    pub fn cancelled_statements(&self) -> u64 {
        self.cancelled.load(Relaxed)
    }

    /// Counts a handler that panicked. Its request is counted as answered, with 500.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// Counts a panic outside of a handler. The thread went on.
    pub fn thread_panicked(&self) {
        self.thread_panics.fetch_add(1, Relaxed);
    }

    /// The number of panics outside of handlers.
    pub fn thread_panics(&self) -> u64 {
        self.thread_panics.load(Relaxed)
    }

    /// Counts spans that the collector has accepted.
    pub fn spans_exported(&self, count: u64) {
        self.spans_exported.fetch_add(count, Relaxed);
    }

    /// Counts spans that were not sent or not accepted.
    pub fn spans_dropped(&self, count: u64) {
        self.spans_dropped.fetch_add(count, Relaxed);
    }

    /// The number of spans that the collector has accepted.
    pub fn exported_spans(&self) -> u64 {
        self.spans_exported.load(Relaxed)
    }

    /// The number of spans that it has not accepted.
    pub fn dropped_spans(&self) -> u64 {
        self.spans_dropped.load(Relaxed)
    }

    /// The number of requests that were read.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// The number of requests that were answered, refused or abandoned.
    pub fn finished(&self) -> u64 {
        let refused = self.refused.iter().map(|count| count.load(Relaxed)).sum::<u64>();
        self.answered.load(Relaxed) + refused + self.abandoned.load(Relaxed)
    }

    /// The number of requests that were refused because of overload.
    pub fn refused_for_overload(&self) -> u64 {
        Reason::OVERLOAD.into_iter().map(|reason| self.refused_for(reason)).sum()
    }

    /// The number of requests that were refused for this reason.
    pub fn refused_for(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }

    /// The number of connections that were ended for this reason.
    pub fn closed_for(&self, closing: Closing) -> u64 {
        self.closed[closing as usize].load(Relaxed)
    }
}

impl fmt::Display for Metrics {
    /// One line with every counter that is not zero. Once nothing is in flight, the first number is the sum of the
    /// answered, refused and abandoned requests.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} answered", self.requests(), self.answered.load(Relaxed))?;
        for (reason, name) in REASONS {
            match self.refused_for(reason) {
                0 => {}
                count => write!(f, ", {count} refused ({name})")?,
            }
        }
        for (closing, name) in CLOSINGS {
            match self.closed_for(closing) {
                0 => {}
                count => write!(f, ", {count} connections closed ({name})")?,
            }
        }
        let others = [
            (&self.abandoned, "abandoned by clients"),
            (&self.cancelled, "statements cancelled for departures"),
            (&self.panics, "handler panics"),
            (&self.thread_panics, "panics outside of handlers"),
        ];
        for (count, what) in others {
            match count.load(Relaxed) {
                0 => {}
                count => write!(f, ", {count} {what}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_begins_with_the_requests_read() {
        let metrics = Metrics::default();
        (0..3).for_each(|_| metrics.received());
        metrics.answered();
        metrics.refused(Reason::QueueFull);
        metrics.abandoned();
        let account = "3 requests, 1 answered, 1 refused (queue_full), 1 abandoned by clients";
        assert_eq!(metrics.to_string(), account);
    }

    #[test]
    fn every_reason_is_counted_under_its_own_name() {
        for (index, (reason, name)) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "the table is in the order of the enum");
            let metrics = Metrics::default();
            metrics.refused(reason);
            assert_eq!(metrics.refused_for(reason), 1);
            assert!(metrics.to_string().ends_with(&format!("1 refused ({name})")));
        }
        for (index, (closing, name)) in CLOSINGS.into_iter().enumerate() {
            assert_eq!(closing as usize, index, "the table is in the order of the enum");
            let metrics = Metrics::default();
            metrics.closed(closing);
            assert_eq!(metrics.closed_for(closing), 1);
            assert!(metrics.to_string().ends_with(&format!("1 connections closed ({name})")));
        }
    }
}
