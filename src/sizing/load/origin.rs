//! A server: the places where it listens, with TLS or without.
//!
//! Main thread, before the run. A server is tried before the run, so that one that is not there, or that shows a wrong certificate,
//! is named at once.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::trust::{Tls, Trust, explained};

/// The time limit for one address to accept a connection before the run, and for each step of its handshake.
const REACH_PATIENCE: Duration = Duration::from_secs(5);

/// A place where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A server.
#[derive(Clone, Debug)]
pub struct Origin {
    addresses: Vec<Address>,
    authority: String,
    tls: Option<Tls>,
}

/// An address that accepts connections.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reached {
    pub(super) address: Address,
    pub(super) tls: Option<Tls>,
}

impl From<SocketAddr> for Origin {
    fn from(address: SocketAddr) -> Self {
        Self::new(vec![Address::Tcp(address)], address.to_string())
    }
}

impl Origin {
    /// A server at one of these addresses. The first that accepts a connection is used. `authority` is what requests say in `Host`.
    pub fn new(addresses: Vec<Address>, authority: impl Into<String>) -> Self {
        Self { addresses, authority: authority.into(), tls: None }
    }

    /// A server at a Unix socket.
    pub fn unix(path: PathBuf) -> Self {
        Self::new(vec![Address::Unix(path)], "localhost")
    }

    /// The same server with TLS. `None`: the authority's host can be no name in a certificate.
    #[must_use]
    pub fn with_tls(self, trust: &Trust) -> Option<Self> {
        let host = match self.authority.parse::<SocketAddr>() {
            Ok(address) => address.ip().to_string(),
            Err(_) => host(&self.authority).to_owned(),
        };
        let name = ServerName::try_from(host).ok()?;
        Some(Self { tls: Some(Tls::new(trust, name)), ..self })
    }

    /// `Host` of its requests.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The first address that accepts a connection, and with TLS a handshake.
    pub(super) fn reach(&self) -> io::Result<Reached> {
        let mut result = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        for address in &self.addresses {
            match try_at(address, self.tls.as_ref()) {
                Ok(()) => return Ok(Reached { address: address.clone(), tls: self.tls.clone() }),
                Err(error) => result = Err(error),
            }
        }
        result
    }
}

/// The host of an authority, without its port and without the brackets of an IPv6 address.
pub(super) fn host(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.trim_start_matches('[').trim_end_matches(']')
}

fn try_at(address: &Address, tls: Option<&Tls>) -> io::Result<()> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, REACH_PATIENCE)?;
            stream.set_read_timeout(Some(REACH_PATIENCE))?;
            stream.set_write_timeout(Some(REACH_PATIENCE))?;
            shake_hands(stream, tls)
        }
        Address::Unix(path) => {
            // mio's stream connects without waiting. The standard library's would wait for ever while the backlog is full.
            let stream = UnixStream::from(OwnedFd::from(mio::net::UnixStream::connect(path)?));
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(REACH_PATIENCE))?;
            stream.set_write_timeout(Some(REACH_PATIENCE))?;
            shake_hands(stream, tls)
        }
    }
}

fn shake_hands(mut stream: impl io::Read + io::Write, tls: Option<&Tls>) -> io::Result<()> {
    let Some(tls) = tls else { return Ok(()) };
    let mut session = tls.session().map_err(io::Error::other)?;
    match session.complete_io(&mut stream) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => io::Error::other(explained(inner)),
            None if error.kind() == io::ErrorKind::WouldBlock => {
                io::Error::new(io::ErrorKind::TimedOut, "TLS: the server does not answer the handshake")
            }
            None => error,
        }),
    }
}
