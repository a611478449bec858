//! The states of connections. The pollers count them from time to time, because keeping exact counts at each moment
//! would cost too much.
//!
//! Each poller writes its own sheet, and any thread may read them.

use std::array;
use std::sync::{Arc, Mutex, PoisonError};

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum ConnectionState {
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
pub const CENSUS: [(ConnectionState, &str); 7] = [
    (ConnectionState::Idle, "idle"),
    (ConnectionState::Beginning, "beginning"),
    (ConnectionState::Reading, "reading"),
    (ConnectionState::Queued, "queued"),
    (ConnectionState::Running, "running"),
    (ConnectionState::Writing, "writing"),
    (ConnectionState::Closing, "closing"),
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
    pub fn fill(&self, states: impl Iterator<Item = ConnectionState>) {
        let mut counts = Counts::default();
        states.for_each(|state| counts[state as usize] += 1);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_pollers_add_up() {
        for (index, (state, _)) in CENSUS.into_iter().enumerate() {
            assert_eq!(state as usize, index, "the table is in the order of the enum");
        }
        let census = Census::default();
        let (one, other) = (census.sheet(), census.sheet());
        one.fill([ConnectionState::Idle, ConnectionState::Idle, ConnectionState::Running].into_iter());
        other.fill([ConnectionState::Idle].into_iter());
        assert_eq!(census.counts()[0], ("idle", 3));
        one.fill(std::iter::empty());
        assert_eq!(census.counts()[0], ("idle", 1));
        assert_eq!(census.counts()[4], ("running", 0));
    }
}
