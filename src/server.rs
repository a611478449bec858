//! The only file that knows every stage: connector → router → queue → workers → database. It starts, drains and stops
//! the stages; `reload.rs` changes them while they run.
//!
//! Main thread. The connector's thread calls `Stages`.

mod admin;
mod client;
mod reload;
mod supervisor;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::admin::{AdminView, Listening, SetLogLevel};
pub use self::client::Client;
pub use crate::connector::{Address, Drained, TlsError};
pub use crate::exchange::router::RouteError;
use crossbeam_channel::{Receiver, Sender};
use http::{HeaderName, Method, StatusCode};
use log::LevelFilter;
pub use reload::{NewConfig, Reload, ReloadError, Reloaded, log_reload};
use signal_hook::consts::{SIGHUP, TERM_SIGNALS};
use signal_hook::iterator::Signals;

use self::supervisor::Watchdog;
use crate::admin::observer::{Observed, Observer, Watch};
use crate::base::deadline::Deadline;
use crate::base::queue::{Key, Limits, Queue, Refusal};
use crate::config::{self, Config, Connector as Speaker, Listen};
use crate::connector::native::Native;
use crate::connector::tiny_http::TinyHttp;
use crate::connector::{Connector, Listener, Settings, SocketFile, Stopper, Tls, descriptors};
use crate::database::{self, Database};
use crate::endpoint;
use crate::exchange::job::{Admission, BodyPlan, Job, Service, Work, waited_too_long, would_wait_too_long};
use crate::exchange::router::{Router, Target};
use crate::handler::{BodyUse, Context, Error, FAILED, Handler, unavailable};
use crate::http::{OriginRules, Request, Response, cross_origin};
use crate::telemetry::journal::{Journal, Opened};
use crate::telemetry::metrics::{Endpoint, Metrics, Reason};
use crate::telemetry::sparing::sparingly;
use crate::telemetry::traces::{Course, Outcome, Surroundings, Traces};
use crate::workers::{Workers, answer_error, final_response, guarded};

/// A server before its start: the configuration's endpoints, and handlers written in Rust.
pub struct Server {
    config: Config,
    database: Option<Database>,
    /// The routes that are written in Rust.
    routes: Vec<Route>,
    on_reload: Option<Box<dyn Reload>>,
    on_log_level: Option<SetLogLevel>,
}

