//! A server without a socket, for tests of routes and handlers.
//!
//! The test's thread sends a request and waits; workers answer.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Backend, Server, StartError, router};
use crate::base::deadline::Deadline;
use crate::base::queue::Queue;
use crate::connector::Settings;
use crate::connector::direct::Direct;
use crate::exchange::job::Job;
use crate::http::{Request, RequestBuilder};
use crate::telemetry::journal::Journal;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Traces;
use crate::workers::Workers;

/// Sends requests to a [`Server`] in the same process, for tests: no address is bound, and nothing is sent to an admin listener.
///
/// A request passes the same parser, limits, router, queue, policy and deadline as a request over a socket, and one of
/// the server's workers answers it. So a test gets the same 404, 405, 400, 413, 415 and 504 as a client, and the
/// configuration's endpoints answer as well. A body has come whole when its handler begins, even if the handler
/// streams. The access log gets a line for each request that a worker has answered.
///
/// Several threads may send at once. Dropping the client ends the workers, once they have done their jobs or after
/// `server.drain_timeout`.
///
/// ```
/// use wharf::config::Config;
/// use wharf::http::{Method, Request, Response};
/// use wharf::server::Server;
///
/// let server = Server::new(Config::default())?
///     .get("/greet/{name}", |request, _| {
///         Ok(Response::text(format!("Hello, {}!", request.path_value("name").unwrap_or("stranger"))))
///     });
/// let client = server.client()?;
/// let answer = client.get("/greet/Ada")?;
/// assert_eq!(answer.status(), 200);
/// assert_eq!(&answer.body()[..], b"Hello, Ada!");
///
/// let answer = client.send(Request::builder().method(Method::DELETE).target("/greet/Ada"))?;
/// assert_eq!(answer.status(), 405);
/// assert_eq!(answer.headers()["allow"], "GET, HEAD, OPTIONS");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Client {
    direct: Direct,
    queue: Queue<Box<Job>>,
    /// `None` once the workers have ended.
    workers: Option<Workers>,
    metrics: Arc<Metrics>,
    journal: Journal,
    traces: Traces,
    drain_timeout: Duration,
}

impl Client {
    pub(super) fn start(server: &Server) -> Result<Self, StartError> {
        let config = &server.config;
        let (metrics, journal) = (Arc::new(Metrics::default()), Journal::default());
        let router = router(config, server.database.as_ref(), &server.routes, &metrics)?;
        journal.reconfigure(journal.prepare(&config.log, server.open_log()?)?);
        let backend = Backend::start(config, server.database.as_ref(), router, &metrics, &journal)?;
        let Backend { queue, workers, traces, service } = backend;
        let is_encrypted = config.listeners().iter().all(|listener| listener.tls);
        let direct = Direct::new(&Settings::plain(config), is_encrypted, service, Arc::clone(&metrics));
        let drain_timeout = config.server.drain_timeout;
        Ok(Self { direct, queue, workers: Some(workers), metrics, journal, traces, drain_timeout })
    }

    /// Sends `GET` for a target, which is a path and may have a query.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn get(&self, target: &str) -> io::Result<http::Response<Bytes>> {
        self.send(Request::builder().target(target))
    }

    /// Sends a request and waits for the answer, which comes by the request's deadline.
    ///
    /// # Errors
    /// The body of the answer breaks off. A client over a socket would see the connection end.
    pub fn send(&self, request: RequestBuilder) -> io::Result<http::Response<Bytes>> {
        self.direct.send(request)
    }

    /// The server's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(workers) = self.workers.take() {
            let patience = Deadline::after(self.drain_timeout);
            if !workers.join(patience, &crossbeam_channel::never()) {
                log::warn!("a handler did not end by its deadline");
            }
        }
        self.journal.close();
        self.traces.close(&crossbeam_channel::never());
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("metrics", &self.metrics.to_string()).finish_non_exhaustive()
    }
}
