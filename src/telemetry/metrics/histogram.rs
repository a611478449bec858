//! Counts times in buckets that grow by 3.6 % each at most, so that a percentile is right within 3.6 %.
//!
//! Any thread. Relaxed atomics, no lock.

use std::array;
use std::iter;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The bounds within a decade: the preferred numbers of ISO 3 in its finest series (R80). Two neighbours are at most 3.6 % apart.
/// They include 1, 2.5 and 5, which users of Prometheus expect.
#[rustfmt::skip]
const DECADE: [u64; 80] = [
    1_000, 1_030, 1_060, 1_090, 1_120, 1_150, 1_180, 1_220, 1_250, 1_280, 1_320, 1_360, 1_400, 1_450, 1_500, 1_550,
    1_600, 1_650, 1_700, 1_750, 1_800, 1_850, 1_900, 1_950, 2_000, 2_060, 2_120, 2_180, 2_240, 2_300, 2_360, 2_430,
    2_500, 2_580, 2_650, 2_720, 2_800, 2_900, 3_000, 3_070, 3_150, 3_250, 3_350, 3_450, 3_550, 3_650, 3_750, 3_870,
    4_000, 4_120, 4_250, 4_370, 4_500, 4_620, 4_750, 4_870, 5_000, 5_150, 5_300, 5_450, 5_600, 5_800, 6_000, 6_150,
    6_300, 6_500, 6_700, 6_900, 7_100, 7_300, 7_500, 7_750, 8_000, 8_250, 8_500, 8_750, 9_000, 9_250, 9_500, 9_750,
];

/// From 1 µs to 1,000 s. No answer is faster, and no client waits for longer.
const DECADES: usize = 9;
const BOUNDS: usize = DECADES * DECADE.len() + 1;

/// The upper bounds of the buckets in nanoseconds. The last bucket has none.
static BOUNDS_NS: [u64; BOUNDS] = bounds();

/// The bucket where the search for a time begins. A time's highest six bits give it, at most two steps before the right one. A binary
/// search takes ten comparisons, half of them mispredicted, which is longer than all other work of counting a time.
static STARTS: [u16; CELLS] = starts();
const CELLS: usize = 32 * 64;

/// Buckets come into being by so many at a time. The times of an endpoint lie near each other, so most endpoints need a few of these
/// blocks: 256 bytes each, 6 KiB all.
const BLOCK: usize = 32;
const BLOCKS: usize = (BOUNDS + 1).div_ceil(BLOCK);

/// The exported bounds where there are many histograms: 100 µs to 10 s in steps of 1, 2.5 and 5.
const COARSE_DECADE: [u64; 3] = [1_000, 2_500, 5_000];

/// The other exported bounds: 100 µs to 10 s, two neighbours at most a tenth apart. Prometheus takes the times as evenly spread within a
/// bucket, so its percentiles are right within a tenth.
const FINE_DECADE: [u64; 28] = [
    1_000, 1_090, 1_180, 1_280, 1_400, 1_500, 1_650, 1_800, 1_950, 2_120, 2_300, 2_500, 2_720, 2_900, 3_150,
    3_450, 3_750, 4_120, 4_500, 4_870, 5_000, 5_450, 6_000, 6_500, 7_100, 7_750, 8_500, 9_250,
];

/// The exported buckets begin at this many times the bounds of a decade: at 100 µs. They have so many decades.
const EXPORTED_UNIT: u64 = 100;
const EXPORTED_DECADES: usize = 5;

/// Which of the buckets are exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buckets {
    /// 141 bounds. A percentile that Prometheus makes from them is right within a tenth.
    Fine,
    /// 16 bounds, two or two and a half times apart.
    Coarse,
}

impl Buckets {
    /// The upper bounds in nanoseconds. Each is one of [`BOUNDS_NS`].
    fn bounds(self) -> impl Iterator<Item = u64> {
        let decade = match self {
            Self::Fine => &FINE_DECADE[..],
            Self::Coarse => &COARSE_DECADE[..],
        };
        let units = iter::successors(Some(EXPORTED_UNIT), |unit| Some(unit * 10));
        let all = units.flat_map(move |unit| decade.iter().map(move |bound| bound * unit));
        all.take(decade.len() * EXPORTED_DECADES + 1)
    }
}

