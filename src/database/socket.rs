//! The socket of one session: it sends without waiting, and waits for the answer in the system call that reads it.
//!
//! A statement takes one `send` and one `recv`; a reactor takes four calls and a registration. A [`Stream`] is the same
//! socket for the libraries that open a session and encrypt it. It never waits; its driver [waits](Socket::wait)
//! between two calls. Runs on the thread that makes a call; only the interruption comes from another thread.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use crate::base::system::{self, Bell};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes of one read. That is enough for a whole result of usual size, and little enough to have for each
/// session.
const READ_BYTES: usize = 16 * 1024;

/// A wait is cut into pieces no longer than this. So a later wait with another end seldom needs another timeout.
const LONGEST_WAIT_MS: u64 = 1024;

#[derive(Debug)]
pub(super) struct Socket {
    raw: socket2::Socket,
    /// Only one thread locks it at a time.
    inbox: Mutex<Inbox>,
    /// Another thread has ended the reading.
    interrupted: AtomicBool,
}

/// The received bytes that were not taken yet, and the state of the next wait.
#[derive(Debug)]
struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// The other side has ended.
    closed: bool,
    failure: Option<io::Error>,
    /// The socket had no room for all the bytes.
    blocked: bool,
    /// `SO_RCVTIMEO`.
    timeout: Duration,
}

impl Socket {
    /// Takes over a connected socket.
    pub(super) fn new(socket: socket2::Socket) -> io::Result<Arc<Self>> {
        socket.set_nonblocking(false)?;
        let timeout = Duration::from_millis(LONGEST_WAIT_MS);
        socket.set_read_timeout(Some(timeout))?;
        let bytes = vec![0; READ_BYTES].into();
        let inbox = Inbox { bytes, start: 0, end: 0, closed: false, failure: None, blocked: false, timeout };
        Ok(Arc::new(Self { raw: socket, inbox: Mutex::new(inbox), interrupted: AtomicBool::new(false) }))
    }

    /// Waits until there is work: bytes have come, the connection has ended, or there is room to send. `false`: nothing
    /// of this happened by `until`.
    pub(super) fn wait(&self, until: Instant) -> bool {
        let mut inbox = self.inbox();
        if inbox.has_news() {
            return true;
        }
        if inbox.blocked { self.wait_for_room(&mut inbox, until) } else { self.read(&mut inbox, until) }
    }

