//! wharf: a thread-per-request blocking HTTP server for services that live on a database.

pub mod config;
pub mod database;
pub mod deadline;
pub mod demo;
pub mod value;

pub mod http;
pub mod queue;
