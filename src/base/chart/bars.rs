//! Horizontal bars, each made of several parts. They suit a few things with long names, which have room even at a
//! phone's width.

use std::fmt::Write as _;

use super::draw::{Size, begin};
use super::markup::{Place, Text};
use super::place::{bold_width, width};
use super::{Tone, Unit};

#[derive(Clone, Debug)]
pub(crate) struct Bars {
    pub(crate) unit: Unit,
    /// The name and the colour of each part.
    pub(crate) series: Vec<(&'static str, Tone)>,
    pub(crate) rows: Vec<Row>,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) label: String,
    /// One value for each of the series.
    pub(crate) values: Vec<f64>,
    /// Stands at the end of the label's line.
    pub(crate) note: String,
}

const BAR_HEIGHT: f64 = 22.0;

impl Row {
    fn values(&self) -> impl Iterator<Item = f64> {
        self.values.iter().map(|value| if value.is_finite() { value.max(0.0) } else { 0.0 })
    }
}

impl Bars {
    /// The bars as SVG. `title` is for people who cannot see them.
    pub(super) fn svg(&self, title: &str, size: Size) -> String {
        let (font, full) = (size.font(), size.width());
        let each = font * 1.5 + BAR_HEIGHT + 10.0;
        let mut out = String::new();
        begin(&mut out, title, size, (0..self.rows.len()).fold(4.0, |height, _| height + each));
        let longest = self.rows.iter().map(|row| row.values().sum::<f64>()).fold(0.0, f64::max);
        let mut top = 0.0;
        for row in &self.rows {
            let room = full - bold_width(&row.note, font) - 12.0;
            let _ = write!(
                out,
                "<text class=\"name\" x=\"0\" y=\"{base}\">{}</text><text class=\"end strong\" x=\"{}\" y=\"{base}\">{}</text>",
                Text(&shortened(&row.label, room, font)),
                Place(full),
                Text(&row.note),
                base = Place(top + font),
            );
            self.parts(row, longest, top + font * 1.5, size, &mut out);
            top += each;
        }
        out.push_str("</svg>");
        out
    }

    fn parts(&self, row: &Row, longest: f64, top: f64, size: Size, out: &mut String) {
        let (font, full) = (size.font(), size.width());
        let (y, base) = (Place(top), Place(top + BAR_HEIGHT / 2.0 + font * 0.35));
        let mut left = 0.0;
        for ((name, tone), value) in self.series.iter().zip(row.values()) {
            let wide = if longest > 0.0 { value / longest * full } else { 0.0 };
            if wide < 0.05 {
                continue;
            }
            let text = self.unit.text(value);
            let _ = write!(
                out,
                "<g><title>{}: {}</title><rect class=\"part {}\" x=\"{}\" y=\"{y}\" width=\"{}\" height=\"{BAR_HEIGHT}\"/>",
                Text(name),
                Text(&text),
                tone.class(),
                Place(left),
                // A gap separates neighbours without relying on their colours.
                Place((wide - 1.5).max(0.5)),
            );
            let both = format!("{name} {text}");
            let fits = [both, text].into_iter().find(|text| bold_width(text, font) + 8.0 < wide);
            if let Some(text) = fits {
                let at = Place(left + wide / 2.0);
                let _ = write!(
                    out,
                    "<text class=\"middle inside\" x=\"{at}\" y=\"{base}\">{}</text>",
                    Text(&text)
                );
            }
            out.push_str("</g>");
            left += wide;
        }
    }
}

/// Shortens a text in its middle. Hosts come first and the difference comes last, so the end says most, then the
/// beginning.
fn shortened(text: &str, room: f64, font: f64) -> String {
    if width(text, font) <= room {
        return text.to_owned();
    }
    let mut begin = String::new();
    let mut rest: Vec<char> = text.chars().collect();
    rest.reverse();
    for c in text.chars() {
        begin.push(c);
        if width(&begin, font) > room * 0.3 {
            break;
        }
    }
    let mut end = String::new();
    for c in rest {
        end.insert(0, c);
        if width(&end, font) > room * 0.6 {
            break;
        }
    }
    format!("{begin}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_beginning_and_its_end() {
        assert_eq!(shortened("short", 100.0, 10.0), "short");
        let long = format!("begin{}end", "x".repeat(100));
        let text = shortened(&long, 100.0, 10.0);
        assert!(text.starts_with("begin") && text.ends_with("end") && text.chars().count() < 20, "{text}");
    }
}
