//! A request's head: it is read or refused, within its limits, and the same however its bytes were split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::http::{parse_head, scan_head, BodyLength, Head, Limits, Refusal, Scan};

/// Limits so small that inputs reach every one of them.
const LIMITS: Limits = Limits { max_head_bytes: 400, max_target_bytes: 100, max_headers: 10 };

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, [bytes.len()]);
    assert_eq!(show(&read(bytes, 1..=bytes.len())), show(&whole), "a byte at a time");
    let half = bytes.len() / 2;
    assert_eq!(show(&read(bytes, [half, bytes.len()])), show(&whole), "in two halves");
    match whole {
        Ok(Some((end, head))) => check(end, &head),
        Ok(None) => assert!(bytes.len() < LIMITS.max_head_bytes, "it waits for more than it may take"),
        Err(refusal) => assert!(refusal.status.is_client_error() || refusal.status.is_server_error()),
    }
});

/// Reads a head as a connection does, from bytes that come up to each of these places.
fn read(bytes: &[u8], places: impl IntoIterator<Item = usize>) -> Result<Option<(usize, Head)>, Refusal> {
    let mut scanned = 0;
    for place in places {
        match scan_head(&bytes[..place], scanned, &LIMITS)? {
            Scan::Incomplete => scanned = place,
            Scan::Complete(end) => return Ok(Some((end, parse_head(&bytes[..end], &LIMITS)?))),
        }
    }
    Ok(None)
}

/// The parsed request in a form that can be compared.
fn show(read: &Result<Option<(usize, Head)>, Refusal>) -> String {
    format!("{read:?}")
}

fn check(end: usize, head: &Head) {
    assert!(end <= LIMITS.max_head_bytes);
    let request = &head.request;
    assert!(request.path().starts_with('/') || request.path() == "*", "{:?}", request.path());
    assert!(request.path().len() + request.query().len() <= LIMITS.max_target_bytes);
    assert!(request.header_lines().count() <= LIMITS.max_headers);
    for (name, value) in request.header_lines() {
        assert!(!name.is_empty() && !name.contains([' ', '\t', ':']), "{name:?}");
        assert!(!value.iter().any(|byte| b"\0\r\n".contains(byte)), "{value:?}");
        assert_eq!(value.trim_ascii(), value, "white space around a value is none of it");
    }
    let count =
        |wanted: &str| request.header_lines().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).count();
    assert!(count("host") <= 1);
    match head.body {
        BodyLength::Chunked => {
            assert_eq!((count("content-length"), count("transfer-encoding")), (0, 1));
        }
        BodyLength::Known(_) => {
            assert!(count("content-length") <= 1);
            assert_eq!(count("transfer-encoding"), 0);
        }
    }
}
