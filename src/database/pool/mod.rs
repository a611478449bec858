//! The pool of database connections: r2d2 with HikariCP's behaviour.
//!
//! r2d2 opens sessions on its own threads and counts them; who gets one, when another is opened and when one ends is decided
//! here. Workers check out and in. Knows no driver but through [`Driver`].

mod keeper;
mod line;
mod opener;
mod state;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use r2d2::PooledConnection;

use self::line::Turn;
use self::opener::Opener;
use self::state::Shared;
use super::Error;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::config;
use crate::telemetry::metrics;

/// Between two tries to reach a database that is not there yet: often enough to start promptly, seldom enough not to fill
/// the database's log.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// One kind of database: how to open a session on it.
pub(super) trait Driver: Send + Sync + 'static {
    /// One open session.
    type Session: Session;

    /// Takes over the settings of sessions: new sessions have them at once, others when they are borrowed next. Returns whether
    /// the pool must close the sessions that are open already.
    fn reconfigure(&self, settings: &config::Database) -> bool;

    /// Opens a session by `deadline`.
    fn open(&self, deadline: Deadline) -> Result<Self::Session, Error>;
}

/// An open session, as the pool sees it.
pub(super) trait Session: Send + 'static {
    /// Whether the session still has its database, as far as that shows without asking it.
    fn is_alive(&mut self) -> bool;

    /// Whether the database says so itself, by `deadline`.
    fn validate(&mut self, deadline: Deadline) -> bool;

    /// Called at checkin: whether the session cannot be lent again.
    fn is_broken(&self) -> bool;

    /// Called at checkin: whether the session has work that can wait for its next statement or for an idle worker.
    fn is_untidy(&self) -> bool {
        false
    }

    /// Sends that work, and waits for nothing.
    fn tidy(&mut self) {}

    /// Called at checkout: whether nothing is left of those who had the session before, as far as that is known without waiting.
    fn is_clean(&mut self) -> bool {
        true
    }
}

/// The pool at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gauges {
    /// `maximum_pool_size`.
    pub maximum: u32,
    /// Connections that exist.
    pub open: u32,
    /// Lent to a worker.
    pub active: u32,
    /// Open and not lent.
    pub idle: u32,
    /// Workers that wait for one.
    pub waiting: u32,
    /// There is none, and none can be opened.
    pub is_down: bool,
    /// `minimum_idle`.
    pub minimum_idle: u32,
}

impl fmt::Display for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { maximum, open, active, idle, waiting, .. } = self;
        write!(f, "total={open}, active={active}, idle={idle}, waiting={waiting}, maximum={maximum}")
    }
}

/// A session on loan. Dropping it is the checkin.
pub(super) struct Lent<D: Driver>(Loan<D>);

enum Loan<D: Driver> {
    Pooled {
        /// There until it is dropped.
        entry: Option<PooledConnection<Opener<D>>>,
        shared: Arc<Shared<D>>,
        since: Instant,
    },
    /// A session of no pool, which ends with its loan.
    Alone(D::Session),
}

pub(super) struct Pool<D: Driver>(Arc<Shared<D>>);

impl<D: Driver> Pool<D> {
    /// Opens the first connection here, so that a wrong password or host is an error at once, and the others of
    /// `minimum_idle` in parallel behind it.
    pub(super) fn open(
        driver: D,
        settings: &config::Database,
        metrics: &Arc<metrics::Pool>,
    ) -> Result<Self, Error> {
        let started = Instant::now();
        let first = open_first(&driver, settings)?;
        metrics.creation.record(started.elapsed());
        let (shared, errands) = Shared::new(driver, settings, first, started, Arc::clone(metrics));
        keeper::start(&shared, errands).map_err(|error| {
            Error::Usage(format!("the pool's housekeeping thread cannot be started: {error}"))
        })?;
        Ok(Self(shared))
    }

    /// Borrows a session, waiting until `deadline`, and at most `connection_timeout` from `started`, which is now, behind those
    /// who wait already.
    pub(super) fn checkout(
        &self,
        client: &Presence,
        deadline: Deadline,
        started: Instant,
    ) -> Result<Lent<D>, Error> {
        if deadline.instant() <= started {
            return Err(Error::Deadline);
        }
        if client.has_left() {
            return Err(Error::ClientLeft);
        }
        let (mut lent, mut fit) = self.take(client, deadline, started, Turn::Last)?;
        while !fit {
            // Closes it. Who was next before it is next again.
            drop(lent);
            (lent, fit) = self.take(client, deadline, started, Turn::First)?;
        }
        Ok(lent)
    }

