//! Handshakes that take too long or are too many, versions, and what a proxy says before them.

use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use wharf::config::TlsVersion;
use wharf::metrics::Closing;

use super::served::{Served, VERSIONS};
use crate::support::{PATIENCE, wait_until};

const SOON: Duration = Duration::from_millis(100);

#[test]
fn a_handshake_that_takes_too_long_is_ended_and_counted() {
    let server = Served::start_with(|config, _| config.tls.handshake_timeout = SOON);
    let mut silent = server.session();
    assert!(silent.rest_raw().is_empty(), "it has sent nothing");
    server.wait_for_failed_handshakes(1);
    let mut half = server.session();
    let hello = half.pending();
    half.send_raw(&hello[..hello.len() / 2]);
    assert!(half.rest_raw().is_empty(), "it has sent half a ClientHello");
    server.wait_for_failed_handshakes(2);
    for (version, count) in VERSIONS.into_iter().zip(3..) {
        let mut unfinished = server.session_with(version);
        let hello = unfinished.pending();
        unfinished.send_raw(&hello);
        assert!(unfinished.rest_raw().len() > 500, "{version:?}: the server's certificate");
        server.wait_for_failed_handshakes(count);
    }
    server.serves();
    server.finish();
}

#[test]
fn handshakes_go_on_while_a_newcomer_is_one_too_many() {
    let server = Served::start_with(|config, _| {
        // One poller begins the handshakes in their order.
        config.server.selectors = Some(1);
        config.tls.max_handshakes = 2;
    });
    for version in VERSIONS {
        let mut other = server.session_with(version);
        let hello = other.pending();
        other.send_raw(&hello[..10]);
        // Only the first of these finds a place.
        let newcomers: Vec<_> = (0..2).map(|_| server.session()).collect();
        other.send_raw(&hello[10..]);
        other.shake_hands();
        other.send("GET /path/x HTTP/1.1\r\nHost: h\r\n\r\n");
        while !other.read(1).ends_with(b"?") {}
        drop((other, newcomers));
        server.wait_for_open(0);
        server.serves();
    }
    server.finish();
}

/// A thousand silent clients kept all newcomers out for the ten seconds of `tls.handshake_timeout`.
#[test]
fn a_handshake_that_stalls_makes_room_for_a_newcomer() {
    let server = Served::start_with(|config, _| {
        config.server.selectors = Some(1);
        config.tls.max_handshakes = 2;
        config.tls.handshake_timeout = PATIENCE * 10;
    });
    let mut silent: Vec<_> = (0..2).map(|_| server.session()).collect();
    server.wait_for_open(2);
    let evicted = || server.metrics().closed_for(Closing::Evicted);
    for (before, silent) in silent.iter_mut().enumerate() {
        let mut newcomers = Vec::new();
        wait_until("no handshake makes room", || {
            newcomers.push(server.session());
            evicted() > before as u64
        });
        // The oldest is closed, with an alert at most.
        drop(silent.rest_raw());
        drop(newcomers);
    }
    server.wait_for_open(0);
    server.serves();
    server.finish();
}

#[test]
fn an_older_client_is_refused_where_the_configuration_says_so() {
    let server = Served::start_with(|config, _| config.tls.min_version = TlsVersion::V13);
    let reason = server.connect_with(&TLS12).tls_failure();
    assert!(reason.contains("ProtocolVersion"), "{reason}");
    server.wait_for_failed_handshakes(1);
    let mut client = server.connect_with(&TLS13);
    client.request("GET", "/path/x", &[], "");
    assert_eq!(client.answer().text(), "/path/x?");
    drop(client);
    server.finish();
}

#[test]
fn a_proxy_names_the_client_before_the_handshake() {
    const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 443\r\n";
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x01\x0f\xa0\x01\xbb";
    let server = Served::start_with(|config, _| {
        config.proxy.protocol = true;
        config.proxy.trusted = "127.0.0.1".parse().expect("an address");
    });
    for version in VERSIONS {
        for (header, together) in [(V1, false), (V1, true), (V2, false), (V2, true)] {
            let mut session = server.session_with(version);
            let hello = session.pending();
            if together {
                session.send_raw(&[header, &hello].concat());
            } else {
                for byte in header {
                    session.send_raw(&[*byte]);
                }
                session.send_raw(&hello);
            }
            session.shake_hands();
            session.send("GET /peer HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            let (answer, _) = session.rest();
            assert!(answer.ends_with(b"Some(192.0.2.7:4000)"), "{}", String::from_utf8_lossy(&answer));
        }
    }
    let mut without = server.session();
    let hello = without.pending();
    without.send_raw(&hello);
    assert!(without.rest_raw().is_empty(), "a handshake is no PROXY header");
    assert_eq!(server.metrics().closed_for(Closing::ProxyHeader), 1);
    let mut plain = server.session();
    plain.send_raw(&[V1, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"].concat());
    assert!(plain.rest_raw().starts_with(b"HTTP/1.1 400 "), "plain HTTP behind a PROXY header");
    drop((without, plain));
    server.finish();
}
