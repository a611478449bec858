//! Large bodies through TLS, both ways: nothing holds a worker that need not, and everything arrives whole.

use super::known;
use super::served::{LARGE, Served, VERSIONS};
use crate::support::Answer;

fn assert_large(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.body.len()), (200, LARGE), "{what}");
    assert!(known::is_at(0, &answer.body), "{what}: another content");
}

#[test]
fn a_slow_reader_holds_no_worker_and_still_gets_every_byte() {
    let server = Served::start();
    for (version, path) in VERSIONS.into_iter().zip(["/large", "/large-file"]) {
        let mut slow = server.connect_with(version);
        slow.request("GET", path, &[], "");
        // The only worker is free for others while the slow one has read nothing.
        let mut other = server.connect_with(version);
        for _ in 0..10 {
            other.request("GET", "/path/other", &[], "");
            assert_eq!(other.answer().text(), "/path/other?", "{version:?}");
        }
        assert_large(&slow.answer(), path);
        slow.request("GET", "/path/after", &[], "");
        assert_eq!(slow.answer().text(), "/path/after?", "{version:?}: the connection goes on");
    }
    server.finish();
}

#[test]
fn large_answers_of_every_kind_arrive_whole() {
    let server = Served::start();
    for version in VERSIONS {
        let mut client = server.connect_with(version);
        for path in ["/large", "/large-immediate", "/large-stream", "/large-file"] {
            client.request("GET", path, &[], "");
            assert_large(&client.answer(), path);
        }
    }
    server.finish();
}

#[test]
fn a_large_upload_streams_to_its_handler_whole() {
    let server = Served::start();
    let body = known::bytes(LARGE);
    for version in VERSIONS {
        let mut client = server.connect_with(version);
        client.send(format!("PUT /known HTTP/1.1\r\nHost: h\r\nContent-Length: {LARGE}\r\n\r\n"));
        client.send(&body);
        assert_eq!(client.answer().text(), format!("{LARGE} bytes, known: true"), "{version:?}");
        client.send("PUT /known HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        for part in body.chunks(70_001) {
            client.send([format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat());
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.answer().text(), format!("{LARGE} bytes, known: true"), "{version:?}");
        client.request("GET", "/path/after", &[], "");
        assert_eq!(client.answer().text(), "/path/after?", "{version:?}: the connection goes on");
    }
    server.finish();
}

#[test]
fn an_upload_streams_in_and_out_again() {
    let server = Served::start();
    let body = known::bytes(LARGE);
    for version in VERSIONS {
        let mut client = server.connect_with(version);
        client.send(format!("POST /echo-stream HTTP/1.1\r\nHost: h\r\nContent-Length: {LARGE}\r\n\r\n"));
        client.send(&body);
        assert_large(&client.answer(), "echo");
    }
    server.finish();
}

/// Both directions are full at the same time: an upload comes behind a request whose answer is still on its way.
#[test]
fn an_upload_and_an_answer_go_over_one_connection_at_once() {
    let server = Served::start();
    let body = known::bytes(LARGE);
    for version in VERSIONS {
        for path in ["/large", "/large-immediate", "/large-file"] {
            let mut session = server.session_with(version);
            session.shake_hands();
            let first = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
            let second = format!("PUT /known HTTP/1.1\r\nHost: h\r\nContent-Length: {LARGE}\r\n\r\n");
            let wire = [first.as_bytes(), second.as_bytes(), &body].concat();
            let verdict = format!("{LARGE} bytes, known: true");
            let received = session.send_while_reading(&wire, |all| all.ends_with(verdict.as_bytes()));
            let start = received.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
            assert!(known::is_at(0, &received[start..start + LARGE]), "{version:?} {path}");
            assert!(received[start + LARGE..].starts_with(b"HTTP/1.1 200"), "{version:?} {path}");
        }
    }
    server.finish();
}
