//! The times at which requests are due: stages of a constant or changing rate, with even or Poisson arrivals.
//!
//! Any thread; no clock. One rule covers both arrivals: the integral of the rate counts the requests that are due so
//! far. A request is due when the integral reaches the next whole number, or, for Poisson arrivals, the next sum of
//! exponential steps.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use crate::config::parse_time;

/// The highest rate: more than any one thread can send.
const MAX_RATE: f64 = 10_000_000.0;

/// A day. A longer run is surely a mistake, and its list of seconds would be long.
pub(super) const MAX_LENGTH: Duration = Duration::from_secs(24 * 3600);

const RATE: &str = "a rate such as 2000/s or 120/m, more than 0 and at most 10,000,000/s";
const STAGES: &str = "stages such as 30s:0..2000,2m:2000, each a time, a colon, and a rate or a rate..rate; \
                      a day at most together, and not all of rate 0";

/// Requests a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(f64);

/// The text is not a [`Rate`] or [`Stages`]: what came, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{came:?} is not {expected}")]
pub struct ScheduleError {
    came: String,
    expected: &'static str,
}

impl Rate {
    /// The rate of this many requests a second; `None` when it is not a finite number above zero and within the limit.
    pub fn new(per_second: f64) -> Option<Self> {
        (per_second > 0.0 && per_second.is_finite()).then_some(Self(per_second))
    }

    /// Requests a second.
    pub fn per_second(self) -> f64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let rate = parse_rate(text).filter(|rate| *rate > 0.0);
        rate.map(Self).ok_or_else(|| ScheduleError { came: text.to_owned(), expected: RATE })
    }
}

/// `2000/s`, `120/m`, or a number alone, which counts per second.
fn parse_rate(text: &str) -> Option<f64> {
    let (number, seconds) = match text.split_once('/') {
        Some((number, "s")) => (number, 1.0),
        Some((number, "m")) => (number, 60.0),
        Some(_) => return None,
        None => (text, 1.0),
    };
    // The other forms that f64 accepts (exponents, inf, NaN, signs) are no sensible rate.
    let plain = number.starts_with(|c: char| c.is_ascii_digit());
    let only = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let rate = number.parse::<f64>().ok().filter(|_| plain && only)? / seconds;
    (rate <= MAX_RATE).then_some(rate)
}

/// A period in which the rate changes evenly from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
struct RateStage {
    length: Duration,
    from: f64,
    to: f64,
}

/// The rate over the whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Stages(Vec<RateStage>);

impl Stages {
    /// One constant rate for the whole time.
    pub fn constant(rate: Rate, length: Duration) -> Self {
        Self(vec![RateStage { length, from: rate.0, to: rate.0 }])
    }

    /// The sum of the lengths of all stages.
    pub fn length(&self) -> Duration {
        self.0.iter().map(|stage| stage.length).sum()
    }

    /// The number of requests that are due by then with even arrivals.
    pub fn due_by(&self, time: Duration) -> f64 {
        let (mut begin, mut due) = (Duration::ZERO, 0.0);
        for stage in &self.0 {
            due += stage.due_after(time.saturating_sub(begin).min(stage.length).as_secs_f64());
            begin += stage.length;
        }
        due
    }
}

impl FromStr for Stages {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let stages: Option<Vec<RateStage>> = text.split(',').map(parse_stage).collect();
        let stages = stages.map(Self);
        let possible = |stages: &Self| {
            let length = stages.length();
            length > Duration::ZERO && length <= MAX_LENGTH && stages.due_by(length) > 0.0
        };
        let error = || ScheduleError { came: text.to_owned(), expected: STAGES };
        stages.filter(possible).ok_or_else(error)
    }
}

fn parse_stage(text: &str) -> Option<RateStage> {
    let (length, rates) = text.split_once(':')?;
    let (from, to) = rates.split_once("..").unwrap_or((rates, rates));
    // Each stage is limited, so that the sum of the lengths does not overflow.
    let length = parse_time(length).filter(|length| *length <= MAX_LENGTH)?;
    Some(RateStage { length, from: parse_rate(from)?, to: parse_rate(to)? })
}

impl Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, RateStage { length, from, to }) in self.0.iter().enumerate() {
            let (comma, seconds) = (if number > 0 { ", " } else { "" }, length.as_secs_f64());
            write!(f, "{comma}{seconds} s of {from}")?;
            if (from - to).abs() > f64::EPSILON {
                write!(f, " to {to}")?;
            }
            f.write_str("/s")?;
        }
        Ok(())
    }
}

impl RateStage {
    fn due_after(&self, seconds: f64) -> f64 {
        self.from * seconds + self.slope() * seconds * seconds / 2.0
    }

    fn all(&self) -> f64 {
        self.due_after(self.length.as_secs_f64())
    }

    /// The growth of the rate in a second.
    fn slope(&self) -> f64 {
        let seconds = self.length.as_secs_f64();
        if seconds > 0.0 { (self.to - self.from) / seconds } else { 0.0 }
    }

    /// The time at which this many requests are due. The quadratic formula is used in the form without a difference of
    /// nearly equal numbers.
    fn time_of(&self, due: f64) -> Duration {
        let root = (self.from * self.from + 2.0 * self.slope() * due).max(0.0).sqrt();
        let seconds = if due > 0.0 { 2.0 * due / (self.from + root) } else { 0.0 };
        Duration::try_from_secs_f64(seconds).map_or(self.length, |time| time.min(self.length))
    }
}

/// The distribution of arrivals at a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Requests come at even intervals.
    Constant,
    /// Requests come independently of each other, like those of many users. The same seed gives the same times.
    Poisson {
        /// The seed of the random numbers.
        seed: u64,
    },
}

