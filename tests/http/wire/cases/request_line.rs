//! Methods, targets, versions, and what comes before them.

use super::super::case::{Case, case, closed, empty, incomplete, ok, open, problem, refused};
use super::{NEXT, join, line};

pub(super) fn cases() -> Vec<Case> {
    [methods(), targets(), absolute_targets(), wrong_targets(), spaces(), versions(), before()]
        .into_iter()
        .flatten()
        .collect()
}

fn methods() -> Vec<Case> {
    let not_implemented = || open([problem(501)]);
    vec![
        case("GET", "9110 9.3.1", line("GET /immediate HTTP/1.1"), open([ok("immediate")])),
        case("POST", "9110 9.3.3", line("POST /echo HTTP/1.1"), open([ok("")])),
        case("an unknown method", "9110 9.1", line("BREW /immediate HTTP/1.1"), not_implemented()),
        case(
            "a method in lower case is another one",
            "9110 9.1",
            line("get /immediate HTTP/1.1"),
            not_implemented(),
        ),
        case(
            "a method of every kind of character",
            "9110 5.6.2",
            line("!#$%&'*+-.^_`|~aA0 / HTTP/1.1"),
            not_implemented(),
        ),
        case("a parenthesis in the method", "9112 3.1", line("GE(T /immediate HTTP/1.1"), refused(400))
            .instead("400, open"),
        case("a colon after the method", "9112 3.1", line("GET: /immediate HTTP/1.1"), refused(400))
            .instead("400, open"),
        case("a byte over 0x7f in the method", "9112 3.1", line(b"G\xcbT /immediate HTTP/1.1"), refused(400))
            .instead("closed"),
        case("a NUL in the method", "9112 3.1", line("G\0T /immediate HTTP/1.1"), refused(400))
            .instead("400, open"),
        case("a quote before the method", "9112 3.1", line("\"GET /immediate HTTP/1.1"), refused(400))
            .instead("400, open"),
        case("a status line", "9112 3.1", "HTTP/1.1 200 OK\r\n\r\n", refused(400)),
    ]
}

fn targets() -> Vec<Case> {
    let echoed = |target: &str, answer: &str| (line(format!("GET {target} HTTP/1.1")), open([ok(answer)]));
    let row = |name, rfc, (bytes, outcome)| case(name, rfc, bytes, outcome);
    vec![
        row("a path and a query", "9112 3.2.1", echoed("/path/a?b=c", "/path/a?b=c")),
        row("an empty query", "3986 3.4", echoed("/path/a?", "/path/a?")),
        row("a question mark in the query", "3986 3.4", echoed("/path/a?b?/c", "/path/a?b?/c")),
        row("percent-encoding stays", "3986 2.2", echoed("/path/a%2Fb%3fc", "/path/a%2Fb%3fc?")),
        row(
            "every character of a path",
            "3986 3.3",
            echoed("/path/-._~!$&'()*+,;=:@", "/path/-._~!$&'()*+,;=:@?"),
        ),
        row("an empty segment", "3986 3.3", echoed("/path//a/", "/path//a/?")),
        case(
            "two slashes at the start are a path",
            "9112 3.2.1",
            line("GET //immediate HTTP/1.1"),
            open([problem(404)]),
        ),
        case(
            "a path in another case is another one",
            "3986 6.2.2.1",
            line("GET /IMMEDIATE HTTP/1.1"),
            open([problem(404)]),
        ),
        case("the asterisk with OPTIONS", "9112 3.2.4", line("OPTIONS * HTTP/1.1"), open([empty(204)]))
            .instead("204 with a length, open"),
        case("the asterisk with GET", "9112 3.2.4", line("GET * HTTP/1.1"), refused(400))
            .instead("400, open"),
        case("more than an asterisk", "9112 3.2.4", line("OPTIONS *a HTTP/1.1"), refused(400))
            .instead("400, open"),
        case("CONNECT to a host and port", "9110 9.3.6", line("CONNECT h:80 HTTP/1.1"), refused(501))
            .instead("501, open"),
        case("CONNECT without a port", "9110 9.3.6", line("CONNECT h HTTP/1.1"), refused(400))
            .instead("400, open"),
        case("CONNECT with an empty port", "9110 9.3.6", line("CONNECT h: HTTP/1.1"), refused(400))
            .instead("400, open"),
        case("CONNECT to a path", "9112 3.2.3", line("CONNECT /immediate HTTP/1.1"), refused(400))
            .instead("400, open"),
        case("a host and port with GET", "9112 3.2.3", line("GET h:80 HTTP/1.1"), refused(400))
            .instead("400, open"),
    ]
}

