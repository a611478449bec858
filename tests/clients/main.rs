//! Programs that people use, against the native connector: curl, Python, Node, ab; nginx and `haproxy` in front of it.
//!
//! `scripts/test` installs them. A test whose program is missing fails and says so.

#[path = "../support/mod.rs"]
mod support;

mod ab;
mod curl;
mod dashboard;
mod haproxy;
mod known;
mod languages;
mod nginx;
mod program;
mod proxy;
mod served;
mod traffic;
