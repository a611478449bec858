//! The display during a run: a line a second, or, in a terminal, a block that is redrawn in place.

use std::fmt::Write as _;
use std::time::Duration;

use crate::sizing::load::{Interval, Outcomes, Pace};

use super::super::sparkline::sparkline;

/// The number of seconds in the sparkline.
const SPARKS: usize = 60;

/// A rate over a shorter interval has no meaning.
const SHORTEST: Duration = Duration::from_millis(100);

/// A shorter delay is not worth a word during the run.
const BEHIND: Duration = Duration::from_millis(50);

/// The width of a line. A longer line could wrap, and the block would be redrawn in the wrong place. Nearly every
/// terminal is this wide.
const MAX_WIDTH: usize = 79;

pub(super) struct Live {
    kind: &'static str,
    /// Whether the block is redrawn in place, as on a terminal.
    redraws: bool,
    /// The number of lines of the current block.
    drawn: usize,
    /// The p99 of the last seconds.
    p99: Vec<Duration>,
}

impl Live {
    pub(super) fn new(pace: &Pace, redraws: bool) -> Self {
        Self { kind: pace.kind(), redraws, drawn: 0, p99: Vec::new() }
    }

    /// The text to write for this interval. It is empty for an interval too short for rates, as the last one may be.
    pub(super) fn show(&mut self, interval: &Interval<'_>) -> String {
        if interval.to.saturating_sub(interval.from) < SHORTEST {
            return String::new();
        }
        if self.redraws { self.block(interval) } else { self.line(interval) }
    }

    /// A line that stays. The block is drawn again below it.
    pub(super) fn say(&mut self, text: &str) -> String {
        self.drawn = 0;
        format!("{text}\n")
    }

    fn line(&self, interval: &Interval<'_>) -> String {
        let (outcomes, rates) = (interval.outcomes, rates(interval));
        let (p50, p99) = (percentile(outcomes, 50.0), percentile(outcomes, 99.0));
        let (errors, kind, end) = (outcomes.errors(), self.kind, interval.to.as_secs_f64());
        let state = state(interval).map_or_else(String::new, |state| format!("  {state}"));
        format!("{end:>6.1} s  {kind} loop  {rates}  p50 {p50}  p99 {p99}  errors {errors}{state}\n")
    }

    fn block(&mut self, interval: &Interval<'_>) -> String {
        let outcomes = interval.outcomes;
        if self.p99.len() == SPARKS {
            self.p99.remove(0);
        }
        self.p99.push(outcomes.latency.percentile(99.0));
        let [p50, p99, p99_9] = [50.0, 99.0, 99.9].map(|percent| percentile(outcomes, percent));
        let mut statuses = String::new();
        for (status, count) in outcomes.statuses() {
            let _ = write!(statuses, "{status}: {count}   ");
        }
        let (timeouts, failed, skipped) = (outcomes.timeouts, outcomes.failed_in_all(), outcomes.skipped);
        let Interval { to, in_flight, connections, .. } = *interval;
        let lines = [
            match state(interval) {
                Some(state) => format!("{:.0} s  {} loop   {state}", to.as_secs_f64(), self.kind),
                None => format!(
                    "{:.0} s  {} loop   {in_flight} on their way, {connections} connections",
                    to.as_secs_f64(),
                    self.kind
                ),
            },
            rates(interval),
            format!("p50 {p50}   p99 {p99}   p99.9 {p99_9}"),
            format!(
                "{statuses}timeouts: {timeouts}   failed: {failed}   late: {}   skipped: {skipped}",
                outcomes.late
            ),
            format!("p99 {}", sparkline(self.p99.iter().map(Duration::as_secs_f64))),
        ];
        // Moves the cursor to the block's first line, and clears everything below.
        let mut text = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        for line in &lines {
            text.extend(line.chars().take(MAX_WIDTH));
            text.push('\n');
        }
        self.drawn = lines.len();
        text
    }
}

/// A state that the user must know: the run waits for answers, or is behind its schedule.
fn state(interval: &Interval<'_>) -> Option<String> {
    let Interval { to, in_flight, behind, .. } = *interval;
    match interval.waits_until {
        Some(until) if in_flight > 0 => Some(format!(
            "waiting for {in_flight} answers, {:.1} s at most",
            until.saturating_sub(to).as_secs_f64()
        )),
        None if behind > BEHIND => Some(format!("behind the schedule by {:.1} s", behind.as_secs_f64())),
        _ => None,
    }
}

/// Rates per second, whatever the length of the interval.
fn rates(interval: &Interval<'_>) -> String {
    let seconds = (interval.to.saturating_sub(interval.from)).as_secs_f64();
    let offered = interval.offered.map(|count| format!("offered {:.0}/s  ", count / seconds));
    let a_second =
        |count: u64| format!("{:.0}/s", f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds);
    let (sent, answered) = (interval.outcomes.sent, interval.outcomes.answered_in_all());
    format!("{}sent {}  answered {}", offered.unwrap_or_default(), a_second(sent), a_second(answered))
}

fn percentile(outcomes: &Outcomes, percent: f64) -> String {
    if outcomes.latency.count() == 0 { "-".to_owned() } else { time(outcomes.latency.percentile(percent)) }
}

/// A time in milliseconds with three digits.
fn time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    let digits = if ms < 10.0 { 2 } else { usize::from(ms < 100.0) };
    format!("{ms:.digits$} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        for (us, shown) in [(123, "0.12 ms"), (1234, "1.23 ms"), (12_345, "12.3 ms"), (123_456, "123 ms")] {
            assert_eq!(time(Duration::from_micros(us)), shown);
        }
    }
}
