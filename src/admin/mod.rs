//! The admin listener's answers: health, figures, the server's current work, and an operator's requests to change
//! something.
//!
//! Runs on the admin listener's own poller thread, never on a poller of clients. Nothing here waits for a worker, for
//! the queue, or for a lock that is held for long. The figures come from a [`Source`]; this part knows neither queue
//! nor pool.

mod access;
mod dashboard;
mod events;
pub(crate) mod observer;
mod readiness;
mod routes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method};
use log::LevelFilter;

use self::access::AdminAccess;
use self::events::Events;
use self::observer::ConditionKind;
use self::readiness::Readiness;
use crate::base::deadline::Deadline;
use crate::base::queue::Key;
use crate::config;
use crate::exchange::job::{Admission, BodyPlan, Job, Service, Work};
use crate::exchange::router::{RouteError, Router, Target};
use crate::handler::{BodyUse, Error};
use crate::http::{Request, Response, problem};
use crate::telemetry::metrics::{Detail, Reason};

pub(crate) use self::readiness::Load;

/// The server's figures and settings, as the admin listener shows them. No method blocks, and the reload runs
/// elsewhere.
pub(crate) trait Source: Send + Sync + 'static {
    /// `/metrics`: `OpenMetrics`, or Prometheus's older text.
    fn metrics(&self, open_metrics: bool, detail: Detail) -> Bytes;

    /// `/stats`, and each event of `/events`: JSON in one line.
    fn stats(&self) -> Bytes;

    /// `/threads`: JSON.
    fn threads(&self) -> Bytes;

    /// `/config`: TOML without passwords.
    fn config(&self) -> Bytes;

    /// The figures that decide on `/ready`, besides draining.
    fn load(&self) -> Load;

    /// Whether the server has begun to stop.
    fn is_draining(&self) -> bool;

    /// Why the server is in this condition, in whole sentences. `None`: it is not.
    fn why(&self, condition: ConditionKind) -> Option<String>;

    /// Has another thread read the configuration again and answer the job.
    ///
    /// # Errors
    /// When no thread can do so.
    fn reload(&self, job: Box<Job>) -> Result<(), Error>;

    /// Sets the log's level until the next reload. Returns the level before.
    ///
    /// # Errors
    /// Why the level cannot be changed.
    fn set_log_level(&self, level: LevelFilter) -> Result<LevelFilter, String>;
}

/// How long a reload may take. `wharf reload` waits as long.
const RELOADING: Duration = Duration::from_secs(30);

/// The most bytes of a request's body: `level=debug` and a little more.
pub(crate) const MAX_BODY_BYTES: usize = 1024;

/// The service behind the admin listener.
pub(crate) struct Admin {
    source: Arc<dyn Source>,
    router: Router,
    access: Arc<AdminAccess>,
    readiness: Arc<Readiness>,
}

impl Admin {
    /// The service for a configuration. `max_viewers`: how many clients may have `/events` open at once.
    ///
    /// # Errors
    /// None in practice: only a wrong route fails, and the routes are fixed.
    pub(crate) fn new(
        config: &config::Admin,
        max_viewers: usize,
        source: Arc<dyn Source>,
    ) -> Result<Self, RouteError> {
        let access = Arc::new(AdminAccess::new(config.token.clone()));
        let readiness = Arc::new(Readiness::new(config));
        let events = Arc::new(Events::new(Arc::clone(&source), max_viewers));
        let router = routes::router(&source, &access, &readiness, &events)?;
        Ok(Self { source, router, access, readiness })
    }

    /// Applies another configuration, except its token.
    pub(crate) fn reconfigure(&self, config: &config::Admin) {
        self.readiness.reconfigure(config);
    }
}

impl Service for Admin {
    fn accept(&self, mut request: Request) -> Admission {
        if let Err(refusal) = self.access.admit(&request) {
            return Admission::Answered(refusal, None);
        }
        if *request.method() == Method::POST {
            let who = request.peer().map_or_else(String::new, |peer| format!(" of {peer}"));
            log::info!("admin: POST {}{who}", request.path());
        }
        match self.router.route(&mut request) {
            Err(response) => Admission::Answered(response, None),
            Ok((Target::Immediate(answer), endpoint)) => {
                Admission::Answered(with_headers(answer(&request)), Some(Arc::clone(endpoint)))
            }
            Ok((Target::Handler(answerer), endpoint)) => {
                let since = Instant::now();
                let deadline = Deadline::at(since, RELOADING);
                let endpoint = Arc::clone(endpoint);
                let (handler, lane) = (Arc::clone(&answerer.handler), answerer.lane);
                Admission::Work(Work {
                    request,
                    handler,
                    batched: None,
                    endpoint,
                    since,
                    lane,
                    start_by: deadline,
                    deadline,
                })
            }
        }
    }

    fn enqueue(&self, job: Box<Job>) -> Result<Option<Key>, (Reason, Response)> {
        let refused = |error: Error| (Reason::QueueFull, error.to_response());
        self.source.reload(job).map(|()| None).map_err(refused)
    }

    /// Has nothing to wake: the reloading thread gets its job directly.
    fn wake(&self) {}

    /// Has nothing to withdraw: the reloading thread finds out by itself that its job is gone.
    fn withdraw(&self, _: Key) {}

    fn plan(&self, request: &Request) -> BodyPlan {
        if let Err(refusal) = self.access.admit(request) {
            return BodyPlan::Unwanted(refusal);
        }
        match self.router.target(request) {
            Err(response) => BodyPlan::Unwanted(response),
            Ok(_) => BodyPlan::Wanted { body_use: BodyUse::Whole, max_bytes: MAX_BODY_BYTES },
        }
    }

    fn tick(&self, now: Instant) -> Option<Instant> {
        Some(self.readiness.add_sample(now, self.source.load()))
    }
}

/// Keeps the answer out of caches, and keeps browsers from guessing another type for it.
fn with_headers(response: Response) -> Response {
    response
        .with_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .with_header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
}

fn bad_request(detail: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, detail, &[])
}
