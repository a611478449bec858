//! The current state of each worker, and the time that its request spends in each state.
//!
//! The worker writes and other threads read, with relaxed atomics and without a lock. A worker keeps one activity for
//! all its requests. It lends the activity to the sessions that it borrows, so that they note their waits. Single waits
//! are kept only for a recorded request, behind a lock that no other thread takes.

use std::borrow::Cow;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The states of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WorkerState {
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

/// Every state with its name.
const WORKER_STATES: [(WorkerState, &str); 5] = [
    (WorkerState::Idle, "idle"),
    (WorkerState::Handler, "handler"),
    (WorkerState::Pool, "pool"),
    (WorkerState::Database, "database"),
    (WorkerState::Write, "write"),
];

impl WorkerState {
    /// Its name.
    pub fn name(self) -> &'static str {
        WORKER_STATES[self as usize].1
    }
}

/// One worker's activity. Clones belong to the same worker. Nobody reads the activity of [`Activity::default`].
#[derive(Clone, Debug)]
pub struct Activity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The times below count from here.
    epoch: Instant,
    state: AtomicU8,
    /// The id of the request's endpoint.
    endpoint: AtomicU32,
    /// When the worker took the request. The next field is the request's deadline.
    began_ns: AtomicU64,
    deadline_ns: AtomicU64,
    /// When the current state began.
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
    pub state: WorkerState,
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
pub struct Snapshot {
    /// The current state.
    pub state: WorkerState,
    /// How long the state has lasted.
    pub time_in_state: Duration,
    /// The id of the endpoint of its request.
    pub endpoint: u32,
    /// How long the worker has had the request.
    pub time_on_request: Duration,
    /// Whether the request's deadline has passed.
    pub is_overdue: bool,
}

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Shared {
            epoch: Instant::now(),
            state: AtomicU8::default(),
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
        let shared = &*self.0;
        let now = shared.time(now);
        shared.endpoint.store(endpoint, Relaxed);
        shared.began_ns.store(now, Relaxed);
        shared.deadline_ns.store(shared.time(deadline), Relaxed);
        shared.pool_ns.store(0, Relaxed);
        shared.database_ns.store(0, Relaxed);
        // A poller may have answered the request before this one, so that nobody took its waits.
        shared.records.store(false, Relaxed);
        shared.set(WorkerState::Handler, now);
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

    /// Notes that the worker changes its state.
    pub fn turn_to(&self, state: WorkerState, now: Instant) {
        self.0.set(state, self.0.time(now));
    }

    /// The worker waits for a session or the database until the guard is dropped. Of nested waits only the outermost
    /// counts.
    pub fn wait_for(&self, state: WorkerState) -> Waiting<'_> {
        self.waiting(state, Instant::now)
    }

    /// Like [`wait_for`](Self::wait_for), for a caller that has read the clock already.
    pub fn wait_since(&self, state: WorkerState, since: Instant) -> Waiting<'_> {
        self.waiting(state, || since)
    }

    fn waiting(&self, state: WorkerState, now: impl FnOnce() -> Instant) -> Waiting<'_> {
        let shared = &*self.0;
        let before = shared.state.load(Relaxed);
        let within = before == WorkerState::Pool as u8 || before == WorkerState::Database as u8;
        let since = (!within).then(now);
        if let Some(since) = since {
            shared.set(state, shared.time(since));
        }
        let kept = (!within && shared.records.load(Relaxed)).then(WaitDetails::default);
        Waiting { shared, state, before, since, until: None, kept }
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
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let shared = &*self.0;
        let now = shared.time(now);
        let since = |then: &AtomicU64| Duration::from_nanos(now.saturating_sub(then.load(Relaxed)));
        let state = WORKER_STATES[usize::from(shared.state.load(Relaxed)) % WORKER_STATES.len()].0;
        let is_overdue = state != WorkerState::Idle && now > shared.deadline_ns.load(Relaxed);
        Snapshot {
            state,
            time_in_state: since(&shared.since_ns),
            endpoint: shared.endpoint.load(Relaxed),
            time_on_request: since(&shared.began_ns),
            is_overdue,
        }
    }
}

