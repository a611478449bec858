//! Decodes the chunked transfer coding while its bytes arrive (RFC 9112 section 7.1).
//!
//! Poller thread. Chunk extensions and trailers are read and dropped, both within a limit.

use super::parse::is_token;
use super::refusal::{Refusal, bad};

/// Reads one chunked body.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// Bytes of the current chunk that have not come yet.
    left: usize,
    /// Bytes of the body so far.
    total: usize,
    /// Bytes of extensions, trailers and leading zeros so far. They do not become body, so they need a limit of their
    /// own.
    overhead: usize,
}

/// The limit for extensions, trailers and leading zeros together. Go's net/http has the same limit since its
/// CVE-2023-39326.
const MAX_OVERHEAD_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a chunk's size.
    #[default]
    Size,
    /// After at least one digit.
    SizeDigits,
    /// In white space that only another extension may follow.
    Space,
    /// After a semicolon, before the extension's name.
    Semicolon,
    Name,
    /// In white space after an extension's name.
    NameSpace,
    Equals,
    Value,
    Quoted,
    /// After a backslash between quotes.
    QuotedPair,
    QuotedEnd,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Decoder {
    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes from `input` into `body`. Returns how many bytes were used: all of them, unless the body ended before.
    ///
    /// # Errors
    /// 400 for a malformed chunked body, 413 for a body longer than `max_body_bytes`.
    pub fn decode(
        &mut self,
        input: &[u8],
        body: &mut Vec<u8>,
        max_body_bytes: usize,
    ) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let take = self.left.min(input.len() - at);
                body.extend_from_slice(&input[at..at + take]);
                self.left -= take;
                self.total += take;
                at += take;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            self.state = self.step(input[at])?;
            at += 1;
            if self.state == State::Data && self.left > max_body_bytes - self.total {
                return Err(Refusal::BODY_TOO_LARGE);
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, Refusal> {
        use State::{
            Data, DataCr, DataLf, Done, EndLf, Equals, Name, NameSpace, Quoted, QuotedEnd, QuotedPair,
            Semicolon, Size, SizeDigits, SizeLf, Space, Trailer, TrailerLf, TrailerName, TrailerValue, Value,
        };
        self.count_overhead()?;
        Ok(match (self.state, byte) {
            (Size | SizeDigits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.add_digit(byte)?;
                SizeDigits
            }
            (SizeDigits | Name | Value | QuotedEnd, b'\r') => SizeLf,
            (SizeLf, b'\n') if self.left == 0 => Trailer,
            (SizeLf, b'\n') => Data,
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => Size,

            (SizeDigits | Space | Value | QuotedEnd, b' ' | b'\t') => Space,
            (SizeDigits | Space | Name | NameSpace | Value | QuotedEnd, b';') | (Semicolon, b' ' | b'\t') => {
                Semicolon
            }
            (Name | NameSpace, b' ' | b'\t') => NameSpace,
            (Name | NameSpace, b'=') | (Equals, b' ' | b'\t') => Equals,
            (Equals, b'"') => Quoted,
            (Quoted, b'"') => QuotedEnd,
            (Quoted, b'\\') => QuotedPair,
            (Quoted | QuotedPair, byte) if is_text(byte) => Quoted,
            (Semicolon | Name, byte) if is_token(byte) => Name,
            (Equals | Value, byte) if is_token(byte) => Value,

            (Trailer, b'\r') => EndLf,
            (TrailerName, b':') => TrailerValue,
            (TrailerValue, b'\r') => TrailerLf,
            (TrailerLf, b'\n') => Trailer,
            (EndLf, b'\n') => Done,
            (Trailer | TrailerName, byte) if is_token(byte) => TrailerName,
            (TrailerValue, byte) if is_text(byte) => TrailerValue,

            (Size | SizeDigits | Space, _) => return Err(bad("a chunk's size is not hexadecimal digits")),
            (DataCr | DataLf, _) => return Err(bad("a chunk is longer than its size says")),
            (Trailer | TrailerName, _) => return Err(bad("a trailer's name is not a token before a colon")),
            (SizeLf | TrailerLf | EndLf, _) | (_, b'\r' | b'\n') => {
                return Err(bad("a line of the chunked body does not end in CRLF"));
            }
            _ => return Err(bad("a chunk extension or a trailer is malformed")),
        })
    }

    fn count_overhead(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::Size | State::SizeLf | State::Data | State::DataCr | State::DataLf => return Ok(()),
            State::SizeDigits if self.left > 0 => return Ok(()),
            _ => self.overhead += 1,
        }
        if self.overhead > MAX_OVERHEAD_BYTES {
            return Err(bad("chunk extensions, trailers and leading zeros are longer than 16 KiB"));
        }
        Ok(())
    }

    fn add_digit(&mut self, byte: u8) -> Result<(), Refusal> {
        // `to_digit` cannot fail for a hexadecimal digit, so the 0 is never used.
        let digit = (byte as char).to_digit(16).unwrap_or(0) as usize;
        let left = self.left.checked_mul(16).and_then(|left| left.checked_add(digit));
        self.left = left.ok_or_else(|| bad("a chunk's size is too large a number"))?;
        Ok(())
    }
}

