//! Programs that people use, against the native connector: curl, Python, Node, ab; nginx and `haproxy` in front of it.
//!
//! `scripts/test` installs them. A test whose program is missing fails and says so.

mod support;

#[path = "clients/ab.rs"]
mod ab;
#[path = "clients/curl.rs"]
mod curl;
#[path = "clients/haproxy.rs"]
mod haproxy;
#[path = "clients/known.rs"]
mod known;
#[path = "clients/languages.rs"]
mod languages;
#[path = "clients/nginx.rs"]
mod nginx;
#[path = "clients/program.rs"]
mod program;
#[path = "clients/proxy.rs"]
mod proxy;
#[path = "clients/served.rs"]
mod served;
#[path = "clients/traffic.rs"]
mod traffic;
