//! The past: the figures of the last 60 seconds, and each endpoint's counts of half a minute to a minute ago.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::stats::{EndpointStats, Phases, Second, milliseconds, rounded, spent};
use crate::telemetry::metrics::{Counts, Gauges, Metrics, Reason, Spans};

/// The number of seconds that are kept.
const SECONDS: usize = 60;

/// The age at which the younger of an endpoint's two earlier readings replaces the older one.
const ENDPOINT_READING_AGE: Duration = Duration::from_secs(30);

pub(super) struct History {
    began: Instant,
    last: Reading,
    /// Whether requests of the last second were refused because of load.
    overloaded: bool,
    seconds: VecDeque<Second>,
    older: EndpointReading,
    younger: EndpointReading,
}

/// The counts up to one moment, of all endpoints together.
struct Reading {
    at: Instant,
    requests: u64,
    good: u64,
    errors: u64,
    /// The requests that were refused because of load.
    crowded: u64,
    refused: u64,
    durations: Counts,
    spans: Spans,
}

/// The counts of each endpoint up to one moment. An endpoint's id is its index.
#[derive(Clone)]
struct EndpointReading {
    at: Instant,
    endpoints: Vec<(Counts, Spans)>,
}

impl Reading {
    fn at(now: Instant, metrics: &Metrics) -> Self {
        let crowded = metrics.refused_for_overload();
        let mut reading = Self {
            at: now,
            requests: metrics.requests(),
            good: 0,
            errors: 0,
            crowded,
            refused: crowded + metrics.refused_for(Reason::Deadline),
            durations: Counts::default(),
            spans: Spans::default(),
        };
        for endpoint in metrics.endpoints() {
            reading.durations.add(&endpoint.durations());
            reading.spans = reading.spans.plus(&spent(&endpoint));
            for (status, count) in endpoint.statuses() {
                *(if status < 500 { &mut reading.good } else { &mut reading.errors }) += count;
            }
        }
        // Refused requests are counted separately, not as errors.
        reading.errors = reading.errors.saturating_sub(reading.refused);
        reading
    }
}

impl EndpointReading {
    fn at(now: Instant, metrics: &Metrics) -> Self {
        let endpoints = metrics.endpoints();
        let endpoints = endpoints.iter().map(|endpoint| (endpoint.durations(), spent(endpoint)));
        Self { at: now, endpoints: endpoints.collect() }
    }
}

impl History {
    pub(super) fn begin(metrics: &Metrics, now: Instant) -> Self {
        let reading = EndpointReading::at(now, metrics);
        Self {
            began: now,
            last: Reading::at(now, metrics),
            overloaded: false,
            seconds: VecDeque::with_capacity(SECONDS),
            older: reading.clone(),
            younger: reading,
        }
    }

    /// Adds a second, whose exact length is measured.
    pub(super) fn add(&mut self, metrics: &Metrics, gauges: &Gauges, now: Instant) {
        let reading = Reading::at(now, metrics);
        let before = std::mem::replace(&mut self.last, reading);
        self.overloaded = self.last.crowded > before.crowded;
        let durations = self.last.durations.since(&before.durations);
        let percentile = |percent| milliseconds(durations.percentile(percent));
        if self.seconds.len() == SECONDS {
            self.seconds.pop_front();
        }
        self.seconds.push_back(Second {
            at_s: rounded((now - self.began).as_secs_f64()),
            length_s: rounded((now - before.at).as_secs_f64()),
            requests: self.last.requests - before.requests,
            good: self.last.good.saturating_sub(before.good),
            errors: self.last.errors.saturating_sub(before.errors),
            refused: self.last.refused - before.refused,
            p50_ms: percentile(50.0),
            p90_ms: percentile(90.0),
            p99_ms: percentile(99.0),
            phases_ms: Phases::mean(&self.last.spans.minus(&before.spans), durations.count()),
            busy: gauges.workers.busy,
            queued: gauges.queue.length,
            active: gauges.pool.map_or(0, |pool| pool.active),
        });
        if now.saturating_duration_since(self.younger.at) >= ENDPOINT_READING_AGE {
            let younger = std::mem::replace(&mut self.younger, EndpointReading::at(now, metrics));
            self.older = younger;
        }
    }

