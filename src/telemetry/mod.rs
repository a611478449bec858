//! The server's reports on itself: metrics, the log of requests, traces, and the activity of each worker.

pub mod activity;
pub mod journal;
pub mod metrics;
pub(crate) mod sparing;
pub(crate) mod stderr;
pub(crate) mod traces;
mod writer;