const fn bounds() -> [u64; BOUNDS] {
    let mut bounds = [0; BOUNDS];
    let (mut at, mut unit) = (0, 1);
    while at < BOUNDS {
        bounds[at] = DECADE[at % DECADE.len()] * unit;
        at += 1;
        if at.is_multiple_of(DECADE.len()) {
            unit *= 10;
        }
    }
    bounds
}

#[expect(clippy::cast_possible_truncation, reason = "there are fewer buckets than 65,536")]
const fn starts() -> [u16; CELLS] {
    let mut starts = [0; CELLS];
    let (mut cell, mut bucket) = (32 * 5, 0);
    while cell < CELLS {
        let least = (32 + cell as u64 % 32) << (cell / 32 - 5);
        while bucket < BOUNDS && BOUNDS_NS[bucket] < least {
            bucket += 1;
        }
        starts[cell] = bucket as u16;
        cell += 1;
    }
    starts
}

/// The bucket of a time. An upper bound belongs to its bucket, as in Prometheus's `le`.
fn bucket(ns: u64) -> usize {
    let highest = ns.max(32).ilog2();
    let cell = 32 * highest as usize + (ns >> (highest - 5) & 31) as usize;
    let mut bucket = usize::from(STARTS[cell]);
    while bucket < BOUNDS && BOUNDS_NS[bucket] < ns {
        bucket += 1;
    }
    bucket
}

/// A count of times.
#[derive(Debug)]
pub struct Histogram {
    blocks: [OnceLock<Box<[AtomicU64; BLOCK]>>; BLOCKS],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { blocks: [const { OnceLock::new() }; BLOCKS], sum_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts a time.
    pub fn record(&self, time: Duration) {
        let ns = nanoseconds(time);
        let bucket = bucket(ns);
        let block = self.blocks[bucket / BLOCK].get_or_init(new_block);
        block[bucket % BLOCK].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.add_to(&mut counts);
        counts
    }

    /// Adds the counts so far to others.
    pub(super) fn add_to(&self, counts: &mut Counts) {
        for (sums, block) in counts.blocks.iter_mut().zip(&self.blocks) {
            let Some(block) = block.get() else { continue };
            let sums = sums.get_or_insert_default();
            sums.iter_mut().zip(block.iter()).for_each(|(sum, count)| *sum += count.load(Relaxed));
        }
        counts.sum_ns += self.sum_ns.load(Relaxed);
    }
}

#[cold]
fn new_block() -> Box<[AtomicU64; BLOCK]> {
    Box::new([const { AtomicU64::new(0) }; BLOCK])
}

/// The counts of a [`Histogram`], in total or between two moments.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// `None`: no time in any of the block's buckets.
    blocks: [Option<Box<[u64; BLOCK]>>; BLOCKS],
    sum_ns: u64,
}

impl Counts {
    /// The number of counted times.
    pub fn count(&self) -> u64 {
        self.blocks.iter().flatten().flat_map(|block| block.iter()).sum()
    }

