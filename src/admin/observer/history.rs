//! The past: the figures of the last 60 seconds, and each endpoint's counts of half a minute to a minute ago.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::stats::{EndpointStats, Phases, Second, milliseconds, rounded, spent};
use crate::telemetry::metrics::{Counts, Endpoint, Gauges, Metrics, Outcome, Outcomes, Spans, UNMATCHED};

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
    outcomes: Outcomes,
    /// The requests that were refused because of load.
    crowded: u64,
    durations: Counts,
    spans: Spans,
}

/// An endpoint's counts up to one moment.
#[derive(Clone, Default)]
struct EndpointCounts {
    durations: Counts,
    spans: Spans,
    outcomes: Outcomes,
}

/// The counts of each endpoint up to one moment. An endpoint's id is its index.
#[derive(Clone)]
struct EndpointReading {
    at: Instant,
    endpoints: Vec<EndpointCounts>,
}

impl Reading {
    fn at(now: Instant, metrics: &Metrics) -> Self {
        let mut reading = Self {
            at: now,
            requests: metrics.requests(),
            outcomes: Outcomes::default(),
            crowded: metrics.refused_for_overload(),
            durations: Counts::default(),
            spans: Spans::default(),
        };
        for endpoint in metrics.endpoints() {
            endpoint.add_durations_to(&mut reading.durations);
            reading.spans = reading.spans.plus(&spent(&endpoint));
            reading.outcomes.add(&endpoint.outcomes());
        }
        reading
    }
}

impl EndpointCounts {
    fn of(endpoint: &Endpoint) -> Self {
        Self { durations: endpoint.durations(), spans: spent(endpoint), outcomes: endpoint.outcomes() }
    }
}

impl EndpointReading {
    fn at(now: Instant, metrics: &Metrics) -> Self {
        let endpoints = metrics.endpoints();
        let endpoints = endpoints.iter().map(|endpoint| EndpointCounts::of(endpoint));
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
        let served = durations.count();
        let percentile = |percent| (served > 0).then(|| milliseconds(durations.percentile(percent)));
        let outcomes = self.last.outcomes.since(&before.outcomes);
        if self.seconds.len() == SECONDS {
            self.seconds.pop_front();
        }
        self.seconds.push_back(Second {
            at_s: rounded((now - self.began).as_secs_f64()),
            length_s: rounded((now - before.at).as_secs_f64()),
            requests: self.last.requests - before.requests,
            good: outcomes[Outcome::Good],
            client_errors: outcomes[Outcome::ClientError],
            errors: outcomes[Outcome::Error],
            refused: outcomes[Outcome::Refused],
            left: outcomes[Outcome::Left],
            p50_ms: percentile(50.0),
            p90_ms: percentile(90.0),
            p99_ms: percentile(99.0),
            phases_ms: Phases::mean(&self.last.spans.minus(&before.spans), served),
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

    /// Each endpoint that has served, failed or refused requests since the older reading, the slowest first.
    pub(super) fn endpoints(&self, metrics: &Metrics, now: Instant) -> Vec<EndpointStats> {
        let seconds = now.saturating_duration_since(self.older.at).as_secs_f64().max(1e-3);
        let per_s = |count: u64| rounded(f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds);
        let none = EndpointCounts::default();
        let mut endpoints = Vec::new();
        for endpoint in metrics.endpoints() {
            let then = self.older.endpoints.get(endpoint.id as usize).unwrap_or(&none);
            let now = EndpointCounts::of(&endpoint);
            let (durations, outcomes) =
                (now.durations.since(&then.durations), now.outcomes.since(&then.outcomes));
            let served = durations.count();
            let failed = outcomes[Outcome::Error] + outcomes[Outcome::Refused];
            // Requests without an endpoint have no work whose time could be told.
            if served == 0 && (failed == 0 || endpoint.route == UNMATCHED) {
                continue;
            }
            let time = |time: Duration| (served > 0).then(|| milliseconds(time));
            endpoints.push(EndpointStats {
                method: endpoint.method.clone(),
                route: endpoint.route.clone(),
                per_s: per_s(served),
                client_errors_per_s: per_s(outcomes[Outcome::ClientError]),
                errors_per_s: per_s(outcomes[Outcome::Error]),
                refused_per_s: per_s(outcomes[Outcome::Refused]),
                p50_ms: time(durations.percentile(50.0)),
                p99_ms: time(durations.percentile(99.0)),
                mean_ms: time(durations.mean()),
                phases_ms: Phases::mean(&now.spans.minus(&then.spans), served),
                statuses: endpoint.statuses().into_iter().collect(),
            });
        }
        let p99 = |of: &EndpointStats| of.p99_ms.unwrap_or(-1.0);
        endpoints.sort_by(|one, other| p99(other).total_cmp(&p99(one)));
        endpoints
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::telemetry::metrics::{Phase, QueueGauges, Reason, WorkerGauges};

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
        // The database is down: the answers come at once, and tell nothing about the endpoint's work.
        for _ in 0..9 {
            metrics.received();
            metrics.finished_by_worker(&endpoint, "", 503, &spans(0));
        }
        history.add(&metrics, &gauges(), began + Duration::from_secs(1));
        let seconds = history.seconds();
        let [second] = seconds.as_slice() else { panic!("one second") };
        assert_eq!((second.requests, second.good, second.errors, second.refused), (13, 1, 1, 10));
        assert_eq!((second.client_errors, second.left), (1, 0));
        assert!((second.phases_ms.database - 10.0).abs() < 0.01, "{second:?}");
        for percentile in [second.p50_ms, second.p90_ms, second.p99_ms] {
            assert!((9.75..=10.25).contains(&percentile.expect("three were served")), "{second:?}");
        }
        let [endpoint] = &history.endpoints(&metrics, began + Duration::from_secs(1))[..] else {
            panic!("one")
        };
        assert!((endpoint.refused_per_s - 10.0).abs() < 1e-9, "{endpoint:?}");
        assert_eq!(second.busy, 3);
        assert!(history.overloaded());
        for later in 2..=100 {
            history.add(&metrics, &gauges(), began + Duration::from_secs(later));
        }
        assert_eq!(history.seconds().len(), SECONDS);
        assert_eq!((history.seconds()[59].requests, history.seconds()[59].p50_ms), (0, None));
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
        assert!((endpoints[0].mean_ms.expect("it has served") - 100.0).abs() < 0.01);
    }
}
