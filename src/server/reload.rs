//! Changing a running server. Everything new is made and checked first, and only then replaces the old.
//!
//! Any thread may reload; no poller and no worker waits for it. Requests in progress keep the handler and the deadline
//! with which they began.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use log::Level;

use super::stages::Stages;
use super::{Running, note_certificates, queue_limits, router, supervisor};
use crate::base::deadline::Deadline;
use crate::config::{self, Action, Changes, ClientAuth, Config, Problems, Source};
use crate::connector::{FreshIdentity, Identity, Settings, TlsError, descriptors, identities};
use crate::database::{self, Database};
use crate::endpoint;
use crate::exchange::router::{RouteError, Router};
use crate::telemetry::journal::{self, Opened};

/// The time in which the database must prepare the new configuration's statements. A slower database is in trouble, and
/// the operator who asked for the reload waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// The part of [`PATIENCE`] in which a new session must open. After it the check borrows one from the pool.
const OPENING: Duration = Duration::from_secs(2);

/// The configuration for a reload.
#[derive(Clone, Debug)]
pub struct NewConfig {
    config: Config,
    source: Option<Source>,
}

impl NewConfig {
    /// A configuration that was read from this text. Messages point into the text.
    pub fn read_from(source: Source, config: Config) -> Self {
        Self { config, source: Some(source) }
    }
}

impl From<Config> for NewConfig {
    fn from(config: Config) -> Self {
        Self { config, source: None }
    }
}

/// The source of a running server's new configuration, and the receiver of each reload's outcome. Every `FnMut() ->
/// Result<Config, String>` is one.
pub trait Reload: Send + 'static {
    /// Reads the new configuration.
    ///
    /// # Errors
    /// The fault of the new file, for the log.
    fn read(&mut self) -> Result<NewConfig, String>;

    /// Receives the outcome of the reload. By default the log reports it.
    fn report(&mut self, outcome: &Result<Reloaded, ReloadError>) {
        log_reload(outcome);
    }
}

impl<F> Reload for F
where
    F: FnMut() -> Result<Config, String> + Send + 'static,
{
    fn read(&mut self) -> Result<NewConfig, String> {
        self().map(NewConfig::from)
    }
}

/// The effects of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// The differences between the old and the new configuration. Keys that need a restart have kept their values.
    pub changes: Changes,
    /// The certificate's files were read again.
    pub certificate: bool,
}

