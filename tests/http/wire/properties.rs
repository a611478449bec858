//! Properties that hold for all bytes: splitting them changes nothing, limits hold, and no client ends the server.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use wharf::config::Connector;
use wharf::http::{Decoder, Limits, Refusal, Scan, parse_head, scan_head};

use super::native::Peer;
use super::server;
use crate::support::{Client, wait_for};

/// Limits so small that generated requests reach every one of them.
const LIMITS: Limits = Limits { max_head_bytes: 200, max_target_bytes: 40, max_headers: 5 };
const MAX_BODY_BYTES: usize = 40;

/// Clients that say something odd to a real server; each costs a connection.
const CLIENTS: u32 = 400;

/// Bytes that mean something to a parser, so that a change of one byte often changes the meaning.
const BYTES: [u8; 20] = *b"\r\n \t:;,\"\\/?#*0a\0\x7f\x80=-";

/// A request that is right, or nearly.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = select(vec!["GET", "POST", "HEAD", "OPTIONS", "CONNECT", "BREW", ""]);
    let target = select(vec![
        "/immediate",
        "/path/a?b",
        "/echo",
        "*",
        "http://h/path/a",
        "http://h",
        "h:80",
        "/\u{e9}",
        "",
    ]);
    let version =
        select(vec!["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", ""]);
    let field = select(vec![
        "Host: h",
        "Host: a b",
        "X:\t1 ",
        "X: 1\r\n folded",
        "X : 1",
        "X",
        "Content-Length: 5",
        "Content-Length: +5",
        "Content-Length: 99",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Connection: close",
        "Connection: keep-alive",
        "Expect: 100-continue",
        "Expect: x",
    ]);
    let body = select(vec![
        "",
        "hello",
        "5\r\nhello\r\n0\r\n\r\n",
        "GET /immediate HTTP/1.1\r\nHost: h\r\n\r\n",
        "\r\n",
    ]);
    (method, target, version, vec(field, 0..7), body).prop_map(|(method, target, version, fields, body)| {
        let line = format!("{method} {target} {version}");
        let head: Vec<&str> = [line.as_str(), "Host: h"].into_iter().chain(fields).collect();
        (head.join("\r\n") + "\r\n\r\n" + body).into_bytes()
    })
}

/// A body in chunks that is right, or nearly.
fn chunks() -> impl Strategy<Value = Vec<u8>> {
    let chunk = (
        0_usize..20,
        select(vec!["", ";a", ";a=b", ";a=\"b;c\\\"\"", " ; a = b", ";", " "]),
        select(vec!["\r\n", "\r\n", "\r\n", "\n", ""]),
    );
    let trailer = select(vec!["X: 1\r\n", "X:\r\n", "X\r\n", " X: 1\r\n", "Content-Length: 5\r\n"]);
    (vec(chunk, 0..5), vec(trailer, 0..3), select(vec!["0", "00", ""])).prop_map(
        |(chunks, trailers, last)| {
            let chunk = |(size, extension, end)| format!("{size:x}{extension}\r\n{}{end}", "x".repeat(size));
            let chunks: String = chunks.into_iter().filter(|(size, ..)| *size > 0).map(chunk).collect();
            format!("{chunks}{last}\r\n{}\r\nGET /", trailers.concat()).into_bytes()
        },
    )
}

/// The same with a few bytes replaced, inserted or left out.
fn mutated(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), 0..3, select(BYTES.to_vec()));
    (bytes, vec(change, 0..4)).prop_map(|(mut bytes, changes)| {
        for (place, how, byte) in changes {
            let at = place.index(bytes.len() + 1);
            match how {
                0 => bytes.insert(at, byte),
                _ if at == bytes.len() => bytes.push(byte),
                1 => bytes[at] = byte,
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

/// Bytes and where they are split.
fn split(bytes: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    (bytes, vec(any::<Index>(), 0..6)).prop_map(|(bytes, places)| {
        let mut places: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
        places.push(bytes.len());
        places.sort_unstable();
        (bytes, places)
    })
}

/// Reads a head as a connection does, from bytes that come up to each of these places. Where it ends, and all it says.
fn read_head(bytes: &[u8], places: &[usize]) -> Result<Option<(usize, String)>, Refusal> {
    let mut scanned = 0;
    for &place in places {
        match scan_head(&bytes[..place], scanned, &LIMITS)? {
            Scan::Incomplete => scanned = place,
            Scan::Complete(end) => {
                let head = parse_head(&bytes[..end], &LIMITS)?;
                return Ok(Some((end, format!("{head:?}"))));
            }
        }
    }
    Ok(None)
}

/// Decodes chunks as a connection does: how many bytes it took and whether that was all, and the body.
fn decode(bytes: &[u8], places: &[usize]) -> (Result<(usize, bool), Refusal>, Vec<u8>) {
    let (mut decoder, mut body, mut used) = (Decoder::default(), Vec::new(), 0);
    for &place in places {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_head_is_read_the_same_however_it_was_split((bytes, places) in split(mutated(request()))) {
        prop_assert_eq!(read_head(&bytes, &places), read_head(&bytes, &[bytes.len()]));
    }

    #[test]
    fn a_head_is_never_longer_than_its_limit((bytes, places) in split(mutated(request()))) {
        if let Ok(Some((end, _))) = read_head(&bytes, &places) {
            prop_assert!(end <= LIMITS.max_head_bytes);
        }
        if bytes.len() >= LIMITS.max_head_bytes {
            prop_assert_ne!(read_head(&bytes, &places), Ok(None), "it waits for more than it may take");
        }
    }

    #[test]
    fn chunks_are_decoded_the_same_however_they_were_split((bytes, places) in split(mutated(chunks()))) {
        prop_assert_eq!(decode(&bytes, &places), decode(&bytes, &[bytes.len()]));
    }

    #[test]
    fn chunks_never_become_more_than_the_limit((bytes, places) in split(mutated(chunks()))) {
        prop_assert!(decode(&bytes, &places).1.len() <= MAX_BODY_BYTES);
    }
}

/// The client ends its side, so that also a request that is not complete has an end.
#[test]
fn no_bytes_hang_or_kill_the_server() {
    let server = server::start(Connector::Native);
    let noise = vec(any::<u8>(), 0..300);
    let bytes = prop_oneof![noise, mutated(request()), mutated(request()).prop_map(|bytes| bytes.repeat(3))];
    let mut runner = TestRunner::new(ProptestConfig::with_cases(CLIENTS));
    let outcome = runner.run(&bytes, |bytes| {
        let mut client = Client::connect(server.address());
        client.send(&bytes);
        client.finish_sending();
        let answers = client.rest();
        prop_assert!(answers.is_empty() || answers.starts_with(b"HTTP/1.1 "));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(Peer::connect(server.address()).exchange(), Ok(()), "it still serves");
    // A worker counts its answer after the client has it.
    let metrics = server.metrics();
    wait_for(
        || metrics.requests() == metrics.finished(),
        || format!("a request is neither answered nor refused nor abandoned: {metrics}"),
    );
}
