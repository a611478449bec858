//! Log lines that a client or a broken database could cause at any rate. Each kind is limited to a few lines a second,
//! followed by the number of the others.
//!
//! Any thread. Each place in the source that logs has one counter. A lock is taken only when a line is held back and
//! when the number is logged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use log::Level;

/// The lower bits count the lines of a second, the bits above are the number of the second.
const SECOND: u32 = 32;

/// One place in the source that logs, with its recent lines.
#[derive(Debug)]
pub(crate) struct Place {
    /// The subject of its lines.
    what: &'static str,
    level: Level,
    /// The limit on its lines a second.
    most: u64,
    /// The current second, counted from the first line of all places, and the number of lines in it.
    state: AtomicU64,
    held_back: AtomicU64,
    /// Whether the place is in [`PLACES`].
    known: AtomicBool,
}

/// The places that have held lines back. Their number is logged even if no further line follows.
static PLACES: Mutex<Vec<&'static Place>> = Mutex::new(Vec::new());

impl Place {
    /// At most `most` lines a second. `what` names the lines, as in "12 more …".
    pub(crate) const fn new(level: Level, most: u64, what: &'static str) -> Self {
        let (state, held_back) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { what, level, most, state, held_back, known: AtomicBool::new(false) }
    }

    /// Whether a line may be logged now. A line that may not is counted.
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

/// Seconds since the first call, counted from 1.
fn second() -> u64 {
    static FIRST: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed().as_secs() + 1
}

/// Logs how many lines were held back since the last call. The observer calls it once a second.
pub(crate) fn log_held_back() {
    let places = PLACES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for place in places {
        let count = place.held_back.swap(0, Relaxed);
        if count > 0 {
            log::log!(place.level, "{count} more: {}", place.what);
        }
    }
}

/// Logs like `log!`, but limits the lines a second from this place. The limit is five, enough to show what the lines
/// have in common: `sparingly!(Level::Warn, "what it says", "…", …)`. Another limit is written as `1 of "what it
/// says"`.
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
    fn a_few_lines_a_second_are_admitted_and_the_others_counted() {
        let place = Place::new(Level::Warn, 5, "what");
        let admitted = |second| (0..100).filter(|_| place.admits_in(second)).count();
        assert_eq!(admitted(1), 5);
        assert_eq!(place.held_back.swap(0, Relaxed), 95);
        assert!(!place.admits_in(1));
        assert_eq!(admitted(2), 5);
        assert_eq!(place.held_back.load(Relaxed), 96);
    }

    #[test]
    fn held_back_lines_are_reported_once() {
        static PLACE: Place = Place::new(Level::Trace, 5, "nothing");
        while PLACE.admits() {}
        assert!(PLACES.lock().expect("no panic").iter().any(|place| std::ptr::eq(*place, &raw const PLACE)));
        assert!(PLACE.held_back.load(Relaxed) > 0);
        log_held_back();
        assert_eq!(PLACE.held_back.load(Relaxed), 0);
    }
}
