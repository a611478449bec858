//! `wharf health`: whether a running server answers, for a container's health check.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::FAILED;

/// How long the server may take for an answer that needs no worker.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where the server listens
    #[arg(default_value = "127.0.0.1:8080", env = "WHARF_LISTEN", value_name = "ADDR")]
    address: String,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let address = &arguments.address;
    let mut addresses = address.to_socket_addrs().with_context(|| format!("{address} is no address"))?;
    let target = addresses.next().with_context(|| format!("{address} has no address"))?;
    match ask(reachable(target)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("wharf: {address}: {error:#}");
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// A server that listens on every address is asked on loopback.
fn reachable(mut target: SocketAddr) -> SocketAddr {
    match target {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => target.set_ip([127, 0, 0, 1].into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => target.set_ip([0, 0, 0, 0, 0, 0, 0, 1].into()),
        _ => {}
    }
    target
}

/// `OPTIONS *` asks the server itself, and none of its endpoints (RFC 9110 section 9.3.7).
fn ask(target: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "OPTIONS * HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).context("no answer")?;
    anyhow::ensure!(start.starts_with(b"HTTP/1.1 2"), "answered {:?}", String::from_utf8_lossy(&start));
    Ok(())
}
