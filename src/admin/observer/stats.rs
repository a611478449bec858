//! The report on a running server, for people and as JSON. Times are in milliseconds; a name ends with its unit.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::telemetry::metrics::{
    CLOSINGS, Endpoint, Metrics, PHASES, Pool, PoolGauges, QueueGauges, REASONS, Spans, UNSERVED,
    WorkerGauges,
};

/// All figures of one moment.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The server's version.
    pub wharf: &'static str,
    /// When it started, in seconds since 1970.
    pub started_at_s: f64,
    /// How long it has run.
    pub uptime_s: f64,
    /// The state of the server.
    pub state: State,
    /// Why the server is not as it should be, the worst first. Empty if all is well.
    pub conditions: Vec<Condition>,
    /// The counts since the start.
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
    /// Each endpoint that served, failed or refused requests in the last half to whole minute, the slowest first.
    pub endpoints: Vec<EndpointStats>,
    /// Answers with a status from 500 by endpoint and status, the latest 20 kinds, the latest first.
    pub errors: Vec<ErrorStats>,
}

/// The state of a server in one word. If several states apply, the worst one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// It answers every request.
    Ready,
    /// The queue is full, requests were refused because of load, or requests wait while every worker is busy.
    Saturated,
    /// It has no session with the database, and cannot open one.
    DatabaseDown,
    /// It stops.
    Draining,
}

/// A condition of the server that an operator should know: why, since when, what the server does about it, and what can be done.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Condition {
    /// Which one.
    pub kind: ConditionKind,
    /// Its name for people.
    pub title: &'static str,
    /// Since when, in seconds since 1970.
    pub since_s: f64,
    /// How long it has lasted.
    pub for_s: f64,
    /// When it ends, in seconds since 1970, where that is known.
    pub until_s: Option<f64>,
    /// Its cause, in whole sentences.
    pub why: String,
    /// The server's own remedy.
    pub now: String,
    /// The operator's remedy.
    pub advice: String,
}

/// The kinds of conditions. The first ones are states as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConditionKind {
    /// The server stops.
    Draining,
    /// It has no session with the database, and cannot open one.
    DatabaseDown,
    /// More requests come than the workers can answer.
    Saturated,
    /// A session is lent for longer than `database.leak_detection_threshold`.
    Leak,
    /// The last reload was refused, and the configuration from before goes on.
    ReloadRefused,
}

impl State {
    /// The state of a server in these conditions, of which the worst comes first.
    pub(super) fn of(conditions: &[Condition]) -> Self {
        match conditions.first().map(|condition| condition.kind) {
            Some(ConditionKind::Draining) => Self::Draining,
            Some(ConditionKind::DatabaseDown) => Self::DatabaseDown,
            Some(ConditionKind::Saturated) => Self::Saturated,
            Some(ConditionKind::Leak | ConditionKind::ReloadRefused) | None => Self::Ready,
        }
    }
}

/// Counts since the server started.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Requests read.
    pub requests: u64,
    /// How many of these are not answered yet.
    pub in_flight: u64,
    /// Answers of endpoints, with any status.
    pub answered: u64,
    /// Requests whose client left before the answer.
    pub abandoned: u64,
    /// Refused requests by reason. Reasons without any are left out.
    pub refused: BTreeMap<&'static str, u64>,
    /// Connections that the server ended, by reason. Reasons without any are left out.
    pub connections_closed: BTreeMap<&'static str, u64>,
    /// Answers by status, of all endpoints and of requests without one.
    pub statuses: BTreeMap<u16, u64>,
    /// Handlers that panicked.
    pub panics: u64,
    /// Bytes read from clients.
    pub received_bytes: u64,
    /// Bytes written to clients.
    pub sent_bytes: u64,
}

/// The current activity of one worker.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Thread {
    /// The name of its thread.
    pub name: String,
    /// `idle`, `handler`, `pool`, `database` or `write`.
    pub state: &'static str,
    /// How long it has done that.
    pub for_ms: f64,
    /// The method of the endpoint whose request it has.
    pub method: Option<String>,
    /// The path of that endpoint.
    pub route: Option<String>,
    /// How long it has had that request.
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
    /// How many may wait.
    pub max_length: usize,
    /// How long the oldest has waited.
    pub oldest_ms: f64,
}

