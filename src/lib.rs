//! wharf: a thread-per-request blocking HTTP server for services that live on a database.
//!
//! Handlers are plain functions from request and context to response or error; a [`server::Server`] puts them behind a
//! connector, a bounded queue, a bounded pool of request threads and a pool of database connections.

pub mod activity;
pub mod admin;
mod chart;
pub mod config;
pub mod connector;
pub mod database;
pub mod deadline;
pub mod demo;
pub mod endpoint;
pub mod handler;
pub mod http;
pub mod identity;
pub mod job;
pub mod journal;
pub mod load;
pub mod metrics;
pub mod observer;
pub mod presence;
pub mod queue;
pub mod router;
pub mod server;
pub mod sparing;
pub mod traces;
pub mod tune;
mod turns;
pub mod value;
pub mod workers;
