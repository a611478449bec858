//! Means, their confidence intervals, and the difference of two means.
//!
//! Any thread. This module knows nothing of servers; units are those of the samples. The crates that offer the one
//! quantile needed here bring linear algebra along, so the module is our own code.

use std::f64::consts::FRAC_PI_2;
use std::fmt;

/// A closed interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConfidenceInterval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl ConfidenceInterval {
    /// Whether the interval contains this value.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// Half of its width.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }

    /// The interval of a function's value, from the interval of its argument. The function must never fall.
    #[must_use]
    pub fn map(&self, rising: impl Fn(f64) -> f64) -> Self {
        Self { low: rising(self.low), high: rising(self.high) }
    }
}

impl fmt::Display for ConfidenceInterval {
    /// `low to high`, with the requested precision.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = f.precision().unwrap_or(3);
        write!(f, "{:.precision$} to {:.precision$}", self.low, self.high)
    }
}

/// An estimated value, and its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimate itself.
    pub value: f64,
    /// Its standard error, in the unit of the value.
    pub error: f64,
    /// The degrees of freedom of the standard error.
    pub freedom: f64,
}

impl Estimate {
    /// The interval that holds the true value with this confidence, such as 0.95. Both tails are equal.
    pub fn interval(&self, confidence: f64) -> ConfidenceInterval {
        let reach = student_quantile(f64::midpoint(1.0, confidence), self.freedom) * self.error;
        ConfidenceInterval { low: self.value - reach, high: self.value + reach }
    }

    /// The natural logarithm of this value, which must be above zero. To the first order, its error is the relative
    /// error.
    #[must_use]
    pub fn logarithm(&self) -> Self {
        Self { value: self.value.ln(), error: self.error / self.value, freedom: self.freedom }
    }

    /// The difference between this value and another, independent estimate. The two may vary differently.
    ///
    /// Welch (1947), "The generalization of 'Student's' problem when several different population variances are involved".
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let (one, two) = (self.error.powi(2), other.error.powi(2));
        let sum = one + two;
        // Without any error on both sides the difference has no error either. Its degrees of freedom do not matter
        // then.
        let freedom = if sum > 0.0 {
            sum.powi(2) / (one.powi(2) / self.freedom + two.powi(2) / other.freedom)
        } else {
            self.freedom + other.freedom
        };
        Self { value: self.value - other.value, error: sum.sqrt(), freedom }
    }
}

/// Count, mean and variance of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many values it has.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// The variance of the population, estimated without bias (n − 1); 0 for a single value.
    pub variance: f64,
}

impl Summary {
    /// The summary of these values; `None` without values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        let mean = (count > 0).then(|| values.iter().sum::<f64>() / real(count))?;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let variance = if count > 1 { squares / real(count - 1) } else { 0.0 };
        Some(Self { count, mean, variance })
    }

    /// The standard deviation of the population.
    pub fn deviation(&self) -> f64 {
        self.variance.sqrt()
    }

    /// The mean as an estimate; `None` for fewer than two values, whose spread is unknown.
    pub fn estimate(&self) -> Option<Estimate> {
        let error = (self.variance / real(self.count)).sqrt();
        (self.count > 1).then(|| Estimate { value: self.mean, error, freedom: real(self.count - 1) })
    }

    /// The interval that holds the true mean with this confidence; `None` for fewer than two values.
    pub fn interval(&self, confidence: f64) -> Option<ConfidenceInterval> {
        Some(self.estimate()?.interval(confidence))
    }

    /// Whether the mean is known to within this part of itself, such as 0.02, with a confidence of 95 %.
    pub fn is_narrow(&self, relative: f64) -> bool {
        self.interval(0.95).is_some_and(|interval| interval.half_width() <= relative * self.mean.abs())
    }
}

/// The mean of values that were measured one after another, as an estimate that allows for the similarity of
/// neighbours.
///
/// A disturbance in one second (a checkpoint, another tenant) continues into the next. So `n` seconds tell less than
/// `n` independent values. They count as `n · (1 − r) / (1 + r)` values, where `r` is the correlation of neighbours in
/// an autoregressive process of the first order. Without this correction, intervals of load tests are too narrow.
/// `None` for fewer than two values.
pub fn estimate_of_series(values: &[f64]) -> Option<Estimate> {
    let summary = Summary::of(values)?;
    let plain = summary.estimate()?;
    let count = real(summary.count);
    let around: Vec<f64> = values.iter().map(|value| value - summary.mean).collect();
    let squares: f64 = around.iter().map(|value| value * value).sum();
    if squares <= 0.0 {
        return Some(plain);
    }
    let products: f64 = around.windows(2).map(|pair| pair[0] * pair[1]).sum();
    // Around their own mean, independent values show a correlation of −1/n. A negative correlation counts as none:
    // nothing here causes it, and it would narrow the interval.
    let correlation = (products / squares + 1.0 / count).clamp(0.0, 0.99);
    let effective = (count * (1.0 - correlation) / (1.0 + correlation)).max(2.0);
    let error = (summary.variance / effective).sqrt();
    Some(Estimate { value: summary.mean, error, freedom: effective - 1.0 })
}

