//! Code that all the clients share: opening sockets, sending requests, reading answers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

/// The descriptors that a process needs beside its connections: standard streams, epoll, the server's pipes, `/proc` while
/// it is read, and room for requests on new connections.
const OTHER_DESCRIPTORS: u64 = 100;

/// Loopback addresses to connect from. The second is used when the first has no port left for the server's address, which
/// takes 28,000 connections within the minute that a closed one keeps its port.
const SOURCES: u8 = 8;

/// Raises this process's limit on descriptors to what it may have; returns how many connections that allows.
pub(crate) fn raise_descriptors() -> io::Result<usize> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let allowed = maximum.unwrap_or(u64::MAX).saturating_sub(OTHER_DESCRIPTORS);
    Ok(usize::try_from(allowed).unwrap_or(usize::MAX))
}

/// `GET path`, keeping the connection.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

/// `POST path` with this JSON, keeping the connection.
pub(crate) fn post(path: &str, json: &str) -> Vec<u8> {
    let length = json.len();
    let head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length:";
    format!("POST {path} HTTP/1.1\r\n{head} {length}\r\n\r\n{json}").into_bytes()
}

/// Begins to connect, without waiting for it. `receive_buffer`: bytes of `SO_RCVBUF`.
pub(crate) fn connect(address: SocketAddr, receive_buffer: Option<usize>) -> io::Result<mio::net::TcpStream> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for host in 1..=SOURCES {
        result = connect_from(Ipv4Addr::new(127, 0, 0, host), address, receive_buffer);
        match &result {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {}
            _ => break,
        }
    }
    result
}

fn connect_from(
    source: Ipv4Addr,
    address: SocketAddr,
    receive_buffer: Option<usize>,
) -> io::Result<mio::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = receive_buffer {
        // Before connecting: it decides the window that the server sees.
        socket.set_recv_buffer_size(bytes)?;
    }
    if source != Ipv4Addr::LOCALHOST {
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(mio::net::TcpStream::from_std(socket.into())),
    }
}

/// A whole answer at the start of some bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The bytes that it takes.
    pub(crate) length: usize,
    /// Its connection ends with it.
    pub(crate) closes: bool,
}

/// The answer at the start of these bytes; `None`: it is not whole yet.
pub(crate) fn whole_answer(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let status = answer.code.unwrap_or_default();
    let header = |name: &str| {
        let header = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
    // RFC 9110 section 8.6: the one status here that has no body and no length.
    let length = length.or((status == 204).then_some(0));
    let length = head + length.ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
    let closes = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok((bytes.len() >= length).then_some(Answer { status, length, closes }))
}

/// One client that waits for each of its answers.
pub(crate) struct Asker {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Asker {
    /// Connects within `patience`, which is also how long it waits for an answer.
    pub(crate) fn connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Sends a request and waits for the whole answer; returns its status.
    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request)?;
        let mut bytes = [0; 4096];
        loop {
            if let Some(answer) = whole_answer(&self.received)? {
                self.received.drain(..answer.length);
                return Ok(answer.status);
            }
            match self.stream.read(&mut bytes)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => self.received.extend_from_slice(&bytes[..read]),
            }
        }
    }
}
