//! Two handlers in Rust with a pooled connection: `cargo run --release --example handlers`, then
//! `curl http://127.0.0.1:8080/greet/Ada` and `curl http://127.0.0.1:8080/greeted`.

use std::time::Duration;

use wharf::config::Config;
use wharf::deadline::Deadline;
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Server;

fn greet(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let name = request.path_value("name").unwrap_or("stranger");
    let mut connection = context.database()?;
    connection.sqlite()?.execute("insert into greeted (name) values (?1)", [name])?;
    Ok(Response::text(format!("Hello, {name}!\n")))
}

fn greeted(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    let count = "select count(*) from greeted";
    let count: i64 = connection.sqlite()?.query_row(count, [], |row| row.get(0))?;
    Ok(Response::json(format!("{{\"greeted\":{count}}}\n")))
}

fn main() -> anyhow::Result<()> {
    let mut config = Config::default();
    config.database.url = Some("sqlite:greeted.db".to_owned());
    let server = Server::new(config)?.get("/greet/{name}", greet).get("/greeted", greeted);
    if let Some(database) = server.database() {
        let mut connection = database.checkout(Deadline::after(Duration::from_secs(5)))?;
        connection.sqlite()?.execute_batch("create table if not exists greeted (name text)")?;
    }
    server.run()?;
    Ok(())
}
