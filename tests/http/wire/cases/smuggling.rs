//! Bytes that two servers in a row could read as different requests: the second one is never answered.

use super::super::case::{Case, case, ok, open, refused};
use super::{NEXT, join, post};

pub(super) fn cases() -> Vec<Case> {
    [lengths(), codings(), obfuscated(), lines(), chunks(), harmless()].into_iter().flatten().collect()
}

/// A request that is refused although another one stands behind it.
fn refused_whole(name: &str, rfc: &'static str, fields: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Case {
    case(name, rfc, join([&post(fields, body), NEXT]), refused(400))
}

/// A server that reads the chunks sees the request end here, and the next one begin.
const END: &str = "0\r\n\r\n";

fn lengths() -> Vec<Case> {
    let row = |name, fields: &str| refused_whole(name, "9112 11.2", fields, "");
    vec![
        row("two lengths, the first 0", "Content-Length: 0\r\nContent-Length: 36").instead("400, 200, open"),
        row("two lengths, the second 0", "Content-Length: 36\r\nContent-Length: 0").instead("400, open"),
        row("two lengths in a list", "Content-Length: 0, 36").instead("400, 200, open"),
        row("a length with a space before its colon", "Content-Length : 36"),
        row("a length with a tab before its colon", "Content-Length\t: 36"),
        row("a length with a NUL in its name", "Content-Length\0: 36").instead("400, 200, open"),
        row("a length folded into another field", "X: 1\r\n Content-Length: 36").instead("200, open"),
        row("a length that folds on", "Content-Length: 0\r\n 36"),
        row("a length after a bare CR", "X: 1\rContent-Length: 36").instead("400, 200, open"),
        row("a length after a bare LF", "X: 1\nContent-Length: 36").instead("200, 200, open"),
        row("a length with a plus", "Content-Length: +36").instead("400, open"),
        row("a length with a letter", "Content-Length: 38abc").instead("400, 200, open"),
        row("a length after a vertical tab", "Content-Length: \x0b38").instead("no answer"),
    ]
}

/// CL.TE and TE.CL: one server believes the length, the other the coding.
fn codings() -> Vec<Case> {
    let row = |name, fields: &str, body: &str| refused_whole(name, "9112 6.1", fields, body);
    vec![
        row("CL.TE", "Content-Length: 41\r\nTransfer-Encoding: chunked", END).instead("400, 400, closed"),
        row("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 4", "24\r\n").instead("400, 400, closed"),
        row("CL.TE with a length of 0", "Content-Length: 0\r\nTransfer-Encoding: chunked", END).instead("400, 400, closed"),
        row("CL.TE with two lengths", "Content-Length: 0\r\nContent-Length: 41\r\nTransfer-Encoding: chunked", END).instead("400, 400, closed"),
        row("CL.TE with a length that is no number", "Content-Length: x\r\nTransfer-Encoding: chunked", END).instead("400, 400, closed"),
        case(
            "TE.CL in HTTP/1.0 that stays",
            "9112 6.1",
            join([
                b"POST /echo HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                NEXT,
            ]),
            refused(400),
        ).instead("400, 400, closed"),
    ]
}

