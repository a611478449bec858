//! What a run is to show: `p99<50ms`, `errors<0.1%`, `rate>1900/s`.
//!
//! Main thread, before the run and after it.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use super::Outcomes;

const ACCEPTED: &str = "an objective such as p99<50ms, mean<5ms, max<1s, errors<0.1% or rate>1900/s, \
                        each with <, <=, > or >=";

/// Something measured and a bound for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    text: String,
    measure: Measure,
    bound: Bound,
    value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Measure {
    /// Of the latency, in milliseconds.
    Percentile(f64),
    Mean,
    Max,
    /// Requests without a good answer, in percent of all.
    Errors,
    /// Good answers a second.
    Rate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// A text is no objective: what came, and what is accepted.
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
    let bounds = [("<=", Bound::AtMost), (">=", Bound::AtLeast), ("<", Bound::Below), (">", Bound::Above)];
    let bound = bounds.iter().find_map(|(sign, bound)| Some((rest.strip_prefix(sign)?, *bound)));
    let (value, bound) = bound?;
    let (name, value) = (name.trim(), value.trim());
    let (measure, value) = match name {
        "mean" => (Measure::Mean, milliseconds(value)?),
        "max" => (Measure::Max, milliseconds(value)?),
        "errors" => (Measure::Errors, number(value.strip_suffix('%')?)?),
        "rate" => (Measure::Rate, number(value.strip_suffix("/s")?)?),
        _ => {
            let percent = number(name.strip_prefix('p')?)?;
            (Measure::Percentile(percent), milliseconds(value)?)
        }
    };
    let possible = match measure {
        Measure::Percentile(percent) => percent > 0.0 && percent <= 100.0,
        Measure::Errors => value <= 100.0,
        _ => true,
    };
    possible.then(|| Objective { text: text.to_owned(), measure, bound, value })
}

fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 0.001), ("µs", 0.001), ("ms", 1.0), ("s", 1000.0)];
    units.iter().find_map(|(unit, factor)| Some(number(text.strip_suffix(unit)?)? * factor))
}

/// Digits with at most a point: what f64 takes beside these is no bound that anybody means.
fn number(text: &str) -> Option<f64> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit());
    let only = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    text.parse().ok().filter(|_| plain && only)
}

impl Objective {
    /// What was measured of it, in its own unit; `None` when there is nothing to measure it by.
    pub(super) fn measured(&self, outcomes: &Outcomes, length: Duration) -> Option<f64> {
        let times = |time: Duration| (outcomes.latency.count() > 0).then_some(time.as_secs_f64() * 1e3);
        match self.measure {
            Measure::Percentile(percent) => times(outcomes.latency.percentile(percent)),
            Measure::Mean => times(outcomes.latency.mean()),
            Measure::Max => times(outcomes.latency.max()),
            Measure::Errors => (outcomes.finished() > 0).then(|| outcomes.error_share() * 100.0),
            Measure::Rate => Some(super::numbers::a_second(outcomes.good_in_time, length)),
        }
    }

    /// Whether this meets it.
    pub(super) fn is_met_by(&self, measured: f64) -> bool {
        match self.bound {
            Bound::Below => measured < self.value,
            Bound::AtMost => measured <= self.value,
            Bound::Above => measured > self.value,
            Bound::AtLeast => measured >= self.value,
        }
    }

    /// The time that it allows a request, if it bounds one.
    pub fn latency_max(&self) -> Option<Duration> {
        let bounds = matches!(self.bound, Bound::Below | Bound::AtMost);
        let times = matches!(self.measure, Measure::Percentile(_) | Measure::Mean | Measure::Max);
        (bounds && times).then(|| Duration::try_from_secs_f64(self.value / 1e3).ok()).flatten()
    }

    /// What it is measured in.
    pub(super) fn unit(&self) -> &'static str {
        match self.measure {
            Measure::Errors => "%",
            Measure::Rate => "/s",
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
            ("p99<50ms", Measure::Percentile(99.0), Bound::Below, 50.0),
            ("p99.9 <= 1.5s", Measure::Percentile(99.9), Bound::AtMost, 1500.0),
            ("mean<500us", Measure::Mean, Bound::Below, 0.5),
            ("max<2s", Measure::Max, Bound::Below, 2000.0),
            ("errors<0.1%", Measure::Errors, Bound::Below, 0.1),
            ("rate>1900/s", Measure::Rate, Bound::Above, 1900.0),
            ("rate>=5/s", Measure::Rate, Bound::AtLeast, 5.0),
        ] {
            let Objective { measure: of, bound: by, value: than, .. } = objective(text);
            assert_eq!((of, by), (measure, bound), "{text}");
            assert!((than - value).abs() < 1e-9, "{text} is {than}");
        }
    }

    #[test]
    fn what_is_no_objective_is_named_with_what_is() {
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
    fn a_run_is_held_to_its_bounds() {
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
