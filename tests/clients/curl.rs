//! curl.

use std::net::SocketAddr;

use super::program::{Said, run};
use super::served::{BODY_LIMIT, LARGE, Served};
use super::{known, support};

/// From this length on curl sends `Expect: 100-continue` without being told to.
const ASKS_FIRST: usize = (1 << 20) + 1;

/// What `-T` sends.
const UPLOAD: usize = 1 << 30;

/// The number of bytes that [`send_too_much`] sends, more than any socket's buffers take at once.
pub(crate) const TOO_MUCH: usize = 10 << 20;

/// curl ends with this code when `--max-time` is over.
const OUT_OF_TIME: i32 = 28;

/// Runs curl without a user's configuration. `arguments` may override `--max-time`.
fn curl(arguments: &[&str]) -> Said {
    let limit = support::PATIENCE.as_secs().to_string();
    let plain = ["--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", &limit];
    run("curl", &[&plain, arguments].concat())
}

/// Runs curl, which must succeed.
fn fetch(arguments: &[&str]) -> Said {
    let said = curl(arguments);
    assert_eq!(said.code, 0, "curl {arguments:?}: {}", said.stderr);
    said
}

/// `@FILE` as `--data-binary` takes it.
fn at(file: &tempfile::NamedTempFile) -> String {
    format!("@{}", file.path().display())
}

#[test]
fn get_and_head_are_answered() {
    let server = Served::start();
    assert_eq!(fetch(&[&server.url("/path/a?b=c")]).text(), "/path/a?b=c");
    assert_eq!(fetch(&[&server.url("/large")]).stdout, known::bytes(LARGE));
    let head = fetch(&["-I", &server.url("/large")]);
    assert!(head.text().starts_with("HTTP/1.1 200 OK\r\n"), "{}", head.text());
    assert!(head.text().contains(&format!("\r\ncontent-length: {LARGE}\r\n")), "{}", head.text());
    let nothing = fetch(&["-i", &server.url("/nothing")]);
    assert!(nothing.text().starts_with("HTTP/1.1 204 No Content\r\n"), "{}", nothing.text());
    server.finish();
}

#[test]
fn a_posted_body_comes_whole() {
    let server = Served::start();
    let file = known::file(300_000);
    for framing in ["X-No: change", "Transfer-Encoding: chunked"] {
        let said = fetch(&["--data-binary", &at(&file), "-H", framing, &server.url("/echo")]);
        assert_eq!(said.stdout, known::bytes(300_000), "{framing}");
        let said = fetch(&["-d", "", "-H", framing, &server.url("/echo")]);
        assert!(said.stdout.is_empty(), "{framing}");
    }
    server.finish();
}

#[test]
fn http_1_0_is_spoken() {
    let server = Served::start();
    let (path, echo) = (server.url("/path/old"), server.url("/echo"));
    assert_eq!(fetch(&["--http1.0", &path]).text(), "/path/old?");
    assert_eq!(fetch(&["--http1.0", "--data-binary", "abc", &echo]).text(), "abc");
    let report = "\n%{http_code} %{num_connects}\n";
    let closing = fetch(&["--http1.0", "-w", report, &path, &path]);
    assert_eq!(closing.text(), "/path/old?\n200 1\n/path/old?\n200 1\n");
    let keeping = fetch(&["--http1.0", "-H", "Connection: keep-alive", "-w", report, &path, &path]);
    assert_eq!(keeping.text(), "/path/old?\n200 1\n/path/old?\n200 0\n");
    server.finish();
}

#[test]
fn the_second_url_goes_over_the_first_ones_connection() {
    let server = Served::start();
    let report = "\n%{http_code} %{num_connects}\n";
    let said = fetch(&["-w", report, &server.url("/path/1"), &server.url("/path/2")]);
    assert_eq!(said.text(), "/path/1?\n200 1\n/path/2?\n200 0\n");
    let after_none = fetch(&["-w", report, &server.url("/nothing"), &server.url("/path/2")]);
    assert_eq!(after_none.text(), "\n204 1\n/path/2?\n200 0\n");
    let after_head = fetch(&["-I", "-o", "-", "-w", report, &server.url("/path/1"), &server.url("/path/2")]);
    assert!(after_head.text().ends_with("\n200 0\n"), "{}", after_head.text());
    let after_errors = fetch(&["-w", "%{num_connects}\n", &server.url("/no"), &server.url("/no")]);
    assert!(after_errors.text().ends_with("0\n"), "{}", after_errors.text());
    server.finish();
}

