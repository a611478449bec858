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
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};

use super::Shared;
use crate::base::queue::Usage;
use crate::base::system::{self, CoreTicks, ThreadTimes};
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
    let usage = queue.usage();
    let mut pacer = Pacer::new(num_cpus::get(), usage, Measure::of(shared, &usage));
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
        let usage = queue.usage();
        if begins {
            pacer.begin(usage, Measure::of(shared, &usage), shared.asked_most());
        } else {
            pacer.see(usage, || shared.asked_most());
            if pacer.due() <= Instant::now() {
                pacer.judge(Measure::of(shared, &usage), shared.asked_most());
            }
        }
        if pacer.usage.busy_max != usage.busy_max {
            queue.set_busy_max(pacer.usage.busy_max);
        }
    }
}

/// What was seen so far, and how many may have a job for it.
struct Pacer {
    cores: usize,
    /// The last one; says how many may have a job.
    usage: Usage,
    /// As it was when that was decided.
    since: Measure,
    /// What the cores had done before that, where there was a load already.
    earlier: Option<CoreTicks>,
    /// Whether a job was left waiting since.
    was_held_back: bool,
    is_early: bool,
    trust: Trust,
    begun: Begun,
    /// How many of each endpoint's jobs may be done at once, as far as that was seen.
    known: BTreeMap<u32, usize>,
}

impl Pacer {
    fn new(cores: usize, usage: Usage, since: Measure) -> Self {
        let (trust, begun, known) = (Trust::Past, Begun::Long, BTreeMap::new());
        Self { cores, usage, since, earlier: None, was_held_back: false, is_early: true, trust, begun, known }
    }

    /// When it is to be decided again.
    fn due(&self) -> Instant {
        let (interval, each) = match self.begun {
            Begun::Now => (FIRST, FIRST_EACH),
            _ if self.is_early => (EARLY, INTERVAL_EACH),
            _ => (INTERVAL, INTERVAL_EACH),
        };
        self.since.at + interval.max(each * u32::try_from(self.usage.workers).unwrap_or(u32::MAX))
    }

    /// Of how many that have a job it is to be told, from now on.
    fn watch(&mut self) -> Option<usize> {
        if self.usage.is_paced() && self.trust == Trust::Past {
            self.trust = Trust::Watched;
            return Some(usize::MAX);
        }
        if !self.usage.is_paced() && self.begun == Begun::No {
            self.begun = Begun::Watched;
            return Some(LEAST_PER_CORE * self.cores);
        }
        None
    }

    fn is_watching(&self) -> bool {
        if self.usage.is_paced() { self.trust == Trust::Watched } else { self.begun == Begun::Watched }
    }

    /// Whether jobs may wait for others that never end.
    fn may_stall(&self) -> bool {
        self.usage.is_paced() && (self.trust == Trust::Sure || self.usage.is_held_back)
    }

    /// A load begins, most of it this endpoint's. Where that came to fewer the last time, it will again; where it came to all, it begins
    /// as the last load ended, because to wait for a moment costs less than who is starved where all begin at once.
    fn begin(&mut self, usage: Usage, now: Measure, endpoint: Option<u32>) {
        self.was_held_back |= usage.was_held_back;
        self.usage = usage;
        self.usage.busy_max = self.or_known_fewer(self.usage.busy_max, endpoint);
        (self.since, self.earlier) = (now, None);
        if self.usage.is_paced() {
            (self.is_early, self.trust, self.begun) = (true, Trust::Tried, Begun::Long);
        } else {
            self.begun = Begun::Now;
        }
    }

