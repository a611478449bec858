//! The table, a file for each theme, and the bytes that most of its rows have in common.

mod chunked;
mod connection;
mod fields;
mod host;
mod length;
mod limits;
mod request_line;
mod responses;
mod smuggling;
mod transfer_encoding;

use super::case::Theme;

/// Every case.
pub(crate) fn all() -> Vec<Theme> {
    vec![
        Theme { title: "The request line", cases: request_line::cases() },
        Theme { title: "Header fields", cases: fields::cases() },
        Theme { title: "Host", cases: host::cases() },
        Theme { title: "Content-Length", cases: length::cases() },
        Theme { title: "Transfer-Encoding", cases: transfer_encoding::cases() },
        Theme { title: "The chunked coding", cases: chunked::cases() },
        Theme { title: "The connection", cases: connection::cases() },
        Theme { title: "The form of answers", cases: responses::cases() },
        Theme { title: "Limits", cases: limits::cases() },
        Theme { title: "Request smuggling", cases: smuggling::cases() },
    ]
}

/// The request that is smuggled, or the one that follows; its answer is `/path/next?`.
const NEXT: &[u8] = b"GET /path/next HTTP/1.1\r\nHost: h\r\n\r\n";

/// This request line and a Host.
fn line(line: impl AsRef<[u8]>) -> Vec<u8> {
    [line.as_ref(), b"\r\nHost: h\r\n\r\n"].concat()
}

/// A `GET` with these header lines after Host.
fn get(fields: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET /immediate HTTP/1.1\r\nHost: h\r\n", fields.as_ref(), b"\r\n\r\n"].concat()
}

/// A `POST` with these header lines after Host, and this body.
fn post(fields: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    [b"POST /echo HTTP/1.1\r\nHost: h\r\n", fields.as_ref(), b"\r\n\r\n", body.as_ref()].concat()
}

/// These bytes one after the other.
fn join<const N: usize>(parts: [&[u8]; N]) -> Vec<u8> {
    parts.concat()
}
