//! Whether the server wants traffic: not while it drains, while no connection to the database works, or while it refuses most
//! of what comes. Poller thread of the admin listener.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config;

/// What the server counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Requests that were read.
    pub requests: u64,
    /// Of these, how many were refused because there were too many of them.
    pub refused: u64,
    /// The pool has a connection, or wants none.
    pub pool_works: bool,
}

/// From one look to the next.
const LOOK: Duration = Duration::from_secs(1);

/// Fewer requests than this say nothing about how many are refused.
const REQUESTS_MIN: u64 = 20;

/// What `admin` says of it.
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

/// What was seen so far, and what makes of it that the server is not ready.
#[derive(Debug)]
pub(super) struct Readiness {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Rules,
    /// One a second, of the longest time that may be asked about.
    seen: VecDeque<(Instant, Load)>,
}

/// The longest `admin.ready_window`, in looks.
const KEPT: usize = 61;

impl Readiness {
    pub(super) fn new(config: &config::Admin) -> Self {
        Self { state: Mutex::new(State { rules: Rules::new(config), seen: VecDeque::new() }) }
    }

    pub(super) fn reconfigure(&self, config: &config::Admin) {
        self.lock().rules = Rules::new(config);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the counts of this moment, and says when to do so again.
    pub(super) fn note(&self, now: Instant, load: Load) -> Instant {
        let State { seen, .. } = &mut *self.lock();
        if let Some((last, _)) = seen.back()
            && now < *last + LOOK
        {
            return *last + LOOK;
        }
        seen.push_back((now, load));
        let surplus = seen.len().saturating_sub(KEPT);
        seen.drain(..surplus);
        now + LOOK
    }

    /// Why there should be no traffic, each by its name and in words; none: there may be.
    pub(super) fn reasons(&self, draining: bool, now: Instant, load: Load) -> Vec<(&'static str, String)> {
        let State { rules, seen } = &*self.lock();
        let mut reasons = Vec::new();
        if draining {
            reasons.push(("draining", "the server stops".to_owned()));
        }
        // A pool of one connection has none for a moment when that one is replaced, so it is looked at twice.
        if !load.pool_works && seen.back().is_none_or(|(_, before)| !before.pool_works) {
            reasons.push(("database", "the pool has no connection that works".to_owned()));
        }
        let earlier = seen.iter().rev().find(|(at, _)| now.duration_since(*at) >= rules.window);
        let (_, before) = earlier.or(seen.front()).copied().unwrap_or((now, load));
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
    fn most_of_a_windows_requests_must_be_refused() {
        let (readiness, start) = (Readiness::new(&Config::default().admin), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let ask = |seconds, load| names(readiness.reasons(false, at(seconds), load));
        assert!(ask(0, load(0, 0)).is_empty());
        readiness.note(at(0), load(100, 100));
        assert!(ask(1, load(119, 119)).is_empty(), "too few to say anything");
        assert!(ask(1, load(140, 120)).is_empty(), "half is allowed");
        assert_eq!(ask(1, load(140, 121)), ["shedding"]);
        for second in 1..=30 {
            readiness.note(at(second), load(140 + second, 121));
        }
        assert!(ask(30, load(170, 121)).is_empty(), "what is over is over");
        assert_eq!(ask(31, load(200, 151)), ["shedding"], "30 of the 39 since");
    }

    #[test]
    fn looks_are_a_second_apart_and_as_many_as_may_be_asked_about() {
        let (readiness, start) = (Readiness::new(&Config::default().admin), Instant::now());
        let next = readiness.note(start, load(0, 0));
        assert_eq!(next, start + LOOK);
        assert_eq!(readiness.note(start + LOOK / 2, load(1, 0)), next);
        for second in 1..200 {
            readiness.note(start + LOOK * second, load(0, 0));
        }
        assert_eq!(readiness.lock().seen.len(), KEPT);
    }

    #[test]
    fn a_pool_is_down_when_it_was_down_a_look_ago() {
        let (readiness, now) = (Readiness::new(&Config::default().admin), Instant::now());
        let down = Load { pool_works: false, ..load(0, 0) };
        readiness.note(now, load(0, 0));
        assert!(readiness.reasons(false, now, down).is_empty());
        readiness.note(now + LOOK, down);
        assert_eq!(names(readiness.reasons(true, now + LOOK, down)), ["draining", "database"]);
        assert!(readiness.reasons(false, now + LOOK, load(0, 0)).is_empty(), "back at once");
    }
}
