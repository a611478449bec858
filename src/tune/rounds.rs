//! What a round has in common: a machine that is slower, or faster, for a while.
//!
//! Any thread. Sizes are measured in rounds, and a size that is only measured late must not look worse than those that were only
//! measured early, when it is the machine that changed: another tenant came, a cache filled, the processor got hot. So a logarithm
//! of a throughput is taken for the sum of what its size, its round and chance do to it. Rounds share sizes, and that tells the
//! three apart (the intra-block analysis of incomplete blocks, Yates 1940, with what the rounds have in common estimated as a random
//! effect, Henderson 1975). Where rounds differ by no more than chance, nothing is changed.

use std::collections::BTreeMap;

use super::statistics::real;

/// Sweeps of alternate fitting at most. Each takes more than half of what is left to fit, so that 60 leave nothing.
const SWEEPS_MAX: usize = 60;

/// A change in the logarithms that does not matter: 0.001 %.
const SETTLED: f64 = 1e-5;

/// Degrees of freedom below which nothing is said of rounds.
const FREEDOM_MIN: usize = 4;

/// One logarithm of a throughput.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    /// Which size it is of.
    pub(super) size: usize,
    /// In which round it was measured.
    pub(super) round: usize,
    /// The logarithm.
    pub(super) value: f64,
}

/// How rounds differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rounds {
    /// Round → what it adds to a logarithm.
    effects: BTreeMap<usize, f64>,
    /// Round → how many observations it has.
    counts: BTreeMap<usize, usize>,
    /// The variance of rounds in parts of the variance within one; 0: they do not differ.
    ratio: f64,
    /// The standard deviation of rounds, as a logarithm.
    pub(super) drift: f64,
    /// The part of the degrees of freedom within sizes that it took to know this.
    pub(super) freedom_taken: f64,
}

impl Rounds {
    /// What observations have in common by their rounds.
    pub(super) fn of(observations: &[Observation]) -> Self {
        let counts = count(observations.iter().map(|one| one.round));
        let sizes = count(observations.iter().map(|one| one.size));
        let none = Self::default();
        let between = counts.len().saturating_sub(1);
        let within = observations.len().saturating_sub(sizes.len());
        if between == 0 || within < between + FREEDOM_MIN {
            return none;
        }
        // First as if each round were known by itself, for the variances; then each as far as it is known.
        let none_differs = Fit::of(observations, &counts, f64::INFINITY).squares;
        let all_differ = Fit::of(observations, &counts, 0.0).squares;
        let chance = all_differ / real(within - between);
        let explained = (none_differs - all_differ).max(0.0);
        if explained / real(between) <= bound(between, within - between) * chance {
            return none;
        }
        // Henderson's third method, for rounds that have no size twice.
        let variance = (explained - real(between) * chance) / real(within);
        let shrunk = Fit::of(observations, &counts, chance / variance);
        let known: f64 = counts.values().map(|count| real(*count) / (real(*count) + chance / variance)).sum();
        Self {
            effects: shrunk.effects,
            counts,
            // Without any chance left, the ratio is only large.
            ratio: (variance / chance.max(variance * 1e-9)).min(1e9),
            drift: variance.sqrt(),
            freedom_taken: ((known - 1.0).max(0.0) / real(within)).min(0.9),
        }
    }

    /// The observation without what its round adds.
    pub(super) fn adjusted(&self, one: &Observation) -> f64 {
        one.value - self.effects.get(&one.round).copied().unwrap_or(0.0)
    }

    /// By how much the variance of an adjusted observation of this round is wider than chance alone, because the round is only
    /// known by its other observations.
    pub(super) fn widening(&self, round: usize) -> f64 {
        let others = self.counts.get(&round).map_or(0.0, |count| real(*count) - 1.0);
        if self.ratio > 0.0 { 1.0 + 1.0 / (others + 1.0 / self.ratio) } else { 1.0 }
    }
}

fn count(keys: impl Iterator<Item = usize>) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    keys.for_each(|key| *counts.entry(key).or_insert(0) += 1);
    counts
}

/// Levels of sizes and effects of rounds that fit together.
struct Fit {
    effects: BTreeMap<usize, f64>,
    /// The sum of squares of what is left.
    squares: f64,
}

