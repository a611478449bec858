//! A whole program: a configuration file with a section of its own, endpoints in SQL, handlers in Rust, errors with
//! their own statuses, and tests without a port.
//!
//! ```text
//! cargo run --example app
//! curl http://127.0.0.1:8080/items
//! curl -X POST 'http://127.0.0.1:8080/items/tea/orders?count=2'
//! cargo test --example app
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use wharf::config::{Config, Environment, Flags};
use wharf::database::{self, rusqlite};
use wharf::deadline::Deadline;
use wharf::handler::{Context, Error, Handler as _, Policy, function};
use wharf::http::{Method, Request, Response, StatusCode};
use wharf::server::Server;

/// `[app]` of the configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shop {
    currency: String,
    max_items: u32,
}

/// The errors of the shop. Functions return them; handlers turn them into an answer by `?`.
#[derive(Debug)]
enum ShopError {
    NoSuchItem(String),
    SoldOut { left: u32 },
    Database(database::Error),
    Sqlite(rusqlite::Error),
}

impl From<ShopError> for Error {
    fn from(error: ShopError) -> Self {
        match error {
            ShopError::NoSuchItem(name) => {
                Self::new(StatusCode::NOT_FOUND, format!("there is no item {name}"))
            }
            ShopError::SoldOut { left } => Self::new(StatusCode::CONFLICT, "there are not enough of them")
                .with_member("left", left.to_string()),
            // The database's errors have statuses of their own, such as 503 when it is down.
            ShopError::Database(error) => error.into(),
            ShopError::Sqlite(error) => error.into(),
        }
    }
}

impl From<database::Error> for ShopError {
    fn from(error: database::Error) -> Self {
        Self::Database(error)
    }
}

impl From<rusqlite::Error> for ShopError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Takes some of an item out of the stock, and returns their price. This function knows nothing of HTTP.
fn order(context: &Context<'_>, name: &str, count: u32) -> Result<u32, ShopError> {
    let mut connection = context.database()?;
    let transaction = connection.sqlite()?.transaction()?;
    let found = transaction.query_row("select price, stock from item where name = ?1", [name], |row| {
        Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?))
    });
    let (price, stock) = match found {
        Err(rusqlite::Error::QueryReturnedNoRows) => return Err(ShopError::NoSuchItem(name.to_owned())),
        found => found?,
    };
    if stock < count {
        return Err(ShopError::SoldOut { left: stock });
    }
    transaction.execute("update item set stock = stock - ?1 where name = ?2", (count, name))?;
    transaction.commit()?;
    Ok(price * count)
}

/// The server with its routes. Handlers own the state that they share, in an `Arc`.
fn server(config: Config) -> anyhow::Result<Server> {
    let shop: Arc<Shop> = Arc::new(config.app()?);
    let server = Server::new(config)?;
    if let Some(database) = server.database() {
        let mut connection = database.checkout(Deadline::after(Duration::from_secs(5)))?;
        connection.sqlite()?.execute_batch(
            "create table if not exists item (name text primary key, price integer, stock integer);
             insert or ignore into item values ('tea', 4, 12), ('coffee', 5, 1)",
        )?;
    }
    let terms = Arc::clone(&shop);
    let orders = function(move |request, context| {
        let count = request.query_value("count").unwrap_or_else(|| "1".to_owned());
        let count =
            count.parse().ok().filter(|count| (1..=shop.max_items).contains(count)).ok_or_else(|| {
                Error::bad_parameter("count", &format!("a number from 1 to {}", shop.max_items), &count)
            })?;
        let price = order(context, request.path_value("name").unwrap_or_default(), count)?;
        Ok(Response::json(format!("{{\"price\":{price},\"currency\":\"{}\"}}\n", shop.currency)))
    });
    // At most two orders run at a time, whatever the number of workers, and each may take two seconds.
    let policy = Policy::new().max_concurrency(2).deadline(Duration::from_secs(2));
    Ok(server
        .get("/terms", move |_: &Request, _| {
            Ok(Response::text(format!("at most {} items\n", terms.max_items)))
        })
        .route(Method::POST, "/items/{name}/orders", orders.with(policy)))
}

fn main() -> anyhow::Result<()> {
    wharf::server::catch_signals()?;
    let path = std::env::args().nth(1).unwrap_or_else(|| "examples/app.toml".to_owned());
    let environment: Environment = std::env::vars().collect();
    let source = Config::locate(Some(Path::new(&path)), &environment)?;
    server(Config::read(source, &environment, &Flags::default())?)?.run()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use wharf::config::Source;
    use wharf::server::Client;

    use super::*;

    /// A client for the server of `app.toml`, with a database that ends with the test.
    fn client() -> (Client, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a directory");
        let source = Source { path: Some("app.toml".into()), text: include_str!("app.toml").to_owned() };
        let url = format!("sqlite:{}/shop.db", directory.path().display());
        let flags = Flags { database: Some(url), ..Flags::default() };
        let config = Config::read(source, &Environment::default(), &flags).expect("a configuration");
        let server = server(config).expect("a database");
        (server.client().expect("a server"), directory)
    }

    #[test]
    fn an_order_takes_items_out_of_the_stock() {
        let (client, _directory) = client();
        let post = |target: &str| {
            let answer =
                client.send(Request::builder().method(Method::POST).target(target)).expect("an answer");
            (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
        };
        let (status, body) = post("/items/tea/orders?count=2");
        assert_eq!((status, body.trim_end()), (200, r#"{"price":8,"currency":"EUR"}"#));
        let tea = client.get("/items/tea").expect("an answer");
        assert_eq!(&tea.body()[..], br#"{"name":"tea","price":4,"stock":10}"#, "an endpoint in SQL");
        assert_eq!(post("/items/coffee/orders?count=2").0, 409);
        assert_eq!(post("/items/cocoa/orders").0, 404);
        assert_eq!(post("/items/tea/orders?count=11").0, 400);
        assert_eq!(client.get("/terms").expect("an answer").body().as_ref(), b"at most 10 items\n");
    }
}
