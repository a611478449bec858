//! The bytes of an answer that the poller sends.

use std::sync::Arc;

use crate::connector::native::output::{Outbox, Unsent};

/// In memory, or as a worker makes them.
pub(super) enum Outgoing {
    Unsent(Unsent),
    Stream(Arc<Outbox>),
}
