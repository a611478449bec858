//! The charts of every run.

use super::super::Objective;
use super::super::report::{Report, Verdict};
use super::super::times::Times;
use super::timeline::{self, Moment};
use super::{known, real};
use crate::base::chart::{
    At, Axis, Cell, Chart, Column, Drawing, Extent, Figure, Line, Mark, Rule, Stroke, Table, Tone, Unit,
};

/// The number of points in the percentile spectrum for each nine.
const POINTS_PER_NINE: u32 = 20;

pub(super) fn latency_over_time(report: &Report, moments: &[Moment]) -> Figure {
    let line = |name: &str, label: &str, tone, stroke, value: fn(&Moment) -> f64| {
        Mark::Line(Line {
            name: name.to_owned(),
            label: label.to_owned(),
            tone,
            stroke,
            points: moments.iter().map(|moment| (moment.at_s, value(moment))).collect(),
        })
    };
    let mut marks = vec![
        line("p99: 1 in 100 waited longer", "p99", Tone::Orange, Stroke::Solid, |moment| moment.p99_ms),
        line("p50: half waited less", "p50", Tone::Blue, Stroke::Solid, |moment| moment.p50_ms),
    ];
    let highest = moments.iter().map(|moment| moment.p99_ms).fold(0.0, f64::max);
    marks.extend(bounds(report, highest));
    let merged = timeline::merged(moments);
    Figure {
        title: "Latency over time".to_owned(),
        caption: format!(
            "Of the requests that ended in each second, from when they were {}.{}",
            if report.is_closed() { "sent" } else { "due" },
            merged.map_or_else(String::new, |seconds| format!(
                " A point stands for {seconds} s: the highest p99 and the middle p50 of its seconds."
            ))
        ),
        drawing: Drawing::Chart(Chart {
            x: timeline::axis(moments),
            y: Axis::new("latency", Unit::Milliseconds, Extent::Auto),
            marks,
        }),
        data: Table {
            caption: "Latency over time, in milliseconds".to_owned(),
            columns: ["from s", "p50", "p99", "in flight"].map(Column::number).to_vec(),
            rows: moments
                .iter()
                .map(|moment| {
                    let times = [moment.from_s, moment.p50_ms, moment.p99_ms].map(known);
                    times.into_iter().chain([Cell::Count(moment.in_flight)]).collect()
                })
                .collect(),
        },
    }
}

/// The objectives that bound a latency. A bound far above the measured values is left out, because it would flatten the
/// rest.
fn bounds(report: &Report, highest: f64) -> Vec<Mark> {
    let bound = |verdict: &Verdict| {
        let objective: Objective = verdict.objective.parse().ok()?;
        let ms = objective.latency_max()?.as_secs_f64() * 1e3;
        (ms <= 3.0 * highest).then(|| Rule {
            name: verdict.objective.clone(),
            tone: Tone::Grey,
            at: At::Y(ms),
        })
    };
    report.objectives.iter().filter_map(bound).map(Mark::Rule).collect()
}

