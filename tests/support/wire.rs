//! A client that sends exactly what the test says and reads exactly one response at a time.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::SockRef;

use super::{Authority, PATIENCE};

/// One client's connection, with TLS or without. Every read and write on it has a limit.
pub(crate) struct Client {
    transport: Transport,
    /// Bytes that were received and are not yet part of an answer.
    received: Vec<u8>,
    /// The server has ended the connection with a reset.
    reset: bool,
}

/// The socket, with TLS or without.
enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

trait Wire: Read + Write {}

impl<T: Read + Write> Wire for T {}

impl Transport {
    fn wire(&mut self) -> &mut dyn Wire {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream,
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

/// One response.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Names as sent, in the order sent.
    pub(crate) headers: Vec<(String, String)>,
    /// The body, its transfer coding removed.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The one value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} comes twice: {:?}", self.headers);
        value
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

impl Client {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(Transport::Plain(connect(address)))
    }

    /// Connects, if the server accepts within this time.
    pub(crate) fn try_connect(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = with_limits(TcpStream::connect_timeout(&address, patience)?);
        Ok(Self::over(Transport::Plain(stream)))
    }

    /// Connects from this address, which is one of loopback's.
    pub(crate) fn connect_from(source: &str, address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("the system has sockets");
        let source = SocketAddr::new(source.parse().expect("an address"), 0);
        socket.bind(&source.into()).expect("all of 127.0.0.0/8 is ours");
        socket.connect_timeout(&address.into(), PATIENCE).expect("the server accepts");
        Self::over(Transport::Plain(with_limits(socket.into())))
    }

    /// Connects with room for this many bytes that were not read yet, so that the server notices soon what is read.
    pub(crate) fn connect_narrow(address: SocketAddr, room: usize) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("the system has sockets");
        socket.set_recv_buffer_size(room).expect("a size that it has");
        socket.connect_timeout(&address.into(), PATIENCE).expect("the server accepts");
        Self::over(Transport::Plain(with_limits(socket.into())))
    }

    /// Connects to a Unix socket.
    pub(crate) fn connect_unix(path: impl AsRef<Path>) -> Self {
        let stream = UnixStream::connect(path).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("the limit is not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("the limit is not zero");
        // The standard library treats a TCP stream as a plain descriptor, so all that this client does also works on a
        // Unix socket.
        Self::over(Transport::Plain(OwnedFd::from(stream).into()))
    }

    /// Connects to `localhost` at this address with TLS, trusting this authority and showing no certificate.
    pub(crate) fn connect_tls(address: SocketAddr, authority: &Authority) -> Self {
        Self::connect_tls_with(address, authority.trusting(None))
    }

    /// Connects with TLS as this configuration says. The handshake happens when something is sent or read first.
    pub(crate) fn connect_tls_with(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let name = "localhost".try_into().expect("a host's name");
        let session = ClientConnection::new(config, name).expect("the configuration has no mistake");
        let stream = StreamOwned::new(session, connect(address));
        Self::over(Transport::Tls(Box::new(stream)))
    }

    fn over(transport: Transport) -> Self {
        Self { transport, received: Vec::new(), reset: false }
    }

    /// The socket itself, for tests that break it.
    pub(crate) fn stream(&self) -> &TcpStream {
        self.transport.socket()
    }

    /// With TLS: why the session fails, in rustls' words. Answers that come before the failure are discarded.
    pub(crate) fn tls_failure(&mut self) -> String {
        let mut bytes = [0; 1024];
        loop {
            match self.transport.wire().read(&mut bytes) {
                Ok(length) => assert!(length > 0, "the server ended the session in peace"),
                Err(error) if error.kind() == ErrorKind::InvalidData => return error.to_string(),
                Err(error) => panic!("no TLS error within {PATIENCE:?}: {error}"),
            }
        }
    }

    /// With TLS, after the connection has ended: whether the server announced the end before (`close_notify`).
    pub(crate) fn ended_in_peace(&mut self) -> bool {
        let Transport::Tls(stream) = &mut self.transport else { return false };
        stream.conn.process_new_packets().is_ok_and(|state| state.peer_has_closed())
    }

    /// Sends these bytes unchanged.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let wire = self.transport.wire();
        wire.write_all(bytes.as_ref()).and_then(|()| wire.flush()).expect("the server takes the bytes");
    }

