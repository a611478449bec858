//! Finds requests that another site's page has sent, and refuses them if they may write.
//!
//! Poller thread, pure. The page of any site can make a browser send a form, bytes or a beacon to this server. The page cannot
//! read the answer, but the server carries out the request: it comes from the browser's place in the network, with the
//! browser's client certificate. The browser says in `Sec-Fetch-Site` (Fetch Metadata) or `Origin` (RFC 6454) which site the
//! page is from, and a page cannot change these headers. The rules are those of Go's `http.CrossOriginProtection`.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use http::{Method, StatusCode};

use super::forwarded::{elements_from_right as elements, read_parameter};
use super::target::is_authority;
use super::{ForwardedBy, Networks, Request, Response, problem};

/// Origins as browsers write them, such as `https://shop.example, http://localhost:3000`. An empty text means no
/// origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<Box<str>>);

/// Why a text is not a list of [`Origins`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OriginsError {
    /// An entry of the list is not an origin.
    #[error("expected an origin such as https://shop.example or http://localhost:3000, received {0:?}")]
    Unknown(String),
    /// No browser writes the origin in this form, so it would never match.
    #[error(
        "{origin}: did you mean {meant}? Browsers write an origin in lower case, without a path and without its scheme's port"
    )]
    Unusual {
        /// The origin as it was written.
        origin: String,
        /// The same origin as a browser writes it.
        meant: String,
    },
}

impl Origins {
    fn contain(&self, origin: &[u8]) -> bool {
        self.0.iter().any(|known| known.as_bytes() == origin)
    }
}

impl FromStr for Origins {
    type Err = OriginsError;

    fn from_str(text: &str) -> Result<Self, OriginsError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|entry| read_origin(entry.trim())).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Reads one origin. An origin in a form that no browser writes is an error, because it would never match.
fn read_origin(entry: &str) -> Result<Box<str>, OriginsError> {
    let unknown = || OriginsError::Unknown(entry.to_owned());
    let (scheme, rest) = entry.split_once("://").ok_or_else(unknown)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme || authority.is_empty() || !is_authority(authority.as_bytes()) || authority.contains('*') {
        return Err(unknown());
    }
    let scheme = scheme.to_ascii_lowercase();
    let meant = format!("{scheme}://{}", without_port_of(&scheme, &authority.to_ascii_lowercase()));
    if meant == entry {
        Ok(meant.into())
    } else {
        Err(OriginsError::Unusual { origin: entry.to_owned(), meant })
    }
}

/// Removes the scheme's default port from a host, as browsers do.
fn without_port_of<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return authority,
    };
    authority.strip_suffix(port).unwrap_or(authority)
}

/// The sites whose pages may write here, and how this server recognises its own host.
#[derive(Clone, Debug, Default)]
pub struct OriginRules {
    /// The other sites whose pages may write.
    pub allowed: Origins,
    /// The peers that may say which host and scheme the client used.
    pub trusted: Networks,
    /// Which of their headers is read.
    pub forwarded_by: ForwardedBy,
}

impl OriginRules {
    /// Whether the request may be answered. It may if it only reads, if no browser sent it, or if its page belongs to
    /// this server or to an allowed site.
    pub fn admit(&self, request: &Request) -> bool {
        if is_safe(&request.method) {
            return true;
        }
        let (mut site, mut origin) = (None, None);
        for (name, value) in &request.fields {
            let seen = match name.len() {
                6 if is_named(request, name, b"origin") => &mut origin,
                14 if is_named(request, name, b"sec-fetch-site") => &mut site,
                _ => continue,
            };
            // No browser sends either header twice.
            if seen.replace(&request.head[value.clone()]).is_some() {
                return false;
            }
        }
        match site {
            // `none` means that the user began the request, for example by sending a form again.
            Some(b"same-origin" | b"none") => true,
            Some(_) => origin.is_some_and(|origin| self.allowed.contain(origin)),
            // Programs send no `Sec-Fetch-Site`. Browsers before 2023 and browsers on plain HTTP do not send it either.
            None => origin.is_none_or(|origin| self.allowed.contain(origin) || self.is_own(origin, request)),
        }
    }

