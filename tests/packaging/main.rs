//! How people get wharf and run it: the service manager's notifications, the Debian package, the crate, the container.

#[path = "../support/mod.rs"]
mod support;

mod container;
mod debian;
mod log_lines;
mod notified;
mod published;
mod root;
mod socket_file;