/// The due times of requests in order, counted from the start of the run.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    stages: std::vec::IntoIter<RateStage>,
    stage: Option<RateStage>,
    /// The start of the stage.
    begin: Duration,
    /// The number of requests due before the stage.
    before: f64,
    /// The value of the integral at which the next request is due.
    next: f64,
    random: Option<fastrand::Rng>,
}

impl Schedule {
    pub(super) fn new(stages: &Stages, arrivals: Arrivals) -> Self {
        let mut stages = stages.0.clone().into_iter();
        let random = match arrivals {
            Arrivals::Constant => None,
            Arrivals::Poisson { seed } => Some(fastrand::Rng::with_seed(seed)),
        };
        let stage = stages.next();
        let mut schedule = Self { stages, stage, begin: Duration::ZERO, before: 0.0, next: 0.0, random };
        if schedule.random.is_some() {
            schedule.next = schedule.step();
        }
        schedule
    }

    fn step(&mut self) -> f64 {
        // 1 - [0, 1) is never 0, so the logarithm exists.
        self.random.as_mut().map_or(1.0, |random| -(1.0 - random.f64()).ln())
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        loop {
            let stage = self.stage?;
            let due = self.next - self.before;
            let all = stage.all();
            if due < all {
                self.next += self.step();
                return Some(self.begin + stage.time_of(due));
            }
            self.before += all;
            self.begin += stage.length;
            self.stage = self.stages.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(stages: &str, arrivals: Arrivals) -> Vec<f64> {
        let stages: Stages = stages.parse().expect(stages);
        Schedule::new(&stages, arrivals).map(|time| time.as_secs_f64()).collect()
    }

    #[test]
    fn a_rate_without_a_unit_is_per_second() {
        for (text, per_second) in [("2000/s", 2000.0), ("120/m", 2.0), ("50", 50.0), ("0.5/s", 0.5)] {
            assert_eq!(text.parse::<Rate>().map(Rate::per_second), Ok(per_second), "{text}");
        }
        for wrong in ["", "0/s", "-1/s", "+1/s", "1e3/s", "inf", "NaN", "2000/h", "fast", "10000001/s", "/s"]
        {
            let error = wrong.parse::<Rate>().expect_err(wrong).to_string();
            assert!(error.starts_with(&format!("{wrong:?} is not a rate such as 2000/s")), "{error}");
        }
    }

    #[test]
    fn stages_that_cannot_be_run_are_refused() {
        for wrong in [
            "",
            "30s",
            "30s:",
            "30s:0",
            "0s:5",
            "30:5",
            "30s:5..",
            "30s:5,",
            "25h:1",
            "23h:1,2h:1",
            "1s:a..5",
        ] {
            let error = wrong.parse::<Stages>().expect_err(wrong).to_string();
            assert!(error.starts_with(&format!("{wrong:?} is not stages such as")), "{error}");
        }
    }

    #[test]
    fn even_arrivals_are_the_reciprocal_of_the_rate_apart() {
        let times = times("2s:50", Arrivals::Constant);
        assert_eq!(times.len(), 100);
        for (number, time) in (0_u32..).zip(&times) {
            assert!((time - f64::from(number) * 0.02).abs() < 1e-8, "{number} is due at {time}");
        }
    }

    #[test]
    fn a_ramp_offers_as_many_requests_as_the_area_under_it() {
        let times = times("10s:0..100", Arrivals::Constant);
        assert_eq!(times.len(), 500);
        // The rate at time t is 10 t, so 5 t² requests are due by then.
        for (number, time) in (0_u32..).zip(&times) {
            assert!((5.0 * time * time - f64::from(number)).abs() < 1e-4, "{number} is due at {time}");
        }
    }

    #[test]
    fn stages_follow_each_other_and_a_rate_of_zero_is_a_pause() {
        let times = times("1s:10,5s:0,2s:10..0,1s:5", Arrivals::Constant);
        assert_eq!(times.len(), 10 + 10 + 5);
        assert!(times.is_sorted());
        let within = |from, to| times.iter().filter(|time| (from..to).contains(*time)).count();
        assert_eq!(
            [within(0.0, 1.0), within(1.0, 6.0), within(6.0, 8.0), within(8.0, 9.0)],
            [10, 0, 10, 5],
            "{times:?}"
        );
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_its_spread_and_repeat_with_the_seed() {
        let of = |seed| times("100s:100", Arrivals::Poisson { seed });
        let times = of(7);
        assert_eq!(times, of(7));
        assert_ne!(times, of(8));
        // 10,000 are expected with a standard deviation of 100. The fixed seed makes the result repeatable.
        assert!((9_700..10_300).contains(&times.len()), "{}", times.len());
        // Gaps are exponential: their standard deviation equals their mean, and 1/e of them are longer than it.
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let longer = gaps.iter().filter(|gap| **gap > 0.01).count();
        let share = f64::from(u32::try_from(longer).expect("few"))
            / f64::from(u32::try_from(gaps.len()).expect("few"));
        assert!((share - (-1.0_f64).exp()).abs() < 0.02, "{share}");
    }

    #[test]
    fn the_requests_due_by_a_time_are_the_area_up_to_it() {
        let stages: Stages = "10s:0..100,10s:50".parse().expect("stages");
        for (seconds, due) in [(0, 0.0), (2, 20.0), (10, 500.0), (12, 600.0), (20, 1000.0), (99, 1000.0)] {
            assert!((stages.due_by(Duration::from_secs(seconds)) - due).abs() < 1e-9, "{seconds} s");
        }
        assert_eq!(stages.to_string(), "10 s of 0 to 100/s, 10 s of 50/s");
    }
}
