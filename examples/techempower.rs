//! The five endpoints of the benchmark's peers, as handlers: `/plaintext`, `/json`, `/db`, `/queries?n=` and `/slow`.
//! Reads PORT, DB_POOL (connections), PGHOST, PGPORT, PGUSER and PGDATABASE. With SQLITE_FILE, `/db` is answered from
//! that file, and `/queries` and `/slow` are left out.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::str::FromStr;

use http::Method;
use http::StatusCode;
use wharf::config::{AdminListen, Config};
use wharf::database::postgres::{Row, ToSql};
use wharf::handler::{self, Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Server;

const WORLD: &str = "SELECT id, randomnumber FROM world WHERE id = $1";
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

fn queries(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let count = request.query_value("n").and_then(|n| n.parse().ok()).unwrap_or(1).clamp(1, 500);
    let ids: Vec<i32> = (0..count).map(|_| random_id()).collect();
    let parameters: Vec<[&(dyn ToSql + Sync); 1]> = ids.iter().map(|id| [id as _]).collect();
    let runs: Vec<&[&(dyn ToSql + Sync)]> = parameters.iter().map(|one| &one[..]).collect();
    let rows = context.database()?.postgres()?.query_each(WORLD, &runs)?;
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
            .get("/slow", slow),
    };
    server.run()?;
    Ok(())
}
