//! A worker that waits for a job.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

/// Waits for a job, or for a reason to end.
pub(super) struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Parked {
    /// The calling thread, which is about to [`wait`](Self::wait).
    pub(super) fn this_thread() -> Self {
        Self { thread: thread::current(), woken: AtomicBool::new(false) }
    }

    pub(super) fn wait(&self) {
        while !self.woken.load(Ordering::Acquire) {
            thread::park();
        }
    }

    pub(super) fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
