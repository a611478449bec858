//! Requests that the page of another site has a browser send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use http::Method;
use wharf::config::Connector;
use wharf::handler::{Context, Error, Handler as _, Policy, function};
use wharf::http::{Request, Response};
use wharf::metrics::Reason;
use wharf::server::{Running, Server};

use crate::support::{Answer, Client, Wharf, assert_problem, assert_says, config_of, wait_until};

const JSON: (&str, &str) = ("Content-Type", "application/json");
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const CROSS: (&str, &str) = ("Sec-Fetch-Site", "cross-site");
const REFUSED: &str = "another site's page";

const ENDPOINTS: &str = "
[endpoint.add]
route   = 'POST /note'
params  = { text = { type = 'text', in = 'body' } }
sql     = 'insert into note values (:text)'
returns = 'none'

[endpoint.form]
route   = 'POST /form'
params  = { text = { type = 'text', in = 'form' } }
sql     = 'insert into note values (:text)'
returns = 'none'

[endpoint.clear]
route   = 'DELETE /note'
sql     = 'delete from note'
returns = 'none'

[endpoint.notes]
route   = 'GET /note'
sql     = 'select count(*) from note'
returns = 'value'

[endpoint.fixed]
route   = 'POST /fixed'
body    = 'fixed'
";

/// A server with the endpoints, and with handlers in Rust that count how often they are asked.
struct Served {
    server: Running,
    handled: Arc<AtomicUsize>,
    directory: tempfile::TempDir,
}

impl Served {
    fn start(connector: Connector, more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("x.db");
        let database = rusqlite::Connection::open(&file).expect("the directory takes a file");
        database.execute_batch("create table note (text)").expect("the table is new");
        let mut config =
            config_of(format!("database.url = 'sqlite:{}'\n{more}\n{ENDPOINTS}", file.display()));
        config.server.connector = connector;
        let handled = Arc::<AtomicUsize>::default();
        let (whole, pieces) = (Arc::clone(&handled), Arc::clone(&handled));
        let server = Server::new(config).expect("the database is there");
        let server =
            server.post("/rust", move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
                whole.fetch_add(1, Relaxed);
                Ok(Response::text("rust"))
            });
        let server = server.route(
            Method::POST,
            "/stream",
            function(move |_, _| {
                pieces.fetch_add(1, Relaxed);
                Ok(Response::text("stream"))
            })
            .with(Policy::streaming()),
        );
        Self { server: server.start().expect("a free port"), handled, directory }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut client = Client::connect(self.server.address());
        client.request(method, path, headers, body);
        client.answer()
    }

    fn refused(&self) -> u64 {
        self.server.metrics().refused_for(Reason::CrossOrigin)
    }

    fn notes(&self) -> String {
        self.ask("GET", "/note", &[CROSS], "").text().to_owned()
    }
}

/// Method, path, headers and body.
type Write = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

#[test]
fn are_refused_wherever_they_could_write_and_answered_where_they_only_read() {
    for connector in [Connector::Native, Connector::TinyHttp] {
        let served = Served::start(connector, "");
        let other = ("Origin", "https://evil.example");
        let writes: [Write; 6] = [
            ("POST", "/note", &[JSON], r#"{"text":"a"}"#),
            ("POST", "/form", &[FORM], "text=a"),
            ("DELETE", "/note", &[], ""),
            ("POST", "/fixed", &[], ""),
            ("POST", "/rust", &[], "x"),
            ("POST", "/stream", &[], "x"),
        ];
        let mut count = 0;
        for (method, path, headers, body) in writes {
            for sign in [CROSS, ("Sec-Fetch-Site", "same-site"), other, ("Origin", "null")] {
                let refused = served.ask(method, path, &[headers, &[sign]].concat(), body);
                assert_problem(&refused, 403, REFUSED);
                assert_eq!(refused.json()["type"], "urn:wharf:problem:cross-origin");
                assert!(refused.header("X-Request-Id").is_some());
                count += 1;
            }
            assert_eq!(served.refused(), count, "{method} {path}");
        }
        assert_eq!((served.notes(), served.handled.load(Relaxed)), ("0".to_owned(), 0));
        for (method, path, headers, body) in writes {
            for sign in [None, Some(("Sec-Fetch-Site", "same-origin")), Some(("Origin", "http://localhost"))]
            {
                let headers: Vec<_> = headers.iter().copied().chain(sign).collect();
                let answer = served.ask(method, path, &headers, body);
                assert!(matches!(answer.status, 200 | 201 | 204), "{method} {path}: {}", answer.text());
            }
        }
        assert_eq!((served.refused(), served.handled.load(Relaxed)), (count, 6));
        // An unknown path, another method and OPTIONS keep their own answers.
        assert_eq!(served.ask("POST", "/nothing", &[CROSS], "x").status, 404);
        assert_eq!(served.ask("PUT", "/note", &[CROSS], "x").status, 405);
        assert_eq!(served.ask("OPTIONS", "/note", &[CROSS, other], "").status, 204);
        wait_until("each request came to one end", || {
            served.server.metrics().requests() == served.server.metrics().finished()
        });
    }
}

#[test]
fn are_refused_before_their_body_has_come() {
    let served = Served::start(Connector::Native, "http.max_body_bytes = '100MiB'");
    for (path, expect) in [("/note", ""), ("/stream", ""), ("/note", "Expect: 100-continue\r\n")] {
        let mut client = Client::connect(served.server.address());
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nSec-Fetch-Site: cross-site\r\nContent-Type: application/json\r\n\
             Content-Length: 50000000\r\n{expect}\r\n"
        ));
        let refused = client.answer();
        assert_problem(&refused, 403, REFUSED);
        assert_eq!(refused.header("Connection"), Some("close"));
    }
    // Nothing of the body passes for the next request.
    let mut client = Client::connect(served.server.address());
    let smuggled = "POST /note HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"text\":\"x\"}";
    client.send(format!(
        "POST /note HTTP/1.1\r\nHost: h\r\nSec-Fetch-Site: cross-site\r\nContent-Length: {}\r\n\r\n{smuggled}",
        smuggled.len()
    ));
    assert_problem(&client.answer(), 403, REFUSED);
    assert!(client.rest().is_empty());
    assert_eq!((served.refused(), served.notes()), (4, "0".to_owned()));
}

