//! Connectors speak HTTP to the clients. There are two of them with one contract: whole requests go into a [`Service`],
//! and answers come back through a [`Client`](crate::exchange::job::Client).

pub(crate) mod descriptors;
pub(crate) mod direct;
mod listener;
pub(crate) mod native;
mod socket_access;
pub(crate) mod tiny_http;
mod tls;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

pub use listener::Address;
pub(crate) use listener::{BindError, Listener, Listeners, SocketFiles};
pub use tls::TlsError;
pub(crate) use tls::{Fresh as FreshIdentity, Identity};

use crate::base::request_id::RequestIds;
use crate::config::{self, Config};
use crate::exchange::job::Service;
use crate::http::Limits;
use crate::telemetry::journal::Journal;

/// A worker ends its statement at the deadline and answers by itself; when it has not done so by this much later, its connector
/// answers.
pub(crate) const GRACE: Duration = Duration::from_millis(50);

/// A running connector.
pub(crate) trait Connector: Send + Sync {
    /// Stops accepting. Requests in flight, and those on their way, are still answered. Each connection is closed after
    /// its answer, an idle one at once. Returns when no connection is left, or when `patience` is over. Connections
    /// that are left then are cut off.
    fn drain(self: Box<Self>, patience: Duration) -> Drained;

    /// Uses other settings and another service for everything that begins from now on. A request in progress keeps
    /// those that it began with, and no connection is cut off. Returns when every poller has changed over, or after a
    /// second if one is held up. That poller changes over as soon as it can.
    fn reload(&self, settings: Settings, service: Arc<dyn Service>);

    /// Returns a function that ends a running [`Connector::drain`] at once, from any thread.
    fn stopper(&self) -> Stopper;

    /// The check that the connector's threads still run. Any thread may call it.
    fn pulse(&self) -> Pulse;
}

/// Cuts off every connection when called.
pub(crate) type Stopper = Box<dyn Fn() + Send + Sync>;

/// Asks whether every thread of a connector runs and answers within this time. The error says which does not.
pub(crate) type Pulse = Box<dyn Fn(Duration) -> Result<(), &'static str> + Send + Sync>;

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every client had its answer.
    Complete,
    /// This many connections were cut off.
    CutOff(usize),
}

/// The part of the configuration that a connector needs. See the keys of the same names.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The limits on heads.
    pub limits: Limits,
    /// The limit for endpoints without one of their own.
    pub max_body_bytes: usize,
    /// How much of a streamed request body is buffered.
    pub buffer_body_bytes: usize,
    /// Bytes a second; 0: no limit.
    pub min_body_rate: usize,
    /// How much of a streamed answer is buffered.
    pub response_buffer_bytes: usize,
    /// See [`config::Http::buffered_max`].
    pub buffered_max: usize,
    /// As many of `http.max_connections` as the process has descriptors for.
    pub max_connections: usize,
    /// The most connections of one address.
    pub max_connections_per_address: Option<usize>,
    /// The most new connections in a second.
    pub max_accept_rate: Option<usize>,
    /// After this many requests the connection ends.
    pub max_requests_per_connection: Option<usize>,
    /// See `http.head_timeout`.
    pub head_timeout: Duration,
    /// See `http.body_timeout`.
    pub body_timeout: Duration,
    /// See `http.idle_timeout`.
    pub idle_timeout: Duration,
    /// See `http.write_timeout`.
    pub write_timeout: Duration,
    /// The number of pollers.
    pub selectors: usize,
    /// Which proxies are trusted, and how they name a client.
    pub proxy: config::Proxy,
    /// Makes the ids of requests.
    pub request_ids: Arc<RequestIds>,
    /// The log of requests. The code that starts the connector sets it.
    pub journal: Journal,
    /// For each listener, how its connections begin. There is always one.
    pub beginnings: Vec<Beginning>,
}

/// How each connection of one listener begins. By default with plain HTTP.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beginning {
    /// Whether a PROXY header comes first.
    pub(crate) proxied: bool,
    /// `None`: plain HTTP.
    pub(crate) tls: Option<Tls>,
}

/// TLS on every connection of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// Listeners with the same files share it.
    pub(crate) identity: Arc<Identity>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) max_handshakes: usize,
    /// Counts the handshakes of all listeners.
    pub(crate) in_progress: Arc<AtomicUsize>,
}

impl Settings {
    /// The settings of a configuration. Reads the files of every listener's certificate.
    ///
    /// # Errors
    /// When one of those files cannot be used.
    pub(crate) fn new(config: &Config) -> Result<Self, TlsError> {
        let (beginnings, mut errors) = beginnings(config);
        if errors.is_empty() { Ok(Self::with(config, beginnings)) } else { Err(errors.swap_remove(0)) }
    }

    /// The settings of a configuration for one listener with plain HTTP.
    pub(crate) fn plain(config: &Config) -> Self {
        Self::with(config, vec![Beginning::default()])
    }

