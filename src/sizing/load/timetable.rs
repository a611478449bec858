//! The times at which requests are to be sent, in an open and in a closed loop.
//!
//! Generator thread. The caller passes the time and the outcomes of requests; this module does no I/O.

use std::collections::VecDeque;
use std::iter::{Skip, StepBy};
use std::time::{Duration, Instant};

use super::Pace;
use super::part::Part;
use super::recorder::RequestStart;
use super::schedule::Schedule;

/// The rest of a client of the closed loop after a failed request. Without it, a server that refuses every connection
/// would be called as fast as the machine can.
const REST: Duration = Duration::from_millis(10);

/// A request that became due so shortly before a stop and has not begun is no part of the run. An older one counts as skipped.
const JUST_DUE: Duration = Duration::from_millis(10);

pub(super) struct Timetable {
    begin: Instant,
    /// Requests are due up to then.
    end: Instant,
    /// Requests begin up to then: a request may be as late at the end as at any other time.
    last_begin: Instant,
    late_after: Duration,
    stopped: bool,
    loops: Loop,
    /// No more requests are sent.
    over: bool,
    /// There was no connection for the next request.
    blocked: bool,
}

enum Loop {
    Open { schedule: StepBy<Skip<Schedule>>, next: Option<Instant> },
    Closed { clients: usize, resting: VecDeque<Instant> },
}

impl Timetable {
    /// The times for a thread with this part of the requests, or of the clients.
    pub(super) fn new(pace: &Pace, late_after: Duration, part: Part, begin: Instant) -> Self {
        let loops = match pace {
            Pace::Open { stages, arrivals } => {
                let mut schedule = part.every(Schedule::new(stages, *arrivals));
                let next = schedule.next().map(|time| begin + time);
                Loop::Open { schedule, next }
            }
            Pace::Closed { connections, .. } => {
                Loop::Closed { clients: part.of(*connections), resting: VecDeque::new() }
            }
        };
        let end = begin + pace.length();
        let last_begin = end + late_after;
        Self { begin, end, last_begin, late_after, stopped: false, loops, over: false, blocked: false }
    }

    /// The due time of the request to send now, if there is one.
    pub(super) fn due(&mut self, now: Instant, in_flight: usize) -> Option<Instant> {
        if self.over {
            return None;
        }
        match &mut self.loops {
            Loop::Open { next, .. } => {
                let due = next.filter(|due| *due <= now.min(self.end));
                self.blocked &= due.is_some();
                self.over = next.is_none_or(|due| due > self.end);
                due
            }
            Loop::Closed { clients, resting } => {
                self.over = now >= self.end;
                while resting.front().is_some_and(|until| *until <= now) {
                    resting.pop_front();
                }
                (!self.over && in_flight + resting.len() < *clients).then_some(now)
            }
        }
    }

    /// Whether it is too late to begin a due request.
    pub(super) fn is_too_late(&self, now: Instant) -> bool {
        now >= self.last_begin
    }

    /// The delay of the next request, if it is due and has not begun.
    pub(super) fn behind(&self, now: Instant) -> Duration {
        match self.loops {
            Loop::Open { next: Some(due), .. } if due <= self.end => now.saturating_duration_since(due),
            _ => Duration::ZERO,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.loops, Loop::Closed { .. })
    }

    /// Moves on to the next request: the due one was sent, or has another outcome.
    pub(super) fn advance(&mut self) {
        if let Loop::Open { schedule, next } = &mut self.loops {
            *next = schedule.next().map(|time| self.begin + time);
        }
    }

    /// Describes the beginning of a request that begins this much too late.
    pub(super) fn begun(&self, lateness: Duration) -> RequestStart {
        // A client of a closed loop has no time at which its request is due.
        let lateness = (!self.is_closed()).then_some(lateness);
        let is_late = lateness.is_some_and(|lateness| lateness > self.late_after);
        RequestStart { lateness, is_late, without_connection: is_late && self.blocked }
    }

    /// Notes that there is no connection for the due request.
    pub(super) fn blocked(&mut self) {
        self.blocked = true;
    }

    /// Whether the due request waits for a connection.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// A request has failed, so its client rests.
    pub(super) fn rest(&mut self, now: Instant) {
        if let Loop::Closed { resting, .. } = &mut self.loops {
            resting.push_back(now + REST);
        }
    }

    /// The time of the next request, if it is known and not waiting for a connection.
    pub(super) fn next(&self) -> Option<Instant> {
        match &self.loops {
            _ if self.over || self.blocked => None,
            Loop::Open { next, .. } => *next,
            Loop::Closed { resting, .. } => resting.front().copied().or(Some(self.end)),
        }
    }

    /// The end of the time in which requests are due.
    pub(super) fn end(&self) -> Instant {
        self.end
    }

    /// Whether the plan's time has passed.
    pub(super) fn has_ended(&self, now: Instant) -> bool {
        now > self.end
    }

    /// Whether no more requests are sent.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Ends the sending before the plan's end. Returns whether this changes anything.
    pub(super) fn stop(&mut self, now: Instant) -> bool {
        if self.over || self.stopped || now >= self.end {
            return false;
        }
        self.stopped = true;
        self.end = match self.loops {
            Loop::Open { next: Some(due), .. } if due <= now && now - due <= JUST_DUE => {
                due.checked_sub(Duration::from_nanos(1)).unwrap_or(due)
            }
            _ => now,
        };
        self.last_begin = now;
        true
    }

    /// Begins no more requests, even if they are due.
    pub(super) fn stop_at_once(&mut self, now: Instant) {
        self.last_begin = self.last_begin.min(now);
    }
}
