//! The counters of the database pool in HikariCP's terms. Acquire is the wait for a session, usage the time of its
//! loan, and creation the time to open one.
//!
//! Any thread. Relaxed atomics, no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::histogram::Histogram;

/// How a checkout may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Unserved {
    /// No session became free in time.
    Timeout,
    /// The database is down.
    Down,
    /// The limit on waiting requests was reached (`database.maximum_pending`).
    Crowded,
    /// The client left while its request waited.
    ClientLeft,
    /// The request's deadline passed.
    Deadline,
    /// Another error.
    Other,
}

/// Every reason with its name.
pub const UNSERVED: [(Unserved, &str); 6] = [
    (Unserved::Timeout, "timeout"),
    (Unserved::Down, "down"),
    (Unserved::Crowded, "crowded"),
    (Unserved::ClientLeft, "client_left"),
    (Unserved::Deadline, "deadline"),
    (Unserved::Other, "other"),
];

/// The pool's counters.
#[derive(Debug, Default)]
pub struct Pool {
    /// Waits for a session, including those in vain.
    pub acquire: Histogram,
    /// How long sessions were borrowed.
    pub usage: Histogram,
    /// How long opening a session took, if it succeeded.
    pub creation: Histogram,
    /// Openings that failed.
    pub creation_failures: AtomicU64,
    /// Sessions that were closed, for any reason.
    pub closed: AtomicU64,
    /// Sessions that were borrowed for longer than `database.leak_detection_threshold`.
    pub leaks: AtomicU64,
    /// Statements that were cancelled because their time was up or their client had left.
    pub cancelled: AtomicU64,
    /// How often a request's statements were run again after a collision with another transaction.
    pub retries: AtomicU64,
    /// Times that statements were sent on a session that several requests shared.
    pub pipelines: AtomicU64,
    /// The requests that shared them.
    pub pipelined: AtomicU64,
    unserved: [AtomicU64; UNSERVED.len()],
}

impl Pool {
    /// Counts a round trip that so many requests shared.
    pub fn pipelined(&self, requests: usize) {
        self.pipelines.fetch_add(1, Relaxed);
        self.pipelined.fetch_add(u64::try_from(requests).unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts a checkout that failed.
    pub fn unserved(&self, how: Unserved) {
        self.unserved[how as usize].fetch_add(1, Relaxed);
    }

    /// The number of checkouts that failed for this reason.
    pub fn unserved_for(&self, how: Unserved) -> u64 {
        self.unserved[how as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_counted_under_its_own_name() {
        for (index, (how, _)) in UNSERVED.into_iter().enumerate() {
            assert_eq!(how as usize, index, "the table is in the order of the enum");
            let pool = Pool::default();
            pool.unserved(how);
            assert_eq!(pool.unserved_for(how), 1);
        }
    }
}
