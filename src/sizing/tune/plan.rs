//! Which size to measure next.
//!
//! Main thread. The planner has no clock. It receives the measurements and the time that is left, and names the next
//! size, or says that the sweep is done. Sizes are measured in rounds of shuffled order. New sizes share their rounds
//! with some known sizes. So a machine that gets slower can be told from a slower size (`rounds`).

use std::collections::BTreeSet;
use std::time::Duration;

use super::candidates::{Candidates, Limits, named_by_littles_law, ratio, usable};
use super::knee::{Outcome, decide};
use super::measurement::{Measurements, REPETITIONS_MIN, Size};
use super::statistics::real;

/// A size whose repetitions disagree about the objective is measured up to this often. One repetition may then miss it.
const REPETITIONS_CONTESTED: usize = 5;

/// The next step of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// Measure this size once.
    Measure {
        /// The size.
        size: usize,
        /// The round that the measurement belongs to.
        round: usize,
    },
    /// Decide with the measurements so far.
    Done(Stop),
}

/// Why nothing more is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// More measurements would not change the answer, or only by less than the tolerance.
    Settled,
    /// The time that is left is too short for another measurement, or for enough repetitions of a new size.
    OutOfTime,
    /// The run was stopped, or it failed.
    CutShort,
}

/// Plans one sweep.
#[derive(Clone, Debug)]
pub struct Planner {
    limits: Limits,
    each: Duration,
    random: fastrand::Rng,
    /// The number of the round.
    round: usize,
    /// The sizes that remain in this round.
    sizes: Vec<usize>,
}

impl Planner {
    /// A sweep within these limits. `each` (above zero) is the time of one measurement, with resizing and warming up.
    /// The same seed gives the same order.
    pub fn new(limits: Limits, each: Duration, seed: u64) -> Self {
        Self { limits, each, random: fastrand::Rng::with_seed(seed), round: 0, sizes: Vec::new() }
    }