pub(super) fn rates_over_time(moments: &[Moment]) -> Figure {
    type Value = fn(&Moment) -> f64;
    let all: [(&str, Tone, Stroke, Value); 5] = [
        ("offered", Tone::Grey, Stroke::Dashed, |moment| moment.offered),
        ("sent", Tone::Purple, Stroke::Dotted, |moment| moment.sent),
        ("good", Tone::Blue, Stroke::Solid, |moment| moment.good),
        ("refused", Tone::Gold, Stroke::Solid, |moment| moment.refused),
        ("other errors", Tone::Orange, Stroke::Solid, |moment| moment.other_errors),
    ];
    // A closed loop offers no rate. Kinds that never occurred are named in the caption instead of drawn along the axis.
    let occurs = |value: Value| moments.iter().any(|moment| value(moment) > 0.0);
    let shown: Vec<_> = all.into_iter().filter(|(.., value)| occurs(*value)).collect();
    let never: Vec<&str> =
        all.iter().skip(3).filter(|(.., value)| !occurs(*value)).map(|(name, ..)| *name).collect();
    let marks = shown.iter().map(|(name, tone, stroke, value)| {
        Mark::Line(Line {
            name: (*name).to_owned(),
            label: (*name).to_owned(),
            tone: *tone,
            stroke: *stroke,
            points: moments.iter().map(|moment| (moment.at_s, value(moment))).collect(),
        })
    });
    let none = if never.is_empty() { String::new() } else { format!(" None: {}.", never.join(", ")) };
    let mut columns = vec!["from s"];
    columns.extend(all.iter().map(|(name, ..)| *name));
    Figure {
        title: "Throughput over time".to_owned(),
        caption: format!(
            "Requests a second by outcome; refused are answers with the status 503 or 429.{none}"
        ),
        drawing: Drawing::Chart(Chart {
            x: timeline::axis(moments),
            y: Axis::new("requests a second", Unit::PerSecond, Extent::Zero),
            marks: marks.collect(),
        }),
        data: Table {
            caption: "Requests a second".to_owned(),
            columns: columns.into_iter().map(Column::number).collect(),
            rows: moments
                .iter()
                .map(|moment| {
                    let values = all.iter().map(|(.., value)| value(moment));
                    [moment.from_s].into_iter().chain(values).map(known).collect()
                })
                .collect(),
        },
    }
}

pub(super) fn spectrum(report: &Report) -> Figure {
    let outcomes = &report.outcomes;
    let latency = ("latency, from when due", "latency", Tone::Orange, Stroke::Solid, &outcomes.latency);
    let service = ("service, from when sent", "service", Tone::Blue, Stroke::Dashed, &outcomes.service);
    let shown = if report.is_closed() { vec![service] } else { vec![latency, service] };
    let marks = shown.iter().map(|(name, label, tone, stroke, times)| {
        Mark::Line(Line {
            name: (*name).to_owned(),
            label: (*label).to_owned(),
            tone: *tone,
            stroke: *stroke,
            points: quantiles(times),
        })
    });
    let rows = [0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999, 100.0].map(|percent| {
        let at = |times: &Times| {
            let ms = times.percentile(percent).as_secs_f64() * 1e3;
            (times.count() > 0).then_some((ms * 1e3).round() / 1e3)
        };
        let times = shown.iter().map(|(.., times)| Cell::maybe(at(times)));
        [Cell::Text(format!("{percent} %"))].into_iter().chain(times).collect()
    });
    let mut columns = vec![Column::text("of the requests")];
    columns.extend(shown.iter().map(|(_, label, ..)| Column::number(label)));
    let caption = if report.is_closed() {
        "How many of the requests were answered within a time. Each tick of the axis stands for ten times fewer requests."
    } else {
        "How many of the requests were answered within a time. Each tick of the axis stands for ten times fewer requests. Where \
         latency lies above service time, requests waited to be sent."
    };
    Figure {
        title: "Percentiles".to_owned(),
        caption: caption.to_owned(),
        drawing: Drawing::Chart(Chart {
            x: Axis::new("of the requests", Unit::Nines, Extent::Log),
            y: Axis::new("waited at most", Unit::Milliseconds, Extent::Auto),
            marks: marks.collect(),
        }),
        data: Table { caption: "Percentiles in milliseconds".to_owned(), columns, rows: rows.to_vec() },
    }
}

/// Points (1 / (1 − p), milliseconds) up to the last request. A percentile beyond the longest single request does not
/// exist.
fn quantiles(times: &Times) -> Vec<(f64, f64)> {
    let count = real(times.count());
    let places = (0..).map(|index| 10_f64.powf(f64::from(index) / f64::from(POINTS_PER_NINE)));
    let places = places.take_while(|place| *place < count).chain((count > 0.0).then_some(count));
    places.map(|place| (place, times.percentile(100.0 - 100.0 / place).as_secs_f64() * 1e3)).collect()
}