/// A method, a path, and the target that answers them.
type Route = (Method, String, Target);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// `server.listen`.
        address: Listen,
        /// The system's error.
        cause: io::Error,
    },
    /// The admin listener's address cannot be bound.
    #[error("cannot listen on {address} (admin.listen): {cause}")]
    AdminListen {
        /// `admin.listen`, or its default.
        address: SocketAddr,
        /// The system's error.
        cause: io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// The configured exporter of traces cannot be started.
    #[error("tracing.otlp_endpoint: {0}")]
    Traces(io::Error),
    /// The system refused a thread or a descriptor.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// The database cannot be reached, or its URL is wrong.
    #[error("database: {0}")]
    Database(#[from] database::Error),
    /// A route is malformed, or two routes collide.
    #[error("route {0}")]
    Route(#[from] RouteError),
    /// The access log's file cannot be opened.
    #[error("log.access_file: {} cannot be opened: {cause}", .path.display())]
    AccessFile {
        /// `log.access_file`.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
}

/// Reads the certificate's files as a start does, and checks whether the server could start with them.
///
/// # Errors
/// A certificate or key cannot be used.
pub fn check_tls(config: &Config) -> Result<(), TlsError> {
    Settings::new(config).map(drop)
}

/// A running server. Dropping it does not stop it; see [`Running::drain`].
pub struct Running {
    address: Address,
    socket_file: Option<SocketFile>,
    tls: Option<Tls>,
    connector: Box<dyn Connector>,
    /// `None`: the server has no admin listener.
    admin: Option<Listening>,
    admin_view: Arc<AdminView>,
    /// The requests of the admin listener's clients for a reload.
    errands: Receiver<Job>,
    queue: Queue<Job>,
    workers: Workers,
    database: Option<Database>,
    metrics: Arc<Metrics>,
    journal: Journal,
    traces: Traces,
    observer: Observer,
    /// Kept for its drop, which ends the observer's thread.
    _watch: Watch,
    /// The routes that are written in Rust. Every configuration serves them.
    routes: Vec<Route>,
    /// The configuration in force. A reload keeps the lock until its end, so two reloads never run at once.
    config: Mutex<Config>,
    /// Only the thread that waits for signals uses it. The lock lets other threads share the rest of this struct.
    on_reload: Mutex<Option<Box<dyn Reload>>>,
}

/// The signals and their consequences, for the thread that waits for them.
struct Heard {
    signals: Receiver<i32>,
    /// Disconnected at the second signal that ends the server.
    stopped: Receiver<Infallible>,
    /// Kept for its drop, which ends the watchdog's thread.
    watchdog: Option<Watchdog>,
}

/// The longest `Retry-After` for a refused client, because the load after that time cannot be foreseen.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The connector's view of the server: routing and admission.
struct Stages {
    router: Router,
    queue: Queue<Job>,
    /// For each lane of the router, the index of the queue's lane.
    lanes: Vec<usize>,
    max_wait: Duration,
    deadline: Duration,
    deadline_header: Option<HeaderName>,
    max_body_bytes: usize,
    origins: OriginRules,
    metrics: Arc<Metrics>,
    traces: Traces,
}

impl Server {
    /// Opens the configured database and adds the configured endpoints.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn new(config: Config) -> Result<Self, StartError> {
        let database = match &config.database.url {
            Some(url) => Some(Database::open(&config.database, url)?),
            None => None,
        };
        Ok(Self { config, database, routes: Vec::new(), on_reload: None, on_log_level: None })
    }

    /// The database, for checks and migrations before the server starts.
    pub fn database(&self) -> Option<&Database> {
        self.database.as_ref()
    }

    /// Adds a handler for one method and path; it runs on a worker. It may have a [policy](Handler::with), or be one
    /// [statement](crate::handler::query()).
    #[must_use]
    pub fn route(self, method: Method, path: &str, handler: impl Handler) -> Self {
        self.add(method, path, Target::of(handler))
    }

    /// Adds a function for `GET`, and for `HEAD` with it; it runs on a worker. A closure needs no types of its arguments.
    #[must_use]
    pub fn get<F>(self, path: &str, function: F) -> Self
    where
        F: Fn(&Request, &mut Context<'_>) -> Result<Response, Error> + Send + Sync + 'static,
    {
        self.route(Method::GET, path, function)
    }

    /// Adds a function for `POST`; it runs on a worker. A closure needs no types of its arguments.
    #[must_use]
    pub fn post<F>(self, path: &str, function: F) -> Self
    where
        F: Fn(&Request, &mut Context<'_>) -> Result<Response, Error> + Send + Sync + 'static,
    {
        self.route(Method::POST, path, function)
    }

    /// Adds a function for `PUT`; it runs on a worker. A closure needs no types of its arguments.
    #[must_use]
    pub fn put<F>(self, path: &str, function: F) -> Self
    where
        F: Fn(&Request, &mut Context<'_>) -> Result<Response, Error> + Send + Sync + 'static,
    {
        self.route(Method::PUT, path, function)
    }

    /// Adds a function for `PATCH`; it runs on a worker. A closure needs no types of its arguments.
    #[must_use]
    pub fn patch<F>(self, path: &str, function: F) -> Self
    where
        F: Fn(&Request, &mut Context<'_>) -> Result<Response, Error> + Send + Sync + 'static,
    {
        self.route(Method::PATCH, path, function)
    }

    /// Adds a function for `DELETE`; it runs on a worker. A closure needs no types of its arguments.
    #[must_use]
    pub fn delete<F>(self, path: &str, function: F) -> Self
    where
        F: Fn(&Request, &mut Context<'_>) -> Result<Response, Error> + Send + Sync + 'static,
    {
        self.route(Method::DELETE, path, function)
    }

    /// Adds a function for `GET` that never blocks: it runs on the poller, without a worker and without waiting, also
    /// when every worker is busy.
    #[must_use]
    pub fn get_immediate(
        self,
        path: &str,
        function: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> Self {
        self.add(Method::GET, path, Target::Immediate(Arc::new(function)))
    }

    fn add(mut self, method: Method, path: &str, target: Target) -> Self {
        self.routes.push((method, path.to_owned(), target));
        self
    }

    /// Sets the source of the new configuration for a SIGHUP while the server [runs](Self::run). Without a source,
    /// SIGHUP only reads the certificate again.
    #[must_use]
    pub fn on_reload(self, reload: impl Reload) -> Self {
        Self { on_reload: Some(Box::new(reload)), ..self }
    }

    /// Sets the function that changes the log's level when a client of the admin listener asks for it. The function
    /// takes the new level and returns the old one, or the reason why the level stays. Without a function the level
    /// stays.
    #[must_use]
    pub fn on_log_level(
        self,
        set: impl Fn(LevelFilter) -> Result<LevelFilter, String> + Send + Sync + 'static,
    ) -> Self {
        Self { on_log_level: Some(Box::new(set)), ..self }
    }

    /// Binds the addresses and starts every thread.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(self) -> Result<Running, StartError> {
        let config = &self.config;
        let metrics = Arc::new(Metrics::default());
        let router = router(config, self.database.as_ref(), &self.routes, &metrics)?;
        let mut settings = Settings::new(config)?;
        let opened = self.open_log()?;
        let journal = Journal::default();
        settings.journal = journal.clone();
        let mut listener = Listener::bind_for(
            &config.server.listen,
            config.server.reuse_port,
            config.server.socket_access(),
        )
        .map_err(|cause| StartError::Listen { address: config.server.listen.clone(), cause })?;
        let (address, socket_file) = (listener.address().clone(), listener.take_file());
        let admin_listener = Listening::bind(config)?;
        journal.reconfigure(journal.prepare(&config.log, opened)?);
        let behind = Behind::start(config, self.database.as_ref(), router, &metrics, &journal)?;
        let Behind { queue, workers, traces, service } = behind;
        let observer = Observer::new(Observed {
            metrics: Arc::clone(&metrics),
            queue: queue.clone(),
            database: self.database.clone(),
            activities: Box::new(workers.activities()),
            journal: journal.clone(),
        });
        let watch = observer.watch()?;
        let (admin_view, errands) =
            AdminView::new(config, &observer, self.database.as_ref(), self.on_log_level);
        settings.max_connections = descriptors::fitting(config);
        // The admin listener starts before the connector. A client that finds the server then finds the admin listener
        // too.
        let start =
            |listener| Listening::start(listener, &config.admin, &admin_view, settings.max_connections);
        let admin = admin_listener.map(start).transpose()?;
        let tls = settings.tls.clone();
        let connector: Box<dyn Connector> = match config.server.connector {
            Speaker::Native => Box::new(Native::start("", listener, settings, &service, &metrics)?),
            Speaker::TinyHttp => {
                Box::new(TinyHttp::start(listener, &settings, service, Arc::clone(&metrics))?)
            }
        };
        log::info!("serving on {address}: {}; at most {}", config.sizes(), config.limits());
        Ok(Running {
            address,
            socket_file,
            tls,
            connector,
            admin,
            admin_view,
            errands,
            queue,
            workers,
            database: self.database,
            metrics,
            journal,
            traces,
            observer,
            _watch: watch,
            routes: self.routes,
            config: Mutex::new(self.config),
            on_reload: Mutex::new(self.on_reload),
        })
    }

    fn open_log(&self) -> Result<Opened, StartError> {
        let path = || self.config.log.access_file.clone().unwrap_or_default();
        Opened::new(&self.config.log).map_err(|cause| StartError::AccessFile { path: path(), cause })
    }

    /// Starts the stages behind the connector, for tests: requests come from the [`Client`] and no address is bound.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn client(self) -> Result<Client, StartError> {
        Client::start(&self)
    }

    /// Starts, serves until SIGTERM or SIGINT, and drains; a second signal stops at once.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn run(self) -> Result<Drained, StartError> {
        self.run_and_tell(|_| {})
    }

    /// As [`run`](Self::run), and calls `started` once clients can connect. A program that `started` informs may signal
    /// the server at once.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn run_and_tell(self, started: impl FnOnce(&Running)) -> Result<Drained, StartError> {
        let signals = watched_signals()?;
        let running = self.start()?;
        let heard = running.hear(signals)?;
        started(&running);
        Ok(running.run_until(heard))
    }
}

/// The running stages behind a connector.
struct Behind {
    queue: Queue<Job>,
    workers: Workers,
    traces: Traces,
    service: Arc<dyn Service>,
}

impl Behind {
    fn start(
        config: &Config,
        database: Option<&Database>,
        router: Router,
        metrics: &Arc<Metrics>,
        journal: &Journal,
    ) -> Result<Self, StartError> {
        let queue = Queue::new(queue_limits(&config.queue), config.workers());
        let traces = traces(config, database, metrics)?;
        let noted = (journal.clone(), traces.clone());
        let counted = Arc::clone(metrics);
        let workers = Workers::start(config.workers(), queue.clone(), database.cloned(), counted, noted)?;
        workers.tell_timing(config.server.server_timing);
        workers.pipeline(config.database.pipelined_max());
        let stages = Stages::new(config, router, queue.clone(), Arc::clone(metrics), traces.clone());
        Ok(Self { queue, workers, traces, service: Arc::new(stages) })
    }
}

impl Running {
    /// The address where clients connect, with the port that the system chose where the configuration says 0.
    pub fn listening_on(&self) -> &Address {
        &self.address
    }

    /// The TCP address that clients connect to.
    ///
    /// # Panics
    /// When the server listens on a Unix socket; see [`listening_on`](Self::listening_on).
    pub fn address(&self) -> SocketAddr {
        match &self.address {
            Address::Tcp(address) => *address,
            other @ Address::Unix(_) => panic!("{other} is no TCP address"),
        }
    }

    /// The address where operators connect, with the port that the system chose. `None`: there is no admin listener.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Listening::address)
    }

    /// Whether clients speak TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Reads the certificate's files again, for new connections. Open connections keep the certificate that they have.
    ///
    /// # Errors
    /// A file cannot be used. Nothing has changed then.
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.identity.reload())
    }

    /// How many request threads there are.
    pub fn workers(&self) -> usize {
        self.workers.count()
    }

    /// The observer of the running server.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// The server's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Serves until SIGTERM or SIGINT, and drains; a second signal stops at once. After SIGHUP the configuration is
    /// read again, as [`Server::on_reload`] says.
    ///
    /// # Errors
    /// The system does not let the process handle signals.
    pub fn run_until_signal(self) -> Result<Drained, StartError> {
        let heard = self.hear(watched_signals()?)?;
        Ok(self.run_until(heard))
    }

    /// Directs signals and the admin listener's requests for a reload to this thread.
    fn hear(&self, signals: Signals) -> Result<Heard, StartError> {
        let (sender, received) = crossbeam_channel::unbounded();
        let (going_on, stopped) = crossbeam_channel::bounded(0);
        let stop = self.connector.stopper();
        let watch = move || watch(signals, &sender, &stop, going_on);
        std::thread::Builder::new().name("signals".into()).spawn(watch)?;
        self.admin_view.listen();
        let watchdog = Watchdog::start(|| self.pulse())?;
        Ok(Heard { signals: received, stopped, watchdog })
    }

    fn run_until(self, heard: Heard) -> Drained {
        supervisor::ready(&self.address);
        loop {
            crossbeam_channel::select! {
                // Signals that come during a reload wait until it is done.
                recv(heard.signals) -> signal => if signal == Ok(SIGHUP) { drop(self.read_again()) } else { break },
                recv(self.errands) -> job => if let Ok(job) = job { self.read_again_for(job) },
            }
        }
        log::info!("draining: requests in flight are answered, for at most {:?}", self.drain_timeout());
        // The pollers end during the drain and can then no longer answer the watchdog.
        drop(heard.watchdog);
        supervisor::stopping(self.drain_timeout());
        self.drain_unless(&heard.stopped)
    }

    /// Stops accepting, lets requests in flight finish for at most `server.drain_timeout`, and ends every thread.
    pub fn drain(self) -> Drained {
        self.drain_unless(&crossbeam_channel::never())
    }

    /// As [`drain`](Self::drain), and stops waiting for handlers once `stop` is disconnected.
    fn drain_unless(self, stop: &Receiver<Infallible>) -> Drained {
        let reuses_port = self.config.lock().unwrap_or_else(PoisonError::into_inner).server.reuse_port;
        let patience = self.drain_timeout();
        let until = Instant::now() + patience;
        self.admin_view.drain();
        let mut admin = self.admin;
        // Another server shares the port. Operators ask that one from now on.
        if reuses_port {
            admin.take().into_iter().for_each(Listening::end);
        }
        if let Some(Err(error)) = self.socket_file.as_ref().map(SocketFile::remove) {
            log::warn!("{} cannot be removed: {error}", self.address);
        }
        let drained = self.connector.drain(patience);
        self.queue.close();
        let workers_ended =
            drained == Drained::Complete && self.workers.join(Deadline::at(until, Duration::ZERO), stop);
        self.journal.close();
        self.traces.close(stop);
        log::info!("stopped: {}", self.metrics);
        if drained == Drained::Complete && !workers_ended {
            log::warn!("a handler did not end by its deadline; its client was answered 504");
        }
        self.errands.try_iter().for_each(Self::turn_away);
        admin.into_iter().for_each(Listening::end);
        drained
    }

    /// The watchdog's question whether the server works. It works if every thread of the connector and every worker
    /// runs, and if some worker is not past its request's deadline.
    fn pulse(&self) -> supervisor::Pulse {
        let (connector, workers, observer) =
            (self.connector.pulse(), self.workers.pulse(), self.observer.clone());
        Box::new(move |patience| {
            connector(patience)?;
            workers()?;
            let workers = observer.gauges().workers;
            let all_stuck = workers.stuck > 0 && workers.stuck >= workers.count;
            if all_stuck { Err("every worker is past its request's deadline") } else { Ok(()) }
        })
    }

    fn drain_timeout(&self) -> Duration {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).server.drain_timeout
    }
}

