//! A bounded pool of sessions on another server, each lent to one thread at a time. A thread waits for a session until its
//! deadline at most. The pool behaves as HikariCP does.
//!
//! | file | what it does | thread |
//! |---|---|---|
//! | `stock.rs` | owns the sessions and decides about each of them | any |
//! | `line.rs` | keeps the threads that wait for a session in their order | worker |
//! | `opener.rs` | opens sessions, with r2d2 | r2d2's |
//! | `keeper.rs` | ends, checks and reports sessions | keeper |
//!
//! Knows no SQL and no configuration file. A session is opened and judged through [`Driver`] and [`Session`].

mod failure;
mod keeper;
mod line;
mod opener;
mod stock;

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::line::LineEnd;
use self::opener::{Held, Opener};
use self::stock::{Condition, Fate, Loan, Stock};
use crate::base::deadline::Deadline;
use crate::base::guard::catch;
use crate::base::presence::Presence;
use crate::telemetry::metrics;

/// One kind of server: how to open a session on it. An r2d2 `ManageConnection` is easily turned into a
/// `Driver`.
pub(crate) trait Driver: Send + Sync + 'static {
    /// One open session.
    type Session: Session;

    /// Why a session could not be opened.
    type Error: fmt::Display;

    /// The server's name in the log, and the name of the configuration's table with the pool's settings: `database`.
    const SERVER: &'static str;

    /// Opens a session by `deadline`. Must not panic: r2d2 would count the session as being opened for ever.
    fn open(&self, deadline: Deadline) -> Result<Self::Session, Self::Error>;
}

/// An open session, as the pool sees it.
pub(crate) trait Session: Send + 'static {
    /// Whether the session still has its server, as far as this is visible without validation.
    fn is_alive(&mut self) -> bool;

    /// Validates the session: whether the server answers on it by `deadline`.
    fn validate(&mut self, deadline: Deadline) -> bool;

    /// Called at checkin. Whether the session cannot be lent again.
    fn is_broken(&self) -> bool;

    /// Called at checkin. Whether something is left to do on the session (cleaning), which the next borrower or an idle worker
    /// will do.
    fn is_untidy(&self) -> bool {
        false
    }

    /// Sends that work without waiting for anything.
    fn tidy(&mut self) {}

    /// Called at checkout. Whether nothing is left of earlier borrowers, as far as this is known without waiting.
    fn is_clean(&mut self) -> bool {
        true
    }
}

/// Sizes and times. HikariCP's properties of the same names say more.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Sessions at most. Not zero.
    pub(crate) maximum: u32,
    /// Sessions that are kept open without demand. At most `maximum`.
    pub(crate) minimum_idle: u32,
    /// Threads that may wait at once.
    pub(crate) maximum_pending: usize,
    /// The longest wait of a thread for a session, and the longest time for an opening.
    pub(crate) connection_timeout: Duration,
    /// The longest time for the validation of a session.
    pub(crate) validation_timeout: Duration,
    /// A session that was used within this time is lent without being validated.
    pub(crate) alive_bypass_window: Duration,
    /// The longest time that a session above `minimum_idle` may stay unused.
    pub(crate) idle_timeout: Duration,
    /// A session that was silent for this long must show that it is alive. Zero: never.
    pub(crate) keepalive_time: Duration,
    /// The longest life of a session.
    pub(crate) max_lifetime: Duration,
    /// A session that is lent for longer is reported in the log. Zero: never.
    pub(crate) leak_detection_threshold: Duration,
}

/// The pool at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gauges {
    /// `maximum_pool_size`.
    pub maximum: u32,
    /// Connections that exist.
    pub open: u32,
    /// Connections that are lent to a worker.
    pub active: u32,
    /// Connections that are open and not lent.
    pub idle: u32,
    /// Workers that wait for a connection.
    pub waiting: u32,
    /// No connection exists, and none can be opened.
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

/// Why there is no session, and what is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    /// Why the last try to open a session failed.
    pub(crate) reason: String,
    /// The first failure since a session was opened.
    pub(crate) since: Instant,
    /// The number of failures since then.
    pub(crate) failures: u64,
    /// When the next try begins. In the past: it is in progress.
    pub(crate) next_try: Instant,
    /// The longest pause between two tries.
    pub(crate) pause_max: Duration,
}

/// A session that is lent for longer than `leak_detection_threshold`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LongLoan {
    /// The name of the borrower's thread.
    pub(crate) thread: String,
    /// When the loan began.
    pub(crate) since: Instant,
}

/// Why a checkout failed.
#[derive(Debug)]
pub(crate) enum Unavailable {
    /// The request's deadline passed.
    Deadline,
    /// The request's client left.
    ClientLeft,
    /// No session became free within `connection_timeout`.
    Timeout {
        waited: Duration,
        gauges: Gauges,
        /// Why the last opening failed, if none has succeeded since.
        last_failure: Option<String>,
    },
    /// There is no session, and the last opening failed for this reason.
    Down { reason: String },
    /// `maximum_pending` threads wait already.
    Crowded { gauges: Gauges },
}

