//! The bounded queue of jobs and its admission.
//!
//! Pollers push jobs, and withdraw a job whose client left or whose time is over. They never wait; workers wait for jobs. A job
//! whose wait would be too long is refused when it comes. So a refusal takes no time, and a worker rarely gets a job that nobody
//! waits for. The queue does not know what a job is.
//!
//! [`Queue::wake`] takes the worker that parked last: its stack and its session are still in the core's cache. A worker looks
//! for another job before it parks, so nobody is woken while jobs wait. Beside its first job, a worker may take a batch: the
//! further jobs that can run together with the first and would otherwise only wait.
//!
//! The files: `lane` decides on admission, `jobs` holds the lists, `parked` is a waiting worker, `pace` counts for the pacer.

mod jobs;
mod lane;
mod pace;
mod parked;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::base::system::Bell;

pub use self::jobs::Key;
use self::jobs::{Jobs, Node};
use self::lane::Lane;
pub use self::lane::LaneSpec;
use self::pace::Pace;
pub use self::pace::Usage;
use self::parked::Parked;

/// The order of jobs that wait at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Runs after all other jobs.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Runs before all other jobs.
    High,
}

/// The limits of the queue; see the keys of the same names in `[queue]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The number of jobs that may wait, in all lanes together.
    pub max_length: usize,
    /// Waits up to this are normal. Longer ones are accepted for `interval` only.
    pub target: Duration,
    /// How long waits may exceed the target, and the longest wait that a burst may cause.
    pub interval: Duration,
}

impl Limits {
    /// The longest wait that a burst may cause. Waits up to the target are normal, also where it is above the interval.
    fn burst(&self) -> Duration {
        self.interval.max(self.target)
    }
}

/// The queue. Cheap to clone.
pub struct Queue<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    jobs: Jobs<T>,
    lanes: Vec<Lane>,
    limits: Limits,
    /// The configured number of workers. Workers beyond it end when they ask for a job.
    workers: usize,
    /// The number of workers that there are.
    present: usize,
    /// The number of workers that have a job, with or without a batch.
    running: usize,
    /// How many workers may have one.
    busy_max: usize,
    /// The most jobs that a worker takes at once.
    batch_max: usize,
    /// Workers that wait for a job. The last of them parked last.
    parked: Vec<Arc<Parked>>,
    /// The number of workers that were woken and have not taken the lock yet.
    woken: usize,
    /// Workers that wait for the database and can take further jobs meanwhile.
    listening: Vec<Arc<Bell>>,
    /// The number of these whose bell was rung and that have not taken the lock yet.
    rung: usize,
    closed: bool,
    pace: Pace,
}

/// A job that was not admitted.
#[derive(Debug)]
pub struct Refused<T> {
    /// The job.
    pub job: T,
    /// The reason.
    pub refusal: Refusal,
    /// The time until workers will have taken the jobs in the same lane. Zero while no service time is known.
    pub drains_in: Duration,
}

/// Why a job was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full, or closed.
    Full,
    /// The job would wait too long.
    Shed,
}

/// Comes with a job. The worker gives it back when the job is done, so that the queue knows how long the job took.
#[derive(Debug)]
pub struct Ticket {
    began: Instant,
    /// The worker's time up to this moment is divided among its jobs already.
    divided: Instant,
    /// The origin of the first job, until that has ended or was returned.
    first: Option<Origin>,
    /// The origins of the other jobs that the worker has.
    others: Vec<Origin>,
    /// The origins of the jobs that have ended since `divided`.
    ended: Vec<Origin>,
    /// Whether the first job is stale.
    is_stale: bool,
}

/// The lane of a job, whether the job is stale, and since when it waited.
#[derive(Clone, Copy, Debug)]
struct Origin {
    lane: usize,
    stale: bool,
    since: Instant,
}

/// The further jobs that a worker takes, without its first.
#[derive(Debug)]
pub struct Batch<T> {
    /// How many jobs it may hold, without the first.
    pub max: usize,
    /// The jobs, each with whether it [is stale](Ticket::is_stale).
    pub jobs: Vec<(T, bool)>,
}

impl<T> Batch<T> {
    /// A batch that may hold no job.
    pub fn none() -> Self {
        Self { max: 0, jobs: Vec::new() }
    }
}