    /// A session, and whether it can be used: the pool need not close it, and the database is there.
    fn take(
        &self,
        client: &Presence,
        deadline: Deadline,
        started: Instant,
        turn: Turn,
    ) -> Result<(Lent<D>, bool), Error> {
        let shared = &self.0;
        let (mut state, mut since) = (shared.lock(), started);
        let until = deadline.min(Deadline::at(started, state.settings.connection_timeout));
        let mut entry = if let Some(entry) = state.take_idle(thread::current().id(), started) {
            entry
        } else {
            let waiter = state.join_line(turn, started)?;
            drop(state);
            client.wake_when_left(&waiter.waker());
            let handed = waiter.wait(shared, client, until, deadline);
            client.wake_nobody();
            let entry = handed?;
            since = Instant::now();
            state = shared.lock();
            entry
        };
        state.note_loan(&mut entry, started);
        let (is_useless, doubt) = (state.is_useless(&entry), state.doubt(&entry, started));
        let validation = state.settings.validation_timeout;
        drop(state);
        let mut lent = Lent(Loan::Pooled { entry: Some(entry), shared: Arc::clone(shared), since });
        let is_fit = !is_useless && lent.is_clean();
        let fit = is_fit && (!doubt || lent.is_alive() && lent.validate(until.within(validation)));
        if !fit && let Loan::Pooled { entry: Some(entry), .. } = &mut lent.0 {
            entry.close = true;
        }
        Ok((lent, fit))
    }

    /// Takes over what may change while connections are in use: sizes and times.
    pub(super) fn reconfigure(&self, settings: &config::Database) {
        self.0.reconfigure(settings);
    }

    /// Has the sessions that nobody uses tidied up, if the caller has nothing else to do. Waits for nothing.
    pub(super) fn tidy(&self, is_idle: impl FnOnce() -> bool) {
        self.0.tidy(is_idle);
    }

    pub(super) fn driver(&self) -> &D {
        &self.0.driver
    }

    pub(super) fn gauges(&self) -> Gauges {
        self.0.lock().gauges()
    }
}

impl<D: Driver> Drop for Pool<D> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<D: Driver> Lent<D> {
    /// A session that was opened beside the pool. It needs none of the pool's threads.
    pub(super) fn alone(session: D::Session) -> Self {
        Self(Loan::Alone(session))
    }
}

impl<D: Driver> Deref for Lent<D> {
    type Target = D::Session;

    fn deref(&self) -> &D::Session {
        match &self.0 {
            Loan::Pooled { entry, .. } => entry.as_ref().expect("it is there until it is dropped").session(),
            Loan::Alone(session) => session,
        }
    }
}

impl<D: Driver> DerefMut for Lent<D> {
    fn deref_mut(&mut self) -> &mut D::Session {
        match &mut self.0 {
            Loan::Pooled { entry, .. } => {
                entry.as_mut().expect("it is there until it is dropped").session_mut()
            }
            Loan::Alone(session) => session,
        }
    }
}

impl<D: Driver> Drop for Lent<D> {
    fn drop(&mut self) {
        if let Loan::Pooled { entry, shared, since } = &mut self.0
            && let Some(entry) = entry.take()
        {
            let now = Instant::now();
            shared.metrics.usage.record(now.saturating_duration_since(*since));
            shared.give_back(entry, now);
        }
    }
}

fn open_first<D: Driver>(driver: &D, settings: &config::Database) -> Result<D::Session, Error> {
    let deadline = Deadline::after(settings.initialization_fail_timeout);
    let mut earlier = None;
    loop {
        // Also the only try has its time.
        let attempt = deadline.max(Deadline::after(settings.connection_timeout));
        match driver.open(attempt) {
            Err(error @ Error::Open { transient: true, .. }) if deadline.left() > RETRY_INTERVAL => {
                earlier = Some(error);
                thread::sleep(RETRY_INTERVAL);
            }
            // A last try that the deadline cut short knows no reason; the one before it does.
            Err(error @ Error::Open { transient: true, .. }) if deadline.has_passed() => {
                return Err(earlier.unwrap_or(error));
            }
            other => return other,
        }
    }
}