    /// Whether requests of the last second were refused because of load.
    pub(super) fn overloaded(&self) -> bool {
        self.overloaded
    }

    pub(super) fn seconds(&self) -> Vec<Second> {
        self.seconds.iter().copied().collect()
    }

    /// Each endpoint that a worker has answered for since the older reading, the slowest first.
    pub(super) fn endpoints(&self, metrics: &Metrics, now: Instant) -> Vec<EndpointStats> {
        let seconds = now.saturating_duration_since(self.older.at).as_secs_f64().max(1e-3);
        let none = (Counts::default(), Spans::default());
        let mut endpoints = Vec::new();
        for endpoint in metrics.endpoints() {
            let (counts_then, spans_then) = self.older.endpoints.get(endpoint.id as usize).unwrap_or(&none);
            let durations = endpoint.durations().since(counts_then);
            let count = durations.count();
            if count == 0 {
                continue;
            }
            endpoints.push(EndpointStats {
                method: endpoint.method.clone(),
                route: endpoint.route.clone(),
                per_s: rounded(f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds),
                p50_ms: milliseconds(durations.percentile(50.0)),
                p99_ms: milliseconds(durations.percentile(99.0)),
                mean_ms: milliseconds(durations.mean()),
                phases_ms: Phases::mean(&spent(&endpoint).minus(spans_then), count),
                statuses: endpoint.statuses().into_iter().collect(),
            });
        }
        endpoints.sort_by(|one, other| other.p99_ms.total_cmp(&one.p99_ms));
        endpoints
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::telemetry::metrics::{Phase, QueueGauges, WorkerGauges};

    fn gauges() -> Gauges {
        Gauges {
            started: SystemTime::now(),
            workers: WorkerGauges { busy: 3, ..WorkerGauges::default() },
            queue: QueueGauges::default(),
            pool: None,
        }
    }

    fn spans(database_ms: u64) -> Spans {
        let mut spans = Spans::default();
        spans.set(Phase::Database, Duration::from_millis(database_ms));
        spans
    }

    #[test]
    fn a_second_counts_what_came_since_the_last_reading() {
        let metrics = Metrics::default();
        let endpoint = metrics.endpoint("GET", "/a");
        metrics.received();
        metrics.finished_by_worker(&endpoint, "", 200, &spans(500));
        let began = Instant::now();
        let mut history = History::begin(&metrics, began);
        for (ms, status) in [(10, 200), (10, 404), (10, 500)] {
            metrics.received();
            metrics.finished_by_worker(&endpoint, "", status, &spans(ms));
        }
        metrics.received();
        metrics.refused(Reason::QueueFull);
        endpoint.responded(503);
        history.add(&metrics, &gauges(), began + Duration::from_secs(1));
        let seconds = history.seconds();
        let [second] = seconds.as_slice() else { panic!("one second") };
        assert_eq!((second.requests, second.good, second.errors, second.refused), (4, 2, 1, 1));
        assert!((second.phases_ms.database - 10.0).abs() < 0.01, "{second:?}");
        assert!((8.0..=10.0).contains(&second.p99_ms), "{second:?}");
        assert_eq!(second.busy, 3);
        assert!(history.overloaded());
        for later in 2..=100 {
            history.add(&metrics, &gauges(), began + Duration::from_secs(later));
        }
        assert_eq!(history.seconds().len(), SECONDS);
        assert_eq!(history.seconds()[59].requests, 0);
        assert!(!history.overloaded());
        assert!(history.endpoints(&metrics, began + Duration::from_secs(100)).is_empty(), "long ago");
    }

    #[test]
    fn the_slowest_endpoint_comes_first() {
        let metrics = Metrics::default();
        let began = Instant::now();
        let history = History::begin(&metrics, began);
        for (route, ms) in [("/fast", 1), ("/slow", 100), ("/middle", 10)] {
            metrics.finished_by_worker(&metrics.endpoint("GET", route), "", 200, &spans(ms));
        }
        let endpoints = history.endpoints(&metrics, began + Duration::from_secs(2));
        let routes: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.route.as_str()).collect();
        assert_eq!(routes, ["/slow", "/middle", "/fast"]);
        assert!((endpoints[0].per_s - 0.5).abs() < 1e-9);
        assert!((endpoints[0].mean_ms - 100.0).abs() < 0.01);
    }
}
