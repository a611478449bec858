//! How connections end: a side that ends one in order announces it before (`close_notify`), so that a cut cannot pass
//! for an end.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use wharf::config::{AdminListen, Listen};
use wharf::metrics::{Closing, Reason};

use super::served::{LARGE, Served, VERSIONS};
use super::session::{End, Session};
use crate::support::{Client, PATIENCE};

const SOON: Duration = Duration::from_millis(100);

/// Ends with `close_notify` and nothing before it.
fn assert_ends_in_peace(session: &mut Session, what: &str) {
    assert_eq!(session.rest(), (Vec::new(), End::Peace), "{what}");
}

#[test]
fn an_idle_connection_is_told_of_its_end() {
    let server = Served::start_with(|config, _| config.http.idle_timeout = SOON);
    for version in VERSIONS {
        for path in ["/immediate", "/path/x"] {
            let mut client = server.connect_with(version);
            client.request("GET", path, &[], "");
            assert_eq!(client.answer().status, 200);
            assert!(client.is_closed() && client.ended_in_peace(), "{version:?} {path}");
        }
    }
    assert_eq!(server.metrics().closed_for(Closing::Idle), 4);
    server.finish();
}

#[test]
fn a_client_that_says_nothing_after_its_handshake_is_told_of_its_end() {
    let server = Served::start_with(|config, _| config.http.head_timeout = SOON);
    for version in VERSIONS {
        let mut session = server.session_with(version);
        session.shake_hands();
        assert_ends_in_peace(&mut session, "after the handshake");
        let mut client = server.connect_with(version);
        client.send("GET / HT");
        assert_eq!(client.answer().status, 408, "{version:?}");
        assert!(client.is_closed() && client.ended_in_peace(), "{version:?}");
    }
    assert_eq!(server.metrics().closed_for(Closing::Handshake), 0, "the handshakes were good");
    server.finish();
}

#[test]
fn the_last_answer_comes_before_close_notify() {
    let server = Served::start();
    for version in VERSIONS {
        for path in ["/immediate", "/path/x", "/bytes?3000000", "/large-stream", "/large-file"] {
            let mut client = server.connect_with(version);
            client.request("GET", path, &[("Connection", "close")], "");
            let answer = client.answer();
            assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")), "{path}");
            assert!(client.is_closed() && client.ended_in_peace(), "{version:?} {path}");
        }
    }
    server.finish();
}

/// HTTP/1.0 knows no chunks: the body of unknown length ends with the connection, and only `close_notify` tells an end from
/// a cut.
#[test]
fn a_body_that_ends_with_the_connection_ends_with_close_notify() {
    let server = Served::start();
    for version in VERSIONS {
        let mut session = server.session_with(version);
        session.shake_hands();
        session.send("GET /large-stream HTTP/1.0\r\n\r\n");
        let (answer, end) = session.rest();
        assert_eq!(end, End::Peace, "{version:?}");
        assert!(answer.len() > LARGE, "{version:?}: {}", answer.len());
    }
    server.finish();
}

#[test]
fn a_drain_closes_in_peace_whoever_is_idle_and_whoever_gets_an_answer() {
    for version in VERSIONS {
        let server = Served::start_with(|config, _| config.server.workers = Some(2));
        let mut idle = server.connect_with(version);
        idle.request("GET", "/path/x", &[], "");
        assert_eq!(idle.answer().status, 200);
        let mut unused = server.session_with(version);
        unused.shake_hands();
        let mut busy = server.connect_with(version);
        busy.request("GET", "/gate", &[], "");
        server.wait_for_gate();
        let opener = server.gate();
        let drain = std::thread::spawn(move || server.drain());
        assert!(idle.is_closed() && idle.ended_in_peace(), "{version:?}");
        assert_ends_in_peace(&mut unused, "unused");
        opener.send(()).expect("the handler waits");
        let answer = busy.answer();
        assert_eq!((answer.text(), answer.header("Connection")), ("through", Some("close")), "{version:?}");
        assert!(busy.is_closed() && busy.ended_in_peace(), "{version:?}");
        drain.join().expect("it stops in peace");
    }
}

