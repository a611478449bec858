//! `wharf health`: whether a running server answers. For the health check of a container.

mod unverified;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{ClientAuth, Config, Flags, Listen, Listener, Problem, Problems};
use anyhow::Context as _;

use super::check::is_wrong;
use super::client::{PATIENCE, at_address, reachable, resolved};
use super::{CONFIG_HELP, FAILED, USAGE, environment};

/// Version 2 of the PROXY protocol, section 2.2, LOCAL: the connection is for nobody else, as a proxy's own health checks are.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the server: ADDRESS:PORT or unix:PATH, with https:// before it when the server uses TLS
    ///
    /// Not given: where the configuration says, with TLS and the PROXY protocol as it says: 127.0.0.1:8080 and neither, unless
    /// told otherwise. `WHARF_LISTEN` counts as it does for `wharf serve`. Of several listeners it is the first that answers
    /// without a PROXY header and without a client's certificate, or else the first that can be asked.
    ///
    /// The certificate is not verified: the question is whether the server answers, not who it is. One that wants a
    /// certificate of its clients answers by saying so, and one that trusts no proxy at this address by closing the connection.
    #[arg(value_name = "ADDR", conflicts_with = "config")]
    address: Option<String>,
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    config: Option<PathBuf>,
    /// Begin with a header of the PROXY protocol, where ADDR expects it
    #[arg(long, requires = "address")]
    proxy_protocol: bool,
}

/// How to ask.
struct Way {
    place: Place,
    encrypted: bool,
    /// Whether a connection begins with a PROXY header.
    proxied: Proxied,
}

