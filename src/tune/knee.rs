//! The knee: the smallest size that gives as much as any, within a tolerance and with confidence.
//!
//! Any thread. A size *is shown to be enough* when it is, with a confidence of 95 % each, within the tolerance of every other size
//! that meets the objective (equivalence, Schuirmann 1987, against every competitor and not only against the one that happens to
//! be ahead: Hsu 1984, "Constrained simultaneous confidence intervals for multiple comparisons with the best"). It *is shown to be
//! too small* when it is below the tolerance of the best. What is neither is not known yet, and is said to be.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::measurement::{Measurements, REPETITIONS_MIN, Size};
use super::statistics::{Estimate, Interval, real};

/// An interval of 90 % leaves 5 % on each side: 95 % confidence for each claim of "at least" or "at most".
const TWO_SIDED: f64 = 0.90;

/// Where throughput grows by less than this part of what size grows by, it does not grow with the size any more.
const GROWTH: f64 = 0.5;

/// A size whose throughput is not known to within so many tolerances is not chosen: of a dozen sizes that were measured three times
/// with noise of 40 %, one or another stands out by chance.
const TOLERANCES_MAX: f64 = 3.0;

/// What may be chosen, and what counts as the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The smallest size, at least 1.
    pub smallest: usize,
    /// The largest size that the database or the configuration allows, not below the smallest.
    pub largest: usize,
    /// What does not matter, in parts of the best throughput: 0.05.
    pub tolerance: f64,
}

impl Limits {
    /// From 1 to `largest`, within 5 % of the best.
    pub fn up_to(largest: usize) -> Self {
        Self { smallest: 1, largest: largest.max(1), tolerance: 0.05 }
    }

    /// The tolerance as a logarithm: −0.0513 for 5 %.
    fn margin(&self) -> f64 {
        (1.0 - self.tolerance).ln()
    }
}

/// What the measurements say about the size to take.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Past this size nothing is gained.
    Knee(Knee),
    /// Already the smallest size gives as much as any.
    Flat(Knee),
    /// Throughput still grows at the largest size that was allowed; its knee, if it has one, is further out.
    AtLargest(Knee),
    /// No size meets the objective.
    NoneMeets {
        /// The size that comes closest.
        closest: usize,
        /// Its p99.
        p99: Duration,
    },
    /// The measurements do not say.
    CannotTell(CannotTell),
}

/// The size to take, and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Knee {
    /// The size to take: the smallest that is shown to be enough.
    pub size: usize,
    /// Where the knee lies: every size below is shown to be too small, or to miss the objective.
    pub band: RangeInclusive<usize>,
    /// From `size` to this one throughput is the same, within the tolerance and as far as was measured.
    pub flat_to: usize,
    /// The size with the highest mean of those that meet the objective.
    pub best: usize,
    /// The throughput at `size`, in requests a second, with a confidence of 95 %.
    pub throughput: Interval,
    /// The throughput at `size` in parts of the best, with a confidence of 95 %; 1 to 1 where it is the best.
    pub of_best: Interval,
    /// The median of its p99.
    pub p99: Duration,
    /// The fastest size, where it is faster than the tolerance but misses the objective.
    pub missed: Option<usize>,
}

/// Why the measurements do not say.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CannotTell {
    /// No size was measured often enough, or none answered anything.
    TooFew {
        /// How many repetitions a size needs.
        needed: usize,
    },
    /// Repetitions differ by so much that sizes cannot be told apart.
    TooNoisy {
        /// The sizes that the knee may be among.
        band: RangeInclusive<usize>,
        /// The standard deviation of a repetition, in parts of its throughput.
        noise: f64,
        /// About how many repetitions of each size it would take.
        needed: usize,
    },
}