    /// The settings of a configuration whose listeners are in use: their certificates and the count of handshakes are
    /// kept.
    pub(crate) fn with_current_tls(config: &Config, in_use: &[Beginning]) -> Self {
        let kept = |tls: &Tls| Tls {
            handshake_timeout: config.tls.handshake_timeout,
            max_handshakes: config.tls.max_handshakes,
            ..tls.clone()
        };
        let listeners = config.listeners();
        let pairs = in_use.iter().zip(&listeners);
        let beginnings = pairs.map(|(beginning, listener)| Beginning {
            proxied: listener.proxy_protocol,
            tls: beginning.tls.as_ref().map(kept),
        });
        Self::with(config, beginnings.collect())
    }

    fn with(config: &Config, beginnings: Vec<Beginning>) -> Self {
        let http = &config.http;
        Self {
            limits: Limits {
                max_head_bytes: http.max_head_bytes,
                max_target_bytes: http.max_target_bytes,
                max_headers: http.max_headers,
            },
            max_body_bytes: http.max_body_bytes,
            buffer_body_bytes: http.buffer_body_bytes,
            min_body_rate: http.min_body_rate,
            response_buffer_bytes: http.response_buffer_bytes,
            buffered_max: http.buffered_max(),
            max_connections: http.max_connections,
            max_connections_per_address: http.max_connections_per_address,
            max_accept_rate: http.max_accept_rate,
            max_requests_per_connection: http.max_requests_per_connection,
            head_timeout: http.head_timeout,
            body_timeout: http.body_timeout,
            idle_timeout: http.idle_timeout,
            write_timeout: http.write_timeout,
            selectors: config.selectors(),
            proxy: config.proxy.clone(),
            request_ids: Arc::new(request_ids(config)),
            journal: Journal::default(),
            beginnings,
        }
    }
}

/// A server that records no traces samples every request, so that it does not keep the next service from recording.
fn request_ids(config: &Config) -> RequestIds {
    let tracing = &config.tracing;
    let sample = if tracing.otlp_endpoint.is_some() { tracing.sample } else { 100 };
    RequestIds::new(config.server.request_id_header.clone(), tracing.propagate).sampling(sample)
}

/// Why listeners' certificates, keys and rules cannot be used: each reason once.
pub(crate) fn tls_errors(config: &Config) -> Vec<TlsError> {
    beginnings(config).1
}

/// The listeners' certificates that clients refuse, now or soon: each warning once.
pub(crate) fn tls_warnings(config: &Config) -> Vec<String> {
    let mut warnings: Vec<_> =
        identities(&beginnings(config).0).iter().flat_map(|identity| identity.warnings()).collect();
    // Listeners with the same file and other rules have the same.
    let mut seen = BTreeSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    warnings
}

/// The identities of all listeners, each once.
pub(crate) fn identities(beginnings: &[Beginning]) -> Vec<Arc<Identity>> {
    let mut all: Vec<Arc<Identity>> = Vec::new();
    for tls in beginnings.iter().filter_map(|beginning| beginning.tls.as_ref()) {
        if !all.iter().any(|known| Arc::ptr_eq(known, &tls.identity)) {
            all.push(Arc::clone(&tls.identity));
        }
    }
    all
}

/// Reads the files of every listener. A listener whose files cannot be used has no TLS here, and its error beside it.
fn beginnings(config: &Config) -> (Vec<Beginning>, Vec<TlsError>) {
    let (mut identities, mut errors) = (Identities::default(), Vec::new());
    let in_progress = Arc::<AtomicUsize>::default();
    let mut begin = |listener: &config::Listener| {
        let applied = config.tls_of(listener);
        let identity = if listener.tls { identities.of(&applied) } else { Ok(None) };
        let identity = identity.unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        let tls = identity.map(|identity| Tls {
            identity,
            handshake_timeout: applied.handshake_timeout,
            max_handshakes: applied.max_handshakes,
            in_progress: Arc::clone(&in_progress),
        });
        Beginning { proxied: listener.proxy_protocol, tls }
    };
    let beginnings = config.listeners().iter().map(&mut begin).collect();
    (beginnings, errors)
}

/// The identities that were read. `None`: the files cannot be used, which was reported.
#[derive(Default)]
struct Identities(Vec<(tls::Files, Option<Arc<Identity>>)>);

impl Identities {
    /// The identity from these files, which are read once.
    fn of(&mut self, tls: &config::Tls) -> Result<Option<Arc<Identity>>, TlsError> {
        let files = files(tls)?;
        if let Some((_, identity)) = self.0.iter().find(|(known, _)| *known == files) {
            return Ok(identity.clone());
        }
        let loaded = Identity::load(files.clone()).map(Arc::new);
        self.0.push((files, loaded.as_ref().ok().cloned()));
        loaded.map(Some)
    }
}

fn files(tls: &config::Tls) -> Result<tls::Files, TlsError> {
    let (Some(certificate), Some(key)) = (tls.certificate.clone(), tls.key.clone()) else {
        return Err(TlsError::Rules("a listener that speaks TLS needs a certificate and its key"));
    };
    Ok(tls::Files {
        certificate,
        key,
        client_ca: tls.client_ca.clone(),
        client_auth: tls.client_auth,
        min_version: tls.min_version,
    })
}
