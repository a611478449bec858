//! Decides how many workers have a job at once: as many as there are, but for those that would only wait for a core.
//!
//! Workers that wait for a database cost nothing, and the more of them, the better. But where requests are as fast as the cores
//! allow, a worker more makes every job take longer and none end sooner: threads wait for a core instead of jobs for a thread,
//! and a job costs a wake-up and two changes of thread that a worker which is done and takes the next saves. Linux tells for how
//! long a thread was ready to run and not run, and whether a core was idle; while the one is much of the time that workers have
//! jobs, or the other hardly ever so, fewer of them get one. A load begins with what the last one came to, or the last one of the same
//! endpoint, whichever is fewer, and where it is of another kind, it is given all workers as soon as it shows.
//!
//! Has a thread of its own, which sleeps but for a moment ten times a second, or forty while it may be that there is to be a change; and
//! while jobs are held back it asks the queue two hundred times a second whether others are taken.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};
use rustix::thread::Pid;

use super::Shared;
use crate::base::queue::Look;
use crate::telemetry::activity::Doing;

/// How often it is looked what workers wait for.
const INTERVAL: Duration = Duration::from_millis(100);

/// While as many as there are may have a job, and after it became fewer: what begins then is a load that all who come meanwhile would
/// wait in. So early a look can only make it fewer, or take back what was found under another load.
const EARLY: Duration = Duration::from_millis(25);

/// And once a load has begun in which more workers have a job than always may: if the cores are short, their waits show within that
/// time.
const FIRST: Duration = Duration::from_millis(5);

/// To look at a worker takes 5 µs, so at thousands of them it is looked less often.
const INTERVAL_EACH: Duration = Duration::from_millis(1);
const FIRST_EACH: Duration = Duration::from_micros(250);

/// While jobs are held back, it is seen to it that others are taken at least so often: who waits for them may otherwise wait for
/// what never ends.
const STALL: Duration = Duration::from_millis(5);

/// Workers that may always have a job, for each core: one runs, and the others' databases work for them.
const LEAST_PER_CORE: usize = 3;

/// And while most requests are asked of the database together: who waits for one answer then writes another meanwhile.
const LEAST_PER_CORE_TOGETHER: usize = 1;

/// Percent of the time with a job that a worker waits for a core. Where cores are short it is 30 to 90; where they are not it is up
/// to 19 for the shortest of jobs, which take hardly longer than waking up, and under 1 for those that wait for a database of 20 ms.
const MUCH: u128 = 25;
const LITTLE: u128 = 15;

/// Percent of the cores' time that is idle at most where cores are short. Then who need not wait makes others wait: the database
/// beside it, when the workers are woken before it has done its part.
const IDLE: u128 = 5;

/// The kernel's ticks, ten milliseconds of a core, of which that can be said.
const TICKS: u128 = 4;

/// Percent of the cores that workers take at least, for it to be of their own making that they wait: where other programs take
/// the cores, fewer workers would do less and wait as long.
const OWN: u128 = 10;

/// And where a job takes a worker as long as this, half of the cores: to change threads costs little of it, so fewer workers do no
/// more, and the database, most of whose sessions then have nothing to do, lets some of the others wait for long.
const LONG: Duration = Duration::from_micros(30);
const OWN_LONG: u128 = 50;

/// Until the workers have ended.
pub(super) fn run(shared: &Shared, ended: &Receiver<Infallible>) {
    let queue = &shared.queue;
    let look = queue.look();
    let mut pacer = Pacer::new(num_cpus::get(), look, Measure::of(shared, &look));
    let (tell, told) = bounded(1);
    loop {
        if let Some(crowd) = pacer.watch() {
            queue.watch(crowd, tell.clone());
        }
        let left = pacer.due().saturating_duration_since(Instant::now());
        let begins = select! {
            recv(ended) -> _ => return,
            recv(told) -> _ => pacer.is_watching(),
            default(if pacer.may_stall() { left.min(STALL) } else { left }) => false,
        };
        let look = queue.look();
        if begins {
            pacer.begin(look, Measure::of(shared, &look), shared.asked_most());
        } else {
            pacer.see(look, || shared.asked_most());
            if pacer.due() <= Instant::now() {
                pacer.judge(Measure::of(shared, &look), shared.asked_most());
            }
        }
        if pacer.look.busy_max != look.busy_max {
            queue.set_busy_max(pacer.look.busy_max);
        }
    }
}

