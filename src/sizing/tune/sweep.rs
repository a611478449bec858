//! A whole run: a sweep of the pool, a sweep of the workers, then the bound of the queue, then the proof.
//!
//! Main thread.

use std::time::{Duration, Instant};

use super::formulas::queue_length;
use super::subject::{RESIZING, Saturated, Sizes, Subject, endless};
use super::{
    Bound, CannotTell, Error, Limits, Measurement, Measurements, Next, Options, Outcome, Planner, Progress,
    Stage, Stop, decide,
};
use crate::config;
use crate::sizing::load::{Objective, Report};

/// The parts of the run's time for the two sweeps. The proof has the rest, and does not always need all of it.
const POOL_SHARE: f64 = 0.6;
const WORKERS_SHARE: f64 = 0.12;

/// The most sessions, and the most workers, that a configuration may have.
pub const THREADS_MAX: usize = 10_000;

/// The duration of one measurement: long enough for a p99, and short enough for many measurements in a sweep.
const EACH: std::ops::RangeInclusive<Duration> = Duration::from_millis(400)..=Duration::from_secs(3);

/// The number of rounds that the time of a sweep should allow. The first rounds find the sizes that matter.
const ROUNDS: u32 = 10;

/// The most workers for each session that are tried. Past twice as many as sessions, more are tried only where throughput
/// still grows.
const WORKERS_FOR_EACH: usize = 16;

/// Load in the proof, in percent of the capacity.
pub(super) const LEVELS: [u32; 5] = [70, 90, 110, 150, 1000];

/// The part of the capacity, or of a smaller offered load, that must be served at each level. At ten times the
/// capacity, the generator and the refusals took a tenth of two cores that the database needed whole. A server that
/// breaks down serves a tenth of its capacity.
pub(super) const HOLDS: f64 = 0.85;

/// The number of attempts at the proof while there is time. Each attempt has a shorter queue.
const ATTEMPTS: usize = 3;

/// The number of levels that the remaining time should allow.
const LEVELS_MAX: u32 = 12;

/// A shorter queue would be full when two requests come at once.
const LENGTH_MIN: usize = 16;

/// A shorter wait than this is only one thread's time slice.
const TARGET_MIN: Duration = Duration::from_millis(5);

/// The result of one sweep.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The sizes that could be measured.
    pub limits: Limits,
    /// All measurements.
    pub measurements: Measurements,
    /// The conclusion from them.
    pub outcome: Outcome,
    /// Why the sweep ended.
    pub stop: Stop,
}

/// One level of the proof.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// The load, in percent of the capacity.
    pub percent: u32,
    /// Requests a second of the schedule.
    pub offered: f64,
    /// Good answers a second.
    pub good: f64,
    /// Answers 503 a second.
    pub refused: f64,
    /// The p99 of the latency, without refusals.
    pub p99: Duration,
    /// The p99 of the refusals; `None` without refusals.
    pub refusal_p99: Option<Duration>,
    /// Whether the generator kept its schedule. If not, less was offered.
    pub kept: bool,
    /// Whether enough was served.
    pub holds: bool,
}

/// The result of a run, or of the part that was done when it was stopped.
#[derive(Debug)]
#[non_exhaustive]
pub struct Tuned {
    /// The least number of clients of each measurement, where requests share round trips.
    pub crowd: Option<usize>,
    /// The sweep of the pool, with a worker for each session.
    pub pool: Sweep,
    /// The sweep of the workers, with the chosen pool; `None` if the run did not come to it.
    pub workers: Option<Sweep>,
    /// The sizes of the proof; `None` if the run did not come to it.
    pub sizes: Option<Sizes>,
    /// Good answers a second at those sizes, when nothing is refused; `None` if the run did not come to it.
    pub capacity: Option<f64>,
    /// The proof, at each of its levels.
    pub proof: Vec<Level>,
    /// How often the queue was made shorter before the last attempt at the proof.
    pub tightened: usize,
    /// Why the run ended early, if it did.
    pub cut_short: Option<Error>,
}

impl Tuned {
    /// A run of which nothing is known yet.
    pub(super) fn begun(limits: Limits) -> Self {
        Self {
            crowd: None,
            pool: Sweep::of(limits, Measurements::default(), Stop::CutShort),
            workers: None,
            sizes: None,
            capacity: None,
            proof: Vec::new(),
            tightened: 0,
            cut_short: None,
        }
    }

    /// Whether the result may be recommended: a size was found, and the proof holds.
    pub fn stands(&self) -> bool {
        self.cut_short.is_none()
            && self.pool.size().is_some()
            && !self.is_still_growing()
            && self.proof.len() == LEVELS.len()
            && self.proof.iter().all(|level| level.holds)
    }

