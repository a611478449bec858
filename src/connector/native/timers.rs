//! When to look at which connection again. Poller thread.
//!
//! A heap with lazy entries: a connection whose time moves later, as it does with every request, leaves its entry where
//! it is and is looked at once too often; only a time that moves earlier costs a new entry. So a busy connection touches
//! the heap about once per timeout, not once per request.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::Id;

/// The times of every connection of one poller.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Id)>>,
}

/// One connection's time; kept with the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer {
    /// The earliest entry in the heap that stands for this connection.
    armed: Option<Instant>,
}

impl Timers {
    /// Sees to it that the connection is looked at by `due`.
    pub(super) fn arm(&mut self, timer: &mut Timer, id: Id, due: Instant) {
        if timer.armed.is_none_or(|armed| due < armed) {
            timer.armed = Some(due);
            self.heap.push(Reverse((due, id)));
        }
    }

    /// How long until the next entry is due; `None` without entries.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.heap.peek().map(|Reverse((due, _))| due.saturating_duration_since(now))
    }

    /// Takes an entry that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, Id)> {
        let Reverse((due, _)) = self.heap.peek()?;
        if *due > now { None } else { self.heap.pop().map(|Reverse(entry)| entry) }
    }
}

impl Timer {
    /// Whether the entry taken from the heap is this connection's current one; it is spent then, and the connection must
    /// be armed anew.
    pub(super) fn fired(&mut self, due: Instant) -> bool {
        let current = self.armed == Some(due);
        if current {
            self.armed = None;
        }
        current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_time_costs_no_entry_and_an_earlier_one_is_seen() {
        let (mut timers, mut timer) = (Timers::default(), Timer::default());
        let (id, start) = (Id { index: 1, generation: 1 }, Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        timers.arm(&mut timer, id, after(20));
        timers.arm(&mut timer, id, after(30));
        assert_eq!(timers.heap.len(), 1);
        timers.arm(&mut timer, id, after(10));
        assert_eq!(timers.next(start), Some(Duration::from_millis(10)));
        assert_eq!(timers.pop(after(9)), None);
        assert_eq!(timers.pop(after(25)), Some((after(10), id)));
        assert!(timer.fired(after(10)));
        assert_eq!(timers.pop(after(25)), Some((after(20), id)));
        assert!(!timer.fired(after(20)), "replaced by the earlier one");
    }
}
