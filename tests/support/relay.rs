//! A proxy to one port of this machine, with a watcher that sees the bytes before they go on.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::PATIENCE;

/// Sees what passes, on the thread that forwards it. The bytes wait meanwhile.
pub(super) trait Watcher: Default + Send + Sync + 'static {
    /// The client has sent these bytes.
    fn note_sent(&self, bytes: &[u8]);

    /// The server has sent something.
    fn note_answered(&self);

    /// The relay ends, so nothing may wait any more.
    fn release(&self) {}
}

/// Forwards to one port of this machine until it is dropped.
pub(super) struct Relay<W: Watcher> {
    port: u16,
    watcher: Arc<W>,
    closed: Arc<AtomicBool>,
}

impl<W: Watcher> Relay<W> {
    pub(super) fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let own = listener.local_addr().expect("a bound listener has an address").port();
        let (watcher, closed) = (Arc::<W>::default(), Arc::<AtomicBool>::default());
        let (watching, ended) = (Arc::clone(&watcher), Arc::clone(&closed));
        thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let client = client.expect("a client that connected");
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server accepts");
                connect(client, server, &watching);
            }
        });
        Self { port: own, watcher, closed }
    }

    /// The port on which it listens on 127.0.0.1.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn watcher(&self) -> &W {
        &self.watcher
    }
}

impl<W: Watcher> Drop for Relay<W> {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        self.watcher.release();
        // Wakes the thread that accepts; its listener goes with it.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// Starts two threads for the connection. They end with it.
fn connect<W: Watcher>(client: TcpStream, server: TcpStream, watcher: &Arc<W>) {
    for socket in [&client, &server] {
        socket.set_nodelay(true).expect("a TCP socket has no-delay");
        socket.set_write_timeout(Some(PATIENCE)).expect("the limit is not zero");
    }
    let copies = (client.try_clone().expect("a descriptor"), server.try_clone().expect("a descriptor"));
    let of_client = Arc::clone(watcher);
    thread::spawn(move || forward(&client, &server, |bytes| of_client.note_sent(bytes)));
    let (client, server) = copies;
    let of_server = Arc::clone(watcher);
    thread::spawn(move || forward(&server, &client, |_| of_server.note_answered()));
}

/// Forwards bytes until one side ends.
fn forward(mut from: &TcpStream, mut to: &TcpStream, before: impl Fn(&[u8])) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        before(&bytes[..length]);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    for socket in [from, to] {
        // Shutdown fails when the connection has ended already.
        let _ = socket.shutdown(Shutdown::Both);
    }
}
