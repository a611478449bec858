//! The stages of one request, as the connector sees them: routing and admission. Poller threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, StatusCode};

use crate::base::deadline::Deadline;
use crate::base::queue::{Key, Queue, Refusal};
use crate::config::Config;
use crate::exchange::job::{Admission, BodyPlan, Job, Service, Work, waited_too_long, would_wait_too_long};
use crate::exchange::router::{Router, Target};
use crate::handler::{BodyUse, Error, FAILED, unavailable};
use crate::http::{OriginRules, Request, Response, cross_origin};
use crate::telemetry::metrics::{Endpoint, Metrics, Reason};
use crate::telemetry::sparing::sparingly;
use crate::telemetry::traces::{Outcome, RequestTimes, Traces};
use crate::workers::{answer_error, final_response, guarded, joins_batches};

/// The longest `Retry-After` for a refused client, because the load after that time cannot be foreseen.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The connector's view of the server: routing and admission.
pub(super) struct Stages {
    router: Router,
    queue: Queue<Box<Job>>,
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

impl Stages {
    pub(super) fn new(
        config: &Config,
        router: Router,
        queue: Queue<Box<Job>>,
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
        self.traces
            .record(request, endpoint, || (RequestTimes::without_worker(since), Outcome::answered(status)));
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
                self.traces.record(&request, Some(endpoint), || {
                    (RequestTimes::without_worker(now), Outcome::refused(status, reason.name()))
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

    fn enqueue(&self, job: Box<Job>) -> Result<Option<Key>, (Reason, Response)> {
        let (lane, since, joins) = (job.lane, job.since, joins_batches(&job));
        self.queue.push_since(lane, job, since, joins).map(Some).map_err(|refused| {
            let (reason, error) = match refused.refusal {
                Refusal::Full => {
                    let detail = "every worker is busy and the queue is full (queue.max_length)";
                    (Reason::QueueFull, unavailable(detail))
                }
                Refusal::Shed => (Reason::Shed, would_wait_too_long()),
            };
            let Job { request, endpoint, since, .. } = &*refused.job;
            let status = error.status().as_u16();
            endpoint.responded_to(request.id(), status);
            self.traces.record(request, Some(endpoint), || {
                (RequestTimes::without_worker(*since), Outcome::refused(status, reason.name()))
            });
            (reason, error.retry_after(refused.drains_in.min(RETRY_AFTER_MAX)).to_response())
        })
    }

    fn wake(&self) {
        self.queue.wake();
    }

    fn withdraw(&self, key: Key) {
        let Some(job) = self.queue.withdraw(key) else { return };
        self.traces.record(&job.request, Some(&job.endpoint), || {
            // There are two reasons to withdraw a job: the connector answered when its time was up, or its client left.
            let outcome = if job.start_by.has_passed() {
                let (response, reason) = waited_too_long(job.deadline);
                Outcome::refused(response.status().as_u16(), reason.name())
            } else {
                Outcome::client_left()
            };
            (RequestTimes::without_worker(job.since), outcome)
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
        "requests from other sites' pages",
        "{} {} is refused: it comes from a page of {}, which access.origins does not allow",
        endpoint.method,
        endpoint.route,
        request.header("origin").unwrap_or(b"another site").escape_ascii()
    );
    cross_origin("the request comes from another site's page, which may not write here (access.origins)")
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
        (_, Some(_)) => Err(Error::bad_parameter(name.as_str(), DEADLINE, "two values")),
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
pub(super) fn immediate(response: Response) -> Result<Response, Error> {
    if response.length().is_none() {
        let cause = "a function that answers on the poller answered with a stream, which needs a worker";
        return Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED).because(cause));
    }
    Ok(response)
}
