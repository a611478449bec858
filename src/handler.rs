//! What users of the crate write: a handler, a plain function from request and context to response or error.
//!
//! Worker thread. A handler may block: on the database, on a file, on whatever it does itself.

mod query;

use std::fmt;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

pub use self::query::{Asking, Parameters, Query, query};
pub(crate) use self::query::{Asks, Mean};
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
pub use crate::base::queue::Priority;
use crate::base::request_id::{Identity, Trace};
use crate::database::{self, Connection, Database};
use crate::http::{Refusal, Request, Response, problem};
use crate::telemetry::activity::Activity;
use crate::telemetry::journal::{Journal, Ran};

/// What a client is told of a fault that is not its own.
pub(crate) const FAILED: &str = "the request failed; the server's log has the cause";

/// The answer to a request of which something may have been committed, and which its worker has not answered by the deadline.
pub(crate) fn outcome_unknown() -> Error {
    database::Error::OutcomeUnknown { cause: Box::new(database::Error::Deadline) }.into()
}

/// 503 with `Retry-After`: the server refuses what it could do at another time.
pub(crate) fn unavailable(detail: &str) -> Error {
    Error::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(RETRY)
}

/// What a refused client is asked to wait: long enough for a queue to empty, short enough not to be noticed.
const RETRY: Duration = Duration::from_secs(1);

/// The type of the problem that tells a client that nobody knows whether its request took effect (RFC 9457 section 3.1.1).
const OUTCOME_UNKNOWN: &str = "urn:wharf:problem:outcome-unknown";

/// Answers requests on a worker thread. Every `fn(&Request, &mut Context) -> Result<Response, Error>` is one.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// What the client is to be told instead; see [`Error`].
    fn handle(&self, request: &Request, context: &mut Context<'_>) -> Result<Response, Error>;

    /// The time that a request of this handler has, where it is not the server's. Asked once, when its route is added.
    fn deadline(&self) -> Option<Duration> {
        None
    }

    /// How the handler takes a request's body. Asked once, when its route is added.
    fn body_use(&self) -> BodyUse {
        BodyUse::Whole
    }

    /// How long a body it takes, in bytes, where it is not `http.max_body_bytes`. Asked once, when its route is added.
    fn max_body_bytes(&self) -> Option<usize> {
        None
    }

    /// How many of its requests may be with workers at once, the others waiting by themselves, so that it cannot take the last
    /// worker from other handlers. `None`: as many as there are workers. Asked once, when its route is added.
    fn max_concurrency(&self) -> Option<usize> {
        None
    }

    /// Who goes first when requests wait for a worker. Asked once, when its route is added.
    fn priority(&self) -> Priority {
        Priority::Normal
    }

    /// Whether a request's query may hold a secret, so that no log shows it. Asked once, when its route is added.
    fn hides_query(&self) -> bool {
        false
    }

    /// How its requests are answered where several share a round trip to the database; see [`query`]. Asked once, when its route is
    /// added.
    fn asks(&self) -> Option<Asking> {
        None
    }
}

/// How a handler takes a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyUse {
    /// In memory and whole: no worker waits for a client that sends it slowly.
    #[default]
    Whole,
    /// As a stream, where it is longer than `http.buffer_body_bytes`: memory for no more than that, however long it is,
    /// and a worker for as long as it comes.
    Stream,
}

/// A handler that takes request bodies as a stream; see [`Request::reader`](crate::http::Request::reader).
///
/// A body up to `http.buffer_body_bytes` has come whole when the handler begins; of a longer one the beginning has, and the
/// rest is read as it comes.
pub fn streaming<H: Handler>(handler: H) -> Streaming<H> {
    Streaming { handler, deadline: None, max_body_bytes: None }
}

/// See [`streaming`].
#[derive(Clone, Copy, Debug)]
pub struct Streaming<H> {
    handler: H,
    deadline: Option<Duration>,
    max_body_bytes: Option<usize>,
}

impl<H> Streaming<H> {
    /// The time for a whole request, its body and its answer included, in place of `server.deadline`.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// How long a body may be, in bytes, in place of `http.max_body_bytes`.
    #[must_use]
    pub fn max_body_bytes(self, max_body_bytes: usize) -> Self {
        Self { max_body_bytes: Some(max_body_bytes), ..self }
    }
}

impl<H: Handler> Handler for Streaming<H> {
    fn handle(&self, request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
        self.handler.handle(request, context)
    }

    fn deadline(&self) -> Option<Duration> {
        self.deadline.or_else(|| self.handler.deadline())
    }

    fn body_use(&self) -> BodyUse {
        BodyUse::Stream
    }

    fn max_body_bytes(&self) -> Option<usize> {
        self.max_body_bytes.or_else(|| self.handler.max_body_bytes())
    }