fn absolute_targets() -> Vec<Case> {
    let get = |target: &str| line(format!("GET {target} HTTP/1.1"));
    let echoed = || open([ok("/path/a?b")]);
    vec![
        case("an absolute target", "9112 3.2.2", get("http://h/path/a?b"), echoed()),
        case("an absolute target with a port", "9112 3.2.2", get("http://h:80/path/a?b"), echoed()),
        case("an absolute target with an address", "3986 3.2.2", get("http://[::1]:80/path/a?b"), echoed()),
        case("an absolute target of https, from a gateway", "9110 7.4", get("https://h/path/a?b"), echoed()),
        case("the scheme in upper case", "3986 3.1", get("HTTP://h/path/a?b"), echoed()),
        case("an absolute target without a path", "9110 4.2.3", get("http://h"), open([ok("root")])),
        case("an absolute target with only a query", "9110 4.2.3", get("http://h?b"), open([ok("root")])),
        case(
            "OPTIONS of a whole server, absolute",
            "9110 4.2.3",
            line("OPTIONS http://h HTTP/1.1"),
            open([empty(204)]),
        )
        .instead("204 with a length, open"),
        case("an absolute target without a host", "9110 4.2.1", get("http:///immediate"), refused(400))
            .instead("400, open"),
        case("an absolute target with only a port", "9110 4.2.1", get("http://:80/immediate"), refused(400))
            .instead("400, open"),
        case("an absolute target with a user", "9110 4.2.4", get("http://u@h/immediate"), refused(400))
            .instead("400, open"),
        case("an absolute target with a wrong port", "3986 3.2.3", get("http://h:x/immediate"), refused(400))
            .instead("400, open"),
        case(
            "an absolute target with a wrong address",
            "3986 3.2.2",
            get("http://[::1/immediate"),
            refused(400),
        )
        .instead("400, open"),
        case("another scheme", "9110 7.4", get("ftp://h/immediate"), refused(400)).instead("400, open"),
    ]
}

fn wrong_targets() -> Vec<Case> {
    let get = |target: &[u8]| line(join([b"GET ", target, b" HTTP/1.1"]));
    vec![
        case("a target without a slash", "9112 3.2", get(b"immediate"), refused(400)).instead("400, open"),
        case("a host and path without a scheme", "9112 3.2", get(b"h/immediate"), refused(400))
            .instead("400, open"),
        case("a query without a path", "9112 3.2.1", get(b"?b"), refused(400)).instead("400, open"),
        case("a fragment", "9112 3.2.1", get(b"/immediate#f"), refused(400)).instead("400, open"),
        case("a fragment in an absolute target", "9112 3.2.2", get(b"http://h/immediate#f"), refused(400))
            .instead("400, open"),
        case("a NUL in the target", "3986 2", get(b"/immediate\0"), refused(400)).instead("400, open"),
        case("a control byte in the target", "3986 2", get(b"/imm\x01ediate"), refused(400))
            .instead("400, open"),
        case("a DEL in the target", "3986 2", get(b"/imm\x7fediate"), refused(400)).instead("400, open"),
        case("a tab in the target", "3986 2", get(b"/imm\tediate"), refused(400)).instead("400, open"),
        case("UTF-8 in the target", "3986 2", get(b"/path/\xc3\xa9"), refused(400)).instead("closed"),
        case("a byte of no encoding in the target", "3986 2", get(b"/path/\xff"), refused(400))
            .instead("closed"),
    ]
}

fn spaces() -> Vec<Case> {
    vec![
        case("an empty target", "9112 3", line("GET  HTTP/1.1"), refused(400)).instead("400, open"),
        case("two spaces before the target", "9112 3", line("GET  /immediate HTTP/1.1"), refused(400)),
        case("two spaces before the version", "9112 3", line("GET /immediate  HTTP/1.1"), refused(400)),
        case("a space in the target", "9112 3.2", line("GET /imm ediate HTTP/1.1"), refused(400)),
        case("a space after the version", "9112 3", line("GET /immediate HTTP/1.1 "), refused(400))
            .instead("200, open"),
        case("a space before the method", "9112 3", line(" GET /immediate HTTP/1.1"), refused(400))
            .instead("200, open"),
        case("a tab before the target", "9112 3", line("GET\t/immediate HTTP/1.1"), refused(400)),
        case("a tab before the version", "9112 3", line("GET /immediate\tHTTP/1.1"), refused(400)),
        case("a vertical tab before the target", "9112 3", line("GET\x0b/immediate HTTP/1.1"), refused(400)),
        case("a method alone", "9112 3", line("GET"), refused(400)),
        case("no method", "9112 3", line("/immediate HTTP/1.1"), refused(400)),
        case(
            "a carriage return before the version",
            "9112 2.2",
            line("GET /immediate\rHTTP/1.1"),
            refused(400),
        ),
    ]
}

