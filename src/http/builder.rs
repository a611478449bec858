//! A request that is made in the program itself, for tests of handlers.
//!
//! Any thread. The parser of clients' requests reads these requests too.

use bytes::Bytes;
use http::Method;

use super::parse::{parse_head, scan_head};
use super::refusal::bad;
use super::request::PathValue;
use super::{Limits, Refusal, Request, Scan};

/// A request in the making; see [`Request::builder`].
///
/// `Content-Length` is its own to write, and `Host: localhost` unless told otherwise.
#[derive(Clone, Debug)]
#[must_use]
pub struct RequestBuilder {
    method: Method,
    target: String,
    /// Name, colon and value of each header, each ended.
    lines: Vec<u8>,
    count: usize,
    has_host: bool,
    path_values: Vec<(Box<str>, String)>,
    body: Bytes,
}

impl Request {
    /// A request that no client has sent, for tests of handlers: `GET /` unless told otherwise.
    ///
    /// ```
    /// use wharf::http::{Method, Request};
    ///
    /// let request = Request::builder().method(Method::PUT).target("/greet/Ada?loud=yes").path_value("name", "Ada").build()?;
    /// assert_eq!(request.path_value("name"), Some("Ada"));
    /// assert_eq!(request.query_value("loud").as_deref(), Some("yes"));
    /// # Ok::<(), wharf::http::Refusal>(())
    /// ```
    pub fn builder() -> RequestBuilder {
        RequestBuilder::new()
    }
}

/// Longer than any request that a test makes by mistake.
const HEAD_BYTES_MAX: usize = 1 << 20;

impl RequestBuilder {
    pub(super) fn new() -> Self {
        Self {
            method: Method::GET,
            target: "/".to_owned(),
            lines: Vec::new(),
            count: 0,
            has_host: false,
            path_values: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// The method. `GET`, unless told.
    pub fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// Path and query, percent-encoded as clients send them. `/`, unless told.
    pub fn target(self, target: impl Into<String>) -> Self {
        Self { target: target.into(), ..self }
    }

    /// Adds a header. It goes to the parser as it is.
    pub fn header(mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref();
        if !["content-length", "transfer-encoding"].iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
            self.has_host |= name.eq_ignore_ascii_case("host");
            self.lines.extend([name.as_bytes(), b": ", value.as_ref(), b"\r\n"].concat());
            self.count += 1;
        }
        self
    }

    /// The text that stands for `{name}` of the route, percent-encoded, for a handler that is called without a server. A
    /// server's router finds these values by itself.
    pub fn path_value(mut self, name: &str, value: impl Into<String>) -> Self {
        self.path_values.push((name.into(), value.into()));
        self
    }

    /// The body, which has no media type unless a header says one.
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The request, for a handler that is called without a server.
    ///
    /// # Errors
    /// Why a server would refuse it, such as a header with a line break.
    pub fn build(self) -> Result<Request, Refusal> {
        let limits = Limits {
            max_head_bytes: HEAD_BYTES_MAX,
            max_target_bytes: HEAD_BYTES_MAX,
            max_headers: self.count + 2,
        };
        self.read(&limits)
    }

    /// The request as a server with these limits reads it.
    pub(crate) fn read(self, limits: &Limits) -> Result<Request, Refusal> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        if !self.has_host {
            head.extend_from_slice(b"Host: localhost\r\n");
        }
        head.extend_from_slice(&self.lines);
        if !self.body.is_empty() {
            head.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        match scan_head(&head, 0, limits)? {
            Scan::Complete(end) if end == head.len() => {}
            Scan::Complete(_) | Scan::Incomplete => return Err(bad("the head ends within a header")),
        }
        let mut request = parse_head(&head, limits)?.request;
        request.body = self.body;
        if !self.path_values.is_empty() {
            request.path_values =
                self.path_values.iter().map(|(_, value)| PathValue::escaped(value)).collect();
            request.path_names = Some(self.path_values.into_iter().map(|(name, _)| name).collect());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_request_says_what_it_was_given() {
        let request = Request::builder()
            .method(Method::POST)
            .target("/a/7?x=1%202")
            .header("X-Test", "yes")
            .header("Content-Length", "99")
            .path_value("id", "7")
            .path_value("name", "Ada%20L")
            .body("hello")
            .build()
            .expect("a request");
        assert_eq!((request.method(), request.path(), request.query()), (&Method::POST, "/a/7", "x=1%202"));
        assert_eq!(request.query_value("x").as_deref(), Some("1 2"));
        assert_eq!((request.path_value("id"), request.path_value("name")), (Some("7"), Some("Ada L")));
        assert_eq!(request.header("x-test"), Some(b"yes".as_slice()));
        assert_eq!(request.header("content-length"), Some(b"5".as_slice()));
        assert_eq!(request.body().as_ref(), b"hello");
    }

    #[test]
    fn what_no_client_may_send_is_refused() {
        let status = |builder: RequestBuilder| builder.build().expect_err("no request").status.as_u16();
        assert_eq!(status(Request::builder().header("X-A", "1\r\n\r\nGET / HTTP/1.1")), 400);
        assert_eq!(status(Request::builder().target("/a b")), 400);
        assert_eq!(status(Request::builder().header("Host", "a").header("Host", "b")), 400);
    }
}