impl Shared {
    fn time(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: WorkerState, now: u64) {
        self.since_ns.store(now, Relaxed);
        self.state.store(state as u8, Relaxed);
    }
}

/// See [`Activity::wait_for`].
#[must_use]
pub struct Waiting<'a> {
    shared: &'a Shared,
    state: WorkerState,
    before: u8,
    /// `None` within another wait.
    since: Option<Instant>,
    /// The end of the wait, if the caller has read the clock already.
    until: Option<Instant>,
    /// The wait to keep, if the request is recorded.
    kept: Option<WaitDetails>,
}

#[derive(Default)]
struct WaitDetails {
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
        let Some(WaitDetails { name, error }) = self.kept.take() else { return };
        if name.is_empty() && self.state == WorkerState::Database {
            return;
        }
        let mut waits = self.shared.waits();
        if waits.kept.len() < WAITS_MAX {
            waits.kept.push(Wait { state: self.state, name, since, took, error });
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
        let sum =
            if self.state == WorkerState::Pool { &self.shared.pool_ns } else { &self.shared.database_ns };
        sum.fetch_add(spent, Relaxed);
        self.shared.since_ns.store(self.shared.time(now), Relaxed);
        self.shared.state.store(self.before, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_names_is_in_the_order_of_the_states() {
        for (index, (state, _)) in WORKER_STATES.into_iter().enumerate() {
            assert_eq!(state as usize, index, "the table is in the order of the enum");
        }
    }

    #[test]
    fn a_wait_counts_once_and_for_its_own_state() {
        let activity = Activity::default();
        let now = Instant::now();
        activity.begin(7, now, now + Duration::from_secs(5));
        let outer = activity.wait_for(WorkerState::Database);
        let inner = activity.wait_for(WorkerState::Pool);
        assert_eq!(activity.snapshot(Instant::now()).state, WorkerState::Database);
        drop(inner);
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_millis(1) {}
        drop(outer);
        let spent = activity.spent();
        assert_eq!(spent.pool, Duration::ZERO);
        assert!(spent.database >= Duration::from_millis(1));
        let snapshot = activity.snapshot(Instant::now());
        assert_eq!(
            (snapshot.state, snapshot.endpoint, snapshot.is_overdue),
            (WorkerState::Handler, 7, false)
        );
        assert!(snapshot.time_on_request >= spent.database);
        activity.begin(8, Instant::now(), now);
        assert_eq!(activity.spent(), Spent::default());
        assert!(activity.snapshot(Instant::now() + Duration::from_millis(1)).is_overdue);
    }

    #[test]
    fn only_named_waits_of_recorded_requests_are_kept_up_to_a_limit() {
        let activity = Activity::default();
        let kind = |error: &&'static str| Cow::Borrowed(*error);
        let wait = |state, name| {
            let waiting = activity.wait_for(state).on(|| Cow::Borrowed(name));
            let inner = activity.wait_for(WorkerState::Database).on(|| Cow::Borrowed("within"));
            drop(inner);
            waiting.end(Err::<(), _>("57014"), kind).expect_err("as it was");
        };
        wait(WorkerState::Database, "unseen");
        assert!(activity.take_waits().kept.is_empty());
        activity.record();
        wait(WorkerState::Pool, "");
        wait(WorkerState::Database, "");
        (0..=WAITS_MAX).for_each(|_| wait(WorkerState::Database, "statement"));
        let waits = activity.take_waits();
        assert_eq!((waits.kept.len(), waits.missed), (WAITS_MAX, 2));
        let of = |at: usize| (waits.kept[at].state, &*waits.kept[at].name, waits.kept[at].error.as_deref());
        assert_eq!(of(0), (WorkerState::Pool, "", Some("57014")));
        assert_eq!(of(1), (WorkerState::Database, "statement", Some("57014")));
        wait(WorkerState::Database, "unseen");
        assert!(activity.take_waits().kept.is_empty());
        activity.record();
        activity.begin(7, Instant::now(), Instant::now());
        wait(WorkerState::Database, "another request's");
        assert!(activity.take_waits().kept.is_empty());
    }
}