    /// Whether no size is known because throughput still grows at the largest one that was measured.
    pub fn is_still_growing(&self) -> bool {
        std::iter::once(&self.pool)
            .chain(&self.workers)
            .any(|sweep| matches!(sweep.outcome, Outcome::CannotTell(CannotTell::StillGrowing { .. })))
    }
}

impl Sweep {
    fn of(limits: Limits, measurements: Measurements, stop: Stop) -> Self {
        let outcome = decide(&measurements, limits);
        Self { limits, measurements, outcome, stop }
    }

    /// The size to take, if the measurements decide.
    pub fn size(&self) -> Option<usize> {
        match &self.outcome {
            Outcome::Knee(knee) | Outcome::Flat(knee) | Outcome::AtLargest(knee) => Some(knee.size),
            Outcome::NoneMeets { .. } | Outcome::CannotTell(_) => None,
        }
    }
}

/// One run.
pub(super) struct Run<'r> {
    pub(super) options: &'r Options,
    pub(super) queue: config::Queue,
    pub(super) subject: Subject<'r>,
    pub(super) observe: &'r mut dyn FnMut(&Progress),
    pub(super) found: Tuned,
}

impl Run<'_> {
    /// Runs to the end, or until the run is stopped or fails. The result has all that was found until then.
    pub(super) fn whole(mut self, first: &Sizes) -> Tuned {
        let ended = self.stages(first);
        self.subject.stop();
        Tuned { cut_short: ended.err(), ..self.found }
    }

    fn stages(&mut self, first: &Sizes) -> Result<(), Error> {
        let began = Instant::now();
        let budget = self.options.time;
        let pool_limits = self.options.limits();
        let endless = endless(&self.queue);
        self.subject.warm_up(first)?;
        let Options { largest, objectives, .. } = self.options;
        self.subject.find_crowd(first, *largest, pool_limits.tolerance, objectives)?;
        self.found.crowd = self.subject.crowd();
        let at_pool = |size| Sizes { pool: size, workers: size, queue: endless.clone() };
        let (pool, ended) = self.sweep(Stage::Pool, pool_limits, budget.mul_f64(POOL_SHARE), at_pool);
        // If the measurements do not decide, the run goes on with the likeliest size.
        let chosen = pool.size().or_else(|| likeliest(&pool)).unwrap_or(pool_limits.largest);
        self.found.pool = pool;
        ended?;
        let limits = Limits {
            smallest: chosen,
            first: 2 * chosen,
            largest: (chosen * WORKERS_FOR_EACH).min(THREADS_MAX).max(chosen),
            bound: Bound::Default,
            ..pool_limits
        };
        let at_workers = |size| Sizes { pool: chosen, workers: size, queue: endless.clone() };
        let (workers, ended) = self.sweep(Stage::Workers, limits, budget.mul_f64(WORKERS_SHARE), at_workers);
        let workers = self.found.workers.insert(workers);
        let workers = workers.size().unwrap_or(chosen);
        ended?;
        let mut sizes = Sizes { pool: chosen, workers, queue: self.queue.clone() };
        let left = || budget.saturating_sub(began.elapsed());
        // The time for the measurement of the capacity, for each level, and for a second attempt with a shorter queue.
        let length = (left() / LEVELS_MAX).clamp(*EACH.start(), *EACH.end());
        self.subject.resize(&Sizes { queue: endless, ..sizes.clone() })?;
        let saturated = self.subject.saturate(&sizes, length)?.report;
        let capacity = saturated.all.good_per_s;
        self.found.capacity = Some(capacity);
        sizes.queue = self.bounded(capacity, saturated.all.latency_ms.p99);
        loop {
            let proving = Instant::now();
            self.found.sizes = Some(sizes.clone());
            self.prove(&sizes, capacity, length)?;
            let is_over = self.found.tightened + 1 == ATTEMPTS || left() < proving.elapsed();
            let holds = self.found.proof.iter().all(|level| level.holds);
            if holds || is_over || sizes.queue.target <= TARGET_MIN {
                return Ok(());
            }
            sizes.queue = shorter(&sizes.queue, capacity, sizes.workers);
            self.found.tightened += 1;
        }
    }

    /// Sweeps the sizes within these limits. A sweep that is stopped or fails has its measurements until then.
    fn sweep(
        &mut self,
        stage: Stage,
        limits: Limits,
        budget: Duration,
        sizes: impl Fn(usize) -> Sizes,
    ) -> (Sweep, Result<(), Error>) {
        let began = Instant::now();
        // The first sizes (doublings), each once in every round.
        let first = usize::BITS - (limits.first.min(limits.largest) / limits.smallest).leading_zeros() + 1;
        let each = (budget / (first * ROUNDS)).saturating_sub(RESIZING).clamp(*EACH.start(), *EACH.end());
        let mut planner = Planner::new(limits, each + RESIZING, self.options.seed);
        let mut measurements = Measurements::default();
        loop {
            let left = budget.saturating_sub(began.elapsed());
            let (size, round) = match planner.next(&measurements, left) {
                Next::Measure { size, round } => (size, round),
                Next::Done(stop) => return (Sweep::of(limits, measurements, stop), Ok(())),
            };
            let sizes = sizes(size);
            let saturated = self.subject.resize(&sizes).and_then(|()| self.subject.saturate(&sizes, each));
            let measurement = match saturated {
                Ok(saturated) => self.measurement(size, round, saturated),
                Err(error) => return (Sweep::of(limits, measurements, Stop::CutShort), Err(error)),
            };
            measurements.push(measurement);
            (self.observe)(&Progress::Measured {
                stage,
                measurement,
                left: budget.saturating_sub(began.elapsed()),
            });
        }
    }

    fn measurement(&self, size: usize, round: usize, saturated: Saturated) -> Measurement {
        let Saturated { mut report, at_once } = saturated;
        let mut meets_objective = true;
        for objective in &self.options.objectives {
            meets_objective &= report.judge(objective);
        }
        let all = &report.all;
        Measurement {
            size,
            round,
            throughput: all.good_per_s,
            p50: milliseconds(all.latency_ms.p50),
            p99: milliseconds(all.latency_ms.p99),
            at_once,
            meets_objective,
        }
    }

    /// The queue for the wait that the objective allows, or for the wait in the configuration.
    fn bounded(&self, capacity: f64, p99_ms: f64) -> config::Queue {
        let mut queue = self.queue.clone();
        let allowed = self.options.objectives.iter().filter_map(Objective::latency_max).min();
        if let Some(allowed) = allowed {
            let left = allowed.saturating_sub(milliseconds(p99_ms));
            queue.target = queue.target.min(left).max(TARGET_MIN);
        }
        queue.max_length = length_for(&queue, capacity);
        queue
    }

    fn prove(&mut self, sizes: &Sizes, capacity: f64, length: Duration) -> Result<(), Error> {
        self.found.proof.clear();
        self.subject.resize(sizes)?;
        for percent in LEVELS {
            let offered = capacity * f64::from(percent) / 100.0;
            let report = self.subject.offer(offered, length)?;
            let level = level(percent, offered, capacity, &report);
            (self.observe)(&Progress::Proved(level));
            self.found.proof.push(level);
        }
        Ok(())
    }
}

