//! What the pool knows, under one lock that is never held while anything waits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use r2d2::{NopErrorHandler, PooledConnection};
use scheduled_thread_pool::ScheduledThreadPool;

use super::line::{Line, Turn, Waiter};
use super::opener::{Entry, Failure, Opener};
use super::{Driver, Error, Gauges, Session};
use crate::config;
use crate::telemetry::metrics;
use crate::telemetry::sparing::sparingly;

/// Among how many sessions that came back last a thread looks for its own: in a larger pool all of them may be others'.
const LOOKED_AT: usize = 64;

/// How many sessions can be opened at once: r2d2's default.
const OPENERS: usize = 3;

/// A session as r2d2 lends it.
pub(super) type Held<D> = PooledConnection<Opener<D>>;

/// What workers, r2d2's threads and the keeper share.
pub(super) struct Shared<D: Driver> {
    pub(super) driver: D,
    pub(super) metrics: Arc<metrics::Pool>,
    state: Mutex<State<D>>,
    /// Another session may be wanted.
    pub(super) demand: Condvar,
    keeper: Sender<()>,
    /// A session came back that is to be tidied up.
    is_untidy: AtomicBool,
    /// The threads on which r2d2 asks for sessions. Pools of every later size share them, so a reload starts no thread: r2d2 panics
    /// when the system refuses one.
    threads: Arc<ScheduledThreadPool>,
}

/// The settings that hold now.
pub(super) struct Settings {
    pub(super) maximum: u32,
    pub(super) minimum_idle: u32,
    maximum_pending: usize,
    pub(super) connection_timeout: Duration,
    pub(super) validation_timeout: Duration,
    alive_bypass_window: Duration,
    pub(super) idle_timeout: Duration,
    /// Zero: never.
    pub(super) keepalive_time: Duration,
    pub(super) max_lifetime: Duration,
    /// Zero: never.
    pub(super) leak_detection_threshold: Duration,
}

impl Settings {
    fn new(settings: &config::Database) -> Self {
        let maximum = u32::try_from(settings.maximum_pool_size).unwrap_or(u32::MAX).max(1);
        let idle = settings.minimum_idle.unwrap_or(settings.maximum_pool_size);
        Self {
            maximum,
            minimum_idle: u32::try_from(idle).map_or(maximum, |idle| idle.min(maximum)),
            maximum_pending: settings.maximum_pending.unwrap_or(usize::MAX),
            connection_timeout: settings.connection_timeout.max(Duration::from_millis(1)),
            validation_timeout: settings.validation_timeout,
            alive_bypass_window: settings.alive_bypass_window,
            idle_timeout: settings.idle_timeout,
            keepalive_time: settings.keepalive_time,
            max_lifetime: settings.max_lifetime,
            leak_detection_threshold: settings.leak_detection_threshold,
        }
    }
}

pub(super) struct State<D: Driver> {
    pub(super) settings: Settings,
    /// `None` once the pool is closed.
    pub(super) store: Option<r2d2::Pool<Opener<D>>>,
    /// Stores that were too small for a new maximum, until their sessions have moved.
    pub(super) outgrown: Vec<r2d2::Pool<Opener<D>>>,
    /// Sessions that came back and nobody uses, the last to come last.
    unused: Vec<Held<D>>,
    /// Which store it is.
    pub(super) generation: u64,
    /// Sessions on their way into the store.
    pub(super) moving: Vec<Entry<D>>,
    pub(super) line: Line<D>,
    /// Sessions that there are.
    pub(super) open: u32,
    /// Of these, those that are lent.
    pub(super) active: u32,
    /// Of these, those that are to move from a store before this one.
    elsewhere: u32,
    /// Sessions that are being opened.
    pub(super) opening: u32,
    /// How long that takes.
    open_cost: Duration,
    pub(super) failure: Option<Failure>,
    /// The time of the last change to `connection_init_sql`. Sessions whose opening began earlier ran the old statements.
    useful_since: Instant,
    /// A session was found dead then; those that have not shown themselves since may be dead as well.
    pub(super) suspicion: Option<Instant>,
    pub(super) loans: HashMap<u64, Loan>,
    loans_made: u64,
    pub(super) closed: bool,
}

