//! What users of the crate write: a handler, a plain function from request and context to response or error.
//!
//! Worker thread. A handler may block: on the database, on a file, on whatever it does itself.

use std::fmt;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use crate::database::{self, Connection, Database};
use crate::deadline::Deadline;
use crate::http::{Request, Response, problem};

/// What a client is told of a fault that is not its own.
pub(crate) const FAILED: &str = "the request failed; the server's log has the cause";

/// The answer to a request that no worker could take in time.
pub(crate) fn waited_too_long() -> Error {
    unavailable("no worker was free in time (queue.max_wait)")
}

/// 503 with `Retry-After`: the server refuses what it could do at another time.
pub(crate) fn unavailable(detail: &str) -> Error {
    Error::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(RETRY)
}

/// What a refused client is asked to wait: long enough for a queue to empty, short enough not to be noticed.
const RETRY: Duration = Duration::from_secs(1);

/// Answers requests on a worker thread. Every `fn(&Request, &mut Context) -> Result<Response, Error>` is one.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// What the client is to be told instead; see [`Error`].
    fn handle(&self, request: &Request, context: &mut Context<'_>) -> Result<Response, Error>;

    /// The time that a request of this handler has, where it is not the server's.
    fn deadline(&self) -> Option<Duration> {
        None
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
}

impl Context<'_> {
    /// By when the client has its answer. Checkouts and statements end with it by themselves.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Borrows a database connection; dropping it gives it back.
    ///
    /// # Errors
    /// When none is free in time, or the database is down (both 503), or the server has no database (500).
    pub fn database(&self) -> Result<Connection, Error> {
        let database = self.database.ok_or_else(|| {
            Error::new(StatusCode::INTERNAL_SERVER_ERROR, "no database").because("database.url is not set")
        })?;
        Ok(database.checkout(self.deadline)?)
    }
}

/// Why a handler did not answer: a status and a detail for the client, and a cause for the log.
///
/// Any `std::error::Error` becomes one through `?`: the database's with their own status, all others as 500 whose text
/// goes to the log only.
pub struct Error {
    status: StatusCode,
    detail: String,
    members: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with a status and a detail, both for the client.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), members: Vec::new(), retry_after: None, cause: None }
    }

    /// 400: a parameter is missing or not what it should be.
    pub fn bad_parameter(name: &str, expected: &str, received: &str) -> Self {
        let detail = format!("parameter {name}: expected {expected}, received {received}");
        Self::new(StatusCode::BAD_REQUEST, detail)
            .with_member("parameter", name)
            .with_member("expected", expected)
            .with_member("received", received)
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
            return Self::bad_parameter(param, expected, received);
        }
        let answer = Self::new(error.status(), error.public_detail());
        let busy = answer.status == StatusCode::SERVICE_UNAVAILABLE;
        if busy { answer.retry_after(RETRY) } else { answer }.because(error)
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
            Some(pause) => {
                response.with_header(http::header::RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)))
            }
            None => response,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.detail)?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, " ({cause})"))
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        match boxed.downcast::<database::Error>() {
            Ok(error) => Self::from_database(*error),
            Err(other) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED).because(other),
        }
    }
}
