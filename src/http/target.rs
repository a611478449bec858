//! The request target in its four forms (RFC 9112 section 3.2), and the host in the target or in `Host`.
//!
//! Poller thread, called by `parse.rs`.

use std::net::Ipv6Addr;
use std::ops::Range;

use http::{Method, StatusCode};

use super::refusal::{Limits, Refusal, bad, refuse};

/// The parts of a target. The ranges refer to the head.
pub(super) struct Target {
    pub(super) path: Path,
    pub(super) query: Option<Range<usize>>,
    /// The target itself names a host.
    pub(super) is_absolute: bool,
}

/// The place of the path.
pub(super) enum Path {
    /// The path is in the head.
    Written(Range<usize>),
    /// The path is not written. An empty path means `/`, and for OPTIONS `*`, the whole server (RFC 9110 section
    /// 4.2.3).
    Implied(u8),
}

impl Target {
    /// Reads a target, which stands `at` this place of the head.
    pub(super) fn read(
        method: &Method,
        target: &str,
        at: Range<usize>,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        if target.len() > limits.max_target_bytes {
            return Err(refuse(StatusCode::URI_TOO_LONG, "the target is longer than http.max_target_bytes"));
        }
        if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(bad("the target has a fragment or a byte that a URI cannot have"));
        }
        if method == Method::CONNECT {
            return Err(refuse_connect(target));
        }
        let skipped = match target.as_bytes() {
            [b'/', ..] => 0,
            b"*" if method == Method::OPTIONS => 0,
            _ => origin_len(target).ok_or_else(|| bad("the target is neither a path nor an http URI"))?,
        };
        let start = at.start + skipped;
        let mark = target[skipped..].find('?').map(|mark| start + mark);
        let path = start..mark.unwrap_or(at.end);
        let implied = if method == Method::OPTIONS { b'*' } else { b'/' };
        Ok(Self {
            path: if path.is_empty() { Path::Implied(implied) } else { Path::Written(path) },
            query: mark.map(|mark| mark + 1..at.end),
            is_absolute: skipped > 0,
        })
    }
}

/// The target of CONNECT is a host and a port (RFC 9110 section 9.3.6).
fn refuse_connect(target: &str) -> Refusal {
    let (host, port) = target.rsplit_once(':').unwrap_or_default();
    if host.is_empty() || port.is_empty() || !is_authority(target.as_bytes()) {
        return bad("the target of CONNECT is a host and a port");
    }
    refuse(StatusCode::NOT_IMPLEMENTED, "CONNECT is for proxies")
}

/// The length of `http://authority` in an absolute target. An http URI must have a host (RFC 9110 section 4.2.1).
fn origin_len(target: &str) -> Option<usize> {
    let scheme = if target.get(..7)?.eq_ignore_ascii_case("http://") {
        7
    } else if target.get(..8)?.eq_ignore_ascii_case("https://") {
        8
    } else {
        return None;
    };
    let end = target[scheme..].find(['/', '?']).map_or(target.len(), |length| scheme + length);
    let authority = &target.as_bytes()[scheme..end];
    let names_host = !matches!(authority, [] | [b':', ..]) && is_authority(authority);
    names_host.then_some(end)
}

/// Whether this is `host[:port]` (RFC 9110 section 7.2), without a user, a path or a second host.
pub(super) fn is_authority(text: &[u8]) -> bool {
    let host_len = match text {
        [b'[', rest @ ..] => memchr::memchr(b']', rest).map_or(text.len(), |end| end + 2),
        _ => memchr::memchr(b':', text).unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(host_len);
    let is_host = match host {
        [b'[', address @ .., b']'] => {
            std::str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok())
        }
        name => is_registered_name(name),
    };
    is_host && matches!(port, [] | [b':', ..]) && port.iter().skip(1).all(u8::is_ascii_digit)
}

/// Whether these bytes may be a host's name (RFC 3986 section 3.2.2). A comma is allowed there but not here: two Host
/// lines that were joined to one have a comma between them (RFC 9110 section 5.3).
fn is_registered_name(mut name: &[u8]) -> bool {
    while let [first, rest @ ..] = name {
        name = match (first, rest) {
            (b'%', [high, low, rest @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            (byte, rest) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(byte) => rest,
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_an_optional_port() {
        for good in ["h", "h:", "h:80", "127.0.0.1:80", "[::1]", "[::1]:80", "a%20b", "a_b"] {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for wrong in ["a b", "a,b", "u@h", "h/p", "h:x", "h:1:2", "[::1", "[]", "[::1]x", "::1", "a%2", "h\\"]
        {
            assert!(!is_authority(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn origins_are_of_http_and_name_a_host() {
        for (target, length) in [
            ("http://h", 8),
            ("http://h/p", 8),
            ("HTTPS://h:1/p", 11),
            ("http://h?q", 8),
            ("http://[::1]/", 12),
        ] {
            assert_eq!(origin_len(target), Some(length), "{target}");
        }
        for target in
            ["http://", "http:///p", "http://:80/", "http://u@h/", "ftp://h/", "h", "http:/h", "http://h:x/"]
        {
            assert_eq!(origin_len(target), None, "{target}");
        }
    }
}
