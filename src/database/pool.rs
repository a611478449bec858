//! The pool of database sessions: everything about a database that [`resource::Pool`](crate::resource::Pool) needs.
//!
//! Workers check out and in. This file knows the configuration and the database's errors, and a driver only through
//! [`Driver`].

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Error;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::config;
use crate::resource::{self, Settings, Unavailable};
use crate::telemetry::metrics;

pub(super) use crate::resource::Session;

/// The pause between two tries to reach a database that is not there yet. It is short enough to start promptly, and
/// long enough not to fill the database's log.
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

/// Adapts a database's driver to the pool of any resource.
struct Opening<D>(D);

impl<D: Driver> resource::Driver for Opening<D> {
    type Session = D::Session;
    type Error = Error;

    const SERVER: &'static str = "database";

    fn open(&self, deadline: Deadline) -> Result<D::Session, Error> {
        self.0.open(deadline)
    }
}

/// A session on loan. Dropping it is the checkin.
pub(super) struct Lent<D: Driver>(Loan<D>);

enum Loan<D: Driver> {
    Pooled(resource::Lent<Opening<D>>),
    /// A session outside any pool, which ends with its loan.
    Alone(D::Session),
}

pub(super) struct Pool<D: Driver>(resource::Pool<Opening<D>>);

impl<D: Driver> Pool<D> {
    /// Opens the first session on this thread, so that a wrong password or host is an error at once. The other sessions
    /// of `minimum_idle` are opened in parallel afterwards.
    pub(super) fn open(
        driver: D,
        configured: &config::Database,
        metrics: &Arc<metrics::Pool>,
    ) -> Result<Self, Error> {
        let began = Instant::now();
        let first = open_first(&driver, configured)?;
        metrics.creation.record(began.elapsed());
        let pool = resource::Pool::start(Opening(driver), settings(configured), first, began, metrics);
        pool.map(Self).map_err(|error| Error::Usage(format!("the pool cannot start its threads: {error}")))
    }

    /// Borrows a session. See [`resource::Pool::checkout`].
    pub(super) fn checkout(
        &self,
        client: &Presence,
        deadline: Deadline,
        started: Instant,
    ) -> Result<Lent<D>, Error> {
        let lent = self.0.checkout(client, deadline, started)?;
        Ok(Lent(Loan::Pooled(lent)))
    }

    /// Applies the pool's new sizes and times while sessions are in use.
    pub(super) fn reconfigure(&self, configured: &config::Database) {
        let renew = self.driver().reconfigure(configured);
        self.0.reconfigure(settings(configured), renew);
    }

    /// Tidies the idle sessions, if the caller has nothing else to do. Waits for nothing.
    pub(super) fn tidy(&self, is_idle: impl FnOnce() -> bool) {
        self.0.tidy(is_idle);
    }

    pub(super) fn driver(&self) -> &D {
        &self.0.driver().0
    }

    pub(super) fn gauges(&self) -> resource::Gauges {
        self.0.gauges()
    }

    /// See [`resource::Pool::outage`].
    pub(super) fn outage(&self) -> Option<resource::Outage> {
        self.0.outage()
    }

    /// See [`resource::Pool::long_loans`].
    pub(super) fn long_loans(&self) -> (Vec<resource::LongLoan>, Duration) {
        self.0.long_loans()
    }
}

impl<D: Driver> Lent<D> {
    /// A session that was opened outside the pool. It needs none of the pool's threads.
    pub(super) fn alone(session: D::Session) -> Self {
        Self(Loan::Alone(session))
    }
}

impl<D: Driver> Deref for Lent<D> {
    type Target = D::Session;

    fn deref(&self) -> &D::Session {
        match &self.0 {
            Loan::Pooled(session) => session,
            Loan::Alone(session) => session,
        }
    }
}

impl<D: Driver> DerefMut for Lent<D> {
    fn deref_mut(&mut self) -> &mut D::Session {
        match &mut self.0 {
            Loan::Pooled(session) => session,
            Loan::Alone(session) => session,
        }
    }
}

impl From<Unavailable> for Error {
    fn from(unavailable: Unavailable) -> Self {
        match unavailable {
            Unavailable::Deadline => Self::Deadline,
            Unavailable::ClientLeft => Self::ClientLeft,
            Unavailable::Timeout { waited, gauges, last_failure } => {
                Self::NoConnection { waited, gauges, last_error: last_failure }
            }
            Unavailable::Down { reason } => Self::Down { reason },
            Unavailable::Crowded { gauges } => Self::Crowded { gauges },
        }
    }
}

fn settings(configured: &config::Database) -> Settings {
    let maximum = u32::try_from(configured.maximum_pool_size).unwrap_or(u32::MAX).max(1);
    let idle = configured.minimum_idle.unwrap_or(configured.maximum_pool_size);
    Settings {
        maximum,
        minimum_idle: u32::try_from(idle).map_or(maximum, |idle| idle.min(maximum)),
        maximum_pending: configured.maximum_pending.unwrap_or(usize::MAX),
        connection_timeout: configured.connection_timeout.max(Duration::from_millis(1)),
        validation_timeout: configured.validation_timeout,
        alive_bypass_window: configured.alive_bypass_window,
        idle_timeout: configured.idle_timeout,
        keepalive_time: configured.keepalive_time,
        max_lifetime: configured.max_lifetime,
        leak_detection_threshold: configured.leak_detection_threshold,
    }
}

fn open_first<D: Driver>(driver: &D, settings: &config::Database) -> Result<D::Session, Error> {
    let deadline = Deadline::after(settings.initialization_fail_timeout);
    let mut earlier = None;
    loop {
        // Every try has at least `connection_timeout`, even if there is only one.
        let attempt = deadline.max(Deadline::after(settings.connection_timeout));
        match driver.open(attempt) {
            Err(error @ Error::Open { transient: true, .. }) if deadline.left() > RETRY_INTERVAL => {
                earlier = Some(error);
                thread::sleep(RETRY_INTERVAL);
            }
            // A last try that the deadline cut short has no reason; the one before it has.
            Err(error @ Error::Open { transient: true, .. }) if deadline.has_passed() => {
                return Err(earlier.unwrap_or(error));
            }
            other => return other,
        }
    }
}
