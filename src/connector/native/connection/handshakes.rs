//! The TLS handshakes of one poller's connections, oldest first. Where there are too many, one that stalls makes room for a newcomer.
//! Poller thread.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::HandshakeCount;
use crate::connector::native::Id;

/// A handshake that has taken this long makes room for a newcomer. It is several times the way to a distant client and back, which a
/// handshake takes twice.
const STALLED: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(in crate::connector::native) struct Handshakes {
    /// In the order in which they began. Those that have ended are removed when they are first in line.
    all: VecDeque<Handshake>,
    /// The connections whose handshake made room. The poller closes them.
    evicted: Vec<Id>,
}

struct Handshake {
    began: Instant,
    id: Id,
    /// Gone when the handshake has ended.
    count: Weak<HandshakeCount>,
}

impl Handshakes {
    pub(super) fn begin(&mut self, id: Id, count: &Arc<HandshakeCount>, now: Instant) {
        self.forget_ended();
        self.all.push_back(Handshake { began: now, id, count: Arc::downgrade(count) });
    }

    /// Ends the oldest handshake, if it stalls. Returns whether it was ended.
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
        self.forget_ended();
        if self.all.front().is_none_or(|first| now < first.began + STALLED) {
            return false;
        }
        self.evicted.extend(self.all.pop_front().map(|ended| ended.id));
        true
    }

    fn forget_ended(&mut self) {
        while self.all.front().is_some_and(|first| first.count.strong_count() == 0) {
            self.all.pop_front();
        }
    }

    /// Takes a connection whose handshake made room.
    pub(in crate::connector::native) fn take_evicted(&mut self) -> Option<Id> {
        self.evicted.pop()
    }
}
