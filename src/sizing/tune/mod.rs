//! Sizes with evidence: what to measure next, what the measurements say, and the configuration that follows from them.
//!
//! Main thread. [`tune`] runs the server and the load on it (`subject`, `sweep`). Everything else is arithmetic on numbers and
//! text: no clock, no socket, no file, and no randomness but from a seed, so that every decision can be tested by simulation
//! and repeated from its measurements.

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
pub use candidates::Limits;
pub use compare::{Better, Comparison, Verdict, compare};
pub use edit::{Change, EditError, Edited, Value, edit};
pub use knee::{CannotTell, Knee, Outcome, decide};
pub use measurement::{Measurement, Measurements, Size};
pub use plan::{Next, Planner, Stop, next_sizes};
pub use report::{
    Coefficient, Formula, LawPoint, LawReport, LevelReport, Report, Setting, SizeReport, SweepReport,
};
pub use subject::Sizes;
pub use sweep::{Level, Sweep, Tuned};
pub use usl::{Fit, Law, Misfit, Model, Point, fit};

use self::subject::{Subject, endless};
use self::sweep::Run;
use crate::config::Config;
use crate::database::Database;
use crate::server::{ReloadError, StartError};
use crate::sizing::load::{self, Objective};
use crate::sizing::{Traffic, TrafficError};

/// What is to be found out.
#[derive(Clone, Debug)]
pub struct Request {
    /// The most connections that may be tried.
    pub largest: usize,
    /// What each measurement is held to, such as `p99<50ms`.
    pub objectives: Vec<Objective>,
    /// For the whole run; it ends earlier when it knows enough, and late by a few measurements at most.
    pub time: Duration,
    /// Of the order in which sizes are measured.
    pub seed: u64,
}

/// What a run is doing.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// One measurement of a sweep.
    Measured {
        /// Of what.
        stage: Stage,
        /// What it came to.
        measurement: Measurement,
        /// The time that the sweep may still take.
        left: Duration,
    },
    /// One level of the proof.
    Proved(Level),
}

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The pool's connections, with a worker for each.
    Pool,
    /// The workers, with the connections that were chosen.
    Workers,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It does not take other sizes.
    #[error("the sizes cannot be changed: {0}")]
    Reload(#[from] ReloadError),
    /// There is nothing to ask.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The load cannot be made.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// The database does not let so many connections in.
    #[error("the pool has {open} connections after 10 s; expected {wanted}")]
    Pool {
        /// How many there were to be.
        wanted: usize,
        /// How many there are.
        open: usize,
    },
    /// Requests fail, and a server that fails says nothing about its sizes.
    #[error("{percent:.1} % of the requests fail before anything is measured: {statuses}")]
    Failing {
        /// How many.
        percent: f64,
        /// What they were answered.
        statuses: String,
    },
    /// Somebody has stopped it.
    #[error("stopped")]
    Stopped,
}

/// Measures sizes of the pool and the workers on the configuration's own database, bounds the queue, and proves the result
/// under more load than it can serve. `traffic` says what the server at an address is asked.
///
/// # Errors
/// When the server does not start or requests fail; what the measurements do not say is in the result.
pub fn tune(
    config: &Config,
    request: &Request,
    traffic: impl FnOnce(SocketAddr, Option<&Database>) -> Result<Traffic, TrafficError>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(&Progress),
) -> Result<Tuned, Error> {
    let size = request.largest.min(WARM_POOL);
    let sizes = Sizes { pool: size, workers: size, queue: endless(&config.queue) };
    let subject = Subject::start(config, &sizes, traffic, stop)?;
    subject.warm_up(&sizes)?;
    Run { request, queue: config.queue.clone(), subject, observe }.whole()
}

/// Connections that fill the database's caches before anything is measured.
const WARM_POOL: usize = 4;
