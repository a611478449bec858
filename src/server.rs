//! The only file that knows every stage: connector → router → queue → workers → database. It starts, drains and stops
//! the stages; `reload.rs` changes them while they run.
//!
//! Main thread. The connector's thread calls `Stages`.

mod admin;
mod client;
mod reload;
mod running;
pub(crate) mod signals;
mod stages;
mod supervisor;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use self::admin::{AdminListener, AdminView, SetLogLevel};
pub use self::client::Client;
pub use crate::connector::{Address, Drained, TlsError};
pub use crate::exchange::router::RouteError;
use crossbeam_channel::Receiver;
use http::Method;
use log::LevelFilter;
pub use reload::{NewConfig, Reload, ReloadError, Reloaded, log_reload};

use self::running::places;
pub use self::signals::catch_signals;
use self::stages::Stages;
use crate::admin::observer::{Observed, Observer, Watch};
use crate::base::queue::{Limits, Queue};
use crate::config::{self, Config, Connector as Speaker, Listen};
use crate::connector::native::Native;
use crate::connector::tiny_http::TinyHttp;
use crate::connector::{
    self, Beginning, BindError, Connector, Listeners, Settings, SocketFiles, descriptors, tls_errors,
};
use crate::database::{self, Database};
use crate::endpoint;
use crate::exchange::job::{Job, Service};
use crate::exchange::router::{Router, Target};
use crate::handler::{Context, Error, Handler};
use crate::http::{Request, Response};
use crate::telemetry::journal::{Journal, Opened};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{ServerFacts, Traces};
use crate::workers::Workers;

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
        /// `server.listen`, or `address` of a `[[listen]]`.
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

/// Reads the files of every listener's certificate as a start does, and checks whether the server could start with them.
///
/// # Errors
/// A certificate or key cannot be used.
pub fn check_tls(config: &Config) -> Result<(), TlsError> {
    tls_problems(config).into_iter().next().map_or(Ok(()), Err)
}

/// As [`check_tls`], with every certificate and key that cannot be used.
pub(crate) fn tls_problems(config: &Config) -> Vec<TlsError> {
    tls_errors(config)
}

/// The listeners' certificates that clients refuse, now or soon.
pub(crate) fn tls_warnings(config: &Config) -> Vec<String> {
    connector::tls_warnings(config)
}

/// Logs the certificates that clients refuse now or soon, and tells the metrics when the first one expires.
fn note_certificates(beginnings: &[Beginning], metrics: &Metrics) {
    let identities = connector::identities(beginnings);
    for warning in identities.iter().flat_map(|identity| identity.warnings()) {
        log::warn!("tls: {warning}");
    }
    metrics.set_certificates_end(identities.iter().filter_map(|identity| identity.ends()).min());
}

/// Where clients of one listener connect. Shown as `https://127.0.0.1:8443` or `unix:/run/wharf.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListeningOn {
    address: Address,
    is_encrypted: bool,
}

impl ListeningOn {
    /// The address, with the port that the system chose where the configuration says 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether clients speak TLS here.
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }
}

impl fmt::Display for ListeningOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        match &self.address {
            Address::Tcp(address) => write!(f, "{scheme}://{address}"),
            unix @ Address::Unix(_) => unix.fmt(f),
        }
    }
}

/// A running server. Dropping it does not stop it; see [`Running::drain`].
pub struct Running {
    /// There is always one.
    listeners: Vec<ListeningOn>,
    socket_files: SocketFiles,
    /// For each listener, how its connections begin.
    beginnings: Vec<Beginning>,
    connector: Box<dyn Connector>,
    /// `None`: the server has no admin listener.
    admin: Option<AdminListener>,
    admin_view: Arc<AdminView>,
    /// The requests of the admin listener's clients for a reload.
    reload_requests: Receiver<Box<Job>>,
    queue: Queue<Box<Job>>,
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
        let Listeners { all: bound, files: mut socket_files } = Listeners::bind(config)
            .map_err(|BindError { address, cause }| StartError::Listen { address, cause })?;
        let beginnings = settings.beginnings.clone();
        note_certificates(&beginnings, &metrics);
        let listeners: Vec<_> = bound
            .iter()
            .zip(&beginnings)
            .map(|(listener, beginning)| ListeningOn {
                address: listener.address().clone(),
                is_encrypted: beginning.tls.is_some(),
            })
            .collect();
        let admin_listener = AdminListener::bind(config)?;
        journal.reconfigure(journal.prepare(&config.log, opened)?);
        let backend = Backend::start(config, self.database.as_ref(), router, &metrics, &journal)?;
        let Backend { queue, workers, traces, service } = backend;
        let observer = Observer::new(Observed {
            metrics: Arc::clone(&metrics),
            queue: queue.clone(),
            database: self.database.clone(),
            activities: Box::new(workers.activities()),
            journal: journal.clone(),
        });
        let watch = observer.watch()?;
        let (admin_view, reload_requests) =
            AdminView::new(config, &observer, self.database.as_ref(), self.on_log_level);
        settings.max_connections = descriptors::fitting(config);
        // The admin listener starts before the connector. A client that finds the server then finds the admin listener
        // too.
        let start =
            |listener| AdminListener::start(listener, &config.admin, &admin_view, settings.max_connections);
        let admin = admin_listener.map(start).transpose()?;
        let connector: Box<dyn Connector> = match config.server.connector {
            Speaker::Native => Box::new(Native::start("", bound, settings, &service, &metrics)?),
            Speaker::TinyHttp => Box::new(TinyHttp::start(bound, &settings, service, Arc::clone(&metrics))?),
        };
        socket_files.keep();
        let places = places(&listeners);
        log::info!("serving on {places}: {}; at most {}", config.sizes(), config.limits());
        Ok(Running {
            listeners,
            socket_files,
            beginnings,
            connector,
            admin,
            admin_view,
            reload_requests,
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
        signals::catch(false)?;
        let running = self.start()?;
        let supervision = running.supervise()?;
        started(&running);
        Ok(running.run_supervised(supervision))
    }
}

/// The running stages behind a connector.
struct Backend {
    queue: Queue<Box<Job>>,
    workers: Workers,
    traces: Traces,
    service: Arc<dyn Service>,
}

impl Backend {
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
        workers.set_server_timing(config.server.server_timing);
        workers.pace(config.server.pace_workers);
        workers.pipeline(config.database.pipelined_max());
        let stages = Stages::new(config, router, queue.clone(), Arc::clone(metrics), traces.clone());
        Ok(Self { queue, workers, traces, service: Arc::new(stages) })
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
    let facts = ServerFacts {
        database_system: database.map_or("", |database| database.kind().system()),
        database_name: database.map_or_else(String::new, |database| database.name().to_owned()),
    };
    Traces::start(&config.tracing, facts, metrics).map_err(StartError::Traces)
}

fn queue_limits(queue: &config::Queue) -> Limits {
    Limits { max_length: queue.max_length, target: queue.target, interval: queue.interval }
}
