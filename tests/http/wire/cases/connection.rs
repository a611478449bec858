//! How long connections stay, pipelining, and expectations.

use super::super::case::{
    Case, case, closed, empty, ok, open, problem, proceed, proceed_unless_sent, refused,
};
use super::{NEXT, get, join, line, post};

pub(super) fn cases() -> Vec<Case> {
    [persistence(), old_persistence(), pipelines(), after_errors(), expectations(), expectations_refused()]
        .into_iter()
        .flatten()
        .collect()
}

fn persistence() -> Vec<Case> {
    let kept = |name, rfc, fields: &str| {
        case(name, rfc, join([&get(fields), NEXT]), open([ok("immediate"), ok("/path/next?")]))
    };
    let last =
        |name, rfc, fields: &str| case(name, rfc, join([&get(fields), NEXT]), closed([ok("immediate")]));
    vec![
        case("one request after the other", "9112 9.3", NEXT, open([ok("/path/next?")]))
            .after(get("X: 1"), [ok("immediate")]),
        kept("Connection: keep-alive in HTTP/1.1", "9112 9.3", "Connection: keep-alive"),
        kept("Connection with a word that is not close", "9110 7.6.1", "Connection: closed, not-close")
            .instead("200, closed"),
        kept("an upgrade that is not wanted", "9110 7.8", "Connection: Upgrade\r\nUpgrade: websocket")
            .instead("200, closed"),
        kept(
            "an upgrade to HTTP/2 that is not wanted",
            "9110 7.8",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        )
        .instead("200, closed"),
        kept("Proxy-Connection is no Connection", "9110 7.6.1", "Proxy-Connection: close"),
        last("Connection: close", "9112 9.6", "Connection: close"),
        last("Connection: Close", "9110 7.6.1", "connection: Close"),
        last("close in a list", "9110 7.6.1", "Connection: x ,\tclose,y"),
        last("close in a list with empty elements", "9110 5.6.1.2", "Connection: , close ,,"),
        last("close and keep-alive", "9112 9.3", "Connection: keep-alive, close"),
        last("close on the second of two lines", "9110 5.3", "Connection: x\r\nConnection: close")
            .instead("200, 200, open"),
        case(
            "close after a worker's answer",
            "9112 9.6",
            join([&post("Connection: close\r\nContent-Length: 5", "hello"), NEXT]),
            closed([ok("hello")]),
        ),
    ]
}

fn old_persistence() -> Vec<Case> {
    let old = |fields: &str| format!("GET /immediate HTTP/1.0\r\n{fields}\r\n");
    let kept = || open([ok("immediate").kept(), ok("/path/next?")]);
    vec![
        case("HTTP/1.0 is closed", "9112 9.3", join([old("").as_bytes(), NEXT]), closed([ok("immediate")])),
        case(
            "HTTP/1.0 with keep-alive",
            "9112 9.3",
            join([old("Connection: keep-alive\r\n").as_bytes(), NEXT]),
            kept(),
        ),
        case(
            "HTTP/1.0 with Keep-Alive",
            "9110 7.6.1",
            join([old("Connection: Keep-Alive\r\n").as_bytes(), NEXT]),
            kept(),
        ),
        case(
            "HTTP/1.0 with keep-alive and close",
            "9112 9.3",
            join([old("Connection: keep-alive, close\r\n").as_bytes(), NEXT]),
            closed([ok("immediate")]),
        ),
        case(
            "HTTP/1.0 with the field Keep-Alive alone",
            "9112 9.3",
            join([old("Keep-Alive: timeout=5\r\n").as_bytes(), NEXT]),
            closed([ok("immediate")]),
        ),
        case(
            "HTTP/1.0 with keep-alive, answered by a worker",
            "9112 9.3",
            "GET /path/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            open([ok("/path/a?").kept()]),
        ),
    ]
}

fn pipelines() -> Vec<Case> {
    let five = post("Content-Length: 5", "hello");
    vec![
        case(
            "three pipelined requests",
            "9112 9.3.2",
            join([NEXT, &get("X: 1"), &five]),
            open([ok("/path/next?"), ok("immediate"), ok("hello")]),
        ),
        case(
            "pipelined bodies with lengths and chunks",
            "9112 9.3.2",
            join([&five, &post("Transfer-Encoding: chunked", "2\r\nhi\r\n0\r\n\r\n"), &five]),
            open([ok("hello"), ok("hi"), ok("hello")]),
        ),
        case(
            "the second of three closes",
            "9112 9.6",
            join([NEXT, &get("Connection: close"), NEXT]),
            closed([ok("/path/next?"), ok("immediate")]),
        ),
        case(
            "the second of three is refused",
            "9112 9.3.2",
            join([NEXT, &get("X : 1"), NEXT]),
            closed([ok("/path/next?"), problem(400)]),
        ),
        case(
            "the second of three has a wrong body",
            "9112 9.3.2",
            join([NEXT, &post("Transfer-Encoding: chunked", "x\r\n"), NEXT]),
            closed([ok("/path/next?"), problem(400)]),
        )
        .instead("200, 400, 200, open"),
        case(
            "the first of two is refused",
            "9112 9.3.2",
            join([&line("GET /immediate HTTP/9.9"), NEXT]),
            refused(505),
        )
        .instead("400, closed"),
        case(
            "HTTP/1.0 in the middle",
            "9112 9.3",
            join([NEXT, b"GET /immediate HTTP/1.0\r\n\r\n", NEXT]),
            closed([ok("/path/next?"), ok("immediate")]),
        ),
    ]
}

