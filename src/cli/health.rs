//! `wharf health`: whether a running server answers. For the health check of a container.

mod unverified;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::Context as _;

use super::FAILED;
use super::client::{PATIENCE, at_address, reachable, resolved};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the server: ADDRESS:PORT or unix:PATH, with https:// before it when the server uses TLS
    ///
    /// The certificate is not verified, because the check only asks whether the server answers. A server that requires
    /// a certificate from its clients answers by saying so.
    #[arg(default_value = "127.0.0.1:8080", env = "WHARF_LISTEN", value_name = "ADDR")]
    address: String,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let address = &arguments.address;
    anyhow::ensure!(
        address != "systemd",
        "systemd has the socket; say where it listens: ADDRESS:PORT or unix:PATH"
    );
    let (place, encrypted) = match address.strip_prefix("https://") {
        Some(place) => (place, true),
        None => (address.as_str(), false),
    };
    let answered = if let Some(path) = place.strip_prefix("unix:") {
        at_path(path).and_then(|stream| ask(stream, encrypted, "localhost"))
    } else {
        let target = reachable(resolved(place)?);
        at_address(target).and_then(|stream| ask(stream, encrypted, &target.to_string()))
    };
    match answered {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("wharf: {address}: {error:#}");
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// mio's stream connects without blocking. The standard library's would wait for ever while the backlog is full.
fn at_path(path: &str) -> anyhow::Result<UnixStream> {
    let stream = mio::net::UnixStream::connect(path).context("cannot connect")?;
    let stream = UnixStream::from(OwnedFd::from(stream));
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(stream: impl Read + Write, encrypted: bool, host: &str) -> anyhow::Result<()> {
    if encrypted {
        unverified::ask(stream, |stream| ask_plain(stream, host))
    } else {
        ask_plain(stream, host)
    }
}

/// `OPTIONS *` is a request to the server itself, not to an endpoint (RFC 9110 section 9.3.7).
fn ask_plain(mut stream: impl Read + Write, host: &str) -> anyhow::Result<()> {
    let request = format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).context("no answer")?;
    anyhow::ensure!(start.starts_with(b"HTTP/1.1 2"), "answered {:?}", String::from_utf8_lossy(&start));
    Ok(())
}
