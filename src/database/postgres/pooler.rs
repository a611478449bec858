//! Whether a pooler stands before the database, and lends its sessions by the transaction.
//!
//! Such a pooler gives each transaction any free session. A client then meets the settings and prepared statements of
//! another client. wharf is not made for that, so it looks for such a pooler before it sets anything. Owns that test.
//! Runs on the thread that opens a session.

use std::time::{Duration, Instant};

use tokio_postgres::Config;

use super::cleaning::SETTINGS;
use super::simple;
use super::wire::{Failure, Wire};
use crate::database::Error;
use crate::database::limit::Limit;

/// The time in which a second session must open and answer. If it takes longer, the pooler has no free session.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// The number of looks at the first session: a pooler with several free sessions may give it the same one by chance.
const LOOKS: usize = 3;

/// The advice in the error.
pub(super) const ADVICE: &str = "a pooler between here and the database gives each transaction another of its sessions \
    (transaction or statement pooling), so that one client's settings and prepared statements would be met by others; let the \
    pooler give each client a session of its own (PgBouncer: pool_mode = session, with at least database.maximum_pool_size \
    connections), or connect to the database directly: wharf has a pool itself";

const PROCESS: &str = "select pg_catalog.pg_backend_pid()";

/// Gives a session its settings if it still talks to `process`, the server process that opened it. Otherwise it sets
/// nothing and returns the process of the server behind the pooler.
///
/// The answer must repeat `process`, whose number no other client of a pooler has. `PgBouncer` 1.18 may send a new client
/// the last answers to another, which left before they came. They stand before the first answer that is the session's own.
pub(super) fn set_if_direct(
    wire: &mut Wire,
    process: Option<i32>,
    limit: &Limit,
) -> Result<Option<String>, Error> {
    let Some(process) = process else { return simple::run(wire, SETTINGS, limit).map(|_| None) };
    let sql = format!(
        "select case when pid = {process} then pg_catalog.set_config('timezone', 'UTC', false) end, pid, {process} \
         from pg_catalog.pg_backend_pid() pid"
    );
    let answer = simple::run(wire, &sql, limit);
    let rows = answer.inspect_err(|_| wire.close())?;
    match rows.first().map(Vec::as_slice) {
        Some([set, Some(pid), Some(named)]) if *named == process.to_string() => {
            Ok(set.is_none().then(|| pid.clone()))
        }
        _ => {
            wire.close();
            Err(Error::Lost("its first answer was that to another client of a pooler".to_owned()))
        }
    }
}

/// Whether the pooler gives a session's next transaction to another server process than `process`, or `process` to
/// other clients.
pub(super) fn shares(
    wire: &mut Wire,
    process: &str,
    open: impl FnOnce() -> Result<Wire, Error>,
    limit: &Limit,
    patience: Duration,
) -> Result<bool, Error> {
    // While the second session holds a session of the server, no other client has that one. If the second session gets
    // none, none is free.
    let mut other = open().ok();
    if let Some(other) = &mut other {
        let mut ask = |sql| {
            let mut wait = other.begin(limit, Some((Instant::now(), patience)))?;
            simple::ask(other, sql, &mut wait)
        };
        match ask("begin read only").and_then(|_| ask(PROCESS)) {
            Ok(rows) if is(&rows, process) => return Ok(true),
            // Statement pooling refuses transactions.
            Err(Failure::Known(Error::Refused(_))) => return Ok(true),
            Ok(_) | Err(_) => {}
        }
    }
    for _ in 0..LOOKS {
        if !is(&simple::run(wire, PROCESS, limit)?, process) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The settings of a session behind a pooler. Even the settings of the startup packet are set by a command, as by a
/// client.
pub(super) fn settings(config: &Config) -> String {
    let name = config.get_application_name().unwrap_or_default().replace('\'', "''");
    format!("{SETTINGS}; set client_encoding to 'UTF8'; set application_name to '{name}'")
}

fn is(rows: &[simple::TextRow], process: &str) -> bool {
    rows.first().and_then(|row| row.first()).is_some_and(|value| value.as_deref() == Some(process))
}
