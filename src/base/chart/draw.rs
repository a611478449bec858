//! A chart as SVG. The style sheet sets the colours and the sizes of text.

use std::fmt::Write as _;

use super::markup::{Place, Text};
use super::place::{bold_width, spread, width, with_room};
use super::scale::Scale;
use super::{At, Chart, Mark, Point, Rule, Tone};

/// The screen that a drawing is made for. Each drawing is shown at about the size that it is drawn at, so that its text
/// keeps its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Wide,
    /// A phone held upright.
    Narrow,
}

impl Size {
    pub(super) fn width(self) -> f64 {
        match self {
            Self::Wide => 800.0,
            Self::Narrow => 340.0,
        }
    }

    pub(super) fn font(self) -> f64 {
        match self {
            Self::Wide => 13.0,
            Self::Narrow => 12.0,
        }
    }

    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Narrow => "narrow",
        }
    }

    fn height(self) -> f64 {
        match self {
            Self::Wide => 320.0,
            Self::Narrow => 260.0,
        }
    }

    /// About how many ticks an axis has room for: the x axis, then the y axis.
    fn ticks(self) -> (u32, u32) {
        match self {
            Self::Wide => (8, 5),
            Self::Narrow => (4, 4),
        }
    }

    /// The widest label beside the last value of a line.
    fn label_max(self) -> f64 {
        match self {
            Self::Wide => 160.0,
            Self::Narrow => 72.0,
        }
    }
}

pub(super) fn begin(out: &mut String, title: &str, size: Size, height: f64) {
    let (title, width, height) = (Text(title), Place(size.width()), Place(height));
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"{}\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-label=\"{title}\"><title>{title}</title>",
        size.class()
    );
}

impl Chart {
    /// The chart as SVG. `title` is for people who cannot see it.
    pub(super) fn svg(&self, title: &str, size: Size) -> String {
        let mut out = String::new();
        begin(&mut out, title, size, size.height());
        match Frame::new(self, size) {
            Some(frame) => frame.draw(self, &mut out),
            None => nothing(&mut out, size),
        }
        out.push_str("</svg>");
        out
    }

    fn xs(&self) -> impl Iterator<Item = f64> {
        let named = self.x.ticks.iter().map(|(place, _)| *place).chain(self.x.reach);
        named.chain(self.marks.iter().flat_map(|mark| match mark {
            Mark::Line(line) => line.points.iter().map(|(x, _)| *x).collect(),
            Mark::Band(band) => band.points.iter().map(|(x, ..)| *x).collect(),
            Mark::Points(points) => points.all.iter().map(|point| point.x).collect(),
            Mark::Stack(stack) => stack.x.clone(),
            Mark::Span(span) => vec![span.from, span.to],
            Mark::Rule(Rule { at: At::X(x), .. }) => vec![*x],
            Mark::Rule(_) => Vec::new(),
        }))
    }

    fn ys(&self) -> impl Iterator<Item = f64> {
        self.marks.iter().flat_map(|mark| match mark {
            Mark::Line(line) => line.points.iter().map(|(_, y)| *y).collect(),
            Mark::Band(band) => band.points.iter().flat_map(|(_, low, high)| [*low, *high]).collect(),
            Mark::Points(points) => points.all.iter().flat_map(Point::ys).collect(),
            Mark::Stack(stack) => stack.tops().pop().unwrap_or_default(),
            Mark::Rule(Rule { at: At::Y(y), .. }) => vec![*y],
            Mark::Span(_) | Mark::Rule(_) => Vec::new(),
        })
    }

    fn has_points(&self) -> bool {
        self.marks.iter().any(|mark| matches!(mark, Mark::Points(_)))
    }
}

impl Point {
    fn ys(&self) -> Vec<f64> {
        let (low, high) = self.error.unwrap_or((self.y, self.y));
        vec![self.y, low, high]
    }
}

fn nothing(out: &mut String, size: Size) {
    let (x, y) = (Place(size.width() / 2.0), Place(size.height() / 2.0));
    let _ = write!(out, "<text class=\"middle muted\" x=\"{x}\" y=\"{y}\">nothing to show</text>");
}