/// The result of looking for jobs that can join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The worker has taken some at this time.
    Taken(Instant),
    /// No job waits. The worker listens for one.
    Listening,
    /// A job waits that did not fit.
    Refused,
}

/// Whether a free worker could start the job that may join a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// No: all workers are busy, or have enough other jobs to start.
    AllBusy,
    /// Yes.
    SomeFree,
}

/// The queue at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gauges {
    /// The number of jobs that wait.
    pub length: usize,
    /// How many may wait.
    pub max_length: usize,
    /// The wait of the oldest job so far.
    pub oldest: Duration,
    /// The configured number of workers.
    pub workers: usize,
    /// The number of workers that there are.
    pub present: usize,
    /// The number of workers that have a job.
    pub running: usize,
    /// How many may have one; see [`Queue::set_busy_max`].
    pub busy_max: usize,
}

impl Ticket {
    /// Whether the job is to be refused rather than run: its lane is overloaded (`Lane::standing`), and it waited too long.
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// When the worker took the job.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Notes that a job of this lane has ended, while the worker goes on with others.
    pub fn end_job(&mut self, lane: usize, is_stale: bool) {
        let is_it = |origin: &Origin| origin.lane == lane && origin.stale == is_stale;
        let first = self.first.take_if(|first| is_it(first));
        let other = || self.others.iter().position(is_it).map(|other| self.others.remove(other));
        let ended = first.or_else(other);
        self.ended.extend(ended);
    }

    /// Removes the last job of this lane, as jobs are returned. Returns its origin.
    fn forget(&mut self, lane: usize) -> Option<Origin> {
        let other = self.others.iter().rposition(|origin| origin.lane == lane);
        let other = other.map(|other| self.others.remove(other));
        other.or_else(|| self.first.take_if(|first| first.lane == lane))
    }
}

