//! The load generator: sends requests at a rate, or as fast as they are answered, and reports their outcomes.
//!
//! A run has two parts. First it sends: every request that is due by the plan begins, or counts as skipped. Then it waits for the
//! answers that are under way, each for [`Plan::timeout`] at most from when its request began. So a run ends at most
//! [`Plan::late_after`] and one timeout after the plan's end. Answers after the plan's end count in all but the rates.
//!
//! Open loop ([`Pace::Open`]): each request goes out when it is due, whether or not earlier ones are answered, like the
//! requests of many independent users. Its time counts from when it was due, so a server that stalls is measured as its
//! users experience it. Closed loop ([`Pace::Closed`]): each of several clients waits for its answer before its next
//! request. This loop finds the capacity of a server. But a server that stalls also stalls its clients, so hardly any
//! request meets the stall.
//!
//! The generator has its own threads. The thread that called [`run`] adds up and shows. The server is known only by its
//! answers.

mod answer;
mod connection;
mod descriptors;
mod generator;
mod hdr_log;
mod mix;
mod numbers;
mod objective;
mod origin;
mod outcomes;
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
mod timetable;
mod trust;
mod wire;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

pub use hdr_log::HdrLog;
pub use objective::{Objective, ObjectiveError};
pub use origin::{Address, Origin};
pub use outcomes::{FAILURES, Failure, Outcomes};
pub use percentiles::{Percentiles, PhaseMeans, Phases};
pub use report::{LATE_SHARE, Report, Second, TargetReport, Verdict};
pub use schedule::{Arrivals, Rate, ScheduleError, Stages};
pub use target::{Request, Target, TargetError, Template, parse_header};
pub use times::{Times, Timings};
pub use trust::{ClientIdentity, ServerTrust, Trust, TrustError};

use generator::{Generator, RunShared, ThreadSetting};
use origin::Reached;
use part::Part;
use recorder::Recorder;
use report::RunSummary;
use sheets::IntervalSheet;

/// The requests of a run, their rate and its duration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The targets of the requests.
    pub targets: Vec<Target>,
    /// The pace of the requests and the duration of the run.
    pub pace: Pace,
    /// The time that a request waits for its answer, and also the longest delay after which a due request is still
    /// begun.
    pub timeout: Duration,
    /// The most connections at once. `None`: as many as the process may have, and at most [`DEFAULT_MAX_CONNECTIONS`].
    pub max_connections: Option<usize>,
    /// A request that begins later than this after it was due counts as late.
    pub late_after: Duration,
    /// The number of generator threads, at least one, such as [`Pace::threads`]. There are never more threads than
    /// connections.
    pub threads: usize,
}

/// The default of [`Plan::max_connections`]: enough for 1,000 requests a second that each wait for 10 s.
pub const DEFAULT_MAX_CONNECTIONS: usize = 10_000;

/// From this number of clients on, two threads generate more load in a closed loop. With fewer, a thread soon waits for
/// its half of them.
const MANY_CLIENTS: usize = 32;

/// The rule by which requests follow each other.
#[derive(Clone, Debug)]
pub enum Pace {
    /// Each request goes out when it is due.
    Open {
        /// The rate over time.
        stages: Stages,
        /// How requests follow each other at that rate.
        arrivals: Arrivals,
    },
    /// Each request goes out when the one before it is answered.
    Closed {
        /// The clients that send at the same time.
        connections: usize,
        /// The time for which they send.
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

    /// The best number of threads. Two threads drive a server harder than one when each has enough clients, because one
    /// thread waits while the server works. More threads would take processors from a server on the same machine. One
    /// thread is enough for a rate below its limit.
    pub fn threads(&self) -> usize {
        match self {
            Self::Closed { connections, .. } if *connections >= MANY_CLIENTS => {
                thread::available_parallelism().map_or(1, |processors| processors.get().min(2))
            }
            _ => 1,
        }
    }

    /// The time for which requests are sent.
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
    /// A server accepts no connection.
    #[error("{target}: no connection: {cause}")]
    Unreachable {
        /// The target's name.
        target: String,
        /// The error of the last attempt.
        cause: io::Error,
    },
    /// The plan has no requests, or no client to send them.
    #[error("{0}")]
    Plan(&'static str),
    /// The process may not open enough files.
    #[error(
        "the process may open {limit} files (ulimit -n), too few for {wanted} connections; expected at most {most}"
    )]
    Descriptors {
        /// The limit.
        limit: usize,
        /// The connections that the plan asks for.
        wanted: usize,
        /// The connections that the limit allows.
        most: usize,
    },
    /// The system refuses a socket or a thread, or epoll does not work.
    #[error("the generator cannot go on: {0}")]
    System(#[from] io::Error),
}

/// One second of the run, for display during the run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Interval<'a> {
    /// Its start, counted from the start of the run.
    pub from: Duration,
    /// Its end. The interval is longer than a second when the observer was slow.
    pub to: Duration,
    /// The number of requests that are due in it by the plan; `None` in a closed loop.
    pub offered: Option<f64>,
    /// The outcomes of requests in it, of all targets.
    pub outcomes: &'a Outcomes,
    /// Requests without an outcome at its end.
    pub in_flight: usize,
    /// Connections at its end.
    pub connections: usize,
    /// The delay, at its end, of the request that was to begin next.
    pub behind: Duration,
    /// The time, from the start of the run, up to which the run waits for answers; `None` while it sends.
    pub waits_until: Option<Duration>,
}

