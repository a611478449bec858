//! Reads a request's head: its end, its meaning, and the length of the body.
//!
//! Poller thread. `httparse` finds the tokens. This file decides which combinations are allowed.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, Version};

use super::refusal::{Fault, Limits, Refusal, bad, refuse};
use super::request::{Logged, Request};
use super::target::{Path, Target, is_authority};

/// The length of the body (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// `Content-Length`. Without one, the length is 0.
    Known(usize),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A complete head.
#[derive(Debug)]
pub struct Head {
    /// The request, with an empty body.
    pub request: Request,
    /// The length of the body that follows.
    pub body: BodyLength,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// The result of [`scan_head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// The head ends before this offset.
    Complete(usize),
    /// More bytes are needed.
    Incomplete,
}

/// Whether this byte may stand in a token: a method or a field's name (RFC 9110 section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Looks for the empty line that ends a head. It looks only at the bytes from `scanned` on, so a client that sends one
/// byte at a time costs no more than others. Leading empty lines must be gone (RFC 9112 section 2.2).
///
/// # Errors
/// A head longer than the limits, or a bare LF. RFC 9112 lets a lenient reader take a bare LF for a line's end, and
/// proxies disagree on it.
pub fn scan_head(bytes: &[u8], scanned: usize, limits: &Limits) -> Result<Scan, Refusal> {
    if bytes.first().is_some_and(|&first| !is_token(first)) {
        return Err(bad("the request line does not begin with a method"));
    }
    // Bytes beyond the limit are ignored, so it does not matter whether they have come already.
    let within = &bytes[..bytes.len().min(limits.max_head_bytes)];
    for found in memchr::memchr_iter(b'\n', within.get(scanned..).unwrap_or_default()) {
        let at = scanned + found;
        if at == 0 || within[at - 1] != b'\r' {
            return Err(bad("a line ends in LF without CR"));
        }
        if at >= 3 && within[at - 3..at - 1] == *b"\r\n" {
            return Ok(Scan::Complete(at + 1));
        }
    }
    if within.len() == limits.max_head_bytes { Err(too_large(within)) } else { Ok(Scan::Incomplete) }
}

/// The refusal of a head that begins like this and is too large.
fn too_large(start: &[u8]) -> Refusal {
    match memchr::memchr2(b' ', b'\n', start) {
        None => refuse(StatusCode::NOT_IMPLEMENTED, "the method is longer than any that HTTP defines"),
        Some(_) if memchr::memchr(b'\n', start).is_none() => {
            refuse(StatusCode::URI_TOO_LONG, "the request line is longer than http.max_head_bytes")
        }
        Some(_) => {
            refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is longer than http.max_head_bytes")
        }
    }
}

/// Reads a head that [`scan_head`] found to be complete.
///
/// # Errors
/// Everything that RFC 9112 forbids, and everything that leaves the body's length in doubt.
pub fn parse_head(head: &[u8], limits: &Limits) -> Result<Head, Refusal> {
    const INLINE: usize = 32;
    let mut few = [httparse::EMPTY_HEADER; INLINE];
    let mut many = Vec::new();
    let parsed = match parse_with(head, &mut few[..INLINE.min(limits.max_headers)], limits) {
        Err(refusal) if refusal.status == TOO_MANY.status && limits.max_headers > INLINE => {
            many.resize(limits.max_headers, httparse::EMPTY_HEADER);
            parse_with(head, &mut many, limits)
        }
        parsed => parsed,
    };
    match parsed {
        Err(refusal) if refusal.status == OTHER_VERSION.status => match later_minor(head) {
            Some(minor) => parse_head(&[&head[..minor], b"1", &head[minor + 1..]].concat(), limits),
            None => Err(refusal),
        },
        parsed => parsed,
    }
}

const TOO_MANY: Refusal = Refusal {
    status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    detail: "more header lines than http.max_headers",
    fault: Fault::HeaderCount,
};

