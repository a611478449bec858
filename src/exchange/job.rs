//! The types that pass from a connector to a worker, and the traits by which either side calls the other without
//! knowing it.
//!
//! A connector hands every whole request to a [`Service`]; a worker answers through the job's [`Client`]. The connector
//! sees no queue and no router, and the worker sees no socket.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::queue::Key;
use crate::handler::{Batched, BodyUse, Error, Handler, unavailable};
use crate::http::{Refusal, Request, Response, Sink, problem};
use crate::telemetry::metrics::{Endpoint, Reason};

/// A parsed request on its way to a worker.
pub struct Job {
    /// The client's request.
    pub request: Request,
    /// The handler that answers it.
    pub handler: Arc<dyn Handler>,
    /// Answers the request together with others, where that is possible.
    pub batched: Option<Batched>,
    /// The metrics of its endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The time when the request had come whole, or as far as its handler wants it.
    pub since: Instant,
    /// The lane of the queue in which it waits.
    pub lane: usize,
    /// A worker must take the job by then. Afterwards the connector answers: 504 if the deadline has passed too,
    /// otherwise 503.
    pub start_by: Deadline,
    /// The client must have its answer by then. Afterwards the connector answers 504.
    pub deadline: Deadline,
    /// The client to answer.
    pub client: Arc<dyn Client>,
    /// Tells this request from the client's other requests.
    pub ticket: u64,
    /// Knows whether the client is still there, and what the client may be told of this request.
    pub presence: Presence,
    /// Whether a worker has claimed the job and returned it to the queue.
    pub again: bool,
}

/// The client's side of a job. A connector may answer a job itself, when it waited too long or its deadline passed. So
/// a worker claims the job first, and the worker's answer may come too late.
pub trait Client: Send + Sync {
    /// Claims the job for the calling worker, and completes its request where the connector left that to the worker.
    fn claim(self: Arc<Self>, ticket: u64, request: &mut Request) -> Claim;

    /// Sends the answer without waiting for the client. Of a streamed response only the head goes out, as `HEAD` asks for.
    fn answer(&self, ticket: u64, request: &Request, response: Response) -> Delivery;

    /// Sends the head of a streamed response and opens its body. `None`: the connector has already answered.
    fn open(
        self: Arc<Self>,
        ticket: u64,
        request: &Request,
        response: &Response,
        deadline: Deadline,
    ) -> Option<Box<dyn Stream>>;
}

/// A streamed answer in progress.
pub trait Stream: Sink {
    /// Ends the answer, without waiting for the client to take the rest. If the body is not complete, the connection is
    /// cut off, so that the client notices.
    fn finish(self: Box<Self>, complete: bool) -> Delivery;
}

/// The fate of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The connection has it.
    Sent,
    /// The client has left.
    ClientLeft,
    /// The connector has already answered.
    TooLate,
}

/// The result of a worker's claim to a job.
#[derive(Debug)]
pub enum Claim {
    /// The job is the worker's.
    Granted,
    /// The job was answered already, or the client has left.
    Gone,
    /// The request turned out to be unreadable.
    Unreadable(Refusal),
}

/// The answer to a request that no worker took by its [`Job::start_by`]: 504 if its deadline has passed, otherwise 503.
pub(crate) fn waited_too_long(deadline: Deadline) -> (Response, Reason) {
    if deadline.has_passed() {
        let detail = "the request's deadline passed while it waited for a worker";
        (problem(StatusCode::GATEWAY_TIMEOUT, detail, &[]), Reason::Deadline)
    } else {
        (unavailable("no worker was free in time (queue.max_wait)").to_response(), Reason::QueueWait)
    }
}

/// The answer to a request that is shed because requests come faster than workers answer them.
pub(crate) fn would_wait_too_long() -> Error {
    unavailable("every worker is busy and requests wait for too long (queue.target)")
}

/// The stages behind a connector, which take its requests.
pub(crate) trait Service: Send + Sync {
    /// Routes the request. Never blocks.
    fn accept(&self, request: Request) -> Admission;

    /// Queues a job that [`accept`](Service::accept) asked for. A sleeping worker is not woken for it before
    /// [`wake`](Service::wake). Returns the job's key in the queue, if the job can be withdrawn. Never blocks.
    ///
    /// # Errors
    /// The reason for the refusal, and the answer for the client.
    fn enqueue(&self, job: Box<Job>) -> Result<Option<Key>, (Reason, Response)>;

    /// Makes workers take the queued jobs. Never blocks.
    fn wake(&self);

    /// Takes back a queued job that the connector has answered, or whose client has left. The job then uses no room in
    /// the queue and no worker. Does nothing when a worker has the job. Never blocks.
    fn withdraw(&self, key: Key);

    /// The metrics of a request's endpoint. The request may consist of its head only. Never blocks.
    fn endpoint(&self, request: &Request) -> Option<Arc<Endpoint>> {
        let _ = request;
        None
    }

    /// Decides about the body of a request whose head was read. Never blocks.
    fn plan(&self, request: &Request) -> BodyPlan;

    /// Does the periodic work that is due, and returns the time of the next call; `None`: no further call. Never
    /// blocks. Each poller of the native connector calls it.
    fn tick(&self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }
}

/// The decision about a request's body.
#[derive(Debug)]
pub(crate) enum BodyPlan {
    /// An endpoint takes the body in this way, if the body is no longer than `max_bytes`.
    Wanted {
        /// Whether the endpoint takes it whole or as a stream.
        body_use: BodyUse,
        /// In bytes, after chunked decoding.
        max_bytes: usize,
    },
    /// No endpoint takes it. This is the answer.
    Unwanted(Response),
    /// [`Service::accept`] will refuse the request, so the body is not needed.
    Refused,
}

/// The decision about a request.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and a box would be one for each request"
)]
pub(crate) enum Admission {
    /// The request is answered on the spot. The endpoint is there if the request matched one.
    Answered(Response, Option<Arc<Endpoint>>),
    /// The request to this endpoint is refused on the spot.
    Refused(Response, Reason, Arc<Endpoint>),
    /// A worker must answer it.
    Work(Work),
}

/// A request that needs a worker.
pub(crate) struct Work {
    /// See [`Job::request`].
    pub request: Request,
    /// See [`Job::handler`].
    pub handler: Arc<dyn Handler>,
    /// See [`Job::batched`].
    pub batched: Option<Batched>,
    /// See [`Job::endpoint`].
    pub endpoint: Arc<Endpoint>,
    /// See [`Job::since`].
    pub since: Instant,
    /// See [`Job::lane`].
    pub lane: usize,
    /// See [`Job::start_by`].
    pub start_by: Deadline,
    /// See [`Job::deadline`].
    pub deadline: Deadline,
}

impl Work {
    /// Makes the job of this client's request. `ticket` names the request, and `presence` is the client's.
    pub(crate) fn job_of(self, client: Arc<dyn Client>, ticket: u64, presence: &Presence) -> Box<Job> {
        let Self { request, handler, batched, endpoint, since, lane, start_by, deadline } = self;
        // This cannot wait for a worker's claim: the poller may answer between the claim and the worker's next step.
        let presence = presence.begin_request(request.method().is_safe());
        Box::new(Job {
            request,
            handler,
            batched,
            endpoint,
            since,
            lane,
            start_by,
            deadline,
            client,
            ticket,
            presence,
            again: false,
        })
    }
}
