//! When requests come: at a constant rate, whatever becomes of those before.

use std::time::Duration;

/// How the requests of one load are spread over its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrivals {
    /// All gaps are the same.
    Even,
    /// Gaps as of many clients that know nothing of each other: exponential, the same in every run.
    Poisson,
}

/// The times of arrivals, counted from the load's begin.
pub(crate) struct Schedule {
    arrivals: Arrivals,
    rate: f64,
    length: Duration,
    count: u32,
    /// Seconds; of Poisson arrivals only.
    last: f64,
    random: fastrand::Rng,
}

impl Arrivals {
    /// `rate`: requests a second. `length`: no request comes at it or later.
    pub(crate) fn over(self, rate: f64, length: Duration) -> Schedule {
        Schedule { arrivals: self, rate, length, count: 0, last: 0.0, random: fastrand::Rng::with_seed(1) }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let seconds = match self.arrivals {
            Arrivals::Even => f64::from(self.count) / self.rate,
            Arrivals::Poisson => self.last - (1.0 - self.random.f64()).ln() / self.rate,
        };
        (self.count, self.last) = (self.count + 1, seconds);
        let time = Duration::from_secs_f64(seconds);
        (time < self.length).then_some(time)
    }
}