const OTHER_VERSION: Refusal =
    refuse(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 and HTTP/1.0 are spoken here");

fn parse_with<'a>(
    head: &'a [u8],
    slots: &mut [httparse::Header<'a>],
    limits: &Limits,
) -> Result<Head, Refusal> {
    let mut parsed = httparse::Request::new(slots);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(bad("the head ends before its last header line does")),
        Err(error) => return Err(syntax(error, head)),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(bad("the request line is not complete"));
    };
    let version = if minor == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| bad("the method is not a token"))?;
    let offset = |part: &[u8]| {
        let start = part.as_ptr() as usize - head.as_ptr() as usize;
        start..start + part.len()
    };
    let target = Target::read(&method, target, offset(target.as_bytes()), limits)?;
    let framing = read_framing(parsed.headers, version)?;
    match framing.host {
        None if version == Version::HTTP_11 => return Err(bad("an HTTP/1.1 request has exactly one Host")),
        // An absolute target has its own host, so this one is ignored (RFC 9112 section 3.2.2).
        Some([] | [b':', ..]) if !target.is_absolute => {
            return Err(bad("Host is empty, and the target names no host"));
        }
        _ => {}
    }
    let (bytes, path) = match target.path {
        Path::Written(path) => (Arc::from(head), path),
        Path::Implied(path) => ([head, &[path]].concat().into(), head.len()..head.len() + 1),
    };
    let mut logged = Logged::default();
    let fields = parsed.headers.iter().map(|header| {
        let (name, value) = (header.name.as_bytes(), offset(header.value));
        logged.note(name, &value);
        (offset(name), value)
    });
    let fields = fields.collect();
    let request = Request {
        method,
        version,
        head: bytes,
        path,
        query: target.query,
        fields,
        logged,
        body: Bytes::new(),
        source: None,
        keep_alive: framing.keep_alive,
        peer: None,
        client: None,
        is_encrypted: false,
        client_certificate: None,
        request_id: None,
        path_names: None,
        path_values: Vec::new(),
    };
    Ok(Head { request, body: framing.body, expects_continue: framing.expects_continue })
}

fn syntax(error: httparse::Error, head: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => TOO_MANY,
        httparse::Error::Version if version_at(head).is_some() => OTHER_VERSION,
        httparse::Error::Version => bad("the request line is not method, target and HTTP version"),
        httparse::Error::HeaderName => bad("a header name is not a token directly before its colon"),
        httparse::Error::HeaderValue => bad("a header value has a control character"),
        httparse::Error::NewLine => bad("a line does not end in CRLF"),
        _ => bad("the request line is malformed"),
    }
}

/// The place of the version, if the request line has its three parts.
fn version_at(head: &[u8]) -> Option<usize> {
    let line = head.split(|&b| b == b'\r').next()?;
    let mut parts = line.split(|&b| b == b' ').skip(2);
    let (version, None) = (parts.next()?, parts.next()) else { return None };
    let known = matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']);
    known.then_some(line.len() - version.len())
}

/// The place of the minor version, if it is a later one of HTTP/1. Such a message is read as the highest known minor
/// version (RFC 9110 section 2.5).
fn later_minor(head: &[u8]) -> Option<usize> {
    let at = version_at(head)?;
    matches!(head[at..], [_, _, _, _, _, b'1', _, b'2'..=b'9', ..]).then_some(at + 7)
}

struct Framing<'a> {
    body: BodyLength,
    keep_alive: bool,
    expects_continue: bool,
    host: Option<&'a [u8]>,
}

/// Reads the header lines that say where this request ends and whether the connection stays open.
fn read_framing<'a>(headers: &[httparse::Header<'a>], version: Version) -> Result<Framing<'a>, Refusal> {
    let mut framing = Framing {
        body: BodyLength::Known(0),
        keep_alive: version == Version::HTTP_11,
        expects_continue: false,
        host: None,
    };
    let (mut length, mut coding, mut close) = (None, None, false);
    for header in headers {
        match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("host") => {
                if framing.host.is_some() || !is_authority(header.value) {
                    return Err(bad("Host is not one host with an optional port"));
                }
                framing.host = Some(header.value);
            }
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                if length.is_some() {
                    return Err(bad("more than one Content-Length"));
                }
                length = Some(parse_length(header.value)?);
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                coding = Some(read_codings(header.value, coding)?);
            }
            10 if header.name.eq_ignore_ascii_case("connection") => {
                for token in header.value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                    close |= token.eq_ignore_ascii_case(b"close");
                    framing.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            6 if header.name.eq_ignore_ascii_case("expect") => {
                if !header.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(refuse(
                        StatusCode::EXPECTATION_FAILED,
                        "the only expectation known is 100-continue",
                    ));
                }
                framing.expects_continue = version == Version::HTTP_11;
            }
            _ => {}
        }
    }
    framing.keep_alive &= !close;
    framing.body = match (coding, length) {
        (Some(_), Some(_)) => return Err(bad("Content-Length and Transfer-Encoding together")),
        (Some(_), None) if version == Version::HTTP_10 => {
            return Err(bad("Transfer-Encoding in HTTP/1.0"));
        }
        (Some(coding), None) => coding.body()?,
        (None, length) => BodyLength::Known(length.unwrap_or(0)),
    };
    Ok(framing)
}

/// Reads a `Content-Length`. It may have digits only, so neither `+5` nor `5, 5` (RFC 9110 section 8.6). A length that
/// is too large for a number is too large for every endpoint.
fn parse_length(value: &[u8]) -> Result<usize, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad("Content-Length is not a number"));
    }
    let text = std::str::from_utf8(value).map_err(|_| bad("Content-Length is not a number"))?;
    text.parse().map_err(|_| Refusal::BODY_TOO_LARGE)
}