impl<T> Queue<T> {
    /// An empty queue for this number of workers.
    pub fn new(limits: Limits, workers: usize) -> Self {
        let state = State {
            jobs: Jobs::new(),
            lanes: Vec::new(),
            limits,
            workers,
            present: 0,
            running: 0,
            batch_max: 1,
            busy_max: usize::MAX,
            parked: Vec::new(),
            woken: 0,
            listening: Vec::new(),
            rung: 0,
            closed: false,
            pace: Pace::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Returns the index of the lane for each specification, in their order, and makes the missing lanes. A lane that exists
    /// takes the new specification. Lanes that `specs` leaves out keep their jobs. Workers are woken for jobs that may run now.
    pub fn lanes(&self, specs: &[LaneSpec]) -> Vec<usize> {
        let mut state = self.lock();
        let lanes = specs.iter().map(|spec| state.lane(spec)).collect();
        let workers = std::iter::from_fn(|| state.worker_to_wake()).collect();
        wake(state, workers);
        lanes
    }

    /// Adds a job at the end of its lane. Wakes no worker: a poller adds several jobs and then calls [`wake`](Self::wake) once.
    ///
    /// # Errors
    /// Hands the job back when it would wait too long, when the queue is full, or when it is closed.
    pub fn push(&self, lane: usize, job: T) -> Result<Key, Refused<T>> {
        self.push_since(lane, job, Instant::now(), false)
    }

    /// Adds a job that has waited since a moment that has just passed. With `joins` the job most likely joins a batch, so that one
    /// worker is woken for several of them.
    ///
    /// # Errors
    /// As with [`push`](Self::push).
    pub fn push_since(&self, lane: usize, job: T, since: Instant, joins: bool) -> Result<Key, Refused<T>> {
        self.lock().push(lane, job, since, joins)
    }

    /// Wakes a worker for every waiting job that no awake worker is about to take.
    pub fn wake(&self) {
        let mut state = self.lock();
        let workers = std::iter::from_fn(|| state.worker_to_wake()).collect();
        wake(state, workers);
    }

    /// Takes the jobs that wait and can join those that the worker has, at most `batch.max`. If none waits, the worker listens: its
    /// bell rings when one comes, until [`stop_listening`](Self::stop_listening).
    pub fn join(
        &self,
        ticket: &mut Ticket,
        batch: &mut Batch<T>,
        bell: &Arc<Bell>,
        joins: impl FnMut(&T, Load) -> bool,
    ) -> Joined {
        let now = Instant::now();
        let mut state = self.lock();
        if !ticket.ended.is_empty() {
            state.divide(ticket.divided, now, ticket.ended.iter().copied());
            ticket.divided = now;
            ticket.ended.clear();
        }
        state.take_batch(ticket, now, batch, joins);
        let has_refused = batch.jobs.is_empty() && state.first().is_some_and(|job| state.jobs.get(job).joins);
        if has_refused || !batch.jobs.is_empty() {
            wake_one(state);
            return if has_refused { Joined::Refused } else { Joined::Taken(now) };
        }
        state.listening.push(Arc::clone(bell));
        // A job that has ended may have made room in its lane for one that cannot join.
        wake_one(state);
        Joined::Listening
    }

    /// The worker's bell does not ring any more. Returns whether it has rung: jobs are waiting.
    pub fn stop_listening(&self, bell: &Arc<Bell>) -> bool {
        let mut state = self.lock();
        if let Some(known) = state.listening.iter().position(|listening| Arc::ptr_eq(listening, bell)) {
            state.listening.swap_remove(known);
            return false;
        }
        state.rung -= 1;
        drop(state);
        bell.silence();
        true
    }

    /// Returns an unfinished job to the front of the queue, before all others of its priority, and removes it from the ticket.
    /// Of several jobs the last is returned first. The job has waited since it came, so that its lane knows how long requests
    /// wait while batches stall. For `joins` see [`push_since`](Self::push_since).
    pub fn return_job(&self, ticket: &mut Ticket, lane: usize, job: T, joins: bool) {
        let mut state = self.lock();
        let origin = ticket.forget(lane);
        if origin.is_some() {
            state.lanes[lane].running -= 1;
        }
        let since = origin.map_or_else(Instant::now, |origin| origin.since);
        let State { jobs, lanes, .. } = &mut *state;
        jobs.prepend(lanes, lane, job, since, joins);
        wake_one(state);
    }

    /// Takes a job back, if no worker has taken it.
    pub fn withdraw(&self, key: Key) -> Option<T> {
        let mut state = self.lock();
        let State { jobs, lanes, .. } = &mut *state;
        jobs.withdraw(lanes, key)
    }

    /// Takes the next job and waits for one as long as needed. `done` is the ticket of the worker's last job. Returns `None`
    /// when the worker is to end: the queue is closed and empty, or there are more workers than there are to be.
    pub fn next(&self, done: Option<Ticket>) -> Option<(T, Ticket)> {
        self.next_batch(done, &mut Batch::none(), |_, _| false)
    }

    /// Takes the next job, and the following jobs that can join it. `joins` is asked for one job after another, the first included,
    /// until it says that a job cannot join.
    pub fn next_batch(
        &self,
        done: Option<Ticket>,
        batch: &mut Batch<T>,
        mut joins: impl FnMut(&T, Load) -> bool,
    ) -> Option<(T, Ticket)> {
        let mut now = Instant::now();
        let mut state = self.lock();
        state.batch_max = 1 + batch.max;
        if let Some(done) = done {
            state.finish(&done, now);
        }
        loop {
            if state.present > state.workers {
                break;
            }
            if state.is_at_busy_max() {
                if state.first().is_some() {
                    state.pace.hold_back();
                }
            } else if let Some((job, mut ticket)) = state.take(now) {
                if batch.max > 0 && joins(&job, Load::AllBusy) {
                    state.take_batch(&mut ticket, now, batch, joins);
                }
                wake_one(state);
                return Some((job, ticket));
            }
            if state.closed && state.jobs.is_empty() {
                break;
            }
            let parked = Arc::new(Parked::this_thread());
            state.parked.push(Arc::clone(&parked));
            drop(state);
            parked.wait();
            state = self.lock();
            state.woken -= 1;
            now = Instant::now();
        }
        state.present -= 1;
        // The job that woke this worker is left to another one. When a closed queue becomes empty, no job wakes the others.
        if state.closed {
            wake_all(state);
        } else {
            wake_one(state);
        }
        None
    }

    /// The number of workers that there are.
    pub fn workers_present(&self) -> usize {
        self.lock().present
    }

    /// Announces a worker that is about to ask for jobs.
    pub fn add_worker(&self) {
        self.lock().present += 1;
    }

    /// Withdraws the announcement of a worker that could not be started.
    pub fn remove_worker(&self) {
        self.lock().present -= 1;
    }

    /// Sets the number of workers. Workers beyond it end after their jobs.
    pub fn set_workers(&self, count: usize) {
        let mut state = self.lock();
        state.workers = count;
        wake_all(state);
    }

    /// Sets how many workers, at least one, may have a job at once. Workers that have one keep it. Further jobs wait until one
    /// of these workers is done.
    pub fn set_busy_max(&self, count: usize) {
        let mut state = self.lock();
        state.busy_max = count.max(1);
        let workers = std::iter::from_fn(|| state.worker_to_wake()).collect();
        wake(state, workers);
    }

    /// Sends one message when a job is next held back by the limit on busy workers, or when more than `crowd` workers have a
    /// job.
    pub fn watch(&self, crowd: usize, watcher: Sender<()>) {
        self.lock().pace.watch(crowd, watcher);
    }

    /// Reads the work of all workers up to now.
    pub fn usage(&self) -> Usage {
        let mut state = self.lock();
        let running = state.running;
        state.pace.add_busy(running, Instant::now());
        let is_held_back = state.is_held_back();
        let was_held_back = std::mem::replace(&mut state.pace.was_held_back, is_held_back);
        Usage {
            busy: state.pace.busy,
            taken: state.pace.taken,
            batched: state.pace.batched,
            was_held_back: was_held_back || is_held_back,
            is_held_back,
            workers: state.workers,
            busy_max: state.busy_max,
        }
    }

    /// Sets new limits. Jobs that wait already stay.
    pub fn reconfigure(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// Admits no further job. Waiting jobs are still handed out.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        wake_all(state);
    }

    /// The queue at this moment.
    pub fn gauges(&self) -> Gauges {
        let state = self.lock();
        let heads = state.lanes.iter().filter_map(|lane| Some(state.jobs.get(lane.head?).since));
        let oldest = heads.min().map_or(Duration::ZERO, |since| since.elapsed());
        Gauges {
            length: state.jobs.len(),
            max_length: state.limits.max_length,
            oldest,
            workers: state.workers,
            present: state.present,
            running: state.running,
            busy_max: state.busy_max.min(state.workers),
        }
    }

    /// The number of jobs that wait.
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Whether no job waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker that is to take a job.
enum Waker {
    Parked(Arc<Parked>),
    Listening(Arc<Bell>),
}

impl Waker {
    fn wake(self) {
        match self {
            Self::Parked(worker) => worker.wake(),
            Self::Listening(bell) => bell.ring(),
        }
    }
}

/// Wakes a worker if a job needs one. The lock is released before the wake-up, because the woken worker begins by taking it.
fn wake_one<T>(mut state: MutexGuard<'_, State<T>>) {
    let worker = state.worker_to_wake();
    drop(state);
    if let Some(worker) = worker {
        worker.wake();
    }
}

fn wake_all<T>(mut state: MutexGuard<'_, State<T>>) {
    let workers = std::mem::take(&mut state.parked);
    state.woken += workers.len();
    wake(state, workers.into_iter().map(Waker::Parked).collect());
}

fn wake<T>(state: MutexGuard<'_, State<T>>, workers: Vec<Waker>) {
    drop(state);
    for worker in workers {
        worker.wake();
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl<T> State<T> {
    /// The worker to wake for a job that no awake worker is about to take.
    fn worker_to_wake(&mut self) -> Option<Waker> {
        let needed = self.jobs.batches(self.batch_max);
        if self.woken + self.rung >= needed {
            return None;
        }
        let first = self.first()?;
        if self.jobs.get(first).joins
            && let Some(bell) = self.listening.pop()
        {
            self.rung += 1;
            return Some(Waker::Listening(bell));
        }
        if self.parked.is_empty() {
            return None;
        }
        if self.is_at_busy_max() {
            self.pace.hold_back();
            return None;
        }
        self.woken += 1;
        self.parked.pop().map(Waker::Parked)
    }

    fn is_at_busy_max(&self) -> bool {
        self.running + self.woken >= self.busy_max
    }

    /// Whether a job waits only because of the limit on busy workers.
    fn is_held_back(&self) -> bool {
        self.is_at_busy_max() && !self.parked.is_empty() && self.first().is_some()
    }

    fn lane(&mut self, spec: &LaneSpec) -> usize {
        let is_same = |lane: &Lane| match (&lane.spec.name, &spec.name) {
            (None, None) => lane.spec.priority == spec.priority,
            (one, other) => one == other,
        };
        let known = self.lanes.iter().position(is_same).unwrap_or_else(|| {
            self.lanes.push(Lane::new(spec.clone()));
            self.lanes.len() - 1
        });
        self.lanes[known].spec = spec.clone();
        known
    }

    fn push(&mut self, index: usize, job: T, now: Instant, joins: bool) -> Result<Key, Refused<T>> {
        let lane = &self.lanes[index];
        let oldest =
            lane.head.map_or(Duration::ZERO, |head| now.saturating_duration_since(self.jobs.get(head).since));
        // A job that a free worker is about to take does not wait.
        let free = self.workers.saturating_sub(self.running);
        let refusal = if self.closed || self.jobs.len() >= self.limits.max_length + free {
            Some(Refusal::Full)
        } else if self.jobs.len() < free && lane.may_run()
            || lane.has_room(&self.limits, self.workers, oldest)
        {
            None
        } else {
            Some(Refusal::Shed)
        };
        if let Some(refusal) = refusal {
            return Err(Refused { job, refusal, drains_in: lane.drains_in(self.workers) });
        }
        Ok(self.jobs.append(&mut self.lanes, index, job, now, joins))
    }

    fn first(&self) -> Option<usize> {
        self.jobs.first(&self.lanes)
    }

    fn take(&mut self, now: Instant) -> Option<(T, Ticket)> {
        let first = self.first()?;
        let node = self.jobs.remove(&mut self.lanes, first);
        self.pace.add_busy(self.running, now);
        self.running += 1;
        self.pace.note_running(self.running);
        let origin = self.note_taken(&node, now);
        let (first, is_stale) = (Some(origin), origin.stale);
        let (others, ended) = (Vec::new(), Vec::new());
        Some((node.job, Ticket { began: now, divided: now, first, others, ended, is_stale }))
    }

    /// Fills a batch.
    fn take_batch(
        &mut self,
        ticket: &mut Ticket,
        now: Instant,
        batch: &mut Batch<T>,
        mut joins: impl FnMut(&T, Load) -> bool,
    ) {
        let free = (self.parked.len() + self.woken).min(self.busy_max.saturating_sub(self.running));
        let share = self.jobs.len() / (free + 1);
        while batch.jobs.len() < batch.max
            && let Some(next) = self.first()
            && let load = if batch.jobs.len() < share { Load::AllBusy } else { Load::SomeFree }
            && joins(&self.jobs.get(next).job, load)
        {
            let node = self.jobs.remove(&mut self.lanes, next);
            self.pace.batched += 1;
            let origin = self.note_taken(&node, now);
            ticket.others.push(origin);
            batch.jobs.push((node.job, origin.stale));
        }
    }

    fn note_taken(&mut self, node: &Node<T>, now: Instant) -> Origin {
        self.pace.taken += 1;
        let lane = &mut self.lanes[node.lane];
        lane.running += 1;
        let wait = now.saturating_duration_since(node.since);
        let stale = lane.is_stale(wait, &self.limits);
        lane.note_wait(wait, &self.limits, now);
        Origin { lane: node.lane, stale, since: node.since }
    }

    /// A worker is done with all its jobs.
    fn finish(&mut self, ticket: &Ticket, now: Instant) {
        self.pace.add_busy(self.running, now);
        self.running -= 1;
        let all = ticket.first.iter().chain(&ticket.others).chain(&ticket.ended);
        self.divide(ticket.divided, now, all.copied());
    }

    /// Divides a worker's time among the jobs that have ended in it.
    fn divide(&mut self, since: Instant, now: Instant, ended: impl Iterator<Item = Origin> + Clone) {
        let jobs = u32::try_from(ended.clone().count()).unwrap_or(u32::MAX).max(1);
        let each = now.saturating_duration_since(since) / jobs;
        for origin in ended {
            let lane = &mut self.lanes[origin.lane];
            lane.running -= 1;
            if !origin.stale {
                lane.note_service(each);
            }
        }
    }
}
