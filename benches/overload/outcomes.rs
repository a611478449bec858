//! The outcomes of the requests of one load.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::shared::numbers::percentile;

/// A request that is sent this much after its time is late: a quarter of what a refusal may take.
pub(crate) const LATE: Duration = Duration::from_micros(1250);

/// The outcome of every request that was due. All times count from when it was due.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    /// Requests that were due.
    pub(crate) offered: u64,
    /// Those that went out whole, whatever came back.
    pub(crate) sent: u64,
    /// The times of the 2xx.
    pub(crate) good: Vec<Duration>,
    /// The times of the 503 and 429.
    pub(crate) refused: Vec<Duration>,
    /// Clients that left, because they had waited for as long as they would.
    pub(crate) given_up: u64,
    /// Connections that ended without a whole answer, or could not be made.
    pub(crate) broken: u64,
    /// Requests for which the generator had no connection left: its own limit, and no fault of the server's.
    pub(crate) unplaced: u64,
    /// Answers with other statuses.
    pub(crate) others: BTreeMap<u16, u64>,
    /// How much later than due each one was sent.
    pub(crate) lateness: Vec<Duration>,
}

impl Outcomes {
    /// An answer came.
    pub(crate) fn answered(&mut self, status: u16, time: Duration) {
        match status {
            200..=299 => self.good.push(time),
            429 | 503 => self.refused.push(time),
            other => *self.others.entry(other).or_default() += 1,
        }
    }

    /// For [`percentile`].
    pub(crate) fn sort(&mut self) {
        for times in [&mut self.good, &mut self.refused, &mut self.lateness] {
            times.sort_unstable();
        }
    }

    /// The share of the requests that were sent late.
    pub(crate) fn late_share(&self) -> f64 {
        let late = self.lateness.iter().filter(|time| **time > LATE).count();
        ratio(late as u64 + self.unplaced, self.offered)
    }

    /// All that was neither good nor refused nor given up: `0`, or `3 (504: 2, broken: 1)`.
    pub(crate) fn rest(&self) -> String {
        let mut kinds: Vec<(String, u64)> =
            self.others.iter().map(|(status, count)| (status.to_string(), *count)).collect();
        kinds.extend([("broken".to_owned(), self.broken), ("unplaced".to_owned(), self.unplaced)]);
        kinds.retain(|(_, count)| *count > 0);
        let mut text = kinds.iter().map(|(_, count)| count).sum::<u64>().to_string();
        for (index, (kind, count)) in kinds.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{kind}: {count}", if index == 0 { " (" } else { ", " });
        }
        text.push_str(if kinds.is_empty() { "" } else { ")" });
        text
    }

    /// The 99th percentile of what was served; of nothing, zero.
    pub(crate) fn good_p99(&self) -> Duration {
        percentile(&self.good, 0.99)
    }
}

#[expect(clippy::cast_precision_loss, reason = "no run has so many requests")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