enum Place {
    At(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Proxied {
    No,
    Yes,
    /// Yes, and not by us: we are no trusted proxy.
    Untrusted,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (way, shown) = match &arguments.address {
        Some(address) => (given(address, arguments.proxy_protocol)?, address.clone()),
        None => match configured(arguments.config.as_deref())? {
            Ok(found) => found,
            Err(problems) => {
                super::complain(&problems.to_string());
                return Ok(ExitCode::from(USAGE));
            }
        },
    };
    let answered = match &way.place {
        Place::Unix(path) => at_path(path).and_then(|stream| ask(stream, &way, "localhost")),
        Place::At(target) => at_address(*target).and_then(|stream| ask(stream, &way, &target.to_string())),
    };
    match answered {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            super::complain(&format!("wharf: {shown}: {error:#}"));
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// As the arguments say.
fn given(address: &str, proxy_protocol: bool) -> anyhow::Result<Way> {
    anyhow::ensure!(
        address != "systemd",
        "systemd has the socket; say where it listens: ADDRESS:PORT or unix:PATH"
    );
    let (place, encrypted) = match address.strip_prefix("https://") {
        Some(place) => (place, true),
        None => (address, false),
    };
    let place = match place.strip_prefix("unix:") {
        Some(path) => Place::Unix(path.into()),
        None => Place::At(reachable(resolved(place)?)),
    };
    let proxied = if proxy_protocol { Proxied::Yes } else { Proxied::No };
    Ok(Way { place, encrypted, proxied })
}

/// As the configuration says, whatever else may be wrong with it: the server that runs has read an earlier one.
fn configured(file: Option<&Path>) -> anyhow::Result<Result<(Way, String), Problems>> {
    let environment = environment();
    let source = Config::locate(file, &environment)?;
    let (config, problems) = Config::examine(source.clone(), &environment, &Flags::default());
    // A file that is no TOML has problems without a key.
    let matters = |problem: &&Problem| {
        let keys = [
            "server.listen",
            "listen",
            "WHARF_SERVER_LISTEN",
            "WHARF_LISTEN",
            "tls",
            "WHARF_TLS",
            "proxy",
            "WHARF_PROXY",
        ];
        problem.key.is_empty() || is_wrong(&[(*problem).clone()], &keys)
    };
    let in_the_way: Vec<Problem> = problems.list().iter().filter(matters).cloned().collect();
    if !in_the_way.is_empty() {
        return Ok(Err(Problems::new(source, in_the_way)));
    }
    let listeners = config.listeners();
    let asked = listeners.iter().enumerate().map(|(index, listener)| way_to(&config, index, listener));
    // Those that cannot be asked have their reason, and the first reason is said.
    let (mut ways, mut reasons) = (Vec::new(), Vec::new());
    for way in asked {
        match way {
            Ok(way) => ways.push(way),
            Err(reason) => reasons.push(reason),
        }
    }
    // The first of the least demanding ones: `min_by_key` keeps the order of the file.
    match ways.into_iter().min_by_key(|(demands, ..)| *demands) {
        Some((_, way, address)) => Ok(Ok((way, address))),
        None => Err(reasons.into_iter().next().context("there is no listener")?),
    }
}

/// How to ask one listener, after how much it demands of whoever asks.
fn way_to(config: &Config, index: usize, listener: &Listener) -> anyhow::Result<(u8, Way, String)> {
    let key = match &*config.section_of_listener(index) {
        "server" => "server.listen".to_owned(),
        section => format!("{section}.address"),
    };
    let place = match &listener.address {
        Listen::Inherited | Listen::Named(_) => {
            anyhow::bail!("{key}: systemd has the socket; say where it listens: ADDRESS:PORT or unix:PATH")
        }
        Listen::Tcp(address) if address.port() == 0 => {
            anyhow::bail!("{key}: {address} is any free port; say which it is: ADDRESS:PORT")
        }
        Listen::Tcp(address) => Place::At(reachable(*address)),
        Listen::Unix(path) => Place::Unix(path.clone()),
    };
    // A server that is asked at an address of its own sees the request come from there.
    let ours = if let Place::At(address) = place { Some(address.ip()) } else { None };
    let proxied = match (listener.proxy_protocol, config.proxy.trusted.contain(ours)) {
        (false, _) => Proxied::No,
        (true, true) => Proxied::Yes,
        (true, false) => Proxied::Untrusted,
    };
    let wants_certificate = listener.tls && config.tls_of(listener).client_auth == ClientAuth::Required;
    let demands = match (proxied, wants_certificate) {
        (Proxied::No, false) => 0,
        (Proxied::No, true) => 1,
        (Proxied::Yes, _) => 2,
        (Proxied::Untrusted, _) => 3,
    };
    Ok((demands, Way { place, encrypted: listener.tls, proxied }, listener.address.to_string()))
}

/// mio's stream connects without blocking. The standard library's would wait for ever while the backlog is full.
fn at_path(path: &Path) -> anyhow::Result<UnixStream> {
    let stream = mio::net::UnixStream::connect(path).context("cannot connect")?;
    let stream = UnixStream::from(OwnedFd::from(stream));
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(mut stream: impl Read + Write, way: &Way, host: &str) -> anyhow::Result<()> {
    match way.proxied {
        Proxied::No => {}
        Proxied::Yes => stream.write_all(LOCAL)?,
        Proxied::Untrusted => return is_closed(stream),
    }
    if way.encrypted {
        unverified::ask(stream, |stream| ask_plain(stream, host))
    } else {
        ask_plain(stream, host)
    }
}

/// A poller closes the connection of a client that is not a trusted proxy. So the closing proves that it works.
fn is_closed(mut stream: impl Read) -> anyhow::Result<()> {
    let length = stream.read(&mut [0]).context("no answer")?;
    anyhow::ensure!(
        length == 0,
        "it answered, but with proxy.protocol and proxy.trusted it should have closed the connection"
    );
    Ok(())
}

/// `OPTIONS *` is a request to the server itself, not to an endpoint (RFC 9110 section 9.3.7).
fn ask_plain(mut stream: impl Read + Write, host: &str) -> anyhow::Result<()> {
    let request = format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    // Through TLS this waits for the handshake.
    stream.write_all(request.as_bytes()).context("no answer")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).context("no answer")?;
    anyhow::ensure!(start.starts_with(b"HTTP/1.1 2"), "answered {:?}", String::from_utf8_lossy(&start));
    Ok(())
}
