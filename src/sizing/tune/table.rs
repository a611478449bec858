//! The result of a run, as a table for the terminal.

use std::fmt;

use super::report::{LevelReport, Report, SweepReport};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, at most {} sessions: {}\n", self.database, self.largest, self.largest_because)?;
        if let Some(cut_short) = &self.cut_short {
            writeln!(f, "the run ended before it was done: {cut_short}\n")?;
        }
        self.pool.write(f, "sessions", self)?;
        if let Some(workers) = &self.workers {
            workers.write(f, "workers", self)?;
        }
        for formula in &self.formulas {
            writeln!(f, "{}: {:.1}, {}", formula.name, formula.connections, formula.words)?;
        }
        self.write_proof(f)?;
        writeln!(f, "\n{}", self.verdict)
    }
}

impl Report {
    fn write_proof(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(capacity) = self.capacity_per_s.filter(|_| !self.proof.is_empty()) else { return Ok(()) };
        writeln!(f, "\nproof, with {capacity:.0} good answers a second as the capacity")?;
        let settings: Vec<String> =
            self.proved_with.iter().map(|setting| format!("{} = {}", setting.key, setting.value)).collect();
        writeln!(f, "of {}", settings.join(", "))?;
        writeln!(
            f,
            "{:>11} {:>11} {:>11} {:>11} {:>11} {:>11}",
            "load", "offered/s", "good/s", "refused/s", "p99 ms", "refusal ms"
        )?;
        for level in &self.proof {
            level.write(f)?;
        }
        if self.tightened > 0 {
            writeln!(f, "the queue was made shorter {} times for this", self.tightened)?;
        }
        Ok(())
    }

    /// The clients and the requests of each session, where requests share round trips.
    pub(super) fn sharing(&self) -> Option<String> {
        let chosen = self.pool.chosen().or(self.pool.sizes.last()).filter(|_| self.shares_round_trips)?;
        let with =
            self.clients.map(|clients| format!("with {clients} clients or more, ")).unwrap_or_default();
        Some(format!(
            "requests share round trips: {with}each of {} sessions carried {:.1} requests at once",
            chosen.size, chosen.at_once
        ))
    }
}

impl SweepReport {
    fn write(&self, f: &mut fmt::Formatter<'_>, unit: &str, report: &Report) -> fmt::Result {
        let shares = report.shares_round_trips;
        write!(
            f,
            "{unit:>11} {:>11} {:>19} {:>11} {:>11} {:>6}",
            "good/s", "95 %", "p50 ms", "p99 ms", "runs"
        )?;
        writeln!(f, "{}", if shares { "  requests at once on a session" } else { "" })?;
        for size in &self.sizes {
            let interval = match (size.low_per_s, size.high_per_s) {
                (Some(low), Some(high)) => format!("{low:.0} to {high:.0}"),
                _ => String::new(),
            };
            write!(
                f,
                "{:>11} {:>11.0} {interval:>19} {:>11.3} {:>11.3} {:>6}",
                size.size,
                size.per_s,
                size.p50_ms,
                size.p99_ms,
                size.repetitions_per_s.len()
            )?;
            if shares {
                write!(f, " {:>6.1}", size.at_once)?;
            }
            if !size.meets {
                write!(f, "  misses {}", report.objectives.join(", "))?;
            }
            writeln!(f)?;
        }
        writeln!(f, "{}\n{}", self.words, self.law.words)?;
        if let Some(sharing) = report.sharing().filter(|_| unit == "sessions") {
            writeln!(f, "{sharing}")?;
        }
        writeln!(f)
    }
}

impl LevelReport {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refusal = self.refusal_p99_ms.map_or_else(String::new, |time| format!("{time:.3}"));
        let kept =
            if self.schedule_kept { "" } else { ", but less was offered: the generator could not keep up" };
        let holds = if self.holds { "holds" } else { "does not hold" };
        writeln!(
            f,
            "{:>9} % {:>11.0} {:>11.0} {:>11.0} {:>11.3} {refusal:>11}  {holds}{kept}",
            self.percent, self.offered_per_s, self.good_per_s, self.refused_per_s, self.p99_ms
        )
    }
}
