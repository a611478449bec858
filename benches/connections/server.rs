//! The server that is measured: a process of its own, and what `/proc` says of it.
//!
//! It ends when the pipe that is its standard input closes, so it cannot outlive the benchmark.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use rustix::process::{Resource, Rlimit, setrlimit};
use wharf::config::{Config, Connector};
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Server;

use crate::shared::{client, machine};

/// The first argument of the second process.
pub(crate) const SERVE: &str = "--serve";

/// As many as the closed loop has connections, so that no request waits for a worker.
pub(crate) const WORKERS: usize = 16;

/// Over any number of connections here: the limit is not what is measured.
pub(crate) const MAX_CONNECTIONS: usize = 20_000;

/// The body of `/large`: several times what the sockets of both sides hold.
const LARGE_BYTES: usize = 20 << 20;

/// What differs between the servers of the parts.
pub(crate) struct Setup {
    pub(crate) connector: Connector,
    /// The process's limit on descriptors; `None`: as many as it may have.
    pub(crate) descriptors: Option<u64>,
    pub(crate) head_timeout: Duration,
    pub(crate) write_timeout: Duration,
}

/// A running server process, killed on drop.
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
}

impl Setup {
    /// With the timeouts that the configuration has by default, and without a limit on descriptors.
    pub(crate) fn of(connector: Connector) -> Self {
        let timeouts = Config::default().http;
        let (head_timeout, write_timeout) = (timeouts.head_timeout, timeouts.write_timeout);
        Self { connector, descriptors: None, head_timeout, write_timeout }
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

impl Process {
    /// Starts a server and waits until it listens.
    pub(crate) fn start(setup: &Setup) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(SERVE).args(setup.to_arguments()).stdin(Stdio::piped()).stdout(Stdio::piped());
        if setup.connector == Connector::TinyHttp && setup.descriptors.is_some() {
            // It panics for want of descriptors, which is known and would look like a fault of the benchmark.
            command.stderr(Stdio::null());
        }
        let mut child = command.spawn().context("the server's process")?;
        let mut line = String::new();
        let said = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        let address = line.trim().parse();
        if let (Some(Ok(_)), Ok(address)) = (said, address) {
            return Ok(Self { child, address });
        }
        child.kill()?;
        anyhow::bail!("the server did not start: {}", child.wait()?);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        machine::resident(self.child.id())
    }

    /// Its threads.
    pub(crate) fn threads(&self) -> io::Result<u64> {
        machine::threads(self.child.id())
    }

    /// Its open descriptors: each connection that it holds is one.
    pub(crate) fn descriptors(&self) -> io::Result<usize> {
        machine::descriptors(self.child.id())
    }

    /// Waits until its descriptors are as `settled` wants them; returns how many there are.
    pub(crate) fn wait_for_descriptors(&self, settled: impl Fn(usize) -> bool) -> anyhow::Result<usize> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let open = self.descriptors()?;
            if settled(open) {
                return Ok(open);
            }
            anyhow::ensure!(Instant::now() < until, "the server stays at {open} descriptors");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The processor time that it has used.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        machine::processor_time(&self.child.id().to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
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
    println!("{}", running.address());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn quick(_: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text("quick"))
}
