//! The counters of one endpoint: its answers by status, their durations, and the time in each phase.
//!
//! Any thread. Relaxed atomics, and no lock except for a status from 500. Each route of the configuration has one set,
//! so clients cannot create more.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Outcomes;
use super::failures::Failures;
use super::histogram::{Counts, Histogram, nanoseconds};

/// The phases of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Phase {
    /// The request waits for a worker.
    Queue,
    /// The request waits for a session.
    Pool,
    /// Its statements run, each from its beginning to its last row.
    Database,
    /// The handler does everything else: it reads parameters and makes the answer.
    Render,
    /// The worker writes the answer, or its part of it.
    Write,
}

/// Every phase with its name, in the order in which a request goes through them.
pub const PHASES: [(Phase, &str); 5] = [
    (Phase::Queue, "queue"),
    (Phase::Pool, "pool"),
    (Phase::Database, "database"),
    (Phase::Render, "render"),
    (Phase::Write, "write"),
];

/// The length of each phase of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spans([Duration; PHASES.len()]);

impl Spans {
    /// The length of the phase.
    pub fn of(&self, phase: Phase) -> Duration {
        self.0[phase as usize]
    }

    /// Sets the length of the phase.
    pub fn set(&mut self, phase: Phase, length: Duration) {
        self.0[phase as usize] = length;
    }

    /// The sum of both, phase by phase.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self(array::from_fn(|at| self.0[at] + other.0[at]))
    }

    /// The difference to an earlier state, phase by phase.
    #[must_use]
    pub fn minus(&self, earlier: &Self) -> Self {
        Self(array::from_fn(|at| self.0[at].saturating_sub(earlier.0[at])))
    }

    /// The sum of all phases.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}

/// More statuses than any endpoint answers with. Further statuses are counted under 0.
const STATUSES: usize = 24;

/// An endpoint's counters.
#[derive(Debug)]
pub struct Endpoint {
    /// The number by which other parts name the endpoint.
    pub id: u32,
    /// The method. Empty for requests that came to no endpoint.
    pub method: String,
    /// The path from the configuration, with `{names}`. [`UNMATCHED`] for requests that came to no endpoint.
    pub route: String,
    hides_query: AtomicBool,
    statuses: [(AtomicU16, AtomicU64); STATUSES],
    others: AtomicU64,
    duration: Histogram,
    phases_ns: [AtomicU64; PHASES.len()],
    failures: Arc<Failures>,
}

/// The route of requests that came to no endpoint. No path begins like this.
pub const UNMATCHED: &str = "unmatched";

impl Endpoint {
    pub(super) fn new(id: u32, method: String, route: String, failures: Arc<Failures>) -> Self {
        Self {
            id,
            method,
            route,
            hides_query: AtomicBool::default(),
            statuses: Default::default(),
            others: AtomicU64::default(),
            duration: Histogram::default(),
            phases_ns: Default::default(),
            failures,
        }
    }

    /// Sets whether queries of its requests may hold a secret. A reload may change it.
    pub fn hide_query(&self, hides: bool) {
        self.hides_query.store(hides, Relaxed);
    }

    /// Whether no log shows the queries of its requests.
    pub fn hides_query(&self) -> bool {
        self.hides_query.load(Relaxed)
    }

    /// Counts an answer with this status.
    pub fn responded(&self, status: u16) {
        self.responded_to("", status);
    }

    /// Counts an answer with this status to the request with this id.
    pub fn responded_to(&self, request: &str, status: u16) {
        if status >= 500 {
            self.failures.add(self.id, status, request);
        }
        for (known, count) in &self.statuses {
            let found = match known.load(Relaxed) {
                0 => match known.compare_exchange(0, status, Relaxed, Relaxed) {
                    Ok(_) => status,
                    Err(taken) => taken,
                },
                taken => taken,
            };
            if found == status {
                count.fetch_add(1, Relaxed);
                return;
            }
        }
        self.others.fetch_add(1, Relaxed);
    }

    /// Counts the time of a request that a worker has served.
    pub(super) fn served(&self, spans: &Spans) {
        self.duration.record(spans.total());
        for (sum, span) in self.phases_ns.iter().zip(spans.0) {
            sum.fetch_add(nanoseconds(span), Relaxed);
        }
    }

    /// Answers by status, in ascending order. The status 0 has those that were too many to tell apart.
    pub fn statuses(&self) -> Vec<(u16, u64)> {
        let known = self.statuses.iter().map(|(status, count)| (status.load(Relaxed), count.load(Relaxed)));
        let mut statuses: Vec<_> = known.filter(|(status, _)| *status > 0).collect();
        statuses.sort_unstable();
        let others = self.others.load(Relaxed);
        if others > 0 {
            statuses.insert(0, (0, others));
        }
        statuses
    }

    /// The outcomes of its requests.
    pub fn outcomes(&self) -> Outcomes {
        Outcomes::of(self.statuses())
    }

    /// The durations of its [served](super::Outcome::is_served) requests, from the arrival of the whole request until its answer was
    /// handed to the system.
    pub fn durations(&self) -> Counts {
        self.duration.counts()
    }

    /// Adds them to others.
    pub(crate) fn add_durations_to(&self, counts: &mut Counts) {
        self.duration.add_to(counts);
    }

    /// The total time of these requests in the phase.
    pub fn spent(&self, phase: Phase) -> Duration {
        Duration::from_nanos(self.phases_ns[phase as usize].load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_has_its_own_name() {
        for (index, (phase, _)) in PHASES.into_iter().enumerate() {
            assert_eq!(phase as usize, index, "the table is in the order of the enum");
        }
    }

    #[test]
    fn each_status_is_counted_until_there_are_too_many() {
        let endpoint = Endpoint::new(1, "GET".into(), "/".into(), Arc::default());
        for status in [200, 404, 200, 503] {
            endpoint.responded(status);
        }
        assert_eq!(endpoint.statuses(), [(200, 2), (404, 1), (503, 1)]);
        (600..650).for_each(|status| endpoint.responded(status));
        assert_eq!(endpoint.statuses()[0], (0, 29));
        assert_eq!(endpoint.statuses().iter().map(|(_, count)| count).sum::<u64>(), 54);
    }

    #[test]
    fn a_request_counts_in_every_phase() {
        let endpoint = Endpoint::new(1, "GET".into(), "/".into(), Arc::default());
        let mut spans = Spans::default();
        spans.set(Phase::Queue, Duration::from_millis(1));
        spans.set(Phase::Database, Duration::from_millis(3));
        endpoint.served(&spans);
        endpoint.served(&spans);
        assert_eq!(endpoint.durations().sum(), Duration::from_millis(8));
        assert_eq!(endpoint.spent(Phase::Database), Duration::from_millis(6));
        assert_eq!(endpoint.spent(Phase::Write), Duration::ZERO);
    }
}
