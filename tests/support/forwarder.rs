//! A way to a server that breaks when the test says so: what comes to its port goes on to the server's, and back.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::PATIENCE;

/// Forwards to one port of this machine until it is dropped.
pub(crate) struct Forwarder {
    port: u16,
    shared: Arc<Shared>,
}

/// What is to become of the connection on which the awaited bytes go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It is cut, and the server never has them.
    CutBefore,
    /// The server has them, and the connection is cut instead of its answer.
    CutAnswer,
    /// The server has them; nothing comes back, and no other connection can be made.
    FallSilent,
    /// The same, but that other connections are made and get no answer: a machine that has stopped.
    Hang,
}

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    GoOn,
    Vanish,
    Cut,
}

#[derive(Default)]
struct Shared {
    awaited: Mutex<Option<(Vec<u8>, Then)>>,
    /// Both ends of every connection.
    sockets: Mutex<Vec<TcpStream>>,
    closed: AtomicBool,
    /// Has the listener.
    accepting: Mutex<Option<JoinHandle<()>>>,
    hangs: AtomicBool,
}

impl Forwarder {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let own = listener.local_addr().expect("a bound listener has an address").port();
        let shared = Arc::<Shared>::default();
        let accepting = Arc::clone(&shared);
        let acceptor = thread::spawn(move || {
            let mut kept = Vec::new();
            for client in listener.incoming() {
                if accepting.closed.load(Ordering::SeqCst) {
                    break;
                }
                let client = client.expect("a client that connected");
                if accepting.hangs.load(Ordering::SeqCst) {
                    kept.push(client);
                    continue;
                }
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
                // A server that does not listen refuses here as well.
                let Ok(server) = server else { continue };
                connect(client, server, &accepting, own);
            }
        });
        *shared.accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(acceptor);
        Self { port: own, shared }
    }

    /// Where it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every connection there is.
    pub(crate) fn cut(&self) {
        for socket in self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It fails where it has ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Waits, once, for these bytes to go to the server.
    pub(crate) fn once(&self, bytes: impl Into<Vec<u8>>, then: Then) {
        *self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner) = Some((bytes.into(), then));
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.close(self.port);
    }
}

impl Shared {
    /// Nobody can connect any more once this returns.
    fn close(&self, port: u16) {
        self.closed.store(true, Ordering::SeqCst);
        let acceptor = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(acceptor) = acceptor {
            // The listener goes with its thread, which this wakes. Connecting again and again would fill the backlog of
            // a thread that has no core yet, and others' connections would wait for a second.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
            // One that panicked has dropped its listener as well.
            let _ = acceptor.join();
        }
    }

    fn take(&self, bytes: &[u8]) -> Option<Then> {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let (wanted, then) = awaited.as_ref()?;
        let (found, then) = (bytes.windows(wanted.len()).any(|window| window == wanted), *then);
        if found {
            *awaited = None;
        }
        found.then_some(then)
    }
}

/// Two threads a connection, which end with it.
fn connect(client: TcpStream, server: TcpStream, shared: &Arc<Shared>, port: u16) {
    for socket in [&client, &server] {
        socket.set_nodelay(true).expect("a TCP socket has no-delay");
        socket.set_write_timeout(Some(PATIENCE)).expect("the limit is not zero");
    }
    let both = [&client, &server].map(|socket| socket.try_clone().expect("a descriptor"));
    shared.sockets.lock().unwrap_or_else(PoisonError::into_inner).extend(both);
    let copies = (client.try_clone().expect("a descriptor"), server.try_clone().expect("a descriptor"));
    let of_answers = Arc::new(Mutex::new(Fate::GoOn));
    let (shared, answers) = (Arc::clone(shared), Arc::clone(&of_answers));
    thread::spawn(move || {
        forward(&client, &server, |bytes| {
            let of_answer = match shared.take(bytes) {
                None => return Fate::GoOn,
                Some(Then::CutBefore) => return Fate::Cut,
                Some(Then::CutAnswer) => Fate::Cut,
                Some(Then::Hang) => {
                    shared.hangs.store(true, Ordering::SeqCst);
                    Fate::Vanish
                }
                Some(Then::FallSilent) => {
                    shared.close(port);
                    Fate::Vanish
                }
            };
            // An answer to something earlier may be on its way. It must not end the connection before the server has these
            // bytes, so it waits for the lock.
            let mut of_answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = (&server).write_all(bytes);
            *of_answers = of_answer;
            if sent.is_ok() { Fate::Vanish } else { Fate::Cut }
        });
        end(&client, &server);
    });
    let (client, server) = copies;
    thread::spawn(move || {
        forward(&server, &client, |_| *of_answers.lock().unwrap_or_else(PoisonError::into_inner));
        end(&client, &server);
        // What the server still says goes nowhere.
        forward(&server, &client, |_| Fate::Vanish);
    });
}

/// Until one side ends, or is cut off.
fn forward(mut from: &TcpStream, mut to: &TcpStream, mut fate: impl FnMut(&[u8]) -> Fate) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let sent = match fate(&bytes[..length]) {
            Fate::GoOn => to.write_all(&bytes[..length]),
            Fate::Vanish => Ok(()),
            Fate::Cut => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Ends a connection. The server's side is only told that no more comes: were nobody to read there, its next answer would
/// be met with a reset, and the server would lose what it has not read yet.
fn end(client: &TcpStream, server: &TcpStream) {
    // They fail where they have ended already.
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Write);
}
