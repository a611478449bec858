//! A minimal client for wharf's own servers: an address, a connection, a request without a body. It runs on the
//! caller's thread, and each wait has a limit.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// The time limit for an answer that needs no worker.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer. Useful answers are shorter: the figures of 10,000 workers take 2 MiB.
const ANSWER_MAX: u64 = 16 * 1024 * 1024;

/// An answer of the server.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// The first address of a name.
pub(super) fn resolved(address: &str) -> anyhow::Result<SocketAddr> {
    let mut addresses = address.to_socket_addrs().with_context(|| format!("{address} is not an address"))?;
    addresses.next().with_context(|| format!("{address} has no address"))
}

/// The address to connect to. For a server that listens on every address, this is loopback.
pub(super) fn reachable(mut target: SocketAddr) -> SocketAddr {
    match target {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => target.set_ip([127, 0, 0, 1].into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => target.set_ip([0, 0, 0, 0, 0, 0, 0, 1].into()),
        _ => {}
    }
    target
}

/// A connection whose reads and writes each wait for at most [`PATIENCE`].
pub(super) fn at_address(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, PATIENCE).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Requests `path` with these header lines. Each line ends with CRLF.
///
/// The request is HTTP/1.0, so that the answer has no chunks and ends with its connection.
pub(super) fn get(target: SocketAddr, host: &str, path: &str, lines: &str) -> anyhow::Result<Answer> {
    let until = Instant::now() + PATIENCE;
    let mut stream = at_address(target)?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n{lines}\r\n").as_bytes())?;
    let (mut answer, mut piece) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match stream.read(&mut piece).context("no answer")? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
        anyhow::ensure!(answer.len() as u64 <= ANSWER_MAX, "the answer is too long");
        anyhow::ensure!(Instant::now() < until, "the answer takes too long");
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(&answer).context("the answer is not HTTP")?;
    let httparse::Status::Complete(length) = parsed else { anyhow::bail!("the answer breaks off") };
    let status = head.code.unwrap_or_default();
    Ok(Answer { status, body: answer.split_off(length) })
}
