//! `/events`: the figures of each second as server-sent events (WHATWG HTML, section 9.2), made once for all who look, and only
//! while somebody looks. Poller thread of the admin listener.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Source;
use crate::http::{Feed, Piece};

/// From one event to the next: what a reader can follow.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Events {
    source: Arc<dyn Source>,
    /// The event of this second, and until when it is.
    current: Mutex<Option<(Piece, Instant)>>,
}

impl Events {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self { source, current: Mutex::default() }
    }
}

impl Feed for Events {
    fn next(&self, now: Instant) -> (Piece, Instant) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some((piece, until)) if now < *until => (piece.clone(), *until),
            _ => {
                let event = [b"data: ", &*self.source.stats(), b"\n\n"].concat();
                let (piece, until) = (Piece::new(&event), now + INTERVAL);
                *current = Some((piece.clone(), until));
                (piece, until)
            }
        }
    }
}
