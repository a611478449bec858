//! The page around the charts: words, tables, figures.

use std::fmt::Write as _;

use super::draw::Size;
use super::keys::{Key, Shape};
use super::markup::Text;
use super::unit::number;
use super::{Bars, Chart, Stroke, Unit};

/// The style sheet of every page that wharf makes.
pub(crate) const STYLE: &str = include_str!("page.css");

/// A page, built from top to bottom.
pub(crate) struct Page {
    title: String,
    body: String,
    in_section: bool,
}

/// One number that matters.
pub(crate) struct Tile {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
    pub(crate) note: String,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) caption: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// The name of a column, and whether it has numbers. Numbers are aligned to the right.
#[derive(Clone, Debug)]
pub(crate) enum Column {
    Text(String),
    Number(String),
}

#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Text(String),
    /// Shown to about three digits. The page also has the exact number, for programs that read the page.
    Number(f64),
    Count(u64),
    /// No value.
    Nothing,
}

impl Cell {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(crate) fn maybe(value: Option<f64>) -> Self {
        value.map_or(Self::Nothing, Self::Number)
    }
}

impl Column {
    pub(crate) fn text(name: &str) -> Self {
        Self::Text(name.to_owned())
    }

    pub(crate) fn number(name: &str) -> Self {
        Self::Number(name.to_owned())
    }
}

/// A chart with its caption and its numbers.
pub(crate) struct Figure {
    pub(crate) title: String,
    /// What the chart shows and how to read it.
    pub(crate) caption: String,
    pub(crate) drawing: Drawing,
    /// The numbers in the drawing.
    pub(crate) data: Table,
}

pub(crate) enum Drawing {
    Chart(Chart),
    Bars(Bars),
}

impl Page {
    /// `kicker`: the kind of page, shown above the title.
    pub(crate) fn new(kicker: &str, title: &str) -> Self {
        let mut body = String::new();
        let _ =
            write!(body, "<header><p class=\"kicker\">{}</p><h1>{}</h1></header>", Text(kicker), Text(title));
        Self { title: format!("{title} · {kicker}"), body, in_section: false }
    }

    /// A paragraph that begins with an emphasised word.
    pub(crate) fn lead(&mut self, word: &str, text: &str) {
        let _ = write!(
            self.body,
            "<p class=\"lead\"><strong class=\"badge\">{}</strong> {}</p>",
            Text(word),
            Text(text)
        );
    }

    pub(crate) fn paragraph(&mut self, text: &str) {
        let _ = write!(self.body, "<p>{}</p>", Text(text));
    }

    /// A warning that nobody may overlook.
    pub(crate) fn warning(&mut self, head: &str, text: &str) {
        self.notice("warning", "⚠", head, text);
    }

    /// A verdict: whether a figure is as it should be. Words and a sign say it, not only a colour.
    pub(crate) fn verdict(&mut self, good: bool, head: &str, text: &str) {
        let (class, sign) = if good { ("good", "✓") } else { ("bad", "✗") };
        self.notice(class, sign, head, text);
    }

    fn notice(&mut self, class: &str, sign: &str, head: &str, text: &str) {
        let _ = write!(
            self.body,
            "<div class=\"notice {class}\" role=\"note\"><span class=\"sign\" aria-hidden=\"true\">{sign}</span>\
             <p><strong>{}</strong> {}</p></div>",
            Text(head),
            Text(text)
        );
    }

    pub(crate) fn tiles(&mut self, tiles: &[Tile]) {
        self.body.push_str("<dl class=\"tiles\">");
        for tile in tiles {
            let _ = write!(
                self.body,
                "<div><dt>{}</dt><dd>{}</dd><dd class=\"note\">{}</dd></div>",
                Text(&tile.name),
                data(tile.value, &tile.unit.text(tile.value)),
                Text(&tile.note)
            );
        }
        self.body.push_str("</dl>");
    }

    /// Lines that the reader may copy.
    pub(crate) fn code(&mut self, lines: &str) {
        let _ = write!(self.body, "<pre tabindex=\"0\"><code>{}</code></pre>", Text(lines));
    }

    pub(crate) fn section(&mut self, title: &str) {
        self.end_section();
        let _ = write!(self.body, "<section><h2>{}</h2>", Text(title));
        self.in_section = true;
    }

    fn end_section(&mut self) {
        if self.in_section {
            self.body.push_str("</section>");
        }
        self.in_section = false;
    }

    pub(crate) fn table(&mut self, table: &Table) {
        table.write(&mut self.body);
    }

