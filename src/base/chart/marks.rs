//! Draws each kind of mark.

use std::fmt::Write as _;

use super::draw::Frame;
use super::markup::{Place, Text};
use super::place::bold_width;
use super::{At, Band, Line, Points, Rule, Span, Stack, Tone};

impl Frame {
    pub(super) fn span(&self, span: &Span, out: &mut String) {
        let (Some(from), Some(to)) = (self.x.at(span.from), self.x.at(span.to)) else { return };
        let (top, height) = (Place(self.top), Place(self.bottom - self.top));
        let _ = write!(
            out,
            "<rect class=\"span {}\" x=\"{}\" y=\"{top}\" width=\"{}\" height=\"{height}\"/>",
            span.tone.class(),
            Place(from),
            Place((to - from).max(1.0))
        );
        let wide = bold_width(&span.name, self.font);
        // A name that is too wide for the drawing starts at the left end of the drawing.
        let first = self.left + wide / 2.0 + 2.0;
        let at = f64::midpoint(from, to).clamp(first, (self.right - wide / 2.0).max(first));
        let _ = write!(
            out,
            "<text class=\"middle label {}\" x=\"{}\" y=\"{}\">{}</text>",
            span.tone.class(),
            Place(at),
            Place(self.bottom - 6.0),
            Text(&span.name)
        );
    }

    pub(super) fn rule(&self, rule: &Rule, out: &mut String) {
        let tone = rule.tone.class();
        let wide = bold_width(&rule.name, self.font);
        let (x1, x2, y1, y2, text_x, text_y, anchor) = match rule.at {
            At::X(x) => {
                let Some(at) = self.x.at(x) else { return };
                let fits = at + wide + 5.0 < self.right;
                let (text, anchor) = if fits { (at + 5.0, "") } else { (at - 5.0, "end") };
                (at, at, self.top - 4.0, self.bottom, text, self.top + self.font * 0.6, anchor)
            }
            At::Y(y) => {
                let Some(at) = self.y.at(y) else { return };
                // The name stands above the line if there is room.
                let above = at - 5.0;
                let text = if above > self.top + self.font * 0.5 { above } else { at + self.font + 1.0 };
                (self.left, self.right, at, at, self.left + 6.0, text, "")
            }
        };
        let _ = write!(
            out,
            "<line class=\"rule {tone}\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>\
             <text class=\"label {anchor} {tone}\" x=\"{}\" y=\"{}\">{}</text>",
            Place(x1),
            Place(x2),
            Place(y1),
            Place(y2),
            Place(text_x),
            Place(text_y),
            Text(&rule.name)
        );
    }

    pub(super) fn place(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        Some((self.x.at(x)?, self.y.at(y)?))
    }

    pub(super) fn line(&self, line: &Line, out: &mut String) {
        let tone = line.tone.class();
        let places: Vec<_> = line.points.iter().map(|(x, y)| self.place(*x, *y)).collect();
        let mut path = String::new();
        for piece in places.split(Option::is_none) {
            for (index, (x, y)) in piece.iter().flatten().enumerate() {
                let letter = if index == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{letter}{} {}", Place(*x), Place(*y));
            }
            if let [Some((x, y))] = piece {
                // A single value between gaps would not be seen as a line, so it is a dot.
                let _ = write!(
                    out,
                    "<circle class=\"dot {tone}\" cx=\"{}\" cy=\"{}\" r=\"2.5\"/>",
                    Place(*x),
                    Place(*y)
                );
            }
        }
        if !path.is_empty() {
            let _ = write!(out, "<path class=\"line {} {tone}\" d=\"{path}\"/>", line.stroke.class());
        }
    }

    pub(super) fn band(&self, band: &Band, out: &mut String) {
        let sides = |x: f64, low: f64, high: f64| Some((self.place(x, low)?, self.place(x, high)?));
        let places: Vec<_> = band.points.iter().map(|(x, low, high)| sides(*x, *low, *high)).collect();
        for piece in places.split(Option::is_none) {
            let upper = piece.iter().flatten().map(|(_, high)| *high);
            let lower = piece.iter().flatten().rev().map(|(low, _)| *low);
            polygon(out, "band", band.tone, upper.chain(lower));
        }
    }

