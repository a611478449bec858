//! Adds the counts of all generator threads, one interval at a time.
//!
//! The thread that calls `run`. Every thread hands over its own sheets, whose seconds begin together. A thread that was
//! delayed hands over a longer sheet. The sheets of the other threads for that time are then added to the same
//! interval.

use std::iter::Sum;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::Plan;
use super::outcomes::Outcomes;

/// The length of an interval.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// The counts of one interval.
pub(super) struct IntervalSheet {
    /// The outcomes of each target.
    pub(super) outcomes: Vec<Outcomes>,
    /// The start of the interval, counted from the start of the run. A thread leaves it open, because it is the end of
    /// the thread's last sheet.
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) end: EndState,
    /// The time at which the run was stopped before its end.
    pub(super) stopped: Option<Duration>,
    /// Whether this is the last sheet of its thread.
    pub(super) is_last: bool,
}

/// The state at the end of an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EndState {
    /// Requests without an outcome.
    pub(super) in_flight: usize,
    pub(super) connections: usize,
    /// The threads that still have requests to begin.
    pub(super) sending: usize,
    /// The longest delay of a request that is due and has not begun.
    pub(super) behind: Duration,
    /// The time, from the start of the run, up to which answers are waited for.
    pub(super) waits_until: Duration,
    /// The processor time used since the start of the run.
    pub(super) processor_time: Duration,
}

impl Sum for EndState {
    fn sum<I: Iterator<Item = Self>>(ends: I) -> Self {
        ends.fold(Self::default(), |sum, end| Self {
            in_flight: sum.in_flight + end.in_flight,
            connections: sum.connections + end.connections,
            sending: sum.sending + end.sending,
            behind: sum.behind.max(end.behind),
            waits_until: sum.waits_until.max(end.waits_until),
            processor_time: sum.processor_time + end.processor_time,
        })
    }
}

impl IntervalSheet {
    pub(super) fn new(plan: &Plan) -> Self {
        let outcomes = plan.targets.iter().map(|_| Outcomes::new(plan.timeout)).collect();
        Self {
            outcomes,
            from: Duration::ZERO,
            to: Duration::ZERO,
            end: EndState::default(),
            stopped: None,
            is_last: false,
        }
    }

    /// Adds the counts of another thread for the same time, or of the same thread for a later time.
    fn add(&mut self, other: &Self) {
        self.outcomes.iter_mut().zip(&other.outcomes).for_each(|(sum, outcomes)| sum.add(outcomes));
        self.to = self.to.max(other.to);
        self.stopped = self.stopped.max(other.stopped);
    }

    /// The number of intervals that have passed at its end.
    fn number(&self) -> u128 {
        self.to.as_nanos() / INTERVAL.as_nanos()
    }
}

/// The full sheets of each thread, and the way back for empty sheets to any thread.
pub(super) struct Sheets<'p> {
    threads: Vec<ThreadSheets>,
    empty: Sender<IntervalSheet>,
    /// The end of the last interval.
    to: Duration,
    /// The number of intervals that had passed by then.
    number: u128,
    /// Set when a thread ends without its last sheet, so that the others end too.
    failed: &'p AtomicBool,
}

/// The sheets of one thread.
struct ThreadSheets {
    full: Receiver<IntervalSheet>,
    /// The number of intervals that its sheets have covered.
    number: u128,
    /// The state at the end of its last sheet.
    end: EndState,
    is_over: bool,
}

impl<'p> Sheets<'p> {
    pub(super) fn new(
        full: Vec<Receiver<IntervalSheet>>,
        empty: Sender<IntervalSheet>,
        failed: &'p AtomicBool,
    ) -> Self {
        let thread = |full| ThreadSheets { full, number: 0, end: EndState::default(), is_over: false };
        Self { threads: full.into_iter().map(thread).collect(), empty, to: Duration::ZERO, number: 0, failed }
    }

