//! What is counted of the database pool, in HikariCP's terms: acquire is the wait for a connection, usage the time that it is
//! lent for, creation what opening one takes.
//!
//! Any thread; relaxed atomics, no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::histogram::Histogram;

/// How a checkout may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Unserved {
    /// No connection came free in time.
    Timeout,
    /// The database is down.
    Down,
    /// As many wait as may (`database.maximum_pending`).
    Crowded,
    /// The client left while its request waited.
    ClientLeft,
    /// The request's deadline passed.
    Deadline,
    /// Another error.
    Other,
}

/// Every way with its name.
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
    /// Waits for a connection, also those that were in vain.
    pub acquire: Histogram,
    /// For how long connections were lent.
    pub usage: Histogram,
    /// How long opening took, where it came to an end.
    pub creation: Histogram,
    /// Openings that failed.
    pub creation_failures: AtomicU64,
    /// Connections that were closed, for whatever reason.
    pub closed: AtomicU64,
    /// Connections that were lent for longer than `database.leak_detection_threshold`.
    pub leaks: AtomicU64,
    /// Statements that were cancelled: their time was up, or their client had left.
    pub cancelled: AtomicU64,
    /// Times that a request's statements were run once more, after a collision with another transaction.
    pub retries: AtomicU64,
    /// Round trips that several requests shared.
    pub pipelines: AtomicU64,
    /// And the requests that did.
    pub pipelined: AtomicU64,
    unserved: [AtomicU64; UNSERVED.len()],
}

impl Pool {
    /// So many requests have shared a round trip.
    pub fn pipelined(&self, requests: usize) {
        self.pipelines.fetch_add(1, Relaxed);
        self.pipelined.fetch_add(u64::try_from(requests).unwrap_or(u64::MAX), Relaxed);
    }

    /// A checkout has failed.
    pub fn unserved(&self, how: Unserved) {
        self.unserved[how as usize].fetch_add(1, Relaxed);
    }

    /// How many checkouts failed like this.
    pub fn unserved_for(&self, how: Unserved) -> u64 {
        self.unserved[how as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_fail_is_counted_under_its_own_name() {
        for (index, (how, _)) in UNSERVED.into_iter().enumerate() {
            assert_eq!(how as usize, index, "the table is in the order of the enum");
            let pool = Pool::default();
            pool.unserved(how);
            assert_eq!(pool.unserved_for(how), 1);
        }
    }
}
