//! What the admin listener answers: health, figures, what the server does now, and what an operator may ask of it.
//!
//! Poller thread of the admin listener, which is none of the clients': nothing here waits for a worker, the queue or a lock
//! that is held for long. What it says comes from a [`Source`]; it knows neither queue nor pool.

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
use self::readiness::Readiness;
use crate::base::deadline::Deadline;
use crate::base::queue::Key;
use crate::config;
use crate::exchange::job::{Admission, BodyPlan, Job, Service, Work};
use crate::exchange::router::{RouteError, Router, Target};
use crate::handler::{BodyUse, Error};
use crate::http::{Request, Response, problem};
use crate::telemetry::metrics::Reason;

pub(crate) use self::readiness::Load;

/// What the server says of itself. Nothing of it blocks.
pub(crate) trait Source: Send + Sync + 'static {
    /// `/metrics`: `OpenMetrics`, or Prometheus's older text.
    fn metrics(&self, open_metrics: bool) -> Bytes;

    /// `/stats`, and each event of `/events`: JSON in one line.
    fn stats(&self) -> Bytes;

    /// `/threads`: JSON.
    fn threads(&self) -> Bytes;

    /// `/config`: TOML without passwords.
    fn config(&self) -> Bytes;

    /// What decides about `/ready`, beside draining.
    fn load(&self) -> Load;

    /// Whether the server has begun to stop.
    fn is_draining(&self) -> bool;

    /// Has somebody else read the configuration again and answer the job.
    ///
    /// # Errors
    /// Why nobody does.
    fn reload(&self, job: Job) -> Result<(), Error>;

    /// Changes what the log says, until the next reload. Returns what it was.
    ///
    /// # Errors
    /// Why that is not to be changed.
    fn set_log_level(&self, level: LevelFilter) -> Result<LevelFilter, String>;
}

/// How long a reload may take, as long as `wharf reload` waits.
const RELOADING: Duration = Duration::from_secs(30);

/// What a body may have: `level=debug` and a little more.
pub(crate) const MAX_BODY_BYTES: usize = 1024;

/// The service behind the admin listener.
pub(crate) struct Admin {
    source: Arc<dyn Source>,
    router: Router,
    access: Arc<AdminAccess>,
    readiness: Arc<Readiness>,
}

impl Admin {
    /// What a configuration asks for. `max_viewers`: how many may look at `/events` at once.
    ///
    /// # Errors
    /// None that a route of ours could have.
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

    /// Goes by another configuration, but for its token.
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

    fn enqueue(&self, job: Job) -> Result<Option<Key>, (Reason, Response)> {
        let refused = |error: Error| (Reason::QueueFull, error.to_response());
        self.source.reload(job).map(|()| None).map_err(refused)
    }

    /// Whoever reloads waits for nobody.
    fn wake(&self) {}

    /// And finds out by itself.
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
        Some(self.readiness.note(now, self.source.load()))
    }
}

/// No answer is worth keeping, and none is to be taken for something else than it says.
fn with_headers(response: Response) -> Response {
    response
        .with_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .with_header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
}

fn bad_request(detail: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, detail, &[])
}
