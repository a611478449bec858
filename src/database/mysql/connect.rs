//! Reaches a server: its hosts one after the other, their addresses, and another connection that ends a session's statement.
//!
//! Runs on the thread that opens a session, or that waits for a statement past its time. Nothing here waits past the deadline. Each
//! host has a share of the time, and each address of a host a share of the host's time.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{Domain, SockAddr, Socket as RawSocket, Type};

use super::channel::Channel;
use super::frames::{Frames, put_packet};
use super::login::{Facts, Failure, Login};
use super::url::{Place, Target};
use crate::base::deadline::Deadline;
use crate::database::hosts::{Hosts, LookUp, look_up, may_pass, share};
use crate::database::socket::Socket;
use crate::database::{Category, Error};

/// Opens connections to the hosts of a URL.
pub(super) struct Connector {
    pub(super) target: Target,
    tls: Arc<ClientConfig>,
    hosts: Hosts,
}

/// An open connection, whose user is logged in.
pub(super) struct Opened {
    pub(super) frames: Frames,
    pub(super) facts: Facts,
    pub(super) server: Server,
}

/// The server of a session. Another connection to it can end the session's work.
#[derive(Clone)]
pub(super) struct Server {
    address: SockAddr,
    login: Login,
}

/// Why no host took a session: the name of each one, and its failure.
#[derive(Debug)]
pub(super) struct Failures(Vec<(String, Failure)>);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => f.write_str(&refused.error.in_full()),
            Self::Unreachable(error) if error.kind() == ErrorKind::UnexpectedEof => {
                f.write_str("the server closed the connection")
            }
            Self::Unreachable(error) => write!(f, "error connecting to server: {error}"),
            Self::TimeUp => f.write_str("no answer in time"),
            Self::NotPossible(reason) | Self::Unusable(Error::Usage(reason)) => f.write_str(reason),
            Self::Unusable(error) => write!(f, "a new session: {}", error.in_full()),
        }
    }
}

impl Failure {
    /// Whether trying again a moment later may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::TimeUp => true,
            Self::NotPossible(_) => false,
            Self::Unreachable(error) => may_pass(error.kind()),
            Self::Refused(refused) => may_come_up(&refused.error),
            Self::Unusable(error) => may_come_up(error),
        }
    }
}

/// Whether a server that refuses with this error may accept a moment later.
fn may_come_up(error: &Error) -> bool {
    match error {
        Error::Refused(refusal) => {
            matches!(refusal.category, Category::Down | Category::Busy | Category::Exhausted)
        }
        Error::Usage(_) => false,
        _ => true,
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            [] => f.write_str("no answer in time"),
            [(_, failure)] => write!(f, "{failure}"),
            several => {
                for (index, (name, failure)) in several.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{name}: {failure}")?;
                }
                Ok(())
            }
        }
    }
}

impl Connector {
    pub(super) fn new(target: Target) -> Result<Self, Error> {
        let tls = target.tls.client().map_err(Error::Url)?;
        Ok(Self { target, tls, hosts: Hosts::default() })
    }

    /// Opens a connection to the first host that accepts one, and gives it to `prepare`. A host whose connection cannot be prepared
    /// counts as failed.
    pub(super) fn open<T>(
        &self,
        program: &str,
        deadline: Deadline,
        prepare: impl Fn(Opened, Deadline) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let places = &self.target.hosts;
        let mut order: Vec<usize> = (0..places.len()).collect();
        self.hosts.sort(&mut order);
        let (mut left, mut failures) = (order.len(), Vec::new());
        for index in order {
            if deadline.has_passed() {
                break;
            }
            let opened = self.open_host(index, program, share(deadline, left), &prepare);
            match opened {
                Ok(opened) => return Ok(opened),
                Err(failure) => failures.push((places[index].to_string(), failure)),
            }
            left -= 1;
        }
        let transient = failures.is_empty() || failures.iter().any(|(_, failure)| failure.is_transient());
        let reason = Failures(failures).to_string();
        Err(Error::Open { target: self.target.name.clone(), reason, transient })
    }

