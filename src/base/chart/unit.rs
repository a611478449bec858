//! Formats numbers for people.

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Milliseconds of a duration.
    Milliseconds,
    /// Seconds of a run's time.
    Seconds,
    /// Events a second.
    PerSecond,
    Percent,
    /// A whole number of things.
    Count,
    /// 1 / (1 − p) of a percentile p. Each factor of ten adds another nine.
    Nines,
}

impl Unit {
    /// The value with its unit, to about three digits.
    pub(crate) fn text(self, value: f64) -> String {
        if !value.is_finite() {
            return "–".to_owned();
        }
        match self {
            Self::Milliseconds => duration(value),
            Self::Seconds => clock(value),
            Self::PerSecond => format!("{}/s", number(value)),
            Self::Percent => format!("{} %", number(value)),
            Self::Count => number(value),
            Self::Nines => percentile(value),
        }
    }

    /// The value at a tick. If the unit is always the same, the axis names it and the tick does not.
    pub(super) fn tick(self, value: f64) -> String {
        match self {
            Self::PerSecond | Self::Count => short(value),
            Self::Percent => format!("{} %", trimmed(value)),
            _ => self.text(value),
        }
    }
}

/// About three digits, with a comma between thousands.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "–".to_owned();
    }
    let decimals = match size {
        _ if (value - value.round()).abs() < 1e-9 => 0,
        _ if size >= 1000.0 => 0,
        _ if size >= 100.0 => 1,
        _ if size >= 10.0 => 2,
        _ => 3,
    };
    grouped(&format!("{value:.decimals$}"))
}

/// The number without trailing zeros: 2.50 becomes 2.5.
fn trimmed(value: f64) -> String {
    let text = number(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn grouped(text: &str) -> String {
    let (sign, rest) = text.strip_prefix('-').map_or(("", text), |rest| ("−", rest));
    let (whole, fraction) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
    let mut out = sign.to_owned();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out.push_str(fraction);
    // A number that rounds to zero has no sign.
    if sign.is_empty() || out.contains(|c: char| ('1'..='9').contains(&c)) {
        out
    } else {
        out.replace('−', "")
    }
}

/// Counts thousands from ten thousand on, because an axis has little room.
fn short(value: f64) -> String {
    match value.abs() {
        ..10_000.0 => trimmed(value),
        10_000.0..1e6 => format!("{}k", trimmed(value / 1e3)),
        _ => format!("{}M", trimmed(value / 1e6)),
    }
}

/// Formats milliseconds in the unit that fits.
fn duration(ms: f64) -> String {
    let (value, unit) = match ms.abs() {
        0.0 => return "0".to_owned(),
        ..0.9995 => (ms * 1e3, "µs"),
        0.9995..999.5 => (ms, "ms"),
        _ => (ms / 1e3, "s"),
    };
    let decimals = match value.abs() {
        ..9.995 => 2,
        9.995..99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{} {unit}", grouped(text))
}

/// Formats seconds, from two minutes on as minutes and seconds.
fn clock(seconds: f64) -> String {
    if seconds.abs() < 120.0 {
        return format!("{} s", trimmed(seconds));
    }
    let whole = seconds.round();
    let (hours, minutes) = ((whole / 3600.0).floor(), (whole / 60.0).floor() % 60.0);
    if hours > 0.0 {
        format!("{hours:.0}:{minutes:02.0}:{:02.0}", whole % 60.0)
    } else {
        format!("{minutes:.0}:{:02.0}", whole % 60.0)
    }
}

/// 10 means 90 %, 1000 means 99.9 %.
fn percentile(nines: f64) -> String {
    let percent = 100.0 - 100.0 / nines.max(1.0);
    // Enough digits that the last one is not rounded up to 100 %.
    let decimals = (nines.max(1.0).log10() - 2.0).ceil().clamp(0.0, 9.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 9")]
    let decimals = decimals as usize;
    format!("{percent:.decimals$} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_units_and_only_meaningful_digits() {
        for (unit, value, text) in [
            (Unit::Milliseconds, 0.0, "0"),
            (Unit::Milliseconds, 0.25, "250 µs"),
            (Unit::Milliseconds, 0.9999, "1 ms"),
            (Unit::Milliseconds, 4.512, "4.51 ms"),
            (Unit::Milliseconds, 40.0, "40 ms"),
            (Unit::Milliseconds, 999.9, "1 s"),
            (Unit::Milliseconds, 12_340.0, "12.3 s"),
            (Unit::Milliseconds, 2_000_000.0, "2,000 s"),
            (Unit::Seconds, 7.5, "7.5 s"),
            (Unit::Seconds, 90.0, "90 s"),
            (Unit::Seconds, 150.0, "2:30"),
            (Unit::Seconds, 3_661.0, "1:01:01"),
            (Unit::PerSecond, 1_234.56, "1,235/s"),
            (Unit::PerSecond, 0.0, "0/s"),
            (Unit::Percent, 0.1234, "0.123 %"),
            (Unit::Count, 1_000_000.0, "1,000,000"),
            (Unit::Count, -1_234.0, "−1,234"),
            (Unit::Count, -0.0001, "0.000"),
            (Unit::Nines, 1.0, "0 %"),
            (Unit::Nines, 2.0, "50 %"),
            (Unit::Nines, 10.0, "90 %"),
            (Unit::Nines, 1_000.0, "99.9 %"),
            (Unit::Nines, 100_000.0, "99.999 %"),
            (Unit::Milliseconds, f64::NAN, "–"),
            (Unit::Count, f64::INFINITY, "–"),
        ] {
            assert_eq!(unit.text(value), text, "{unit:?} {value}");
        }
        assert_eq!(Unit::PerSecond.tick(2_500.0), "2,500");
        assert_eq!(Unit::PerSecond.tick(25_000.0), "25k");
        assert_eq!(Unit::PerSecond.tick(2_500_000.0), "2.5M");
        assert_eq!(Unit::Count.tick(0.5), "0.5");
        assert_eq!(Unit::Percent.tick(12.5), "12.5 %");
    }
}
