//! Decides which requests the admin listener answers. With a token in the configuration, a request must carry it.
//! Without one, a request must come from this machine, and not because a web page led a browser here.
//!
//! A page of another site can make a browser send requests to loopback. It cannot read the answers, unless its own name
//! leads to loopback as well (DNS rebinding). In that case the request's `Host` is that name. The page can also send a
//! form by POST, with the password that the browser knows. In that case `Sec-Fetch-Site` or `Origin` says which site
//! the form is from.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use std::net::IpAddr;

use crate::http::{OriginRules, Request, Response, cross_origin, problem};

/// Paths for orchestrators, which have no token.
const OPEN: [&str; 2] = ["/live", "/ready"];

/// Paths for a page in a browser, which can send a password but no header of its own.
const BY_PASSWORD: [&str; 4] = ["/", "/stats", "/threads", "/events"];

/// The rules for answering a request.
#[derive(Debug)]
pub(super) struct AdminAccess {
    token: Option<String>,
    /// The default rules allow no other site.
    origins: OriginRules,
}

impl AdminAccess {
    pub(super) fn new(token: Option<String>) -> Self {
        Self { token, origins: OriginRules::default() }
    }

    /// Decides whether to answer the request.
    ///
    /// # Errors
    /// The refusal to send instead.
    pub(super) fn admit(&self, request: &Request) -> Result<(), Response> {
        let is_open = OPEN.contains(&request.path()) || request.path() == "*";
        if !is_open && !self.knows(request) {
            return Err(self.refusal(request));
        }
        if self.origins.admit(request) {
            Ok(())
        } else {
            Err(cross_origin("the request comes from another site's page"))
        }
    }

    /// Whether the sender may know everything.
    pub(super) fn knows(&self, request: &Request) -> bool {
        match &self.token {
            Some(token) => shown(request).is_some_and(|shown| is_same(&shown, token.as_bytes())),
            None => is_own_host(request),
        }
    }

    fn refusal(&self, request: &Request) -> Response {
        if self.token.is_none() {
            let detail = "without admin.token the Host must be an IP address or localhost";
            return problem(StatusCode::FORBIDDEN, detail, &[]);
        }
        let detail = "this needs admin.token: Authorization: Bearer TOKEN";
        let response = problem(StatusCode::UNAUTHORIZED, detail, &[]);
        // One scheme per line: Chromium accepts no line with several (RFC 9110 section 11.6.1 allows both).
        let response = if BY_PASSWORD.contains(&request.path()) {
            response.with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"wharf\""))
        } else {
            response
        };
        response.with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }
}

/// The token of the request: `Bearer TOKEN` (RFC 6750), or for a browser's pages the password of `Basic` (RFC 7617).
fn shown(request: &Request) -> Option<Vec<u8>> {
    let value = request.header("authorization")?;
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, credentials) = (&value[..space], value[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(credentials.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") || !BY_PASSWORD.contains(&request.path()) {
        return None;
    }
    let pair = BASE64_STANDARD.decode(credentials).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// Compares in a time that depends on the length of the shown token, and not on how much of it is right.
fn is_same(shown: &[u8], token: &[u8]) -> bool {
    let different = shown.len() ^ token.len();
    let different = shown
        .iter()
        .zip(token.iter().cycle())
        .fold(different, |different, (one, other)| different | usize::from(one ^ other));
    std::hint::black_box(different) == 0
}

/// Whether the request's `Host` is one that no other site can point here: an address, or `localhost` (RFC 6761).
fn is_own_host(request: &Request) -> bool {
    let Some(host) = request.header("host").and_then(|host| std::str::from_utf8(host).ok()) else {
        // HTTP/1.0 without `Host`, so the client is no browser.
        return true;
    };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let name = bracketed.unwrap_or_else(|| host.split(':').next().unwrap_or_default());
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Limits, parse_head};

    fn request(line: &str, headers: &str) -> Request {
        let limits = Limits { max_head_bytes: 1000, max_target_bytes: 1000, max_headers: 9 };
        let head = format!("{line} HTTP/1.1\r\n{headers}\r\n");
        parse_head(head.as_bytes(), &limits).expect("a request").request
    }

    fn status(access: &AdminAccess, line: &str, headers: &str) -> u16 {
        let admitted = access.admit(&request(line, headers));
        admitted.map_or_else(|refusal| refusal.status().as_u16(), |()| 200)
    }

    #[test]
    fn without_a_token_only_requests_for_a_local_host_are_answered() {
        let access = AdminAccess::new(None);
        for (host, expected) in [
            ("127.0.0.1:8081", 200),
            ("[::1]:8081", 200),
            ("localhost:8081", 200),
            ("LOCALHOST.", 200),
            ("wharf.localhost", 200),
            ("evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost.evil.example:8081", 403),
        ] {
            assert_eq!(status(&access, "GET /stats", &format!("Host: {host}\r\n")), expected, "{host}");
        }
        assert_eq!(
            status(&access, "GET /ready", "Host: evil.example\r\n"),
            200,
            "an orchestrator may use another name"
        );
    }

    #[test]
    fn only_the_whole_token_is_accepted() {
        let access = AdminAccess::new(Some("only-for-tests".to_owned()));
        let get = |headers: &str| status(&access, "GET /metrics", &format!("Host: any.example\r\n{headers}"));
        assert_eq!(get("Authorization: Bearer only-for-tests\r\n"), 200);
        assert_eq!(get("authorization: bearer  only-for-tests \r\n"), 200);
        for wrong in ["", "only-for-test", "only-for-testsx", "only-for-testsonly-for-tests", "x"] {
            assert_eq!(get(&format!("Authorization: Bearer {wrong}\r\n")), 401, "{wrong}");
        }
        assert_eq!(get(""), 401);
        assert_eq!(get("Authorization: Basic OnRva2Vu\r\n"), 401);
    }

    #[test]
    fn a_browser_may_send_the_token_as_a_password_for_its_pages() {
        let access = AdminAccess::new(Some("only-for-tests".to_owned()));
        let password = |credentials: &str| {
            format!("Host: h\r\nAuthorization: Basic {}\r\n", BASE64_STANDARD.encode(credentials))
        };
        for page in BY_PASSWORD {
            let line = format!("GET {page}");
            assert_eq!(status(&access, &line, &password("any:only-for-tests")), 200, "{page}");
            assert_eq!(status(&access, &line, &password("only-for-tests:")), 401, "{page}");
        }
        assert_eq!(status(&access, "POST /reload", &password("any:only-for-tests")), 401);
        assert_eq!(status(&access, "GET /", "Host: h\r\nAuthorization: Basic ?\r\n"), 401);
    }

    #[test]
    fn requests_from_a_page_of_another_site_are_refused() {
        let access = AdminAccess::new(None);
        for (headers, expected) in [
            ("", 200),
            ("Sec-Fetch-Site: same-origin\r\n", 200),
            ("Sec-Fetch-Site: none\r\n", 200),
            ("Origin: http://127.0.0.1:8081\r\n", 200),
            ("Sec-Fetch-Site: cross-site\r\n", 403),
            ("Sec-Fetch-Site: same-site\r\n", 403),
            ("Origin: null\r\n", 403),
            ("Origin: http://127.0.0.1:8080\r\n", 403),
            ("Origin: https://evil.example\r\n", 403),
        ] {
            let headers = format!("Host: 127.0.0.1:8081\r\n{headers}");
            assert_eq!(status(&access, "POST /reload", &headers), expected, "{headers}");
        }
    }
}
