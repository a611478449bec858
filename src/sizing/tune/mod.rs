//! Finds sizes by measurement: the next size to measure, the conclusion from the measurements, and the configuration
//! that follows.
//!
//! Main thread. [`tune`] runs the server and the load on it (`subject`, `sweep`). Everything else is arithmetic on
//! numbers and text, without clock, socket or file. Random numbers come from a seed. So every decision can be tested by
//! simulation and repeated from its measurements.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

mod allowance;
mod candidates;
mod compare;
mod edit;
pub mod formulas;
mod knee;
mod least_squares;
mod measurement;
mod page;
mod plan;
mod report;
mod rounds;
pub mod statistics;
mod subject;
mod sweep;
mod table;
mod usl;

#[cfg(test)]
mod simulation;

pub use allowance::Allowance;
pub use candidates::{Bound, Limits};
pub use compare::{Better, Comparison, Verdict, compare};
pub use edit::{ChangedLine, EditError, Edited, Value, edit};
pub use knee::{CannotTell, Knee, Outcome, decide};
pub use measurement::{Measurement, Measurements, Size};
pub use plan::{Next, Planner, Stop, next_sizes};
pub use report::{
    Coefficient, Formula, LawPoint, LawReport, LevelReport, Report, Setting, SizeReport, SweepReport,
};
pub use subject::Sizes;
pub use sweep::{Level, Sweep, THREADS_MAX, Tuned};
pub use usl::{Fit, Law, Misfit, Model, Point, fit};

use self::subject::{Subject, endless};
use self::sweep::Run;
use crate::config::Config;
use crate::database::Database;
use crate::server::{ReloadError, StartError};
use crate::sizing::load::{self, Objective};
use crate::sizing::{Traffic, TrafficError};

/// The options of a run: limits, objectives and time.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most sessions that may be tried.
    pub largest: usize,
    /// The reason for that number.
    pub bound: Bound,
    /// The objectives of each measurement, such as `p99<50ms`.
    pub objectives: Vec<Objective>,
    /// The time for the whole run. The run ends earlier when it has its answer, and late by a few measurements at most.
    pub time: Duration,
    /// The seed of the order in which sizes are measured.
    pub seed: u64,
}

impl Options {
    /// The limits of the sweep over the pool's sizes.
    fn limits(&self) -> Limits {
        Limits { bound: self.bound, ..Limits::up_to(self.largest) }
    }
}

/// The progress of a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// One measurement of a sweep.
    Measured {
        /// The sweep that the measurement belongs to.
        stage: Stage,
        /// The measurement.
        measurement: Measurement,
        /// The time that the sweep may still take.
        left: Duration,
    },
    /// One level of the proof.
    Proved(Level),
}

/// The quantity that a sweep varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The pool's sessions, with a worker for each.
    Pool,
    /// The workers, with the chosen number of sessions.
    Workers,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server did not accept other sizes.
    #[error("the sizes cannot be changed: {0}")]
    Reload(#[from] ReloadError),
    /// No requests can be drawn for the load.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The load could not be made.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// The database did not allow that many sessions.
    #[error("the pool has {open} sessions after 10 s; expected {wanted}")]
    Pool {
        /// The number of sessions that were to be open.
        wanted: usize,
        /// The number of sessions that are open.
        open: usize,
    },
    /// Requests fail, and a failing server shows nothing about its sizes.
    #[error("{percent:.1} % of the requests fail before anything is measured: {statuses}")]
    Failing {
        /// The part of the requests that failed, in percent.
        percent: f64,
        /// The statuses and failures, with their counts.
        statuses: String,
    },
    /// The run was stopped from outside.
    #[error("stopped")]
    Stopped,
}

/// Measures sizes of the pool and the workers on the configuration's own database, bounds the queue, and proves the
/// result under more load than the server can serve. `traffic` gives the requests for the server at an address.
///
/// A run that is stopped, or that fails after its first measurement, has a result too: [`Tuned::cut_short`] says why it
/// ended, and the rest is what was found until then.
///
/// # Errors
/// The server does not start, or requests fail before anything is measured. Inconclusive measurements are no error; the
/// result names them.
pub fn tune(
    config: &Config,
    options: &Options,
    traffic: impl FnOnce(SocketAddr, Option<&Database>) -> Result<Traffic, TrafficError>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(&Progress),
) -> Result<Tuned, Error> {
    let size = options.largest.min(WARM_POOL);
    let sizes = Sizes { pool: size, workers: size, queue: endless(&config.queue) };
    let found = Tuned::begun(options.limits());
    let subject = match Subject::start(config, &sizes, traffic, stop) {
        Ok(subject) => subject,
        Err(Error::Stopped) => return Ok(Tuned { cut_short: Some(Error::Stopped), ..found }),
        Err(error) => return Err(error),
    };
    let tuned = Run { options, queue: config.queue.clone(), subject, observe, found }.whole(&sizes);
    match tuned.cut_short {
        Some(error) if tuned.pool.measurements.count() == 0 && !matches!(error, Error::Stopped) => Err(error),
        cut_short => Ok(Tuned { cut_short, ..tuned }),
    }
}

/// The sessions that fill the database's caches before the first measurement.
const WARM_POOL: usize = 4;