    /// Whether the origin is the request's own host.
    fn is_own(&self, origin: &[u8], request: &Request) -> bool {
        let origin = std::str::from_utf8(origin).ok().and_then(|origin| origin.split_once("://"));
        let Some((scheme @ ("http" | "https"), authority)) = origin else { return false };
        // Without TLS here, a proxy in front may speak TLS. `Host` does not show that, so both schemes count.
        // With TLS, a page with an `http` origin belongs to another site.
        if request.is_encrypted && scheme != "https" {
            return false;
        }
        let names = |host: &[u8]| {
            let host = std::str::from_utf8(host).unwrap_or_default();
            let own = without_port_of(scheme, host);
            own.eq_ignore_ascii_case(without_port_of(scheme, authority))
        };
        let lines = |wanted: &'static str| {
            let lines = request.header_lines().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
            lines.map(|(_, value)| value)
        };
        let peer = request.peer.map(|peer| peer.ip());
        let is_trusted = !self.trusted.is_empty() && self.trusted.contain(peer);
        match self.forwarded_by {
            ForwardedBy::Forwarded if is_trusted => {
                let mut known = false;
                for element in lines("forwarded").flat_map(elements) {
                    let read = |name: &[u8]| read_parameter(element, name);
                    let fits =
                        read(b"proto").is_none_or(|proto| proto.eq_ignore_ascii_case(scheme.as_bytes()));
                    if let Some(host) = read(b"host") {
                        known = true;
                        if fits && names(&host) {
                            return true;
                        }
                    }
                }
                !known && lines("host").any(names)
            }
            ForwardedBy::XForwardedFor if is_trusted => {
                let all = |name| lines(name).flat_map(elements);
                let mut schemes = all("x-forwarded-proto").peekable();
                let fits = schemes.peek().is_none()
                    || schemes.any(|proto| proto.eq_ignore_ascii_case(scheme.as_bytes()));
                let mut hosts = all("x-forwarded-host").peekable();
                fits && if hosts.peek().is_some() { hosts.any(names) } else { lines("host").any(names) }
            }
            _ => lines("host").any(names),
        }
    }
}

fn is_named(request: &Request, name: &Range<usize>, wanted: &[u8]) -> bool {
    request.head[name.clone()].eq_ignore_ascii_case(wanted)
}

