//! The bounded queue of jobs, and who is let into it.
//!
//! The poller pushes, takes back and is never blocked; workers wait for jobs. A job that would wait for too long is refused
//! when it comes, so that a refusal takes no time and a worker always has a job whose client still waits. Knows nothing of
//! what a job is.
//!
//! A job wakes one worker, the one that has waited for the shortest time: its stack and its connection are still in the core's
//! cache. A worker that is done looks for a job before it waits, so while there are jobs nobody is woken at all. Jobs that can be
//! done together, and would only wait for a worker to be done, it takes together, in the order in which it would have come to them.

mod lane;
#[cfg(test)]
mod simulation;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use slab::Slab;

use self::lane::Lane;
pub use self::lane::LaneSpec;

/// Who goes first when several wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// After all others.
    Low,
    /// Unless it says otherwise.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// What the queue holds at most; see the keys of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs, in all lanes together.
    pub max_length: usize,
    /// The wait that may last.
    pub target: Duration,
    /// For how long it may be longer, and the longest wait that a burst may make.
    pub interval: Duration,
}

/// The first job's number. There is room for others on both sides of it.
const FIRST: u64 = 1 << 63;

/// The queue. Cheap to clone.
pub struct Queue<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    jobs: Slab<Node<T>>,
    lanes: Vec<Lane>,
    limits: Limits,
    /// How many workers there are to be; more end as they come by.
    workers: usize,
    /// How many there are.
    present: usize,
    /// Jobs that workers have.
    running: usize,
    /// How many they may have.
    busy_max: usize,
    /// Workers that wait for a job, the last to come last.
    parked: Vec<Arc<Parked>>,
    /// Workers that were woken and have not come by yet.
    woken: usize,
    /// The next job's number: who came first.
    next: u64,
    /// The number of the last job that was given back, which goes before all others.
    returned: u64,
    closed: bool,
    pace: Pace,
}

/// See [`Look`].
struct Pace {
    busy: Duration,
    /// Up to when that is known.
    at: Instant,
    taken: u64,
    /// Of these, those that were taken beside another.
    beside: u64,
    held_back: bool,
    /// Who is told of that, or that more than so many have a job.
    watcher: Option<Sender<()>>,
    crowd: usize,
}

impl Pace {
    fn hold_back(&mut self) {
        self.held_back = true;
        self.tell();
    }

    fn tell(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            // Whoever was told before and has not looked yet looks anyway.
            let _ = watcher.try_send(());
        }
    }
}

/// A worker that waits for a job, or for a reason to end.
struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Parked {
    fn wait(&self) {
        while !self.woken.load(Ordering::Acquire) {
            thread::park();
        }
    }

    fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

struct Node<T> {
    job: T,
    lane: usize,
    number: u64,
    since: Instant,
    before: Option<usize>,
    after: Option<usize>,
}

/// Which job, for taking it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    index: usize,
    number: u64,
}

/// A job that was not let in.
#[derive(Debug)]
pub struct Refused<T> {
    /// The job.
    pub job: T,
    /// Why.
    pub refusal: Refusal,
    /// In which time what waits now will have been taken, as far as that is known.
    pub drains_in: Duration,
}

/// Why a job was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full, or closed.
    Full,
    /// It would wait for too long.
    Shed,
}

/// What a worker tells of the job that it has done: where it came from and since when the worker has had it.
#[derive(Debug)]
pub struct Done {
    began: Instant,
    /// `None`: it was given back.
    origin: Option<Origin>,
    /// Those of the jobs that were taken with it.
    others: Vec<Origin>,
}

/// Where a job came from, and whether it is to be refused.
#[derive(Clone, Copy, Debug)]
struct Origin {
    lane: usize,
    stale: bool,
}

/// Jobs that a worker takes beside its first.
#[derive(Debug)]
pub struct Others<T> {
    /// How many there may be.
    pub max: usize,
    /// Those there are, and of each whether it [is stale](Done::is_stale).
    pub jobs: Vec<(T, bool)>,
}

impl<T> Others<T> {
    /// None, and none may be.
    pub fn none() -> Self {
        Self { max: 0, jobs: Vec::new() }
    }
}

