//! The outcomes of requests: their counts, and their times.
//!
//! Any thread. The generator fills one set in each interval and hands it over. Sums are made by adding sets.

use std::io::{self, ErrorKind};
use std::time::Duration;

use super::numbers::share;
use super::server_timing::ServerTiming;
use super::times::{Times, Timings};
use crate::telemetry::metrics::Outcome;

/// Why a request has no answer, other than a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server accepts no connections at that address.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection ended before the answer began.
    Closed,
    /// The connection ended in the middle of the answer.
    Cut,
    /// There is no route to the server.
    Unreachable,
    /// This machine has no port left for another connection to the server.
    NoPort,
    /// The bytes received are not an HTTP answer.
    Malformed,
    /// The Unix socket of the server has no room for another connection.
    Backlog,
    /// The server's certificate was not accepted.
    Certificate,
    /// Another error of TLS.
    Tls,
    /// Another error of the system.
    Other,
}

/// Every failure with its name in a report.
pub const FAILURES: [(Failure, &str); 11] = [
    (Failure::Refused, "connection refused"),
    (Failure::Reset, "connection reset"),
    (Failure::Closed, "closed before the answer"),
    (Failure::Cut, "answer cut off"),
    (Failure::Unreachable, "unreachable"),
    (Failure::NoPort, "no port left"),
    (Failure::Malformed, "malformed answer"),
    (Failure::Backlog, "backlog full"),
    (Failure::Certificate, "certificate not accepted"),
    (Failure::Tls, "TLS error"),
    (Failure::Other, "other"),
];

/// The error of TLS in an error of a connection.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether an error of a connection is an error of its TLS session.
pub(super) fn is_of_tls(error: &io::Error) -> bool {
    tls_error(error).is_some()
}

impl Failure {
    pub(super) fn of(error: &io::Error) -> Self {
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(_)) => return Self::Certificate,
            Some(_) => return Self::Tls,
            None => {}
        }
        match error.kind() {
            // The socket's file is gone.
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Self::Refused,
            ErrorKind::WouldBlock => Self::Backlog,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::UnexpectedEof => Self::Closed,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::TimedOut => {
                Self::Unreachable
            }
            ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse => Self::NoPort,
            _ => Self::Other,
        }
    }
}

/// Outcomes of requests. Each due request has one: an answer, a timeout or a failure, or it was skipped or abandoned.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcomes {
    /// Requests that were due.
    pub scheduled: u64,
    /// Requests of which something was sent.
    pub sent: u64,
    /// Requests of which something was sent before the schedule's end. The later ones are not part of a rate.
    pub sent_in_time: u64,
    /// Requests that began later than allowed.
    pub late: u64,
    /// Requests that were due and never begun: their timeout was reached before, or the run ended.
    pub skipped: u64,
    /// Requests that had no answer yet when the run was ended at once. Their outcome is not known.
    pub abandoned: u64,
    /// The late and skipped requests for which there was no connection.
    pub without_connection: u64,
    /// Requests without a complete answer in time.
    pub timeouts: u64,
    /// Answers before the schedule's end. Later answers are not part of a rate.
    pub answered_in_time: u64,
    /// Answers before the schedule's end with a status below 400.
    pub good_in_time: u64,
    /// Times from when a request was due to the end of its answer, for all answers but refusals. Requests that waited for their whole
    /// timeout count with this time, sent or not. Failed and abandoned requests have no latency, nor have requests that the end of
    /// the run prevented.
    pub latency: Times,
    /// Times of the same requests, from when they were sent.
    pub service: Times,
    /// Times from when a request was due to the end of its answer, for answers 503 and 429. They are apart because the server
    /// did not do the work.
    pub refusal: Times,
    /// The delays between the times when requests were due and when they began. None in a closed loop.
    pub lateness: Times,
    /// The times that new connections took to open, TLS handshakes included.
    pub connect: Times,
    statuses: Vec<(u16, u64)>,
    failures: [u64; FAILURES.len()],
    /// Made when the first answer gives its times, because most servers send none.
    timings: Option<Box<Timings>>,
}

/// An answer, as its outcome is recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) latency: Duration,
    pub(super) service: Duration,
    /// Whether the answer came before the schedule's end.
    pub(super) in_time: bool,
    pub(super) timing: Option<ServerTiming>,
}

impl Outcomes {
    /// An empty set. Requests are given up after `patience`.
    pub(super) fn new(patience: Duration) -> Self {
        // A waiting request may be given up a little late, because the clock is read only between other work, and a
        // process may be suspended.
        let times = Times::up_to(2 * patience + Duration::from_secs(1));
        Self {
            scheduled: 0,
            sent: 0,
            sent_in_time: 0,
            late: 0,
            without_connection: 0,
            skipped: 0,
            abandoned: 0,
            timeouts: 0,
            answered_in_time: 0,
            good_in_time: 0,
            latency: times.clone(),
            service: times.clone(),
            refusal: times.clone(),
            lateness: times.clone(),
            connect: times,
            statuses: Vec::new(),
            failures: [0; FAILURES.len()],
            timings: None,
        }
    }

