//! One client connection: the request that is on its way, what of it is not sent yet, and its answer as it comes.
//!
//! Generator thread. Knows no schedule and counts nothing.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::answer::{Answer, Reader};
use super::outcomes::Failure;
use super::target::Request;

/// Answers are read in pieces of this many bytes: as much as a socket commonly holds.
const PIECE_BYTES: usize = 64 << 10;

pub(super) struct Connection<'p> {
    stream: TcpStream,
    /// Which server it leads to.
    pub(super) origin: usize,
    asking: Option<Asking<'p>>,
    answer: Reader,
}

/// A request without an outcome.
#[derive(Clone, Copy)]
pub(super) struct Asking<'p> {
    /// Tells it from the others of the run.
    pub(super) number: u64,
    pub(super) target: usize,
    pub(super) request: &'p Request,
    pub(super) due: Instant,
    /// When its first bytes were sent.
    pub(super) sent: Option<Instant>,
    /// How many of its bytes were.
    pub(super) bytes_sent: usize,
}

/// What all connections read into.
pub(super) struct Buffers {
    piece: Vec<u8>,
    chunks: Vec<u8>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { piece: vec![0; PIECE_BYTES], chunks: Vec::new() }
    }
}

/// What an event on a connection leads to.
#[derive(Debug)]
pub(super) enum Step {
    Wait,
    Answered(Answer),
    /// It can have no other request; why the one that it had, if any, has no answer.
    Ended(Failure),
}

impl<'p> Connection<'p> {
    /// Begins to connect, without waiting for it. Registered once, for all that can happen to it.
    pub(super) fn open(
        address: SocketAddr,
        origin: usize,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, origin, asking: None, answer: Reader::default() })
    }

    pub(super) fn asking(&self) -> Option<&Asking<'p>> {
        self.asking.as_ref()
    }

    /// Whether nothing was sent yet of the request.
    pub(super) fn is_unsent(&self) -> bool {
        self.asking.as_ref().is_some_and(|asking| asking.sent.is_none())
    }

    /// The request has its outcome.
    pub(super) fn take_asking(&mut self) -> Option<Asking<'p>> {
        self.asking.take()
    }

    /// Sends the request, or as much of it as the socket takes, which is nothing while it connects.
    pub(super) fn ask(&mut self, asking: Asking<'p>, now: Instant) -> io::Result<()> {
        self.answer.reset();
        self.asking = Some(asking);
        self.send(now)
    }

    /// Sends what is left of the request.
    fn send(&mut self, now: Instant) -> io::Result<()> {
        let Some(asking) = &mut self.asking else { return Ok(()) };
        loop {
            let left = &asking.request.bytes()[asking.bytes_sent..];
            if left.is_empty() {
                return Ok(());
            }
            match self.stream.write(left) {
                Ok(written) => {
                    asking.bytes_sent += written;
                    asking.sent.get_or_insert(now);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_not_yet(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// There is room to write, or, if so, something to read, or an end.
    pub(super) fn proceed(&mut self, is_readable: bool, is_ended: bool, buffers: &mut Buffers) -> Step {
        let unsent =
            self.asking.as_ref().is_some_and(|asking| asking.bytes_sent < asking.request.bytes().len());
        if unsent {
            // What the server has said before it closed is read nevertheless: a refusal may come before the body is sent.
            let sent = self.send(Instant::now());
            if let (Err(error), false) = (sent, is_readable) {
                return Step::Ended(Failure::of(&error));
            }
        }
        if is_readable || is_ended { self.receive(is_ended, buffers) } else { Step::Wait }
    }

    /// Reads what has come. A short read has taken all of it, but an end behind it makes no other event.
    fn receive(&mut self, is_ended: bool, buffers: &mut Buffers) -> Step {
        let Buffers { piece, chunks } = buffers;
        loop {
            let read = match self.stream.read(piece) {
                Ok(0) => return self.end(),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_not_yet(&error) => return Step::Wait,
                Err(error) => return Step::Ended(Failure::of(&error)),
            };
            // Without a request nothing is to come.
            let Some(asking) = &self.asking else { return Step::Ended(Failure::Malformed) };
            match self.answer.feed(&piece[..read], asking.request.is_head(), chunks) {
                Err(_) => return Step::Ended(Failure::Malformed),
                Ok(Some(answer)) => {
                    // The rest of a request whose answer came first would be taken for the begin of the next one.
                    let whole = asking.bytes_sent == asking.request.bytes().len();
                    return Step::Answered(Answer { keeps: answer.keeps && whole && !is_ended, ..answer });
                }
                Ok(None) if read < piece.len() && !is_ended => return Step::Wait,
                Ok(None) => {}
            }
        }
    }

    fn end(&self) -> Step {
        match self.answer.end() {
            Some(answer) if self.asking.is_some() => Step::Answered(answer),
            _ => Step::Ended(Failure::Closed),
        }
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}
