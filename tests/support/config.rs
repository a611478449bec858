//! Configurations of servers in the test's own process, each on a free port.

use std::net::{Ipv4Addr, SocketAddr};

use wharf::config::{Config, Environment, Flags, Source};

use super::PATIENCE;

/// The defaults, changed so that a slow machine does not count as a standing queue. A test of the standing queue sets
/// `queue.target` itself.
pub(crate) fn default_config() -> Config {
    let mut config = Config::default();
    config.server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
    (config.queue.target, config.queue.interval) = (PATIENCE, PATIENCE);
    config
}

/// The configuration of this text.
pub(crate) fn config_of(text: impl Into<String>) -> Config {
    read(text.into(), None)
}

/// The configuration of this text, on this database.
pub(crate) fn config_on(database: String, text: impl Into<String>) -> Config {
    read(text.into(), Some(database))
}

fn read(text: String, database: Option<String>) -> Config {
    let flags = Flags { listen: Some("127.0.0.1:0".to_owned()), database };
    Config::read(Source { path: None, text }, &Environment::new(), &flags)
        .unwrap_or_else(|problems| panic!("{problems}"))
}
