//! The sizes that meet the objective, compared with each other.
//!
//! Any thread. A size *is shown to be enough* when its mean is within the tolerance of every other size that meets the
//! objective. Its true throughput must also be within twice the tolerance, with a confidence of 95 % for each
//! comparison. This is a test of equivalence (Schuirmann 1987). It compares with every competitor, not only with the one that happens to
//! be ahead (Hsu 1984, "Constrained simultaneous confidence intervals for multiple comparisons with the best"). A size
//! *is shown to be too small* when it is below the tolerance of the best. Any other size is reported as not known yet.
//!
//! The second margin is wider, because a noisy machine hardly ever shows a size at the knee to be within 5 %. A size of
//! twice the knee was taken then, with two to three times the p99.

use super::measurement::{Measurements, REPETITIONS_MIN, Size};
use super::statistics::{ConfidenceInterval, Estimate, real};

/// An interval of 90 % leaves 5 % on each side: 95 % confidence for each claim of "at least" or "at most".
const TWO_SIDED: f64 = 0.90;

/// The true throughput of a size that is enough is within this many tolerances, with confidence.
const DOUBTFUL: f64 = 2.0;

/// Throughput has stopped growing where its growth is less than this part of the size's growth (both as logarithms).
const GROWTH: f64 = 0.5;

/// A size is chosen only when its throughput is known to within this many tolerances. Otherwise chance would choose: of
/// a dozen sizes measured three times with noise of 40 %, one or another stands out by chance.
const TOLERANCES_MAX: f64 = 3.0;

/// The first rounds of a sweep over the pool's sizes go up to this size. Larger sizes follow where throughput may still
/// grow.
const FIRST_ROUNDS: usize = 16;

/// The sizes that may be chosen, and the difference that is ignored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The smallest size, at least 1.
    pub smallest: usize,
    /// The first rounds go up to this size. Larger sizes are measured only where throughput may still grow.
    pub first: usize,
    /// The largest size that may be measured, not below the smallest.
    pub largest: usize,
    /// The reason for the largest size.
    pub bound: Bound,
    /// The difference in throughput that does not matter, in parts of the best: 0.05.
    pub tolerance: f64,
}

impl Limits {
    /// From 1 to `largest`, which is firm, within 5 % of the best.
    pub fn up_to(largest: usize) -> Self {
        Self {
            smallest: 1,
            first: FIRST_ROUNDS,
            largest: largest.max(1),
            bound: Bound::Firm,
            tolerance: 0.05,
        }
    }

    /// The tolerance as a logarithm: −0.0513 for 5 %.
    pub(super) fn margin(&self) -> f64 {
        (1.0 - self.tolerance).ln()
    }
}

/// The reason for the largest size of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The database allows no more, or the user wants no more. The size may be recommended where throughput still grows
    /// up to it.
    Firm,
    /// It is only a default. Where throughput still grows up to it, the best size is not known.
    Default,
}

/// The sizes with enough repetitions, all of them answered, for a conclusion.
pub(super) fn usable(measurements: &Measurements) -> Vec<Size> {
    let mut sizes = measurements.sizes().to_vec();
    sizes.retain(|size| size.repetitions >= REPETITIONS_MIN && size.level.is_some());
    sizes
}

/// The sizes that meet the objective.
pub(super) struct Candidates {
    /// The smallest first.
    pub(super) all: Vec<Size>,
    limits: Limits,
}

impl Candidates {
    pub(super) fn of(sizes: &[Size], limits: Limits) -> Self {
        Self { all: sizes.iter().copied().filter(Size::meets_objective).collect(), limits }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// The size with the highest mean.
    pub(super) fn best(&self) -> Option<&Size> {
        self.all.iter().max_by(|one, other| one.throughput.total_cmp(&other.throughput))
    }

    /// The smallest size whose mean is within the tolerance of the best, however uncertain the means are.
    pub(super) fn nearest(&self) -> Option<&Size> {
        let best = self.best()?;
        self.all.iter().find(|size| size.throughput >= best.throughput * (1.0 - self.limits.tolerance))
    }

    /// The smallest size that is shown to be enough.
    pub(super) fn chosen(&self) -> Option<&Size> {
        self.all.iter().find(|size| self.is_enough(size))
    }

    /// Whether a size is shown to be enough.
    pub(super) fn is_enough(&self, size: &Size) -> bool {
        self.all.iter().all(|other| self.is_within(size, other))
    }

    /// Whether a size is shown to give as much as another: within the tolerance by its mean, and within twice the
    /// tolerance with confidence.
    pub(super) fn is_within(&self, size: &Size, other: &Size) -> bool {
        let margin = self.limits.margin();
        size.size == other.size
            || (ratio(size, other).value > margin && reach(size, other).low > margin * DOUBTFUL)
    }

    /// Whether a size is shown to be too small.
    pub(super) fn is_too_small(&self, size: &Size) -> bool {
        let below = |best: &Size| best.size != size.size && reach(size, best).high < self.limits.margin();
        self.best().is_some_and(below)
    }

    /// Whether the interval of the ratio of two sizes is at most this part of the tolerance to either side.
    pub(super) fn is_sharp(&self, one: &Size, other: &Size, part: f64) -> bool {
        reach(one, other).half_width() <= self.limits.tolerance * part
    }

    /// Whether the throughput at a size is known well enough to choose it.
    pub(super) fn is_known(&self, size: &Size) -> bool {
        let reach = size.level.map_or(f64::INFINITY, |level| level.interval(0.95).half_width());
        reach <= self.limits.tolerance * TOLERANCES_MAX
    }

    /// The smallest size that the knee may have: one more than the last size that is shown to be too small or misses
    /// the objective.
    pub(super) fn lowest(&self, sizes: &[Size]) -> usize {
        let first = self.all.iter().find(|size| !self.is_too_small(size)).map_or(0, |size| size.size);
        let before = sizes.iter().rfind(|size| size.size < first);
        before.map_or(self.limits.smallest.min(first), |size| size.size + 1)
    }

    /// Whether throughput still grows from one size to the last.
    ///
    /// A size so near to the last that even proportional growth would stay within the tolerance cannot show growth.
    /// Growth is assumed then.
    pub(super) fn grows(&self, size: &Size, last: &Size) -> bool {
        let proportion = (real(last.size) / real(size.size)).ln();
        proportion <= -self.limits.margin() || reach(last, size).high >= GROWTH * proportion
    }
}

/// The size that Little's law names: so many places are busy at the highest throughput, where each answers as much as one
/// did at the size where it answered most.
///
/// Throughput at size 1 alone would name too many. A single session waits for its worker and for the client between two
/// requests, so it answers less than one of several sessions does.
pub(super) fn named_by_littles_law(sizes: &[Size]) -> Option<f64> {
    let highest = sizes.iter().map(|size| size.throughput).fold(0.0, f64::max);
    let of_one = sizes.iter().map(|size| size.throughput / real(size.size)).fold(0.0, f64::max);
    (of_one > 0.0).then(|| highest / of_one)
}

/// The logarithm of one size's throughput in parts of another's.
pub(super) fn ratio(one: &Size, other: &Size) -> Estimate {
    let unknown = Estimate { value: 0.0, error: f64::INFINITY, freedom: 1.0 };
    one.level.zip(other.level).map_or(unknown, |(one, other)| one.minus(&other))
}

/// The interval of that logarithm. The true value lies beyond each end with a probability of 5 %.
pub(super) fn reach(one: &Size, other: &Size) -> ConfidenceInterval {
    ratio(one, other).interval(TWO_SIDED)
}
