//! Header lines: names, values, white space, and how lines end.

use super::super::case::{Case, case, ok, open, refused};
use super::{get, join};

pub(super) fn cases() -> Vec<Case> {
    [values(), names(), lines(), ends_of_lines(), control_bytes()].into_iter().flatten().collect()
}

/// A request whose answer repeats the value of the field `X`.
fn field(fields: impl AsRef<[u8]>) -> Vec<u8> {
    join([b"GET /field HTTP/1.1\r\nHost: h\r\n", fields.as_ref(), b"\r\n\r\n"])
}

fn values() -> Vec<Case> {
    let says = |value: &[u8]| open([ok(join([b"[", value, b"]"]))]);
    let obs_text: Vec<u8> = (0x80..=0xff).collect();
    let visible: Vec<u8> = (b'!'..=b'~').collect();
    let row = |name, rfc, fields: &[u8], value: &[u8]| case(name, rfc, field(fields), says(value));
    vec![
        row("a value", "9112 5", b"X: 1", b"1"),
        row("no white space before the value", "9112 5.1", b"X:1", b"1"),
        row("white space around the value", "9112 5.1", b"X: \t 1 \t ", b"1"),
        row("white space in the value", "9110 5.5", b"X: a  b\tc", b"a  b\tc"),
        row("an empty value", "9110 5.5", b"X:", b""),
        row("a value of white space", "9112 5.1", b"X: \t ", b""),
        row("a value with colons", "9112 5", b"X: a:b: c", b"a:b: c"),
        row("every visible character in a value", "9110 5.5", &join([b"X: ", &visible]), &visible),
        row("every byte over 0x7f in a value", "9110 5.5", &join([b"X: ", &obs_text]), &obs_text)
            .instead("closed"),
        row("a name in another case", "9110 5.1", b"x: 1", b"1"),
        row("an unknown field is ignored", "9110 5.1", b"Unheard-Of: 1\r\nX: 2", b"2"),
    ]
}

fn names() -> Vec<Case> {
    let row = |name, fields: &[u8]| case(name, "9110 5.1", get(fields), refused(400));
    vec![
        case(
            "a name of every kind of character",
            "9110 5.6.2",
            get("!#$%&'*+-.^_`|~aA0: 1"),
            open([ok("immediate")]),
        ),
        case("a space before the colon", "9112 5.1", get("X : 1"), refused(400)),
        case("a tab before the colon", "9112 5.1", get("X\t: 1"), refused(400)),
        row("a space in a name", b"X Y: 1"),
        row("an empty name", b": 1").instead("400, open"),
        row("a parenthesis in a name", b"X(: 1").instead("400, open"),
        row("a slash in a name", b"X/Y: 1").instead("400, open"),
        row("a quote in a name", b"\"X\": 1").instead("400, open"),
        row("a bracket in a name", b"X[]: 1").instead("400, open"),
        row("an at sign in a name", b"X@: 1").instead("400, open"),
        row("a byte over 0x7f in a name", b"X\xe9: 1").instead("closed"),
        row("a NUL in a name", b"X\0: 1").instead("400, open"),
        row("a DEL in a name", b"X\x7f: 1").instead("400, open"),
    ]
}

fn lines() -> Vec<Case> {
    let first = |fields: &str| format!("GET /immediate HTTP/1.1\r\n{fields}\r\nHost: h\r\n\r\n");
    vec![
        case("no colon", "9112 5", get("X"), refused(400)),
        case("no colon, but a value", "9112 5", get("X 1"), refused(400)),
        case("a line folded with a space", "9112 5.2", get("X: 1\r\n 2"), refused(400)),
        case("a line folded with a tab", "9112 5.2", get("X: 1\r\n\t2"), refused(400)),
        case("a folded line that is empty", "9112 5.2", get("X: 1\r\n "), refused(400)),
        case("a folded line that looks like a field", "9112 5.2", get("X: 1\r\n Y: 2"), refused(400))
            .instead("200, open"),
        case("a space before the first field", "9112 2.2", first(" X: 1"), refused(400)).instead("200, open"),
        case("a tab before the first field", "9112 2.2", first("\tX: 1"), refused(400)).instead("200, open"),
        case("a line of white space before the first field", "9112 2.2", first(" "), refused(400)),
        case("a space before Host", "9112 2.2", "GET /immediate HTTP/1.1\r\n Host: h\r\n\r\n", refused(400))
            .instead("200, open"),
    ]
}

fn ends_of_lines() -> Vec<Case> {
    let row = |name, bytes: &str| case(name, "9112 2.2", bytes, refused(400));
    vec![
        row("every line ends in a bare LF", "GET /immediate HTTP/1.1\nHost: h\n\n").instead("no answer"),
        row("the request line ends in a bare LF", "GET /immediate HTTP/1.1\nHost: h\r\n\r\n"),
        row("a field line ends in a bare LF", "GET /immediate HTTP/1.1\r\nHost: h\nX: 1\r\n\r\n")
            .instead("200, open"),
        row("the last field line ends in a bare LF", "GET /immediate HTTP/1.1\r\nHost: h\n\r\n")
            .instead("no answer"),
        row("the empty line is a bare LF", "GET /immediate HTTP/1.1\r\nHost: h\r\n\n").instead("no answer"),
        row("the request line ends in a bare CR", "GET /immediate HTTP/1.1\rHost: h\r\n\r\n"),
        row("a field line ends in a bare CR", "GET /immediate HTTP/1.1\r\nHost: h\rX: 1\r\n\r\n")
            .instead("400, open"),
        row("a line ends in CR CR LF", "GET /immediate HTTP/1.1\r\nHost: h\r\r\n\r\n").instead("200, open"),
        row("a line ends in LF CR", "GET /immediate HTTP/1.1\r\nHost: h\n\r\r\n\r\n").instead("200, open"),
        row("a CR before a name", "GET /immediate HTTP/1.1\r\nHost: h\r\n\rX: 1\r\n\r\n")
            .instead("200, open"),
        row("a bare CR in a value", "GET /immediate HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n")
            .instead("400, open"),
        row("a bare CR at the end of a value", "GET /immediate HTTP/1.1\r\nHost: h\r\nX: a\r\r\n\r\n")
            .instead("200, open"),
    ]
}

/// One control byte of each kind: bytes that end strings, ring the bell, look like white space, or begin an escape
/// sequence.
fn control_bytes() -> Vec<Case> {
    let bytes = [
        (0x00, "NUL"),
        (0x01, "SOH"),
        (0x07, "BEL"),
        (0x08, "BS"),
        (0x0b, "VT"),
        (0x0c, "FF"),
        (0x1b, "ESC"),
        (0x1f, "US"),
        (0x7f, "DEL"),
    ];
    let row = |(byte, name)| {
        case(format!("{name} in a value"), "9110 5.5", get(join([b"X: a", &[byte], b"b"])), refused(400))
            .instead("400, open")
    };
    bytes.into_iter().map(row).collect()
}
