//! A forwarder to a server that breaks when the test says so. It passes bytes on from its own port to the server's
//! port, and back.

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

/// The action on the connection when the awaited bytes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The connection is cut before the server receives the bytes.
    CutBefore,
    /// The server receives the bytes. The connection is cut before its answer comes back.
    CutAnswer,
    /// The server receives the bytes. Nothing comes back, and no other connection can be made.
    FallSilent,
    /// As `FallSilent`, but other connections are accepted and get no answer, as from a machine that has stopped.
    Hang,
}

/// The forwarder's treatment of bytes that arrive.
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
    /// The accepting thread, which owns the listener.
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

    /// The port on which it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Cuts every open connection.
    pub(crate) fn cut(&self) {
        for socket in self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Shutdown fails when the connection has ended already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Breaks the first connection on which these bytes go to the server, once.
    pub(crate) fn once(&self, bytes: impl Into<Vec<u8>>, then: Then) {
        *self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner) = Some((bytes.into(), then));
    }

    /// Whether the awaited bytes have come.
    pub(crate) fn has_broken(&self) -> bool {
        self.shared.awaited.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.shared.close(self.port);
    }
}

impl Shared {
    /// Closes the listener. After this returns, no client can connect any more.
    fn close(&self, port: u16) {
        self.closed.store(true, Ordering::SeqCst);
        let acceptor = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(acceptor) = acceptor {
            // This connection wakes the accepting thread, which then drops the listener. Connecting repeatedly would
            // fill the backlog while that thread has no core, and other clients' connections would wait for a second.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
            // A thread that panicked has dropped its listener as well.
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

/// Starts two threads for the connection. They end with it.
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
            // The answer to an earlier message may be on its way. It must not end the connection before the server has
            // these bytes, so the answer's thread waits for the lock.
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
        // Read and discard the rest of what the server sends.
        forward(&server, &client, |_| Fate::Vanish);
    });
}

/// Forwards bytes until one side ends or is cut off.
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

/// Ends a connection. On the server's side it closes only the sending half. If its receiving half were closed too, the
/// server's next answer would cause a reset, and the server would lose the bytes that it has not read yet.
fn end(client: &TcpStream, server: &TcpStream) {
    // Shutdown fails when the socket has ended already.
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Write);
}
