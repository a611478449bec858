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

pub(super) struct Timetable {
    begin: Instant,
    end: Instant,
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
    pub(super) fn new(pace: &Pace, part: Part, begin: Instant) -> Self {
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
        Self { begin, end: begin + pace.length(), loops, over: false, blocked: false }
    }

    /// The due time of the request to send now, if there is one.
    pub(super) fn due(&mut self, now: Instant, in_flight: usize) -> Option<Instant> {
        if self.over {
            return None;
        }
        match &mut self.loops {
            Loop::Open { next, .. } => {
                let due = next.filter(|due| *due <= now);
                self.blocked &= due.is_some();
                self.over = next.is_none();
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

    /// Moves on to the next request: the due one was sent, or has another outcome.
    pub(super) fn advance(&mut self) {
        if let Loop::Open { schedule, next } = &mut self.loops {
            *next = schedule.next().map(|time| self.begin + time);
        }
    }

    /// Describes the beginning of a request that begins this much too late.
    pub(super) fn begun(&self, lateness: Duration, late_after: Duration) -> RequestStart {
        let is_late = lateness > late_after;
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

    /// Whether the plan's time has passed.
    pub(super) fn has_ended(&self, now: Instant) -> bool {
        now > self.end
    }

    /// Whether no more requests are sent.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Ends the sending before the plan's end.
    pub(super) fn stop(&mut self, now: Instant) {
        self.over = true;
        self.end = self.end.min(now);
    }
}
