//! A new configuration for a server that serves: what takes effect, what waits for a restart, and that no request suffers.

mod support;

#[path = "reload/load.rs"]
mod load;
#[path = "reload/program.rs"]
mod program;
#[path = "reload/running.rs"]
mod running;
#[path = "reload/whole.rs"]
mod whole;
