//! The observer reads the figures of a running server once a second, and on request.
//!
//! It has a thread of its own, so that it costs no request any time. It only reads the parts that it is given, and
//! changes none of them. `stats.rs` defines what it reports.

mod condition;
mod history;
mod report;
mod stats;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{RecvTimeoutError, Sender};

use self::condition::{Conditions, Moment};
use self::history::History;
use self::report::{Figures, Report};
pub(crate) use self::stats::{
    Condition, ConditionKind, Connections, ErrorStats, PoolStats, QueueStats, State, Stats, Thread, Totals,
};
use crate::base::guard::supervise;
use crate::base::queue::Queue;
use crate::database::Database;
use crate::exchange::job::Job;
use crate::telemetry::activity::{Activity, WorkerState};
use crate::telemetry::journal::Journal;
use crate::telemetry::metrics::{Detail, Exposition, Gauges, Metrics, PoolGauges, QueueGauges, WorkerGauges};
use crate::telemetry::{sparing, stderr};

/// How often the observer reads the figures.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// The parts that the observer reads.
pub struct Observed {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The queue.
    pub queue: Queue<Box<Job>>,
    /// The database, if there is one.
    pub database: Option<Database>,
    /// The log of requests.
    pub journal: Journal,
    /// Lists the current activity of each worker, with its name.
    pub activities: Box<dyn Fn() -> Vec<(String, Activity)> + Send + Sync>,
}

/// Reads and reports the figures. Cheap to clone.
#[derive(Clone)]
pub struct Observer(Arc<Shared>);

struct Shared {
    observed: Observed,
    started: SystemTime,
    since: Instant,
    conditions: Conditions,
    history: Mutex<History>,
    report: Mutex<Report>,
}

/// The thread that reads the figures once a second. Dropping this ends the thread.
#[derive(Debug)]
pub struct Watch {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// An observer whose history begins now.
    pub fn new(observed: Observed) -> Self {
        let history = Mutex::new(History::begin(&observed.metrics, Instant::now()));
        let (started, since, conditions) = (SystemTime::now(), Instant::now(), Conditions::default());
        Self(Arc::new(Shared { observed, started, since, conditions, history, report: Mutex::default() }))
    }

    /// Notes that the server has begun to stop, and waits for its requests until this time.
    pub fn drain(&self, until: Instant) {
        self.0.conditions.drain(until);
    }

    /// Notes why a reload was refused, or that one succeeded. The reason holds no secret.
    pub fn reloaded(&self, refused: Option<String>) {
        self.0.conditions.reloaded(refused);
    }

    /// Whether the server has begun to stop.
    pub fn is_draining(&self) -> bool {
        self.0.conditions.is_draining()
    }

