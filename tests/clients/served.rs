//! The server that all these clients talk to.

use std::collections::HashSet;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam_channel::{Receiver, Sender, unbounded};
use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use wharf::config::Config;
use wharf::handler::{Context, Error, Handler, Policy};
use wharf::http::{Request, Response};
use wharf::metrics::Metrics;
use wharf::server::Drained;
use wharf::server::{Running, Server};

use super::known;
use crate::support::{PATIENCE, wait_for};

/// The length of the answer to `GET /large`, more than any socket's buffers take at once.
pub(crate) const LARGE: usize = 10 << 20;

/// The limit of bodies, unless a test sets another.
pub(crate) const BODY_LIMIT: usize = 16 << 20;

/// The limit of what `PUT /known` takes, which streams.
const KNOWN_LIMIT: usize = 2 << 30;

/// How the body of a request to `/echo` came: `length` or `chunked`.
pub(crate) const FRAMING: HeaderName = HeaderName::from_static("x-framing");

/// A running server.
///
/// - `GET /path/{*rest}`: path and query
/// - `POST /echo`: the body, and [`FRAMING`]
/// - `PUT /known`: whether the body is the known content
/// - `GET /large`: [`LARGE`] bytes of it
/// - `GET /client`: the client's address
/// - `GET /nothing`: 204
/// - `GET /gate`: waits until [`Served::open_gate`]
/// - `GET /immediate`: answered without a worker
/// - `GET /idle`: the same by a worker
pub(crate) struct Served {
    running: Running,
    peers: Peers,
    gate: Sender<()>,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// With a configuration changed by `change`.
    pub(crate) fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        listen_on_a_free_port(&mut config);
        config.server.workers = Some(4);
        config.http.max_body_bytes = BODY_LIMIT;
        // On a busy machine a request may wait for long; here that is no fault.
        (config.queue.target, config.queue.interval, config.queue.max_wait) = (PATIENCE, PATIENCE, PATIENCE);
        config.server.deadline = PATIENCE;
        // A departed client's connection must end because the client has left, and not because a timeout is over.
        config.http.body_timeout = PATIENCE * 2;
        config.http.write_timeout = PATIENCE * 2;
        change(&mut config);
        let peers = Peers::default();
        let kept = |answer| peers.clone().kept_by(answer);
        let of_immediate = peers.clone();
        let (gate, opened) = unbounded();
        let server = Server::new(config).expect("no database to open");
        let server = server.route(Method::GET, "/path/{*rest}", kept(path)).route(
            Method::GET,
            "/nothing",
            kept(nothing),
        );
        let known = is_known.with(Policy::streaming().max_body_bytes(KNOWN_LIMIT).deadline(PATIENCE * 4));
        let server = server.route(Method::POST, "/echo", kept(echo)).route(Method::PUT, "/known", known);
        let server = server.route(Method::GET, "/idle", kept(|_: &Request| Response::text("idle")));
        let server = server.get("/client", client);
        let server =
            server.route(Method::GET, "/large", kept(large)).route(Method::GET, "/gate", gated(opened));
        let server = server.get_immediate("/immediate", move |request| {
            of_immediate.keep(request);
            Response::text("immediate")
        });
        Self { running: server.start().expect("a free port"), peers, gate }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.address()
    }

    /// The URL of a path that begins with `/`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        self.running.metrics()
    }

    /// The number of connections on which requests came so far, without requests to `/gate`.
    pub(crate) fn connections(&self) -> usize {
        self.peers.set().len()
    }

    /// Lets one request to `/gate` through, now or when it comes.
    pub(crate) fn open_gate(&self) {
        self.gate.send(()).expect("the handler exists");
    }

    /// Waits until every request has come to its end, whichever that is.
    pub(crate) fn wait_until_none_is_left(&self) {
        let metrics = self.metrics();
        wait_for(
            || metrics.requests() == metrics.finished(),
            || format!("{} requests: {metrics}", metrics.requests()),
        );
    }

    /// The clients have ended: nothing of them is left, and the server stops at once.
    pub(crate) fn finish(self) {
        let metrics = self.metrics();
        wait_for(
            || metrics.open_connections() == 0,
            || format!("{} connections stay", metrics.open_connections()),
        );
        self.wait_until_none_is_left();
        assert_eq!(self.running.drain(), Drained::Complete);
    }
}

/// The one line that knows what an address is in a configuration.
fn listen_on_a_free_port(config: &mut Config) {
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
}

/// The addresses of the clients that connected. Each connection has a port of its own.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<HashSet<SocketAddr>>>);

impl Peers {
    fn set(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.0.lock().expect("no thread panics while it holds the set")
    }

    fn keep(&self, request: &Request) {
        self.set().insert(request.peer().expect("the native connector knows its clients"));
    }

    /// A handler that keeps the peer before it answers.
    fn kept_by(self, answer: fn(&Request) -> Response) -> impl Handler {
        move |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
            self.keep(request);
            Ok(answer(request))
        }
    }
}

fn gated(opened: Receiver<()>) -> impl Handler {
    move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        opened.recv_timeout(PATIENCE).map_err(Error::internal)?;
        Ok(Response::text("through"))
    }
}

fn path(request: &Request) -> Response {
    Response::text(format!("{}?{}", request.path(), request.query()))
}

fn nothing(_: &Request) -> Response {
    Response::empty(StatusCode::NO_CONTENT)
}

fn echo(request: &Request) -> Response {
    let framing = if request.header("transfer-encoding").is_some() { "chunked" } else { "length" };
    let answer = Response::new(StatusCode::OK, "application/octet-stream", request.body().clone());
    answer.with_header(FRAMING, HeaderValue::from_static(framing))
}

/// Compares as it reads, so that the body's length is no matter of memory.
fn is_known(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let (mut reader, mut piece) = (request.reader(), vec![0; 64 * 1024]);
    let (mut offset, mut is_known) = (0, true);
    loop {
        let read = reader.read(&mut piece)?;
        if read == 0 {
            return Ok(Response::text(format!("{offset} bytes, known: {is_known}")));
        }
        is_known &= known::is_at(offset, &piece[..read]);
        offset += read;
    }
}

/// Answers with the client that the connection's PROXY header or a proxy's header names.
fn client(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let address = request.client().map(|address| address.to_string());
    Ok(Response::text(address.unwrap_or_default()))
}

fn large(_: &Request) -> Response {
    Response::new(StatusCode::OK, "application/octet-stream", known::bytes(LARGE))
}
