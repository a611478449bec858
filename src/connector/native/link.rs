//! One client's socket, as the poller and a worker share it.
//!
//! The poller owns the connection until it queues a request. Then a worker claims the connection, answers, and hands it
//! back. The return needs no system call unless there is something left for the poller to do. One atomic word says
//! who owns the connection, and whether readiness came while the poller did not own it. So the socket is registered
//! once, edge-triggered, and never again.

use std::cell::Cell;
use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::Socket;

use super::output::{Flushed, Outbox, PollerNotice, Unsent};
use super::wire::Wire;
use super::{Id, Mailbox, Message};
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::system;
use crate::exchange::job::{Claim, Client, Delivery, Stream};
use crate::http::{Body, Request, Response, Sink, encode_head};
use crate::telemetry::sparing::sparingly;

/// The owner of the connection at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Owner {
    /// The poller: the connection is idle, reading or flushing.
    Poller = 0,
    /// The queue: its request waits there.
    Queued = 1,
    /// A worker, which runs the request.
    Running = 2,
    /// A worker, which writes the answer.
    Writing = 3,
    /// A worker, which writes the answer piece by piece, while the poller sends the pieces that the socket did not
    /// take.
    Streaming = 4,
}

const OWNER: u64 = 0b111;
/// Set when the poller has something to do as soon as it owns the connection again: readiness that came meanwhile,
/// pipelined bytes, or an answer that the socket did not take whole.
const PENDING: u64 = 0b1000;
/// The position of the ticket of the request in progress, above the flags.
const TICKET: u32 = 4;

/// How many pieces of a file a worker sends, however fast the client takes them. The poller sends the rest.
const PIECES_BY_WORKER: usize = 4;

/// Most heads are no longer than this.
const HEAD_BYTES: usize = 256;

/// A body up to this size is copied behind its head: one piece costs the kernel less than two.
const JOINED_BYTES: usize = 4 * 1024;

/// One atomic word: the owner, the request in progress, and whether the poller has something to do afterwards.
#[derive(Debug, Default)]
struct Word(AtomicU64);

impl Word {
    fn owner(&self) -> Owner {
        match self.0.load(Ordering::Acquire) & OWNER {
            0 => Owner::Poller,
            1 => Owner::Queued,
            2 => Owner::Running,
            3 => Owner::Writing,
            _ => Owner::Streaming,
        }
    }

    /// See [`Link::note_readiness`].
    fn note_readiness(&self) -> bool {
        let noted = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state & OWNER != Owner::Poller as u64).then_some(state | PENDING)
        });
        noted.is_err()
    }

    /// See [`Link::give`].
    fn give(&self, ticket: u64, pending: bool) {
        let flags = Owner::Queued as u64 | if pending { PENDING } else { 0 };
        self.0.store(ticket << TICKET | flags, Ordering::Release);
    }

    /// See [`Link::take_back`].
    fn take_back(&self, from: Owner) -> bool {
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            (state & OWNER == from as u64).then_some(state & !(OWNER | PENDING))
        });
        taken.is_ok()
    }

    /// Worker: changes the owner from `from` to `to`, if the request of this ticket still has the owner `from`.
    fn advance(&self, ticket: u64, from: Owner, to: Owner) -> bool {
        let moved = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
            let same = state >> TICKET == ticket && state & OWNER == from as u64;
            same.then_some(state & !OWNER | to as u64)
        });
        moved.is_ok()
    }

    /// Worker: makes the poller the owner again. Returns whether the poller has something to do.
    fn hand_back(&self) -> bool {
        self.0.fetch_and(!(OWNER | PENDING), Ordering::AcqRel) & PENDING != 0
    }
}

