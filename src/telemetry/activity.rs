//! What a worker does now, and where the time of its request goes.
//!
//! The worker writes, whoever looks reads: relaxed atomics, no lock. A worker keeps one for all its requests, and lends it to
//! the connections that it borrows, so that they note what they wait for. Only of a request that is recorded is each wait kept,
//! behind a lock that nobody else takes.

use std::borrow::Cow;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// Waits for a request.
    Idle = 0,
    /// Runs its handler, which does neither of the others.
    Handler = 1,
    /// Waits for a database connection.
    Pool = 2,
    /// Waits for the database: from a statement's beginning to its last row.
    Database = 3,
    /// Writes the answer.
    Write = 4,
}

/// Every activity with its name.
const DOINGS: [(Doing, &str); 5] = [
    (Doing::Idle, "idle"),
    (Doing::Handler, "handler"),
    (Doing::Pool, "pool"),
    (Doing::Database, "database"),
    (Doing::Write, "write"),
];

impl Doing {
    /// Its name.
    pub fn name(self) -> &'static str {
        DOINGS[self as usize].1
    }
}

/// One worker's activity. Clones are of the same worker; of [`Activity::default`] nobody looks.
#[derive(Clone, Debug)]
pub struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    /// Times below count from here.
    epoch: Instant,
    doing: AtomicU8,
    /// Which endpoint's request.
    endpoint: AtomicU32,
    /// Since when the worker has had the request, and by when it is to be answered.
    began_ns: AtomicU64,
    deadline_ns: AtomicU64,
    /// Since when it does what it does.
    since_ns: AtomicU64,
    /// What the request has spent so far.
    pool_ns: AtomicU64,
    database_ns: AtomicU64,
    /// Whether each wait of the request is kept.
    records: AtomicBool,
    waits: Mutex<Waits>,
}

/// The waits of one request, in the order in which they ended.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    /// The first [`WAITS_MAX`] of them.
    pub kept: Vec<Wait>,
    /// How many more there were.
    pub missed: u32,
}

/// As many as OpenTelemetry lets a span have events: a handler that runs a statement for each of a million rows is not to fill
/// the memory with them.
pub const WAITS_MAX: usize = 128;

/// What a request waited for.
#[derive(Clone, Debug)]
pub struct Wait {
    /// A connection, or the database.
    pub doing: Doing,
    /// The statement's name, or what it does; empty for a connection.
    pub name: Cow<'static, str>,
    /// Since when.
    pub since: Instant,
    /// For how long.
    pub took: Duration,
    /// What kind of failure it ended with.
    pub error: Option<Cow<'static, str>>,
}

/// What a request has spent with its worker so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// On waits for a connection.
    pub pool: Duration,
    /// On statements.
    pub database: Duration,
}

/// A worker, as it is seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// What it does.
    pub doing: Doing,
    /// For how long.
    pub for_so_long: Duration,
    /// Which endpoint's request it has.
    pub endpoint: u32,
    /// For how long it has had it.
    pub with_request: Duration,
    /// Whether that should have been answered.
    pub is_overdue: bool,
}

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(State {
            epoch: Instant::now(),
            doing: AtomicU8::default(),
            endpoint: AtomicU32::default(),
            began_ns: AtomicU64::default(),
            deadline_ns: AtomicU64::default(),
            since_ns: AtomicU64::default(),
            pool_ns: AtomicU64::default(),
            database_ns: AtomicU64::default(),
            records: AtomicBool::default(),
            waits: Mutex::default(),
        }))
    }
}

impl Activity {
    /// A request begins.
    pub fn begin(&self, endpoint: u32, now: Instant, deadline: Instant) {
        let state = &*self.0;
        let now = state.time(now);
        state.endpoint.store(endpoint, Relaxed);
        state.began_ns.store(now, Relaxed);
        state.deadline_ns.store(state.time(deadline), Relaxed);
        state.pool_ns.store(0, Relaxed);
        state.database_ns.store(0, Relaxed);
        // The one before may have been answered by somebody else, so that nobody took its waits.
        state.records.store(false, Relaxed);
        state.set(Doing::Handler, now);
    }

