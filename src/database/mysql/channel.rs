//! The bytes of one session, both ways, encrypted or not.
//!
//! The session of TLS stands between the socket and the packets. Nothing here waits: the caller waits for the socket between two
//! calls. Runs on the thread that makes a call.

use std::io::{self, ErrorKind, Read as _, Write};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::database::socket::Socket;

/// The most bytes of plain text that the session of TLS takes before it has sent the encrypted ones: a few records.
const UNSENT_BYTES: usize = 64 * 1024;

/// One session's bytes.
pub(super) struct Channel {
    socket: Arc<Socket>,
    /// The session of TLS, if the connection is encrypted. Boxed because most have none.
    tls: Option<Box<ClientConnection>>,
    /// Encrypted bytes that have come.
    encrypted: Vec<u8>,
}

impl Channel {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self { socket, tls: None, encrypted: Vec::new() }
    }

    /// Begins TLS. The caller [waits](Socket::wait) and calls [`shake_hands`](Self::shake_hands) until that is done.
    pub(super) fn begin_tls(
        &mut self,
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        let mut session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(UNSENT_BYTES));
        self.tls = Some(Box::new(session));
        Ok(())
    }

    /// Goes on with the handshake. Returns whether it is done.
    pub(super) fn shake_hands(&mut self) -> io::Result<bool> {
        let is_sent = self.flush()?;
        // Nothing but the handshake may come now, because the server waits for the client's next packet.
        let mut early = Vec::new();
        self.receive(&mut early)?;
        if !early.is_empty() {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "the server sent something before it was asked",
            ));
        }
        let is_shaking = self.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
        Ok(self.flush()? && is_sent && !is_shaking)
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Sends as much as there is room for, and returns how much that was. If some is left, the next wait is for room.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.tls.is_none() {
            return self.socket.send(bytes);
        }
        // A full buffer takes nothing, also where the socket has room again.
        if !self.flush()? {
            return Ok(0);
        }
        let Some(tls) = &mut self.tls else { return Ok(0) };
        let taken = tls.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    /// Sends the bytes that the encryption holds back. Returns whether none is left.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.wants_write() {
            match tls.write_tls(&mut Outlet(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Appends the bytes that have come. Returns whether there were any; the end of the connection is an error.
    pub(super) fn take(&mut self, into: &mut Vec<u8>) -> io::Result<bool> {
        if self.tls.is_none() {
            return self.socket.take(into);
        }
        // Plain text that came before the end of the connection is still valid.
        let before = into.len();
        let received = self.receive(into);
        if into.len() > before { Ok(true) } else { received.map(|()| false) }
    }

    /// Decrypts the bytes that have come, and appends the plain text.
    fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let taken = self.socket.take(&mut self.encrypted);
        let mut rest = &self.encrypted[..];
        let mut decrypted = Ok(());
        while !rest.is_empty() && decrypted.is_ok() {
            decrypted = decrypt(tls, &mut rest, into);
        }
        let used = self.encrypted.len() - rest.len();
        self.encrypted.drain(..used);
        decrypted.and(taken.map(drop))
    }
}

/// Decrypts some bytes. The session of TLS takes no more before its plain text was read.
fn decrypt(tls: &mut ClientConnection, encrypted: &mut &[u8], into: &mut Vec<u8>) -> io::Result<()> {
    tls.read_tls(encrypted)?;
    let state = tls.process_new_packets().map_err(io::Error::other)?;
    if state.plaintext_bytes_to_read() > 0 {
        let start = into.len();
        into.resize(start + state.plaintext_bytes_to_read(), 0);
        tls.reader().read_exact(&mut into[start..])?;
    }
    if state.peer_has_closed() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// The socket for rustls. A socket without room is an error.
struct Outlet<'a>(&'a Socket);

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.send(bytes)? {
            0 if !bytes.is_empty() => Err(ErrorKind::WouldBlock.into()),
            sent => Ok(sent),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
