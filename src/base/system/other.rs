//! The system is a Unix, but not Linux: the substitutes.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mio::unix::pipe;
use mio::{Interest, Registry, Token};
use rustix::net::SendFlags;
use rustix::time::{ClockId, clock_gettime};
use socket2::Socket;

use super::{CoreTicks, ThreadTimes};

/// Names a thread, where the system could say anything of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadId;

/// The calling thread.
pub(crate) fn this_thread() -> ThreadId {
    ThreadId
}

/// Sends without waiting. Rust's runtime ignores the signal of a closed connection.
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT;

/// Wakes a poll when the next request of a load is due: a thread sleeps until then and writes to a pipe.
pub(crate) struct Alarm {
    shared: Arc<Shared>,
    set_for: Option<Instant>,
    /// Registered with the poll for as long as the alarm lives. Each event is a new byte, so it is never read.
    _events: pipe::Receiver,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    due: Option<Instant>,
    is_dropped: bool,
}

impl Alarm {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let (mut sender, mut events) = pipe::new()?;
        registry.register(&mut events, token, Interest::READABLE)?;
        let state = Mutex::new(State { due: None, is_dropped: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let thread = Arc::clone(&shared);
        thread::Builder::new().name("alarm".to_owned()).spawn(move || thread.run(&mut sender))?;
        Ok(Self { shared, set_for: None, _events: events })
    }

    /// Makes an event at that time, and none at a time that was set before.
    pub(crate) fn set(&mut self, time: Instant, _: Instant) -> io::Result<()> {
        if self.set_for != Some(time) {
            self.shared.change(|state| state.due = Some(time));
            self.set_for = Some(time);
        }
        Ok(())
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.shared.change(|state| state.is_dropped = true);
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    fn run(&self, events: &mut pipe::Sender) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.is_dropped {
            let left = state.due.map(|due| due.saturating_duration_since(Instant::now()));
            state = match left {
                Some(Duration::ZERO) => {
                    state.due = None;
                    // A pipe that is full has events enough, and one that is closed has no poll any more.
                    let _ = events.write(&[0]);
                    state
                }
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// Ends a thread's wait for another descriptor, if the thread waits for the bell's as well.
#[derive(Debug)]
pub struct Bell {
    sender: UnixStream,
    receiver: UnixStream,
}

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let (sender, receiver) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Self { sender, receiver })
    }

    pub(crate) fn ring(&self) {
        // It fails only if the bell has been rung already and very often.
        drop((&self.sender).write(&[1]));
    }

    /// Takes back the ring, if there was one.
    pub(crate) fn silence(&self) {
        drop((&self.receiver).read(&mut [0; 8]));
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

/// Has no substitute: the system shares its cores out as it likes.
pub(crate) fn wait_for_turn() {}

/// Has no substitute: clients that connect while the server ends are reset with the listener.
#[allow(clippy::unnecessary_wraps, reason = "on Linux it can fail")]
pub(crate) fn refuse_newcomers(_: &Socket) -> io::Result<()> {
    Ok(())
}

/// Whether a socket listens. Accepting says so in any case.
#[allow(clippy::unnecessary_wraps, reason = "on Linux it can fail")]
pub(crate) fn is_listener(_: &Socket) -> io::Result<bool> {
    Ok(true)
}

/// Has no substitute: the system decides how much it holds for a slow client.
#[allow(clippy::unnecessary_wraps, reason = "on Linux it can fail")]
pub(crate) fn limit_unsent(_: &Socket, _: u32) -> io::Result<()> {
    Ok(())
}

/// Has no substitute: the system decides how long it waits for an acknowledgement.
#[allow(clippy::unnecessary_wraps, reason = "on Linux it can fail")]
pub(crate) fn set_user_timeout(_: &Socket, _: Option<Duration>) -> io::Result<()> {
    Ok(())
}

/// The monotonic clock.
pub(crate) fn coarse_monotonic() -> Duration {
    clock_gettime(ClockId::Monotonic).try_into().unwrap_or_default()
}

/// Seconds since 1970.
pub(crate) fn coarse_seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or_default()
}

/// Not known.
pub(crate) fn core_ticks() -> Option<CoreTicks> {
    None
}

/// Not known.
pub(crate) fn thread_times(_: ThreadId) -> Option<ThreadTimes> {
    None
}

/// Not known.
pub(crate) fn memory_max() -> Option<usize> {
    None
}

/// Not known.
pub(crate) fn process_status() -> Option<String> {
    None
}

/// Not known.
pub(crate) fn open_descriptors() -> Option<u64> {
    None
}