impl Fit {
    /// Fits sizes and rounds in turn. `pull` is what a round needs in observations to be believed by half.
    fn of(observations: &[Observation], counts: &BTreeMap<usize, usize>, pull: f64) -> Self {
        let sizes = count(observations.iter().map(|one| one.size));
        let mut effects: BTreeMap<usize, f64> = counts.keys().map(|round| (*round, 0.0)).collect();
        let mut levels: BTreeMap<usize, f64> = BTreeMap::new();
        for _ in 0..SWEEPS_MAX {
            let by_size = observations.iter().map(|one| (one.size, one.value - effects[&one.round]));
            levels = means(by_size, &sizes, 0.0);
            let by_round = observations.iter().map(|one| (one.round, one.value - levels[&one.size]));
            let next = means(by_round, counts, pull);
            let moved =
                next.iter().map(|(round, effect)| (effect - effects[round]).abs()).fold(0.0, f64::max);
            effects = next;
            if moved < SETTLED {
                break;
            }
        }
        let left = |one: &Observation| (one.value - levels[&one.size] - effects[&one.round]).powi(2);
        let squares = observations.iter().map(left).sum();
        Self { effects, squares }
    }
}

/// Past this, rounds differ by more than chance makes them: about what Fisher's F with these degrees of freedom passes in one case
/// of twenty.
fn bound(between: usize, within: usize) -> f64 {
    1.6 + 5.0 / real(between) + 8.0 / real(within)
}

/// The mean of each key's values, pulled towards zero as if `pull` zeros were among them.
fn means(
    values: impl Iterator<Item = (usize, f64)>,
    counts: &BTreeMap<usize, usize>,
    pull: f64,
) -> BTreeMap<usize, f64> {
    let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
    values.for_each(|(key, value)| *sums.entry(key).or_insert(0.0) += value);
    for (key, sum) in &mut sums {
        *sum /= real(counts[key]) + pull;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::super::statistics::normal;
    use super::*;

    /// Six sizes in three rounds, then one more size beside two of them in three further rounds.
    fn observations(drift: impl Fn(usize) -> f64, noise: f64, seed: u64) -> Vec<Observation> {
        let mut random = fastrand::Rng::with_seed(seed);
        let early = (0..3).flat_map(|round| (0..6).map(move |size| (size, round)));
        let late = (3..6).flat_map(|round| [(6, round), (4, round), (5, round)]);
        early
            .chain(late)
            .map(|(size, round)| {
                let value = real(size) + drift(round) + noise * normal(&mut random);
                Observation { size, round, value }
            })
            .collect()
    }

    fn mean(observations: &[Observation], rounds: &Rounds, size: usize) -> f64 {
        let of: Vec<f64> =
            observations.iter().filter(|one| one.size == size).map(|one| rounds.adjusted(one)).collect();
        of.iter().sum::<f64>() / real(of.len())
    }

    #[test]
    fn a_size_that_is_only_measured_late_is_compared_fairly() {
        for seed in 0..100 {
            let all = observations(|round| if round < 3 { 0.0 } else { -0.1 }, 0.01, seed);
            let rounds = Rounds::of(&all);
            assert!((rounds.drift - 0.05).abs() < 0.03, "{}", rounds.drift);
            let apart = mean(&all, &rounds, 6) - mean(&all, &rounds, 5);
            assert!((apart - 1.0).abs() < 0.04, "{apart}");
            assert!(rounds.widening(3) > 1.3 && rounds.widening(0) < rounds.widening(3));
        }
    }

    #[test]
    fn rounds_that_differ_by_chance_are_left_alone() {
        let found =
            (0..1000).filter(|seed| Rounds::of(&observations(|_| 0.0, 0.03, *seed)) != Rounds::default());
        assert!(found.count() <= 50);
        let none = Rounds::default();
        assert!((none.widening(0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn too_little_says_nothing_of_rounds() {
        assert_eq!(Rounds::of(&[]), Rounds::default());
        let one = |size, round| Observation { size, round, value: real(round) };
        assert_eq!(Rounds::of(&[one(0, 0), one(0, 1), one(1, 0), one(1, 1)]), Rounds::default());
    }

    #[test]
    fn without_any_noise_the_rounds_are_exact() {
        let all = observations(real, 0.0, 0);
        let rounds = Rounds::of(&all);
        assert!((mean(&all, &rounds, 6) - mean(&all, &rounds, 5) - 1.0).abs() < 1e-3);
    }
}
