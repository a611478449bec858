//! The limits of a request, and the refusal of a request that cannot be read on. All errors of reading get their status
//! here.

use http::StatusCode;

/// The limits of a head.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Request line and headers together, in bytes (431, or 414 while still in the request line).
    pub max_head_bytes: usize,
    /// The request target, in bytes (414).
    pub max_target_bytes: usize,
    /// Header lines (431).
    pub max_headers: usize,
}

/// Why a request cannot be read on. The connection is closed after the answer, because the beginning of the next
/// request is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {detail}")]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's `detail`.
    pub detail: &'static str,
    /// The fault that the refusal is counted as.
    pub fault: Fault,
}

/// The fault of a request that cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is not HTTP, or in a form of HTTP that the server does not accept.
    Malformed,
    /// The head is longer than [`Limits::max_head_bytes`].
    HeadBytes,
    /// The head has more lines than [`Limits::max_headers`].
    HeaderCount,
    /// The target is longer than [`Limits::max_target_bytes`].
    TargetBytes,
    /// The body is longer than its endpoint accepts.
    BodyBytes,
    /// The body did not come in time.
    BodyTimeout,
    /// The body came too slowly.
    BodyRate,
}

impl Refusal {
    /// 413.
    pub(crate) const BODY_TOO_LARGE: Self =
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than http.max_body_bytes");

    /// 400, for a client that has closed only its sending side. From a client that has left, nothing is read any more.
    pub(crate) const BODY_INCOMPLETE: Self =
        Self::new(StatusCode::BAD_REQUEST, "the client has left before its body was complete");

    /// A refusal whose status decides what it is counted as.
    pub(crate) const fn new(status: StatusCode, detail: &'static str) -> Self {
        let fault = match status.as_u16() {
            408 => Fault::BodyTimeout,
            413 => Fault::BodyBytes,
            414 => Fault::TargetBytes,
            431 => Fault::HeadBytes,
            _ => Fault::Malformed,
        };
        Self { status, detail, fault }
    }
}

pub(super) const fn refuse(status: StatusCode, detail: &'static str) -> Refusal {
    Refusal::new(status, detail)
}

pub(super) const fn bad(detail: &'static str) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, detail)
}