/// The database pool.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// The pool's gauges.
    #[serde(flatten)]
    pub gauges: PoolGauges,
    /// Failed checkouts by reason. Reasons without any are left out.
    pub acquire_failures: BTreeMap<&'static str, u64>,
    /// Sessions that could not be opened.
    pub creation_failures: u64,
    /// Sessions that were closed.
    pub closed: u64,
    /// Sessions that were not returned in time.
    pub leaks: u64,
    /// Statements that were cancelled.
    pub cancelled: u64,
    /// How often statements ran again after a collision.
    pub retries: u64,
    /// Times that statements were sent on a session that several requests shared.
    pub pipelines: u64,
    /// The requests that shared them.
    pub pipelined_requests: u64,
}

/// Clients' connections.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Connections {
    /// How many are open.
    pub open: usize,
    /// How many were accepted since the start.
    pub accepted: u64,
    /// How many are in each state, by the last count.
    pub states: BTreeMap<&'static str, usize>,
}

/// One second of the past.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Second {
    /// When it ended, in seconds since the server started.
    pub at_s: f64,
    /// How long it was.
    pub length_s: f64,
    /// Requests read in it.
    pub requests: u64,
    /// Good answers: with a status below 400.
    pub good: u64,
    /// Answers with a status from 400 to 499, except 429 and 499.
    pub client_errors: u64,
    /// Answers with a status from 500, except 503.
    pub errors: u64,
    /// Requests that were refused, whatever the reason: answers with 503 or 429.
    pub refused: u64,
    /// Requests whose client left before its answer.
    pub left: u64,
    /// Half of the requests that workers served took at most this long. Refused requests are not served. None: no request was.
    pub p50_ms: Option<f64>,
    /// Nine of ten took at most this long.
    pub p90_ms: Option<f64>,
    /// 99 of 100 took at most this long.
    pub p99_ms: Option<f64>,
    /// The mean time of a request in each phase.
    pub phases_ms: Phases,
    /// Workers with a request at its end.
    pub busy: usize,
    /// Requests in the queue at its end.
    pub queued: usize,
    /// Sessions that requests had at its end.
    pub active: u32,
}

/// The mean time of requests in each phase.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Phases {
    /// Waiting for a worker.
    pub queue: f64,
    /// Waiting for a database session.
    pub pool: f64,
    /// Running statements.
    pub database: f64,
    /// Other time in the handler.
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
    /// Requests that workers served, per second. Refused requests are not served.
    pub per_s: f64,
    /// Answers with a status from 400 to 499, except 429 and 499, per second.
    pub client_errors_per_s: f64,
    /// Answers with a status from 500, except 503, per second.
    pub errors_per_s: f64,
    /// Refused requests, per second: answers with 503 or 429.
    pub refused_per_s: f64,
    /// Half of the served requests took at most this long. None: no request was served.
    pub p50_ms: Option<f64>,
    /// 99 of 100 took at most this long.
    pub p99_ms: Option<f64>,
    /// The mean of their times.
    pub mean_ms: Option<f64>,
    /// The mean time of a request in each phase.
    pub phases_ms: Phases,
    /// Answers by status since the server started.
    pub statuses: BTreeMap<u16, u64>,
}

/// One kind of answers with a status from 500.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ErrorStats {
    /// When the latest was, in seconds since 1970.
    pub at_s: f64,
    /// The endpoint's method; empty for requests without an endpoint.
    pub method: String,
    /// Its path as it is configured; `unmatched` for requests without an endpoint.
    pub route: String,
    /// The status.
    pub status: u16,
    /// How many there were since this kind entered the list.
    pub count: u64,
    /// The latest request's id, as its answer and the log show it; none if the request's head was not read.
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

/// The counts that are not zero.
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
    /// The mean times of this many requests, from the sums of their times.
    pub(super) fn mean(spans: &Spans, requests: u64) -> Self {
        let of = |at: usize| {
            let count = u32::try_from(requests).unwrap_or(u32::MAX).max(1);
            milliseconds(spans.of(PHASES[at].0) / count)
        };
        Self { queue: of(0), pool: of(1), database: of(2), render: of(3), write: of(4) }
    }
}

/// The sum of an endpoint's requests' times in each phase.
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

/// Rounds to a thousandth. More digits would be noise.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
