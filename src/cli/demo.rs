//! `wharf demo`: creates the demo tables and fills them.

#[doc(hidden)]
pub mod tables;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::base::deadline::Deadline;
use crate::config::{self, Config};
use crate::database::{Database, Kind, kind_of, postgres, sqlite::file_of};
use anyhow::Context as _;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Database to fill: sqlite:FILE, postgres://… or mysql://…
    #[arg(long, value_name = "URL", env = "WHARF_DATABASE")]
    database: String,
    /// Drop the demo tables first, if they are there
    #[arg(long)]
    replace: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let url = &arguments.database;
    if let Some(file) = file_of(url) {
        anyhow::ensure!(
            !file.exists() || arguments.replace,
            "{} exists already; --replace drops its demo tables and fills them anew",
            file.display()
        );
        if file.exists() {
            tables::replace_sqlite(file)
                .with_context(|| format!("{}: nothing was changed", file.display()))?;
        } else {
            fill_sqlite(file)?;
        }
    } else if kind_of(url) == Some(Kind::Mysql) {
        fill_mysql(url, arguments.replace)?;
    } else {
        let mut client = postgres::client(url)?;
        let filled = tables::fill_postgres(&mut client, arguments.replace);
        let replaceable = matches!(filled, Err(tables::Error::TablesExist(_)));
        filled.with_context(|| {
            if replaceable { "nothing was changed; see --replace" } else { "nothing was changed" }
        })?;
    }
    super::print(&format!("{}: filled with the demo data\n", crate::database::display_url(url)))?;
    Ok(ExitCode::SUCCESS)
}

fn fill_mysql(url: &str, replace: bool) -> anyhow::Result<()> {
    /// The time of the whole fill, which takes a second where the server is near.
    const PATIENCE: Duration = Duration::from_secs(600);
    let settings = config::Database::default();
    let open_by = Deadline::after(settings.initialization_fail_timeout);
    let mut connection = Database::connect_outside_pool(&settings, url, open_by, Deadline::after(PATIENCE))?;
    let filled = tables::fill_mysql(connection.mysql()?, replace);
    let replaceable = matches!(filled, Err(tables::Error::TablesExist(_)));
    filled.with_context(|| {
        if replaceable { "nothing was changed; see --replace" } else { "the demo tables are not complete" }
    })
}

/// Makes the demo database if the configuration asks for it and the file does not exist. Returns whether it was made.
pub(super) fn fill_if_missing(config: &Config) -> anyhow::Result<bool> {
    demo_to_make(config).map_or(Ok(false), |file| fill_sqlite(file).map(|()| true))
}

/// Whether the configuration asks for a demo database whose file does not exist.
pub(super) fn is_missing(config: &Config) -> bool {
    demo_to_make(config).is_some()
}

fn demo_to_make(config: &Config) -> Option<&Path> {
    missing_file(config).filter(|_| config.database.demo)
}

/// The file of SQLite's that a server would make.
pub(super) fn missing_file(config: &Config) -> Option<&Path> {
    config.database.url.as_deref().and_then(file_of).filter(|file| !file.exists())
}

fn fill_sqlite(file: &Path) -> anyhow::Result<()> {
    tables::fill_sqlite(file).with_context(|| format!("cannot make the demo database {}", file.display()))
}