/// The value that this part of the values lies below, interpolated between neighbours.
///
/// # Panics
/// There are no values.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let place = part.clamp(0.0, 1.0) * real(values.len() - 1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is an index of `values`")]
    let below = place as usize;
    let above = (below + 1).min(values.len() - 1);
    values[below] + (values[above] - values[below]) * place.fract()
}

/// The quantile of Student's t with these degrees of freedom: the variable stays below it with this probability.
///
/// Hill (1970), "Algorithm 396: Student's t-quantiles", accurate to six digits or more. Degrees of freedom need not be
/// whole, and count as at least 1.
#[expect(clippy::many_single_char_names, reason = "the names are those of the algorithm")]
pub fn student_quantile(probability: f64, freedom: f64) -> f64 {
    if probability < 0.5 {
        return -student_quantile(1.0 - probability, freedom);
    }
    let both_tails = 2.0 * (1.0 - probability);
    let n = freedom.max(1.0);
    if both_tails >= 1.0 {
        return 0.0;
    }
    if n < 1.0 + 1e-9 {
        return 1.0 / (both_tails * FRAC_PI_2).tan();
    }
    if (n - 2.0).abs() < 1e-9 {
        return (2.0 / (both_tails * (2.0 - both_tails)) - 2.0).sqrt();
    }
    let a = 1.0 / (n - 0.5);
    let b = 48.0 / (a * a);
    let c = ((20_700.0 * a / b - 98.0) * a - 16.0) * a + 96.36;
    let d = ((94.5 / (b + c) - 3.0) / b + 1.0) * (a * FRAC_PI_2).sqrt() * n;
    let y = (d * both_tails).powf(2.0 / n);
    let y = if y > 0.05 + a {
        let x = normal_quantile(both_tails / 2.0);
        let c = if n < 5.0 { c + 0.3 * (n - 4.5) * (x + 0.6) } else { c };
        let c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c;
        let square = x * x;
        let inner = (((0.4 * square + 6.3) * square + 36.0) * square + 94.5) / c - square - 3.0;
        (a * ((inner / b + 1.0) * x).powi(2)).exp_m1()
    } else {
        let inner = 1.0 / (((n + 6.0) / (n * y) - 0.089 * d - 0.822) * (n + 2.0) * 3.0) + 0.5 / (n + 4.0);
        (inner * y - 1.0) * (n + 1.0) / (n + 2.0) + 1.0 / y
    };
    (n * y).sqrt()
}

/// The quantile of the standard normal distribution: the variable stays below it with this probability.
///
/// Acklam (2003), "An algorithm for computing the inverse normal cumulative distribution function", accurate to nine
/// digits.
fn normal_quantile(probability: f64) -> f64 {
    const TAIL: f64 = 0.024_25;
    if probability > 0.5 {
        return -normal_quantile(1.0 - probability);
    }
    let horner = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    if probability < TAIL {
        let x = (-2.0 * probability.ln()).sqrt();
        let above = [
            -7.784_894_002_430_293e-3,
            -3.223_964_580_411_365e-1,
            -2.400_758_277_161_838,
            -2.549_732_539_343_734,
            4.374_664_141_464_968,
            2.938_163_982_698_783,
        ];
        let below = [
            7.784_695_709_041_462e-3,
            3.224_671_290_700_398e-1,
            2.445_134_137_142_996,
            3.754_408_661_907_416,
            1.0,
        ];
        return horner(&above, x) / horner(&below, x);
    }
    let x = probability - 0.5;
    let above = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    let below = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    horner(&above, x * x) * x / horner(&below, x * x)
}

/// A count as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
pub(super) fn real(count: usize) -> f64 {
    count as f64
}

