//! The result of a run, as one value for the terminal, JSON and the page.
//!
//! Main thread. Names in JSON end in their unit.

use std::time::Duration;

use serde::Serialize;

use super::formulas;
use super::statistics::ConfidenceInterval;
use super::subject::{SHARES_FROM, Sizes};
use super::sweep::{Level, Sweep, Tuned};
use super::{CannotTell, Error, Fit, Model, Options, Outcome, Size, Value, fit};
use crate::config::Config;
use crate::database::display_url;

/// The number of pieces of the drawn curve.
const CURVE: u32 = 48;

/// All figures of a finished run.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The version of wharf that made the report.
    pub wharf: &'static str,
    /// The database, without its password.
    pub database: String,
    /// Processor cores of this machine. Server and load share them, and so does a database on the same machine.
    pub cores: usize,
    /// The most sessions that were tried.
    pub largest: usize,
    /// Why no more sessions were tried.
    pub largest_because: String,
    /// The objectives of each measurement.
    pub objectives: Vec<String>,
    /// How long the run took.
    pub took_s: f64,
    /// Why the run ended early, if it did.
    pub cut_short: Option<String>,
    /// The least number of clients of each measurement, where requests share round trips and few clients are too few.
    pub clients: Option<usize>,
    /// Whether requests share round trips, so that a session carries several at once.
    pub shares_round_trips: bool,
    /// The sweep of the pool's size.
    pub pool: SweepReport,
    /// The sweep of the workers, if the run came to it.
    pub workers: Option<SweepReport>,
    /// Good answers a second at the sizes of the proof, if the run came to it.
    pub capacity_per_s: Option<f64>,
    /// The sizes that others advise.
    pub formulas: Vec<Formula>,
    /// Load from 70 to 1000 % of the capacity.
    pub proof: Vec<LevelReport>,
    /// How often the queue was made shorter before the proof held or the attempts ended.
    pub tightened: usize,
    /// Whether a size was found and the proof holds.
    pub stands: bool,
    /// Whether no size is known because throughput still grows at the largest one that was measured.
    pub still_growing: bool,
    /// The result in a sentence.
    pub verdict: String,
    /// The recommended values, by their keys; empty when nothing is recommended.
    pub recommended: Vec<Setting>,
    /// The values of the proof, recommended or not; empty if the run did not come to it.
    pub proved_with: Vec<Setting>,
}

/// One sweep.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SweepReport {
    /// The figures of each size, the smallest first.
    pub sizes: Vec<SizeReport>,
    /// `knee`, `flat`, `at_largest`, `none_meets`, `still_growing` or `cannot_tell`.
    pub outcome: &'static str,
    /// The size to take, if there is one.
    pub size: Option<usize>,
    /// The sizes that the knee may be among.
    pub band: Option<(usize, usize)>,
    /// The last size up to which throughput is the same.
    pub flat_to: Option<usize>,
    /// The outcome in a sentence.
    pub words: String,
    /// The Universal Scalability Law through the measurements.
    pub law: LawReport,
}

/// One size of a sweep.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SizeReport {
    /// Sessions, or workers.
    pub size: usize,
    /// Good answers a second: the mean of the repetitions.
    pub per_s: f64,
    /// The lower end of its interval, with a confidence of 95 %.
    pub low_per_s: Option<f64>,
    /// The upper end.
    pub high_per_s: Option<f64>,
    /// The median of the repetitions' p50.
    pub p50_ms: f64,
    /// The median of the repetitions' p99.
    pub p99_ms: f64,
    /// The requests that a borrowed session carried at once, on average: above 1 where requests share round trips.
    pub at_once: f64,
    /// Whether it meets the objectives.
    pub meets: bool,
    /// Good answers a second of each repetition.
    pub repetitions_per_s: Vec<f64>,
}

/// λ, σ and κ, or the reason for their absence.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LawReport {
    /// Whether the law describes the measurements.
    pub fits: bool,
    /// The law in a sentence, or why it is not fitted.
    pub words: String,
    /// Good answers a second of a single worker or connection.
    pub lambda: Option<Coefficient>,
    /// Contention: the part of the work that only one can do at a time.
    pub sigma: Option<Coefficient>,
    /// Coherency: what each pair costs.
    pub kappa: Option<Coefficient>,
    /// The part of the variation between sizes that the law explains.
    pub explained: Option<f64>,
    /// The law at each measured size.
    pub points: Vec<LawPoint>,
    /// The law between the smallest and the largest measured size, for drawing.
    #[serde(skip)]
    pub(super) curve: Vec<CurvePoint>,
}

