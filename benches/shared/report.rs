//! The results as Markdown: printed as they come, and kept for the file.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// The text printed so far, and the claims made.
#[derive(Default)]
pub(crate) struct Report {
    text: String,
    claims: Vec<Claim>,
}

struct Claim {
    what: String,
    measured: String,
    holds: bool,
}

impl Report {
    /// Prints a line.
    pub(crate) fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A part's heading, and how its numbers come about.
    pub(crate) fn part(&mut self, name: &str, method: &str) {
        self.line(&format!("## {name}\n\n{method}\n"));
    }

    /// A table's head.
    pub(crate) fn columns(&mut self, names: &[&str]) {
        self.line(&format!("| {} |\n|{}", names.join(" | "), "---|".repeat(names.len())));
    }

    /// A table's row.
    pub(crate) fn row(&mut self, cells: &[String]) {
        self.line(&format!("| {} |", cells.join(" | ")));
    }

    /// Something that must hold.
    pub(crate) fn claim(&mut self, what: &str, measured: &str, holds: bool) {
        self.claims.push(Claim { what: what.to_owned(), measured: measured.to_owned(), holds });
    }

    /// Prints every claim and whether it holds; returns whether all do.
    pub(crate) fn verdict(&mut self) -> bool {
        self.line("## What must hold\n");
        self.columns(&["", "what", "measured"]);
        let claims = std::mem::take(&mut self.claims);
        for claim in &claims {
            let met = if claim.holds { "met" } else { "**not met**" };
            self.row(&[met.to_owned(), claim.what.clone(), claim.measured.clone()]);
        }
        claims.iter().all(|claim| claim.holds)
    }

    /// Writes all of it to `benches/results/`.
    pub(crate) fn keep(&self, name: &str) -> anyhow::Result<()> {
        let path = root().join("benches/results").join(name);
        fs::write(&path, &self.text).with_context(|| path.display().to_string())
    }
}

/// Writes a file of the crate.
pub(crate) fn write(path: &str, text: &str) -> anyhow::Result<()> {
    fs::write(root().join(path), text).with_context(|| path.to_owned())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