    /// From now on each wait is kept, until they are taken.
    pub fn record(&self) {
        *self.0.waits() = Waits::default();
        self.0.records.store(true, Relaxed);
    }

    /// The waits that were kept.
    pub fn take_waits(&self) -> Waits {
        self.0.records.store(false, Relaxed);
        mem::take(&mut *self.0.waits())
    }

    /// The worker does something else from now on.
    pub fn turn_to(&self, doing: Doing, now: Instant) {
        self.0.set(doing, self.0.time(now));
    }

    /// Until the guard is dropped the worker waits for a connection or the database. Of waits within a wait the outermost
    /// counts.
    pub fn wait_for(&self, doing: Doing) -> Waiting<'_> {
        self.waiting(doing, Instant::now)
    }

    /// The same by who has looked at the clock already.
    pub fn wait_since(&self, doing: Doing, since: Instant) -> Waiting<'_> {
        self.waiting(doing, || since)
    }

    fn waiting(&self, doing: Doing, now: impl FnOnce() -> Instant) -> Waiting<'_> {
        let state = &*self.0;
        let before = state.doing.load(Relaxed);
        let within = before == Doing::Pool as u8 || before == Doing::Database as u8;
        let since = (!within).then(now);
        if let Some(since) = since {
            state.set(doing, state.time(since));
        }
        let kept = (!within && state.records.load(Relaxed)).then(Kept::default);
        Waiting { state, doing, before, since, until: None, kept }
    }

    /// The request has spent this, as somebody knows who has looked at the clock.
    pub fn spend(&self, spent: Spent) {
        let count = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.pool_ns.store(count(spent.pool), Relaxed);
        self.0.database_ns.store(count(spent.database), Relaxed);
    }

    /// What the request has spent so far.
    pub fn spent(&self) -> Spent {
        Spent {
            pool: Duration::from_nanos(self.0.pool_ns.load(Relaxed)),
            database: Duration::from_nanos(self.0.database_ns.load(Relaxed)),
        }
    }

    /// What the worker does at this moment. Each part is right by itself; together they may be of two moments.
    pub fn look(&self, now: Instant) -> Look {
        let state = &*self.0;
        let now = state.time(now);
        let since = |then: &AtomicU64| Duration::from_nanos(now.saturating_sub(then.load(Relaxed)));
        let doing = DOINGS[usize::from(state.doing.load(Relaxed)) % DOINGS.len()].0;
        let is_overdue = doing != Doing::Idle && now > state.deadline_ns.load(Relaxed);
        Look {
            doing,
            for_so_long: since(&state.since_ns),
            endpoint: state.endpoint.load(Relaxed),
            with_request: since(&state.began_ns),
            is_overdue,
        }
    }
}

impl State {
    fn time(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, doing: Doing, now: u64) {
        self.since_ns.store(now, Relaxed);
        self.doing.store(doing as u8, Relaxed);
    }
}

/// See [`Activity::wait_for`].
#[must_use]
pub struct Waiting<'a> {
    state: &'a State,
    doing: Doing,
    before: u8,
    /// `None` within another wait.
    since: Option<Instant>,
    /// Where somebody has looked at the clock already.
    until: Option<Instant>,
    /// What is kept of it, where the request is recorded.
    kept: Option<Kept>,
}

#[derive(Default)]
struct Kept {
    name: Cow<'static, str>,
    error: Option<Cow<'static, str>>,
}