/// The pool. Idle sessions end with it, lent ones when they come back.
pub(crate) struct Pool<D: Driver> {
    stock: Arc<Stock<Held<D>>>,
    opener: Arc<Opener<D>>,
}

/// A session on loan. Dropping it is the checkin.
pub(crate) struct Lent<D: Driver>(Loan<Held<D>>);

impl<D: Driver> Pool<D> {
    /// Starts the pool with its first session, whose opening began at `began`. The other sessions are opened in the
    /// background.
    ///
    /// # Errors
    /// The system refuses one of the pool's threads.
    pub(crate) fn start(
        driver: D,
        settings: Settings,
        first: D::Session,
        began: Instant,
        metrics: &Arc<metrics::Pool>,
    ) -> io::Result<Self> {
        let maximum = settings.maximum;
        let stock = Arc::new(Stock::new(D::SERVER, settings, began, Arc::clone(metrics)));
        // r2d2's threads are started by a crate that panics if the system refuses one.
        let opener =
            catch(|| Opener::new(driver, Arc::clone(&stock), first, began)).map_err(io::Error::other)?;
        let pool = Self { stock, opener };
        pool.opener.make_room(maximum);
        // r2d2's thread brings the first session. This wait spares the first request a wait for that thread.
        pool.stock.wait_for_first();
        keeper::start(&pool.stock)?;
        Ok(pool)
    }

    /// Borrows a session. Waits behind the threads that are waiting already, until `deadline` and at most
    /// `connection_timeout` from `started`, which is now.
    pub(crate) fn checkout(
        &self,
        client: &Presence,
        deadline: Deadline,
        started: Instant,
    ) -> Result<Lent<D>, Unavailable> {
        if deadline.instant() <= started {
            return Err(Unavailable::Deadline);
        }
        if client.has_left() {
            return Err(Unavailable::ClientLeft);
        }
        let mut line_end = LineEnd::Back;
        loop {
            let (mut loan, condition) = self.stock.checkout(client, deadline, started, line_end)?;
            match condition {
                Condition::Useless => loan.end(Fate::Spent, Instant::now()),
                Condition::Trusted if loan.is_clean() => return Ok(Lent(loan)),
                Condition::InDoubt { ask_until } if loan.is_clean() && is_there(&mut **loan, ask_until) => {
                    return Ok(Lent(loan));
                }
                Condition::Trusted | Condition::InDoubt { .. } => loan.end(Fate::Dead, Instant::now()),
            }
            // This thread was the first in the line, and stays first.
            line_end = LineEnd::Front;
        }
    }

    /// Applies other sizes and times while sessions are in use. With `renew`, a session whose opening began before now
    /// is not lent again.
    pub(crate) fn reconfigure(&self, settings: Settings, renew: bool) {
        self.opener.make_room(settings.maximum);
        self.stock.reconfigure(settings, renew);
    }

    /// Tidies the idle sessions, if the caller has nothing else to do. Waits for nothing.
    pub(crate) fn tidy(&self, is_idle: impl FnOnce() -> bool) {
        self.stock.tidy(is_idle, |session| session.tidy());
    }

    pub(crate) fn driver(&self) -> &D {
        self.opener.driver()
    }

    pub(crate) fn gauges(&self) -> Gauges {
        self.stock.gauges()
    }

    /// Why the server is down. `None`: it is not.
    pub(crate) fn outage(&self) -> Option<Outage> {
        self.stock.outage()
    }

    /// The loans that last for too long, the oldest first, and the threshold.
    pub(crate) fn long_loans(&self) -> (Vec<LongLoan>, Duration) {
        self.stock.long_loans(Instant::now())
    }
}

impl<D: Driver> Drop for Pool<D> {
    fn drop(&mut self) {
        self.stock.close();
        self.opener.close();
    }
}

impl<D: Driver> Deref for Lent<D> {
    type Target = D::Session;

    fn deref(&self) -> &D::Session {
        &self.0
    }
}

impl<D: Driver> DerefMut for Lent<D> {
    fn deref_mut(&mut self) -> &mut D::Session {
        &mut self.0
    }
}

impl<D: Driver> Drop for Lent<D> {
    fn drop(&mut self) {
        let now = Instant::now();
        self.0.metrics().usage.record(now.saturating_duration_since(self.0.since()));
        let fate = match (self.is_broken(), self.is_untidy()) {
            (true, _) => Fate::Dead,
            (false, untidy) => Fate::Used { untidy },
        };
        self.0.end(fate, now);
    }
}

/// Whether the server shows that the session is alive.
fn is_there(session: &mut impl Session, deadline: Deadline) -> bool {
    session.is_alive() && session.validate(deadline)
}

#[cfg(test)]
mod tests;