    /// Some time has passed.
    fn see(&mut self, usage: Usage, endpoint: impl FnOnce() -> Option<u32>) {
        let before = std::mem::replace(&mut self.usage, usage);
        self.was_held_back |= usage.was_held_back;
        if before.is_held_back && usage.is_held_back && before.taken == usage.taken {
            self.usage.busy_max = more(&usage, self.trust);
            self.note(endpoint());
        }
        if usage.busy == self.since.busy {
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
        let (was, was_paced) = (self.usage.busy_max, self.usage.is_paced());
        let least = now.least_since(&self.since) * self.cores;
        let cores_then = if was_paced || !self.is_early { self.since.cores } else { self.earlier };
        let waiting = now.waiting_since(&self.since, cores_then, self.cores);
        self.usage.busy_max = match next(&self.usage, waiting, self.was_held_back, least, self.trust) {
            fewer if fewer < was && !was_paced => self.or_known_fewer(fewer, endpoint),
            more if more > was && self.is_early && self.trust == Trust::Sure => was,
            next => next,
        };
        // That all may have one still tells nothing, where few have.
        if was_paced || self.usage.is_paced() {
            self.note(endpoint);
        }
        self.is_early = self.usage.busy_max < was || !self.usage.is_paced();
        self.trust = if self.was_held_back || !was_paced { Trust::Sure } else { self.trust.doubted() };
        self.earlier = self.since.cores;
        (self.since, self.was_held_back, self.begun) = (now, false, Begun::Long);
    }

    /// So many, or as many as this endpoint came to the last time, if those are fewer.
    fn or_known_fewer(&self, busy_max: usize, endpoint: Option<u32>) -> usize {
        let known = endpoint.and_then(|endpoint| self.known.get(&endpoint));
        known.map_or(busy_max, |known| busy_max.min(*known))
    }

    fn note(&mut self, endpoint: Option<u32>) {
        self.known.extend(endpoint.map(|endpoint| (endpoint, self.usage.busy_max)));
    }
}

impl Shared {
    /// The endpoint that most of the workers have a job of.
    fn asked_most(&self) -> Option<u32> {
        let (now, mut jobs) = (Instant::now(), BTreeMap::new());
        for worker in self.present().values() {
            let usage = worker.activity.look(now);
            if usage.doing != Doing::Idle {
                *jobs.entry(usage.endpoint).or_insert(0) += 1;
            }
        }
        jobs.into_iter().max_by_key(|&(_, jobs)| jobs).map(|(endpoint, _)| endpoint)
    }
}

impl Usage {
    /// Whether fewer may have a job than there are.
    fn is_paced(&self) -> bool {
        self.busy_max < self.workers
    }
}

/// How many may have a job, when those that had one waited for a core for this percentage of the time.
fn next(usage: &Usage, waiting: u128, was_held_back: bool, least: usize, trust: Trust) -> usize {
    if waiting >= MUCH {
        let now = usage.busy_max.min(usage.workers);
        (now / 2).max(least)
    } else if was_held_back && waiting < LITTLE {
        more(usage, trust)
    } else {
        usage.busy_max
    }
}

/// How many more may have a job: all, where the others were kept from it by what was found under another load.
fn more(usage: &Usage, trust: Trust) -> usize {
    if trust == Trust::Sure { usage.busy_max.saturating_mul(2) } else { usize::MAX }
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
    /// How many they have taken, and of these, how many in a batch behind another.
    taken: u64,
    batched: u64,
    /// What the cores have done, where that is known.
    cores: Option<CoreTicks>,
    /// By each worker's number. Empty where the system does not tell.
    each: BTreeMap<usize, ThreadTimes>,
}

impl Measure {
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

    /// How many may always have a job, for each core.
    fn least_since(&self, before: &Self) -> usize {
        let (taken, batched) = (self.taken - before.taken, self.batched - before.batched);
        if 4 * batched > taken { LEAST_PER_CORE_TOGETHER } else { LEAST_PER_CORE }
    }

    /// For what percentage of the time that workers had jobs they, or others because of them, waited for a core that they had. For
    /// others, cores that are hardly idle tell, since `cores_then`: their ticks are coarse, so that may be longer.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(workers: usize, busy_max: usize) -> Usage {
        let (busy, taken, batched) = (Duration::ZERO, 0, 0);
        Usage { busy, taken, batched, was_held_back: false, is_held_back: false, workers, busy_max }
    }

