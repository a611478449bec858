//! The tables of every run.

use super::super::numbers::share;
use super::super::percentiles::Percentiles;
use super::super::report::{Report, TargetReport};
use super::known;
use crate::base::chart::{Cell, Column, Table};

pub(super) fn rates(report: &Report) -> Table {
    let all = &report.all;
    // Answers after the end are not part of a rate, so a rate is not always its count divided by the time.
    let rows = [
        ("offered", all.scheduled, all.offered_per_s),
        ("sent", all.sent, Some(all.sent_per_s)),
        ("answered", all.answered, Some(all.answered_per_s)),
        ("good (status below 400)", all.good, Some(all.good_per_s)),
        ("refused (503, 429)", all.refused, None),
        ("timeouts", all.timeouts, None),
        ("failed connections", all.failed, None),
        ("sent late", all.late, None),
        ("never sent", all.skipped, None),
        ("answered after the end, in no rate", all.answered_after_end, None),
    ];
    let shown = rows.into_iter().filter(|(name, ..)| !(report.is_closed() && *name == "offered"));
    Table {
        caption: format!("Requests in {} s", report.length_s),
        columns: vec![Column::text("requests"), Column::number("count"), Column::number("a second")],
        rows: shown
            .map(|(name, count, rate)| {
                vec![Cell::text(name), Cell::Count(count), rate.map_or(Cell::Nothing, known)]
            })
            .collect(),
    }
}

pub(super) fn times(report: &Report) -> Table {
    let all = &report.all;
    let closed = report.is_closed();
    let times = [
        ("latency, from when due", all.latency_ms),
        ("service, from when sent", all.service_ms),
        ("of refusals (503, 429)", all.refusal_ms),
        ("sent late by", all.lateness_ms),
        ("connecting, handshake included", all.connect_ms),
    ];
    let shown = times.into_iter().enumerate().filter(|(index, (_, times))| {
        // In a closed loop a request is due when it is sent, so both times are the same.
        times.count > 0 && !(closed && (*index == 0 || *index == 3))
    });
    percentiles("Times in milliseconds", "time", shown.map(|(_, (name, times))| (name.to_owned(), times)))
}

pub(super) fn each_target(targets: &[TargetReport]) -> Table {
    Table {
        caption: "Times are latencies in milliseconds".to_owned(),
        columns: vec![
            Column::text("target"),
            Column::number("answered"),
            Column::number("good"),
            Column::number("good a second"),
            Column::number("errors %"),
            Column::number("p50"),
            Column::number("p99"),
            Column::number("p99.9"),
        ],
        rows: targets
            .iter()
            .map(|target| {
                let TargetReport { answered, good, good_per_s, errors_percent, latency_ms, .. } = target;
                let Percentiles { p50, p99, p99_9, .. } = latency_ms;
                let counts = [Cell::Text(target.target.clone()), Cell::Count(*answered), Cell::Count(*good)];
                let numbers = [good_per_s, errors_percent, p50, p99, p99_9].map(|value| known(*value));
                counts.into_iter().chain(numbers).collect()
            })
            .collect(),
    }
}

pub(super) fn outcomes(all: &TargetReport) -> Table {
    let statuses = all.statuses.iter().map(|(status, count)| {
        let reason = http::StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason());
        (format!("{status} {}", reason.unwrap_or_default()), *count)
    });
    let failures = all.failures.iter().map(|(name, count)| ((*name).to_owned(), *count));
    let others =
        [("no answer in time", all.timeouts), ("never sent", all.skipped), ("not known", all.abandoned)];
    let others =
        others.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count));
    let row = |(name, count)| {
        vec![Cell::Text(name), Cell::Count(count), Cell::Number(share(count, all.scheduled) * 100.0)]
    };
    Table {
        caption: "Outcomes of the requests".to_owned(),
        columns: vec![Column::text("outcome"), Column::number("requests"), Column::number("%")],
        rows: statuses.chain(failures).chain(others).map(row).collect(),
    }
}

pub(super) fn percentiles(
    caption: &str,
    first: &str,
    rows: impl Iterator<Item = (String, Percentiles)>,
) -> Table {
    let mut columns = vec![Column::text(first)];
    columns.extend(["mean", "p50", "p90", "p99", "p99.9", "max"].map(Column::number));
    columns.push(Column::number("count"));
    let row = |(name, times): (String, Percentiles)| {
        let Percentiles { count, mean, p50, p90, p99, p99_9, max, .. } = times;
        let times = [mean, p50, p90, p99, p99_9, max].map(known);
        [Cell::Text(name)].into_iter().chain(times).chain([Cell::Count(count)]).collect()
    };
    Table { caption: caption.to_owned(), columns, rows: rows.map(row).collect() }
}
