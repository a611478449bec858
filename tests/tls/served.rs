//! The HTTPS server that the tests talk to.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use http::{Method, StatusCode};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use wharf::config::Config;
use wharf::handler::{Context, Error, Handler, Policy};
use wharf::http::{Request, Response};
use wharf::metrics::{Closing, Metrics};
use wharf::server::Drained;
use wharf::server::{Running, Server};

use super::known;
use super::session::Session;
use crate::support::{Authority, Client, Identity, PATIENCE, default_config, wait_for};

/// Every version that is spoken.
pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// The length of the large answers, more than any socket's buffers take at once.
pub(crate) const LARGE: usize = 20 << 20;

/// The limit of a body that comes whole.
pub(crate) const BODY_LIMIT: usize = 100_000;

/// A running server with one worker, unless a test sets more.
///
/// - `GET /path/{*rest}`: path and query
/// - `POST /echo`: the body
/// - `GET /large`, `/large-immediate`, `/large-stream`, `/large-file`: [`LARGE`] bytes of the known content
/// - `GET /bytes?{length}`: so many bytes of it
/// - `PUT /known`: whether the body, which streams, is the known content
/// - `PUT /gated-known`: the same, behind the gate
/// - `POST /echo-stream`: the body, which streams in and then out
/// - `GET /peer`: the client's address and port
/// - `GET /certificate`: the client's certificate, or nothing
/// - `GET /gate`: says that it was asked, and waits for [`Served::open_gate`]
/// - `GET /immediate`: answered without a worker
pub(crate) struct Served {
    pub(crate) authority: Authority,
    running: Running,
    begun: Receiver<()>,
    gate: Sender<()>,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::start_with(|_, _| {})
    }

    /// With a configuration changed by `change`, which may have the authority sign more.
    pub(crate) fn start_with(change: impl FnOnce(&mut Config, &Authority)) -> Self {
        let authority = Authority::new("the authority");
        let Identity { certificate, key } = authority.server(&["localhost"]);
        let mut config = default_config();
        config.server.workers = Some(1);
        // On a busy machine a request may wait for long; here that is no fault.
        (config.queue.target, config.queue.interval, config.queue.max_wait) = (PATIENCE, PATIENCE, PATIENCE);
        config.server.deadline = PATIENCE * 2;
        config.http.max_body_bytes = BODY_LIMIT;
        // A departed client's connection must end because the client has left, and not because a timeout is over.
        config.http.idle_timeout = PATIENCE * 2;
        config.http.head_timeout = PATIENCE * 2;
        config.http.body_timeout = PATIENCE * 2;
        config.http.write_timeout = PATIENCE * 2;
        config.tls.handshake_timeout = PATIENCE * 2;
        config.tls.certificate = Some(certificate);
        config.tls.key = Some(key);
        change(&mut config, &authority);
        let ((reached, begun), (gate, opened)) = (unbounded(), unbounded());
        let (gated, gated_known) = gated(reached, opened);
        let running = routes(Server::new(config).expect("no database to open"))
            .route(Method::GET, "/gate", gated)
            .route(Method::PUT, "/gated-known", gated_known.with(Policy::streaming().max_body_bytes(LARGE)))
            .start()
            .expect("a free port");
        Self { authority, running, begun, gate }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.address()
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        self.running.metrics()
    }

    /// A client of any version that shows no certificate.
    pub(crate) fn connect(&self) -> Client {
        self.connect_as(&self.authority.trusting(None))
    }

    /// The same, of one version.
    pub(crate) fn connect_with(&self, version: &'static SupportedProtocolVersion) -> Client {
        self.connect_as(&self.authority.trusting_with(&[version], None))
    }

    /// A client as this configuration says.
    pub(crate) fn connect_as(&self, config: &Arc<ClientConfig>) -> Client {
        Client::connect_tls_with(self.address(), Arc::clone(config))
    }

    /// A client that is driven by hand.
    pub(crate) fn session(&self) -> Session {
        Session::connect(self.address(), self.authority.trusting(None))
    }

    /// The same, of one version.
    pub(crate) fn session_with(&self, version: &'static SupportedProtocolVersion) -> Session {
        Session::connect(self.address(), self.authority.trusting_with(&[version], None))
    }

    /// Waits until a request has come to the gate.
    pub(crate) fn wait_for_gate(&self) {
        self.begun.recv_timeout(PATIENCE).expect("a request comes to the gate");
    }

    /// Lets one request to `/gate` through, now or when it comes.
    pub(crate) fn open_gate(&self) {
        self.gate.send(()).expect("the handler exists");
    }

    /// Opens the gate also after the server was moved away.
    pub(crate) fn gate(&self) -> Sender<()> {
        self.gate.clone()
    }

    /// Waits until `count` connections are open.
    pub(crate) fn wait_for_open(&self, count: usize) {
        let metrics = self.metrics();
        wait_for(
            || metrics.open_connections() == count,
            || format!("{} connections are open instead of {count}: {metrics}", metrics.open_connections()),
        );
    }

    /// Waits until `count` handshakes have failed.
    pub(crate) fn wait_for_failed_handshakes(&self, count: u64) {
        let metrics = self.metrics();
        wait_for(|| metrics.closed_for(Closing::Handshake) == count, || format!("not {count}: {metrics}"));
    }

    /// Whether a new client is served.
    pub(crate) fn serves(&self) {
        let mut client = self.connect();
        client.request("GET", "/path/fresh", &[], "");
        assert_eq!(client.answer().text(), "/path/fresh?");
    }

    /// The clients have ended: nothing of them is left, every request is counted, and the server stops at once.
    pub(crate) fn finish(self) {
        let metrics = self.metrics();
        self.wait_for_open(0);
        wait_for(
            || metrics.requests() == metrics.finished(),
            || format!("{} requests: {metrics}", metrics.requests()),
        );
        self.drain();
    }

    /// Stops the server, and asserts that the drain completes whatever clients are connected.
    pub(crate) fn drain(self) {
        assert_eq!(self.running.drain(), Drained::Complete);
    }
}

