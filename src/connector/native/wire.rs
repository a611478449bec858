//! A client's socket as bytes go out to it: as they are, or through the session that encrypts them. Never blocks.

use std::io::{self, IoSlice, Write};

use socket2::Socket;

use crate::connector::tls::Session;

/// Where bytes for one client go.
pub(super) struct Wire<'a> {
    socket: &'a Socket,
    session: Option<&'a mut Session>,
}

impl<'a> Wire<'a> {
    pub(super) fn new(socket: &'a Socket, session: Option<&'a mut Session>) -> Self {
        Self { socket, session }
    }

    /// A socket without a session; a worker may write to such a one.
    pub(super) fn plain(socket: &'a Socket) -> Self {
        Self { socket, session: None }
    }

    /// Sends what is taken of the parts now. `None`: nothing is.
    pub(super) fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        loop {
            let sent = match &mut self.session {
                Some(session) => session.send(parts, &mut self.socket),
                None => match parts {
                    // What is in one piece costs the kernel less.
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

    /// Whether nothing that was sent is still in the session.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        match &mut self.session {
            Some(session) => session.flush(&mut self.socket),
            None => Ok(true),
        }
    }
}