    pub(super) fn stack(&self, stack: &Stack, out: &mut String) {
        let base = self.y.base();
        let mut below: Vec<f64> = vec![base; stack.x.len()];
        for (layer, tops) in stack.layers.iter().zip(stack.tops()) {
            let above: Vec<f64> = tops.iter().map(|top| self.y.at(*top).unwrap_or(base)).collect();
            let xs: Vec<f64> = stack.x.iter().map(|x| self.x.at(*x).unwrap_or(self.left)).collect();
            let upper = xs.iter().copied().zip(above.iter().copied());
            let lower = xs.iter().copied().zip(below.iter().copied()).rev();
            polygon(out, "area", layer.tone, upper.chain(lower));
            below = above;
        }
    }

    pub(super) fn points(&self, points: &Points, out: &mut String) {
        let tone = points.tone.class();
        for point in &points.all {
            let Some((x, y)) = self.place(point.x, point.y) else { continue };
            out.push_str("<g>");
            if !point.hint.is_empty() {
                let _ = write!(out, "<title>{}</title>", Text(&point.hint));
            }
            if let Some((low, high)) = point.error
                && let (Some(low), Some(high)) = (self.y.at(low), self.y.at(high))
            {
                let (left, right) = (Place(x - 4.0), Place(x + 4.0));
                let (x, low, high) = (Place(x), Place(low), Place(high));
                let _ = write!(
                    out,
                    "<path class=\"error {tone}\" d=\"M{x} {low}L{x} {high}M{left} {low}L{right} {low}M{left} {high}L{right} {high}\"/>"
                );
            }
            let (at_x, at_y) = (Place(x), Place(y));
            if point.crossed {
                let (left, right, up, down) =
                    (Place(x - 5.0), Place(x + 5.0), Place(y - 5.0), Place(y + 5.0));
                let _ = write!(
                    out,
                    "<path class=\"cross {tone}\" d=\"M{left} {up}L{right} {down}M{left} {down}L{right} {up}\"/>"
                );
            } else {
                let (class, radius) = if points.faint { ("faint", 2.5) } else { ("dot", 4.0) };
                let _ = write!(
                    out,
                    "<circle class=\"{class} {tone}\" cx=\"{at_x}\" cy=\"{at_y}\" r=\"{radius}\"/>"
                );
            }
            if !point.note.is_empty() {
                let half = bold_width(&point.note, self.font) / 2.0;
                let at = x.clamp(half + 1.0, (self.size.width() - half - 1.0).max(half + 1.0));
                let base = if y - 10.0 > self.top + self.font { y - 10.0 } else { y + self.font + 8.0 };
                let _ = write!(
                    out,
                    "<text class=\"middle label {tone}\" x=\"{}\" y=\"{}\">{}</text>",
                    Place(at),
                    Place(base),
                    Text(&point.note)
                );
            }
            out.push_str("</g>");
        }
    }
}

impl Stack {
    /// The upper edge of each layer.
    pub(super) fn tops(&self) -> Vec<Vec<f64>> {
        let mut sum = vec![0.0; self.x.len()];
        let mut tops = Vec::new();
        for layer in &self.layers {
            for (sum, value) in sum.iter_mut().zip(&layer.values) {
                *sum += if value.is_finite() { value.max(0.0) } else { 0.0 };
            }
            tops.push(sum.clone());
        }
        tops
    }
}

fn polygon(out: &mut String, class: &str, tone: Tone, places: impl Iterator<Item = (f64, f64)>) {
    let mut points = String::new();
    for (x, y) in places {
        let _ = write!(points, "{},{} ", Place(x), Place(y));
    }
    if !points.is_empty() {
        let _ = write!(out, "<polygon class=\"{class} {}\" points=\"{}\"/>", tone.class(), points.trim_end());
    }
}
