//! The seconds of a run for the page, as rates. In a long run several seconds are merged.
//!
//! The thread that calls `run`.

use super::super::report::Second;
use super::real;
use crate::base::chart::{Axis, Extent, Unit};

/// More points would overlap on any screen, and make the page's tables long.
const MOMENTS_MAX: usize = 600;

/// A rate over a shorter interval is chance. The last answers, after the schedule's end, fall into such an interval.
const SHORTEST_S: f64 = 0.5;

/// One or several seconds. Values without data are NaN.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) from_s: f64,
    /// Its place on the chart: the middle of its time.
    pub(super) at_s: f64,
    to_s: f64,
    seconds: usize,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Requests a second.
    pub(super) offered: f64,
    pub(super) sent: f64,
    pub(super) good: f64,
    pub(super) refused: f64,
    pub(super) other_errors: f64,
    /// Requests without an outcome at its end.
    pub(super) in_flight: u64,
    pub(super) phases_ms: Option<[f64; 5]>,
}

/// The run in as many pieces as a chart has room for.
pub(super) fn moments(seconds: &[Second]) -> Vec<Moment> {
    let each = seconds.len().div_ceil(MOMENTS_MAX).max(1);
    let mut pieces: Vec<&[Second]> = seconds.chunks(each).collect();
    if let [.., before, last] = pieces[..]
        && length(last) < SHORTEST_S
    {
        pieces.pop();
        pieces.pop();
        pieces.push(&seconds[seconds.len() - last.len() - before.len()..]);
    }
    pieces.into_iter().filter_map(Moment::of).collect()
}

/// The axis of the run's time.
pub(super) fn axis(moments: &[Moment]) -> Axis {
    Axis::new("time", Unit::Seconds, Extent::Zero).reach(moments.last().map(|moment| moment.to_s))
}

/// The number of seconds in a moment, if above one.
pub(super) fn merged(moments: &[Moment]) -> Option<usize> {
    moments.first().map(|moment| moment.seconds).filter(|seconds| *seconds > 1)
}

fn length(seconds: &[Second]) -> f64 {
    match seconds {
        [first, .., last] => last.to_s - first.from_s,
        [only] => only.to_s - only.from_s,
        [] => 0.0,
    }
}

impl Moment {
    fn of(seconds: &[Second]) -> Option<Self> {
        let (first, last) = (seconds.first()?, seconds.last()?);
        let length = length(seconds);
        let rate = |count: fn(&Second) -> f64| seconds.iter().map(count).sum::<f64>() / length;
        // A second in which no request ended has no latency.
        let ended: Vec<&Second> = seconds.iter().filter(|second| second.p99_ms.is_finite()).collect();
        let mut p50s: Vec<f64> = ended.iter().map(|second| second.p50_ms).collect();
        p50s.sort_by(f64::total_cmp);
        let phases: Vec<[f64; 5]> =
            seconds.iter().filter_map(|second| Some(second.server_timing?.values())).collect();
        let mean =
            |index: usize| phases.iter().map(|phases| phases[index]).sum::<f64>() / real(phases.len() as u64);
        Some(Self {
            from_s: first.from_s,
            at_s: f64::midpoint(first.from_s, last.to_s),
            to_s: last.to_s,
            seconds: seconds.len(),
            p50_ms: p50s.get(p50s.len() / 2).copied().unwrap_or(f64::NAN),
            p99_ms: ended.iter().map(|second| second.p99_ms).fold(f64::NAN, f64::max),
            offered: rate(|second| second.offered.unwrap_or(f64::NAN)),
            sent: rate(|second| real(second.sent)),
            good: rate(|second| real(second.good)),
            refused: rate(|second| real(second.refused)),
            other_errors: rate(|second| real(second.errors - second.refused)),
            in_flight: last.in_flight as u64,
            phases_ms: (!phases.is_empty()).then(|| std::array::from_fn(mean)),
        })
    }
}
