//! One client's socket, as far as the poller and a worker share it.
//!
//! The poller owns the connection until it queues a request; then a worker claims it, answers, and hands it back without
//! a system call unless there is something left for the poller to do. One atomic word says whose turn it is, and that
//! readiness came while it was not the poller's: the socket is registered once, edge-triggered, and never again.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Id, Mailbox, Message};
use crate::http::{Request, Response, encode_head};
use crate::job::{Claim, Client, Delivery};

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Turn {
    /// The poller's: idle, reading or flushing.
    Poller = 0,
    /// A request is in the queue.
    Queued = 1,
    /// A worker runs it.
    Running = 2,
    /// A worker writes the answer.
    Writing = 3,
}

const TURN: u64 = 0b11;
/// The poller has something to do as soon as it is its turn: readiness that came meanwhile, pipelined bytes, an answer
/// that the socket did not take whole.
const ATTEND: u64 = 0b100;
/// The ticket of the request in progress stands above the flags.
const TICKET: u32 = 3;

#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    peer: SocketAddr,
    id: Id,
    state: AtomicU64,
    /// What a worker leaves to the poller; looked at only when it says so, so never contended.
    left: Mutex<Option<Left>>,
    /// Milliseconds since `mailbox.epoch` of the last answer by a worker: since when a connection is idle.
    answered_at: AtomicU64,
    mailbox: Arc<Mailbox>,
}

/// What a worker could not finish.
#[derive(Debug)]
pub(super) enum Left {
    /// Bytes that the socket did not take.
    Unsent(Unsent),
    /// Nothing, but the connection is to be closed in peace.
    Close,
    /// The client has left.
    Broken,
}

/// An answer on its way: head and body, and how much of both is sent.
#[derive(Debug)]
pub(super) struct Unsent {
    head: Vec<u8>,
    body: Bytes,
    sent: usize,
    /// Whether the connection closes after it.
    pub(super) close: bool,
}

impl Unsent {
    pub(super) fn new(head: Vec<u8>, body: Bytes, close: bool) -> Self {
        Self { head, body, sent: 0, close }
    }

    /// The buffer of what was sent, to be used again.
    pub(super) fn into_buffer(mut self) -> Vec<u8> {
        self.head.clear();
        self.head
    }

    /// Writes what the socket takes. Returns whether that was all.
    pub(super) fn flush(&mut self, mut stream: &TcpStream) -> io::Result<bool> {
        loop {
            let head = self.head.get(self.sent..).unwrap_or_default();
            let body = self.body.get(self.sent.saturating_sub(self.head.len())..).unwrap_or_default();
            if head.is_empty() && body.is_empty() {
                return Ok(true);
            }
            match stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Link {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, id: Id, mailbox: Arc<Mailbox>) -> Self {
        Self {
            stream,
            peer,
            id,
            state: AtomicU64::new(0),
            left: Mutex::new(None),
            answered_at: AtomicU64::new(0),
            mailbox,
        }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn id(&self) -> Id {
        self.id
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Reads once. `None`: nothing there now.
    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match (&self.stream).read(into) {
                Ok(read) => return Ok(Some(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        // It fails only when the client is gone already, which is what was wanted.
        drop(self.stream.shutdown(how));
    }

    pub(super) fn turn(&self) -> Turn {
        match self.state.load(Ordering::Acquire) & TURN {
            0 => Turn::Poller,
            1 => Turn::Queued,
            2 => Turn::Running,
            _ => Turn::Writing,
        }
    }

    /// Poller: readiness came. Whether it may act on it now; if not, it is told when it may.
    pub(super) fn attend(&self) -> bool {
        let noted = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state & TURN != Turn::Poller as u64).then_some(state | ATTEND)
        });
        noted.is_err()
    }

    /// Poller: gives the connection away with the request of this ticket. `attend`: there is more to do afterwards.
    pub(super) fn give(&self, ticket: u64, attend: bool) {
        let flags = Turn::Queued as u64 | if attend { ATTEND } else { 0 };
        self.state.store(ticket << TICKET | flags, Ordering::Release);
    }

    /// Poller: takes the connection back if it is still in the given turn.
    pub(super) fn take_back(&self, from: Turn) -> bool {
        let taken = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state & TURN == from as u64).then_some(state & !(TURN | ATTEND))
        });
        taken.is_ok()
    }

    /// Poller: what a worker left to do.
    pub(super) fn take_left(&self) -> Option<Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Poller: whether a worker left something to do.
    pub(super) fn has_left(&self) -> bool {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Since when the connection is idle, if a worker answered last.
    pub(super) fn answered_at(&self) -> Instant {
        self.mailbox.epoch + Duration::from_millis(self.answered_at.load(Ordering::Relaxed))
    }

    /// Worker: from one turn to the next, if the request of this ticket still is in it.
    fn advance(&self, ticket: u64, from: Turn, to: Turn) -> bool {
        let moved = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            let same = state >> TICKET == ticket && state & TURN == from as u64;
            same.then_some(state & !TURN | to as u64)
        });
        moved.is_ok()
    }

    /// Worker: the connection is the poller's again.
    fn hand_back(&self, left: Option<Left>) {
        let attend = left.is_some();
        if attend {
            *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
        }
        let now = self.mailbox.epoch.elapsed().as_millis();
        self.answered_at.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        let before = self.state.fetch_and(!(TURN | ATTEND), Ordering::AcqRel);
        if attend || before & ATTEND != 0 {
            self.mailbox.post(Message::Returned(self.id));
        }
    }
}

impl Client for Link {
    fn claim(&self, ticket: u64, _: &mut Request) -> Claim {
        if self.advance(ticket, Turn::Queued, Turn::Running) { Claim::Granted } else { Claim::Gone }
    }

    fn answer(&self, ticket: u64, request: &Request, response: Response) -> Delivery {
        if !self.advance(ticket, Turn::Running, Turn::Writing) {
            return Delivery::TooLate;
        }
        let mut form = request.form();
        form.keep_alive &= !self.mailbox.is_draining();
        let mut head = Vec::with_capacity(256);
        let with_body = encode_head(&response, form, &mut head);
        let body = if with_body { response.into_body() } else { Bytes::new() };
        let mut unsent = Unsent::new(head, body, !form.keep_alive);
        let (left, delivery) = match unsent.flush(&self.stream) {
            Ok(true) if form.keep_alive => (None, Delivery::Sent),
            Ok(true) => (Some(Left::Close), Delivery::Sent),
            Ok(false) => (Some(Left::Unsent(unsent)), Delivery::Sent),
            Err(_) => (Some(Left::Broken), Delivery::ClientLeft),
        };
        self.hand_back(left);
        delivery
    }
}
