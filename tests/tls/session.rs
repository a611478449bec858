//! A TLS client that is driven by hand: what it sends, and when, to the byte.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::{ClientConfig, ClientConnection};

use crate::support::PATIENCE;

/// One connection. Every read and write on it has a limit.
pub(crate) struct Session {
    pub(crate) socket: TcpStream,
    pub(crate) tls: ClientConnection,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// `close_notify`, then TCP's end.
    Peace,
    /// TCP's end, or a reset, without it.
    Cut,
}

impl Session {
    /// Connects; nothing is sent yet.
    pub(crate) fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let socket = TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("the limit is not zero");
        socket.set_write_timeout(Some(PATIENCE)).expect("the limit is not zero");
        socket.set_nodelay(true).expect("a TCP socket has no-delay");
        let name = "localhost".try_into().expect("a host's name");
        let tls = ClientConnection::new(config, name).expect("the configuration has no mistake");
        Self { socket, tls }
    }

    /// The bytes that the client wants to send now: at first its `ClientHello`.
    pub(crate) fn pending(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("a Vec takes all");
        }
        bytes
    }

    /// Sends bytes that are what they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server takes the bytes");
    }

    /// The whole handshake.
    pub(crate) fn shake_hands(&mut self) {
        while self.tls.is_handshaking() {
            self.tls.complete_io(&mut self.socket).expect("the server shakes hands");
        }
        let rest = self.pending();
        self.send_raw(&rest);
    }

    /// These plain bytes as they go over the wire.
    pub(crate) fn encrypted(&mut self, mut plain: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !plain.is_empty() {
            // It takes a part of what is much.
            let taken = self.tls.writer().write(plain).expect("the session is open");
            plain = &plain[taken..];
            bytes.extend(self.pending());
        }
        bytes
    }

    /// Sends plain bytes.
    pub(crate) fn send(&mut self, plain: impl AsRef<[u8]>) {
        let bytes = self.encrypted(plain.as_ref());
        self.send_raw(&bytes);
    }

    /// The next `length` plain bytes.
    pub(crate) fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        rustls::Stream::new(&mut self.tls, &mut self.socket)
            .read_exact(&mut bytes)
            .expect("the answer comes");
        bytes
    }

    /// All plain bytes until the connection ends, and how it does.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let end = match rustls::Stream::new(&mut self.tls, &mut self.socket).read_to_end(&mut bytes) {
            Ok(_) => End::Peace,
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                End::Cut
            }
            Err(error) => panic!("the connection does not end: {error}"),
        };
        if end == End::Peace {
            // Nothing but TCP's end can follow.
            let tcp = self.socket.read(&mut [0; 1]);
            assert!(matches!(tcp, Ok(0)), "{tcp:?} after close_notify");
        }
        (bytes, end)
    }

    /// All bytes as they are until the connection ends, be it by a reset.
    pub(crate) fn rest_raw(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.socket.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                panic!("the connection does not end: {error}")
            }
            _ => bytes,
        }
    }

    /// Sends `plain` on a thread of its own while it reads, until what it has read is `enough`.
    pub(crate) fn send_while_reading(self, plain: &[u8], enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let (tls, mut sending) =
            (Mutex::new(self.tls), self.socket.try_clone().expect("a socket can be cloned"));
        let (tls, mut receiving) = (&tls, self.socket);
        let lock = || tls.lock().expect("no thread panics while it holds the session");
        thread::scope(|scope| {
            scope.spawn(move || {
                for piece in plain.chunks(16 * 1024) {
                    let mut bytes = Vec::new();
                    let mut tls = lock();
                    tls.writer().write_all(piece).expect("a record is taken");
                    tls.write_tls(&mut bytes).expect("a Vec takes all");
                    drop(tls);
                    sending.write_all(&bytes).expect("the server takes the bytes");
                }
            });
            let (mut received, mut scratch) = (Vec::new(), vec![0; 64 * 1024]);
            while !enough(&received) {
                let read = receiving.read(&mut scratch).expect("the answer comes");
                assert!(read > 0, "the connection ended after {} bytes", received.len());
                let (mut bytes, mut tls) = (&scratch[..read], lock());
                while !bytes.is_empty() {
                    tls.read_tls(&mut bytes).expect("a slice can be read");
                    let state = tls.process_new_packets().expect("the server speaks TLS");
                    let mut plain = vec![0; state.plaintext_bytes_to_read()];
                    tls.reader().read_exact(&mut plain).expect("they are there");
                    received.extend(plain);
                }
            }
            received
        })
    }
}