/// The transfer codings so far, of all `Transfer-Encoding` lines together.
#[derive(Clone, Copy)]
enum Coding {
    /// Only `chunked`, which is the only coding that the server understands.
    Chunked,
    /// Other codings, and then `chunked`.
    OthersAndChunked,
    /// Other codings, and no `chunked` yet.
    Others,
}

fn read_codings(value: &[u8], mut coding: Option<Coding>) -> Result<Coding, Refusal> {
    for name in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
        let is_chunked = name.eq_ignore_ascii_case(b"chunked");
        coding = Some(match coding {
            Some(Coding::Chunked | Coding::OthersAndChunked) => {
                return Err(bad("chunked is not the last transfer coding"));
            }
            None if is_chunked => Coding::Chunked,
            Some(Coding::Others) if is_chunked => Coding::OthersAndChunked,
            _ => Coding::Others,
        });
    }
    Ok(coding.unwrap_or(Coding::Others))
}

impl Coding {
    /// If the body is not chunked in the end, nobody can say where it ends. The status is then 400 and not 501 (RFC
    /// 9112 sections 6.1 and 6.3).
    fn body(self) -> Result<BodyLength, Refusal> {
        match self {
            Self::Chunked => Ok(BodyLength::Chunked),
            Self::OthersAndChunked => {
                Err(refuse(StatusCode::NOT_IMPLEMENTED, "the only transfer coding known is chunked"))
            }
            Self::Others => Err(bad("the last transfer coding is not chunked")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_head_bytes: 1024, max_target_bytes: 100, max_headers: 40 };

    fn parse(head: &str) -> Result<Head, Refusal> {
        match scan_head(head.as_bytes(), 0, &LIMITS)? {
            Scan::Complete(end) => parse_head(&head.as_bytes()[..end], &LIMITS),
            Scan::Incomplete => panic!("incomplete: {head:?}"),
        }
    }

    fn status(head: &str) -> u16 {
        parse(head).expect_err(head).status.as_u16()
    }

    #[test]
    fn a_plain_request_is_read() {
        let head = parse("GET /a%20b?x=1&y HTTP/1.1\r\nHost: h:80\r\nX-A:  v \r\n\r\n").expect("valid");
        assert_eq!(head.request.path(), "/a%20b");
        assert_eq!(head.request.query(), "x=1&y");
        assert_eq!(head.request.header("x-a"), Some(&b"v"[..]));
        assert_eq!(head.body, BodyLength::Known(0));
        assert!(head.request.keep_alive);
    }

    #[test]
    fn absolute_and_asterisk_targets_are_read() {
        let absolute = parse("GET http://h:1/p?q HTTP/1.1\r\nHost: h\r\n\r\n").expect("valid");
        assert_eq!((absolute.request.path(), absolute.request.query()), ("/p", "q"));
        assert_eq!(parse("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").expect("valid").request.path(), "*");
        let bare = parse("GET http://h?q HTTP/1.1\r\nHost: h\r\n\r\n").expect("valid");
        assert_eq!((bare.request.path(), bare.request.query()), ("/", "q"));
        assert_eq!(parse("OPTIONS http://h HTTP/1.1\r\nHost:\r\n\r\n").expect("valid").request.path(), "*");
    }

    #[test]
    fn a_later_minor_version_is_read_as_the_highest_known() {
        let later = parse("GET /a HTTP/1.2\r\nHost: h\r\n\r\n").expect("valid");
        assert_eq!((later.request.version(), later.request.path()), (Version::HTTP_11, "/a"));
    }

    #[test]
    fn connections_close_or_stay_open_as_the_version_says() {
        let keep = |head: &str| parse(head).expect("valid").request.keep_alive;
        assert!(!keep("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n"));
        assert!(!keep("GET / HTTP/1.0\r\n\r\n"));
        assert!(keep("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!keep("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"));
    }

    #[test]
    fn requests_that_proxies_could_read_differently_are_refused() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
            ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
                501,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", 417),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTQ/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("\u{16}\u{3}\u{1}", 400),
        ] {
            assert_eq!(status(head), expected, "{head:?}");
        }
    }

    #[test]
    fn each_limit_has_its_own_status() {
        let long = "a".repeat(2000);
        assert_eq!(status(&format!("GET /{long}")), 414);
        assert_eq!(status(&long), 501);
        assert_eq!(status(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(100))), 414);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nX: {long}")), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(40))), 431);
        assert!(parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(39))).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Ok(Scan::Complete(end)) = scan_head(&bytes, 0, &LIMITS) {
                let _ = parse_head(&bytes[..end], &LIMITS);
            }
        }

        #[test]
        fn the_split_of_the_bytes_does_not_matter(split in 0_usize..48) {
            let head = b"GET /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
            let end = head.len() - 3;
            proptest::prop_assert_eq!(scan_head(&head[..split], 0, &LIMITS), Ok(Scan::Incomplete));
            proptest::prop_assert_eq!(scan_head(head, split, &LIMITS), Ok(Scan::Complete(end)));
        }
    }
}
