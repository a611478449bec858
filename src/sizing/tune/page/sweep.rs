//! One sweep: throughput and latency against the varied size.

use super::super::report::{SizeReport, SweepReport};
use super::super::subject::SHARES_FROM;
use super::{real, sentence};
use crate::base::chart::{
    At, Axis, Band, Cell, Chart, Column, Drawing, Extent, Figure, Line, Mark, Page, Point, Points, Rule,
    Span, Stroke, Table, Tone, Unit,
};

/// Past this ratio of the largest to the smallest size a linear axis would press the small sizes together.
const LOG_FROM: usize = 16;

/// A bound is drawn only up to this many times the measured values, because a higher one would press them to the
/// bottom.
const FAR: f64 = 3.0;

/// `unit`: the varied quantity. `bounds`: the objectives with their milliseconds.
pub(super) fn show(sweep: &SweepReport, unit: &str, bounds: &[(String, f64)], page: &mut Page) {
    page.figure(&throughput(sweep, unit));
    page.figure(&latency(sweep, unit, bounds));
}

fn throughput(sweep: &SweepReport, unit: &str) -> Figure {
    let mut marks = ranges(sweep);
    marks.extend(law(sweep));
    let repetitions = sweep.sizes.iter().flat_map(|size| {
        size.repetitions_per_s.iter().map(|per_s| Point { x: real(size.size), y: *per_s, ..Point::default() })
    });
    marks.push(Mark::Points(Points {
        name: "each repetition".to_owned(),
        tone: Tone::Blue,
        faint: true,
        all: repetitions.collect(),
    }));
    marks.push(Mark::Points(Points {
        name: "mean, with its interval of 95 % confidence".to_owned(),
        tone: Tone::Blue,
        faint: false,
        all: sweep.sizes.iter().map(|size| mean(size, unit)).collect(),
    }));
    let crosses = if sweep.sizes.iter().any(|size| !size.meets) {
        " A cross is a size that misses the objectives."
    } else {
        ""
    };
    Figure {
        title: format!("Throughput against {unit}"),
        caption: format!("{}{crosses} {}", sentence(&sweep.words), law_words(sweep)),
        drawing: Drawing::Chart(Chart {
            x: sizes_axis(sweep, unit),
            y: Axis::new("good answers a second", Unit::PerSecond, Extent::Zero),
            marks,
        }),
        data: throughput_data(sweep, unit),
    }
}

fn mean(size: &SizeReport, unit: &str) -> Point {
    let rate = |per_s| Unit::PerSecond.text(per_s);
    let interval = match (size.low_per_s, size.high_per_s) {
        (Some(low), Some(high)) => Some((low, high)),
        _ => None,
    };
    let between =
        interval.map(|(low, high)| format!(", {} to {}", rate(low), rate(high))).unwrap_or_default();
    Point {
        x: real(size.size),
        y: size.per_s,
        error: interval,
        crossed: !size.meets,
        hint: format!("{} {unit}: {}{between}", size.size, rate(size.per_s)),
        ..Point::default()
    }
}

/// The range of equal throughput, the range of the knee, and the size to take.
fn ranges(sweep: &SweepReport) -> Vec<Mark> {
    let mut marks = Vec::new();
    let range =
        |name: String, tone, from, to| Mark::Span(Span { name, tone, from: real(from), to: real(to) });
    match (sweep.size, sweep.flat_to, sweep.band) {
        (Some(size), Some(flat_to), _) if flat_to > size => {
            marks.push(range(format!("flat from {size} to {flat_to}"), Tone::Green, size, flat_to));
        }
        (None, _, Some((low, high))) => {
            marks.push(range(format!("somewhere from {low} to {high}"), Tone::Gold, low, high));
        }
        _ => {}
    }
    if let Some(size) = sweep.size {
        marks.push(take(size));
    }
    marks
}

fn take(size: usize) -> Mark {
    Mark::Rule(Rule { name: format!("take {size}"), tone: Tone::Green, at: At::X(real(size)) })
}

/// The fitted law, drawn only where it describes the measurements, and only between measured sizes.
fn law(sweep: &SweepReport) -> Vec<Mark> {
    let curve = &sweep.law.curve;
    if !sweep.law.fits || curve.is_empty() {
        return Vec::new();
    }
    let band = curve.iter().map(|point| (point.size, point.band.low, point.band.high));
    let line = curve.iter().map(|point| (point.size, point.per_s));
    vec![
        Mark::Band(Band {
            name: "where the law lies, with 95 % confidence".to_owned(),
            tone: Tone::Purple,
            points: band.collect(),
        }),
        Mark::Line(Line {
            name: "Universal Scalability Law".to_owned(),
            label: String::new(),
            tone: Tone::Purple,
            stroke: Stroke::Dashed,
            points: line.collect(),
        }),
    ]
}