/// A handshake that was over while the server drained gave its client the whole `http.head_timeout`.
#[test]
fn a_drain_does_not_wait_for_a_client_that_shakes_hands_and_says_nothing() {
    for version in VERSIONS {
        let server = Served::start();
        let mut late = server.session_with(version);
        let hello = late.pending();
        let (first, last) = hello.split_at(hello.len() / 2);
        late.send_raw(first);
        server.wait_for_open(1);
        let mut idle = server.connect_with(version);
        idle.request("GET", "/path/x", &[], "");
        assert_eq!(idle.answer().status, 200);
        let drain = std::thread::spawn(move || server.drain());
        // It is idle when the server begins to drain, and is closed for it.
        assert!(idle.is_closed(), "{version:?}");
        late.send_raw(last);
        late.shake_hands();
        assert_ends_in_peace(&mut late, "after the handshake");
        drain.join().expect("it stops in peace");
    }
}

#[test]
fn a_client_that_says_that_it_ends_is_answered_with_the_same() {
    let server = Served::start();
    for version in VERSIONS {
        for requests in [0, 1] {
            let mut session = server.session_with(version);
            session.shake_hands();
            for _ in 0..requests {
                session.send("GET /path/x HTTP/1.1\r\nHost: h\r\n\r\n");
                while !session.read(1).ends_with(b"?") {}
            }
            session.tls.send_close_notify();
            let bytes = session.pending();
            session.send_raw(&bytes);
            assert_ends_in_peace(&mut session, &format!("{version:?}, {requests} requests"));
        }
    }
    server.finish();
}

/// The end that came together with a request, or while a worker had it, was forgotten: the connection stayed until its idle
/// timeout.
#[test]
fn a_client_that_ends_behind_its_requests_is_answered_and_closed() {
    let server = Served::start();
    for version in VERSIONS {
        for path in ["/immediate", "/path/x", "/bytes?3000000"] {
            for apart in [false, true] {
                let mut session = server.session_with(version);
                session.shake_hands();
                let mut bytes =
                    session.encrypted(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").repeat(2).as_bytes());
                if apart {
                    session.send_raw(&std::mem::take(&mut bytes));
                }
                session.tls.send_close_notify();
                bytes.extend(session.pending());
                session.send_raw(&bytes);
                let (answers, end) = session.rest();
                let heads = answers.windows(12).filter(|window| window == b"HTTP/1.1 200").count();
                assert_eq!((heads, end), (2, End::Peace), "{version:?} {path}, apart: {apart}");
            }
        }
    }
    server.finish();
}

/// The same in the middle of a body, which then cannot be complete.
#[test]
fn a_client_that_ends_in_the_middle_of_its_request_is_closed() {
    let server = Served::start();
    for version in VERSIONS {
        for part in ["GET /path", "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"] {
            let mut session = server.session_with(version);
            session.shake_hands();
            session.send(part);
            session.tls.send_close_notify();
            let bytes = session.pending();
            session.send_raw(&bytes);
            assert_ends_in_peace(&mut session, part);
        }
    }
    server.finish();
}

/// The end that came in one read with what filled the pipe was forgotten: the handler waited until the client was refused for
/// its body's rate.
#[test]
fn a_handler_is_told_of_the_end_of_a_client_whose_body_it_reads() {
    let server = Served::start();
    for version in VERSIONS {
        for sent in [100, 70_000, 300_000] {
            let mut session = server.session_with(version);
            session.shake_hands();
            let head = b"PUT /gated-known HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n";
            let mut bytes = session.encrypted(&[&head[..], &vec![b'x'; sent]].concat());
            session.tls.send_close_notify();
            bytes.extend(session.pending());
            session.send_raw(&bytes);
            if sent > 100 {
                server.wait_for_gate();
                server.open_gate();
            }
            // Whether it is answered is not the matter.
            session.rest();
            assert_eq!(server.metrics().refused_for(Reason::BodyRate), 0, "{version:?}, {sent} bytes");
        }
    }
    server.finish();
}

#[test]
fn a_client_that_is_cut_off_in_the_middle_of_a_record_is_forgotten() {
    let server = Served::start();
    for version in VERSIONS {
        for path in ["/path/x", "/gate"] {
            let mut session = server.session_with(version);
            session.shake_hands();
            let bytes = session.encrypted(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
            let next = session.encrypted(b"GET /immediate HTTP/1.1\r\nHost: h\r\n\r\n");
            session.send_raw(&bytes);
            session.send_raw(&next[..next.len() / 2]);
            if path == "/gate" {
                server.wait_for_gate();
                server.open_gate();
            }
            drop(session);
        }
    }
    server.finish();
}

#[test]
fn plain_http_is_told_where_it_is() {
    let server = Served::start();
    let requests = [
        "GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n{}", "x".repeat(5_000_000)),
    ];
    for request in requests {
        let mut client = Client::connect(server.address());
        client.send(&request);
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("Connection")), (400, Some("close")));
        assert_eq!(answer.header("Content-Type"), Some("application/problem+json"));
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains("HTTPS"), "{detail}");
        assert!(client.is_closed());
    }
    assert_eq!(server.metrics().refused_for(Reason::Malformed), 2);
    server.wait_for_failed_handshakes(2);
    server.serves();
    server.finish();
}

