//! A report as an HTML page: the requests, whether the run can be trusted, and the figures with their charts.
//!
//! The thread that calls `run`.

mod figures;
mod phases;
mod tables;
mod timeline;

use super::report::{Report, Verdict};
use crate::base::chart::{Cell, Page, Tile, Unit};

impl Report {
    /// The report as one HTML page, without other files.
    pub fn page(&self) -> String {
        // Many names would make a bad title; the table of targets lists them.
        let title = match self.targets.len() {
            0 => self.all.target.clone(),
            count => format!("{count} targets"),
        };
        let mut page = Page::new("wharf load", &title);
        self.head(&mut page);
        page.section("Key figures");
        page.table(&tables::rates(self));
        page.table(&tables::times(self));
        let moments = timeline::moments(&self.seconds);
        page.section("Over time");
        page.figure(&figures::latency_over_time(self, &moments));
        page.figure(&figures::rates_over_time(&moments));
        page.section("Latency");
        page.figure(&figures::spectrum(self));
        phases::show(self, &moments, &mut page);
        page.section("Outcomes");
        page.table(&tables::outcomes(&self.all));
        if !self.targets.is_empty() {
            page.section("Targets");
            page.table(&tables::each_target(&self.targets));
        }
        page.finish(&format!(
            "Made by wharf {}. The generator used {} s of processor time.",
            self.wharf, self.generator_processor_s
        ))
    }

    fn is_closed(&self) -> bool {
        self.connections.is_some()
    }

    fn head(&self, page: &mut Page) {
        page.lead(&format!("{} loop", self.kind), &self.pace_and_threads());
        page.paragraph(if self.is_closed() {
            "Each client waits for its answer before its next request. This finds the capacity of a server. But while a server \
             stalls, it gets no requests, so its stalls hardly show."
        } else {
            "Each request goes out when it is due, whether or not earlier ones are answered, and its latency counts from then. \
             So the stalls of a server are measured as its users experience them."
        });
        if let Some(why) = &self.not_held {
            page.warning(
                "The schedule was not held, so this run did not measure the planned load:",
                &format!("{why}."),
            );
        }
        if self.stopped {
            let text = match self.all.abandoned {
                0 => format!("after {} s, before the plan's end.", self.length_s),
                count => format!(
                    "after {} s. {} requests had no answer yet, and their outcome is not known.",
                    self.length_s,
                    Unit::Count.text(real(count))
                ),
            };
            page.warning("Stopped", &text);
        }
        for verdict in &self.objectives {
            let word = if verdict.met { "met" } else { "missed" };
            page.verdict(verdict.met, &format!("{}: {word}", verdict.objective), &measured(verdict));
        }
        page.tiles(&self.tiles());
    }

    fn tiles(&self) -> Vec<Tile> {
        let all = &self.all;
        let tile = |name: &str, unit, value, note: String| Tile { name: name.to_owned(), unit, value, note };
        let sent = Unit::PerSecond.text(all.sent_per_s);
        let asked = match all.offered_per_s {
            None => format!("of {sent} sent"),
            Some(offered) if self.not_held.is_some() => {
                format!("of {} offered and {sent} sent", Unit::PerSecond.text(offered))
            }
            Some(offered) => format!("of {} offered", Unit::PerSecond.text(offered)),
        };
        let finished = all.scheduled - all.abandoned;
        let errors = finished.saturating_sub(all.good);
        let tiles = vec![
            tile("good answers", Unit::PerSecond, all.good_per_s, asked),
            tile(
                "errors",
                Unit::Percent,
                all.errors_percent,
                format!("{} of {}", Unit::Count.text(real(errors)), Unit::Count.text(real(finished))),
            ),
            tile("p50", Unit::Milliseconds, all.latency_ms.p50, "half waited less".to_owned()),
            tile("p99", Unit::Milliseconds, all.latency_ms.p99, "1 in 100 waited longer".to_owned()),
            tile("p99.9", Unit::Milliseconds, all.latency_ms.p99_9, "1 in 1,000 waited longer".to_owned()),
            tile("max", Unit::Milliseconds, all.latency_ms.max, "the longest wait".to_owned()),
        ];
        // A value that was not measured has no tile.
        tiles.into_iter().filter(|tile| tile.value.is_finite()).collect()
    }
}

fn measured(verdict: &Verdict) -> String {
    match verdict.measured {
        Some(measured) => format!("It was {}\u{a0}{}.", Unit::Count.text(measured), verdict.unit),
        None => "Nothing was answered.".to_owned(),
    }
}

/// A number, or an empty cell where nothing was measured.
fn known(value: f64) -> Cell {
    if value.is_finite() { Cell::Number(value) } else { Cell::Nothing }
}

#[expect(clippy::cast_precision_loss, reason = "no run has 2^53 requests")]
fn real(count: u64) -> f64 {
    count as f64
}