fn versions() -> Vec<Case> {
    let get = |version: &str| line(format!("GET /immediate {version}"));
    vec![
        case("HTTP/1.0", "9112 9.3", get("HTTP/1.0"), closed([ok("immediate")])),
        case("HTTP/1.2 is read as HTTP/1.1", "9110 2.5", get("HTTP/1.2"), open([ok("immediate")]))
            .instead("400, closed"),
        case("HTTP/1.9 is read as HTTP/1.1", "9110 2.5", get("HTTP/1.9"), open([ok("immediate")]))
            .instead("400, closed"),
        case("HTTP/0.9", "9110 15.6.6", get("HTTP/0.9"), refused(505)).instead("no answer"),
        case("HTTP/2.0", "9110 15.6.6", get("HTTP/2.0"), refused(505)).instead("no answer"),
        case("HTTP/9.9", "9110 15.6.6", get("HTTP/9.9"), refused(505)).instead("400, closed"),
        case("HTTP/1.10", "9112 2.3", get("HTTP/1.10"), refused(400)),
        case("HTTP/11.1", "9112 2.3", get("HTTP/11.1"), refused(400)),
        case("HTTP/01.1", "9112 2.3", get("HTTP/01.1"), refused(400)),
        case("HTTP/1", "9112 2.3", get("HTTP/1"), refused(400)),
        case("HTTP/1.", "9112 2.3", get("HTTP/1."), refused(400)),
        case("HTTP/1,1", "9112 2.3", get("HTTP/1,1"), refused(400)),
        case("HTTP/1.x", "9112 2.3", get("HTTP/1.x"), refused(400)),
        case("http/1.1", "9112 2.3", get("http/1.1"), refused(400)),
        case("HTTQ/1.1", "9112 2.3", get("HTTQ/1.1"), refused(400)),
        case("no version", "9112 3", line("GET /immediate"), refused(400)),
        case("no version, and no header either", "9112 3", "GET /immediate\r\n\r\n", refused(400)),
        case("the HTTP/2 preface", "9110 15.6.6", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", refused(505))
            .instead("no answer"),
    ]
}

fn before() -> Vec<Case> {
    let good = line("GET /immediate HTTP/1.1");
    let immediate = || open([ok("immediate")]);
    // TLS 1.2's first record: a handshake of 47 bytes, ClientHello, whose random bytes have line ends in them.
    let hello = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03\r\n\r\nGET / HTTP/1.1\r\n\r\n01234567\x00\x00\x04\x13\x01\x00\xff";
    vec![
        case("an empty line before the request", "9112 2.2", join([b"\r\n", &good]), immediate())
            .instead("400, closed"),
        case(
            "five empty lines before the request",
            "9112 2.2",
            join([b"\r\n\r\n\r\n\r\n\r\n", &good]),
            immediate(),
        )
        .instead("400, closed"),
        case("a bare LF before the request", "9112 2.2", join([b"\n", &good]), refused(400))
            .instead("200, open"),
        case("a bare CR before the request", "9112 2.2", join([b"\r", &good]), refused(400))
            .instead("200, open"),
        case("a line of white space before the request", "9112 2.2", join([b" \r\n", &good]), refused(400)),
        case(
            "an empty line between two requests",
            "9112 2.2",
            join([&good, b"\r\n", NEXT]),
            open([ok("immediate"), ok("/path/next?")]),
        )
        .instead("200, 400, closed"),
        case("nothing but empty lines", "9112 2.2", "\r\n\r\n", incomplete()).instead("400, closed"),
        case("a request line that breaks off", "9112 8", "GET /imm", incomplete()),
        case("a head that breaks off", "9112 8", "GET /immediate HTTP/1.1\r\nHost: h\r\n", incomplete()),
        case("a TLS ClientHello", "9112 3", hello, refused(400)),
        case("another protocol's greeting", "9112 3", "SSH-2.0-OpenSSH_9.2\r\n\r\n", refused(400)),
        case("a NUL", "9112 3", "\0", refused(400)).instead("no answer"),
    ]
}
