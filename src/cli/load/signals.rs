//! Signals during a run. The first ends the sending, the second ends the run, and the third ends the process, for a run whose report
//! cannot be written.
//!
//! A thread of its own waits for them, so that the user is told at once.

use std::io::{self, Write as _};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::INTERRUPTED;
use super::live::Live;
use crate::sizing::load::Stop;

/// The flags that signals set.
#[derive(Clone, Default)]
pub(super) struct RunStop {
    sending: Arc<AtomicBool>,
    waiting: Arc<AtomicBool>,
}

impl RunStop {
    /// Waits for signals from now on. `timeout`: the longest time that a request waits for its answer.
    pub(super) fn by_signals(timeout: Duration, live: Arc<Mutex<Live>>) -> io::Result<Self> {
        let stop = Self::default();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let flags = stop.clone();
        let seconds = timeout.as_secs_f64();
        let first = format!(
            "stopping: no further request is sent; waiting for the answers that are under way, {seconds} s at most; a second \
             signal ends the run at once"
        );
        let wait = move || {
            let mut signals = signals.forever();
            let texts = [first.as_str(), "ending at once, with the report so far"];
            for (flag, text) in [&flags.sending, &flags.waiting].into_iter().zip(texts) {
                if signals.next().is_none() {
                    return;
                }
                let text = live.lock().unwrap_or_else(PoisonError::into_inner).say(text);
                // The run ends even when nobody can see why.
                let _ = io::stderr().write_all(text.as_bytes());
                flag.store(true, Ordering::Relaxed);
            }
            if signals.next().is_some() {
                process::exit(INTERRUPTED.into());
            }
        };
        thread::Builder::new().name("signals".into()).spawn(wait)?;
        Ok(stop)
    }

    pub(super) fn as_stop(&self) -> Stop<'_> {
        Stop { sending: &self.sending, waiting: &self.waiting }
    }
}