    /// The first bytes of a request were sent. `connecting`: the time that its new connection took.
    pub(super) fn sent(&mut self, in_time: bool, connecting: Option<Duration>) {
        self.sent += 1;
        self.sent_in_time += u64::from(in_time);
        if let Some(connecting) = connecting {
            self.connect.record(connecting);
        }
    }

    pub(super) fn answered(&mut self, answered: Answered) {
        let Answered { status, latency, service, in_time, timing } = answered;
        match self.statuses.iter_mut().find(|(known, _)| *known == status) {
            Some((_, count)) => *count += 1,
            None => self.statuses.push((status, 1)),
        }
        self.answered_in_time += u64::from(in_time);
        self.good_in_time += u64::from(in_time && is_good(status));
        if Outcome::of(status) == Outcome::Refused {
            self.refusal.record(latency);
        } else {
            self.latency.record(latency);
            self.service.record(service);
            if let Some(timing) = timing {
                self.timings
                    .get_or_insert_with(|| Box::new(Timings::like(&self.service)))
                    .record(timing, service);
            }
        }
    }

    /// The request was given up. `service`: the time since it was sent, if it was.
    pub(super) fn timed_out(&mut self, latency: Duration, service: Option<Duration>) {
        self.timeouts += 1;
        self.latency.record(latency);
        if let Some(service) = service {
            self.service.record(service);
        }
    }

    /// The request was never begun. `timeout`: the time that it waited, if this was its whole timeout.
    pub(super) fn skipped(&mut self, timeout: Option<Duration>, without_connection: bool) {
        self.scheduled += 1;
        self.skipped += 1;
        self.without_connection += u64::from(without_connection);
        if let Some(timeout) = timeout {
            self.latency.record(timeout);
        }
    }

    pub(super) fn failed(&mut self, failure: Failure) {
        self.failures[failure as usize] += 1;
    }

    /// The server's own times, if any answer has given them.
    pub fn timings(&self) -> Option<&Timings> {
        self.timings.as_deref().filter(|timings| timings.elsewhere.count() > 0)
    }

    /// The counts by status, in ascending order.
    pub fn statuses(&self) -> Vec<(u16, u64)> {
        let mut statuses = self.statuses.clone();
        statuses.sort_unstable();
        statuses
    }

    /// The failures that occurred.
    pub fn failures(&self) -> impl Iterator<Item = (Failure, &'static str, u64)> {
        let all = FAILURES.iter().zip(self.failures);
        all.map(|((failure, name), count)| (*failure, *name, count)).filter(|(_, _, count)| *count > 0)
    }

