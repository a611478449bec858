//! Encodes the head of an answer as bytes (RFC 9112 section 4), with its `Date`.
//!
//! Any thread. The body follows the head and is not copied here.

use std::cell::Cell;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, StatusCode};

use super::{Response, Timing};
use crate::base::request_id::RequestId;
use crate::base::system;

/// The interim answer to `Expect: 100-continue` (RFC 9110 section 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The properties of a request that decide the form of its answer.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// The request was `HEAD`: the answer states the length of its body but has none.
    pub head_only: bool,
    /// An HTTP/1.0 client must be told when the connection stays open.
    pub http_10: bool,
    /// Whether the connection stays open after the answer.
    pub keep_alive: bool,
}

impl Form {
    /// The form of an answer to a request that could not be read.
    pub const CLOSE: Self = Self { head_only: false, http_10: false, keep_alive: false };

    /// The form for this response. An HTTP/1.0 client does not know chunks, so the end of the connection ends a stream.
    #[must_use]
    pub fn of(self, response: &Response) -> Self {
        let endless = response.length().is_none() && self.http_10 && !self.head_only;
        Self { keep_alive: self.keep_alive && !endless, ..self }
    }

    /// How many bytes of the body are sent, as far as that is known before.
    pub fn body_length(self, response: &Response) -> u64 {
        if self.has_body(response) { response.length().unwrap_or(0) } else { 0 }
    }

    /// Whether the body is sent. It is not for `HEAD`, 204 and 304.
    pub fn has_body(self, response: &Response) -> bool {
        !self.head_only && !has_no_content(response.status())
    }
}

/// Headers that say where a message ends and whether the connection stays open. Only the server writes them (RFC 9110
/// section 7.6.1).
const OURS: [HeaderName; 7] = [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, DATE, TE, TRAILER, UPGRADE];
const KEEP_ALIVE: &str = "keep-alive";
const PROXY_CONNECTION: &str = "proxy-connection";

/// Whether responses with this status have neither a body nor a length (RFC 9110 section 6.4.1).
fn has_no_content(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// Whether the server itself writes this header in answers, so that its name can serve for nothing else.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    let others = [KEEP_ALIVE, PROXY_CONNECTION, Timing::HEADER, CONTENT_TYPE.as_str()];
    OURS.contains(name) || others.contains(&name.as_str())
}

/// Appends the head of `response` to `out`, with the id of its request if clients see ids. Returns whether the body
/// follows; see [`Form::has_body`].
pub fn encode_head(
    response: &Response,
    form: Form,
    request_id: Option<&RequestId>,
    out: &mut Vec<u8>,
) -> bool {
    let id = request_id.and_then(|request_id| Some((request_id.header()?, request_id.id_bytes())));
    let status = response.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    if let Some(content_type) = response.content_type() {
        line(out, b"content-type", content_type.as_bytes());
    }
    match response.length() {
        _ if has_no_content(status) => {}
        Some(length) => line(out, b"content-length", itoa::Buffer::new().format(length).as_bytes()),
        None if form.http_10 => {}
        None => line(out, b"transfer-encoding", b"chunked"),
    }
    for (name, value) in response.headers() {
        let is_id = id.is_some_and(|(header, _)| header == name);
        if !OURS.contains(name) && ![KEEP_ALIVE, PROXY_CONNECTION].contains(&name.as_str()) && !is_id {
            line(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    if let Some((header, id)) = id {
        line(out, header.as_str().as_bytes(), id);
    }
    if let Some(timing) = &response.timing {
        line(out, Timing::HEADER.as_bytes(), b"");
        timing.write(out);
    }
    if !form.keep_alive {
        line(out, b"connection", b"close");
    } else if form.http_10 {
        line(out, b"connection", b"keep-alive");
    }
    out.extend_from_slice(b"\r\ndate: ");
    out.extend_from_slice(&date());
    out.extend_from_slice(b"\r\n\r\n");
    form.has_body(response)
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

/// An IMF-fixdate has 29 bytes for every year that a clock can show.
const DATE_LEN: usize = 29;

/// The current date, formatted once a second by each thread. It may be some milliseconds late, because the coarse clock
/// is the cheapest to read.
fn date() -> [u8; DATE_LEN] {
    thread_local! {
        static CACHED: Cell<(u64, [u8; DATE_LEN])> = const { Cell::new((0, [b' '; DATE_LEN])) };
    }
    let second = system::coarse_seconds();
    CACHED.with(|cached| {
        let (known, mut text) = cached.get();
        if known != second {
            let formatted = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            text.copy_from_slice(formatted.as_bytes());
            cached.set((second, text));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn head(response: &Response, keep_alive: bool) -> (String, bool) {
        let mut out = Vec::new();
        let body = encode_head(response, Form { keep_alive, ..Form::CLOSE }, None, &mut out);
        (String::from_utf8(out).expect("ASCII"), body)
    }

    #[test]
    fn a_head_has_length_type_and_date() {
        let (text, body) = head(&Response::json("{}"), true);
        assert!(
            text.starts_with("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n")
        );
        assert!(text.ends_with(" GMT\r\n\r\n"));
        assert!(body && !text.contains("connection"));
        assert!(head(&Response::json("{}"), false).0.contains("\r\nconnection: close\r\n"));
    }

    #[test]
    fn no_content_has_no_length() {
        let (text, body) = head(&Response::empty(StatusCode::NO_CONTENT), true);
        assert!(!body && !text.contains("content-length"));
    }

    #[test]
    fn handlers_cannot_set_framing_headers() {
        let mut response = Response::text("hi").with_header(CONTENT_LENGTH, 99.into());
        for name in ["transfer-encoding", "connection", "keep-alive", "upgrade", "trailer"] {
            response = response.with_header(HeaderName::from_static(name), HeaderValue::from_static("close"));
        }
        let (text, _) = head(&response, true);
        assert_eq!(text.matches("content-length").count(), 1);
        assert!(!text.contains("close"), "{text}");
    }

    #[test]
    fn a_stream_is_chunked_or_ends_with_its_connection() {
        let stream = Response::stream("text/plain", |_| Ok(()));
        let (text, body) = head(&stream, true);
        assert!(body && text.contains("\r\ntransfer-encoding: chunked\r\n") && !text.contains("length"));
        let old = Form { http_10: true, keep_alive: true, ..Form::CLOSE }.of(&stream);
        let mut out = Vec::new();
        encode_head(&stream, old, None, &mut out);
        let text = String::from_utf8(out).expect("ASCII");
        assert!(text.contains("\r\nconnection: close\r\n") && !text.contains("chunked"), "{text}");
    }
}
