//! The threads that wait for a thing, in the order of their arrival.
//!
//! Runs on any thread. The owner keeps the line under its lock; a waiter sleeps outside of it. The line knows neither the thing
//! nor its origin.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;
use std::thread::{self, Thread};
use std::time::Instant;

/// The end of the line at which a waiter enters it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// The waiter was handed a useless thing before.
    Front,
    Back,
}

/// The end of a wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Handed<T> {
    Thing(T),
    /// There is nothing to wait for.
    Nothing,
}

/// One thread that waits.
pub(super) struct Waiter<T> {
    thread: Thread,
    /// From when on it pays to make another thing for this waiter.
    patient_until: Instant,
    handed: Mutex<Option<Handed<T>>>,
}

pub(super) struct Line<T> {
    waiters: VecDeque<Arc<Waiter<T>>>,
}

/// A waiter that was handed something and still sleeps. The caller wakes it after it has released its lock.
#[must_use = "the waiter sleeps until it is woken"]
pub(super) struct Served<T>(Arc<Waiter<T>>);

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiters: VecDeque::new() }
    }
}

impl<T> Line<T> {
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// The number of waiters that have lost their patience.
    pub(super) fn impatient(&self, now: Instant) -> usize {
        self.waiters.iter().filter(|waiter| waiter.patient_until <= now).count()
    }

    /// Puts the calling thread into the line.
    pub(super) fn join(&mut self, line_end: LineEnd, patient_until: Instant) -> Arc<Waiter<T>> {
        let waiter = Arc::new(Waiter { thread: thread::current(), patient_until, handed: Mutex::new(None) });
        match line_end {
            LineEnd::Front => self.waiters.push_front(Arc::clone(&waiter)),
            LineEnd::Back => self.waiters.push_back(Arc::clone(&waiter)),
        }
        waiter
    }

    /// Takes a waiter out of the line. Returns what the waiter was handed, if it was served before it could leave.
    pub(super) fn leave(&mut self, waiter: &Arc<Waiter<T>>) -> Option<Handed<T>> {
        self.waiters.retain(|other| !Arc::ptr_eq(other, waiter));
        waiter.take()
    }

    /// Gives the thing to the first waiter.
    ///
    /// # Errors
    /// Returns the thing when nobody waits.
    pub(super) fn hand(&mut self, thing: T) -> Result<Served<T>, T> {
        let Some(waiter) = self.waiters.pop_front() else { return Err(thing) };
        waiter.put(Handed::Thing(thing));
        Ok(Served(waiter))
    }

    /// Sends every waiter away with nothing.
    pub(super) fn dismiss(&mut self) -> Vec<Served<T>> {
        let dismissed = self.waiters.drain(..).map(|waiter| {
            waiter.put(Handed::Nothing);
            Served(waiter)
        });
        dismissed.collect()
    }
}

impl<T> Served<T> {
    pub(super) fn wake(self) {
        self.0.thread.unpark();
    }
}

impl<T> Waiter<T> {
    pub(super) fn patient_until(&self) -> Instant {
        self.patient_until
    }

    /// Sleeps until the waiter is handed something. `None`: `until` has come, or `is_over` holds. Only the thread that joined may
    /// call this. A thread that makes `is_over` true wakes the waiter.
    pub(super) fn wait(&self, until: Instant, is_over: impl Fn() -> bool) -> Option<Handed<T>> {
        loop {
            if let Some(handed) = self.take() {
                return Some(handed);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || is_over() {
                return None;
            }
            thread::park_timeout(left);
        }
    }

    fn put(&self, handed: Handed<T>) {
        *self.handed.lock().unwrap_or_else(PoisonError::into_inner) = Some(handed);
    }

    fn take(&self) -> Option<Handed<T>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Wake for Waiter<T> {
    fn wake(self: Arc<Self>) {
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests;
