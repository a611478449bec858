//! The error of a handler, and the answer that its client gets.
//!
//! Worker thread.

use std::fmt;
use std::io;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use crate::base::guard::Foreign;
use crate::database;
use crate::database::postgres::StepError;
use crate::http::{Refusal, Response, problem};

/// The text for a client about a fault that is not the client's.
pub(crate) const FAILED: &str = "the request failed; the server's log has the cause";

/// The answer to a request that may have committed something and has no answer from its worker by the deadline.
pub(crate) fn outcome_unknown() -> Error {
    database::Error::OutcomeUnknown { cause: Box::new(database::Error::Deadline) }.into()
}

/// 503 with `Retry-After`: the server could answer the request at another time.
pub(crate) fn unavailable(detail: &str) -> Error {
    Error::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(RETRY)
}

/// The pause that a refused client is asked for. It is long enough for a queue to empty, and short enough not to be
/// noticed.
const RETRY: Duration = Duration::from_secs(1);

/// The problem type of an unknown outcome (RFC 9457 section 3.1.1): nobody knows whether the request took effect.
const OUTCOME_UNKNOWN: &str = "urn:wharf:problem:outcome-unknown";

/// Why a handler did not answer: a status and a detail for the client, and a cause for the log.
///
/// These errors become a handler's error through `?`:
///
/// - [`database::Error`](crate::database::Error), with a fitting status: 503 where the database is down, 409 where a
///   row exists already;
/// - [`StepError`], as the database's error in it, or 500 for an unexpected number of rows;
/// - [`io::Error`], with the status for a fault in the client's body, or else 500;
/// - the errors of `rusqlite` and `postgres` and [`fmt::Error`], as 500;
/// - an error of your own that says what it becomes.
///
/// ```
/// use wharf::handler::{Context, Error};
/// use wharf::http::{Request, Response, StatusCode};
///
/// enum ShopError {
///     SoldOut,
///     NoSuchItem(String),
/// }
///
/// impl From<ShopError> for Error {
///     fn from(error: ShopError) -> Self {
///         match error {
///             ShopError::SoldOut => Self::new(StatusCode::CONFLICT, "the item is sold out"),
///             ShopError::NoSuchItem(name) => {
///                 Self::new(StatusCode::NOT_FOUND, format!("there is no item {name}"))
///             }
///         }
///     }
/// }
///
/// fn price_of(item: &str) -> Result<u32, ShopError> {
///     match item {
///         "tea" => Ok(4),
///         "coffee" => Err(ShopError::SoldOut),
///         other => Err(ShopError::NoSuchItem(other.to_owned())),
///     }
/// }
///
/// fn price(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
///     let price = price_of(request.path_value("item").unwrap_or_default())?;
///     Ok(Response::json(price.to_string()))
/// }
/// ```
///
/// With every other error the code does not compile, so that nothing becomes a 500 unnoticed. Where 500 is right, say
/// so: `.map_err(Error::internal)?`.
///
/// `Debug` and `Display` are for logs. They show no value from [`bad_parameter`](Self::bad_parameter) and no value in a
/// database's message.
pub struct Error {
    status: StatusCode,
    detail: String,
    /// The detail without the client's values, where it has any.
    without_values: Option<String>,
    /// The place of the error, for the log.
    place: Option<String>,
    members: Vec<(&'static str, String)>,
    retry_after: Option<Duration>,
    cause: Option<Foreign<Box<dyn std::error::Error + Send + Sync>>>,
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

    /// 500 for a fault that is the server's. The cause goes to the log only.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, FAILED).because(cause)
    }

    /// 400: a parameter is missing or has a wrong value.
    pub fn bad_parameter(name: &str, expected: &str, received: &str) -> Self {
        let secret = Self::bad_secret(name, expected);
        let detail = format!("{}, received {received}", secret.detail);
        let without_values = Some(secret.detail);
        Self { detail, without_values, ..secret }.with_member("received", received)
    }

    /// As [`bad_parameter`](Self::bad_parameter), for a parameter whose value is shown to nobody, not even to the
    /// client that sent it.
    pub fn bad_secret(name: &str, expected: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("parameter {name}: expected {expected}"))
            .with_member("parameter", name)
            .with_member("expected", expected)
    }

    /// Adds the cause, for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(Foreign::new(cause.into()));
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

    /// The only place that turns a database's error into an answer.
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

    /// Whether wharf made this error from a database's error that means "nothing was done, try again". An error that a
    /// handler makes itself means what the handler wants.
    pub(crate) fn is_not_done(&self) -> bool {
        self.is_not_done
    }

    /// The same fault, for a request that may have committed something before.
    pub(crate) fn into_outcome_unknown(self) -> Self {
        let unknown = Self { place: self.place, ..outcome_unknown() };
        match self.cause {
            Some(cause) => unknown.because(format!("after part of it may have been committed: {}", *cause)),
            None => unknown,
        }
    }

    /// Adds the parts of a business rule's error besides its message, under PostgREST's names.
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

    /// Hides every value from clients and logs. The request has a secret, and the database's message may name it.
    #[must_use]
    pub(crate) fn hiding_values(mut self) -> Self {
        if let Some(detail) = &self.without_values {
            self.detail.clone_from(detail);
        }
        // A version of the cause without values replaces it.
        self.cause = self.cause.map(|cause| match cause.into_inner().downcast::<database::Error>() {
            Ok(error) => Foreign::new(Box::new(Hidden(*error)) as _),
            Err(other) => Foreign::new(other),
        });
        self
    }

    /// Adds the place of the error, for the log.
    #[must_use]
    pub(crate) fn at(mut self, place: String) -> Self {
        self.place = Some(place);
        self
    }

    /// Whether the database's user lacks a privilege. A refusal by a function does not count.
    pub(crate) fn lacks_privilege(&self) -> bool {
        let Some(cause) = self.cause() else { return false };
        let error = cause.downcast_ref().or_else(|| cause.downcast_ref().map(|Hidden(error)| error));
        error.is_some_and(database::Error::lacks_privilege)
    }

    /// The text for the log. `shows_values` is `log.parameters`.
    pub(crate) fn log_text(&self, shows_values: bool) -> String {
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
    pub fn cause(&self) -> Option<&(dyn std::error::Error + Send + Sync + 'static)> {
        self.cause.as_ref().map(|cause| &***cause)
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
        f.write_str(&self.log_text(false))
    }
}

/// As `Debug`: without the client's values.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.log_text(false))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause().map(|cause| cause as _)
    }
}

/// A database's error whose values are never shown, even where logs show others.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Hidden(database::Error);

impl From<database::Error> for Error {
    fn from(error: database::Error) -> Self {
        Self::from_database(error)
    }
}

impl From<StepError> for Error {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Database { error, .. } => Self::from_database(error),
            unexpected => Self::internal(unexpected),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match body_refusal(&error) {
            Some(refusal) => Self::new(refusal.status, refusal.detail).because(error),
            None => Self::internal(error),
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::internal(error)
    }
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        Self::internal(error)
    }
}

impl From<fmt::Error> for Error {
    fn from(error: fmt::Error) -> Self {
        Self::internal(error)
    }
}

/// The answer about the client's own body, from the error of reading it.
fn body_refusal(error: &io::Error) -> Option<Refusal> {
    error.get_ref()?.downcast_ref::<Refusal>().copied()
}
