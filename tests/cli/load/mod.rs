//! `wharf load` against servers whose behaviour is known: what it reports is what they did.

mod accuracy;
mod command;
mod comparison;
mod ending;
mod outcomes;
mod server;
mod threads;
mod tls;
mod traffic;

use serde_json::Value;

use crate::support::{Exit, Wharf};

/// A machine that is busy with other tests sends late; only a test that is about that calls it so.
const NEVER_LATE: [&str; 2] = ["--late-after", "30s"];

fn load(arguments: &[&str]) -> Exit {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let arguments: Vec<&str> = ["load"].iter().chain(arguments).copied().collect();
    Wharf::run_in(&directory, &arguments, &[])
}

/// The report of a run that ends well.
fn report(url: &str, arguments: &[&str]) -> Value {
    let exit = load(&[&NEVER_LATE, &["--json", "-"], arguments, &[url]].concat());
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let report =
        serde_json::from_str(&exit.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", exit.stdout));
    assert_every_request_has_one_outcome(&report);
    report
}

fn assert_every_request_has_one_outcome(report: &Value) {
    let outcomes = ["answered", "timeouts", "failed", "skipped", "abandoned"];
    let finished: u64 = outcomes.iter().map(|name| count(report, name)).sum();
    assert_eq!(finished, count(report, "scheduled"), "{report:#}");
}

fn count(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} is a count: {report:#}"))
}

/// A percentile in milliseconds.
fn ms(report: &Value, times: &str, percentile: &str) -> f64 {
    number(&report[times], percentile)
}

fn number(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or_else(|| panic!("{name} is a number: {report:#}"))
}

/// Within 2 % of what it is to be.
#[track_caller]
fn assert_near(measured: f64, expected: f64, report: &Value) {
    assert!((measured - expected).abs() <= expected * 0.02, "{measured} is not {expected}: {report:#}");
}