#[test]
fn curl_waits_for_100_continue_and_gets_it() {
    let server = Served::start();
    let file = known::file(ASKS_FIRST);
    for framing in ["X-No: change", "Transfer-Encoding: chunked"] {
        // Without an answer it would send after a second anyway; now it waits until it gives up.
        let patient = ["-v", "--expect100-timeout", "60", "-H", framing, "-H", "Expect: 100-continue"];
        let said = fetch(&[&patient[..], &["--data-binary", &at(&file), &server.url("/echo")]].concat());
        assert!(said.stderr.contains("< HTTP/1.1 100 Continue"), "{framing}: {}", said.stderr);
        assert!(said.stdout == known::bytes(ASKS_FIRST), "{framing}");
    }
    let by_itself = fetch(&["-v", "--data-binary", &at(&file), &server.url("/echo")]);
    assert!(by_itself.stderr.contains("> Expect: 100-continue"), "{}", by_itself.stderr);
    assert!(by_itself.stderr.contains("< HTTP/1.1 100 Continue"), "{}", by_itself.stderr);
    server.finish();
}

#[test]
fn a_body_that_is_not_wanted_is_not_sent() {
    for (limit, path, status) in
        [(ASKS_FIRST - 1, "/echo", 413), (ASKS_FIRST, "/nowhere", 404), (ASKS_FIRST, "/immediate", 405)]
    {
        let server = Served::start_with(|config| config.http.max_body_bytes = limit);
        let file = known::file(ASKS_FIRST);
        let report = ["-o", "/dev/null", "-w", "%{http_code} %{size_upload}"];
        let said = fetch(&[&report[..], &["--data-binary", &at(&file), &server.url(path)]].concat());
        assert_eq!(said.text(), format!("{status} 0"), "{path}");
        server.finish();
    }
}

#[test]
fn a_413_reaches_curl_while_it_sends() {
    let server = Served::start_with(|config| config.http.max_body_bytes = TOO_MUCH / 100);
    send_too_much(server.address());
    server.finish();
}

/// Sends bodies over the limit without asking first; each is answered 413.
pub(crate) fn send_too_much(to: SocketAddr) {
    let (file, url) = (known::file(TOO_MUCH), format!("http://{to}/echo"));
    // Whether a reset takes the answer away is a matter of timing.
    for count in 0..10 {
        for framing in ["X-No: change", "Transfer-Encoding: chunked"] {
            let report = ["-o", "/dev/null", "-w", "%{http_code}", "-H", "Expect:", "-H", framing];
            let said = curl(&[&report[..], &["--data-binary", &at(&file), &url]].concat());
            assert_eq!((said.code, said.text()), (0, "413"), "{framing}, {count}: {}", said.stderr);
        }
    }
}

#[test]
fn a_curl_that_gives_up_costs_nothing_else() {
    let server = Served::start();
    let (file, impatient) = (known::file(BODY_LIMIT), ["--max-time", "0.2"]);
    let give_up = |arguments: &[&str]| {
        let said = curl(&[&impatient[..], arguments].concat());
        assert_eq!(said.code, OUT_OF_TIME, "{arguments:?}: {}", said.stderr);
    };
    give_up(&[&server.url("/gate")]);
    server.open_gate();
    give_up(&["--limit-rate", "100k", "-o", "/dev/null", &server.url("/large")]);
    give_up(&["--limit-rate", "100k", "-H", "Expect:", "--data-binary", &at(&file), &server.url("/echo")]);
    assert_eq!(fetch(&[&server.url("/path/after")]).text(), "/path/after?");
    server.finish();
}

#[test]
fn an_uploaded_file_comes_whole() {
    let server = Served::start();
    upload(&server, UPLOAD);
    server.finish();
}

/// `curl -T` of a file of so many bytes.
fn upload(server: &Served, length: usize) {
    let file = known::file(length);
    let path = file.path().to_str().expect("a temporary file's name is UTF-8");
    for framing in ["X-No: change", "Transfer-Encoding: chunked"] {
        let said = fetch(&["-T", path, "-H", framing, &server.url("/known")]);
        assert_eq!(said.text(), format!("{length} bytes, known: true"), "{framing}");
    }
}