    /// Sends a whole request; a body that is not empty gets its `Content-Length`.
    pub(crate) fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let mut message = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            write!(message, "{name}: {value}\r\n").expect("a String takes all");
        }
        if !body.is_empty() {
            write!(message, "Content-Length: {}\r\n", body.len()).expect("a String takes all");
        }
        self.send(message + "\r\n" + body);
    }

    /// With TLS: announces that no more bytes follow (`close_notify`), but closes nothing.
    pub(crate) fn say_the_end(&mut self) {
        if let Transport::Tls(stream) = &mut self.transport {
            stream.conn.send_close_notify();
        }
        self.transport.wire().flush().expect("the server takes the bytes");
    }

    /// Holds back bytes that are sent from now on, for at most 200 ms (tcp(7)), until the end goes with them or they fill a
    /// segment. Then the server receives the bytes and the end together, however long this thread is delayed.
    pub(crate) fn cork(&self) {
        SockRef::from(self.stream()).set_tcp_cork(true).expect("a TCP socket can be corked");
    }

    /// Closes the sending half: the server reads the end.
    pub(crate) fn finish_sending(&mut self) {
        if let Transport::Tls(stream) = &mut self.transport {
            stream.conn.send_close_notify();
        }
        // Refused only when the server has closed the connection already.
        let _ = self.transport.wire().flush();
        let _ = self.stream().shutdown(Shutdown::Write);
    }

    /// The next response. An informational response (1xx) counts as a response.
    pub(crate) fn answer(&mut self) -> Answer {
        let (status, headers) = self.head();
        let mut answer = Answer { status, headers, body: Vec::new() };
        if answer.header("Transfer-Encoding").is_some() {
            answer.body = self.chunks();
        } else if let Some(length) = answer.header("Content-Length") {
            let length = length.parse().expect("Content-Length is a number");
            answer.body = self.take(length);
        } else if status >= 200 && status != 204 && status != 304 {
            answer.body = self.rest();
        }
        answer
    }

    /// The next response; `None` when the server has closed the connection before it, in peace.
    pub(crate) fn answer_or_end(&mut self) -> Option<Answer> {
        if self.received.is_empty() && !self.receive() {
            assert!(!self.reset, "the connection was reset");
            return None;
        }
        Some(self.answer())
    }

    /// Whether reading has met a reset of the connection.
    pub(crate) fn was_reset(&self) -> bool {
        self.reset
    }

    /// The response to a HEAD request: never a body, whatever its headers announce.
    pub(crate) fn head_answer(&mut self) -> Answer {
        let (status, headers) = self.head();
        Answer { status, headers, body: Vec::new() }
    }

    /// All bytes until the server closes the connection. A reset counts as the end, and so does TCP's end without TLS's
    /// (see [`Client::ended_in_peace`]).
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.receive() {}
        std::mem::take(&mut self.received)
    }

    /// Whether the server closes the connection without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.received.is_empty() && !self.receive()
    }

    fn head(&mut self) -> (u16, Vec<(String, String)>) {
        let head = self.take_through(b"\r\n\r\n");
        let head = String::from_utf8(head).expect("the head is ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap_or_default();
        let code = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("a header line: {line:?}"));
            (name.to_owned(), value.trim().to_owned())
        });
        (code.unwrap_or_else(|| panic!("a status line: {status:?}")), headers.collect())
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk();
            if chunk.is_empty() {
                return body;
            }
            body.extend(chunk);
        }
    }

    /// The next chunk of a body; empty for the last.
    pub(crate) fn chunk(&mut self) -> Vec<u8> {
        let line = self.take_through(b"\r\n");
        let line = std::str::from_utf8(&line).expect("a chunk's size is ASCII").trim_end();
        let size = usize::from_str_radix(line, 16).unwrap_or_else(|_| panic!("a chunk's size: {line:?}"));
        let chunk = self.take(size);
        assert_eq!(self.take(2), b"\r\n", "a chunk ends with a line's end");
        chunk
    }

    /// All bytes up to `end`, and `end` itself.
    pub(crate) fn take_through(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end) {
                return self.take(at + end.len());
            }
            assert!(
                self.receive(),
                "the connection ended within {:?}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            assert!(self.receive(), "the connection ended {} bytes early", length - self.received.len());
        }
        self.received.drain(..length).collect()
    }

    /// Receives some more; false at the connection's end.
    fn receive(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match self.transport.wire().read(&mut bytes) {
            Ok(length) => {
                self.received.extend_from_slice(&bytes[..length]);
                length > 0
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => {
                self.reset |= error.kind() == ErrorKind::ConnectionReset;
                false
            }
            // This process was stopped and runs again.
            Err(error) if error.kind() == ErrorKind::Interrupted => self.receive(),
            Err(error) => panic!("nothing came within {PATIENCE:?}: {error}"),
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    with_limits(TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts"))
}

fn with_limits(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("the limit is not zero");
    stream.set_write_timeout(Some(PATIENCE)).expect("the limit is not zero");
    stream.set_nodelay(true).expect("a TCP socket has no-delay");
    stream
}
