//! HTTP/1.1 on a real socket: framing, pipelining, bodies, and clients that are slow or wrong.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod hostile;
mod limits;
mod memory;
mod proxies;
mod streaming;
mod wire;

use std::io::Read as _;
use std::time::Duration;

use support::{Client, default_config};
use wharf::config::{Config, Connector};
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::{Running, Server};

const BOTH: [Connector; 2] = [Connector::Native, Connector::TinyHttp];
const LARGE: usize = 20 << 20;

fn echo(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text(request.body().clone()))
}

fn path(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text(format!("{}?{}", request.path(), request.query())))
}

fn large(_: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text(vec![b'x'; LARGE]))
}

fn serve(change: impl FnOnce(&mut Config)) -> Running {
    let mut config = default_config();
    config.server.workers = Some(1);
    config.http.max_body_bytes = 100_000;
    change(&mut config);
    let server = Server::new(config).expect("no database to open");
    let immediate = |_: &Request| Response::text("immediate");
    let server = server.post("/echo", echo).get("/path/{*rest}", path).get("/large", large);
    server.get_immediate("/immediate", immediate).start().expect("a free port")
}

fn native() -> Running {
    serve(|_| {})
}

/// Sends bytes on a connection of their own and returns the statuses that come back until it is closed.
fn statuses(server: &Running, bytes: &[u8]) -> Vec<u16> {
    let mut client = Client::connect(server.address());
    client.send(bytes);
    client.finish_sending();
    let all = String::from_utf8(client.rest()).expect("text");
    all.split("\r\n").filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()).collect()
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    for connector in BOTH {
        let server = serve(|config| config.server.connector = connector);
        let mut client = Client::connect(server.address());
        for count in 0..3 {
            client.request("GET", &format!("/path/{count}?q={count}"), &[], "");
            assert_eq!(client.answer().text(), format!("/path/{count}?q={count}"));
            client.request("POST", "/echo", &[], "body");
            assert_eq!(client.answer().text(), "body");
        }
        client.request("GET", "/path/last", &[("Connection", "close")], "");
        let answer = client.answer();
        assert_eq!(answer.status, 200);
        // tiny_http closes without saying so.
        assert!(connector == Connector::TinyHttp || answer.header("Connection") == Some("close"));
        assert!(client.is_closed());
    }
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = native();
    let mut client = Client::connect(server.address());
    for count in 0..200 {
        client.send(format!("GET /path/{count} HTTP/1.1\r\nHost: h\r\n\r\n"));
        client.send("GET /immediate HTTP/1.1\r\nHost: h\r\n\r\n");
        client.send(format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n{count:05}"));
    }
    for count in 0..200 {
        assert_eq!(client.answer().text(), format!("/path/{count}?"));
        assert_eq!(client.answer().text(), "immediate");
        assert_eq!(client.answer().text(), format!("{count:05}"));
    }
}

#[test]
fn many_pipelined_immediate_answers_do_not_overrun_a_client_that_reads_late() {
    const COUNT: usize = 20_000;
    let server = native();
    let mut client = Client::connect(server.address());
    let wire = "GET /immediate HTTP/1.1\r\nHost: h\r\n\r\n".repeat(COUNT);
    let mut sending = client.stream().try_clone().expect("a socket can be cloned");
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut sending, wire.as_bytes()));
    for _ in 0..COUNT {
        assert_eq!(client.answer().text(), "immediate");
    }
    sender.join().expect("no panic").expect("everything was sent");
}

#[test]
fn requests_may_come_a_byte_at_a_time() {
    let server = native();
    let mut client = Client::connect(server.address());
    let wire = b"\r\nPOST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n\
                 GET /path/x HTTP/1.1\r\nHost: h\r\n\r\n";
    for byte in wire {
        client.send([*byte]);
    }
    assert_eq!(client.answer().text(), "abcde");
    assert_eq!(client.answer().text(), "/path/x?");
}