/// What was seen so far, and how many may have a job for it.
struct Pacer {
    cores: usize,
    /// The last one; says how many may have a job.
    look: Look,
    /// As it was when that was decided.
    since: Measure,
    /// What the cores had done before that, where there was a load already.
    earlier: Option<Cores>,
    /// Whether a job was left waiting since.
    held_back: bool,
    is_early: bool,
    trust: Trust,
    begun: Begun,
    /// How many of each endpoint's jobs may be done at once, as far as that was seen.
    known: BTreeMap<u32, usize>,
}

impl Pacer {
    fn new(cores: usize, look: Look, since: Measure) -> Self {
        let (trust, begun, known) = (Trust::Past, Begun::Long, BTreeMap::new());
        Self { cores, look, since, earlier: None, held_back: false, is_early: true, trust, begun, known }
    }

    /// When it is to be decided again.
    fn due(&self) -> Instant {
        let (interval, each) = match self.begun {
            Begun::Now => (FIRST, FIRST_EACH),
            _ if self.is_early => (EARLY, INTERVAL_EACH),
            _ => (INTERVAL, INTERVAL_EACH),
        };
        self.since.at + interval.max(each * u32::try_from(self.look.workers).unwrap_or(u32::MAX))
    }

    /// Of how many that have a job it is to be told, from now on.
    fn watch(&mut self) -> Option<usize> {
        if self.look.is_paced() && self.trust == Trust::Past {
            self.trust = Trust::Watched;
            return Some(usize::MAX);
        }
        if !self.look.is_paced() && self.begun == Begun::No {
            self.begun = Begun::Watched;
            return Some(LEAST_PER_CORE * self.cores);
        }
        None
    }

    fn is_watching(&self) -> bool {
        if self.look.is_paced() { self.trust == Trust::Watched } else { self.begun == Begun::Watched }
    }

    /// Whether jobs may wait for others that never end.
    fn may_stall(&self) -> bool {
        self.look.is_paced() && (self.trust == Trust::Sure || self.look.holds_back)
    }

    /// A load begins, most of it this endpoint's. Where that came to fewer the last time, it will again; where it came to all, it begins
    /// as the last load ended, because to wait for a moment costs less than who is starved where all begin at once.
    fn begin(&mut self, look: Look, now: Measure, endpoint: Option<u32>) {
        self.held_back |= look.held_back;
        self.look = look;
        self.look.busy_max = self.or_known_fewer(self.look.busy_max, endpoint);
        (self.since, self.earlier) = (now, None);
        if self.look.is_paced() {
            (self.is_early, self.trust, self.begun) = (true, Trust::Tried, Begun::Long);
        } else {
            self.begun = Begun::Now;
        }
    }

    /// Some time has passed.
    fn see(&mut self, look: Look, endpoint: impl FnOnce() -> Option<u32>) {
        let before = std::mem::replace(&mut self.look, look);
        self.held_back |= look.held_back;
        if before.holds_back && look.holds_back && before.taken == look.taken {
            self.look.busy_max = more(&look, self.trust);
            self.note(endpoint());
        }
        if look.busy == self.since.busy {
            // Nobody has had a job, and what the cores do is not looked at.
            (self.since.at, self.since.cores, self.earlier) = (Instant::now(), None, None);
            self.trust = self.trust.doubted();
            if self.begun != Begun::Watched {
                self.begun = Begun::No;
            }
        }
    }

    /// Decides by what was done up to now, most of it this endpoint's.
    fn judge(&mut self, now: Measure, endpoint: Option<u32>) {
        let (was, was_paced) = (self.look.busy_max, self.look.is_paced());
        let least = now.least_since(&self.since) * self.cores;
        let cores_then = if was_paced || !self.is_early { self.since.cores } else { self.earlier };
        let waiting = now.waiting_since(&self.since, cores_then, self.cores);
        self.look.busy_max = match next(&self.look, waiting, self.held_back, least, self.trust) {
            fewer if fewer < was && !was_paced => self.or_known_fewer(fewer, endpoint),
            more if more > was && self.is_early && self.trust == Trust::Sure => was,
            next => next,
        };
        // That all may have one still tells nothing, where few have.
        if was_paced || self.look.is_paced() {
            self.note(endpoint);
        }
        self.is_early = self.look.busy_max < was || !self.look.is_paced();
        self.trust = if self.held_back || !was_paced { Trust::Sure } else { self.trust.doubted() };
        self.earlier = self.since.cores;
        (self.since, self.held_back, self.begun) = (now, false, Begun::Long);
    }

