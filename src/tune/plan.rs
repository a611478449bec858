//! Which size to measure next.
//!
//! Main thread. A planner without a clock: it is told what was measured and how much time is left, and names one size, or says
//! that it is done. Sizes are measured in rounds of shuffled order, so that a machine that gets slower makes noise, and not a
//! slope.

use std::collections::BTreeSet;
use std::time::Duration;

use super::knee::{Candidates, Limits, Outcome, decide, doublings, next_sizes, usable};
use super::measurement::{Measurements, REPETITIONS_MIN, Size};

/// A size whose repetitions disagree about the objective is measured up to so many times: then one of them may miss it.
const REPETITIONS_CONTESTED: usize = 5;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Measure this size once.
    Measure(usize),
    /// Decide with what there is.
    Done(Stop),
}

/// Why nothing more is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// More would not change the answer, or only within half of the tolerance.
    Settled,
    /// The time left is too short for another measurement.
    OutOfTime,
}

/// Plans one sweep.
#[derive(Clone, Debug)]
pub struct Planner {
    limits: Limits,
    each: Duration,
    random: fastrand::Rng,
    /// What is left of the round.
    round: Vec<usize>,
}

impl Planner {
    /// A sweep within these limits, in which one measurement takes `each`, with resizing and warming up. The same seed gives the
    /// same order.
    pub fn new(limits: Limits, each: Duration, seed: u64) -> Self {
        Self { limits, each, random: fastrand::Rng::with_seed(seed), round: Vec::new() }
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
        if self.round.is_empty() {
            self.round = self.sizes_of_round(measurements, left).into_iter().collect();
            self.random.shuffle(&mut self.round);
        }
        self.round.pop().map_or(Next::Done(Stop::Settled), Next::Measure)
    }

    /// Each size that lacks repetitions, and beside new sizes those that are still undecided, so that both are measured in the
    /// same minutes.
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
        sizes.extend(undecided(measurements, self.limits));
        sizes
    }

    /// As many new sizes as can be measured often enough to count.
    fn affordable(&self, mut sizes: Vec<usize>, left: Duration) -> Vec<usize> {
        let fits = left.as_nanos() / self.each.as_nanos().max(1) / REPETITIONS_MIN as u128;
        sizes.truncate(usize::try_from(fits).unwrap_or(usize::MAX));
        sizes
    }
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