#[test]
fn bodies_come_whole_with_a_length_and_chunked() {
    for connector in BOTH {
        let server = serve(|config| config.server.connector = connector);
        let body = "0123456789".repeat(10_000);
        let mut client = Client::connect(server.address());
        client.request("POST", "/echo", &[], &body);
        assert_eq!(client.answer().text(), body);
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        for part in body.as_bytes().chunks(7001) {
            client.send(format!("{:x}\r\n", part.len()));
            client.send(part);
            client.send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.answer().text(), body);
    }
}

#[test]
fn continue_is_said_only_when_the_body_is_wanted() {
    let server = native();
    let mut client = Client::connect(server.address());
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.answer().status, 100);
    client.send("body");
    assert_eq!(client.answer().text(), "body");
    client.send("POST /nowhere HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("Connection")), (404, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn head_has_the_length_and_no_body() {
    for connector in BOTH {
        let server = serve(|config| config.server.connector = connector);
        let mut client = Client::connect(server.address());
        client.request("HEAD", "/path/abc", &[], "");
        assert_eq!(client.head_answer().header("Content-Length"), Some("10"));
        client.request("GET", "/path/abc", &[], "");
        assert_eq!(client.answer().text(), "/path/abc?");
    }
}

#[test]
fn http_1_0_is_closed_unless_it_asks_otherwise() {
    let server = native();
    let mut client = Client::connect(server.address());
    client.send("GET /immediate HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer().header("Connection"), Some("keep-alive"));
    client.send("GET /immediate HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().header("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn a_malformed_request_is_refused_with_its_own_status_and_the_connection_closed() {
    let server = native();
    for (wire, expected) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], 400),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100001\r\n\r\n", 413),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nFFFFF\r\n", 413),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"BREW /immediate HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 501),
        (b"DELETE /immediate HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 405),
    ] {
        assert_eq!(statuses(&server, wire), [expected], "{:?}", String::from_utf8_lossy(wire));
    }
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(20_000));
    assert_eq!(statuses(&server, long.as_bytes()), [414]);
    let large = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    assert_eq!(statuses(&server, large.as_bytes()), [431]);
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: a\r\n".repeat(200));
    assert_eq!(statuses(&server, many.as_bytes()), [431]);
    // The bytes after a refused request are not read as another request.
    let smuggled = b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\nGET /immediate HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(statuses(&server, smuggled), [400]);
}

/// A refusal was encoded without a look at the method, so that the next answer would have begun with its content.
#[test]
fn a_refused_head_has_no_content() {
    let server = native();
    for (wire, status) in [
        ("HEAD /immediate HTTP/1.1\r\n\r\n", 400),
        ("HEAD /immediate HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n", 413),
        ("HEAD /immediate HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx", 400),
    ] {
        let mut client = Client::connect(server.address());
        client.send(wire);
        assert_eq!(client.head_answer().status, status, "{wire}");
        assert!(client.is_closed(), "{wire}");
    }
}

#[test]
fn a_413_reaches_a_client_that_is_still_sending() {
    let server = native();
    let mut client = Client::connect(server.address());
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
    let mut sending = client.stream().try_clone().expect("a socket can be cloned");
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut sending, &vec![b'x'; 1_000_000]));
    assert_eq!(client.answer().status, 413);
    sender.join().expect("no panic").expect("the server read on, so nothing was reset");
}

#[test]
fn a_client_that_dribbles_is_answered_408() {
    for wire in ["GET /", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"] {
        let server = serve(|config| {
            config.http.head_timeout = Duration::from_millis(50);
            config.http.body_timeout = Duration::from_millis(50);
        });
        let mut client = Client::connect(server.address());
        client.send(wire);
        assert_eq!(client.answer().status, 408, "{wire}");
        assert!(client.is_closed());
    }
}

#[test]
fn idle_connections_are_closed_in_time() {
    let server = serve(|config| config.http.idle_timeout = Duration::from_millis(50));
    let mut client = Client::connect(server.address());
    for path in ["/immediate", "/path/x"] {
        client.request("GET", path, &[], "");
        assert_eq!(client.answer().status, 200);
    }
    assert!(client.is_closed());
    let server = serve(|config| config.http.head_timeout = Duration::from_millis(50));
    assert!(Client::connect(server.address()).is_closed(), "a client that never says anything");
}