#[test]
fn bytes_that_are_neither_tls_nor_http_are_closed_and_counted() {
    let server = Served::start();
    let many = vec![0xff; 100_000];
    let garbage: [&[u8]; 5] = [
        &[0; 100],
        &many,
        b"hello, server\r\n",
        b"\x16\x03\x01\xff\xff\x01\x00\x00\x00\x00",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ];
    for (count, bytes) in (1..).zip(garbage) {
        let mut client = Client::connect(server.address());
        // The server may close the connection before the client has sent all.
        let _ = std::io::Write::write_all(&mut client.stream(), bytes);
        let answer = client.rest();
        assert!(answer.is_empty() || answer[0] == 21, "an alert or nothing: {answer:?}");
        server.wait_for_failed_handshakes(count);
        server.serves();
    }
    server.finish();
}

#[test]
fn a_broken_record_gets_an_alert_and_ends_the_connection() {
    let server = Served::start();
    for version in VERSIONS {
        let mut session = server.session_with(version);
        session.shake_hands();
        let mut bytes = session.encrypted(b"GET /path/x HTTP/1.1\r\nHost: h\r\n\r\n");
        *bytes.last_mut().expect("there are bytes") ^= 1;
        session.send_raw(&bytes);
        let error = rustls::Stream::new(&mut session.tls, &mut session.socket).read(&mut [0; 1]);
        let error = error.expect_err("it is an alert").to_string();
        assert!(error.contains("BadRecordMac"), "{version:?}: {error}");
    }
    assert_eq!(server.metrics().closed_for(Closing::Handshake), 0, "the handshakes were good");
    server.finish();
}

/// `close_notify` was given up when the answer before it had filled the socket. A Unix socket is full earlier and more often
/// than TCP's.
#[test]
fn close_notify_comes_also_behind_an_answer_that_fills_the_socket() {
    let mut path = PathBuf::new();
    let server = Served::start_with(|config, authority| {
        path = authority.directory().join("socket");
        config.server.listen = Listen::Unix(path.clone());
        config.admin.listen = Some(AdminListen::Off);
        config.server.selectors = Some(1);
    });
    let ask = |target: String| {
        let socket = UnixStream::connect(&path).expect("the server accepts");
        socket.set_read_timeout(Some(PATIENCE)).expect("the limit is not zero");
        let name = "localhost".try_into().expect("a host's name");
        let tls = ClientConnection::new(server.authority.trusting(None), name).expect("it has no mistake");
        let mut client = StreamOwned::new(tls, socket);
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).expect("the server takes the bytes");
        client
    };
    let lengths = (10_000..500_000).step_by(10_000);
    let clients: Vec<_> = lengths.map(|length| (length, ask(format!("/bytes?{length}")))).collect();
    // There are one worker and one poller, so the earlier requests have had their turn when this one is answered.
    ask("/path/x".into()).read_to_end(&mut Vec::new()).expect("it ends in peace");
    for (length, mut client) in clients {
        let end = client.read_to_end(&mut Vec::new()).map(|read| read > length);
        assert!(matches!(end, Ok(true)), "{length} bytes: {end:?}");
    }
    server.finish();
}