/// An answer that is an error is an answer: where the request ends is known, and the next one is read.
fn after_errors() -> Vec<Case> {
    let row = |name, rfc, first: &str, status| {
        case(name, rfc, join([first.as_bytes(), NEXT]), open([problem(status), ok("/path/next?")]))
    };
    vec![
        row("after 404", "9112 9.3", "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        row(
            "after 404 for GET with a body",
            "9112 6.3",
            "GET /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
            404,
        ),
        row(
            "after 404 for POST with chunks",
            "9112 7.1",
            "POST /nowhere HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            404,
        )
        .instead("404, 400, closed"),
        row(
            "after 501 with a body",
            "9112 6.3",
            "BREW /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
            501,
        ),
        case(
            "after 405 with a body",
            "9112 6.3",
            join([b"PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", NEXT]),
            open([problem(405).allow("POST, OPTIONS"), ok("/path/next?")]),
        ),
        case(
            "after 404 with Connection: close",
            "9112 9.6",
            join([b"GET /nowhere HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", NEXT]),
            closed([problem(404)]),
        ),
        case(
            "after OPTIONS with a body",
            "9110 9.3.7",
            join([b"OPTIONS * HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", NEXT]),
            open([empty(204), ok("/path/next?")]),
        )
        .instead("204 with a length, 200, open"),
    ]
}

fn expectations() -> Vec<Case> {
    let waits = |name, fields: &str, body: &str| {
        case(name, "9110 10.1.1", body, open([ok("hello")])).after(post(fields, ""), [proceed()])
    };
    let sent = |name, bytes: Vec<u8>, outcome| case(name, "9110 10.1.1", bytes, outcome);
    vec![
        waits("Expect before a body with a length", "Expect: 100-continue\r\nContent-Length: 5", "hello")
            .instead("100 with a length, 200, open"),
        waits(
            "Expect before a body in chunks",
            "Expect: 100-continue\r\nTransfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\n\r\n",
        )
        .instead("100 with a length, 200, open"),
        waits("Expect: 100-Continue", "expect: 100-Continue\r\nContent-Length: 5", "hello")
            .instead("100 with a length, 200, open"),
        sent(
            "Expect with a body that is there",
            post("Expect: 100-continue\r\nContent-Length: 5", "hello"),
            open([proceed_unless_sent(), ok("hello")]),
        )
        .instead("100, 200, open"),
        sent("Expect without a body", get("Expect: 100-continue"), open([ok("immediate")])),
        sent(
            "Expect with a body of 0",
            post("Expect: 100-continue\r\nContent-Length: 0", ""),
            open([ok("")]),
        )
        .instead("100, 200, open"),
        sent(
            "Expect in HTTP/1.0",
            b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello".to_vec(),
            closed([ok("hello")]),
        )
        .instead("100, 200, closed"),
    ]
}

fn expectations_refused() -> Vec<Case> {
    let to = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    };
    let unknown = |value: &str| post(format!("Expect: {value}\r\nContent-Length: 5"), "hello");
    vec![
        case("Expect where nothing is", "9110 10.1.1", to("/nowhere"), refused(404))
            .instead("404, 400, closed"),
        case(
            "Expect where the method is not allowed",
            "9110 10.1.1",
            to("/immediate"),
            closed([problem(405).allow("GET, HEAD, OPTIONS")]),
        )
        .instead("405, 400, closed"),
        case("another expectation", "9110 10.1.1", unknown("200-ok"), refused(417)),
        case(
            "another expectation beside the known one",
            "9110 10.1.1",
            unknown("100-continue, x"),
            refused(417),
        ),
        case(
            "Expect before a body that is too long",
            "9110 10.1.1",
            post("Expect: 100-continue\r\nContent-Length: 1001", ""),
            refused(413),
        )
        .instead("413, no answer"),
        case(
            "Expect before a body that nobody can find the end of",
            "9110 10.1.1",
            post("Expect: 100-continue\r\nTransfer-Encoding: gzip", ""),
            refused(400),
        )
        .instead("400, open"),
    ]
}
