//! The pool's sessions, and the threads that wait for one. Only this file changes them.
//!
//! Runs on any thread. One lock guards everything. Under the lock nothing waits, no thread is woken, no line is logged and no
//! session is closed. The stock knows neither r2d2 nor sessions: dropping a `T` closes it.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::line::{Handed, Line, LineEnd, Served, Waiter};
use super::{Gauges, LongLoan, Outage, Settings, Unavailable};
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::telemetry::metrics;
use crate::telemetry::sparing::sparingly;

/// A thread looks for the session that it had last among this many of the latest returns. In a larger pool, all of these may
/// be the sessions of other threads.
const LOOKED_AT: usize = 64;

/// The pause between two rounds of the keeper at most. Short times in the settings make it shorter.
const ROUND: Duration = Duration::from_secs(5);

/// The owner of the sessions.
pub(super) struct Stock<T> {
    /// See [`Driver::SERVER`](super::Driver::SERVER).
    server: &'static str,
    metrics: Arc<metrics::Pool>,
    state: Mutex<State<T>>,
    /// Signalled when another session may be wanted.
    demand: Condvar,
    /// Signalled when the keeper has something to do.
    keeper: Condvar,
    /// A session that came back needs tidying.
    has_untidy: AtomicBool,
}

struct State<T> {
    settings: Settings,
    /// Idle sessions, in the order in which they came back. Empty while a thread waits.
    idle: Vec<Box<Entry<T>>>,
    line: Line<Box<Entry<T>>>,
    /// The number of open sessions.
    open: u32,
    /// The open sessions on loan.
    active: u32,
    /// Sessions that are being opened, or have not arrived yet.
    opening: u32,
    /// The time that an opening takes.
    open_cost: Duration,
    failure: Option<Failure>,
    /// Sessions whose opening began before this are not lent again.
    useful_since: Instant,
    /// The time at which a session was last found dead. Other sessions may be dead as well, unless the server has
    /// answered on them since.
    suspicion: Option<Instant>,
    /// The loans in progress, by number. Empty unless leaks are reported.
    borrowers: HashMap<u64, Borrower>,
    loans_made: u64,
    keeper_is_called: bool,
    closed: bool,
}

/// A session in the stock. Boxed, because it moves at each checkout and checkin.
struct Entry<T> {
    session: T,
    /// The time at which its opening began.
    began: Instant,
    /// The time after which it is too old to be lent.
    expires: Instant,
    used: Instant,
    /// The time at which the server last showed that the session is alive.
    seen: Instant,
    /// The session's last thread.
    borrower: Option<ThreadId>,
    /// The key in [`State::borrowers`]; 0: none.
    loan: u64,
}

/// The borrower of a session, if leaks are looked for.
struct Borrower {
    thread: String,
    since: Instant,
    is_reported: bool,
}

/// A session out of the stock. Dropping it puts the session back as it was.
pub(super) struct Loan<T> {
    /// `None` once the loan has ended.
    entry: Option<Box<Entry<T>>>,
    stock: Arc<Stock<T>>,
    since: Instant,
}

/// The end of a loan, as its holder reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The session is as it was.
    Unused,
    /// A request has used it. `untidy`: work is left, see [`Session::is_untidy`](super::Session::is_untidy).
    Used { untidy: bool },
    /// The server answered on it.
    Seen,
    /// It is dead, or not fit to be lent, and others may be as well.
    Dead,
    /// It must end, because it is too old, surplus or outdated.
    Spent,
}

/// Whether a session can be used at its checkout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Trusted,
    /// The server must show by this time that the session is alive.
    InDoubt {
        ask_until: Deadline,
    },
    /// It may not be lent again.
    Useless,
}

/// An order for one session. Dropping it unfilled gives the order up.
pub(super) struct Order<'a, T> {
    stock: &'a Stock<T>,
    began: Instant,
    deadline: Deadline,
    /// The order is filled, or has failed.
    is_settled: bool,
}

/// The reason for waking the keeper.
pub(super) struct Call {
    /// The time of the next round has come.
    pub(super) is_due: bool,
}

