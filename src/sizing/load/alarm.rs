//! Wakes the generator when the next request is due, to the microsecond. epoll alone counts in milliseconds.
//!
//! Generator thread. The alarm is a timer of the system and an event like any other, so answers are still seen at once.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

pub(super) struct Alarm {
    timer: OwnedFd,
    /// The time for which the alarm is set, if it is.
    set_for: Option<Instant>,
}

impl Alarm {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, set_for: None })
    }

    /// Makes one event at that time, and drops an earlier setting. Setting the timer also re-arms it, so it is never
    /// read.
    pub(super) fn set(&mut self, time: Instant, now: Instant) -> io::Result<()> {
        if self.set_for == Some(time) {
            return Ok(());
        }
        // Zero would switch the timer off.
        let left = time.saturating_duration_since(now).max(Duration::from_nanos(1));
        let seconds = left.as_secs().try_into().unwrap_or(i64::MAX);
        let left = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: left };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.set_for = Some(time);
        Ok(())
    }
}
