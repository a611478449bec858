//! Where connections stand, as the pollers count them now and then: nobody can say it at each moment for nothing.
//!
//! Written by pollers, each its own sheet; read by whoever looks.

use std::array;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Standing {
    /// It waits for its next request.
    Idle,
    /// It begins: a handshake, or a proxy's header.
    Beginning,
    /// Its request comes.
    Reading,
    /// Its request waits for a worker.
    Queued,
    /// Its request is with a worker.
    Running,
    /// Its answer goes out.
    Writing,
    /// It ends.
    Closing,
}

/// Every standing with its name.
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

/// Connections by where they stand.
#[derive(Debug, Default)]
pub struct Census(Mutex<Vec<Arc<Mutex<Counts>>>>);

/// One poller's part of it.
#[derive(Debug)]
pub struct Sheet(Arc<Mutex<Counts>>);

impl Census {
    /// Another poller counts.
    pub fn sheet(&self) -> Sheet {
        let sheet = Arc::<Mutex<Counts>>::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&sheet));
        Sheet(sheet)
    }

    /// As they were counted last.
    pub fn counts(&self) -> [(&'static str, usize); CENSUS.len()] {
        let sheets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Counts> =
            sheets.iter().map(|sheet| *sheet.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        array::from_fn(|at| (CENSUS[at].1, all.iter().map(|counts| counts[at]).sum()))
    }
}

impl Sheet {
    /// Takes over a new count.
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
    fn pollers_counts_add_up() {
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
