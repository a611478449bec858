//! The states of connections. The pollers count them from time to time, because keeping exact counts at each moment
//! would cost too much.
//!
//! Each poller writes its own sheet, and any thread may read them.

use std::array;
use std::sync::{Arc, Mutex, PoisonError};

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Standing {
    /// The connection waits for its next request.
    Idle,
    /// The connection begins, with a handshake or a proxy's header.
    Beginning,
    /// A request is arriving.
    Reading,
    /// The request waits for a worker.
    Queued,
    /// A worker has the request.
    Running,
    /// The answer is being sent.
    Writing,
    /// The connection is ending.
    Closing,
}

/// Every state with its name.
pub const CENSUS: [(Standing, &str); 7] = [
    (Standing::Idle, "idle"),
    (Standing::Beginning, "beginning"),
    (Standing::Reading, "reading"),
    (Standing::Queued, "queued"),
    (Standing::Running, "running"),
    (Standing::Writing, "writing"),
    (Standing::Closing, "closing"),
];

type Counts = [usize; CENSUS.len()];

/// The number of connections in each state.
#[derive(Debug, Default)]
pub struct Census(Mutex<Vec<Arc<Mutex<Counts>>>>);

/// One poller's part of the census.
#[derive(Debug)]
pub struct Sheet(Arc<Mutex<Counts>>);

impl Census {
    /// Adds the sheet of another poller.
    pub fn sheet(&self) -> Sheet {
        let sheet = Arc::<Mutex<Counts>>::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&sheet));
        Sheet(sheet)
    }

    /// The latest counts.
    pub fn counts(&self) -> [(&'static str, usize); CENSUS.len()] {
        let sheets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Counts> =
            sheets.iter().map(|sheet| *sheet.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        array::from_fn(|at| (CENSUS[at].1, all.iter().map(|counts| counts[at]).sum()))
    }
}

impl Sheet {
    /// Replaces the sheet by a new count.
    pub fn fill(&self, standings: impl Iterator<Item = Standing>) {
        let mut counts = Counts::default();
        standings.for_each(|standing| counts[standing as usize] += 1);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_pollers_add_up() {
        for (index, (standing, _)) in CENSUS.into_iter().enumerate() {
            assert_eq!(standing as usize, index, "the table is in the order of the enum");
        }
        let census = Census::default();
        let (one, other) = (census.sheet(), census.sheet());
        one.fill([Standing::Idle, Standing::Idle, Standing::Running].into_iter());
        other.fill([Standing::Idle].into_iter());
        assert_eq!(census.counts()[0], ("idle", 3));
        one.fill(std::iter::empty());
        assert_eq!(census.counts()[0], ("idle", 1));
        assert_eq!(census.counts()[4], ("running", 0));
    }
}
