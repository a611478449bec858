//! Where outcomes are counted as they come, and how they get to whoever looks at them: an interval at a time.
//!
//! Generator thread on one side, the run's on the other. A sheet goes over when its second has passed, and comes back empty,
//! so that a terminal that takes nothing delays no request.

use std::mem;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::Plan;
use super::outcomes::Outcomes;

/// How long an interval is.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// Sheets that wait to be looked at. While there is room for no more, the interval grows.
const SHEETS: usize = 16;

/// What happened in an interval.
pub(super) struct Sheet {
    /// Of each target.
    pub(super) outcomes: Vec<Outcomes>,
    /// When it begins, from the run's begin.
    pub(super) from: Duration,
    pub(super) to: Duration,
    /// Requests on their way at its end.
    pub(super) in_flight: usize,
    /// Connections at its end.
    pub(super) connections: usize,
    /// The generator's processor time since the run's begin.
    pub(super) processor_time: Duration,
    /// When the run was stopped before its end.
    pub(super) stopped: Option<Duration>,
}

impl Sheet {
    fn new(plan: &Plan) -> Self {
        let outcomes = plan.targets.iter().map(|_| Outcomes::new(plan.timeout)).collect();
        Self {
            outcomes,
            from: Duration::ZERO,
            to: Duration::ZERO,
            in_flight: 0,
            connections: 0,
            processor_time: Duration::ZERO,
            stopped: None,
        }
    }
}

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

/// The other side: full sheets come, empty ones go.
pub(super) struct Sheets {
    pub(super) full: Receiver<Sheet>,
    empty: Sender<Sheet>,
}

impl Sheets {
    /// Gives it back to be filled again.
    pub(super) fn give_back(&self, mut sheet: Sheet) {
        sheet.outcomes.iter_mut().for_each(Outcomes::clear);
        // The generator may have ended.
        let _ = self.empty.try_send(sheet);
    }
}

impl<'p> Recorder<'p> {
    /// A run begins now.
    pub(super) fn begin_now(plan: &'p Plan) -> (Self, Sheets) {
        let (full, filled) = bounded(SHEETS);
        let (emptied, empty) = bounded(SHEETS);
        let sheet = Sheet::new(plan);
        let begin = Instant::now();
        let recorder = Self { plan, begin, cut: begin + INTERVAL, sheet, full, empty };
        (recorder, Sheets { full: filled, empty: emptied })
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
        let to = self.sheet.to;
        let next = self.empty.try_recv().unwrap_or_else(|_| Sheet::new(self.plan));
        let sheet = mem::replace(&mut self.sheet, next);
        if let Err(TrySendError::Full(sheet) | TrySendError::Disconnected(sheet)) = self.full.try_send(sheet)
        {
            self.sheet = sheet;
        } else {
            self.sheet.from = to;
            self.sheet.stopped = None;
        }
    }

    /// The last interval ends; it is handed over when there is room for it.
    pub(super) fn finish(mut self, now: Instant, connections: usize) {
        self.complete(now, 0, connections);
        // Whoever looked at the others may have ended, by a panic, which says more than this.
        let _ = self.full.send(self.sheet);
    }

    fn complete(&mut self, now: Instant, in_flight: usize, connections: usize) {
        self.sheet.to = now.saturating_duration_since(self.begin);
        self.sheet.in_flight = in_flight;
        self.sheet.connections = connections;
        self.sheet.processor_time = processor_time();
    }
}

/// What this thread has used so far.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    used.try_into().unwrap_or_default()
}
