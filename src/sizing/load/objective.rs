//! Objectives of a run: `p99<50ms`, `errors<0.1%`, `rate>1900/s`.
//!
//! Main thread, before the run and after it.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use super::Outcomes;
use super::numbers::a_second;

const ACCEPTED: &str = "an objective such as p99<50ms, mean<5ms, max<1s, errors<0.1% or rate>1900/s, \
                        each with <, <=, > or >=";

/// A measured quantity and a bound for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    text: String,
    measure: Metric,
    bound: Limit,
    value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    /// A percentile of the latency, in milliseconds.
    Percentile(f64),
    Mean,
    Max,
    /// Requests without a good answer, in percent of all.
    Errors,
    /// Good answers a second.
    Rate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// The text is not an objective: what came, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {ACCEPTED}")]
pub struct ObjectiveError(String);

impl FromStr for Objective {
    type Err = ObjectiveError;

    fn from_str(text: &str) -> Result<Self, ObjectiveError> {
        parse(text).ok_or_else(|| ObjectiveError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Objective> {
    let (name, rest) = text.split_at(text.find(['<', '>'])?);
    let bounds = [("<=", Limit::AtMost), (">=", Limit::AtLeast), ("<", Limit::Below), (">", Limit::Above)];
    let bound = bounds.iter().find_map(|(sign, bound)| Some((rest.strip_prefix(sign)?, *bound)));
    let (value, bound) = bound?;
    let (name, value) = (name.trim(), value.trim());
    let (measure, value) = match name {
        "mean" => (Metric::Mean, milliseconds(value)?),
        "max" => (Metric::Max, milliseconds(value)?),
        "errors" => (Metric::Errors, number(value.strip_suffix('%')?)?),
        "rate" => (Metric::Rate, number(value.strip_suffix("/s")?)?),
        _ => {
            let percent = number(name.strip_prefix('p')?)?;
            (Metric::Percentile(percent), milliseconds(value)?)
        }
    };
    let possible = match measure {
        Metric::Percentile(percent) => percent > 0.0 && percent <= 100.0,
        Metric::Errors => value <= 100.0,
        _ => true,
    };
    possible.then(|| Objective { text: text.to_owned(), measure, bound, value })
}

fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 0.001), ("µs", 0.001), ("ms", 1.0), ("s", 1000.0)];
    units.iter().find_map(|(unit, factor)| Some(number(text.strip_suffix(unit)?)? * factor))
}

/// Digits with at most one point. The other forms that f64 accepts are no sensible bound.
fn number(text: &str) -> Option<f64> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit());
    let only = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.parse().ok().filter(|_| plain && only)
}

impl Objective {
    /// The measured value in its own unit; `None` without data to measure it by.
    pub(super) fn measured(&self, outcomes: &Outcomes, length: Duration) -> Option<f64> {
        let times = |time: Duration| (outcomes.latency.count() > 0).then_some(time.as_secs_f64() * 1e3);
        match self.measure {
            Metric::Percentile(percent) => times(outcomes.latency.percentile(percent)),
            Metric::Mean => times(outcomes.latency.mean()),
            Metric::Max => times(outcomes.latency.max()),
            Metric::Errors => (outcomes.finished() > 0).then(|| outcomes.error_share() * 100.0),
            Metric::Rate => Some(a_second(outcomes.good_in_time, length)).filter(|rate| rate.is_finite()),
        }
    }

    /// Whether this value meets the objective.
    pub(super) fn is_met_by(&self, measured: f64) -> bool {
        match self.bound {
            Limit::Below => measured < self.value,
            Limit::AtMost => measured <= self.value,
            Limit::Above => measured > self.value,
            Limit::AtLeast => measured >= self.value,
        }
    }

    /// The longest time that the objective allows a request, if it bounds a latency.
    pub fn latency_max(&self) -> Option<Duration> {
        let bounds = matches!(self.bound, Limit::Below | Limit::AtMost);
        let times = matches!(self.measure, Metric::Percentile(_) | Metric::Mean | Metric::Max);
        (bounds && times).then(|| Duration::try_from_secs_f64(self.value / 1e3).ok()).flatten()
    }

    /// The unit of the measured value.
    pub(super) fn unit(&self) -> &'static str {
        match self.measure {
            Metric::Errors => "%",
            Metric::Rate => "/s",
            _ => "ms",
        }
    }
}

impl Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcomes::Answered;
    use super::*;

    fn objective(text: &str) -> Objective {
        text.parse().expect(text)
    }

    #[test]
    fn objectives_are_read_with_their_units() {
        for (text, measure, bound, value) in [
            ("p99<50ms", Metric::Percentile(99.0), Limit::Below, 50.0),
            ("p99.9 <= 1.5s", Metric::Percentile(99.9), Limit::AtMost, 1500.0),
            ("mean<500us", Metric::Mean, Limit::Below, 0.5),
            ("max<2s", Metric::Max, Limit::Below, 2000.0),
            ("errors<0.1%", Metric::Errors, Limit::Below, 0.1),
            ("rate>1900/s", Metric::Rate, Limit::Above, 1900.0),
            ("rate>=5/s", Metric::Rate, Limit::AtLeast, 5.0),
        ] {
            let Objective { measure: of, bound: by, value: than, .. } = objective(text);
            assert_eq!((of, by), (measure, bound), "{text}");
            assert!((than - value).abs() < 1e-9, "{text} is {than}");
        }
    }

    #[test]
    fn a_wrong_objective_is_named_with_the_accepted_forms() {
        for wrong in [
            "",
            "p99",
            "p99=50ms",
            "p99<50",
            "p0<1s",
            "p101<1s",
            "p<1s",
            "q99<1s",
            "errors<1",
            "errors<101%",
            "rate>5",
            "rate>5/m",
            "p99<-1ms",
            "p99<infms",
            "<5ms",
            "p99<<5ms",
        ] {
            let message = wrong.parse::<Objective>().expect_err(wrong).to_string();
            assert!(
                message.starts_with(&format!("{wrong:?} is not an objective such as p99<50ms")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_run_is_judged_by_its_bounds() {
        let mut outcomes = Outcomes::new(Duration::from_secs(1));
        for ms in 1..=100 {
            let time = Duration::from_millis(ms);
            outcomes.answered(Answered {
                status: 200,
                latency: time,
                service: time,
                in_time: true,
                timing: None,
            });
        }
        for (text, met) in [
            ("p50<51ms", true),
            ("p50<49ms", false),
            ("max<=101ms", true),
            ("mean>60ms", false),
            ("errors<0.1%", true),
            ("errors<0%", false),
            ("errors<=0%", true),
            ("rate>49/s", true),
            ("rate>51/s", false),
        ] {
            let objective = objective(text);
            let measured = objective.measured(&outcomes, Duration::from_secs(2)).expect("measured");
            assert_eq!(objective.is_met_by(measured), met, "{text}: {measured}");
        }
        let nothing = Outcomes::new(Duration::from_secs(1));
        assert_eq!(objective("p99<1s").measured(&nothing, Duration::from_secs(2)), None);
    }
}
