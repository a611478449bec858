//! TLS by rustls for one connection: encrypted bytes in, plain bytes out, and back.
//!
//! Poller thread. The session has no socket and never waits: the caller hands in the received bytes and the writer to
//! send to. Of HTTP it knows only how a request begins, to recognise one that came without TLS.

mod identity;

use std::io::{self, BufRead, IoSlice, Read, Write};
use std::path::PathBuf;

use rustls::{Error as SessionError, ServerConnection};

pub(crate) use identity::{Files, Fresh, Identity};

/// How many encrypted bytes a session holds before the socket takes them, which bounds the cost of a client that reads
/// slowly. Four full records, so that one system call sends as much as it does without TLS.
const OUTGOING_BYTES: usize = 64 * 1024;

/// Why TLS failed, for the server or for one client. No error holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{}: {reason}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("{}: is not the key of the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The settings contradict each other.
    #[error("{0}")]
    Rules(&'static str),
    /// The client sent an HTTP request without TLS. The session has nothing to send, and the caller may answer in plain
    /// text.
    #[error("the client sent a request without TLS")]
    PlainHttp,
    /// The client does not speak TLS as the settings want it, or has reported that the server does not.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// One connection's TLS. It is boxed, so that a connection without TLS only holds an empty pointer.
#[derive(Debug)]
pub(crate) struct Session(Box<State>);

#[derive(Debug)]
struct State {
    connection: ServerConnection,
    /// Whether the client has sent something.
    begun: bool,
    /// Whether the client has ended its sending side.
    ended: bool,
}

impl Session {
    fn new(mut connection: ServerConnection) -> Self {
        connection.set_buffer_limit(Some(OUTGOING_BYTES));
        Self(Box::new(State { connection, begun: false, ended: false }))
    }

    /// Takes all bytes that came from the socket, and appends the decrypted ones to `plain`. After success or failure
    /// there may be bytes to [`Session::flush`]: the handshake's next part, or an alert.
    ///
    /// # Errors
    /// When the client does not speak TLS, or breaks its rules. `plain` has the bytes that were good until then.
    pub(crate) fn receive(&mut self, encrypted: &[u8], plain: &mut Vec<u8>) -> Result<(), TlsError> {
        let State { connection, begun, ended } = &mut *self.0;
        if !*begun && begins_like_a_request(encrypted) {
            return Err(TlsError::PlainHttp);
        }
        *begun |= !encrypted.is_empty();
        let mut rest = encrypted;
        // Bytes after close_notify are ignored (RFC 8446 section 6.1).
        while !rest.is_empty() && !*ended {
            // Fails only when the pieces of a handshake exceed the 64 KiB that rustls keeps.
            connection.read_tls(&mut rest).map_err(|full| SessionError::General(full.to_string()))?;
            let outcome = connection.process_new_packets();
            take_plain(connection, plain);
            *ended = outcome?.peer_has_closed();
        }
        // Large records have grown rustls' buffer to 32 KiB. It shrinks to 4 KiB when it is about to read again.
        drop(connection.read_tls(&mut NoInput));
        Ok(())
    }

    /// Whether the client has ended its sending side (`close_notify`). It may still read. TCP's end without it may be a
    /// cut.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.ended
    }

    /// Encrypts the beginning of `parts`, 64 KiB at most, and writes as much as the socket takes. [`Session::flush`]
    /// writes the rest. Returns how many plain bytes were taken. Takes none while earlier ones have not left. Must not
    /// be called after [`Session::close`].
    ///
    /// # Errors
    /// `WouldBlock` while the socket has not taken the earlier encrypted bytes, or while the handshake goes on. Any
    /// other error is the socket's own, or says that the session has failed.
    pub(crate) fn send(&mut self, parts: &[IoSlice<'_>], socket: &mut impl Write) -> io::Result<usize> {
        if !self.flush(socket)? || self.is_handshaking() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = self.0.connection.writer().write_vectored(parts)?;
        self.flush(socket)?;
        Ok(taken)
    }

    /// Writes the encrypted bytes until all have left or the socket takes no more. Returns whether all have left.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn flush(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        let connection = &mut self.0.connection;
        while connection.wants_write() {
            match connection.write_tls(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether the handshake still goes on, so that no plain bytes can be exchanged.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.0.connection.is_handshaking()
    }

    /// Ends the sending side (`close_notify`, RFC 8446 section 6.1). The next [`Session::flush`] sends that. After an
    /// alert this sends nothing.
    pub(crate) fn close(&mut self) {
        self.0.connection.send_close_notify();
    }

    /// The client's own certificate as DER, if it has shown one. The certificate has been verified.
    pub(crate) fn client_certificate(&self) -> Option<&[u8]> {
        self.0.connection.peer_certificates()?.first().map(AsRef::as_ref)
    }
}

/// Whether the bytes are a method and the space after it, as far as they have come. A handshake begins with 22, which
/// is no letter.
fn begins_like_a_request(bytes: &[u8]) -> bool {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    method > 0 && bytes.get(method).is_none_or(|after| *after == b' ')
}

fn take_plain(connection: &mut ServerConnection, plain: &mut Vec<u8>) {
    while let Ok(chunk @ [_, ..]) = connection.reader().into_first_chunk() {
        plain.extend_from_slice(chunk);
        let taken = chunk.len();
        connection.reader().consume(taken);
    }
}

/// A socket that has no bytes to read.
struct NoInput;

impl Read for NoInput {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

#[cfg(test)]
#[allow(dead_code, reason = "the integration tests use the rest of it")]
#[path = "../../tests/support/tls.rs"]
mod certificates;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::version::TLS12;
    use rustls::{ALL_VERSIONS, AlertDescription, ClientConfig, ClientConnection, HandshakeKind};

    use super::certificates::{Authority, Identity as Pair};
    use super::identity::tests::files;
    use super::*;
    use crate::config::{ClientAuth, TlsVersion};

    /// A socket that takes `room` more bytes, `step` at a time.
    struct Socket {
        taken: Vec<u8>,
        room: usize,
        step: usize,
    }

    impl Socket {
        fn wide() -> Self {
            Self { taken: Vec::new(), room: usize::MAX, step: usize::MAX }
        }

        fn full() -> Self {
            Self { room: 0, ..Self::wide() }
        }
    }

    impl Write for Socket {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room).min(self.step);
            if taken == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= taken;
            self.taken.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A session and its client, with the bytes on their way. Bytes arrive in pieces of the sizes that `pieces`
    /// returns.
    struct Wire<P> {
        session: Session,
        client: ClientConnection,
        pieces: P,
        /// The plain bytes that the session has received, and those that the client has.
        heard: Vec<u8>,
        answered: Vec<u8>,
    }

    impl<P: FnMut() -> usize> Wire<P> {
        fn new(identity: &Identity, config: &Arc<ClientConfig>, pieces: P) -> Self {
            let name = "localhost".try_into().expect("a name");
            let client = ClientConnection::new(Arc::clone(config), name).expect("the configuration is good");
            let session = identity.session().expect("the configuration is good");
            Self { session, client, pieces, heard: Vec::new(), answered: Vec::new() }
        }

        /// The bytes that the client wants to send now.
        fn client_bytes(&mut self) -> Vec<u8> {
            let mut bytes = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut bytes).expect("a Vec takes all");
            }
            bytes
        }

        /// Carries bytes both ways until neither side has any to send.
        fn settle(&mut self) -> Result<(), TlsError> {
            loop {
                let bytes = self.client_bytes();
                self.deliver(&bytes)?;
                let mut socket = Socket::wide();
                assert!(self.session.flush(&mut socket).expect("the socket takes all"));
                self.answer(&socket.taken).expect("the session speaks TLS");
                if bytes.is_empty() && socket.taken.is_empty() {
                    return Ok(());
                }
            }
        }

        fn deliver(&mut self, mut bytes: &[u8]) -> Result<(), TlsError> {
            while !bytes.is_empty() {
                let (piece, rest) = bytes.split_at((self.pieces)().min(bytes.len()));
                self.session.receive(piece, &mut self.heard)?;
                bytes = rest;
            }
            Ok(())
        }

        fn answer(&mut self, mut bytes: &[u8]) -> Result<(), SessionError> {
            while !bytes.is_empty() {
                self.client.read_tls(&mut bytes).expect("a slice can be read");
                self.client.process_new_packets()?;
                // Once all bytes are read, it returns WouldBlock or the end.
                let _ = self.client.reader().read_to_end(&mut self.answered);
            }
            Ok(())
        }

        /// Runs a handshake that the session refuses. Returns the reason, and the alert that the client sees.
        fn refused(&mut self) -> (TlsError, AlertDescription) {
            let reason = self.settle().expect_err("the session refuses the client");
            let mut socket = Socket::wide();
            assert!(self.session.flush(&mut socket).expect("the socket takes all"));
            match self.answer(&socket.taken) {
                Err(SessionError::AlertReceived(alert)) => (reason, alert),
                other => panic!("{other:?} instead of an alert for {reason}"),
            }
        }

        fn send(&mut self, plain: &[u8]) {
            let mut socket = Socket::wide();
            let taken = self.session.send(&[IoSlice::new(plain)], &mut socket).expect("the socket takes all");
            assert_eq!(taken, plain.len());
            self.answer(&socket.taken).expect("the session speaks TLS");
        }
    }

    fn whole() -> usize {
        usize::MAX
    }

    /// An authority, and a server with a certificate of that authority.
    fn server() -> (Authority, Identity) {
        let authority = Authority::new("the authority");
        let identity = Identity::load(files(&authority.server(&["localhost"]))).expect("the files are good");
        (authority, identity)
    }

    /// The same with a server that asks its clients for certificates.
    fn server_with_client_auth(client_auth: ClientAuth) -> (Authority, Identity) {
        let authority = Authority::new("the authority");
        let files = files(&authority.server(&["localhost"]));
        let files = Files { client_auth, client_ca: Some(authority.file()), ..files };
        let identity = Identity::load(files).expect("the files are good");
        (authority, identity)
    }

    /// A connection after its handshake, which ran in whole flights.
    fn connected(identity: &Identity, config: &Arc<ClientConfig>) -> Wire<fn() -> usize> {
        let mut wire = Wire::new(identity, config, whole as fn() -> usize);
        wire.settle().expect("the session takes the client");
        assert!(!wire.session.is_handshaking() && !wire.client.is_handshaking());
        wire
    }

    #[test]
    fn a_session_costs_a_connection_without_tls_one_pointer_and_may_change_threads() {
        fn may_change_threads<T: Send>() {}
        may_change_threads::<Session>();
        assert_eq!(size_of::<Option<Session>>(), size_of::<usize>());
    }

    #[test]
    fn bytes_go_both_ways_in_pieces_of_every_size() {
        let (authority, identity) = server();
        let mut random = fastrand::Rng::with_seed(7);
        let request: Vec<u8> = (0..40_000).map(|_| random.u8(..)).collect();
        for version in ALL_VERSIONS {
            let config = authority.trusting_with(&[version], None);
            for size in [1, 2, 5, 100, 4096, 16 * 1024, 64 * 1024, 0] {
                let mut sizes = fastrand::Rng::with_seed(size as u64);
                let pieces = move || if size == 0 { sizes.usize(1..20_000) } else { size };
                let mut wire = Wire::new(&identity, &config, pieces);
                assert!(wire.session.is_handshaking());
                wire.client.writer().write_all(&request).expect("rustls takes 64 KiB");
                wire.settle().expect("the client speaks TLS");
                assert!(!wire.session.is_handshaking());
                assert!(wire.heard == request, "{version:?}, pieces of {size}");
                wire.send(&request);
                assert!(wire.answered == request, "{version:?}, pieces of {size}");
                assert_eq!(wire.client.alpn_protocol(), None, "it asked for none");
            }
        }
    }

    #[test]
    fn a_large_answer_goes_through_a_socket_that_takes_little() {
        let (authority, identity) = server();
        let mut wire = connected(&identity, &authority.trusting(None));
        let mut random = fastrand::Rng::with_seed(8);
        let (head, body): (Vec<u8>, Vec<u8>) =
            (vec![b'h'; 300], (0..1_000_000).map(|_| random.u8(..)).collect());
        let mut socket = Socket { step: 1000, ..Socket::full() };
        let (mut sent, mut refused) = (0, 0);
        while sent < head.len() + body.len() {
            let parts = [
                IoSlice::new(head.get(sent..).unwrap_or_default()),
                IoSlice::new(&body[sent.saturating_sub(head.len())..]),
            ];
            match wire.session.send(&parts, &mut socket) {
                Ok(taken) => {
                    assert!(taken > 0, "nothing taken is WouldBlock");
                    sent += taken;
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    assert_eq!(socket.room, 0, "it gives up only when the socket is full");
                    refused += 1;
                    socket.room = 10_000;
                }
            }
            assert!(sent <= socket.taken.len() + OUTGOING_BYTES, "it holds no more than it may");
        }
        while !wire.session.flush(&mut socket).expect("the socket is open") {
            assert_eq!(socket.room, 0, "it gives up only when the socket is full");
            socket.room = 10_000;
        }
        assert!(refused > 50);
        wire.answer(&socket.taken).expect("the session speaks TLS");
        assert!(wire.answered == [head, body].concat());
    }

    #[test]
    fn nothing_is_taken_during_the_handshake_or_while_earlier_bytes_wait() {
        let (authority, identity) = server();
        let would_block = |outcome: io::Result<usize>| {
            assert_eq!(outcome.expect_err("nothing is taken").kind(), io::ErrorKind::WouldBlock);
        };
        let mut wire = Wire::new(&identity, &authority.trusting(None), whole);
        would_block(wire.session.send(&[IoSlice::new(b"early")], &mut Socket::wide()));
        wire.settle().expect("the client speaks TLS");

        let mut full = Socket::full();
        assert_eq!(wire.session.send(&[IoSlice::new(b"first")], &mut full).expect("there is room"), 5);
        would_block(wire.session.send(&[IoSlice::new(b"second")], &mut full));
        assert!(!wire.session.flush(&mut full).expect("the socket is open"));

        let mut socket = Socket::wide();
        assert_eq!(wire.session.send(&[IoSlice::new(b"second")], &mut socket).expect("there is room"), 6);
        assert_eq!(wire.session.send(&[], &mut socket).expect("there is nothing to take"), 0);
        wire.answer(&socket.taken).expect("the session speaks TLS");
        assert_eq!(wire.answered, b"firstsecond");
    }

    #[test]
    fn a_head_and_its_body_are_one_record() {
        let (authority, identity) = server();
        let mut wire = connected(&identity, &authority.trusting(None));
        let mut socket = Socket::wide();
        let parts = [IoSlice::new(b"head"), IoSlice::new(b"body")];
        assert_eq!(wire.session.send(&parts, &mut socket).expect("the socket takes all"), 8);
        let length = usize::from(u16::from_be_bytes([socket.taken[3], socket.taken[4]]));
        assert_eq!(socket.taken.len(), 5 + length);
    }

    #[test]
    fn a_socket_that_takes_nothing_or_breaks_is_an_error() {
        struct Broken(Option<io::ErrorKind>);
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                self.0.map_or(Ok(0), |kind| Err(kind.into()))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (authority, identity) = server();
        let mut wire = connected(&identity, &authority.trusting(None));
        let parts = [IoSlice::new(b"answer")];
        let mut kind = |socket| wire.session.send(&parts, &mut Broken(socket)).map_err(|error| error.kind());
        assert_eq!(kind(Some(io::ErrorKind::BrokenPipe)), Err(io::ErrorKind::BrokenPipe));
        assert_eq!(kind(None), Err(io::ErrorKind::WriteZero));
    }

    #[test]
    fn the_clients_end_comes_after_its_bytes_and_it_can_still_be_answered() {
        let (authority, identity) = server();
        for version in ALL_VERSIONS {
            let mut wire = connected(&identity, &authority.trusting_with(&[version], None));
            wire.client.writer().write_all(b"last words").expect("rustls takes 64 KiB");
            assert!(!wire.session.has_ended());
            wire.client.send_close_notify();
            let mut bytes = wire.client_bytes();
            // These bytes are ignored, although they are no TLS. rustls reads 4 KiB at a time.
            bytes.extend([b'x'; 10_000]);
            wire.deliver(&bytes).expect("the client speaks TLS");
            assert!(wire.session.has_ended());
            wire.session.receive(b"more", &mut wire.heard).expect("it is ignored");
            assert_eq!(wire.heard, b"last words");
            wire.send(b"answer");
            assert_eq!(wire.answered, b"answer");
        }
    }

    #[test]
    fn the_client_sees_the_servers_end() {
        let (authority, identity) = server();
        let mut wire = connected(&identity, &authority.trusting(None));
        wire.send(b"last words");
        wire.session.close();
        wire.session.close();
        let mut socket = Socket::wide();
        assert!(wire.session.flush(&mut socket).expect("the socket takes all"));
        wire.answer(&socket.taken).expect("the session speaks TLS");
        assert_eq!(wire.answered, b"last words");
        assert!(wire.client.process_new_packets().expect("the session speaks TLS").peer_has_closed());
    }

    #[test]
    fn bytes_that_are_no_handshake_get_an_alert() {
        let (_authority, identity) = server();
        let garbage: [&[u8]; 4] = [
            b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00",
            b"\x16\x03\x01\xff\xff\x01\x00\x00\x00\x00",
            b"\x16ET / HTTP/1.1\r\n",
            b"hello, server\r\n",
        ];
        for bytes in garbage {
            for size in [1, usize::MAX] {
                let mut session = identity.session().expect("the configuration is good");
                let mut plain = Vec::new();
                let error = bytes
                    .chunks(size.min(bytes.len()))
                    .find_map(|piece| session.receive(piece, &mut plain).err());
                assert!(matches!(error, Some(TlsError::Session(_))), "{error:?}");
                let mut socket = Socket::wide();
                assert!(session.flush(&mut socket).expect("the socket takes all"));
                assert_eq!((socket.taken[0], socket.taken.len()), (21, 7), "one alert");
                session.close();
                assert!(session.flush(&mut Socket::full()).expect("there is nothing to write"));
                assert!(plain.is_empty());
            }
        }
    }

    #[test]
    fn a_request_without_tls_is_recognised_and_left_to_the_caller() {
        let (_authority, identity) = server();
        let requests: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"G",
            b"OPTIONS",
            b"POST ",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ];
        for request in requests {
            let mut session = identity.session().expect("the configuration is good");
            session.receive(b"", &mut Vec::new()).expect("nothing came");
            let error = session.receive(request, &mut Vec::new()).expect_err("it is no TLS");
            assert!(matches!(error, TlsError::PlainHttp), "{error:?}");
            assert!(session.flush(&mut Socket::full()).expect("there is nothing to write"));
        }
        assert!(!begins_like_a_request(b"Hello, server\r\n"));
    }

    #[test]
    fn a_handshake_in_crumbs_has_a_limit() {
        let (_authority, identity) = server();
        let mut session = identity.session().expect("the configuration is good");
        let mut plain = Vec::new();
        // A ClientHello of almost 64 KiB, with one byte in each record.
        let hello = [&[1, 0, 0xff, 0xf0][..], &vec![0; 0xfff0]].concat();
        let crumbs: Vec<u8> = hello.iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
        let refused_at = crumbs.chunks(1000).position(|piece| session.receive(piece, &mut plain).is_err());
        assert!(refused_at.is_some_and(|at| at <= 66), "{refused_at:?}");
    }

    #[test]
    fn a_broken_record_ends_a_session_after_the_good_ones() {
        let (authority, identity) = server();
        let mut wire = connected(&identity, &authority.trusting(None));
        wire.client.writer().write_all(b"good").expect("rustls takes 64 KiB");
        let mut bytes = wire.client_bytes();
        wire.client.writer().write_all(b"broken").expect("rustls takes 64 KiB");
        bytes.extend(wire.client_bytes());
        *bytes.last_mut().expect("there are bytes") ^= 1;
        let error = wire.deliver(&bytes).expect_err("the record does not verify");
        assert!(matches!(error, TlsError::Session(SessionError::DecryptError)), "{error:?}");
        assert_eq!(wire.heard, b"good");
        let mut socket = Socket::wide();
        assert!(wire.session.flush(&mut socket).expect("the socket takes all"));
        let alert = wire.answer(&socket.taken).expect_err("it is an alert");
        assert_eq!(alert, SessionError::AlertReceived(AlertDescription::BadRecordMac));
        let outcome = wire.session.send(&[IoSlice::new(b"answer")], &mut Socket::wide());
        assert_eq!(outcome.expect_err("it has failed").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn http_1_1_is_agreed_on_or_else_http_1_0_and_nothing_else() {
        let (authority, identity) = server();
        let offering = |protocols: &[&str]| {
            let mut config = ClientConfig::clone(&authority.trusting(None));
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
            Arc::new(config)
        };
        for (offered, agreed) in [
            (&["h2", "http/1.1"][..], "http/1.1"),
            (&["http/1.0", "http/1.1"], "http/1.1"),
            (&["http/1.0"], "http/1.0"),
        ] {
            let wire = connected(&identity, &offering(offered));
            assert_eq!(wire.client.alpn_protocol(), Some(agreed.as_bytes()), "{offered:?}");
        }
        let (_, alert) = Wire::new(&identity, &offering(&["h2"]), whole).refused();
        assert_eq!(alert, AlertDescription::NoApplicationProtocol);
    }

    #[test]
    fn an_older_client_is_refused_when_the_rules_say_so() {
        let (authority, _) = server();
        let files = Files { min_version: TlsVersion::V13, ..files(&authority.server(&["localhost"])) };
        let identity = Identity::load(files).expect("the files are good");
        connected(&identity, &authority.trusting(None));
        let (_, alert) = Wire::new(&identity, &authority.trusting_with(&[&TLS12], None), whole).refused();
        assert_eq!(alert, AlertDescription::ProtocolVersion);
    }

    #[test]
    fn a_client_shows_a_certificate_that_verifies_or_is_refused() {
        let (authority, identity) = server_with_client_auth(ClientAuth::Required);
        let (good, expired) = (authority.client("good"), authority.expired_client("late"));
        let other = Authority::new("somebody else");
        let unknown = other.client("unknown");
        for version in ALL_VERSIONS {
            let config = |pair: Option<&Pair>| authority.trusting_with(&[version], pair);
            let wire = connected(&identity, &config(Some(&good)));
            let shown = CertificateDer::from_pem_file(&good.certificate).expect("it was written");
            assert_eq!(wire.session.client_certificate(), Some(&*shown));

            let (reason, alert) = Wire::new(&identity, &config(Some(&expired)), whole).refused();
            assert_eq!(alert, AlertDescription::CertificateExpired, "{reason}");
            let (reason, alert) = Wire::new(&identity, &config(Some(&unknown)), whole).refused();
            assert_eq!(alert, AlertDescription::UnknownCA, "{reason}");
            let mut without = Wire::new(&identity, &config(None), whole);
            assert!(matches!(
                without.refused(),
                (TlsError::Session(SessionError::NoCertificatesPresented), _)
            ));
            assert_eq!(without.session.client_certificate(), None);
        }
    }

    #[test]
    fn an_optional_certificate_may_be_missing_but_not_wrong() {
        let (authority, identity) = server_with_client_auth(ClientAuth::Optional);
        let wire = connected(&identity, &authority.trusting(None));
        assert_eq!(wire.session.client_certificate(), None);
        let wire = connected(&identity, &authority.trusting(Some(&authority.client("good"))));
        assert!(wire.session.client_certificate().is_some());
        let expired = authority.trusting(Some(&authority.expired_client("late")));
        let (_, alert) = Wire::new(&identity, &expired, whole).refused();
        assert_eq!(alert, AlertDescription::CertificateExpired);
    }

    #[test]
    fn new_sessions_have_the_new_certificate_and_old_ones_go_on() {
        let authority = Authority::new("the authority");
        let (before, after) = (authority.server(&["localhost"]), authority.server(&["localhost"]));
        let shown = |wire: &Wire<fn() -> usize>| {
            wire.client.peer_certificates().and_then(<[_]>::first).cloned().expect("the server has shown one")
        };
        let written = |pair: &Pair| CertificateDer::from_pem_file(&pair.certificate).expect("it was written");
        let (old_one, new_one) = (written(&before), written(&after));
        let identity = Identity::load(files(&before)).expect("the files are good");
        let config = authority.trusting(None);
        let mut old = connected(&identity, &config);

        std::fs::copy(&after.certificate, &before.certificate).expect("the file can be written");
        std::fs::copy(&after.key, &before.key).expect("the file can be written");
        identity.take(identity.read_again().expect("the new files are good"));
        let new = connected(&identity, &config);
        assert_eq!((shown(&old), shown(&new)), (old_one, new_one));
        old.send(b"still here");
        assert_eq!(old.answered, b"still here");
    }

    #[test]
    fn a_session_is_resumed_until_the_files_are_read_again() {
        let (authority, identity) = server();
        for version in ALL_VERSIONS {
            let config = authority.trusting_with(&[version], None);
            let kind = || connected(&identity, &config).client.handshake_kind();
            assert_eq!(kind(), Some(HandshakeKind::Full));
            assert_eq!(kind(), Some(HandshakeKind::Resumed));
            identity.take(identity.read_again().expect("the files are good"));
            assert_eq!(kind(), Some(HandshakeKind::Full));
        }
    }

    #[test]
    fn a_reload_of_broken_files_says_why_and_changes_nothing() {
        let authority = Authority::new("the authority");
        let (pair, other) = (authority.server(&["localhost"]), authority.server(&["localhost"]));
        let identity = Identity::load(files(&pair)).expect("the files are good");
        let broken = [
            (
                std::fs::read_to_string(&other.key).expect("it was written"),
                "is not the key of the certificate",
            ),
            (String::new(), "holds no private key in PEM form"),
        ];
        for (text, reason) in broken {
            std::fs::write(&pair.key, text).expect("the file can be written");
            let error = identity.read_again().expect_err("the key is not good").to_string();
            assert!(error.starts_with(&format!("{}: {reason}", pair.key.display())), "{error}");
            connected(&identity, &authority.trusting(None));
        }
        std::fs::remove_file(&pair.certificate).expect("it is there");
        let error = identity.read_again().expect_err("there is no certificate").to_string();
        assert!(error.contains("No such file"), "{error}");
        connected(&identity, &authority.trusting(None));
    }
}