#[derive(Debug)]
pub(super) struct Link {
    socket: Socket,
    id: Id,
    word: Word,
    /// The task that a worker leaves to the poller. It is locked only when there is one, so the lock is hardly
    /// contended.
    task: Mutex<Option<PollerTask>>,
    /// When a worker last answered, in milliseconds since `mailbox.epoch`. An idle connection has been idle since then.
    answered_at: AtomicU64,
    /// Whether a worker may write to the socket. Not with TLS: the session that encrypts belongs to the poller.
    direct: bool,
    mailbox: Arc<Mailbox>,
    /// Whether the client is still there, for code that works or waits on its behalf.
    presence: Presence,
}

/// A moment from which later ones are counted, by the clock that is cheapest to read. That clock may be some
/// milliseconds late.
#[derive(Debug)]
pub(super) struct Epoch {
    at: Instant,
    coarse: Duration,
}

impl Epoch {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), coarse: coarse() }
    }

    /// The milliseconds since this moment.
    fn elapsed_ms(&self) -> u64 {
        u64::try_from(coarse().saturating_sub(self.coarse).as_millis()).unwrap_or(u64::MAX)
    }

    /// The moment that is this many milliseconds later.
    fn at(&self, ms: u64) -> Instant {
        self.at + Duration::from_millis(ms)
    }
}

fn coarse() -> Duration {
    system::coarse_monotonic()
}

/// The rest of an answer, which a worker leaves to the poller.
#[derive(Debug)]
pub(super) enum PollerTask {
    /// An answer that the socket did not take whole.
    Unsent(Unsent),
    /// A streamed answer: in progress, or ended with bytes that the socket did not take.
    Stream {
        /// The bytes that are not sent.
        outbox: Arc<Outbox>,
        /// Whether the connection closes after them.
        close: bool,
    },
    /// No bytes, but the connection is to be closed so that the client sees the whole answer.
    Close,
    /// The client has left.
    Broken,
    /// The answer is not complete, and only a reset can tell the client.
    Cut,
}

