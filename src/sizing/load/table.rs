//! A report as a table for the terminal.

use std::fmt::{self, Display};

use super::percentiles::{Percentiles, Phases};
use super::report::{Report, TargetReport};
use crate::telemetry::metrics::Outcome;

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = &self.all;
        writeln!(f, "{} loop: {}", self.kind, self.pace_and_threads())?;
        writeln!(f, "{}", all.target)?;
        if self.stopped {
            writeln!(f, "stopped after {} s", self.length_s)?;
        }
        writeln!(f)?;
        self.rates(f)?;
        writeln!(f)?;
        self.times(f)?;
        writeln!(f)?;
        for (status, count) in &all.statuses {
            let note = if Outcome::of(*status) == Outcome::Refused { "  refused" } else { "" };
            writeln!(f, "  status {status}{count:>16}{note}")?;
        }
        let fixed = [
            ("timeouts", all.timeouts),
            ("never sent", all.skipped),
            ("outcome not known", all.abandoned),
            ("sent late", all.late),
            ("answered after the end", all.answered_after_end),
        ];
        let failures = all.failures.iter().map(|(name, count)| (*name, *count));
        for (name, count) in failures.chain(fixed).filter(|(_, count)| *count > 0) {
            writeln!(f, "  {name:<22}{count:>5}")?;
        }
        let finished = all.scheduled - all.abandoned;
        writeln!(f, "  errors{:>19} %  of {finished}", Known(all.errors_percent))?;
        if !self.targets.is_empty() {
            writeln!(f)?;
            self.each_target(f)?;
        }
        self.verdicts(f)
    }
}

/// A number with three digits after the point, or a dash where nothing was measured.
struct Known(f64);

impl Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match f.precision() {
            _ if self.0.is_nan() => "-".to_owned(),
            digits => format!("{:.*}", digits.unwrap_or(3), self.0),
        };
        // `pad` would cut the text to the precision.
        write!(f, "{text:>width$}", width = f.width().unwrap_or_default())
    }
}

impl Report {
    fn rates(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TargetReport { offered_per_s, sent_per_s, answered_per_s, good_per_s, .. } = self.all;
        let rates = [
            ("offered", offered_per_s),
            ("sent", Some(sent_per_s)),
            ("answered", Some(answered_per_s)),
            ("good", Some(good_per_s)),
        ];
        write!(f, "            ")?;
        for (name, _) in rates.iter().filter(|(_, rate)| rate.is_some()) {
            write!(f, "{name:>12}")?;
        }
        write!(f, "\n  a second  ")?;
        for rate in rates.iter().filter_map(|(_, rate)| *rate) {
            write!(f, "{:>12.1}", Known(rate))?;
        }
        writeln!(f)
    }

    fn times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["p50", "p90", "p99", "p99.9", "max", "mean"];
        write!(f, "  ms        ")?;
        columns.iter().try_for_each(|name| write!(f, "{name:>10}"))?;
        writeln!(f, "{:>12}", "count")?;
        let all = &self.all;
        let closed = self.connections.is_some();
        // In a closed loop a request is due when it is sent, so both times are the same.
        let latency = (!closed).then_some(("latency", all.latency_ms));
        let others = [
            ("service", all.service_ms),
            ("refused", all.refusal_ms),
            ("lateness", all.lateness_ms),
            ("connect", all.connect_ms),
        ];
        let others = others.into_iter().filter(|(_, times)| times.count > 0);
        let phases = all.server_timing.iter().flat_map(Phases::named);
        for (name, times) in latency.into_iter().chain(others).chain(phases) {
            let Percentiles { count, mean, p50, p90, p99, p99_9, max, .. } = times;
            write!(f, "  {name:<10}")?;
            [p50, p90, p99, p99_9, max, mean]
                .iter()
                .try_for_each(|time| write!(f, "{:>10}", Known(*time)))?;
            writeln!(f, "{count:>12}")?;
        }
        if closed {
            writeln!(
                f,
                "  Closed loop: while a server stalls, it gets no requests, so its stalls hardly show."
            )?;
        }
        Ok(())
    }

    fn each_target(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  answered      good    errors       p50       p99  target")?;
        for target in &self.targets {
            let TargetReport { answered, good, errors_percent, latency_ms, target, .. } = target;
            let Percentiles { p50, p99, .. } = latency_ms;
            let [errors, p50, p99] = [*errors_percent, *p50, *p99].map(Known);
            writeln!(f, "{answered:>10}{good:>10}{errors:>8.2} %{p50:>10}{p99:>10}  {target}")?;
        }
        Ok(())
    }

    fn verdicts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.objectives.is_empty() {
            writeln!(f)?;
        }
        for verdict in &self.objectives {
            let word = if verdict.met { "met" } else { "missed" };
            let measured = match verdict.measured {
                Some(measured) => format!("{measured} {}", verdict.unit),
                None => "nothing was answered".to_owned(),
            };
            writeln!(f, "  {word:<8}{}: {measured}", verdict.objective)?;
        }
        match &self.not_held {
            Some(why) => writeln!(f, "\nThe schedule was not held: {why}."),
            None => Ok(()),
        }
    }
}
