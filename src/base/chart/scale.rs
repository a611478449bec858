//! Maps values to places: the axes, their ranges and their ticks.

use super::Unit;

/// The ratio at which a linear axis becomes unreadable: a thirtieth of the largest value is a few pixels above the
/// bottom.
const LOG_FROM: f64 = 30.0;

/// One axis of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// The name of the axis.
    pub(crate) title: String,
    pub(crate) unit: Unit,
    pub(crate) extent: Extent,
    /// The places and the labels of the ticks. Empty for ticks at round numbers.
    pub(crate) ticks: Vec<(f64, String)>,
    /// A value that the axis always reaches, even if nothing is drawn there.
    pub(crate) reach: Option<f64>,
}

/// The range of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Begins at zero.
    Zero,
    /// Begins at the smallest value.
    Data,
    Log,
    /// Logarithmic if the values differ so much that a linear axis would hide the small ones.
    Auto,
}

impl Axis {
    pub(crate) fn new(title: &str, unit: Unit, extent: Extent) -> Self {
        Self { title: title.to_owned(), unit, extent, ticks: Vec::new(), reach: None }
    }

    pub(crate) fn reach(mut self, reach: Option<f64>) -> Self {
        self.reach = reach;
        self
    }

    pub(crate) fn ticks(mut self, ticks: Vec<(f64, String)>) -> Self {
        self.ticks = ticks;
        self
    }
}

/// An axis with its length on the page.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    pub(super) is_log: bool,
    /// The place of `low`; the next field is the place of `high`.
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) ticks: Vec<(f64, String)>,
}

impl Scale {
    /// A scale for these values with about `count` ticks. `None` when there is nothing to show.
    pub(super) fn new(axis: &Axis, values: impl Iterator<Item = f64>, count: u32) -> Option<Self> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let positive = values.iter().copied().find(|value| *value > 0.0);
        let last = *values.last()?;
        let is_log = match axis.extent {
            Extent::Log => true,
            Extent::Auto => positive.is_some_and(|least| last / least > LOG_FROM),
            Extent::Zero | Extent::Data => false,
        };
        let first = if is_log { positive? } else { values[0] };
        let (low, high) = match axis.extent {
            Extent::Zero | Extent::Auto if !is_log => (first.min(0.0), last.max(0.0)),
            _ => (first, last),
        };
        let (low, high) = apart(low, high, is_log);
        let mut scale = Self { low, high, is_log, from: 0.0, to: 1.0, ticks: Vec::new() };
        if !axis.ticks.is_empty() {
            scale.ticks.clone_from(&axis.ticks);
            return Some(scale);
        }
        let places =
            if is_log { log_ticks(low, high, axis.unit) } else { linear_ticks(low, high, axis.unit, count) };
        // Both ends are ticks, so that every value can be read off. An axis of time ends where the time ends.
        if axis.unit != Unit::Seconds
            && axis.unit != Unit::Nines
            && let (Some(first), Some(last)) = (places.first(), places.last())
        {
            (scale.low, scale.high) = (scale.low.min(*first), scale.high.max(*last));
        }
        let within = |place: &&f64| scale.holds(**place);
        scale.ticks = places.iter().filter(within).map(|place| (*place, axis.unit.tick(*place))).collect();
        Some(scale)
    }

    pub(super) fn over(mut self, from: f64, to: f64) -> Self {
        (self.from, self.to) = (from, to);
        self
    }

    /// The place of a value. `None` when the value has no place.
    pub(super) fn at(&self, value: f64) -> Option<f64> {
        let part = if self.is_log {
            if value <= 0.0 {
                return None;
            }
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        let place = self.from + part.clamp(0.0, 1.0) * (self.to - self.from);
        place.is_finite().then_some(place)
    }

    /// Whether the value is within the range of the axis.
    pub(super) fn holds(&self, value: f64) -> bool {
        let slack = (self.high - self.low) * 1e-9;
        (self.low - slack..=self.high + slack).contains(&value)
    }

    /// The place where areas begin.
    pub(super) fn base(&self) -> f64 {
        self.at(0.0).unwrap_or(self.from)
    }
}

/// Adds room around a single value.
fn apart(low: f64, high: f64, is_log: bool) -> (f64, f64) {
    if is_log {
        if high / low > 1.001 { (low, high) } else { (low / 1.5, high * 1.5) }
    } else if high - low > low.abs().max(high.abs()) * 1e-9 {
        (low, high)
    } else if low == 0.0 {
        (0.0, 1.0)
    } else {
        (low - low.abs() / 2.0, high + high.abs() / 2.0)
    }
}

/// Multiples of a round step, from `low` or just below it to `high` or just above it.
fn linear_ticks(low: f64, high: f64, unit: Unit, count: u32) -> Vec<f64> {
    let step = step((high - low) / f64::from(count.max(1)), unit);
    let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
    let mut ticks = Vec::new();
    let mut number = first;
    // A step is a fraction of the range. But a range too small for a float to divide would never end, so the ticks are
    // limited.
    while number <= last && ticks.len() < 64 {
        ticks.push(number * step + 0.0);
        number += 1.0;
    }
    ticks
}

/// The smallest round step that is at least `least`.
fn step(least: f64, unit: Unit) -> f64 {
    const MINUTES: [f64; 10] = [15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0];
    if unit == Unit::Seconds
        && least > 10.0
        && let Some(step) = MINUTES.into_iter().find(|step| *step >= least)
    {
        return step;
    }
    let decade = 10_f64.powf(least.log10().floor());
    let steps = if unit == Unit::Count { &[1.0, 2.0, 5.0, 10.0][..] } else { &[1.0, 2.0, 2.5, 5.0, 10.0] };
    let step = steps.iter().map(|step| step * decade).find(|step| *step >= least * (1.0 - 1e-9));
    let step = step.unwrap_or(10.0 * decade);
    let step = if unit == Unit::Count { step.max(1.0) } else { step };
    if step.is_finite() && step > 0.0 { step } else { 1.0 }
}

