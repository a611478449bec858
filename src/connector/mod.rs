//! Who speaks HTTP to the clients. Two connectors, one contract: whole requests go into a [`Service`](crate::job::Service),
//! answers come back through a [`Client`](crate::job::Client).

pub mod native;
pub mod tiny_http;

use std::time::Duration;

use crate::config::Config;
use crate::http::Limits;

/// A running connector.
pub trait Connector: Send {
    /// Stops accepting; requests in flight and those already on their way are still answered, each connection is closed
    /// after its answer, idle ones at once. Returns when no connection is left, or when `patience` is over: then what is
    /// left is cut off.
    fn drain(self: Box<Self>, patience: Duration) -> Drained;

    /// What ends a running [`Connector::drain`] at once, from any thread.
    fn stopper(&self) -> Stopper;
}

/// Cuts off every connection when called.
pub type Stopper = Box<dyn Fn() + Send + Sync>;

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every client had its answer.
    Complete,
    /// This many connections were cut off.
    CutOff(usize),
}

/// What a connector needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The limits on heads and bodies.
    pub limits: Limits,
    /// See `http.max_connections`.
    pub max_connections: usize,
    /// See `http.head_timeout`.
    pub head_timeout: Duration,
    /// See `http.body_timeout`.
    pub body_timeout: Duration,
    /// See `http.idle_timeout`.
    pub idle_timeout: Duration,
    /// See `http.write_timeout`.
    pub write_timeout: Duration,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let http = &config.http;
        Self {
            limits: Limits {
                max_head_bytes: http.max_head_bytes,
                max_target_bytes: http.max_target_bytes,
                max_headers: http.max_headers,
                max_body_bytes: http.max_body_bytes,
            },
            max_connections: http.max_connections,
            head_timeout: http.head_timeout,
            body_timeout: http.body_timeout,
            idle_timeout: http.idle_timeout,
            write_timeout: http.write_timeout,
        }
    }
}
