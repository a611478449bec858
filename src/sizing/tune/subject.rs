//! The server under test, in this process, and the load on it.
//!
//! Main thread. The server serves the user's endpoints on the user's database through the same `server` as `wharf
//! serve`, on its own port. Sizes change by a reload, as in any running server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use super::Error;
use crate::config::{self, AdminListen, Config};
use crate::database::Database;
use crate::server::{Running, Server};
use crate::sizing::load::{self, Arrivals, Pace, Plan, Rate, Report, Stages};
use crate::sizing::{Traffic, TrafficError};

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
        let subject = Self { running, database, config, targets, stop };
        subject.wait_for_pool(sizes.pool)?;
        Ok(subject)
    }

    /// Changes the sizes of the running server, and sends load until all threads and sessions are warm.
    pub(super) fn resize(&mut self, sizes: &Sizes) -> Result<(), Error> {
        let config = with_sizes(&self.config, sizes);
        self.running.reload(config.clone())?;
        self.config = config;
        self.wait_for_pool(sizes.pool)?;
        self.saturate(clients(sizes), WARM_UP).map(drop)
    }

    fn wait_for_pool(&self, size: usize) -> Result<(), Error> {
        let Some(database) = &self.database else { return Ok(()) };
        let until = Instant::now() + OPENING;
        loop {
            let open = usize::try_from(database.gauges().open).unwrap_or(usize::MAX);
            if open == size {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Error::Pool { wanted: size, open });
            }
            thread::sleep(POOL_CHECK);
        }
    }

    /// Fills caches, and checks that requests succeed at all.
    pub(super) fn warm_up(&self, sizes: &Sizes) -> Result<(), Error> {
        let report = self.saturate(clients(sizes), FIRST)?;
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

    /// Load from this many clients. Each sends its next request as soon as the last is answered.
    pub(super) fn saturate(&self, clients: usize, duration: Duration) -> Result<Report, Error> {
        self.run(Pace::Closed { connections: clients, duration })
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
            max_connections: None,
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

/// The number of clients: half as many again as workers, so that no worker waits for a client.
pub(super) fn clients(sizes: &Sizes) -> usize {
    sizes.workers + (sizes.workers / 2).max(2)
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
