//! Where outcomes are counted as they come, and how they get to whoever looks at them: an interval at a time.
//!
//! Generator thread; each has its own. A sheet goes over to the run's thread when its second has passed, and an empty one comes
//! back, so that a terminal that takes nothing delays no request.

use std::mem;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::Plan;
use super::outcomes::Outcomes;
use super::sheets::{End, INTERVAL, Sheet, Sheets};

/// Sheets that wait to be looked at. While there is room for no more, the interval grows.
const SHEETS: usize = 16;

/// A request was begun.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub(super) lateness: Duration,
    pub(super) is_late: bool,
    pub(super) without_connection: bool,
}

pub(super) struct Recorder<'p> {
    plan: &'p Plan,
    begin: Instant,
    /// When the interval ends.
    cut: Instant,
    sheet: Sheet,
    full: Sender<Sheet>,
    empty: Receiver<Sheet>,
}

impl<'p> Recorder<'p> {
    /// So many threads of a run, which begins now, and what they hand over. `failed` is set when one of them ends before its time.
    pub(super) fn begin_now<'f>(
        plan: &'p Plan,
        threads: usize,
        failed: &'f AtomicBool,
    ) -> (Vec<Self>, Sheets<'f>) {
        let (emptied, empty) = bounded(SHEETS * threads);
        let (full, filled): (Vec<_>, Vec<_>) = (0..threads)
            .map(|_| bounded(SHEETS))
            .map(|(full, filled)| ((Sheet::new(plan), full), filled))
            .unzip();
        let begin = Instant::now();
        let recorder =
            |(sheet, full)| Self { plan, begin, cut: begin + INTERVAL, sheet, full, empty: empty.clone() };
        (full.into_iter().map(recorder).collect(), Sheets::new(filled, emptied, failed))
    }

    pub(super) fn begin(&self) -> Instant {
        self.begin
    }

    /// The outcomes of a target in this interval.
    pub(super) fn of(&mut self, target: usize) -> &mut Outcomes {
        &mut self.sheet.outcomes[target]
    }

    pub(super) fn begun(&mut self, target: usize, begun: Begun) {
        let outcomes = self.of(target);
        outcomes.scheduled += 1;
        outcomes.late += u64::from(begun.is_late);
        outcomes.without_connection += u64::from(begun.without_connection);
        outcomes.lateness.record(begun.lateness);
    }

    /// The run ends before its time.
    pub(super) fn stopped(&mut self, now: Instant) {
        self.sheet.stopped = Some(now.saturating_duration_since(self.begin));
    }

    /// How much is left of the interval.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.cut.saturating_duration_since(now)
    }

    /// Hands the interval over if it has passed.
    pub(super) fn tick(&mut self, now: Instant, in_flight: usize, connections: usize) {
        if now < self.cut {
            return;
        }
        // After a pause of the whole process the intervals go on from now.
        while self.cut <= now {
            self.cut += INTERVAL;
        }
        self.complete(now, in_flight, connections);
        let next = self.empty.try_recv().unwrap_or_else(|_| Sheet::new(self.plan));
        let sheet = mem::replace(&mut self.sheet, next);
        if let Err(TrySendError::Full(sheet) | TrySendError::Disconnected(sheet)) = self.full.try_send(sheet)
        {
            self.sheet = sheet;
        }
    }

    /// The last interval ends; it is handed over when there is room for it.
    pub(super) fn finish(mut self, now: Instant, connections: usize) {
        self.complete(now, 0, connections);
        self.sheet.is_last = true;
        // Whoever looked at the others may have ended, by a panic, which says more than this.
        let _ = self.full.send(self.sheet);
    }

    fn complete(&mut self, now: Instant, in_flight: usize, connections: usize) {
        self.sheet.to = now.saturating_duration_since(self.begin);
        self.sheet.end = End { in_flight, connections, processor_time: processor_time() };
    }
}

/// What this thread has used so far.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    used.try_into().unwrap_or_default()
}
