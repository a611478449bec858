//! `wharf version`: what this binary is, for a report of a fault.

use std::fmt::Write as _;
use std::process::ExitCode;

/// Set by whoever builds a package. Not asked of git, since a build of each commit would then compile everything anew.
const COMMIT: Option<&str> = option_env!("WHARF_COMMIT");

pub(super) fn run() -> anyhow::Result<ExitCode> {
    super::print(&text())?;
    Ok(ExitCode::SUCCESS)
}

fn text() -> String {
    let features = if cfg!(feature = "otlp") { "otlp" } else { "none" };
    let mut text = format!("wharf {}\n", env!("CARGO_PKG_VERSION"));
    let commit = COMMIT.filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    for (name, value) in [
        ("commit", commit),
        ("features", features),
        ("platform", &format!("{} {}", std::env::consts::ARCH, std::env::consts::OS)),
        ("SQLite", rusqlite::version()),
    ] {
        // Text takes everything.
        let _ = writeln!(text, "  {name:<9} {value}");
    }
    text
}
