//! One connection of a client: its pending request, the bytes still to send, and the answer as it arrives.
//!
//! Generator thread. The connection knows no schedule and counts nothing.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use mio::{Registry, Token};

use super::answer::{Answer, AnswerReader};
use super::origin::Reached;
use super::outcomes::{Failure, is_of_tls};
use super::target::Request;
use super::wire::Wire;

/// The size of the pieces in which answers are read: as much as a socket commonly holds.
const PIECE_BYTES: usize = 64 << 10;

pub(super) struct Connection<'p> {
    wire: Wire,
    /// The time when it began to connect. `None` once it was connected, its handshake included.
    connecting_since: Option<Instant>,
    /// The time that it took to open, until somebody takes it.
    connected_in: Option<Duration>,
    /// The index of the server at its other end.
    pub(super) origin: usize,
    pending: Option<PendingRequest<'p>>,
    answer: AnswerReader,
}

/// A request without an outcome.
#[derive(Clone, Copy)]
pub(super) struct PendingRequest<'p> {
    /// The number of the request, unique in its thread.
    pub(super) number: u64,
    pub(super) target: usize,
    pub(super) request: &'p Request,
    pub(super) due: Instant,
    /// The time when its first bytes were sent.
    pub(super) sent: Option<Instant>,
    /// The number of its bytes that were sent.
    pub(super) bytes_sent: usize,
}

/// The buffers that all connections read into.
pub(super) struct Buffers {
    piece: Vec<u8>,
    chunks: Vec<u8>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { piece: vec![0; PIECE_BYTES], chunks: Vec::new() }
    }
}

/// The result of an event on a connection.
#[derive(Debug)]
pub(super) enum Step {
    Wait,
    Answered(Answer),
    /// The connection cannot carry another request. If a request was pending, this is why it has no answer.
    Ended(Failure),
}

impl<'p> Connection<'p> {
    /// Begins to connect, without waiting.
    pub(super) fn open(to: &Reached, origin: usize, registry: &Registry, token: Token) -> io::Result<Self> {
        let connecting_since = Some(Instant::now());
        let wire = Wire::open(to, registry, token)?;
        let (pending, answer) = (None, AnswerReader::default());
        Ok(Self { wire, connecting_since, connected_in: None, origin, pending, answer })
    }

    pub(super) fn pending(&self) -> Option<&PendingRequest<'p>> {
        self.pending.as_ref()
    }

    /// Whether no byte of the request was sent yet.
    pub(super) fn is_unsent(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.sent.is_none())
    }

    /// The time that the connection took to open, when it has just opened.
    pub(super) fn take_connected_in(&mut self) -> Option<Duration> {
        self.connected_in.take()
    }

    /// Removes the pending request, because it has its outcome.
    pub(super) fn take_pending(&mut self) -> Option<PendingRequest<'p>> {
        self.pending.take()
    }

    /// Begins the request: sends it, or as much of it as the socket takes. A socket that still connects takes nothing.
    pub(super) fn begin(&mut self, pending: PendingRequest<'p>, now: Instant) -> io::Result<()> {
        self.answer.reset();
        self.pending = Some(pending);
        self.send(now)
    }

    /// Sends the rest of the request.
    fn send(&mut self, now: Instant) -> io::Result<()> {
        let Some(pending) = &mut self.pending else { return Ok(()) };
        loop {
            let left = &pending.request.bytes()[pending.bytes_sent..];
            if left.is_empty() {
                return Ok(());
            }
            match self.wire.write(left) {
                Ok(written) => {
                    pending.bytes_sent += written;
                    if let Some(since) = self.connecting_since {
                        // A handshake may have passed since `now`.
                        let now = Instant::now();
                        (self.connecting_since, self.connected_in) = (None, Some(now - since));
                        pending.sent.get_or_insert(now);
                    }
                    pending.sent.get_or_insert(now);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_not_yet(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Handles an event: room to write and, by the flags, bytes to read or the end of the connection.
    pub(super) fn proceed(&mut self, is_readable: bool, is_ended: bool, buffers: &mut Buffers) -> Step {
        let unsent =
            self.pending.as_ref().is_some_and(|pending| pending.bytes_sent < pending.request.bytes().len());
        if unsent {
            // An error in sending does not stop the reading: a server may refuse and close before the body is sent. After an
            // error of TLS nothing can be read.
            let sent = self.send(Instant::now());
            if let Err(error) = sent
                && (!is_readable || is_of_tls(&error))
            {
                return Step::Ended(Failure::of(&error));
            }
        } else if let Err(error) = self.wire.flush()
            && !is_not_yet(&error)
            && !is_readable
        {
            return Step::Ended(Failure::of(&error));
        }
        if is_readable || is_ended { self.receive(is_ended, buffers) } else { Step::Wait }
    }

    /// Reads the bytes that have arrived. A short read has taken all of them, but an end after them makes no second
    /// event.
    fn receive(&mut self, is_ended: bool, buffers: &mut Buffers) -> Step {
        let Buffers { piece, chunks } = buffers;
        loop {
            let read = match self.wire.read(piece) {
                Ok(0) => return self.end(),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_not_yet(&error) => return Step::Wait,
                Err(error) => return Step::Ended(self.failed(&error)),
            };
            // Without a pending request no bytes may arrive.
            let Some(pending) = &self.pending else { return Step::Ended(Failure::Malformed) };
            match self.answer.feed(&piece[..read], pending.request.is_head(), chunks) {
                Err(_) => return Step::Ended(Failure::Malformed),
                Ok(Some(answer)) => {
                    // After an answer that came before the end of its request, the rest of the request would look like
                    // the next request.
                    let whole = pending.bytes_sent == pending.request.bytes().len();
                    return Step::Answered(Answer { keeps: answer.keeps && whole && !is_ended, ..answer });
                }
                Ok(None) if read < piece.len() && !is_ended && self.wire.is_plain() => return Step::Wait,
                Ok(None) => {}
            }
        }
    }

    fn end(&self) -> Step {
        match self.answer.end() {
            Some(answer) if self.pending.is_some() => Step::Answered(answer),
            _ => Step::Ended(self.failed(&ErrorKind::UnexpectedEof.into())),
        }
    }

    fn failed(&self, error: &io::Error) -> Failure {
        match Failure::of(error) {
            Failure::Closed if self.answer.has_begun() => Failure::Cut,
            failure => failure,
        }
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}