    /// Tries the addresses of one host.
    fn open_host<T>(
        &self,
        index: usize,
        program: &str,
        deadline: Deadline,
        prepare: impl Fn(Opened, Deadline) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let place = &self.target.hosts[index];
        let addresses = addresses(place, self.limit(deadline)).inspect_err(|failure| {
            if let Failure::TimeUp = failure {
                self.hosts.note_silent(index);
            }
        })?;
        let login = self.login(place, program)?;
        let (count, mut last) = (addresses.len(), Failure::TimeUp);
        for (tried, address) in addresses.into_iter().enumerate() {
            if deadline.has_passed() {
                break;
            }
            let limit = self.limit(share(deadline, count - tried));
            let server = Server { address, login: login.clone() };
            match server.open(limit).and_then(|opened| prepare(opened, limit)) {
                Ok(opened) => {
                    self.hosts.note_answer(index);
                    return Ok(opened);
                }
                // An earlier address's failure tells more.
                Err(Failure::TimeUp) => self.hosts.note_silent(index),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// The time of one address, which `connect-timeout` bounds.
    fn limit(&self, deadline: Deadline) -> Deadline {
        self.target.connect_timeout.map_or(deadline, |timeout| deadline.within(timeout))
    }

    fn login(&self, place: &Place, program: &str) -> Result<Login, Failure> {
        let Target { user, password, database, tls, .. } = &self.target;
        let server_name = match place {
            Place::Unix(_) => None,
            Place::Tcp(host, _) => {
                let name = ServerName::try_from(host.clone());
                let wrong = |_| {
                    Failure::NotPossible("the host's name is not one that a certificate can have".to_owned())
                };
                Some(name.map_err(wrong)?)
            }
        };
        Ok(Login {
            user: user.clone(),
            password: password.clone(),
            database: database.clone(),
            program: program.to_owned(),
            mode: tls.mode,
            tls: Arc::clone(&self.tls),
            server_name,
        })
    }
}

/// The addresses of a host.
fn addresses(place: &Place, deadline: Deadline) -> Result<Vec<SockAddr>, Failure> {
    match place {
        Place::Unix(path) => Ok(vec![SockAddr::unix(path)?]),
        Place::Tcp(name, port) => match name.parse() {
            Ok(address) => Ok(vec![SocketAddr::new(address, *port).into()]),
            Err(_) => match look_up(name.clone(), *port, deadline) {
                Ok(found) => Ok(found.into_iter().map(SockAddr::from).collect()),
                Err(LookUp::TimeUp) => Err(Failure::TimeUp),
                Err(LookUp::Failed(error)) => Err(error.into()),
            },
        },
    }
}

impl Server {
    fn open(self, deadline: Deadline) -> Result<Opened, Failure> {
        let mut frames = Frames::new(Channel::new(self.reach(deadline)?));
        let facts = self.login.run(&mut frames, deadline.instant())?;
        Ok(Opened { frames, facts, server: self })
    }

    /// Connects a socket to the server.
    fn reach(&self, deadline: Deadline) -> Result<Arc<Socket>, Failure> {
        /// The silence after which the system asks whether the server is still there.
        const KEEPALIVE: Duration = Duration::from_secs(60);
        let timeout = deadline.left();
        if timeout.is_zero() {
            return Err(Failure::TimeUp);
        }
        let connect = || -> io::Result<Arc<Socket>> {
            let socket = RawSocket::new(self.address.domain(), Type::STREAM, None)?;
            if self.address.domain() != Domain::UNIX {
                socket.set_tcp_nodelay(true)?;
                socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE))?;
            }
            socket.connect_timeout(&self.address, timeout)?;
            Socket::new(socket)
        };
        connect().map_err(|error| match error.kind() {
            ErrorKind::TimedOut if deadline.has_passed() => Failure::TimeUp,
            _ => Failure::Unreachable(error),
        })
    }

    /// The database of the session.
    pub(super) fn database(&self) -> Option<&str> {
        self.login.database.as_deref()
    }

    /// Opens another connection, from which a session can be ended.
    pub(super) fn killer(&self, deadline: Deadline) -> Result<Killer, Failure> {
        // The session may have no database that the user may still enter.
        let login = Login { database: None, ..self.login.clone() };
        let opened = Self { login, ..self.clone() }.open(deadline)?;
        Ok(Killer(opened.frames))
    }
}

/// The work that a [`Killer`] ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// The statement that the session runs.
    Statement,
    /// The session.
    Session,
}

/// A connection that ends another session's work.
pub(super) struct Killer(Frames);

impl Killer {
    /// Asks the server to end the work of the session with this number.
    pub(super) fn kill(&mut self, end: End, thread: u64, deadline: Deadline) -> Result<(), Failure> {
        const QUERY: u8 = 3;
        let what = match end {
            End::Statement => "query",
            End::Session => "connection",
        };
        let mut out = Vec::new();
        let sql = format!("kill {what} {thread}");
        let put = put_packet(&mut out, 0, |out| {
            out.push(QUERY);
            out.extend_from_slice(sql.as_bytes());
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(_) = put;
        self.0.send(&out, deadline.instant())?;
        self.0.expect(1);
        // An error says that the session or its statement has just ended, which is well.
        self.0.packet(deadline.instant())?;
        Ok(())
    }
}