    /// The sum of all times.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The mean. Zero if nothing was counted.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.checked_div(self.count()).unwrap_or(0))
    }

    /// The time that `percent` of the counted times do not exceed, right within 3.6 %. Times count as evenly spread within their
    /// bucket. Zero if nothing was counted.
    pub fn percentile(&self, percent: f64) -> Duration {
        let all = self.count();
        let rank = as_float(all) * percent / 100.0;
        let mut below = 0;
        for (bucket, count) in self.buckets() {
            if as_float(below + count) >= rank {
                let from = bucket.checked_sub(1).map_or(0, |before| BOUNDS_NS[before]);
                // Times beyond the last bound could have any length.
                let to = BOUNDS_NS.get(bucket).copied().unwrap_or(from);
                let part = (rank - as_float(below)) / as_float(count);
                return Duration::from_nanos(from) + Duration::from_nanos(to - from).mul_f64(part.max(0.0));
            }
            below += count;
        }
        Duration::ZERO
    }

    /// The counts since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let blocks = array::from_fn(|at| match (&self.blocks[at], &earlier.blocks[at]) {
            (Some(now), Some(before)) => {
                Some(Box::new(array::from_fn(|at| now[at].saturating_sub(before[at]))))
            }
            (now, _) => now.clone(),
        });
        Self { blocks, sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns) }
    }

    /// Adds the other counts.
    pub fn add(&mut self, other: &Self) {
        for (sums, block) in self.blocks.iter_mut().zip(&other.blocks) {
            let Some(block) = block else { continue };
            let sums = sums.get_or_insert_default();
            sums.iter_mut().zip(block.iter()).for_each(|(sum, count)| *sum += count);
        }
        self.sum_ns += other.sum_ns;
    }

    /// The exported buckets: the upper bound in seconds and the count of each.
    pub(super) fn exported(&self, buckets: Buckets) -> Vec<(f64, u64)> {
        let mut counts = self.buckets().peekable();
        let mut up_to = |bound: Option<u64>| {
            let mut sum = 0;
            let is_within =
                |bucket| bound.is_none_or(|bound| BOUNDS_NS.get(bucket).is_some_and(|to| *to <= bound));
            while let Some((_, count)) = counts.next_if(|(bucket, _)| is_within(*bucket)) {
                sum += count;
            }
            sum
        };
        let mut exported: Vec<_> = buckets
            .bounds()
            // A division rounds to the nearest number, so that 2.72 s is written as 2.72.
            .map(|bound| (as_float(bound) / 1e9, up_to(Some(bound))))
            .collect();
        exported.push((f64::INFINITY, up_to(None)));
        exported
    }

    /// Each bucket that has counted a time, with its count.
    fn buckets(&self) -> impl Iterator<Item = (usize, u64)> {
        let blocks = self.blocks.iter().enumerate().filter_map(|(at, block)| Some((at, block.as_ref()?)));
        let each = blocks.flat_map(|(at, block)| (at * BLOCK..).zip(block.iter().copied()));
        each.filter(|(_, count)| *count > 0)
    }
}

