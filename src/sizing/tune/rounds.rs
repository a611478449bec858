//! What a round has in common: a machine that is slower, or faster, for a while.
//!
//! Any thread. Sizes are measured in rounds, and a size that is only measured late must not look worse than those that were only
//! measured early, when it is the machine that changed: another tenant came, a cache filled, the processor got hot. So a logarithm
//! of a throughput is taken for the sum of what its size, its round and chance do to it. Rounds share sizes, and that tells the
//! three apart (the intra-block analysis of incomplete blocks, Yates 1940, with what the rounds have in common estimated as a random
//! effect, Henderson 1975). Where rounds differ by no more than chance, nothing is changed.

use std::collections::{BTreeMap, BTreeSet};

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
    counts: BTreeMap<usize, f64>,
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
        let rounds = Groups::of(observations, |one| one.round);
        let sizes = Groups::of(observations, |one| one.size);
        let none = Self::default();
        let between = rounds.counts.len().saturating_sub(1);
        let within = observations.len().saturating_sub(sizes.counts.len());
        if between == 0 || within < between + FREEDOM_MIN {
            return none;
        }
        let fit = |pull: f64| Fit::of(observations, &sizes, &rounds, pull);
        // First as if each round were known by itself, for the variances; then each as far as it is known.
        let none_differs = fit(f64::INFINITY).squares;
        let all_differ = fit(0.0).squares;
        let chance = all_differ / real(within - between);
        let explained = (none_differs - all_differ).max(0.0);
        if explained / real(between) <= bound(between, within - between) * chance {
            return none;
        }
        // Henderson's third method, for rounds that have no size twice.
        let variance = (explained - real(between) * chance) / real(within);
        let effects = rounds.keys.keys().copied().zip(fit(chance / variance).effects).collect();
        let known: f64 = rounds.counts.iter().map(|count| count / (count + chance / variance)).sum();
        Self {
            effects,
            counts: rounds.keys.iter().map(|(round, index)| (*round, rounds.counts[*index])).collect(),
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
        let others = self.counts.get(&round).map_or(0.0, |count| count - 1.0);
        if self.ratio > 0.0 { 1.0 + 1.0 / (others + 1.0 / self.ratio) } else { 1.0 }
    }
}

/// Observations by size, or by round.
struct Groups {
    /// Key → its index, which rises with it.
    keys: BTreeMap<usize, usize>,
    /// The index of each observation's group.
    of: Vec<usize>,
    /// How many observations each group has.
    counts: Vec<f64>,
}

impl Groups {
    fn of(observations: &[Observation], key: impl Fn(&Observation) -> usize) -> Self {
        let sorted: BTreeSet<usize> = observations.iter().map(&key).collect();
        let keys: BTreeMap<usize, usize> = sorted.into_iter().zip(0..).collect();
        let of: Vec<usize> = observations.iter().map(|one| keys[&key(one)]).collect();
        let mut counts = vec![0.0; keys.len()];
        for group in &of {
            counts[*group] += 1.0;
        }
        Self { keys, of, counts }
    }
}

/// Levels of sizes and effects of rounds that fit together.
struct Fit {
    /// By the index of the round.
    effects: Vec<f64>,
    /// The sum of squares of what is left.
    squares: f64,
}

impl Fit {
    /// Fits sizes and rounds in turn. `pull` is what a round needs in observations to be believed by half.
    fn of(observations: &[Observation], sizes: &Groups, rounds: &Groups, pull: f64) -> Self {
        let mut effects = vec![0.0; rounds.counts.len()];
        let mut levels = vec![0.0; sizes.counts.len()];
        for _ in 0..SWEEPS_MAX {
            means(observations, (sizes, &mut levels), (rounds, &effects), 0.0);
            let before = effects.clone();
            means(observations, (rounds, &mut effects), (sizes, &levels), pull);
            if effects.iter().zip(&before).all(|(now, before)| (now - before).abs() < SETTLED) {
                break;
            }
        }
        let mut squares = 0.0;
        for ((one, size), round) in observations.iter().zip(&sizes.of).zip(&rounds.of) {
            squares += (one.value - levels[*size] - effects[*round]).powi(2);
        }
        Self { effects, squares }
    }
}

/// The mean of each group's values without the parts of their other groups, pulled towards zero as if `pull` zeros were among them.
fn means(observations: &[Observation], into: (&Groups, &mut [f64]), without: (&Groups, &[f64]), pull: f64) {
    let ((groups, means), (others, parts)) = (into, without);
    means.fill(0.0);
    for ((one, group), other) in observations.iter().zip(&groups.of).zip(&others.of) {
        means[*group] += one.value - parts[*other];
    }
    for (mean, count) in means.iter_mut().zip(&groups.counts) {
        *mean /= count + pull;
    }
}

/// Past this, rounds differ by more than chance makes them: about what Fisher's F with these degrees of freedom passes in one case
/// of twenty.
fn bound(between: usize, within: usize) -> f64 {
    1.6 + 5.0 / real(between) + 8.0 / real(within)
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
