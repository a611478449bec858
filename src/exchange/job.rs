//! What passes from a connector to a worker, and how each side speaks to the other without knowing it.
//!
//! A connector hands every whole request to a [`Service`]; a worker answers through the job's [`Client`]. Neither sees a
//! queue, a router or a socket of the other's.

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
    /// What the client asked for.
    pub request: Request,
    /// What answers it.
    pub handler: Arc<dyn Handler>,
    /// What answers it together with others, where that is possible.
    pub batched: Option<Batched>,
    /// What is counted of its endpoint.
    pub endpoint: Arc<Endpoint>,
    /// When it had come whole, or as far as its handler wants it.
    pub since: Instant,
    /// The lane of the queue that it waits in.
    pub lane: usize,
    /// Until when it must be in a worker's hands; the connector answers after that: 504 if that was its deadline, or else 503.
    pub start_by: Deadline,
    /// By when the client has its answer; the connector answers 504 after that.
    pub deadline: Deadline,
    /// Whom to answer.
    pub client: Arc<dyn Client>,
    /// Which of the client's requests this is.
    pub ticket: u64,
    /// Whether the client is still there, and what it may be told of this request.
    pub presence: Presence,
    /// Whether a worker has claimed it and given it back: then it is run by itself.
    pub again: bool,
}

/// The client's side of a job. A connector may answer a job itself (it waited too long, its deadline passed), so a worker
/// claims the job first and its answer may come too late.
pub trait Client: Send + Sync {
    /// Claims the job for the calling worker, and completes its request where the connector left that to the worker.
    fn claim(self: Arc<Self>, ticket: u64, request: &mut Request) -> Claim;

    /// Sends the answer without waiting for the client. Of a streamed response only the head goes out, as `HEAD` asks for.
    fn answer(&self, ticket: u64, request: &Request, response: Response) -> Delivery;

    /// Sends the head of a streamed response and opens its body. `None`: the connector has answered before.
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
    /// Ends it; without waiting for the client to take what is left. When the body is not complete the connection is cut
    /// off, so that the client sees it.
    fn finish(self: Box<Self>, complete: bool) -> Delivery;
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The connection has it.
    Sent,
    /// The client has left.
    ClientLeft,
    /// The connector has answered before.
    TooLate,
}

/// What a worker learns when it claims a job.
#[derive(Debug)]
pub enum Claim {
    /// The job is the worker's.
    Granted,
    /// The job was answered already, or the client has left.
    Gone,
    /// The request turned out to be unreadable.
    Unreadable(Refusal),
}

/// The answer to a request that no worker took by its [`Job::start_by`]: 504 if that was its deadline, or else 503.
pub(crate) fn waited_too_long(deadline: Deadline) -> (Response, Reason) {
    if deadline.has_passed() {
        let detail = "the request's deadline passed while it waited for a worker";
        (problem(StatusCode::GATEWAY_TIMEOUT, detail, &[]), Reason::Deadline)
    } else {
        (unavailable("no worker was free in time (queue.max_wait)").to_response(), Reason::QueueWait)
    }
}

/// The answer to a request that is refused because requests come faster than they are answered.
pub(crate) fn would_wait_too_long() -> Error {
    unavailable("every worker is busy and requests wait for too long (queue.target)")
}

/// What a connector does with a whole request: the stages behind it.
pub(crate) trait Service: Send + Sync {
    /// Routes the request. Never blocks.
    fn accept(&self, request: Request) -> Admission;

    /// Queues a job that [`accept`](Service::accept) asked for; no worker that sleeps is woken for it before
    /// [`wake`](Service::wake). Returns where it waits, if it can be taken back. Never blocks.
    ///
    /// # Errors
    /// Why it is refused, and the answer for the client.
    fn enqueue(&self, job: Job) -> Result<Option<Key>, (Reason, Response)>;

    /// Sees to it that what was queued is taken. Never blocks.
    fn wake(&self);

    /// Takes a queued job back that the connector has answered, or whose client has left, so that it costs no place and no
    /// worker. Does nothing when a worker has it. Never blocks.
    fn withdraw(&self, key: Key);

    /// What is counted of the endpoint that a request of which only the head is known comes to. Never blocks.
    fn endpoint(&self, request: &Request) -> Option<Arc<Endpoint>> {
        let _ = request;
        None
    }

    /// What is to become of the body of a request whose head was read. Never blocks.
    fn plan(&self, request: &Request) -> BodyPlan;

    /// Does what is to be done now and then, if it is time, and says when to ask again; `None`: never. Never blocks. Each poller
    /// of the native connector asks.
    fn tick(&self, now: Instant) -> Option<Instant> {
        let _ = now;
        None
    }
}

/// What is to become of a body.
#[derive(Debug)]
pub(crate) enum BodyPlan {
    /// It goes to an endpoint that takes it in this way, if it is no longer than `max_bytes`.
    Wanted {
        /// Whole or as a stream.
        body_use: BodyUse,
        /// In bytes, after chunked decoding.
        max_bytes: usize,
    },
    /// Nobody wants it; this is the answer.
    Unwanted(Response),
    /// [`Service::accept`] refuses the request, so nobody waits for its body.
    Refused,
}

/// What is to become of a request.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and a box would be one for each request"
)]
pub(crate) enum Admission {
    /// It is answered on the spot, by this endpoint if it came to one.
    Answered(Response, Option<Arc<Endpoint>>),
    /// The request is refused on the spot. It came to this endpoint.
    Refused(Response, Reason, Arc<Endpoint>),
    /// A worker is to answer it.
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
    /// The job that it is for this client, whose `presence` goes on to the request with it, as the request of this ticket.
    pub(crate) fn job_of(self, client: Arc<dyn Client>, ticket: u64, presence: &Presence) -> Job {
        let Self { request, handler, batched, endpoint, since, lane, start_by, deadline } = self;
        // Not when a worker claims the job: the poller may answer between the claim and what the worker does next.
        let presence = presence.begin_request(request.method().is_safe());
        Job {
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
        }
    }
}