    /// Waits as [`wait`](Self::wait) does, and at most until the bell rings. Also returns whether the bell may have rung.
    pub(super) fn wait_or_bell(&self, until: Instant, bell: &Bell) -> (bool, bool) {
        let mut inbox = self.inbox();
        if inbox.has_news() {
            return (true, false);
        }
        let events = if inbox.blocked { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut asked = [PollFd::new(&self.raw, events), PollFd::new(bell, PollFlags::IN)];
        let left = until.saturating_duration_since(Instant::now());
        match Timespec::try_from(left)
            .map_err(|_| Errno::INVAL)
            .and_then(|left| poll(&mut asked, Some(&left)))
        {
            Ok(0) | Err(Errno::INTR) => return (false, false),
            Ok(_) => {}
            Err(error) => {
                inbox.failure = Some(error.into());
                return (true, false);
            }
        }
        let [socket, rung] = asked.map(|one| !one.revents().is_empty());
        if socket {
            inbox.blocked = false;
            self.receive(&mut inbox, RecvFlags::DONTWAIT);
        }
        (socket, rung)
    }

    /// Whether nothing has come without a question: no bytes, and no end of the connection. Does not wait.
    pub(super) fn is_silent(&self) -> bool {
        let mut inbox = self.inbox();
        if !inbox.has_news() {
            self.receive(&mut inbox, RecvFlags::DONTWAIT);
        }
        !inbox.has_news()
    }

    /// Sends as much as there is room for, and returns how much that was. If some is left, the next [wait](Self::wait)
    /// is for room.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match retry_on_intr(|| send(&self.raw, bytes, system::SEND)) {
            Ok(sent) => {
                self.inbox().blocked = sent < bytes.len();
                Ok(sent)
            }
            Err(Errno::AGAIN) => {
                self.inbox().blocked = true;
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Appends the bytes that have come. Returns whether there were any.
    pub(super) fn take(&self, into: &mut Vec<u8>) -> io::Result<bool> {
        let mut inbox = self.inbox();
        let Inbox { bytes, start, end, .. } = &mut *inbox;
        into.extend_from_slice(&bytes[*start..*end]);
        let taken = *end - *start;
        *start = *end;
        if taken > 0 {
            return Ok(true);
        }
        match inbox.failure.take() {
            Some(failure) => Err(failure),
            None if inbox.closed => Err(ErrorKind::UnexpectedEof.into()),
            None => Ok(false),
        }
    }

    /// Whether another thread has interrupted it.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Relaxed)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, inbox: &mut Inbox, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            if left < inbox.timeout {
                self.set_timeout(inbox, left);
            }
            if self.receive(inbox, RecvFlags::empty()) {
                return true;
            }
            // The timeout may be that of a shorter wait.
            self.set_timeout(inbox, until.saturating_duration_since(Instant::now()));
        }
    }

    /// Sets the timeout of a read. It is a power of two, so that waits of about the same length set it only once.
    fn set_timeout(&self, inbox: &mut Inbox, left: Duration) {
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST_WAIT_MS);
        let timeout = Duration::from_millis(1 << left.ilog2());
        if timeout != inbox.timeout {
            match self.raw.set_read_timeout(Some(timeout)) {
                Ok(()) => inbox.timeout = timeout,
                // Without a timeout a read must not wait.
                Err(error) => inbox.failure = Some(error),
            }
        }
    }

    fn wait_for_room(&self, inbox: &mut Inbox, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else { return false };
            let mut asked = [PollFd::new(&self.raw, PollFlags::IN | PollFlags::OUT)];
            match poll(&mut asked, Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => {
                    inbox.failure = Some(error.into());
                    return true;
                }
            }
        }
        inbox.blocked = false;
        self.receive(inbox, RecvFlags::DONTWAIT);
        true
    }

    /// Reads, and waits according to the flags and the timeout. Returns whether anything came; the end of the
    /// connection counts.
    fn receive(&self, inbox: &mut Inbox, flags: RecvFlags) -> bool {
        match recv(&self.raw, &mut *inbox.bytes, flags) {
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Err(error) => inbox.failure = Some(error.into()),
            Ok((_, 0)) => inbox.closed = true,
            Ok((_, read)) => (inbox.start, inbox.end) = (0, read),
        }
        true
    }
}

/// Ends the wait for an answer, and with it the session: nothing more can be read.
impl Wake for Socket {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.interrupted.store(true, Relaxed);
        // It fails only if the other side is already gone.
        drop(self.raw.shutdown(Shutdown::Read));
    }
}

impl Inbox {
    fn has_news(&self) -> bool {
        self.start < self.end || self.closed || self.failure.is_some()
    }
}

/// The socket for tokio-postgres and rustls. A pending call is repeated after [`Socket::wait`], so no waker is kept.
#[derive(Debug)]
pub(super) struct Stream(pub(super) Arc<Socket>);

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inbox = self.0.inbox();
        let Inbox { bytes, start, end, .. } = &mut *inbox;
        let taken = (*end - *start).min(into.remaining());
        into.put_slice(&bytes[*start..*start + taken]);
        *start += taken;
        if taken > 0 {
            Poll::Ready(Ok(()))
        } else if let Some(failure) = inbox.failure.take() {
            Poll::Ready(Err(failure))
        } else if inbox.closed {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.0.send(bytes) {
            Ok(0) if !bytes.is_empty() => Poll::Pending,
            sent => Poll::Ready(sent),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The server closes the connection of a cancel request when it has acted on it. Some poolers take an earlier
        // end for a client that is gone.
        Poll::Ready(Ok(()))
    }
}
