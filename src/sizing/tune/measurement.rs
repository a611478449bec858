//! The measurements of each size, and how certain they are.
//!
//! Any thread. A size is the varied quantity: the sessions of the pool, or the workers.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use super::rounds::{Observation, Rounds};
use super::statistics::{ConfidenceInterval, Estimate, Summary, quantile, real};

/// A size with fewer repetitions than this allows no conclusion.
pub(super) const REPETITIONS_MIN: usize = 3;

/// The variance of the other sizes counts as much as this many values of the size itself.
///
/// The spread of three repetitions is so uncertain that their interval must be three times as wide as with many. But
/// repetitions of neighbouring sizes, on one machine in the same minutes, vary much alike. A few degrees of freedom
/// borrowed from them help. After a few repetitions a size with an unusual spread still decides most of its own
/// interval. Smyth (2004), "Linear models and empirical Bayes methods", moderates variances in this way.
const BORROWED_FREEDOM: f64 = 4.0;

/// One repetition at one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// The varied quantity: sessions, or workers.
    pub size: usize,
    /// The round of the measurement, from the planner. The measurements of one round are made close together in time.
    pub round: usize,
    /// Good answers a second.
    pub throughput: f64,
    /// The median latency.
    pub p50: Duration,
    /// The latency that 99 % of the requests stay within.
    pub p99: Duration,
    /// The requests that a borrowed session carried at once, on average: above 1 where requests share round trips, and
    /// at most 1 elsewhere.
    pub at_once: f64,
    /// Whether the measurement met the objective, such as `p99<50ms`; true without an objective.
    pub meets_objective: bool,
}

/// All repetitions, by size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measurements {
    by_size: BTreeMap<usize, Vec<Measurement>>,
    /// The analysis of all measurements, kept until another measurement is added.
    analysis: OnceLock<Analysis>,
}

/// The analysis of all measurements together.
#[derive(Clone, Debug, PartialEq)]
struct Analysis {
    sizes: Vec<Size>,
    logarithms: Vec<(usize, Vec<f64>)>,
    noise: Option<f64>,
    drift: f64,
}

/// The summary of the repetitions at one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// The size.
    pub size: usize,
    /// How often this size was measured.
    pub repetitions: usize,
    /// The mean throughput, in requests a second: the geometric mean, because a slow machine slows everything by a factor.
    pub throughput: f64,
    /// The interval that holds the true throughput with a confidence of 95 %; `None` while nothing has been repeated.
    pub interval: Option<ConfidenceInterval>,
    /// The median of the repetitions' p50.
    pub p50: Duration,
    /// The median of the repetitions' p99.
    pub p99: Duration,
    /// The median of the repetitions' requests at once on a session.
    pub at_once: f64,
    /// How many repetitions met the objective.
    pub met: usize,
    /// The logarithm of the throughput.
    pub(super) level: Option<Estimate>,
}

impl Size {
    /// Whether the size meets the objective: at most one repetition in five may miss it. Rare events, such as a
    /// checkpoint of the database, hit some repetition of each size.
    pub fn meets_objective(&self) -> bool {
        let missed = self.repetitions - self.met;
        self.repetitions > 0 && missed <= self.repetitions / 5
    }

    /// Whether the repetitions of this size disagree about the objective.
    pub(super) fn is_contested(&self) -> bool {
        self.met > 0 && self.met < self.repetitions
    }
}

impl Measurements {
    /// Adds one measurement.
    pub fn push(&mut self, measurement: Measurement) {
        self.by_size.entry(measurement.size).or_default().push(measurement);
        self.analysis.take();
    }

    /// How many measurements there are.
    pub fn count(&self) -> usize {
        self.by_size.values().map(Vec::len).sum()
    }

    /// How many measurements of this size there are.
    pub fn repetitions(&self, size: usize) -> usize {
        self.of(size).len()
    }

    /// The measurements of one size, in the order in which they came.
    pub fn of(&self, size: usize) -> &[Measurement] {
        self.by_size.get(&size).map_or(&[], Vec::as_slice)
    }

    /// How much repetitions vary within a round: the standard deviation of the throughput in parts of it, over all
    /// sizes. `None` while nothing was repeated.
    pub fn noise(&self) -> Option<f64> {
        self.analysis().noise
    }

    /// How much rounds differ: the standard deviation in parts of the throughput, or 0 where the difference may be
    /// chance. The analysis removes this difference from the sizes' throughputs.
    pub fn drift(&self) -> f64 {
        self.analysis().drift
    }

