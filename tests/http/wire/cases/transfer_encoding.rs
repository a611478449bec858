//! Which transfer codings there are, and which of them say where a body ends.

use super::super::case::{Case, case, ok, open, refused};
use super::post;

/// A body in chunks.
const HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";

pub(super) fn cases() -> Vec<Case> {
    [good(), values(), lines(), with_others()].into_iter().flatten().collect()
}

fn good() -> Vec<Case> {
    let row = |name, rfc, fields| case(name, rfc, post(fields, HELLO), open([ok("hello")]));
    vec![
        row("chunked", "9112 6.1", "Transfer-Encoding: chunked"),
        row("Chunked", "9112 7", "Transfer-Encoding: Chunked"),
        row("CHUNKED", "9112 7", "TRANSFER-ENCODING: CHUNKED"),
        row("chunked with white space around it", "9112 5.1", "Transfer-Encoding:\t chunked\t "),
        row("TE is about answers", "9110 10.1.4", "TE: trailers, gzip\r\nTransfer-Encoding: chunked"),
    ]
}

fn values() -> Vec<Case> {
    let row = |name, rfc, value: &str, status| {
        case(name, rfc, post(format!("Transfer-Encoding: {value}"), HELLO), refused(status))
    };
    vec![
        row("a coding before chunked", "9112 6.1", "gzip, chunked", 501).instead("501, 400, closed"),
        row("a coding with a parameter before chunked", "9112 6.1", "x;a=b, chunked", 501)
            .instead("501, 400, closed"),
        row("a coding after chunked", "9112 6.3", "chunked, gzip", 400).instead("400, 400, closed"),
        row("chunked twice in a list", "9112 6.1", "chunked, chunked", 400).instead("400, 400, closed"),
        row("chunked and identity", "9112 6.3", "chunked, identity", 400).instead("400, 400, closed"),
        row("another coding alone", "9112 6.3", "gzip", 400).instead("400, 400, closed"),
        row("identity alone", "9112 6.3", "identity", 400).instead("400, 400, closed"),
        row("xchunked", "9112 6.3", "xchunked", 400).instead("400, 400, closed"),
        row("chunkedx", "9112 6.3", "chunkedx", 400).instead("400, 400, closed"),
        row("chunk", "9112 6.3", "chunk", 400).instead("400, 400, closed"),
        row("chunked in quotes", "9112 6.3", "\"chunked\"", 400).instead("400, 400, closed"),
        row("chunked in single quotes", "9112 6.3", "'chunked'", 400).instead("400, 400, closed"),
        row("chunked with a parameter", "9112 7.1", "chunked;q=1", 400).instead("400, 400, closed"),
        row("chunked with a semicolon", "9112 7.1", "chunked;", 400).instead("400, 400, closed"),
        row("chunked with something after it", "9112 6.3", "chunked x", 400).instead("400, 400, closed"),
        row("chunked with something before it", "9112 6.3", "x chunked", 400).instead("400, 400, closed"),
        row("chunked after a vertical tab", "9110 5.5", "\x0bchunked", 400).instead("200, open"),
        row("chunked before a form feed", "9110 5.5", "chunked\x0c", 400).instead("200, open"),
        row("chunked before a NUL", "9110 5.5", "chunked\0", 400).instead("400, 400, closed"),
        row("chunked before a no-break space", "9112 6.3", "chunked\u{a0}", 400).instead("closed"),
        row("no coding", "9112 6.3", "", 400).instead("400, 400, closed"),
    ]
}

fn lines() -> Vec<Case> {
    let row = |name, rfc, fields: &str, status| case(name, rfc, post(fields, HELLO), refused(status));
    let two =
        |first: &str, second: &str| format!("Transfer-Encoding: {first}\r\nTransfer-Encoding: {second}");
    vec![
        row("chunked on two lines", "9112 6.1", &two("chunked", "chunked"), 400).instead("400, 400, closed"),
        row("a coding on the line before chunked", "9112 6.1", &two("gzip", "chunked"), 501)
            .instead("501, 400, closed"),
        row("identity on the line before chunked", "9112 6.1", &two("identity", "chunked"), 501)
            .instead("501, 400, closed"),
        row("a coding on the line after chunked", "9112 6.3", &two("chunked", "gzip"), 400)
            .instead("400, 400, closed"),
        row("identity on the line after chunked", "9112 6.3", &two("chunked", "identity"), 400)
            .instead("400, 400, closed"),
        row(
            "Transfer-Encoding with a space before its colon",
            "9112 5.1",
            "Transfer-Encoding : chunked",
            400,
        ),
        row("Transfer-Encoding with a tab before its colon", "9112 5.1", "Transfer-Encoding\t: chunked", 400),
        row("a folded Transfer-Encoding", "9112 5.2", "Transfer-Encoding:\r\n chunked", 400),
        row("a Transfer-Encoding that folds on", "9112 5.2", "Transfer-Encoding: chunked\r\n , gzip", 400),
        row(
            "Transfer-Encoding folded into another field",
            "9112 5.2",
            "X: 1\r\n Transfer-Encoding: chunked",
            400,
        )
        .instead("200, open"),
    ]
}

fn with_others() -> Vec<Case> {
    let old = |fields: &str| format!("POST /echo HTTP/1.0\r\n{fields}\r\n\r\n{HELLO}");
    let both = |name, fields: &str| case(name, "9112 6.1", post(fields, HELLO), refused(400));
    vec![
        both("Content-Length before chunked", "Content-Length: 15\r\nTransfer-Encoding: chunked")
            .instead("400, 400, closed"),
        both("Content-Length after chunked", "Transfer-Encoding: chunked\r\nContent-Length: 15")
            .instead("400, 400, closed"),
        both("Content-Length of 0 and chunked", "Content-Length: 0\r\nTransfer-Encoding: chunked")
            .instead("400, 400, closed"),
        both("Content-Length and another coding", "Content-Length: 15\r\nTransfer-Encoding: gzip")
            .instead("400, 400, closed"),
        case("chunked in HTTP/1.0", "9112 6.1", old("Transfer-Encoding: chunked"), refused(400)),
        case(
            "chunked in HTTP/1.0 with a length",
            "9112 6.1",
            old("Content-Length: 15\r\nTransfer-Encoding: chunked"),
            refused(400),
        ),
        case(
            "chunked in HTTP/1.0 that stays",
            "9112 6.1",
            old("Connection: keep-alive\r\nTransfer-Encoding: chunked"),
            refused(400),
        )
        .instead("400, 400, closed"),
    ]
}
