//! The Universal Scalability Law, fitted to the measurements. It explains why throughput stops growing.
//!
//! Any thread. X(N) = λN / (1 + σ(N − 1) + κN(N − 1)). λ is the throughput at size 1. σ is the part of the
//! work that only one can do at a time (a lock, the log). κ is the cost of each pair (caches, lock queues), which makes
//! throughput fall again. Gunther, "Guerrilla Capacity Planning" (2007), chapter 4.
//!
//! The law explains but does not decide: the knee is found in the measurements themselves. The law makes no claim
//! outside of the measured sizes.

use std::fmt;

use super::least_squares::{Row, dot, not_negative};
use super::measurement::Measurements;
use super::statistics::{ConfidenceInterval, quantile, real};

/// The number of resampled data sets for the confidence of the coefficients. 2.5 % on either side are 25 values.
const DRAWS: usize = 1000;

/// Three coefficients fit any three sizes exactly. Only a fourth size can contradict the law.
const SIZES_MIN: usize = 4;

/// A fit is rejected when its average error is above this, or its error at one size is above twice this.
const MISFIT_MAX: f64 = 0.05;

/// With more noise than this, repetitions vary by more than the curve bends.
const NOISE_MAX: f64 = 0.2;

/// The number of Gauss-Newton steps. Each step squares the error, which starts at a few percent.
const STEPS: usize = 5;

/// The law with its coefficients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Law {
    /// λ: requests a second of a single connection.
    pub lambda: f64,
    /// σ: contention, the part of the work that only one can do at a time; 0 or more.
    pub sigma: f64,
    /// κ: crosstalk, what each pair costs; 0 or more.
    pub kappa: f64,
}

impl Law {
    /// The throughput at this size, in requests a second.
    pub fn throughput(&self, size: f64) -> f64 {
        let others = size - 1.0;
        self.lambda * size / (1.0 + self.sigma * others + self.kappa * size * others)
    }

    /// The size with the highest throughput; `None` when throughput always grows.
    fn peak(&self) -> Option<f64> {
        (self.kappa > 0.0).then(|| ((1.0 - self.sigma).max(0.0) / self.kappa).sqrt().max(1.0))
    }
}

/// The law, fitted.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The coefficients that fit best.
    pub law: Law,
    /// λ with a confidence of 95 %.
    pub lambda: ConfidenceInterval,
    /// σ with a confidence of 95 %.
    pub sigma: ConfidenceInterval,
    /// κ with a confidence of 95 %.
    pub kappa: ConfidenceInterval,
    /// Every size that was measured, the smallest first.
    pub points: Vec<Point>,
    /// The part of the variation between sizes that the law explains: 1 is all of it. Below zero when a flat line fits better,
    /// and of little meaning when throughput hardly varies with the size.
    pub explained: f64,
    /// The root of the mean square of the residuals.
    pub misfit: f64,
    draws: Vec<Law>,
}

/// The fit at one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// The size.
    pub size: usize,
    /// Its mean throughput, in requests a second.
    pub measured: f64,
    /// The throughput by the law.
    pub fitted: f64,
    /// Where the law's curve lies, with a confidence of 95 %.
    pub band: ConfidenceInterval,
    /// The difference between the measurement and the law, in parts of the law: −0.1 is 10 % below.
    pub residual: f64,
}

/// Whether the law explains the measurements.
#[derive(Clone, Debug, PartialEq)]
pub enum Fit {
    /// The law explains the measurements.
    Good(Model),
    /// The law does not explain the measurements, or there are too few to tell.
    Poor {
        /// The best fit; `None` when there was too little to fit.
        model: Option<Model>,
        /// Why the fit should not be trusted.
        reason: Misfit,
    },
}

/// Why a fit should not be trusted.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Misfit {
    /// Fewer sizes were measured than are needed to contradict the law.
    TooFew {
        /// The number of sizes needed.
        needed: usize,
    },
    /// Repetitions vary too much.
    TooNoisy {
        /// The standard deviation of a repetition, in parts of its throughput.
        noise: f64,
    },
    /// The curve has another shape. For example, a hard limit on parallel work bends the curve more sharply than the
    /// law can.
    Shape {
        /// The size with the largest residual.
        size: usize,
        /// The difference between the measurement and the law there, in parts of the law.
        residual: f64,
    },
}