impl<T> Stock<T> {
    /// A stock whose first session will arrive soon. Its opening began at `began`.
    pub(super) fn new(
        server: &'static str,
        settings: Settings,
        began: Instant,
        metrics: Arc<metrics::Pool>,
    ) -> Self {
        let state = State {
            settings,
            idle: Vec::new(),
            line: Line::default(),
            open: 0,
            active: 0,
            opening: 1,
            open_cost: began.elapsed(),
            failure: None,
            useful_since: began,
            suspicion: None,
            borrowers: HashMap::new(),
            loans_made: 0,
            keeper_is_called: false,
            closed: false,
        };
        Self {
            server,
            metrics,
            state: Mutex::new(state),
            demand: Condvar::new(),
            keeper: Condvar::new(),
            has_untidy: AtomicBool::new(false),
        }
    }

    pub(super) fn metrics(&self) -> &metrics::Pool {
        &self.metrics
    }

    pub(super) fn gauges(&self) -> Gauges {
        self.lock().gauges()
    }

    pub(super) fn outage(&self) -> Option<Outage> {
        self.lock().down().map(Failure::outage)
    }

    /// The loans that have lasted too long, the oldest first, and the threshold.
    pub(super) fn long_loans(&self, now: Instant) -> (Vec<LongLoan>, Duration) {
        let state = self.lock();
        let threshold = state.settings.leak_detection_threshold;
        let is_long = |borrower: &&Borrower| {
            !threshold.is_zero() && now.saturating_duration_since(borrower.since) >= threshold
        };
        let long = state.borrowers.values().filter(is_long);
        let mut loans: Vec<_> = long
            .map(|Borrower { thread, since, .. }| LongLoan { thread: thread.clone(), since: *since })
            .collect();
        drop(state);
        loans.sort_by_key(|loan| loan.since);
        (loans, threshold)
    }

    pub(super) fn reconfigure(&self, settings: Settings, renew: bool) {
        let mut state = self.lock();
        state.settings = settings;
        if renew {
            state.useful_since = Instant::now();
        }
        state.keeper_is_called = true;
        drop(state);
        self.demand.notify_all();
        self.keeper.notify_one();
    }

    /// Applies `tidy` to the idle sessions, if one of them needs it and the caller is idle.
    pub(super) fn tidy(&self, is_idle: impl FnOnce() -> bool, tidy: impl FnMut(&mut T)) {
        if self.has_untidy.load(Relaxed) && is_idle() && self.has_untidy.swap(false, Relaxed) {
            self.lock().idle.iter_mut().map(|entry| &mut entry.session).for_each(tidy);
        }
    }

    /// Closes the idle sessions. Orders end. Sessions on loan are closed when they come back.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
        self.demand.notify_all();
        self.keeper.notify_one();
    }

    /// Whether the stock is closed and no session is on its way to it.
    pub(super) fn is_settled(&self) -> bool {
        let state = self.lock();
        state.closed && state.opening == 0
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The workers' part.
impl<T: Send + 'static> Stock<T> {
    /// Takes a session, or waits for one at the end of the line or, with [`LineEnd::Front`], at its front. `started` is the time
    /// at which the checkout began.
    pub(super) fn checkout(
        self: &Arc<Self>,
        client: &Presence,
        deadline: Deadline,
        started: Instant,
        line_end: LineEnd,
    ) -> Result<(Loan<T>, Condition), Unavailable> {
        let mut state = self.lock();
        let until = deadline.min(Deadline::at(started, state.settings.connection_timeout));
        let (mut entry, since) = if let Some(entry) = state.take_idle(thread::current().id(), started) {
            (entry, started)
        } else {
            let waiter = state.join_line(line_end, started)?;
            drop(state);
            client.wake_when_left(&Arc::clone(&waiter).into());
            let handed = self.wait(&waiter, client, until);
            client.wake_nobody();
            state = self.lock();
            match handed {
                Some(Handed::Thing(entry)) => (entry, Instant::now()),
                Some(Handed::Nothing) => return Err(state.nothing(started)),
                None if client.has_left() => return Err(Unavailable::ClientLeft),
                None if until == deadline => return Err(Unavailable::Deadline),
                None => return Err(state.timeout(started)),
            }
        };
        state.note_loan(&mut entry, started);
        let condition = state.condition(&entry, started, until);
        drop(state);
        Ok((Loan { entry: Some(entry), stock: Arc::clone(self), since }, condition))
    }

    /// Waits until the first session has arrived.
    pub(super) fn wait_for_first(&self) {
        let mut state = self.lock();
        if state.idle.is_empty() {
            let forever = Deadline::after(Duration::MAX).instant();
            let waiter = state.line.join(LineEnd::Front, forever);
            drop(state);
            if let Some(Handed::Thing(entry)) = waiter.wait(forever, || false) {
                self.put(entry, Fate::Unused, Instant::now());
            }
        }
    }

    fn wait(
        &self,
        waiter: &Arc<Waiter<Box<Entry<T>>>>,
        client: &Presence,
        until: Deadline,
    ) -> Option<Handed<Box<Entry<T>>>> {
        let (until, patient_until) = (until.instant(), waiter.patient_until());
        if patient_until < until {
            let handed = waiter.wait(patient_until, || client.has_left());
            if handed.is_some() {
                return handed;
            }
            // An opener holds the lock from its look at the line until it sleeps. Taking the lock once before the signal makes
            // sure that the opener sleeps and hears the signal.
            drop(self.lock());
            self.demand.notify_one();
        }
        waiter.wait(until, || client.has_left()).or_else(|| self.lock().line.leave(waiter))
    }
}