/// A time in nanoseconds. 64 bits hold 584 years.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "no server counts to 2^53")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times_us: impl IntoIterator<Item = u64>) -> Counts {
        let histogram = Histogram::default();
        times_us.into_iter().for_each(|us| histogram.record(Duration::from_micros(us)));
        histogram.counts()
    }

    #[test]
    fn bounds_grow_from_1_us_to_1000_s_by_3_6_percent_and_hold_the_exported_ones() {
        assert!(BOUNDS_NS.is_sorted());
        assert_eq!((BOUNDS_NS[0], BOUNDS_NS[BOUNDS - 1]), (1_000, 1_000_000_000_000));
        let step = |pair: &[u64]| as_float(pair[1]) / as_float(pair[0]);
        assert!(BOUNDS_NS.windows(2).map(step).all(|step| (1.0..1.036).contains(&step)));
        for (buckets, count, most) in [(Buckets::Fine, 141, 1.101), (Buckets::Coarse, 16, 2.5)] {
            let bounds: Vec<u64> = buckets.bounds().collect();
            assert_eq!((bounds.len(), bounds[0], bounds[count - 1]), (count, 100_000, 10_000_000_000));
            assert!(bounds.iter().all(|bound| BOUNDS_NS.binary_search(bound).is_ok()), "{bounds:?}");
            assert!(bounds.windows(2).map(step).all(|step| step > 1.0 && step <= most), "{bounds:?}");
        }
    }

    #[test]
    fn the_search_begins_at_most_two_steps_before_the_bucket() {
        let right = |ns: u64| BOUNDS_NS.partition_point(|bound| *bound < ns);
        for (cell, start) in STARTS.into_iter().enumerate().skip(32 * 5) {
            let last = ((32 + cell as u64 % 32) << (cell / 32 - 5)) + ((1u64 << (cell / 32 - 5)) - 1);
            assert!(right(last) - usize::from(start) <= 2, "{last} ns");
        }
    }

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_is_not_below_it() {
        let around = |bound: u64| [bound.saturating_sub(1), bound, bound.saturating_add(1)];
        let powers = (0..64).map(|power| 1 << power);
        let times = BOUNDS_NS.into_iter().chain(powers).chain([0, u64::MAX]).flat_map(around);
        for ns in times {
            assert_eq!(bucket(ns), BOUNDS_NS.partition_point(|bound| *bound < ns), "{ns} ns");
        }
    }

    /// Prometheus's `histogram_quantile` over classic buckets.
    fn quantile_of_prometheus(exported: &[(f64, u64)], percent: f64) -> f64 {
        let all: u64 = exported.iter().map(|(_, count)| count).sum();
        let (rank, mut below, mut from) = (as_float(all) * percent / 100.0, 0.0, 0.0);
        for (to, count) in exported.iter().map(|(to, count)| (*to, as_float(*count))) {
            if below + count >= rank && count > 0.0 {
                return from + (to - from) * (rank - below) / count;
            }
            (below, from) = (below + count, to);
        }
        from
    }

    /// Constants such as 202 ms, and known mixtures.
    #[test]
    fn percentiles_are_right_within_5_percent_and_those_of_prometheus_within_10() {
        let constants = (101..10_000_000).step_by(7_919).chain([202_000, 51_000, 110, 1_000_000]);
        let mut cases: Vec<(Counts, [(f64, u64); 3])> =
            constants.map(|us| (of([us; 9]), [(50.0, us), (90.0, us), (99.0, us)])).collect();
        cases.push((of(1..=100_000), [(50.0, 50_000), (90.0, 90_000), (99.0, 99_000)]));
        let mixed = [300; 80].into_iter().chain([51_000; 15]).chain([2_300_000; 5]);
        cases.push((of(mixed), [(50.0, 300), (90.0, 51_000), (99.0, 2_300_000)]));
        for (counts, expected) in cases {
            for (percent, us) in expected {
                let off = |seconds: f64| (seconds * 1e6 / as_float(us) - 1.0).abs();
                let found = counts.percentile(percent).as_secs_f64();
                assert!(off(found) < 0.05, "p{percent}: {found} s, expected {us} us");
                let found = quantile_of_prometheus(&counts.exported(Buckets::Fine), percent);
                assert!(off(found) < 0.1, "p{percent} of Prometheus: {found} s, expected {us} us");
            }
        }
        let counts = of(1..=100_000);
        assert_eq!(counts.sum(), Duration::from_millis(5_000_050));
        assert_eq!(counts.mean(), Duration::from_nanos(50_000_500));
    }

    #[test]
    fn memory_grows_with_the_spread_of_the_times_and_ends() {
        let blocks = |counts: Counts| counts.blocks.iter().flatten().count();
        assert_eq!(blocks(of([202_000; 100])), 1);
        assert_eq!(blocks(of((0..=60).map(|power| 1 << power))), BLOCKS);
        assert!(size_of::<Histogram>() <= 400 && BLOCKS * BLOCK * size_of::<AtomicU64>() <= 6 * 1024);
    }

    #[test]
    fn an_empty_histogram_has_no_percentile_and_too_long_times_count_as_the_longest() {
        assert_eq!(Counts::default().percentile(99.0), Duration::ZERO);
        assert_eq!(Counts::default().mean(), Duration::ZERO);
        assert_eq!(of([5_000_000_000]).percentile(50.0), Duration::from_secs(1000));
    }

    #[test]
    fn a_bucket_includes_its_bound_and_all_buckets_hold_every_time() {
        let exported = of([100, 101, 250, 5_000_000, 20_000_000]).exported(Buckets::Coarse);
        assert_eq!(exported[0], (0.0001, 1));
        assert_eq!(exported[1], (0.00025, 2));
        assert_eq!(exported[14], (5.0, 1));
        assert_eq!(exported[16], (f64::INFINITY, 1));
        assert_eq!(exported.iter().map(|(_, count)| count).sum::<u64>(), 5);
    }

    #[test]
    fn the_counts_between_two_moments_are_their_difference() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(1));
        let earlier = histogram.counts();
        histogram.record(Duration::from_secs(1));
        let mut between = histogram.counts().since(&earlier);
        assert_eq!((between.count(), between.sum()), (1, Duration::from_secs(1)));
        between.add(&earlier);
        assert_eq!(between.count(), 2);
    }
}