impl Model {
    /// The band of the law's curve at this size, with a confidence of 95 %; `None` outside of the measured sizes.
    pub fn band(&self, size: f64) -> Option<ConfidenceInterval> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        let within = (real(first.size)..=real(last.size)).contains(&size);
        within.then(|| middle(&self.draws, |law| law.throughput(size)))
    }

    /// The size with the highest throughput by the law, with a confidence of 95 %. `None` unless the whole interval
    /// lies within the measured sizes.
    pub fn peak(&self) -> Option<ConfidenceInterval> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        self.law.peak()?;
        let peak = middle(&self.draws, |law| law.peak().unwrap_or(f64::INFINITY));
        (peak.low >= real(first.size) && peak.high <= real(last.size)).then_some(peak)
    }
}

/// The interval that contains the middle 95 % of the values of the draws.
fn middle(draws: &[Law], of: impl Fn(&Law) -> f64) -> ConfidenceInterval {
    // Infinite values are replaced by large ones, so that interpolation between two of them gives a number.
    let mut values: Vec<f64> = draws.iter().map(|law| of(law).min(f64::MAX / 4.0)).collect();
    ConfidenceInterval { low: quantile(&mut values, 0.025), high: quantile(&mut values, 0.975) }
}

/// One size's mean on the scale of logarithms.
#[derive(Clone, Copy)]
struct SizeMean {
    size: f64,
    logarithm: f64,
    repetitions: f64,
}

/// Fits the law to all repetitions. The same seed gives the same draws.
///
/// N/X is linear in the coefficients: 1/λ · (1 + σ(N − 1) + κN(N − 1)). So N/X is fitted by least squares with
/// coefficients that are not negative. The fit minimizes the differences of the logarithms of X, because a slow minute
/// slows everything by a factor. Each Gauss-Newton step is a fit of N/X, weighted by the X of the step before.
pub fn fit(measurements: &Measurements, seed: u64) -> Fit {
    let by_size = measurements.logarithms();
    let too_few = Fit::Poor { model: None, reason: Misfit::TooFew { needed: SIZES_MIN } };
    if by_size.len() < SIZES_MIN {
        return too_few;
    }
    let levels: Vec<SizeMean> = by_size.iter().map(|(size, values)| level(*size, values)).collect();
    let Some(law) = law(&levels) else { return too_few };
    let draws = draws(by_size, &levels, seed);
    let point = |(size, level): (&usize, &SizeMean)| {
        let (measured, fitted) = (level.logarithm.exp(), law.throughput(level.size));
        let band = middle(&draws, |law| law.throughput(level.size));
        Point { size: *size, measured, fitted, band, residual: measured / fitted - 1.0 }
    };
    let points: Vec<Point> = by_size.iter().map(|(size, _)| size).zip(&levels).map(point).collect();
    let misfit = (points.iter().map(|point| point.residual.powi(2)).sum::<f64>() / real(points.len())).sqrt();
    let model = Model {
        law,
        lambda: middle(&draws, |law| law.lambda),
        sigma: middle(&draws, |law| law.sigma),
        kappa: middle(&draws, |law| law.kappa),
        explained: explained(&points),
        points,
        misfit,
        draws,
    };
    match reason(&model, &levels, measurements.noise()) {
        Some(reason) => Fit::Poor { model: Some(model), reason },
        None => Fit::Good(model),
    }
}

fn level(size: usize, values: &[f64]) -> SizeMean {
    let repetitions = real(values.len());
    SizeMean { size: real(size), logarithm: values.iter().sum::<f64>() / repetitions, repetitions }
}

fn explained(points: &[Point]) -> f64 {
    let mean = points.iter().map(|point| point.measured).sum::<f64>() / real(points.len());
    let all: f64 = points.iter().map(|point| (point.measured - mean).powi(2)).sum();
    let left: f64 = points.iter().map(|point| (point.measured - point.fitted).powi(2)).sum();
    if all > 0.0 { 1.0 - left / all } else { 0.0 }
}

fn reason(model: &Model, levels: &[SizeMean], noise: Option<f64>) -> Option<Misfit> {
    // Without a repetition the noise is unknown, so the whole residual counts.
    let noise = noise.unwrap_or(0.0);
    if noise > NOISE_MAX {
        return Some(Misfit::TooNoisy { noise });
    }
    // Only the part of a residual beyond two standard errors counts, because noise is not another shape.
    let beyond = |point: &Point, level: &SizeMean| {
        (point.residual.abs() - 2.0 * noise / level.repetitions.sqrt()).max(0.0)
    };
    let worst = model
        .points
        .iter()
        .zip(levels)
        .max_by(|(one, at), (other, there)| beyond(one, at).total_cmp(&beyond(other, there)));
    let (point, level) = worst?;
    let error = 2.0
        * noise
        * (model.points.iter().zip(levels).map(|(_, at)| 1.0 / at.repetitions).sum::<f64>()
            / real(levels.len()))
        .sqrt();
    let poor = beyond(point, level) > 2.0 * MISFIT_MAX || model.misfit - error > MISFIT_MAX;
    poor.then_some(Misfit::Shape { size: point.size, residual: point.residual })
}

