//! Failures to open a session: the time of the next try, and the lines for the log.
//!
//! Values only. A failure lasts from the first failed opening to the next successful one.

use std::time::{Duration, Instant};

use super::Outage;

/// The first pause after a failure. Each later pause is twice as long, up to [`PAUSE_MAX`]. A random part of up to a half is left
/// out, so that several servers do not try at the same moments.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause. A recovered server is noticed within half a second. A database that is starting up refuses a few
/// times a second, and logs each refusal.
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// Failures to open a session are logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// The reason why sessions cannot be opened, since the last successful opening.
pub(super) struct Failure {
    reason: String,
    /// The first of the failures.
    since: Instant,
    /// The number of failures.
    count: u64,
    retry_at: Instant,
    pause: Duration,
    logged: Instant,
    /// Failures since `logged`.
    unlogged: u64,
}

impl Failure {
    /// The failure after one more opening has failed, and the line for the log if one is due.
    pub(super) fn after(earlier: Option<Self>, reason: String, now: Instant) -> (Self, Option<String>) {
        let Some(earlier) = earlier else {
            let retry_at = now + jittered(PAUSE_MIN);
            let line = reason.clone();
            let first =
                Self { reason, since: now, count: 1, retry_at, pause: PAUSE_MIN, logged: now, unlogged: 0 };
            return (first, Some(line));
        };
        let pause = (earlier.pause * 2).min(PAUSE_MAX);
        let (logged, unlogged, line) = match earlier.unlogged {
            held_back if now < earlier.logged + LOG_INTERVAL => (earlier.logged, held_back + 1, None),
            0 => (now, 0, Some(reason.clone())),
            more => (now, 0, Some(format!("{reason} ({more} more failures since the last message)"))),
        };
        let (since, count, retry_at) = (earlier.since, earlier.count + 1, now + jittered(pause));
        (Self { reason, since, count, retry_at, pause, logged, unlogged }, line)
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// The failure for people: why, since when, and what is tried.
    pub(super) fn outage(&self) -> Outage {
        Outage {
            reason: self.reason.clone(),
            since: self.since,
            failures: self.count,
            next_try: self.retry_at,
            pause_max: PAUSE_MAX,
        }
    }

    /// Lets the caller try again now, or says when it may ask again. One caller may try in each pause.
    pub(super) fn try_again(&mut self, now: Instant) -> Result<(), Instant> {
        if now < self.retry_at {
            return Err(self.retry_at);
        }
        self.retry_at = now + jittered(self.pause);
        Ok(())
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_the_longest() {
        let now = Instant::now();
        let mut failure = None;
        for longest in [50, 100, 200, 400, 400].map(|ms| ms * MS) {
            let (mut next, _) = Failure::after(failure.take(), "refused".to_owned(), now);
            let retry_at = next.try_again(now).expect_err("a pause comes first");
            assert!((longest / 2..=longest).contains(&(retry_at - now)), "{:?}", retry_at - now);
            assert_eq!(next.try_again(retry_at), Ok(()));
            next.try_again(retry_at).expect_err("one tries at a time");
            failure = Some(next);
        }
    }

    #[test]
    fn the_log_gets_the_first_failure_and_later_the_number_of_failures() {
        let start = Instant::now();
        let mut failure = None;
        let mut lines = Vec::new();
        for second in [0, 1, 2, 5, 10] {
            let now = start + Duration::from_secs(second);
            let (next, line) = Failure::after(failure.take(), format!("at {second}"), now);
            assert_eq!(next.reason(), format!("at {second}"));
            assert_eq!(next.outage().since, start, "the first failure");
            lines.extend(line);
            failure = Some(next);
        }
        assert_eq!(failure.map(|failure| failure.outage().failures), Some(5));
        assert_eq!(lines, ["at 0", "at 5 (2 more failures since the last message)", "at 10"]);
    }
}
