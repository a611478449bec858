//! The latest answers with a status from 500, for operators who look for the cause of failures.
//!
//! Any thread. A failure costs a short lock, all other answers cost nothing. Each kind has one entry, so that a flood
//! of one kind does not push out the others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// The number of kinds that are kept, which fits on a screen.
const KINDS: usize = 20;

/// The latest failures, by endpoint and status.
#[derive(Debug, Default)]
pub struct Failures(Mutex<Vec<Failure>>);

/// One kind of failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The endpoint's id.
    pub endpoint: u32,
    /// The answers' status.
    pub status: u16,
    /// The number of failures since the kind was first kept.
    pub count: u64,
    /// When the latest failure happened.
    pub last: SystemTime,
    /// The latest request's id. Empty if it is not known.
    pub request: String,
}

impl Failures {
    /// Notes an answer to this request with this status, which is at least 500.
    pub(super) fn add(&self, endpoint: u32, status: u16, request: &str) {
        let last = SystemTime::now();
        let mut kinds = self.lock();
        let known = kinds.iter_mut().find(|kind| (kind.endpoint, kind.status) == (endpoint, status));
        if let Some(kind) = known {
            (kind.count, kind.last) = (kind.count + 1, last);
            kind.request.clear();
            kind.request.push_str(request);
            return;
        }
        if kinds.len() == KINDS {
            let oldest = kinds.iter().enumerate().min_by_key(|(_, kind)| kind.last);
            let oldest = oldest.map_or(0, |(index, _)| index);
            kinds.swap_remove(oldest);
        }
        kinds.push(Failure { endpoint, status, count: 1, last, request: request.to_owned() });
    }

    /// All kinds, the latest first.
    pub fn latest(&self) -> Vec<Failure> {
        let mut kinds = self.lock().clone();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.last));
        kinds
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_kind_keeps_the_others() {
        let failures = Failures::default();
        failures.add(1, 500, "a");
        for _ in 0..1000 {
            failures.add(2, 503, "b");
        }
        failures.add(1, 500, "c");
        let kinds: Vec<_> =
            failures.latest().iter().map(|kind| (kind.endpoint, kind.status, kind.count)).collect();
        assert_eq!(kinds, [(1, 500, 2), (2, 503, 1000)]);
        assert_eq!(failures.latest()[0].request, "c");
    }

    #[test]
    fn the_kind_that_was_seen_longest_ago_is_replaced() {
        let failures = Failures::default();
        for endpoint in 0..20 {
            failures.add(endpoint, 500, "");
        }
        failures.add(0, 500, "");
        failures.add(20, 500, "");
        let endpoints: Vec<u32> = failures.latest().iter().map(|kind| kind.endpoint).collect();
        assert_eq!(endpoints.len(), KINDS);
        assert!(
            endpoints.contains(&0) && endpoints.contains(&20) && !endpoints.contains(&1),
            "{endpoints:?}"
        );
    }
}
