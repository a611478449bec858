//! Two networks of their own with a wire between them, for tests that run as root: the server in one, its database in the
//! other, and nothing of this machine's network touched.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use crate::support::is_root;

/// Where the database is, in a block that is set aside for documentation.
const DATABASE: &str = "192.0.2.2";
const SERVER: &str = "192.0.2.1";
const HARDWARE: &str = "02:00:00:00:00:02";

/// Both networks. They end when this is dropped, and at the latest with this process.
pub(crate) struct Network {
    server: Side,
    database: Side,
}

/// A process that only keeps a network alive.
struct Side(Child);

impl Drop for Side {
    fn drop(&mut self) {
        // It has nothing to end in order.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Network {
    /// Makes both networks. `None` when the system does not permit it, or has no `ip`.
    pub(crate) fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let network = Self { server: Side::new()?, database: Side::new()? };
        let (server, database) = (&network.server, &network.database);
        let other = database.0.id();
        let made = server.run(&format!(
            "ip link add wire type veth peer name wire address {HARDWARE} netns {other} && \
             ip address add {SERVER}/24 dev wire && ip link set wire up && \
             ip neighbour add {DATABASE} lladdr {HARDWARE} nud permanent dev wire"
        )) && database
            .run(&format!("ip address add {DATABASE}/24 dev wire && ip link set wire up"));
        made.then_some(network)
    }

    /// The command prefix that runs a program in the database's network.
    pub(crate) fn at_database(&self) -> Vec<String> {
        self.database.prefix()
    }

    /// The command prefix that runs a program in the server's network.
    pub(crate) fn at_server(&self) -> Vec<String> {
        self.server.prefix()
    }

    /// The database's URL in this network.
    pub(crate) fn url(port: u16) -> String {
        format!("postgres://postgres@{DATABASE}:{port}/postgres")
    }

    /// A command to run before the database's server starts, and the server's options. They let it accept connections
    /// from the other network.
    pub(crate) fn settings() -> (String, &'static str) {
        (format!("echo 'host all all {SERVER}/32 trust' >> data/pg_hba.conf"), "-c listen_addresses=*")
    }

    /// From now on packets between the two networks vanish, and neither side learns of it.
    pub(crate) fn drop_packets(&self) {
        assert!(self.database.run(&format!("ip route add blackhole {SERVER}/32")), "ip route add");
    }

    /// From now on packets arrive again.
    pub(crate) fn pass_packets(&self) {
        assert!(self.database.run(&format!("ip route delete blackhole {SERVER}/32")), "ip route delete");
    }
}

impl Side {
    fn new() -> Option<Self> {
        let script = "ip link set lo up && echo ready && exec cat";
        let started = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            // It closes with this process at the latest, and that ends `cat`.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let mut side = Self(started.ok()?);
        let mut line = String::new();
        let stdout = side.0.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
        (line.trim() == "ready").then_some(side)
    }

    fn prefix(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.0.id())]
    }

    fn run(&self, script: &str) -> bool {
        let prefix = self.prefix();
        let status = Command::new(&prefix[0])
            .args(&prefix[1..])
            .args(["sh", "-c", script])
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }
}
