//! wharf: a thread-per-request blocking HTTP server for services that live on a database.
//!
//! Handlers are plain functions from request and context to response or error; a [`server::Server`] puts them behind a
//! connector, a bounded queue, a bounded pool of request threads and a pool of database connections.

pub mod admin;
mod base;
#[doc(hidden)]
pub mod cli;
pub mod config;
pub mod connector;
pub mod database;
pub mod endpoint;
mod exchange;
pub mod handler;
pub mod http;
mod resource;
pub mod server;
pub mod sizing;
mod telemetry;
pub mod workers;

pub use base::{deadline, presence, queue, request_id, value};
#[doc(hidden)]
pub use cli::demo::tables as demo;
pub use exchange::{job, router};
pub use sizing::{load, tune};
pub use telemetry::{activity, journal, metrics, sparing, traces};
