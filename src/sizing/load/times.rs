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
pub struct Times {
    histogram: Histogram<u64>,
    /// In nanoseconds. The histogram's own least value is the lower end of a range, and so shorter than any time.
    shortest: u64,
}

impl Times {
    /// A histogram of times up to this. A longer time counts as this long.
    pub(super) fn up_to(longest: Duration) -> Self {
        let longest = nanoseconds(longest).max(4 * FINEST_NS);
        let histogram = Histogram::new_with_bounds(FINEST_NS, longest, SIGNIFICANT_DIGITS);
        let histogram = histogram.expect("the bounds are apart and three digits are possible");
        Self { histogram, shortest: u64::MAX }
    }

    pub(super) fn record(&mut self, time: Duration) {
        let time = nanoseconds(time);
        self.histogram.saturating_record(time);
        self.shortest = self.shortest.min(time);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("all histograms of a run have the same bounds");
        self.shortest = self.shortest.min(other.shortest);
    }

    /// Empties the histogram and keeps its memory.
    pub(super) fn clear(&mut self) {
        self.histogram.reset();
        self.shortest = u64::MAX;
    }

    /// The number of times.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The time that this percentage does not exceed; zero without times.
    pub fn percentile(&self, percent: f64) -> Duration {
        let nanoseconds = self.histogram.value_at_quantile(percent / 100.0);
        // A value of the histogram stands for a range, whose upper end may be longer than any recorded time.
        Duration::from_nanos(nanoseconds.min(self.histogram.max()))
    }

    /// The mean; zero without times.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.histogram.mean() / 1e9)
    }

    /// The shortest; zero without times.
    pub fn min(&self) -> Duration {
        Duration::from_nanos(if self.count() == 0 { 0 } else { self.shortest })
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.histogram.max())
    }

    /// The histogram itself, in nanoseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
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
            times.record(Duration::from_nanos(time));
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
