//! The numbers as Markdown.

use std::fs;
use std::time::Duration;

use jiff::Timestamp;

/// Date and machine.
pub(crate) fn title(full: bool) {
    let now = Timestamp::now().to_string();
    let date = now.split('T').next().unwrap_or_default();
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown", |(_, model)| model);
    println!("# What connections cost, {date}, {} cores ({model})\n", num_cpus::get());
    println!(
        "Server and clients on the same machine, over loopback. Printed by `cargo bench --bench connections`.\n"
    );
    if !full {
        println!("A small run, which shows that the benchmark works; the numbers say nothing.\n");
    }
}

/// A part's heading, and how its numbers come about.
pub(crate) fn part(name: &str, method: &str) {
    println!("## {name}\n\n{method}\n");
}

/// A table's head.
pub(crate) fn columns(names: &[&str]) {
    println!("| {} |\n|{}", names.join(" | "), "---|".repeat(names.len()));
}

/// A table's row.
pub(crate) fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// Milliseconds with two decimals.
pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

/// Bytes in MiB with one decimal.
#[expect(clippy::cast_precision_loss, reason = "no process has so much memory")]
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// The time that this share of the sorted times does not exceed; zero of none.
pub(crate) fn percentile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

/// The value in the middle; the mean of both where there are two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        _ if values.is_empty() => f64::NAN,
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}
