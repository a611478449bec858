//! The load generator: sends requests at a rate, or as fast as they are answered, and says what became of them.
//!
//! Open loop ([`Pace::Open`]): each request goes out when it is due, whether or not those before it are answered, as the
//! requests of many independent users do, and its time counts from when it was due. A server that stalls is seen as its users
//! see it. Closed loop ([`Pace::Closed`]): so many clients each wait for their answer before they ask again. That finds what a
//! server can do, but a server that stalls also stalls its clients, so that hardly any request meets the stall.
//!
//! The generator has threads of its own; the thread that called [`run`] adds up and shows. Knows no server but by its answers.

mod answer;
mod connection;
mod descriptors;
mod generator;
mod hdr_log;
mod mix;
mod numbers;
mod objective;
mod outcomes;
mod pacer;
mod page;
mod part;
mod percentiles;
mod recorder;
mod report;
mod schedule;
mod server_timing;
mod sheets;
mod table;
mod target;
mod times;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

pub use hdr_log::HdrLog;
pub use objective::{Objective, ObjectiveError};
pub use outcomes::{FAILURES, Failure, Outcomes};
pub use percentiles::{Percentiles, PhaseMeans, Phases};
pub use report::{LATE_SHARE, Report, Second, TargetReport, Verdict};
pub use schedule::{Arrivals, Rate, ScheduleError, Stages};
pub use target::{Request, Target, TargetError, Template, parse_header};
pub use times::{Times, Timings};

use generator::{Generator, Setting, Shared};
use part::Part;
use recorder::Recorder;
use report::Summary;
use sheets::Sheet;

/// What is asked, how often and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is asked.
    pub targets: Vec<Target>,
    /// How often and for how long.
    pub pace: Pace,
    /// How long a request waits for its answer once it was begun, and how long after it was due it may still be begun.
    pub timeout: Duration,
    /// Connections at once; `None`: as many as the process may have, and [`DEFAULT_MAX_CONNECTIONS`] at most.
    pub max_connections: Option<usize>,
    /// A request that is begun so much later than it was due is late.
    pub late_after: Duration,
    /// Threads that generate, one at least, such as [`Pace::threads`]. There are never more of them than connections.
    pub threads: usize,
}

/// What [`Plan::max_connections`] is by default: what a rate of 1,000 a second holds when each request waits for 10 s.
pub const DEFAULT_MAX_CONNECTIONS: usize = 10_000;

/// Clients of a closed loop that two threads do more for than one: with fewer, a thread soon waits for its half of them.
const MANY_CLIENTS: usize = 32;

/// How the requests follow each other.
#[derive(Clone, Debug)]
pub enum Pace {
    /// Each goes out when it is due.
    Open {
        /// The rate over time.
        stages: Stages,
        /// How requests follow each other at that rate.
        arrivals: Arrivals,
    },
    /// Each goes out when the one before it is answered.
    Closed {
        /// Clients that ask at once.
        connections: usize,
        /// For how long they do.
        duration: Duration,
    },
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { stages, arrivals: Arrivals::Constant } => write!(f, "{stages}"),
            Self::Open { stages, arrivals: Arrivals::Poisson { seed } } => {
                write!(f, "{stages}, Poisson arrivals of seed {seed}")
            }
            Self::Closed { connections, duration } => {
                write!(f, "{connections} connections for {} s", duration.as_secs_f64())
            }
        }
    }
}

impl Pace {
    /// `open` or `closed`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Closed { .. } => "closed",
        }
    }

    /// The threads that generate it best. Two drive a server harder than one, which waits while the server works, where each
    /// has enough clients for that; more take processors from a server beside them. A rate below what it can do needs one.
    pub fn threads(&self) -> usize {
        match self {
            Self::Closed { connections, .. } if *connections >= MANY_CLIENTS => {
                thread::available_parallelism().map_or(1, |processors| processors.get().min(2))
            }
            _ => 1,
        }
    }

    /// For how long requests are sent.
    pub fn length(&self) -> Duration {
        match self {
            Self::Open { stages, .. } => stages.length(),
            Self::Closed { duration, .. } => *duration,
        }
    }
}