    /// The number of failures of all kinds.
    pub fn failed_in_all(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Answers with any status.
    pub fn answered_in_all(&self) -> u64 {
        self.statuses.iter().map(|(_, count)| count).sum()
    }

    /// Answers with a status below 400.
    pub fn good(&self) -> u64 {
        self.statuses.iter().filter(|(status, _)| is_good(*status)).map(|(_, count)| count).sum()
    }

    /// Answers with the status 503 or 429.
    pub fn refused(&self) -> u64 {
        self.refusal.count()
    }

    /// Requests whose outcome is known.
    pub fn finished(&self) -> u64 {
        self.answered_in_all() + self.timeouts + self.failed_in_all() + self.skipped
    }

    /// Finished requests without a good answer.
    pub fn errors(&self) -> u64 {
        self.finished() - self.good()
    }

    /// Their share of the finished requests; NaN without any.
    pub fn error_share(&self) -> f64 {
        share(self.errors(), self.finished())
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.scheduled += other.scheduled;
        self.sent += other.sent;
        self.sent_in_time += other.sent_in_time;
        self.abandoned += other.abandoned;
        self.late += other.late;
        self.without_connection += other.without_connection;
        self.skipped += other.skipped;
        self.timeouts += other.timeouts;
        self.answered_in_time += other.answered_in_time;
        self.good_in_time += other.good_in_time;
        self.latency.add(&other.latency);
        self.service.add(&other.service);
        self.refusal.add(&other.refusal);
        self.lateness.add(&other.lateness);
        self.connect.add(&other.connect);
        if let Some(other) = other.timings() {
            self.timings.get_or_insert_with(|| Box::new(Timings::like(&self.service))).add(other);
        }
        for (status, count) in &other.statuses {
            match self.statuses.iter_mut().find(|(known, _)| known == status) {
                Some((_, sum)) => *sum += count,
                None => self.statuses.push((*status, *count)),
            }
        }
        for (sum, count) in self.failures.iter_mut().zip(other.failures) {
            *sum += count;
        }
    }

    /// Empties the set and keeps its memory.
    pub(super) fn clear(&mut self) {
        let Self { latency, service, refusal, lateness, connect, statuses, .. } = self;
        for times in [latency, service, refusal, lateness, connect] {
            times.clear();
        }
        if let Some(timings) = &mut self.timings {
            timings.clear();
        }
        statuses.clear();
        self.failures = [0; FAILURES.len()];
        for count in [
            &mut self.scheduled,
            &mut self.sent,
            &mut self.sent_in_time,
            &mut self.abandoned,
            &mut self.late,
            &mut self.without_connection,
            &mut self.skipped,
            &mut self.timeouts,
            &mut self.answered_in_time,
            &mut self.good_in_time,
        ] {
            *count = 0;
        }
    }
}

fn is_good(status: u16) -> bool {
    Outcome::of(status) == Outcome::Good
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    fn answered(status: u16, ms: u64, in_time: bool) -> Answered {
        let time = Duration::from_millis(ms);
        Answered { status, latency: time, service: time / 2, in_time, timing: None }
    }

    fn some() -> Outcomes {
        let mut outcomes = Outcomes::new(PATIENCE);
        outcomes.scheduled = 6;
        outcomes.answered(answered(200, 10, true));
        outcomes.answered(answered(200, 20, false));
        outcomes.answered(answered(503, 1, true));
        outcomes.answered(answered(404, 5, true));
        outcomes.timed_out(PATIENCE, Some(PATIENCE));
        outcomes.failed(Failure::Reset);
        outcomes.skipped(Some(PATIENCE), true);
        outcomes
    }

    #[test]
    fn every_outcome_is_counted_once() {
        let outcomes = some();
        assert_eq!(outcomes.finished(), 7);
        assert_eq!(outcomes.scheduled, 7);
        assert_eq!((outcomes.good(), outcomes.refused(), outcomes.errors()), (2, 1, 5));
        assert_eq!((outcomes.answered_in_time, outcomes.good_in_time), (3, 1));
        assert_eq!(outcomes.statuses(), [(200, 2), (404, 1), (503, 1)]);
        assert_eq!(outcomes.failures().collect::<Vec<_>>(), [(Failure::Reset, "connection reset", 1)]);
    }

    #[test]
    fn refusals_are_apart_and_an_unanswered_request_counts_its_wait() {
        let outcomes = some();
        assert_eq!(outcomes.latency.count(), 5);
        assert_eq!(outcomes.refusal.count(), 1);
        assert!(outcomes.latency.percentile(100.0) >= PATIENCE);
        assert!(outcomes.latency.percentile(1.0) >= Duration::from_millis(5));
    }

    #[test]
    fn a_request_without_a_known_end_has_no_latency() {
        let mut outcomes = Outcomes::new(PATIENCE);
        outcomes.skipped(None, false);
        outcomes.failed(Failure::Cut);
        outcomes.abandoned += 1;
        assert_eq!((outcomes.finished(), outcomes.errors(), outcomes.latency.count()), (2, 2, 0));
    }

    #[test]
    fn adding_sets_equals_counting_in_one_and_a_cleared_set_is_empty() {
        let (mut sum, part) = (some(), some());
        sum.add(&part);
        assert_eq!((sum.finished(), sum.latency.count(), sum.good_in_time), (14, 10, 2));
        assert_eq!(sum.statuses(), [(200, 4), (404, 2), (503, 2)]);
        sum.clear();
        assert_eq!((sum.finished(), sum.scheduled, sum.latency.count(), sum.lateness.count()), (0, 0, 0, 0));
        assert_eq!(sum.statuses(), []);
    }

    #[test]
    fn the_servers_own_times_are_recorded_from_answers_that_give_them() {
        let mut outcomes = some();
        assert!(outcomes.timings().is_none());
        let timing = Some(ServerTiming([1_000_000, 0, 6_000_000, 0]));
        outcomes.answered(Answered { timing, ..answered(200, 20, true) });
        // A server may count work after its answer, and its clock differs from ours.
        outcomes.answered(Answered { timing, ..answered(200, 2, true) });
        outcomes.answered(Answered { timing, ..answered(503, 2, true) });
        let mut sum = some();
        sum.add(&outcomes);
        for outcomes in [&outcomes, &sum] {
            let timings = outcomes.timings().expect("two answers have them");
            let of = |times: &Times| (times.count(), times.max().as_millis());
            assert_eq!((of(&timings.queue), of(&timings.pool), of(&timings.db)), ((2, 1), (2, 0), (2, 6)));
            assert_eq!((of(&timings.elsewhere), timings.elsewhere.min()), ((2, 3), Duration::ZERO));
        }
        sum.clear();
        assert!(sum.timings().is_none());
    }

    #[test]
    fn each_failure_is_counted_under_its_own_name() {
        for (index, (failure, _)) in FAILURES.iter().enumerate() {
            assert_eq!(*failure as usize, index);
        }
    }
}
