//! Whether one run of load was better or worse than another: the comparison of `wharf load --compare`.
//!
//! Any thread. This module knows no file format; the caller passes the values of each second, or each batch, of both
//! runs.

use std::fmt;

use super::statistics::{ConfidenceInterval, Summary, estimate_of_series};

/// Whether a higher or a lower value is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Throughput.
    Higher,
    /// Latency, errors, CPU per request.
    Lower,
}

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The value got better, by more than the tolerance.
    Better,
    /// The value got worse, by more than the tolerance.
    Worse,
    /// The value is the same within the tolerance.
    Same,
    /// The runs are too short or too unsteady for a result.
    CannotTell,
}

/// Two runs, compared by one quantity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The mean of the base run.
    pub base: f64,
    /// The mean of the other run.
    pub new: f64,
    /// `new / base − 1`: the change in parts of the base. `None` where a mean is not above zero, or a run is too short.
    pub change: Option<f64>,
    /// The interval that holds the true change with a confidence of 95 %.
    pub interval: Option<ConfidenceInterval>,
    /// The verdict that follows from the interval.
    pub verdict: Verdict,
}

/// Compares two runs by the values of their seconds or batches, in the order in which they were measured.
///
/// `tolerance` is the change, in parts of the base (0.05: 5 %), that does not matter. The change counts as the same
/// when the whole interval lies within the tolerance. It counts as better or worse when the interval excludes zero and
/// the change is beyond the tolerance. So an unchanged run is called worse 2.5 % of the time at most. A caller that
/// compares several quantities at once must expect more.
///
/// The interval is made on logarithms, so that `compare(a, b)` is the reverse of `compare(b, a)`. A difference in parts
/// of the base's mean would not be, and it would ignore that the base is uncertain too.
pub fn compare(base: &[f64], new: &[f64], tolerance: f64, better: Better) -> Comparison {
    let mean = |values: &[f64]| Summary::of(values).map_or(f64::NAN, |sum| sum.mean);
    let unknown = Comparison {
        base: mean(base),
        new: mean(new),
        change: None,
        interval: None,
        verdict: Verdict::CannotTell,
    };
    if unknown.base == 0.0 && unknown.new == 0.0 {
        // No error in either run.
        return Comparison { verdict: Verdict::Same, ..unknown };
    }
    let (Some(one), Some(two)) = (estimate_of_series(base), estimate_of_series(new)) else { return unknown };
    if one.value <= 0.0 || two.value <= 0.0 {
        return unknown;
    }
    let difference = two.logarithm().minus(&one.logarithm());
    let interval = difference.interval(0.95).map(f64::exp_m1);
    let change = difference.value.exp_m1();
    let verdict = if interval.low > -tolerance && interval.high < tolerance {
        Verdict::Same
    } else if interval.contains(0.0) || change.abs() <= tolerance {
        Verdict::CannotTell
    } else if (change > 0.0) == (better == Better::Higher) {
        Verdict::Better
    } else {
        Verdict::Worse
    };
    Comparison { change: Some(change), interval: Some(interval), verdict, ..unknown }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "the same within the tolerance",
            Self::CannotTell => "cannot tell",
        })
    }
}

impl fmt::Display for Comparison {
    /// `worse: −7.1 % (−9.8 % to −4.4 %)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict)?;
        if let (Some(change), Some(interval)) = (self.change, self.interval) {
            let [change, low, high] = [change, interval.low, interval.high].map(|part| part * 100.0);
            write!(f, ": {change:+.1} % ({low:+.1} % to {high:+.1} %)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::statistics::{normal, real};
    use super::*;

    fn series(random: &mut fastrand::Rng, mean: f64, noise: f64, seconds: usize) -> Vec<f64> {
        (0..seconds).map(|_| mean * (1.0 + noise * normal(random))).collect()
    }

    /// How often each verdict falls, out of a thousand.
    fn verdicts(change: f64, noise: f64, seconds: usize) -> impl Fn(Verdict) -> usize {
        let mut random = fastrand::Rng::with_seed(4);
        let found: Vec<Verdict> = (0..1000)
            .map(|_| {
                let base = series(&mut random, 900.0, noise, seconds);
                let new = series(&mut random, 900.0 * (1.0 + change), noise, seconds);
                compare(&base, &new, 0.05, Better::Higher).verdict
            })
            .collect();
        move |verdict| found.iter().filter(|one| **one == verdict).count()
    }

    #[test]
    fn an_unchanged_run_is_hardly_ever_called_worse() {
        for noise in [0.01, 0.05, 0.2] {
            let count = verdicts(0.0, noise, 20);
            assert!(count(Verdict::Worse) <= 40, "{noise}: {} worse", count(Verdict::Worse));
            assert!(count(Verdict::Better) <= 40, "{noise}: {} better", count(Verdict::Better));
        }
        assert!(verdicts(0.0, 0.05, 30)(Verdict::Same) >= 850);
    }

    #[test]
    fn a_change_beyond_the_tolerance_is_found_and_noise_is_named() {
        assert!(verdicts(-0.10, 0.05, 20)(Verdict::Worse) >= 980);
        assert!(verdicts(0.10, 0.05, 20)(Verdict::Better) >= 980);
        assert!(verdicts(-0.03, 0.01, 20)(Verdict::Same) >= 980);
        assert!(verdicts(-0.05, 0.40, 10)(Verdict::CannotTell) >= 930);
    }

    #[test]
    fn the_interval_contains_the_true_change_95_times_in_100() {
        let mut random = fastrand::Rng::with_seed(5);
        let held = (0..2000).filter(|_| {
            let base = series(&mut random, 40.0, 0.1, 15);
            let new = series(&mut random, 50.0, 0.1, 25);
            compare(&base, &new, 0.05, Better::Lower).interval.expect("long enough").contains(0.25)
        });
        let share = real(held.count()) / 2000.0;
        assert!((0.94..=0.985).contains(&share), "{share}");
    }

    #[test]
    fn exchanged_runs_are_compared_in_reverse() {
        let (base, new) = ([100.0, 101.0, 99.5, 100.2], [80.0, 81.0, 79.0, 80.5]);
        let there = compare(&base, &new, 0.05, Better::Higher);
        let back = compare(&new, &base, 0.05, Better::Higher);
        assert_eq!((there.verdict, back.verdict), (Verdict::Worse, Verdict::Better));
        let both = (1.0 + there.change.expect("a change")) * (1.0 + back.change.expect("a change"));
        assert!((both - 1.0).abs() < 1e-12);
        assert_eq!(compare(&base, &new, 0.05, Better::Lower).verdict, Verdict::Better);
        assert!(there.to_string().starts_with("worse: -20.0 % (-2"), "{there}");
    }

    #[test]
    fn runs_without_values_or_without_errors_do_not_fail_the_comparison() {
        assert_eq!(compare(&[], &[1.0, 2.0], 0.05, Better::Higher).verdict, Verdict::CannotTell);
        assert_eq!(compare(&[1.0], &[1.0], 0.05, Better::Higher).verdict, Verdict::CannotTell);
        assert_eq!(compare(&[0.0, 0.0], &[0.0, 0.0], 0.05, Better::Lower).verdict, Verdict::Same);
        assert_eq!(compare(&[0.0, 0.0], &[0.0, 1.0], 0.05, Better::Lower).verdict, Verdict::CannotTell);
        let nothing = compare(&[0.0, 0.0], &[0.0, 1.0], 0.05, Better::Lower).to_string();
        assert_eq!(nothing, "cannot tell");
    }
}
