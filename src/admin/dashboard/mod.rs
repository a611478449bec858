//! The dashboard: a page that draws the figures of `/events` each second, and sends no other request.
//!
//! The page is made once, when the admin listener starts. Its policy allows exactly this style and this script, so
//! nothing that the page shows can run.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::CONTENT_SECURITY_POLICY;
use http::{HeaderValue, StatusCode};
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;

use crate::base::chart;
use crate::http::Response;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");

/// One script, so that its parts share their names with each other and with no other script.
const SCRIPT: &str = concat!(
    "\"use strict\";\n(() => {\n",
    include_str!("words.js"),
    include_str!("charts.js"),
    include_str!("tables.js"),
    include_str!("page.js"),
    "})();\n"
);

/// The page, ready to be sent.
pub(super) struct Dashboard {
    page: Bytes,
    policy: HeaderValue,
}

impl Dashboard {
    pub(super) fn new() -> Self {
        let style = format!("{}{STYLE}", chart::STYLE);
        let page = PAGE
            .replace("<!--style-->", &format!("<style>{style}</style>"))
            .replace("<!--script-->", &format!("<script>{SCRIPT}</script>"));
        // The page connects only to its own server, and no other page may embed it.
        let policy = format!(
            "default-src 'none'; connect-src 'self'; img-src data:; script-src {}; style-src {}; \
             frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            source(SCRIPT),
            source(&style)
        );
        // Base64 and the text above are visible ASCII. Even without its script, the page would say where the figures
        // are.
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        Self { page: page.into(), policy }
    }

    /// The page with its policy.
    pub(super) fn answer(&self) -> Response {
        let page = Response::new(StatusCode::OK, "text/html; charset=utf-8", self.page.clone());
        page.with_header(CONTENT_SECURITY_POLICY, self.policy.clone())
    }
}

/// The name of a style or a script in a policy (W3C CSP Level 3, section 2.3.1).
fn source(text: &str) -> String {
    // SHA-256 comes from the TLS library, which has it for this suite. A script without a hash would not run.
    let hash = TLS13_AES_128_GCM_SHA256.tls13().map(|suite| suite.common.hash_provider.hash(text.as_bytes()));
    hash.map_or_else(|| "'none'".to_owned(), |hash| format!("'sha256-{}'", BASE64_STANDARD.encode(hash)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{CENSUS, PHASES, REASONS};

    fn page() -> String {
        String::from_utf8(Dashboard::new().page.to_vec()).expect("it is text")
    }

    #[test]
    fn the_policy_allows_exactly_the_pages_style_and_script() {
        let (page, policy) = (page(), Dashboard::new().policy);
        let policy = policy.to_str().expect("it is ASCII");
        assert!(!page.contains("<!--"), "everything is in its place");
        for (open, close) in [("<style>", "</style>"), ("<script>", "</script>")] {
            assert_eq!((page.matches(open).count(), page.matches(close).count()), (1, 1), "{open}");
            let inside = page.split(open).nth(1).and_then(|rest| rest.split(close).next());
            let source = source(inside.expect("there is one"));
            assert!(policy.contains(&source), "{source}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        // The well-known hash of the empty string.
        assert_eq!(source(""), "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='");
    }

    #[test]
    fn every_reason_state_and_phase_is_in_the_page() {
        let names = REASONS.map(|(_, name)| name).into_iter().chain(CENSUS.map(|(_, name)| name));
        for name in names {
            assert!(SCRIPT.contains(&format!("{name}: \"")), "{name}");
        }
        for (_, name) in PHASES {
            assert!(SCRIPT.contains(&format!("[\"{name}\", ")), "{name}");
        }
    }

    #[test]
    fn nothing_in_the_page_leads_elsewhere_or_runs_from_an_attribute() {
        let page = page();
        assert!(!page.contains("https://") && !page.contains("@import") && !page.contains("url("));
        assert_eq!(page.matches("http://").count(), page.matches("http://www.w3.org/2000/svg").count());
        for attribute in [" style=", " onclick=", " onload=", " src="] {
            assert!(!PAGE.contains(attribute), "{attribute}");
        }
    }
}
