//! Which size to measure next.
//!
//! Main thread. A planner without a clock: it is told what was measured and how much time is left, and names one size, or says
//! that it is done. Sizes are measured in rounds of shuffled order, and new ones beside some that are known, so that a machine that
//! gets slower can be told from a size that is slower (`rounds`).

use std::collections::BTreeSet;
use std::time::Duration;

use super::candidates::{Candidates, Limits, usable};
use super::knee::{Outcome, decide};
use super::measurement::{Measurements, REPETITIONS_MIN, Size};
use super::statistics::real;

/// A size whose repetitions disagree about the objective is measured up to so many times: then one of them may miss it.
const REPETITIONS_CONTESTED: usize = 5;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// Measure this size once.
    Measure {
        /// The size.
        size: usize,
        /// The round that the measurement belongs to.
        round: usize,
    },
    /// Decide with what there is.
    Done(Stop),
}

/// Why nothing more is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// More would not change the answer, or by less than the tolerance.
    Settled,
    /// The time left is too short for another measurement, or for a new size measured often enough to count.
    OutOfTime,
}

/// Plans one sweep.
#[derive(Clone, Debug)]
pub struct Planner {
    limits: Limits,
    each: Duration,
    random: fastrand::Rng,
    /// The number of the round.
    round: usize,
    /// What is left of it.
    sizes: Vec<usize>,
}

impl Planner {
    /// A sweep within these limits, in which one measurement takes `each` (above zero), with resizing and warming up. The same
    /// seed gives the same order.
    pub fn new(limits: Limits, each: Duration, seed: u64) -> Self {
        Self { limits, each, random: fastrand::Rng::with_seed(seed), round: 0, sizes: Vec::new() }
    }

    /// The least time that a sweep needs to say anything: each of the first sizes three times.
    pub fn time_min(&self) -> Duration {
        let count = doublings(self.limits).len() * REPETITIONS_MIN;
        self.each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// What to do, given all measurements so far and the time that is left.
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
            // Sizes that there was no time to begin with.
            None if !next_sizes(measurements, self.limits).is_empty() => Next::Done(Stop::OutOfTime),
            None => Next::Done(Stop::Settled),
        }
    }

    /// Each size that lacks repetitions, and beside new sizes those that are still undecided, and some that they can be compared
    /// with in the same minutes.
    fn sizes_of_round(&self, measurements: &Measurements, left: Duration) -> BTreeSet<usize> {
        let first = doublings(self.limits);
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
        let new = sizes.iter().any(lacks);
        sizes.extend(undecided(measurements, self.limits));
        if new || sizes.len() == 1 {
            sizes.extend(anchors(measurements, self.limits));
        }
        sizes
    }

    /// As many new sizes as can be measured often enough to count.
    fn affordable(&self, mut sizes: Vec<usize>, left: Duration) -> Vec<usize> {
        let fits = left.as_nanos() / self.each.as_nanos().max(1) / REPETITIONS_MIN as u128;
        sizes.truncate(usize::try_from(fits).unwrap_or(usize::MAX));
        sizes
    }
}

