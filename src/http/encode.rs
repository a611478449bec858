//! A response's head as bytes (RFC 9112 section 4), and the `Date` that goes into it.
//!
//! Any thread. The body follows as it is and is not copied here.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{StatusCode, Version};

use super::{Request, Response};

/// The interim answer to `Expect: 100-continue` (RFC 9110 section 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Whether responses of this status have neither a body nor a length (RFC 9110 section 6.4.1).
fn has_no_content(status: StatusCode) -> bool {
    status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// Appends the head of `response` to `out`. Returns whether the body is to follow: not for `HEAD`, 204 and 304.
///
/// `request` is what is answered; `None` when it could not be read. `keep_alive` is the connector's decision.
pub fn encode_head(
    response: &Response,
    request: Option<&Request>,
    keep_alive: bool,
    out: &mut Vec<u8>,
) -> bool {
    let status = response.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    if let Some(content_type) = response.content_type() {
        line(out, b"content-type", content_type.as_bytes());
    }
    let no_content = has_no_content(status);
    if !no_content {
        line(out, b"content-length", itoa::Buffer::new().format(response.body().len()).as_bytes());
    }
    for (name, value) in response.headers() {
        if ![CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, DATE].contains(name) {
            line(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    if !keep_alive {
        line(out, b"connection", b"close");
    } else if request.is_some_and(|request| request.version == Version::HTTP_10) {
        line(out, b"connection", b"keep-alive");
    }
    out.extend_from_slice(b"\r\ndate: ");
    out.extend_from_slice(&date());
    out.extend_from_slice(b"\r\n\r\n");
    !no_content && request.is_none_or(|request| request.method != http::Method::HEAD)
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

/// An IMF-fixdate is 29 bytes for every year that a clock shows.
const DATE_LEN: usize = 29;

/// Now, formatted once a second and thread.
fn date() -> [u8; DATE_LEN] {
    thread_local! {
        static CACHED: Cell<(u64, [u8; DATE_LEN])> = const { Cell::new((0, [b' '; DATE_LEN])) };
    }
    let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
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
    use super::*;

    fn head(response: &Response, keep_alive: bool) -> (String, bool) {
        let mut out = Vec::new();
        let body = encode_head(response, None, keep_alive, &mut out);
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
    fn framing_is_not_the_handlers_to_set() {
        let response = Response::text("hi").with_header(CONTENT_LENGTH, 99.into());
        assert_eq!(head(&response, true).0.matches("content-length").count(), 1);
    }
}
