//! When the next request is to be sent, in an open and in a closed loop.
//!
//! Generator thread. Is told the time and what has become of requests; does no I/O.

use std::collections::VecDeque;
use std::iter::{Skip, StepBy};
use std::time::{Duration, Instant};

use super::Pace;
use super::part::Part;
use super::recorder::Begun;
use super::schedule::Schedule;

/// How long a client of the closed loop rests when its request has failed: a server that refuses every connection would
/// otherwise be asked as fast as the machine can.
const REST: Duration = Duration::from_millis(10);

pub(super) struct Pacer {
    begin: Instant,
    end: Instant,
    loops: Loop,
    /// Nothing more is sent.
    over: bool,
    /// There was no connection for what is next.
    blocked: bool,
}

enum Loop {
    Open { schedule: StepBy<Skip<Schedule>>, next: Option<Instant> },
    Closed { clients: usize, resting: VecDeque<Instant> },
}

impl Pacer {
    /// Of a thread that has this part of the requests, or of the clients.
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

    /// When the request was due that is to be sent now, if there is one.
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

    /// What was due is sent, or has another outcome.
    pub(super) fn advance(&mut self) {
        if let Loop::Open { schedule, next } = &mut self.loops {
            *next = schedule.next().map(|time| self.begin + time);
        }
    }

    /// A request was begun, so much too late.
    pub(super) fn begun(&self, lateness: Duration, late_after: Duration) -> Begun {
        let is_late = lateness > late_after;
        Begun { lateness, is_late, without_connection: is_late && self.blocked }
    }

    /// There is no connection for what is due.
    pub(super) fn blocked(&mut self) {
        self.blocked = true;
    }

    /// Whether what is due waits for a connection.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// A request has failed.
    pub(super) fn rest(&mut self, now: Instant) {
        if let Loop::Closed { resting, .. } = &mut self.loops {
            resting.push_back(now + REST);
        }
    }

    /// When something is to be sent next, if that is known and there is a connection for it.
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

    /// Whether nothing more is sent.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Nothing more is sent, before the plan's time.
    pub(super) fn stop(&mut self, now: Instant) {
        self.over = true;
        self.end = self.end.min(now);
    }
}