    /// The summary of each size, the smallest first.
    pub fn sizes(&self) -> &[Size] {
        &self.analysis().sizes
    }

    /// The logarithms of the throughputs, without the effects of rounds, of each size that answered in every
    /// repetition.
    pub(super) fn logarithms(&self) -> &[(usize, Vec<f64>)] {
        &self.analysis().logarithms
    }

    fn analysis(&self) -> &Analysis {
        self.analysis.get_or_init(|| Analysis::of(&self.by_size))
    }
}

impl Analysis {
    fn of(by_size: &BTreeMap<usize, Vec<Measurement>>) -> Self {
        let observed: Vec<(usize, Vec<Observation>)> =
            by_size.iter().filter_map(|(size, all)| Some((*size, observations(all)?))).collect();
        let rounds =
            Rounds::of(&observed.iter().flat_map(|(_, all)| all.iter().copied()).collect::<Vec<_>>());
        let adjusted = |all: &[Observation]| all.iter().map(|one| rounds.adjusted(one)).collect::<Vec<f64>>();
        let logarithms: Vec<(usize, Vec<f64>)> =
            observed.iter().map(|(size, all)| (*size, adjusted(all))).collect();
        let spreads: Vec<(usize, Spread)> = logarithms
            .iter()
            .filter_map(|(size, values)| Some((*size, Spread::of(values, rounds.freedom_taken)?)))
            .collect();
        let pool = |without: Option<usize>| {
            let others = spreads.iter().filter(|(size, _)| Some(*size) != without);
            Spread::pool(others.map(|(_, spread)| spread))
        };
        let level_of = |size: usize| {
            let place = observed.iter().position(|(other, _)| *other == size)?;
            let widening = observed[place].1.iter().map(|one| rounds.widening(one.round)).sum::<f64>();
            let values = &logarithms[place].1;
            let own = Spread::of(values, rounds.freedom_taken);
            level(values, own, pool(Some(size)), widening / real(values.len()))
        };
        let sizes = by_size.iter().map(|(size, all)| summarize(*size, all, level_of(*size))).collect();
        let noise = pool(None).map(|spread| spread.variance.sqrt());
        Self { sizes, noise, drift: rounds.drift, logarithms }
    }
}

impl FromIterator<Measurement> for Measurements {
    fn from_iter<I: IntoIterator<Item = Measurement>>(all: I) -> Self {
        let mut measurements = Self::default();
        all.into_iter().for_each(|one| measurements.push(one));
        measurements
    }
}

/// How repetitions vary around the mean of their logarithms.
#[derive(Clone, Copy)]
struct Spread {
    variance: f64,
    freedom: f64,
}

impl Spread {
    /// `taken`: the part of the degrees of freedom that the effects of rounds used up.
    fn of(values: &[f64], taken: f64) -> Option<Self> {
        let summary = Summary::of(values).filter(|summary| summary.count > 1)?;
        let left = 1.0 - taken;
        Some(Self { variance: summary.variance / left, freedom: real(summary.count - 1) * left })
    }

    /// The joint spread of several sizes; `None` without any.
    fn pool<'a>(spreads: impl Iterator<Item = &'a Self>) -> Option<Self> {
        let (squares, freedom) = spreads.fold((0.0, 0.0), |(squares, freedom), spread| {
            (squares + spread.variance * spread.freedom, freedom + spread.freedom)
        });
        (freedom > 0.0).then(|| Self { variance: squares / freedom, freedom })
    }
}

/// `None` when a repetition answered nothing: such a throughput of zero has no logarithm.
fn observations(all: &[Measurement]) -> Option<Vec<Observation>> {
    let positive = |one: &Measurement| one.throughput > 0.0 && one.throughput.is_finite();
    let observe =
        |one: &Measurement| Observation { size: one.size, round: one.round, value: one.throughput.ln() };
    all.iter().map(|one| positive(one).then(|| observe(one))).collect()
}

fn summarize(size: usize, all: &[Measurement], level: Option<Estimate>) -> Size {
    let plain: Vec<f64> = all.iter().map(|one| one.throughput).collect();
    let plain_mean = Summary::of(&plain).map_or(0.0, |summary| summary.mean);
    Size {
        size,
        repetitions: all.len(),
        throughput: level.map_or(plain_mean, |level| level.value.exp()),
        interval: level.map(|level| level.interval(0.95).map(f64::exp)),
        p50: median(all, |one| one.p50),
        p99: median(all, |one| one.p99),
        at_once: middle(all.iter().map(|one| one.at_once).collect()),
        met: all.iter().filter(|one| one.meets_objective).count(),
        level,
    }
}

