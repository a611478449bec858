//! A chunked body: it is decoded or refused, within its limit, and the same however its bytes were split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::http::{Decoder, Refusal};

/// A limit so small that inputs reach it.
const MAX_BODY_BYTES: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    let whole = decode(bytes, [bytes.len()]);
    assert_eq!(decode(bytes, 1..=bytes.len()), whole, "a byte at a time");
    let half = bytes.len() / 2;
    assert_eq!(decode(bytes, [half, bytes.len()]), whole, "in two halves");
    let (outcome, body) = whole;
    assert!(body.len() <= MAX_BODY_BYTES);
    if let Ok((used, is_done)) = outcome {
        assert!(is_done || used == bytes.len(), "it takes all there is until the body ends");
        assert!(!is_done || bytes[..used].ends_with(b"\r\n\r\n"), "a body ends in an empty line");
        assert!(body.len() < used.max(1), "chunks are longer than what they carry");
    }
});

/// Decodes as a connection does, from bytes that come up to each of these places: how many were used and whether that was
/// all, or why not; and the body.
fn decode(
    bytes: &[u8],
    places: impl IntoIterator<Item = usize>,
) -> (Result<(usize, bool), Refusal>, Vec<u8>) {
    let (mut decoder, mut body, mut used) = (Decoder::default(), Vec::new(), 0);
    for place in places {
        if decoder.is_done() {
            break;
        }
        match decoder.decode(&bytes[used..place], &mut body, MAX_BODY_BYTES) {
            Ok(taken) => used += taken,
            Err(refusal) => return (Err(refusal), body),
        }
    }
    (Ok((used, decoder.is_done())), body)
}
