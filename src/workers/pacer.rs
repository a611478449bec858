//! Decides how many workers may have a job at once: all of them, except those that would only wait for a core.
//!
//! Workers that wait for a database cost nothing, and more of them do more. But where requests take as little time as
//! the cores allow, another worker makes every job take longer and lets none end sooner. Threads then wait for a core
//! instead of jobs for a thread, and each job costs a wake-up and two changes of thread. A worker that is done and
//! takes the next job saves these.
//!
//! Linux tells how long a thread was ready to run without running, and whether a core was idle. The pacer lowers the
//! limit while workers wait for a core for much of the time that they have jobs, or while the cores are hardly ever
//! idle. A load begins with the limit that the last load ended with, or with that of the same endpoint's last load if
//! it is lower. When the load turns out to be of another kind, all workers may have a job at once.
//!
//! The pacer has a thread of its own. It wakes for a moment ten times a second, and forty times a second while the
//! limit may have to change. While jobs are held back, it asks the queue two hundred times a second whether workers
//! still take jobs.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, select};

use super::Shared;
use crate::base::queue::Usage;
use crate::base::system::{self, CoreTicks, ThreadTimes};
use crate::telemetry::activity::WorkerState;

/// How often the pacer, when it is off, finds out whether it still is.
const OFF: Duration = Duration::from_secs(1);

/// How often the pacer measures what workers wait for, and decides.
const INTERVAL: Duration = Duration::from_millis(100);

/// The interval while every worker may have a job, and after the limit was lowered. A load that begins then would keep
/// all later jobs waiting, so the pacer decides sooner. A decision after this interval can only lower the limit, or
/// lift a limit that was found under another load.
const EARLY: Duration = Duration::from_millis(25);

/// The interval once a load has begun that occupies more workers than may always have a job. If cores are short, the
/// waits for them show within this time.
const FIRST: Duration = Duration::from_millis(5);

/// Reading the figures of one worker takes 5 µs, so the intervals are longer with thousands of workers.
const INTERVAL_EACH: Duration = Duration::from_millis(1);
const FIRST_EACH: Duration = Duration::from_micros(250);

/// While jobs are held back, a worker must take a job at least this often, or the limit is raised. Otherwise the jobs
/// that are held back might wait for jobs that never end.
const STALL: Duration = Duration::from_millis(5);

/// Workers per core that may always have a job: one runs, and the databases work for the others.
const LEAST_PER_CORE: usize = 3;

/// The same while more than a quarter of the jobs are asked of the database behind another in a batch: a worker that
/// waits for one answer then writes another meanwhile.
const LEAST_PER_CORE_BATCHED: usize = 1;

/// Percent of the time with a job that a worker waits for a core: from `WAITING_HIGH` the limit falls, below
/// `WAITING_LOW` it may rise. Where cores are short the figure is 30 to 90. Elsewhere it is up to 19 for the shortest
/// jobs, which take hardly longer than a wake-up, and under 1 for jobs that wait for a database of 20 ms.
const WAITING_HIGH: u128 = 25;
const WAITING_LOW: u128 = 15;

/// Cores are short when less than this percentage of their time is idle. Workers that do not wait themselves then make
/// other threads wait: a database on the same machine, when the workers are woken before it has done its part.
const IDLE_LOW: u128 = 5;

/// The fewest ticks of the kernel, each ten milliseconds of a core, that show how idle the cores are.
const TICKS_MIN: u128 = 4;

/// Percent of the cores that workers must take for their waits to be of their own making. Where other programs take the
/// cores, fewer workers would do less and wait as long.
const OWN_MIN: u128 = 10;

/// The same where a job takes at least `LONG` of a worker's time on a core: half of the cores. A change of threads is a
/// small part of such a job, so fewer workers do no more. And most sessions of the database then have nothing to do,
/// and the database lets some of the others wait for long.
const LONG: Duration = Duration::from_micros(30);
const OWN_MIN_LONG: u128 = 50;

