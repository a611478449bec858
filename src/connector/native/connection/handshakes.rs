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
        while self.all.front().is_some_and(|first| first.count.strong_count() == 0) {
            self.all.pop_front();
        }
        self.all.push_back(Handshake { began: now, id, count: Arc::downgrade(count) });
    }

    /// Ends the oldest handshake that is counted together with the newcomer's, if it stalls. Returns whether one was ended.
    pub(super) fn make_room(&mut self, newcomer: &HandshakeCount, now: Instant) -> bool {
        let HandshakeCount(counter) = newcomer;
        let is_counted_too = |handshake: &Handshake| {
            handshake.count.upgrade().is_some_and(|count| Arc::ptr_eq(&count.0, counter))
        };
        let stalled = self.all.iter().take_while(|handshake| now >= handshake.began + STALLED);
        let Some(found) = stalled.enumerate().find(|(_, handshake)| is_counted_too(handshake)) else {
            return false;
        };
        let ended = self.all.remove(found.0);
        self.evicted.extend(ended.map(|ended| ended.id));
        true
    }

    /// Takes a connection whose handshake made room.
    pub(in crate::connector::native) fn take_evicted(&mut self) -> Option<Id> {
        self.evicted.pop()
    }
}