/// Why a reload has changed nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The new configuration could not be read.
    #[error("{0}")]
    Unreadable(String),
    /// A certificate or key cannot be used.
    #[error("the certificate stays as it was: {0}")]
    Tls(#[from] TlsError),
    /// Two routes are the same. One of them may belong to a handler in Rust.
    #[error("route {0}")]
    Route(#[from] RouteError),
    /// The server was started without a database.
    #[error(
        "endpoint.{0} runs SQL, and the server was started without a database: database.url needs a restart"
    )]
    NoDatabase(String),
    /// These keys need a restart, and endpoints or clients rely on their values.
    #[error("{}: a new value needs a restart, and endpoints or clients may rely on it", .0.join(", "))]
    NeedsRestart(Vec<String>),
    /// The database does not prepare the statements in time.
    #[error("database: {0}")]
    Database(#[from] database::Error),
    /// The database refuses statements.
    #[error("{0}")]
    Statements(Problems),
    /// The access log's file cannot be opened.
    #[error("log.access_file cannot be opened: {0}")]
    AccessFile(io::Error),
    /// The system refuses threads.
    #[error("cannot start another thread: {0}")]
    System(#[from] io::Error),
}

/// A new configuration, with the parts that were made for it.
struct Prepared {
    next: Config,
    router: Router,
    log: journal::Prepared,
}

impl Running {
    /// Applies another configuration without dropping or failing a request. A key that needs a restart keeps its value
    /// and is named in the result. The reload is an error if endpoints rely on such a key, such as one of the
    /// database's. Sessions of PostgreSQL prepare their statements again.
    ///
    /// # Errors
    /// The configuration is wrong. Nothing has changed then.
    pub fn reload(&self, new: impl Into<NewConfig>) -> Result<Reloaded, ReloadError> {
        let NewConfig { config: new, source } = new.into();
        let mut running = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = running.changes_to(&new);
        let other_clients = client_rules(&running) != client_rules(&new);
        self.refuse_relied_on(&changes, other_clients)?;
        let fresh = self.read_certificates()?;
        let certificate = !fresh.is_empty();
        let next = new.until_restart(&running);
        refuse_untrusted(&next, &changes)?;
        if !running.changes_to(&next).is_empty() {
            let prepared = self.prepare(next, source, &changes)?;
            // The last step that can fail. It then restores the number of workers.
            self.workers.resize(prepared.next.workers())?;
            *running = self.commit(prepared);
        }
        if let Some(database) = &self.database {
            database.forget_statements();
        }
        self.take_certificates(fresh);
        Ok(Reloaded { changes, certificate })
    }

    /// Reads the files of every listener's certificate, for the connections after [`Identity::take`].
    pub(super) fn read_certificates(&self) -> Result<Vec<(Arc<Identity>, FreshIdentity)>, TlsError> {
        let read = |identity: Arc<Identity>| identity.read_again().map(|fresh| (identity, fresh));
        identities(&self.beginnings).into_iter().map(read).collect()
    }

    /// Shows new connections these certificates.
    pub(super) fn take_certificates(&self, fresh: Vec<(Arc<Identity>, FreshIdentity)>) {
        for (identity, fresh) in fresh {
            identity.take(fresh);
        }
        note_certificates(&self.beginnings, &self.metrics);
    }

    /// Refuses changes that need a restart and that endpoints rely on. New endpoints are written for the new database
    /// and the new rules for clients. Until the restart the old database would answer their requests, or clients
    /// without a certificate would reach them. `other_clients`: listeners ask for other certificates.
    fn refuse_relied_on(&self, changes: &Changes, other_clients: bool) -> Result<(), ReloadError> {
        let is_relied_on = |key: &str| match key {
            "database.url" => self.database.is_some(),
            "tls.client_auth" | "tls.client_ca" => true,
            _ => is_of_listener(key) && other_clients,
        };
        let keys = changes.keys.iter().map(|change| &change.key).filter(|key| is_relied_on(key));
        let keys: Vec<String> = keys.cloned().collect();
        if keys.is_empty() { Ok(()) } else { Err(ReloadError::NeedsRestart(keys)) }
    }

    /// Makes every part whose making can fail. Nothing takes effect yet.
    fn prepare(
        &self,
        next: Config,
        source: Option<Source>,
        changes: &Changes,
    ) -> Result<Prepared, ReloadError> {
        let router = router(&next, self.database.as_ref(), &self.routes, &self.metrics)?;
        self.check(&next, source, changes)?;
        let opened = Opened::new(&next.log).map_err(ReloadError::AccessFile)?;
        let log = self.journal.prepare(&next.log, opened)?;
        Ok(Prepared { next, router, log })
    }

    /// Puts everything into effect; no step of this can fail. Returns the configuration in force.
    fn commit(&self, prepared: Prepared) -> Config {
        let Prepared { next, router, log } = prepared;
        self.journal.reconfigure(log);
        self.workers.set_server_timing(next.server.server_timing);
        self.workers.pace(next.server.pace_workers);
        self.workers.pipeline(next.database.pipelined_max());
        self.queue.reconfigure(queue_limits(&next.queue));
        if let Some(database) = &self.database {
            database.reconfigure(&next.database);
        }
        let (queue, metrics) = (self.queue.clone(), Arc::clone(&self.metrics));
        let stages = Stages::new(&next, router, queue, metrics, self.traces.clone());
        let mut settings = Settings::with_current_tls(&next, &self.beginnings);
        settings.max_connections = descriptors::fitting(&next);
        settings.journal = self.journal.clone();
        self.connector.reload(settings, Arc::new(stages));
        self.update_admin(&next);
        next
    }

    /// Lets the database run the SQL for new sessions, and prepare every statement.
    fn check(&self, next: &Config, source: Option<Source>, changes: &Changes) -> Result<(), ReloadError> {
        let runs_sql = |endpoint: &&config::Endpoint| matches!(endpoint.action, Action::Sql { .. });
        let first = next.endpoints.iter().find(runs_sql);
        let has_changed = |key: &str| changes.keys.iter().any(|change| change.key == key);
        let (Some(database), Some(url)) = (&self.database, &next.database.url) else {
            return first.map_or(Ok(()), |endpoint| Err(ReloadError::NoDatabase(endpoint.name.clone())));
        };
        let new_init = has_changed("database.connection_init_sql");
        if first.is_none() && !new_init {
            return Ok(());
        }
        let deadline = Deadline::after(PATIENCE);
        // This session is opened outside the pool. All of the pool's sessions may be busy, and the reload may be meant
        // to enlarge the pool.
        let opening = Deadline::after(next.database.connection_timeout.min(OPENING));
        let opened = Database::connect_outside_pool(&next.database, url, opening, deadline);
        let mut connection = match opened {
            Ok(connection) => connection,
            // The database accepts no new session at the moment. A session of the pool can check the statements just as
            // well.
            Err(_) if !new_init => database.checkout(deadline)?,
            // With the new `connection_init_sql` the pool could open no session either.
            Err(error) => return Err(error.into()),
        };
        let is_placed = source.is_some();
        let source = source.unwrap_or_else(|| Source { path: None, text: String::new() });
        let mut found = endpoint::check_on(&mut connection, &source, &next.endpoints, database)?;
        if found.is_empty() {
            return Ok(());
        }
        if !is_placed {
            for problem in &mut found {
                problem.span = None;
            }
        }
        Err(ReloadError::Statements(Problems::new(source, found)))
    }

    /// Reloads for a SIGHUP, or for a client of the admin listener.
    pub(super) fn read_again(&self) -> Result<Reloaded, ReloadError> {
        self.admin_view.set_busy(true);
        supervisor::reloading();
        let outcome = self.read_and_reload();
        supervisor::reloaded(&self.places(), outcome.is_ok());
        outcome
    }

    /// Comes before anybody is told the outcome: the next reload may be asked for at once.
    fn end_reload(&self, outcome: &Result<Reloaded, ReloadError>) {
        self.admin_view.reloaded(outcome);
        self.admin_view.set_busy(false);
    }

    fn read_and_reload(&self) -> Result<Reloaded, ReloadError> {
        // A program that rotates logs sends the same signal. So the log is reopened even if the configuration is
        // refused.
        self.journal.reopen();
        let mut on_reload = self.on_reload.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(on_reload) = on_reload.as_mut() else {
            let outcome = self.reload_tls().map_err(ReloadError::from);
            let outcome =
                outcome.map(|()| Reloaded { changes: Changes::default(), certificate: self.speaks_tls() });
            self.end_reload(&outcome);
            match &outcome {
                Ok(reloaded) if reloaded.certificate => log::info!("SIGHUP: the certificate was read again"),
                Ok(_) => log::info!("SIGHUP: there is nothing to read again"),
                Err(error) => log::error!("SIGHUP: the certificate stays as it was: {error}"),
            }
            return outcome;
        };
        let read = on_reload.read().map_err(ReloadError::Unreadable);
        let outcome = read.and_then(|candidate| self.reload(candidate));
        self.end_reload(&outcome);
        on_reload.report(&outcome);
        outcome
    }
}

/// Whether the key is one of `[[listen]]`, or the number of these tables.
fn is_of_listener(key: &str) -> bool {
    key == "listen" || key.starts_with("listen[")
}

/// The certificates that clients show to reach an endpoint: the rules of all listeners, each once.
fn client_rules(config: &Config) -> Vec<(u8, Option<PathBuf>)> {
    let rule = |listener: &config::Listener| {
        let tls = config.tls_of(listener);
        let strength = match tls.client_auth {
            ClientAuth::Nothing => 0,
            ClientAuth::Optional => 1,
            ClientAuth::Required => 2,
        };
        if listener.tls { (strength, tls.client_ca) } else { (0, None) }
    };
    let mut rules: Vec<_> = config.listeners().iter().map(rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

/// Refuses a configuration whose listeners, which stay until a restart, would close every connection: they expect the
/// PROXY protocol, and no proxy is trusted any more.
fn refuse_untrusted(next: &Config, changes: &Changes) -> Result<(), ReloadError> {
    let expects = next.listeners().iter().any(|listener| listener.proxy_protocol);
    if !expects || !next.proxy.trusted.is_empty() {
        return Ok(());
    }
    let waiting = changes.keys.iter().filter(|change| change.needs_restart).map(|change| &change.key);
    let keys: Vec<_> =
        waiting.filter(|key| is_of_listener(key) || *key == "proxy.protocol").cloned().collect();
    // Without such a change the server was started like this, by a program that made its configuration itself.
    if keys.is_empty() { Ok(()) } else { Err(ReloadError::NeedsRestart(keys)) }
}

impl Reloaded {
    /// The report line by line, each line with its level.
    pub(super) fn lines(&self) -> Vec<(Level, String)> {
        let Changes { keys, added, changed, removed, .. } = &self.changes;
        let (waiting, done): (Vec<_>, Vec<_>) = keys.iter().partition(|change| change.needs_restart);
        let mut lines: Vec<_> = done.iter().map(|change| (Level::Info, change.to_string())).collect();
        for (names, what) in [(added, "added"), (changed, "changed"), (removed, "removed")] {
            lines.extend(names.iter().map(|name| (Level::Info, format!("endpoint.{name}: {what}"))));
        }
        if lines.is_empty() {
            lines.push((Level::Info, "nothing has changed".to_owned()));
        }
        if self.certificate {
            lines.push((Level::Info, "the certificate was read again".to_owned()));
        }
        lines.extend(waiting.iter().map(|change| {
            (Level::Warn, format!("{change}; this needs a restart, and the old value applies until then"))
        }));
        lines
    }
}

/// Line by line: what has changed, and what needs a restart.
impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.lines().into_iter().map(|(_, line)| line).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Logs the outcome of a reload.
pub fn log_reload(outcome: &Result<Reloaded, ReloadError>) {
    match outcome {
        Ok(reloaded) => {
            for (level, line) in reloaded.lines() {
                log::log!(level, "reload: {line}");
            }
        }
        Err(error) => log::error!("reload: nothing has changed: {error}"),
    }
}
