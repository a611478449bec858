//! A response: status, headers, body. Made by handlers, encoded by connectors.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// What a handler answers. `Content-Length`, `Date` and `Connection` are the server's to write.
#[derive(Clone, Debug)]
pub struct Response {
    status: StatusCode,
    /// Beside the map, because nearly every response has just this one header and a map would be allocated for it.
    content_type: Option<HeaderValue>,
    headers: HeaderMap,
    body: Bytes,
}

impl Response {
    /// A response without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, content_type: None, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// A response with a body of the given media type.
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            content_type: Some(HeaderValue::from_static(content_type)),
            body: body.into(),
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

    /// Adds a header. `Content-Type` replaces the one the response has; the three that are the server's are dropped
    /// when the response is encoded. A [`HeaderValue`] cannot hold a line break, so no response can be split.
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
        self.body = body.into();
        self
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

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Takes the response apart for sending: what is left is its body.
    pub fn into_body(self) -> Bytes {
        self.body
    }
}
