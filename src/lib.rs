//! wharf: a thread-per-request blocking HTTP server for services that live on a database.
//!
//! # The model
//!
//! A handler is a plain function from request and context to response or error, and it may block. Each stage in front
//! of it is bounded:
//!
//! - A few pollers read requests, without ever waiting for a client.
//! - A bounded queue holds the requests.
//! - A bounded pool of threads, the workers, runs the handlers. Each worker has one request at a time.
//! - A pool of database connections lends connections to handlers.
//!
//! Everything has a limit, and every request has one deadline. A server that cannot keep up refuses in time instead of
//! answering late. There is no `async`.
//!
//! # A server
//!
//! [`Server`](server::Server) takes routes and a [`Config`](config::Config), which is read from a file or made in the
//! program. Endpoints that the file declares in SQL and handlers in Rust stand side by side. `run` serves until SIGTERM
//! or SIGINT, answers the requests in flight and returns.
//!
//! ```no_run
//! use wharf::config::Config;
//! use wharf::http::Response;
//! use wharf::server::Server;
//!
//! fn main() -> Result<(), wharf::server::StartError> {
//!     Server::new(Config::default())?
//!         .get("/greet/{name}", |request, _| {
//!             let name = request.path_value("name").unwrap_or("stranger");
//!             Ok(Response::text(format!("Hello, {name}!\n")))
//!         })
//!         .run()?;
//!     Ok(())
//! }
//! ```
//!
//! `get`, `post`, `put`, `patch` and `delete` take functions. [`route`](server::Server::route) takes any
//! [`Handler`](handler::Handler). A handler may have a [policy](handler::Policy), such as a deadline of its own or a
//! limit on how many of its requests run at once. It may also be a [statement](handler::query()) that shares its round
//! trip to the database with others.
//!
//! ```
//! use std::time::Duration;
//! use wharf::config::Config;
//! use wharf::handler::{Handler as _, Policy, function};
//! use wharf::http::{Method, Response};
//! use wharf::server::Server;
//!
//! let report = function(|_, _| Ok(Response::text("a long one")))
//!     .with(Policy::new().deadline(Duration::from_secs(60)).max_concurrency(1));
//! let server = Server::new(Config::default())?.route(Method::GET, "/report", report);
//! # let client = server.client()?;
//! # assert_eq!(client.get("/report")?.status(), 200);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The database
//!
//! [`Context::database`](handler::Context::database) borrows a connection from the pool; dropping it gives it back,
//! clean. The wait for it and every statement on it end at the request's deadline.
//! [`Connection::sqlite`](database::Connection::sqlite), [`Connection::mysql`](database::Connection::mysql) and
//! [`Connection::postgres`](database::Connection::postgres)
//! give access to the driver's own connection.
//!
//! ```
//! use wharf::config::Config;
//! use wharf::http::Response;
//! use wharf::server::Server;
//!
//! # let directory = tempfile::tempdir()?;
//! # let url = format!("sqlite:{}/count.db", directory.path().display());
//! let mut config = Config::default();
//! config.database.url = Some(url);
//! let server = Server::new(config)?.get("/two", |_, context| {
//!     let mut connection = context.database()?;
//!     let two: i64 = connection.sqlite()?.query_row("select 1 + 1", [], |row| row.get(0))?;
//!     Ok(Response::json(two.to_string()))
//! });
//! # assert_eq!(&server.client()?.get("/two")?.body()[..], b"2");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Transactions
//!
//! On SQLite a transaction is `rusqlite`'s. On PostgreSQL the connection begins and commits, by
//! [`begin`](database::Connection::begin) and [`commit`](database::Connection::commit). Either way, dropping an open
//! transaction undoes it, after a `?` and a panic too. If the answer to a commit never came, the client is told that
//! the outcome is unknown, and nothing is repeated.
//!
//! ```
//! # use wharf::config::Config;
//! # use wharf::handler::Error;
//! # use wharf::http::{Request, Response, StatusCode, Method};
//! # use wharf::server::Server;
//! # let directory = tempfile::tempdir()?;
//! # let mut config = Config::default();
//! # config.database.url = Some(format!("sqlite:{}/bank.db", directory.path().display()));
//! # let server = Server::new(config)?;
//! # let until = wharf::deadline::Deadline::after(std::time::Duration::from_secs(5));
//! # let created = "create table account (id integer, balance integer); insert into account values (1, 5), (2, 0)";
//! # server.database().expect("it has one").checkout(until)?.sqlite()?.execute_batch(created)?;
//! let server = server.post("/pay/{amount}", |request, context| {
//!     let text = request.path_value("amount").unwrap_or_default();
//!     let amount: u32 = text.parse().map_err(|_| Error::bad_parameter("amount", "a number", text))?;
//!     let mut connection = context.database()?;
//!     let transaction = connection.sqlite()?.transaction()?;
//!     transaction.execute("update account set balance = balance + ?1 where id = 2", [amount])?;
//!     let take = "update account set balance = balance - ?1 where id = 1 and balance >= ?1";
//!     if transaction.execute(take, [amount])? == 0 {
//!         return Err(Error::new(StatusCode::CONFLICT, "insufficient funds"));
//!     }
//!     transaction.commit()?;
//!     Ok(Response::empty(StatusCode::NO_CONTENT))
//! });
//! # let client = server.client()?;
//! # let pay = |amount: u32| client.send(Request::builder().method(Method::POST).target(format!("/pay/{amount}")));
//! # assert_eq!((pay(9)?.status(), pay(5)?.status(), pay(1)?.status()), (StatusCode::CONFLICT, StatusCode::NO_CONTENT, StatusCode::CONFLICT));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Errors
//!
//! A handler fails with a [`handler::Error`], which is a status and a text for the client and a cause for the log.
//! Through `?`, an error of the database or of reading a body becomes one with a fitting status. For an error of your
//! own, `impl From<YourError> for handler::Error` says once what it becomes; then `?` takes it as well. Code with any
//! other error does not compile until [`Error::internal`](handler::Error::internal) makes it a 500. A panic is a 500,
//! and costs only its own request.
//!
//! ```
//! use wharf::handler::Error;
//! use wharf::http::{Response, StatusCode};
//! # use wharf::{config::Config, server::Server};
//!
//! enum AccountError {
//!     Closed,
//!     Overdrawn { by: u32 },
//! }
//!
//! impl From<AccountError> for Error {
//!     fn from(error: AccountError) -> Self {
//!         match error {
//!             AccountError::Closed => Self::new(StatusCode::GONE, "the account is closed"),
//!             AccountError::Overdrawn { by } => {
//!                 Self::new(StatusCode::CONFLICT, "the account is overdrawn").with_member("by", by.to_string())
//!             }
//!         }
//!     }
//! }
//!
//! fn balance(account: &str) -> Result<u32, AccountError> {
//!     match account {
//!         "1" => Ok(7),
//!         "2" => Err(AccountError::Overdrawn { by: 3 }),
//!         _ => Err(AccountError::Closed),
//!     }
//! }
//!
//! # let server = Server::new(Config::default())?;
//! let server = server.get("/balance/{account}", |request, _| {
//!     let balance = balance(request.path_value("account").unwrap_or_default())?;
//!     Ok(Response::json(balance.to_string()))
//! });
//! # let client = server.client()?;
//! # assert_eq!(client.get("/balance/1")?.status(), 200);
//! # assert_eq!(client.get("/balance/2")?.status(), 409);
//! # assert_eq!(client.get("/balance/3")?.status(), 410);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # State
//!
//! Handlers own the state that they share: a closure holds it, in an [`Arc`](std::sync::Arc) where several handlers do.
//! Workers run at the same time, so changing state is behind an atomic or a lock. A program's settings can stand in the
//! same file, in `[app]`; see [`Config::app`](config::Config::app).
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use wharf::http::Response;
//! # use wharf::{config::Config, server::Server};
//!
//! let visits = Arc::new(AtomicU64::new(0));
//! let seen = Arc::clone(&visits);
//! # let server = Server::new(Config::default())?;
//! let server = server
//!     .get("/visit", move |_, _| Ok(Response::text(format!("{}", visits.fetch_add(1, Ordering::Relaxed) + 1))))
//!     .get("/visits", move |_, _| Ok(Response::text(format!("{}", seen.load(Ordering::Relaxed)))));
//! # let client = server.client()?;
//! # client.get("/visit")?;
//! # assert_eq!(&client.get("/visits")?.body()[..], b"1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Streaming
//!
//! [`Policy::streaming`](handler::Policy::streaming) starts a handler before the request's body has come whole. The
//! handler reads the body by [`Request::reader`](http::Request::reader). [`Response::stream`](http::Response::stream)
//! writes an answer while it is made, and [`Response::file`](http::Response::file) sends a file without occupying a
//! worker. Memory is bounded, and the deadline ends an exchange with a client that is too slow.
//!
//! ```
//! use std::io::{self, Write as _};
//! use wharf::handler::{Handler as _, Policy, function};
//! use wharf::http::{Method, Response};
//! # use wharf::{config::Config, http::Request, server::Server};
//!
//! # let server = Server::new(Config::default())?;
//! let upload = function(|request, _| {
//!     let bytes = io::copy(&mut request.reader(), &mut io::sink())?;
//!     Ok(Response::text(format!("{bytes} bytes")))
//! });
//! let server = server
//!     .route(Method::PUT, "/upload", upload.with(Policy::streaming().max_body_bytes(1 << 30)))
//!     .get("/numbers", |_, _| {
//!         Ok(Response::stream("text/plain", |body| {
//!             for number in 0..3 {
//!                 writeln!(body, "{number}")?;
//!             }
//!             Ok(())
//!         }))
//!     });
//! # let client = server.client()?;
//! # assert_eq!(&client.get("/numbers")?.body()[..], b"0\n1\n2\n");
//! # let put = Request::builder().method(Method::PUT).target("/upload").body("hello");
//! # assert_eq!(&client.send(put)?.body()[..], b"5 bytes");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Testing
//!
//! [`Server::client`](server::Server::client) sends requests to a server without an address: through its limits, router, queue,
//! policies and workers, SQL endpoints included. A handler alone is called with [`Request::builder`](http::Request::builder) and
//! [`TestContext`](handler::TestContext).
//!
//! ```
//! use wharf::config::Config;
//! use wharf::http::{Method, Request, Response};
//! use wharf::server::Server;
//!
//! let server = Server::new(Config::default())?.post("/echo", |request, _| Ok(Response::text(request.body().clone())));
//! let client = server.client()?;
//! let answer = client.send(Request::builder().method(Method::POST).target("/echo").body("hello"))?;
//! assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"hello"[..]));
//! assert_eq!(client.get("/echo")?.status(), 405);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/app.rs` is a whole program: a configuration file, endpoints in SQL, handlers, errors and tests.

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "a module's page also speaks to readers of the source, who find the private parts by these links"
)]

mod admin;
mod base;
#[doc(hidden)]
pub mod cli;
pub mod config;
mod connector;
pub mod database;
mod endpoint;
mod exchange;
pub mod handler;
pub mod http;
mod resource;
pub mod server;
mod sizing;
mod telemetry;
mod workers;

pub use base::{deadline, value};
pub use sizing::{load, tune};
pub use telemetry::metrics;

/// Parts for this repository's benchmarks and tests. They are no API: any version may change or remove them.
#[doc(hidden)]
pub mod internal {
    pub use crate::base::{presence, queue, request_id};
    pub use crate::cli::demo::tables as demo;
    pub use crate::sizing::{Selection, Traffic, TrafficError, traffic};
    pub use crate::telemetry::{activity, journal};
}