/// A session that is lent, where leaks are looked for.
pub(super) struct Loan {
    pub(super) since: Instant,
    /// Who has it.
    pub(super) thread: String,
    pub(super) reported: bool,
}

impl<D: Driver> Shared<D> {
    /// The pool with its first session, whose opening began at `started`; and the receiver that tells the keeper of work.
    pub(super) fn new(
        driver: D,
        settings: &config::Database,
        first: D::Session,
        started: Instant,
        metrics: Arc<metrics::Pool>,
    ) -> (Arc<Self>, Receiver<()>) {
        let (keeper, errands) = crossbeam_channel::bounded(1);
        let state = State {
            settings: Settings::new(settings),
            store: None,
            outgrown: Vec::new(),
            unused: Vec::new(),
            generation: 0,
            moving: Vec::new(),
            line: Line::default(),
            open: 1,
            active: 0,
            elsewhere: 0,
            opening: 0,
            open_cost: started.elapsed(),
            failure: None,
            useful_since: started,
            suspicion: None,
            loans: HashMap::new(),
            loans_made: 0,
            closed: false,
        };
        let threads =
            ScheduledThreadPool::builder().num_threads(OPENERS).thread_name_pattern("r2d2-worker-{}");
        let threads = Arc::new(threads.build());
        let (state, demand) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Self {
            driver,
            metrics,
            state,
            demand,
            keeper,
            is_untidy: AtomicBool::new(false),
            threads,
        });
        let mut state = shared.lock();
        let first = shared.entry(first, &state, started);
        state.moving.push(first);
        state.store = Some(shared.store(&state));
        drop(state);
        (shared, errands)
    }

    fn store(self: &Arc<Self>, state: &State<D>) -> r2d2::Pool<Opener<D>> {
        r2d2::Pool::builder()
            .max_size(state.settings.maximum)
            // Sessions end and are tried here.
            .idle_timeout(None)
            .max_lifetime(None)
            .test_on_check_out(false)
            .error_handler(Box::new(NopErrorHandler))
            .thread_pool(Arc::clone(&self.threads))
            .build_unchecked(Opener { shared: Arc::clone(self), generation: state.generation })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake_keeper(&self) {
        // A full channel means that it is about to look anyway.
        _ = self.keeper.try_send(());
    }

    pub(super) fn want_another(&self) {
        // Whoever comes between its look at the state and its sleep would not be heard without the lock.
        drop(self.lock());
        self.demand.notify_one();
    }

    /// Tidies up the sessions that nobody uses, if one of them needs it.
    pub(super) fn tidy(&self, is_idle: impl FnOnce() -> bool) {
        if self.is_untidy.load(Relaxed) && is_idle() && self.is_untidy.swap(false, Relaxed) {
            let mut state = self.lock();
            state
                .unused
                .iter_mut()
                .filter(|entry| entry.session().is_untidy())
                .for_each(|entry| entry.session_mut().tidy());
        }
    }

    /// The checkin.
    pub(super) fn give_back(&self, mut entry: Held<D>, now: Instant) {
        entry.borrower = Some(thread::current().id());
        entry.close |= entry.session().is_broken();
        let is_untidy = entry.session().is_untidy();
        entry.used = now;
        if !entry.close {
            entry.seen = now;
        }
        if entry.loan != 0 {
            self.lock().end_loan(&mut entry, now);
        }
        self.put(entry, now);
        if is_untidy {
            self.is_untidy.store(true, Relaxed);
        }
    }

    /// Hands the session to who waits for longest, or keeps it, or ends it.
    pub(super) fn put(&self, mut entry: Held<D>, now: Instant) {
        let mut state = self.lock();
        state.active -= 1;
        if entry.generation != state.generation {
            state.elsewhere -= 1;
        }
        if entry.close {
            state.suspicion = Some(now);
            drop(state);
            drop(entry);
            self.wake_keeper();
            return;
        }
        if state.closed
            || now >= entry.expires
            || state.is_useless(&entry)
            || state.open > state.settings.maximum
        {
            entry.close = true;
        } else if entry.generation != state.generation {
            let moved = entry.move_out();
            state.moving.push(moved);
        } else {
            match state.line.hand(entry) {
                None => state.active += 1,
                Some(entry) => state.unused.push(entry),
            }
            return;
        }
        drop(state);
        drop(entry);
        self.demand.notify_one();
    }

    pub(super) fn closed_one(&self) {
        self.metrics.closed.fetch_add(1, Relaxed);
        let mut state = self.lock();
        state.open -= 1;
        state.dismiss_if_down();
        drop(state);
        self.demand.notify_one();
    }

    pub(super) fn none_in_time(&self, since: Instant) -> Error {
        let state = self.lock();
        let last_error = state.failure.as_ref().map(|failure| failure.reason.clone());
        Error::NoConnection { waited: since.elapsed(), gauges: state.gauges(), last_error }
    }

    pub(super) fn down(&self, since: Instant) -> Error {
        let state = self.lock();
        match &state.failure {
            Some(failure) => Error::Down { reason: failure.reason.clone() },
            // It is back already; whoever asks again is served.
            None => Error::NoConnection { waited: since.elapsed(), gauges: state.gauges(), last_error: None },
        }
    }

    pub(super) fn reconfigure(self: &Arc<Self>, settings: &config::Database) {
        let are_useless = self.driver.reconfigure(settings);
        let mut state = self.lock();
        state.settings = Settings::new(settings);
        if are_useless {
            state.useful_since = Instant::now();
        }
        let size = state.store.as_ref().map_or(u32::MAX, r2d2::Pool::max_size);
        if state.settings.maximum > size {
            state.generation += 1;
            state.elsewhere = state.active;
            // Back to their store, to move with what it has.
            state.unused.clear();
            let store = self.store(&state);
            let outgrown = state.store.replace(store);
            state.outgrown.extend(outgrown);
        }
        drop(state);
        self.demand.notify_all();
        self.wake_keeper();
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let stores = (state.store.take(), std::mem::take(&mut state.outgrown));
        let unused = std::mem::take(&mut state.unused);
        let moving = std::mem::take(&mut state.moving);
        state.line.dismiss();
        drop(state);
        drop((unused, stores, moving));
        self.demand.notify_all();
        self.wake_keeper();
    }
}

