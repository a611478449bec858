//! A logger that keeps the lines of all servers in this process, for tests that look for one of them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{LevelFilter, Metadata, Record};

use super::wait_until;

/// The lines so far. A process has one logger, so all tests of a binary share this one.
pub(crate) struct Log {
    lines: Mutex<Vec<String>>,
}

static LOG: Log = Log { lines: Mutex::new(Vec::new()) };

impl Log {
    /// Keeps the lines logged from now on, at this level and above. Another test's lower level stays in force.
    pub(crate) fn start(level: LevelFilter) -> &'static Self {
        // It fails when another test has set the logger already.
        let _ = log::set_logger(&LOG);
        // The lock keeps two tests from lowering each other's level.
        let _lines = LOG.lines.lock().unwrap_or_else(PoisonError::into_inner);
        log::set_max_level(level.max(log::max_level()));
        &LOG
    }

    /// Whether any line contains `text`.
    pub(crate) fn has(&self, text: &str) -> bool {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|line| line.contains(text))
    }

    /// Waits for a line that contains `text`. Once a second it causes the line `again`: a place of the code logs five
    /// lines a second, and other tests of this process may have used them up.
    pub(crate) fn wait_for(&self, text: &str, again: impl Fn()) {
        let mut caused = Instant::now();
        wait_until(&format!("the log does not have {text:?}"), || {
            if caused.elapsed() > Duration::from_secs(1) {
                again();
                caused = Instant::now();
            }
            self.has(text)
        });
    }
}

impl log::Log for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // A test logs an error that panics when it is printed, so the text is made before the lock is taken.
        let line = record.args().to_string();
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}
