//! The chunked transfer coding, decoded as its bytes arrive (RFC 9112 section 7.1).
//!
//! Poller thread. Chunk extensions and trailers are read and dropped, both within a bound.

use http::StatusCode;

use super::Refusal;

/// Reads one chunked body.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// Bytes of the current chunk still to come.
    left: usize,
    /// Bytes of the body so far.
    total: usize,
    /// Bytes of extensions and trailers so far: what does not become body must not be endless either.
    overhead: usize,
}

/// Extensions and trailers together; Go's net/http bounds them alike after its CVE-2023-39326.
const MAX_OVERHEAD_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a chunk's size.
    #[default]
    Size,
    /// After at least one digit.
    SizeDigits,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    Trailer,
    TrailerLine,
    TrailerLf,
    EndLf,
    Done,
}

const fn bad(detail: &'static str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, detail)
}

impl Decoder {
    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes from `input` into `body` and returns how many bytes were used: all, unless the body ended before.
    ///
    /// # Errors
    /// 400 for what is no chunked body, 413 when it would be longer than `max_body_bytes`.
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
            Data, DataCr, DataLf, Done, EndLf, Extension, Size, SizeDigits, SizeLf, Trailer, TrailerLf,
            TrailerLine,
        };
        if matches!(self.state, Extension | TrailerLine | Trailer) {
            self.overhead += 1;
            if self.overhead > MAX_OVERHEAD_BYTES {
                return Err(bad("chunk extensions and trailers are longer than 16 KiB"));
            }
        }
        Ok(match (self.state, byte) {
            (Size | SizeDigits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // to_digit cannot fail on a hex digit; 0 stands for the impossible.
                let digit = (byte as char).to_digit(16).unwrap_or(0) as usize;
                self.left = self
                    .left
                    .checked_mul(16)
                    .and_then(|left| left.checked_add(digit))
                    .ok_or_else(|| bad("a chunk's size is too large a number"))?;
                SizeDigits
            }
            (SizeDigits | Extension, b'\r') => SizeLf,
            (SizeDigits, b';') | (Extension, b'\t' | b' '..=b'~' | 0x80..) => Extension,
            (SizeLf, b'\n') if self.left == 0 => Trailer,
            (SizeLf, b'\n') => Data,
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => Size,
            (Trailer, b'\r') => EndLf,
            (TrailerLine, b'\r') => TrailerLf,
            (Trailer, b'!'..=b'~') | (TrailerLine, b'\t' | b' '..=b'~' | 0x80..) => TrailerLine,
            (TrailerLf, b'\n') => Trailer,
            (EndLf, b'\n') => Done,
            (Size | SizeDigits, _) => return Err(bad("a chunk's size is not hexadecimal digits")),
            (DataCr | DataLf, _) => return Err(bad("a chunk is longer than its size says")),
            _ => return Err(bad("a line of the chunked body does not end in CRLF")),
        })
    }
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
    fn chunks_become_the_body_and_what_follows_is_left() {
        let wire = b"5;ext=\"x\"\r\nhello\r\nA\r\n, world...\r\n0\r\nX-T: 1\r\n\r\nGET /";
        assert_eq!(decode(&[wire]), Ok((b"hello, world...".to_vec(), true, wire.len() - 5)));
    }

    #[test]
    fn how_bytes_were_split_does_not_matter() {
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
            (b"5\nhello", 400),
            (b"5\r\nhelloX", 400),
            (b"5;\0\r\n", 400),
            (b"0\r\nX\nY", 400),
            (b"0\r\n X: y\r\n", 400),
            (b"FFFFFFFFFFFFFFFFF\r\n", 400),
            (b"65\r\n", 413),
            (b"FFFFFFFFFFFFFFFF\r\n", 413),
        ] {
            assert_eq!(decode(&[wire]).expect_err("refused").status.as_u16(), status, "{wire:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_have_an_end() {
        let endless = vec![b'a'; MAX_OVERHEAD_BYTES + 1];
        assert!(decode(&[b"5;", &endless]).is_err());
        assert!(decode(&[b"0\r\n", &endless]).is_err());
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
