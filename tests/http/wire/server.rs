//! The server that the cases are sent to: small limits, so that the cases about them are short.

use std::time::Duration;

use crate::support::default_config;
use http::StatusCode;
use wharf::config::Connector;
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::{Running, Server};

pub(crate) const MAX_HEAD_BYTES: usize = 2048;
pub(crate) const MAX_HEADERS: usize = 20;
pub(crate) const MAX_TARGET_BYTES: usize = 512;
pub(crate) const MAX_BODY_BYTES: usize = 1000;

/// Longer than a case takes, also a byte at a time on a machine that is busy with other things.
const NEVER: Duration = Duration::from_secs(120);

/// Starts the server with the routes that the cases use.
pub(crate) fn start(connector: Connector) -> Running {
    let mut config = default_config();
    config.server.connector = connector;
    config.server.workers = Some(4);
    config.server.deadline = NEVER;
    config.queue.max_wait = NEVER;
    config.http.max_head_bytes = MAX_HEAD_BYTES;
    config.http.max_headers = MAX_HEADERS;
    config.http.max_target_bytes = MAX_TARGET_BYTES;
    config.http.max_body_bytes = MAX_BODY_BYTES;
    config.http.head_timeout = NEVER;
    config.http.body_timeout = NEVER;
    config.http.idle_timeout = NEVER;
    let server = Server::new(config).expect("no database to open");
    let server = server.get_immediate("/", |_| Response::text("root"));
    let server = server.get_immediate("/immediate", |_| Response::text("immediate"));
    let server = server.get_immediate("/field", field);
    let server = server.get("/path/{*rest}", path).post("/echo", echo);
    let server = server.get("/none", |_: &Request, _: &mut Context<'_>| withheld(StatusCode::NO_CONTENT));
    let server =
        server.get("/unchanged", |_: &Request, _: &mut Context<'_>| withheld(StatusCode::NOT_MODIFIED));
    server.start().expect("a free port")
}

fn path(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text(format!("{}?{}", request.path(), request.query())))
}

fn echo(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text(request.body().clone()))
}

/// The field `X` between brackets, which show what of the white space belongs to it.
fn field(request: &Request) -> Response {
    let value = request.header("x").unwrap_or(b"nothing");
    Response::text([b"[", value, b"]"].concat())
}

fn withheld(status: StatusCode) -> Result<Response, Error> {
    Ok(Response::text("never sent").with_status(status))
}