#[test]
fn a_slow_reader_holds_no_worker_and_still_gets_every_byte() {
    let server = native();
    let mut slow = Client::connect(server.address());
    slow.request("GET", "/large", &[], "");
    // The only worker has written what the socket took; it is free for others while the slow one has read nothing.
    let mut other = Client::connect(server.address());
    for _ in 0..10 {
        other.request("GET", "/path/other", &[], "");
        assert_eq!(other.answer().text(), "/path/other?");
    }
    let answer = slow.answer();
    assert_eq!(answer.body.len(), LARGE);
    slow.request("GET", "/path/after", &[], "");
    assert_eq!(slow.answer().text(), "/path/after?", "the connection goes on");
}

#[test]
fn a_client_that_never_reads_is_cut_off_in_time() {
    let server = serve(|config| config.http.write_timeout = Duration::from_millis(50));
    let mut client = Client::connect(server.address());
    client.request("GET", "/large", &[], "");
    // Without reading its answer, wait until the server has closed the connection: another request is refused with a
    // reset, or what was in the buffers ends early.
    let mut ended = client.stream().try_clone().expect("a socket can be cloned");
    let mut watcher = Client::connect(server.address());
    watcher.request("GET", "/path/x", &[], "");
    assert_eq!(watcher.answer().status, 200);
    support::wait_until("the connection stays", || server.metrics().open_connections() <= 1);
    let mut received = Vec::new();
    // Either a reset or an early end.
    let _ = ended.read_to_end(&mut received);
    assert!(received.len() < LARGE);
}

#[test]
fn a_client_that_leaves_is_forgotten() {
    let server = native();
    for part in ["", "GET / HT", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nab"] {
        let mut client = Client::connect(server.address());
        client.send(part);
    }
    let mut client = Client::connect(server.address());
    client.request("GET", "/path/x", &[], "");
    assert_eq!(client.answer().status, 200);
    support::wait_until("connections stay", || server.metrics().open_connections() <= 1);
}

/// `/%7Ex` was not found where `/~x` is a route (RFC 3986 section 6.2.2.2), and `path_value` was still encoded.
#[test]
fn a_path_is_found_however_its_letters_are_encoded() {
    let name = |request: &Request, _: &mut Context<'_>| {
        let [name, raw] = [request.path_value("name"), request.raw_path_value("name")];
        Ok::<_, Error>(Response::text(format!(
            "{} {} {}",
            request.path(),
            name.unwrap_or("-"),
            raw.unwrap_or("-")
        )))
    };
    let mut config = default_config();
    config.server.workers = Some(1);
    let server = Server::new(config).expect("no database to open");
    let server = server
        .get("/~x/{name}", name)
        .get("/gr\u{f6}\u{df}e", name)
        .get("/a%2fb", name)
        .start()
        .expect("a free port");
    let ask = |path: &str| support::ask(&server, path).answer();
    for (path, text) in [
        ("/~x/Ada", "/~x/Ada Ada Ada"),
        ("/%7Ex/Ada%20L", "/%7Ex/Ada%20L Ada L Ada%20L"),
        ("/%7ex/%41da", "/%7ex/%41da Ada %41da"),
        ("/~x/a%2Fb", "/~x/a%2Fb a/b a%2Fb"),
        ("/~x/%FF", "/~x/%FF %FF %FF"),
        ("/gr%C3%B6%C3%9Fe", "/gr%C3%B6%C3%9Fe - -"),
        ("/gr%c3%b6%c3%9fe", "/gr%c3%b6%c3%9fe - -"),
        ("/a%2Fb", "/a%2Fb - -"),
    ] {
        assert_eq!(ask(path).text(), text, "{path}");
    }
    for path in ["/a/b", "/~x/a/b", "/%2F~x/a", "/gr%C3%B6%C3%9FE"] {
        assert_eq!(ask(path).status, 404, "{path}");
    }
}
