//! A streamed request body on its way. The poller reads it from the socket and puts it into the pipe; the worker's
//! handler reads it from there.
//!
//! The pipe holds little more than its limit. While it is full, the poller reads nothing, and TCP slows the client
//! down.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use http::StatusCode;

use super::link::Link;
use crate::base::deadline::Deadline;
use crate::http::{Refusal, Source};

#[derive(Debug)]
pub(super) struct Pipe {
    state: Mutex<State>,
    filled: Condvar,
    limit: usize,
    /// Set once the request is routed, before any handler reads.
    deadline: OnceLock<Deadline>,
    link: Arc<Link>,
}

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    end: End,
    /// Whether the poller has stopped reading and wants to be told when there is room.
    paused: bool,
}

/// How the body ends behind the bytes in the pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It has not ended.
    Coming,
    /// It is complete.
    Complete,
    /// It is refused.
    Refused(Refusal),
    /// The client has left.
    Left,
    /// The request is answered, and the connection puts nothing more into the pipe.
    Dropped,
}

impl Pipe {
    /// The memory of the bytes that the handler has not read.
    pub(super) fn held_bytes(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes.capacity()
    }

    /// A pipe that begins with these bytes.
    pub(super) fn new(bytes: Vec<u8>, limit: usize, link: Arc<Link>) -> Self {
        let state = State { bytes: bytes.into(), end: End::Coming, paused: false };
        Self { state: Mutex::new(state), filled: Condvar::new(), limit, deadline: OnceLock::new(), link }
    }

    /// Poller: sets how long the handler may wait for the client.
    pub(super) fn limit_to(&self, deadline: Deadline) {
        // Set once, where the request is routed.
        let _ = self.deadline.set(deadline);
    }

    /// Poller: adds bytes.
    pub(super) fn put(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.lock().bytes.extend(bytes);
            self.filled.notify_one();
        }
    }

    /// Poller: whether to read on. If not, the poller gets a message when there is room.
    pub(super) fn has_room(&self) -> bool {
        let mut state = self.lock();
        state.paused = state.bytes.len() >= self.limit;
        !state.paused
    }

    /// Poller: ends the body as complete.
    pub(super) fn complete(&self) {
        self.end(End::Complete);
    }

    /// Poller: ends the body as incomplete, by the client's fault.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.end(End::Refused(refusal));
    }

    /// Poller: ends the body because the client has left.
    pub(super) fn leave(&self) {
        self.end(End::Left);
    }

    /// Poller: puts nothing more into the pipe, whether the body has ended or not.
    pub(super) fn abandon(&self) {
        self.end(End::Dropped);
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end == End::Coming {
            state.end = end;
        }
        drop(state);
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Pipe {
    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        while state.bytes.is_empty() && state.end == End::Coming {
            let left = self.deadline.get().map(|deadline| deadline.left()).unwrap_or_default();
            if left.is_zero() {
                let refusal = Refusal::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "the request's deadline passed before its body was complete",
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, refusal));
            }
            state = self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.bytes.is_empty() {
            return match state.end {
                End::Coming | End::Complete => Ok(0),
                End::Refused(refusal) => Err(io::Error::other(refusal)),
                End::Left | End::Dropped => {
                    Err(io::Error::new(io::ErrorKind::ConnectionAborted, Refusal::BODY_INCOMPLETE))
                }
            };
        }
        let read = state.bytes.read(into)?;
        let resume = state.paused && state.bytes.len() <= self.limit / 2;
        state.paused &= !resume;
        drop(state);
        if resume {
            self.link.notify_poller();
        }
        Ok(read)
    }

    fn is_complete(&self) -> bool {
        self.lock().end == End::Complete
    }

    fn refusal(&self) -> Option<Refusal> {
        match self.lock().end {
            End::Refused(refusal) => Some(refusal),
            End::Coming | End::Complete | End::Left | End::Dropped => None,
        }
    }

    fn has_left(&self) -> bool {
        self.lock().end == End::Left
    }
}
