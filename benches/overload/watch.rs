//! Measures a server under load: memory, descriptors, threads, processor time. A separate thread reads them.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use crate::shared::machine;

/// Counting a process's descriptors takes a millisecond where it has thousands.
const EVERY: Duration = Duration::from_millis(250);

/// The figures of a process at one moment, or the maximum of each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Bytes.
    pub(crate) resident: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
}

/// Before, during and after a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    pub(crate) before: Usage,
    pub(crate) peak: Usage,
    pub(crate) after: Usage,
    /// Processor time of the server.
    pub(crate) used: Duration,
}

impl Usage {
    pub(crate) fn now(process: u32) -> anyhow::Result<Self> {
        Ok(Self {
            resident: machine::resident(process)?,
            descriptors: machine::descriptors(process)?,
            threads: machine::threads(process)?,
        })
    }

    fn most(self, other: Self) -> Self {
        Self {
            resident: self.resident.max(other.resident),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
        }
    }
}

/// Runs `load` and looks at the process meanwhile. It is looked at again when its descriptors are as before, or after
/// `settling`.
pub(crate) fn watch<T>(
    process: u32,
    settling: Duration,
    load: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Watched)> {
    let before = Usage::now(process)?;
    let used = machine::processor_time(&process.to_string())?;
    let (result, peak) = thread::scope(|scope| {
        let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
        let looking = scope.spawn(move || {
            let mut peak = before;
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                peak = Usage::now(process).map_or(peak, |usage| peak.most(usage));
            }
            peak
        });
        let result = load();
        drop(stop);
        (result, looking.join().expect("looking does not panic"))
    });
    let result = result?;
    let used = machine::processor_time(&process.to_string())?.saturating_sub(used);
    let after = settle(process, before, settling)?;
    Ok((result, Watched { before, peak: peak.most(after), after, used }))
}

/// The clients have gone; the server may still be closing its ends.
pub(crate) fn settle(process: u32, before: Usage, settling: Duration) -> anyhow::Result<Usage> {
    let until = Instant::now() + settling;
    loop {
        let now = Usage::now(process)?;
        if now.descriptors <= before.descriptors || Instant::now() >= until {
            return Ok(now);
        }
        thread::sleep(Duration::from_millis(10));
    }
}
