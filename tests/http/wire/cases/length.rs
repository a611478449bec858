//! Bodies with a length.

use super::super::case::{Case, case, closed, incomplete, ok, open, problem, refused};
use super::{NEXT, get, join, post};

pub(super) fn cases() -> Vec<Case> {
    [good(), wrong(), several(), around()].into_iter().flatten().collect()
}

fn good() -> Vec<Case> {
    let row = |name, rfc, fields, body: &str| case(name, rfc, post(fields, body), open([ok(body)]));
    vec![
        row("neither length nor coding: no body", "9112 6.3", "X: 1", ""),
        row("Content-Length of 0", "9110 8.6", "Content-Length: 0", ""),
        row("Content-Length", "9110 8.6", "Content-Length: 5", "hello"),
        row("Content-Length with leading zeros", "9110 8.6", "Content-Length: 0005", "hello"),
        row(
            "Content-Length with thirty leading zeros",
            "9110 8.6",
            "Content-Length: 0000000000000000000000000000005",
            "hello",
        ),
        row("Content-Length with white space around it", "9112 5.1", "Content-Length:\t 5 \t", "hello"),
        row("Content-Length in another case", "9110 5.1", "content-LENGTH: 5", "hello"),
    ]
}

fn wrong() -> Vec<Case> {
    let row = |name, value: &str| {
        case(name, "9112 6.3", post(format!("Content-Length: {value}"), "hello"), refused(400))
    };
    vec![
        row("Content-Length with a plus", "+5").instead("400, open"),
        row("Content-Length with a minus", "-1").instead("400, 501, open"),
        row("Content-Length of minus zero", "-0").instead("400, 501, open"),
        row("Content-Length in hexadecimal", "0x5").instead("400, 501, open"),
        row("Content-Length with a letter", "5a").instead("400, 501, open"),
        row("Content-Length with a fraction", "5.0").instead("400, 501, open"),
        row("Content-Length with an exponent", "5e0").instead("400, 501, open"),
        row("Content-Length with an underscore", "0_5").instead("400, 501, open"),
        row("Content-Length with a space in it", "0 5").instead("400, 501, open"),
        row("Content-Length with a semicolon", "5;").instead("400, 501, open"),
        row("Content-Length in quotes", "\"5\"").instead("400, 501, open"),
        row("Content-Length that is empty", "").instead("400, 501, open"),
        row("Content-Length in other digits", "\u{ff15}").instead("closed"),
        case(
            "Content-Length of twenty digits",
            "9110 8.6",
            post("Content-Length: 99999999999999999999", "hello"),
            refused(413),
        )
        .instead("413, 501, open"),
        case(
            "Content-Length of 2^64 and 5",
            "9110 8.6",
            post("Content-Length: 18446744073709551621", "hello"),
            refused(413),
        )
        .instead("413, 501, open"),
    ]
}

fn several() -> Vec<Case> {
    let row = |name, rfc, fields: &str| case(name, rfc, post(fields, "hello"), refused(400));
    vec![
        row("a list of two equal lengths", "9110 8.6", "Content-Length: 5, 5").instead("400, 501, open"),
        row("a list of two different lengths", "9112 6.3", "Content-Length: 5,6").instead("400, 501, open"),
        row("a list with an empty element", "9112 6.3", "Content-Length: 5,").instead("400, 501, open"),
        row("two equal Content-Lengths", "9110 8.6", "Content-Length: 5\r\nContent-Length: 5")
            .instead("400, open"),
        row("two different Content-Lengths", "9112 6.3", "Content-Length: 5\r\nContent-Length: 6")
            .instead("400, open"),
        row("a good Content-Length and an empty one", "9112 6.3", "Content-Length: 5\r\nContent-Length:")
            .instead("400, open"),
        row("Content-Length with white space before its colon", "9112 5.1", "Content-Length : 5"),
        row("a folded Content-Length", "9112 5.2", "Content-Length:\r\n 5"),
    ]
}

fn around() -> Vec<Case> {
    let five = post("Content-Length: 5", "hello");
    let old = "POST /echo HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello";
    let hides = format!("Content-Length: {}", NEXT.len());
    vec![
        case("a body that breaks off", "9112 8", post("Content-Length: 5", "hell"), incomplete()),
        case("a body that never comes", "9112 8", post("Content-Length: 5", ""), incomplete()),
        case(
            "the next request after a body",
            "9112 6.3",
            join([&five, NEXT]),
            open([ok("hello"), ok("/path/next?")]),
        ),
        case("a request in a body is a body", "9112 6.3", post(&hides, NEXT), open([ok(NEXT)])),
        case(
            "GET with a body",
            "9110 9.3.1",
            join([&get("Content-Length: 5"), b"hello"]),
            open([ok("immediate")]),
        ),
        case(
            "GET with a request in its body",
            "9110 9.3.1",
            join([&get(&hides), NEXT]),
            open([ok("immediate")]),
        ),
        case("Content-Length in HTTP/1.0", "9112 6.3", old, closed([ok("hello")])),
        case(
            "an empty line after a body, as clients of old sent it",
            "9112 2.2",
            join([&five, b"\r\n", NEXT]),
            open([ok("hello"), ok("/path/next?")]),
        )
        .instead("200, 400, closed"),
        case(
            "what comes after a body that is too long is refused",
            "9112 6.3",
            post("Content-Length: 5", "hello<html>\r\n\r\n"),
            closed([ok("hello"), problem(400)]),
        ),
    ]
}
