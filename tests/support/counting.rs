//! A proxy that keeps what a client sends to a server, round trip by round trip.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::PATIENCE;

/// The beginning of the cleaning of a session, behind the message's tag and length.
const CLEANING: &[u8] = b"begin; close all;";

/// Forwards to one port of this machine until it is dropped.
pub(crate) struct Counting {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The bytes of the client in each round trip.
    round_trips: Vec<Vec<u8>>,
    /// The last bytes that were forwarded came from the client.
    clients_turn: bool,
}

impl Counting {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let own = listener.local_addr().expect("a bound listener has an address").port();
        let shared = Arc::<Shared>::default();
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.closed.load(Ordering::SeqCst) {
                    break;
                }
                let client = client.expect("a client that connected");
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server accepts");
                connect(client, server, &accepting);
            }
        });
        Self { port: own, shared }
    }

    /// The port on which it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Forgets the round trips so far.
    pub(crate) fn begin(&self) {
        self.shared.state().round_trips.clear();
    }

    /// The number of round trips since [`Counting::begin`] for which a request waited. An idle worker may send the cleaning of a
    /// session by itself; nobody waits for its answer, so such a round trip does not count.
    pub(crate) fn count(&self) -> usize {
        self.shared.state().round_trips.iter().filter(|sent| !is_cleaning_alone(sent)).count()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; its listener goes with it.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_sent(&self, bytes: &[u8]) {
        let mut state = self.state();
        if !state.clients_turn {
            state.round_trips.push(Vec::new());
        }
        state.clients_turn = true;
        match state.round_trips.last_mut() {
            Some(last) => last.extend_from_slice(bytes),
            // The round trip began before the count.
            None => state.round_trips.push(bytes.to_vec()),
        }
    }
}

/// Whether these messages are cleanings and questions to the planner alone. A statement of a request is bound, and COMMIT and
/// ROLLBACK stand in a query of their own.
fn is_cleaning_alone(mut messages: &[u8]) -> bool {
    let (mut is_alone, mut has_cleaning) = (true, false);
    while let [tag, length @ ..] = messages {
        let Some((length, _)) = length.split_first_chunk() else { return false };
        let length = usize::try_from(u32::from_be_bytes(*length)).expect("32 bits fit");
        let Some(body) = messages.get(5..=length) else { return false };
        is_alone &= match tag {
            b'Q' if body.starts_with(b"COMMIT") || body.starts_with(b"ROLLBACK") => false,
            b'Q' => {
                has_cleaning |= body.starts_with(CLEANING);
                true
            }
            b'B' | b'E' => false,
            _ => true,
        };
        messages = &messages[1 + length..];
    }
    is_alone && has_cleaning
}

/// Starts two threads for the connection. They end with it.
fn connect(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    for socket in [&client, &server] {
        socket.set_nodelay(true).expect("a TCP socket has no-delay");
        socket.set_write_timeout(Some(PATIENCE)).expect("the limit is not zero");
    }
    let copies = (client.try_clone().expect("a descriptor"), server.try_clone().expect("a descriptor"));
    let noting = Arc::clone(shared);
    thread::spawn(move || forward(&client, &server, |bytes| noting.note_sent(bytes)));
    let (client, server) = copies;
    let noting = Arc::clone(shared);
    thread::spawn(move || forward(&server, &client, |_| noting.state().clients_turn = false));
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