impl<D: Driver> State<D> {
    /// A session that nobody uses, unless others wait for one: the one that this thread had last, as HikariCP's `ConcurrentBag`
    /// prefers it, or else the one that came back last. The database's process is then on the thread's core more often than not.
    /// Not one that would have to be asked first whether it is alive.
    pub(super) fn take_idle(&mut self, thread: ThreadId, now: Instant) -> Option<Held<D>> {
        if !self.line.is_empty() {
            return None;
        }
        let latest = self.unused.len().saturating_sub(LOOKED_AT);
        let is_own = |entry: &Held<D>| entry.borrower == Some(thread) && !self.doubt(entry, now);
        let entry = match self.unused[latest..].iter().rposition(is_own) {
            Some(place) => self.unused.remove(latest + place),
            None => self.pop_unused()?,
        };
        self.active += 1;
        Some(entry)
    }

    /// Every session that nobody uses, unless others wait for one; those that were unused for longest first.
    pub(super) fn take_all_idle(&mut self) -> Vec<Held<D>> {
        if !self.line.is_empty() {
            return Vec::new();
        }
        let mut all = std::mem::take(&mut self.unused);
        all.extend(self.store.iter().flat_map(|store| std::iter::from_fn(|| store.try_get())));
        all.sort_by_key(|entry| entry.used);
        self.active += u32::try_from(all.len()).unwrap_or(u32::MAX);
        all
    }

    /// Takes back what [`take_all_idle`](Self::take_all_idle) took, in its order.
    pub(super) fn keep(&mut self, entries: Vec<Held<D>>) {
        self.active -= u32::try_from(entries.len()).unwrap_or(u32::MAX);
        self.unused.extend(entries);
    }

    /// The one that came back last, or one that is new.
    fn pop_unused(&mut self) -> Option<Held<D>> {
        self.unused.pop().or_else(|| self.store.as_ref()?.try_get())
    }

