//! Whole sweeps against curves that are known, many times over: how often the answer is right, and what it costs.

use std::time::Duration;

use super::knee::{CannotTell, Knee, Limits, Outcome, decide};
use super::measurement::{Measurement, Measurements};
use super::plan::{Next, Planner, Stop};
use super::statistics::{normal, real};

const SECOND: Duration = Duration::from_secs(1);

/// A service whose behaviour is known.
#[derive(Clone, Copy)]
struct Service<C, P> {
    /// Size → requests a second.
    curve: C,
    /// Size → p99.
    p99: P,
    /// The standard deviation of one repetition, in parts of it.
    noise: f64,
}

/// What one sweep came to.
struct Run {
    outcome: Outcome,
    stop: Stop,
    measurements: Measurements,
}

impl<C: Fn(f64) -> f64, P: Fn(f64) -> f64> Service<C, P> {
    /// Sweeps within so many measurements. The objective is a p99 below 50 ms, of which repetitions vary by 3 %.
    fn sweep(&self, largest: usize, measurements_max: u32, seed: u64) -> Run {
        let mut random = fastrand::Rng::with_seed(seed);
        let limits = Limits::up_to(largest);
        let mut planner = Planner::new(limits, SECOND, seed);
        let mut measurements = Measurements::default();
        let mut left = SECOND * measurements_max;
        let stop = loop {
            match planner.next(&measurements, left) {
                Next::Measure(size) => {
                    assert!((1..=largest).contains(&size));
                    let p99 = (self.p99)(real(size)) * (1.0 + 0.03 * normal(&mut random));
                    measurements.push(Measurement {
                        size,
                        // Noise of 40 % would make some throughputs negative.
                        throughput: (self.curve)(real(size)) * (1.0 + self.noise * normal(&mut random)).max(0.01),
                        p50: Duration::from_secs_f64(p99 / 3.0),
                        p99: Duration::from_secs_f64(p99),
                        meets_objective: p99 < 0.05,
                    });
                    left -= SECOND;
                }
                Next::Done(stop) => break stop,
            }
        };
        Run { outcome: decide(&measurements, limits), stop, measurements }
    }

    /// How many of so many sweeps come out right, and how many measurements they take: median and most.
    fn sweeps(&self, largest: usize, measurements_max: u32, right: impl Fn(&Run) -> bool) -> Tally {
        let runs: Vec<Run> = (0..SWEEPS).map(|seed| self.sweep(largest, measurements_max, seed)).collect();
        let mut counts: Vec<usize> = runs.iter().map(|run| run.measurements.count()).collect();
        counts.sort_unstable();
        let wrong = runs.iter().filter(|run| !right(run));
        let wrong: Vec<String> = wrong.map(|run| format!("{:?} {:?}", run.stop, run.outcome)).collect();
        let tally = Tally { right: runs.len() - wrong.len(), median: counts[counts.len() / 2], most: counts[counts.len() - 1], wrong };
        // Shown with --nocapture.
        println!("{} of {SWEEPS} right, {} measurements, at most {}; {:?}", tally.right, tally.median, tally.most, tally.wrong.iter().take(3).collect::<Vec<_>>());
        tally
    }
}

const SWEEPS: u64 = 500;

struct Tally {
    right: usize,
    median: usize,
    most: usize,
    wrong: Vec<String>,
}

fn fast(_: f64) -> f64 {
    0.01
}

fn semaphore(places: f64) -> impl Fn(f64) -> f64 + Copy {
    move |size| size.min(places) * 300.0
}

fn law(sigma: f64, kappa: f64) -> impl Fn(f64) -> f64 + Copy {
    move |size| 1000.0 * size / (1.0 + sigma * (size - 1.0) + kappa * size * (size - 1.0))
}

/// The smallest size within 5 % of the best up to `largest`, which nobody can know who measures.
fn true_knee(curve: impl Fn(f64) -> f64, largest: usize) -> usize {
    let best = (1..=largest).map(|size| curve(real(size))).fold(0.0, f64::max);
    (1..=largest).find(|size| curve(real(*size)) >= 0.95 * best).expect("the best is one")
}

fn knee(run: &Run) -> Option<&Knee> {
    match &run.outcome {
        Outcome::Knee(knee) => Some(knee),
        _ => None,
    }
}

#[test]
fn explore() {
    for noise in [0.01, 0.03, 0.05, 0.1] {
        println!("== noise {noise}");
        for places in [2.0, 3.0, 6.0, 11.0, 17.0] {
            let curve = semaphore(places);
            print!("semaphore {places}: ");
            Service { curve, p99: fast, noise }.sweeps(24, 120, |run| {
                knee(run).is_some_and(|knee| (real(knee.size) - places).abs() <= 1.0)
            });
        }
        for (sigma, kappa) in [(0.05, 0.005), (0.02, 0.001), (0.1, 0.02), (0.0, 0.01)] {
            let curve = law(sigma, kappa);
            let truth = true_knee(curve, 64);
            print!("law {sigma} {kappa} (knee {truth}): ");
            Service { curve, p99: fast, noise }
                .sweeps(64, 120, |run| knee(run).is_some_and(|knee| knee.band.contains(&truth)));
            print!("  enough:");
            let best = (1..=64).map(|size| curve(real(size))).fold(0.0, f64::max);
            Service { curve, p99: fast, noise }
                .sweeps(64, 120, |run| knee(run).is_some_and(|knee| curve(real(knee.size)) > 0.95 * best));
        }
        print!("flat: ");
        Service { curve: |_| 500.0, p99: fast, noise }
            .sweeps(20, 120, |run| matches!(&run.outcome, Outcome::Flat(knee) if knee.flat_to == 20));
        print!("linear: ");
        Service { curve: |size| 100.0 * size, p99: fast, noise }
            .sweeps(32, 120, |run| matches!(run.outcome, Outcome::AtLargest(_)));
        print!("amdahl: ");
        Service { curve: law(0.01, 0.0), p99: fast, noise }
            .sweeps(32, 120, |run| matches!(run.outcome, Outcome::AtLargest(_)));
    }
    for budget in [60, 120] {
        print!("40 % semaphore: ");
        Service { curve: semaphore(6.0), p99: fast, noise: 0.4 }.sweeps(20, budget, |run| {
            matches!(run.outcome, Outcome::CannotTell(CannotTell::TooNoisy { .. }))
        });
        print!("40 % flat: ");
        Service { curve: |_| 500.0, p99: fast, noise: 0.4 }.sweeps(20, budget, |run| {
            matches!(run.outcome, Outcome::CannotTell(CannotTell::TooNoisy { .. }))
        });
    }
}
