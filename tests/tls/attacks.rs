//! Clients that use TLS itself against the server, and the places where bytes wait between the socket and the request.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ConnectionTrafficSecrets, ContentType, HandshakeKind, ProtocolVersion, SupportedCipherSuite,
};
use wharf::metrics::{Closing, Reason};

use super::known;
use super::served::{LARGE, Served, VERSIONS};
use super::session::{End, Session};
use crate::support::PATIENCE;

const SOON: Duration = Duration::from_millis(100);

/// A TLS 1.3 client after its handshake. It encrypts any record that the test asks for.
struct Forger {
    socket: TcpStream,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Forger {
    fn connect(server: &Served) -> Self {
        let mut config = ClientConfig::clone(&server.authority.trusting_with(&[&TLS13], None));
        config.enable_secret_extraction = true;
        let mut session = Session::connect(server.address(), config.into());
        session.shake_hands();
        // Read the records that follow the handshake, so that the forged records are the next ones.
        session.send("GET /immediate HTTP/1.1\r\nHost: h\r\n\r\n");
        while !session.read(1).ends_with(b"e") || session.tls.wants_write() {}
        let Some(SupportedCipherSuite::Tls13(suite)) = session.tls.negotiated_cipher_suite() else {
            panic!("another version than 1.3")
        };
        let secrets = session.tls.dangerous_extract_secrets().expect("the configuration allows it");
        let (sequence, keys) = secrets.tx;
        let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = keys
        else {
            panic!("an unknown cipher")
        };
        Self { socket: session.socket, encrypter: suite.aead_alg.encrypter(key, iv), sequence }
    }

    fn record(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let payload = OutboundChunks::Single(payload);
        let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
        let record = self.encrypter.encrypt(message, self.sequence).expect("it can be encrypted");
        self.sequence += 1;
        record.encode()
    }

    /// Whether the server takes the bytes.
    fn send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// Whether the connection has ended, as far as can be seen after a moment.
    fn has_ended(&mut self, moment: Duration) -> bool {
        self.socket.set_read_timeout(Some(moment)).expect("the limit is not zero");
        let mut bytes = [0; 4096];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
    }
}

#[test]
fn records_without_a_byte_keep_no_connection_alive() {
    let server = Served::start_with(|config, _| config.http.idle_timeout = Duration::from_millis(300));
    let mut forger = Forger::connect(&server);
    let until = Instant::now() + PATIENCE;
    while !forger.has_ended(Duration::from_millis(10)) {
        assert!(Instant::now() < until, "it is alive still");
        let empty = forger.record(ContentType::ApplicationData, b"");
        if !forger.send(&empty) {
            break;
        }
    }
    server.wait_for_open(0);
    server.finish();
}

#[test]
fn records_without_end_and_without_a_byte_end_the_connection() {
    let server = Served::start();
    let mut forger = Forger::connect(&server);
    let many: Vec<u8> = (0..3000).flat_map(|_| forger.record(ContentType::ApplicationData, b"")).collect();
    forger.send(&many);
    assert!(forger.has_ended(PATIENCE));
    server.finish();
}

#[test]
fn records_without_a_byte_between_others_change_nothing() {
    let server = Served::start();
    let mut forger = Forger::connect(&server);
    for byte in b"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc" {
        let empty = forger.record(ContentType::ApplicationData, b"");
        let record = forger.record(ContentType::ApplicationData, &[*byte]);
        assert!(forger.send(&[empty, record].concat()));
    }
    assert!(forger.has_ended(PATIENCE), "it was answered and closed");
    assert_eq!(server.metrics().requests(), 2);
    server.finish();
}

#[test]
fn a_record_that_no_client_may_send_after_the_handshake_ends_the_connection() {
    // A second ClientHello, a Finished, a NewSessionTicket, a malformed alert, a record of an unknown type.
    let wrong: [(ContentType, &[u8]); 5] = [
        (ContentType::Handshake, &[1, 0, 0, 0]),
        (ContentType::Handshake, &[20, 0, 0, 0]),
        (ContentType::Handshake, &[4, 0, 0, 0]),
        (ContentType::Alert, &[1]),
        (ContentType::from(99), b"x"),
    ];
    let server = Served::start();
    for (typ, payload) in wrong {
        let mut forger = Forger::connect(&server);
        let record = forger.record(typ, payload);
        assert!(forger.send(&record));
        assert!(forger.has_ended(PATIENCE), "{typ:?} {payload:?}");
    }
    assert_eq!(server.metrics().closed_for(Closing::Handshake), 0, "the handshakes were good");
    server.finish();
}

#[test]
fn a_client_may_change_its_keys_between_any_two_bytes() {
    let server = Served::start();
    let mut session = server.session_with(&TLS13);
    session.shake_hands();
    for _ in 0..3 {
        for byte in b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" {
            session.send([*byte]);
            session.tls.refresh_traffic_keys().expect("the handshake is over");
        }
        while !session.read(1).ends_with(b"c") {}
    }
    session.send("GET /large-stream HTTP/1.1\r\nHost: h\r\n\r\n");
    for _ in 0..20 {
        session.tls.refresh_traffic_keys().expect("the handshake is over");
        let bytes = session.pending();
        session.send_raw(&bytes);
        session.read(LARGE / 25);
    }
    drop(session);
    server.finish();
}

