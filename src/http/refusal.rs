//! The limits of a request, and the refusal of a request that cannot be read on. Error → status for everything that is read.

use http::StatusCode;

/// How much of a head is accepted.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Request line and headers together, in bytes (431, or 414 while still in the request line).
    pub max_head_bytes: usize,
    /// The request target, in bytes (414).
    pub max_target_bytes: usize,
    /// Header lines (431).
    pub max_headers: usize,
}

/// Why a request cannot be read on. The connection is closed after the answer, because where the next request would
/// begin is not known any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {detail}")]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's `detail`.
    pub detail: &'static str,
    /// What to count it as.
    pub fault: Fault,
}

/// What is wrong with a request that cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no HTTP, or none that is spoken here.
    Malformed,
    /// More than [`Limits::max_head_bytes`].
    HeadBytes,
    /// More than [`Limits::max_headers`].
    HeaderCount,
    /// More than [`Limits::max_target_bytes`].
    TargetBytes,
    /// A longer body than its endpoint takes.
    BodyBytes,
    /// It did not come in time.
    BodyTimeout,
    /// It came too slowly.
    BodyRate,
}

impl Refusal {
    /// 413.
    pub(crate) const BODY_TOO_LARGE: Self =
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than http.max_body_bytes");

    /// 400, for a client that has closed only the side it sends on; from others nothing is read any more.
    pub(crate) const BODY_INCOMPLETE: Self =
        Self::new(StatusCode::BAD_REQUEST, "the client has left before its body was complete");

    /// A refusal whose status says what it is to be counted as.
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
