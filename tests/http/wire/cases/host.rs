//! Host: exactly one, and what may stand in it.

use super::super::case::{Case, case, closed, ok, open, refused};

pub(super) fn cases() -> Vec<Case> {
    [which(), values(), absolute()].into_iter().flatten().collect()
}

/// A request with these lines, which say what its host is.
fn get(fields: &str) -> String {
    format!("GET /immediate HTTP/1.1\r\n{fields}\r\n")
}

fn which() -> Vec<Case> {
    let old = |fields: &str| format!("GET /immediate HTTP/1.0\r\n{fields}\r\n");
    vec![
        case("no Host", "9112 3.2", get(""), refused(400)).instead("400, open"),
        case("no Host, but other fields", "9112 3.2", get("X: 1\r\nHosts: h\r\n"), refused(400))
            .instead("400, open"),
        case("an empty Host", "9110 4.2.1", get("Host:\r\n"), refused(400)).instead("400, open"),
        case("a Host of white space", "9110 4.2.1", get("Host: \t\r\n"), refused(400)).instead("400, open"),
        case("a Host that is only a port", "9110 4.2.1", get("Host: :80\r\n"), refused(400))
            .instead("400, open"),
        case("two equal Hosts", "9112 3.2", get("Host: h\r\nHost: h\r\n"), refused(400)).instead("400, open"),
        case("two different Hosts", "9112 3.2", get("Host: h\r\nX: 1\r\nhost: g\r\n"), refused(400))
            .instead("400, open"),
        case("a second Host that is empty", "9112 3.2", get("Host: h\r\nHost:\r\n"), refused(400))
            .instead("400, open"),
        case(
            "Host after other fields, in another case",
            "9110 5.1",
            get("X: 1\r\nHOST: h\r\n"),
            open([ok("immediate")]),
        ),
        case("Host with white space before its colon", "9112 5.1", get("Host : h\r\n"), refused(400)),
        case("a folded Host", "9112 5.2", get("Host:\r\n h\r\n"), refused(400)),
        case("HTTP/1.0 without Host", "9112 3.2", old(""), closed([ok("immediate")])),
        case("HTTP/1.0 with two Hosts", "9112 3.2", old("Host: h\r\nHost: h\r\n"), refused(400)),
        case("HTTP/1.0 with a wrong Host", "9112 3.2", old("Host: a b\r\n"), refused(400)),
    ]
}

fn values() -> Vec<Case> {
    let good =
        |name, rfc, host: &str| case(name, rfc, get(&format!("Host: {host}\r\n")), open([ok("immediate")]));
    let wrong = |name, rfc, host: &str| case(name, rfc, get(&format!("Host: {host}\r\n")), refused(400));
    vec![
        good("Host with a port", "9110 7.2", "h:8080"),
        good("Host with an empty port", "3986 3.2.3", "h:"),
        good("Host that is an IPv4 address", "3986 3.2.2", "127.0.0.1:80"),
        good("Host that is an IPv6 address", "3986 3.2.2", "[::1]"),
        good("Host that is an IPv6 address with a port", "3986 3.2.2", "[::1]:80"),
        good("Host with an underscore", "3986 3.2.2", "a_b.example"),
        good("Host with percent-encoding", "3986 3.2.2", "a%20b"),
        good("Host with white space around it", "9112 5.1", " \th\t "),
        wrong("Host with a list", "9110 7.2", "h, g").instead("400, open"),
        wrong("Host with a space", "3986 3.2.2", "a b").instead("400, open"),
        wrong("Host with a user", "9110 7.2", "u@h").instead("400, open"),
        wrong("Host with a path", "9110 7.2", "h/p").instead("400, open"),
        wrong("Host with a scheme", "9110 7.2", "http://h").instead("400, open"),
        wrong("Host with a query", "9110 7.2", "h?q").instead("400, open"),
        wrong("Host with a port that is no number", "3986 3.2.3", "h:http").instead("400, open"),
        wrong("Host with two ports", "3986 3.2.3", "h:80:80").instead("400, open"),
        wrong("Host with a port that is negative", "3986 3.2.3", "h:-1").instead("400, open"),
        wrong("Host that is an open bracket", "3986 3.2.2", "[::1").instead("400, open"),
        wrong("Host that is no address between brackets", "3986 3.2.2", "[h]").instead("400, open"),
        wrong("Host with something after the bracket", "3986 3.2.2", "[::1]h").instead("400, open"),
        wrong("Host that is an IPv6 address without brackets", "3986 3.2.2", "::1").instead("400, open"),
        wrong("Host with wrong percent-encoding", "3986 2.1", "a%zz").instead("400, open"),
        wrong("Host with UTF-8", "3986 3.2.2", "h\u{e9}").instead("closed"),
        wrong("Host with a backslash", "3986 3.2.2", "h\\g").instead("400, open"),
        wrong("Host with a quote", "3986 3.2.2", "\"h\"").instead("400, open"),
    ]
}

fn absolute() -> Vec<Case> {
    let row = |name, fields: &str, outcome| {
        case(name, "9112 3.2.2", format!("GET http://h/path/a HTTP/1.1\r\n{fields}\r\n"), outcome)
    };
    vec![
        row("a target with another host than Host", "Host: g\r\n", open([ok("/path/a?")])),
        row("a target with a host and an empty Host", "Host:\r\n", open([ok("/path/a?")])),
        row("a target with a host and a Host that is only a port", "Host: :80\r\n", open([ok("/path/a?")])),
        row("a target with a host and no Host", "", refused(400)).instead("400, open"),
        row("a target with a host and two Hosts", "Host: h\r\nHost: h\r\n", refused(400))
            .instead("400, open"),
        row("a target with a host and a wrong Host", "Host: a b\r\n", refused(400)).instead("400, open"),
    ]
}