    fn max_concurrency(&self) -> Option<usize> {
        self.handler.max_concurrency()
    }

    fn priority(&self) -> Priority {
        self.handler.priority()
    }

    fn hides_query(&self) -> bool {
        self.handler.hides_query()
    }
}

impl<F> Handler for F
where
    F: Fn(&Request, &mut Context<'_>) -> Result<Response, Error> + Send + Sync + 'static,
{
    fn handle(&self, request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
        self(request, context)
    }
}

/// What a handler works with beside the request.
#[derive(Debug)]
pub struct Context<'a> {
    pub(crate) deadline: Deadline,
    pub(crate) database: Option<&'a Database>,
    pub(crate) client: &'a Presence,
    pub(crate) activity: &'a Activity,
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) journal: &'a Journal,
}

impl Context<'_> {
    /// By when the client has its answer. Checkouts and statements end with it by themselves.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Whether the client has left, so that nobody waits for the answer. The wait for a connection and the statements on it
    /// end by themselves then; a handler that works for long without the database asks here.
    pub fn client_has_left(&self) -> bool {
        self.client.has_left()
    }

    /// The request's id; see [`Request::id`].
    pub fn request_id(&self) -> &str {
        self.identity.map_or("", Identity::id)
    }

    /// What a request that the handler makes of another service says in `traceparent`, so that it belongs to the same trace;
    /// `None` where `tracing.propagate` is false.
    pub fn traceparent(&self) -> Option<String> {
        self.trace().map(Trace::traceparent)
    }

    /// And in `tracestate`, if anything.
    pub fn tracestate(&self) -> Option<&str> {
        self.trace()?.tracestate()
    }

    fn trace(&self) -> Option<&Trace> {
        self.identity?.trace()
    }

    /// A statement has run, or failed. `name`: what it is called; `values`: what it was run with, as far as that may be shown.
    pub(crate) fn note_statement(&self, name: &str, took: Duration, values: &dyn Fn() -> String) {
        self.journal.ran(&Ran { name, took, values, identity: self.identity });
    }

    /// The statements run once more, after a collision with another transaction.
    pub(crate) fn note_retry(&self) {
        if let Some(database) = self.database {
            database.metrics().retries.fetch_add(1, Relaxed);
        }
    }

    /// Borrows a database connection; dropping it gives it back.
    ///
    /// # Errors
    /// When none is free in time, or the database is down (both 503), or the server has no database (500), or the client
    /// has left.
    pub fn database(&self) -> Result<Connection, Error> {
        let database = self.database.ok_or_else(|| {
            Error::new(StatusCode::INTERNAL_SERVER_ERROR, "no database").because("database.url is not set")
        })?;
        let mut connection = database.checkout_for(self.client, self.activity, self.deadline)?;
        if connection.names_requests() {
            connection.name_request(self.request_id(), &self.traceparent().unwrap_or_default());
        }
        Ok(connection)
    }
}

/// Why a handler did not answer: a status and a detail for the client, and a cause for the log.
///
/// Any `std::error::Error` becomes one through `?`: the database's and those of reading a body with their own status, all
/// others as 500 whose text goes to the log only.
///
/// `Debug` is what a log has. It shows no value that [`bad_parameter`](Self::bad_parameter) names, and none that a database's
/// message does.
pub struct Error {
    status: StatusCode,
    detail: String,
    /// The detail without values of the client, where it has any.
    without_values: Option<String>,
    /// Where it happened, for the log.
    place: Option<String>,
    members: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// See [`Error::is_not_done`].
    is_not_done: bool,
}

