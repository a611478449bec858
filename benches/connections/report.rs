//! The numbers as Markdown.

use crate::shared::machine;

/// Date and machine.
pub(crate) fn title(full: bool) {
    println!("# What connections cost, {}, {}\n", machine::date(), machine::name());
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