impl Link {
    pub(super) fn new(socket: Socket, id: Id, direct: bool, mailbox: Arc<Mailbox>) -> Self {
        Self {
            socket,
            id,
            word: Word::default(),
            task: Mutex::new(None),
            answered_at: AtomicU64::new(0),
            direct,
            mailbox,
            presence: Presence::tracked(),
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn id(&self) -> Id {
        self.id
    }

    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Reads once. Returns `None` if there is nothing to read now.
    pub(super) fn read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match (&self.socket).read(into) {
                Ok(read) => return Ok(Some(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        // Only fails if the client is gone already.
        drop(self.socket.shutdown(how));
    }

    /// Resets the connection, so that the client sees that its answer is not complete. Works also while a job in the
    /// queue holds the socket.
    pub(super) fn reset(&self) {
        // As above. A socket of another family than TCP just ends.
        if rustix::net::connect_unspec(&self.socket).is_err() {
            self.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn owner(&self) -> Owner {
        self.word.owner()
    }

    /// Poller: notes that readiness came. Returns whether the poller may act now. If not, it gets a message when it
    /// may.
    pub(super) fn note_readiness(&self) -> bool {
        self.word.note_readiness()
    }

    /// Poller: gives the connection away with the request of this ticket. `pending`: the poller has more to do
    /// afterwards.
    pub(super) fn give(&self, ticket: u64, pending: bool) {
        self.word.give(ticket, pending);
    }

    /// Poller: takes the connection back if `from` still owns it.
    pub(super) fn take_back(&self, from: Owner) -> bool {
        self.word.take_back(from)
    }

    /// Poller: takes the task that a worker left.
    pub(super) fn take_task(&self) -> Option<PollerTask> {
        self.lock_task().take()
    }

    /// Poller: whether a worker left a task.
    pub(super) fn has_task(&self) -> bool {
        self.lock_task().is_some()
    }

    /// Poller: the streamed answer in progress.
    pub(super) fn outbox(&self) -> Option<Arc<Outbox>> {
        match &*self.lock_task() {
            Some(PollerTask::Stream { outbox, .. }) => Some(Arc::clone(outbox)),
            _ => None,
        }
    }

    /// Since when the connection is idle, if a worker gave the last answer.
    pub(super) fn answered_at(&self) -> Instant {
        self.mailbox.epoch.at(self.answered_at.load(Ordering::Relaxed))
    }

    /// Worker: sends the poller a message, also while it does not own the connection.
    pub(super) fn notify_poller(&self) {
        self.mailbox.post(Message::Returned(self.id));
    }

    /// Worker: changes the owner from `from` to `to`, if the request of this ticket still has the owner `from`.
    fn advance(&self, ticket: u64, from: Owner, to: Owner) -> bool {
        self.word.advance(ticket, from, to)
    }

    /// Worker: gives the connection back to the poller.
    fn hand_back(&self, task: Option<PollerTask>) {
        let pending = task.is_some();
        if pending {
            *self.lock_task() = task;
        }
        self.answered_at.store(self.mailbox.epoch.elapsed_ms(), Ordering::Relaxed);
        if self.word.hand_back() | pending {
            self.notify_poller();
        }
    }

    fn lock_task(&self) -> MutexGuard<'_, Option<PollerTask>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Worker: sends what the socket takes of an answer, and of a file at most a few pieces. Returns whether all is
    /// sent.
    fn send(&self, unsent: &mut Unsent) -> Result<bool, Failure> {
        let mut moved = 0;
        let sent = self.send_pieces(unsent, &mut moved);
        self.mailbox.metrics.sent_bytes(moved);
        sent
    }

    fn send_pieces(&self, unsent: &mut Unsent, moved: &mut usize) -> Result<bool, Failure> {
        for _ in 0..PIECES_BY_WORKER {
            if let Some(piece) = unsent.next_piece() {
                unsent.add_piece(piece.read().map_err(Failure::File)?);
            }
            if !self.direct {
                return Ok(false);
            }
            let flushed = unsent.flush(&mut Wire::plain(&self.socket), moved);
            match flushed.map_err(|_| Failure::Client)? {
                Flushed::All => return Ok(true),
                Flushed::Blocked => return Ok(false),
                Flushed::NeedsPiece => {}
            }
        }
        Ok(false)
    }
}

impl Client for Link {
    fn claim(self: Arc<Self>, ticket: u64, _: &mut Request) -> Claim {
        if self.advance(ticket, Owner::Queued, Owner::Running) { Claim::Granted } else { Claim::Gone }
    }

    fn answer(&self, ticket: u64, request: &Request, response: Response) -> Delivery {
        if !self.advance(ticket, Owner::Running, Owner::Writing) {
            return Delivery::TooLate;
        }
        let writing = Writing { link: self };
        if self.presence.has_left() {
            writing.end(Some(PollerTask::Broken));
            return Delivery::ClientLeft;
        }
        let mut form = request.form().of(&response);
        form.keep_alive &= !self.mailbox.is_draining();
        let mut head = Vec::with_capacity(HEAD_BYTES + response.body().len().min(JOINED_BYTES));
        let with_body = encode_head(&response, form, request.request_id.as_ref(), &mut head);
        let body = match response.body {
            Body::Bytes(bytes) if with_body && bytes.len() <= JOINED_BYTES => {
                head.extend_from_slice(&bytes);
                Body::Bytes(Bytes::new())
            }
            body if with_body => body,
            _ => Body::Bytes(Bytes::new()),
        };
        let mut unsent = Unsent::of(head, body, !form.keep_alive);
        let (task, delivery) = match self.send(&mut unsent) {
            Ok(true) if form.keep_alive => (None, Delivery::Sent),
            Ok(true) => (Some(PollerTask::Close), Delivery::Sent),
            Ok(false) => (Some(PollerTask::Unsent(unsent)), Delivery::Sent),
            Err(Failure::File(error)) => {
                let (id, method, path) = (request.id(), request.method(), request.path());
                sparingly!(
                    log::Level::Warn,
                    "files that broke off",
                    "request {id}: {method} {path}: the file cannot be read: {error}"
                );
                (Some(PollerTask::Cut), Delivery::Sent)
            }
            Err(Failure::Client) => (Some(PollerTask::Broken), Delivery::ClientLeft),
        };
        writing.end(task);
        delivery
    }

    fn open(
        self: Arc<Self>,
        ticket: u64,
        request: &Request,
        response: &Response,
        deadline: Deadline,
    ) -> Option<Box<dyn Stream>> {
        let mut form = request.form().of(response);
        form.keep_alive &= !self.mailbox.is_draining();
        let outbox = Arc::<Outbox>::default();
        let close = !form.keep_alive;
        // Before the word moves: a poller that gives the connection up finds either no stream yet or the outbox to give
        // up.
        *self.lock_task() = Some(PollerTask::Stream { outbox: Arc::clone(&outbox), close });
        if !self.advance(ticket, Owner::Running, Owner::Streaming) {
            // The poller has closed the connection, or is about to.
            self.take_task();
            return None;
        }
        if self.presence.has_left() {
            outbox.give_up();
        }
        let mut head = Vec::with_capacity(HEAD_BYTES);
        encode_head(response, form, request.request_id.as_ref(), &mut head);
        let limit = self.mailbox.response_buffer_bytes.load(Ordering::Relaxed);
        let failed = Cell::new(false);
        let stream = OpenStream { link: self, ticket, outbox, close, limit, deadline, failed };
        // If the client has left, the first piece finds it out again, and so does the end.
        drop(stream.send(&head));
        Some(Box::new(stream))
    }
}

/// A connection whose worker writes an answer. After a panic, such as in the drop of the handler's body, it goes back to the
/// poller, which cuts it off.
struct Writing<'a> {
    link: &'a Link,
}

impl Writing<'_> {
    fn end(self, task: Option<PollerTask>) {
        self.link.hand_back(task);
        std::mem::forget(self);
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.link.hand_back(Some(PollerTask::Cut));
    }
}

/// Why an answer could not be sent.
enum Failure {
    /// The file that is its body cannot be read.
    File(io::Error),
    /// The client has left.
    Client,
}

/// A worker's side of a streamed answer.
struct OpenStream {
    link: Arc<Link>,
    ticket: u64,
    outbox: Arc<Outbox>,
    close: bool,
    limit: usize,
    deadline: Deadline,
    /// Whether something could not be sent. Then the answer is not complete, even if its handler ignores the error.
    failed: Cell<bool>,
}

impl Sink for OpenStream {
    fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut wire = Wire::plain(&self.link.socket);
            let direct = self.link.direct.then_some(&mut wire);
            let put = self.outbox.put(bytes, direct, self.limit, self.deadline);
            let (count, notice) = put.inspect_err(|_| self.failed.set(true))?;
            self.link.mailbox.metrics.sent_bytes(count);
            if notice == PollerNotice::Needed {
                self.link.notify_poller();
            }
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

impl Stream for OpenStream {
    fn finish(self: Box<Self>, complete: bool) -> Delivery {
        if !self.link.advance(self.ticket, Owner::Streaming, Owner::Writing) {
            return Delivery::TooLate;
        }
        let Self { link, outbox, close, failed, .. } = *self;
        let complete = complete && !failed.get();
        let broken = outbox.is_broken();
        // `task` has held the stream since it was opened.
        link.take_task();
        let task = match (broken, complete) {
            (true, _) => Some(PollerTask::Broken),
            (false, false) => Some(PollerTask::Cut),
            (false, true) if link.direct && outbox.is_empty() => close.then_some(PollerTask::Close),
            (false, true) => Some(PollerTask::Stream { outbox, close }),
        };
        link.hand_back(task);
        if broken { Delivery::ClientLeft } else { Delivery::Sent }
    }
}

#[cfg(test)]
mod tests;
