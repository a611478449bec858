//! The bytes of an answer that the poller sends.

use std::sync::Arc;

use crate::connector::native::output::{Outbox, Unsent};

/// An answer in memory, or one that a worker is making.
pub(super) enum Outgoing {
    Unsent(Unsent),
    Stream(Arc<Outbox>),
}
