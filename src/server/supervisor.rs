//! Reports the server's state to the service manager by `sd_notify`(3). The manager is systemd, or another program that
//! sets `NOTIFY_SOCKET`. Without that variable the server reports nothing and starts no thread.
//!
//! Main thread. The watchdog has its own thread where `WATCHDOG_USEC` is set as well.

use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use sd_notify::NotifyState;

/// Asks, for at most this long, whether every serving thread still works. The error names the thread that does not.
pub(super) type Pulse = Box<dyn Fn(Duration) -> Result<(), &'static str> + Send>;

/// The time between the end of a drain and the end of the process: log files are written and threads are joined.
const ENDING: Duration = Duration::from_secs(5);

/// The watchdog gets two reports in each of its periods, as `sd_watchdog_enabled`(3) recommends.
const REPORTS_PER_PERIOD: u32 = 2;

/// A server that does not answer is checked again after an eighth of the period, and has an eighth for each answer. So
/// a late answer leaves time for more checks before the period is over.
const TRIES_PER_PERIOD: u32 = 8;

/// The thread that tells the watchdog that the server works. Dropping it ends the thread.
pub(super) struct Watchdog {
    /// Disconnected when the thread is to end.
    _end: Sender<Infallible>,
}

/// Reports that the server answers clients from now on.
pub(super) fn ready(place: &impl Display) {
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("serving on {place}"))]);
}

/// Reports that a reload begins.
pub(super) fn reloading() {
    // systemd compares the time with that of its own request. Without the time it does not take the message for an
    // answer.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => {
            notify(&[NotifyState::Reloading, now, NotifyState::Status("reading the configuration again")]);
        }
        Err(error) => log::warn!("NOTIFY_SOCKET: cannot read the time for RELOADING=1: {error}"),
    }
}

/// Reports that a reload has ended.
pub(super) fn reloaded(place: &impl Display, good: bool) {
    let refused = if good { "" } else { "; the last reload changed nothing, and the log says why" };
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("serving on {place}{refused}"))]);
}

/// Reports a drain that takes at most `patience`. The service manager's time limit for the stop is extended by that.
pub(super) fn stopping(patience: Duration) {
    // `server.drain_timeout` is an hour at most, which fits.
    let micros = u32::try_from((patience + ENDING).as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(micros),
        NotifyState::Status("answering the requests in flight"),
    ]);
}

impl Watchdog {
    /// Starts the thread, if the service manager expects reports.
    pub(super) fn start(pulse: impl FnOnce() -> Pulse) -> io::Result<Option<Self>> {
        let period = sd_notify::watchdog_enabled().filter(|period| !period.is_zero());
        let Some(period) = period.filter(|_| std::env::var_os("NOTIFY_SOCKET").is_some()) else {
            return Ok(None);
        };
        let (end, ended) = crossbeam_channel::bounded(0);
        let pulse = pulse();
        thread::Builder::new().name("watchdog".into()).spawn(move || watch(&pulse, period, &ended))?;
        Ok(Some(Self { _end: end }))
    }
}

fn watch(pulse: &Pulse, period: Duration, ended: &Receiver<Infallible>) {
    let (patience, mut wait, mut was_well) = (period / TRIES_PER_PERIOD, Duration::ZERO, true);
    while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        let found = pulse(patience);
        match found {
            Ok(()) => notify(&[NotifyState::Watchdog]),
            Err(what) if was_well => log::error!("the watchdog gets no report, because {what}"),
            Err(_) => {}
        }
        was_well = found.is_ok();
        wait = if was_well { period / REPORTS_PER_PERIOD } else { patience };
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("NOTIFY_SOCKET: {error}");
    }
}