    /// The next interval of all threads, when it is over. `None` when all threads have ended.
    pub(super) fn next(&mut self) -> Option<IntervalSheet> {
        // A thread that has ended has closed its connections.
        self.threads.iter_mut().filter(|thread| thread.is_over).for_each(|thread| thread.end.connections = 0);
        let mut sum: Option<IntervalSheet> = None;
        while let Some(thread) = self.furthest_behind() {
            let Ok(sheet) = thread.full.recv() else {
                thread.is_over = true;
                self.failed.store(true, Ordering::Relaxed);
                continue;
            };
            (thread.number, thread.end, thread.is_over) = (sheet.number(), sheet.end, sheet.is_last);
            match &mut sum {
                Some(sum) => {
                    sum.add(&sheet);
                    self.give_back(sheet);
                }
                None => sum = Some(sheet),
            }
        }
        let mut sum = sum?;
        // A thread that ended before the end of the last interval must not make this interval end before it begins.
        (sum.from, sum.to) = (self.to, sum.to.max(self.to));
        sum.end = self.threads.iter().map(|thread| thread.end).sum();
        (self.to, self.number) = (sum.to, self.last_number());
        Some(sum)
    }

    /// The thread whose sheets have covered the least. `None` when all have covered the same, and more than before.
    fn furthest_behind(&mut self) -> Option<&mut ThreadSheets> {
        let (last, before) = (self.last_number(), self.number);
        let thread =
            self.threads.iter_mut().filter(|thread| !thread.is_over).min_by_key(|thread| thread.number)?;
        (thread.number < last || last == before).then_some(thread)
    }

    fn last_number(&self) -> u128 {
        self.threads.iter().map(|thread| thread.number).max().unwrap_or_default()
    }

    /// Gives a sheet back to be filled again.
    pub(super) fn give_back(&self, mut sheet: IntervalSheet) {
        sheet.outcomes.iter_mut().for_each(Outcomes::clear);
        (sheet.stopped, sheet.is_last) = (None, false);
        // The generator may have ended already.
        let _ = self.empty.try_send(sheet);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::recorder::Recorder;
    use super::super::{Pace, Target, Template};
    use super::*;

    fn plan() -> Plan {
        Plan {
            targets: vec![Target::from_url("http://127.0.0.1/", &Template::default()).expect("a URL")],
            pace: Pace::Closed { connections: 2, duration: Duration::from_secs(60) },
            timeout: Duration::from_secs(1),
            max_connections: None,
            late_after: Duration::from_millis(10),
            threads: 2,
        }
    }

    /// A thread whose clock is set by the test.
    struct Thread<'p> {
        recorder: Recorder<'p>,
        begin: Instant,
    }

    impl Thread<'_> {
        /// Counts this many sent requests, and lets the recorder look at the clock.
        fn at(&mut self, ms: u64, sent: u64) {
            self.recorder.of(0).sent += sent;
            let now = self.begin + Duration::from_millis(ms);
            if self.recorder.has_passed(now) {
                self.recorder
                    .hand_over(now, EndState { in_flight: 1, connections: 10, ..EndState::default() });
            }
        }

