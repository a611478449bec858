//! Decides whether the client has left when its end comes while its request is in the queue or with a worker. Poller
//! thread.
//!
//! TCP sends the same packet for a client that closes its socket and for one that closes only its sending half and
//! waits for the answer, as `printf … | nc -N` does. nginx (`ngx_http_test_reading`) and Go (`startBackgroundRead`)
//! take every end for a departure, so the second client gets no answer. Here the time decides: a client that closes its
//! half does so right after its last byte, and a client that gives up does so later. A reset, and the close of a Unix
//! socket, leave no doubt.

use std::time::Duration;

use mio::event::Event;
use rustix::io::ioctl_fionread;

use super::{Connection, Core, Next, Stage};
use crate::connector::native::link::Owner;

/// An end within this time after the client's last bytes belongs to them, and is no departure. Two segments of one
/// sender may come this far apart, and no client gives up so soon.
const HALF_CLOSE: Duration = Duration::from_millis(10);

/// With TLS the end itself comes as bytes (`close_notify`). It has at most this many: a record of an alert, with
/// AES-GCM in TLS 1.2 (RFC 5246 sections 6.2 and 7.2, RFC 5288 section 3).
const CLOSE_NOTIFY_BYTES: u64 = 5 + 8 + 2 + 16;

/// The part of an event that concerns the client's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum End {
    /// No end.
    None,
    /// The client sends nothing more.
    Sending,
    /// The client neither sends nor receives any more.
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
    /// Takes note of an event. Any result other than [`Next::Wait`] means that the client has left.
    pub(in super::super) fn note_event(&mut self, core: &Core, end: End, readable: bool) -> Next {
        if readable && end != End::Both {
            self.note_arrivals(core, end);
        }
        let is_new = end != End::None && !self.ended;
        self.ended |= end != End::None;
        if end == End::Both || is_new && self.is_late(core) {
            return self.depart();
        }
        Next::Wait
    }

    /// Notes when the client last sent something. While a request is with a worker, bytes may stay unread, and an end
    /// makes a socket readable as well. So the bytes that have come are counted.
    fn note_arrivals(&mut self, core: &Core, end: End) {
        if matches!(self.stage, Stage::Away { .. }) && self.link.owner() != Owner::Poller {
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

    /// How many bytes have come from the client, read or not.
    pub(super) fn arrived_bytes(&self) -> u64 {
        self.read_bytes + ioctl_fionread(self.link.socket()).unwrap_or(0)
    }

    /// Reads once while the request is with a worker, because with TLS the client's end is part of its bytes. The bytes
    /// wait here for their turn.
    pub(super) fn read_while_away(&mut self, core: &mut Core) -> Next {
        let is_away = matches!(self.stage, Stage::Away { .. });
        if self.session.is_none() || !is_away || !self.input.is_empty() || self.has_ended_sending() {
            return Next::Wait;
        }
        let mut scratch = std::mem::take(&mut core.scratch);
        let next = match self.take(core, &mut scratch) {
            Ok(Some(read @ 1..)) => self.arrived(core, &scratch[..read], true),
            // The event has brought this end as well, with its time.
            Ok(Some(0) | None) | Err(_) => Next::Wait,
        };
        core.scratch = scratch;
        // A broken session can carry no answer any more.
        if next != Next::Wait || self.has_ended_sending() && !self.ended && self.is_late(core) {
            return self.depart();
        }
        if !self.input.is_empty() {
            self.heard = core.now;
        }
        Next::Wait
    }

    /// Whether an end that is seen now came too late to belong to the bytes before it.
    fn is_late(&self, core: &Core) -> bool {
        core.events_since > self.heard + HALF_CLOSE
    }

    /// The client has left. A queued request is dropped. A worker that has the request is told, and the connection
    /// keeps its place until that worker is done. So no more handlers run than connections are allowed.
    fn depart(&self) -> Next {
        let is_away = matches!(self.stage, Stage::Away { .. });
        match self.link.owner() {
            // No other event ends a feed.
            _ if matches!(self.stage, Stage::Feeding(_)) => return Next::Close,
            Owner::Queued if is_away => return Next::Close,
            // A stream that the worker opens later is given up by the worker.
            Owner::Running | Owner::Streaming if is_away => {
                self.link.presence().leave();
                if let Some(outbox) = self.link.outbox() {
                    outbox.give_up();
                }
            }
            // The request is answered, or about to be.
            _ => {}
        }
        Next::Wait
    }
}
