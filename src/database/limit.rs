//! The limits of work for one client, which every database with a server keeps.
//!
//! Owns [`Limit`] and the times that a cancelled statement has to end. Any thread; pure.

use std::time::{Duration, Instant};

use super::Error;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;

/// The time past the deadline in which a cancelled statement may end, the cancel request included. After that the
/// connection is given up. The client waits for its 504 meanwhile, so the time is short; a healthy server needs a few
/// ms.
pub(super) const CANCEL_GRACE: Duration = Duration::from_millis(500);

/// The time in which unwanted rows may arrive before the statement is cancelled.
pub(super) const SETTLE_GRACE: Duration = Duration::from_millis(50);

/// The time for a rollback, whatever the request's deadline. A rollback that takes longer shows that the session is not worth keeping.
pub(super) const ROLLBACK_TIMEOUT: Duration = Duration::from_millis(500);

/// The limits of work for one client.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    /// The work ends when the client leaves.
    pub(super) client: Presence,
    /// The request's deadline.
    pub(super) deadline: Deadline,
    /// `database.statement_timeout`.
    pub(super) statement: Option<Duration>,
}

impl Limit {
    /// The deadline alone, for no client.
    pub(super) fn until(deadline: Deadline) -> Self {
        Self { client: Presence::default(), deadline, statement: None }
    }

    /// The end of a statement that begins now.
    pub(super) fn end(&self) -> Deadline {
        self.statement.map_or(self.deadline, |timeout| self.deadline.within(timeout))
    }

    /// The reason why no work may begin now, if there is one.
    pub(super) fn is_over(&self, now: Instant) -> Option<Error> {
        if self.client.has_left() {
            Some(Error::ClientLeft)
        } else {
            (now >= self.deadline.instant()).then_some(Error::Deadline)
        }
    }
}