    pub(crate) fn figure(&mut self, figure: &Figure) {
        let _ = write!(
            self.body,
            "<figure><figcaption><h3>{}</h3><p>{}</p></figcaption>",
            Text(&figure.title),
            Text(&figure.caption)
        );
        let keys = match &figure.drawing {
            Drawing::Chart(chart) => chart.keys(),
            Drawing::Bars(bars) => bars.keys(),
        };
        legend(&keys, &mut self.body);
        for size in [Size::Wide, Size::Narrow] {
            self.body.push_str(&match &figure.drawing {
                Drawing::Chart(chart) => chart.svg(&figure.title, size),
                Drawing::Bars(bars) => bars.svg(&figure.title, size),
            });
        }
        self.body.push_str("<details><summary>The numbers</summary>");
        figure.data.write(&mut self.body);
        self.body.push_str("</details></figure>");
    }

    /// The whole document. `foot` names the program that made it.
    pub(crate) fn finish(mut self, foot: &str) -> String {
        self.end_section();
        let Self { title, body, .. } = self;
        // This policy loads nothing and runs nothing, whatever the page contains.
        format!(
            "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
             <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
             <body>\n<main>{body}</main>\n<footer>{}</footer>\n</body>\n</html>\n",
            Text(&title),
            Text(foot)
        )
    }
}

/// A number for people, together with its exact value.
fn data(value: f64, text: &str) -> String {
    let value = if value.is_finite() { value.to_string() } else { String::new() };
    format!("<data value=\"{value}\">{}</data>", Text(text))
}

impl Table {
    fn write(&self, out: &mut String) {
        // Content that is too wide for a phone scrolls by itself, with the keyboard too.
        let _ = write!(
            out,
            "<div class=\"scroll\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\"><table><caption>{caption}</caption>\
             <thead><tr>",
            caption = Text(&self.caption)
        );
        for column in &self.columns {
            let (class, name) = match column {
                Column::Text(name) => ("", name),
                Column::Number(name) => (" class=\"number\"", name),
            };
            let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", Text(name));
        }
        out.push_str("</tr></thead><tbody>");
        for row in &self.rows {
            out.push_str("<tr>");
            for (index, cell) in row.iter().enumerate() {
                cell.write(index == 0, out);
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>");
    }
}

impl Cell {
    fn write(&self, is_first: bool, out: &mut String) {
        let (class, text) = match self {
            Self::Text(text) => ("", Text(text).to_string()),
            Self::Number(value) => (" class=\"number\"", data(*value, &number(*value))),
            Self::Count(count) => {
                (" class=\"number\"", format!("<data value=\"{count}\">{}</data>", grouped(*count)))
            }
            Self::Nothing => (" class=\"number\"", "–".to_owned()),
        };
        let (tag, scope) = if is_first { ("th", " scope=\"row\"") } else { ("td", "") };
        let _ = write!(out, "<{tag}{scope}{class}>{text}</{tag}>");
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody has counted to 2^53")]
fn grouped(count: u64) -> String {
    number(count as f64)
}

fn legend(keys: &[Key<'_>], out: &mut String) {
    out.push_str("<ul class=\"legend\">");
    for key in keys {
        let tone = key.tone.class();
        let sample = match key.shape {
            Shape::Line(stroke) => {
                let class = match stroke {
                    Stroke::Solid => "solid",
                    Stroke::Dashed => "dashed",
                    Stroke::Dotted => "dotted",
                };
                format!("<path class=\"line {class} {tone}\" d=\"M1 7L25 7\"/>")
            }
            Shape::Area => {
                format!("<rect class=\"area {tone}\" x=\"4\" y=\"1\" width=\"18\" height=\"12\"/>")
            }
            Shape::Band => {
                format!("<rect class=\"band {tone}\" x=\"1\" y=\"2\" width=\"24\" height=\"10\"/>")
            }
            Shape::Dot => format!("<circle class=\"dot {tone}\" cx=\"13\" cy=\"7\" r=\"4\"/>"),
            Shape::FaintDot => format!("<circle class=\"faint {tone}\" cx=\"13\" cy=\"7\" r=\"2.5\"/>"),
            Shape::ErrorBar => format!(
                "<path class=\"error {tone}\" d=\"M13 1L13 13M9 1L17 1M9 13L17 13\"/>\
                 <circle class=\"dot {tone}\" cx=\"13\" cy=\"7\" r=\"3.5\"/>"
            ),
        };
        let _ = write!(
            out,
            "<li><svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 26 14\" width=\"26\" height=\"14\" aria-hidden=\"true\">{sample}</svg>{}</li>",
            Text(key.name)
        );
    }
    out.push_str("</ul>");
}
