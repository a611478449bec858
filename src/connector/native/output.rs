//! Answers on their way out: the parts that the socket has not taken yet.
//!
//! Used by the poller or the worker that owns the connection. Only a streamed answer is used by both at a time, under
//! its lock: the worker writes it, and the poller flushes it.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::wire::Wire;
use crate::base::deadline::Deadline;
use crate::http::{Body, FileBody};

/// The size of the pieces in which a file is read: large enough for cheap reads, small enough to hold one for each
/// client.
pub(super) const PIECE_BYTES: usize = 128 * 1024;

/// An answer of known length, and how much of it is sent.
#[derive(Debug)]
pub(super) struct Unsent {
    head: Vec<u8>,
    body: Payload,
    /// Bytes sent of the head and the piece of body behind it.
    sent: usize,
    /// Whether the connection closes after it.
    pub(super) close: bool,
}

#[derive(Debug)]
enum Payload {
    Bytes(Bytes),
    File(FileRest),
}

/// What is left of a file.
#[derive(Debug)]
struct FileRest {
    file: Arc<fs::File>,
    piece: Bytes,
    /// The offset of the next piece.
    at: u64,
    /// Bytes from that offset on.
    left: u64,
}

/// The result of flushing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Everything is sent.
    All,
    /// The socket takes no more now.
    Blocked,
    /// The next piece of the file must be read first.
    NeedsPiece,
}

/// A piece of a file that is to be read.
#[derive(Debug)]
pub(super) struct Piece {
    file: Arc<fs::File>,
    at: u64,
    length: usize,
}

impl Piece {
    /// Reads the piece. Waits for the disk.
    ///
    /// # Errors
    /// When it cannot be read, or the file has become shorter since its length was announced.
    pub(super) fn read(&self) -> io::Result<Bytes> {
        let mut bytes = vec![0; self.length];
        self.file.read_exact_at(&mut bytes, self.at)?;
        Ok(bytes.into())
    }
}

impl Unsent {
    pub(super) fn new(head: Vec<u8>, body: Bytes, close: bool) -> Self {
        Self { head, body: Payload::Bytes(body), sent: 0, close }
    }

    /// Takes an answer of known length. Streams and feeds have a way of their own.
    pub(super) fn of(head: Vec<u8>, body: Body, close: bool) -> Self {
        match body {
            Body::Bytes(bytes) => Self::new(head, bytes, close),
            Body::Stream(_) | Body::Feed(_) => Self::new(head, Bytes::new(), close),
            Body::File(FileBody { file, length }) => {
                let rest = FileRest { file: Arc::new(file), piece: Bytes::new(), at: 0, left: length };
                Self { head, body: Payload::File(rest), sent: 0, close }
            }
        }
    }

    /// The buffer of the sent bytes, to be used again.
    pub(super) fn into_buffer(mut self) -> Vec<u8> {
        self.head.clear();
        self.head
    }

    /// The unsent bytes that are in memory.
    pub(super) fn rest(&self) -> Vec<u8> {
        let Payload::Bytes(body) = &self.body else { return Vec::new() };
        let sent_of_body = self.sent.saturating_sub(self.head.len());
        [self.head.get(self.sent..), body.get(sent_of_body..)].map(Option::unwrap_or_default).concat()
    }

    /// The memory of the answer. A body that other answers share is not counted.
    pub(super) fn held_bytes(&self) -> usize {
        let body = match &self.body {
            Payload::Bytes(body) => body,
            Payload::File(rest) => &rest.piece,
        };
        self.head.capacity() + if body.is_unique() { body.len() } else { 0 }
    }