/// A run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A server takes no connection.
    #[error("{target}: no connection: {cause}")]
    Unreachable {
        /// The target's name.
        target: String,
        /// Why.
        cause: io::Error,
    },
    /// The plan has nothing to ask, or nobody who asks.
    #[error("{0}")]
    Plan(&'static str),
    /// The process may not open so many files.
    #[error(
        "the process may open {limit} files (ulimit -n), too few for {wanted} connections; expected at most {most}"
    )]
    Descriptors {
        /// The limit.
        limit: usize,
        /// What the plan asks for.
        wanted: usize,
        /// Connections that the limit allows.
        most: usize,
    },
    /// The system refuses a socket or a thread, or epoll does not work.
    #[error("the generator cannot go on: {0}")]
    System(#[from] io::Error),
}

/// A second of the run, as it is shown while it runs.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Interval<'a> {
    /// Its begin, from the run's.
    pub from: Duration,
    /// Its end. It is longer than a second where the observer took long.
    pub to: Duration,
    /// How many requests the plan has due in it; `None` in a closed loop.
    pub offered: Option<f64>,
    /// What became of requests in it, of all targets.
    pub outcomes: &'a Outcomes,
    /// Requests on their way at its end.
    pub in_flight: usize,
    /// Connections at its end.
    pub connections: usize,
}

/// Runs the plan to its end, or until `stop` is set, and waits for the answers to what was sent. `observe` sees each second.
///
/// # Errors
/// When a server takes no connection at the begin, the plan asks for what the process may not have, or the system does not
/// work. What happens to requests is an outcome.
pub fn run(plan: &Plan, stop: &AtomicBool, mut observe: impl FnMut(&Interval<'_>)) -> Result<Report, Error> {
    let max_connections = max_connections(plan)?;
    let addresses: Vec<SocketAddr> = plan.targets.iter().map(reach).collect::<Result<_, _>>()?;
    let threads = plan.threads.min(max_connections);
    let shared = Shared::default();
    let (recorders, mut sheets) = Recorder::begin_now(plan, threads, &shared.failed);
    let mut summary = Summary::new(plan, threads, max_connections);
    let generator = |(part, recorder)| {
        let addresses = &addresses;
        Generator::new(Setting { plan, part, addresses, max_connections, stop, shared: &shared }, recorder)
    };
    let generators = Part::each(threads).zip(recorders).map(generator).collect::<io::Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let start = generators.into_iter().map(|generator| {
            thread::Builder::new().name("generator".into()).spawn_scoped(scope, || generator.run())
        });
        let started: io::Result<Vec<_>> = start.collect();
        // Those that have started end if another one cannot.
        shared.failed.fetch_or(started.is_err(), Ordering::Relaxed);
        let started = started?;
        while let Some(sheet) = sheets.next() {
            observe_sheet(plan, &sheet, &mut summary, &mut observe);
            sheets.give_back(sheet);
        }
        for generator in started {
            // A panic of the generator's is this thread's, too.
            generator.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(summary.report())
    })
}

fn observe_sheet(
    plan: &Plan,
    sheet: &Sheet,
    summary: &mut Summary<'_>,
    observe: &mut impl FnMut(&Interval<'_>),
) {
    let offered = match &plan.pace {
        Pace::Open { stages, .. } => Some(stages.due_by(sheet.to) - stages.due_by(sheet.from)),
        Pace::Closed { .. } => None,
    };
    let outcomes = summary.add(sheet, offered);
    let Sheet { from, to, end, .. } = *sheet;
    observe(&Interval {
        from,
        to,
        offered,
        outcomes,
        in_flight: end.in_flight,
        connections: end.connections,
    });
}

fn reach(target: &Target) -> Result<SocketAddr, Error> {
    target.reach().map_err(|cause| Error::Unreachable { target: target.name.clone(), cause })
}

/// As many as the plan asks for, if the process may have them.
fn max_connections(plan: &Plan) -> Result<usize, Error> {
    if !plan.targets.iter().any(|target| target.weight > 0) {
        return Err(Error::Plan("there is nothing to ask: no target has a weight"));
    }
    if plan.targets.iter().any(|target| target.requests.is_empty()) {
        return Err(Error::Plan("a target has no requests"));
    }
    if plan.threads == 0 {
        return Err(Error::Plan("there is nobody to ask: 0 threads"));
    }
    if plan.timeout.is_zero() || plan.pace.length().is_zero() {
        return Err(Error::Plan("the time to run and the time to wait for an answer are more than nothing"));
    }
    let wanted = match plan.pace {
        Pace::Closed { connections, .. } => Some(connections),
        Pace::Open { .. } => plan.max_connections,
    };
    if wanted == Some(0) {
        return Err(Error::Plan("there is nobody to ask: 0 connections"));
    }
    descriptors::for_connections(wanted)
}
