//! Whether a request's client is still connected, for the worker that waits on its behalf. Also what the server may
//! tell the client about the outcome.
//!
//! The connector notes a departure and wakes the worker that waits for a session or a statement. `presence/outcome.rs`
//! keeps whether the request may have committed something. Any thread.

mod outcome;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use self::outcome::Outcome;

/// The presence of a client. Clones refer to the same client. The client of [`Presence::default`] never leaves.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    state: Option<Arc<State>>,
    /// The number of the client's request that this presence belongs to; see [`Outcome::begin_request`].
    request: u64,
    /// See [`Presence::is_safe`].
    is_unsafe: bool,
}

#[derive(Debug, Default)]
struct State {
    left: AtomicBool,
    /// A statement was cancelled because the client left.
    cancelled: AtomicBool,
    /// The outcome of the current request.
    outcome: Outcome,
    /// Wakes the one worker that waits on the client's behalf. It is called under the lock, so a worker that has
    /// removed its waker is not woken any more.
    waiting: Mutex<Option<Waker>>,
}

impl State {
    fn waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    /// Whether the client may leave.
    pub(crate) fn is_tracked(&self) -> bool {
        self.state.is_some()
    }

    /// The presence of a client that may leave.
    pub fn tracked() -> Self {
        Self { state: Some(Arc::default()), ..Self::default() }
    }

    /// Notes that the client has left for good, and wakes the worker that waits.
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

    /// Sets the waker to call when the client leaves; it replaces the one before and must not block. The caller checks
    /// [`has_left`](Self::has_left) afterwards, because the client may have left before this call.
    pub fn wake_when_left(&self, waker: &Waker) {
        if let Some(state) = &self.state {
            *state.waiting() = Some(waker.clone());
        }
    }

    /// Removes the waker. It is not called after this function has returned. A waker that stayed would keep its
    /// thread's data alive as long as the client is connected.
    pub fn wake_nobody(&self) {
        if let Some(state) = &self.state {
            *state.waiting() = None;
        }
    }

    /// Begins the client's next request, whose outcome is still open. `safe_method`: its method changes nothing (RFC
    /// 9110 section 9.2.1). The connector calls this before any worker can have the request.
    pub(crate) fn begin_request(&self, safe_method: bool) -> Self {
        let request = self.state.as_ref().map_or(0, |state| state.outcome.begin_request());
        Self { state: self.state.clone(), request, is_unsafe: !safe_method }
    }

    /// Whether the request's method changes nothing, or there is no request.
    pub(crate) fn is_safe(&self) -> bool {
        !self.is_unsafe
    }

    /// The worker calls this right before it sends a commit, or a statement that commits by itself. `false`: the
    /// connector has already answered in the worker's place. Then the worker sends nothing, and fails as it does at its
    /// deadline.
    #[must_use]
    pub(crate) fn begin_commit(&self) -> bool {
        self.state.as_ref().is_none_or(|state| state.outcome.begin_commit(self.request))
    }

    /// The worker calls this when the database has answered the commit that [`begin_commit`](Self::begin_commit)
    /// announced. `committed`: the database has committed; otherwise nothing was committed. A worker that does not know
    /// the answer does not call it, and the outcome stays open.
    pub(crate) fn end_commit(&self, committed: bool) {
        if let Some(state) = &self.state {
            state.outcome.end_commit(self.request, committed);
        }
    }

    /// The connector calls this after it has taken the request back from its worker. The worker commits nothing from
    /// then on. Returns whether the worker may have committed something before; then the outcome is unknown.
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

    /// Notes that a statement was cancelled because the client left.
    pub(crate) fn note_cancelled(&self) {
        if let Some(state) = &self.state {
            state.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a statement was cancelled because the client left. Returns `true` only once.
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
    fn a_waiting_worker_is_woken_when_its_client_leaves() {
        let (presence, count) = (Presence::tracked(), Arc::<Count>::default());
        presence.wake_when_left(&Waker::from(Arc::clone(&count)));
        assert!(!presence.has_left());
        presence.clone().leave();
        assert!(presence.has_left());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_removed_waker_is_neither_kept_nor_called() {
        let (presence, count) = (Presence::tracked(), Arc::<Count>::default());
        presence.wake_when_left(&Waker::from(Arc::clone(&count)));
        presence.wake_nobody();
        assert_eq!(Arc::strong_count(&count), 1);
        presence.leave();
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_cancelled_statement_is_reported_once() {
        let presence = Presence::tracked();
        assert!(!presence.take_cancelled());
        presence.clone().note_cancelled();
        assert!(presence.take_cancelled());
        assert!(!presence.take_cancelled());
    }

    #[test]
    fn without_a_tracked_client_all_may_be_sent_and_nothing_is_known() {
        let presence = Presence::default();
        assert!(presence.is_safe() && presence.begin_commit());
        presence.end_commit(true);
        assert!(!presence.may_have_committed() && !presence.answer_instead());
    }

    #[test]
    fn an_untracked_client_never_leaves() {
        let presence = Presence::default();
        presence.leave();
        assert!(!presence.has_left());
    }
}
