//! A server that is this program again, in a process of its own, so that what `/proc` says of it is the server's alone.
//!
//! It ends when the pipe that is its standard input closes, so it cannot outlive the benchmark.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use wharf::server::Running;

use super::machine;

/// The first argument of the second process.
pub(crate) const SERVE: &str = "--serve";

/// A running server process, killed on drop.
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// Starts this program with these arguments behind [`SERVE`], and waits until it listens.
    pub(crate) fn start(arguments: &[String], stderr: Stdio) -> anyhow::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(SERVE).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
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

    /// The most that it ever had.
    pub(crate) fn peak_resident(&self) -> io::Result<u64> {
        machine::peak_resident(self.child.id())
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

/// In the second process: says where the server listens, and serves until standard input closes.
pub(crate) fn serve_until_end(running: &Running) -> io::Result<()> {
    println!("{}", running.address());
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