/// Builds the router from the configuration's endpoints and the routes that are written in Rust.
fn router(
    config: &Config,
    database: Option<&Database>,
    in_rust: &[Route],
    metrics: &Arc<Metrics>,
) -> Result<Router, RouteError> {
    let mut router = Router::new(Arc::clone(metrics));
    for (method, path, target) in
        endpoint::targets(config, database).into_iter().chain(in_rust.iter().cloned())
    {
        router.add(method, &path, target)?;
    }
    Ok(router)
}

/// Starts the exporter of traces if the configuration names a collector.
fn traces(
    config: &Config,
    database: Option<&Database>,
    metrics: &Arc<Metrics>,
) -> Result<Traces, StartError> {
    let surroundings = Surroundings {
        is_encrypted: config.tls.certificate.is_some(),
        database_system: database.map_or("", |database| database.kind().system()),
        database_name: database.map_or_else(String::new, |database| database.name().to_owned()),
    };
    Traces::start(&config.tracing, surroundings, metrics).map_err(StartError::Traces)
}

fn queue_limits(queue: &config::Queue) -> Limits {
    Limits { max_length: queue.max_length, target: queue.target, interval: queue.interval }
}

/// Passes each signal on. The second one that is not SIGHUP calls `stop` and drops `going_on`.
fn watch(mut signals: Signals, sender: &Sender<i32>, stop: &Stopper, going_on: Sender<Infallible>) {
    let mut others = signals.forever().filter(|signal| {
        // The receiver is gone once the server stops. The signal has no further use then.
        let _ = sender.send(*signal);
        *signal != SIGHUP
    });
    if others.next().and(others.next()).is_some() {
        log::warn!("second signal: stopping at once");
        stop();
        drop(going_on);
    }
}

