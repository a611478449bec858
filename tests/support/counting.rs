//! A proxy that keeps what a client sends to a server, round trip by round trip.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::relay::{Relay, Watcher};

/// The beginning of the cleaning of a session, behind the message's tag and length.
const CLEANING: &[u8] = b"begin; close all;";

/// Forwards to one port of this machine until it is dropped.
pub(crate) struct Counting(Relay<Shared>);

#[derive(Default)]
struct Shared(Mutex<State>);

#[derive(Default)]
struct State {
    /// The bytes of the client in each round trip.
    round_trips: Vec<Vec<u8>>,
    /// The last bytes that were forwarded came from the client.
    clients_turn: bool,
}

impl Counting {
    pub(crate) fn to(port: u16) -> Self {
        Self(Relay::to(port))
    }

    /// The port on which it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.0.port()
    }

    /// Forgets the round trips so far.
    pub(crate) fn begin(&self) {
        self.0.watcher().state().round_trips.clear();
    }

    /// The number of round trips since [`Counting::begin`] for which a request waited. An idle worker may send the cleaning of a
    /// session by itself; nobody waits for its answer, so such a round trip does not count.
    pub(crate) fn count(&self) -> usize {
        self.0.watcher().state().round_trips.iter().filter(|sent| !is_cleaning_alone(sent)).count()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Shared {
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

    fn note_answered(&self) {
        self.state().clients_turn = false;
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
