//! The connector of tests: requests come from the same process, without a socket.
//!
//! The caller's thread does what a poller does for the others; workers answer. So a request meets the same limits, router, queue,
//! policy and handlers, and its answer is the one that a socket would have had.

use std::cell::Cell;
use std::io::{self, Read as _};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::StatusCode;

use super::{GRACE, Settings};
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::request_id::{RequestId, RequestIds};
use crate::exchange::job::{Admission, BodyPlan, Claim, Client, Delivery, Service, Stream, waited_too_long};
use crate::handler::outcome_unknown;
use crate::http::{
    Body, Decoder, Form, Limits, Refusal, Request, RequestBuilder, Response, Sink, encode_head, problem,
};
use crate::telemetry::metrics::{Metrics, Reason};

/// Passes requests of this process to the stages behind a connector.
pub(crate) struct Direct {
    is_encrypted: bool,
    limits: Limits,
    max_body_bytes: usize,
    request_ids: Arc<RequestIds>,
    service: Arc<dyn Service>,
    metrics: Arc<Metrics>,
}

/// One request on its way.
struct Exchange {
    state: Mutex<State>,
    changed: Condvar,
}

/// How far the request has come.
enum State {
    /// No worker has begun.
    Queued,
    /// A worker makes the answer.
    Running,
    /// A worker writes the answer's body.
    Streaming,
    Answered(Answer),
    /// The caller waits no more.
    GivenUp,
}

/// An answer as its bytes.
struct Answer {
    head: Vec<u8>,
    body: Vec<u8>,
    is_chunked: bool,
    is_complete: bool,
}

impl Direct {
    /// `is_encrypted`: requests count as if they had come through TLS.
    pub(crate) fn new(
        settings: &Settings,
        is_encrypted: bool,
        service: Arc<dyn Service>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            is_encrypted,
            limits: settings.limits,
            max_body_bytes: settings.max_body_bytes,
            request_ids: Arc::clone(&settings.request_ids),
            service,
            metrics,
        }
    }

    /// Answers one request, as the native connector does. Waits for the worker, but not past the request's deadline.
    ///
    /// # Errors
    /// When a body that streams breaks off: a client would see the connection end.
    pub(crate) fn send(&self, request: RequestBuilder) -> io::Result<http::Response<Bytes>> {
        self.metrics.received();
        let read = request.read(&self.limits).map(|mut request| {
            request.read_id(&self.request_ids);
            request.is_encrypted = self.is_encrypted;
            request
        });
        let known = read.as_ref().ok().and_then(|request| request.request_id.clone());
        let request_id = known.unwrap_or_else(|| self.request_ids.unread());
        let request = match read.and_then(|request| self.with_bounded_body(request)) {
            Ok(request) => request,
            Err(refusal) => {
                self.metrics.refused(refusal.fault.into());
                self.metrics.unmatched().responded(refusal.status.as_u16());
                return answer_here(problem(refusal.status, refusal.detail, &[]), Form::CLOSE, &request_id);
            }
        };
        let form = request.form();
        let refusal = match self.service.accept(request) {
            Admission::Answered(response, _) => {
                self.metrics.answered();
                return answer_here(response, form, &request_id);
            }
            Admission::Refused(response, reason, _) => (reason, response),
            Admission::Work(work) => {
                let exchange =
                    Arc::new(Exchange { state: Mutex::new(State::Queued), changed: Condvar::new() });
                let client = Arc::clone(&exchange) as Arc<dyn Client>;
                let job = work.job_of(client, 1, &Presence::tracked());
                let (start_by, deadline, presence) = (job.start_by, job.deadline, job.presence.clone());
                let endpoint = Arc::clone(&job.endpoint);
                match self.service.enqueue(job) {
                    Err(refusal) => refusal,
                    Ok(key) => {
                        self.service.wake();
                        let late = exchange.wait(start_by, deadline);
                        let (response, reason) = match late {
                            State::Answered(answer) => return answer.read(),
                            State::Queued => {
                                if let Some(key) = key {
                                    self.service.withdraw(key);
                                }
                                waited_too_long(deadline)
                            }
                            State::Running | State::Streaming | State::GivenUp => {
                                (late_answer(&presence), Reason::Deadline)
                            }
                        };
                        endpoint.responded_to(request_id.id(), response.status().as_u16());
                        if let State::Streaming = late {
                            // Its head says 200 already: a client sees the connection end.
                            self.metrics.refused(reason);
                            return Err(io::ErrorKind::TimedOut.into());
                        }
                        (reason, response)
                    }
                }
            }
        };
        self.metrics.refused(refusal.0);
        answer_here(refusal.1, form, &request_id)
    }

    /// The request, unless its body is longer than it may be.
    fn with_bounded_body(&self, request: Request) -> Result<Request, Refusal> {
        let max_bytes = match self.service.plan(&request) {
            BodyPlan::Wanted { max_bytes, .. } => max_bytes,
            BodyPlan::Unwanted(_) => self.max_body_bytes,
            BodyPlan::Refused => usize::MAX,
        };
        if request.body().len() > max_bytes { Err(Refusal::BODY_TOO_LARGE) } else { Ok(request) }
    }
}