impl Waiting<'_> {
    /// Says what is waited for. What has no name is not kept, but for the wait for a connection.
    pub fn on(mut self, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        if let Some(kept) = &mut self.kept {
            kept.name = name();
        }
        self
    }

    /// It ends now, as somebody knows who has looked at the clock.
    pub fn until(mut self, now: Instant) -> Self {
        self.until = Some(now);
        self
    }

    /// It has come to this end, which is handed back; `kind` says what kind of failure one is.
    pub fn end<T, E>(
        mut self,
        ended: Result<T, E>,
        kind: impl FnOnce(&E) -> Cow<'static, str>,
    ) -> Result<T, E> {
        if let (Some(kept), Err(error)) = (&mut self.kept, &ended) {
            kept.error = Some(kind(error));
        }
        ended
    }

    fn keep(&mut self, since: Instant, took: Duration) {
        let Some(Kept { name, error }) = self.kept.take() else { return };
        if name.is_empty() && self.doing == Doing::Database {
            return;
        }
        let mut waits = self.state.waits();
        if waits.kept.len() < WAITS_MAX {
            waits.kept.push(Wait { doing: self.doing, name, since, took, error });
        } else {
            waits.missed += 1;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(since) = self.since else { return };
        let now = self.until.unwrap_or_else(Instant::now);
        self.keep(since, now - since);
        let spent = u64::try_from((now - since).as_nanos()).unwrap_or(u64::MAX);
        let sum = if self.doing == Doing::Pool { &self.state.pool_ns } else { &self.state.database_ns };
        sum.fetch_add(spent, Relaxed);
        self.state.since_ns.store(self.state.time(now), Relaxed);
        self.state.doing.store(self.before, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_activity_has_its_own_name() {
        for (index, (doing, _)) in DOINGS.into_iter().enumerate() {
            assert_eq!(doing as usize, index, "the table is in the order of the enum");
        }
    }

    #[test]
    fn a_wait_counts_for_what_was_waited_for_and_once() {
        let activity = Activity::default();
        let now = Instant::now();
        activity.begin(7, now, now + Duration::from_secs(5));
        let outer = activity.wait_for(Doing::Database);
        let inner = activity.wait_for(Doing::Pool);
        assert_eq!(activity.look(Instant::now()).doing, Doing::Database);
        drop(inner);
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_millis(1) {}
        drop(outer);
        let spent = activity.spent();
        assert_eq!(spent.pool, Duration::ZERO);
        assert!(spent.database >= Duration::from_millis(1));
        let look = activity.look(Instant::now());
        assert_eq!((look.doing, look.endpoint, look.is_overdue), (Doing::Handler, 7, false));
        assert!(look.with_request >= spent.database);
        activity.begin(8, Instant::now(), now);
        assert_eq!(activity.spent(), Spent::default());
        assert!(activity.look(Instant::now() + Duration::from_millis(1)).is_overdue);
    }

    #[test]
    fn only_named_waits_of_a_recorded_request_are_kept_and_not_too_many() {
        let activity = Activity::default();
        let kind = |error: &&'static str| Cow::Borrowed(*error);
        let wait = |doing, name| {
            let waiting = activity.wait_for(doing).on(|| Cow::Borrowed(name));
            let inner = activity.wait_for(Doing::Database).on(|| Cow::Borrowed("within"));
            drop(inner);
            waiting.end(Err::<(), _>("57014"), kind).expect_err("as it was");
        };
        wait(Doing::Database, "unseen");
        assert!(activity.take_waits().kept.is_empty());
        activity.record();
        wait(Doing::Pool, "");
        wait(Doing::Database, "");
        (0..=WAITS_MAX).for_each(|_| wait(Doing::Database, "statement"));
        let waits = activity.take_waits();
        assert_eq!((waits.kept.len(), waits.missed), (WAITS_MAX, 2));
        let of = |at: usize| (waits.kept[at].doing, &*waits.kept[at].name, waits.kept[at].error.as_deref());
        assert_eq!(of(0), (Doing::Pool, "", Some("57014")));
        assert_eq!(of(1), (Doing::Database, "statement", Some("57014")));
        wait(Doing::Database, "unseen");
        assert!(activity.take_waits().kept.is_empty());
        activity.record();
        activity.begin(7, Instant::now(), Instant::now());
        wait(Doing::Database, "another request's");
        assert!(activity.take_waits().kept.is_empty());
    }
}
