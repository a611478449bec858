//! A request's head: where it ends, what it says, how long its body is.
//!
//! Poller thread. `httparse` finds the tokens; what they may mean together is decided here.

use std::ops::Range;

use bytes::Bytes;
use http::{Method, StatusCode, Version};

use super::Request;

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

/// How long the body is (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// `Content-Length`, or none: 0.
    Known(usize),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A head that was read whole.
#[derive(Debug)]
pub struct Head {
    /// The request, its body still empty.
    pub request: Request,
    /// What follows it.
    pub body: BodyLength,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// What [`scan_head`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// The head ends before this offset.
    Complete(usize),
    /// More bytes are needed.
    Incomplete,
}

const fn refuse(status: StatusCode, detail: &'static str) -> Refusal {
    Refusal::new(status, detail)
}

const fn bad(detail: &'static str) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, detail)
}

/// Looks for the empty line that ends a head, in the bytes from `scanned` on only, so that a client which sends a byte at
/// a time costs no more than one that sends them together. Leading empty lines must be gone (RFC 9112 section 2.2).
///
/// # Errors
/// A bare LF, which RFC 9112 lets a lenient reader take for a line's end and which proxies disagree on, and a head
/// longer than the limits.
pub fn scan_head(bytes: &[u8], scanned: usize, limits: &Limits) -> Result<Scan, Refusal> {
    if bytes
        .first()
        .is_some_and(|first| !first.is_ascii_alphanumeric() && !b"!#$%&'*+-.^_`|~".contains(first))
    {
        return Err(bad("the request line does not begin with a method"));
    }
    for found in memchr::memchr_iter(b'\n', &bytes[scanned..]) {
        let at = scanned + found;
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(bad("a line ends in LF without CR"));
        }
        if at >= 3 && bytes[at - 3..at - 1] == *b"\r\n" {
            return if at < limits.max_head_bytes {
                Ok(Scan::Complete(at + 1))
            } else {
                Err(too_large(bytes, limits))
            };
        }
    }
    if bytes.len() >= limits.max_head_bytes { Err(too_large(bytes, limits)) } else { Ok(Scan::Incomplete) }
}

fn too_large(bytes: &[u8], limits: &Limits) -> Refusal {
    let line = memchr::memchr(b'\n', bytes);
    if line.is_none_or(|end| end >= limits.max_head_bytes) {
        return refuse(StatusCode::URI_TOO_LONG, "the request line is longer than http.max_head_bytes");
    }
    refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is longer than http.max_head_bytes")
}

/// Reads a head that [`scan_head`] found to be complete.
///
/// # Errors
/// Everything that RFC 9112 forbids or that leaves the body's length in doubt.
pub fn parse_head(head: &[u8], limits: &Limits) -> Result<Head, Refusal> {
    const INLINE: usize = 32;
    let mut few = [httparse::EMPTY_HEADER; INLINE];
    let mut many = Vec::new();
    match parse_with(head, &mut few[..INLINE.min(limits.max_headers)], limits) {
        Err(refusal) if refusal.status == TOO_MANY.status && limits.max_headers > INLINE => {
            many.resize(limits.max_headers, httparse::EMPTY_HEADER);
            parse_with(head, &mut many, limits)
        }
        parsed => parsed,
    }
}

const TOO_MANY: Refusal = Refusal {
    status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    detail: "more header lines than http.max_headers",
    fault: Fault::HeaderCount,
};

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
    let target = parse_target(&method, target, offset(target.as_bytes()), limits)?;
    let framing = read_framing(parsed.headers, version)?;
    if version == Version::HTTP_11 && framing.hosts != 1 {
        return Err(bad("an HTTP/1.1 request has exactly one Host"));
    }
    let fields = parsed.headers.iter().map(|h| (offset(h.name.as_bytes()), offset(h.value))).collect();
    let request = Request {
        method,
        version,
        head: Bytes::copy_from_slice(head),
        path: target.0,
        query: target.1,
        fields,
        body: Bytes::new(),
        source: None,
        keep_alive: framing.keep_alive,
        peer: None,
        client: None,
        client_certificate: None,
        path_names: None,
        path_values: Vec::new(),
    };
    Ok(Head { request, body: framing.body, expects_continue: framing.expects_continue })
}

fn syntax(error: httparse::Error, head: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => TOO_MANY,
        httparse::Error::Version => {
            let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
            let version = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
            match version {
                [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                    if major.is_ascii_digit() && minor.is_ascii_digit() =>
                {
                    refuse(
                        StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                        "only HTTP/1.1 and HTTP/1.0 are spoken here",
                    )
                }
                _ => bad("the request line does not end in an HTTP version"),
            }
        }
        httparse::Error::HeaderName => bad("a header name is not a token directly before its colon"),
        httparse::Error::HeaderValue => bad("a header value has a control character"),
        httparse::Error::NewLine => bad("a line does not end in CRLF"),
        _ => bad("the request line is malformed"),
    }
}

