//! The pool's housekeeping: what happens to sessions that nobody uses.
//!
//! A thread of its own. It serves those who wait when r2d2 has a new session, looks for dead ones as soon as one was found,
//! asks those that have been silent for long, and ends those that are old or too many.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::state::{Held, Settings, Shared, State};
use super::{Driver, Session};
use crate::base::deadline::Deadline;
use crate::telemetry::sparing::sparingly;

/// Between two rounds, unless the times in the configuration ask for more.
const ROUND: Duration = Duration::from_secs(5);

/// How long r2d2 may take to put a session that it was given into its store: the few instructions after a return.
const ARRIVAL: Duration = Duration::from_micros(50);

pub(super) fn start<D: Driver>(shared: &Arc<Shared<D>>, errands: Receiver<()>) -> std::io::Result<()> {
    shared.settle();
    let shared = Arc::downgrade(shared);
    thread::Builder::new().name("pool-keeper".into()).spawn(move || run(&shared, &errands)).map(drop)
}

fn run<D: Driver>(shared: &Weak<Shared<D>>, errands: &Receiver<()>) {
    let mut round = Instant::now();
    loop {
        let Some(due) = shared.upgrade().map(|shared| round + shared.lock().settings.round()) else { return };
        let woken = errands.recv_deadline(due);
        let Some(shared) = shared.upgrade() else { return };
        if woken == Err(RecvTimeoutError::Disconnected) || shared.lock().closed {
            return;
        }
        shared.settle();
        shared.sweep();
        let now = Instant::now();
        if now >= due {
            round = now;
            shared.report_leaks(now);
        }
        // Also when it was woken: the maximum may have changed.
        shared.look_after_idle(now);
    }
}

impl Settings {
    /// Often enough for each time that is kept here.
    fn round(&self) -> Duration {
        let times =
            [self.idle_timeout, self.max_lifetime, self.keepalive_time, self.leak_detection_threshold];
        let shortest = times.into_iter().filter(|time| !time.is_zero()).min();
        shortest.map_or(ROUND, |shortest| (shortest / 8).min(ROUND))
    }
}

/// What is to become of an idle session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// The database is to show that it is alive.
    Ask,
    Close,
}

impl<D: Driver> Shared<D> {
    /// Waits until the store has every session that was opened, and serves those who wait for one.
    pub(super) fn settle(&self) {
        loop {
            let mut state = self.lock();
            let husks = state.move_from_outgrown();
            let moving = !husks.is_empty();
            state.serve_line();
            let outgrown = if state.has_arrived() { Some(std::mem::take(&mut state.outgrown)) } else { None };
            drop(state);
            drop(husks);
            if moving {
                self.demand.notify_all();
            }
            if outgrown.is_some() {
                return;
            }
            thread::sleep(ARRIVAL);
        }
    }

    /// After a session was found dead: looks at the sockets of the others, so that no request has to.
    fn sweep(&self) {
        let mut state = self.lock();
        let Some(since) = state.suspicion else { return };
        let suspects = state.take_all_idle();
        drop(state);
        let now = Instant::now();
        for mut entry in suspects {
            entry.close = entry.seen <= since && !entry.session_mut().is_alive();
            self.put(entry, now);
        }
    }

    fn look_after_idle(&self, now: Instant) {
        let mut state = self.lock();
        let idle = state.take_all_idle();
        let mut surplus = state.open.saturating_sub(state.settings.maximum);
        let mut spare = state.open.saturating_sub(state.settings.minimum_idle);
        let (mut kept, mut asked, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for mut entry in idle {
            let verdict = state.judge(&entry, now, &mut surplus, &mut spare);
            entry.close = verdict == Verdict::Close;
            match verdict {
                Verdict::Keep => kept.push(entry),
                Verdict::Ask => asked.push(entry),
                Verdict::Close => ended.push(entry),
            }
        }
        state.keep(kept);
        state.active -= u32::try_from(ended.len()).unwrap_or(0);
        drop(state);
        drop(ended);
        for mut entry in asked {
            let deadline = Deadline::after(self.lock().settings.validation_timeout);
            entry.close = !(entry.session_mut().is_alive() && entry.session_mut().validate(deadline));
            if entry.close {
                sparingly!(
                    log::Level::Info,
                    "idle connections found dead",
                    "an idle connection was found dead"
                );
            }
            entry.seen = Instant::now();
            self.put(entry, Instant::now());
        }
    }

    fn report_leaks(&self, now: Instant) {
        let mut state = self.lock();
        let threshold = state.settings.leak_detection_threshold;
        if threshold.is_zero() {
            return;
        }
        for loan in state.loans.values_mut() {
            let held = now.saturating_duration_since(loan.since);
            if held >= threshold && !loan.reported {
                loan.reported = true;
                self.metrics.leaks.fetch_add(1, Relaxed);
                sparingly!(
                    log::Level::Warn,
                    "connections lent for too long",
                    "{} has had a database connection for {held:?} (database.leak_detection_threshold is {threshold:?})",
                    loan.thread
                );
            }
        }
    }
}

impl<D: Driver> State<D> {
    fn judge(&self, entry: &Held<D>, now: Instant, surplus: &mut u32, spare: &mut u32) -> Verdict {
        let settings = &self.settings;
        let unused = now.saturating_duration_since(entry.used);
        let silent = now.saturating_duration_since(entry.seen);
        if *surplus > 0 {
            *surplus -= 1;
            Verdict::Close
        } else if now >= entry.expires || self.is_useless(entry) {
            Verdict::Close
        } else if *spare > 0 && unused >= settings.idle_timeout {
            *spare -= 1;
            Verdict::Close
        } else if !settings.keepalive_time.is_zero() && silent >= settings.keepalive_time {
            Verdict::Ask
        } else {
            Verdict::Keep
        }
    }
}
