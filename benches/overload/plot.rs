//! Goodput against offered load, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 590.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 360.0;
/// Requests a second at the top.
const MOST: f64 = 250.0;
/// Between two labels at least.
const LINE: f64 = 16.0;

const COLOURS: [&str; 8] =
    ["#0b6e99", "#0b6e99", "#c0392b", "#8e44ad", "#d68910", "#27795a", "#7f8c8d", "#a04000"];

/// One server's goodput: how many times the capacity was offered, and good answers a second.
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The first curve is drawn thick, the second dashed if it is the same server without its limits.
pub(crate) fn svg(curves: &[Curve], capacity: f64) -> String {
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\" fill=\"#222\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">Good answers a second (2xx within 1 s) against offered load</text>\n"
    );
    for rate in [0.0, 50.0, 100.0, 150.0, 200.0, 250.0] {
        let y = y(rate);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{rate}</text>",
            LEFT - 8.0,
            y + 4.0
        );
    }
    for times in [1.0, 2.0, 5.0, 10.0, 20.0, 50.0] {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{times}×</text>",
            x(times),
            BOTTOM + 20.0
        );
    }
    let _ = writeln!(
        out,
        "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#222\" stroke-width=\"0.7\"/>\
         <text x=\"{LEFT}\" y=\"{1:.1}\" font-size=\"12\">capacity of the database</text>\
         <text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"middle\">offered, as times the capacity</text>",
        y(capacity),
        y(capacity) - 6.0,
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 42.0
    );
    let mut labels: Vec<(f64, usize)> = curves
        .iter()
        .enumerate()
        .filter_map(|(index, curve)| Some((y(curve.points.last()?.1), index)))
        .collect();
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    for (index, curve) in curves.iter().enumerate() {
        let points: Vec<String> =
            curve.points.iter().map(|(times, good)| format!("{:.1},{:.1}", x(*times), y(*good))).collect();
        let style = match index {
            0 => "stroke-width=\"4\"",
            _ if curve.name.starts_with("wharf") => "stroke-width=\"2\" stroke-dasharray=\"6 5\"",
            _ => "stroke-width=\"1.6\"",
        };
        let colour = COLOURS[index % COLOURS.len()];
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" {style}/>",
            points.join(" ")
        );
    }
    let mut last = f64::MIN;
    for (wanted, index) in labels {
        last = wanted.max(last + LINE);
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{}\">{}</text>",
            RIGHT + 8.0,
            last + 4.0,
            COLOURS[index % COLOURS.len()],
            curves[index].name.replace('&', "&amp;").replace('<', "&lt;")
        );
    }
    out.push_str("</svg>\n");
    out
}

fn x(times: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * times.ln() / 50_f64.ln()
}

fn y(rate: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * (rate / MOST).min(1.0)
}
