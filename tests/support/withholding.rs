//! A proxy that holds back a server's answers: all of them, or the answers from the second round trip on.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::PATIENCE;

/// Forwards to one port of this machine until it is dropped.
pub(crate) struct Withholding {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

/// The answers that are held back.
#[derive(Default)]
enum Withheld {
    #[default]
    Nothing,
    FromSecondRoundTrip,
    Everything,
}

#[derive(Default)]
struct State {
    withheld: Withheld,
    closed: bool,
    /// The bytes that went to the server since the last [`Withholding::hold`].
    sent: Vec<u8>,
    /// The number of round trips: how often the client began to send, at first or after an answer.
    turns: usize,
    /// The last bytes that were forwarded came from the client.
    clients_turn: bool,
}

impl Withholding {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let own = listener.local_addr().expect("a bound listener has an address").port();
        let shared = Arc::<Shared>::default();
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.state().closed {
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

    /// Holds back the server's answers from now on, and counts round trips anew.
    pub(crate) fn hold(&self) {
        *self.shared.state() = State { withheld: Withheld::Everything, ..State::default() };
    }

    /// Lets the answers to the first round trip pass. As soon as the client sends something after one of them, answers wait
    /// again.
    pub(crate) fn release_first(&self) {
        self.shared.state().withheld = Withheld::FromSecondRoundTrip;
        self.shared.released.notify_all();
    }

    /// Lets all of the server's answers pass.
    pub(crate) fn release(&self) {
        self.shared.state().withheld = Withheld::Nothing;
        self.shared.released.notify_all();
    }

    /// Whether these bytes went to the server since [`Withholding::hold`].
    pub(crate) fn has_sent(&self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        self.shared.state().sent.windows(bytes.len()).any(|window| window == bytes)
    }
}

impl Drop for Withholding {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.release();
        // Wakes the thread that accepts; its listener goes with it.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl State {
    fn withholds(&self) -> bool {
        match self.withheld {
            Withheld::Nothing => false,
            Withheld::FromSecondRoundTrip => self.turns > 1,
            Withheld::Everything => true,
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_sent(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.turns += usize::from(!state.clients_turn);
        state.clients_turn = true;
        state.sent.extend_from_slice(bytes);
    }

    fn wait_for_release(&self) {
        let state = self.released.wait_while(self.state(), |state| state.withholds());
        state.unwrap_or_else(PoisonError::into_inner).clients_turn = false;
    }
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
    let waiting = Arc::clone(shared);
    thread::spawn(move || forward(&server, &client, |_| waiting.wait_for_release()));
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