    #[test]
    fn fewer_have_a_job_while_they_wait_for_a_core_but_never_fewer_than_the_least() {
        let mut sizes = vec![usize::MAX];
        while sizes.len() < 5 {
            sizes.push(next(&usage(40, sizes[sizes.len() - 1]), 70, true, 6, Trust::Sure));
        }
        assert_eq!(sizes[1..], [20, 10, 6, 6]);
        assert_eq!(
            next(&usage(4, usize::MAX), 90, false, 6, Trust::Sure),
            6,
            "four workers are not too many"
        );
    }

    #[test]
    fn more_have_a_job_as_soon_as_they_wait_for_something_else() {
        let next = |waiting, was_held_back, trust| next(&usage(100, 6), waiting, was_held_back, 6, trust);
        assert_eq!(next(10, true, Trust::Sure), 12);
        assert_eq!(next(10, true, Trust::Tried), usize::MAX, "it was another load that they waited in");
        assert_eq!(next(20, true, Trust::Sure), 6, "neither much nor little");
        assert_eq!(next(10, false, Trust::Sure), 6, "nothing was held back");
    }

    /// Sixteen workers on two cores, and what they have done by now.
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

        fn measure(usage: &Usage, at: Instant, each: ThreadTimes) -> Measure {
            let Usage { busy, taken, batched, .. } = *usage;
            Measure { at, busy, taken, batched, cores: None, each: BTreeMap::from([(1, each)]) }
        }

        /// Nobody asks for a while, and then somebody does for this endpoint. So many may have a job then.
        fn begin(&mut self, endpoint: u32) -> usize {
            self.usage = Usage { busy_max: self.pacer.usage.busy_max, was_held_back: false, ..self.usage };
            self.pacer.judge(Self::measure(&self.usage, self.at, self.each), None);
            self.pacer.see(self.usage, || None);
            assert!(self.pacer.watch().is_some() && self.pacer.is_watching());
            self.pacer.begin(self.usage, Self::measure(&self.usage, self.at, self.each), Some(endpoint));
            self.pacer.usage.busy_max
        }

        /// A tenth of a second is asked for this endpoint, in which workers wait for a core for so many percent of the time.
        fn go_on(&mut self, endpoint: u32, waiting: u32) -> usize {
            let tenth = Duration::from_millis(100);
            self.at += tenth;
            self.each.ran += tenth;
            self.each.waited += 16 * tenth * waiting / 100;
            let busy_max = self.pacer.usage.busy_max;
            let was_held_back = busy_max < self.usage.workers;
            let (busy, taken) = (self.usage.busy + 16 * tenth, self.usage.taken + 10_000);
            self.usage = Usage { busy, taken, was_held_back, busy_max, ..self.usage };
            self.pacer.see(self.usage, || Some(endpoint));
            self.pacer.judge(Self::measure(&self.usage, self.at, self.each), Some(endpoint));
            self.pacer.usage.busy_max
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
        let stuck = Usage { is_held_back: true, was_held_back: true, busy_max: 8, ..loaded.usage };
        for busy_max in [8, usize::MAX] {
            loaded.pacer.see(stuck, || Some(1));
            assert_eq!(loaded.pacer.usage.busy_max, busy_max);
        }
        assert_eq!(loaded.begin(1), usize::MAX, "it is remembered");
    }

    #[test]
    fn the_system_says_for_how_long_a_thread_ran() {
        let began = system::thread_times(system::this_thread()).expect("Linux").ran;
        while system::thread_times(system::this_thread()).expect("Linux").ran == began {}
    }

    #[test]
    fn workers_wait_for_each_other_only_where_they_take_the_cores() {
        let at = Instant::now();
        let measure_of = |taken, at, busy, ran, waited, idle| {
            let [busy, ran, waited] = [busy, ran, waited].map(Duration::from_millis);
            let cores = Some(CoreTicks { all: if idle == 0 { 0 } else { 400 }, idle });
            Measure {
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