/// Powers of ten. Where there are few of them, also 2 and 5 between them.
fn log_ticks(low: f64, high: f64, unit: Unit) -> Vec<f64> {
    let (first, last) = (low.log10().floor(), high.log10().ceil());
    if unit == Unit::Nines {
        let tens = (0..16).map(|nines| 10_f64.powi(nines));
        let mut ticks = vec![1.0, 2.0];
        ticks.extend(tens.skip(1).take_while(|tick| *tick <= high * 1.0001));
        return ticks;
    }
    let decades = last - first;
    let factors: &[f64] = match decades {
        ..=2.0 => &[1.0, 2.0, 5.0],
        ..=3.0 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let every = (decades / 8.0).ceil().max(1.0);
    let mut all = Vec::new();
    let mut power = first;
    while power <= last && all.len() < 64 {
        all.extend(factors.iter().map(|factor| factor * 10_f64.powf(power)));
        power += every;
    }
    // One tick at or below the smallest value and one at or above the largest are enough.
    let begin = all.iter().rposition(|tick| *tick <= low * 1.0001).unwrap_or(0);
    let end = all.iter().position(|tick| *tick >= high * 0.9999).unwrap_or(all.len().saturating_sub(1));
    all.get(begin..=end).map(<[f64]>::to_vec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, values: &[f64], count: u32) -> Vec<String> {
        let scale = Scale::new(axis, values.iter().copied(), count).expect("there are values");
        scale.ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_and_reach_over_all_values() {
        for (unit, extent, values, expected) in [
            (
                Unit::PerSecond,
                Extent::Zero,
                &[120.0, 1_830.0][..],
                &["0", "500", "1,000", "1,500", "2,000"][..],
            ),
            (Unit::PerSecond, Extent::Zero, &[0.0], &["0", "0.25", "0.5", "0.75", "1"]),
            (Unit::Milliseconds, Extent::Zero, &[0.2, 3.9], &["0", "1 ms", "2 ms", "3 ms", "4 ms"]),
            (
                Unit::Milliseconds,
                Extent::Log,
                &[0.4, 2_000.0],
                &["100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s"],
            ),
            (
                Unit::Milliseconds,
                Extent::Auto,
                &[1.1, 90.0],
                &["1 ms", "2 ms", "5 ms", "10 ms", "20 ms", "50 ms", "100 ms"],
            ),
            (Unit::Count, Extent::Data, &[1.0, 3.0], &["1", "2", "3"]),
            (Unit::Seconds, Extent::Data, &[0.0, 10.0], &["0 s", "2.5 s", "5 s", "7.5 s", "10 s"]),
            (Unit::Seconds, Extent::Data, &[0.0, 150.0], &["0 s", "60 s", "2:00"]),
            (Unit::Percent, Extent::Zero, &[100.0], &["0 %", "25 %", "50 %", "75 %", "100 %"]),
            (Unit::Nines, Extent::Log, &[1.0, 2_000.0], &["0 %", "50 %", "90 %", "99 %", "99.9 %"]),
        ] {
            let axis = Axis::new("", unit, extent);
            assert_eq!(labels(&axis, values, 4), expected, "{unit:?} {values:?}");
        }
    }

    #[test]
    fn any_values_give_numeric_places_and_few_ticks() {
        let odd = [0.0, -0.0, 1e-300, 1e300, -1e300, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY, 5.0, -5.0];
        let units =
            [Unit::Milliseconds, Unit::Seconds, Unit::PerSecond, Unit::Percent, Unit::Count, Unit::Nines];
        for extent in [Extent::Zero, Extent::Data, Extent::Log, Extent::Auto] {
            for unit in units {
                for one in odd {
                    for other in odd {
                        let axis = Axis::new("", unit, extent);
                        let Some(scale) = Scale::new(&axis, [one, other].into_iter(), 5) else { continue };
                        let scale = scale.over(10.0, 500.0);
                        assert!(scale.ticks.len() <= 64, "{extent:?} {unit:?} {one} {other}");
                        for value in odd.into_iter().chain(scale.ticks.iter().map(|(place, _)| *place)) {
                            if let Some(place) = scale.at(value) {
                                assert!(
                                    (10.0..=500.0).contains(&place),
                                    "{extent:?} {unit:?} {one} {other}: {value} is at {place}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_chart_without_values_has_no_scale() {
        for extent in [Extent::Zero, Extent::Data, Extent::Log, Extent::Auto] {
            let axis = Axis::new("", Unit::Count, extent);
            assert!(Scale::new(&axis, std::iter::empty(), 5).is_none());
            assert!(Scale::new(&axis, [f64::NAN].into_iter(), 5).is_none());
        }
        let axis = Axis::new("", Unit::Count, Extent::Log);
        assert!(Scale::new(&axis, [0.0, -1.0].into_iter(), 5).is_none());
    }

    #[test]
    fn a_value_maps_to_its_place_on_the_axis() {
        let scale = |extent| {
            let axis = Axis::new("", Unit::PerSecond, extent);
            Scale::new(&axis, [1.0, 100.0].into_iter(), 4).expect("there are values").over(0.0, 100.0)
        };
        assert_eq!(scale(Extent::Zero).at(50.0), Some(50.0));
        assert_eq!(scale(Extent::Log).at(10.0), Some(50.0));
        assert_eq!(scale(Extent::Log).at(0.0), None);
        assert!(scale(Extent::Zero).base().abs() < 1e-9);
    }
}
