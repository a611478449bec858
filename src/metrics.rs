//! What is counted: every request that was read, and what became of it.
//!
//! Any thread; relaxed atomics, no lock. `requests = answered + refused + abandoned` once nothing is in flight.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Why a request was refused by the server rather than answered by its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// No HTTP, or a request over a limit: the connection is closed.
    Malformed,
    /// Its head or body did not come in time.
    SlowClient,
    /// The server had as many connections as it takes.
    ConnectionLimit,
    /// The queue was full.
    QueueFull,
    /// It waited in the queue for longer than it may.
    QueueWait,
    /// Its deadline passed.
    Deadline,
}

const REASONS: [(Reason, &str); 6] = [
    (Reason::Malformed, "malformed"),
    (Reason::SlowClient, "slow_client"),
    (Reason::ConnectionLimit, "connection_limit"),
    (Reason::QueueFull, "queue_full"),
    (Reason::QueueWait, "queue_wait"),
    (Reason::Deadline, "deadline"),
];

/// The counters of one server.
#[derive(Debug, Default)]
pub struct Metrics {
    open: AtomicUsize,
    requests: AtomicU64,
    answered: AtomicU64,
    abandoned: AtomicU64,
    panics: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
}

impl Metrics {
    /// A client connected.
    pub fn connected(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// Its connection was closed.
    pub fn disconnected(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// Connections open now. The tiny_http connector does not know and counts none.
    pub fn open_connections(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// A request was read: whole, or as far as it could be before it was refused.
    pub fn received(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// An endpoint's answer, of whatever status, was handed to the connection.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Relaxed);
    }

    /// A request was refused.
    pub fn refused(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    /// The client left before its answer.
    pub fn abandoned(&self) {
        self.abandoned.fetch_add(1, Relaxed);
    }

    /// A handler panicked; its request is counted as answered, with 500.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Relaxed);
    }

    /// How many requests were read.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// What became of them, all together: answered, refused or abandoned.
    pub fn finished(&self) -> u64 {
        let refused = self.refused.iter().map(|count| count.load(Relaxed)).sum::<u64>();
        self.answered.load(Relaxed) + refused + self.abandoned.load(Relaxed)
    }

    /// How many requests were refused for this reason.
    pub fn refused_for(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }
}

impl fmt::Display for Metrics {
    /// One line with every counter that is not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests answered", self.answered.load(Relaxed))?;
        for (reason, name) in REASONS {
            match self.refused_for(reason) {
                0 => {}
                count => write!(f, ", {count} refused ({name})")?,
            }
        }
        for (count, what) in [(&self.abandoned, "abandoned by clients"), (&self.panics, "handler panics")] {
            match count.load(Relaxed) {
                0 => {}
                count => write!(f, ", {count} {what}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_counted_under_its_own_name() {
        for (index, (reason, name)) in REASONS.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "the table is in the order of the enum");
            let metrics = Metrics::default();
            metrics.refused(reason);
            assert_eq!(metrics.refused_for(reason), 1);
            assert!(metrics.to_string().ends_with(&format!("1 refused ({name})")));
        }
    }
}
