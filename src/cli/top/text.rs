//! Numbers in readable form, and lines of coloured text that fit a width.

use std::fmt::Write as _;

/// The look of a piece of text in a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Strong,
    Muted,
    Good,
    Warning,
    Bad,
    Queue,
    Pool,
    Database,
    Render,
}

impl Style {
    /// The code for Select Graphic Rendition (ECMA-48 section 8.3.117). It uses the sixteen colours that users choose
    /// for their terminals.
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "1",
            Self::Muted => "2",
            Self::Good | Self::Render => "32",
            Self::Warning | Self::Queue => "33",
            Self::Bad => "1;31",
            Self::Pool => "35",
            Self::Database => "36",
        }
    }
}

/// A line of text in pieces, each with a style.
#[derive(Clone, Debug, Default)]
pub(super) struct StyledLine(Vec<(Style, String)>);

impl StyledLine {
    pub(super) fn add(&mut self, style: Style, text: impl Into<String>) -> &mut Self {
        self.0.push((style, text.into()));
        self
    }

    pub(super) fn of(style: Style, text: impl Into<String>) -> Self {
        Self(vec![(style, text.into())])
    }

    /// The line as several that fit the width, broken between words. Later lines are indented.
    pub(super) fn wrapped(&self, width: usize, indent: usize) -> Vec<Self> {
        let mut lines = vec![Self::default()];
        let mut column = 0;
        for (style, text) in &self.0 {
            for word in words(text) {
                let length = word.chars().count();
                let is_space = word.starts_with(' ');
                if column + length > width && column > indent {
                    lines.push(Self::of(Style::Plain, " ".repeat(indent)));
                    column = indent;
                    if is_space {
                        continue;
                    }
                }
                if let Some(line) = lines.last_mut() {
                    line.extend(*style, word);
                }
                column += length;
            }
        }
        lines
    }

    /// Adds to the last piece, if that has the style.
    fn extend(&mut self, style: Style, text: &str) {
        match self.0.last_mut() {
            Some((last, piece)) if *last == style => piece.push_str(text),
            _ => self.0.push((style, text.to_owned())),
        }
    }

    /// Writes as much of the line as fits. Control characters are replaced, because routes may contain any text and
    /// must not move the cursor.
    pub(super) fn write(&self, width: usize, in_colour: bool, out: &mut String) {
        let mut left = width;
        for (style, text) in &self.0 {
            let code = if in_colour { style.code() } else { "" };
            if !code.is_empty() {
                let _ = write!(out, "\x1b[{code}m");
            }
            for c in text.chars().take(left) {
                out.push(if c.is_control() { '\u{fffd}' } else { c });
                left -= 1;
            }
            if !code.is_empty() {
                out.push_str("\x1b[0m");
            }
        }
    }
}

/// The words of the text and the spaces between them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ').flat_map(|part| {
        let word = part.trim_end_matches(' ');
        [word, &part[word.len()..]].into_iter().filter(|part| !part.is_empty())
    })
}

/// A count with separated thousands.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with about three digits.
pub(super) fn number(value: f64) -> String {
    match value {
        ..0.005 => "0".to_owned(),
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => count(whole(value)),
    }
}

/// A time in milliseconds, in a unit that fits.
pub(super) fn time(ms: f64) -> String {
    match ms {
        ..0.0005 => "0 ms".to_owned(),
        ..0.9995 => format!("{:.0} µs", ms * 1e3),
        ..999.5 => format!("{} ms", number(ms)),
        ..99_950.0 => format!("{} s", number(ms / 1e3)),
        _ => clock(ms / 1e3),
    }
}

/// A long time, in seconds, in a unit that fits.
pub(super) fn clock(seconds: f64) -> String {
    let seconds = whole(seconds);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// The time of day of a moment, in seconds since 1970.
pub(super) fn time_of_day(seconds: f64) -> String {
    let seconds = whole(seconds.floor());
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
pub(super) fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// The share of `cells` that `value` has of `most`; at least one cell for a value above zero.
#[expect(clippy::cast_precision_loss, reason = "a terminal is not that wide")]
pub(super) fn cells(value: f64, most: f64, cells: usize) -> usize {
    if value <= 0.0 || most <= 0.0 {
        return 0;
    }
    usize::try_from(whole(value / most * cells as f64)).unwrap_or(cells).clamp(1, cells.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (value, shown) in
            [(0.0, "0"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(number(value), shown);
        }
        for (ms, shown) in [
            (0.0, "0 ms"),
            (0.12, "120 µs"),
            (1.5, "1.50 ms"),
            (2500.0, "2.50 s"),
            (7_261_000.0, "2 h 1 min"),
        ] {
            assert_eq!(time(ms), shown);
        }
    }

    #[test]
    fn a_line_fits_and_moves_no_cursor() {
        let mut line = StyledLine::of(Style::Bad, "GET /\x1b[2J");
        line.add(Style::Plain, "and more");
        let mut text = String::new();
        line.write(12, true, &mut text);
        assert_eq!(text, "\x1b[1;31mGET /\u{fffd}[2J\x1b[0mand");
        text.clear();
        line.write(3, false, &mut text);
        assert_eq!(text, "GET");
    }

    #[test]
    fn a_long_line_is_broken_between_words() {
        let mut line = StyledLine::of(Style::Strong, "why    one two");
        line.add(Style::Plain, " three four");
        let written = |line: &StyledLine| {
            let mut text = String::new();
            line.write(99, false, &mut text);
            text
        };
        let lines: Vec<_> = line.wrapped(12, 4).iter().map(written).collect();
        assert_eq!(lines, ["why    one ", "    two ", "    three ", "    four"]);
        assert_eq!(line.wrapped(80, 4).len(), 1);
        assert_eq!(time_of_day(86_399.9), "23:59:59 UTC");
    }

    #[test]
    fn a_value_above_zero_has_a_cell() {
        assert_eq!([0.0, 0.1, 50.0, 100.0, 200.0].map(|value| cells(value, 100.0, 10)), [0, 1, 5, 10, 10]);
    }
}
