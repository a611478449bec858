//! Certificates of clients: asked for, verified, shown to handlers.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, HandshakeKind};
use wharf::config::ClientAuth;

use super::served::{Served, VERSIONS};
use super::session::{End, Session};
use crate::support::{Authority, Identity};

fn asking(how: ClientAuth) -> Served {
    Served::start_with(|config, authority| {
        config.tls.client_auth = how;
        config.tls.client_ca = Some(authority.file());
    })
}

/// The client's certificate as a handler sees it, and the kind of the handshake.
fn seen(server: &Served, config: &Arc<ClientConfig>) -> (Vec<u8>, Option<HandshakeKind>) {
    let mut session = Session::connect(server.address(), Arc::clone(config));
    session.shake_hands();
    session.send("GET /certificate HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let (answer, end) = session.rest();
    assert_eq!(end, End::Peace);
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    (answer[head..].to_vec(), session.tls.handshake_kind())
}

fn written(pair: &Identity) -> Vec<u8> {
    CertificateDer::from_pem_file(&pair.certificate).expect("it was written").to_vec()
}

#[test]
fn where_a_certificate_is_required_nobody_else_gets_in() {
    let server = asking(ClientAuth::Required);
    let good = server.authority.client("good");
    // Of the same name, so that only its signature tells it from ours.
    let impostor = Authority::new("the authority");
    let unknown = impostor.client("unknown");
    let expired = server.authority.expired_client("late");
    let own = server.authority.server(&["localhost"]);
    let mut count = 0;
    for version in VERSIONS {
        let config = |pair: Option<&Identity>| server.authority.trusting_with(&[version], pair);
        assert_eq!(seen(&server, &config(Some(&good))), (written(&good), Some(HandshakeKind::Full)));
        for (pair, alerts) in [
            (None, &["CertificateRequired", "HandshakeFailure"][..]),
            (Some(&unknown), &["UnknownCA", "DecryptError"]),
            (Some(&expired), &["CertificateExpired"]),
            (Some(&own), &["Certificate"]),
        ] {
            let reason = server.connect_as(&config(pair)).tls_failure();
            assert!(alerts.iter().any(|alert| reason.contains(alert)), "{version:?}: {reason}");
            count += 1;
            server.wait_for_failed_handshakes(count);
        }
    }
    assert_eq!(server.metrics().requests(), 2);
    server.finish();
}

#[test]
fn an_optional_certificate_is_seen_where_there_is_one() {
    let server = asking(ClientAuth::Optional);
    let good = server.authority.client("good");
    let other = Authority::new("somebody else");
    let unknown = other.client("unknown");
    for version in VERSIONS {
        let config = |pair: Option<&Identity>| server.authority.trusting_with(&[version], pair);
        assert_eq!(seen(&server, &config(Some(&good))).0, written(&good), "{version:?}");
        assert_eq!(seen(&server, &config(None)).0, b"", "{version:?}");
        let reason = server.connect_as(&config(Some(&unknown))).tls_failure();
        assert!(reason.contains("UnknownCA"), "{version:?}: {reason}");
    }
    server.finish();
}

#[test]
fn each_request_and_each_resumed_session_has_its_clients_certificate() {
    let server = asking(ClientAuth::Optional);
    let pairs = ["one", "other"].map(|name| server.authority.client(name));
    for version in VERSIONS {
        let configs = pairs.each_ref().map(|pair| server.authority.trusting_with(&[version], Some(pair)));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            for (pair, config) in pairs.iter().zip(&configs) {
                assert_eq!(seen(&server, config), (written(pair), Some(kind)), "{version:?}");
            }
        }
        let mut client = server.connect_as(&configs[0]);
        for _ in 0..3 {
            client.request("GET", "/certificate", &[], "");
            assert_eq!(client.answer().body, written(&pairs[0]), "{version:?}");
        }
    }
    server.finish();
}

#[test]
fn a_certificate_that_nobody_asked_for_is_not_seen() {
    let server = Served::start();
    let config = server.authority.trusting(Some(&server.authority.client("eager")));
    assert_eq!(seen(&server, &config).0, b"");
    server.finish();
}
