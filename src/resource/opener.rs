//! Opening sessions, which is all that r2d2 does here.
//!
//! r2d2 has the threads that open sessions, and holds each session from its opening to its end. It lends none: the
//! stock decides when a session is opened, which thread has it, and when it ends. r2d2 and the stock meet in five
//! places:
//! - r2d2 calls [`connect`](ManageConnection::connect) once for each session for which it has room. Three calls run at
//!   a time, each on one of r2d2's threads. A call waits until the stock orders a session, and through every failure,
//!   so r2d2 never retries.
//! - r2d2 has a session only when `connect` has returned it and r2d2 has put it into its list. The next call on the same thread
//!   begins after that, so each call first fetches what has arrived and gives it to the stock.
//! - r2d2 has room for [`OPENERS`] sessions above the maximum. So after each session that it opened, a thread has another
//!   `connect` call to make, which delivers that session to the stock.
//! - A pool of r2d2 cannot grow. A larger maximum adds another pool, on the same threads; the sessions of both are lent
//!   alike.
//! - A session goes back to r2d2 only to be closed. r2d2 then has room for another one.
//!
//! So r2d2's own checkout, test, retry and reaper take no part. Its checkout serves the quickest thread before the
//! longest waiting one, and opens a session for each waiting thread. Its test is a round trip outside of any
//! timeout.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use r2d2::{ManageConnection, NopErrorHandler, PooledConnection};
use scheduled_thread_pool::ScheduledThreadPool;

use super::stock::Stock;
use super::{Driver, Session};

/// The most sessions that are opened at once: r2d2's default.
const OPENERS: u32 = 3;

/// A session in r2d2's keeping. Dropping it closes the session.
pub(super) struct Held<D: Driver>(PooledConnection<Manager<D>>);

/// Makes r2d2 open sessions for a stock.
pub(super) struct Opener<D: Driver> {
    driver: D,
    stock: Arc<Stock<Held<D>>>,
    /// The session that was opened before the pool, for r2d2's first call.
    first: Mutex<Option<Opened<D::Session>>>,
    /// The first, and one more for each time that the maximum exceeded every earlier maximum. Empty when the pool is closed.
    pools: Mutex<Vec<r2d2::Pool<Manager<D>>>>,
    /// All of r2d2's pools share these threads, so a larger maximum starts no thread: r2d2 panics when the system
    /// refuses one.
    threads: Arc<ScheduledThreadPool>,
}

/// A session on its way from `connect` to the stock.
pub(super) struct Opened<S> {
    session: S,
    began: Instant,
}

/// The opener as r2d2 calls it.
pub(super) struct Manager<D: Driver>(Arc<Opener<D>>);

/// The answer to r2d2 instead of a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the pool is closed")]
    Closed,
    #[error("the session is dead")]
    Dead,
}

impl<D: Driver> Opener<D> {
    /// `began` is the time at which the opening of the first session began.
    pub(super) fn new(driver: D, stock: Arc<Stock<Held<D>>>, first: D::Session, began: Instant) -> Arc<Self> {
        let threads = ScheduledThreadPool::builder()
            .num_threads(OPENERS as usize)
            .thread_name_pattern("r2d2-worker-{}")
            .build();
        let first = Mutex::new(Some(Opened { session: first, began }));
        Arc::new(Self { driver, stock, first, pools: Mutex::default(), threads: Arc::new(threads) })
    }

    pub(super) fn driver(&self) -> &D {
        &self.driver
    }

    /// Makes sure that r2d2 has room for `maximum` sessions.
    pub(super) fn make_room(self: &Arc<Self>, maximum: u32) {
        let mut pools = self.pools();
        let room = pools.iter().map(r2d2::Pool::max_size).sum::<u32>();
        let missing = maximum.saturating_add(OPENERS).saturating_sub(room);
        if missing > 0 {
            let pool = r2d2::Pool::builder()
                .max_size(missing)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_on_check_out(false)
                .error_handler(Box::new(NopErrorHandler))
                .thread_pool(Arc::clone(&self.threads))
                .build_unchecked(Manager(Arc::clone(self)));
            pools.push(pool);
        }
    }

    /// Lets go of r2d2's pools once the stock is closed and every session that it ordered has arrived there. A lent session keeps
    /// r2d2's list of sessions alive, so a session that nobody fetches from the list would stay open as long.
    pub(super) fn close(&self) {
        if self.stock.is_settled() {
            let pools = std::mem::take(&mut *self.pools());
            drop(pools);
        }
    }

    /// Gives the stock the sessions that have arrived at r2d2.
    fn fetch_arrived(&self) {
        let arrived = {
            let pools = self.pools();
            pools.iter().flat_map(|pool| std::iter::from_fn(|| pool.try_get())).collect::<Vec<_>>()
        };
        for held in arrived {
            let began = held.began;
            self.stock.arrive(Held(held), began);
        }
    }

    fn connect(&self) -> Result<Opened<D::Session>, Refusal> {
        self.fetch_arrived();
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(first) = first {
            return Ok(first);
        }
        loop {
            let Some(order) = self.stock.wait_for_order() else {
                self.close();
                return Err(Refusal::Closed);
            };
            let began = order.began();
            let opened = self.driver.open(order.deadline());
            let metrics = self.stock.metrics();
            match opened {
                Ok(session) => {
                    metrics.creation.record(began.elapsed());
                    order.fill();
                    return Ok(Opened { session, began });
                }
                Err(error) => {
                    metrics.creation_failures.fetch_add(1, Relaxed);
                    order.fail(error.to_string());
                }
            }
        }
    }

    fn pools(&self) -> MutexGuard<'_, Vec<r2d2::Pool<Manager<D>>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Driver> ManageConnection for Manager<D> {
    type Connection = Opened<D::Session>;
    type Error = Refusal;

    fn connect(&self) -> Result<Opened<D::Session>, Refusal> {
        self.0.connect()
    }

    fn is_valid(&self, opened: &mut Opened<D::Session>) -> Result<(), Refusal> {
        if opened.session.is_alive() { Ok(()) } else { Err(Refusal::Dead) }
    }

    /// A session that comes back to r2d2 always ends.
    fn has_broken(&self, _: &mut Opened<D::Session>) -> bool {
        true
    }
}

impl<D: Driver> Deref for Held<D> {
    type Target = D::Session;

    fn deref(&self) -> &D::Session {
        &self.0.session
    }
}

impl<D: Driver> DerefMut for Held<D> {
    fn deref_mut(&mut self) -> &mut D::Session {
        &mut self.0.session
    }
}
