//! The server's own account of the time, if it gives one.

use super::super::percentiles::Percentiles;
use super::super::report::Report;
use super::timeline::{self, Moment};
use super::{known, real, tables};
use crate::base::chart::{
    Axis, Bars, Cell, Chart, Column, Drawing, Extent, Figure, Layer, Mark, Page, Row, Stack, Table, Tone,
    Unit,
};

/// Phases with their colours, in the order of `Phases::named`.
const PHASES: [(&str, Tone); 5] = [
    ("queue", Tone::Gold),
    ("pool", Tone::Purple),
    ("database", Tone::Blue),
    ("render", Tone::Green),
    ("elsewhere", Tone::Grey),
];

pub(super) fn show(report: &Report, moments: &[Moment], page: &mut Page) {
    let Some(phases) = &report.all.server_timing else { return };
    page.section("Where the time went");
    let of_all = ("all".to_owned(), phases);
    let of_each =
        report.targets.iter().filter_map(|one| Some((one.target.clone(), one.server_timing.as_ref()?)));
    let each: Vec<_> = [of_all].into_iter().chain(of_each).collect();
    let bars = |value: fn(&Percentiles) -> f64| {
        each.iter().map(move |(label, phases)| {
            let values: Vec<f64> = phases.named().iter().map(|(_, times)| value(times)).collect();
            (label.clone(), values)
        })
    };
    let rows = bars(|times| times.mean).map(|(label, values)| {
        let note = Unit::Milliseconds.text(values.iter().sum());
        Row { label, values, note }
    });
    let mut columns = vec![Column::text("target")];
    columns.extend(PHASES.map(|(name, _)| Column::number(name)));
    let numbers = bars(|times| times.mean).map(|(label, values)| {
        [Cell::Text(label)].into_iter().chain(values.into_iter().map(known)).collect()
    });
    page.figure(&Figure {
        title: "Mean time by phase".to_owned(),
        caption: format!(
            "Times in the header Server-Timing of {} answers. Elsewhere is the rest of the time since the request was sent: \
             the network, and work that the server does not name.",
            Unit::Count.text(real(phases.queue_ms.count))
        ),
        drawing: Drawing::Bars(Bars { unit: Unit::Milliseconds, series: PHASES.to_vec(), rows: rows.collect() }),
        data: Table {
            caption: "Mean time by phase, in milliseconds".to_owned(),
            columns,
            rows: numbers.collect(),
        },
    });
    let names = phases.named().into_iter().map(|(name, times)| (name.to_owned(), times));
    page.table(&tables::percentiles("Times by phase in milliseconds", "phase", names));
    page.figure(&phases_over_time(moments));
}

fn phases_over_time(moments: &[Moment]) -> Figure {
    let said: Vec<_> = moments.iter().filter_map(|moment| Some((moment, moment.phases_ms?))).collect();
    // From the database up: a phase lies on the phase that it waits for.
    let order = [2, 1, 0, 3, 4];
    let layers = order.map(|index| Layer {
        name: PHASES[index].0.to_owned(),
        tone: PHASES[index].1,
        values: said.iter().map(|(_, phases)| phases[index]).collect(),
    });
    let mut columns = vec![Column::number("from s")];
    columns.extend(PHASES.map(|(name, _)| Column::number(name)));
    Figure {
        title: "Mean time by phase, over time".to_owned(),
        caption: "Waiting in the queue and for a connection grows where the database has no more to give."
            .to_owned(),
        drawing: Drawing::Chart(Chart {
            x: timeline::axis(moments),
            y: Axis::new("mean time", Unit::Milliseconds, Extent::Zero),
            marks: vec![Mark::Stack(Stack {
                x: said.iter().map(|(moment, _)| moment.at_s).collect(),
                layers: layers
                    .into_iter()
                    .filter(|layer| layer.values.iter().any(|value| *value > 0.0))
                    .collect(),
            })],
        }),
        data: Table {
            caption: "Mean time by phase, in milliseconds".to_owned(),
            columns,
            rows: said
                .iter()
                .map(|(moment, phases)| {
                    [moment.from_s].iter().chain(phases).map(|value| known(*value)).collect()
                })
                .collect(),
        },
    }
}
