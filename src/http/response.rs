//! A response: status, headers, body. Made by handlers, encoded by connectors.

use std::fmt;
use std::fs;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{BodyWriter, Feed, Timing};
use crate::base::guard::Foreign;

/// The answer of a handler. The server itself writes `Content-Length`, `Transfer-Encoding`, `Date` and `Connection`.
pub struct Response {
    status: StatusCode,
    /// Kept outside of the map: nearly every response has only this header, and a map would need an allocation.
    content_type: Option<HeaderValue>,
    headers: HeaderMap,
    pub(crate) body: Body,
    /// The content of `Server-Timing`.
    pub(crate) timing: Option<Timing>,
    /// The body is a problem without the id of its request.
    is_unnamed_problem: bool,
}

/// What a body is, such as `text/html; charset=utf-8`.
///
/// A text of the program is one by itself. A text that is only known later, such as one from a database, is checked as a
/// [`HeaderValue`] first: `HeaderValue::try_from(text)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaType(HeaderValue);

impl From<&'static str> for MediaType {
    /// # Panics
    /// When the text has other than visible ASCII characters and spaces.
    fn from(text: &'static str) -> Self {
        Self(HeaderValue::from_static(text))
    }
}

impl From<HeaderValue> for MediaType {
    fn from(value: HeaderValue) -> Self {
        Self(value)
    }
}

/// The part after the head.
pub(crate) enum Body {
    Bytes(Bytes),
    File(FileBody),
    Stream(Foreign<WriteBody>),
    Feed(Arc<dyn Feed>),
}

/// Writes a streamed body piece by piece. An error ends the connection, so that the client sees that the body is
/// incomplete.
pub type WriteBody =
    Box<dyn FnOnce(&mut BodyWriter<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send>;

/// A file that is sent as a body from its start, with its length at the time of opening.
#[derive(Debug)]
pub(crate) struct FileBody {
    pub(crate) file: fs::File,
    pub(crate) length: u64,
}

impl Response {
    /// A response without a body.
    pub fn empty(status: StatusCode) -> Self {
        let body = Body::Bytes(Bytes::new());
        let headers = HeaderMap::new();
        Self { status, content_type: None, headers, body, timing: None, is_unnamed_problem: false }
    }

    /// A response with a body of the given media type.
    pub fn new(status: StatusCode, content_type: impl Into<MediaType>, body: impl Into<Bytes>) -> Self {
        Self {
            content_type: Some(content_type.into().0),
            body: Body::Bytes(body.into()),
            ..Self::empty(status)
        }
    }

    /// 200 with `application/json`; the body must be JSON already.
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, "application/json", body)
    }

    /// 200 with `text/plain; charset=utf-8`.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, "text/plain; charset=utf-8", body)
    }

    /// 200 with the whole of a file, however large. The file is read as fast as the client takes it, and holds no
    /// worker meanwhile.
    ///
    /// # Errors
    /// The system does not tell the file's length.
    pub fn file(content_type: impl Into<MediaType>, file: fs::File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let body = Body::File(FileBody { file, length });
        Ok(Self { body, ..Self::new(StatusCode::OK, content_type, Bytes::new()) })
    }

    /// 200 with the output of `write`, sent while it is written. If the client reads slowly, `write` waits once
    /// `http.response_buffer_bytes` are on their way, up to the request's deadline. The worker is busy until `write`
    /// returns.
    pub fn stream(
        content_type: impl Into<MediaType>,
        write: impl FnOnce(&mut BodyWriter<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
        + Send
        + 'static,
    ) -> Self {
        let body = Body::Stream(Foreign::new(Box::new(write)));
        Self { body, ..Self::new(StatusCode::OK, content_type, Bytes::new()) }
    }

    /// 200 with the pieces of a feed, for as long as the client stays. Only a poller can send it, and only in plain
    /// HTTP.
    pub(crate) fn feed(content_type: &'static str, feed: Arc<dyn Feed>) -> Self {
        Self { body: Body::Feed(feed), ..Self::new(StatusCode::OK, content_type, Bytes::new()) }
    }

    /// Adds a header. `Content-Type` replaces the response's own. Headers that only the server writes are dropped when
    /// the response is encoded. A [`HeaderValue`] cannot hold a line break, so no response can be split.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if name == http::header::CONTENT_TYPE {
            self.content_type = Some(value);
        } else {
            self.headers.append(name, value);
        }
        self
    }

    /// Changes the body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Body::Bytes(body.into());
        self.is_unnamed_problem = false;
        self
    }

    /// Marks the body as a JSON object to which [`name_request`](Self::name_request) adds a member.
    pub(super) fn unnamed_problem(self) -> Self {
        Self { is_unnamed_problem: true, ..self }
    }

    /// Adds the request's id to a problem, as `request_id`. The sender of an answer calls this before it counts the
    /// answer's bytes.
    pub(crate) fn name_request(&mut self, id: &str) {
        if id.is_empty() || !std::mem::take(&mut self.is_unnamed_problem) {
            return;
        }
        if let Body::Bytes(body) = &self.body
            && let Some(members) = body.strip_suffix(b"}")
        {
            // Every id is without quotes and backslashes (see `identity`).
            self.body = Body::Bytes([members, b",\"request_id\":\"", id.as_bytes(), b"\"}"].concat().into());
        }
    }

    /// Changes the status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The media type of the body.
    pub fn content_type(&self) -> Option<&HeaderValue> {
        self.content_type.as_ref()
    }

    /// The headers other than `Content-Type`.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The body in memory. It is empty for a file or a stream.
    pub fn body(&self) -> &[u8] {
        if let Body::Bytes(bytes) = &self.body { bytes } else { &[] }
    }

    /// The body's length in bytes. `None` if it is not known before the body ends.
    pub fn length(&self) -> Option<u64> {
        match &self.body {
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::File(file) => Some(file.length),
            Body::Stream(_) | Body::Feed(_) => None,
        }
    }

    /// Takes the writer of the body out of a streamed response.
    pub(crate) fn take_stream(&mut self) -> Option<Foreign<WriteBody>> {
        if !matches!(self.body, Body::Stream(_)) {
            return None;
        }
        match std::mem::replace(&mut self.body, Body::Bytes(Bytes::new())) {
            Body::Stream(write) => Some(write),
            Body::Bytes(_) | Body::File(_) | Body::Feed(_) => None,
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("content_type", &self.content_type)
            .field("headers", &self.headers)
            .field("length", &self.length())
            .finish_non_exhaustive()
    }
}