/// The queue at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gauges {
    /// Jobs that wait.
    pub length: usize,
    /// How many may.
    pub max_length: usize,
    /// For how long the oldest has waited.
    pub oldest: Duration,
    /// Workers that there are to be.
    pub workers: usize,
    /// Workers that there are.
    pub present: usize,
    /// Of these, those that have a job.
    pub running: usize,
    /// How many may have one; see [`Queue::set_busy_max`].
    pub busy_max: usize,
}

/// What workers did, for whoever decides how many may have a job.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// For how long they had jobs, since the queue was made, added up.
    pub busy: Duration,
    /// How many jobs they have taken since.
    pub taken: u64,
    /// Of these, those that were taken beside another.
    pub beside: u64,
    /// Since the last look a job was left waiting because as many workers as may had one.
    pub held_back: bool,
    /// One is now.
    pub holds_back: bool,
    /// How many workers there are to be.
    pub workers: usize,
    /// How many may have a job.
    pub busy_max: usize,
}

impl Done {
    /// Whether the job is to be refused rather than done: it has waited for too long while waits stand.
    pub fn is_stale(&self) -> bool {
        self.origin.is_some_and(|origin| origin.stale)
    }

    /// Since when the worker has had it.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// One of this lane's is none of them any more. Returns whether one was.
    fn forget(&mut self, lane: usize) -> bool {
        if let Some(known) = self.others.iter().position(|origin| origin.lane == lane) {
            self.others.swap_remove(known);
            return true;
        }
        self.origin.take_if(|origin| origin.lane == lane).is_some()
    }
}