    /// Starts the thread that reads the figures once a second.
    ///
    /// # Errors
    /// When the system has no more threads to give.
    pub fn watch(&self) -> io::Result<Watch> {
        let (end, ended) = crossbeam_channel::bounded(0);
        let observer = self.clone();
        let observe = move || {
            let note = || observer.metrics().thread_panicked();
            supervise("the observer", note, || {
                while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    observer.observe();
                }
            });
        };
        let thread = thread::Builder::new().name("observer".into()).spawn(observe)?;
        Ok(Watch { end: Some(end), thread: Some(thread) })
    }

    /// Adds another second to the history, and writes the lines that it gives reason for to the log.
    pub fn observe(&self) {
        let gauges = self.gauges();
        let Observed { metrics, database, journal, .. } = &self.0.observed;
        let now = Instant::now();
        let has_shed = {
            let mut history = self.history();
            history.add(metrics, &gauges, now);
            history.overloaded()
        };
        self.0.conditions.add(&gauges, has_shed, &self.threads(), now);
        sparing::log_held_back();
        let figures = Figures {
            metrics,
            pool: database.as_ref().map(|database| &**database.metrics()),
            gauges: &gauges,
            lost: journal.lost(),
            threads: &|| self.threads(),
        };
        for (level, line) in self.0.report.lock().unwrap_or_else(PoisonError::into_inner).add(&figures, now) {
            log::log!(level, "{line}");
        }
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.observed.metrics
    }

    /// The metrics for Prometheus: `OpenMetrics`, or the older text. Each route has its own series.
    pub fn exposition(&self, open_metrics: bool) -> String {
        self.exposition_in(open_metrics, Detail::default())
    }

    /// The same with more or fewer series.
    pub fn exposition_in(&self, open_metrics: bool, detail: Detail) -> String {
        let Observed { metrics, database, journal, .. } = &self.0.observed;
        let pool = database.as_ref().map(|database| Arc::clone(database.metrics()));
        let (gauges, lost_lines) = (self.gauges(), [journal.lost(), stderr::lost()]);
        Exposition { metrics: Arc::clone(metrics), pool, gauges, lost_lines, detail }.text(open_metrics)
    }

    /// The gauges at this moment.
    pub fn gauges(&self) -> Gauges {
        let now = Instant::now();
        let queue = self.0.observed.queue.gauges();
        let activities = self.activities();
        let stuck = activities.iter().filter(|(_, activity)| activity.snapshot(now).is_overdue).count();
        Gauges {
            started: self.0.started,
            workers: WorkerGauges {
                max: queue.workers,
                count: queue.present,
                busy: queue.running,
                busy_max: queue.busy_max,
                idle: queue.present.saturating_sub(queue.running),
                stuck,
            },
            queue: QueueGauges { length: queue.length, max_length: queue.max_length, oldest: queue.oldest },
            pool: self.0.observed.database.as_ref().map(pool_gauges),
        }
    }

    /// The current activity of each worker.
    pub fn threads(&self) -> Vec<Thread> {
        let (now, endpoints) = (Instant::now(), self.0.observed.metrics.endpoints());
        let threads = self.activities().into_iter().map(|(name, activity)| {
            let snapshot = activity.snapshot(now);
            let busy = snapshot.state != WorkerState::Idle;
            let endpoint = endpoints.get(snapshot.endpoint as usize).filter(|_| busy);
            Thread {
                name,
                state: snapshot.state.name(),
                for_ms: stats::milliseconds(snapshot.time_in_state),
                method: endpoint.map(|endpoint| endpoint.method.clone()),
                route: endpoint.map(|endpoint| endpoint.route.clone()),
                request_ms: busy.then(|| stats::milliseconds(snapshot.time_on_request)),
                stuck: snapshot.is_overdue,
            }
        });
        threads.collect()
    }

    /// All figures for `/stats` and `/events`.
    pub fn stats(&self) -> Stats {
        let gauges = self.gauges();
        let Observed { metrics, database, .. } = &self.0.observed;
        let pool = gauges.pool.zip(database.as_ref());
        let (threads, totals) = (self.threads(), Totals::of(metrics));
        let conditions = self.conditions_at(&gauges, &threads, totals.in_flight);
        let history = self.history();
        Stats {
            wharf: env!("CARGO_PKG_VERSION"),
            started_at_s: stats::since_1970(self.0.started),
            uptime_s: stats::rounded(self.0.since.elapsed().as_secs_f64()),
            state: State::of(&conditions),
            conditions,
            totals,
            workers: gauges.workers,
            threads,
            queue: QueueStats::of(gauges.queue),
            pool: pool.map(|(gauges, database)| PoolStats::of(gauges, database.metrics())),
            connections: Connections::of(metrics),
            seconds: history.seconds(),
            endpoints: history.endpoints(metrics, Instant::now()),
            errors: ErrorStats::all_of(metrics),
        }
    }

    /// The conditions that an operator should know, the worst first.
    pub fn conditions(&self) -> Vec<Condition> {
        let metrics = &self.0.observed.metrics;
        let in_flight = metrics.requests().saturating_sub(metrics.finished());
        self.conditions_at(&self.gauges(), &self.threads(), in_flight)
    }

    fn conditions_at(&self, gauges: &Gauges, threads: &[Thread], in_flight: u64) -> Vec<Condition> {
        let database = self.0.observed.database.as_ref();
        self.0.conditions.all(&Moment {
            now: Instant::now(),
            wall: SystemTime::now(),
            gauges,
            threads,
            in_flight,
            // Requests without an endpoint are counted by one more.
            endpoints: self.0.observed.metrics.endpoints().len().saturating_sub(1),
            outage: database.and_then(Database::outage),
            long_loans: database.map(Database::long_loans).unwrap_or_default(),
        })
    }

    fn activities(&self) -> Vec<(String, Activity)> {
        (self.0.observed.activities)()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pool_gauges(database: &Database) -> PoolGauges {
    let gauges = database.gauges();
    PoolGauges {
        max: gauges.maximum,
        min: gauges.minimum_idle,
        open: gauges.open,
        active: gauges.active,
        idle: gauges.idle,
        pending: gauges.waiting,
        is_down: gauges.is_down,
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("started", &self.0.started).finish_non_exhaustive()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            // To resume a panic during another one would abort the process.
            if !thread::panicking() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}