/// Runs until the workers have ended.
pub(super) fn run(shared: &Shared, ended: &Receiver<Infallible>) {
    let queue = &shared.queue;
    let usage = queue.usage();
    let mut pacer = Pacer::new(num_cpus::get(), usage, Measurement::of(shared, &usage));
    let (notify, notified) = bounded(1);
    loop {
        if !shared.paces.load(Relaxed) {
            // The key may change at a reload.
            queue.set_busy_max(usize::MAX);
            match ended.recv_timeout(OFF) {
                Err(RecvTimeoutError::Timeout) => continue,
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        if let Some(crowd) = pacer.watch() {
            queue.watch(crowd, notify.clone());
        }
        let left = pacer.due().saturating_duration_since(Instant::now());
        let begins = select! {
            recv(ended) -> _ => return,
            recv(notified) -> _ => pacer.is_watching(),
            default(if pacer.may_stall() { left.min(STALL) } else { left }) => false,
        };
        let usage = queue.usage();
        if begins {
            pacer.begin(usage, Measurement::of(shared, &usage), shared.busiest_endpoint());
        } else {
            pacer.observe(usage, || shared.busiest_endpoint());
            if pacer.due() <= Instant::now() {
                pacer.decide(Measurement::of(shared, &usage), shared.busiest_endpoint());
            }
        }
        if pacer.usage.busy_max != usage.busy_max {
            queue.set_busy_max(pacer.usage.busy_max);
        }
    }
}

/// The limit on workers that have a job, and the measurements that it rests on.
struct Pacer {
    cores: usize,
    /// The queue's last usage; its `busy_max` is the limit.
    usage: Usage,
    /// The measurement at the last decision.
    since: Measurement,
    /// The cores' figures at the decision before that, if the load had begun by then.
    earlier: Option<CoreTicks>,
    /// Whether a job was held back since the last decision.
    was_held_back: bool,
    is_early: bool,
    freshness: Freshness,
    load: LoadState,
    /// The limit that each endpoint's jobs last came to, which may be none. Endpoints that were never paced are
    /// missing.
    known_limits: BTreeMap<u32, usize>,
}

impl Pacer {
    fn new(cores: usize, usage: Usage, since: Measurement) -> Self {
        let (freshness, load, known_limits) = (Freshness::Stale, LoadState::Running, BTreeMap::new());
        Self {
            cores,
            usage,
            since,
            earlier: None,
            was_held_back: false,
            is_early: true,
            freshness,
            load,
            known_limits,
        }
    }

    /// When the next decision is due.
    fn due(&self) -> Instant {
        let (interval, each) = match self.load {
            LoadState::New => (FIRST, FIRST_EACH),
            _ if self.is_early => (EARLY, INTERVAL_EACH),
            _ => (INTERVAL, INTERVAL_EACH),
        };
        self.since.at + interval.max(each * u32::try_from(self.usage.workers).unwrap_or(u32::MAX))
    }

    /// Starts to watch for the next load if nobody watches yet. Returns the number of busy workers past which the queue
    /// is to send a message.
    fn watch(&mut self) -> Option<usize> {
        if self.usage.is_paced() && self.freshness == Freshness::Stale {
            self.freshness = Freshness::Watched;
            return Some(usize::MAX);
        }
        if !self.usage.is_paced() && self.load == LoadState::Idle {
            self.load = LoadState::Watched;
            return Some(LEAST_PER_CORE * self.cores);
        }
        None
    }

    fn is_watching(&self) -> bool {
        if self.usage.is_paced() {
            self.freshness == Freshness::Watched
        } else {
            self.load == LoadState::Watched
        }
    }

    /// Whether jobs may be held back by jobs that never end.
    fn may_stall(&self) -> bool {
        self.usage.is_paced() && (self.freshness == Freshness::Current || self.usage.is_held_back)
    }

    /// A load begins, and most of its jobs are this endpoint's. If that endpoint's last limit was lower than the last
    /// load's, it applies again. If it was higher, the last load's limit stays at first: a short wait costs less than
    /// starting all workers at once, which starves clients.
    fn begin(&mut self, usage: Usage, now: Measurement, endpoint: Option<u32>) {
        self.was_held_back |= usage.was_held_back;
        self.usage = usage;
        self.usage.busy_max = self.or_known_lower(self.usage.busy_max, endpoint);
        (self.since, self.earlier) = (now, None);
        if self.usage.is_paced() {
            (self.is_early, self.freshness, self.load) = (true, Freshness::Probing, LoadState::Running);
        } else {
            self.load = LoadState::New;
        }
    }

    /// Takes the queue's usage of this moment. Lifts the limit if the held-back jobs stall, and notes when nobody is
    /// busy.
    fn observe(&mut self, usage: Usage, endpoint: impl FnOnce() -> Option<u32>) {
        let before = std::mem::replace(&mut self.usage, usage);
        self.was_held_back |= usage.was_held_back;
        if before.is_held_back && usage.is_held_back && before.taken == usage.taken {
            self.usage.busy_max = more(&usage, self.freshness);
            self.remember(endpoint());
        }
        if usage.busy == self.since.busy {
            // No worker has had a job, so the measurement of the cores starts anew with the next load.
            (self.since.at, self.since.cores, self.earlier) = (Instant::now(), None, None);
            self.freshness = self.freshness.when_unused();
            if self.load != LoadState::Watched {
                self.load = LoadState::Idle;
            }
        }
    }

    /// Decides on the limit by what was measured since the last decision. Most of the jobs are this endpoint's.
    fn decide(&mut self, now: Measurement, endpoint: Option<u32>) {
        let (was, was_paced) = (self.usage.busy_max, self.usage.is_paced());
        let least = now.least_since(&self.since) * self.cores;
        let cores_then = if was_paced || !self.is_early { self.since.cores } else { self.earlier };
        let waiting = now.waiting_since(&self.since, cores_then, self.cores);
        self.usage.busy_max = match next(&self.usage, waiting, self.was_held_back, least, self.freshness) {
            fewer if fewer < was && !was_paced => self.or_known_lower(fewer, endpoint),
            more if more > was && self.is_early && self.freshness == Freshness::Current => was,
            next => next,
        };
        // An absent limit means nothing while few workers are busy.
        if was_paced || self.usage.is_paced() {
            self.remember(endpoint);
        }
        self.is_early = self.usage.busy_max < was || !self.usage.is_paced();
        self.freshness =
            if self.was_held_back || !was_paced { Freshness::Current } else { self.freshness.when_unused() };
        self.earlier = self.since.cores;
        (self.since, self.was_held_back, self.load) = (now, false, LoadState::Running);
    }

    /// The lower one of this limit and the last one of this endpoint.
    fn or_known_lower(&self, busy_max: usize, endpoint: Option<u32>) -> usize {
        let known = endpoint.and_then(|endpoint| self.known_limits.get(&endpoint));
        known.map_or(busy_max, |known| busy_max.min(*known))
    }

    fn remember(&mut self, endpoint: Option<u32>) {
        self.known_limits.extend(endpoint.map(|endpoint| (endpoint, self.usage.busy_max)));
    }
}

impl Shared {
    /// The endpoint that most of the busy workers have a job of.
    fn busiest_endpoint(&self) -> Option<u32> {
        let (now, mut jobs) = (Instant::now(), BTreeMap::new());
        for worker in self.present().values() {
            let usage = worker.activity.snapshot(now);
            if usage.state != WorkerState::Idle {
                *jobs.entry(usage.endpoint).or_insert(0) += 1;
            }
        }
        jobs.into_iter().max_by_key(|&(_, jobs)| jobs).map(|(endpoint, _)| endpoint)
    }
}

impl Usage {
    /// Whether the limit is lower than the number of workers.
    fn is_paced(&self) -> bool {
        self.busy_max < self.workers
    }
}

/// The next limit, when workers waited for a core for this percentage of the time that they had a job.
fn next(usage: &Usage, waiting: u128, was_held_back: bool, least: usize, freshness: Freshness) -> usize {
    if waiting >= WAITING_HIGH {
        let now = usage.busy_max.min(usage.workers);
        (now / 2).max(least)
    } else if was_held_back && waiting < WAITING_LOW {
        more(usage, freshness)
    } else {
        usage.busy_max
    }
}

/// A higher limit: twice as high if the limit is this load's own, and none if it was found under another load.
fn more(usage: &Usage, freshness: Freshness) -> usize {
    if freshness == Freshness::Current { usage.busy_max.saturating_mul(2) } else { usize::MAX }
}

/// Whether a load occupies the workers while there is no limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LoadState {
    Idle,
    /// No. The queue sends a message when one does.
    Watched,
    /// It has just begun, and nothing is known of it.
    New,
    /// It was there at the last decision, or nobody has looked yet.
    Running,
}

/// How current the limit is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Freshness {
    /// It was found under the load that runs now.
    Current,
    /// It was found under a load that may be over.
    Stale,
    /// It is stale, and the queue sends a message when it holds back a job because of it.
    Watched,
    /// It is stale and holds jobs back. The next decision shows whether it is right for the new load.
    Probing,
}