/// Catches the signals. From now on none of them ends the process by itself.
fn watched_signals() -> io::Result<Signals> {
    Signals::new(TERM_SIGNALS.iter().chain(&[SIGHUP]))
}

impl Stages {
    fn new(
        config: &Config,
        router: Router,
        queue: Queue<Job>,
        metrics: Arc<Metrics>,
        traces: Traces,
    ) -> Self {
        Self {
            lanes: queue.lanes(router.lanes()),
            router,
            queue,
            max_wait: config.queue.max_wait,
            deadline: config.server.deadline,
            deadline_header: config.server.deadline_header.clone(),
            max_body_bytes: config.http.max_body_bytes,
            origins: OriginRules {
                allowed: config.access.origins.clone(),
                is_encrypted: config.tls.certificate.is_some(),
                trusted: config.proxy.trusted.clone(),
                forwarded_by: config.proxy.header,
            },
            metrics,
            traces,
        }
    }

    /// Counts and traces a request that was answered without a worker.
    fn answered(
        &self,
        request: &Request,
        endpoint: Option<&Arc<Endpoint>>,
        since: Instant,
        status: StatusCode,
    ) {
        let status = status.as_u16();
        endpoint.unwrap_or(self.metrics.unmatched()).responded_to(request.id(), status);
        self.traces.tell(request, endpoint, || (Course::without_worker(since), Outcome::answered(status)));
    }
}