impl Error {
    /// An error with a status and a detail, both for the client.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let (without_values, place) = (None, None);
        Self {
            status,
            detail: detail.into(),
            without_values,
            place,
            members: Vec::new(),
            retry_after: None,
            cause: None,
            is_not_done: false,
        }
    }

    /// 400: a parameter is missing or not what it should be.
    pub fn bad_parameter(name: &str, expected: &str, received: &str) -> Self {
        let secret = Self::bad_secret(name, expected);
        let detail = format!("{}, received {received}", secret.detail);
        let without_values = Some(secret.detail);
        Self { detail, without_values, ..secret }.with_member("received", received)
    }

    /// The same of a parameter whose value is shown to nobody, not even to who has sent it.
    pub fn bad_secret(name: &str, expected: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("parameter {name}: expected {expected}"))
            .with_member("parameter", name)
            .with_member("expected", expected)
    }

    /// Adds the cause, for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds a member to the problem that the client gets (RFC 9457 section 3.2).
    #[must_use]
    pub fn with_member(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// Tells the client when to try again, in whole seconds, at least one.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// Database error → answer: the one place that decides it.
    fn from_database(error: database::Error) -> Self {
        if let database::Error::BadValue { param, expected, received } = &error {
            return match received {
                Some(received) => Self::bad_parameter(param, expected, received),
                None => Self::bad_secret(param, expected),
            };
        }
        let mut answer = Self::new(error.status(), error.public_detail());
        answer.without_values = Some(error.public_detail_without_values().into_owned());
        let answer = match (&error, answer.status) {
            (database::Error::OutcomeUnknown { .. }, _) => {
                answer.with_member("type", OUTCOME_UNKNOWN).with_member("title", "Outcome unknown")
            }
            (database::Error::Refused(refusal), _) if refusal.is_for_client() => answer.of_rule(refusal),
            (_, StatusCode::SERVICE_UNAVAILABLE) => answer.retry_after(RETRY),
            _ => answer,
        };
        let is_not_done =
            matches!(answer.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        Self { is_not_done, ..answer.because(error) }
    }

    /// Whether wharf made this error from a database's error that says "nothing was done, come again". An error that a handler
    /// makes itself says what the handler wants.
    pub(crate) fn is_not_done(&self) -> bool {
        self.is_not_done
    }

    /// The same fault of a request that may have committed something before.
    pub(crate) fn into_outcome_unknown(self) -> Self {
        let unknown = Self { place: self.place, ..outcome_unknown() };
        match self.cause {
            Some(cause) => unknown.because(format!("after something of it may have been committed: {cause}")),
            None => unknown,
        }
    }

    /// What the author of a business rule says beside its message, under PostgREST's names.
    fn of_rule(self, refusal: &database::Refusal) -> Self {
        let answer = self.with_member("code", refusal.code.as_str());
        let answer = match answer.status {
            StatusCode::SERVICE_UNAVAILABLE => answer.retry_after(RETRY),
            _ => answer,
        };
        let more = [("details", &refusal.detail), ("hint", &refusal.hint)];
        more.into_iter().fold(answer, |answer, (name, text)| match text {
            Some(text) => answer.with_member(name, text.as_str()),
            None => answer,
        })
    }

    /// Shows nobody any value: the request has a secret, which the database's message may name.
    #[must_use]
    pub(crate) fn hiding_values(mut self) -> Self {
        if let Some(detail) = &self.without_values {
            self.detail.clone_from(detail);
        }
        // In place of the cause stands what may be said of it.
        self.cause = self.cause.map(|cause| match cause.downcast::<database::Error>() {
            Ok(error) => Box::new(Hidden(*error)) as _,
            Err(other) => other,
        });
        self
    }

    /// Adds where it happened, for the log.
    #[must_use]
    pub(crate) fn at(mut self, place: String) -> Self {
        self.place = Some(place);
        self
    }

    /// Whether the database's user may not do what was asked, and no function has refused it.
    pub(crate) fn lacks_privilege(&self) -> bool {
        let Some(cause) = self.cause.as_deref() else { return false };
        let error = cause.downcast_ref().or_else(|| cause.downcast_ref().map(|Hidden(error)| error));
        error.is_some_and(database::Error::lacks_privilege)
    }

    /// What a log has of it. `shows_values`: as `log.parameters` says.
    pub(crate) fn told(&self, shows_values: bool) -> String {
        let detail = self.without_values.as_ref().filter(|_| !shows_values).unwrap_or(&self.detail);
        let cause = self.cause.as_ref().map(|cause| match cause.downcast_ref::<database::Error>() {
            Some(error) if shows_values => error.in_full().into_owned(),
            _ => cause.to_string(),
        });
        let because: Vec<&str> = self.place.iter().chain(&cause).map(String::as_str).collect();
        let because = if because.is_empty() { String::new() } else { format!(" ({})", because.join(": ")) };
        format!("{}: {detail}{because}", self.status)
    }

    /// The status that the client gets.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The cause, for the log.
    pub fn cause(&self) -> Option<&(dyn std::error::Error + Send + Sync)> {
        self.cause.as_deref()
    }

    /// The answer for the client.
    pub fn to_response(&self) -> Response {
        let members: Vec<_> = self.members.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let response = problem(self.status, &self.detail, &members);
        match self.retry_after {
            Some(pause) => response.with_header(
                http::header::RETRY_AFTER,
                HeaderValue::from((pause.as_secs() + u64::from(pause.subsec_nanos() > 0)).max(1)),
            ),
            None => response,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(false))
    }
}

/// A database's error of which nobody is told a value, also where logs show others.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Hidden(database::Error);

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        match boxed.downcast::<database::Error>() {
            Ok(error) => Self::from_database(*error),
            Err(other) => match body_refusal(other.as_ref()) {
                Some(refusal) => Self::new(refusal.status, refusal.detail),
                None => Self::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED),
            }
            .because(other),
        }
    }
}

/// What a client is to be told of its own body, out of the error that reading it gave.
fn body_refusal(error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
    error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<Refusal>().copied()
}
