//! The log's way to standard error, for the program `wharf`.
//!
//! Any thread logs. `wharf serve` starts a thread that writes, so that no other thread waits for the reader of standard
//! error. Lines that the reader takes too slowly are lost and counted. Other commands write at once.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write as _};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

pub(crate) use super::writer::WHOLE_IN_A_PIPE;
use super::writer::{LAST_WRITE, Target, Writer};
use crate::base::guard::message;

/// Set when the writing thread starts. A process has one standard error.
static WRITER: OnceLock<Writer> = OnceLock::new();

/// How long a thread that panics waits for its message to be written. The process may be about to end.
const PANIC_WRITE: Duration = Duration::from_millis(100);

/// The same if the reader of standard error stood still at the last panic.
const STALLED_PANIC_WRITE: Duration = Duration::from_millis(1);

/// Has a thread of its own write all lines from now on.
///
/// # Errors
/// The system cannot start a thread.
pub(crate) fn start_writer() -> io::Result<()> {
    let writer = Writer::in_order(|lost| {
        log::warn!("{lost} lines of the log were lost, because standard error was read too slowly or failed");
    });
    writer.write_to(Target::Stderr);
    writer.start("log")?;
    // The program starts it once.
    if WRITER.set(writer).is_ok() {
        std::panic::set_hook(Box::new(write_panic));
    }
    Ok(())
}

/// Writes whole lines to standard error.
pub(crate) fn write(lines: &[u8]) {
    match WRITER.get() {
        Some(writer) => writer.add(|out| out.extend_from_slice(lines)),
        None => {
            // The log cannot say that standard error cannot be written.
            let _ = io::stderr().write_all(lines);
        }
    }
}

/// Waits, for a second at most, until all lines are written.
pub(crate) fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush(LAST_WRITE);
    }
}

/// Whether lines wait that would take half of the room. Lines that any client can cause then leave the rest to others.
pub(super) fn is_half_full() -> bool {
    WRITER.get().is_some_and(Writer::is_half_full)
}

/// The number of lines that were lost, because writing failed or was too slow.
pub(crate) fn lost() -> u64 {
    WRITER.get().map_or(0, Writer::lost)
}

/// As the standard library's hook. That one waits for the reader of standard error.
fn write_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace = Some(backtrace).filter(|backtrace| backtrace.status() == BacktraceStatus::Captured);
    let backtrace = backtrace.map(|backtrace| format!("stack backtrace:\n{backtrace}")).unwrap_or_default();
    let message = message(panic.payload());
    write(format!("thread '{name}' panicked at {place}:\n{message}\n{backtrace}").as_bytes());
    if let Some(writer) = WRITER.get() {
        static STALLED: AtomicBool = AtomicBool::new(false);
        let patience = if STALLED.load(Relaxed) { STALLED_PANIC_WRITE } else { PANIC_WRITE };
        STALLED.store(!writer.flush(patience), Relaxed);
    }
}