/// The answer in place of a worker's that has not come by the deadline. The worker commits nothing from now on.
fn late_answer(presence: &Presence) -> Response {
    if presence.answer_instead() {
        outcome_unknown().to_response()
    } else {
        problem(StatusCode::GATEWAY_TIMEOUT, "the request took longer than its deadline", &[])
    }
}

/// An answer that no worker has made.
fn answer_here(
    mut response: Response,
    form: Form,
    request_id: &RequestId,
) -> io::Result<http::Response<Bytes>> {
    response.name_request(request_id.id());
    Answer::of(response, form, Some(request_id))?.read()
}

impl Answer {
    fn of(response: Response, form: Form, request_id: Option<&RequestId>) -> io::Result<Self> {
        let mut head = Vec::new();
        let has_body = encode_head(&response, form.of(&response), request_id, &mut head);
        let mut body = Vec::new();
        if has_body {
            match response.body {
                Body::Bytes(bytes) => body.extend_from_slice(&bytes),
                Body::File(file) => {
                    file.file.take(file.length).read_to_end(&mut body)?;
                }
                // What streams is written into an open answer, and feeds are the admin listener's.
                Body::Stream(_) | Body::Feed(_) => {}
            }
        }
        Ok(Self { head, body, is_chunked: false, is_complete: true })
    }

    /// The answer as a client reads it.
    fn read(self) -> io::Result<http::Response<Bytes>> {
        let broken_off = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer's body ended early");
        if !self.is_complete {
            return Err(broken_off());
        }
        let mut body = self.body;
        if self.is_chunked {
            let mut decoder = Decoder::default();
            let mut bytes = Vec::with_capacity(body.len());
            decoder.decode(&body, &mut bytes, usize::MAX).map_err(io::Error::other)?;
            if !decoder.is_done() {
                return Err(broken_off());
            }
            body = bytes;
        }
        let lines = memchr::memchr_iter(b'\n', &self.head).count();
        let mut headers = vec![httparse::EMPTY_HEADER; lines];
        let mut parsed = httparse::Response::new(&mut headers);
        parsed.parse(&self.head).map_err(io::Error::other)?;
        let mut response = http::Response::builder().status(parsed.code.unwrap_or_default());
        for header in &*parsed.headers {
            response = response.header(header.name, header.value);
        }
        response.body(body.into()).map_err(io::Error::other)
    }
}

impl Exchange {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the answer. Returns it, or how far the request had come when its time was up.
    fn wait(&self, start_by: Deadline, deadline: Deadline) -> State {
        let mut state = self.lock();
        loop {
            let left = match *state {
                State::Answered(_) => return mem::replace(&mut state, State::GivenUp),
                State::Queued => start_by.left(),
                _ => Deadline::at(deadline.instant(), GRACE).left(),
            };
            if left.is_zero() {
                return mem::replace(&mut state, State::GivenUp);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The worker's answer, unless the caller waits no more.
    fn finish(&self, answer: Answer) -> Delivery {
        let mut state = self.lock();
        if matches!(*state, State::GivenUp) {
            return Delivery::TooLate;
        }
        *state = State::Answered(answer);
        self.changed.notify_one();
        Delivery::Sent
    }
}

impl Client for Exchange {
    fn claim(self: Arc<Self>, _: u64, _: &mut Request) -> Claim {
        let mut state = self.lock();
        if !matches!(*state, State::Queued) {
            return Claim::Gone;
        }
        *state = State::Running;
        // The caller waits for the deadline from now on.
        self.changed.notify_one();
        Claim::Granted
    }

    fn answer(&self, _: u64, request: &Request, response: Response) -> Delivery {
        let answer = Answer::of(response, request.form(), request.request_id.as_ref());
        self.finish(answer.unwrap_or_else(|error| {
            log::warn!("request {}: the file cannot be read: {error}", request.id());
            Answer { head: Vec::new(), body: Vec::new(), is_chunked: false, is_complete: false }
        }))
    }

    fn open(
        self: Arc<Self>,
        _: u64,
        request: &Request,
        response: &Response,
        deadline: Deadline,
    ) -> Option<Box<dyn Stream>> {
        let mut state = self.lock();
        if !matches!(*state, State::Running) {
            return None;
        }
        *state = State::Streaming;
        drop(state);
        let mut head = Vec::new();
        encode_head(response, request.form().of(response), request.request_id.as_ref(), &mut head);
        Some(Box::new(OpenStream {
            exchange: self,
            head,
            body: Cell::default(),
            deadline,
            failed: Cell::new(false),
        }))
    }
}

/// A worker's end of a streamed answer, which is kept until it is complete.
struct OpenStream {
    exchange: Arc<Exchange>,
    head: Vec<u8>,
    body: Cell<Vec<u8>>,
    deadline: Deadline,
    /// Something was not taken: the answer is not complete, even if its handler ignores the error.
    failed: Cell<bool>,
}

impl Sink for OpenStream {
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        if self.deadline.has_passed() {
            self.failed.set(true);
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut body = self.body.take();
        body.extend_from_slice(bytes);
        self.body.set(body);
        Ok(())
    }
}

impl Stream for OpenStream {
    fn finish(self: Box<Self>, complete: bool) -> Delivery {
        let Self { exchange, head, body, failed, .. } = *self;
        let is_complete = complete && !failed.get();
        exchange.finish(Answer { head, body: body.into_inner(), is_chunked: true, is_complete })
    }
}
