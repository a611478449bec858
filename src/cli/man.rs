//! `wharf man`: the manual's pages, one a subcommand.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where the pages go: wharf.1, wharf-serve.1 and so on; it is made when it is not there
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let directory = &arguments.directory;
    let of = || directory.display().to_string();
    fs::create_dir_all(directory).with_context(of)?;
    clap_mangen::generate_to(super::Arguments::command(), directory).with_context(of)?;
    Ok(ExitCode::SUCCESS)
}
