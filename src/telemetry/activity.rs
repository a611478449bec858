//! The current activity of each worker, and the time that its request spends in each.
//!
//! The worker writes and other threads read, with relaxed atomics and without a lock. A worker keeps one activity for
//! all its requests. It lends the activity to the sessions that it borrows, so that they note their waits. Single waits
//! are kept only for a recorded request, behind a lock that no other thread takes.

use std::borrow::Cow;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The possible activities of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// The worker waits for a request.
    Idle = 0,
    /// The worker runs the handler, outside of the waits below.
    Handler = 1,
    /// The worker waits for a session.
    Pool = 2,
    /// The worker waits for the database, from a statement's beginning to its last row.
    Database = 3,
    /// The worker writes the answer.
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

/// One worker's activity. Clones belong to the same worker. Nobody reads the activity of [`Activity::default`].
#[derive(Clone, Debug)]
pub struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    /// The times below count from here.
    epoch: Instant,
    doing: AtomicU8,
    /// The id of the request's endpoint.
    endpoint: AtomicU32,
    /// When the worker took the request. The next field is the request's deadline.
    began_ns: AtomicU64,
    deadline_ns: AtomicU64,
    /// When the current activity began.
    since_ns: AtomicU64,
    /// The time that the request has spent so far: on waits for a session, and then on statements.
    pool_ns: AtomicU64,
    database_ns: AtomicU64,
    /// Whether each wait of the request is kept.
    records: AtomicBool,
    waits: Mutex<Waits>,
}

/// The waits of one request, in the order in which they ended.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    /// The first [`WAITS_MAX`] waits.
    pub kept: Vec<Wait>,
    /// The number of further waits.
    pub missed: u32,
}

/// The number of events that OpenTelemetry allows for a span. A handler may run a statement for each of a million rows,
/// and these waits must not fill the memory.
pub const WAITS_MAX: usize = 128;

/// One wait of a request.
#[derive(Clone, Debug)]
pub struct Wait {
    /// For a session or for the database.
    pub doing: Doing,
    /// The name of the statement, or what the statement does. Empty for a session.
    pub name: Cow<'static, str>,
    /// When the wait began.
    pub since: Instant,
    /// The length of the wait.
    pub took: Duration,
    /// The kind of failure that ended the wait.
    pub error: Option<Cow<'static, str>>,
}

/// The time that a request has spent at its worker so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// On waits for a session.
    pub pool: Duration,
    /// On statements.
    pub database: Duration,
}

/// A worker's activity at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The current activity.
    pub doing: Doing,
    /// How long the activity has lasted.
    pub for_so_long: Duration,
    /// The id of the endpoint of its request.
    pub endpoint: u32,
    /// How long the worker has had the request.
    pub with_request: Duration,
    /// Whether the request's deadline has passed.
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
    /// Begins a request.
    pub fn begin(&self, endpoint: u32, now: Instant, deadline: Instant) {
        let state = &*self.0;
        let now = state.time(now);
        state.endpoint.store(endpoint, Relaxed);
        state.began_ns.store(now, Relaxed);
        state.deadline_ns.store(state.time(deadline), Relaxed);
        state.pool_ns.store(0, Relaxed);
        state.database_ns.store(0, Relaxed);
        // A poller may have answered the request before this one, so that nobody took its waits.
        state.records.store(false, Relaxed);
        state.set(Doing::Handler, now);
    }

    /// Keeps each wait from now on, until the waits are taken.
    pub fn record(&self) {
        *self.0.waits() = Waits::default();
        self.0.records.store(true, Relaxed);
    }

    /// Takes the waits that were kept.
    pub fn take_waits(&self) -> Waits {
        self.0.records.store(false, Relaxed);
        mem::take(&mut *self.0.waits())
    }

    /// Notes that the worker begins another activity.
    pub fn turn_to(&self, doing: Doing, now: Instant) {
        self.0.set(doing, self.0.time(now));
    }

    /// The worker waits for a session or the database until the guard is dropped. Of nested waits only the outermost
    /// counts.
    pub fn wait_for(&self, doing: Doing) -> Waiting<'_> {
        self.waiting(doing, Instant::now)
    }

    /// Like [`wait_for`](Self::wait_for), for a caller that has read the clock already.
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

    /// Adds time that a caller has measured itself.
    pub fn spend(&self, spent: Spent) {
        let count = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.pool_ns.store(count(spent.pool), Relaxed);
        self.0.database_ns.store(count(spent.database), Relaxed);
    }

    /// The time that the request has spent so far.
    pub fn spent(&self) -> Spent {
        Spent {
            pool: Duration::from_nanos(self.0.pool_ns.load(Relaxed)),
            database: Duration::from_nanos(self.0.database_ns.load(Relaxed)),
        }
    }

    /// The worker's activity at this moment. Each part is right by itself, but two parts may belong to two moments.
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
    /// The end of the wait, if the caller has read the clock already.
    until: Option<Instant>,
    /// The wait to keep, if the request is recorded.
    kept: Option<Kept>,
}

#[derive(Default)]
struct Kept {
    name: Cow<'static, str>,
    error: Option<Cow<'static, str>>,
}

impl Waiting<'_> {
    /// Names the wait. Without a name only a wait for a session is kept.
    pub fn on(mut self, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        if let Some(kept) = &mut self.kept {
            kept.name = name();
        }
        self
    }

    /// Ends the wait at `now`, for a caller that has read the clock already.
    pub fn until(mut self, now: Instant) -> Self {
        self.until = Some(now);
        self
    }

    /// Ends the wait with this result and returns it. `kind` names the kind of a failure.
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
    fn a_wait_counts_once_and_for_its_own_activity() {
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
    fn only_named_waits_of_recorded_requests_are_kept_up_to_a_limit() {
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