    /// Whether the store has every session that was opened for it; r2d2 tells of one just before it has it.
    pub(super) fn has_arrived(&self) -> bool {
        self.store.as_ref().is_none_or(|store| store.state().connections + self.elsewhere >= self.open)
    }

    /// Has sessions move that nobody uses; what stays of them in their old store is to be dropped without the lock.
    pub(super) fn move_from_outgrown(&mut self) -> Vec<Held<D>> {
        let husks = self.outgrown.iter().flat_map(|store| std::iter::from_fn(|| store.try_get()));
        let mut husks: Vec<Held<D>> = husks.collect();
        self.moving.extend(husks.iter_mut().map(|husk| husk.move_out()));
        husks
    }

    /// Hands what is in the store to those who wait.
    pub(super) fn serve_line(&mut self) {
        while !self.line.is_empty() {
            let Some(entry) = self.pop_unused() else { return };
            if let Some(entry) = self.line.hand(entry) {
                self.unused.push(entry);
                return;
            }
            self.active += 1;
        }
    }

    pub(super) fn join_line(&mut self, turn: Turn, since: Instant) -> Result<Arc<Waiter<D>>, Error> {
        if let Some(reason) = self.down() {
            return Err(Error::Down { reason: reason.to_owned() });
        }
        if turn == Turn::Last && self.line.len() >= self.settings.maximum_pending {
            return Err(Error::Crowded { gauges: self.gauges() });
        }
        // Opening one is worth it once it would have been quicker. Where there is none, there is nothing to wait for.
        let patient_at = if self.open == 0 { since } else { since + self.open_cost };
        Ok(self.line.join(turn, since, patient_at))
    }

    /// Whether the session may have died since the database last showed that it is alive.
    pub(super) fn doubt(&self, entry: &Entry<D>, now: Instant) -> bool {
        now.saturating_duration_since(entry.seen) >= self.settings.alive_bypass_window
            || self.suspicion.is_some_and(|since| entry.seen <= since)
    }

    /// Whether a session is to be opened.
    pub(super) fn wants_another(&self, now: Instant) -> bool {
        let committed = self.open + self.opening;
        committed < self.settings.maximum
            && (committed < self.settings.minimum_idle
                // Somebody has to find out when the database is back.
                || self.down().is_some()
                || self.line.patient(now) > self.opening as usize)
    }

    /// Whether the session ran an older `connection_init_sql` than new sessions do.
    pub(super) fn is_useless(&self, entry: &Entry<D>) -> bool {
        entry.opened < self.useful_since
    }

    pub(super) fn note_opening(&mut self, took: Duration) {
        self.open_cost = (self.open_cost * 3 + took) / 4;
    }

    /// Why there is no session and none can be opened.
    fn down(&self) -> Option<&str> {
        self.failure.as_ref().filter(|_| self.open == 0).map(|failure| failure.reason.as_str())
    }

    /// Nobody waits for a database that is down.
    pub(super) fn dismiss_if_down(&mut self) {
        if self.down().is_some() {
            self.line.dismiss();
        }
    }

    pub(super) fn note_loan(&mut self, entry: &mut Entry<D>, since: Instant) {
        if self.settings.leak_detection_threshold.is_zero() {
            return;
        }
        self.loans_made += 1;
        entry.loan = self.loans_made;
        let thread = thread::current().name().unwrap_or("a thread without a name").to_owned();
        self.loans.insert(entry.loan, Loan { since, thread, reported: false });
    }

    fn end_loan(&mut self, entry: &mut Entry<D>, now: Instant) {
        let loan = self.loans.remove(&std::mem::take(&mut entry.loan));
        if let Some(loan) = loan.filter(|loan| loan.reported) {
            let (thread, held) = (loan.thread, now - loan.since);
            sparingly!(
                log::Level::Info,
                "connections that came back late",
                "{thread} gave the connection back after {held:?}"
            );
        }
    }

    pub(super) fn gauges(&self) -> Gauges {
        Gauges {
            maximum: self.settings.maximum,
            open: self.open,
            active: self.active,
            idle: self.open - self.active,
            waiting: u32::try_from(self.line.len()).unwrap_or(u32::MAX),
            is_down: self.down().is_some(),
            minimum_idle: self.settings.minimum_idle,
        }
    }
}
