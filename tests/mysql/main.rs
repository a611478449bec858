//! MySQL's protocol: wharf on a real MariaDB, on a Galera cluster of three, and on a scripted server that says what MySQL 5.7
//! and 8 would say.

#[path = "../support/mod.rs"]
mod support;

mod authentication;
mod deadlines;
mod disk;
mod encrypted;
mod endpoints;
mod errors;
mod galera;
mod handlers;
mod hosts;
mod late_kills;
mod left_over;
mod pipeline;
mod pool;
mod round_trips;
mod scripted;
mod tools;
mod types;

use std::time::Duration;

use support::{Answer, Client, PATIENCE, Wharf, config_of};
use wharf::config::{self, Config};
use wharf::database::{Access, Connection, Database, Error, RowWriter, Shape, Statement};
use wharf::deadline::Deadline;
use wharf::server::{Running, Server};

/// The configuration of a server with `size` workers and as many sessions. `more` are further keys of `[database]`.
fn configuration(url: &str, size: usize, more: &str, endpoints: &str) -> Config {
    config_of(format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = {size}\n[queue]\ntarget = '60s'\ninterval = '60s'\n\
         [database]\nurl = \"{url}\"\nmaximum_pool_size = {size}\n{more}\n{endpoints}"
    ))
}

/// A server with one worker and one session.
fn serve(url: &str, endpoints: &str) -> Running {
    serve_with(url, 1, "", endpoints)
}

fn serve_with(url: &str, size: usize, more: &str, endpoints: &str) -> Running {
    let server = Server::new(configuration(url, size, more, endpoints));
    server.unwrap_or_else(|error| panic!("{error}")).start().expect("a free port")
}

/// Why `wharf check` refuses these endpoints.
fn refused(url: &str, endpoints: &str) -> String {
    let config = format!("[database]\nurl = \"{url}\"\n{endpoints}");
    let exit = Wharf::run(&config, &["check", "--config", "wharf.toml"], &[]);
    assert_eq!(exit.code, Some(1), "{}{}\n{endpoints}", exit.stdout, exit.stderr);
    exit.stdout + &exit.stderr
}

fn ask(server: &Running, method: &str, path: &str) -> Answer {
    ask_with(server, method, path, "")
}

/// A request with a JSON body.
fn ask_with(server: &Running, method: &str, path: &str, body: &str) -> Answer {
    let mut client = Client::connect(server.address());
    let headers: &[(&str, &str)] =
        if body.is_empty() { &[] } else { &[("Content-Type", "application/json")] };
    client.request(method, path, headers, body);
    client.answer()
}

/// The body of a good answer to `GET path`.
fn get(server: &Running, path: &str) -> String {
    let answer = ask(server, "GET", path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text().to_owned()
}

/// An endpoint without parameters that answers with one value.
fn value(name: &str, sql: &str) -> String {
    let sql = sql.replace('\\', "\\\\").replace('"', "\\\"");
    format!("[endpoint.{name}]\nroute = 'GET /{name}'\nreturns = 'value'\nsql = \"{sql}\"\n")
}

/// An endpoint without parameters that writes.
fn write(name: &str, sql: &str) -> String {
    let sql = sql.replace('\\', "\\\\").replace('"', "\\\"");
    format!("[endpoint.{name}]\nroute = 'POST /{name}'\nsql = \"{sql}\"\n")
}

/// A pool of one session, opened within `patience`.
fn open(url: &str, patience: Duration) -> Result<Database, Error> {
    let mut settings = config::Database::default();
    settings.maximum_pool_size = 1;
    settings.minimum_idle = Some(0);
    settings.initialization_fail_timeout = patience;
    settings.connection_timeout = patience.max(Duration::from_secs(1));
    Database::open(&settings, url)
}

fn statement(database: &Database, sql: &str) -> Statement {
    database.statement(&config::Sql { pieces: vec![sql.to_owned()], slots: vec![] }, &[])
}

/// The first value that this SQL returns, as JSON.
fn look(database: &Database, connection: &mut Connection, sql: &str) -> Result<String, Error> {
    let mut out = Vec::new();
    let mut rows = RowWriter::new(&mut out, Shape::Value, 1 << 20, 1);
    let statement = statement(database, sql);
    connection.run(&statement, &[], Access::ReadWrite, Deadline::after(PATIENCE), &mut rows)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}