impl Service for Stages {
    fn accept(&self, mut request: Request) -> Admission {
        let now = Instant::now();
        match self.router.route(&mut request) {
            Err(response) => {
                self.answered(&request, None, now, response.status());
                Admission::Answered(response, None)
            }
            Ok((_, endpoint)) if !self.origins.admit(&request) => {
                let (response, reason) = (of_another_site(&request, endpoint), Reason::CrossOrigin);
                let status = response.status().as_u16();
                endpoint.responded_to(request.id(), status);
                self.traces.tell(&request, Some(endpoint), || {
                    (Course::without_worker(now), Outcome::refused(status, reason.name()))
                });
                Admission::Refused(response, reason, Arc::clone(endpoint))
            }
            Ok((Target::Immediate(answer), endpoint)) => {
                let answered = guarded(|| answer(&request)).inspect_err(|_| self.metrics.panicked());
                let answered = answered.and_then(final_response).and_then(immediate);
                // The only errors here are a panic and an invalid response. Neither has a value to show.
                let answered = answered.unwrap_or_else(|error| answer_error(&request, &error, false));
                self.answered(&request, Some(endpoint), now, answered.status());
                Admission::Answered(answered, Some(Arc::clone(endpoint)))
            }
            Ok((Target::Handler(answerer), endpoint)) => {
                let mut allowance = answerer.policy.deadline.unwrap_or(self.deadline);
                if let Some(name) = &self.deadline_header {
                    match allowance_asked(&request, name) {
                        Ok(asked) => allowance = asked.map_or(allowance, |asked| asked.min(allowance)),
                        Err(error) => {
                            self.answered(&request, Some(endpoint), now, error.status());
                            return Admission::Answered(error.to_response(), Some(Arc::clone(endpoint)));
                        }
                    }
                }
                let deadline = Deadline::at(now, allowance);
                let start_by = deadline.min(Deadline::at(now, self.max_wait));
                let (handler, lane) = (Arc::clone(&answerer.handler), self.lanes[answerer.lane]);
                let (endpoint, batched) = (Arc::clone(endpoint), answerer.batched.clone());
                Admission::Work(Work {
                    request,
                    handler,
                    batched,
                    endpoint,
                    since: now,
                    lane,
                    start_by,
                    deadline,
                })
            }
        }
    }