/// TE.TE: the coding is written so that one server sees it and the other does not.
fn obfuscated() -> Vec<Case> {
    let row = |name, coding: &[u8]| {
        refused_whole(name, "9112 11.2", join([b"Content-Length: 41\r\n", coding]), END)
    };
    vec![
        row("TE.TE: xchunked", b"Transfer-Encoding: xchunked").instead("400, 400, closed"),
        row("TE.TE: a space before the colon", b"Transfer-Encoding : chunked"),
        row("TE.TE: a tab before the colon", b"Transfer-Encoding\t: chunked"),
        row("TE.TE: a vertical tab before the value", b"Transfer-Encoding:\x0bchunked")
            .instead("400, 400, closed"),
        row("TE.TE: a tab before the value", b"Transfer-Encoding:\tchunked").instead("400, 400, closed"),
        row("TE.TE: a space before the name", b" Transfer-Encoding: chunked").instead("400, 400, closed"),
        row("TE.TE: after a folded line", b"X: 1\r\n\tTransfer-Encoding: chunked")
            .instead("400, 400, closed"),
        row("TE.TE: a folded value", b"Transfer-Encoding:\r\n chunked"),
        row("TE.TE: a bare LF before it", b"X: 1\nTransfer-Encoding: chunked").instead("400, open"),
        row("TE.TE: a bare CR before it", b"X: 1\rTransfer-Encoding: chunked").instead("400, open"),
        row("TE.TE: a bare LF in the name", b"Transfer-Encoding\n: chunked"),
        row("TE.TE: a NUL in the name", b"Transfer-Encoding\0: chunked").instead("400, open"),
        row("TE.TE: a byte over 0x7f in the name", b"Transfer-Encoding\xff: chunked").instead("closed"),
        row("TE.TE: quotes", b"Transfer-Encoding: \"chunked\"").instead("400, 400, closed"),
        row("TE.TE: a parameter", b"Transfer-Encoding: chunked;x").instead("400, 400, closed"),
        row("TE.TE: a second line", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x")
            .instead("400, 400, closed"),
        row("TE.TE: a first line", b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked")
            .instead("400, 400, closed"),
        row("TE.TE: identity before it", b"Transfer-Encoding: identity, chunked").instead("400, 400, closed"),
        row("TE.TE: identity after it", b"Transfer-Encoding: chunked, identity").instead("400, 400, closed"),
        row("TE.TE: an empty element", b"Transfer-Encoding: ,chunked").instead("400, 400, closed"),
        row("TE.TE: upper case", b"TRANSFER-ENCODING: CHUNKED").instead("400, 400, closed"),
        row("TE.TE: no colon", b"Transfer-Encoding chunked"),
    ]
}

fn lines() -> Vec<Case> {
    let row = |name, bytes: &[u8]| case(name, "9112 2.2", join([bytes, NEXT]), refused(400));
    vec![
        row("a length, and lines that end in LF", b"POST /echo HTTP/1.1\nHost: h\nContent-Length: 36\n\n"),
        row("an empty line of LF CR LF", b"POST /echo HTTP/1.1\r\nHost: h\n\r\nContent-Length: 36\r\n\r\n")
            .instead("200, open"),
        row("an empty line of CR", b"POST /echo HTTP/1.1\r\nHost: h\r\n\rContent-Length: 36\r\n\r\n")
            .instead("200, open"),
        row(
            "a request in a request line",
            b"GET /immediate HTTP/1.1 GET /path/next HTTP/1.1\r\nHost: h\r\n\r\n",
        )
        .instead("200, 200, open"),
    ]
}

/// Ends of chunk lines that one server sees and the other does not, and sizes that are read as different numbers.
fn chunks() -> Vec<Case> {
    let row = |name, body: &str| refused_whole(name, "9112 7.1", "Transfer-Encoding: chunked", body);
    vec![
        row("a chunk line that ends in LF, with an extension", "2;\nxx\r\n24\r\n0\r\n\r\n")
            .instead("200, 200, open"),
        row("a chunk line that ends in LF, without", "2\nxx\r\n24\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("a chunk line that ends in CR", "2\rXxx\r\n24\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("data with two bytes more than its size", "5\r\nhelloXX2\r\n24\r\n0\r\n\r\n")
            .instead("400, 400, closed"),
        row("data with one byte more and an LF", "5\r\nhello\n24\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("an extension whose quote goes on in the next line", "1;a=\"\r\nx\r\n0\r\n\r\n\"")
            .instead("200, 400, open"),
        row("a size that wraps to 0", "10000000000000000\r\n\r\n").instead("400, 400, closed"),
        row("a size of 0x0", "0x0\r\n\r\n").instead("400, 400, closed"),
        row("a size of -0", "-0\r\n\r\n").instead("400, 400, closed"),
        row("a size with a space and 0", " 0\r\n\r\n").instead("200, 200, open"),
        row("a last chunk that ends in LF", "0\n\n").instead("400, 400, closed"),
        row("a last line of LF", "0\r\n\n").instead("400, 200, open"),
        row("an empty chunk line", "\r\n0\r\n\r\n").instead("400, 400, closed"),
        row("a trailer that ends in LF", "0\r\nX: 1\n\r\n").instead("400, 400, closed"),
        row("the next request for a trailer", "0\r\n").instead("400, 501, open"),
    ]
}

/// Requests that look like smuggling, but state their end clearly.
fn harmless() -> Vec<Case> {
    let row = |name, rfc, fields: &str, body: &[u8], answers: &[&[u8]]| {
        let answers: Vec<_> = answers.iter().map(|text| ok(*text)).collect();
        case(name, rfc, post(fields, body), open(answers))
    };
    let hidden = join([b"24\r\n", NEXT, b"\r\n0\r\n\r\n"]);
    vec![
        row("a request in a chunk is a body", "9112 7.1", "Transfer-Encoding: chunked", &hidden, &[NEXT]),
        row(
            "another field that looks like the coding",
            "9110 5.1",
            "Transfer_Encoding: chunked",
            NEXT,
            &[b"", b"/path/next?"],
        ),
        row(
            "another field that looks like the length",
            "9110 5.1",
            "Content_Length: 36",
            NEXT,
            &[b"", b"/path/next?"],
        ),
        row(
            "a length for another connection",
            "9110 7.6.1",
            "Connection: Content-Length\r\nContent-Length: 36",
            NEXT,
            &[NEXT],
        ),
    ]
}
