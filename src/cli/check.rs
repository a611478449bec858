//! `wharf check`: reports all problems of a configuration in one run, including the database's verdict on the SQL.

use std::path::Path;
use std::process::ExitCode;

use crate::config::{Config, Problem, Problems, Source};
use crate::connector::TlsError;
use crate::database::Database;
use crate::{endpoint, server};

use super::{Common, FAILED, Loaded, complain, demo, print};

pub(super) fn run(common: &Common) -> anyhow::Result<ExitCode> {
    let Checked { source, config, problems, statements } = check(common.load()?);
    let summary = format!("{}: {} endpoints", source.name(), config.endpoints.len());
    for warning in server::tls_warnings(&config) {
        complain(&format!("warning: {warning}"));
    }
    if let Some(problems) = problems {
        complain(&problems.to_string());
        if let Err(reason) = statements {
            complain(&format!("the SQL is not checked: {reason}"));
        }
        if let Some(file) = demo::missing_file(&config) {
            complain(&format!("the SQL is checked on an empty database: there is no {}", file.display()));
        }
        return Ok(ExitCode::from(FAILED));
    }
    match statements {
        Ok(checked) => {
            print(&format!("{summary}, {checked}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => {
            complain(&format!("{summary}: good, but their SQL cannot be checked: {reason}"));
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
    found.extend(certificates(&config, &found));
    let statements = match database(&config, &found) {
        Ok(database) => {
            found.extend(endpoint::check(&source, &config.endpoints, &database));
            found.extend(endpoint::check_samples(&source, &config.endpoints, &database));
            let empty = if demo::missing_file(&config).is_some() {
                " (there is no such file, so an empty database)"
            } else {
                ""
            };
            Ok(format!("every statement prepared on {}{empty}: good", database.display_url()))
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

/// The problems with the certificates' files of all listeners. They are checked only when their own settings are right.
fn certificates(config: &Config, found: &[Problem]) -> Vec<Problem> {
    if is_wrong(found, &["tls", "WHARF_TLS", "listen"]) {
        return Vec::new();
    }
    let listeners = config.listeners();
    let encrypted = listeners.iter().enumerate().filter(|(_, listener)| listener.tls);
    let files: Vec<_> = encrypted.flat_map(|(index, listener)| config.tls_files(index, listener)).collect();
    let key_of = |wrong: &Path| {
        let found = files.iter().find(|(_, file)| file.as_deref() == Some(wrong));
        found.map(|(key, _)| key.clone())
    };
    let problem = |error: TlsError| {
        let key = match &error {
            TlsError::File { file, .. } => key_of(file),
            TlsError::KeyMismatch { key, .. } => key_of(key),
            _ => None,
        };
        Problem::new(None, key.unwrap_or_else(|| "tls".to_owned()), error.to_string())
    };
    let mut problems: Vec<_> = server::tls_problems(config).into_iter().map(problem).collect();
    // Listeners with the same file and other rules find the same.
    problems.dedup_by(|one, other| one.message == other.message);
    problems
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
    Database::open_to_look(&config.database, url).map_err(|error| Unchecked(Err(error.to_string())))
}