    fn enqueue(&self, job: Job) -> Result<Option<Key>, (Reason, Response)> {
        let (lane, since) = (job.lane, job.since);
        self.queue.push_since(lane, job, since).map(Some).map_err(|refused| {
            let (reason, error) = match refused.refusal {
                Refusal::Full => {
                    let detail = "every worker is busy and the queue is full (queue.max_length)";
                    (Reason::QueueFull, unavailable(detail))
                }
                Refusal::Shed => (Reason::Shed, would_wait_too_long()),
            };
            let Job { request, endpoint, since, .. } = &refused.job;
            let status = error.status().as_u16();
            endpoint.responded_to(request.id(), status);
            self.traces.tell(request, Some(endpoint), || {
                (Course::without_worker(*since), Outcome::refused(status, reason.name()))
            });
            (reason, error.retry_after(refused.drains_in.min(RETRY_AFTER_MAX)).to_response())
        })
    }

    fn wake(&self) {
        self.queue.wake();
    }

    fn withdraw(&self, key: Key) {
        let Some(job) = self.queue.withdraw(key) else { return };
        self.traces.tell(&job.request, Some(&job.endpoint), || {
            // There are two reasons to withdraw a job: the connector answered when its time was up, or its client left.
            let outcome = if job.start_by.has_passed() {
                let (response, reason) = waited_too_long(job.deadline);
                Outcome::refused(response.status().as_u16(), reason.name())
            } else {
                Outcome::client_left()
            };
            (Course::without_worker(job.since), outcome)
        });
    }