/// One point of the drawn curve.
#[derive(Clone, Copy, Debug)]
pub(super) struct CurvePoint {
    pub(super) size: f64,
    pub(super) per_s: f64,
    pub(super) band: ConfidenceInterval,
}

/// A coefficient with its interval, with a confidence of 95 %.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub struct Coefficient {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// The law at one size.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names say it")]
pub struct LawPoint {
    pub size: usize,
    pub per_s: f64,
    pub low_per_s: f64,
    pub high_per_s: f64,
}

/// A size that somebody else advises.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Formula {
    /// The name of the formula or of its author.
    pub name: &'static str,
    /// The number of sessions.
    pub connections: f64,
    /// How that number comes about.
    pub words: String,
}

/// One level of the proof.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct LevelReport {
    /// The load, in percent of the capacity.
    pub percent: u32,
    /// Requests a second of the schedule.
    pub offered_per_s: f64,
    /// Good answers a second.
    pub good_per_s: f64,
    /// Answers 503 a second.
    pub refused_per_s: f64,
    /// The p99 of the latency, without refusals.
    pub p99_ms: f64,
    /// The p99 of the refusals.
    pub refusal_p99_ms: Option<f64>,
    /// Whether the generator kept its schedule. If not, less was offered.
    pub schedule_kept: bool,
    /// Whether enough was served.
    pub holds: bool,
}

/// A key and the value recommended for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Setting {
    /// The full key: `database.maximum_pool_size`.
    pub key: &'static str,
    /// The value, in the key's unit.
    pub value: Value,
    /// Whether the configuration has another value.
    pub differs: bool,
}

impl Report {
    /// Puts the results of a run together. `because`: why no more than `options.largest` was tried.
    pub fn new(tuned: &Tuned, config: &Config, options: &Options, because: String, took: Duration) -> Self {
        let cores = num_cpus::get();
        let stands = tuned.stands();
        let proved_with = tuned.sizes.as_ref().map(|sizes| settings(sizes, config)).unwrap_or_default();
        Self {
            wharf: env!("CARGO_PKG_VERSION"),
            database: config.database.url.as_deref().map(display_url).unwrap_or_default(),
            cores,
            largest: options.largest,
            largest_because: because,
            objectives: options.objectives.iter().map(ToString::to_string).collect(),
            took_s: took.as_secs_f64(),
            cut_short: tuned.cut_short.as_ref().map(ToString::to_string),
            clients: tuned.crowd,
            shares_round_trips: shares(tuned),
            pool: SweepReport::new(&tuned.pool, "sessions", options.seed),
            workers: tuned.workers.as_ref().map(|workers| workers_report(workers, tuned, options)),
            capacity_per_s: tuned.capacity,
            formulas: advice(tuned, cores),
            proof: tuned.proof.iter().map(LevelReport::new).collect(),
            tightened: tuned.tightened,
            stands,
            still_growing: tuned.is_still_growing(),
            verdict: verdict(tuned, options),
            recommended: if stands { proved_with.clone() } else { Vec::new() },
            proved_with,
        }
    }
}

/// Whether requests share round trips at any size.
fn shares(tuned: &Tuned) -> bool {
    tuned.pool.measurements.sizes().iter().any(|size| size.at_once >= SHARES_FROM)
}

/// The sweep of the workers. Where it does not decide, its words name the number that the proof has.
fn workers_report(workers: &Sweep, tuned: &Tuned, options: &Options) -> SweepReport {
    let mut report = SweepReport::new(workers, "workers", options.seed);
    if let (None, Some(sizes)) = (workers.size(), &tuned.sizes) {
        report.words = format!("{}; the proof has {}, one for each session", report.words, sizes.workers);
    }
    report
}

