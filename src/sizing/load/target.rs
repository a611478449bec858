//! Targets of the load: requests as bytes to send, and the servers that they go to.
//!
//! Main thread, before the run.

use std::io;
use std::net::ToSocketAddrs;
use std::path::PathBuf;

use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::origin::{Address, Origin, host};
use super::trust::{ServerTrust, Trust, TrustError};

/// A request as the bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    bytes: Vec<u8>,
    is_head: bool,
}

impl Request {
    /// A request of this method for a path with its query, such as `/a?b=c`. `Host` comes from `authority` and
    /// `Content-Length` from the body, unless the headers have them.
    pub fn new(method: &Method, path: &str, authority: &str, headers: &HeaderMap, body: &[u8]) -> Self {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
        let mut line = |name: &str, value: &[u8]| {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        };
        if !headers.contains_key(header::HOST) {
            line("Host", authority.as_bytes());
        }
        for (name, value) in headers {
            line(name.as_str(), value.as_bytes());
        }
        // RFC 9110 section 8.6: an empty body too has a length when the method usually has a body.
        let has_body = !body.is_empty() || [Method::POST, Method::PUT, Method::PATCH].contains(method);
        if has_body && !headers.contains_key(header::CONTENT_LENGTH) {
            line("Content-Length", body.len().to_string().as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        Self { bytes, is_head: method == Method::HEAD }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn is_head(&self) -> bool {
        self.is_head
    }
}

/// Requests to one server that belong together. The report counts them apart from other targets'.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name in the report.
    pub name: String,
    /// The server.
    pub origin: Origin,
    /// Its share of the run's requests, in proportion to the other targets' weights.
    pub weight: u32,
    /// The requests, sent in turn.
    pub requests: Vec<Request>,
}

/// The method, headers and body for every URL, and the way to its server.
#[derive(Clone, Debug, Default)]
pub struct Template {
    /// GET by default.
    pub method: Method,
    /// Headers in addition to those that every request has.
    pub headers: HeaderMap,
    /// Empty by default.
    pub body: Vec<u8>,
    /// The certificates that servers of `https` may show. `None`: those of the system's authorities.
    pub trust: Option<Trust>,
    /// A Unix socket to connect to in place of each URL's host.
    pub unix_socket: Option<PathBuf>,
}

/// The URL cannot be used as a target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The text is not a URL, or has no host, or has a user. The message does not show the user's password.
    #[error("{0:?} is not a URL such as http://127.0.0.1:8080/flights/1")]
    Url(String),
    /// Only `http` and `https` are supported.
    #[error("{url:?} begins with {scheme}://, which is not supported; expected http:// or https://")]
    Scheme {
        /// The URL that came.
        url: String,
        /// Its scheme.
        scheme: String,
    },
    /// The host has no address.
    #[error("{url}: its host has no address: {cause}")]
    Address {
        /// The URL that came.
        url: String,
        /// The error of the lookup.
        cause: io::Error,
    },
    /// The certificates that servers may show cannot be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl Target {
    /// A target with one request for one URL. The host is looked up, unless requests go to a Unix socket.
    ///
    /// # Errors
    /// The text is not a URL, its scheme is neither `http` nor `https`, its host is unknown, or the system has no certificate
    /// authorities.
    pub fn from_url(url: &str, template: &Template) -> Result<Self, TargetError> {
        let wrong = || TargetError::Url(without_user(url));
        let parsed: Uri = url.parse().map_err(|_| wrong())?;
        let scheme = parsed.scheme().ok_or_else(wrong)?;
        let is_encrypted = *scheme == Scheme::HTTPS;
        if *scheme != Scheme::HTTP && !is_encrypted {
            return Err(TargetError::Scheme { url: without_user(url), scheme: scheme.to_string() });
        }
        let authority = parsed.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(wrong)?;
        // A colon without a number means the scheme's port (RFC 3986 section 3.2.3). A number that is not a port is an
        // error.
        let after_host = authority.as_str().strip_prefix(authority.host()).ok_or_else(wrong)?;
        let port = match authority.port_u16() {
            Some(port) => port,
            None if after_host.trim_start_matches(':').is_empty() => {
                if is_encrypted {
                    443
                } else {
                    80
                }
            }
            None => return Err(wrong()),
        };
        let Template { method, headers, body, trust, unix_socket } = template;
        let addresses = if let Some(path) = unix_socket {
            vec![Address::Unix(path.clone())]
        } else {
            let found = (host(authority.as_str()), port).to_socket_addrs();
            let found = found.map_err(|cause| TargetError::Address { url: url.to_owned(), cause })?;
            found.map(Address::Tcp).collect()
        };
        let mut origin = Origin::new(addresses, authority.as_str());
        if is_encrypted {
            let trust = match trust {
                Some(trust) => trust.clone(),
                None => Trust::new(ServerTrust::System, None)?,
            };
            origin = origin.with_tls(&trust).ok_or_else(wrong)?;
        }
        let path = parsed.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::new(method, path, authority.as_str(), headers, body);
        let name = if *method == Method::GET { url.to_owned() } else { format!("{method} {url}") };
        Ok(Self { name, origin, weight: 1, requests: vec![request] })
    }
}

/// The URL with `…` in place of everything before its last `@`: a user and a password.
fn without_user(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://…@{after}")
        }
        None => url.to_owned(),
    }
}

