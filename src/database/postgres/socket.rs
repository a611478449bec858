//! The socket of one session: it sends without waiting, and waits for the answer in the one system call that reads it.
//!
//! tokio-postgres reads and writes a [`Stream`], which never waits; whoever drives it [waits](Socket::wait) between two turns.
//! That is one `send` and one `recv` for a statement, where a reactor takes four calls and a registration. Runs on the thread
//! that makes a call; only the interruption comes from another.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use postgres_protocol::message::backend::READY_FOR_QUERY_TAG;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one call reads at most: a result of usual size as a whole, and little enough to have one for each session.
const READ_BYTES: usize = 16 * 1024;

/// The tags of what comes to a `ReadyForQuery`.
const SYNC_AND_QUERY: [u8; 2] = *b"SQ";

/// A wait is cut into pieces no longer than this, so that a later one with another end seldom needs another setting.
const LONGEST_WAIT_MS: u64 = 1024;

#[derive(Debug)]
pub(super) struct Socket {
    raw: socket2::Socket,
    /// Locked by one thread at a time.
    inbox: Mutex<Inbox>,
    /// Reading has come to an end because somebody asked for it.
    interrupted: AtomicBool,
}

/// What was read and not taken, and how the next read waits.
#[derive(Debug)]
struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// The other side has ended.
    closed: bool,
    failure: Option<io::Error>,
    /// The socket has not taken all that was to be sent.
    blocked: bool,
    /// `SO_RCVTIMEO`.
    timeout: Duration,
    /// What tokio-postgres has sent and taken, once the session is open.
    traffic: Option<Traffic>,
}

/// What has gone both ways through a [`Stream`].
#[derive(Debug, Default)]
struct Traffic {
    sent: Messages,
    taken: Messages,
}

impl Traffic {
    /// Whether every answer to what was sent was taken: each Sync and each Query comes to one `ReadyForQuery` (the manual, 55.2.2 and
    /// 55.2.3).
    fn is_settled(&self) -> bool {
        let ends = |messages: &Messages| messages.rest == 0 && messages.header_length == 0;
        let Self { sent, taken } = self;
        ends(sent) && ends(taken) && sent.counted == taken.counted && sent.last_counts && !sent.encrypted
    }
}

/// Messages that go one way, each of which begins with its tag and its length.
#[derive(Debug, Default)]
struct Messages {
    header: [u8; 5],
    /// How much there is of the header.
    header_length: usize,
    /// How much of the message is to come behind it.
    rest: usize,
    /// How many of those have gone that are counted, and whether the last one was.
    counted: u64,
    last_counts: bool,
    /// They are no messages, but most likely what TLS makes of them: nothing more is known.
    encrypted: bool,
}

impl Messages {
    /// These bytes go; the tags that count are those in `counts`.
    fn follow(&mut self, mut bytes: &[u8], counts: &[u8]) {
        while !self.encrypted {
            let gone = self.rest.min(bytes.len());
            self.rest -= gone;
            bytes = &bytes[gone..];
            if bytes.is_empty() {
                return;
            }
            // Rows are many, and most headers come whole.
            if let (0, Some((header, behind))) = (self.header_length, bytes.split_first_chunk()) {
                self.begin(*header, counts);
                bytes = behind;
                continue;
            }
            let gone = (self.header.len() - self.header_length).min(bytes.len());
            self.header[self.header_length..self.header_length + gone].copy_from_slice(&bytes[..gone]);
            self.header_length += gone;
            bytes = &bytes[gone..];
            if self.header_length == self.header.len() {
                self.header_length = 0;
                self.begin(self.header, counts);
            }
        }
    }

    /// A message of this header.
    fn begin(&mut self, header: [u8; 5], counts: &[u8]) {
        let [tag, length @ ..] = header;
        self.last_counts = counts.contains(&tag);
        self.counted += u64::from(self.last_counts);
        match usize::try_from(i32::from_be_bytes(length)) {
            // It counts itself. All tags are letters or digits; TLS begins its records with 20 to 23 (RFC 8446 section 5.1).
            Ok(length @ 4..) if tag.is_ascii_alphanumeric() => self.rest = length - 4,
            _ => self.encrypted = true,
        }
    }
}

impl Socket {
    /// Takes over a connected socket.
    pub(super) fn new(socket: socket2::Socket) -> io::Result<Arc<Self>> {
        socket.set_nonblocking(false)?;
        let timeout = Duration::from_millis(LONGEST_WAIT_MS);
        socket.set_read_timeout(Some(timeout))?;
        let bytes = vec![0; READ_BYTES].into();
        let (start, end, closed, failure, blocked, traffic) = (0, 0, false, None, false, None);
        let inbox = Inbox { bytes, start, end, closed, failure, blocked, timeout, traffic };
        Ok(Arc::new(Self { raw: socket, inbox: Mutex::new(inbox), interrupted: AtomicBool::new(false) }))
    }

    /// Waits until there is something to do: bytes have come, the end has, or there is room for what is to be sent. `false`: not
    /// until then.
    pub(super) fn wait(&self, until: Instant) -> bool {
        let mut inbox = self.inbox();
        if inbox.has_news() {
            return true;
        }
        if inbox.blocked { self.wait_for_room(&mut inbox, until) } else { self.read(&mut inbox, until) }
    }

    /// What has come of itself: whether that is nothing. Does not wait.
    pub(super) fn is_silent(&self) -> bool {
        let mut inbox = self.inbox();
        if !inbox.has_news() {
            self.receive(&mut inbox, RecvFlags::DONTWAIT);
        }
        !inbox.has_news()
    }