    fn endpoint(&self, request: &Request) -> Option<Arc<Endpoint>> {
        self.router.endpoint(request).cloned()
    }

    fn plan(&self, request: &Request) -> BodyPlan {
        let (body_use, max_bytes) = match self.router.target(request) {
            Err(response) => return BodyPlan::Unwanted(response),
            Ok(_) if !self.origins.admit(request) => return BodyPlan::Refused,
            Ok(Target::Immediate(_)) => (BodyUse::Whole, None),
            Ok(Target::Handler(answerer)) => (answerer.policy.body_use(), answerer.policy.max_body_bytes),
        };
        BodyPlan::Wanted { body_use, max_bytes: max_bytes.unwrap_or(self.max_body_bytes) }
    }
}

/// The answer to a request from another site's page. The log names the site and the key, for operators who want to
/// allow it.
fn of_another_site(request: &Request, endpoint: &Endpoint) -> Response {
    sparingly!(
        log::Level::Warn,
        "requests of other sites' pages",
        "{} {} is refused: it is of a page of {}, which access.origins does not allow",
        endpoint.method,
        endpoint.route,
        request.header("origin").unwrap_or(b"another site").escape_ascii()
    );
    cross_origin("the request is of another site's page, which may not write here (access.origins)")
}

/// The time that a client asks for by `server.deadline_header`, in seconds (`2`, `0.25`) or milliseconds (`250ms`).
fn allowance_asked(request: &Request, name: &HeaderName) -> Result<Option<Duration>, Error> {
    let mut lines = request.header_lines().filter(|(found, _)| found.eq_ignore_ascii_case(name.as_str()));
    let Some((_, value)) = lines.next() else { return Ok(None) };
    let text = std::str::from_utf8(value).unwrap_or("bytes that are no text");
    let asked = match text.strip_suffix("ms") {
        Some(number) => seconds(number).map(|number| number / 1000.0),
        None => seconds(text),
    };
    let asked =
        asked.filter(|seconds| *seconds > 0.0).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match (asked, lines.next()) {
        (Some(asked), None) => Ok(Some(asked)),
        (_, Some(_)) => Err(Error::bad_parameter(name.as_str(), DEADLINE, "it twice")),
        // An answer never repeats a header's value.
        (None, None) => Err(Error::bad_secret(name.as_str(), DEADLINE)),
    }
}

/// Accepts digits and at most one point, and none of the other forms of a number that Rust's parser takes.
fn seconds(text: &str) -> Option<f64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|_| is_plain)
}

/// The values that `server.deadline_header` may have, for messages.
const DEADLINE: &str = "seconds such as 2 or 0.25, or milliseconds such as 250ms";

/// Refuses a streamed response: it needs a thread that may wait for its client.
fn immediate(response: Response) -> Result<Response, Error> {
    if response.length().is_none() {
        let cause = "a function that answers on the poller has answered with a stream";
        return Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED).because(cause));
    }
    Ok(response)
}