/// The bytes that may stand in a field's value (RFC 9110 section 5.5) and, escaped or not, between quotes (section
/// 5.6.4).
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), Refusal> {
        let (mut decoder, mut body, mut used) = (Decoder::default(), Vec::new(), 0);
        for part in parts {
            used += decoder.decode(part, &mut body, 100)?;
        }
        Ok((body, decoder.is_done(), used))
    }

    #[test]
    fn chunks_become_the_body_and_the_next_request_is_left() {
        let wire = b"5;ext=\"x\"\r\nhello\r\nA\r\n, world...\r\n0\r\nX-T: 1\r\n\r\nGET /";
        assert_eq!(decode(&[wire]), Ok((b"hello, world...".to_vec(), true, wire.len() - 5)));
    }

    #[test]
    fn extensions_are_read_and_dropped() {
        for wire in [
            "2;a\r\nhi\r\n0\r\n\r\n",
            "2 ; a = b ;c\r\nhi\r\n0;d=e\r\n\r\n",
            "02;a=\"b;\\\" c\"\r\nhi\r\n0\r\n\r\n",
        ] {
            assert_eq!(decode(&[wire.as_bytes()]), Ok((b"hi".to_vec(), true, wire.len())), "{wire:?}");
        }
    }

    #[test]
    fn the_split_of_the_bytes_does_not_matter() {
        let wire = b"5\r\nhello\r\n0;a\r\nX: y\r\n\r\n";
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        assert_eq!(decode(&bytes), decode(&[wire]));
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for (wire, status) in [
            (&b"\r\n"[..], 400),
            (b"x\r\n", 400),
            (b"-1\r\n", 400),
            (b"0x5\r\n", 400),
            (b"5 \r\nhello", 400),
            (b"5;\r\nhello", 400),
            (b"5;a=\r\nhello", 400),
            (b"5;a=\"b\r\nhello", 400),
            (b"5;a=\"b\"c\r\nhello", 400),
            (b"5;a\nhello", 400),
            (b"5\nhello", 400),
            (b"5\r\nhelloX", 400),
            (b"5;\0\r\n", 400),
            (b"0\r\nX\nY", 400),
            (b"0\r\n X: y\r\n", 400),
            (b"0\r\nX\r\n", 400),
            (b"0\r\nX : y\r\n", 400),
            (b"0\r\n: y\r\n", 400),
            (b"FFFFFFFFFFFFFFFFF\r\n", 400),
            (b"65\r\n", 413),
            (b"FFFFFFFFFFFFFFFF\r\n", 413),
        ] {
            assert_eq!(decode(&[wire]).expect_err("refused").status.as_u16(), status, "{wire:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_have_a_limit() {
        for (begin, endless) in
            [(&b"5;"[..], b'a'), (b"5", b' '), (b"0\r\n", b'a'), (b"0\r\nx:", b'a'), (b"", b'0')]
        {
            let endless = vec![endless; MAX_OVERHEAD_BYTES + 2];
            assert!(decode(&[begin, &endless]).is_err(), "{begin:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_stay_within_the_limit(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let mut body = Vec::new();
            let _ = Decoder::default().decode(&bytes, &mut body, 50);
            proptest::prop_assert!(body.len() <= 50);
        }
    }
}
