//! Whether a request's client is still there, for whoever blocks on its behalf.
//!
//! The connector notes that a client has left; the worker that waits for a connection or a statement is woken by it. Any
//! thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// A client's presence. Clones speak of the same client; for [`Presence::default`], nobody can leave.
#[derive(Clone, Debug, Default)]
pub struct Presence(Option<Arc<State>>);

#[derive(Debug, Default)]
struct State {
    left: AtomicBool,
    /// A statement was cancelled because of it.
    cancelled: AtomicBool,
    /// See [`Presence::set_outcome_open`].
    outcome_open: AtomicBool,
    /// Of the one worker that waits on the client's behalf. Called under the lock: who has taken it back is not woken any more.
    waiting: Mutex<Option<Waker>>,
}

impl State {
    fn waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Presence {
    /// Of a client who may leave.
    pub fn tracked() -> Self {
        Self(Some(Arc::default()))
    }

    /// The client has left, for good; whoever waits for it is woken.
    pub fn leave(&self) {
        if let Some(state) = &self.0 {
            state.left.store(true, Ordering::Release);
            let mut waiting = state.waiting();
            if let Some(waker) = waiting.take() {
                waker.wake();
            }
        }
    }

    /// Whether the client has left.
    pub fn has_left(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.left.load(Ordering::Acquire))
    }

    /// Has `waker` called when the client leaves, in place of the one before; it must not block. Whoever calls this looks at
    /// [`has_left`](Self::has_left) afterwards: it may have left before.
    pub fn wake_when_left(&self, waker: &Waker) {
        if let Some(state) = &self.0 {
            *state.waiting() = Some(waker.clone());
        }
    }

    /// Whoever waited does so no more, and is not woken once this has returned. A waker that stays would keep what it wakes for
    /// as long as the client is connected.
    pub fn wake_nobody(&self) {
        if let Some(state) = &self.0 {
            *state.waiting() = None;
        }
    }

    /// The time is up for what was begun for the client, and whether the database has committed it is not known, or not yet:
    /// for whoever answers before the worker can.
    pub(crate) fn set_outcome_open(&self, open: bool) {
        if let Some(state) = &self.0 {
            state.outcome_open.store(open, Ordering::Release);
        }
    }

    /// Whether what was begun for the client may have been committed though its time is up.
    pub(crate) fn outcome_is_open(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.outcome_open.load(Ordering::Acquire))
    }

    /// A statement was cancelled because the client left.
    pub(crate) fn note_cancelled(&self) {
        if let Some(state) = &self.0 {
            state.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a statement was cancelled because the client left. Says so once.
    pub(crate) fn take_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|state| {
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
    fn a_client_that_is_not_tracked_stays() {
        let presence = Presence::default();
        presence.leave();
        assert!(!presence.has_left());
    }
}
