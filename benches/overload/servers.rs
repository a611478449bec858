//! The servers that are measured: wharf with its defaults, wharf without its limits, and whatever else can be started by a
//! command. Each is a process of its own.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::shared::client::{Asker, get};
use crate::shared::machine;
use crate::support::{Postgres, Wharf};

/// Connections to the database, and so the number of requests that it serves at once.
pub(crate) const POOL: u32 = 4;

/// The path that every server answers after 20 ms of database time.
pub(crate) const PATH: &str = "/slow";

/// The time limit of a server's start. A JVM alone takes a second.
const START: Duration = Duration::from_secs(20);

/// The time limit of a server's end, after which it is killed.
const END: Duration = Duration::from_secs(3);

/// Which server.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// wharf as it is.
    Wharf,
    /// wharf with every limit on waiting as high as it goes.
    Unlimited,
    /// Another server, and the shell command that starts it.
    Other { name: String, command: String },
}

/// A running server, killed on drop.
pub(crate) enum Server {
    Wharf(Wharf),
    Other(Process),
}

/// A process that a command started.
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
}

impl Kind {
    /// `NAME=COMMAND`.
    pub(crate) fn parse(argument: &str) -> anyhow::Result<Self> {
        let (name, command) = argument.split_once('=').context("--server takes NAME=COMMAND")?;
        Ok(Self::Other { name: name.to_owned(), command: command.to_owned() })
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Wharf => "wharf",
            Self::Unlimited => "wharf without limits",
            Self::Other { name, .. } => name,
        }
    }

    /// Starts it with a pool of [`POOL`] connections, and waits until it answers.
    pub(crate) fn start(&self, postgres: &Postgres) -> anyhow::Result<Server> {
        match self {
            Self::Wharf => Ok(Server::Wharf(Wharf::start(&configuration(postgres, "", "")))),
            Self::Unlimited => {
                Ok(Server::Wharf(Wharf::start(&configuration(postgres, WITHOUT_LIMITS, WITHOUT_TIMEOUT))))
            }
            Self::Other { name, command } => {
                Process::start(command, postgres).map(Server::Other).with_context(|| name.clone())
            }
        }
    }
}

const WITHOUT_LIMITS: &str = r#"
[server]
deadline = "1h"

[queue]
max_length = 1000000
max_wait   = "1h"
target     = "1h"
interval   = "1h"

[http]
max_connections = 1000000
"#;

const WITHOUT_TIMEOUT: &str = r#"connection_timeout = "1h""#;

fn configuration(postgres: &Postgres, sections: &str, database: &str) -> String {
    format!(
        r#"{sections}
[database]
url = "{}"
maximum_pool_size = {POOL}
{database}

[endpoint.slow]
route   = "GET {PATH}"
sql     = "select 1 as slept from pg_sleep(0.02)"
returns = "value"
"#,
        postgres.url()
    )
}

impl Server {
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Wharf(wharf) => wharf.address(),
            Self::Other(process) => process.address,
        }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Wharf(wharf) => wharf.id(),
            Self::Other(process) => process.child.id(),
        }
    }

    /// Ends it, and returns what it logged last; of other servers than wharf, nothing.
    pub(crate) fn stop(self) -> anyhow::Result<String> {
        match self {
            Self::Wharf(wharf) => {
                wharf.signal("TERM");
                Ok(wharf.wait().stderr)
            }
            Self::Other(process) => Ok(process.stop().map(|()| String::new())?),
        }
    }
}

impl Process {
    fn start(command: &str, postgres: &Postgres) -> anyhow::Result<Self> {
        let address = free_address()?;
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .envs([("PORT", address.port().to_string()), ("PGPORT", postgres.port().to_string())])
            .envs([("PGHOST", "127.0.0.1"), ("PGUSER", "postgres"), ("PGDATABASE", "postgres")])
            .env("DB_POOL", POOL.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        // Read to its end, so that it never waits for a reader; the last line says why it ended, where it does.
        let stderr = child.stderr.take().context("stderr is piped")?;
        let reader = thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).last());
        let mut process = Self { child, address };
        let until = Instant::now() + START;
        while !process.answers() {
            if process.child.try_wait()?.is_some() {
                let said = reader.join().ok().flatten().unwrap_or_default();
                anyhow::bail!("it ended at its start: {said}");
            }
            anyhow::ensure!(Instant::now() < until, "it does not answer {PATH}");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(process)
    }

    fn answers(&self) -> bool {
        let asked = Asker::connect(self.address, START).and_then(|mut asker| asker.ask(&get(PATH)));
        asked.is_ok_and(|status| status == 200)
    }

    fn stop(mut self) -> std::io::Result<()> {
        machine::terminate(self.child.id())?;
        let until = Instant::now() + END;
        while self.child.try_wait()?.is_none() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Another process could take it before the server does; then that does not start, and says so.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
