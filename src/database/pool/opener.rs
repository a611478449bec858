//! How sessions come to be: on r2d2's threads, as many side by side as there are of those, and only when one is wanted.
//!
//! r2d2 always asks for as many sessions as the pool may have; each of its requests waits here until another one is worth
//! it, and through every failure, so that r2d2's own retries never take part. Never runs in a worker.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use r2d2::ManageConnection;

use super::state::{Shared, State};
use super::{Driver, Error, Session};
use crate::base::deadline::Deadline;

/// The first pause after a failure. It doubles up to [`PAUSE_MAX`]; what is waited is between half of it and all.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// A database that is back is noticed within half a second, and while it is away its log gets a few lines a second.
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// Failures to open a session are logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// A session in r2d2's keeping.
pub(super) struct Entry<D: Driver> {
    /// `None` once it has moved to a pool of another size.
    session: Option<D::Session>,
    /// It cannot be lent again.
    pub(super) close: bool,
    /// When its opening began.
    pub(super) opened: Instant,
    /// When it has lived for long enough.
    pub(super) expires: Instant,
    pub(super) used: Instant,
    /// When the database last showed that it is alive.
    pub(super) seen: Instant,
    /// Who had it last.
    pub(super) borrower: Option<ThreadId>,
    /// Of the loan in progress, where leaks are looked for.
    pub(super) loan: u64,
    /// See [`State::generation`].
    pub(super) generation: u64,
    shared: Arc<Shared<D>>,
}

impl<D: Driver> Entry<D> {
    pub(super) fn session(&self) -> &D::Session {
        self.session.as_ref().expect("an entry that is lent has its session")
    }

    pub(super) fn session_mut(&mut self) -> &mut D::Session {
        self.session.as_mut().expect("an entry that is lent has its session")
    }

    /// Takes the session out; what stays is for r2d2 to throw away.
    pub(super) fn move_out(&mut self) -> Self {
        self.close = true;
        Self { session: self.session.take(), close: false, shared: Arc::clone(&self.shared), ..*self }
    }
}

impl<D: Driver> Drop for Entry<D> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // Before it is counted as gone, so that there are never more than the database was asked for.
            drop(session);
            self.shared.closed_one();
        }
    }
}

/// What r2d2 opens sessions with.
pub(super) struct Opener<D: Driver> {
    pub(super) shared: Arc<Shared<D>>,
    /// See [`State::generation`].
    pub(super) generation: u64,
}

impl<D: Driver> ManageConnection for Opener<D> {
    /// Boxed: r2d2 moves it at each checkout and checkin.
    type Connection = Box<Entry<D>>;
    type Error = Error;

    fn connect(&self) -> Result<Box<Entry<D>>, Error> {
        self.shared.next_session(self.generation)
    }

    fn is_valid(&self, entry: &mut Box<Entry<D>>) -> Result<(), Error> {
        if entry.session_mut().is_alive() { Ok(()) } else { Err(Error::Lost("found closed".to_owned())) }
    }

    fn has_broken(&self, entry: &mut Box<Entry<D>>) -> bool {
        entry.close
    }
}

/// Why sessions cannot be opened, since the last that could.
pub(super) struct Failure {
    pub(super) reason: String,
    /// When the next try may begin.
    retry_at: Instant,
    pause: Duration,
    logged: Instant,
    unlogged: u64,
}

impl Failure {
    /// One more, or the first.
    fn note(earlier: Option<Self>, error: &Error, now: Instant) -> Self {
        let log = earlier.as_ref().is_none_or(|earlier| now >= earlier.logged + LOG_INTERVAL);
        let unlogged = earlier.as_ref().map_or(0, |earlier| earlier.unlogged);
        match unlogged {
            _ if !log => {}
            0 => log::error!("{error}"),
            _ => log::error!("{error} ({unlogged} more failures since the last message)"),
        }
        let pause = earlier.as_ref().map_or(PAUSE_MIN, |earlier| (earlier.pause * 2).min(PAUSE_MAX));
        Self {
            reason: error.to_string(),
            retry_at: now + jittered(pause),
            pause,
            logged: earlier.filter(|_| !log).map_or(now, |earlier| earlier.logged),
            unlogged: if log { 0 } else { unlogged + 1 },
        }
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}

impl<D: Driver> Shared<D> {
    /// Waits until another session is wanted, and for as long as it takes to get one.
    fn next_session(self: &Arc<Self>, generation: u64) -> Result<Box<Entry<D>>, Error> {
        let mut state = self.lock();
        loop {
            if state.closed || state.generation != generation {
                return Err(Error::Usage("this part of the pool is closed".to_owned()));
            }
            if let Some(mut entry) = state.moving.pop() {
                entry.generation = generation;
                self.wake_keeper();
                return Ok(Box::new(entry));
            }
            let now = Instant::now();
            if !state.wants_another(now) {
                state = self.wait(state, None);
                continue;
            }
            if let Some(failure) = &mut state.failure {
                if now < failure.retry_at {
                    let pause = failure.retry_at - now;
                    state = self.wait(state, Some(pause));
                    continue;
                }
                // The other threads' turns come later, so that tries begin one after another.
                failure.retry_at = now + jittered(failure.pause);
            }
            state.opening += 1;
            let timeout = state.settings.connection_timeout;
            drop(state);
            let opened = self.driver.open(Deadline::at(now, timeout));
            match &opened {
                Ok(_) => self.metrics.creation.record(now.elapsed()),
                Err(_) => _ = self.metrics.creation_failures.fetch_add(1, Relaxed),
            }
            state = self.lock();
            state.opening -= 1;
            match opened {
                Ok(session) => return Ok(Box::new(self.opened(state, session, now))),
                Err(error) => {
                    state.failure = Some(Failure::note(state.failure.take(), &error, Instant::now()));
                    state.dismiss_if_down();
                }
            }
        }
    }

    fn opened(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State<D>>,
        session: D::Session,
        started: Instant,
    ) -> Entry<D> {
        let now = Instant::now();
        if state.failure.take().is_some() {
            log::info!("the database can be reached again");
        }
        state.note_opening(now - started);
        state.open += 1;
        let entry = self.entry(session, &state, started);
        drop(state);
        self.demand.notify_all();
        self.wake_keeper();
        entry
    }

    /// `opened`: when its opening began.
    pub(super) fn entry(
        self: &Arc<Self>,
        session: D::Session,
        state: &State<D>,
        opened: Instant,
    ) -> Entry<D> {
        let now = Instant::now();
        // HikariCP's variance: the pool's sessions were opened together, and are not to end together.
        let lifetime = state.settings.max_lifetime.mul_f64(1.0 - 0.025 * fastrand::f64());
        Entry {
            session: Some(session),
            close: false,
            opened,
            expires: Deadline::at(now, lifetime).instant(),
            used: now,
            seen: now,
            borrower: None,
            loan: 0,
            generation: state.generation,
            shared: Arc::clone(self),
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<D>>, pause: Option<Duration>) -> MutexGuard<'a, State<D>> {
        match pause {
            None => self.demand.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(pause) => {
                let woken = self.demand.wait_timeout(state, pause);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}