fn routes(server: Server) -> Server {
    let large = || Response::new(StatusCode::OK, "application/octet-stream", known::bytes(LARGE));
    server
        .route(Method::GET, "/path/{*rest}", plain(path))
        .route(Method::POST, "/echo", plain(|request| Response::text(request.body().clone())))
        .route(Method::GET, "/large", plain(move |_| large()))
        .route(Method::GET, "/bytes", plain(some_bytes))
        .get_immediate("/large-immediate", move |_| large())
        .route(Method::GET, "/large-stream", plain(large_stream))
        .get("/large-file", large_file)
        .route(Method::PUT, "/known", is_known.with(Policy::streaming().max_body_bytes(usize::MAX)))
        .route(Method::POST, "/echo-stream", echo_stream.with(Policy::streaming().max_body_bytes(LARGE)))
        .route(Method::GET, "/peer", plain(|request| Response::text(format!("{:?}", request.peer()))))
        .route(
            Method::GET,
            "/certificate",
            plain(|request| Response::text(request.client_certificate().unwrap_or(b"").to_vec())),
        )
        .get_immediate("/immediate", |_| Response::text("immediate"))
}

/// A handler that needs nothing but its request.
fn plain(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> impl Handler {
    move |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Ok(answer(request)) }
}

/// Two handlers behind one gate.
fn gated(reached: Sender<()>, opened: Receiver<()>) -> (impl Handler, impl Handler) {
    let pass = Arc::new(move || -> Result<(), Error> {
        reached.send(()).map_err(Error::internal)?;
        opened.recv_timeout(PATIENCE).map_err(Error::internal)
    });
    let same = Arc::clone(&pass);
    let through = move |_: &Request, _: &mut Context<'_>| pass().map(|()| Response::text("through"));
    let known = move |request: &Request, context: &mut Context<'_>| {
        same()?;
        is_known(request, context)
    };
    (through, known)
}

fn path(request: &Request) -> Response {
    Response::text(format!("{}?{}", request.path(), request.query()))
}

fn some_bytes(request: &Request) -> Response {
    let length = request.query().parse().expect("the query is a length");
    Response::new(StatusCode::OK, "application/octet-stream", known::bytes(length))
}

fn large_stream(_: &Request) -> Response {
    Response::stream("application/octet-stream", |writer| {
        let content = known::bytes(LARGE);
        // No size that anything else has.
        for piece in content.chunks(30_011) {
            writer.write_all(piece)?;
        }
        Ok(())
    })
}

fn large_file(_: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let file = known::file(LARGE).reopen()?;
    Ok(Response::file("application/octet-stream", file)?)
}

/// Compares as it reads.
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

fn echo_stream(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let mut body = Vec::new();
    request.reader().read_to_end(&mut body)?;
    Ok(Response::stream("application/octet-stream", move |writer| Ok(writer.write_all(&body)?)))
}
