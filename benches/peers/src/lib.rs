//! Code that the two axum peers share: the environment that benches/sqlite gives every server, the connections to its file
//! and the answer of `/db`.

use std::str::FromStr;

use axum::response::{IntoResponse, Response};
use axum::{Json, http::StatusCode};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

#[derive(Serialize)]
pub struct World {
    id: i64,
    #[serde(rename = "randomNumber")]
    random_number: i64,
}

impl World {
    pub fn new(id: i64, random_number: i64) -> Self {
        Self { id, random_number }
    }
}

pub fn variable<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

pub fn address() -> (&'static str, u16) {
    ("127.0.0.1", variable("PORT", 8080))
}

pub fn file() -> String {
    variable("SQLITE_FILE", "world.db".to_owned())
}

pub fn pool_size() -> usize {
    variable("DB_POOL", 16)
}

/// As wharf opens its own (src/database/sqlite.rs).
pub fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE
}

/// Sets the pragmas that wharf sets on a connection before it runs a `GET`.
pub fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "query_only", true)
}

/// One random row; its statement is prepared once for each connection.
pub fn world(connection: &Connection) -> rusqlite::Result<World> {
    let mut statement = connection.prepare_cached("SELECT id, randomnumber FROM world WHERE id = ?1")?;
    statement.query_row([fastrand::i64(1..=10_000)], |row| {
        Ok(World { id: row.get(0)?, random_number: row.get(1)? })
    })
}

pub fn answer<E>(world: Result<World, E>) -> Response {
    world
        .map_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response(), |world| Json(world).into_response())
}