    /// The session is open, and all that was sent is answered: from now on it is known what is on its way.
    pub(super) fn follow(&self) {
        let mut traffic = Traffic::default();
        traffic.sent.last_counts = true;
        self.inbox().traffic = Some(traffic);
    }

    /// Whether nothing is on its way, so that others than tokio-postgres can send something and [take](Self::take) what is
    /// answered, all of it.
    pub(super) fn is_quiet(&self) -> bool {
        let inbox = self.inbox();
        !inbox.has_news() && !inbox.blocked && inbox.traffic.as_ref().is_some_and(Traffic::is_settled)
    }

    /// Sends what is not of tokio-postgres. Returns how much of it there was room for.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match retry_on_intr(|| send(&self.raw, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
            Err(Errno::AGAIN) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// Appends what has come, and is not for tokio-postgres. Returns whether that was anything.
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

    /// Whether somebody has interrupted it.
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
            // It may have been set for a shorter wait than this.
            self.set_timeout(inbox, until.saturating_duration_since(Instant::now()));
        }
    }

    /// Sets how long a read waits: a power of two, so that waits of about the same length set it once.
    fn set_timeout(&self, inbox: &mut Inbox, left: Duration) {
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST_WAIT_MS);
        let timeout = Duration::from_millis(1 << left.ilog2());
        if timeout != inbox.timeout {
            match self.raw.set_read_timeout(Some(timeout)) {
                Ok(()) => inbox.timeout = timeout,
                // Without a bound there is no waiting.
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

    /// Reads what is there, or waits for it as the flags and the timeout have it. Returns whether anything came, an end included.
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

/// Ends the wait for an answer, and with it the session: nothing more is read.
impl Wake for Socket {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.interrupted.store(true, Relaxed);
        // It fails only when the other side is gone already.
        drop(self.raw.shutdown(Shutdown::Read));
    }
}

impl Inbox {
    fn has_news(&self) -> bool {
        self.start < self.end || self.closed || self.failure.is_some()
    }
}

/// What tokio-postgres talks to. A call that is pending is made again after [`Socket::wait`], so no waker is kept.
#[derive(Debug)]
pub(super) struct Stream(pub(super) Arc<Socket>);

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inbox = self.0.inbox();
        let Inbox { bytes, start, end, traffic, .. } = &mut *inbox;
        let taken = (*end - *start).min(into.remaining());
        let came = &bytes[*start..*start + taken];
        into.put_slice(came);
        if let Some(traffic) = traffic {
            traffic.taken.follow(came, &[READY_FOR_QUERY_TAG]);
        }
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
        match retry_on_intr(|| send(&self.0.raw, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
            Ok(sent) => {
                if let Some(traffic) = &mut self.0.inbox().traffic {
                    traffic.sent.follow(&bytes[..sent], &SYNC_AND_QUERY);
                }
                Poll::Ready(Ok(sent))
            }
            Err(Errno::AGAIN) => {
                self.0.inbox().blocked = true;
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.raw.shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(bytes: &[u8], piece: usize) -> Messages {
        let mut messages = Messages::default();
        bytes.chunks(piece).for_each(|piece| messages.follow(piece, &SYNC_AND_QUERY));
        messages
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let query = b"Q\0\0\0\x08SSS\0";
        let sync = b"S\0\0\0\x04";
        let bind = b"B\0\0\0\x0cSYNCQQQQ";
        let all = [&query[..], bind, sync, sync, bind].concat();
        for piece in 1..all.len() {
            let messages = followed(&all, piece);
            assert_eq!((messages.counted, messages.last_counts, messages.encrypted), (3, false, false));
            assert_eq!((messages.rest, messages.header_length), (0, 0));
            assert!(followed(&all[..all.len() - bind.len()], piece).last_counts);
        }
        let cut = followed(&all[..all.len() - 1], 3);
        assert_eq!((cut.rest, cut.header_length), (1, 0));
        let cut = followed(&all[..all.len() - 9], 3);
        assert_eq!((cut.rest, cut.header_length), (0, 4));
    }

    #[test]
    fn it_is_settled_between_messages_when_each_end_was_answered() {
        let ready = b"Z\0\0\0\x05I";
        let mut traffic = Traffic::default();
        assert!(!traffic.is_settled(), "who has sent nothing is not known to be between two");
        let steps: [(&[u8], &[u8], bool); 6] = [
            (b"S\0\0\0\x04", &ready[..5], false),
            (b"", &ready[5..], true),
            (b"P\0\0\0\x04", b"", false),
            (b"S\0\0\0", ready, false),
            (b"\x04", b"", true),
            (b"", b"N\0", false),
        ];
        for (sent, taken, settled) in steps {
            traffic.sent.follow(sent, &SYNC_AND_QUERY);
            traffic.taken.follow(taken, &[READY_FOR_QUERY_TAG]);
            assert_eq!(traffic.is_settled(), settled, "{sent:?} {taken:?}");
        }
    }

    #[test]
    fn what_tls_makes_of_them_is_never_settled() {
        let mut traffic = Traffic::default();
        traffic.sent.last_counts = true;
        assert!(traffic.is_settled());
        traffic.sent.follow(b"\x17\x03\x03\0\x15a record of TLS, sealed", &SYNC_AND_QUERY);
        assert!(traffic.sent.encrypted && !traffic.is_settled());
        traffic.sent.follow(b"S\0\0\0\x04", &SYNC_AND_QUERY);
        assert!(!traffic.is_settled());
    }
}