#[test]
fn are_answered_for_an_origin_that_is_allowed_also_after_a_reload() {
    let served = Served::start(Connector::Native, "");
    let ask = |origin: &str| {
        let headers = [JSON, CROSS, ("Origin", origin)];
        served.ask("POST", "/note", &headers, r#"{"text":"a"}"#).status
    };
    assert_eq!(ask("https://shop.example"), 403);
    let url = "sqlite:".to_owned() + &served.directory.path().join("x.db").display().to_string();
    let new =
        config_of(format!("database.url = '{url}'\naccess.origins = ['https://shop.example']\n{ENDPOINTS}"));
    let reloaded = served.server.reload(new).expect("it is good");
    assert_eq!(reloaded.to_string(), "access.origins: [https://shop.example], before []");
    assert_eq!(ask("https://shop.example"), 204);
    assert_eq!(ask("https://shop.example:444"), 403);
    assert_eq!(served.notes(), "1");
}

#[test]
fn are_told_of_in_the_log_and_the_figures() {
    let text = "[log]\naccess = 'combined'\n[endpoint.fixed]\nroute = 'POST /fixed'\nbody = 'fixed'\n";
    let wharf = Wharf::start(text);
    let refused = wharf.request("POST", "/fixed", &[CROSS, ("Origin", "https://evil.example")], "x");
    assert_problem(&refused, 403, REFUSED);
    wharf.wait_for_log(
        "POST /fixed is refused: it comes from a page of https://evil.example, which access.origins",
    );
    wharf.wait_for_log(" reason=cross_origin ");
    let mut admin = Client::connect(wharf.admin_address());
    admin.request("GET", "/metrics", &[], "");
    let metrics = admin.answer().text().to_owned();
    assert!(metrics.contains(r#"wharf_http_requests_refused_total{reason="cross_origin"} 1"#), "{metrics}");
    admin.request("POST", "/log-level?level=debug", &[("Sec-Fetch-Site", "same-site")], "");
    let refused = admin.answer();
    assert_problem(&refused, 403, "the request comes from another site's page");
    assert_eq!(refused.json()["type"], "urn:wharf:problem:cross-origin");
}

#[test]
fn origins_that_no_browser_writes_are_a_problem_of_the_configuration() {
    let exit = Wharf::run("[access]\norigins = ['https://Shop.example/']\n", &["check"], &[]);
    assert_says(&exit, 1, &["wharf.toml:2:", "access.origins", "did you mean https://shop.example?"]);
    let wharf = Wharf::start_with(
        "[endpoint.fixed]\nroute = 'POST /fixed'\nbody = 'fixed'\n",
        &[],
        &[("WHARF_ACCESS_ORIGINS", "https://a.example, https://b.example")],
    );
    let allowed = wharf.request("POST", "/fixed", &[CROSS, ("Origin", "https://b.example")], "");
    assert_eq!(allowed.text(), "fixed");
}

/// `fetch` with `no-cors` and bytes, and `sendBeacon`, send no Content-Type; it was taken for JSON.
#[test]
fn a_body_that_does_not_say_what_it_is_is_refused() {
    let served = Served::start(Connector::Native, "");
    for (path, body, expected) in [
        ("/note", r#"{"text":"a"}"#, "application/json"),
        ("/form", "text=a", "application/x-www-form-urlencoded"),
    ] {
        let refused = served.ask("POST", path, &[], body);
        assert_problem(&refused, 415, &format!("the body must be {expected}, and say so in Content-Type"));
        assert_eq!(refused.json()["expected"], expected);
    }
    assert_eq!(served.notes(), "0");
    assert_eq!(served.ask("POST", "/form", &[], "").status, 400, "there is nothing to say of no body");
}
