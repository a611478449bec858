//! Answers on their way out: what of them the socket did not take yet.
//!
//! Poller and worker; whoever has the connection's turn. Only a streamed answer is written by one and flushed by the other
//! at the same time, under its lock.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::wire::Wire;
use crate::base::deadline::Deadline;
use crate::http::{Body, FileBody};

/// A file is read in pieces of this size: enough for a read to be cheap, little enough to hold one for each client.
pub(super) const PIECE_BYTES: usize = 128 * 1024;

/// An answer whose length is known, and how much of it is sent.
#[derive(Debug)]
pub(super) struct Unsent {
    head: Vec<u8>,
    body: Payload,
    /// Of the head and the piece of body behind it.
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
    /// Where the next piece begins.
    at: u64,
    /// Bytes from there on.
    left: u64,
}

/// What came of flushing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Everything is sent.
    All,
    /// The socket takes no more now.
    Blocked,
    /// The next piece of the file is to be read first.
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
    /// Reads it; waits for the disk.
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

    /// A stream has no place here: it is written, not sent. Neither has a feed.
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

    /// The buffer of what was sent, to be used again.
    pub(super) fn into_buffer(mut self) -> Vec<u8> {
        self.head.clear();
        self.head
    }

    /// What of the bytes in memory is not sent.
    pub(super) fn rest(&self) -> Vec<u8> {
        let Payload::Bytes(body) = &self.body else { return Vec::new() };
        let sent_of_body = self.sent.saturating_sub(self.head.len());
        [self.head.get(self.sent..), body.get(sent_of_body..)].map(Option::unwrap_or_default).concat()
    }

    /// The next piece of the file, if there is one to read.
    pub(super) fn next_piece(&self) -> Option<Piece> {
        let Payload::File(rest) = &self.body else { return None };
        let length = usize::try_from(rest.left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        (length > 0).then(|| Piece { file: Arc::clone(&rest.file), at: rest.at, length })
    }

    /// Puts the piece that was asked for behind what is still to be sent.
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

    /// Sends what the wire takes; `moved` grows by what that was.
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

/// What of a streamed answer is written and not sent. The worker writes, the poller flushes.
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

/// What is to be done after a part of a stream was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nothing: it is sent, or the socket's readiness brings the poller.
    Quietly,
    /// The poller must be told: nothing else would bring it.
    Tell,
}

impl Outbox {
    /// Worker: takes bytes, at most as many as there may wait. Returns how many; waits until there is room for some.
    /// `direct`: the socket, where the worker may write to it.
    pub(super) fn put(
        &self,
        bytes: &[u8],
        direct: Option<&mut Wire<'_>>,
        limit: usize,
        deadline: Deadline,
    ) -> io::Result<(usize, Taken)> {
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
                "the deadline passed before the client had all",
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
        let tell = !is_direct && empty && kept > 0;
        Ok((sent + kept, if tell { Taken::Tell } else { Taken::Quietly }))
    }

    /// Poller: sends what the wire takes. Returns whether that was all; `moved` grows by what was sent.
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

    /// The client has left, or its time is up: whoever writes is told so.
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
