//! The pool of database connections: r2d2 with HikariCP's behaviour.
//!
//! Workers check out and in; r2d2's own threads open connections. Knows no driver but through [`Driver`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use r2d2::event::AcquireEvent;
use r2d2::{HandleError, HandleEvent, ManageConnection, PooledConnection};

use super::Error;
use crate::config;
use crate::deadline::Deadline;
use crate::presence::Presence;

/// How long [`Pool::open`] tries to reach a database that is not there yet: it may be starting beside us
/// (HikariCP's `initializationFailTimeout`).
const FIRST_CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two such tries: often enough to start promptly, seldom enough not to fill the database's log.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Failures to open a connection are logged at most this often; r2d2 keeps trying, at 64 connections several times a
/// second.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// One kind of database: how to open a session on it.
pub(super) trait Driver: Send + Sync + 'static {
    /// One open session.
    type Session: Session;

    /// Opens a session by `deadline`.
    fn open(&self, deadline: Deadline) -> Result<Self::Session, Error>;
}

/// An open session, as the pool sees it.
pub(super) trait Session: Send + 'static {
    /// Called at checkout: whether the session still has its database, as far as that shows without asking it.
    fn is_alive(&mut self) -> bool;

    /// Whether the database answers on it by `deadline`: a round trip, where there is one.
    #[allow(dead_code, reason = "for a pool that asks")]
    fn validate(&mut self, deadline: Deadline) -> bool;

    /// Called at checkin: whether the session cannot be lent again.
    fn is_broken(&self) -> bool;
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
}

impl fmt::Display for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { maximum, open, active, idle, waiting } = self;
        write!(f, "total={open}, active={active}, idle={idle}, waiting={waiting}, maximum={maximum}")
    }
}

/// A session on loan.
pub(super) type Lent<D> = PooledConnection<Opener<D>>;

pub(super) struct Pool<D: Driver> {
    sessions: r2d2::Pool<Opener<D>>,
    waiting: AtomicU32,
    connection_timeout: Duration,
    failures: Failures,
}

impl<D: Driver> Pool<D> {
    /// Opens the first connection here, so that a wrong password or host is an error at once, and the others of
    /// `minimum_idle` in parallel behind it.
    pub(super) fn open(driver: D, settings: &config::Database) -> Result<Self, Error> {
        let first = open_first(&driver)?;
        let timeout = settings.connection_timeout.max(Duration::from_millis(1));
        let maximum = u32::try_from(settings.maximum_pool_size).unwrap_or(u32::MAX).max(1);
        let minimum = settings
            .minimum_idle
            .map_or(maximum, |idle| u32::try_from(idle).map_or(maximum, |idle| idle.min(maximum)));
        let failures = Failures::default();
        let sessions = r2d2::Pool::builder()
            .max_size(maximum)
            .min_idle(Some(minimum))
            // A fixed pool keeps its connections, as HikariCP's does; zero is "for ever" for both.
            .idle_timeout(Some(settings.idle_timeout).filter(|time| !time.is_zero() && minimum < maximum))
            .max_lifetime(Some(settings.max_lifetime).filter(|time| !time.is_zero()))
            .connection_timeout(timeout)
            // r2d2's test is a round trip before every loan, outside the timeout; `Session::is_alive` replaces it.
            .test_on_check_out(false)
            .error_handler(Box::new(failures.clone()))
            .event_handler(Box::new(failures.clone()))
            .build_unchecked(Opener { driver, first: Mutex::new(Some(first)), timeout });
        let pool = Self { sessions, waiting: AtomicU32::new(0), connection_timeout: timeout, failures };
        // r2d2's own thread takes the first session over. Whoever came before it would wait for it, and a
        // `connection_timeout` of some milliseconds would then refuse to start beside a busy neighbour.
        let started = Instant::now();
        let ready = pool.wait(Deadline::at(started, FIRST_CONNECTION_TIMEOUT));
        match ready {
            Some(_) => Ok(pool),
            None => Err(pool.none_in_time(started)),
        }
    }

