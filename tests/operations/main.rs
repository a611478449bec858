//! A server in operation: how it is started, watched, changed and stopped.

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod descriptors;
mod drain;
mod listeners;
mod logs;
mod metrics;
mod reload;
mod starting;