impl Freshness {
    /// No job was held back by the limit of late.
    fn when_unused(self) -> Self {
        if self == Self::Watched { self } else { Self::Stale }
    }
}

/// The work of workers and cores up to one moment.
struct Measurement {
    at: Instant,
    /// How long workers had jobs, added up.
    busy: Duration,
    /// How many jobs the workers have taken, and how many of these came behind another in a batch.
    taken: u64,
    batched: u64,
    /// The cores' figures, where the system tells them.
    cores: Option<CoreTicks>,
    /// Each worker's time on a core, by the worker's number. Empty where the system does not tell.
    each: BTreeMap<usize, ThreadTimes>,
}

impl Measurement {
    fn of(shared: &Shared, usage: &Usage) -> Self {
        let threads: Vec<_> =
            shared.present().iter().map(|(number, worker)| (*number, worker.thread)).collect();
        let each = threads
            .into_iter()
            .filter_map(|(number, thread)| Some((number, system::thread_times(thread)?)))
            .collect();
        let Usage { busy, taken, batched, .. } = *usage;
        Self { at: Instant::now(), busy, taken, batched, cores: system::core_ticks(), each }
    }

    /// How many workers per core may always have a job.
    fn least_since(&self, before: &Self) -> usize {
        let (taken, batched) = (self.taken - before.taken, self.batched - before.batched);
        if 4 * batched > taken { LEAST_PER_CORE_BATCHED } else { LEAST_PER_CORE }
    }

