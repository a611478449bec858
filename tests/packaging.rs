//! How people get wharf and run it: the service manager's notifications, the Debian package, the crate, the container.

mod support;

#[path = "packaging/debian.rs"]
mod debian;
#[path = "packaging/notified.rs"]
mod notified;
#[path = "packaging/published.rs"]
mod published;
#[path = "packaging/root.rs"]
mod root;
