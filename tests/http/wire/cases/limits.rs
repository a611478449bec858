//! How much is accepted, to the byte.

use super::super::case::{Case, case, ok, open, refused};
use super::super::server::{MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES};
use super::{get, line, post};

pub(super) fn cases() -> Vec<Case> {
    [heads(), counts(), request_lines(), bodies()].into_iter().flatten().collect()
}

/// A head of this many bytes.
fn head_of(bytes: usize) -> Vec<u8> {
    let without = get("X: ").len();
    get(format!("X: {}", "a".repeat(bytes - without)))
}

fn heads() -> Vec<Case> {
    let unfinished = |bytes: usize| head_of(bytes + 4)[..bytes].to_vec();
    let row = |name, bytes: Vec<u8>| case(name, "6585 5", bytes, refused(431));
    let mut late_line_feed = head_of(MAX_HEAD_BYTES + 100);
    late_line_feed[MAX_HEAD_BYTES + 50] = b'\n';
    vec![
        case("a head as long as it may be", "6585 5", head_of(MAX_HEAD_BYTES), open([ok("immediate")])),
        row("a head one byte too long", head_of(MAX_HEAD_BYTES + 1)).instead("431, open"),
        row("a head that does not end", unfinished(MAX_HEAD_BYTES)).instead("no answer"),
        row("a head that is too long, and wrong after that", late_line_feed).instead("431, open"),
        row("one huge field", get(format!("X: {}", "a".repeat(10_000)))).instead("431, open"),
        row("a huge name", get(format!("{}: 1", "a".repeat(10_000)))).instead("431, open"),
    ]
}

fn counts() -> Vec<Case> {
    let lines = |count| vec!["X: 1"; count].join("\r\n");
    vec![
        case(
            "as many fields as there may be",
            "6585 5",
            get(lines(MAX_HEADERS - 1)),
            open([ok("immediate")]),
        ),
        case("one field too many", "6585 5", get(lines(MAX_HEADERS)), refused(431)).instead("431, open"),
        case("many short fields", "6585 5", get(lines(200)), refused(431)).instead("431, open"),
    ]
}

fn request_lines() -> Vec<Case> {
    let target = |bytes: usize| format!("/path/{}", "a".repeat(bytes - 6));
    let get = |target: &str| line(format!("GET {target} HTTP/1.1"));
    let longest = target(MAX_TARGET_BYTES);
    let row = |name, bytes: Vec<u8>, status| case(name, "9112 3", bytes, refused(status));
    vec![
        case("a target as long as it may be", "9112 3", get(&longest), open([ok(format!("{longest}?"))])),
        row("a target one byte too long", get(&target(MAX_TARGET_BYTES + 1)), 414).instead("414, open"),
        row("an absolute target that is too long", get(&format!("http://h{longest}")), 414)
            .instead("414, open"),
        row("a query that is too long", get(&format!("/path/a?{longest}")), 414).instead("414, open"),
        row("a request line that is longer than a head", get(&target(MAX_HEAD_BYTES)), 414)
            .instead("431, open"),
        row("a target that does not end", format!("GET {}", target(MAX_HEAD_BYTES)).into_bytes(), 414)
            .instead("no answer"),
        row("a method that does not end", "A".repeat(MAX_HEAD_BYTES).into_bytes(), 501).instead("no answer"),
    ]
}

fn bodies() -> Vec<Case> {
    let text = "a".repeat(MAX_BODY_BYTES);
    let row = |name, rfc, fields: String, body: String| case(name, rfc, post(fields, body), refused(413));
    let chunked = || "Transfer-Encoding: chunked".to_owned();
    vec![
        case(
            "a body as long as it may be",
            "9110 15.5.14",
            post(format!("Content-Length: {MAX_BODY_BYTES}"), &text),
            open([ok(text.as_str())]),
        ),
        case(
            "chunks as long as they may be",
            "9110 15.5.14",
            post(chunked(), format!("1\r\na\r\n{:x}\r\n{}\r\n0\r\n\r\n", MAX_BODY_BYTES - 1, &text[1..])),
            open([ok(text.as_str())]),
        ),
        row("a length one byte too long", "9110 15.5.14", "Content-Length: 1001".into(), format!("{text}a"))
            .instead("413, open"),
        row("a length of a million", "9110 15.5.14", "Content-Length: 1000000".into(), text.clone())
            .instead("413, no answer"),
        row("a chunk one byte too long", "9110 15.5.14", chunked(), format!("3e9\r\n{text}a\r\n0\r\n\r\n"))
            .instead("413, 400, closed"),
        row("a chunk of 4 GiB", "9112 7.1", chunked(), "ffffffff\r\n".into()).instead("no answer"),
        row(
            "two chunks that are too long together",
            "9110 15.5.14",
            chunked(),
            format!("3e8\r\n{text}\r\n1\r\na\r\n0\r\n\r\n"),
        )
        .instead("413, 400, closed"),
    ]
}
