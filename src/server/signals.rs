//! The signals: SIGTERM, SIGINT and SIGQUIT end a server, SIGHUP has it read its configuration again.
//!
//! Thread `signals`. A process has one set of handlers, so there is one thread for all servers of the process. A signal that comes
//! before a server runs is kept for it.

use std::convert::Infallible;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use signal_hook::consts::{SIGHUP, TERM_SIGNALS};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

use crate::connector::Stopper;

/// How long a start may go on after a signal that ends the process. A start that is about to serve then drains, which
/// removes its files. A start that waits for its database does not end by itself for several seconds.
const STARTING: Duration = Duration::from_millis(500);

static STATE: Mutex<State> = Mutex::new(State::new());

/// A server was added to the state.
static SERVES: Condvar = Condvar::new();

struct State {
    /// The thread runs.
    caught: bool,
    /// A signal may end the process as long as no server has run.
    ends_start: bool,
    /// The signals that came before the first server ran.
    early: Vec<i32>,
    servers: Vec<(u64, Signalled)>,
    /// The number of servers so far.
    count: u64,
    /// Called when a signal ends the process before a server runs.
    at_early_end: Option<Box<dyn FnOnce() + Send>>,
}

impl State {
    const fn new() -> Self {
        Self {
            caught: false,
            ends_start: false,
            early: Vec::new(),
            servers: Vec::new(),
            count: 0,
            at_early_end: None,
        }
    }

    fn has_served(&self) -> bool {
        self.count > 0
    }
}

/// Passes signals to a running server until it is dropped.
pub(super) struct Registration(u64);

impl Drop for Registration {
    fn drop(&mut self) {
        lock().servers.retain(|(number, _)| *number != self.0);
    }
}

/// A running server, for signals.
pub(super) struct Signalled {
    pub(super) sender: Sender<i32>,
    /// Stops the server at once.
    pub(super) stop: Stopper,
    /// Dropped with the same signal. `None`: it was.
    pub(super) not_stopped: Option<Sender<Infallible>>,
    /// A signal that ends the server was passed on.
    pub(super) ends: bool,
}

/// Catches SIGTERM, SIGINT, SIGQUIT and SIGHUP from now on, for a server that will [run](super::Server::run). Call it first of
/// all in a program. Without it, a signal that comes while [`Server::new`](super::Server::new) waits for the database has
/// its default effect: SIGHUP ends the process, and SIGTERM has no effect on the first process of a container.
///
/// SIGHUP has its effect when the server runs. The other signals end the process with exit code 0, if no server runs half
/// a second later.
///
/// # Errors
/// The system does not let the process handle signals, or cannot start a thread.
pub fn catch_signals() -> io::Result<()> {
    catch(true)
}

/// As [`catch_signals`]; `ends_start` says whether a signal may end the process before a server runs.
pub(super) fn catch(ends_start: bool) -> io::Result<()> {
    let mut state = lock();
    state.ends_start |= ends_start;
    if !state.caught {
        let mut signals = Signals::new(TERM_SIGNALS.iter().chain(&[SIGHUP]))?;
        let receive = move || signals.forever().for_each(take);
        thread::Builder::new().name("signals".into()).spawn(receive)?;
        state.caught = true;
    }
    Ok(())
}

/// Has this function called when a signal ends the process before a server runs.
pub(crate) fn at_early_end(call: impl FnOnce() + Send + 'static) {
    lock().at_early_end = Some(Box::new(call));
}

/// Passes signals to this server from now on, and those that came before the first one ran.
pub(super) fn pass_to(mut server: Signalled) -> Registration {
    let mut state = lock();
    let early = std::mem::take(&mut state.early);
    let stops = early.into_iter().filter(|signal| server.take(*signal)).count();
    state.count += 1;
    let number = state.count;
    state.servers.push((number, server));
    SERVES.notify_all();
    drop(state);
    log_stop(stops);
    Registration(number)
}

fn take(signal: i32) {
    let mut state = lock();
    if !state.has_served() {
        state.early.push(signal);
        if state.ends_start && signal != SIGHUP {
            end_unless_served(state, signal);
        }
        return;
    }
    let stops = state.servers.iter_mut().filter_map(|(_, server)| server.take(signal).then_some(())).count();
    drop(state);
    log_stop(stops);
}

/// After the stop and without the lock, because a program's own logger may wait for its reader.
fn log_stop(stops: usize) {
    if stops > 0 {
        log::warn!("second signal: stopping at once");
    }
}

fn end_unless_served(state: MutexGuard<'static, State>, signal: i32) {
    let waits = |state: &mut State| !state.has_served();
    let waited = SERVES.wait_timeout_while(state, STARTING, waits);
    let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
    if state.has_served() {
        return;
    }
    log::info!("{} while starting: the process ends", signal_name(signal).unwrap_or("a signal"));
    if let Some(call) = state.at_early_end.take() {
        call();
    }
    log::logger().flush();
    std::process::exit(0);
}

impl Signalled {
    /// Passes the signal on. The second one that is not SIGHUP stops the server at once. Returns whether it did.
    fn take(&mut self, signal: i32) -> bool {
        // The receiver is gone once the server stops. The signal has no further use then.
        let _ = self.sender.send(signal);
        let stops =
            signal != SIGHUP && std::mem::replace(&mut self.ends, true) && self.not_stopped.take().is_some();
        if stops {
            (self.stop)();
        }
        stops
    }
}

fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
