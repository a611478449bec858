//! One lane of the queue: the jobs of one priority, or of one endpoint with `max_concurrency`, and how many of them may wait.

use std::time::{Duration, Instant};

use super::{Limits, Priority};

/// Without overload (see `standing`), up to this many jobs may wait for each job that can run at once, however long they
/// take.
const BURST: usize = 4;

/// As above, while no job has ended yet and the service time is unknown.
const FIRST_BURST: usize = 32;

/// The weight of a new job in the mean service time is 1 / `WEIGHT`.
const WEIGHT: u32 = 8;

/// A job counts as at most this many times the mean.
const OUTLIER: u32 = 4;

/// What a lane is for: the jobs of one priority, or of one endpoint that limits how many of its jobs may run at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSpec {
    /// The name of the endpoint, if the lane is for one endpoint. By its name the endpoint keeps its lane after a
    /// reload.
    pub name: Option<String>,
    /// The priority of the lane's jobs.
    pub priority: Priority,
    /// How many of its jobs may run at once.
    pub max_concurrency: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) spec: LaneSpec,
    /// The first job.
    pub(super) head: Option<usize>,
    /// The last job.
    pub(super) tail: Option<usize>,
    pub(super) len: usize,
    /// The number of jobs that workers have.
    pub(super) running: usize,
    /// The mean service time of a job.
    service: Option<Duration>,
    /// Since when the waits are longer than the target.
    above_since: Option<Instant>,
    /// Waits were long for a whole interval: requests come faster than workers answer them.
    standing: bool,
}

impl Lane {
    pub(super) fn new(spec: LaneSpec) -> Self {
        Self {
            spec,
            head: None,
            tail: None,
            len: 0,
            running: 0,
            service: None,
            above_since: None,
            standing: false,
        }
    }

    pub(super) fn may_run(&self) -> bool {
        self.spec.max_concurrency.is_none_or(|max| self.running < max)
    }

    fn concurrency(&self, workers: usize) -> usize {
        self.spec.max_concurrency.map_or(workers, |max| max.min(workers)).max(1)
    }

    /// Whether one more job is likely to start before its wait is too long. `oldest`: the wait so far of the first job
    /// in line.
    pub(super) fn has_room(&self, limits: &Limits, workers: usize, oldest: Duration) -> bool {
        let concurrency = self.concurrency(workers);
        let (allowed, floor) =
            if self.standing { (limits.target, concurrency) } else { (limits.burst(), BURST * concurrency) };
        if self.len < floor {
            return true;
        }
        let fits = match self.wait_for(self.len + 1, workers) {
            Some(wait) => wait <= allowed,
            None => self.len < FIRST_BURST * concurrency,
        };
        // The wait of the oldest job is checked too: if workers are stuck, no job ends and the mean does not grow.
        oldest <= allowed && fits
    }

    /// The time until workers have taken all jobs of the lane, so that a job that came then would not wait.
    pub(super) fn drains_in(&self, workers: usize) -> Duration {
        self.wait_for(self.len, workers).unwrap_or_default()
    }

    fn wait_for(&self, len: usize, workers: usize) -> Option<Duration> {
        let each = self.service? / u32::try_from(self.concurrency(workers)).unwrap_or(u32::MAX);
        Some(each.saturating_mul(u32::try_from(len).unwrap_or(u32::MAX)))
    }

    /// Whether a job is to be refused after this wait. It was admitted before waits were known to be standing, and
    /// newer jobs make better use of the worker's time.
    pub(super) fn is_stale(&self, wait: Duration, limits: &Limits) -> bool {
        self.standing && wait > limits.burst()
    }

    /// A job was taken after this wait. As in RFC 8289 section 3 (`CoDel`), one short wait within an interval means
    /// that the queue drains. If even the shortest wait was long, waits are standing.
    pub(super) fn note_wait(&mut self, wait: Duration, limits: &Limits, now: Instant) {
        // While waits are standing, admission holds them at the target, and some fall below it. Only a wait near zero,
        // with a free or nearly free worker, shows that the overload is over.
        let short = if self.standing { limits.target / 10 } else { limits.target };
        if wait <= short {
            self.above_since = None;
            self.standing = false;
        } else {
            let since = *self.above_since.get_or_insert(now);
            self.standing |= now.saturating_duration_since(since) >= limits.interval;
        }
    }

    pub(super) fn note_service(&mut self, took: Duration) {
        // One slow job on a busy machine says little about the next.
        let mean = |mean: Duration| (mean * (WEIGHT - 1) + took.min(mean * OUTLIER)) / WEIGHT;
        self.service = Some(self.service.map_or(took, mean));
    }
}
