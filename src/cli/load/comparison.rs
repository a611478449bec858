//! `--compare`: compares this run with an earlier run's JSON, by the values of all seconds and with confidence
//! intervals.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::sizing::load::{Pace, Plan, Report};
use crate::sizing::tune::{Better, Comparison, Verdict, compare};
use anyhow::Context as _;
use serde_json::Value;

/// A shorter second is left out. It was cut short by the end of the run, or had answers only, and is no basis for a
/// rate.
const WHOLE_SECOND_S: f64 = 0.9;

/// The comparison of two runs for each quantity.
pub(super) struct Comparisons {
    base: String,
    rows: Vec<(&'static str, Comparison)>,
    tolerance: f64,
}

/// An earlier run.
pub(super) struct Base {
    name: String,
    report: Value,
}

impl Base {
    /// Reads the JSON of a run with the same pace. A closed and an open loop, or different rates, measure different
    /// things. In a closed loop the number of threads must be the same too, because more threads put more load on the
    /// same server.
    pub(super) fn read(path: &Path, plan: &Plan) -> anyhow::Result<Self> {
        let pace = &plan.pace;
        let name = path.display().to_string();
        let text = fs::read_to_string(path).with_context(|| format!("--compare {name}: cannot be read"))?;
        let report: Value =
            serde_json::from_str(&text).with_context(|| format!("--compare {name}: not JSON"))?;
        anyhow::ensure!(
            report["seconds"].is_array() && report["loop"].is_string(),
            "--compare {name}: not a report that wharf load --json has written"
        );
        for (key, now) in [("loop", pace.kind().to_owned()), ("pace", pace.to_string())] {
            let before = report[key].as_str().unwrap_or_default();
            // Random arrivals may have another seed.
            let comparable = |words: &str| words.split(" of seed").next().map(str::to_owned);
            anyhow::ensure!(
                comparable(before) == comparable(&now),
                "--compare {name}: its {key} is {before:?}, and this run's is {now:?}; expected the same"
            );
        }
        if let Pace::Closed { connections, .. } = pace {
            let (before, now) = (report["threads"].as_u64(), plan.threads.min(*connections) as u64);
            anyhow::ensure!(
                before == Some(now),
                "--compare {name}: its --threads is {}, and this run's is {now}; expected the same",
                before.map_or("not said".to_owned(), |threads| threads.to_string())
            );
        }
        Ok(Self { name, report })
    }

    pub(super) fn compare_with(&self, report: &Report, tolerance: f64) -> anyhow::Result<Comparisons> {
        let new = serde_json::to_value(report)?;
        let row = |name, key, better| {
            let (base, new) = (seconds(&self.report, key), seconds(&new, key));
            (name, compare(&base, &new, tolerance, better))
        };
        Ok(Comparisons {
            base: self.name.clone(),
            rows: vec![
                row("good answers", "good", Better::Higher),
                row("p50", "p50_ms", Better::Lower),
                row("p99", "p99_ms", Better::Lower),
                row("errors", "errors", Better::Lower),
            ],
            tolerance,
        })
    }
}

/// The values of the whole seconds in which requests were sent.
fn seconds(report: &Value, key: &str) -> Vec<f64> {
    let number = |second: &Value, key: &str| second[key].as_f64().unwrap_or_default();
    let seconds = report["seconds"].as_array().into_iter().flatten();
    let whole = seconds.filter(|second| {
        number(second, "to_s") - number(second, "from_s") >= WHOLE_SECOND_S && number(second, "sent") > 0.0
    });
    // A second in which no request ended has no latency.
    let known = whole.filter_map(|second| Some((second, second[key].as_f64()?)));
    known.map(|(second, value)| value / if key.ends_with("_ms") { 1.0 } else { length(second) }).collect()
}

fn length(second: &Value) -> f64 {
    let end = |key: &str| second[key].as_f64().unwrap_or_default();
    end("to_s") - end("from_s")
}

impl Comparisons {
    /// Whether this run is worse in any quantity.
    pub(super) fn is_worse(&self) -> bool {
        self.rows.iter().any(|(_, row)| row.verdict == Verdict::Worse)
    }
}

impl fmt::Display for Comparisons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tolerance = self.tolerance * 100.0;
        writeln!(
            f,
            "\nbeside {}, with a tolerance of {tolerance} % and a confidence of 95 %, second by second",
            self.base
        )?;
        writeln!(f, "  {:<14} {:>11} {:>11}", "", "before", "now")?;
        for (name, row) in &self.rows {
            let [base, new] = [row.base, row.new]
                .map(|value| if value.is_nan() { "-".to_owned() } else { format!("{value:.3}") });
            writeln!(f, "  {name:<14} {base:>11} {new:>11}  {row}")?;
        }
        Ok(())
    }
}
