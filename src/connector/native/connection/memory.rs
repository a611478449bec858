//! The memory of one connection's request and answer, as `http.max_buffered_bytes` counts it. Poller thread.

use std::time::Instant;

use super::{Connection, Core, Next, Stage};
use crate::handler::unavailable;
use crate::telemetry::metrics::{Closing, Reason};

/// The memory of a TLS session besides what it encrypts: its keys and its buffers.
const SESSION_BYTES: usize = 16 * 1024;

/// A shorter body is not counted while its request is in the queue or with a worker. The poller would have to notice the worker's
/// return, and the queue's length bounds the number of such bodies.
const COUNTED_AWAY: usize = 16 * 1024;

/// The part of a body's length that is counted while its request is in the queue or with a worker.
pub(super) fn counted_away(length: usize) -> usize {
    if length > COUNTED_AWAY { length } else { 0 }
}

/// A connection that holds less is not closed for the sake of memory: it would take too many of them.
const LEAST: usize = 1024;

impl Connection {
    /// The memory that it uses now, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let stage = match &self.stage {
            Stage::Body(body) => body.held_bytes(),
            Stage::Flushing(flushing) => flushing.held_bytes(),
            Stage::Holding(work) => work.request.body.len(),
            Stage::Away { .. } => self.away_bytes,
            _ => 0,
        };
        let session = self.session.as_ref().map_or(0, |_| SESSION_BYTES);
        let pipe = self.incoming.as_ref().map_or(0, |incoming| incoming.held_bytes());
        self.input.capacity() + stage + session + pipe
    }

    /// Since when the connection waits for its client with much in memory. `None`: it does not.
    pub(in super::super) fn holds_since(&self, core: &Core) -> Option<Instant> {
        let since = match &self.stage {
            Stage::Head => self.due.checked_sub(core.settings.head_timeout)?,
            Stage::Body(body) => body.began(),
            Stage::Flushing(flushing) if !flushing.piece_requested => flushing.since(),
            _ => return None,
        };
        (self.charged >= LEAST).then_some(since)
    }

    /// Gives up a request that is still being read, or an answer that is still being sent, for the sake of its memory.
    pub(in super::super) fn give_memory_back(&mut self, core: &mut Core) -> Next {
        if let Stage::Flushing(_) = self.stage {
            core.metrics.closed(Closing::Memory);
            return Next::Reset;
        }
        let answer = unavailable(
            "the server holds as many bytes of requests and answers as it may (http.max_buffered_bytes)",
        );
        let next = self.refuse_unread(core, Reason::Memory, answer.to_response());
        self.input = Vec::new();
        next
    }

    /// Counts the change of its memory. Returns whether it uses more than before.
    pub(in super::super) fn charge(&mut self, core: &Core) -> bool {
        let held = self.held_bytes();
        let before = std::mem::replace(&mut self.charged, held);
        if held != before {
            core.metrics.buffer(before, held);
        }
        held > before
    }
}