/// The mean of the logarithms, with a spread from this size and the others together.
fn level(values: &[f64], own: Option<Spread>, others: Option<Spread>, widening: f64) -> Option<Estimate> {
    let mean = Summary::of(values)?.mean;
    let borrowed = others.map(|others| Spread { freedom: others.freedom.min(BORROWED_FREEDOM), ..others });
    let together = Spread::pool(own.iter().chain(borrowed.iter()))?;
    let error = (together.variance * widening / real(values.len())).sqrt();
    Some(Estimate { value: mean, error, freedom: together.freedom })
}

fn median(all: &[Measurement], of: impl Fn(&Measurement) -> Duration) -> Duration {
    Duration::from_secs_f64(middle(all.iter().map(|one| of(one).as_secs_f64()).collect()))
}

/// The median, or 0 of nothing.
fn middle(mut values: Vec<f64>) -> f64 {
    if values.is_empty() { 0.0 } else { quantile(&mut values, 0.5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(size: usize, throughput: f64, p99_ms: u64) -> Measurement {
        let p99 = Duration::from_millis(p99_ms);
        Measurement {
            size,
            round: 0,
            throughput,
            p50: p99 / 2,
            p99,
            at_once: 1.0,
            meets_objective: p99_ms < 50,
        }
    }

    #[test]
    fn a_size_is_the_mean_and_the_medians_of_its_repetitions() {
        let all: Measurements = [
            measurement(4, 100.0, 10),
            measurement(4, 121.0, 90),
            measurement(2, 50.0, 7),
            measurement(4, 110.0, 30),
        ]
        .into_iter()
        .collect();
        assert_eq!((all.count(), all.repetitions(4), all.repetitions(3)), (4, 3, 0));
        let [two, four] = all.sizes()[..] else { panic!("two sizes") };
        assert_eq!((two.size, two.repetitions), (2, 1));
        assert!((four.throughput - 110.0).abs() < 1e-9);
        assert_eq!((four.p50, four.p99), (Duration::from_millis(15), Duration::from_millis(30)));
        assert_eq!((four.met, four.meets_objective(), four.is_contested()), (2, false, true));
        assert!((all.noise().expect("it was repeated") - 1.1_f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn one_repetition_in_five_may_miss_the_objective() {
        let of = |repetitions: u64, missed: u64| {
            let p99 = |index| if index < missed { 80 } else { 20 };
            let all: Measurements = (0..repetitions).map(|index| measurement(1, 10.0, p99(index))).collect();
            all.sizes()[0].meets_objective()
        };
        assert!(of(3, 0) && of(5, 1) && of(10, 2));
        assert!(!of(3, 1) && !of(4, 1) && !of(9, 2));
    }

    #[test]
    fn a_size_with_few_repetitions_borrows_the_noise_of_others() {
        let level = |all: &Measurements| all.sizes()[0].level.expect("an estimate");
        let mut all: Measurements = [99.0, 100.0, 101.0].map(|x| measurement(1, x, 1)).into_iter().collect();
        let alone = level(&all);
        assert!((alone.freedom - 2.0).abs() < 1e-9);
        for size in [2, 4, 8] {
            for x in [99.0, 100.0, 101.0] {
                all.push(measurement(size, x, 1));
            }
        }
        let together = level(&all);
        assert!((together.freedom - 6.0).abs() < 1e-9);
        assert!((together.error - alone.error).abs() < 1e-9);
        // A size with an unusual spread is not made to look steady.
        let mut unsteady = all.clone();
        for x in [50.0, 150.0, 70.0, 130.0, 90.0, 110.0] {
            unsteady.push(measurement(1, x, 1));
        }
        assert!(level(&unsteady).error > 5.0 * together.error);
    }

    #[test]
    fn a_size_that_answers_nothing_has_no_interval() {
        let all: Measurements = [0.0, 10.0, 10.0].map(|x| measurement(1, x, 1)).into_iter().collect();
        let size = all.sizes()[0];
        assert_eq!((size.interval, size.level), (None, None));
        assert_eq!(all.noise(), None);
        assert!(size.throughput > 0.0);
    }
}
