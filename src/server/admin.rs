//! The admin listener's place in the server: its view of the stages, and the path of a request for a reload.
//!
//! The listener has an acceptor and a poller of its own. The thread that waits for signals answers `/reload`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use http::StatusCode;
use log::LevelFilter;
use serde::Serialize;
use serde_json::json;

use super::{ReloadError, Reloaded, StartError};
use crate::admin::observer::{ConditionKind, Observer};
use crate::admin::{Admin, Load, MAX_BODY_BYTES, Source};
use crate::config::{self, Config};
use crate::connector::native::Native;
use crate::connector::{Address, Connector, Listener, Settings};
use crate::database::{self, Database};
use crate::exchange::job::{Claim, Job, Service};
use crate::handler::{Error, unavailable};
use crate::http::{Response, problem};
use crate::telemetry::metrics::{Detail, Metrics};

/// The most connections to the admin listener. Each takes a descriptor and some KiB.
const CONNECTIONS_MAX: usize = 2000;

const STOPS: &str = "the server stops";

/// The time that the admin listener's clients have to leave when the server has stopped.
const PATIENCE: Duration = Duration::from_millis(250);

/// The time that a client has to send its request, or to take each event.
const TAKING: Duration = Duration::from_secs(5);

/// Longer than the pause between two of Prometheus's requests, which is 15 s or a minute.
const IDLE: Duration = Duration::from_secs(75);

/// Changes the log's level. The error is the reason why the level stays.
pub(super) type SetLogLevel = Box<dyn Fn(LevelFilter) -> Result<LevelFilter, String> + Send + Sync>;

/// A running admin listener.
pub(super) struct AdminListener {
    address: SocketAddr,
    connector: Box<Native>,
    service: Arc<Admin>,
}

/// The admin listener's view of the server. It exists even if the server has no admin listener.
pub(super) struct AdminView {
    observer: Observer,
    database: Option<Database>,
    /// The pool keeps sessions open even without any demand.
    keeps_sessions: AtomicBool,
    /// The configuration in force, without its secrets.
    config: Mutex<Bytes>,
    reload_requests: ReloadRequests,
    set_log_level: Option<SetLogLevel>,
}

/// The way of a request for a reload from the admin listener to the thread that reloads.
struct ReloadRequests {
    /// At most one request waits here.
    sender: Sender<Box<Job>>,
    /// A thread receives the requests.
    has_receiver: AtomicBool,
    /// A reload is in progress, for whatever reason it began.
    busy: AtomicBool,
}

impl AdminView {
    /// The view at the start, and the receiver of the requests for a reload.
    pub(super) fn new(
        config: &Config,
        observer: &Observer,
        database: Option<&Database>,
        set_log_level: Option<SetLogLevel>,
    ) -> (Arc<Self>, Receiver<Box<Job>>) {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let reload_requests =
            ReloadRequests { sender, has_receiver: AtomicBool::new(false), busy: AtomicBool::new(false) };
        let admin_view = Self {
            observer: observer.clone(),
            database: database.cloned(),
            keeps_sessions: AtomicBool::new(true),
            config: Mutex::default(),
            reload_requests,
            set_log_level,
        };
        admin_view.show(config);
        (Arc::new(admin_view), receiver)
    }

    /// Shows this configuration as the one in force.
    fn show(&self, config: &Config) {
        *self.config() = config.shown(database::display_url).into();
        self.keeps_sessions.store(config.database.minimum_idle != Some(0), Ordering::Relaxed);
    }

    fn config(&self) -> MutexGuard<'_, Bytes> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a thread receives the requests for a reload from now on.
    pub(super) fn accept_reloads(&self) {
        self.reload_requests.has_receiver.store(true, Ordering::Relaxed);
    }

    /// Shows that the server has begun to stop, and waits for its requests until this time.
    pub(super) fn drain(&self, until: Instant) {
        self.observer.drain(until);
    }

    /// Shows why a reload was refused, or that one succeeded.
    pub(super) fn reloaded(&self, outcome: &Result<Reloaded, ReloadError>) {
        self.observer.reloaded(outcome.as_ref().err().map(|error| without_excerpts(&error.to_string())));
    }

    /// Sets whether a reload is in progress. Requests for another one are refused meanwhile.
    pub(super) fn set_busy(&self, busy: bool) {
        self.reload_requests.busy.store(busy, Ordering::Relaxed);
    }
}

impl Source for AdminView {
    fn metrics(&self, open_metrics: bool, detail: Detail) -> Bytes {
        self.observer.exposition_in(open_metrics, detail).into()
    }

    fn stats(&self) -> Bytes {
        in_json(&self.observer.stats())
    }

    fn threads(&self) -> Bytes {
        in_json(&self.observer.threads())
    }

    fn config(&self) -> Bytes {
        self.config().clone()
    }

    fn load(&self) -> Load {
        let pool = self.database.as_ref().map(Database::gauges);
        let keeps = self.keeps_sessions.load(Ordering::Relaxed);
        let metrics = self.observer.metrics();
        Load {
            requests: metrics.requests(),
            refused: metrics.refused_for_overload(),
            pool_works: pool.is_none_or(|pool| pool.open > 0 || !keeps && pool.waiting == 0),
        }
    }

    fn is_draining(&self) -> bool {
        self.observer.is_draining()
    }

