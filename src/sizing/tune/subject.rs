//! The server under test, in this process, and the load on it.
//!
//! Main thread. The server serves the user's endpoints on the user's database through the same `server` as `wharf
//! serve`, on its own port. Sizes change by a reload, as in any running server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::Error;
use crate::config::{self, AdminListen, Config};
use crate::database::Database;
use crate::server::{Running, Server};
use crate::sizing::load::{self, Arrivals, Objective, Pace, Plan, Rate, Report, Stages};
use crate::sizing::{Traffic, TrafficError};
use crate::telemetry::metrics::Phase;

/// The time limit for the pool to reach its new size.
const OPENING: Duration = Duration::from_secs(10);

/// The interval between two checks of the pool's size.
const POOL_CHECK: Duration = Duration::from_millis(2);

/// The time limit for an answer. It is past the default deadline, so that the server's own answer to a late request
/// arrives.
const PATIENCE: Duration = Duration::from_secs(15);

/// The load after a change of sizes, long enough to use all new threads and sessions.
const WARM_UP: Duration = Duration::from_millis(250);

/// The duration of a change of sizes, with warming up.
pub(super) const RESIZING: Duration = Duration::from_millis(350);

/// The duration of the first load, which fills caches.
const FIRST: Duration = Duration::from_secs(1);

/// The percentage of requests that may fail under the first load. A sampled row may be deleted before its request.
const FAILING_MAX: f64 = 1.0;

/// The sessions and workers with which the number of clients is sought. With fewer, the sessions could be the limit.
const CROWD_POOL: usize = 16;

/// The number of clients that shows whether requests share round trips: many for each of the first sessions.
const CROWD_MIN: usize = 32;

/// The most clients that are tried.
const CROWD_MAX: usize = 1024;

/// The duration of the load from each number of clients.
const CROWD_TIME: Duration = Duration::from_millis(500);

/// From this many requests at once on each session on, requests share round trips. The times of a session that only one
/// request has at once can add up to 1.
pub(super) const SHARES_FROM: f64 = 1.2;

/// Descriptors for anything but the load's connections: standard streams, listeners, pollers, files.
const OTHER_DESCRIPTORS: usize = 128;

/// A wait that is never reached. During a sweep only the sizes may bound the throughput.
const NEVER: Duration = Duration::from_secs(3600);

/// The sizes that a server runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// `database.maximum_pool_size`.
    pub pool: usize,
    /// `server.workers`.
    pub workers: usize,
    /// `[queue]`.
    pub queue: config::Queue,
}

/// A server under test.
pub(super) struct Subject<'s> {
    running: Running,
    database: Option<Database>,
    config: Config,
    targets: Vec<load::Target>,
    stop: &'s AtomicBool,
    /// The least number of clients, where requests share round trips.
    crowd: Option<usize>,
}

/// The load of a saturated server, and what its sessions carried.
pub(super) struct Saturated {
    pub(super) report: Report,
    /// The requests that a borrowed session carried at once, on average.
    pub(super) at_once: f64,
}

/// A queue that refuses no request.
pub(super) fn endless(queue: &config::Queue) -> config::Queue {
    let mut queue = queue.clone();
    (queue.max_length, queue.max_wait, queue.target, queue.interval) = (1_000_000, NEVER, NEVER, NEVER);
    queue
}

impl<'s> Subject<'s> {
    /// Starts the server with these sizes, and draws the requests for it.
    pub(super) fn start(
        config: &Config,
        sizes: &Sizes,
        traffic: impl FnOnce(SocketAddr, Option<&Database>) -> Result<Traffic, TrafficError>,
        stop: &'s AtomicBool,
    ) -> Result<Self, Error> {
        let config = with_sizes(&bare(config), sizes);
        let server = Server::new(config.clone())?;
        let database = server.database().cloned();
        let running = server.start()?;
        let targets = traffic(running.address(), database.as_ref())?.targets;
        let subject = Self { running, database, config, targets, stop, crowd: None };
        subject.wait_for_pool(sizes.pool)?;
        Ok(subject)
    }

    /// Changes the sizes of the running server, and sends load until all threads and sessions are warm.
    pub(super) fn resize(&mut self, sizes: &Sizes) -> Result<(), Error> {
        let config = with_sizes(&self.config, sizes);
        self.running.reload(config.clone())?;
        self.config = config;
        self.wait_for_pool(sizes.pool)?;
        self.saturate(sizes, WARM_UP).map(drop)
    }

    /// The number of clients for these sizes: half as many again as workers, so that no worker waits for a client.
    ///
    /// Where requests share round trips, a session carries many of them at once. Then the clients would be the limit, and
    /// throughput would only grow with the sizes because the clients do. So all sizes have the same crowd of clients.
    pub(super) fn clients(&self, sizes: &Sizes) -> usize {
        let for_workers = sizes.workers + (sizes.workers / 2).max(2);
        for_workers.max(self.crowd.unwrap_or_default()).min(self.connections_max())
    }

    /// The least number of clients of each measurement; `None` where requests do not share round trips.
    pub(super) fn crowd(&self) -> Option<usize> {
        self.crowd
    }

