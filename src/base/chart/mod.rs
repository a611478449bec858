//! Charts and tables as one self-contained HTML page: no script, no font, no request to another server.
//!
//! Turns numbers and words into text, on any thread, without I/O. A chart is drawn twice, for wide windows and for
//! phones, and the style sheet shows the drawing that fits. So the text is never scaled down until nobody can read it.
//! This module does not know what the numbers mean. All text is escaped here and nowhere else. The markup is XML as
//! well as HTML, so that tests can read it.

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

/// A colour by its look. The style sheet has one version of each for light mode and one for dark mode.
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

/// A chart of marks on two axes. A value that cannot be shown is a gap: no number, or no logarithm on a logarithmic
/// axis.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) marks: Vec<Mark>,
}

/// A part of a drawing.
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
    /// The name in the legend.
    pub(crate) name: String,
    /// A short label at the end of the line.
    pub(crate) label: String,
    pub(crate) tone: Tone,
    pub(crate) stroke: Stroke,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The area between two lines: (x, low, high).
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
    /// Small and pale: the single values behind the other points.
    pub(crate) faint: bool,
    pub(crate) all: Vec<Point>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// The two ends of the error bar.
    pub(crate) error: Option<(f64, f64)>,
    /// The point is drawn as a cross instead of a dot.
    pub(crate) crossed: bool,
    /// A note beside the point.
    pub(crate) note: String,
    /// A text that is shown while a pointer rests on the point.
    pub(crate) hint: String,
}

/// Areas stacked on each other.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub(crate) x: Vec<f64>,
    pub(crate) layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) tone: Tone,
    /// One value for each x.
    pub(crate) values: Vec<f64>,
}

/// A marked range on the x axis.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) tone: Tone,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// A line at a value to compare the others with.
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
