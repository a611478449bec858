//! How busy the workers are, for the pacer, which decides how many of them may have a job.

use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

/// The work of all workers up to one moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The time that workers had jobs since the queue was made, added up over the workers.
    pub busy: Duration,
    /// The number of jobs that they have taken since then.
    pub taken: u64,
    /// The number of these jobs that were taken in a batch, behind its first job.
    pub batched: u64,
    /// Whether a job waited, since the last reading, only because of the limit on busy workers.
    pub was_held_back: bool,
    /// Whether a job waits for that reason now.
    pub is_held_back: bool,
    /// The configured number of workers.
    pub workers: usize,
    /// How many of them may have a job.
    pub busy_max: usize,
}

/// Adds up what [`Usage`] reports, and notifies the pacer when it should act.
pub(super) struct Pace {
    pub(super) busy: Duration,
    /// `busy` is counted up to this moment.
    at: Instant,
    pub(super) taken: u64,
    pub(super) batched: u64,
    pub(super) was_held_back: bool,
    /// Notified once when a job is held back, or when more than `crowd` workers have a job.
    watcher: Option<Sender<()>>,
    crowd: usize,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            busy: Duration::ZERO,
            at: Instant::now(),
            taken: 0,
            batched: 0,
            was_held_back: false,
            watcher: None,
            crowd: usize::MAX,
        }
    }

    pub(super) fn watch(&mut self, crowd: usize, watcher: Sender<()>) {
        (self.watcher, self.crowd) = (Some(watcher), crowd);
    }

    /// Called before the number of busy workers changes.
    pub(super) fn add_busy(&mut self, running: usize, now: Instant) {
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        self.busy += now.saturating_duration_since(self.at) * running;
        self.at = self.at.max(now);
    }

    /// Called after one more worker has a job.
    pub(super) fn note_running(&mut self, running: usize) {
        if running > self.crowd {
            self.notify();
        }
    }

    pub(super) fn hold_back(&mut self) {
        self.was_held_back = true;
        self.notify();
    }

    fn notify(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            // A full channel means that the pacer has not read the last message yet; it will act all the same.
            let _ = watcher.try_send(());
        }
    }
}
