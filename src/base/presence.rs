//! Whether a request's client is still there, for whoever blocks on its behalf; and what the client may be told of the request.
//!
//! The connector notes that a client has left; the worker that waits for a connection or a statement is woken by it. Whether
//! something of the request may have been committed stands in `presence/outcome.rs`. Any thread.

mod outcome;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use self::outcome::Outcome;

/// A client's presence. Clones speak of the same client; for [`Presence::default`], nobody can leave.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    state: Option<Arc<State>>,
    /// Which of the client's requests this is of; see [`Outcome::begin_request`].
    request: u64,
    /// See [`Presence::is_safe`].
    is_unsafe: bool,
}

#[derive(Debug, Default)]
struct State {
    left: AtomicBool,
    /// A statement was cancelled because of it.
    cancelled: AtomicBool,
    /// Of the current request.
    outcome: Outcome,
    /// Of the one worker that waits on the client's behalf. Called under the lock: who has taken it back is not woken any more.
    waiting: Mutex<Option<Waker>>,
}

impl State {
    fn waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    /// Whether it is of a client who may leave.
    pub(crate) fn is_tracked(&self) -> bool {
        self.state.is_some()
    }

    /// Of a client who may leave.
    pub fn tracked() -> Self {
        Self { state: Some(Arc::default()), ..Self::default() }
    }

    /// The client has left, for good; whoever waits for it is woken.
    pub fn leave(&self) {
        if let Some(state) = &self.state {
            state.left.store(true, Ordering::Release);
            let mut waiting = state.waiting();
            if let Some(waker) = waiting.take() {
                waker.wake();
            }
        }
    }

    /// Whether the client has left.
    pub fn has_left(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.left.load(Ordering::Acquire))
    }

    /// Has `waker` called when the client leaves, in place of the one before; it must not block. Whoever calls this looks at
    /// [`has_left`](Self::has_left) afterwards: it may have left before.
    pub fn wake_when_left(&self, waker: &Waker) {
        if let Some(state) = &self.state {
            *state.waiting() = Some(waker.clone());
        }
    }

    /// Whoever waited does so no more, and is not woken once this has returned. A waker that stays would keep what it wakes for
    /// as long as the client is connected.
    pub fn wake_nobody(&self) {
        if let Some(state) = &self.state {
            *state.waiting() = None;
        }
    }

    /// The client's next request: nothing is known of it yet. `safe_method`: it asks by a method that changes nothing (RFC 9110
    /// section 9.2.1). For the connector, before any worker can have the request.
    pub(crate) fn begin_request(&self, safe_method: bool) -> Self {
        let request = self.state.as_ref().map_or(0, |state| state.outcome.begin_request());
        Self { state: self.state.clone(), request, is_unsafe: !safe_method }
    }

    /// Whether the request's method changes nothing, or there is no request.
    pub(crate) fn is_safe(&self) -> bool {
        !self.is_unsafe
    }

    /// For the worker, right before it sends a commit, or a statement that commits by itself. `false`: the connector has answered
    /// in the worker's place. Then the worker sends nothing, and fails as at its deadline.
    #[must_use]
    pub(crate) fn begin_commit(&self) -> bool {
        self.state.as_ref().is_none_or(|state| state.outcome.begin_commit(self.request))
    }

    /// For the worker, when the database has answered the commit that [`begin_commit`](Self::begin_commit) announced: it has
    /// committed, or nothing of it. A worker that does not know which of them leaves the outcome open.
    pub(crate) fn end_commit(&self, committed: bool) {
        if let Some(state) = &self.state {
            state.outcome.end_commit(self.request, committed);
        }
    }

    /// For the connector, after it has taken the request back from its worker: the worker commits nothing from now on. Returns
    /// whether the worker may have committed something before. Then the outcome is unknown.
    pub(crate) fn answer_instead(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.outcome.answer_instead())
    }

    /// Whether the request may have committed something.
    pub(crate) fn may_have_committed(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.outcome.may_have_committed(self.request))
    }

    /// Whether the connector has answered in the worker's place that the outcome is unknown.
    pub(crate) fn was_answered_unknown(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.outcome.was_answered_unknown(self.request))
    }

    /// A statement was cancelled because the client left.
    pub(crate) fn note_cancelled(&self) {
        if let Some(state) = &self.state {
            state.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a statement was cancelled because the client left. Says so once.
    pub(crate) fn take_cancelled(&self) -> bool {
        self.state.as_ref().is_some_and(|state| {
            state.cancelled.load(Ordering::Relaxed) && state.cancelled.swap(false, Ordering::Relaxed)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_for_a_client_is_woken_when_it_leaves() {
        let (presence, count) = (Presence::tracked(), Arc::<Count>::default());
        presence.wake_when_left(&Waker::from(Arc::clone(&count)));
        assert!(!presence.has_left());
        presence.clone().leave();
        assert!(presence.has_left());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn who_waits_no_more_is_not_kept() {
        let (presence, count) = (Presence::tracked(), Arc::<Count>::default());
        presence.wake_when_left(&Waker::from(Arc::clone(&count)));
        presence.wake_nobody();
        assert_eq!(Arc::strong_count(&count), 1);
        presence.leave();
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_cancelled_statement_is_told_once() {
        let presence = Presence::tracked();
        assert!(!presence.take_cancelled());
        presence.clone().note_cancelled();
        assert!(presence.take_cancelled());
        assert!(!presence.take_cancelled());
    }

    #[test]
    fn for_a_client_that_is_not_tracked_everything_may_be_sent_and_nothing_is_known() {
        let presence = Presence::default();
        assert!(presence.is_safe() && presence.begin_commit());
        presence.end_commit(true);
        assert!(!presence.may_have_committed() && !presence.answer_instead());
    }

    #[test]
    fn a_client_that_is_not_tracked_stays() {
        let presence = Presence::default();
        presence.leave();
        assert!(!presence.has_left());
    }
}