    /// So many, or as many as this endpoint came to the last time, if those are fewer.
    fn or_known_fewer(&self, busy_max: usize, endpoint: Option<u32>) -> usize {
        let known = endpoint.and_then(|endpoint| self.known.get(&endpoint));
        known.map_or(busy_max, |known| busy_max.min(*known))
    }

    fn note(&mut self, endpoint: Option<u32>) {
        self.known.extend(endpoint.map(|endpoint| (endpoint, self.look.busy_max)));
    }
}

impl Shared {
    /// The endpoint that most of the workers have a job of.
    fn asked_most(&self) -> Option<u32> {
        let (now, mut jobs) = (Instant::now(), BTreeMap::new());
        for worker in self.present().values() {
            let look = worker.activity.look(now);
            if look.doing != Doing::Idle {
                *jobs.entry(look.endpoint).or_insert(0) += 1;
            }
        }
        jobs.into_iter().max_by_key(|&(_, jobs)| jobs).map(|(endpoint, _)| endpoint)
    }
}

impl Look {
    /// Whether fewer may have a job than there are.
    fn is_paced(&self) -> bool {
        self.busy_max < self.workers
    }
}

/// How many may have a job, when those that had one waited for a core for this percentage of the time.
fn next(look: &Look, waiting: u128, held_back: bool, least: usize, trust: Trust) -> usize {
    if waiting >= MUCH {
        let now = look.busy_max.min(look.workers);
        (now / 2).max(least)
    } else if held_back && waiting < LITTLE {
        more(look, trust)
    } else {
        look.busy_max
    }
}

/// How many more may have a job: all, where the others were kept from it by what was found under another load.
fn more(look: &Look, trust: Trust) -> usize {
    if trust == Trust::Sure { look.busy_max.saturating_mul(2) } else { usize::MAX }
}

/// Whether there is a load that all workers are given to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begun {
    No,
    /// No, and it is told when there is.
    Watched,
    /// Yes, and nothing is known of it.
    Now,
    Long,
}

/// Of which load it was found how many may have a job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Of the one that there is.
    Sure,
    /// Of one that may be over.
    Past,
    /// The same, and it is told when jobs are held back for it.
    Watched,
    /// They are, and it is about to be seen whether rightly.
    Tried,
}

impl Trust {
    /// No job was held back for it of late.
    fn doubted(self) -> Self {
        if self == Self::Watched { self } else { Self::Past }
    }
}

/// What the workers have done so far.
struct Measure {
    at: Instant,
    /// For how long they had a job.
    busy: Duration,
    /// How many they have taken, and of these, how many beside another.
    taken: u64,
    beside: u64,
    /// What the cores have done, where that is known.
    cores: Option<Cores>,
    /// By each worker's number. Empty where the system does not tell.
    each: BTreeMap<usize, OnCore>,
}

/// For how long a thread ran, and for how long it could have run and had no core.
#[derive(Clone, Copy)]
struct OnCore {
    ran: Duration,
    waited: Duration,
}

impl Measure {
    fn of(shared: &Shared, look: &Look) -> Self {
        let threads: Vec<_> =
            shared.present().iter().map(|(number, worker)| (*number, worker.thread)).collect();
        let each =
            threads.into_iter().filter_map(|(number, thread)| Some((number, OnCore::of(thread)?))).collect();
        let Look { busy, taken, beside, .. } = *look;
        Self { at: Instant::now(), busy, taken, beside, cores: Cores::now(), each }
    }

    /// How many may always have a job, for each core.
    fn least_since(&self, before: &Self) -> usize {
        let (taken, beside) = (self.taken - before.taken, self.beside - before.beside);
        if 4 * beside > taken { LEAST_PER_CORE_TOGETHER } else { LEAST_PER_CORE }
    }

    /// For what percentage of the time that workers had jobs they, or others because of them, waited for a core that they had. For
    /// others, cores that are hardly idle tell, since `cores_then`: their ticks are coarse, so that may be longer.
    fn waiting_since(&self, before: &Self, cores_then: Option<Cores>, cores: usize) -> u128 {
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
        let own = if ran.as_nanos() < taken * LONG.as_nanos() { OWN } else { OWN_LONG };
        if busy == 0 || ran.as_nanos() * 100 < elapsed * cores as u128 * own {
            return 0;
        }
        if let (Some(now), Some(then)) = (self.cores, cores_then) {
            let [all, idle] = [now.all.saturating_sub(then.all), now.idle.saturating_sub(then.idle)];
            if all >= TICKS && idle * 100 < all * IDLE {
                return 100;
            }
        }
        waited.as_nanos() * 100 / busy
    }
}

