//! Charts and tables as one HTML page that needs nothing else: no script, no font, no request to anybody.
//!
//! Numbers and words in, text out; any thread, no I/O. A chart is drawn twice, for wide windows and for a phone's width, and the
//! style sheet shows the one that fits, so that its text is never scaled until nobody can read it. Knows nothing of what the
//! numbers mean. All text is escaped here and nowhere else, and the markup is XML as well as HTML, so that tests can read it.

mod bars;
mod draw;
mod keys;
mod marks;
mod markup;
mod page;
mod place;
mod scale;
mod unit;

pub(crate) use bars::{Bars, Row};
pub(crate) use page::{Cell, Column, Drawing, Figure, Page, STYLE, Table, Tile};
pub(crate) use scale::{Axis, Extent};
pub(crate) use unit::Unit;

/// A colour by what it is to look like; the style sheet has one of each for light and for dark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Blue,
    Orange,
    Green,
    Purple,
    Gold,
    Grey,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Orange => "orange",
            Self::Green => "green",
            Self::Purple => "purple",
            Self::Gold => "gold",
            Self::Grey => "grey",
        }
    }
}

/// How a line is drawn, so that lines can be told apart without their colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stroke {
    Solid,
    Dashed,
    Dotted,
}

impl Stroke {
    fn class(self) -> &'static str {
        match self {
            Self::Solid => "solid",
            Self::Dashed => "dashed",
            Self::Dotted => "dotted",
        }
    }
}

/// A line chart. What cannot be shown (no number, or none that a logarithm has) is a gap.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) marks: Vec<Mark>,
}

/// Something that is drawn.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    Line(Line),
    Band(Band),
    Points(Points),
    Stack(Stack),
    Span(Span),
    Rule(Rule),
}

#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// In the legend.
    pub(crate) name: String,
    /// At its end; short.
    pub(crate) label: String,
    pub(crate) tone: Tone,
    pub(crate) stroke: Stroke,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What lies between two lines: (x, low, high).
#[derive(Clone, Debug)]
pub(crate) struct Band {
    pub(crate) name: String,
    pub(crate) tone: Tone,
    pub(crate) points: Vec<(f64, f64, f64)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Points {
    pub(crate) name: String,
    pub(crate) tone: Tone,
    /// Small and pale: what the others were made of.
    pub(crate) faint: bool,
    pub(crate) all: Vec<Point>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// The ends of its error bar.
    pub(crate) error: Option<(f64, f64)>,
    /// Drawn as a cross instead of a dot.
    pub(crate) crossed: bool,
    /// Beside it.
    pub(crate) note: String,
    /// Shown under a pointer that rests on it.
    pub(crate) hint: String,
}

/// Areas on top of each other.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub(crate) x: Vec<f64>,
    pub(crate) layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) tone: Tone,
    /// One for each x.
    pub(crate) values: Vec<f64>,
}

/// A range on the x axis.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) tone: Tone,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// A value that the others are held against.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) tone: Tone,
    pub(crate) at: At,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    X(f64),
    Y(f64),
}

#[cfg(test)]
pub(crate) mod tests;
