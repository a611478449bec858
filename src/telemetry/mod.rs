//! What the server says of itself: metrics, the log of requests, traces, and the time that each request takes where.

pub mod activity;
pub mod journal;
pub mod metrics;
pub(crate) mod sparing;
pub(crate) mod traces;
