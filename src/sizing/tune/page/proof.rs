//! The proof: the throughput that remains when more requests come than the server can serve.

use super::super::report::{LevelReport, Report};
use super::super::sweep::{HOLDS, LEVELS};
use super::real;
use crate::base::chart::{
    At, Axis, Bars, Cell, Chart, Column, Drawing, Extent, Figure, Line, Mark, Page, Point, Points, Row, Rule,
    Stroke, Table, Tone, Unit,
};

pub(super) fn show(report: &Report, page: &mut Page) {
    let failed: Vec<String> = report
        .proof
        .iter()
        .filter(|level| !level.holds)
        .map(|level| format!("{} %", level.percent))
        .collect();
    if report.proof.is_empty() {
        page.warning("Not proved:", "no load was offered.");
        return;
    }
    if report.proof.len() < LEVELS.len() {
        page.warning("Not proved:", "the run ended before every load was offered.");
        page.figure(&goodput(report));
        page.table(&levels(report));
        return;
    }
    let text = if failed.is_empty() {
        format!(
            "at every load at least {:.0} % of the requests that can be served were served.",
            HOLDS * 100.0
        )
    } else {
        format!("too little was served at {}.", failed.join(", "))
    };
    let head = if failed.is_empty() { "Goodput holds:" } else { "Goodput does not hold:" };
    page.verdict(failed.is_empty(), head, &text);
    if report.tightened > 0 {
        page.paragraph(&format!("The queue was made shorter {} for this.", times(report.tightened)));
    }
    page.figure(&goodput(report));
    page.figure(&shares(report));
    page.table(&levels(report));
}

fn times(count: usize) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

/// The good answers a second that a level needs to hold.
fn needed(level: &LevelReport, capacity: f64) -> f64 {
    HOLDS * if level.percent < 100 { level.offered_per_s } else { capacity }
}

fn goodput(report: &Report) -> Figure {
    let levels = &report.proof;
    let line = |name: &str, label: &str, tone, stroke, value: &dyn Fn(&LevelReport) -> f64| {
        let points = levels.iter().enumerate().map(|(index, level)| (real(index), value(level)));
        Mark::Line(Line {
            name: name.to_owned(),
            label: label.to_owned(),
            tone,
            stroke,
            points: points.collect(),
        })
    };
    let capacity = report.capacity_per_s.unwrap_or_default();
    let least = |level: &LevelReport| needed(level, capacity);
    let points = levels.iter().enumerate().map(|(index, level)| Point {
        x: real(index),
        y: level.good_per_s,
        crossed: !level.holds,
        note: if level.holds { "holds" } else { "does not hold" }.to_owned(),
        hint: format!("{} % of the capacity: {}", level.percent, Unit::PerSecond.text(level.good_per_s)),
        error: None,
    });
    let ticks = levels.iter().enumerate().map(|(index, level)| (real(index), format!("{} %", level.percent)));
    Figure {
        title: "Good answers against offered load".to_owned(),
        caption: "Requests come at a rate, whether or not those before them are answered. The steps of the load are not to scale."
            .to_owned(),
        drawing: Drawing::Chart(Chart {
            x: Axis::new("offered, of the capacity", Unit::Count, Extent::Data).ticks(ticks.collect()),
            y: Axis::new("good answers a second", Unit::PerSecond, Extent::Zero),
            marks: vec![
                Mark::Rule(Rule {
                    name: format!("capacity {}", Unit::PerSecond.text(capacity.round())),
                    tone: Tone::Grey,
                    at: At::Y(capacity),
                }),
                line("needed to hold", "needed", Tone::Gold, Stroke::Dotted, &least),
                line("good answers", "good", Tone::Blue, Stroke::Solid, &|level| level.good_per_s),
                Mark::Points(Points {
                    name: String::new(),
                    tone: Tone::Blue,
                    faint: false,
                    all: points.collect(),
                }),
            ],
        }),
        data: Table {
            caption: "Good answers a second".to_owned(),
            columns: ["% of the capacity", "good", "needed"].map(Column::number).to_vec(),
            rows: levels
                .iter()
                .map(|level| {
                    vec![Cell::Count(level.percent.into()), Cell::Number(level.good_per_s), Cell::Number(least(level))]
                })
                .collect(),
        },
    }
}

/// Good answers, refusals, and everything else, in percent of the offered requests.
fn parts(level: &LevelReport) -> [f64; 3] {
    let part = |per_s: f64| if level.offered_per_s > 0.0 { per_s / level.offered_per_s * 100.0 } else { 0.0 };
    let (good, refused) = (part(level.good_per_s), part(level.refused_per_s));
    [good, refused, (100.0 - good - refused).max(0.0)]
}

fn shares(report: &Report) -> Figure {
    let rows = report.proof.iter().map(|level| {
        let p99 = Unit::Milliseconds.text(level.p99_ms);
        Row {
            label: format!("{} % of the capacity", level.percent),
            values: parts(level).to_vec(),
            note: format!("p99 {p99}"),
        }
    });
    let mut columns = vec![Column::number("% of the capacity")];
    columns.extend(["good %", "refused %", "neither %"].map(Column::number));
    Figure {
        title: "Outcomes of the offered requests".to_owned(),
        caption: "In percent of the requests that were to come. Refused are answers with the status 503 or 429, which cost a client no \
                  wait; neither: errors, timeouts, answers after the end, and what the generator could not send. p99 is of what \
                  was served."
            .to_owned(),
        drawing: Drawing::Bars(Bars {
            unit: Unit::Percent,
            series: vec![("good", Tone::Blue), ("refused", Tone::Gold), ("neither", Tone::Grey)],
            rows: rows.collect(),
        }),
        data: Table {
            caption: "Percent of the requests that were to come".to_owned(),
            columns,
            rows: report
                .proof
                .iter()
                .map(|level| {
                    let parts = parts(level).map(Cell::Number);
                    [Cell::Count(level.percent.into())].into_iter().chain(parts).collect()
                })
                .collect(),
        },
    }
}

fn levels(report: &Report) -> Table {
    let mut columns = vec![Column::number("% of the capacity")];
    columns.extend(["offered/s", "good/s", "refused/s", "p99 ms", "refusal p99 ms"].map(Column::number));
    columns.extend(["goodput", "schedule"].map(Column::text));
    let row = |level: &LevelReport| {
        vec![
            Cell::Count(level.percent.into()),
            Cell::Number(level.offered_per_s),
            Cell::Number(level.good_per_s),
            Cell::Number(level.refused_per_s),
            Cell::Number(level.p99_ms),
            Cell::maybe(level.refusal_p99_ms),
            Cell::text(if level.holds { "holds" } else { "does not hold" }),
            Cell::text(if level.schedule_kept { "kept" } else { "less was offered" }),
        ]
    };
    Table {
        caption: "The proof in numbers".to_owned(),
        columns,
        rows: report.proof.iter().map(row).collect(),
    }
}
