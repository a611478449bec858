//! One request's account: its status, and the time that each phase took. Runs on the worker's thread.

use std::time::Instant;

use http::StatusCode;

use crate::exchange::job::{Delivery, Job};
use crate::http::Timing;
use crate::telemetry::activity::{Activity, WorkerState};
use crate::telemetry::metrics::{Phase, Reason, Spans};
use crate::telemetry::traces::{Outcome, RequestTimes};

/// The status of a request and the time of each of its phases.
pub(super) struct Account {
    pub(super) status: u16,
    pub(super) spans: Spans,
    /// When the answer was made.
    made: Instant,
    /// When the answer was handed over.
    pub(super) ended: Instant,
}

impl Account {
    /// Opens the account when the answer is made, with the time of each phase so far.
    pub(super) fn of(job: &Job, began: Instant, activity: &Activity, status: u16) -> Self {
        let made = Instant::now();
        let spent = activity.spent();
        let mut spans = Spans::default();
        spans.set(Phase::Queue, began.saturating_duration_since(job.since));
        spans.set(Phase::Pool, spent.pool);
        spans.set(Phase::Database, spent.database);
        let with_worker = made.saturating_duration_since(began);
        spans.set(Phase::Render, with_worker.saturating_sub(spent.pool + spent.database));
        activity.turn_to(WorkerState::Write, made);
        Self { status, spans, made, ended: made }
    }

    /// The phases' times that are known before the answer's head goes out.
    pub(super) fn timing(&self) -> Timing {
        let of = |phase| self.spans.of(phase);
        Timing::new(of(Phase::Queue), of(Phase::Pool), of(Phase::Database), of(Phase::Render))
    }

    /// Closes the account when the answer is handed over. A streamed answer was made while it was written.
    pub(super) fn written(&mut self, activity: &Activity) {
        let (now, spent) = (Instant::now(), activity.spent());
        activity.turn_to(WorkerState::Idle, now);
        self.ended = now;
        let since = (spent.pool + spent.database)
            .saturating_sub(self.spans.of(Phase::Pool) + self.spans.of(Phase::Database));
        self.spans.set(Phase::Write, (now - self.made).saturating_sub(since));
        self.spans.set(Phase::Pool, spent.pool);
        self.spans.set(Phase::Database, spent.database);
    }
}

/// The account in the form of a trace.
impl Account {
    pub(super) fn request_times(&self, job: &Job, began: Instant, activity: &Activity) -> RequestTimes {
        let waits = activity.take_waits();
        RequestTimes { since: job.since, began: Some(began), made: Some(self.made), ended: self.ended, waits }
    }

    pub(super) fn outcome(
        &self,
        job: &Job,
        delivery: Delivery,
        refused: Option<Reason>,
        end: &BodyEnd,
    ) -> Outcome {
        match (delivery, refused, end) {
            (Delivery::TooLate, ..) if job.presence.was_answered_unknown() => {
                Outcome::refused(StatusCode::INTERNAL_SERVER_ERROR.as_u16(), Reason::Deadline.name())
            }
            (Delivery::TooLate, ..) if !job.presence.has_left() => {
                Outcome::refused(StatusCode::GATEWAY_TIMEOUT.as_u16(), Reason::Deadline.name())
            }
            (Delivery::TooLate | Delivery::ClientLeft, ..) | (_, None, BodyEnd::ClientLeft) => {
                Outcome::client_left()
            }
            (Delivery::Sent, Some(reason), _) | (_, None, &BodyEnd::Refused(reason)) => {
                Outcome::refused(self.status, reason.name())
            }
            (Delivery::Sent, None, BodyEnd::Good) => Outcome::answered(self.status),
        }
    }
}

/// How a streamed request body ended. `Good` also stands for a body that has not ended or does not stream.
pub(super) enum BodyEnd {
    Good,
    Refused(Reason),
    ClientLeft,
}

impl BodyEnd {
    pub(super) fn of(job: &Job) -> Self {
        let source = job.request.source.as_ref();
        match source.and_then(|source| source.refusal()) {
            Some(refusal) => Self::Refused(refusal.fault.into()),
            None if job.presence.has_left() || source.is_some_and(|source| source.has_left()) => {
                Self::ClientLeft
            }
            None => Self::Good,
        }
    }
}
