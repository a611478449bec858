//! A client's socket for outgoing bytes: plain, or through the TLS session that encrypts them. Never blocks.

use std::io::{self, IoSlice, Write};

use socket2::Socket;

use crate::connector::tls::Session;

/// The destination of one client's bytes.
pub(super) struct Wire<'a> {
    socket: &'a Socket,
    session: Option<&'a mut Session>,
}

impl<'a> Wire<'a> {
    pub(super) fn new(socket: &'a Socket, session: Option<&'a mut Session>) -> Self {
        Self { socket, session }
    }

    /// A socket without a TLS session. A worker may write to it.
    pub(super) fn plain(socket: &'a Socket) -> Self {
        Self { socket, session: None }
    }

    /// Sends as much of the parts as the socket takes now. Returns `None` if it takes nothing.
    pub(super) fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        loop {
            let sent = match &mut self.session {
                Some(session) => session.send(parts, &mut self.socket),
                None => match parts {
                    // One piece costs the kernel less than a list of one.
                    [one, rest @ ..] if rest.iter().all(|part| part.is_empty()) => self.socket.write(one),
                    _ => self.socket.write_vectored(parts),
                },
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => return Ok(Some(sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends the bytes that the session still holds. Returns whether all have left.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        match &mut self.session {
            Some(session) => session.flush(&mut self.socket),
            None => Ok(true),
        }
    }
}