/// A value of the standard normal distribution (Box and Muller).
#[cfg(test)]
pub(super) fn normal(random: &mut fastrand::Rng) -> f64 {
    let (one, two) = (1.0 - random.f64(), random.f64());
    (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * two).cos()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(one: f64, other: f64, by: f64) -> bool {
        (one - other).abs() <= by * other.abs().max(1e-9)
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        // NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2, and for 2.5 degrees R's `qt`.
        for (probability, freedom, expected) in [
            (0.975, 1.0, 12.706),
            (0.95, 2.0, 2.920),
            (0.975, 2.0, 4.303),
            (0.95, 3.0, 2.353),
            (0.975, 3.0, 3.182),
            (0.975, 4.0, 2.776),
            (0.975, 5.0, 2.571),
            (0.95, 10.0, 1.812),
            (0.995, 10.0, 3.169),
            (0.999, 7.0, 4.785),
            (0.975, 30.0, 2.042),
            (0.975, 100.0, 1.984),
            (0.90, 15.0, 1.341),
            (0.975, 1e9, 1.960),
        ] {
            let found = student_quantile(probability, freedom);
            assert!((found - expected).abs() < 6e-4, "{probability} of {freedom}: {found}");
            assert!(close(student_quantile(1.0 - probability, freedom), -found, 1e-9));
        }
        for (probability, expected) in [(0.001, -3.090_232), (0.025, -1.959_964), (0.3, -0.524_401)] {
            assert!(close(normal_quantile(probability), expected, 1e-6));
        }
    }

    #[test]
    fn an_interval_contains_the_true_mean_as_often_as_its_confidence() {
        let mut random = fastrand::Rng::with_seed(1);
        for count in [3, 8, 30] {
            let held = (0..4000).filter(|_| {
                let values: Vec<f64> = (0..count).map(|_| 7.0 + 2.0 * normal(&mut random)).collect();
                Summary::of(&values).and_then(|sum| sum.interval(0.95)).expect("two values").contains(7.0)
            });
            let share = real(held.count()) / 4000.0;
            assert!((0.94..=0.96).contains(&share), "{count} values: {share}");
        }
    }

    #[test]
    fn the_same_holds_for_the_difference_of_samples_with_unequal_variances() {
        let mut random = fastrand::Rng::with_seed(2);
        let held = (0..4000).filter(|_| {
            let mut draw = |count: usize, deviation: f64| {
                let values: Vec<f64> = (0..count).map(|_| deviation * normal(&mut random)).collect();
                Summary::of(&values).and_then(|sum| sum.estimate()).expect("two values")
            };
            draw(4, 5.0).minus(&draw(15, 1.0)).interval(0.95).contains(0.0)
        });
        let share = real(held.count()) / 4000.0;
        assert!((0.935..=0.965).contains(&share), "{share}");
    }

    #[test]
    fn similar_neighbours_count_for_less_than_independent_values() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut held = [0; 2];
        for _ in 0..2000 {
            let mut last = 0.0;
            let values: Vec<f64> = (0..120)
                .map(|_| {
                    last = 0.6 * last + normal(&mut random);
                    last
                })
                .collect();
            let plain = Summary::of(&values).and_then(|sum| sum.estimate()).expect("two values");
            let series = estimate_of_series(&values).expect("two values");
            held[0] += u32::from(plain.interval(0.95).contains(0.0));
            held[1] += u32::from(series.interval(0.95).contains(0.0));
        }
        assert!(held[0] < 1500, "{held:?}: they are taken for independent");
        assert!(held[1] > 1840, "{held:?}");
    }

    #[test]
    fn one_or_two_values_have_the_results_that_they_allow() {
        assert_eq!(Summary::of(&[]), None);
        let one = Summary::of(&[3.0]).expect("one value");
        assert_eq!((one.mean, one.estimate(), one.is_narrow(1.0)), (3.0, None, false));
        assert_eq!(estimate_of_series(&[3.0]), None);
        let same = estimate_of_series(&[3.0, 3.0, 3.0]).expect("three values");
        assert_eq!(same.minus(&same).interval(0.95), ConfidenceInterval { low: 0.0, high: 0.0 });
        assert!(Summary::of(&[99.0, 100.0, 101.0]).expect("values").is_narrow(0.025));
        assert!(!Summary::of(&[99.0, 100.0, 101.0]).expect("values").is_narrow(0.024));
    }

    proptest! {
        #[test]
        fn quantiles_lie_within_the_values(mut values in proptest::collection::vec(-1e6..1e6, 1..40), part in 0.0..=1.0) {
            let found = quantile(&mut values, part);
            prop_assert!(values[0] <= found && found <= values[values.len() - 1]);
        }

        #[test]
        fn fewer_degrees_of_freedom_reach_further(freedom in 1.0..200.0, probability in 0.6..0.999) {
            let (few, more) = (student_quantile(probability, freedom), student_quantile(probability, freedom * 1.1));
            prop_assert!(few > more - 1e-4, "{few} {more}");
        }
    }
}