/// The sizes that should be measured too: first 1, 2, 4, 8, … and the largest, then what lies between those that matter.
///
/// Goes by the means, so it is worth asking when every size was measured three times; it is asked again after each
/// answer, and has none when the knee lies between neighbours and the highest throughput is not in a wide gap.
pub fn next_sizes(measurements: &Measurements, limits: Limits) -> Vec<usize> {
    let mut wanted = doublings(limits);
    wanted.retain(|size| measurements.repetitions(*size) == 0);
    if !wanted.is_empty() {
        return wanted;
    }
    let sizes = usable(measurements);
    let candidates = Candidates::of(&sizes, limits);
    let (Some(best), Some(nearest)) = (candidates.best(), candidates.nearest()) else { return wanted };
    let mut middle = |low: usize, high: usize, step: usize| {
        if high - low > step.max(1) {
            wanted.push(low + (high - low) / 2);
        }
    };
    let below = |size: usize| sizes.iter().rfind(|other| other.size < size);
    let above = |size: usize| sizes.iter().find(|other| other.size > size);
    // To one connection for a knee up to 39; above, within 5 % of it, which is the throughput's tolerance.
    let step = nearest.size / 20;
    if let Some(low) = below(nearest.size) {
        let proportion = (real(nearest.size) / real(low.size)).ln();
        let growth = (nearest.throughput / low.throughput).ln() / proportion;
        // Where throughput follows the size up to the largest, there is no knee to look for.
        if nearest.size < limits.largest || growth < 0.9 || !low.meets_objective() {
            middle(low.size, nearest.size, step);
        }
    }
    let matters = |other: &Size| {
        !(other.meets_objective() && other.throughput >= best.throughput * (1.0 - limits.tolerance))
    };
    if let Some(high) = above(best.size).filter(|high| matters(high)) {
        middle(best.size, high.size, best.size / 4);
    }
    if let Some(low) = below(best.size).filter(|low| best.size > nearest.size && matters(low)) {
        middle(low.size, best.size, best.size / 4);
    }
    // A knee that is just missed at one size should be found at the next, and not at the one after a gap.
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

/// The smallest size, doubled until the largest, which is always one of them.
fn doublings(limits: Limits) -> Vec<usize> {
    let first = limits.smallest.max(1);
    let double = |size: &usize| size.checked_mul(2);
    let mut sizes: Vec<usize> =
        std::iter::successors(Some(first), double).take_while(|size| *size < limits.largest).collect();
    sizes.push(limits.largest.max(first));
    sizes
}

/// What new sizes are compared with: the best, and the nearest to the knee or, where that is the best, the one below it.
fn anchors(measurements: &Measurements, limits: Limits) -> Vec<usize> {
    let sizes = usable(measurements);
    let candidates = Candidates::of(&sizes, limits);
    let (best, nearest) = (candidates.best(), candidates.nearest());
    let below = nearest.and_then(|nearest| sizes.iter().rfind(|size| size.size < nearest.size));
    let other = if best == nearest { below } else { nearest };
    best.into_iter().chain(other).map(|size| size.size).collect()
}

/// The sizes of which more repetitions would make the answer surer.
fn undecided(measurements: &Measurements, limits: Limits) -> BTreeSet<usize> {
    let sizes = usable(measurements);
    let candidates = Candidates::of(&sizes, limits);
    let mut more: BTreeSet<usize> = sizes
        .iter()
        .filter(|size| size.is_contested() && size.repetitions < REPETITIONS_CONTESTED)
        .map(|size| size.size)
        .collect();
    let (Some(best), Some(nearest)) = (candidates.best(), candidates.nearest()) else { return more };
    // Half of the tolerance is sharp enough for an answer that names one size; it is worth more to get one that does.
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
    // If the nearest is not enough, then the best is, once it is compared sharply with everyone.
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
        Measurement { size, round: 0, throughput, p50: SECOND / 100, p99: SECOND / 50, meets_objective: true }
    }

    fn measured(sizes: &[(usize, f64)]) -> Measurements {
        let repeat =
            |(size, x): &(usize, f64)| [0.99, 1.0, 1.01].map(|factor| measurement(*size, x * factor));
        sizes.iter().flat_map(repeat).collect()
    }

    #[test]
    fn sizes_are_doubled_up_to_the_largest() {
        assert_eq!(doublings(Limits::up_to(20)), [1, 2, 4, 8, 16, 20]);
        assert_eq!(doublings(Limits::up_to(16)), [1, 2, 4, 8, 16]);
        assert_eq!(doublings(Limits::up_to(1)), [1]);
        assert_eq!(doublings(Limits { smallest: 6, ..Limits::up_to(20) }), [6, 12, 20]);
        assert_eq!(doublings(Limits { smallest: usize::MAX / 2 + 1, ..Limits::up_to(usize::MAX) }).len(), 2);
    }

    #[test]
    fn the_knee_is_closed_in_on() {
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
        assert_eq!(asked, [6, 5]);
    }

    #[test]
    fn a_peak_in_a_gap_is_looked_for() {
        let all = measured(&[(1, 100.0), (2, 190.0), (4, 350.0), (8, 580.0), (16, 700.0), (32, 500.0)]);
        assert_eq!(next_sizes(&all, Limits::up_to(32)), [12, 24]);
    }

    #[test]
    fn nothing_is_looked_for_where_throughput_follows_the_size() {
        let all = measured(&[(1, 100.0), (2, 200.0), (4, 400.0), (8, 800.0)]);
        assert!(next_sizes(&all, Limits::up_to(8)).is_empty());
    }

    #[test]
    fn each_round_has_every_size_once_in_an_order_of_its_own() {
        let order = |seed| {
            let mut planner = Planner::new(Limits::up_to(20), SECOND, seed);
            let mut all = Measurements::default();
            let mut order = Vec::new();
            while let Next::Measure { size, round } = planner.next(&all, 100 * SECOND) {
                assert_eq!(round, 1 + order.len() / 6);
                all.push(measurement(size, 100.0 + real(all.count() * 7 % 5) / 100.0));
                order.push(size);
            }
            order
        };
        let first = order(1);
        assert_eq!(first.len(), 18, "it is flat, and that is clear");
        for round in first.chunks(6) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [1, 2, 4, 8, 16, 20]);
        }
        assert!(first[..6] != first[6..12] || first[6..12] != first[12..18]);
        assert_eq!(first, order(1));
        assert_ne!(first, order(2));
    }

    #[test]
    fn time_that_is_up_ends_it_at_once() {
        let mut planner = Planner::new(Limits::up_to(20), SECOND, 0);
        assert_eq!(planner.time_min(), 18 * SECOND);
        let all = Measurements::default();
        assert!(matches!(planner.next(&all, SECOND), Next::Measure { .. }));
        assert_eq!(planner.next(&all, SECOND / 2), Next::Done(Stop::OutOfTime));
    }

    #[test]
    fn a_new_size_is_only_begun_when_it_can_be_finished() {
        let all = measured(&[(1, 100.0), (2, 200.0), (4, 400.0), (8, 600.0)]);
        let limits = Limits::up_to(8);
        assert_eq!(next_sizes(&all, limits), [6]);
        let mut planner = Planner::new(limits, SECOND, 0);
        assert_eq!(planner.next(&all, 2 * SECOND), Next::Done(Stop::OutOfTime));
        // It is measured beside what it is compared with, in one round.
        let round: BTreeSet<Next> = (0..3).map(|_| planner.next(&all, 9 * SECOND)).collect();
        assert_eq!(round, [4, 6, 8].map(|size| Next::Measure { size, round: 2 }).into());
    }
}
