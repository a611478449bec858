//! Handshakes that take too long or are too many, versions, and what a proxy says before them.

use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use wharf::config::TlsVersion;
use wharf::metrics::Closing;

use super::served::{Served, VERSIONS};

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
fn a_handshake_too_many_is_ended_and_counted_while_the_others_go_on() {
    let server = Served::start_with(|config, _| {
        // One poller begins the handshakes in their order.
        config.server.selectors = Some(1);
        config.tls.max_handshakes = 2;
    });
    let mut others: Vec<_> = VERSIONS.into_iter().map(|version| server.session_with(version)).collect();
    for other in &mut others {
        let hello = other.pending();
        other.send_raw(&hello[..10]);
        other.held_back = hello[10..].to_vec();
    }
    for count in 1..=3 {
        assert!(server.session().rest_raw().is_empty(), "closed without a word");
        server.wait_for_failed_handshakes(count);
    }
    for other in &mut others {
        let rest = std::mem::take(&mut other.held_back);
        other.send_raw(&rest);
        other.shake_hands();
        other.send("GET /path/x HTTP/1.1\r\nHost: h\r\n\r\n");
        while !other.read(1).ends_with(b"?") {}
    }
    // Both places are free again, with both connections still there.
    for _ in 0..3 {
        server.serves();
    }
    let abandoned: Vec<_> = (0..2).map(|_| server.session()).collect();
    server.wait_for_open(4);
    assert!(server.session().rest_raw().is_empty(), "the places are taken again");
    drop(abandoned);
    server.wait_for_open(2);
    server.serves();
    drop(others);
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