fn level(percent: u32, offered: f64, capacity: f64, report: &Report) -> Level {
    let all = &report.all;
    let kept = report.not_held.is_none();
    let due = if percent < 100 { offered } else { capacity };
    Level {
        percent,
        offered,
        good: all.good_per_s,
        refused: if report.length_s > 0.0 { real(all.refused) / report.length_s } else { 0.0 },
        p99: milliseconds(all.latency_ms.p99),
        refusal_p99: (all.refused > 0).then(|| milliseconds(all.refusal_ms.p99)),
        kept,
        // Around its capacity a server may serve a little less than with clients that wait for it. Past its
        // capacity it may not fall.
        holds: all.good_per_s >= HOLDS * due,
    }
}

/// The queue's length for the longest wait in a burst. Requests after these would be refused because of their wait.
fn length_for(queue: &config::Queue, capacity: f64) -> usize {
    queue_length(capacity, queue.interval.max(queue.target)).max(LENGTH_MIN)
}

/// The queue with half the wait.
fn shorter(queue: &config::Queue, capacity: f64, workers: usize) -> config::Queue {
    let mut queue = queue.clone();
    queue.target = (queue.target / 2).max(TARGET_MIN);
    queue.interval = (queue.interval / 2).max(queue.target);
    queue.max_length = length_for(&queue, capacity).max(workers);
    queue
}

/// The fastest of the sizes that may be the knee, or of all sizes.
fn likeliest(sweep: &Sweep) -> Option<usize> {
    let may_be = |size: usize| match &sweep.outcome {
        Outcome::CannotTell(CannotTell::TooNoisy { band, .. } | CannotTell::TooShort { band }) => {
            band.contains(&size)
        }
        _ => true,
    };
    let sizes = sweep.measurements.sizes().iter().filter(|size| may_be(size.size));
    sizes.max_by(|one, other| one.throughput.total_cmp(&other.throughput)).map(|size| size.size)
}

fn milliseconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number / 1000.0).unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "no run has so many requests")]
fn real(count: u64) -> f64 {
    count as f64
}