fn law_words(sweep: &SweepReport) -> String {
    if sweep.law.fits {
        format!(
            "The Universal Scalability Law fits: {}. Nothing is said beyond the measured sizes.",
            sweep.law.words
        )
    } else {
        sentence(&sweep.law.words)
    }
}

fn sizes_axis(sweep: &SweepReport, unit: &str) -> Axis {
    let sizes: Vec<usize> = sweep.sizes.iter().map(|size| size.size).collect();
    let (first, last) = (sizes.first().copied().unwrap_or(1), sizes.last().copied().unwrap_or(1));
    let extent = if last / first.max(1) >= LOG_FROM { Extent::Log } else { Extent::Data };
    let ticks = sizes.into_iter().map(|size| (real(size), size.to_string()));
    Axis::new(unit, Unit::Count, extent).ticks(ticks.collect())
}

fn throughput_data(sweep: &SweepReport, unit: &str) -> Table {
    let fitted =
        |size: usize| sweep.law.points.iter().find(|point| point.size == size).filter(|_| sweep.law.fits);
    let shares = sweep.sizes.iter().any(|size| size.at_once >= SHARES_FROM);
    let row = |size: &SizeReport| {
        let law = fitted(size.size);
        let mut row = vec![
            Cell::Count(size.size as u64),
            Cell::Number(size.per_s),
            Cell::maybe(size.low_per_s),
            Cell::maybe(size.high_per_s),
        ];
        if sweep.law.fits {
            row.extend(
                [law.map(|law| law.per_s), law.map(|law| law.low_per_s), law.map(|law| law.high_per_s)]
                    .map(Cell::maybe),
            );
        }
        if shares {
            row.push(Cell::Number(size.at_once));
        }
        let repetitions: Vec<String> =
            size.repetitions_per_s.iter().map(|per_s| Unit::Count.text(per_s.round())).collect();
        row.push(Cell::text(if size.meets { "yes" } else { "no" }));
        row.push(Cell::Text(repetitions.join("; ")));
        row
    };
    let mut columns = vec![Column::number(unit)];
    columns.extend(["mean", "low", "high"].map(Column::number));
    if sweep.law.fits {
        columns.extend(["law", "law low", "law high"].map(Column::number));
    }
    columns.extend(shares.then(|| Column::number("requests at once on a session")));
    columns.extend(["meets the objectives", "each repetition"].map(Column::text));
    Table {
        caption: "Good answers a second, with intervals of 95 % confidence".to_owned(),
        columns,
        rows: sweep.sizes.iter().map(row).collect(),
    }
}

fn latency(sweep: &SweepReport, unit: &str, bounds: &[(String, f64)]) -> Figure {
    let mut marks = Vec::new();
    let highest = sweep.sizes.iter().map(|size| size.p99_ms).fold(0.0, f64::max);
    let shown = bounds.iter().filter(|(_, ms)| *ms <= FAR * highest);
    marks.extend(
        shown.map(|(name, ms)| Mark::Rule(Rule { name: name.clone(), tone: Tone::Grey, at: At::Y(*ms) })),
    );
    marks.extend(sweep.size.map(take));
    for (label, name, tone, stroke, value) in [
        (
            "p99",
            "p99: 1 in 100 waited longer",
            Tone::Orange,
            Stroke::Solid,
            (|size| size.p99_ms) as fn(&SizeReport) -> f64,
        ),
        ("p50", "p50: half waited less", Tone::Blue, Stroke::Dashed, |size| size.p50_ms),
    ] {
        let points = sweep.sizes.iter().map(|size| (real(size.size), value(size)));
        marks.push(Mark::Line(Line {
            name: name.to_owned(),
            label: label.to_owned(),
            tone,
            stroke,
            points: points.collect(),
        }));
        let points = sweep.sizes.iter().map(|size| Point {
            x: real(size.size),
            y: value(size),
            hint: format!("{} {unit}: {label} {}", size.size, Unit::Milliseconds.text(value(size))),
            ..Point::default()
        });
        marks.push(Mark::Points(Points { name: String::new(), tone, faint: false, all: points.collect() }));
    }
    Figure {
        title: format!("Latency against {unit}"),
        caption: "Each client asks again as soon as it is answered, so that all of them are always busy. The median of the \
                  repetitions."
            .to_owned(),
        drawing: Drawing::Chart(Chart {
            x: sizes_axis(sweep, unit),
            y: Axis::new("latency", Unit::Milliseconds, Extent::Auto),
            marks,
        }),
        data: Table {
            caption: "Latency in milliseconds".to_owned(),
            columns: [unit, "p50", "p99"].map(Column::number).to_vec(),
            rows: sweep
                .sizes
                .iter()
                .map(|size| vec![Cell::Count(size.size as u64), Cell::Number(size.p50_ms), Cell::Number(size.p99_ms)])
                .collect(),
        },
    }
}
