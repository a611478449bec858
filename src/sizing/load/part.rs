//! The part of the plan that one of several generator threads has.
//!
//! Any thread.

use std::iter::{Skip, StepBy};

/// One of several threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    index: usize,
    threads: usize,
}

impl Part {
    /// The parts of this many threads.
    pub(super) fn each(threads: usize) -> impl Iterator<Item = Self> {
        (0..threads).map(move |index| Self { index, threads })
    }

    /// The part of this many clients or connections. When they do not divide evenly, the first threads have one more.
    pub(super) fn of(self, all: usize) -> usize {
        all / self.threads + usize::from(self.index < all % self.threads)
    }

    /// The part of a sequence: every n-th item, for n threads.
    pub(super) fn every<I: Iterator>(self, all: I) -> StepBy<Skip<I>> {
        all.skip(self.index).step_by(self.threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_together_are_the_whole() {
        for threads in 1..=5 {
            let clients: Vec<usize> = Part::each(threads).map(|part| part.of(13)).collect();
            assert_eq!(clients.iter().sum::<usize>(), 13);
            assert!(clients.is_sorted_by(|one, next| one == next || *one == next + 1), "{clients:?}");
            let mut requests: Vec<u32> = Part::each(threads).flat_map(|part| part.every(0..100)).collect();
            requests.sort_unstable();
            assert_eq!(requests, (0..100).collect::<Vec<_>>());
        }
        assert_eq!(Part::each(3).map(|part| part.of(2)).collect::<Vec<_>>(), [1, 1, 0]);
    }
}