/// The law, fitted to [`DRAWS`] data sets. Each data set adds deviations, drawn from all measured ones, to the means.
///
/// Resampling only the three repetitions of a size would show two thirds of their variance. So deviations come from all
/// sizes, and are widened to make up for the mean of few values. The means stay in place, so that a curve of another
/// shape keeps that shape.
fn draws(by_size: &[(usize, Vec<f64>)], levels: &[SizeMean], seed: u64) -> Vec<Law> {
    let mut random = fastrand::Rng::with_seed(seed);
    let deviations: Vec<f64> = by_size
        .iter()
        .zip(levels)
        .filter(|((_, values), _)| values.len() > 1)
        .flat_map(|((_, values), level)| {
            let widen = (level.repetitions / (level.repetitions - 1.0)).sqrt();
            values.iter().map(move |value| (value - level.logarithm) * widen)
        })
        .collect();
    let mut draw = |level: &SizeMean, repetitions: usize| {
        let sum: f64 = (0..repetitions).filter_map(|_| random.choice(&deviations)).sum();
        SizeMean { logarithm: level.logarithm + sum / level.repetitions, ..*level }
    };
    let mut set = |_| {
        let drawn: Vec<SizeMean> =
            levels.iter().zip(by_size).map(|(level, (_, values))| draw(level, values.len())).collect();
        law(&drawn)
    };
    (0..DRAWS).filter_map(&mut set).collect()
}

/// The law that fits best; `None` when no fit has finite numbers.
fn law(levels: &[SizeMean]) -> Option<Law> {
    // The first step starts at the measurements themselves.
    let mut fitted: Vec<f64> = levels.iter().map(|level| level.size / level.logarithm.exp()).collect();
    let mut coefficients = [0.0; 3];
    for _ in 0..STEPS {
        let rows: Vec<Row> = levels
            .iter()
            .zip(&fitted)
            .map(|(level, fitted)| {
                // ln y ≈ ln ŷ + (y − ŷ) / ŷ. So the target is ŷ(1 + ln y − ln ŷ), with a weight of 1 / ŷ².
                let target = fitted * (1.0 + level.size.ln() - level.logarithm - fitted.ln());
                Row { terms: terms(level.size), target, weight: level.repetitions / (fitted * fitted) }
            })
            .collect();
        coefficients = not_negative(&rows)?;
        let value = |level: &SizeMean| dot(&coefficients, &terms(level.size));
        fitted = levels.iter().map(value).collect();
    }
    let [one, sigma, kappa] = coefficients;
    let law = Law { lambda: 1.0 / one, sigma: sigma / one, kappa: kappa / one };
    [law.lambda, law.sigma, law.kappa].iter().all(|x| x.is_finite()).then_some(law)
}

