//! What is counted: every request that was read, and what became of it.
//!
//! Any thread; relaxed atomics, no lock but for who looks and for a new route. `requests = answered + refused + abandoned` once
//! nothing is in flight.

mod census;
mod endpoint;
mod export;
mod failures;
mod histogram;
mod pool;
mod process;

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

pub use census::{CENSUS, Census, Sheet, Standing};
pub use endpoint::{CLIENT_LEFT, Endpoint, PHASES, Phase, Spans, UNMATCHED};
pub use export::{CONTENT_TYPE, Exposition, Gauges, PoolGauges, QueueGauges, WorkerGauges};
pub use failures::{Failure, Failures};
pub use histogram::{Counts, Histogram};
pub use pool::{Pool, UNSERVED, Unserved};

use crate::http::Fault;

/// Why a request was refused by the server rather than answered by its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// No HTTP, or none that is spoken here: the connection is closed.
    Malformed,
    /// Over `http.max_head_bytes`.
    HeadBytes,
    /// Over `http.max_headers`.
    HeaderCount,
    /// Over `http.max_target_bytes`.
    TargetBytes,
    /// Over `http.max_body_bytes`, or what its endpoint has in place of it.
    BodyBytes,
    /// Its head did not come within `http.head_timeout`.
    HeadTimeout,
    /// Its body did not come within `http.body_timeout`.
    BodyTimeout,
    /// Its body came more slowly than `http.min_body_rate`.
    BodyRate,
    /// The server had `http.max_connections`.
    ConnectionLimit,
    /// Its address had `http.max_connections_per_address`.
    AddressLimit,
    /// More clients came in a second than `http.max_accept_rate`.
    AcceptRate,
    /// The process had no file descriptor left.
    Descriptors,
    /// The queue was full.
    QueueFull,
    /// It waited in the queue for longer than it may.
    QueueWait,
    /// It would have waited too long in the queue.
    Shed,
    /// Its deadline passed.
    Deadline,
    /// A browser sent it for the page of another site, which `access.origins` does not allow.
    CrossOrigin,
}

/// Every reason with its name.
pub const REASONS: [(Reason, &str); 17] = [
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
];

impl Reason {
    /// Those that say that there is more to do than workers.
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

/// Why the server ended a connection on which no request was refused for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Closing {
    /// Nothing came for `http.idle_timeout`.
    Idle,
    /// It was idle for longest when a newcomer needed its place.
    Evicted,
    /// It had its `http.max_requests_per_connection`.
    RequestLimit,
    /// Its client did not take an answer within `http.write_timeout`.
    WriteTimeout,
    /// Its TLS handshake failed, took too long, or was one too many.
    Handshake,
    /// It did not begin with a PROXY header, or came from where none is taken.
    ProxyHeader,
}

/// Every closing with its name.
pub const CLOSINGS: [(Closing, &str); 6] = [
    (Closing::Idle, "idle"),
    (Closing::Evicted, "evicted"),
    (Closing::RequestLimit, "request_limit"),
    (Closing::WriteTimeout, "write_timeout"),
    (Closing::Handshake, "handshake"),
    (Closing::ProxyHeader, "proxy_header"),
];

/// The counters of one server.
#[derive(Debug)]
pub struct Metrics {
    /// Where connections stand.
    pub census: Census,
    /// All endpoints' phases.
    phases: [Histogram; PHASES.len()],
    /// What went wrong of late.
    failures: Arc<Failures>,
    /// How long the pollers needed for what workers left of their answers.
    flush: Histogram,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    unmatched: Arc<Endpoint>,
    /// Those that workers or pollers were ever given; by their id.
    endpoints: RwLock<Vec<Arc<Endpoint>>>,
    open: AtomicUsize,
    accepted: AtomicU64,
    requests: AtomicU64,
    answered: AtomicU64,
    abandoned: AtomicU64,
    cancelled: AtomicU64,
    panics: AtomicU64,
    spans_exported: AtomicU64,
    spans_dropped: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
    closed: [AtomicU64; CLOSINGS.len()],
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
            accepted: AtomicU64::default(),
            requests: AtomicU64::default(),
            answered: AtomicU64::default(),
            abandoned: AtomicU64::default(),
            cancelled: AtomicU64::default(),
            panics: AtomicU64::default(),
            spans_exported: AtomicU64::default(),
            spans_dropped: AtomicU64::default(),
            refused: Default::default(),
            closed: Default::default(),
        }
    }
}

impl Metrics {
    /// The counters of the endpoint with this method and route; the same ones whenever they are asked for, also after a reload.
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