    /// Looks for requests that share round trips and that more clients give more throughput. If there are any, it finds the
    /// number of clients that they need: doubled while throughput grows by more than this tolerance, and while the
    /// objectives are met.
    pub(super) fn find_crowd(
        &mut self,
        sizes: &Sizes,
        largest: usize,
        tolerance: f64,
        objectives: &[Objective],
    ) -> Result<(), Error> {
        let few = self.saturate_with(self.clients(sizes), CROWD_TIME)?;
        let many = self.saturate_with(CROWD_MIN, CROWD_TIME)?;
        let grows = many.report.all.good_per_s > few.report.all.good_per_s * (1.0 + tolerance);
        if many.at_once < SHARES_FROM || !grows {
            return Ok(());
        }
        let size = largest.min(CROWD_POOL);
        self.resize(&Sizes { pool: size, workers: size, queue: sizes.queue.clone() })?;
        let (mut crowd, mut before) = (CROWD_MIN, 0.0);
        while crowd <= CROWD_MAX.min(self.connections_max()) {
            let mut report = self.saturate_with(crowd, CROWD_TIME)?.report;
            let meets = objectives.iter().all(|objective| report.judge(objective));
            let throughput = report.all.good_per_s;
            if self.crowd.is_some() && (!meets || throughput < before * (1.0 + tolerance)) {
                break;
            }
            (self.crowd, before) = (Some(crowd), throughput);
            crowd *= 2;
        }
        Ok(())
    }

    /// The most connections for the load. Both ends of each are in this process.
    fn connections_max(&self) -> usize {
        let limit = getrlimit(Resource::Nofile)
            .current
            .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        // An SQLite session has up to three files.
        let others = OTHER_DESCRIPTORS + 3 * self.config.database.maximum_pool_size;
        let descriptors = (limit.saturating_sub(others) / 2).max(1);
        descriptors.min(self.config.http.max_connections).min(load::DEFAULT_MAX_CONNECTIONS)
    }

    fn wait_for_pool(&self, size: usize) -> Result<(), Error> {
        let Some(database) = &self.database else { return Ok(()) };
        let until = Instant::now() + OPENING;
        loop {
            let open = usize::try_from(database.gauges().open).unwrap_or(usize::MAX);
            if open == size {
                return Ok(());
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            if Instant::now() >= until {
                return Err(Error::Pool { wanted: size, open });
            }
            thread::sleep(POOL_CHECK);
        }
    }

    /// Fills caches, and checks that requests succeed at all.
    pub(super) fn warm_up(&self, sizes: &Sizes) -> Result<(), Error> {
        let report = self.saturate(sizes, FIRST)?.report;
        let percent = report.all.errors_percent;
        if percent > FAILING_MAX {
            let statuses = report.all.statuses.iter().map(|(status, count)| format!("{count} × {status}"));
            let failures = report.all.failures.iter().map(|(kind, count)| format!("{count} × {kind}"));
            return Err(Error::Failing {
                percent,
                statuses: statuses.chain(failures).collect::<Vec<_>>().join(", "),
            });
        }
        Ok(())
    }

    /// Load from as many clients as these sizes need. Each sends its next request as soon as the last is answered.
    pub(super) fn saturate(&self, sizes: &Sizes, duration: Duration) -> Result<Saturated, Error> {
        self.saturate_with(self.clients(sizes), duration)
    }

    fn saturate_with(&self, connections: usize, duration: Duration) -> Result<Saturated, Error> {
        let before = self.spent();
        let report = self.run(Pace::Closed { connections, duration })?;
        let after = self.spent();
        let (in_database, borrowed) = (after.0 - before.0, after.1 - before.1);
        let at_once = if borrowed > 0.0 { in_database / borrowed } else { 0.0 };
        Ok(Saturated { report, at_once })
    }

    /// The seconds that all requests together spent in the database, and those for which sessions were borrowed.
    fn spent(&self) -> (f64, f64) {
        let in_database = self.running.metrics().phase(Phase::Database).sum();
        let borrowed = self.database.as_ref().map(|database| database.metrics().usage.counts().sum());
        (in_database.as_secs_f64(), borrowed.unwrap_or_default().as_secs_f64())
    }

    /// Load at this rate, whether or not earlier requests are answered.
    pub(super) fn offer(&self, per_second: f64, duration: Duration) -> Result<Report, Error> {
        let rate = Rate::new(per_second).ok_or(Error::Stopped)?;
        let stages = Stages::constant(rate, duration);
        self.run(Pace::Open { stages, arrivals: Arrivals::Constant })
    }

    fn run(&self, pace: Pace) -> Result<Report, Error> {
        let plan = Plan {
            targets: self.targets.clone(),
            pace,
            timeout: PATIENCE,
            max_connections: Some(self.connections_max()),
            late_after: Duration::from_millis(10),
            threads: 1,
        };
        let report = load::run(&plan, self.stop, |_| {})?;
        if report.stopped { Err(Error::Stopped) } else { Ok(report) }
    }

    /// Ends the server.
    pub(super) fn stop(self) {
        self.running.drain();
    }
}

fn with_sizes(config: &Config, sizes: &Sizes) -> Config {
    let mut config = config.clone();
    config.database.maximum_pool_size = sizes.pool;
    config.database.minimum_idle = Some(sizes.pool);
    config.server.workers = Some(sizes.workers);
    config.queue = sizes.queue.clone();
    config
}

/// The configuration without the parts that would disturb the load from this machine. It listens on a free loopback
/// port, with the default log, and without admin listener, TLS, proxy headers and deadline header. The limits on one
/// client's address are off, because all load comes from one address.
fn bare(config: &Config) -> Config {
    let defaults = Config::default();
    let mut config = config.clone();
    config.server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
    config.listen = Vec::new();
    config.server.reuse_port = false;
    config.admin.listen = Some(AdminListen::Off);
    config.server.pid_file = None;
    config.log = defaults.log;
    config.server.deadline_header = None;
    config.tls = defaults.tls;
    config.proxy = defaults.proxy;
    config.http.max_connections_per_address = None;
    config.http.max_accept_rate = None;
    config.http.max_requests_per_connection = None;
    config
}