/// The layout of a drawing: where the axes are.
pub(super) struct Frame {
    pub(super) x: Scale,
    pub(super) y: Scale,
    pub(super) size: Size,
    pub(super) font: f64,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Frame {
    fn new(chart: &Chart, size: Size) -> Option<Self> {
        let font = size.font();
        let (along, up) = size.ticks();
        let x = Scale::new(&chart.x, chart.xs(), along)?;
        let y = Scale::new(&chart.y, chart.ys(), up)?;
        let widest = y.ticks.iter().map(|(_, label)| width(label, font)).fold(0.0, f64::max);
        let left = widest + 12.0;
        let labels = chart.marks.iter().flat_map(end_labels).map(|label| bold_width(label, font));
        let label = labels.filter(|width| *width <= size.label_max()).fold(0.0, f64::max);
        let right = size.width() - if label > 0.0 { label + 12.0 } else { 14.0 };
        let (top, bottom) = (font * 2.2, size.height() - font * 3.2);
        // Dots keep a distance from the ends, where they would be cut off.
        let inset = if chart.has_points() { 16.0 } else { 0.0 };
        let (x, y) = (x.over(left + inset, right - inset), y.over(bottom, top));
        Some(Self { x, y, size, font, left, right, top, bottom })
    }

    fn draw(&self, chart: &Chart, out: &mut String) {
        chart.marks.iter().for_each(|mark| {
            if let Mark::Span(span) = mark {
                self.span(span, out);
            }
        });
        self.axes(chart, out);
        chart.marks.iter().for_each(|mark| match mark {
            Mark::Band(band) => self.band(band, out),
            Mark::Stack(stack) => self.stack(stack, out),
            _ => {}
        });
        chart.marks.iter().for_each(|mark| {
            if let Mark::Rule(rule) = mark {
                self.rule(rule, out);
            }
        });
        chart.marks.iter().for_each(|mark| {
            if let Mark::Line(line) = mark {
                self.line(line, out);
            }
        });
        chart.marks.iter().for_each(|mark| {
            if let Mark::Points(points) = mark {
                self.points(points, out);
            }
        });
        self.labels(chart, out);
    }

    fn axes(&self, chart: &Chart, out: &mut String) {
        let font = self.font;
        let (left, right) = (Place(self.left), Place(self.right));
        for (value, label) in &self.y.ticks {
            let Some(place) = self.y.at(*value) else { continue };
            let (at, base, end) = (Place(place), Place(place + font * 0.35), Place(self.left - 6.0));
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at}\" y2=\"{at}\"/>\
                 <text class=\"end\" x=\"{end}\" y=\"{base}\">{}</text>",
                Text(label)
            );
        }
        let places: Vec<_> = self
            .x
            .ticks
            .iter()
            .filter_map(|(value, label)| Some((self.x.at(*value)?, label.as_str())))
            .collect();
        let widths: Vec<_> = places.iter().map(|(place, label)| (*place, width(label, font))).collect();
        let (bottom, tick, base) =
            (Place(self.bottom), Place(self.bottom + 5.0), Place(self.bottom + 6.0 + font));
        let _ = write!(
            out,
            "<line class=\"axis\" x1=\"{left}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>"
        );
        for ((place, label), shown) in places.iter().zip(with_room(&widths, font * 0.6)) {
            let at = Place(*place);
            let _ =
                write!(out, "<line class=\"axis\" x1=\"{at}\" x2=\"{at}\" y1=\"{bottom}\" y2=\"{tick}\"/>");
            if shown {
                // The outermost labels stay within the drawing.
                let half = width(label, font) / 2.0;
                let at = Place(place.clamp(half + 1.0, (self.size.width() - half - 1.0).max(half + 1.0)));
                let _ = write!(out, "<text class=\"middle\" x=\"{at}\" y=\"{base}\">{}</text>", Text(label));
            }
        }
        let kind = |scale: &Scale| if scale.is_log { " (logarithmic)" } else { "" };
        let (x, y) = (&chart.x.title, &chart.y.title);
        let _ = write!(
            out,
            "<text class=\"title\" x=\"0\" y=\"{}\">{}{}</text>\
             <text class=\"title end\" x=\"{right}\" y=\"{}\">{}{}</text>",
            Place(font),
            Text(y),
            kind(&self.y),
            Place(self.size.height() - 4.0),
            Text(x),
            // An axis of percentiles needs no note: its ticks show that it is logarithmic.
            if chart.x.unit == super::Unit::Nines { "" } else { kind(&self.x) },
        );
    }

    /// Writes names beside the last values, so that nobody has to look for a colour in the legend.
    fn labels(&self, chart: &Chart, out: &mut String) {
        let mut labels: Vec<(f64, f64, &str, Tone)> = Vec::new();
        for mark in &chart.marks {
            match mark {
                Mark::Line(line) => {
                    let last = line.points.iter().rev().find_map(|(x, y)| self.place(*x, *y));
                    labels.extend(last.map(|(x, y)| (x, y, line.label.as_str(), line.tone)));
                }
                Mark::Stack(stack) => {
                    let Some(x) = stack.x.last().and_then(|x| self.x.at(*x)) else { continue };
                    let mut below = self.y.base();
                    for (layer, tops) in stack.layers.iter().zip(stack.tops()) {
                        let top = tops.last().and_then(|top| self.y.at(*top)).unwrap_or(below);
                        if below - top >= 2.0 {
                            labels.push((x, f64::midpoint(top, below), layer.name.as_str(), layer.tone));
                        }
                        below = top;
                    }
                }
                _ => {}
            }
        }
        labels.retain(|(_, _, label, _)| {
            !label.is_empty() && bold_width(label, self.font) <= self.size.label_max()
        });
        let mut places: Vec<f64> = labels.iter().map(|(_, y, ..)| *y).collect();
        spread(&mut places, self.font * 1.15, self.top, self.bottom - 2.0);
        for ((x, _, label, tone), place) in labels.iter().zip(places) {
            let _ = write!(
                out,
                "<text class=\"label {}\" x=\"{}\" y=\"{}\">{}</text>",
                tone.class(),
                Place(x + 8.0),
                Place(place + self.font * 0.35),
                Text(label)
            );
        }
    }
}

/// The labels that stand to the right of their marks.
fn end_labels(mark: &Mark) -> Vec<&str> {
    match mark {
        Mark::Line(line) => vec![line.label.as_str()],
        Mark::Stack(stack) => stack.layers.iter().map(|layer| layer.name.as_str()).collect(),
        _ => Vec::new(),
    }
}
