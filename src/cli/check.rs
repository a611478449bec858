//! `wharf check`: reports all problems of a configuration in one run, including the database's verdict on the SQL.

use std::process::ExitCode;

use crate::config::{Config, Problem, Problems, Source};
use crate::connector::TlsError;
use crate::database::Database;
use crate::{endpoint, server};

use super::{Common, FAILED, Loaded, demo};

pub(super) fn run(common: &Common) -> anyhow::Result<ExitCode> {
    let Checked { source, config, problems, statements } = check(common.load()?);
    let summary = format!("{}: {} endpoints", source.name(), config.endpoints.len());
    if let Some(problems) = problems {
        eprintln!("{problems}");
        if let Err(reason) = statements {
            eprintln!("the SQL is not checked: {reason}");
        }
        return Ok(ExitCode::from(FAILED));
    }
    match statements {
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

/// A configuration, and the findings on it.
pub(super) struct Checked {
    pub(super) source: Source,
    pub(super) config: Config,
    /// All problems; `None` without any.
    pub(super) problems: Option<Problems>,
    /// The result of the check of the SQL, or why it was not checked.
    pub(super) statements: Result<String, String>,
}

pub(super) fn check(loaded: Loaded) -> Checked {
    let Loaded { source, config, problems } = loaded;
    let mut found = problems.list().to_vec();
    found.extend(certificate(&config, &found));
    let statements = match database(&config, &found) {
        Ok(database) => {
            found.extend(endpoint::check(&source, &config.endpoints, &database));
            found.extend(endpoint::check_samples(&source, &config.endpoints, &database));
            Ok(format!("every statement prepared on {}: good", database.display_url()))
        }
        Err(unchecked) => unchecked.0,
    };
    let problems = (!found.is_empty()).then(|| Problems::new(source.clone(), found));
    Checked { source, config, problems, statements }
}

/// Why no statement is checked: `Ok` when that is no fault, `Err` when it is.
struct Unchecked(Result<String, String>);

/// Whether a problem was already found in a setting whose key begins with one of these.
pub(super) fn is_wrong(found: &[Problem], starts: &[&str]) -> bool {
    found.iter().any(|problem| starts.iter().any(|start| problem.key.starts_with(start)))
}

/// The problem with the certificate's files. They are checked only when their own settings are right.
fn certificate(config: &Config, found: &[Problem]) -> Option<Problem> {
    if is_wrong(found, &["tls", "WHARF_TLS"]) {
        return None;
    }
    let error = server::check_tls(config).err()?;
    let tls = &config.tls;
    let files =
        [("tls.certificate", &tls.certificate), ("tls.key", &tls.key), ("tls.client_ca", &tls.client_ca)];
    let key = match &error {
        TlsError::File { file, .. } => files.into_iter().find(|(_, of)| of.as_ref() == Some(file)),
        TlsError::KeyMismatch { .. } => Some(files[1]),
        _ => None,
    };
    Some(Problem::new(None, key.map_or("tls", |(key, _)| key), error.to_string()))
}

/// The database for the check of the SQL. It is used even when other settings are wrong.
fn database(config: &Config, found: &[Problem]) -> Result<Database, Unchecked> {
    if is_wrong(found, &["database", "WHARF_DATABASE", "--database"]) {
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
