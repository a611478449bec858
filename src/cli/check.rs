//! `wharf check`: everything that is wrong with a configuration, in one run; the database's opinion of the SQL included.

use std::process::ExitCode;

use wharf::config::{Endpoint, Problems, Source};
use wharf::database::Database;
use wharf::endpoint;

use super::{Common, FAILED, demo};

pub(super) fn run(common: Common) -> anyhow::Result<ExitCode> {
    let loaded = common.load()?;
    let config = match loaded.config {
        Ok(config) => config,
        Err(problems) => {
            eprint!("{problems}");
            return Ok(ExitCode::from(FAILED));
        }
    };
    let name = loaded.source.name();
    let count = config.endpoints.len();
    let Some(url) = &config.database.url else {
        println!("{name}: {count} endpoints, no database: good");
        return Ok(ExitCode::SUCCESS);
    };
    if demo::is_missing(&config) {
        println!(
            "{name}: {count} endpoints: good; their SQL is checked once `wharf serve` has made the demo database"
        );
        return Ok(ExitCode::SUCCESS);
    }
    let database = match Database::open(&config.database, url) {
        Ok(database) => database,
        Err(error) => {
            eprintln!("{name}: {count} endpoints: good, but their SQL cannot be checked: {error}");
            return Ok(ExitCode::from(FAILED));
        }
    };
    match statements(&loaded.source, &config.endpoints, &database) {
        Ok(()) => {
            println!(
                "{name}: {count} endpoints, every statement prepared on {}: good",
                database.display_url()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            eprint!("{problems}");
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// What the database says of the endpoints' SQL.
pub(super) fn statements(
    source: &Source,
    endpoints: &[Endpoint],
    database: &Database,
) -> Result<(), Problems> {
    let found = endpoint::check(source, endpoints, database);
    if found.is_empty() { Ok(()) } else { Err(Problems::new(source.clone(), found)) }
}
