//! Panics of code from outside of the crate: handlers, their errors, and the values that these hold. Any thread.
//!
//! The crate's `catch_unwind` is here. A panic in a handler costs its own request a 500. A panic anywhere else costs one
//! request or one connection, and the thread goes on. A thread that panics again and again ends the process, so that no
//! server listens without answering.

use std::any::Any;
use std::fmt::Display;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A thread that panics this often within [`PERIOD`] ends the process.
const PANICS_MAX: usize = 10;

/// The time in which a thread's panics are counted. It is long enough for a fault that each new client meets.
const PERIOD: Duration = Duration::from_secs(60);

/// Runs code that may panic. The error is the panic's message.
///
/// A panic may leave the code's own state broken. Its author has to deal with that, as in any pool of threads.
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let message = message(&*panic).to_owned();
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            // Dropping this one may panic as well, and so on without end. It is small and leaks.
            std::mem::forget(another);
        }
        message
    })
}

/// The message of a panic with this payload.
pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    let literal = payload.downcast_ref::<&str>().copied();
    literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Runs a thread's work, and runs it again after a panic. `note` is told of each panic.
pub(crate) fn supervise<T>(thread: impl Display, note: impl Fn(), mut work: impl FnMut() -> T) -> T {
    let mut panics = Vec::new();
    loop {
        let message = match catch(&mut work) {
            Ok(done) => return done,
            Err(message) => message,
        };
        note();
        log::error!("{thread} panicked and goes on: {message}");
        let now = Instant::now();
        panics.retain(|panicked: &Instant| now.saturating_duration_since(*panicked) < PERIOD);
        panics.push(now);
        if panics.len() >= PANICS_MAX {
            log::error!("{thread} panicked {PANICS_MAX} times within {PERIOD:?}, so the process ends");
            log::logger().flush();
            std::process::abort();
        }
    }
}

/// A value from outside of the crate. A panic while it is dropped is caught and logged.
pub(crate) struct Foreign<T>(
    /// `None` once the value was taken out.
    Option<T>,
);

impl<T> Foreign<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Takes the value out. From then on the caller has to guard its drop.
    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("only this function and the drop take the value")
    }
}

impl<T> Deref for Foreign<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("the value is there until the drop")
    }
}

impl<T> Drop for Foreign<T> {
    fn drop(&mut self) {
        if let Some(value) = self.0.take()
            && let Err(message) = catch(|| drop(value))
        {
            log::error!("a handler's value panicked when it was dropped: {message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::panic_any;

    use super::*;

    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn the_message_of_a_panic_is_told() {
        assert_eq!(catch(|| 1), Ok(1));
        assert_eq!(catch(|| panic!("literal")), Err::<(), _>("literal".to_owned()));
        assert_eq!(catch(|| panic!("made of {}", 2)), Err::<(), _>("made of 2".to_owned()));
        assert_eq!(catch(|| panic_any(3)), Err::<(), _>("without a message".to_owned()));
    }

    #[test]
    fn a_payload_may_panic_when_it_is_dropped() {
        assert_eq!(catch(|| panic_any(PanicsOnDrop)), Err::<(), _>("without a message".to_owned()));
    }

    #[test]
    fn a_value_may_panic_when_it_is_dropped() {
        drop(Foreign::new(PanicsOnDrop));
        assert_eq!(Foreign::new(4).into_inner(), 4);
    }

    #[test]
    fn a_thread_goes_on_after_a_panic() {
        let (runs, noted) = (Cell::new(0), Cell::new(0));
        let work = || {
            runs.set(runs.get() + 1);
            assert!(runs.get() >= 5, "not yet");
            "done"
        };
        assert_eq!(supervise("the thread", || noted.set(noted.get() + 1), work), "done");
        assert_eq!((runs.get(), noted.get()), (5, 4));
    }
}