/// The opener's part.
impl<T> Stock<T> {
    /// Waits until another session is wanted and may be opened. `None`: the pool is closed.
    pub(super) fn wait_for_order(&self) -> Option<Order<'_, T>> {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            state = match state.order(now) {
                Ok(deadline) => return Some(Order { stock: self, began: now, deadline, is_settled: false }),
                Err(None) => self.demand.wait(state).unwrap_or_else(PoisonError::into_inner),
                Err(Some(later)) => {
                    let woken = self.demand.wait_timeout(state, later.saturating_duration_since(now));
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        None
    }

    /// Takes in the session of a filled order. `began` is the time at which its opening began.
    pub(super) fn arrive(&self, session: T, began: Instant) {
        let now = Instant::now();
        let mut state = self.lock();
        // HikariCP's variance: sessions that were opened together must not end together.
        let lifetime = state.settings.max_lifetime.mul_f64(1.0 - 0.025 * fastrand::f64());
        let expires = Deadline::at(now, lifetime).instant();
        state.opening -= 1;
        state.open += 1;
        state.active += 1;
        drop(state);
        let entry = Entry { session, began, expires, used: now, seen: now, borrower: None, loan: 0 };
        self.put(Box::new(entry), Fate::Unused, now);
    }
}

/// The keeper's part.
impl<T> Stock<T> {
    /// Waits until the keeper is called, or until the next round is due. The last round began at `round`. `None`: the
    /// pool is closed.
    pub(super) fn wait_for_round(&self, round: Instant) -> Option<Call> {
        let mut state = self.lock();
        while !state.closed {
            let left = (round + state.settings.round()).saturating_duration_since(Instant::now());
            if left.is_zero() || state.keeper_is_called {
                state.keeper_is_called = false;
                return Some(Call { is_due: left.is_zero() });
            }
            state = self.keeper.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// Borrows the idle sessions that may be dead, because another one was found dead.
    pub(super) fn suspects(self: &Arc<Self>) -> Vec<Loan<T>> {
        let mut state = self.lock();
        let Some(since) = state.suspicion else { return Vec::new() };
        let suspects = state.take_idle_where(|entry| entry.seen <= since);
        drop(state);
        self.lend(suspects)
    }

    /// Borrows the idle sessions that must end: they are too old, or too many.
    pub(super) fn retired(self: &Arc<Self>, now: Instant) -> Vec<Loan<T>> {
        let mut state = self.lock();
        state.idle.sort_by_key(|entry| entry.used);
        let (idle_timeout, useful_since) = (state.settings.idle_timeout, state.useful_since);
        let mut surplus = state.open.saturating_sub(state.settings.maximum);
        let mut spare = state.open.saturating_sub(state.settings.minimum_idle);
        let retired = state.take_idle_where(|entry| {
            let is_unused = now.saturating_duration_since(entry.used) >= idle_timeout;
            let is_old = now >= entry.expires || entry.began < useful_since;
            let ends = surplus > 0 || is_old || spare > 0 && is_unused;
            surplus = surplus.saturating_sub(u32::from(ends));
            spare = spare.saturating_sub(u32::from(ends));
            ends
        });
        drop(state);
        self.lend(retired)
    }

    /// Borrows the idle sessions on which the server has shown nothing for `keepalive_time`. Also returns the time that it has
    /// to answer.
    pub(super) fn silent(self: &Arc<Self>, now: Instant) -> (Vec<Loan<T>>, Duration) {
        let mut state = self.lock();
        let (keepalive_time, patience) = (state.settings.keepalive_time, state.settings.validation_timeout);
        if keepalive_time.is_zero() {
            return (Vec::new(), patience);
        }
        let silent =
            state.take_idle_where(|entry| now.saturating_duration_since(entry.seen) >= keepalive_time);
        drop(state);
        (self.lend(silent), patience)
    }

    /// Logs and counts each loan that has lasted too long, once.
    pub(super) fn report_leaks(&self, now: Instant) {
        let mut state = self.lock();
        let threshold = state.settings.leak_detection_threshold;
        if threshold.is_zero() {
            return;
        }
        let mut leaks = Vec::new();
        for borrower in state.borrowers.values_mut().filter(|borrower| !borrower.is_reported) {
            let held = now.saturating_duration_since(borrower.since);
            if held >= threshold {
                borrower.is_reported = true;
                leaks.push((borrower.thread.clone(), held));
            }
        }
        drop(state);
        for (thread, held) in leaks {
            self.metrics.leaks.fetch_add(1, Relaxed);
            let server = self.server;
            sparingly!(
                log::Level::Warn,
                "sessions lent for too long",
                "{thread} has had a {server} session for {held:?} ({server}.leak_detection_threshold is {threshold:?})"
            );
        }
    }

    fn lend(self: &Arc<Self>, entries: Vec<Box<Entry<T>>>) -> Vec<Loan<T>> {
        let since = Instant::now();
        let lend = |entry| Loan { entry: Some(entry), stock: Arc::clone(self), since };
        entries.into_iter().map(lend).collect()
    }
}

/// The return of a session.
impl<T> Stock<T> {
    /// Hands the session to the thread that has waited longest, or keeps it, or closes it.
    fn put(&self, mut entry: Box<Entry<T>>, fate: Fate, now: Instant) {
        match fate {
            Fate::Unused | Fate::Dead | Fate::Spent => {}
            Fate::Seen => entry.seen = now,
            Fate::Used { .. } => {
                entry.borrower = Some(thread::current().id());
                (entry.used, entry.seen) = (now, now);
            }
        }
        let mut state = self.lock();
        let late = if entry.loan == 0 { None } else { state.end_loan(&mut entry) };
        if fate == Fate::Dead {
            state.suspicion = Some(now);
            state.keeper_is_called = true;
        }
        if matches!(fate, Fate::Dead | Fate::Spent) || state.is_over(&entry, now) {
            drop(state);
            // The session counts as gone only when it is closed, so that the server never has more sessions than the
            // limit.
            drop(entry);
            self.note_closed(fate == Fate::Dead);
        } else {
            match state.line.hand(entry) {
                Ok(served) => {
                    drop(state);
                    served.wake();
                }
                Err(entry) => {
                    state.active -= 1;
                    state.idle.push(entry);
                    drop(state);
                }
            }
        }
        if fate == (Fate::Used { untidy: true }) {
            self.has_untidy.store(true, Relaxed);
        }
        if let Some(late) = late {
            let (thread, held) = (late.thread, now.saturating_duration_since(late.since));
            sparingly!(
                log::Level::Info,
                "sessions that came back late",
                "{thread} gave the session back after {held:?}"
            );
        }
    }

    fn note_closed(&self, was_dead: bool) {
        self.metrics.closed.fetch_add(1, Relaxed);
        let mut state = self.lock();
        state.active -= 1;
        state.open -= 1;
        let dismissed = state.dismiss_if_down();
        drop(state);
        dismissed.into_iter().for_each(Served::wake);
        self.demand.notify_one();
        if was_dead {
            self.keeper.notify_one();
        }
    }
}

impl Settings {
    /// The pause between two rounds of the keeper. It is short enough for each time that the keeper watches.
    fn round(&self) -> Duration {
        let times =
            [self.idle_timeout, self.max_lifetime, self.keepalive_time, self.leak_detection_threshold];
        let shortest = times.into_iter().filter(|time| !time.is_zero()).min();
        shortest.map_or(ROUND, |shortest| (shortest / 8).min(ROUND))
    }
}

impl<T> State<T> {
    /// Takes an idle session: preferably the one that this thread had last, as HikariCP's `ConcurrentBag` does,
    /// otherwise the one that came back last. The server's process is then on the thread's core more often than not.
    /// The thread's own session is passed over when it would have to be validated first.
    fn take_idle(&mut self, thread: ThreadId, now: Instant) -> Option<Box<Entry<T>>> {
        let latest = self.idle.len().saturating_sub(LOOKED_AT);
        let is_own = |entry: &Entry<T>| entry.borrower == Some(thread) && !self.is_in_doubt(entry, now);
        let entry = match self.idle[latest..].iter().rposition(|entry| is_own(entry)) {
            Some(place) => self.idle.remove(latest + place),
            None => self.idle.pop()?,
        };
        self.active += 1;
        Some(entry)
    }

    fn take_idle_where(&mut self, mut is_wanted: impl FnMut(&Entry<T>) -> bool) -> Vec<Box<Entry<T>>> {
        let taken: Vec<_> = self.idle.extract_if(.., |entry| is_wanted(entry)).collect();
        self.active += u32::try_from(taken.len()).unwrap_or(u32::MAX);
        taken
    }

    fn join_line(
        &mut self,
        line_end: LineEnd,
        since: Instant,
    ) -> Result<Arc<Waiter<Box<Entry<T>>>>, Unavailable> {
        if let Some(failure) = self.down() {
            return Err(Unavailable::Down { reason: failure.reason().to_owned() });
        }
        if line_end == LineEnd::Back && self.line.len() >= self.settings.maximum_pending {
            return Err(Unavailable::Crowded { gauges: self.gauges() });
        }
        // It pays to open another session once the wait has lasted as long as an opening takes. In an empty pool it pays at
        // once.
        let patient_until = if self.open == 0 { since } else { since + self.open_cost };
        Ok(self.line.join(line_end, patient_until))
    }

    fn timeout(&self, since: Instant) -> Unavailable {
        let last_failure = self.failure.as_ref().map(|failure| failure.reason().to_owned());
        Unavailable::Timeout { waited: since.elapsed(), gauges: self.gauges(), last_failure }
    }

    /// The reason for sending a waiter away.
    fn nothing(&self, since: Instant) -> Unavailable {
        match &self.failure {
            Some(failure) => Unavailable::Down { reason: failure.reason().to_owned() },
            // The server is back already. A request that comes now is served.
            None => self.timeout(since),
        }
    }

    fn condition(&self, entry: &Entry<T>, now: Instant, until: Deadline) -> Condition {
        if self.is_useless(entry) {
            Condition::Useless
        } else if self.is_in_doubt(entry, now) {
            Condition::InDoubt { ask_until: until.within(self.settings.validation_timeout) }
        } else {
            Condition::Trusted
        }
    }

    /// Whether the session may have died since the server last showed that it is alive.
    fn is_in_doubt(&self, entry: &Entry<T>, now: Instant) -> bool {
        now.saturating_duration_since(entry.seen) >= self.settings.alive_bypass_window
            || self.suspicion.is_some_and(|since| entry.seen <= since)
    }

    fn is_useless(&self, entry: &Entry<T>) -> bool {
        entry.began < self.useful_since
    }

    /// Whether a session that comes back must be closed.
    fn is_over(&self, entry: &Entry<T>, now: Instant) -> bool {
        self.closed || now >= entry.expires || self.is_useless(entry) || self.open > self.settings.maximum
    }

    /// Orders a session if one is wanted. Returns the time by which it must be open.
    ///
    /// # Errors
    /// The time of the next check. `None`: there is none before the demand changes.
    fn order(&mut self, now: Instant) -> Result<Deadline, Option<Instant>> {
        if !self.wants_another(now) {
            return Err(None);
        }
        if let Some(failure) = &mut self.failure {
            failure.try_again(now).map_err(Some)?;
        }
        self.opening += 1;
        Ok(Deadline::at(now, self.settings.connection_timeout))
    }

    fn wants_another(&self, now: Instant) -> bool {
        let committed = self.open + self.opening;
        committed < self.settings.maximum
            && (committed < self.settings.minimum_idle
                // An opener has to notice when the server is back.
                || self.down().is_some()
                || self.line.impatient(now) > self.opening as usize)
    }

    /// Why there is no session and none can be opened.
    fn down(&self) -> Option<&Failure> {
        self.failure.as_ref().filter(|_| self.open == 0)
    }

    /// Sends all waiters away if the server is down.
    fn dismiss_if_down(&mut self) -> Vec<Served<Box<Entry<T>>>> {
        if self.down().is_some() { self.line.dismiss() } else { Vec::new() }
    }

    fn note_loan(&mut self, entry: &mut Entry<T>, since: Instant) {
        if self.settings.leak_detection_threshold.is_zero() {
            return;
        }
        self.loans_made += 1;
        entry.loan = self.loans_made;
        let thread = thread::current().name().unwrap_or("a thread without a name").to_owned();
        self.borrowers.insert(entry.loan, Borrower { thread, since, is_reported: false });
    }

    /// Returns the borrower if it was reported.
    fn end_loan(&mut self, entry: &mut Entry<T>) -> Option<Borrower> {
        self.borrowers.remove(&std::mem::take(&mut entry.loan)).filter(|borrower| borrower.is_reported)
    }

    fn gauges(&self) -> Gauges {
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

impl<T> Order<'_, T> {
    /// When the opening began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The session was opened. It arrives later, and counts as being opened until then.
    pub(super) fn fill(mut self) {
        self.is_settled = true;
        let mut state = self.stock.lock();
        let was_down = state.failure.take().is_some();
        state.open_cost = (state.open_cost * 3 + self.began.elapsed()) / 4;
        drop(state);
        if was_down {
            log::info!("the {} can be reached again", self.stock.server);
        }
        self.stock.demand.notify_all();
    }

    /// The session could not be opened.
    pub(super) fn fail(mut self, reason: String) {
        self.is_settled = true;
        let mut state = self.stock.lock();
        state.opening -= 1;
        let (failure, line) = Failure::after(state.failure.take(), reason, Instant::now());
        state.failure = Some(failure);
        let dismissed = state.dismiss_if_down();
        drop(state);
        dismissed.into_iter().for_each(Served::wake);
        if let Some(line) = line {
            log::error!("{line}");
        }
    }
}

impl<T> Drop for Order<'_, T> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.stock.lock().opening -= 1;
            self.stock.demand.notify_one();
        }
    }
}

impl<T> Loan<T> {
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn metrics(&self) -> &metrics::Pool {
        &self.stock.metrics
    }

    pub(super) fn server(&self) -> &'static str {
        self.stock.server
    }

    /// Gives the session back in this state.
    pub(super) fn end(&mut self, fate: Fate, now: Instant) {
        if let Some(entry) = self.entry.take() {
            self.stock.put(entry, fate, now);
        }
    }
}

impl<T> Drop for Loan<T> {
    fn drop(&mut self) {
        self.end(Fate::Unused, Instant::now());
    }
}

impl<T> Deref for Loan<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.entry.as_ref().expect("the loan has not ended").session
    }
}

impl<T> DerefMut for Loan<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.entry.as_mut().expect("the loan has not ended").session
    }
}

#[cfg(test)]
mod tests;
