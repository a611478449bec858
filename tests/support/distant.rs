//! A proxy that puts a way between a client and a server of this machine.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Forwards to one port of this machine until it is dropped, with a delay in each direction.
pub(crate) struct Distant {
    port: u16,
    closed: Arc<AtomicBool>,
}

impl Distant {
    /// `way` is the time that bytes take for one way. All bytes take equally long, as on a real way, and none wait for others.
    pub(crate) fn to(port: u16, way: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let own = listener.local_addr().expect("a bound listener has an address").port();
        let closed = Arc::<AtomicBool>::default();
        let ended = Arc::clone(&closed);
        thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let client = client.expect("a client that connected");
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server accepts");
                for socket in [&client, &server] {
                    socket.set_nodelay(true).expect("a TCP socket has no-delay");
                    socket.set_write_timeout(Some(PATIENCE)).expect("the limit is not zero");
                }
                let copy = |socket: &TcpStream| socket.try_clone().expect("a descriptor");
                forward(copy(&client), copy(&server), way);
                forward(server, client, way);
            }
        });
        Self { port: own, closed }
    }

    /// The port on which it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Distant {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; its listener goes with it.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// Starts two threads for one direction: one takes in, and one sends what has been on its way for long enough. They end
/// with the connection.
fn forward(mut from: TcpStream, mut to: TcpStream, way: Duration) {
    let (sender, on_their_way) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if sender.send((Instant::now() + way, bytes[..length].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (arrival, bytes) in on_their_way {
            thread::sleep(arrival.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        // Shutdown fails when the socket has ended already.
        let _ = to.shutdown(Shutdown::Both);
    });
}
