//! How people get wharf and run it: the service manager's notifications, the Debian package, the crate, the container.

mod support;

#[path = "packaging/container.rs"]
mod container;
#[path = "packaging/debian.rs"]
mod debian;
#[path = "packaging/log_lines.rs"]
mod log_lines;
#[path = "packaging/notified.rs"]
mod notified;
#[path = "packaging/published.rs"]
mod published;
#[path = "packaging/root.rs"]
mod root;
#[path = "packaging/socket_file.rs"]
mod socket_file;
