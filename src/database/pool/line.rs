//! The workers that wait for a session, in the order in which they came.
//!
//! Whoever has a session to give hands it to the first of them, so none is overtaken. Worker threads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use r2d2::PooledConnection;

use super::opener::Opener;
use super::state::Shared;
use super::{Driver, Error};
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;

/// Where in the line somebody stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It had a session already, which turned out to be dead.
    First,
    Last,
}

/// What a waiter is handed.
enum Handed<D: Driver> {
    Session(PooledConnection<Opener<D>>),
    /// The database is down: there is nothing to wait for.
    Nothing,
}

/// One worker that waits.
pub(super) struct Waiter<D: Driver> {
    thread: Thread,
    since: Instant,
    /// When it has waited for as long as it takes to open a session, so that one more is worth it.
    patient_at: Instant,
    handed: Mutex<Option<Handed<D>>>,
}

pub(super) struct Line<D: Driver> {
    waiters: VecDeque<Arc<Waiter<D>>>,
}

impl<D: Driver> Default for Line<D> {
    fn default() -> Self {
        Self { waiters: VecDeque::new() }
    }
}

impl<D: Driver> Line<D> {
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// How many have waited for longer than it takes to open a session.
    pub(super) fn patient(&self, now: Instant) -> usize {
        self.waiters.iter().filter(|waiter| waiter.patient_at <= now).count()
    }

    pub(super) fn join(&mut self, turn: Turn, since: Instant, patient_at: Instant) -> Arc<Waiter<D>> {
        let waiter =
            Arc::new(Waiter { thread: thread::current(), since, patient_at, handed: Mutex::new(None) });
        match turn {
            Turn::First => self.waiters.push_front(Arc::clone(&waiter)),
            Turn::Last => self.waiters.push_back(Arc::clone(&waiter)),
        }
        waiter
    }

    /// Gives the session to whoever waits for longest; hands it back when nobody does.
    pub(super) fn hand(&mut self, entry: PooledConnection<Opener<D>>) -> Option<PooledConnection<Opener<D>>> {
        let Some(waiter) = self.waiters.pop_front() else { return Some(entry) };
        waiter.hand(Handed::Session(entry));
        None
    }

    /// Sends everybody away.
    pub(super) fn dismiss(&mut self) {
        for waiter in self.waiters.drain(..) {
            waiter.hand(Handed::Nothing);
        }
    }

    fn leave(&mut self, waiter: &Arc<Waiter<D>>) {
        let place = self.waiters.iter().position(|other| Arc::ptr_eq(other, waiter));
        if let Some(place) = place {
            self.waiters.remove(place);
        }
    }
}

impl<D: Driver> Waiter<D> {
    /// What wakes the waiter, to be called when its client leaves.
    pub(super) fn waker(&self) -> Waker {
        Waker::from(Arc::new(Unpark(self.thread.clone())))
    }

    /// Waits for a session. `until` is when it gives up, and `deadline` the request's own.
    pub(super) fn wait(
        self: Arc<Self>,
        shared: &Shared<D>,
        client: &Presence,
        until: Deadline,
        deadline: Deadline,
    ) -> Result<PooledConnection<Opener<D>>, Error> {
        let mut impatient = true;
        loop {
            if let Some(handed) = self.take() {
                return self.receive(shared, handed);
            }
            let now = Instant::now();
            let left = client.has_left();
            if left || now >= until.instant() {
                shared.lock().line.leave(&self);
                // It may have been handed one before it left the line.
                return match self.take() {
                    Some(handed) => self.receive(shared, handed),
                    None if left => Err(Error::ClientLeft),
                    None if until == deadline => Err(Error::Deadline),
                    None => Err(shared.none_in_time(self.since)),
                };
            }
            if impatient && now >= self.patient_at {
                impatient = false;
                shared.want_another();
            }
            let wake = if impatient { self.patient_at.min(until.instant()) } else { until.instant() };
            thread::park_timeout(wake.saturating_duration_since(now));
        }
    }

    fn receive(&self, shared: &Shared<D>, handed: Handed<D>) -> Result<PooledConnection<Opener<D>>, Error> {
        match handed {
            Handed::Session(entry) => Ok(entry),
            Handed::Nothing => Err(shared.down(self.since)),
        }
    }

    fn hand(&self, handed: Handed<D>) {
        *self.handed.lock().unwrap_or_else(PoisonError::into_inner) = Some(handed);
        self.thread.unpark();
    }

    fn take(&self) -> Option<Handed<D>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
