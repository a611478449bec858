//! Reads an answer as its bytes arrive: its status, and where it ends (RFC 9112 section 6.3). Its content is not kept.
//!
//! Generator thread. An answer that comes in one piece, as nearly all do, needs no copy and no allocation.
//!
//! Heads are read as curl reads them: many header lines, folded lines, and lines with any bytes in names and values. A line that
//! is not a header is skipped.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Response, Status};

use super::server_timing::ServerTiming;
use crate::http::Decoder;

/// The longest head. A longer one counts as malformed. curl has the same bound (`MAX_HTTP_RESP_HEADER_SIZE`).
const MAX_HEAD_BYTES: usize = 300 << 10;

/// The most header lines in a head, as in curl (`MAX_HTTP_RESP_HEADER_COUNT`).
const MAX_HEADERS: usize = 5000;

/// The header lines that are read without an allocation.
const USUAL_HEADERS: usize = 100;

/// Reads one answer after another.
#[derive(Debug, Default)]
pub(super) struct AnswerReader {
    state: State,
    /// The beginning of a head whose end has not arrived.
    head: Vec<u8>,
}

/// The properties of an answer, known once its head has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whether the connection can have another request.
    pub(super) keeps: bool,
    /// The server's own account of the time, if it sends one.
    pub(super) timing: Option<ServerTiming>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    /// The number of bytes of the body that are still to come.
    Known(Answer, u64),
    Chunked(Answer, Decoder),
    /// The body ends with the connection.
    UntilEnd(Answer),
}

/// The bytes are not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl AnswerReader {
    /// Reads further bytes, and returns the answer once it is complete. `answers_head`: the request was a HEAD.
    /// `scratch` is for a chunked body.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        answers_head: bool,
        scratch: &mut Vec<u8>,
    ) -> Result<Option<Answer>, Malformed> {
        loop {
            let (answer, used) = match &mut self.state {
                State::Head => {
                    let Some(used) = self.read_head(bytes, answers_head)? else { return Ok(None) };
                    bytes = &bytes[used..];
                    continue;
                }
                State::Known(answer, left) => {
                    let used = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= used as u64;
                    if *left > 0 {
                        return Ok(None);
                    }
                    (*answer, used)
                }
                State::Chunked(answer, decoder) => {
                    scratch.clear();
                    let used = decoder.decode(bytes, scratch, usize::MAX).map_err(|_| Malformed)?;
                    if !decoder.is_done() {
                        return Ok(None);
                    }
                    (*answer, used)
                }
                State::UntilEnd(_) => return Ok(None),
            };
            self.state = State::Head;
            // Bytes after the answer belong to no request. Later bytes could not be assigned to a request, so the
            // connection ends.
            return Ok(Some(Answer { keeps: answer.keeps && used == bytes.len(), ..answer }));
        }
    }

    /// The connection has ended. Returns the answer, if that was the end of its body.
    pub(super) fn end(&self) -> Option<Answer> {
        match self.state {
            State::UntilEnd(answer) => Some(answer),
            _ => None,
        }
    }

    /// The number of bytes that belong to the head; `None` when the head has not ended.
    fn read_head(&mut self, bytes: &[u8], answers_head: bool) -> Result<Option<usize>, Malformed> {
        let before = self.head.len();
        let read = if before == 0 {
            parse(bytes, answers_head)?
        } else {
            self.head.extend_from_slice(bytes);
            parse(&self.head, answers_head)?
        };
        if let Some((state, length)) = read {
            self.head.clear();
            self.state = state;
            return Ok(Some(length - before));
        }
        if before == 0 {
            self.head.extend_from_slice(bytes);
        }
        if self.head.len() > MAX_HEAD_BYTES { Err(Malformed) } else { Ok(None) }
    }

    /// Whether a part of an answer has arrived, and not its end.
    pub(super) fn has_begun(&self) -> bool {
        !self.head.is_empty() || !matches!(self.state, State::Head)
    }

    /// Forgets the part of an answer that was read.
    pub(super) fn reset(&mut self) {
        self.state = State::Head;
        self.head.clear();
    }
}

/// The state after the head at the start of these bytes, and the head's length.
fn parse(bytes: &[u8], answers_head: bool) -> Result<Option<(State, usize)>, Malformed> {
    let mut slots = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
    let mut head = Response::new(&mut []);
    let config = ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut head, bytes, &mut slots) {
        Ok(Status::Complete(length)) if length <= MAX_HEAD_BYTES => {
            Ok(Some((state_after(&head, answers_head)?, length)))
        }
        Ok(Status::Complete(_)) => Err(Malformed),
        Ok(Status::Partial) => Ok(None),
        Err(_) => parse_unusual(bytes, answers_head),
    }
}

