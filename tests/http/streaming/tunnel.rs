//! TLS for clients that speak none: what comes in plain goes on encrypted, and the other way, so that every test here can be
//! one of a server that speaks TLS.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, Mutex};

use rustls::{ClientConfig, ClientConnection};
use wharf::config::Config;

use super::*;
use crate::support::Authority;

/// An authority, and with it servers that speak TLS and tunnels to them.
pub(crate) struct Encryption {
    authority: Authority,
}

impl Encryption {
    pub(crate) fn new() -> Self {
        Self { authority: Authority::new("the authority") }
    }

    /// Has a server speak TLS.
    pub(crate) fn ask_for(&self, config: &mut Config) {
        let identity = self.authority.server(&["localhost"]);
        config.tls.certificate = Some(identity.certificate);
        config.tls.key = Some(identity.key);
    }

    /// Where a client connects that does not speak TLS. The tunnel lasts as long as the process.
    pub(crate) fn tunnel_to(&self, server: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let config = self.authority.trusting(None);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, config) = (client.expect("a connection"), Arc::clone(&config));
                thread::spawn(move || carry(&client, server, config));
            }
        });
        address
    }

    /// A session with the server, after its handshake.
    pub(crate) fn session(&self, server: SocketAddr) -> (ClientConnection, TcpStream) {
        shake_hands(server, self.authority.trusting(None))
    }
}

fn shake_hands(server: SocketAddr, config: Arc<ClientConfig>) -> (ClientConnection, TcpStream) {
    let name = "localhost".try_into().expect("a name");
    let mut session = ClientConnection::new(config, name).expect("the configuration is good");
    let mut socket = TcpStream::connect(server).expect("the server accepts");
    socket.set_nodelay(true).expect("a TCP socket has no-delay");
    while session.is_handshaking() {
        session.complete_io(&mut socket).expect("the server speaks TLS");
    }
    (session, socket)
}

/// Carries one connection until both directions have ended. An end is passed on as one, a reset as a reset as far as the
/// system makes one of a close with unread bytes.
fn carry(client: &TcpStream, server: SocketAddr, config: Arc<ClientConfig>) {
    let (session, socket) = shake_hands(server, config);
    client.set_nodelay(true).expect("a TCP socket has no-delay");
    let (session, socket) = (&Mutex::new(session), &socket);
    thread::scope(|scope| {
        scope.spawn(move || {
            if encrypt(client, session, socket).is_err() {
                // Both sides are gone, or soon will be.
                let _ = socket.shutdown(Shutdown::Both);
            }
            let _ = socket.shutdown(Shutdown::Write);
        });
        let _ = decrypt(socket, session, client);
        let _ = client.shutdown(Shutdown::Both);
    });
}

fn encrypt(
    mut from: &TcpStream,
    session: &Mutex<ClientConnection>,
    mut to: &TcpStream,
) -> std::io::Result<()> {
    let (mut piece, mut encrypted) = (vec![0; 16 * KIB], Vec::new());
    loop {
        let read = from.read(&mut piece)?;
        {
            let mut session = session.lock().expect("no panic while it is held");
            if read == 0 {
                session.send_close_notify();
            } else {
                session.writer().write_all(&piece[..read])?;
            }
            while session.wants_write() {
                session.write_tls(&mut encrypted)?;
            }
        }
        to.write_all(&encrypted)?;
        encrypted.clear();
        if read == 0 {
            return Ok(());
        }
    }
}

fn decrypt(
    mut from: &TcpStream,
    session: &Mutex<ClientConnection>,
    mut to: &TcpStream,
) -> std::io::Result<()> {
    let (mut piece, mut plain) = (vec![0; 16 * KIB], Vec::new());
    loop {
        let read = from.read(&mut piece)?;
        let mut rest = &piece[..read];
        while !rest.is_empty() {
            let mut session = session.lock().expect("no panic while it is held");
            session.read_tls(&mut rest)?;
            let state = session.process_new_packets().map_err(std::io::Error::other)?;
            let (start, new) = (plain.len(), state.plaintext_bytes_to_read());
            plain.resize(start + new, 0);
            session.reader().read_exact(&mut plain[start..])?;
        }
        to.write_all(&plain)?;
        plain.clear();
        if read == 0 {
            return Ok(());
        }
    }
}