/// The result in a sentence, with the way to go on where there is no recommendation.
fn verdict(tuned: &Tuned, options: &Options) -> String {
    let twice = format!("--time {}s", (options.time * 2).as_secs().max(1));
    if tuned.stands() {
        return "recommended: goodput holds even when more requests come than the server can serve"
            .to_owned();
    }
    match &tuned.cut_short {
        Some(Error::Stopped) => {
            return "nothing is recommended: the run was stopped; this is what it found until then"
                .to_owned();
        }
        Some(error) => return format!("nothing is recommended: the run ended early: {error}"),
        None => {}
    }
    let why = match &tuned.pool.outcome {
        Outcome::CannotTell(CannotTell::StillGrowing { size, is_default: true }) => format!(
            "throughput still grows at {size} sessions, which is only the default limit; --max-pool {} tries more",
            size * 2
        ),
        Outcome::CannotTell(CannotTell::StillGrowing { size, is_default: false }) => {
            format!("throughput still grows at {size} sessions; {twice} has time for more")
        }
        Outcome::CannotTell(CannotTell::TooShort { .. } | CannotTell::TooFew { .. }) => {
            format!("the time was too short to say which size to take; {twice} gives more")
        }
        Outcome::CannotTell(CannotTell::TooNoisy { .. }) => format!(
            "the measurements vary too much to say which size to take; run it while this machine and the database have \
             less to do, or with {twice}"
        ),
        Outcome::NoneMeets { .. } => "no size meets the objectives".to_owned(),
        Outcome::Knee(_) | Outcome::Flat(_) | Outcome::AtLargest(_) => {
            if let Some(Outcome::CannotTell(CannotTell::StillGrowing { size, .. })) =
                tuned.workers.as_ref().map(|workers| &workers.outcome)
            {
                format!("throughput still grows at {size} workers; {twice} has time for more")
            } else {
                return "not recommended: the sizes are found, but goodput does not hold under overload"
                    .to_owned();
            }
        }
    };
    format!("nothing is recommended: {why}")
}

fn settings(sizes: &Sizes, config: &Config) -> Vec<Setting> {
    let Sizes { pool, workers, queue } = sizes;
    let time = |time: Duration| Value::Text(format!("{}ms", time.as_millis()));
    let count = |key, value: usize, differs| Setting { key, value: Value::Count(value), differs };
    let mut settings =
        vec![count("database.maximum_pool_size", *pool, *pool != config.database.maximum_pool_size)];
    // Without a value of its own, `minimum_idle` follows the pool's size.
    if config.database.minimum_idle.is_some_and(|idle| idle > *pool) {
        settings.push(count("database.minimum_idle", *pool, true));
    }
    let workers_now = config.server.workers.unwrap_or(*pool);
    settings.push(count("server.workers", *workers, *workers != workers_now));
    settings.push(count("queue.max_length", queue.max_length, queue.max_length != config.queue.max_length));
    for (key, value, now) in [
        ("queue.target", queue.target, config.queue.target),
        ("queue.interval", queue.interval, config.queue.interval),
    ] {
        settings.push(Setting { key, value: time(value), differs: value != now });
    }
    settings
}

fn advice(tuned: &Tuned, cores: usize) -> Vec<Formula> {
    let mut advice = Vec::new();
    let sizes = tuned.pool.measurements.sizes();
    let of_one = |size: &Size| size.throughput / real(size.size);
    let most = sizes.iter().max_by(|one, other| of_one(one).total_cmp(&of_one(other)));
    if let Some((most, capacity)) = most.filter(|most| most.throughput > 0.0).zip(tuned.capacity) {
        let (each, busy) = (of_one(most), capacity / of_one(most));
        let shared = if shares(tuned) {
            format!(", with {:.1} requests at once on it", most.at_once)
        } else {
            String::new()
        };
        advice.push(Formula {
            name: "Little's law",
            connections: busy,
            words: format!(
                "a session answers up to {each:.0} a second{shared}, so {capacity:.0} a second keep {busy:.1} sessions busy \
                 if none waits for another"
            ),
        });
    }
    advice.push(Formula {
        name: "PostgreSQL wiki, HikariCP: cores × 2 + effective spindles",
        connections: real(formulas::connections_by_cores(cores, 0)),
        words: format!(
            "with the {cores} cores of this machine, if the database is on it, and data that fits in memory"
        ),
    });
    advice
}