/// The time of all cores, in the kernel's ticks, and how much of it none of them had anything to run.
#[derive(Clone, Copy)]
struct Cores {
    all: u128,
    idle: u128,
}

impl Cores {
    /// As Linux has it in the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, and
    /// two that are parts of the first. None of it ever goes back, but for what waits for a disk.
    fn now() -> Option<Self> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let ticks = stat.lines().next()?.split_whitespace().skip(1).take(8);
        let ticks: Vec<u128> = ticks.map(|ticks| ticks.parse().ok()).collect::<Option<_>>()?;
        Some(Self { all: ticks.iter().sum(), idle: ticks.get(3)? + ticks.get(4)? })
    }
}

impl OnCore {
    /// As Linux has it in `/proc/<pid>/schedstat` (Documentation/scheduler/sched-stats.rst).
    fn of(thread: Pid) -> Option<Self> {
        let figures = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
        let mut figures = figures.split(' ').map(|figure| figure.parse().ok().map(Duration::from_nanos));
        Some(Self { ran: figures.next()??, waited: figures.next()?? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(workers: usize, busy_max: usize) -> Look {
        let (busy, taken, beside) = (Duration::ZERO, 0, 0);
        Look { busy, taken, beside, held_back: false, holds_back: false, workers, busy_max }
    }

    #[test]
    fn fewer_have_a_job_while_they_wait_for_a_core_but_never_fewer_than_the_least() {
        let mut sizes = vec![usize::MAX];
        while sizes.len() < 5 {
            sizes.push(next(&look(40, sizes[sizes.len() - 1]), 70, true, 6, Trust::Sure));
        }
        assert_eq!(sizes[1..], [20, 10, 6, 6]);
        assert_eq!(next(&look(4, usize::MAX), 90, false, 6, Trust::Sure), 6, "four workers are not too many");
    }

    #[test]
    fn more_have_a_job_as_soon_as_they_wait_for_something_else() {
        let next = |waiting, held_back, trust| next(&look(100, 6), waiting, held_back, 6, trust);
        assert_eq!(next(10, true, Trust::Sure), 12);
        assert_eq!(next(10, true, Trust::Tried), usize::MAX, "it was another load that they waited in");
        assert_eq!(next(20, true, Trust::Sure), 6, "neither much nor little");
        assert_eq!(next(10, false, Trust::Sure), 6, "nothing was held back");
    }

    /// Sixteen workers on two cores, and what they have done by now.
    struct Loaded {
        pacer: Pacer,
        look: Look,
        at: Instant,
        each: OnCore,
    }

    impl Loaded {
        fn new() -> Self {
            let (look, at) = (look(16, usize::MAX), Instant::now());
            let each = OnCore { ran: Duration::ZERO, waited: Duration::ZERO };
            let pacer = Pacer::new(2, look, Self::measure(&look, at, each));
            Self { pacer, look, at, each }
        }

        fn measure(look: &Look, at: Instant, each: OnCore) -> Measure {
            let Look { busy, taken, beside, .. } = *look;
            Measure { at, busy, taken, beside, cores: None, each: BTreeMap::from([(1, each)]) }
        }

        /// Nobody asks for a while, and then somebody does for this endpoint. So many may have a job then.
        fn begin(&mut self, endpoint: u32) -> usize {
            self.look = Look { busy_max: self.pacer.look.busy_max, held_back: false, ..self.look };
            self.pacer.judge(Self::measure(&self.look, self.at, self.each), None);
            self.pacer.see(self.look, || None);
            assert!(self.pacer.watch().is_some() && self.pacer.is_watching());
            self.pacer.begin(self.look, Self::measure(&self.look, self.at, self.each), Some(endpoint));
            self.pacer.look.busy_max
        }

        /// A tenth of a second is asked for this endpoint, in which workers wait for a core for so many percent of the time.
        fn go_on(&mut self, endpoint: u32, waiting: u32) -> usize {
            let tenth = Duration::from_millis(100);
            self.at += tenth;
            self.each.ran += tenth;
            self.each.waited += 16 * tenth * waiting / 100;
            let busy_max = self.pacer.look.busy_max;
            let held_back = busy_max < self.look.workers;
            let (busy, taken) = (self.look.busy + 16 * tenth, self.look.taken + 10_000);
            self.look = Look { busy, taken, held_back, busy_max, ..self.look };
            self.pacer.see(self.look, || Some(endpoint));
            self.pacer.judge(Self::measure(&self.look, self.at, self.each), Some(endpoint));
            self.pacer.look.busy_max
        }
    }

    #[test]
    fn a_load_begins_with_what_the_last_one_or_the_last_of_its_endpoint_came_to() {
        const FAST: u32 = 1;
        const SLOW: u32 = 2;
        let mut loaded = Loaded::new();
        assert_eq!(loaded.begin(FAST), usize::MAX, "nothing is known");
        assert_eq!([loaded.go_on(FAST, 80), loaded.go_on(FAST, 80), loaded.go_on(FAST, 80)], [8, 6, 6]);
        assert_eq!(loaded.begin(SLOW), 6, "it is likely to be of the kind of the last one");
        assert_eq!(loaded.go_on(SLOW, 1), usize::MAX, "it is not");
        assert_eq!(loaded.begin(FAST), 6);
        assert_eq!(loaded.go_on(FAST, 80), 6);
        assert_eq!(loaded.begin(SLOW), 6, "they may not all begin at once");
        assert_eq!(loaded.go_on(SLOW, 1), usize::MAX);
        assert_eq!(loaded.begin(SLOW), usize::MAX);
        assert_eq!(loaded.go_on(SLOW, 1), usize::MAX);
        assert_eq!(loaded.go_on(FAST, 80), 6, "there was no pause");
        assert_eq!(loaded.begin(FAST), 6);
        assert_eq!(loaded.go_on(FAST, 1), usize::MAX, "it has become slow");
        assert_eq!(loaded.begin(FAST), usize::MAX);
    }

    #[test]
    fn jobs_that_wait_for_what_does_not_end_are_given_to_all_workers() {
        let mut loaded = Loaded::new();
        loaded.begin(1);
        loaded.go_on(1, 80);
        assert_eq!(loaded.begin(1), 8);
        let stuck = Look { holds_back: true, held_back: true, busy_max: 8, ..loaded.look };
        for busy_max in [8, usize::MAX] {
            loaded.pacer.see(stuck, || Some(1));
            assert_eq!(loaded.pacer.look.busy_max, busy_max);
        }
        assert_eq!(loaded.begin(1), usize::MAX, "it is remembered");
    }

    #[test]
    fn the_system_says_for_how_long_a_thread_ran() {
        let began = OnCore::of(rustix::thread::gettid()).expect("Linux").ran;
        while OnCore::of(rustix::thread::gettid()).expect("Linux").ran == began {}
    }

    #[test]
    fn workers_wait_for_each_other_only_where_they_take_the_cores() {
        let at = Instant::now();
        let measure_of = |taken, at, busy, ran, waited, idle| {
            let [busy, ran, waited] = [busy, ran, waited].map(Duration::from_millis);
            let cores = Some(Cores { all: if idle == 0 { 0 } else { 400 }, idle });
            Measure { at, busy, taken, beside: 0, cores, each: BTreeMap::from([(1, OnCore { ran, waited })]) }
        };
        let measure = |at, busy, ran, waited, idle| measure_of(1_000_000, at, busy, ran, waited, idle);
        let (before, later) = (measure_of(0, at, 0, 0, 0, 0), at + Duration::from_secs(1));
        assert_eq!(measure(later, 2000, 400, 1000, 20).waiting_since(&before, before.cores, 4), 50);
        assert_eq!(
            measure(later, 2000, 399, 1000, 20).waiting_since(&before, before.cores, 4),
            0,
            "others take them"
        );
        assert_eq!(measure(later, 0, 400, 1000, 20).waiting_since(&before, before.cores, 4), 0);
        assert_eq!(
            measure(later, 2000, 400, 0, 19).waiting_since(&before, before.cores, 4),
            100,
            "none is idle"
        );
        assert_eq!(
            measure(later, 2000, 399, 0, 19).waiting_since(&before, before.cores, 4),
            0,
            "nor because of them"
        );
        let long =
            |ran| measure_of(10_000, later, 2000, ran, 1000, 0).waiting_since(&before, before.cores, 4);
        assert_eq!((long(1999), long(2000)), (0, 50), "of long jobs only those that compute");
        let newcomer = Measure { each: BTreeMap::new(), ..before };
        assert_eq!(measure(later, 2000, 400, 1000, 20).waiting_since(&newcomer, newcomer.cores, 4), 0);
    }
}
