//! Access to the admin listener over real sockets. The module's own tests try every form of a name and of a token.

use super::{HELLO, request};
use crate::support::{Wharf, assert_problem};

#[test]
fn with_a_token_only_health_is_open() {
    let wharf = Wharf::start_with(HELLO, &[], &[("WHARF_ADMIN_TOKEN", "only-for-tests")]);
    let ask = |method: &str, path: &str, authorization: &str| {
        request(wharf.admin_address(), method, path, &[("Authorization", authorization)], "")
    };
    for path in ["/", "/metrics", "/stats", "/threads", "/config", "/events"] {
        for wrong in ["", "Bearer", "Bearer only-for-test", "Basic b25seS1mb3ItdGVzdHM="] {
            let answer = ask("GET", path, wrong);
            assert_problem(&answer, 401, "admin.token");
            let mut headers = answer.headers.iter();
            assert!(
                headers.any(|(name, way)| name.eq_ignore_ascii_case("WWW-Authenticate") && way == "Bearer")
            );
        }
    }
    assert_problem(&ask("POST", "/reload", "Bearer wrong-token"), 401, "admin.token");
    for path in ["/live", "/ready"] {
        assert_eq!(ask("GET", path, "Bearer wrong-token").status, 200);
    }
    assert_eq!(ask("GET", "/stats", "Bearer only-for-tests").status, 200);
    // `any:only-for-tests`, as a browser has it of its user.
    let password = "Basic YW55Om9ubHktZm9yLXRlc3Rz";
    assert_eq!(ask("GET", "/", password).status, 200);
    assert_problem(&ask("GET", "/config", password), 401, "admin.token");
    assert!(!wharf.log().contains("only-for-tests"));
}

/// A page of another site must not read what loopback answers, nor have anything done there.
#[test]
fn a_page_of_another_site_gets_nothing() {
    let wharf = Wharf::start(HELLO);
    let admin = wharf.admin_address();
    let mut rebound = super::Client::connect(admin);
    rebound.send("GET /stats HTTP/1.1\r\nHost: evil.example:8081\r\n\r\n");
    assert_problem(&rebound.answer(), 403, "the Host must be an IP address or localhost");
    let form = [("Origin", "https://evil.example"), ("Content-Type", "text/plain")];
    for path in ["/reload", "/log-level?level=trace"] {
        assert_problem(&request(admin, "POST", path, &form, "x"), 403, "another site");
        let hint = [("Sec-Fetch-Site", "cross-site")];
        assert_problem(&request(admin, "POST", path, &hint, ""), 403, "another site");
    }
    assert!(!wharf.log().contains("the log's level is"));
}