    fn why(&self, kind: ConditionKind) -> Option<String> {
        let found = self.observer.conditions().into_iter().find(|condition| condition.kind == kind);
        found.map(|condition| format!("{} {}", condition.why, condition.now))
    }

    fn reload(&self, job: Box<Job>) -> Result<(), Error> {
        let busy = || Error::new(StatusCode::CONFLICT, "a reload is in progress");
        if self.is_draining() {
            return Err(unavailable(STOPS));
        }
        if !self.reload_requests.has_receiver.load(Ordering::Relaxed) {
            let detail =
                "this server does not reload through its admin listener; the program that started it decides";
            return Err(Error::new(StatusCode::NOT_IMPLEMENTED, detail));
        }
        if self.reload_requests.busy.load(Ordering::Relaxed) {
            return Err(busy());
        }
        self.reload_requests.sender.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => busy(),
            TrySendError::Disconnected(_) => unavailable(STOPS),
        })
    }

    fn set_log_level(&self, level: LevelFilter) -> Result<LevelFilter, String> {
        let foreign = || "the program that started this server sets the level of its log".to_owned();
        self.set_log_level.as_ref().map_or_else(|| Err(foreign()), |set| set(level))
    }
}

/// The value as JSON, in one line.
fn in_json(value: &impl Serialize) -> Bytes {
    // These values always serialize: the keys of their maps are text or numbers.
    serde_json::to_vec(value).unwrap_or_default().into()
}

impl AdminListener {
    /// Binds the configured address. `None`: no address is configured.
    pub(super) fn bind(config: &Config) -> Result<Option<Listener>, StartError> {
        let Some(address) = config.admin_listen() else { return Ok(None) };
        let bound = Listener::bind_tcp(address, config.server.reuse_port);
        bound.map(Some).map_err(|cause| StartError::AdminListen { address, cause })
    }

    /// Starts to answer. `connections` is the server's limit for its clients' connections.
    pub(super) fn start(
        listener: Listener,
        config: &config::Admin,
        admin_view: &Arc<AdminView>,
        connections: usize,
    ) -> Result<Self, StartError> {
        let Address::Tcp(address) = *listener.address() else {
            return Err(std::io::Error::other("the admin listener is a TCP socket").into());
        };
        let settings = settings(connections);
        // A quarter of the connections is left for clients that send one request and leave.
        let max_viewers = settings.max_connections - settings.max_connections / 4;
        let service = Arc::new(Admin::new(config, max_viewers, Arc::clone(admin_view) as _)?);
        let metrics = Arc::new(Metrics::default());
        let shared: Arc<dyn Service> = Arc::clone(&service) as _;
        let connector = Box::new(Native::start("admin-", vec![listener], settings, &shared, &metrics)?);
        Ok(Self { address, connector, service })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the listener. This comes last, because until then it reports that the server drains.
    pub(super) fn end(self) {
        self.connector.drain(PATIENCE);
    }
}

/// The limits are small: operators are few, and their requests are short.
fn settings(connections: usize) -> Settings {
    let mut config = Config::default();
    config.http.max_connections = CONNECTIONS_MAX.min(connections);
    config.http.max_head_bytes = 8 * 1024;
    config.http.max_target_bytes = 1024;
    config.http.max_headers = 64;
    config.http.max_body_bytes = MAX_BODY_BYTES;
    config.http.head_timeout = TAKING;
    config.http.body_timeout = TAKING;
    config.http.write_timeout = TAKING;
    config.http.idle_timeout = IDLE;
    config.server.selectors = Some(1);
    Settings::plain(&config)
}

impl super::Running {
    /// Reads the configuration again for a client of the admin listener.
    pub(super) fn read_again_for(&self, job: Box<Job>) {
        let Job { client, ticket, mut request, .. } = *job;
        // The client may have left, or may have been answered that the reload took too long.
        if let Claim::Granted = Arc::clone(&client).claim(ticket, &mut request) {
            let response = answer(&self.read_again());
            client.answer(ticket, &request, response);
        }
    }

    /// Answers a request for a reload that comes too late, while the server stops.
    pub(super) fn refuse_reload(job: Box<Job>) {
        let Job { client, ticket, mut request, .. } = *job;
        if let Claim::Granted = Arc::clone(&client).claim(ticket, &mut request) {
            client.answer(ticket, &request, unavailable(STOPS).to_response());
        }
    }

    /// Gives the configuration in force to the admin listener.
    pub(super) fn update_admin(&self, config: &Config) {
        self.admin_view.show(config);
        if let Some(admin) = &self.admin {
            admin.service.reconfigure(&config.admin);
        }
    }
}

/// Removes the excerpts of the configuration file from a message, because a password may stand in one.
fn without_excerpts(text: &str) -> String {
    let is_excerpt =
        |line: &&str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    text.lines().filter(|line| !is_excerpt(line)).collect::<Vec<_>>().join("\n")
}

/// The answer to the client that asked for a reload.
fn answer(outcome: &Result<Reloaded, ReloadError>) -> Response {
    match outcome {
        Ok(reloaded) => {
            let lines: Vec<_> = reloaded.lines().into_iter().map(|(_, line)| line).collect();
            Response::json(format!("{}\n", json!({ "changes": lines })))
        }
        Err(error) => {
            let status = match error {
                ReloadError::Database(_) | ReloadError::System(_) => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::UNPROCESSABLE_ENTITY,
            };
            problem(status, &format!("nothing has changed: {}", without_excerpts(&error.to_string())), &[])
        }
    }
}