/// Whether a method only reads (RFC 9110 section 9.2.1).
fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The answer to a request that [`OriginRules::admit`] does not admit.
pub fn cross_origin(detail: &str) -> Response {
    let of_its_own = [("type", "urn:wharf:problem:cross-origin"), ("title", "Cross-Origin Request")];
    problem(StatusCode::FORBIDDEN, detail, &of_its_own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Limits, parse_head};

    fn request(method: &str, headers: &str) -> Request {
        let limits = Limits { max_head_bytes: 4000, max_target_bytes: 100, max_headers: 20 };
        let head = format!("{method} / HTTP/1.1\r\n{headers}\r\n");
        parse_head(head.as_bytes(), &limits).expect("a request").request
    }

    fn lines(text: &str) -> String {
        text.split('|').flat_map(|line| [line, "\r\n"]).collect()
    }

    fn rules(allowed: &str) -> OriginRules {
        OriginRules { allowed: allowed.parse().expect("origins"), ..OriginRules::default() }
    }

    #[track_caller]
    fn expect(rules: &OriginRules, headers: &str, admitted: bool) {
        assert_eq!(rules.admit(&request("POST", &lines(headers))), admitted, "{headers}");
    }

    #[test]
    fn the_browsers_word_on_the_pages_site_decides() {
        for (headers, admitted) in [
            ("Host: h", true),
            ("Host: h|Sec-Fetch-Site: same-origin", true),
            ("Host: h|Sec-Fetch-Site: same-origin|Origin: null", true),
            ("Host: h|SEC-FETCH-SITE: none", true),
            ("Host: h|Sec-Fetch-Site: cross-site", false),
            ("Host: h|Sec-Fetch-Site: same-site", false),
            ("Host: h|Sec-Fetch-Site: same-site|Origin: http://h", false),
            ("Host: h|Sec-Fetch-Site: something-new", false),
            ("Host: h|Sec-Fetch-Site:", false),
            ("Host: h|Sec-Fetch-Site: same-origin|Sec-Fetch-Site: cross-site", false),
            ("Host: h|Origin: http://h|Origin: http://h", false),
        ] {
            expect(&rules(""), headers, admitted);
        }
    }

    #[test]
    fn without_sec_fetch_site_the_origin_is_compared_with_the_host() {
        for (headers, admitted) in [
            ("Host: h|Origin: http://h", true),
            ("Host: H.Example|ORIGIN: http://h.example", true),
            ("Host: h|Origin: https://h", true),
            ("Host: h:80|Origin: http://h", true),
            ("Host: h:443|Origin: https://h", true),
            ("Host: h|Origin: https://h:443", true),
            ("Host: h:443|Origin: http://h", false),
            ("Host: h:8080|Origin: http://h:8080", true),
            ("Host: h:8080|Origin: http://h", false),
            ("Host: h|Origin: http://h:8080", false),
            ("Host: [::1]:8080|Origin: http://[::1]:8080", true),
            ("Host: [::1]|Origin: http://[::1]", true),
            ("Host: [::1]:8080|Origin: http://[::2]:8080", false),
            ("Host: h|Origin: http://h.evil.example", false),
            ("Host: h|Origin: http://evil.example/h", false),
            ("Host: h|Origin: http://evil.example@h", false),
            ("Host: h|Origin: ftp://h", false),
            ("Host: h|Origin: h", false),
            ("Host: h|Origin: null", false),
            ("Host: h|Origin:", false),
            ("Host: h|Origin: http://h http://h", false),
        ] {
            expect(&rules(""), headers, admitted);
        }
        for (origin, admitted) in [("https://h", true), ("http://h", false)] {
            let mut request = request("POST", &format!("Host: h\r\nOrigin: {origin}\r\n"));
            assert!(rules("").admit(&request), "without TLS a proxy may have spoken it");
            request.is_encrypted = true;
            assert_eq!(rules("").admit(&request), admitted, "{origin}");
        }
    }

    #[test]
    fn reading_methods_are_always_admitted_and_every_other_may_write() {
        let headers = "Host: h\r\nSec-Fetch-Site: cross-site\r\nOrigin: https://evil.example\r\n";
        for (method, admitted) in [
            ("GET", true),
            ("HEAD", true),
            ("OPTIONS", true),
            ("POST", false),
            ("PUT", false),
            ("PATCH", false),
            ("DELETE", false),
            ("get", false),
        ] {
            assert_eq!(rules("").admit(&request(method, headers)), admitted, "{method}");
        }
    }

    #[test]
    fn an_allowed_origin_is_admitted_and_no_other() {
        let rules = rules("https://shop.example, http://localhost:3000");
        for (headers, admitted) in [
            ("Host: h|Sec-Fetch-Site: cross-site|Origin: https://shop.example", true),
            ("Host: h|Sec-Fetch-Site: same-site|Origin: http://localhost:3000", true),
            ("Host: h|Origin: https://shop.example", true),
            ("Host: h|Sec-Fetch-Site: cross-site|Origin: http://shop.example", false),
            ("Host: h|Sec-Fetch-Site: cross-site|Origin: https://shop.example:8443", false),
            ("Host: h|Sec-Fetch-Site: cross-site|Origin: https://shop.example.evil.example", false),
            ("Host: h|Sec-Fetch-Site: cross-site", false),
            ("Host: h|Sec-Fetch-Site: cross-site|Origin: null", false),
        ] {
            expect(&rules, headers, admitted);
        }
    }

    #[test]
    fn a_trusted_proxy_names_the_clients_host() {
        let from = |by: ForwardedBy, peer: &str, headers: &str| {
            let rules = OriginRules {
                trusted: "10.0.0.0/8".parse().expect("a network"),
                forwarded_by: by,
                ..OriginRules::default()
            };
            let mut request = request("POST", &lines(headers));
            request.peer = Some(peer.parse().expect("an address"));
            rules.admit(&request)
        };
        let x = |peer: &str, headers: &str| from(ForwardedBy::XForwardedFor, peer, headers);
        let (proxy, stranger) = ("10.0.0.1:1", "192.0.2.1:1");
        let named = "Host: inner:8080|Origin: https://shop.example|X-Forwarded-Host: shop.example";
        assert!(x(proxy, named));
        assert!(!x(stranger, named), "anybody may say so");
        assert!(x(proxy, &format!("{named}|X-Forwarded-Proto: https")));
        assert!(!x(proxy, &format!("{named}|X-Forwarded-Proto: http")));
        assert!(x(proxy, &format!("{named}, inner")));
        assert!(!x(proxy, "Host: inner|Origin: http://inner|X-Forwarded-Host: shop.example"));
        assert!(x(proxy, "Host: inner|Origin: http://inner"));
        let by = |peer: &str, headers: &str| {
            let headers = format!("Host: inner|Origin: https://shop.example|Forwarded: {headers}");
            from(ForwardedBy::Forwarded, peer, &headers)
        };
        assert!(by(proxy, "for=1.2.3.4;host=shop.example;proto=https"));
        assert!(by(proxy, "for=1.2.3.4;HOST=\"shop.example:443\", for=10.0.0.2"));
        assert!(!by(proxy, "for=1.2.3.4;host=shop.example;proto=http"));
        assert!(!by(proxy, "for=1.2.3.4"));
        assert!(!by(stranger, "host=shop.example"));
    }

    #[test]
    fn origins_are_written_as_browsers_do() {
        for (written, shown) in [
            ("https://shop.example,http://localhost:3000", "https://shop.example, http://localhost:3000"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("capacitor://localhost", "capacitor://localhost"),
            (" ", ""),
        ] {
            let origins: Origins = written.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(origins.to_string(), shown);
        }
        for (written, meant) in [
            ("https://shop.example/", "https://shop.example"),
            ("https://Shop.example", "https://shop.example"),
            ("HTTPS://shop.example:443/path", "https://shop.example"),
            ("http://shop.example:80", "http://shop.example"),
        ] {
            let error = written.parse::<Origins>().expect_err(written).to_string();
            assert!(error.contains(&format!("did you mean {meant}?")), "{error}");
        }
        for written in
            ["*", "null", "shop.example", "https://", "https://*.shop.example", "https://a, ", "https://a b"]
        {
            let error = written.parse::<Origins>().expect_err(written);
            assert!(matches!(error, OriginsError::Unknown(_)), "{written}: {error}");
        }
    }
}