    /// The next piece of the file, if there is one to read.
    pub(super) fn next_piece(&self) -> Option<Piece> {
        let Payload::File(rest) = &self.body else { return None };
        let length = usize::try_from(rest.left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        (length > 0).then(|| Piece { file: Arc::clone(&rest.file), at: rest.at, length })
    }

    /// Appends the piece of the file that was read.
    pub(super) fn add_piece(&mut self, piece: Bytes) {
        if let Payload::File(rest) = &mut self.body {
            let unsent_head = self.head.split_off(self.sent.min(self.head.len()));
            self.head = unsent_head;
            self.sent = 0;
            rest.at += piece.len() as u64;
            rest.left -= piece.len() as u64;
            rest.piece = piece;
        }
    }

    /// Sends as much as the wire takes, and adds the number of sent bytes to `moved`.
    pub(super) fn flush(&mut self, wire: &mut Wire<'_>, moved: &mut usize) -> io::Result<Flushed> {
        loop {
            let (piece, left) = match &self.body {
                Payload::Bytes(bytes) => (bytes, 0),
                Payload::File(rest) => (&rest.piece, rest.left),
            };
            let head = self.head.get(self.sent..).unwrap_or_default();
            let body = piece.get(self.sent.saturating_sub(self.head.len())..).unwrap_or_default();
            if body.is_empty() && left > 0 {
                return Ok(Flushed::NeedsPiece);
            }
            if head.is_empty() && body.is_empty() {
                return Ok(if wire.flush()? { Flushed::All } else { Flushed::Blocked });
            }
            match wire.send(&[IoSlice::new(head), IoSlice::new(body)])? {
                Some(sent) => {
                    self.sent += sent;
                    *moved += sent;
                }
                None => return Ok(Flushed::Blocked),
            }
        }
    }
}

/// The part of a streamed answer that is written and not sent. The worker writes, the poller flushes.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<Waiting>,
    room: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    /// The client has left, or its connection was given up.
    broken: bool,
}

impl Waiting {
    fn flush(&mut self, wire: &mut Wire<'_>) -> io::Result<usize> {
        let mut moved = 0;
        while !self.bytes.is_empty() {
            let (front, back) = self.bytes.as_slices();
            let Some(sent) = wire.send(&[IoSlice::new(front), IoSlice::new(back)])? else { break };
            self.bytes.drain(..sent);
            moved += sent;
        }
        Ok(moved)
    }
}

/// Whether the worker has to notify the poller after the outbox has taken a part of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PollerNotice {
    /// The part is sent, or the socket's readiness will bring the poller.
    NotNeeded,
    /// The poller would not come by itself.
    Needed,
}

impl Outbox {
    /// The memory of the bytes that wait.
    pub(super) fn held_bytes(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes.capacity()
    }

    /// Worker: takes bytes, at most as many as may wait, and waits until there is room for some. Returns how many it
    /// took. `direct`: the socket, if the worker may write to it.
    pub(super) fn put(
        &self,
        bytes: &[u8],
        direct: Option<&mut Wire<'_>>,
        limit: usize,
        deadline: Deadline,
    ) -> io::Result<(usize, PollerNotice)> {
        let mut waiting = self.lock();
        while waiting.bytes.len() >= limit && !waiting.broken {
            let left = deadline.left();
            if left.is_zero() {
                break;
            }
            waiting = self.room.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if waiting.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if deadline.has_passed() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the deadline passed before the client had taken the whole answer",
            ));
        }
        let mut sent = 0;
        let empty = waiting.bytes.is_empty();
        let is_direct = direct.is_some();
        if let Some(wire) = direct.filter(|_| empty) {
            while sent < bytes.len() {
                match wire.send(&[IoSlice::new(&bytes[sent..])]) {
                    Ok(Some(count)) => sent += count,
                    Ok(None) => break,
                    Err(error) => {
                        waiting.broken = true;
                        return Err(error);
                    }
                }
            }
        }
        let kept = (bytes.len() - sent).min(limit - waiting.bytes.len().min(limit));
        waiting.bytes.extend(&bytes[sent..sent + kept]);
        let needs_notice = !is_direct && empty && kept > 0;
        let notice = if needs_notice { PollerNotice::Needed } else { PollerNotice::NotNeeded };
        Ok((sent + kept, notice))
    }

    /// Poller: sends as much as the wire takes, and adds the number of sent bytes to `moved`. Returns whether all is
    /// sent.
    pub(super) fn flush(&self, wire: &mut Wire<'_>, moved: &mut usize) -> io::Result<Flushed> {
        let mut waiting = self.lock();
        let flushed = waiting.flush(wire);
        waiting.broken |= flushed.is_err();
        let empty = waiting.bytes.is_empty();
        drop(waiting);
        self.room.notify_one();
        *moved += flushed?;
        Ok(if empty && wire.flush()? { Flushed::All } else { Flushed::Blocked })
    }

    /// Ends the stream, because the client has left or its time is up. The worker gets an error at its next write.
    pub(super) fn give_up(&self) {
        self.lock().broken = true;
        self.room.notify_one();
    }

    pub(super) fn is_broken(&self) -> bool {
        self.lock().broken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
