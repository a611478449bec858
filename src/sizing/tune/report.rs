//! What a run has found, as one value for the terminal, JSON and the page.
//!
//! Main thread. JSON has units last in its names.

use std::time::Duration;

use serde::Serialize;

use super::formulas;
use super::statistics::Interval;
use super::subject::Sizes;
use super::sweep::{Level, Sweep, Tuned};
use super::{CannotTell, Fit, Model, Outcome, Request, Value, fit};
use crate::config::Config;
use crate::database::display_url;

/// Pieces of a drawn curve.
const CURVE: u32 = 48;

/// All that is known at the end.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The version that made it.
    pub wharf: &'static str,
    /// The database, without its password.
    pub database: String,
    /// Processor cores of this machine, which server and load share, and the database where it is here too.
    pub cores: usize,
    /// The most connections that were tried, and why not more.
    pub largest: usize,
    /// Why not more.
    pub largest_because: String,
    /// What each measurement was held to.
    pub objectives: Vec<String>,
    /// How long the run took.
    pub took_s: f64,
    /// The sweep of the pool's size.
    pub pool: SweepReport,
    /// The sweep of the workers.
    pub workers: SweepReport,
    /// Good answers a second at the recommended sizes.
    pub capacity_per_s: f64,
    /// What others advise.
    pub formulas: Vec<Formula>,
    /// Load from 70 to 1000 % of the capacity.
    pub proof: Vec<LevelReport>,
    /// How often the queue was made shorter until the proof held.
    pub tightened: usize,
    /// Whether a size was found and the proof holds.
    pub stands: bool,
    /// The recommended values, by their keys.
    pub recommended: Vec<Setting>,
}

/// One sweep.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SweepReport {
    /// What each size came to, the smallest first.
    pub sizes: Vec<SizeReport>,
    /// `knee`, `flat`, `at_largest`, `none_meets` or `cannot_tell`.
    pub outcome: &'static str,
    /// The size to take, if there is one.
    pub size: Option<usize>,
    /// The sizes that the knee may be among.
    pub band: Option<(usize, usize)>,
    /// Up to this size throughput is the same.
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
    /// Connections, or workers.
    pub size: usize,
    /// Good answers a second: the mean of the repetitions.
    pub per_s: f64,
    /// Its interval, with a confidence of 95 %.
    pub low_per_s: Option<f64>,
    /// The same.
    pub high_per_s: Option<f64>,
    /// Median of the repetitions' medians.
    pub p50_ms: f64,
    /// Median of the repetitions' p99.
    pub p99_ms: f64,
    /// Whether it meets the objectives.
    pub meets: bool,
    /// Good answers a second of each repetition.
    pub repetitions_per_s: Vec<f64>,
}

/// λ, σ and κ, or why there is no law.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LawReport {
    /// Whether it describes what was measured.
    pub fits: bool,
    /// The law in a sentence, or why there is none.
    pub words: String,
    /// Good answers a second of one alone.
    pub lambda: Option<Coefficient>,
    /// Contention: the part that is done one after the other.
    pub sigma: Option<Coefficient>,
    /// Coherency: what each pair costs.
    pub kappa: Option<Coefficient>,
    /// The part of the variance that it explains.
    pub explained: Option<f64>,
    /// What it says at each measured size.
    pub points: Vec<LawPoint>,
    /// What it says between the smallest and the largest measured size, for drawing.
    #[serde(skip)]
    pub(super) curve: Vec<CurvePoint>,
}

/// The law between sizes that were measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct CurvePoint {
    pub(super) size: f64,
    pub(super) per_s: f64,
    pub(super) band: Interval,
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

/// What somebody else advises.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Formula {
    /// Whose.
    pub name: &'static str,
    /// Connections.
    pub connections: f64,
    /// How it comes to that.
    pub words: String,
}

