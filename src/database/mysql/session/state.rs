//! The state of a session: its transaction, and whether its statements may write.
//!
//! Pure.

use crate::database::Access;

/// The session only reads by default.
pub(super) const READS: &str = "set session transaction read only";

/// Releases the locks that an earlier borrower may have left.
pub(super) const RELEASE: &str = "do release_all_locks()";

/// Lets the next statement write, if no transaction is open. It holds for one statement.
pub(super) const WRITE_ONCE: &str = "set transaction read write";

/// Takes [`WRITE_ONCE`] back, if its statement has not used it.
pub(super) const READ_ONCE: &str = "set transaction read only";

/// Lets all statements outside of transactions write, for a statement that commits halfway, as a change of the schema does before it
/// begins. A right for one statement would not hold behind that commit.
pub(super) const WRITE_ALWAYS: &str = "set session transaction read write";

/// Whether the session's statements outside of transactions may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Writable {
    #[default]
    No,
    /// The next one, if the last one has not used [`WRITE_ONCE`].
    Once,
    Always,
}

/// The transaction of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transaction {
    None,
    /// Begun here, but not yet on the server: its beginning goes with the first statement and costs no round trip.
    Pending(Access),
    Open(Access),
    /// A statement failed in it. The server would commit what came before the failure.
    Failed,
}
