//! The `wharf` command: parses arguments and hands them to one module per subcommand.
//!
//! Exit codes: 0 done, 1 a check or an objective failed, 2 usage or configuration.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    cli::log_level::start_log();
    match cli::Arguments::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wharf: {}", told_once(&error));
            ExitCode::from(cli::USAGE)
        }
    }
}

/// An error with its causes, each said once: many errors, ours and the drivers', have their cause in their own text too.
fn told_once(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}