    /// Percent of the workers' time with jobs for which a core was missing, to workers or to other threads because of
    /// workers. For other threads, cores that are hardly idle are the sign. The kernel counts idle time in coarse
    /// ticks, so it is taken since `cores_then`, which may be earlier.
    fn waiting_since(&self, before: &Self, cores_then: Option<CoreTicks>, cores: usize) -> u128 {
        let (mut ran, mut waited) = (Duration::ZERO, Duration::ZERO);
        for (number, now) in &self.each {
            if let Some(then) = before.each.get(number) {
                ran += now.ran.saturating_sub(then.ran);
                waited += now.waited.saturating_sub(then.waited);
            }
        }
        let busy = self.busy.saturating_sub(before.busy).as_nanos();
        let elapsed = self.at.saturating_duration_since(before.at).as_nanos();
        let taken = u128::from(self.taken.saturating_sub(before.taken));
        let own = if ran.as_nanos() < taken * LONG.as_nanos() { OWN_MIN } else { OWN_MIN_LONG };
        if busy == 0 || ran.as_nanos() * 100 < elapsed * cores as u128 * own {
            return 0;
        }
        if let (Some(now), Some(then)) = (self.cores, cores_then) {
            let [all, idle] = [now.all.saturating_sub(then.all), now.idle.saturating_sub(then.idle)];
            if all >= TICKS_MIN && idle * 100 < all * IDLE_LOW {
                return 100;
            }
        }
        waited.as_nanos() * 100 / busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(workers: usize, busy_max: usize) -> Usage {
        let (busy, taken, batched) = (Duration::ZERO, 0, 0);
        Usage { busy, taken, batched, was_held_back: false, is_held_back: false, workers, busy_max }
    }

    #[test]
    fn the_limit_falls_while_workers_wait_for_a_core_but_never_below_the_least() {
        let mut sizes = vec![usize::MAX];
        while sizes.len() < 5 {
            sizes.push(next(&usage(40, sizes[sizes.len() - 1]), 70, true, 6, Freshness::Current));
        }
        assert_eq!(sizes[1..], [20, 10, 6, 6]);
        assert_eq!(
            next(&usage(4, usize::MAX), 90, false, 6, Freshness::Current),
            6,
            "four workers are not too many"
        );
    }

    #[test]
    fn the_limit_rises_as_soon_as_workers_wait_for_something_else() {
        let next =
            |waiting, was_held_back, freshness| next(&usage(100, 6), waiting, was_held_back, 6, freshness);
        assert_eq!(next(10, true, Freshness::Current), 12);
        assert_eq!(next(10, true, Freshness::Probing), usize::MAX, "the limit came from another load");
        assert_eq!(next(20, true, Freshness::Current), 6, "neither much nor little");
        assert_eq!(next(10, false, Freshness::Current), 6, "nothing was held back");
    }

    /// Sixteen workers on two cores, and what they have done so far.
    struct Loaded {
        pacer: Pacer,
        usage: Usage,
        at: Instant,
        each: ThreadTimes,
    }

    impl Loaded {
        fn new() -> Self {
            let (usage, at) = (usage(16, usize::MAX), Instant::now());
            let each = ThreadTimes { ran: Duration::ZERO, waited: Duration::ZERO };
            let pacer = Pacer::new(2, usage, Self::measure(&usage, at, each));
            Self { pacer, usage, at, each }
        }

        fn measure(usage: &Usage, at: Instant, each: ThreadTimes) -> Measurement {
            let Usage { busy, taken, batched, .. } = *usage;
            Measurement { at, busy, taken, batched, cores: None, each: BTreeMap::from([(1, each)]) }
        }

        /// After a pause a load of this endpoint begins. Returns the limit then.
        fn begin(&mut self, endpoint: u32) -> usize {
            self.usage = Usage { busy_max: self.pacer.usage.busy_max, was_held_back: false, ..self.usage };
            self.pacer.decide(Self::measure(&self.usage, self.at, self.each), None);
            self.pacer.observe(self.usage, || None);
            assert!(self.pacer.watch().is_some() && self.pacer.is_watching());
            self.pacer.begin(self.usage, Self::measure(&self.usage, self.at, self.each), Some(endpoint));
            self.pacer.usage.busy_max
        }

        /// A tenth of a second passes under a load of this endpoint. Workers wait for a core for so many percent of it.
        /// Returns the limit then.
        fn go_on(&mut self, endpoint: u32, waiting: u32) -> usize {
            let tenth = Duration::from_millis(100);
            self.at += tenth;
            self.each.ran += tenth;
            self.each.waited += 16 * tenth * waiting / 100;
            let busy_max = self.pacer.usage.busy_max;
            let was_held_back = busy_max < self.usage.workers;
            let (busy, taken) = (self.usage.busy + 16 * tenth, self.usage.taken + 10_000);
            self.usage = Usage { busy, taken, was_held_back, busy_max, ..self.usage };
            self.pacer.observe(self.usage, || Some(endpoint));
            self.pacer.decide(Self::measure(&self.usage, self.at, self.each), Some(endpoint));
            self.pacer.usage.busy_max
        }
    }

    #[test]
    fn a_load_begins_with_the_lower_limit_of_the_last_load_and_of_its_endpoints_last_load() {
        const FAST: u32 = 1;
        const SLOW: u32 = 2;
        let mut loaded = Loaded::new();
        assert_eq!(loaded.begin(FAST), usize::MAX, "nothing is known");
        assert_eq!([loaded.go_on(FAST, 80), loaded.go_on(FAST, 80), loaded.go_on(FAST, 80)], [8, 6, 6]);
        assert_eq!(loaded.begin(SLOW), 6, "it is likely to be of the last load's kind");
        assert_eq!(loaded.go_on(SLOW, 1), usize::MAX, "it is not");
        assert_eq!(loaded.begin(FAST), 6);
        assert_eq!(loaded.go_on(FAST, 80), 6);
        assert_eq!(loaded.begin(SLOW), 6, "not all workers may begin at once");
        assert_eq!(loaded.go_on(SLOW, 1), usize::MAX);
        assert_eq!(loaded.begin(SLOW), usize::MAX);
        assert_eq!(loaded.go_on(SLOW, 1), usize::MAX);
        assert_eq!(loaded.go_on(FAST, 80), 6, "there was no pause");
        assert_eq!(loaded.begin(FAST), 6);
        assert_eq!(loaded.go_on(FAST, 1), usize::MAX, "it has become slow");
        assert_eq!(loaded.begin(FAST), usize::MAX);
    }

    #[test]
    fn all_workers_get_jobs_when_the_busy_ones_never_end() {
        let mut loaded = Loaded::new();
        loaded.begin(1);
        loaded.go_on(1, 80);
        assert_eq!(loaded.begin(1), 8);
        let stuck = Usage { is_held_back: true, was_held_back: true, busy_max: 8, ..loaded.usage };
        for busy_max in [8, usize::MAX] {
            loaded.pacer.observe(stuck, || Some(1));
            assert_eq!(loaded.pacer.usage.busy_max, busy_max);
        }
        assert_eq!(loaded.begin(1), usize::MAX, "the endpoint's limit is remembered");
    }

    #[test]
    fn the_system_tells_how_long_a_thread_ran() {
        let began = system::thread_times(system::this_thread()).expect("Linux").ran;
        while system::thread_times(system::this_thread()).expect("Linux").ran == began {}
    }

    #[test]
    fn waiting_for_a_core_counts_only_where_the_workers_take_the_cores() {
        let at = Instant::now();
        let measure_of = |taken, at, busy, ran, waited, idle| {
            let [busy, ran, waited] = [busy, ran, waited].map(Duration::from_millis);
            let cores = Some(CoreTicks { all: if idle == 0 { 0 } else { 400 }, idle });
            Measurement {
                at,
                busy,
                taken,
                batched: 0,
                cores,
                each: BTreeMap::from([(1, ThreadTimes { ran, waited })]),
            }
        };
        let measure = |at, busy, ran, waited, idle| measure_of(1_000_000, at, busy, ran, waited, idle);
        let (before, later) = (measure_of(0, at, 0, 0, 0, 0), at + Duration::from_secs(1));
        assert_eq!(measure(later, 2000, 400, 1000, 20).waiting_since(&before, before.cores, 4), 50);
        assert_eq!(
            measure(later, 2000, 399, 1000, 20).waiting_since(&before, before.cores, 4),
            0,
            "other programs take them"
        );
        assert_eq!(measure(later, 0, 400, 1000, 20).waiting_since(&before, before.cores, 4), 0);
        assert_eq!(
            measure(later, 2000, 400, 0, 19).waiting_since(&before, before.cores, 4),
            100,
            "no core is idle"
        );
        assert_eq!(
            measure(later, 2000, 399, 0, 19).waiting_since(&before, before.cores, 4),
            0,
            "not because of the workers"
        );
        let long =
            |ran| measure_of(10_000, later, 2000, ran, 1000, 0).waiting_since(&before, before.cores, 4);
        assert_eq!((long(1999), long(2000)), (0, 50), "long jobs count only where they compute");
        let newcomer = Measurement { each: BTreeMap::new(), ..before };
        assert_eq!(measure(later, 2000, 400, 1000, 20).waiting_since(&newcomer, newcomer.cores, 4), 0);
    }
}
