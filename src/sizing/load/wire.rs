//! The bytes between a connection and its server: through a TCP or a Unix socket, plain or with TLS.
//!
//! Generator thread. Nothing here waits: what cannot be done yet is `WouldBlock`.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustls::ClientConnection;

use super::origin::{Address, Reached};

pub(super) enum Wire {
    Plain(Socket),
    Tls(Box<TlsWire>),
}

pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub(super) struct TlsWire {
    socket: Socket,
    session: ClientConnection,
}

impl Wire {
    /// Begins to connect. One registration covers all events of the connection.
    pub(super) fn open(to: &Reached, registry: &Registry, token: Token) -> io::Result<Self> {
        let interests = Interest::READABLE | Interest::WRITABLE;
        let socket = match &to.address {
            Address::Tcp(address) => {
                let mut stream = TcpStream::connect(*address)?;
                stream.set_nodelay(true)?;
                registry.register(&mut stream, token, interests)?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => {
                let mut stream = UnixStream::connect(path)?;
                registry.register(&mut stream, token, interests)?;
                Socket::Unix(stream)
            }
        };
        Ok(match &to.tls {
            None => Self::Plain(socket),
            Some(tls) => {
                let session = tls.session().map_err(io::Error::other)?;
                Self::Tls(Box::new(TlsWire { socket, session }))
            }
        })
    }

    /// Whether a read that does not fill its buffer has taken everything. TLS hands its records over one by one.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    pub(super) fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(piece),
            Self::Tls(tls) => tls.read(piece),
        }
    }

    /// Takes bytes to send. With TLS the handshake comes first.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    /// Sends the records that the socket has not taken yet.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.send(),
        }
    }
}

impl TlsWire {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(piece) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.receive()?,
                read => return read,
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Records that were not sent yet would only grow in memory.
        self.send()?;
        while self.session.is_handshaking() {
            self.receive()?;
            self.send()?;
        }
        let written = self.session.writer().write(bytes)?;
        match self.send() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(written),
        }
    }

    /// Takes the records that have arrived.
    fn receive(&mut self) -> io::Result<()> {
        let read = self.session.read_tls(&mut self.socket)?;
        if let Err(error) = self.session.process_new_packets() {
            // The server is told the reason, if its socket takes it.
            let _ = self.send();
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        if read == 0 && self.session.is_handshaking() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

impl Read for Socket {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(piece),
            Self::Unix(stream) => stream.read(piece),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
        }
    }
}
