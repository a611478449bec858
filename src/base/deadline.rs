//! The absolute time by which a request must be answered, and the time that is left until then.
//!
//! Runs on any thread. Queue wait, pool checkout, every statement and the write of the answer spend from the same
//! deadline. No part starts a timeout of its own.

use std::time::{Duration, Instant};

/// The absolute time by which one request must be answered. Copied freely, never extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline `allowance` from now.
    pub fn after(allowance: Duration) -> Self {
        Self::at(Instant::now(), allowance)
    }

    /// The deadline `allowance` after `start`. An allowance too large for the clock counts as a year.
    pub fn at(start: Instant, allowance: Duration) -> Self {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        Self(start.checked_add(allowance).unwrap_or_else(|| start + YEAR))
    }

    /// The deadline as a moment.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time that is left. Zero after the deadline.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether the deadline has passed.
    pub fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }

    /// The earlier of this deadline and `allowance` from now. A stage with its own limit thus never outlasts the
    /// request.
    #[must_use]
    pub fn within(self, allowance: Duration) -> Self {
        self.min(Self::after(allowance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_cannot_outlive_the_request() {
        let request = Deadline::after(Duration::from_millis(50));
        assert_eq!(request.within(Duration::from_secs(5)), request);
        assert!(request.within(Duration::ZERO) < request);
    }

    #[test]
    fn no_time_is_left_after_the_deadline() {
        let passed = Deadline::after(Duration::ZERO);
        assert!(passed.has_passed());
        assert_eq!(passed.left(), Duration::ZERO);
    }

    #[test]
    fn an_allowance_beyond_the_clock_does_not_panic() {
        assert!(!Deadline::after(Duration::MAX).has_passed());
    }
}