/// The two ways to end a run early.
#[derive(Clone, Copy, Debug)]
pub struct Stop<'s> {
    /// Set to begin no more requests. The answers that are under way are waited for.
    pub sending: &'s AtomicBool,
    /// Set to end at once. Requests without an answer count as abandoned.
    pub waiting: &'s AtomicBool,
}

/// Runs the plan to its end, or until `stop` is set, and waits for the remaining answers. `observe` is called for each
/// second.
///
/// # Errors
/// A server accepts no connection at the start, the plan needs more than the process may have, or the system fails. A
/// failed request is an outcome, not an error.
pub fn run(plan: &Plan, stop: &AtomicBool, observe: impl FnMut(&Interval<'_>)) -> Result<Report, Error> {
    run_until(plan, Stop { sending: stop, waiting: &AtomicBool::new(false) }, observe)
}

/// Like [`run`], and can be ended at once.
///
/// # Errors
/// As [`run`].
pub fn run_until(
    plan: &Plan,
    stop: Stop<'_>,
    mut observe: impl FnMut(&Interval<'_>),
) -> Result<Report, Error> {
    let max_connections = max_connections(plan)?;
    let addresses: Vec<Reached> = plan.targets.iter().map(reach).collect::<Result<_, _>>()?;
    let threads = plan.threads.min(max_connections);
    let shared = RunShared::default();
    let (recorders, mut sheets) = Recorder::begin_now(plan, threads, &shared.failed);
    let mut summary = RunSummary::new(plan, threads, max_connections);
    let generator = |(part, recorder)| {
        let addresses = &addresses;
        Generator::new(
            ThreadSetting { plan, part, addresses, max_connections, stop, shared: &shared },
            recorder,
        )
    };
    let generators = Part::each(threads).zip(recorders).map(generator).collect::<io::Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let start = generators.into_iter().map(|generator| {
            thread::Builder::new().name("generator".into()).spawn_scoped(scope, || generator.run())
        });
        let started: io::Result<Vec<_>> = start.collect();
        // The threads that have started end if another one cannot start.
        shared.failed.fetch_or(started.is_err(), Ordering::Relaxed);
        let started = started?;
        while let Some(sheet) = sheets.next() {
            observe_sheet(plan, &sheet, &mut summary, &mut observe);
            sheets.give_back(sheet);
        }
        for generator in started {
            // A panic of a generator thread continues in this thread.
            generator.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(summary.report())
    })
}

fn observe_sheet(
    plan: &Plan,
    sheet: &IntervalSheet,
    summary: &mut RunSummary<'_>,
    observe: &mut impl FnMut(&Interval<'_>),
) {
    let offered = match &plan.pace {
        Pace::Open { stages, .. } => Some(stages.due_by(sheet.to) - stages.due_by(sheet.from)),
        Pace::Closed { .. } => None,
    };
    let outcomes = summary.add(sheet, offered);
    let IntervalSheet { from, to, end, .. } = *sheet;
    observe(&Interval {
        from,
        to,
        offered,
        outcomes,
        in_flight: end.in_flight,
        connections: end.connections,
        behind: end.behind,
        waits_until: (end.sending == 0).then_some(end.waits_until),
    });
}

fn reach(target: &Target) -> Result<Reached, Error> {
    target.origin.reach().map_err(|cause| Error::Unreachable { target: target.name.clone(), cause })
}

/// The connections that the plan asks for, if the process may have them.
fn max_connections(plan: &Plan) -> Result<usize, Error> {
    if !plan.targets.iter().any(|target| target.weight > 0) {
        return Err(Error::Plan("there is no request to send: no target has a weight"));
    }
    if plan.targets.iter().any(|target| target.requests.is_empty()) {
        return Err(Error::Plan("a target has no requests"));
    }
    if plan.threads == 0 {
        return Err(Error::Plan("there is no thread to send requests: 0 threads"));
    }
    if plan.timeout.is_zero() || plan.pace.length().is_zero() {
        return Err(Error::Plan("the time to run and the time to wait for an answer must be above zero"));
    }
    let wanted = match plan.pace {
        Pace::Closed { connections, .. } => Some(connections),
        Pace::Open { .. } => plan.max_connections,
    };
    if wanted == Some(0) {
        return Err(Error::Plan("there is no client to send requests: 0 connections"));
    }
    descriptors::for_connections(wanted)
}