/// The terms of the sum N/X.
fn terms(size: f64) -> [f64; 3] {
    [1.0, size - 1.0, size * (size - 1.0)]
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew { needed } => write!(f, "fewer than {needed} sizes were measured"),
            Self::TooNoisy { noise } => write!(f, "repetitions vary by {:.0} %", noise * 100.0),
            Self::Shape { size, residual } => {
                let way = if *residual < 0.0 { "less" } else { "more" };
                write!(f, "at size {size} it is {:.0} % {way} than the law says", residual.abs() * 100.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::measurement::Measurement;
    use super::super::statistics::normal;
    use super::*;

    const SIZES: [usize; 8] = [1, 2, 4, 8, 12, 16, 24, 32];

    fn measure(
        curve: impl Fn(f64) -> f64,
        sizes: &[usize],
        noise: f64,
        repetitions: usize,
        seed: u64,
    ) -> Measurements {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut one = |size: usize| Measurement {
            size,
            round: 0,
            throughput: curve(real(size)) * (noise * normal(&mut random)).exp(),
            p50: Duration::ZERO,
            p99: Duration::ZERO,
            at_once: 1.0,
            meets_objective: true,
        };
        sizes.iter().flat_map(|size| vec![*size; repetitions]).map(&mut one).collect()
    }

    fn model(fit: Fit) -> Model {
        match fit {
            Fit::Good(model) => model,
            Fit::Poor { reason, .. } => panic!("{reason}"),
        }
    }

    fn laws() -> impl Strategy<Value = Law> {
        let kappa = prop_oneof![Just(0.0), 1e-5..0.02];
        let sigma = prop_oneof![Just(0.0), 0.0..0.5];
        (10.0..1e5, sigma, kappa).prop_map(|(lambda, sigma, kappa)| Law { lambda, sigma, kappa })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn without_noise_the_fit_finds_the_true_coefficients(law in laws()) {
            let found = model(fit(&measure(|size| law.throughput(size), &SIZES, 0.0, 1, 0), 0));
            prop_assert!((found.law.lambda / law.lambda - 1.0).abs() < 1e-6, "{found:?}");
            prop_assert!((found.law.sigma - law.sigma).abs() < 1e-6, "{found:?}");
            prop_assert!((found.law.kappa - law.kappa).abs() < 1e-7, "{found:?}");
            prop_assert!(found.misfit < 1e-6 && found.explained > 0.999);
        }

        #[test]
        fn with_noise_the_fit_finds_the_true_curve(law in laws(), seed: u64) {
            let found = model(fit(&measure(|size| law.throughput(size), &SIZES, 0.03, 3, seed), 0));
            for size in SIZES.map(real) {
                let off = found.law.throughput(size) / law.throughput(size) - 1.0;
                prop_assert!(off.abs() < 0.08, "{off} at {size}");
            }
        }
    }

    #[test]
    fn the_intervals_contain_the_true_coefficients_about_as_often_as_their_confidence() {
        let law = Law { lambda: 900.0, sigma: 0.06, kappa: 0.002 };
        let (mut held, mut within) = ([0; 3], 0);
        for seed in 0..200 {
            let found = model(fit(&measure(|size| law.throughput(size), &SIZES, 0.03, 3, seed), seed));
            held[0] += u32::from(found.lambda.contains(law.lambda));
            held[1] += u32::from(found.sigma.contains(law.sigma));
            held[2] += u32::from(found.kappa.contains(law.kappa));
            within += u32::from(found.band(20.0).expect("within").contains(law.throughput(20.0)));
        }
        assert!(held.iter().chain([&within]).all(|held| (178..=199).contains(held)), "{held:?} {within}");
    }

    #[test]
    fn a_hard_limit_is_reported_as_another_shape() {
        let found =
            fit(&measure(|size| size.min(6.0) * 100.0, &[1, 2, 4, 5, 6, 7, 8, 16, 24], 0.02, 4, 7), 0);
        let Fit::Poor { reason: Misfit::Shape { size, residual }, model: Some(_) } = found else {
            panic!("{found:?}")
        };
        assert!((5..=7).contains(&size) && residual > 0.05, "{size}: {residual}");
    }

    #[test]
    fn noise_alone_is_hardly_ever_mistaken_for_another_shape() {
        let law = Law { lambda: 900.0, sigma: 0.06, kappa: 0.002 };
        for noise in [0.03, 0.1] {
            let poor = (0..100).filter(|seed| {
                let all = measure(|size| law.throughput(size), &SIZES, noise, 3, *seed);
                matches!(fit(&all, 0), Fit::Poor { .. })
            });
            assert!(poor.count() <= 2, "{noise}");
        }
    }

    #[test]
    fn too_few_sizes_and_too_much_noise_are_reported() {
        let law = Law { lambda: 900.0, sigma: 0.06, kappa: 0.002 };
        let few = fit(&measure(|size| law.throughput(size), &[1, 2, 4], 0.0, 3, 0), 0);
        assert_eq!(few, Fit::Poor { model: None, reason: Misfit::TooFew { needed: 4 } });
        let noisy = fit(&measure(|size| law.throughput(size), &SIZES, 0.4, 5, 0), 0);
        assert!(matches!(noisy, Fit::Poor { reason: Misfit::TooNoisy { .. }, model: Some(_) }));
        assert!(matches!(fit(&measure(|_| 0.0, &SIZES, 0.0, 3, 0), 0), Fit::Poor { model: None, .. }));
    }

    #[test]
    fn no_claim_is_made_outside_of_the_measured_sizes() {
        let law = Law { lambda: 900.0, sigma: 0.02, kappa: 0.004 };
        let found = model(fit(&measure(|size| law.throughput(size), &SIZES, 0.01, 3, 1), 0));
        assert!(found.band(1.0).is_some() && found.band(32.0).is_some() && found.band(33.0).is_none());
        let peak = found.peak().expect("it is within");
        assert!(peak.contains((0.98_f64 / 0.004).sqrt()), "{peak}");
        let growing = Law { kappa: 0.0001, ..law };
        let found = model(fit(&measure(|size| growing.throughput(size), &SIZES, 0.01, 3, 1), 0));
        assert_eq!(found.peak(), None, "it is beyond 32");
    }
}
