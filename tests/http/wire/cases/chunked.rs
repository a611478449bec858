//! Bodies in chunks: sizes, extensions, data, trailers.

use super::super::case::{Case, case, incomplete, ok, open, refused};
use super::{NEXT, join, post};

pub(super) fn cases() -> Vec<Case> {
    [good(), extensions(), sizes(), ends_of_lines(), data(), trailers(), wrong_trailers(), endless()]
        .into_iter()
        .flatten()
        .collect()
}

fn chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
    post("Transfer-Encoding: chunked", body)
}

fn read(name: &str, rfc: &'static str, body: &str, content: &str) -> Case {
    case(name, rfc, chunked(body), open([ok(content)]))
}

fn wrong(name: &str, rfc: &'static str, body: impl AsRef<[u8]>) -> Case {
    case(name, rfc, chunked(body), refused(400))
}

fn good() -> Vec<Case> {
    vec![
        read("one chunk", "9112 7.1", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        read("several chunks", "9112 7.1", "2\r\nhe\r\n1\r\nl\r\n2\r\nlo\r\n0\r\n\r\n", "hello"),
        read("no chunk but the last", "9112 7.1", "0\r\n\r\n", ""),
        read("a size in upper case", "9112 7.1", "A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        read("a size in lower case", "9112 7.1", "a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        read("a size with leading zeros", "9112 7.1", "0005\r\nhello\r\n0\r\n\r\n", "hello"),
        read(
            "a size with thirty leading zeros",
            "9112 7.1",
            "0000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
            "hello",
        ),
        read("a last chunk of several zeros", "9112 7.1", "5\r\nhello\r\n000\r\n\r\n", "hello"),
        read("data that looks like the end", "9112 7.1", "7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", "\r\n0\r\n\r\n"),
        case(
            "the next request after chunks",
            "9112 7.1",
            join([&chunked("5\r\nhello\r\n0\r\n\r\n"), NEXT]),
            open([ok("hello"), ok("/path/next?")]),
        ),
        case("chunks that break off in a size", "9112 8", chunked("5"), incomplete()),
        case("chunks that break off in data", "9112 8", chunked("5\r\nhell"), incomplete()),
        case("chunks without the last one", "9112 8", chunked("5\r\nhello\r\n"), incomplete()),
        case("chunks without the last line", "9112 8", chunked("5\r\nhello\r\n0\r\n"), incomplete()),
    ]
}

fn extensions() -> Vec<Case> {
    let ignored = |name, extension: &str| {
        read(name, "9112 7.1.1", &format!("5{extension}\r\nhello\r\n0\r\n\r\n"), "hello")
    };
    let malformed =
        |name, extension: &str| wrong(name, "9112 7.1.1", format!("5{extension}\r\nhello\r\n0\r\n\r\n"));
    vec![
        ignored("an extension without a value", ";a"),
        ignored("an extension with a value", ";a=b"),
        ignored("two extensions", ";a=b;c"),
        ignored("a quoted extension with a semicolon", ";a=\"b;c\""),
        ignored("a quoted extension with a quote", ";a=\"b\\\"c\""),
        ignored("an empty quoted extension", ";a=\"\""),
        ignored("an extension with white space around its parts", " ; a\t= b ;c"),
        read("an extension of the last chunk", "9112 7.1.1", "5\r\nhello\r\n0;a=b\r\n\r\n", "hello"),
        malformed("an extension without a name", ";").instead("200, open"),
        malformed("an extension with an empty value", ";a=").instead("200, open"),
        malformed("an extension with two values", ";a=b=c").instead("200, open"),
        malformed("an extension whose quote stays open", ";a=\"b").instead("200, open"),
        malformed("an extension with something after the quote", ";a=\"b\"c").instead("200, open"),
        malformed("an extension with a NUL", ";a=\0").instead("200, open"),
        malformed("an extension with a space in it", ";a b").instead("200, open"),
    ]
}

fn sizes() -> Vec<Case> {
    let row = |name, size: &[u8]| wrong(name, "9112 7.1", join([size, b"\r\nhello\r\n0\r\n\r\n"]));
    vec![
        row("an empty size", b"").instead("400, 400, closed"),
        row("a size that is no number", b"x").instead("400, 400, closed"),
        row("a size with a letter after it", b"5g").instead("400, 400, closed"),
        row("a size with 0x before it", b"0x5").instead("400, 400, closed"),
        row("a size with a plus", b"+5").instead("200, open"),
        row("a size with a minus", b"-5").instead("400, 400, closed"),
        row("a size with an underscore", b"0_5").instead("400, 400, closed"),
        row("a size with a fraction", b"5.0").instead("400, 400, closed"),
        row("a size in quotes", b"\"5\"").instead("400, 400, closed"),
        row("a size with a space before it", b" 5").instead("200, open"),
        row("a size with a space after it", b"5 ").instead("200, open"),
        row("a size with a tab after it", b"5\t").instead("200, open"),
        row("a size with a NUL after it", b"5\0").instead("400, 400, closed"),
        row("a size in other digits", "\u{ff15}".as_bytes()).instead("400, 400, closed"),
        row("a size of seventeen digits", b"10000000000000005").instead("400, 400, closed"),
        row("a size of forty digits", b"ffffffffffffffffffffffffffffffffffffffff")
            .instead("400, 400, closed"),
        case("a size of sixteen digits", "9112 7.1", chunked("ffffffffffffffff\r\nhello"), refused(413))
            .instead("no answer"),
    ]
}

fn ends_of_lines() -> Vec<Case> {
    let row = |name, body: &str| wrong(name, "9112 7.1", body);
    vec![
        row("a bare LF after a size", "5\nhello\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("a bare CR after a size", "5\rhello\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("CR CR LF after a size", "5\r\r\nhello\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("LF CR after a size", "5\n\rhello\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("a bare LF after an extension", "5;a\nhello\r\n0\r\n\r\n").instead("no answer"),
        row("a bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("a bare LF after data", "5\r\nhello\n0\r\n\r\n").instead("400, 400, closed"),
        row("a bare CR after data", "5\r\nhello\r0\r\n\r\n").instead("400, 400, closed"),
        row("a bare LF after the last size", "5\r\nhello\r\n0\n\r\n").instead("no answer"),
        row("a bare LF at the end", "5\r\nhello\r\n0\r\n\n").instead("400, open"),
        row("a bare CR at the end", "5\r\nhello\r\n0\r\n\rX").instead("400, open"),
        row("every line ends in a bare LF, of chunks", "5\nhello\n0\n\n").instead("no answer"),
    ]
}

fn data() -> Vec<Case> {
    let row = |name, body: &str| wrong(name, "9112 7.1", body);
    vec![
        row("data longer than its size", "5\r\nhello!\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("data shorter than its size", "5\r\nhell\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("no line end after data", "5\r\nhello0\r\n\r\n").instead("400, 400, closed"),
        row("two line ends after data", "5\r\nhello\r\n\r\n0\r\n\r\n").instead("400, 400, closed"),
    ]
}

fn trailers() -> Vec<Case> {
    let row = |name, rfc, trailers: &str| {
        let bytes = chunked(format!("5\r\nhello\r\n0\r\n{trailers}\r\n"));
        case(name, rfc, join([&bytes, NEXT]), open([ok("hello"), ok("/path/next?")]))
    };
    vec![
        row("a trailer", "9112 7.1.2", "X: 1\r\n").instead("400, 400, closed"),
        row("two trailers", "9112 7.1.2", "X: 1\r\nY:2\r\n").instead("400, 400, closed"),
        row("a trailer with an empty value", "9110 5.5", "X:\r\n").instead("400, 400, closed"),
        row("a trailer that would be a length", "9110 6.5.1", "Content-Length: 100\r\n")
            .instead("400, 400, closed"),
        row("a trailer that would be a coding", "9110 6.5.1", "Transfer-Encoding: chunked\r\n")
            .instead("400, 400, closed"),
        row("a trailer that would be a host", "9110 6.5.1", "Host: g\r\n").instead("400, 400, closed"),
        row("a trailer that would close", "9110 6.5.1", "Connection: close\r\n").instead("400, 400, closed"),
    ]
}

fn wrong_trailers() -> Vec<Case> {
    let row = |name, rfc, trailer: &str| wrong(name, rfc, format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"));
    vec![
        row("a trailer with a space in its name", "9110 5.1", "X Y: 1").instead("400, 400, closed"),
        row("a trailer with a space before its colon", "9112 5.1", "X : 1").instead("400, 400, closed"),
        row("a trailer with a bracket in its name", "9110 5.1", "X[: 1").instead("400, 400, closed"),
        row("a trailer without a name", "9110 5.1", ": 1").instead("400, 400, closed"),
        row("a trailer without a colon", "9112 5", "X").instead("400, 400, closed"),
        row("a folded trailer", "9112 5.2", "X: 1\r\n 2").instead("400, 400, closed"),
        row("a space before the first trailer", "9112 5.2", " X: 1").instead("400, 400, closed"),
        row("a trailer with a NUL", "9110 5.5", "X: \0").instead("400, 400, closed"),
        row("a trailer with a bare CR", "9112 2.2", "X: a\rb").instead("400, 400, closed"),
        row("a trailer that ends in a bare LF", "9112 2.2", "X: 1\nY: 2").instead("400, 400, closed"),
        row("a request line for a trailer", "9110 5.1", "GET /path/next HTTP/1.1").instead("400, 400, open"),
    ]
}

/// Parts of a chunked body that do not become content have a limit too. 17 KiB exceed the 16 KiB that are read.
fn endless() -> Vec<Case> {
    let many = |unit: &str| unit.repeat(17 * 1024 / unit.len());
    vec![
        wrong("an endless extension", "9112 7.1.1", format!("5;{}", many("a"))).instead("no answer"),
        wrong("endless extensions", "9112 7.1.1", format!("5{}", many(";a=b"))).instead("no answer"),
        wrong(
            "an extension in each of endless chunks",
            "9112 7.1.1",
            many(&format!("1;{}\r\nx\r\n", "a".repeat(1000))),
        )
        .instead("no answer"),
        wrong("an endless trailer", "9112 7.1.2", format!("0\r\nX: {}", many("a")))
            .instead("400, 400, closed"),
        wrong("endless trailers", "9112 7.1.2", format!("0\r\n{}", many("X: 1\r\n")))
            .instead("400, 400, closed"),
        wrong("endless zeros", "9112 7.1", many("0")).instead("no answer"),
    ]
}
