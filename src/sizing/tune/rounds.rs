//! The effect of a round: for a while the machine is slower, or faster, for all sizes.
//!
//! Any thread. Sizes are measured in rounds. A size that is only measured late must not look slow because the machine
//! changed: another tenant came, a cache filled, the processor got hot. So the logarithm of a throughput is modelled as
//! a sum of three parts: of its size, of its round, and of chance. The parts can be told apart because rounds share
//! sizes. This is the intra-block analysis of incomplete blocks (Yates 1940), with the rounds as a random effect
//! (Henderson 1975). Where rounds differ by no more than chance, no value is changed.

use std::collections::{BTreeMap, BTreeSet};

use super::statistics::real;

/// The most passes of alternate fitting. Each pass removes more than half of the remaining misfit, so 60 passes leave
/// none.
const SWEEPS_MAX: usize = 60;

/// A change in the logarithms that does not matter: 0.001 %.
const SETTLED: f64 = 1e-5;

/// With fewer degrees of freedom than this, no difference between rounds is claimed.
const FREEDOM_MIN: usize = 4;

/// One logarithm of a throughput.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    /// Its size.
    pub(super) size: usize,
    /// Its round.
    pub(super) round: usize,
    /// The logarithm.
    pub(super) value: f64,
}

/// How rounds differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rounds {
    /// Round → what it adds to a logarithm.
    effects: BTreeMap<usize, f64>,
    /// Round → its number of observations.
    counts: BTreeMap<usize, f64>,
    /// The variance between rounds in parts of the variance within one; 0 where rounds do not differ.
    ratio: f64,
    /// The standard deviation between rounds, as a logarithm.
    pub(super) drift: f64,
    /// The part of the degrees of freedom within sizes that this estimate used up.
    pub(super) freedom_taken: f64,
}

impl Rounds {
    /// Estimates the effects of the rounds.
    pub(super) fn of(observations: &[Observation]) -> Self {
        let rounds = Groups::of(observations, |one| one.round);
        let sizes = Groups::of(observations, |one| one.size);
        let none = Self::default();
        let between = rounds.counts.len().saturating_sub(1);
        let within = observations.len().saturating_sub(sizes.counts.len());
        if between == 0 || within < between + FREEDOM_MIN {
            return none;
        }
        let fit = |pull: f64| RoundFit::of(observations, &sizes, &rounds, pull);
        // The variances come from two fits: one without effects of rounds, and one that takes each round's mean at its
        // word. A third fit then trusts each round as far as its observations go.
        let none_differs = fit(f64::INFINITY).squares;
        let all_differ = fit(0.0).squares;
        let chance = all_differ / real(within - between);
        let explained = (none_differs - all_differ).max(0.0);
        if explained / real(between) <= bound(between, within - between) * chance {
            return none;
        }
        // Henderson's third method, for rounds that contain no size twice.
        let variance = (explained - real(between) * chance) / real(within);
        let effects = rounds.keys.keys().copied().zip(fit(chance / variance).effects).collect();
        let known: f64 = rounds.counts.iter().map(|count| count / (count + chance / variance)).sum();
        Self {
            effects,
            counts: rounds.keys.iter().map(|(round, index)| (*round, rounds.counts[*index])).collect(),
            // Without any chance variance the ratio would be infinite, so it is bounded.
            ratio: (variance / chance.max(variance * 1e-9)).min(1e9),
            drift: variance.sqrt(),
            freedom_taken: ((known - 1.0).max(0.0) / real(within)).min(0.9),
        }
    }

    /// The observation without the effect of its round.
    pub(super) fn adjusted(&self, one: &Observation) -> f64 {
        one.value - self.effects.get(&one.round).copied().unwrap_or(0.0)
    }

    /// The factor by which the variance of an adjusted observation exceeds chance alone. It is above 1 because the
    /// effect of the round is only known from its other observations.
    pub(super) fn widening(&self, round: usize) -> f64 {
        let others = self.counts.get(&round).map_or(0.0, |count| count - 1.0);
        if self.ratio > 0.0 { 1.0 + 1.0 / (others + 1.0 / self.ratio) } else { 1.0 }
    }
}

/// Observations by size, or by round.
struct Groups {
    /// Key → index. Indexes rise with the keys.
    keys: BTreeMap<usize, usize>,
    /// The index of each observation's group.
    of: Vec<usize>,
    /// The number of observations in each group.
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

/// The levels of sizes and the effects of rounds, fitted together.
struct RoundFit {
    /// The effects, by the index of the round.
    effects: Vec<f64>,
    /// The sum of the squared residuals.
    squares: f64,
}

impl RoundFit {
    /// Fits sizes and rounds in turn. A round with `pull` observations is trusted by half.
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

/// The mean of each group's values, without the effects of the other grouping. `pull` zeros are added to each group,
/// which pulls its mean towards zero.
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

/// Above this bound, rounds differ by more than chance. It is about the 95 % quantile of Fisher's F with these degrees
/// of freedom.
fn bound(between: usize, within: usize) -> f64 {
    1.6 + 5.0 / real(between) + 8.0 / real(within)
}

#[cfg(test)]
mod tests {
    use super::super::statistics::normal;
    use super::*;

    /// Six sizes in three rounds, then a new size in three more rounds, together with two of the six.
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
    fn a_size_measured_only_in_late_rounds_is_compared_fairly() {
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
    fn rounds_that_differ_by_chance_change_no_value() {
        let found =
            (0..1000).filter(|seed| Rounds::of(&observations(|_| 0.0, 0.03, *seed)) != Rounds::default());
        assert!(found.count() <= 50);
        let none = Rounds::default();
        assert!((none.widening(0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn few_observations_show_no_difference_between_rounds() {
        assert_eq!(Rounds::of(&[]), Rounds::default());
        let one = |size, round| Observation { size, round, value: real(round) };
        assert_eq!(Rounds::of(&[one(0, 0), one(0, 1), one(1, 0), one(1, 1)]), Rounds::default());
    }

    #[test]
    fn without_noise_the_effects_of_rounds_are_exact() {
        let all = observations(real, 0.0, 0);
        let rounds = Rounds::of(&all);
        assert!((mean(&all, &rounds, 6) - mean(&all, &rounds, 5) - 1.0).abs() < 1e-3);
    }
}