        fn finishes_at(self, ms: u64) {
            self.recorder.finish(self.begin + Duration::from_millis(ms), 10);
        }
    }

    fn two<'p>(plan: &'p Plan, failed: &'p AtomicBool) -> ([Thread<'p>; 2], Sheets<'p>) {
        let (recorders, sheets) = Recorder::begin_now(plan, 2, failed);
        let threads = recorders.into_iter().map(|recorder| Thread { begin: recorder.begin(), recorder });
        let threads: Vec<_> = threads.collect();
        (threads.try_into().unwrap_or_else(|_| panic!("two threads")), sheets)
    }

    /// Start and end of an interval in milliseconds, requests sent in it, requests without an outcome, and connections.
    type Seen = (u128, u128, u64, usize, usize);

    fn next(sheets: &mut Sheets<'_>) -> Option<Seen> {
        let sheet = sheets.next()?;
        let EndState { in_flight, connections, .. } = sheet.end;
        let seen =
            (sheet.from.as_millis(), sheet.to.as_millis(), sheet.outcomes[0].sent, in_flight, connections);
        sheets.give_back(sheet);
        Some(seen)
    }

    fn rest(sheets: &mut Sheets<'_>) -> Vec<Seen> {
        std::iter::from_fn(|| next(sheets)).collect()
    }

    #[test]
    fn the_counts_of_all_threads_in_a_second_make_one_interval() {
        let (plan, failed) = (plan(), AtomicBool::new(false));
        let ([mut one, mut other], mut sheets) = two(&plan, &failed);
        one.at(999, 5);
        one.at(1000, 1);
        other.at(1004, 2);
        other.at(2000, 20);
        one.at(2001, 10);
        one.finishes_at(2500);
        other.recorder.of(0).sent += 3;
        other.finishes_at(2300);
        assert_eq!(next(&mut sheets), Some((0, 1004, 8, 2, 20)));
        assert_eq!(rest(&mut sheets), [(1004, 2001, 30, 2, 20), (2001, 2500, 3, 0, 20)]);
        assert!(!failed.into_inner());
    }

    #[test]
    fn a_delayed_thread_makes_the_interval_longer_and_loses_no_count() {
        let (plan, failed) = (plan(), AtomicBool::new(false));
        let ([mut one, mut other], mut sheets) = two(&plan, &failed);
        for second in 1..=6 {
            one.at(second * 1000, 1);
        }
        for (ms, sent) in [(1000, 10), (4100, 20), (5000, 30), (6000, 40)] {
            other.at(ms, sent);
        }
        one.finishes_at(6001);
        other.finishes_at(6001);
        let seen = rest(&mut sheets);
        let expected = [(0, 1000, 11), (1000, 4100, 23), (4100, 5000, 31), (5000, 6000, 41), (6000, 6001, 0)];
        assert_eq!(seen.iter().map(|seen| (seen.0, seen.1, seen.2)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn intervals_that_are_not_collected_grow_and_lose_no_count() {
        let (plan, failed) = (plan(), AtomicBool::new(false));
        let ([mut one, mut other], mut sheets) = two(&plan, &failed);
        for second in 1..=40 {
            one.at(second * 1000, 1);
        }
        assert!(sheets.threads[0].full.is_full());
        for second in 1..=3 {
            other.at(second * 1000, 1);
        }
        let first: Vec<_> = (0..3).filter_map(|_| next(&mut sheets)).map(|seen| (seen.1, seen.2)).collect();
        assert_eq!(first, [(1000, 2), (2000, 2), (3000, 2)]);
        one.at(41_000, 1);
        for second in 4..=41 {
            // One thread looks at the clock first. The other must look too before the interval can be complete.
            other.at(second * 1000, 1);
            if second <= 16 {
                assert_eq!(
                    next(&mut sheets).map(|seen| (seen.1, seen.2)),
                    Some((u128::from(second) * 1000, 2))
                );
            }
        }
        one.finishes_at(41_500);
        drop(other);
        let seen = rest(&mut sheets);
        assert_eq!(seen[0].0, 16_000);
        assert_eq!(seen.last().map(|seen| seen.1), Some(41_500));
        assert_eq!(seen.iter().map(|seen| seen.2).sum::<u64>(), 25 + 16, "{seen:?}");
    }

    #[test]
    fn a_thread_that_ends_early_is_not_waited_for() {
        let (plan, failed) = (plan(), AtomicBool::new(false));
        let ([mut one, mut other], mut sheets) = two(&plan, &failed);
        one.at(1000, 1);
        one.recorder.of(0).sent += 2;
        one.finishes_at(1400);
        for second in 1..=3 {
            other.at(second * 1000, 10);
        }
        other.finishes_at(3001);
        let expected =
            [(0, 1000, 11, 2, 20), (1000, 2000, 12, 1, 20), (2000, 3000, 10, 1, 10), (3000, 3001, 0, 0, 10)];
        assert_eq!(rest(&mut sheets), expected);
        assert!(!failed.into_inner());
    }

    #[test]
    fn a_thread_that_ends_without_its_last_sheet_has_failed() {
        let (plan, failed) = (plan(), AtomicBool::new(false));
        let ([mut one, other], mut sheets) = two(&plan, &failed);
        one.at(1000, 1);
        drop(other);
        assert_eq!(next(&mut sheets).map(|seen| (seen.1, seen.2)), Some((1000, 1)));
        assert!(failed.load(Ordering::Relaxed));
        one.finishes_at(1050);
        assert_eq!(rest(&mut sheets).len(), 1);
    }
}