    /// The least time for a sweep with any result: three measurements of each of the first sizes.
    pub fn time_min(&self) -> Duration {
        let count = first_sizes(self.limits).len() * REPETITIONS_MIN;
        self.each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// The next step, given all measurements so far and the time that is left.
    pub fn next(&mut self, measurements: &Measurements, left: Duration) -> Next {
        if left < self.each {
            return Next::Done(Stop::OutOfTime);
        }
        if self.sizes.is_empty() {
            self.round += 1;
            self.sizes = self.sizes_of_round(measurements, left).into_iter().collect();
            self.random.shuffle(&mut self.sizes);
        }
        match self.sizes.pop() {
            Some(size) => Next::Measure { size, round: self.round },
            // New sizes remain, but there is no time to begin with them.
            None if !next_sizes(measurements, self.limits).is_empty() => Next::Done(Stop::OutOfTime),
            None => Next::Done(Stop::Settled),
        }
    }

    /// The sizes that lack repetitions. A round with new sizes also has the undecided sizes, and some known sizes for
    /// comparison in the same minutes.
    fn sizes_of_round(&self, measurements: &Measurements, left: Duration) -> BTreeSet<usize> {
        let first = first_sizes(self.limits);
        let mut sizes: BTreeSet<usize> =
            measurements.sizes().iter().map(|size| size.size).chain(first.iter().copied()).collect();
        let lacks = |size: &usize| measurements.repetitions(*size) < REPETITIONS_MIN;
        sizes.retain(lacks);
        if first.iter().any(lacks) {
            return sizes;
        }
        if sizes.is_empty() {
            sizes.extend(self.affordable(next_sizes(measurements, self.limits), left));
        }
        let known = usable(measurements);
        let last = known.last().map_or(0, |size| size.size);
        if sizes.iter().next().is_some_and(|size| *size > last) {
            // Whether throughput grows on beyond the last size takes only this size for comparison.
            sizes.insert(last);
            return sizes;
        }
        let new = sizes.iter().any(lacks);
        sizes.extend(undecided(measurements, self.limits));
        if new || sizes.len() == 1 {
            sizes.extend(anchors(measurements, self.limits));
        }
        sizes
    }

    /// As many new sizes as there is time to measure three times.
    fn affordable(&self, mut sizes: Vec<usize>, left: Duration) -> Vec<usize> {
        let fits = left.as_nanos() / self.each.as_nanos().max(1) / REPETITIONS_MIN as u128;
        sizes.truncate(usize::try_from(fits).unwrap_or(usize::MAX));
        sizes
    }
}

/// The new sizes that should be measured: first 1, 2, 4, 8, …, as long as throughput may still grow, then sizes between
/// those that matter.
///
/// The function compares means, so every size should have been measured three times before a call. Each call follows
/// new measurements. No size is left when the knee lies between neighbours and the highest throughput is not beside a
/// wide gap.
pub fn next_sizes(measurements: &Measurements, limits: Limits) -> Vec<usize> {
    let mut wanted = first_sizes(limits);
    wanted.retain(|size| measurements.repetitions(*size) == 0);
    if !wanted.is_empty() {
        return wanted;
    }
    let sizes = usable(measurements);
    if let Some(next) = next_doubling(&sizes, limits).filter(|next| measurements.repetitions(*next) == 0) {
        return vec![next];
    }
    let candidates = Candidates::of(&sizes, limits);
    let (Some(best), Some(nearest)) = (candidates.best(), candidates.nearest()) else { return wanted };
    let middle =
        |low: usize, high: usize, step: usize| (high - low > step.max(1)).then_some(low + (high - low) / 2);
    let below = |size: usize| sizes.iter().rfind(|other| other.size < size);
    let above = |size: usize| sizes.iter().find(|other| other.size > size);
    // The knee is located to one session up to a knee of 39. Above that it is located to within 5 % of itself, which is
    // the tolerance of the throughput.
    let step = nearest.size / 20;
    if let Some(low) = below(nearest.size) {
        let proportion = (real(nearest.size) / real(low.size)).ln();
        let growth = (nearest.throughput / low.throughput).ln() / proportion;
        // Where throughput grows in proportion up to the largest size, there is no knee to look for.
        if nearest.size < limits.largest || growth < 0.9 || !low.meets_objective() {
            let mut named = named_within(&sizes, low.size, nearest.size, step);
            named.retain(|size| measurements.repetitions(*size) == 0);
            if named.is_empty() {
                named.extend(middle(low.size, nearest.size, step));
            }
            wanted.extend(named);
        }
    }
    let matters = |other: &Size| {
        !(other.meets_objective() && other.throughput >= best.throughput * (1.0 - limits.tolerance))
    };
    if let Some(high) = above(best.size).filter(|high| matters(high)) {
        wanted.extend(middle(best.size, high.size, best.size / 4));
    }
    if let Some(low) = below(best.size).filter(|low| best.size > nearest.size && matters(low)) {
        wanted.extend(middle(low.size, best.size, best.size / 4));
    }
    // When a size just misses being the knee, the next size is tried, so that the knee is not placed after a gap.
    let next = nearest.size + step.max(1);
    let mut rivals = candidates.all.iter().filter(|other| !candidates.is_within(nearest, other));
    if candidates.chosen().is_none_or(|chosen| chosen.size > next)
        && rivals.all(|other| candidates.is_sharp(nearest, other, 0.5))
        && next <= limits.largest
        && measurements.repetitions(next) == 0
    {
        wanted.push(next);
    }
    wanted.sort_unstable();
    wanted.dedup();
    wanted.retain(|size| measurements.repetitions(*size) == 0);
    wanted
}

/// The size that Little's law names, and its neighbours, as far as they lie between two sizes that are more than a step
/// apart. The law is exact where a number of places bounds the throughput, and then it spares the search between.
fn named_within(sizes: &[Size], low: usize, high: usize, step: usize) -> Vec<usize> {
    if high - low <= step.max(1) {
        return Vec::new();
    }
    let Some(named) = named_by_littles_law(sizes).filter(|named| *named < real(high) + 0.5) else {
        return Vec::new();
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is above zero, and below a size"
    )]
    let named = named.round() as usize;
    (named.saturating_sub(1)..=named + 1).filter(|size| (low + 1..high).contains(size)).collect()
}

/// The sizes of the first rounds.
fn first_sizes(limits: Limits) -> Vec<usize> {
    let mut sizes = doublings(limits);
    let first = limits.first.max(limits.smallest);
    sizes.retain(|size| *size <= first);
    sizes
}

/// The next doubled size, where throughput may still grow. It may grow if the last size gave more than the best of the
/// others, by more than the tolerance. The uncertainty counts in favour of growth.
fn next_doubling(sizes: &[Size], limits: Limits) -> Option<usize> {
    let (last, others) = sizes.split_last()?;
    let next = doublings(limits).into_iter().find(|size| *size > last.size)?;
    let best = others.iter().max_by(|one, other| one.throughput.total_cmp(&other.throughput));
    let may_grow = best.is_none_or(|best| {
        let growth = ratio(last, best);
        growth.value + growth.error > -limits.margin()
    });
    may_grow.then_some(next)
}

