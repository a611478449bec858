//! The server that is measured, a process of its own.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, setrlimit};
use wharf::config::{Config, Connector};
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Server;

use crate::shared::client;
use crate::shared::process::{Process, SERVE, serve_until_end};

/// The number of connections in the closed loop, so that no request waits for a worker.
pub(crate) const WORKERS: usize = 16;

/// More than any number of connections here, because this limit is not measured.
pub(crate) const MAX_CONNECTIONS: usize = 20_000;

/// The body of `/large`: several times what the sockets of both sides hold.
const LARGE_BYTES: usize = 20 << 20;

/// The settings in which the parts' servers differ.
pub(crate) struct Setup {
    pub(crate) connector: Connector,
    /// The process's limit on descriptors. `None` means as many as it may have.
    pub(crate) descriptors: Option<u64>,
    pub(crate) head_timeout: Duration,
    pub(crate) write_timeout: Duration,
}

impl Setup {
    /// With the timeouts that the configuration has by default, and without a limit on descriptors.
    pub(crate) fn of(connector: Connector) -> Self {
        let timeouts = Config::default().http;
        let (head_timeout, write_timeout) = (timeouts.head_timeout, timeouts.write_timeout);
        Self { connector, descriptors: None, head_timeout, write_timeout }
    }

    /// Starts a server and waits until it listens.
    pub(crate) fn start(&self) -> anyhow::Result<Process> {
        // tiny_http panics for want of descriptors, which is known and would look like a fault of the benchmark.
        let panics = self.connector == Connector::TinyHttp && self.descriptors.is_some();
        Process::start(&self.to_arguments(), if panics { Stdio::null() } else { Stdio::inherit() })
    }

    fn to_arguments(&self) -> [String; 4] {
        let connector = if self.connector == Connector::Native { "native" } else { "tiny_http" };
        let descriptors = self.descriptors.unwrap_or(0);
        let (head, write) = (self.head_timeout.as_millis(), self.write_timeout.as_millis());
        [connector.to_owned(), descriptors.to_string(), head.to_string(), write.to_string()]
    }

    fn from_arguments(arguments: &[String]) -> anyhow::Result<Self> {
        let [connector, descriptors, head, write] = arguments else {
            anyhow::bail!("{SERVE} takes connector, descriptors, head and write timeout, not {arguments:?}");
        };
        Ok(Self {
            connector: if connector == "native" { Connector::Native } else { Connector::TinyHttp },
            descriptors: Some(descriptors.parse()?).filter(|limit| *limit > 0),
            head_timeout: Duration::from_millis(head.parse()?),
            write_timeout: Duration::from_millis(write.parse()?),
        })
    }
}

/// The second process: serves until its standard input closes.
pub(crate) fn serve(arguments: &[String]) -> anyhow::Result<()> {
    let setup = Setup::from_arguments(arguments)?;
    match setup.descriptors {
        // The hard limit as well, so that the server cannot raise its own.
        Some(limit) => setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) })?,
        None => drop(client::raise_descriptors()?),
    }
    let mut config = Config::default();
    config.server.listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into();
    config.server.connector = setup.connector;
    config.server.workers = Some(WORKERS);
    config.http.max_connections = MAX_CONNECTIONS;
    config.http.head_timeout = setup.head_timeout;
    config.http.write_timeout = setup.write_timeout;
    let body = Bytes::from(vec![b'x'; LARGE_BYTES]);
    let large = move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::text(Bytes::clone(&body)))
    };
    let server = Server::new(config)?.get("/quick", quick).get("/large", large);
    let running = server.get_immediate("/plaintext", |_| Response::text("Hello, World!")).start()?;
    Ok(serve_until_end(&running)?)
}

fn quick(_: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text("quick"))
}
