//! The endpoints of the benchmark's peers, as handlers: `/plaintext`, `/json`, `/db`, `/queries?n=`, `/queries-at-once?n=`,
//! `/slow`, `POST /` and `POST /transfer`. Reads PORT, DB_POOL (connections), PGHOST, PGPORT, PGUSER and PGDATABASE. With
//! SQLITE_FILE, `/db` is answered from that file, and the others that need PostgreSQL are left out. The tables are made by
//! benches/shared/servers.sh.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::str::FromStr;

use http::Method;
use http::StatusCode;
use wharf::config::{AdminListen, Config};
use wharf::database;
use wharf::database::postgres::{Row, Session, Step, ToSql};
use wharf::handler::{self, Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Server;

const WORLD: &str = "SELECT id, randomnumber FROM world WHERE id = $1";
const NOTE: &str = "INSERT INTO note (author, body) VALUES ($1, $2) RETURNING id, author, body";
const SLOW: &str = "SELECT 1 FROM pg_sleep(0.02)";

fn db(_: &Request, rows: &[Row]) -> Result<Response, Error> {
    let row = rows.first().ok_or_else(|| Error::new(StatusCode::NOT_FOUND, "there is no such world"))?;
    let mut body = String::with_capacity(40);
    write_world(&mut body, row.get(0), row.get(1));
    Ok(Response::json(body))
}

fn db_of_sqlite(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    let mut world = connection.sqlite()?.prepare_cached(WORLD)?;
    let (id, number) = world.query_row([random_id()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut body = String::with_capacity(40);
    write_world(&mut body, id, number);
    Ok(Response::json(body))
}

/// Each query is a transaction by itself.
fn queries(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    worlds(request, context, |session, runs| session.query_each(WORLD, runs))
}

/// All queries are one transaction, which the server answers in one piece.
fn queries_at_once(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    worlds(request, context, |session, runs| session.query_all(WORLD, runs))
}

/// One world for each run of the query.
fn worlds(
    request: &Request,
    context: &mut Context<'_>,
    query: impl FnOnce(&mut Session, &[&[&(dyn ToSql + Sync)]]) -> Result<Vec<Row>, database::Error>,
) -> Result<Response, Error> {
    let count = request.query_value("n").and_then(|n| n.parse().ok()).unwrap_or(1).clamp(1, 500);
    let ids: Vec<i32> = (0..count).map(|_| random_id()).collect();
    let parameters: Vec<[&(dyn ToSql + Sync); 1]> = ids.iter().map(|id| [id as _]).collect();
    let runs: Vec<&[&(dyn ToSql + Sync)]> = parameters.iter().map(|one| &one[..]).collect();
    let rows = query(context.database()?.postgres()?, &runs)?;
    let mut body = String::with_capacity(rows.len() * 40);
    let mut before = '[';
    for row in &rows {
        body.push(before);
        write_world(&mut body, row.get(0), row.get(1));
        before = ',';
    }
    body.push(']');
    Ok(Response::json(body))
}

fn add_note(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let row = context.database()?.postgres()?.query_one(NOTE, &[&"benchmark", &"a note"])?;
    let (id, author, text): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let body = format!(r#"{{"id":{id},"author":"{author}","body":"{text}"}}"#);
    Ok(Response::json(body).with_status(StatusCode::CREATED))
}

fn transfer(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    // The accounts that pay and the accounts that are paid are different ones, so two transfers never wait for each other.
    let (src, dst, amount) = (fastrand::i32(1..=5_000), fastrand::i32(5_001..=10_000), 1);
    let row = pay(context.database()?.postgres()?, src, dst, amount)?;
    let (id, balance): (i32, i32) = (row.get(0), row.get(1));
    Ok(Response::json(format!(r#"{{"id":{id},"balance":{balance}}}"#)))
}

/// Pays from one account to another in two round trips. Returns the account that was paid.
fn pay(session: &mut Session, src: i32, dst: i32, amount: i32) -> Result<Row, Error> {
    let take = "UPDATE account SET balance = balance - $2 WHERE id = $1 AND balance >= $2";
    let give = "UPDATE account SET balance = balance + $2 WHERE id = $1";
    let read = "SELECT id, balance FROM account WHERE id = $1";
    let results = session.run_together(&[
        Step::new(take, &[&src, &amount]).expect_rows(1),
        Step::new(give, &[&dst, &amount]).expect_rows(1),
        Step::new(read, &[&dst]).expect_rows(1),
    ]);
    let mut results = results.map_err(|failure| match failure.unexpected_step() {
        Some(0) => Error::new(StatusCode::CONFLICT, "insufficient funds"),
        Some(_) => Error::new(StatusCode::NOT_FOUND, "no such account"),
        None => failure.into(),
    })?;
    let paid = results.pop().and_then(|mut last| last.rows.pop());
    paid.ok_or_else(|| Error::internal("a step of one row has none"))
}

fn slow(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    context.database()?.postgres()?.query_one(SLOW, &[])?;
    Ok(Response::json("1"))
}

fn write_world(body: &mut String, id: i32, number: i32) {
    // Writing to a String cannot fail.
    let _ = write!(body, "{{\"id\":{id},\"randomNumber\":{number}}}");
}

fn random_id() -> i32 {
    fastrand::i32(1..=10_000)
}

fn variable<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn main() -> anyhow::Result<()> {
    env_logger::Builder::from_env(env_logger::Env::new().default_filter_or("warn")).init();
    let [host, user, database] =
        [("PGHOST", "127.0.0.1"), ("PGUSER", "postgres"), ("PGDATABASE", "hello_world")]
            .map(|(name, default)| variable(name, default.to_owned()));
    let mut config = Config::default();
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], variable("PORT", 8080))).into();
    // Several of these servers may run side by side.
    config.admin.listen = Some(AdminListen::At(SocketAddr::from(([127, 0, 0, 1], 0))));
    config.database.maximum_pool_size = variable("DB_POOL", 16);
    let file = std::env::var("SQLITE_FILE").ok();
    config.database.url = Some(match &file {
        Some(file) => format!("sqlite:{file}"),
        None => format!("postgres://{user}@{host}:{}/{database}", variable("PGPORT", 5432)),
    });
    let server = Server::new(config)?
        .get_immediate("/plaintext", |_| Response::text("Hello, World!"))
        .get_immediate("/json", |_| Response::json(r#"{"message":"Hello, World!"}"#));
    let server = match file {
        Some(_) => server.get("/db", db_of_sqlite),
        None => server
            .route(Method::GET, "/db", handler::query(WORLD, |_| Ok((random_id(),)), db))
            .get("/queries", queries)
            .get("/queries-at-once", queries_at_once)
            .post("/", add_note)
            .post("/transfer", transfer)
            .get("/slow", slow),
    };
    server.run()?;
    Ok(())
}
