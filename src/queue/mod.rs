//! The bounded queue of jobs, and who is let into it.
//!
//! The poller pushes, takes back and is never blocked; workers wait for jobs. A job that would wait for too long is refused
//! when it comes, so that a refusal takes no time and a worker always has a job whose client still waits. Knows nothing of
//! what a job is.

mod lane;
#[cfg(test)]
mod simulation;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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

/// The queue. Cheap to clone.
pub struct Queue<T>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    /// There may be a job to take, or a reason to end.
    ready: Condvar,
}

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
    /// Workers that wait for a job.
    parked: usize,
    /// The next job's number: who came first.
    next: u64,
    closed: bool,
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
    lane: usize,
    began: Instant,
    stale: bool,
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
}

impl Done {
    /// Whether the job is to be refused rather than done: it has waited for too long while waits stand.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Since when the worker has had it.
    pub fn began(&self) -> Instant {
        self.began
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
            parked: 0,
            next: 0,
            closed: false,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), ready: Condvar::new() }))
    }

    /// The lanes for these specifications, in their order. A lane that is there already takes over what is new; jobs in
    /// others stay where they are.
    pub fn lanes(&self, specs: &[LaneSpec]) -> Vec<usize> {
        let mut state = self.lock();
        specs.iter().map(|spec| state.lane(spec)).collect()
    }

    /// Adds a job at the end of its lane.
    ///
    /// # Errors
    /// Hands the job back when it would wait for too long, when the queue is full, or when it is closed.
    pub fn push(&self, lane: usize, job: T) -> Result<Key, Refused<T>> {
        let mut state = self.lock();
        let key = state.push(lane, job, Instant::now())?;
        let parked = state.parked > 0;
        drop(state);
        if parked {
            self.0.ready.notify_one();
        }
        Ok(key)
    }

    /// Takes a job back, if no worker has it.
    pub fn withdraw(&self, key: Key) -> Option<T> {
        self.lock().withdraw(key)
    }

    /// Takes the next job, waiting for one as long as it takes. `done`: the worker's last one. `None`: the worker is to end;
    /// the queue is closed and empty, or there are more workers than are to be.
    pub fn next(&self, done: Option<Done>) -> Option<(T, Done)> {
        let mut now = Instant::now();
        let mut state = self.lock();
        if let Some(done) = done {
            state.finish(&done, now);
        }
        loop {
            if state.present > state.workers {
                break;
            }
            if let Some((job, done)) = state.take(now) {
                let more = state.parked > 0 && state.pick().is_some();
                drop(state);
                if more {
                    self.0.ready.notify_one();
                }
                return Some((job, done));
            }
            if state.closed && state.jobs.is_empty() {
                break;
            }
            state.parked += 1;
            state = self.0.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.parked -= 1;
            now = Instant::now();
        }
        state.present -= 1;
        drop(state);
        // A job that this one was woken for is another's.
        self.0.ready.notify_one();
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
        self.lock().workers = count;
        self.0.ready.notify_all();
    }

    /// Takes over new limits; who waits already stays.
    pub fn reconfigure(&self, limits: Limits) {
        self.lock().limits = limits;
    }

    /// Lets nothing more in; what is there is still handed out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.0.ready.notify_all();
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
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let lane = &mut self.lanes[node.lane];
        lane.running += 1;
        let wait = now.saturating_duration_since(node.since);
        let stale = lane.is_stale(wait, &self.limits);
        lane.note_wait(wait, &self.limits, now);
        self.running += 1;
        Some((node.job, Done { lane: node.lane, began: now, stale }))
    }

    fn finish(&mut self, done: &Done, now: Instant) {
        self.running -= 1;
        let lane = &mut self.lanes[done.lane];
        lane.running -= 1;
        if !done.stale {
            lane.note_service(now.saturating_duration_since(done.began));
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
    use super::*;

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
    fn workers_above_the_number_end() {
        let queue = queue(&[shared(Priority::Normal)]);
        queue.push(0, 1).expect("room");
        queue.set_workers(0);
        assert!(queue.next(None).is_none());
        queue.add_worker();
        queue.set_workers(1);
        assert_eq!(queue.next(None).map(|(job, _)| job), Some(1));
    }
}