/// The smallest size, doubled up to the largest. The largest is always included.
fn doublings(limits: Limits) -> Vec<usize> {
    let first = limits.smallest.max(1);
    let double = |size: &usize| size.checked_mul(2);
    let mut sizes: Vec<usize> =
        std::iter::successors(Some(first), double).take_while(|size| *size < limits.largest).collect();
    sizes.push(limits.largest.max(first));
    sizes
}

/// The known sizes to compare new sizes with: the best, and the one nearest to the knee. Where these are the same, the
/// size below it is the second.
fn anchors(measurements: &Measurements, limits: Limits) -> Vec<usize> {
    let sizes = usable(measurements);
    let candidates = Candidates::of(&sizes, limits);
    let (best, nearest) = (candidates.best(), candidates.nearest());
    let below = nearest.and_then(|nearest| sizes.iter().rfind(|size| size.size < nearest.size));
    let other = if best == nearest { below } else { nearest };
    best.into_iter().chain(other).map(|size| size.size).collect()
}

/// The sizes whose further repetitions would make the answer more certain.
fn undecided(measurements: &Measurements, limits: Limits) -> BTreeSet<usize> {
    let sizes = usable(measurements);
    let candidates = Candidates::of(&sizes, limits);
    let mut more: BTreeSet<usize> = sizes
        .iter()
        .filter(|size| size.is_contested() && size.repetitions < REPETITIONS_CONTESTED)
        .map(|size| size.size)
        .collect();
    let (Some(best), Some(nearest)) = (candidates.best(), candidates.nearest()) else { return more };
    // An interval of half the tolerance is enough for an answer that names one size. An answer without a single size
    // deserves more repetitions.
    let part = match decide(measurements, limits) {
        Outcome::Knee(knee) | Outcome::Flat(knee) if knee.band.start() == knee.band.end() => 0.5,
        Outcome::AtLargest(_) | Outcome::NoneMeets { .. } => 0.5,
        Outcome::Knee(_) | Outcome::Flat(_) | Outcome::CannotTell(_) => 1.0 / 3.0,
    };
    let mut compare = |one: &Size, other: &Size| {
        if !candidates.is_sharp(one, other, part) {
            more.extend([one.size, other.size]);
        }
    };
    let open = |size: &&Size| !candidates.is_too_small(size) && !candidates.is_enough(size);
    let below = candidates.all.iter().filter(|size| size.size < nearest.size);
    below.filter(open).for_each(|size| compare(size, best));
    // If the nearest size is not enough, the best is, once it is compared sharply with all others.
    let goals = if candidates.chosen().is_some() { vec![nearest] } else { vec![nearest, best] };
    for goal in goals {
        let rivals = candidates.all.iter().filter(|other| !candidates.is_within(goal, other));
        rivals.for_each(|other| compare(goal, other));
    }
    if let Some((chosen, last)) = candidates.chosen().zip(candidates.all.last()) {
        let grows = chosen.size < last.size && candidates.grows(chosen, last);
        if grows {
            compare(chosen, last);
        }
        let named = [Some(chosen), grows.then_some(last)];
        let unknown = named.into_iter().flatten().filter(|size| !candidates.is_known(size));
        more.extend(unknown.map(|size| size.size));
    }
    more
}

#[cfg(test)]
mod tests {
    use super::super::measurement::Measurement;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn measurement(size: usize, throughput: f64) -> Measurement {
        Measurement {
            size,
            round: 0,
            throughput,
            p50: SECOND / 100,
            p99: SECOND / 50,
            at_once: 1.0,
            meets_objective: true,
        }
    }

    fn measured(sizes: &[(usize, f64)]) -> Measurements {
        let repeat =
            |(size, x): &(usize, f64)| [0.99, 1.0, 1.01].map(|factor| measurement(*size, x * factor));
        sizes.iter().flat_map(repeat).collect()
    }

    #[test]
    fn the_first_sizes_double_up_to_the_largest() {
        assert_eq!(doublings(Limits::up_to(20)), [1, 2, 4, 8, 16, 20]);
        assert_eq!(doublings(Limits::up_to(16)), [1, 2, 4, 8, 16]);
        assert_eq!(doublings(Limits::up_to(1)), [1]);
        assert_eq!(doublings(Limits { smallest: 6, ..Limits::up_to(20) }), [6, 12, 20]);
        assert_eq!(doublings(Limits { smallest: usize::MAX / 2 + 1, ..Limits::up_to(usize::MAX) }).len(), 2);
    }

