//! One lane of the queue: jobs that wait in line together, and how many of them may.

use std::time::{Duration, Instant};

use super::{Limits, Priority};

/// While waits are not standing, this many jobs for each that can run at once are let in however long they take: a queue of
/// that length is no overload.
const BURST: usize = 4;

/// And this many while no job has ended yet, so that it is not known what they take.
const FIRST_BURST: usize = 32;

/// A new job's weight in the mean of what jobs take, as 1 over this.
const WEIGHT: u32 = 8;

/// A job counts for at most this many times the mean.
const OUTLIER: u32 = 4;

/// What makes a lane: all jobs of one priority share one, but for endpoints that may only run so many at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSpec {
    /// Of an endpoint with a lane of its own: its name, by which it keeps the lane when it is configured anew.
    pub name: Option<String>,
    /// Who goes first.
    pub priority: Priority,
    /// How many of its jobs may run at once.
    pub max_concurrency: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) spec: LaneSpec,
    /// First and last job.
    pub(super) head: Option<usize>,
    pub(super) tail: Option<usize>,
    pub(super) len: usize,
    /// Jobs that workers have.
    pub(super) running: usize,
    /// The mean of what a job takes with a worker.
    service: Option<Duration>,
    /// Since when jobs wait for longer than the target.
    above_since: Option<Instant>,
    /// They have done so for an interval: requests come faster than they are answered.
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

    /// Whether one more job is likely to be taken within what it may wait. `oldest`: how long the first in line has waited.
    pub(super) fn has_room(&self, limits: &Limits, workers: usize, oldest: Duration) -> bool {
        let concurrency = self.concurrency(workers);
        let (allowed, floor) =
            if self.standing { (limits.target, concurrency) } else { (limits.interval, BURST * concurrency) };
        if self.len < floor {
            return true;
        }
        // Workers that are stuck tell nothing of what their jobs take.
        let fits = match self.wait_for(self.len + 1, workers) {
            Some(wait) => wait <= allowed,
            None => self.len < FIRST_BURST * concurrency,
        };
        oldest <= allowed && fits
    }

    /// In which time the lane's jobs, and so what comes after them, will have been taken.
    pub(super) fn drains_in(&self, workers: usize) -> Duration {
        self.wait_for(self.len, workers).unwrap_or_default()
    }

    fn wait_for(&self, len: usize, workers: usize) -> Option<Duration> {
        let each = self.service? / u32::try_from(self.concurrency(workers)).unwrap_or(u32::MAX);
        Some(each.saturating_mul(u32::try_from(len).unwrap_or(u32::MAX)))
    }

    /// Whether a job that was taken after this wait is not worth it: it was let in before waits were known to stand, and the
    /// time for it is better spent on those who came later.
    pub(super) fn is_stale(&self, wait: Duration, limits: &Limits) -> bool {
        self.standing && wait > limits.interval.max(limits.target)
    }

    /// A job was taken after this wait. As RFC 8289 section 3 has it (`CoDel`): one short wait within an interval means that the
    /// queue drains; if even the shortest was long, it stands.
    pub(super) fn note_wait(&mut self, wait: Duration, limits: &Limits, now: Instant) {
        // While waits stand, they are held at the target and fall below it now and then; only a worker that was free, or nearly,
        // says that this is over.
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
        // One job that met a busy machine says little of the next.
        let mean = |mean: Duration| (mean * (WEIGHT - 1) + took.min(mean * OUTLIER)) / WEIGHT;
        self.service = Some(self.service.map_or(took, mean));
    }
}
