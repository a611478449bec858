//! Counts outcomes as they occur, and hands the counts over one interval at a time.
//!
//! Generator thread; each thread has its own recorder. When a second has passed, its sheet goes to the run's thread,
//! and an empty sheet comes back. So a slow terminal delays no request.

use std::mem;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::Plan;
use super::outcomes::Outcomes;
use super::sheets::{EndState, INTERVAL, IntervalSheet, Sheets};

/// The most sheets that wait for the run's thread. When there is no room, the interval grows.
const SHEETS: usize = 16;

/// The beginning of a request.
#[derive(Clone, Copy)]
pub(super) struct RequestStart {
    /// `None` in a closed loop, where a request is due when it is sent.
    pub(super) lateness: Option<Duration>,
    pub(super) is_late: bool,
    pub(super) without_connection: bool,
}

pub(super) struct Recorder<'p> {
    plan: &'p Plan,
    begin: Instant,
    /// The end of the interval.
    interval_end: Instant,
    sheet: IntervalSheet,
    full: Sender<IntervalSheet>,
    empty: Receiver<IntervalSheet>,
}

impl<'p> Recorder<'p> {
    /// The recorders of this many threads of a run that begins now, and the receiver of their sheets. `failed` is set
    /// when a thread ends too early.
    pub(super) fn begin_now<'f>(
        plan: &'p Plan,
        threads: usize,
        failed: &'f AtomicBool,
    ) -> (Vec<Self>, Sheets<'f>) {
        let (emptied, empty) = bounded(SHEETS * threads);
        let (full, filled): (Vec<_>, Vec<_>) = (0..threads)
            .map(|_| bounded(SHEETS))
            .map(|(full, filled)| ((IntervalSheet::new(plan), full), filled))
            .unzip();
        let begin = Instant::now();
        let recorder = |(sheet, full)| Self {
            plan,
            begin,
            interval_end: begin + INTERVAL,
            sheet,
            full,
            empty: empty.clone(),
        };
        (full.into_iter().map(recorder).collect(), Sheets::new(filled, emptied, failed))
    }

    pub(super) fn begin(&self) -> Instant {
        self.begin
    }

    /// The outcomes of a target in this interval.
    pub(super) fn of(&mut self, target: usize) -> &mut Outcomes {
        &mut self.sheet.outcomes[target]
    }

    pub(super) fn begun(&mut self, target: usize, begun: RequestStart) {
        let outcomes = self.of(target);
        outcomes.scheduled += 1;
        outcomes.late += u64::from(begun.is_late);
        outcomes.without_connection += u64::from(begun.without_connection);
        if let Some(lateness) = begun.lateness {
            outcomes.lateness.record(lateness);
        }
    }

    /// Notes that the run ends before its time: its sending, or its waiting for answers.
    pub(super) fn stopped(&mut self, now: Instant) {
        self.sheet.stopped = Some(now.saturating_duration_since(self.begin));
    }

    /// The rest of the interval.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.interval_end.saturating_duration_since(now)
    }

    /// Whether the interval has passed.
    pub(super) fn has_passed(&self, now: Instant) -> bool {
        now >= self.interval_end
    }

    /// Hands the interval over, which has passed.
    pub(super) fn hand_over(&mut self, now: Instant, end: EndState) {
        // After a pause of the whole process the intervals continue from now.
        while self.interval_end <= now {
            self.interval_end += INTERVAL;
        }
        self.complete(now, end);
        let next = self.empty.try_recv().unwrap_or_else(|_| IntervalSheet::new(self.plan));
        let sheet = mem::replace(&mut self.sheet, next);
        if let Err(TrySendError::Full(sheet) | TrySendError::Disconnected(sheet)) = self.full.try_send(sheet)
        {
            self.sheet = sheet;
        }
    }

    /// Ends the last interval, and hands it over when there is room.
    pub(super) fn finish(mut self, now: Instant, connections: usize) {
        self.complete(now, EndState { connections, ..EndState::default() });
        self.sheet.is_last = true;
        // The receiver may have ended by a panic, which explains more than an error here.
        let _ = self.full.send(self.sheet);
    }

    fn complete(&mut self, now: Instant, end: EndState) {
        self.sheet.to = now.saturating_duration_since(self.begin);
        self.sheet.end = EndState { processor_time: processor_time(), ..end };
    }
}

/// The processor time that this thread has used so far.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    used.try_into().unwrap_or_default()
}