    #[test]
    fn the_gap_around_the_knee_is_halved_until_it_is_closed() {
        let mut all = measured(&[(1, 100.0), (2, 200.0), (4, 400.0), (8, 600.0), (16, 600.0), (20, 600.0)]);
        let mut asked = Vec::new();
        loop {
            let next = next_sizes(&all, Limits::up_to(20));
            if next.is_empty() {
                break;
            }
            for size in next {
                asked.push(size);
                measured(&[(size, 100.0 * real(size.min(6)))]).of(size).iter().for_each(|one| all.push(*one));
            }
        }
        // Little's law names 6, and its neighbours are measured with it.
        assert_eq!(asked, [5, 6, 7]);
    }

    #[test]
    fn without_a_hard_limit_the_gap_is_halved() {
        // The law names 2, which lies outside of the gap from 4 to 8.
        let all = measured(&[(1, 300.0), (2, 400.0), (4, 500.0), (8, 600.0), (16, 600.0)]);
        assert_eq!(next_sizes(&all, Limits::up_to(16)), [6]);
    }

    #[test]
    fn sizes_double_as_long_as_throughput_may_grow() {
        let limits = Limits::up_to(97);
        assert_eq!(next_sizes(&Measurements::default(), limits), [1, 2, 4, 8, 16]);
        let throughput = |size: usize| 100.0 * real(size.min(40));
        let mut all = measured(&[1, 2, 4, 8, 16].map(|size| (size, throughput(size))));
        let mut doubled = Vec::new();
        while let [next] = next_sizes(&all, limits)[..] {
            doubled.push(next);
            measured(&[(next, throughput(next))]).of(next).iter().for_each(|one| all.push(*one));
        }
        assert_eq!(doubled, [32, 64, 97], "64 gave a quarter more than 32");
        let flat = measured(&[1, 2, 4, 8, 16].map(|size| (size, 100.0 * real(size.min(5)))));
        assert!(next_sizes(&flat, limits).iter().all(|size| *size < 16));
    }

    #[test]
    fn a_peak_inside_a_gap_is_searched_for() {
        let all = measured(&[(1, 100.0), (2, 190.0), (4, 350.0), (8, 580.0), (16, 700.0), (32, 500.0)]);
        assert_eq!(next_sizes(&all, Limits::up_to(32)), [12, 24]);
    }

    #[test]
    fn no_size_is_added_where_throughput_grows_with_the_size() {
        let all = measured(&[(1, 100.0), (2, 200.0), (4, 400.0), (8, 800.0)]);
        assert!(next_sizes(&all, Limits::up_to(8)).is_empty());
    }

    #[test]
    fn each_round_has_every_size_once_in_a_new_order() {
        let order = |seed| {
            let mut planner = Planner::new(Limits::up_to(20), SECOND, seed);
            let mut all = Measurements::default();
            let mut order = Vec::new();
            while let Next::Measure { size, round } = planner.next(&all, 100 * SECOND) {
                assert_eq!(round, 1 + order.len() / 5);
                all.push(measurement(size, 100.0 + real(all.count() * 7 % 5) / 100.0));
                order.push(size);
            }
            order
        };
        let first = order(1);
        assert_eq!(first.len(), 15, "the curve is clearly flat");
        for round in first.chunks(5) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [1, 2, 4, 8, 16]);
        }
        assert!(first[..5] != first[5..10] || first[5..10] != first[10..15]);
        assert_eq!(first, order(1));
        assert_ne!(first, order(2));
    }

    #[test]
    fn a_sweep_ends_as_soon_as_its_time_is_up() {
        let mut planner = Planner::new(Limits::up_to(20), SECOND, 0);
        assert_eq!(planner.time_min(), 15 * SECOND);
        let all = Measurements::default();
        assert!(matches!(planner.next(&all, SECOND), Next::Measure { .. }));
        assert_eq!(planner.next(&all, SECOND / 2), Next::Done(Stop::OutOfTime));
    }

    #[test]
    fn a_new_size_begins_only_with_time_for_all_its_repetitions() {
        let all = measured(&[(1, 300.0), (2, 400.0), (4, 500.0), (8, 600.0)]);
        let limits = Limits::up_to(8);
        assert_eq!(next_sizes(&all, limits), [6]);
        let mut planner = Planner::new(limits, SECOND, 0);
        assert_eq!(planner.next(&all, 2 * SECOND), Next::Done(Stop::OutOfTime));
        // The new size is measured in one round with the sizes that it is compared with.
        let round: BTreeSet<Next> = (0..3).map(|_| planner.next(&all, 9 * SECOND)).collect();
        assert_eq!(round, [4, 6, 8].map(|size| Next::Measure { size, round: 2 }).into());
    }
}
