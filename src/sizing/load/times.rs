//! Times in histograms of three significant digits.
//!
//! Any thread.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::server_timing::ServerTiming;

/// The shortest difference that is kept apart, in nanoseconds. The histogram rounds it down to 64.
const FINEST_NS: u64 = 100;

const SIGNIFICANT_DIGITS: u8 = 3;

/// Times whose percentiles are accurate to 0.1 %.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Times {
    /// A histogram of times up to this. A longer time counts as this long.
    pub(super) fn up_to(longest: Duration) -> Self {
        let longest = nanoseconds(longest).max(4 * FINEST_NS);
        let histogram = Histogram::new_with_bounds(FINEST_NS, longest, SIGNIFICANT_DIGITS);
        Self(histogram.expect("the bounds are apart and three digits are possible"))
    }

    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record(nanoseconds(time));
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all histograms of a run have the same bounds");
    }

    /// Empties the histogram and keeps its memory.
    pub(super) fn clear(&mut self) {
        self.0.reset();
    }

    /// The number of times.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that this percentage does not exceed; zero without times.
    pub fn percentile(&self, percent: f64) -> Duration {
        let nanoseconds = self.0.value_at_quantile(percent / 100.0);
        // A value of the histogram stands for a range, whose upper end may be longer than any recorded time.
        Duration::from_nanos(nanoseconds.min(self.0.max()))
    }

    /// The mean; zero without times.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e9)
    }

    /// The shortest.
    pub fn min(&self) -> Duration {
        Duration::from_nanos(self.0.min())
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// The histogram itself, in nanoseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The phases of the service time, from answers with the header `Server-Timing`; all but refusals.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Timings {
    /// `queue`: until a worker took the request.
    pub queue: Times,
    /// `pool`: until there was a database session.
    pub pool: Times,
    /// `db`: in the database.
    pub db: Times,
    /// `render`: until the answer was written.
    pub render: Times,
    /// The rest of the service time: the network, and work that the server does not name.
    pub elsewhere: Times,
}

impl Timings {
    /// Empty histograms with the same bounds as `times`.
    pub(super) fn like(times: &Times) -> Self {
        let mut none = times.clone();
        none.clear();
        Self {
            queue: none.clone(),
            pool: none.clone(),
            db: none.clone(),
            render: none.clone(),
            elsewhere: none,
        }
    }

    pub(super) fn record(&mut self, ServerTiming(phases): ServerTiming, service: Duration) {
        let elsewhere = nanoseconds(service).saturating_sub(phases.iter().sum());
        for (times, time) in self.all_mut().into_iter().zip(phases.into_iter().chain([elsewhere])) {
            times.0.saturating_record(time);
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        let others = [&other.queue, &other.pool, &other.db, &other.render, &other.elsewhere];
        self.all_mut().into_iter().zip(others).for_each(|(times, other)| times.add(other));
    }

    pub(super) fn clear(&mut self) {
        self.all_mut().into_iter().for_each(Times::clear);
    }

    fn all_mut(&mut self) -> [&mut Times; 5] {
        [&mut self.queue, &mut self.pool, &mut self.db, &mut self.render, &mut self.elsewhere]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut times = Times::up_to(Duration::from_secs(10));
        (1..=10_000).for_each(|number| times.record(Duration::from_micros(number * 100)));
        for (percent, expected_ms) in [(50.0, 500.0), (99.0, 990.0), (99.9, 999.0), (100.0, 1000.0)] {
            let ms = times.percentile(percent).as_secs_f64() * 1e3;
            assert!((ms - expected_ms).abs() <= expected_ms / 1000.0, "p{percent} is {ms} ms");
        }
        assert_eq!(Times::up_to(Duration::from_secs(1)).percentile(99.0), Duration::ZERO);
    }
}
