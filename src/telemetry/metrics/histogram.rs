//! Counts times in buckets that grow by a quarter each, so that a percentile is exact to a quarter.
//!
//! Any thread. Relaxed atomics, no lock.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The bounds within a decade: the preferred numbers of ISO 3 (R10). They include 1, 2.5 and 5, which users of
/// Prometheus expect.
const DECADE: [u64; 10] = [1_000, 1_250, 1_600, 2_000, 2_500, 3_150, 4_000, 5_000, 6_300, 8_000];

/// From 10 µs to 100 s. Nobody needs finer times, and nobody waits for longer.
const DECADES: usize = 7;
const BOUNDS: usize = DECADES * DECADE.len() + 1;

/// The upper bounds of the buckets in nanoseconds. The last bucket has none.
static BOUNDS_NS: [u64; BOUNDS] = bounds();

/// The bucket where the search for a time begins. A time's highest three bits give it, a step or two before the right
/// one. A binary search takes seven comparisons, half of them mispredicted, which is longer than all other work of
/// counting a time.
static STARTS: [usize; CELLS] = starts();
const CELLS: usize = 4 * 64;

/// The exported bounds: 100 µs to 10 s in steps of 1, 2.5 and 5. Each is one of the bounds above.
pub(super) const EXPORTED: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

const fn bounds() -> [u64; BOUNDS] {
    let mut bounds = [0; BOUNDS];
    let (mut at, mut unit) = (0, 10);
    while at < BOUNDS {
        bounds[at] = DECADE[at % DECADE.len()] * unit;
        at += 1;
        if at.is_multiple_of(DECADE.len()) {
            unit *= 10;
        }
    }
    bounds
}

const fn starts() -> [usize; CELLS] {
    let mut starts = [0; CELLS];
    let (mut cell, mut bucket) = (8, 0);
    while cell < CELLS {
        let least = (4 + cell as u64 % 4) << (cell / 4 - 2);
        while bucket < BOUNDS && BOUNDS_NS[bucket] < least {
            bucket += 1;
        }
        starts[cell] = bucket;
        cell += 1;
    }
    starts
}

/// The bucket of a time. An upper bound belongs to its bucket, as in Prometheus's `le`.
fn bucket(ns: u64) -> usize {
    let highest = ns.max(4).ilog2();
    let cell = 4 * highest as usize + (ns >> (highest - 2) & 3) as usize;
    let mut bucket = STARTS[cell];
    while bucket < BOUNDS && BOUNDS_NS[bucket] < ns {
        bucket += 1;
    }
    bucket
}

/// A count of times.
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts a time.
    pub fn record(&self, time: Duration) {
        let ns = nanoseconds(time);
        self.counts[bucket(ns)].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        Counts {
            buckets: array::from_fn(|bucket| self.counts[bucket].load(Relaxed)),
            sum_ns: self.sum_ns.load(Relaxed),
        }
    }
}

/// The counts of a [`Histogram`], in total or between two moments.
#[derive(Clone, Debug)]
pub struct Counts {
    buckets: [u64; BOUNDS + 1],
    sum_ns: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { buckets: [0; BOUNDS + 1], sum_ns: 0 }
    }
}

impl Counts {
    /// The number of counted times.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all times.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The mean. Zero if nothing was counted.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.checked_div(self.count()).unwrap_or(0))
    }

    /// The time that `percent` of the counted times do not exceed. Times count as evenly spread within their bucket.
    /// Zero if nothing was counted.
    pub fn percentile(&self, percent: f64) -> Duration {
        let all = self.count();
        let rank = as_float(all) * percent / 100.0;
        let mut below = 0;
        for (bucket, count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            if as_float(below + count) >= rank {
                let from = bucket.checked_sub(1).map_or(0, |before| BOUNDS_NS[before]);
                // Times beyond the last bound could have any length.
                let to = BOUNDS_NS.get(bucket).copied().unwrap_or(from);
                let part = (rank - as_float(below)) / as_float(*count);
                return Duration::from_nanos(from) + Duration::from_nanos(to - from).mul_f64(part.max(0.0));
            }
            below += count;
        }
        Duration::ZERO
    }

    /// The counts since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            buckets: array::from_fn(|at| self.buckets[at].saturating_sub(earlier.buckets[at])),
            sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns),
        }
    }

    /// Adds the other counts.
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += count;
        }
        self.sum_ns += other.sum_ns;
    }

    /// The exported buckets: the upper bound in seconds and the count of each.
    pub(super) fn exported(&self) -> Vec<(f64, u64)> {
        let mut from = 0;
        let mut buckets = Vec::with_capacity(EXPORTED.len() + 1);
        for bound in EXPORTED {
            let to = BOUNDS_NS.partition_point(|known| *known <= bound);
            buckets.push((Duration::from_nanos(bound).as_secs_f64(), self.buckets[from..to].iter().sum()));
            from = to;
        }
        buckets.push((f64::INFINITY, self.buckets[from..].iter().sum()));
        buckets
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
    fn bounds_grow_from_10_us_to_100_s_and_hold_the_exported_ones() {
        assert!(BOUNDS_NS.is_sorted());
        assert_eq!((BOUNDS_NS[0], BOUNDS_NS[BOUNDS - 1]), (10_000, 100_000_000_000));
        assert!(EXPORTED.iter().all(|bound| BOUNDS_NS.binary_search(bound).is_ok()));
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

    #[test]
    fn percentiles_are_right_within_a_bucket() {
        let counts = of(1..=100_000);
        for (percent, us) in [(1.0, 1_000.0), (50.0, 50_000.0), (90.0, 90_000.0), (99.0, 99_000.0)] {
            let found = counts.percentile(percent).as_secs_f64() * 1e6;
            assert!((found / us - 1.0).abs() < 0.13, "p{percent}: {found} us, expected {us}");
        }
        assert_eq!(counts.sum(), Duration::from_millis(5_000_050));
        assert_eq!(counts.mean(), Duration::from_nanos(50_000_500));
    }

    #[test]
    fn an_empty_histogram_has_no_percentile_and_too_long_times_count_as_the_longest() {
        assert_eq!(Counts::default().percentile(99.0), Duration::ZERO);
        assert_eq!(Counts::default().mean(), Duration::ZERO);
        assert_eq!(of([500_000_000]).percentile(50.0), Duration::from_secs(100));
    }

    #[test]
    fn a_bucket_includes_its_bound_and_all_buckets_hold_every_time() {
        let exported = of([100, 101, 250, 5_000_000, 20_000_000]).exported();
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
