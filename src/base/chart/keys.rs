//! The legend: the name and the look of each mark of a drawing.

use super::{Bars, Chart, Mark, Points, Stroke, Tone};

/// The name of a mark and its look in the legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key<'c> {
    pub(super) name: &'c str,
    pub(super) tone: Tone,
    pub(super) shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Line(Stroke),
    Area,
    Band,
    Dot,
    FaintDot,
    ErrorBar,
}

impl Chart {
    pub(super) fn keys(&self) -> Vec<Key<'_>> {
        let mut keys = Vec::new();
        for mark in &self.marks {
            let (name, tone, shape) = match mark {
                Mark::Line(line) => (&line.name, line.tone, Shape::Line(line.stroke)),
                Mark::Band(band) => (&band.name, band.tone, Shape::Band),
                Mark::Points(points) => (&points.name, points.tone, points.shape()),
                Mark::Stack(stack) => {
                    // The legend has the layers in the order in which they lie on each other.
                    let layers = stack.layers.iter().rev();
                    keys.extend(layers.map(|layer| Key {
                        name: &layer.name,
                        tone: layer.tone,
                        shape: Shape::Area,
                    }));
                    continue;
                }
                // Spans and rules have their names in the drawing.
                Mark::Span(_) | Mark::Rule(_) => continue,
            };
            if !name.is_empty() {
                keys.push(Key { name, tone, shape });
            }
        }
        keys
    }
}

impl Points {
    fn shape(&self) -> Shape {
        match (self.faint, self.all.iter().any(|point| point.error.is_some())) {
            (true, _) => Shape::FaintDot,
            (false, true) => Shape::ErrorBar,
            (false, false) => Shape::Dot,
        }
    }
}

impl Bars {
    pub(super) fn keys(&self) -> Vec<Key<'_>> {
        self.series.iter().map(|(name, tone)| Key { name, tone: *tone, shape: Shape::Area }).collect()
    }
}
