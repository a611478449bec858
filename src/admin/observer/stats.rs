//! What is said of a server that runs, for people and for JSON. Times are milliseconds; names have their unit last.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::telemetry::metrics::{
    CLOSINGS, Endpoint, Metrics, PHASES, Pool, PoolGauges, QueueGauges, REASONS, Spans, UNSERVED,
    WorkerGauges,
};

/// Everything at one moment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The server's version.
    pub wharf: &'static str,
    /// When it started, in seconds since 1970.
    pub started_at_s: f64,
    /// For how long it has run.
    pub uptime_s: f64,
    /// How it is.
    pub state: State,
    /// What was counted since then.
    pub totals: Totals,
    /// The request threads.
    pub workers: WorkerGauges,
    /// What each of them does.
    pub threads: Vec<Thread>,
    /// The queue.
    pub queue: QueueStats,
    /// The database pool, if there is one.
    pub pool: Option<PoolStats>,
    /// Clients' connections.
    pub connections: Connections,
    /// The last minute, second by second, the latest last.
    pub seconds: Vec<Second>,
    /// Each endpoint that was asked in the last half to whole minute, the slowest first.
    pub endpoints: Vec<EndpointStats>,
    /// Answers with a status from 500 by endpoint and status, the latest first; the latest 20 kinds.
    pub errors: Vec<ErrorStats>,
}

/// How a server is, in one word: the worst of what is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// It answers whatever comes.
    Ready,
    /// The queue is full, or in the last second it refused requests for want of a worker.
    Saturated,
    /// It has no connection to the database, and none can be opened.
    DatabaseDown,
    /// It stops.
    Draining,
}

/// What was counted since the server started.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Requests read.
    pub requests: u64,
    /// Of these, those that are not answered yet.
    pub in_flight: u64,
    /// Answers of endpoints, of whatever status.
    pub answered: u64,
    /// Requests whose client left before the answer.
    pub abandoned: u64,
    /// Requests that were refused, by why. Only those that there are.
    pub refused: BTreeMap<&'static str, u64>,
    /// Connections that the server ended, by why. Only those that there are.
    pub connections_closed: BTreeMap<&'static str, u64>,
    /// Answers by status, of all endpoints and of none.
    pub statuses: BTreeMap<u16, u64>,
    /// Handlers that panicked.
    pub panics: u64,
    /// Bytes read from clients.
    pub received_bytes: u64,
    /// Bytes written to clients.
    pub sent_bytes: u64,
}

/// What one request thread does.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Thread {
    /// Its name, as the system has it.
    pub name: String,
    /// `idle`, `handler`, `pool`, `database` or `write`.
    pub state: &'static str,
    /// For how long it has been that.
    pub for_ms: f64,
    /// The endpoint whose request it has.
    pub method: Option<String>,
    /// The same.
    pub route: Option<String>,
    /// For how long it has had it.
    pub request_ms: Option<f64>,
    /// Whether that request's deadline has passed.
    pub stuck: bool,
}

/// The queue.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct QueueStats {
    /// Requests that wait.
    pub length: usize,
    /// How many may.
    pub max_length: usize,
    /// For how long the oldest has waited.
    pub oldest_ms: f64,
}

/// The database pool.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// How full it is.
    #[serde(flatten)]
    pub gauges: PoolGauges,
    /// Checkouts that failed, by why. Only those that there are.
    pub acquire_failures: BTreeMap<&'static str, u64>,
    /// Connections that could not be opened.
    pub creation_failures: u64,
    /// Connections that were closed.
    pub closed: u64,
    /// Connections that were lent for too long.
    pub leaks: u64,
    /// Statements that were cancelled.
    pub cancelled: u64,
    /// Times that statements ran again after a collision.
    pub retries: u64,
    /// Round trips that several requests shared.
    pub pipelines: u64,
    /// And the requests that did.
    pub pipelined_requests: u64,
}

/// Clients' connections.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Connections {
    /// How many there are.
    pub open: usize,
    /// How many there ever were.
    pub accepted: u64,
    /// Where they stand, as they were counted last.
    pub states: BTreeMap<&'static str, usize>,
}

/// A second of the past.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Second {
    /// When it ended, in seconds since the server started.
    pub at_s: f64,
    /// How long it was.
    pub length_s: f64,
    /// Requests read in it.
    pub requests: u64,
    /// Answers of endpoints with a status below 500.
    pub good: u64,
    /// Answers of endpoints with a status from 500.
    pub errors: u64,
    /// Requests refused for want of a worker or of time: `queue_full`, `queue_wait`, `shed`, `deadline`.
    pub refused: u64,
    /// What workers answered in it: half of them within this.
    pub p50_ms: f64,
    /// Nine of ten of them.
    pub p90_ms: f64,
    /// All but one of a hundred of them.
    pub p99_ms: f64,
    /// Where their time went on average.
    pub phases_ms: Phases,
    /// Workers with a request at its end.
    pub busy: usize,
    /// Requests that waited for one at its end.
    pub queued: usize,
    /// Database connections lent at its end.
    pub active: u32,
}

