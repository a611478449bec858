//! Rates, shares and times in the form of the report.

use std::time::Duration;

use super::times::Times;

pub(super) fn milliseconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3)
}

/// Rounded to a thousandth, because more digits would be noise.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// NaN where no time has passed.
pub(super) fn a_second(count: u64, length: Duration) -> f64 {
    if length.is_zero() { f64::NAN } else { as_float(count) / length.as_secs_f64() }
}

/// NaN without a whole.
pub(super) fn share(part: u64, all: u64) -> f64 {
    if all == 0 { f64::NAN } else { as_float(part) / as_float(all) }
}

/// The time in milliseconds; NaN if there are no times. JSON has null for NaN.
pub(super) fn milliseconds_of(times: &Times, time: Duration) -> f64 {
    if times.count() == 0 { f64::NAN } else { milliseconds(time) }
}

#[allow(clippy::cast_precision_loss, reason = "no run has 2^53 requests")]
fn as_float(count: u64) -> f64 {
    count as f64
}
