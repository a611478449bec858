//! wharf: a thread-per-request blocking HTTP server for services that live on a database.
//!
//! Handlers are plain functions from request and context to response or error; a [`server::Server`] puts them behind a
//! connector, a bounded queue, a bounded pool of request threads and a pool of database connections.

mod admin;
mod base;
#[doc(hidden)]
pub mod cli;
pub mod config;
mod connector;
pub mod database;
mod endpoint;
mod exchange;
pub mod handler;
pub mod http;
pub mod server;
mod sizing;
mod telemetry;
mod workers;

pub use base::{deadline, value};
pub use sizing::{load, tune};
pub use telemetry::metrics;

/// Parts that the benchmarks and tests of this repository reach into. It is no API: any version may change or remove it.
#[doc(hidden)]
pub mod internal {
    pub use crate::base::{presence, queue, request_id};
    pub use crate::cli::demo::tables as demo;
    pub use crate::sizing::{Selection, Traffic, TrafficError, traffic};
    pub use crate::telemetry::{activity, journal};
}
