//! `/events`: the figures of each second as server-sent events (WHATWG HTML, section 9.2), made once for all who look, and only
//! while somebody looks. Poller thread of the admin listener.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Source;
use crate::handler::unavailable;
use crate::http::{Feed, Piece, Response};

/// From one event to the next: what a reader can follow.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Events {
    source: Arc<dyn Source>,
    /// Fewer than the listener takes, so that who asks for health still gets in.
    max_viewers: usize,
    /// The event of this second, and until when it is.
    current: Mutex<Option<(Piece, Instant)>>,
}

impl Events {
    pub(super) fn new(source: Arc<dyn Source>, max_viewers: usize) -> Self {
        Self { source, max_viewers, current: Mutex::default() }
    }

    /// The answer for one more viewer, if there may be one.
    pub(super) fn answer(self: &Arc<Self>) -> Response {
        // Each viewer's connection has a count of the feed; one is the route's.
        if Arc::strong_count(self) > self.max_viewers {
            return unavailable("as many look at the events as may").to_response();
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