/// How long requests were in each phase on average.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Phases {
    /// Waiting for a worker.
    pub queue: f64,
    /// Waiting for a database connection.
    pub pool: f64,
    /// Running statements.
    pub database: f64,
    /// In the handler otherwise.
    pub render: f64,
    /// Writing the answer.
    pub write: f64,
}

/// One endpoint in the last half to whole minute.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Its method.
    pub method: String,
    /// Its path as it is configured.
    pub route: String,
    /// Requests that workers answered, a second.
    pub per_s: f64,
    /// Half of them within this.
    pub p50_ms: f64,
    /// All but one of a hundred.
    pub p99_ms: f64,
    /// On average.
    pub mean_ms: f64,
    /// Where their time went on average.
    pub phases_ms: Phases,
    /// Answers by status since the server started.
    pub statuses: BTreeMap<u16, u64>,
}

/// A kind of answer with a status from 500.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ErrorStats {
    /// When the latest was, in seconds since 1970.
    pub at_s: f64,
    /// The endpoint's method; empty for requests that came to none.
    pub method: String,
    /// Its path as it is configured; `unmatched` for requests that came to none.
    pub route: String,
    /// The status.
    pub status: u16,
    /// How many there were since the kind is in this list.
    pub count: u64,
    /// The latest request's id, as its answer and the log have it; none where its head was not read.
    pub request_id: Option<String>,
}

impl ErrorStats {
    pub(super) fn all_of(metrics: &Metrics) -> Vec<Self> {
        let endpoints = metrics.endpoints();
        let failures = metrics.failures().latest().into_iter();
        let known = failures.filter_map(|failure| Some((endpoints.get(failure.endpoint as usize)?, failure)));
        let errors = known.map(|(endpoint, failure)| Self {
            at_s: since_1970(failure.last),
            method: endpoint.method.clone(),
            route: endpoint.route.clone(),
            status: failure.status,
            count: failure.count,
            request_id: Some(failure.request).filter(|id| !id.is_empty()),
        });
        errors.collect()
    }
}

impl Totals {
    pub(super) fn of(metrics: &Metrics) -> Self {
        let requests = metrics.requests();
        let (received_bytes, sent_bytes) = metrics.bytes();
        let mut statuses = BTreeMap::new();
        for (status, count) in metrics.endpoints().iter().flat_map(|endpoint| endpoint.statuses()) {
            *statuses.entry(status).or_default() += count;
        }
        Self {
            requests,
            in_flight: requests.saturating_sub(metrics.finished()),
            answered: metrics.answers(),
            abandoned: metrics.abandoned_by_clients(),
            refused: some(REASONS.map(|(reason, name)| (name, metrics.refused_for(reason)))),
            connections_closed: some(CLOSINGS.map(|(closing, name)| (name, metrics.closed_for(closing)))),
            statuses,
            panics: metrics.panics(),
            received_bytes,
            sent_bytes,
        }
    }
}

/// Those that there are.
fn some<const N: usize>(counts: [(&'static str, u64); N]) -> BTreeMap<&'static str, u64> {
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

impl QueueStats {
    pub(super) fn of(gauges: QueueGauges) -> Self {
        let QueueGauges { length, max_length, oldest } = gauges;
        Self { length, max_length, oldest_ms: milliseconds(oldest) }
    }
}

impl PoolStats {
    pub(super) fn of(gauges: PoolGauges, pool: &Pool) -> Self {
        Self {
            gauges,
            acquire_failures: some(UNSERVED.map(|(how, name)| (name, pool.unserved_for(how)))),
            creation_failures: pool.creation_failures.load(Relaxed),
            closed: pool.closed.load(Relaxed),
            leaks: pool.leaks.load(Relaxed),
            cancelled: pool.cancelled.load(Relaxed),
            retries: pool.retries.load(Relaxed),
            pipelines: pool.pipelines.load(Relaxed),
            pipelined_requests: pool.pipelined.load(Relaxed),
        }
    }
}

impl Connections {
    pub(super) fn of(metrics: &Metrics) -> Self {
        Self {
            open: metrics.open_connections(),
            accepted: metrics.connections(),
            states: metrics.census.counts().into_iter().collect(),
        }
    }
}

impl Phases {
    /// The mean of so many requests that were in the phases for these times together.
    pub(super) fn mean(spans: &Spans, requests: u64) -> Self {
        let of = |at: usize| {
            let count = u32::try_from(requests).unwrap_or(u32::MAX).max(1);
            milliseconds(spans.of(PHASES[at].0) / count)
        };
        Self { queue: of(0), pool: of(1), database: of(2), render: of(3), write: of(4) }
    }
}

/// What an endpoint's requests spent in each phase, all together.
pub(super) fn spent(endpoint: &Endpoint) -> Spans {
    let mut spans = Spans::default();
    for (phase, _) in PHASES {
        spans.set(phase, endpoint.spent(phase));
    }
    spans
}

pub(super) fn since_1970(time: SystemTime) -> f64 {
    rounded(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3)
}

/// To a thousandth: more would be noise.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
