//! `/events`: the figures of each second as server-sent events (WHATWG HTML, section 9.2). They are made once for all
//! viewers, and only while there is a viewer. Poller thread of the admin listener.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Source;
use crate::handler::unavailable;
use crate::http::{Feed, Piece, Response};

/// The time between two events, slow enough for a person to follow.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Events {
    source: Arc<dyn Source>,
    /// Fewer than the listener's connections, so that requests for health still get in.
    max_viewers: usize,
    /// The current event, and when the next one replaces it.
    current: Mutex<Option<(Piece, Instant)>>,
}

impl Events {
    pub(super) fn new(source: Arc<dyn Source>, max_viewers: usize) -> Self {
        Self { source, max_viewers, current: Mutex::default() }
    }

    /// The answer for one more viewer, or a refusal if there are enough.
    pub(super) fn answer(self: &Arc<Self>) -> Response {
        // Each viewer's connection holds one reference to the feed, and the route holds one.
        if Arc::strong_count(self) > self.max_viewers {
            return unavailable("/events has reached its limit of viewers").to_response();
        }
        Response::feed("text/event-stream", Arc::clone(self) as _)
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
