//! Requests through TLS: framing, pipelining and bodies, in either version and in records of every size.

use rustls::ClientConfig;

use super::served::{BODY_LIMIT, Served, VERSIONS};
use super::session::Session;

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let server = Served::start();
    for version in VERSIONS {
        let mut client = server.connect_with(version);
        for count in 0..3 {
            client.request("GET", &format!("/path/{count}?q={count}"), &[], "");
            assert_eq!(client.answer().text(), format!("/path/{count}?q={count}"), "{version:?}");
            client.request("POST", "/echo", &[], "body");
            assert_eq!(client.answer().text(), "body", "{version:?}");
            client.request("GET", "/immediate", &[], "");
            assert_eq!(client.answer().text(), "immediate", "{version:?}");
        }
    }
    server.finish();
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let server = Served::start();
    for version in VERSIONS {
        let mut client = server.connect_with(version);
        let trio = |count: usize| {
            format!(
                "GET /path/{count} HTTP/1.1\r\nHost: h\r\n\r\nGET /immediate HTTP/1.1\r\nHost: h\r\n\r\n\
                 POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n{count:05}"
            )
        };
        client.send((0..200).map(trio).collect::<Vec<_>>().concat());
        for count in 0..200 {
            assert_eq!(client.answer().text(), format!("/path/{count}?"), "{version:?}");
            assert_eq!(client.answer().text(), "immediate", "{version:?}");
            assert_eq!(client.answer().text(), format!("{count:05}"), "{version:?}");
        }
    }
    server.finish();
}

#[test]
fn more_pipelined_requests_than_one_read_takes_are_all_answered() {
    const COUNT: usize = 5000;
    let server = Served::start();
    for version in VERSIONS {
        for path in ["/immediate", "/path/x"] {
            let mut session = server.session_with(version);
            session.shake_hands();
            let wire = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").repeat(COUNT);
            // Every answer has the same length, for the date always has.
            session.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
            let body = if path == "/immediate" { "immediate" } else { "/path/x?" };
            let first = through(&mut session, body.as_bytes());
            let all = session.send_while_reading(wire.as_bytes(), |all| all.len() >= first.len() * COUNT);
            let ends = all.windows(body.len()).filter(|window| *window == body.as_bytes()).count();
            assert_eq!(ends, COUNT, "{version:?}");
        }
    }
    server.finish();
}

/// All bytes up to `end`, and `end` itself.
fn through(session: &mut Session, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        bytes.extend(session.read(1));
    }
    bytes
}

#[test]
fn requests_may_come_in_records_of_one_byte() {
    let server = Served::start();
    for version in VERSIONS {
        let mut client = server.connect_with(version);
        let wire = b"\r\nPOST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                     3;x\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\nGET /path/x HTTP/1.1\r\nHost: h\r\n\r\n";
        for byte in wire {
            client.send([*byte]);
        }
        assert_eq!(client.answer().text(), "abcde", "{version:?}");
        assert_eq!(client.answer().text(), "/path/x?", "{version:?}");
    }
    server.finish();
}