/// Parses `Name: value`, as curl's `--header` takes it.
///
/// # Errors
/// The text is not a header; the message has what came and what is accepted.
pub fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let parts = text.split_once(':').and_then(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value.trim()).ok()?))
    });
    parts.ok_or_else(|| format!("{text:?} is not a header such as \"Accept: application/json\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(url: &str, template: &Template) -> String {
        let target = Target::from_url(url, template).expect(url);
        String::from_utf8(target.requests[0].bytes().to_vec()).expect("ASCII")
    }

    #[test]
    fn a_url_becomes_a_request() {
        let get = Template::default();
        assert_eq!(
            sent("http://127.0.0.1:8080/a?b=c", &get),
            "GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
        );
        assert_eq!(sent("http://127.0.0.1", &get), "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        assert_eq!(sent("http://[::1]:1/", &get), "GET / HTTP/1.1\r\nHost: [::1]:1\r\n\r\n");
        let (name, value) = parse_header("content-type: text/plain").expect("a header");
        let headers = HeaderMap::from_iter([(name, value)]);
        let post = Template { method: Method::POST, headers, body: b"hi".to_vec(), ..Template::default() };
        assert_eq!(
            sent("http://127.0.0.1:1/", &post),
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:1\r\ncontent-type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
        );
        let empty = Template { method: Method::PUT, ..Template::default() };
        assert!(sent("http://127.0.0.1:1/", &empty).contains("Content-Length: 0\r\n"));
    }

    #[test]
    fn a_given_header_replaces_the_generated_one() {
        let header = |text| parse_header(text).expect(text);
        let headers = HeaderMap::from_iter([header("Host: other"), header("Content-Length: 9")]);
        let template =
            Template { method: Method::POST, headers, body: b"hi".to_vec(), ..Template::default() };
        let request = sent("http://127.0.0.1:1/", &template).to_ascii_lowercase();
        assert_eq!((request.matches("host:").count(), request.matches("content-length:").count()), (1, 1));
    }

    #[test]
    fn an_address_without_a_port_has_that_of_its_scheme() {
        let trust = Trust::new(ServerTrust::Anything, None).expect("it needs no file");
        let template = Template { trust: Some(trust), ..Template::default() };
        for (url, address) in [
            ("http://127.0.0.1/", "127.0.0.1:80"),
            ("https://127.0.0.1/", "127.0.0.1:443"),
            ("https://[::1]:/", "[::1]:443"),
            ("https://127.0.0.1:8443", "127.0.0.1:8443"),
        ] {
            let target = Target::from_url(url, &template).expect("a URL");
            assert_eq!(target.origin.addresses(), [Address::Tcp(address.parse().expect("an address"))]);
        }
    }

    #[test]
    fn a_unix_socket_takes_the_place_of_the_host() {
        let template = Template { unix_socket: Some("/run/app.sock".into()), ..Template::default() };
        let target =
            Target::from_url("http://no.such.host.invalid/a", &template).expect("it is not looked up");
        assert_eq!(target.origin.addresses(), [Address::Unix("/run/app.sock".into())]);
        assert!(sent("http://app/a", &template).contains("Host: app\r\n"));
    }

    #[test]
    fn a_url_that_cannot_be_a_target_is_named() {
        let error = |url| Target::from_url(url, &Template::default()).expect_err(url).to_string();
        for url in ["", "/a", "127.0.0.1:80", "http://", "http://127.0.0.1:x/", "http://a b/"] {
            assert!(
                error(url).starts_with(&format!("{url:?} is not a URL such as http://")),
                "{}",
                error(url)
            );
        }
        let secret = error("http://user:hunt@er2@127.0.0.1/");
        assert!(secret.starts_with("\"http://…@127.0.0.1/\" is not a URL"), "{secret}");
        let message = error("ftp://127.0.0.1/");
        assert!(
            message.contains("begins with ftp://") && message.contains("expected http:// or https://"),
            "{message}"
        );
        for wrong in ["", "a", "a b: c", "a: \u{0}"] {
            let message = parse_header(wrong).expect_err(wrong);
            assert!(message.starts_with(&format!("{wrong:?} is not a header such as")), "{message}");
        }
    }
}
