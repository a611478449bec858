//! A client's end while its request is in the queue or with a worker: whether that client has left. Poller thread.
//!
//! TCP says the same of a client that closes its socket and of one that closes only its sending half and waits for its
//! answer, as `printf … | nc -N` does. nginx (`ngx_http_test_reading`) and Go (`startBackgroundRead`) take every end for a
//! departure, and leave the second without an answer. Here the time tells: who closes its half does so right behind what it
//! has sent, and who gives up does so later. A reset, and a Unix socket's close, leave no doubt.

use std::time::Duration;

use mio::event::Event;
use rustix::io::ioctl_fionread;

use super::{Connection, Core, Next, Stage};
use crate::connector::native::link::Turn;

/// An end that comes within this time of the last that its client has sent belongs to it: enough for two segments of one
/// sender to lose sight of each other, less than anybody waits before giving up.
const HALF_CLOSE: Duration = Duration::from_millis(10);

/// With TLS an end is said in bytes (`close_notify`), of which no others come than these at most: a record of an alert, with
/// AES-GCM in TLS 1.2 (RFC 5246 sections 6.2 and 7.2, RFC 5288 section 3).
const CLOSE_NOTIFY_BYTES: u64 = 5 + 8 + 2 + 16;

/// What an event says of a client's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum End {
    /// Nothing.
    None,
    /// It sends nothing more.
    Sending,
    /// It takes nothing more either.
    Both,
}

impl End {
    pub(in super::super) fn of(event: &Event) -> Self {
        if event.is_error() || event.is_write_closed() {
            Self::Both
        } else if event.is_read_closed() {
            Self::Sending
        } else {
            Self::None
        }
    }
}

impl Connection {
    /// Takes an event's word on the client's end. Anything else than [`Next::Wait`]: it has left.
    pub(in super::super) fn note(&mut self, core: &Core, end: End, readable: bool) -> Next {
        if readable && end != End::Both {
            self.hear(core, end);
        }
        let is_new = end != End::None && !self.ended;
        self.ended |= end != End::None;
        if end == End::Both || is_new && self.is_late(core) {
            return self.depart();
        }
        Next::Wait
    }

    /// Something may have come. While a request is away it may stay unread, and an end makes a socket readable as well: so
    /// what has come is counted.
    fn hear(&mut self, core: &Core, end: End) {
        if matches!(self.stage, Stage::Away { .. }) && self.link.turn() != Turn::Poller {
            let arrived = self.arrived_bytes();
            let silent = if self.session.is_some() { CLOSE_NOTIFY_BYTES } else { 0 };
            if arrived > self.heard_bytes + silent {
                self.heard = core.now;
            }
            self.heard_bytes = arrived;
        } else if end == End::None && self.session.is_none() {
            self.heard = core.now;
        }
    }

    /// How many bytes have come of the client, read or not.
    pub(super) fn arrived_bytes(&self) -> u64 {
        self.read_bytes + ioctl_fionread(self.link.socket()).unwrap_or(0)
    }

    /// With TLS a client's end may stand in what it sends, so that is read also while its request is away: one read, which
    /// waits here for its turn.
    pub(super) fn overhear(&mut self, core: &mut Core) -> Next {
        let is_away = matches!(self.stage, Stage::Away { .. });
        if self.session.is_none() || !is_away || !self.input.is_empty() || self.has_said_its_end() {
            return Next::Wait;
        }
        let mut scratch = std::mem::take(&mut core.scratch);
        let next = match self.take(core, &mut scratch) {
            Ok(Some(read @ 1..)) => self.arrived(core, &scratch[..read], true),
            // The event has said so as well, and when.
            Ok(Some(0) | None) | Err(_) => Next::Wait,
        };
        core.scratch = scratch;
        // A session that is broken can be answered no more.
        if next != Next::Wait || self.has_said_its_end() && !self.ended && self.is_late(core) {
            return self.depart();
        }
        if !self.input.is_empty() {
            self.heard = core.now;
        }
        Next::Wait
    }

    /// Whether an end that is seen now came too late to belong to what was sent before it.
    fn is_late(&self, core: &Core) -> bool {
        core.events_since > self.heard + HALF_CLOSE
    }

    /// The client has left. If a request of its is in the queue, nobody works for it; if a worker has it, that is told, and
    /// the connection keeps its place until it is done: as many handlers run as there may be connections.
    fn depart(&self) -> Next {
        let is_away = matches!(self.stage, Stage::Away { .. });
        match self.link.turn() {
            // Nothing else would end it.
            _ if matches!(self.stage, Stage::Feeding(_)) => return Next::Close,
            Turn::Queued if is_away => return Next::Close,
            // A stream that the worker opens meanwhile it gives up itself.
            Turn::Running | Turn::Streaming if is_away => {
                self.link.presence().leave();
                if let Some(outbox) = self.link.outbox() {
                    outbox.give_up();
                }
            }
            // It is answered, or about to be.
            _ => {}
        }
        Next::Wait
    }
}
