//! A proxy that holds back a server's answers: all of them, or the answers from the second round trip on.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::relay::{Relay, Watcher};

/// Forwards to one port of this machine until it is dropped.
pub(crate) struct Withholding(Relay<Shared>);

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
    /// The bytes that went to the server since the last [`Withholding::hold`].
    sent: Vec<u8>,
    /// The number of round trips: how often the client began to send, at first or after an answer.
    turns: usize,
    /// The last bytes that were forwarded came from the client.
    clients_turn: bool,
}

impl Withholding {
    pub(crate) fn to(port: u16) -> Self {
        Self(Relay::to(port))
    }

    /// The port on which it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.0.port()
    }

    /// Holds back the server's answers from now on, and counts round trips anew.
    pub(crate) fn hold(&self) {
        *self.0.watcher().state() = State { withheld: Withheld::Everything, ..State::default() };
    }

    /// Lets the answers to the first round trip pass. As soon as the client sends something after one of them, answers wait
    /// again.
    pub(crate) fn release_first(&self) {
        self.0.watcher().state().withheld = Withheld::FromSecondRoundTrip;
        self.0.watcher().released.notify_all();
    }

    /// Lets all of the server's answers pass.
    pub(crate) fn release(&self) {
        self.0.watcher().release();
    }

    /// Whether these bytes went to the server since [`Withholding::hold`].
    pub(crate) fn has_sent(&self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        self.0.watcher().state().sent.windows(bytes.len()).any(|window| window == bytes)
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
}

impl Watcher for Shared {
    fn note_sent(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.turns += usize::from(!state.clients_turn);
        state.clients_turn = true;
        state.sent.extend_from_slice(bytes);
    }

    fn note_answered(&self) {
        let state = self.released.wait_while(self.state(), |state| state.withholds());
        state.unwrap_or_else(PoisonError::into_inner).clients_turn = false;
    }

    fn release(&self) {
        self.state().withheld = Withheld::Nothing;
        self.released.notify_all();
    }
}
