//! What the generator's threads have counted, put together an interval at a time.
//!
//! The thread that calls `run`. Every thread hands over sheets of its own, whose seconds begin together. One that was held up
//! hands over a longer one; the others' sheets of that time are then added up to one interval, too.

use std::iter::Sum;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::Plan;
use super::outcomes::Outcomes;

/// How long an interval is.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// What happened in an interval.
pub(super) struct Sheet {
    /// Of each target.
    pub(super) outcomes: Vec<Outcomes>,
    /// When it begins, from the run's begin. A thread does not say so, as it is where its last one ends.
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) end: End,
    /// When the run was stopped before its end.
    pub(super) stopped: Option<Duration>,
    /// Its thread has no other.
    pub(super) is_last: bool,
}

/// What there was at the end of an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// Requests on their way.
    pub(super) in_flight: usize,
    pub(super) connections: usize,
    /// The processor time that was used since the run's begin.
    pub(super) processor_time: Duration,
}

impl Sum for End {
    fn sum<I: Iterator<Item = Self>>(ends: I) -> Self {
        ends.fold(Self::default(), |sum, end| Self {
            in_flight: sum.in_flight + end.in_flight,
            connections: sum.connections + end.connections,
            processor_time: sum.processor_time + end.processor_time,
        })
    }
}

impl Sheet {
    pub(super) fn new(plan: &Plan) -> Self {
        let outcomes = plan.targets.iter().map(|_| Outcomes::new(plan.timeout)).collect();
        Self {
            outcomes,
            from: Duration::ZERO,
            to: Duration::ZERO,
            end: End::default(),
            stopped: None,
            is_last: false,
        }
    }

    /// Adds what was counted in the same time by another thread, or by the same one later.
    fn add(&mut self, other: &Self) {
        self.outcomes.iter_mut().zip(&other.outcomes).for_each(|(sum, outcomes)| sum.add(outcomes));
        self.to = self.to.max(other.to);
        self.stopped = self.stopped.max(other.stopped);
    }

    /// How many intervals have passed at its end.
    fn number(&self) -> u128 {
        self.to.as_nanos() / INTERVAL.as_nanos()
    }
}

/// Full sheets come from each thread, empty ones go to whichever takes them.
pub(super) struct Sheets<'p> {
    lanes: Vec<Lane>,
    empty: Sender<Sheet>,
    /// Where the last interval has ended.
    to: Duration,
    /// How many had passed by then.
    number: u128,
    /// Set when a thread ends without its last sheet, so that the others do not go on without it.
    failed: &'p AtomicBool,
}

/// A thread's.
struct Lane {
    full: Receiver<Sheet>,
    /// How many intervals its sheets have covered.
    number: u128,
    /// As its last sheet has it.
    end: End,
    is_over: bool,
}

impl<'p> Sheets<'p> {
    pub(super) fn new(full: Vec<Receiver<Sheet>>, empty: Sender<Sheet>, failed: &'p AtomicBool) -> Self {
        let lane = |full| Lane { full, number: 0, end: End::default(), is_over: false };
        Self { lanes: full.into_iter().map(lane).collect(), empty, to: Duration::ZERO, number: 0, failed }
    }

    /// The next interval of all threads, when it is over. `None`: they have ended.
    pub(super) fn next(&mut self) -> Option<Sheet> {
        // Whoever has ended has closed its connections meanwhile.
        self.lanes.iter_mut().filter(|lane| lane.is_over).for_each(|lane| lane.end.connections = 0);
        let mut sum: Option<Sheet> = None;
        while let Some(lane) = self.furthest_behind() {
            let Ok(sheet) = lane.full.recv() else {
                lane.is_over = true;
                self.failed.store(true, Ordering::Relaxed);
                continue;
            };
            (lane.number, lane.end, lane.is_over) = (sheet.number(), sheet.end, sheet.is_last);
            match &mut sum {
                Some(sum) => {
                    sum.add(&sheet);
                    self.give_back(sheet);
                }
                None => sum = Some(sheet),
            }
        }
        let mut sum = sum?;
        // One that had ended earlier than the last interval did may not make this one end before it begins.
        (sum.from, sum.to) = (self.to, sum.to.max(self.to));
        sum.end = self.lanes.iter().map(|lane| lane.end).sum();
        (self.to, self.number) = (sum.to, self.last_number());
        Some(sum)
    }

    /// The thread whose sheets have covered the least. None, when all have covered the same and more than there was before.
    fn furthest_behind(&mut self) -> Option<&mut Lane> {
        let (last, before) = (self.last_number(), self.number);
        let lane = self.lanes.iter_mut().filter(|lane| !lane.is_over).min_by_key(|lane| lane.number)?;
        (lane.number < last || last == before).then_some(lane)
    }

    fn last_number(&self) -> u128 {
        self.lanes.iter().map(|lane| lane.number).max().unwrap_or_default()
    }

    /// Gives it back to be filled again.
    pub(super) fn give_back(&self, mut sheet: Sheet) {
        sheet.outcomes.iter_mut().for_each(Outcomes::clear);
        (sheet.stopped, sheet.is_last) = (None, false);
        // The generator may have ended.
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

    /// A thread whose time is what the test says.
    struct Thread<'p> {
        recorder: Recorder<'p>,
        begin: Instant,
    }

    impl Thread<'_> {
        /// Sends so many requests, and looks at the clock.
        fn at(&mut self, ms: u64, sent: u64) {
            self.recorder.of(0).sent += sent;
            self.recorder.tick(self.begin + Duration::from_millis(ms), 1, 10);
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

    /// Begin and end of an interval in milliseconds, what was sent in it, requests on their way and connections.
    type Seen = (u128, u128, u64, usize, usize);

    fn next(sheets: &mut Sheets<'_>) -> Option<Seen> {
        let sheet = sheets.next()?;
        let End { in_flight, connections, .. } = sheet.end;
        let seen =
            (sheet.from.as_millis(), sheet.to.as_millis(), sheet.outcomes[0].sent, in_flight, connections);
        sheets.give_back(sheet);
        Some(seen)
    }

    fn rest(sheets: &mut Sheets<'_>) -> Vec<Seen> {
        std::iter::from_fn(|| next(sheets)).collect()
    }

    #[test]
    fn what_the_threads_counted_in_a_second_is_one_interval() {
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
    fn a_thread_that_was_held_up_makes_the_interval_longer_and_loses_nothing() {
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
    fn intervals_that_nobody_looked_at_grow_and_lose_nothing() {
        let (plan, failed) = (plan(), AtomicBool::new(false));
        let ([mut one, mut other], mut sheets) = two(&plan, &failed);
        for second in 1..=40 {
            one.at(second * 1000, 1);
        }
        assert!(sheets.lanes[0].full.is_full());
        for second in 1..=3 {
            other.at(second * 1000, 1);
        }
        let first: Vec<_> = (0..3).filter_map(|_| next(&mut sheets)).map(|seen| (seen.1, seen.2)).collect();
        assert_eq!(first, [(1000, 2), (2000, 2), (3000, 2)]);
        one.at(41_000, 1);
        for second in 4..=41 {
            // One looks at the clock first, and the other has to be looked at for it to go on.
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