    /// Borrows a session, waiting until `deadline`, and at most `connection_timeout`.
    pub(super) fn checkout(&self, client: &Presence, deadline: Deadline) -> Result<Lent<D>, Error> {
        if client.has_left() {
            return Err(Error::ClientLeft);
        }
        if deadline.has_passed() {
            return Err(Error::Deadline);
        }
        let started = Instant::now();
        let until = deadline.min(Deadline::at(started, self.connection_timeout));
        loop {
            let mut session = match self.sessions.try_get() {
                Some(session) => session,
                None => self.wait(until).ok_or_else(|| self.none_in_time(started))?,
            };
            if session.is_alive() {
                return Ok(session);
            }
            // Dropping it closes it: it counts as broken now.
        }
    }

    pub(super) fn gauges(&self) -> Gauges {
        let state = self.sessions.state();
        Gauges {
            maximum: self.sessions.max_size(),
            open: state.connections,
            active: state.connections - state.idle_connections,
            idle: state.idle_connections,
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    fn wait(&self, until: Deadline) -> Option<Lent<D>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let session = self.sessions.get_timeout(until.left());
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        session.ok()
    }

    fn none_in_time(&self, started: Instant) -> Error {
        let last_error = self.failures.lock().last.clone();
        Error::NoConnection { waited: started.elapsed(), gauges: self.gauges(), last_error }
    }
}

fn open_first<D: Driver>(driver: &D) -> Result<D::Session, Error> {
    let deadline = Deadline::after(FIRST_CONNECTION_TIMEOUT);
    let mut earlier = None;
    loop {
        match driver.open(deadline) {
            Err(error @ Error::Open { transient: true, .. }) if deadline.left() > RETRY_INTERVAL => {
                earlier = Some(error);
                std::thread::sleep(RETRY_INTERVAL);
            }
            // A last try that the deadline cut short knows no reason; the one before it does.
            Err(error @ Error::Open { transient: true, .. }) if deadline.has_passed() => {
                return Err(earlier.unwrap_or(error));
            }
            other => return other,
        }
    }
}

/// What r2d2 opens connections with.
pub(super) struct Opener<D: Driver> {
    driver: D,
    /// The session that proved the settings right; r2d2 gets it as its first one.
    first: Mutex<Option<D::Session>>,
    timeout: Duration,
}

impl<D: Driver> ManageConnection for Opener<D> {
    type Connection = D::Session;
    type Error = Error;

    fn connect(&self) -> Result<D::Session, Error> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.map_or_else(|| self.driver.open(Deadline::after(self.timeout)), Ok)
    }

    fn is_valid(&self, session: &mut D::Session) -> Result<(), Error> {
        if session.is_alive() { Ok(()) } else { Err(Error::Lost("found closed".to_owned())) }
    }

    fn has_broken(&self, session: &mut D::Session) -> bool {
        session.is_broken()
    }
}

/// Why connections could not be opened, since the last that could.
#[derive(Clone, Debug, Default)]
struct Failures(Arc<Mutex<FailureRecord>>);

#[derive(Debug, Default)]
struct FailureRecord {
    last: Option<String>,
    logged: Option<Instant>,
    unlogged: u64,
}

impl Failures {
    fn lock(&self) -> MutexGuard<'_, FailureRecord> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HandleError<Error> for Failures {
    fn handle_error(&self, error: Error) {
        let mut record = self.lock();
        if record.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            log::error!("{error} ({} more failures since the last message)", record.unlogged);
            record.logged = Some(Instant::now());
            record.unlogged = 0;
        } else {
            record.unlogged += 1;
        }
        record.last = Some(error.to_string());
    }
}

impl HandleEvent for Failures {
    fn handle_acquire(&self, _: AcquireEvent) {
        self.lock().last = None;
    }
}