impl<T> Queue<T> {
    /// An empty queue for so many workers.
    pub fn new(limits: Limits, workers: usize) -> Self {
        let state = State {
            jobs: Slab::new(),
            lanes: Vec::new(),
            limits,
            workers,
            present: 0,
            running: 0,
            busy_max: usize::MAX,
            parked: Vec::new(),
            woken: 0,
            next: FIRST,
            returned: FIRST,
            closed: false,
            pace: Pace {
                busy: Duration::ZERO,
                at: Instant::now(),
                taken: 0,
                beside: 0,
                held_back: false,
                watcher: None,
                crowd: usize::MAX,
            },
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The lanes for these specifications, in their order. A lane that is there already takes over what is new; jobs in
    /// others stay where they are.
    pub fn lanes(&self, specs: &[LaneSpec]) -> Vec<usize> {
        let mut state = self.lock();
        specs.iter().map(|spec| state.lane(spec)).collect()
    }

    /// Adds a job at the end of its lane. Wakes nobody: who adds several wakes workers for all of them afterwards.
    ///
    /// # Errors
    /// Hands the job back when it would wait for too long, when the queue is full, or when it is closed.
    pub fn push(&self, lane: usize, job: T) -> Result<Key, Refused<T>> {
        self.push_since(lane, job, Instant::now())
    }

    /// The same with a job that has waited since a moment that has just passed.
    ///
    /// # Errors
    /// As with [`push`](Self::push).
    pub fn push_since(&self, lane: usize, job: T, since: Instant) -> Result<Key, Refused<T>> {
        self.lock().push(lane, job, since)
    }

    /// Wakes as many workers as there are jobs that none is awake for.
    pub fn wake(&self) {
        let mut state = self.lock();
        let called = std::iter::from_fn(|| state.call()).collect();
        wake(state, called);
    }

    /// Takes over a job of this lane that a worker has and has not done, which is none of those any more that it has `begun`. It goes
    /// before all others of its priority.
    pub fn give_back(&self, begun: &mut Done, lane: usize, job: T) {
        let mut state = self.lock();
        if begun.forget(lane) {
            state.lanes[lane].running -= 1;
        }
        state.give_back(lane, job, Instant::now());
        wake_one(state);
    }

    /// Takes a job back, if no worker has it.
    pub fn withdraw(&self, key: Key) -> Option<T> {
        self.lock().withdraw(key)
    }

    /// Takes the next job, waiting for one as long as it takes. `done`: the worker's last one. `None`: the worker is to end;
    /// the queue is closed and empty, or there are more workers than are to be.
    pub fn next(&self, done: Option<Done>) -> Option<(T, Done)> {
        self.next_and_others(done, &mut Others::none(), |_| false)
    }

    /// The same, and where no other worker is free, those of the next jobs that can be done with it: they would only wait. `joins` says
    /// of one after another whether it can, the first included, until one cannot.
    pub fn next_and_others(
        &self,
        done: Option<Done>,
        others: &mut Others<T>,
        mut joins: impl FnMut(&T) -> bool,
    ) -> Option<(T, Done)> {
        let mut now = Instant::now();
        let mut state = self.lock();
        if let Some(done) = done {
            state.finish(&done, now);
        }
        loop {
            if state.present > state.workers {
                break;
            }
            if state.is_at_most() {
                if state.pick().is_some() {
                    state.pace.hold_back();
                }
            } else if let Some((job, mut done)) = state.take(now) {
                if others.max > 0 && joins(&job) {
                    state.take_others(&mut done, others, joins);
                }
                wake_one(state);
                return Some((job, done));
            }
            if state.closed && state.jobs.is_empty() {
                break;
            }
            let parked = Arc::new(Parked { thread: thread::current(), woken: AtomicBool::new(false) });
            state.parked.push(Arc::clone(&parked));
            drop(state);
            parked.wait();
            state = self.lock();
            state.woken -= 1;
            now = Instant::now();
        }
        state.present -= 1;
        // A job that this one was woken for is another's, and who waits for the end of a closed queue does not see it come.
        if state.closed {
            wake_all(state);
        } else {
            wake_one(state);
        }
        None
    }

    /// How many workers there are at the moment.
    pub fn workers_present(&self) -> usize {
        self.lock().present
    }

    /// One more worker is about to ask for jobs.
    pub fn add_worker(&self) {
        self.lock().present += 1;
    }

    /// A worker that was announced could not be started.
    pub fn remove_worker(&self) {
        self.lock().present -= 1;
    }

    /// How many workers there are to be from now on. Those above it end after their jobs.
    pub fn set_workers(&self, count: usize) {
        let mut state = self.lock();
        state.workers = count;
        wake_all(state);
    }

    /// How many workers, one at least, may have a job at once from now on; what more of them have already is theirs. Jobs beyond
    /// that wait for one of them rather than for a worker of their own.
    pub fn set_busy_max(&self, count: usize) {
        let mut state = self.lock();
        state.busy_max = count.max(1);
        let called = std::iter::from_fn(|| state.call()).collect();
        wake(state, called);
    }

    /// Tells there, once, when next a job is left waiting because as many workers as may have one, or when more than `crowd` have
    /// one.
    pub fn watch(&self, crowd: usize, tell: Sender<()>) {
        let pace = &mut self.lock().pace;
        (pace.watcher, pace.crowd) = (Some(tell), crowd);
    }

    /// What the workers did up to now.
    pub fn look(&self) -> Look {
        let mut state = self.lock();
        state.note_busy(Instant::now());
        let holds_back = state.holds_back();
        Look {
            busy: state.pace.busy,
            taken: state.pace.taken,
            beside: state.pace.beside,
            held_back: std::mem::replace(&mut state.pace.held_back, holds_back) || holds_back,
            holds_back,
            workers: state.workers,
            busy_max: state.busy_max,
        }
    }

    /// Takes over new limits; who waits already stays.
    pub fn reconfigure(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// Lets nothing more in; what is there is still handed out.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        wake_all(state);
    }

    /// The queue at this moment.
    pub fn gauges(&self) -> Gauges {
        let state = self.lock();
        let heads = state.lanes.iter().filter_map(|lane| Some(state.jobs[lane.head?].since));
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

    /// How many jobs wait.
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes a worker if there is a job for it. Not under the lock, which it takes first of all.
fn wake_one<T>(mut state: MutexGuard<'_, State<T>>) {
    let called = state.call();
    drop(state);
    if let Some(worker) = called {
        worker.wake();
    }
}

fn wake_all<T>(mut state: MutexGuard<'_, State<T>>) {
    let called = std::mem::take(&mut state.parked);
    state.woken += called.len();
    wake(state, called);
}

fn wake<T>(state: MutexGuard<'_, State<T>>, called: Vec<Arc<Parked>>) {
    drop(state);
    for worker in called {
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
    /// A worker to be woken: there is a job that none is on its way for.
    fn call(&mut self) -> Option<Arc<Parked>> {
        if self.woken >= self.jobs.len() || self.parked.is_empty() || self.pick().is_none() {
            return None;
        }
        if self.is_at_most() {
            self.pace.hold_back();
            return None;
        }
        self.woken += 1;
        self.parked.pop()
    }

    fn is_at_most(&self) -> bool {
        self.running + self.woken >= self.busy_max
    }

    /// Whether a job waits only because as many workers as may have one.
    fn holds_back(&self) -> bool {
        self.is_at_most() && !self.parked.is_empty() && self.pick().is_some()
    }

    /// Called before the number of running jobs changes.
    fn note_busy(&mut self, now: Instant) {
        let running = u32::try_from(self.running).unwrap_or(u32::MAX);
        self.pace.busy += now.saturating_duration_since(self.pace.at) * running;
        self.pace.at = self.pace.at.max(now);
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

    fn push(&mut self, index: usize, job: T, now: Instant) -> Result<Key, Refused<T>> {
        let lane = &self.lanes[index];
        let oldest =
            lane.head.map_or(Duration::ZERO, |head| now.saturating_duration_since(self.jobs[head].since));
        // Jobs that free workers are about to take do not wait.
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
        let number = self.next;
        self.next += 1;
        let before = lane.tail;
        let entry = self.jobs.insert(Node { job, lane: index, number, since: now, before, after: None });
        let lane = &mut self.lanes[index];
        lane.tail = Some(entry);
        lane.len += 1;
        match before {
            Some(before) => self.jobs[before].after = Some(entry),
            None => lane.head = Some(entry),
        }
        Ok(Key { index: entry, number })
    }

    fn withdraw(&mut self, key: Key) -> Option<T> {
        let is_there = self.jobs.get(key.index).is_some_and(|node| node.number == key.number);
        is_there.then(|| self.remove(key.index).job)
    }

    /// Of the lanes that may run a job, the first of the highest priority, and of several the one who waits for longest.
    fn pick(&self) -> Option<usize> {
        let runnable = self.lanes.iter().filter(|lane| lane.may_run());
        let heads = runnable.filter_map(|lane| Some((lane.spec.priority, lane.head?)));
        let first = heads.max_by_key(|(priority, head)| (*priority, u64::MAX - self.jobs[*head].number));
        first.map(|(_, head)| head)
    }

    fn take(&mut self, now: Instant) -> Option<(T, Done)> {
        let node = self.remove(self.pick()?);
        self.note_busy(now);
        self.running += 1;
        if self.running > self.pace.crowd {
            self.pace.tell();
        }
        let origin = self.note_taken(&node, now);
        Some((node.job, Done { began: now, origin: Some(origin), others: Vec::new() }))
    }

    /// See [`Queue::next_and_others`].
    fn take_others(&mut self, done: &mut Done, others: &mut Others<T>, mut joins: impl FnMut(&T) -> bool) {
        let free = (self.parked.len() + self.woken).min(self.busy_max.saturating_sub(self.running));
        let share = (self.jobs.len() / (free + 1)).min(others.max);
        while others.jobs.len() < share
            && let Some(next) = self.pick()
            && joins(&self.jobs[next].job)
        {
            let node = self.remove(next);
            self.pace.beside += 1;
            let origin = self.note_taken(&node, done.began);
            done.others.push(origin);
            others.jobs.push((node.job, origin.stale));
        }
    }

    fn note_taken(&mut self, node: &Node<T>, now: Instant) -> Origin {
        self.pace.taken += 1;
        let lane = &mut self.lanes[node.lane];
        lane.running += 1;
        let wait = now.saturating_duration_since(node.since);
        let stale = lane.is_stale(wait, &self.limits);
        lane.note_wait(wait, &self.limits, now);
        Origin { lane: node.lane, stale }
    }

    fn finish(&mut self, done: &Done, now: Instant) {
        self.note_busy(now);
        self.running -= 1;
        let jobs = usize::from(done.origin.is_some()) + done.others.len();
        let jobs = u32::try_from(jobs).unwrap_or(u32::MAX).max(1);
        let each = now.saturating_duration_since(done.began) / jobs;
        for origin in done.origin.iter().chain(&done.others) {
            let lane = &mut self.lanes[origin.lane];
            lane.running -= 1;
            if !origin.stale {
                lane.note_service(each);
            }
        }
    }

    fn give_back(&mut self, index: usize, job: T, now: Instant) {
        self.returned -= 1;
        let (number, after) = (self.returned, self.lanes[index].head);
        let entry = self.jobs.insert(Node { job, lane: index, number, since: now, before: None, after });
        let lane = &mut self.lanes[index];
        lane.head = Some(entry);
        lane.len += 1;
        match after {
            Some(after) => self.jobs[after].before = Some(entry),
            None => lane.tail = Some(entry),
        }
    }

    fn remove(&mut self, index: usize) -> Node<T> {
        let node = self.jobs.remove(index);
        match node.before {
            Some(before) => self.jobs[before].after = node.after,
            None => self.lanes[node.lane].head = node.after,
        }
        match node.after {
            Some(after) => self.jobs[after].before = node.before,
            None => self.lanes[node.lane].tail = node.before,
        }
        self.lanes[node.lane].len -= 1;
        node
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, Sender, unbounded};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    const LIMITS: Limits =
        Limits { max_length: 2, target: Duration::from_millis(50), interval: Duration::from_millis(100) };

    fn shared(priority: Priority) -> LaneSpec {
        LaneSpec { name: None, priority, max_concurrency: None }
    }

    fn bounded(name: &str, max: usize) -> LaneSpec {
        LaneSpec { name: Some(name.to_owned()), priority: Priority::Normal, max_concurrency: Some(max) }
    }

    /// A queue whose one worker is this thread.
    fn queue(specs: &[LaneSpec]) -> Queue<u32> {
        let queue = Queue::new(LIMITS, 1);
        queue.add_worker();
        assert_eq!(queue.lanes(specs), (0..specs.len()).collect::<Vec<_>>());
        queue
    }

    #[test]
    fn a_full_queue_hands_the_job_back() {
        let queue = queue(&[shared(Priority::Normal)]);
        queue.push(0, 1).expect("a free worker");
        let (_, done) = queue.next(None).expect("a job");
        let key = queue.push(0, 2).expect("room");
        queue.push(0, 3).expect("room");
        let refused = queue.push(0, 4).expect_err("full");
        assert_eq!((refused.job, refused.refusal), (4, Refusal::Full));
        assert_eq!(queue.withdraw(key), Some(2));
        assert_eq!(queue.withdraw(key), None);
        queue.push(0, 5).expect("its place is free");
        let (job, done) = queue.next(Some(done)).expect("a job");
        assert_eq!(job, 3);
        assert_eq!(queue.next(Some(done)).map(|(job, _)| job), Some(5));
    }

    #[test]
    fn the_first_burst_is_bounded_until_a_job_tells_what_it_takes() {
        let queue = queue(&[shared(Priority::Normal)]);
        queue.reconfigure(Limits { max_length: 999, target: PATIENCE, interval: PATIENCE });
        queue.push(0, 0).expect("a free worker");
        let (_, done) = queue.next(None).expect("a job");
        for job in 1..=32 {
            queue.push(0, job).expect("room");
        }
        assert_eq!(queue.push(0, 33).expect_err("enough of what is not known").refusal, Refusal::Shed);
        queue.next(Some(done)).expect("a job");
        for job in 33..99 {
            queue.push(0, job).expect("it took no time");
        }
    }

    #[test]
    fn what_was_accepted_is_still_served_after_the_end() {
        let queue = queue(&[shared(Priority::Normal)]);
        queue.push(0, 1).expect("room");
        queue.close();
        assert_eq!(queue.push(0, 2).expect_err("closed").refusal, Refusal::Full);
        let (job, done) = queue.next(None).expect("a job");
        assert_eq!(job, 1);
        assert!(queue.next(Some(done)).is_none());
    }

    #[test]
    fn the_higher_priority_goes_first_and_within_it_the_oldest() {
        let queue = queue(&[
            shared(Priority::Low),
            shared(Priority::Normal),
            shared(Priority::High),
            bounded("b", 9),
        ]);
        queue.reconfigure(Limits { max_length: 9, ..LIMITS });
        for (lane, job) in [(0, 1), (3, 2), (1, 3), (2, 4), (1, 5), (2, 6)] {
            queue.push(lane, job).expect("room");
        }
        let mut done = None;
        let mut order = Vec::new();
        while !queue.is_empty() {
            let (job, next) = queue.next(done).expect("a job");
            order.push(job);
            done = Some(next);
        }
        assert_eq!(order, [4, 6, 2, 3, 5, 1]);
    }

    #[test]
    fn a_bounded_lane_leaves_the_other_workers_to_the_others() {
        let queue = queue(&[bounded("slow", 1), shared(Priority::Normal)]);
        queue.set_workers(2);
        queue.reconfigure(Limits { max_length: 9, ..LIMITS });
        for (lane, job) in [(0, 1), (0, 2), (1, 3)] {
            queue.push(lane, job).expect("room");
        }
        let (job, slow) = queue.next(None).expect("a job");
        assert_eq!(job, 1);
        let (job, _fast) = queue.next(None).expect("a job");
        assert_eq!(job, 3, "the second slow one waits");
        let (job, _) = queue.next(Some(slow)).expect("a job");
        assert_eq!(job, 2);
    }

    #[test]
    fn a_lane_keeps_what_it_has_when_it_is_configured_anew() {
        let queue = queue(&[bounded("slow", 1)]);
        queue.push(0, 1).expect("room");
        let (_, done) = queue.next(None).expect("a job");
        queue.push(0, 2).expect("room");
        assert_eq!(queue.lanes(&[shared(Priority::Normal), bounded("slow", 2)]), [1, 0]);
        assert_eq!(queue.next(Some(done)).map(|(job, _)| job), Some(2));
    }

    #[test]
    fn a_worker_takes_the_next_jobs_that_can_be_done_together_in_their_order_and_no_more_than_it_may() {
        let queue = queue(&[shared(Priority::Normal), shared(Priority::High), bounded("few", 1)]);
        queue.reconfigure(Limits { max_length: 99, ..LIMITS });
        for (lane, job) in [(0, 2), (2, 4), (2, 6), (1, 8), (0, 10), (0, 11), (0, 12)] {
            queue.push(lane, job).expect("room");
        }
        let is_even = |job: &u32| job.is_multiple_of(2);
        let mut others = Others { max: 2, jobs: Vec::new() };
        let mut take = |done| {
            others.jobs.clear();
            let (first, done) = queue.next_and_others(done, &mut others, is_even).expect("a job");
            let jobs: Vec<u32> =
                std::iter::once(first).chain(others.jobs.iter().map(|(job, _)| *job)).collect();
            (jobs, done)
        };
        let (jobs, done) = take(None);
        assert_eq!(jobs, [8, 2, 4], "no more than it may");
        let (jobs, done) = take(Some(done));
        assert_eq!(jobs, [6, 10], "its lane has a place again, and 11 is done by itself");
        let look = queue.look();
        assert_eq!((look.taken, look.beside), (5, 3));
        let (jobs, done) = take(Some(done));
        assert_eq!(jobs, [11]);
        let (jobs, _) = take(Some(done));
        assert_eq!(jobs, [12]);
    }

    #[test]
    fn a_worker_leaves_the_others_that_are_free_their_share() {
        let queue = queue(&[shared(Priority::Normal)]);
        queue.reconfigure(Limits { max_length: 99, ..LIMITS });
        queue.set_workers(3);
        let mut team = Team::new(queue);
        (0..2).for_each(|_| team.add());
        for job in 0..7 {
            team.queue.push(0, job).expect("room");
        }
        let mut others = Others { max: 99, jobs: Vec::new() };
        let (job, _) = team.queue.next_and_others(None, &mut others, |_| true).expect("a job");
        assert_eq!((job, &others.jobs[..]), (0, &[(1, false), (2, false)][..]), "a third of the seven");
        // Where both are awake already, either may be the first to say what it took.
        let taken = team.take();
        assert!([(1, 3), (0, 4)].contains(&taken), "{taken:?}");
        (0..4).for_each(|_| team.go_on());
        team.end();
    }

    #[test]
    fn what_is_given_back_goes_before_all_others_of_its_priority() {
        let queue = queue(&[shared(Priority::Normal), bounded("other", 1)]);
        queue.reconfigure(Limits { max_length: 9, ..LIMITS });
        let key = queue.push(0, 1).expect("room");
        let mut others = Others { max: 9, jobs: Vec::new() };
        queue.push(1, 2).expect("room");
        let (job, mut done) = queue.next_and_others(None, &mut others, |_| true).expect("a job");
        assert_eq!((job, &others.jobs[..]), (1, &[(2, false)][..]));
        queue.push(0, 3).expect("room");
        queue.give_back(&mut done, 1, 2);
        queue.give_back(&mut done, 0, 1);
        assert_eq!(queue.withdraw(key), None, "it is another's now");
        // Also by another worker, before this one is done: of the second lane only one may run at a time.
        let mut next = None;
        for expected in [1, 2, 3] {
            let (job, done) = queue.next(next).expect("a job");
            assert_eq!(job, expected);
            next = Some(done);
        }
        queue.lock().finish(&done, Instant::now());
        queue.lock().finish(&next.expect("three"), Instant::now());
        assert!(queue.lock().running == 0 && queue.lock().lanes.iter().all(|lane| lane.running == 0));
    }

    #[test]
    fn workers_above_the_number_end() {
        let queue = queue(&[shared(Priority::Normal)]);
        queue.push(0, 1).expect("room");
        queue.set_workers(0);
        assert!(queue.next(None).is_none());
        queue.add_worker();
        queue.set_workers(1);
        assert_eq!(queue.next(None).map(|(job, _)| job), Some(1));
    }

    /// Workers on threads of their own, which say their name and their job and take the next when they are told to.
    struct Team {
        queue: Queue<u32>,
        threads: Vec<thread::JoinHandle<()>>,
        taken: Receiver<(usize, u32)>,
        says: Sender<(usize, u32)>,
        next: Receiver<()>,
        go_on: Sender<()>,
    }

    impl Team {
        fn new(queue: Queue<u32>) -> Self {
            let ((says, taken), (go_on, next)) = (unbounded(), unbounded());
            Self { queue, threads: Vec::new(), taken, says, next, go_on }
        }

        /// One more, which waits for a job when this returns, unless there is one.
        fn add(&mut self) {
            let (queue, says, next) = (self.queue.clone(), self.says.clone(), self.next.clone());
            let name = self.threads.len();
            queue.add_worker();
            self.threads.push(thread::spawn(move || {
                let mut done = None;
                while let Some((job, begun)) = queue.next(done) {
                    says.send((name, job)).expect("the test waits");
                    next.recv_timeout(PATIENCE).expect("the test goes on");
                    done = Some(begun);
                }
            }));
            while self.queue.lock().parked.len() <= name && self.queue.is_empty() {
                thread::yield_now();
            }
        }

        fn take(&self) -> (usize, u32) {
            self.taken.recv_timeout(PATIENCE).expect("a worker takes a job")
        }

        fn go_on(&self) {
            self.go_on.send(()).expect("a worker waits");
        }

        fn end(self) {
            self.queue.close();
            self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        }
    }

    #[test]
    fn who_came_last_is_woken_first() {
        let queue = queue(&[shared(Priority::Normal)]);
        queue.set_workers(3);
        queue.remove_worker();
        let mut team = Team::new(queue);
        (0..3).for_each(|_| team.add());
        for (job, name) in [(1, 2), (2, 1), (3, 0)] {
            team.queue.push(0, job).expect("a free worker");
            team.queue.wake();
            assert_eq!(team.take(), (name, job));
        }
        (0..3).for_each(|_| team.go_on());
        team.end();
    }

    #[test]
    fn a_job_beyond_what_workers_may_have_waits_for_one_that_is_done_or_until_more_may() {
        let queue = queue(&[shared(Priority::Normal)]);
        queue.set_workers(2);
        queue.remove_worker();
        queue.set_busy_max(1);
        let mut team = Team::new(queue);
        (0..2).for_each(|_| team.add());
        for job in [1, 2, 3] {
            team.queue.push(0, job).expect("room");
        }
        team.queue.wake();
        assert_eq!(team.take(), (1, 1));
        let look = team.queue.look();
        assert!(look.held_back && look.holds_back);
        assert_eq!((look.taken, team.queue.gauges().busy_max), (1, 1));
        team.go_on();
        assert_eq!(team.take(), (1, 2), "it takes the next without a wake-up");
        team.queue.set_busy_max(2);
        assert_eq!(team.take(), (0, 3));
        let look = team.queue.look();
        assert!(look.held_back && !look.holds_back && look.busy > Duration::ZERO);
        assert!(!team.queue.look().held_back);
        (0..2).for_each(|_| team.go_on());
        team.end();
    }

    #[test]
    fn workers_beyond_those_that_may_have_a_job_take_no_more() {
        let queue = queue(&[shared(Priority::Normal)]);
        queue.reconfigure(Limits { max_length: 9, ..LIMITS });
        queue.set_workers(2);
        queue.remove_worker();
        let mut team = Team::new(queue);
        (0..2).for_each(|_| team.add());
        for job in [1, 2, 3, 4] {
            team.queue.push(0, job).expect("room");
        }
        team.queue.wake();
        let mut taken = [team.take().1, team.take().1];
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
        team.queue.set_busy_max(1);
        team.go_on();
        while !team.queue.look().holds_back {
            thread::yield_now();
        }
        assert!(team.taken.is_empty());
        team.go_on();
        assert_eq!(team.take().1, 3);
        team.queue.set_busy_max(2);
        assert_eq!(team.take().1, 4);
        (0..2).for_each(|_| team.go_on());
        team.end();
    }

    #[test]
    fn who_watches_is_told_once_of_a_crowd_or_of_a_job_that_is_held_back() {
        let queue = queue(&[shared(Priority::Normal)]);
        queue.set_workers(2);
        queue.remove_worker();
        let (tell, told) = crossbeam_channel::bounded(1);
        queue.watch(1, tell.clone());
        let mut team = Team::new(queue);
        (0..2).for_each(|_| team.add());
        let give = |team: &Team, job| {
            team.queue.push(0, job).expect("room");
            team.queue.wake();
        };
        give(&team, 1);
        team.take();
        assert!(told.is_empty(), "one is no crowd");
        give(&team, 2);
        team.take();
        told.recv_timeout(PATIENCE).expect("two are");
        (0..2).for_each(|_| team.go_on());
        while team.queue.lock().running > 0 {
            thread::yield_now();
        }
        team.queue.watch(usize::MAX, tell);
        team.queue.set_busy_max(1);
        give(&team, 3);
        team.take();
        assert!(told.is_empty(), "nobody watches for a crowd any more");
        give(&team, 4);
        told.recv_timeout(PATIENCE).expect("the fourth is held back");
        team.go_on();
        team.take();
        team.go_on();
        assert!(told.is_empty(), "it is told once");
        team.end();
    }

    #[test]
    fn workers_that_wait_behind_a_bounded_lane_end_with_the_queue() {
        let queue = queue(&[bounded("slow", 1)]);
        queue.set_workers(2);
        queue.remove_worker();
        for job in [1, 2] {
            queue.push(0, job).expect("room");
        }
        let mut team = Team::new(queue);
        (0..2).for_each(|_| team.add());
        let (_, job) = team.take();
        assert_eq!(job, 1);
        team.queue.close();
        team.go_on();
        assert_eq!(team.take().1, 2);
        team.go_on();
        team.end();
    }
}