/// Says which size to take.
pub fn decide(measurements: &Measurements, limits: Limits) -> Outcome {
    let sizes = usable(measurements);
    let candidates = Candidates::of(&sizes, limits);
    let Some(best) = candidates.best() else {
        let closest = sizes.iter().min_by_key(|size| size.p99);
        return closest.map_or(
            Outcome::CannotTell(CannotTell::TooFew { needed: REPETITIONS_MIN }),
            |size| Outcome::NoneMeets { closest: size.size, p99: size.p99 },
        );
    };
    let lowest = candidates.lowest(&sizes);
    let too_noisy = |to: usize| {
        let noise = measurements.noise().unwrap_or(f64::INFINITY);
        let needed = repetitions_needed(noise, limits);
        Outcome::CannotTell(CannotTell::TooNoisy { band: lowest..=to, noise, needed })
    };
    let Some(chosen) = candidates.chosen().filter(|chosen| candidates.is_known(chosen)) else {
        let last = candidates.all.iter().rfind(|size| !candidates.is_too_small(size));
        return too_noisy(last.unwrap_or(best).size);
    };
    if chosen.size - lowest > 1 && chosen.size >= 2 * lowest {
        return too_noisy(chosen.size);
    }
    let last = candidates.all.last().unwrap_or(best);
    let cut_off = sizes.iter().any(|size| size.size > last.size);
    if !cut_off && candidates.grows(chosen, last) {
        if !candidates.is_known(last) {
            return too_noisy(last.size);
        }
        return Outcome::AtLargest(candidates.knee(last, lowest.max(chosen.size), &sizes));
    }
    let knee = candidates.knee(chosen, lowest, &sizes);
    if chosen.size == limits.smallest { Outcome::Flat(knee) } else { Outcome::Knee(knee) }
}

/// The sizes from which something can be concluded.
pub(super) fn usable(measurements: &Measurements) -> Vec<Size> {
    let mut sizes = measurements.sizes();
    sizes.retain(|size| size.repetitions >= REPETITIONS_MIN && size.level.is_some());
    sizes
}

/// About how many repetitions tell sizes apart: a standard error of a difference (√(2/n) · noise) of which 1.7 fit into half of
/// the tolerance.
fn repetitions_needed(noise: f64, limits: Limits) -> usize {
    let needed = 2.0 * (1.7 * noise / (limits.tolerance / 2.0)).powi(2);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is bounded and above zero")]
    let needed = needed.clamp(real(REPETITIONS_MIN), 1e9).ceil() as usize;
    needed
}

/// The sizes that meet the objective.
pub(super) struct Candidates {
    pub(super) all: Vec<Size>,
    limits: Limits,
}

impl Candidates {
    pub(super) fn of(sizes: &[Size], limits: Limits) -> Self {
        Self { all: sizes.iter().copied().filter(Size::meets_objective).collect(), limits }
    }

    /// The one with the highest mean.
    pub(super) fn best(&self) -> Option<&Size> {
        self.all.iter().max_by(|one, other| one.throughput.total_cmp(&other.throughput))
    }

    /// The smallest whose mean is within the tolerance of the best, however sure that is.
    pub(super) fn nearest(&self) -> Option<&Size> {
        let best = self.best()?;
        self.all.iter().find(|size| size.throughput >= best.throughput * (1.0 - self.limits.tolerance))
    }

    /// The smallest that is shown to be enough.
    pub(super) fn chosen(&self) -> Option<&Size> {
        self.all.iter().find(|size| self.is_enough(size))
    }

    pub(super) fn is_enough(&self, size: &Size) -> bool {
        self.all.iter().all(|other| self.is_within(size, other))
    }

    /// Whether a size is shown to give as much as another, within the tolerance.
    pub(super) fn is_within(&self, size: &Size, other: &Size) -> bool {
        size.size == other.size || reach(size, other).low > self.limits.margin()
    }

    pub(super) fn is_too_small(&self, size: &Size) -> bool {
        let below = |best: &Size| best.size != size.size && reach(size, best).high < self.limits.margin();
        self.best().is_some_and(below)
    }

    /// Whether two sizes are compared as sharply as this part of the tolerance.
    pub(super) fn is_sharp(&self, one: &Size, other: &Size, part: f64) -> bool {
        reach(one, other).half_width() <= self.limits.tolerance * part
    }

    /// Whether the throughput at a size is known well enough to choose it.
    pub(super) fn is_known(&self, size: &Size) -> bool {
        let reach = size.level.map_or(f64::INFINITY, |level| level.interval(0.95).half_width());
        reach <= self.limits.tolerance * TOLERANCES_MAX
    }

    /// The least size that the knee may have: the one after the last that is shown to be too small, or to miss the objective.
    fn lowest(&self, sizes: &[Size]) -> usize {
        let first = self.all.iter().find(|size| !self.is_too_small(size)).map_or(0, |size| size.size);
        let before = sizes.iter().rfind(|size| size.size < first);
        before.map_or(self.limits.smallest.min(first), |size| size.size + 1)
    }