impl SweepReport {
    fn new(sweep: &Sweep, unit: &str, seed: u64) -> Self {
        let sizes = sweep.measurements.sizes().iter().map(|size| SizeReport {
            size: size.size,
            per_s: size.throughput,
            low_per_s: size.interval.map(|interval| interval.low),
            high_per_s: size.interval.map(|interval| interval.high),
            p50_ms: milliseconds(size.p50),
            p99_ms: milliseconds(size.p99),
            at_once: size.at_once,
            meets: size.meets_objective(),
            repetitions_per_s: sweep.measurements.of(size.size).iter().map(|one| one.throughput).collect(),
        });
        let (outcome, knee) = match &sweep.outcome {
            Outcome::Knee(knee) => ("knee", Some(knee)),
            Outcome::Flat(knee) => ("flat", Some(knee)),
            Outcome::AtLargest(knee) => ("at_largest", Some(knee)),
            Outcome::NoneMeets { .. } => ("none_meets", None),
            Outcome::CannotTell(CannotTell::StillGrowing { .. }) => ("still_growing", None),
            Outcome::CannotTell(_) => ("cannot_tell", None),
        };
        let band = match &sweep.outcome {
            Outcome::CannotTell(CannotTell::TooNoisy { band, .. } | CannotTell::TooShort { band }) => {
                Some((*band.start(), *band.end()))
            }
            _ => knee.map(|knee| (*knee.band.start(), *knee.band.end())),
        };
        Self {
            sizes: sizes.collect(),
            outcome,
            size: knee.map(|knee| knee.size),
            band,
            flat_to: knee.map(|knee| knee.flat_to),
            words: format!("{unit}: {}", sweep.outcome),
            law: LawReport::new(&fit(&sweep.measurements, seed)),
        }
    }
}

impl LawReport {
    fn new(fit: &Fit) -> Self {
        let (model, words) = match fit {
            Fit::Good(model) => (Some(model), None),
            Fit::Poor { model, reason } => (model.as_ref(), Some(format!("no law is fitted: {reason}"))),
        };
        let Some(model) = model else {
            let words = words.unwrap_or_default();
            let (lambda, sigma, kappa, explained) = (None, None, None, None);
            return Self {
                fits: false,
                words,
                lambda,
                sigma,
                kappa,
                explained,
                points: Vec::new(),
                curve: Vec::new(),
            };
        };
        let law = model.law;
        let good = format!(
            "λ = {:.1}/s, σ = {:.4}, κ = {:.6}; it explains {:.1} % of the variation between sizes",
            law.lambda,
            law.sigma,
            law.kappa,
            model.explained * 100.0
        );
        let points = model.points.iter().map(|point| LawPoint {
            size: point.size,
            per_s: point.fitted,
            low_per_s: point.band.low,
            high_per_s: point.band.high,
        });
        Self {
            fits: words.is_none(),
            words: words.unwrap_or(good),
            lambda: Some(Coefficient::new(law.lambda, model.lambda)),
            sigma: Some(Coefficient::new(law.sigma, model.sigma)),
            kappa: Some(Coefficient::new(law.kappa, model.kappa)),
            explained: Some(model.explained),
            points: points.collect(),
            curve: curve(model),
        }
    }
}

/// The band of the law's curve, at sizes with equal ratios between neighbours.
fn curve(model: &Model) -> Vec<CurvePoint> {
    let (Some(first), Some(last)) = (model.points.first(), model.points.last()) else { return Vec::new() };
    let (first, last) = (real(first.size), real(last.size));
    let sizes = (0..=CURVE).map(|step| first * (last / first).powf(f64::from(step) / f64::from(CURVE)));
    // Rounding may move the last size past the measured range.
    let sizes = sizes.map(|size| size.clamp(first, last));
    let at = |size| Some(CurvePoint { size, per_s: model.law.throughput(size), band: model.band(size)? });
    sizes.filter_map(at).collect()
}

impl LevelReport {
    fn new(level: &Level) -> Self {
        Self {
            percent: level.percent,
            offered_per_s: level.offered,
            good_per_s: level.good,
            refused_per_s: level.refused,
            p99_ms: milliseconds(level.p99),
            refusal_p99_ms: level.refusal_p99.map(milliseconds),
            schedule_kept: level.kept,
            holds: level.holds,
        }
    }
}

impl Coefficient {
    fn new(value: f64, interval: ConfidenceInterval) -> Self {
        Self { value, low: interval.low, high: interval.high }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "no machine has so many cores")]
fn real(count: usize) -> f64 {
    count as f64
}
