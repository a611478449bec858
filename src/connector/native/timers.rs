//! When to look at which connection again. Poller thread.
//!
//! Each connection has one entry. With every request its due time moves later, and the entry stays where it is. The
//! connection is then looked at once too early, and its entry is made anew. Only an earlier due time moves the entry.
//! So a busy connection changes the set about once per timeout, and not once per request.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Id;

/// The times of every connection of one poller.
#[derive(Debug, Default)]
pub(super) struct Timers {
    entries: BTreeSet<(Instant, Id)>,
}

/// One connection's due time, kept with the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timer {
    /// The time in the set's entry for this connection.
    armed: Option<Instant>,
}

impl Timers {
    /// Makes sure that the connection is looked at by `due`.
    pub(super) fn arm(&mut self, timer: &mut Timer, id: Id, due: Instant) {
        if timer.armed.is_none_or(|armed| due < armed) {
            self.disarm(*timer, id);
            timer.armed = Some(due);
            self.entries.insert((due, id));
        }
    }

    /// Removes the connection's entry.
    pub(super) fn disarm(&mut self, timer: Timer, id: Id) {
        if let Some(armed) = timer.armed {
            self.entries.remove(&(armed, id));
        }
    }

    /// How long until the next entry is due; `None` without entries.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.entries.first().map(|(due, _)| due.saturating_duration_since(now))
    }

    /// Takes an entry that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Id> {
        let (due, _) = self.entries.first()?;
        if *due > now { None } else { self.entries.pop_first().map(|(_, id)| id) }
    }
}

impl Timer {
    /// Notes that the entry was taken. The connection must be armed anew.
    pub(super) fn spend(&mut self) {
        self.armed = None;
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
        assert_eq!(timers.entries.len(), 1);
        timers.arm(&mut timer, id, after(10));
        assert_eq!(timers.next(start), Some(Duration::from_millis(10)));
        assert_eq!(timers.pop(after(9)), None);
        assert_eq!(timers.pop(after(25)), Some(id));
        assert_eq!(timers.pop(after(25)), None, "the later one was replaced");
    }

    /// What broke: each due time that moved earlier left an entry until it was due, about one a second per busy
    /// connection.
    #[test]
    fn a_connection_has_one_entry_however_often_its_time_moves() {
        let (mut timers, mut timer) = (Timers::default(), Timer::default());
        let (id, start) = (Id { index: 1, generation: 1 }, Instant::now());
        for second in 0..100 {
            timers.arm(&mut timer, id, start + Duration::from_secs(second + 60));
            timers.arm(&mut timer, id, start + Duration::from_secs(second));
            assert_eq!(timers.entries.len(), 1);
            assert_eq!(timers.pop(start + Duration::from_secs(second)), Some(id));
            timer.spend();
        }
        timers.arm(&mut timer, id, start);
        timers.disarm(timer, id);
        assert_eq!(timers.next(start), None);
    }
}
