//! Bodies that stream: requests' on their way to a handler, answers' and files' on their way to a client.

mod answers;
mod departures;
mod example;
mod files;
mod hung;
mod stress;
mod together;
mod tunnel;
mod uploads;

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use wharf::config::{Config, Connector};
use wharf::handler::{Context, Error};
use wharf::http::{Decoder, Request, Response};
use wharf::server::Drained;
use wharf::server::{Running, Server};

use crate::support::{Client, Gate, Log, PATIENCE, ask, default_config, gate, wait_for, wait_until};

const BOTH: [Connector; 2] = [Connector::Native, Connector::TinyHttp];

/// A server with one worker and the routes that all tests use.
fn server(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = default_config();
    config.server.workers = Some(1);
    config.server.deadline = PATIENCE;
    config.queue.max_wait = PATIENCE;
    change(&mut config);
    let quick = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Ok(Response::text("quick")) };
    let server = Server::new(config).expect("no database to open");
    server.get("/quick", quick).get_immediate("/immediate", |_| Response::text("immediate"))
}

fn start(server: Server) -> Running {
    server.start().expect("a free port")
}

/// Asserts that the only worker is free and the poller serves.
fn assert_serves(server: &Running) {
    assert_eq!(ask(server, "/quick").answer().text(), "quick");
}

/// Asserts, once all clients have left, that each request has ended and is counted once.
fn assert_counts_add_up(server: &Running) {
    let metrics = server.metrics();
    wait_for(
        || metrics.requests() == metrics.finished(),
        || format!("{} requests, but {metrics}", metrics.requests()),
    );
}

/// Ends the server, which must have no request left.
fn end(server: Running) {
    assert_counts_add_up(&server);
    assert_eq!(server.drain(), Drained::Complete);
}

/// Waits at a gate, inside of a handler.
fn pass(gate: &Gate) {
    gate.pass().expect("the test opens the gate");
}

/// Each byte of the bodies here tells its place: a prime, so that no block that is lost or doubled goes unnoticed.
const PERIOD: usize = 251;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let bytes = (0..PERIOD).map(|byte| u8::try_from(byte).expect("below 256"));
    bytes.cycle().take(PERIOD * 1024).collect()
});

/// The body of this length, or its first bytes.
fn body(length: usize) -> Vec<u8> {
    let mut bytes = PATTERN.repeat(length.div_ceil(PATTERN.len()));
    bytes.truncate(length);
    bytes
}

/// A body that is looked at as it comes.
#[derive(Default)]
struct Seen {
    length: usize,
}

impl Seen {
    /// Takes the next bytes, which must be the right ones.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = &PATTERN[self.length % PERIOD..];
            let count = expected.len().min(bytes.len());
            assert!(bytes[..count] == expected[..count], "wrong bytes after {}", self.length);
            self.length += count;
            bytes = &bytes[count..];
        }
    }

    fn all(bytes: &[u8]) -> usize {
        let mut seen = Self::default();
        seen.take(bytes);
        seen.length
    }
}

/// The head of an upload.
fn upload_head(path: &str, length: Option<usize>) -> String {
    let framing = match length {
        Some(length) => format!("Content-Length: {length}"),
        None => "Transfer-Encoding: chunked".to_owned(),
    };
    format!("POST {path} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n")
}

/// A body in chunks of this size, its end included.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut wire = Vec::with_capacity(body.len() + body.len() / 16 + 1024);
    for chunk in body.chunks(size) {
        wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
        wire.extend(chunk);
        wire.extend(b"\r\n");
    }
    wire.extend(b"0\r\n\r\n");
    wire
}

/// Reads a body to its end, and answers with its length.
fn measure(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let (mut reader, mut seen, mut piece) = (request.reader(), Seen::default(), [0; 10_000]);
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(Response::text(seen.length.to_string())),
            read => seen.take(&piece[..read]),
        }
    }
}

/// Sends bytes on a separate thread, so that reading answers meanwhile does not wait for them.
fn send_beside(client: &Client, bytes: Vec<u8>) -> thread::JoinHandle<std::io::Result<()>> {
    let mut stream = client.stream().try_clone().expect("a socket can be cloned");
    thread::spawn(move || std::io::Write::write_all(&mut stream, &bytes))
}

/// Reads until what came contains `end`.
fn read_through(mut stream: &TcpStream, end: &str) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), [0; 1000]);
    while !all.windows(end.len()).any(|window| window == end.as_bytes()) {
        let read = stream.read(&mut piece).expect("more comes in time");
        assert!(read > 0, "the end came before {end:?}");
        all.extend(&piece[..read]);
    }
    all
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Closed,
    Reset,
}

/// Reads all that comes, and how it ends.
fn read_to_end(mut stream: &TcpStream) -> (Vec<u8>, Ending) {
    let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return (all, Ending::Closed),
            Ok(read) => all.extend(&piece[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (all, Ending::Reset),
            Err(error) => panic!("nothing came in time: {error}"),
        }
    }
}

/// Parts a raw answer into head and body.
fn parted(answer: &[u8]) -> (&str, &[u8]) {
    let at = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    (std::str::from_utf8(&answer[..at]).expect("ASCII"), &answer[at..])
}

/// Decodes chunks as far as they came; `None` instead of the body when their end did not come.
fn decoded(wire: &[u8]) -> Option<Vec<u8>> {
    let (mut decoder, mut body) = (Decoder::default(), Vec::new());
    decoder.decode(wire, &mut body, usize::MAX).ok()?;
    decoder.is_done().then_some(body)
}

/// The maximum number of bytes that a connection's sockets hold, in both directions together.
fn socket_bytes() -> usize {
    ["rmem", "wmem"]
        .map(|name| {
            let file = format!("/proc/sys/net/ipv4/tcp_{name}");
            let text = std::fs::read_to_string(file).expect("Linux says how large its buffers get");
            text.split_whitespace().last().and_then(|max| max.parse::<usize>().ok()).expect("three numbers")
        })
        .iter()
        .sum()
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}