#[test]
fn a_client_that_only_changes_its_keys_is_ended() {
    let server = Served::start();
    let mut session = server.session_with(&TLS13);
    session.shake_hands();
    let mut bytes = Vec::new();
    for _ in 0..1000 {
        session.tls.refresh_traffic_keys().expect("the handshake is over");
        bytes.extend(session.pending());
    }
    // It may be ended before all is sent.
    let _ = session.socket.write_all(&bytes);
    session.rest_raw();
    server.finish();
}

#[test]
fn a_handshake_that_drips_has_no_more_time_than_another() {
    let server = Served::start_with(|config, _| config.tls.handshake_timeout = Duration::from_millis(300));
    let mut session = server.session();
    session.socket.set_read_timeout(Some(Duration::from_millis(10))).expect("the limit is not zero");
    let hello = session.pending();
    let mut sent = 0;
    for byte in &hello {
        if session.socket.write_all(&[*byte]).is_err() || !is_quiet(&session.socket) {
            break;
        }
        sent += 1;
    }
    assert!(sent < hello.len(), "it has sent all {sent} bytes");
    server.wait_for_failed_handshakes(1);
    server.finish();
}

/// Whether nothing comes within the read timeout, and the connection is open.
fn is_quiet(mut socket: &TcpStream) -> bool {
    let read = socket.read(&mut [0; 1]).map_err(|error| error.kind());
    matches!(read, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[test]
fn a_client_that_never_reads_is_cut_off_in_time() {
    let server = Served::start_with(|config, _| config.http.write_timeout = SOON);
    for (version, count) in VERSIONS.into_iter().zip(1..) {
        for (path, count) in ["/large", "/large-immediate", "/large-file"].into_iter().zip(count * 3 - 2..) {
            let mut session = server.session_with(version);
            session.shake_hands();
            session.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
            crate::support::wait_for(|| server.metrics().requests() == count, || "it is not read".into());
            server.wait_for_open(0);
            let (answer, end) = session.rest();
            assert!(answer.len() < LARGE && end == End::Cut, "{version:?} {path}: {}", answer.len());
            assert_eq!(server.metrics().closed_for(Closing::WriteTimeout), count, "{version:?} {path}");
        }
    }
    server.finish();
}

/// The handler reads nothing: the server holds a buffer's worth of the body, and TCP holds the client up.
#[test]
fn a_body_that_nobody_reads_is_not_taken() {
    let server = Served::start();
    for version in VERSIONS {
        let mut session = server.session_with(version);
        session.shake_hands();
        session.send(format!("PUT /gated-known HTTP/1.1\r\nHost: h\r\nContent-Length: {LARGE}\r\n\r\n"));
        let bytes = session.encrypted(&known::bytes(LARGE));
        session.socket.set_write_timeout(Some(Duration::from_millis(300))).expect("the limit is not zero");
        let taken = written_at_once(&session.socket, &bytes);
        // The sockets' own buffers are a few megabytes.
        assert!(taken < LARGE / 2, "{version:?}: {taken} of {LARGE} bytes are taken");
        server.wait_for_gate();
        server.open_gate();
        session.socket.set_write_timeout(Some(PATIENCE)).expect("the limit is not zero");
        session.send_raw(&bytes[taken..]);
        let verdict = format!("{LARGE} bytes, known: true");
        let mut answer = Vec::new();
        while !answer.ends_with(verdict.as_bytes()) {
            answer.extend(session.read(1));
        }
    }
    server.finish();
}

/// How many bytes are written until a write takes nothing within its timeout.
fn written_at_once(mut socket: &TcpStream, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match socket.write(&bytes[written..]) {
            Ok(more) => written += more,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
                break;
            }
        }
    }
    written
}