/// Like [`parse`], for heads with many lines, with folded lines, or with lines that are not headers. Few servers send such heads, and
/// the others need not pay for them.
#[cold]
fn parse_unusual(bytes: &[u8], answers_head: bool) -> Result<Option<(State, usize)>, Malformed> {
    let mut slots = vec![MaybeUninit::uninit(); MAX_HEADERS];
    let mut head = Response::new(&mut []);
    let mut config = ParserConfig::default();
    config.allow_obsolete_multiline_headers_in_responses(true);
    config.ignore_invalid_headers_in_responses(true);
    let status = config.parse_response_with_uninit_headers(&mut head, bytes, &mut slots);
    match status.map_err(|_| Malformed)? {
        Status::Complete(length) if length <= MAX_HEAD_BYTES => {
            Ok(Some((state_after(&head, answers_head)?, length)))
        }
        Status::Complete(_) => Err(Malformed),
        Status::Partial => Ok(None),
    }
}

fn state_after(head: &Response<'_, '_>, answers_head: bool) -> Result<State, Malformed> {
    let status = head.code.ok_or(Malformed)?;
    let framing = Framing::of(head.headers)?;
    let version = head.version.ok_or(Malformed)?;
    let keeps = if version == 0 { framing.keep_alive } else { !framing.close };
    let answer = Answer { status, keeps, timing: framing.timing };
    let state = match status {
        // No request asks for another protocol. After every other 1xx the answer follows.
        101 => return Err(Malformed),
        ..200 => State::Head,
        204 | 304 => State::Known(answer, 0),
        _ if answers_head => State::Known(answer, 0),
        _ => match (framing.coding, framing.length) {
            (Some(Coding::Chunked), _) => State::Chunked(answer, Decoder::default()),
            (None, Some(left)) => State::Known(answer, left),
            (Some(Coding::Other), _) | (None, None) => State::UntilEnd(Answer { keeps: false, ..answer }),
        },
    };
    Ok(state)
}

/// The header lines on the end of the answer and of the connection, and on the server's time.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    /// The last coding in `Transfer-Encoding`.
    coding: Option<Coding>,
    close: bool,
    keep_alive: bool,
    timing: Option<ServerTiming>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    /// The end of the connection ends the body.
    Other,
}

impl Framing {
    fn of(headers: &[Header<'_>]) -> Result<Self, Malformed> {
        let mut framing = Self::default();
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                // The same length may be said several times (RFC 9110 section 8.6).
                for length in tokens(header.value) {
                    let length = number(length).ok_or(Malformed)?;
                    if framing.length.is_some_and(|before| before != length) {
                        return Err(Malformed);
                    }
                    framing.length = Some(length);
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                let chunked =
                    tokens(header.value).last().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
                framing.coding = Some(if chunked { Coding::Chunked } else { Coding::Other });
            } else if header.name.eq_ignore_ascii_case("connection") {
                for token in tokens(header.value) {
                    framing.close |= token.eq_ignore_ascii_case(b"close");
                    framing.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            } else if header.name.eq_ignore_ascii_case("server-timing") {
                let mut timing = framing.timing.unwrap_or_default();
                if timing.read(header.value) {
                    framing.timing = Some(timing);
                }
            }
        }
        Ok(framing)
    }
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Digits only: `u64::from_str` would also accept a sign.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(status: u16, keeps: bool) -> Answer {
        Answer { status, keeps, timing: None }
    }

    fn read(pieces: &[&[u8]], answers_head: bool) -> Result<Option<Answer>, Malformed> {
        let mut reader = AnswerReader::default();
        let mut answer = None;
        for piece in pieces {
            assert_eq!(answer, None, "whole before {piece:?}");
            answer = reader.feed(piece, answers_head, &mut Vec::new())?;
        }
        Ok(answer.or_else(|| reader.end()))
    }

    #[test]
    fn an_answer_ends_where_its_head_says_in_any_pieces() {
        for (wire, status, keeps) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", 200, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi", 200, true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", 200, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 200, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", 200, true),
            (
                "HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\nhi\r\n0\r\nX: y\r\n\r\n",
                503,
                true,
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, true),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nx", 404, true),
            ("HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, true),
        ] {
            let expected = Ok(Some(whole(status, keeps)));
            assert_eq!(read(&[wire.as_bytes()], false), expected, "{wire}");
            let bytes: Vec<&[u8]> = wire.as_bytes().chunks(1).collect();
            assert_eq!(read(&bytes, false), expected, "byte by byte: {wire}");
        }
    }