/// One level of the proof.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct LevelReport {
    /// Of the capacity.
    pub percent: u32,
    /// Requests a second that were to come.
    pub offered_per_s: f64,
    /// Good answers a second.
    pub good_per_s: f64,
    /// 503, a second.
    pub refused_per_s: f64,
    /// Of what was served.
    pub p99_ms: f64,
    /// Of the refusals.
    pub refusal_p99_ms: Option<f64>,
    /// The generator kept its schedule; if not, less was offered.
    pub schedule_kept: bool,
    /// Goodput is what it is to be.
    pub holds: bool,
}

/// A key and the value that it is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Setting {
    /// In full: `database.maximum_pool_size`.
    pub key: &'static str,
    /// In the key's own unit.
    pub value: Value,
    /// The configuration has another one.
    pub differs: bool,
}

impl Report {
    /// Puts together what a run has found on a machine with so many cores. `because`: why not more than `request.largest`.
    pub fn new(tuned: &Tuned, config: &Config, request: &Request, because: String, took: Duration) -> Self {
        let cores = num_cpus::get();
        Self {
            wharf: env!("CARGO_PKG_VERSION"),
            database: config.database.url.as_deref().map(display_url).unwrap_or_default(),
            cores,
            largest: request.largest,
            largest_because: because,
            objectives: request.objectives.iter().map(ToString::to_string).collect(),
            took_s: took.as_secs_f64(),
            pool: SweepReport::new(&tuned.pool, "connections", request.seed),
            workers: SweepReport::new(&tuned.workers, "workers", request.seed),
            capacity_per_s: tuned.capacity,
            formulas: advice(tuned, cores),
            proof: tuned.proof.iter().map(LevelReport::new).collect(),
            tightened: tuned.tightened,
            stands: tuned.stands(),
            recommended: settings(tuned, config),
        }
    }
}

fn settings(tuned: &Tuned, config: &Config) -> Vec<Setting> {
    let Sizes { pool, workers, queue } = &tuned.sizes;
    let time = |time: Duration| Value::Text(format!("{}ms", time.as_millis()));
    let count = |key, value: usize, differs| Setting { key, value: Value::Count(value), differs };
    let mut settings =
        vec![count("database.maximum_pool_size", *pool, *pool != config.database.maximum_pool_size)];
    // Where it is not given it follows the pool's size.
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
    let one = tuned.pool.measurements.sizes().iter().find(|size| size.size == 1);
    if let Some(one) = one.filter(|one| one.throughput > 0.0) {
        let busy = tuned.capacity / one.throughput;
        advice.push(Formula {
            name: "Little's law",
            connections: busy,
            words: format!(
                "a connection alone answers {:.0} a second, so {:.0} a second keep {busy:.1} of them busy if none waits for \
                 another",
                one.throughput, tuned.capacity
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
            meets: size.meets_objective(),
            repetitions_per_s: sweep.measurements.of(size.size).iter().map(|one| one.throughput).collect(),
        });
        let (outcome, knee) = match &sweep.outcome {
            Outcome::Knee(knee) => ("knee", Some(knee)),
            Outcome::Flat(knee) => ("flat", Some(knee)),
            Outcome::AtLargest(knee) => ("at_largest", Some(knee)),
            Outcome::NoneMeets { .. } => ("none_meets", None),
            Outcome::CannotTell(_) => ("cannot_tell", None),
        };
        let band = match &sweep.outcome {
            Outcome::CannotTell(CannotTell::TooNoisy { band, .. }) => Some((*band.start(), *band.end())),
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
            "λ = {:.1}/s, σ = {:.4}, κ = {:.6}; it explains {:.1} % of what differs between sizes",
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

/// Where the law's curve lies, at sizes that are as far apart in proportion.
fn curve(model: &Model) -> Vec<CurvePoint> {
    let (Some(first), Some(last)) = (model.points.first(), model.points.last()) else { return Vec::new() };
    let (first, last) = (real(first.size), real(last.size));
    let sizes = (0..=CURVE).map(|step| first * (last / first).powf(f64::from(step) / f64::from(CURVE)));
    // The last one may be rounded out of what was measured.
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
    fn new(value: f64, interval: Interval) -> Self {
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