/// The path and the query of the target in its four forms (RFC 9112 section 3.2), as ranges of the head.
fn parse_target(
    method: &Method,
    target: &str,
    at: Range<usize>,
    limits: &Limits,
) -> Result<(Range<usize>, Option<Range<usize>>), Refusal> {
    if target.len() > limits.max_target_bytes {
        return Err(refuse(StatusCode::URI_TOO_LONG, "the target is longer than http.max_target_bytes"));
    }
    if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(bad("the target has a fragment or a byte that a URI cannot have"));
    }
    let skipped = match target.as_bytes() {
        [b'/', ..] => 0,
        b"*" if method == Method::OPTIONS => 0,
        _ if method == Method::CONNECT => {
            return Err(refuse(StatusCode::NOT_IMPLEMENTED, "CONNECT is for proxies"));
        }
        _ => authority_len(target).ok_or_else(|| bad("the target is neither a path nor an http URI"))?,
    };
    if skipped == target.len() {
        return Err(bad("an absolute target needs a path"));
    }
    let (start, end) = (at.start + skipped, at.end);
    Ok(match target[skipped..].find('?') {
        Some(mark) => (start..start + mark, Some(start + mark + 1..end)),
        None => (start..end, None),
    })
}

/// The bytes of `http://authority` in an absolute-form target.
fn authority_len(target: &str) -> Option<usize> {
    let scheme = if target.get(..7)?.eq_ignore_ascii_case("http://") {
        7
    } else if target.get(..8)?.eq_ignore_ascii_case("https://") {
        8
    } else {
        return None;
    };
    let authority = target[scheme..].find('/').unwrap_or(target.len() - scheme);
    is_authority(&target.as_bytes()[scheme..scheme + authority]).then_some(scheme + authority)
}

/// Whether these could be `host[:port]`: no user, no path, no second host.
fn is_authority(host: &[u8]) -> bool {
    host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(b))
}

struct Framing {
    body: BodyLength,
    keep_alive: bool,
    expects_continue: bool,
    hosts: usize,
}

/// The header lines that say where this request ends and what becomes of the connection.
fn read_framing(headers: &[httparse::Header<'_>], version: Version) -> Result<Framing, Refusal> {
    let mut framing = Framing {
        body: BodyLength::Known(0),
        keep_alive: version == Version::HTTP_11,
        expects_continue: false,
        hosts: 0,
    };
    let (mut length, mut chunked, mut close) = (None, false, false);
    for header in headers {
        match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("host") => {
                framing.hosts += 1;
                if framing.hosts > 1 || !is_authority(header.value) {
                    return Err(bad("Host is not one host with an optional port"));
                }
            }
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                if length.is_some() {
                    return Err(bad("more than one Content-Length"));
                }
                length = Some(parse_length(header.value)?);
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked {
                    return Err(bad("more than one Transfer-Encoding"));
                }
                check_coding(header.value)?;
                chunked = true;
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
    framing.body = match (chunked, length) {
        (true, Some(_)) => return Err(bad("Content-Length and Transfer-Encoding together")),
        (true, None) if version == Version::HTTP_10 => return Err(bad("Transfer-Encoding in HTTP/1.0")),
        (true, None) => BodyLength::Chunked,
        (false, length) => BodyLength::Known(length.unwrap_or(0)),
    };
    Ok(framing)
}

/// A `Content-Length`: digits and nothing else, so neither `+5` nor `5, 5` (RFC 9110 section 8.6). One that no number
/// holds is too large for every endpoint.
fn parse_length(value: &[u8]) -> Result<usize, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad("Content-Length is not a number"));
    }
    let text = std::str::from_utf8(value).map_err(|_| bad("Content-Length is not a number"))?;
    text.parse().map_err(|_| Refusal::BODY_TOO_LARGE)
}

/// Only `chunked`, alone, is understood (RFC 9112 section 6.1).
fn check_coding(value: &[u8]) -> Result<(), Refusal> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.rsplit(|&b| b == b',').map(<[u8]>::trim_ascii);
    codings.next();
    if codings.any(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
        return Err(bad("chunked is not the last transfer coding, or not the only one of its kind"));
    }
    Err(refuse(StatusCode::NOT_IMPLEMENTED, "the only transfer coding known is chunked"))
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
    }

    #[test]
    fn connections_close_and_stay_as_the_versions_say() {
        let keep = |head: &str| parse(head).expect("valid").request.keep_alive;
        assert!(!keep("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n"));
        assert!(!keep("GET / HTTP/1.0\r\n\r\n"));
        assert!(keep("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!keep("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"));
    }

    #[test]
    fn what_proxies_could_read_differently_is_refused() {
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
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", 417),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
            ("GET / HTTQ/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("\u{16}\u{3}\u{1}", 400),
        ] {
            assert_eq!(status(head), expected, "{head:?}");
        }
    }

    #[test]
    fn limits_are_answered_by_their_own_status() {
        let long = "a".repeat(2000);
        assert_eq!(status(&format!("GET /{long}")), 414);
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
        fn how_bytes_were_split_does_not_matter(split in 0_usize..48) {
            let head = b"GET /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
            let end = head.len() - 3;
            proptest::prop_assert_eq!(scan_head(&head[..split], 0, &LIMITS), Ok(Scan::Incomplete));
            proptest::prop_assert_eq!(scan_head(head, split, &LIMITS), Ok(Scan::Complete(end)));
        }
    }
}
