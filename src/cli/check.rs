//! `wharf check`: everything that is wrong with a configuration, in one run; the database's opinion of the SQL included.

use std::process::ExitCode;

use wharf::config::{Config, Problem, Problems};
use wharf::database::Database;
use wharf::endpoint;

use super::{Common, FAILED, Loaded, demo};

pub(super) fn run(common: Common) -> anyhow::Result<ExitCode> {
    let Loaded { source, config, problems } = common.load()?;
    let mut found = problems.list().to_vec();
    let checked = match database(&config, &found) {
        Ok(database) => {
            found.extend(endpoint::check(&source, &config.endpoints, &database));
            Ok(format!("every statement prepared on {}: good", database.display_url()))
        }
        Err(unchecked) => unchecked.0,
    };
    let summary = format!("{}: {} endpoints", source.name(), config.endpoints.len());
    if !found.is_empty() {
        eprintln!("{}", Problems::new(source, found));
        if let Err(reason) = checked {
            eprintln!("the SQL is not checked: {reason}");
        }
        return Ok(ExitCode::from(FAILED));
    }
    match checked {
        Ok(checked) => {
            println!("{summary}, {checked}");
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => {
            eprintln!("{summary}: good, but their SQL cannot be checked: {reason}");
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// Why no statement is checked: there is nothing wrong with that, or there is.
struct Unchecked(Result<String, String>);

/// The database to ask, also where other things are wrong.
fn database(config: &Config, found: &[Problem]) -> Result<Database, Unchecked> {
    let of_database = |problem: &Problem| {
        ["database", "WHARF_DATABASE", "--database"].iter().any(|start| problem.key.starts_with(start))
    };
    if found.iter().any(of_database) {
        return Err(Unchecked(Err("the database's own settings are wrong".to_owned())));
    }
    let Some(url) = &config.database.url else {
        return Err(Unchecked(Ok("no database: good".to_owned())));
    };
    if demo::is_missing(config) {
        let later = "good; their SQL is checked once `wharf serve` has made the demo database";
        return Err(Unchecked(Ok(later.to_owned())));
    }
    Database::open(&config.database, url).map_err(|error| Unchecked(Err(error.to_string())))
}
