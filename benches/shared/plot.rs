//! Curves over one logarithmic axis as SVG: one panel under the other, each with a scale of its own.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 590.0;
/// The space above a panel's scale, for the title.
const ABOVE: f64 = 40.0;
/// The space under a panel's scale, for the labels and the name of the axis.
const UNDER: f64 = 60.0;
/// The least distance between two labels.
const LINE: f64 = 16.0;

const COLOURS: [&str; 8] =
    ["#0b6e99", "#0b6e99", "#c0392b", "#8e44ad", "#d68910", "#27795a", "#7f8c8d", "#a04000"];

/// A drawing.
pub(crate) struct Plot<'a> {
    /// The name of the axis.
    pub(crate) axis: &'a str,
    /// The positions and texts of the axis's labels. The axis goes from the first to the last.
    pub(crate) ticks: Vec<(f64, String)>,
    pub(crate) panels: Vec<Panel<'a>>,
}

/// Curves of one unit.
pub(crate) struct Panel<'a> {
    pub(crate) title: &'a str,
    /// Linear from 0, or by powers of ten.
    pub(crate) scale: Scale,
    /// The height of the scale, in pixels.
    pub(crate) height: f64,
    /// A value to compare the curves with, and its name.
    pub(crate) line: Option<(f64, &'a str)>,
    /// The first curve is drawn thick. Other curves of this project are dashed: the same server with other settings.
    pub(crate) curves: Vec<Curve>,
}

/// A line through these points.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// How values become heights.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
    Linear { step: f64, most: f64 },
    Decades { least: f64, most: f64 },
}

impl Scale {
    /// A linear scale from 0 to the largest value in readable steps, or powers of ten where the values differ by much more.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let (least, most) = values
            .into_iter()
            .filter(|value| *value > 0.0)
            .fold((f64::MAX, f64::MIN_POSITIVE), |(least, most), value| (least.min(value), most.max(value)));
        let decade = |value: f64| 10_f64.powf(value.log10().floor());
        if most / least > 30.0 {
            return Self::Decades { least: decade(least), most: 10_f64.powf(most.log10().ceil()) };
        }
        let step = [0.1, 0.2, 0.5, 1.0, 2.0].map(|factor| factor * decade(most));
        let step = step.into_iter().find(|step| most / step <= 6.0).unwrap_or(most);
        Self::Linear { step, most: (most / step).ceil() * step }
    }

    fn ticks(self) -> Vec<f64> {
        let (mut ticks, mut next) = match self {
            Self::Linear { .. } => (vec![], 0.0),
            Self::Decades { least, .. } => (vec![], least),
        };
        let (Self::Linear { most, .. } | Self::Decades { most, .. }) = self;
        // Sums of steps are a little beside what they stand for.
        while next <= most * 1.001 {
            ticks.push(next);
            next = match self {
                Self::Linear { step, .. } => next + step,
                Self::Decades { .. } => next * 10.0,
            };
        }
        ticks
    }

    /// From 0 at the bottom to 1 at the top.
    fn share(self, value: f64) -> f64 {
        match self {
            Self::Linear { most, .. } => (value / most).min(1.0),
            Self::Decades { least, most } => ((value.max(least) / least).ln() / (most / least).ln()).min(1.0),
        }
    }
}

impl Plot<'_> {
    pub(crate) fn svg(&self) -> String {
        let height: f64 = self.panels.iter().map(|panel| ABOVE + panel.height + UNDER).sum();
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"13\" fill=\"#222\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
        );
        let mut top = 0.0;
        for panel in &self.panels {
            self.draw(&mut out, panel, top);
            top += ABOVE + panel.height + UNDER;
        }
        out.push_str("</svg>\n");
        out
    }

    /// Writing to a String cannot fail.
    fn draw(&self, out: &mut String, panel: &Panel<'_>, top: f64) {
        let bottom = top + ABOVE + panel.height;
        let y = |value: f64| bottom - panel.height * panel.scale.share(value);
        let _ =
            writeln!(out, "<text x=\"{LEFT}\" y=\"{}\" font-size=\"15\">{}</text>", top + 22.0, panel.title);
        for value in panel.scale.ticks() {
            let y = y(value);
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                label(value)
            );
        }
        for (value, label) in &self.ticks {
            let (x, y) = (self.x(*value), bottom + 20.0);
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{label}</text>");
        }
        if let Some((value, what)) = panel.line {
            let y = y(value);
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#222\" stroke-width=\"0.7\"/>\
                 <text x=\"{LEFT}\" y=\"{:.1}\" font-size=\"12\">{what}</text>",
                y - 6.0
            );
        }
        let (x, under) = (f64::midpoint(LEFT, RIGHT), bottom + 42.0);
        let _ =
            writeln!(out, "<text x=\"{x:.1}\" y=\"{under:.1}\" text-anchor=\"middle\">{}</text>", self.axis);
        self.draw_curves(out, &panel.curves, y);
    }

    fn draw_curves(&self, out: &mut String, curves: &[Curve], y: impl Fn(f64) -> f64) {
        for (index, curve) in curves.iter().enumerate() {
            let place = |(x, value): &(f64, f64)| format!("{:.1},{:.1}", self.x(*x), y(*value));
            let points: Vec<String> = curve.points.iter().map(place).collect();
            let style = match index {
                0 => "stroke-width=\"4\"",
                _ if curve.name.starts_with("wharf") => "stroke-width=\"2\" stroke-dasharray=\"6 5\"",
                _ => "stroke-width=\"1.6\"",
            };
            let (points, colour) = (points.join(" "), COLOURS[index % COLOURS.len()]);
            let _ =
                writeln!(out, "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" {style}/>");
        }
        let ends = curves.iter().enumerate();
        let mut ends: Vec<(f64, usize)> =
            ends.filter_map(|(index, curve)| Some((y(curve.points.last()?.1), index))).collect();
        ends.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut last = f64::MIN;
        for (wanted, index) in ends {
            last = wanted.max(last + LINE);
            let (x, y, colour) = (RIGHT + 8.0, last + 4.0, COLOURS[index % COLOURS.len()]);
            let name = curves[index].name.replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{name}</text>");
        }
    }

    fn x(&self, value: f64) -> f64 {
        let end = |tick: Option<&(f64, String)>| tick.map_or(1.0, |tick| tick.0);
        let (first, last) = (end(self.ticks.first()), end(self.ticks.last()));
        LEFT + (RIGHT - LEFT) * (value / first).ln() / (last / first).ln()
    }
}

/// A thousand and more in thousands.
fn label(value: f64) -> String {
    let rounded = |value: f64| (value * 100.0).round() / 100.0;
    if value >= 1000.0 { format!("{}k", rounded(value / 1000.0)) } else { rounded(value).to_string() }
}