/// All that comes behind a body in the same records waits until its handler is done, and is then read without another byte
/// from the client.
#[test]
fn requests_behind_a_streamed_body_are_answered_though_nothing_more_comes() {
    let server = Served::start();
    for version in VERSIONS {
        for length in [70_000, 200_000, 65_536, 131_072] {
            for ends in [false, true] {
                let mut session = server.session_with(version);
                session.shake_hands();
                let mut plain = format!(
                    "GET /immediate HTTP/1.1\r\nHost: h\r\n\r\nPUT /gated-known HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n"
                )
                .into_bytes();
                plain.extend(known::bytes(length));
                plain.extend(
                    b"GET /path/1 HTTP/1.1\r\nHost: h\r\n\r\nGET /immediate HTTP/1.1\r\nHost: h\r\n\r\n",
                );
                let last = "GET /path/2 HTTP/1.1\r\nHost: h\r\n\r\n";
                plain.extend(last.as_bytes());
                session.send(&plain);
                if ends {
                    session.tls.send_close_notify();
                    let bytes = session.pending();
                    session.send_raw(&bytes);
                }
                server.wait_for_gate();
                server.open_gate();
                let mut answers = Vec::new();
                while !answers.ends_with(b"/path/2?") {
                    answers.extend(session.read(1));
                }
                let text = String::from_utf8(answers).expect("text");
                assert_eq!(text.matches("HTTP/1.1 200").count(), 5, "{version:?} {length}: {text}");
                assert!(text.contains(&format!("{length} bytes, known: true")), "{version:?}: {text}");
                if ends {
                    assert_eq!(session.rest(), (Vec::new(), End::Peace), "{version:?} {length}");
                }
            }
        }
    }
    server.finish();
}

/// TCP's end without `close_notify`: what was whole before it is answered.
#[test]
fn a_client_that_ends_only_tcp_is_answered_as_far_as_its_requests_are_whole() {
    let server = Served::start();
    for version in VERSIONS {
        let mut session = server.session_with(version);
        session.shake_hands();
        session.send(
            "GET /path/1 HTTP/1.1\r\nHost: h\r\n\r\nGET /path/2 HTTP/1.1\r\nHost: h\r\n\r\nGET /path/3 HT",
        );
        session.socket.shutdown(Shutdown::Write).expect("it is open");
        let (answers, end) = session.rest();
        assert_eq!(end, End::Peace);
        let text = String::from_utf8(answers).expect("text");
        assert_eq!(text.matches("HTTP/1.1 200").count(), 2, "{version:?}: {text}");
    }
    assert_eq!(server.metrics().refused_for(Reason::Malformed), 0);
    server.finish();
}

#[test]
fn sessions_are_resumed_by_many_clients_at_once() {
    const CLIENTS: usize = 4;
    let server = Served::start();
    for version in VERSIONS {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (address, config) = (server.address(), server.authority.trusting_with(&[version], None));
                std::thread::spawn(move || {
                    let kinds = (0..25).map(|_| {
                        let mut session = Session::connect(address, std::sync::Arc::clone(&config));
                        session.shake_hands();
                        session.send("GET /path/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
                        let (answer, end) = session.rest();
                        assert!(answer.ends_with(b"/path/x?") && end == End::Peace);
                        session.tls.handshake_kind()
                    });
                    kinds.filter(|kind| *kind == Some(HandshakeKind::Resumed)).count()
                })
            })
            .collect();
        for client in clients {
            assert_eq!(client.join().expect("its checks hold"), 24, "{version:?}: all but the first");
        }
    }
    server.finish();
}