#[test]
fn the_handshake_and_a_request_may_come_a_byte_at_a_time() {
    let server = Served::start();
    for version in VERSIONS {
        let mut session = server.session_with(version);
        while session.tls.is_handshaking() {
            for byte in session.pending() {
                session.send_raw(&[byte]);
            }
            session.tls.read_tls(&mut session.socket).expect("the server answers");
            session.tls.process_new_packets().expect("the server speaks TLS");
        }
        // The last part of the handshake and the request come together.
        let mut bytes = session.pending();
        bytes.extend(session.encrypted(b"GET /path/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
        for byte in bytes {
            session.send_raw(&[byte]);
        }
        let (answer, _) = session.rest();
        assert!(answer.ends_with(b"/path/x?"), "{version:?}: {}", String::from_utf8_lossy(&answer));
    }
    server.finish();
}

#[test]
fn bodies_come_whole_with_a_length_and_chunked() {
    let server = Served::start();
    let body = "0123456789".repeat(BODY_LIMIT / 10);
    for version in VERSIONS {
        let mut client = server.connect_with(version);
        client.request("POST", "/echo", &[], &body);
        assert_eq!(client.answer().text(), body, "{version:?}");
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
        for part in body.as_bytes().chunks(7001) {
            client.send(format!("{:x}\r\n", part.len()));
            client.send(part);
            client.send("\r\n");
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.answer().text(), body, "{version:?}");
    }
    server.finish();
}

#[test]
fn head_has_the_length_and_no_body() {
    let server = Served::start();
    for version in VERSIONS {
        let mut client = server.connect_with(version);
        for (path, length) in [
            ("/path/abc", Some("10")),
            ("/large", Some("20971520")),
            ("/large-file", Some("20971520")),
            ("/large-stream", None),
        ] {
            client.request("HEAD", path, &[], "");
            assert_eq!(client.head_answer().header("Content-Length"), length, "{version:?} {path}");
        }
        client.request("GET", "/path/abc", &[], "");
        assert_eq!(client.answer().text(), "/path/abc?", "{version:?}");
    }
    server.finish();
}

#[test]
fn continue_is_said_only_when_the_body_is_wanted() {
    let server = Served::start();
    for version in VERSIONS {
        let mut client = server.connect_with(version);
        for path in ["/echo", "/echo-stream"] {
            client.send(format!(
                "POST {path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
            ));
            assert_eq!(client.answer().status, 100, "{version:?} {path}");
            client.send("body");
            assert_eq!(client.answer().text(), "body", "{version:?} {path}");
        }
        client.send("POST /no HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("Connection")), (404, Some("close")), "{version:?}");
        assert!(client.is_closed() && client.ended_in_peace(), "{version:?}");
    }
    server.finish();
}

#[test]
fn a_413_reaches_a_client_that_still_sends() {
    let server = Served::start();
    for version in VERSIONS {
        for framing in ["Content-Length: 5000000", "Transfer-Encoding: chunked"] {
            let mut client = server.connect_with(version);
            client.send(format!("POST /echo HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n4c4b40\r\n"));
            client.send(vec![b'x'; 5_000_000]);
            let answer = client.answer();
            assert_eq!((answer.status, answer.header("Connection")), (413, Some("close")), "{version:?}");
            assert!(client.is_closed() && client.ended_in_peace(), "{version:?}");
        }
    }
    server.finish();
}

#[test]
fn a_malformed_request_is_refused_through_tls() {
    let server = Served::start();
    for (wire, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ] {
        let mut client = server.connect();
        client.send(wire);
        assert_eq!(client.answer().status, status, "{wire}");
        assert!(client.is_closed() && client.ended_in_peace(), "{wire}");
    }
    server.finish();
}

#[test]
fn http_1_is_agreed_on_and_who_speaks_only_h2_is_refused() {
    let server = Served::start();
    for version in VERSIONS {
        let config = server.authority.trusting_with(&[version], None);
        let offering = |protocols: &[&str]| {
            let mut config = ClientConfig::clone(&config);
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
            config
        };
        for protocols in [&["http/1.1"][..], &["h2", "http/1.1"], &["http/1.0"], &[]] {
            let mut session = Session::connect(server.address(), offering(protocols).into());
            session.shake_hands();
            let agreed = protocols.last().map(|protocol| protocol.as_bytes());
            assert_eq!(session.tls.alpn_protocol(), agreed, "{version:?} {protocols:?}");
            session.send("GET /path/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            assert!(session.rest().0.ends_with(b"/path/x?"), "{version:?} {protocols:?}");
        }
        let reason = server.connect_as(&offering(&["h2"]).into()).tls_failure();
        assert!(reason.contains("NoApplicationProtocol"), "{version:?}: {reason}");
    }
    server.wait_for_failed_handshakes(2);
    server.finish();
}
