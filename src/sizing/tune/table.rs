//! The result of a run, as a table for the terminal.

use std::fmt;

use super::report::{LevelReport, Report, SweepReport};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, at most {} sessions: {}\n", self.database, self.largest, self.largest_because)?;
        self.pool.write(f, "sessions", &self.objectives)?;
        self.workers.write(f, "workers", &self.objectives)?;
        for formula in &self.formulas {
            writeln!(f, "{}: {:.1}, {}", formula.name, formula.connections, formula.words)?;
        }
        writeln!(f, "\nproof, with {:.0} good answers a second as the capacity", self.capacity_per_s)?;
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
        writeln!(f, "\n{}", self.verdict())
    }
}

impl Report {
    /// Whether the recommendation stands, in a sentence.
    pub fn verdict(&self) -> &'static str {
        match (self.pool.size.is_some(), self.stands) {
            (_, true) => "recommended: goodput holds even when more requests come than the server can serve",
            (true, false) => "not recommended: the sizes are found, but goodput does not hold under overload",
            (false, false) => "nothing is recommended: the measurements do not say which size to take",
        }
    }
}

impl SweepReport {
    fn write(&self, f: &mut fmt::Formatter<'_>, unit: &str, objectives: &[String]) -> fmt::Result {
        writeln!(
            f,
            "{unit:>11} {:>11} {:>19} {:>11} {:>11} {:>6}",
            "good/s", "95 %", "p50 ms", "p99 ms", "runs"
        )?;
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
            if !size.meets {
                write!(f, "  misses {}", objectives.join(", "))?;
            }
            writeln!(f)?;
        }
        writeln!(f, "{}\n{}\n", self.words, self.law.words)
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
