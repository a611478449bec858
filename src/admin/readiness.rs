//! Decides whether the server wants traffic. It wants none while it drains, while no session with the database works,
//! or while it refuses most requests. Poller thread of the admin listener.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config;

/// The server's counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Requests that were read.
    pub requests: u64,
    /// How many of these were refused because of load.
    pub refused: u64,
    /// The pool has an open session, or needs none.
    pub pool_works: bool,
}

/// The time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Among fewer requests than this, the share of refused ones means nothing.
const REQUESTS_MIN: u64 = 20;

/// The limits of the `admin` section.
#[derive(Clone, Copy, Debug)]
struct Rules {
    window: Duration,
    max_refused: u64,
}

impl Rules {
    fn new(config: &config::Admin) -> Self {
        let max_refused = u64::try_from(config.ready_max_refused).unwrap_or(100);
        Self { window: config.ready_window, max_refused }
    }
}

/// The samples so far, from which the reasons against traffic follow.
#[derive(Debug)]
pub(super) struct Readiness {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Rules,
    /// One sample a second, for the longest window that can be configured.
    samples: VecDeque<(Instant, Load)>,
}

/// The longest `admin.ready_window`, in samples.
const SAMPLES_MAX: usize = 61;

impl Readiness {
    pub(super) fn new(config: &config::Admin) -> Self {
        Self { state: Mutex::new(State { rules: Rules::new(config), samples: VecDeque::new() }) }
    }

    pub(super) fn reconfigure(&self, config: &config::Admin) {
        self.lock().rules = Rules::new(config);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the counts of this moment, and returns when to add the next ones.
    pub(super) fn add_sample(&self, now: Instant, load: Load) -> Instant {
        let State { samples, .. } = &mut *self.lock();
        if let Some((last, _)) = samples.back()
            && now < *last + SAMPLE_INTERVAL
        {
            return *last + SAMPLE_INTERVAL;
        }
        samples.push_back((now, load));
        let surplus = samples.len().saturating_sub(SAMPLES_MAX);
        samples.drain(..surplus);
        now + SAMPLE_INTERVAL
    }

    /// The reasons against traffic, each with its name and a text. Empty if the server wants traffic.
    pub(super) fn reasons(&self, draining: bool, now: Instant, load: Load) -> Vec<(&'static str, String)> {
        let State { rules, samples } = &*self.lock();
        let mut reasons = Vec::new();
        if draining {
            reasons.push(("draining", "the server stops".to_owned()));
        }
        // A pool of one session has none for a moment when the session is replaced, so two samples in a row must agree.
        if !load.pool_works && samples.back().is_none_or(|(_, before)| !before.pool_works) {
            reasons.push(("database", "the pool has no working database session".to_owned()));
        }
        let earlier = samples.iter().rev().find(|(at, _)| now.duration_since(*at) >= rules.window);
        let (_, before) = earlier.or(samples.front()).copied().unwrap_or((now, load));
        let requests = load.requests.saturating_sub(before.requests);
        let refused = load.refused.saturating_sub(before.refused);
        if requests >= REQUESTS_MIN && refused * 100 > requests * rules.max_refused {
            let Rules { window, max_refused } = *rules;
            reasons.push((
                "shedding",
                format!(
                    "{refused} of {requests} requests of the last {window:?} were refused, and \
                     admin.ready_max_refused is {max_refused} %"
                ),
            ));
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn load(requests: u64, refused: u64) -> Load {
        Load { requests, refused, pool_works: true }
    }

    fn names(reasons: Vec<(&'static str, String)>) -> Vec<&'static str> {
        reasons.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_server_is_not_ready_when_most_requests_of_the_window_were_refused() {
        let (readiness, start) = (Readiness::new(&Config::default().admin), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let ask = |seconds, load| names(readiness.reasons(false, at(seconds), load));
        assert!(ask(0, load(0, 0)).is_empty());
        readiness.add_sample(at(0), load(100, 100));
        assert!(ask(1, load(119, 119)).is_empty(), "too few to mean anything");
        assert!(ask(1, load(140, 120)).is_empty(), "half is allowed");
        assert_eq!(ask(1, load(140, 121)), ["shedding"]);
        for second in 1..=30 {
            readiness.add_sample(at(second), load(140 + second, 121));
        }
        assert!(ask(30, load(170, 121)).is_empty(), "older refusals no longer count");
        assert_eq!(ask(31, load(200, 151)), ["shedding"], "30 of the 39 since");
    }

    #[test]
    fn samples_are_a_second_apart_and_as_many_as_the_longest_window_needs() {
        let (readiness, start) = (Readiness::new(&Config::default().admin), Instant::now());
        let next = readiness.add_sample(start, load(0, 0));
        assert_eq!(next, start + SAMPLE_INTERVAL);
        assert_eq!(readiness.add_sample(start + SAMPLE_INTERVAL / 2, load(1, 0)), next);
        for second in 1..200 {
            readiness.add_sample(start + SAMPLE_INTERVAL * second, load(0, 0));
        }
        assert_eq!(readiness.lock().samples.len(), SAMPLES_MAX);
    }

    #[test]
    fn a_pool_counts_as_down_in_the_second_sample_without_a_session() {
        let (readiness, now) = (Readiness::new(&Config::default().admin), Instant::now());
        let down = Load { pool_works: false, ..load(0, 0) };
        readiness.add_sample(now, load(0, 0));
        assert!(readiness.reasons(false, now, down).is_empty());
        readiness.add_sample(now + SAMPLE_INTERVAL, down);
        assert_eq!(names(readiness.reasons(true, now + SAMPLE_INTERVAL, down)), ["draining", "database"]);
        assert!(
            readiness.reasons(false, now + SAMPLE_INTERVAL, load(0, 0)).is_empty(),
            "ready again at once"
        );
    }
}