    /// Whether throughput still grows from one size to the last.
    ///
    /// Where even throughput in proportion to the size would stay within the tolerance, that cannot be seen, so it is assumed.
    pub(super) fn grows(&self, size: &Size, last: &Size) -> bool {
        let proportion = (real(last.size) / real(size.size)).ln();
        proportion <= -self.limits.margin() || reach(last, size).high >= GROWTH * proportion
    }

    fn knee(&self, size: &Size, lowest: usize, sizes: &[Size]) -> Knee {
        let best = self.best().unwrap_or(size);
        let flat = |other: &&Size| {
            // It ends where a size is more likely below the tolerance than not: one standard error.
            let difference = ratio(other, best);
            difference.value + difference.error >= self.limits.margin()
        };
        let above = self.all.iter().filter(|other| other.size >= size.size);
        let flat_to = above.take_while(flat).last().map_or(size.size, |last| last.size);
        let fastest = sizes.iter().max_by(|one, other| one.throughput.total_cmp(&other.throughput));
        let missed = fastest.filter(|fast| !fast.meets_objective() && reach(size, fast).high < self.limits.margin());
        let same = Interval { low: 1.0, high: 1.0 };
        let of_best = if best.size == size.size { same } else { ratio(size, best).interval(0.95).map(f64::exp) };
        Knee {
            size: size.size,
            band: lowest..=size.size,
            flat_to,
            best: best.size,
            throughput: size.interval.unwrap_or(same),
            of_best,
            p99: size.p99,
            missed: missed.map(|size| size.size),
        }
    }
}

/// The logarithm of one size's throughput in parts of another's.
fn ratio(one: &Size, other: &Size) -> Estimate {
    let unknown = Estimate { value: 0.0, error: f64::INFINITY, freedom: 1.0 };
    one.level.zip(other.level).map_or(unknown, |(one, other)| one.minus(&other))
}

fn reach(one: &Size, other: &Size) -> Interval {
    ratio(one, other).interval(TWO_SIDED)
}

/// The sizes that should be measured too: first 1, 2, 4, 8, … and the largest, then what lies between those that matter.
///
/// Goes by the means, so it is worth asking when every size was measured [`REPETITIONS_MIN`] times; it is asked again after each
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
    let matters = |other: &Size| !(other.meets_objective() && other.throughput >= best.throughput * (1.0 - limits.tolerance));
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
pub(super) fn doublings(limits: Limits) -> Vec<usize> {
    let first = limits.smallest.max(1);
    let double = |size: &usize| size.checked_mul(2);
    let mut sizes: Vec<usize> =
        std::iter::successors(Some(first), double).take_while(|size| *size < limits.largest).collect();
    sizes.push(limits.largest.max(first));
    sizes
}

impl fmt::Display for Outcome {
    /// One or two plain sentences.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Knee(knee) if knee.flat_to > knee.size => {
                write!(f, "flat from {} to {}, take {}", knee.size, knee.flat_to, knee.size)?;
                knee.remarks(f)
            }
            Self::Knee(knee) => {
                write!(f, "take {}", knee.size)?;
                knee.remarks(f)
            }
            Self::Flat(knee) => {
                write!(f, "flat from {} to {}: more than {} gains nothing", knee.size, knee.flat_to, knee.size)?;
                knee.remarks(f)
            }
            Self::AtLargest(knee) => {
                write!(f, "still growing at {}, the largest size that was allowed: take {}", knee.size, knee.size)
            }
            Self::NoneMeets { closest, p99 } => {
                write!(f, "no size meets the objective; {closest} comes closest, with a p99 of {p99:.1?}")
            }
            Self::CannotTell(reason) => write!(f, "cannot tell: {reason}"),
        }
    }
}

impl Knee {
    fn remarks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.band.start() < self.band.end() {
            write!(f, " (the knee is between {} and {})", self.band.start(), self.band.end())?;
        }
        self.missed.map_or(Ok(()), |faster| write!(f, "; {faster} is faster, but misses the objective"))
    }
}

impl fmt::Display for CannotTell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew { needed } => write!(f, "no size was measured {needed} times with answers"),
            Self::TooNoisy { band, noise, needed } => {
                let (from, to, noise) = (band.start(), band.end(), noise * 100.0);
                write!(f, "repetitions vary by {noise:.0} %, so sizes from {from} to {to} look alike; ")?;
                write!(f, "it would take about {needed} repetitions of each")
            }
        }
    }
}
