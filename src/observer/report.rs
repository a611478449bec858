//! What the log says of the last second, where there is anything to say. Observer's thread.

use crate::journal::Journal;
use crate::sparing;

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    lost: u64,
}

impl Report {
    /// Another second has passed.
    pub(super) fn add(&mut self, journal: &Journal) {
        sparing::tell_the_rest();
        let lost = journal.lost();
        if lost > self.lost {
            log::warn!("{} lines of the access log were lost", lost - self.lost);
            self.lost = lost;
        }
    }
}