    /// Each of these was "malformed", and curl takes it.
    #[test]
    fn heads_are_read_as_curl_reads_them() {
        let framed = |lines: &str| {
            format!("HTTP/1.1 200 Tr\u{e8}s bien\r\n{lines}Content-Length: 2\r\n\r\nhi").into_bytes()
        };
        let latin_1 = b"HTTP/1.1 200 OK\r\nX: h\xe9llo\r\nContent-Length: 2\r\n\r\nhi".to_vec();
        for wire in [
            framed(&"X: y\r\n".repeat(300)),
            framed(&"X: y\r\n".repeat(MAX_HEADERS - 1)),
            framed(&format!("X: {}\r\n", "y".repeat(MAX_HEAD_BYTES - 100))),
            framed("X: one\r\n two\r\n\tthree\r\n"),
            framed("X: h\u{e9}llo \u{20ac}\r\n"),
            framed("X-\u{e9}: y\r\n"),
            framed("X y: z\r\nX(y): z\r\nX: y\u{1}z\r\n"),
            latin_1,
            b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\n\r\nhi".to_vec(),
        ] {
            let shown = String::from_utf8_lossy(&wire[..wire.len().min(60)]).into_owned();
            assert_eq!(read(&[&wire], false), Ok(Some(whole(200, true))), "{shown}");
            if wire.len() < 10_000 {
                let bytes: Vec<&[u8]> = wire.chunks(1).collect();
                assert_eq!(read(&bytes, false), Ok(Some(whole(200, true))), "byte by byte: {shown}");
            }
        }
    }

    #[test]
    fn an_answer_to_head_has_no_body() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        assert_eq!(read(&[wire], true), Ok(Some(whole(200, true))));
        assert_eq!(read(&[wire], false), Ok(None));
    }

    #[test]
    fn without_a_length_the_connection_ends_the_answer() {
        for head in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"] {
            let wire = [head.as_bytes(), b"some", b"more"];
            assert_eq!(read(&wire, false), Ok(Some(whole(200, false))), "{head}");
        }
        assert_eq!(read(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi"], false), Ok(None));
    }

    #[test]
    fn unrequested_bytes_end_the_connection() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n";
        assert_eq!(read(&[wire], false), Ok(Some(whole(200, false))));
    }

    #[test]
    fn bytes_that_are_not_an_answer_are_malformed() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(MAX_HEAD_BYTES));
        for wire in [
            "SSH-2.0-x\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            &many,
            &long,
        ] {
            assert_eq!(read(&[wire.as_bytes()], false), Err(Malformed), "{wire:.60}");
        }
    }

    #[test]
    fn a_reset_reader_reads_the_next_answer() {
        let (mut reader, mut scratch) = (AnswerReader::default(), Vec::new());
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\nContent-Le", false, &mut scratch), Ok(None));
        reader.reset();
        let answer = reader.feed(b"HTTP/1.1 204 No Content\r\n\r\n", false, &mut scratch);
        assert_eq!(answer, Ok(Some(whole(204, true))));
    }

    #[test]
    fn the_servers_own_times_are_read_from_the_head() {
        let wire = "HTTP/1.1 103 Early\r\nServer-Timing: db;dur=9\r\n\r\nHTTP/1.1 200 OK\r\nserver-timing: db;dur=4.5\r\n\
                    Content-Length: 2\r\nServer-Timing: queue;dur=1, x;dur=7\r\n\r\nhi";
        let expected = Some(ServerTiming([1_000_000, 0, 4_500_000, 0]));
        let bytes: Vec<&[u8]> = wire.as_bytes().chunks(1).collect();
        for pieces in [&[wire.as_bytes()][..], &bytes] {
            let answer = read(pieces, false).expect("well-formed").expect("whole");
            assert_eq!(answer.timing, expected);
        }
        let wire = b"HTTP/1.1 200 OK\r\nServer-Timing: miss, db;dur=x\r\n\r\n";
        assert_eq!(read(&[wire], false), Ok(Some(whole(200, false))));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_read_or_refused(
            begin in proptest::sample::select(vec!["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]),
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..200),
            size in 1..50_usize,
        ) {
            let (mut reader, mut scratch) = (AnswerReader::default(), Vec::new());
            for piece in [begin.as_bytes(), &bytes].concat().chunks(size) {
                if reader.feed(piece, false, &mut scratch).is_err() {
                    break;
                }
            }
        }
    }
}
