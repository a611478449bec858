//! `wharf completions`: what a shell needs to complete the arguments of `wharf`.

use std::process::ExitCode;

use clap::{CommandFactory as _, ValueEnum};
use clap_complete::{Shell, generate};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The shell that the script is for
    shell: Known,
}

/// The shells that are tried.
#[derive(Clone, Copy, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let shell = match arguments.shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut super::Arguments::command(), "wharf", &mut script);
    super::print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
