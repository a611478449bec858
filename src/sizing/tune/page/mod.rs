//! The result of a run as an HTML page: the recommendation first, then its evidence.
//!
//! Main thread.

mod proof;
mod sweep;

use super::report::{Report, SizeReport, SweepReport};
use crate::base::chart::{Cell, Column, Page, Table, Tile, Unit};
use crate::sizing::load::Objective;

impl Report {
    /// The report as one HTML page, without other files.
    pub fn page(&self) -> String {
        let mut page = Page::new(&format!("wharf tune · {}", self.database), &self.title());
        self.head(&mut page);
        let bounds = self.bounds();
        page.section("Sessions");
        sweep::show(&self.pool, "sessions", &bounds, &mut page);
        page.paragraph(&format!("Up to {} may be tried: {}.", self.largest, self.largest_because));
        if let Some(workers) = &self.workers {
            page.section("Workers");
            sweep::show(workers, "workers", &bounds, &mut page);
        }
        page.section("Under more load than it can serve");
        proof::show(self, &mut page);
        page.section("Compared with the advice of others");
        page.table(&self.advice());
        page.finish(&format!(
            "Made by wharf {} in {} on a machine with {} cores.",
            self.wharf,
            Unit::Seconds.text(self.took_s.round()),
            self.cores
        ))
    }

    fn title(&self) -> String {
        if self.cut_short.is_some() {
            return "The run ended early".to_owned();
        }
        match (self.stands, self.pool.size, self.workers.as_ref().and_then(|workers| workers.size)) {
            (true, Some(pool), Some(workers)) => format!("Take {pool} sessions and {workers} workers"),
            (true, Some(pool), None) => format!("Take {pool} sessions"),
            _ => "No sizes to recommend".to_owned(),
        }
    }

    fn head(&self, page: &mut Page) {
        page.verdict(
            self.stands,
            if self.stands { "It stands:" } else { "It does not stand:" },
            &self.verdict,
        );
        if let Some(cut_short) = &self.cut_short {
            page.warning("The run ended before it was done:", &sentence(cut_short));
        }
        if self.stands {
            page.paragraph("In the configuration's file:");
            page.code(&self.lines());
        } else if !self.proof.is_empty() {
            page.paragraph("The sizes of the run under overload, which are not recommended:");
            page.code(&self.lines());
        }
        page.paragraph(&sentence(&self.pool.words));
        let workers = self.workers.as_ref().map(|workers| workers.words.clone());
        for words in workers.into_iter().chain(self.sharing()) {
            page.paragraph(&sentence(&words));
        }
        page.tiles(&self.tiles());
        if !self.objectives.is_empty() {
            page.paragraph(&format!("Each size was held to {}.", self.objectives.join(", ")));
        }
    }

    /// The settings as lines of TOML, under the heads of their tables.
    fn lines(&self) -> String {
        let mut lines = String::new();
        let mut last = "";
        for setting in &self.proved_with {
            let (table, key) = setting.key.split_once('.').unwrap_or(("", setting.key));
            if table != last {
                let before = if last.is_empty() { "" } else { "\n" };
                lines.extend([before, "[", table, "]\n"]);
                last = table;
            }
            let note = if setting.differs { "" } else { "  # as it is" };
            lines.extend([key, " = ", &setting.value.to_string(), note, "\n"]);
        }
        lines
    }

    fn tiles(&self) -> Vec<Tile> {
        let tile = |name: &str, unit, value, note: &str| Tile {
            name: name.to_owned(),
            unit,
            value,
            note: note.to_owned(),
        };
        let chosen = self.pool.chosen();
        let mut tiles = Vec::new();
        for (name, sweep) in [("sessions", Some(&self.pool)), ("workers", self.workers.as_ref())] {
            let Some(sweep) = sweep else { continue };
            let note = match sweep.band {
                Some((low, high)) if low != high => format!("the knee is among {low} to {high}"),
                _ => String::new(),
            };
            tiles.extend(sweep.size.map(|size| tile(name, Unit::Count, real(size), &note)));
        }
        tiles.extend(self.capacity_per_s.map(|capacity| {
            tile("capacity", Unit::PerSecond, capacity, "good answers, when nothing is refused")
        }));
        if let Some(SizeReport { p50_ms, p99_ms, .. }) = chosen {
            tiles.push(tile("p50 at capacity", Unit::Milliseconds, *p50_ms, "half waited less"));
            tiles.push(tile("p99 at capacity", Unit::Milliseconds, *p99_ms, "1 in 100 waited longer"));
        }
        tiles
    }

    /// The objectives that bound a latency, with their milliseconds.
    fn bounds(&self) -> Vec<(String, f64)> {
        let bound = |text: &String| {
            let objective: Objective = text.parse().ok()?;
            Some((text.clone(), objective.latency_max()?.as_secs_f64() * 1e3))
        };
        self.objectives.iter().filter_map(bound).collect()
    }

    fn advice(&self) -> Table {
        let measured = self.pool.size.map(|size| {
            vec![
                Cell::text("measured here"),
                Cell::Count(size as u64),
                Cell::text("the result of the measurements on this page"),
            ]
        });
        let others = self.formulas.iter().map(|formula| {
            vec![Cell::text(formula.name), Cell::Number(formula.connections), Cell::text(&formula.words)]
        });
        Table {
            caption: "Sessions by measurement and by formula".to_owned(),
            columns: vec![Column::text("by"), Column::number("sessions"), Column::text("because")],
            rows: measured.into_iter().chain(others).collect(),
        }
    }
}

impl SweepReport {
    /// The figures of the size to take.
    pub(super) fn chosen(&self) -> Option<&SizeReport> {
        self.sizes.iter().find(|size| Some(size.size) == self.size)
    }
}

/// The words with a capital letter at the start and a full stop at the end.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first: String = letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}{}", letters.as_str(), if words.ends_with('.') { "" } else { "." })
}

#[expect(clippy::cast_precision_loss, reason = "no pool has 2^53 sessions")]
fn real(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
