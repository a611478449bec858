//! A new configuration for a server that serves: what takes effect, what waits for a restart, and that no request suffers.

mod load;
mod program;
mod running;
mod whole;
