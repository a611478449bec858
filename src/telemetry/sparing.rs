//! Lines of the log that a client or a broken database can cause as often as it likes: a few a second of each kind, and then
//! how many more there were.
//!
//! Any thread. One counter for each place in the source that logs; a lock only when something was held back, and when it is said.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use log::Level;

/// Below, the lines so far in a second; above, which second it is.
const SECOND: u32 = 32;

/// One place in the source that logs, and how often it has of late.
#[derive(Debug)]
pub(crate) struct Place {
    /// What its lines say.
    what: &'static str,
    level: Level,
    /// So many of them a second.
    most: u64,
    /// A second, counted from the first line that anybody logged, and the lines in it.
    state: AtomicU64,
    held_back: AtomicU64,
    /// It stands in [`PLACES`].
    known: AtomicBool,
}

/// Those that have held something back, so that it is said also when nothing follows.
static PLACES: Mutex<Vec<&'static Place>> = Mutex::new(Vec::new());

impl Place {
    /// At most `most` lines a second. `what`: what they say, as in "12 more …".
    pub(crate) const fn new(level: Level, most: u64, what: &'static str) -> Self {
        let (state, held_back) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { what, level, most, state, held_back, known: AtomicBool::new(false) }
    }

    /// Whether a line may be logged now. What may not is counted.
    pub(crate) fn admits(&'static self) -> bool {
        let admitted = self.admits_in(second());
        if !admitted && !self.known.swap(true, Relaxed) {
            PLACES.lock().unwrap_or_else(PoisonError::into_inner).push(self);
        }
        admitted
    }

    fn admits_in(&self, second: u64) -> bool {
        let before = self.state.fetch_update(Relaxed, Relaxed, |state| {
            Some(if state >> SECOND == second { state + 1 } else { (second << SECOND) + 1 })
        });
        let before = before.unwrap_or_default();
        let lines = if before >> SECOND == second { before & ((1 << SECOND) - 1) } else { 0 };
        if lines >= self.most {
            self.held_back.fetch_add(1, Relaxed);
        }
        lines < self.most
    }
}

/// Seconds since somebody asked first, from 1.
fn second() -> u64 {
    static FIRST: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed().as_secs() + 1
}

/// Says how many lines were held back since it was asked last. The observer asks once a second.
pub(crate) fn tell_the_rest() {
    let places = PLACES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for place in places {
        let count = place.held_back.swap(0, Relaxed);
        if count > 0 {
            log::log!(place.level, "{count} more: {}", place.what);
        }
    }
}

/// Logs as `log!` does, but at most so many lines a second from this place, five unless told:
/// `sparingly!(Level::Warn, "what it says", "…", …)`, or `1 of "what it says"`. Five show what they have in common.
macro_rules! sparingly {
    ($level:expr, $what:literal, $($line:tt)+) => {
        $crate::telemetry::sparing::sparingly!($level, 5 of $what, $($line)+)
    };
    ($level:expr, $most:literal of $what:literal, $($line:tt)+) => {{
        static PLACE: $crate::telemetry::sparing::Place = $crate::telemetry::sparing::Place::new($level, $most, $what);
        if log::log_enabled!($level) && PLACE.admits() {
            log::log!($level, $($line)+);
        }
    }};
}

pub(crate) use sparingly;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_a_second_are_let_through_and_the_others_counted() {
        let place = Place::new(Level::Warn, 5, "what");
        let admitted = |second| (0..100).filter(|_| place.admits_in(second)).count();
        assert_eq!(admitted(1), 5);
        assert_eq!(place.held_back.swap(0, Relaxed), 95);
        assert!(!place.admits_in(1));
        assert_eq!(admitted(2), 5);
        assert_eq!(place.held_back.load(Relaxed), 96);
    }

    #[test]
    fn what_was_held_back_is_said_once() {
        static PLACE: Place = Place::new(Level::Trace, 5, "nothing");
        while PLACE.admits() {}
        assert!(PLACES.lock().expect("no panic").iter().any(|place| std::ptr::eq(*place, &raw const PLACE)));
        assert!(PLACE.held_back.load(Relaxed) > 0);
        tell_the_rest();
        assert_eq!(PLACE.held_back.load(Relaxed), 0);
    }
}