    /// Every endpoint's counters, by its id.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest answers with a status from 500, by endpoint and status.
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// A worker has answered the request with this id, which was this endpoint's.
    pub fn finished_by_worker(&self, endpoint: &Endpoint, request: &str, status: u16, spans: &Spans) {
        endpoint.responded_to(request, status);
        endpoint.finished(spans);
        for ((phase, _), histogram) in PHASES.into_iter().zip(&self.phases) {
            histogram.record(spans.of(phase));
        }
    }

    /// How long requests were in a phase, of all endpoints.
    pub fn phase(&self, phase: Phase) -> Counts {
        self.phases[phase as usize].counts()
    }

    /// A poller has sent what a worker had left of its answer.
    pub fn flushed(&self, took: Duration) {
        self.flush.record(took);
    }

    /// How long pollers needed for what workers had left.
    pub fn flushes(&self) -> Counts {
        self.flush.counts()
    }

    /// Bytes came from clients.
    pub fn received_bytes(&self, count: usize) {
        self.received_bytes.fetch_add(count as u64, Relaxed);
    }

    /// Bytes went to clients.
    pub fn sent_bytes(&self, count: usize) {
        self.sent_bytes.fetch_add(count as u64, Relaxed);
    }

    /// Bytes received and sent, as far as they were read and written: with TLS received as they are on the wire, and sent before
    /// encryption.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received_bytes.load(Relaxed), self.sent_bytes.load(Relaxed))
    }

    /// A client connected.
    pub fn connected(&self) {
        self.open.fetch_add(1, Relaxed);
        self.accepted.fetch_add(1, Relaxed);
    }

    /// How many clients ever connected.
    pub fn connections(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// How many handlers panicked.
    pub fn panics(&self) -> u64 {
        self.panics.load(Relaxed)
    }

    /// How many answers came from endpoints.
    pub fn answers(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Its connection was closed.
    pub fn disconnected(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// Connections open now. The tiny_http connector does not know and counts none.
    pub fn open_connections(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// A request was read: whole, or as far as it could be before it was refused.
    pub fn received(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// An endpoint's answer, of whatever status, was handed to the connection.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Relaxed);
    }

    /// A request was refused.
    pub fn refused(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    /// A connection was ended by the server.
    pub fn closed(&self, closing: Closing) {
        self.closed[closing as usize].fetch_add(1, Relaxed);
    }

    /// The client left before its answer.
    pub fn abandoned(&self) {
        self.abandoned.fetch_add(1, Relaxed);
    }

    /// A request's statement was cancelled because its client had left; the request is counted as abandoned.
    pub fn cancelled(&self) {
        self.cancelled.fetch_add(1, Relaxed);
    }

    /// How many clients left before their answer.
    pub fn abandoned_by_clients(&self) -> u64 {
        self.abandoned.load(Relaxed)
    }

    /// How many of their statements were cancelled for it.
    pub fn cancelled_statements(&self) -> u64 {
        self.cancelled.load(Relaxed)
    }

    /// A handler panicked; its request is counted as answered, with 500.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// The collector of traces has taken so many spans.
    pub fn spans_exported(&self, count: u64) {
        self.spans_exported.fetch_add(count, Relaxed);
    }

    /// So many were not sent, or not taken.
    pub fn spans_dropped(&self, count: u64) {
        self.spans_dropped.fetch_add(count, Relaxed);
    }

    /// How many spans the collector has taken.
    pub fn exported_spans(&self) -> u64 {
        self.spans_exported.load(Relaxed)
    }

    /// How many it has not.
    pub fn dropped_spans(&self) -> u64 {
        self.spans_dropped.load(Relaxed)
    }

    /// How many requests were read.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// What became of them, all together: answered, refused or abandoned.
    pub fn finished(&self) -> u64 {
        let refused = self.refused.iter().map(|count| count.load(Relaxed)).sum::<u64>();
        self.answered.load(Relaxed) + refused + self.abandoned.load(Relaxed)
    }

    /// How many requests were refused because there was more to do than workers.
    pub fn refused_for_overload(&self) -> u64 {
        Reason::OVERLOAD.into_iter().map(|reason| self.refused_for(reason)).sum()
    }

    /// How many requests were refused for this reason.
    pub fn refused_for(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }

    /// How many connections were ended for this reason.
    pub fn closed_for(&self, closing: Closing) -> u64 {
        self.closed[closing as usize].load(Relaxed)
    }
}

impl fmt::Display for Metrics {
    /// One line with every counter that is not zero. Once nothing is in flight, the first is the sum of those that were
    /// answered, refused or abandoned.
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
            (&self.cancelled, "statements cancelled for it"),
            (&self.panics, "handler panics"),
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
    fn the_account_begins_with_what_was_read() {
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
