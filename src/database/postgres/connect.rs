//! Reaches a PostgreSQL server: its hosts one after the other, their addresses, and the settings of a session from
//! libpq's parameters.
//!
//! Runs on the thread that opens a session. Nothing here waits past the deadline. Only a name look-up that the system
//! does not end occupies its own thread for longer.
//!
//! Each host has a share of the time, and each address of a host a share of the host's time: an equal part of the time
//! that is left. `connect_timeout` is the most for one address. As in libpq, it counts the whole login: the connection, TLS, the
//! authentication and the first questions. The last address has all the time that is left.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket as RawSocket, TcpKeepalive, Type};
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::{Access, Category};
use super::channel::{Channel, Handshake, Shared, Slot, process_named_by};
use super::socket::{Socket, Stream};
use super::url::{Target, explain};
use crate::base::deadline::Deadline;
use crate::base::system;

/// The time that a server has to act on a cancel request, and so to close its connection. It is shorter than the time
/// for a cancelled statement to end. So a server that does neither leaves time for the statement's own answer.
const CLOSE_GRACE: Duration = Duration::from_millis(300);

/// For this long, a host that did not answer is tried after all others. pgjdbc's `hostRecheckSeconds`.
const RECHECK: Duration = Duration::from_secs(10);

type Connection = tokio_postgres::Connection<Stream, Shared>;

/// An open session.
pub(super) struct Opened {
    pub(super) channel: Channel,
    pub(super) server: Server,
    /// The key of its cancel requests.
    pub(super) cancel: CancelToken,
    /// The process that cancel requests name.
    pub(super) process: Option<i32>,
    /// The server's major version; 0 if it sends none.
    pub(super) version: u32,
    /// The default access of its transactions. PostgreSQL reports it from version 14 on.
    pub(super) access: Option<Access>,
}

/// The server of a session. Another connection to it can cancel the session's work.
#[derive(Clone, Debug)]
pub(super) struct Server {
    address: SockAddr,
    /// The name that its certificate must have.
    name: String,
}

/// Why a session was not opened.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server refused, or its answer makes no sense.
    Refused(tokio_postgres::Error),
    /// The server was not reached.
    Unreachable(io::Error),
    /// There was no time left.
    TimeUp,
    /// Several hosts have failed: the name of each one, and its failure.
    Several(Vec<(String, Failure)>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => f.write_str(&explain(error)),
            Self::Unreachable(error) => write!(f, "error connecting to server: {error}"),
            Self::TimeUp => f.write_str("no answer in time"),
            Self::Several(failures) => {
                for (index, (name, failure)) in failures.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{name}: {failure}")?;
                }
                Ok(())
            }
        }
    }
}

impl Failure {
    fn of_several(mut failures: Vec<(String, Self)>) -> Self {
        match failures.len() {
            0 => Self::TimeUp,
            1 => failures.remove(0).1,
            _ => Self::Several(failures),
        }
    }

    /// Whether a server that could not be reached may be reached a moment later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::TimeUp => true,
            Self::Several(failures) => failures.iter().any(|(_, failure)| failure.is_transient()),
            Self::Unreachable(error) => may_pass(error.kind()),
            Self::Refused(error) => {
                if let Some(code) = error.code() {
                    let category = Category::of_sqlstate(code.code());
                    return matches!(category, Category::Down | Category::Busy | Category::Exhausted);
                }
                let cause = std::error::Error::source(error);
                let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
                cause.map_or(error.is_closed(), |cause| may_pass(cause.kind()))
            }
        }
    }

    /// Whether the server may let the user in with the other choice: with TLS instead of without, or without instead of
    /// with.
    fn other_mode_may_do(&self) -> bool {
        match self {
            Self::Refused(error) => {
                error.code().is_none_or(|code| *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
            }
            Self::Unreachable(_) => true,
            Self::TimeUp | Self::Several(_) => false,
        }
    }
}

fn may_pass(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NotFound
            | ErrorKind::TimedOut
            | ErrorKind::UnexpectedEof
    )
}

/// What is known of a URL's hosts from earlier openings.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// When the host with this index was last found silent, or was last tried again after that.
    silent: Mutex<BTreeMap<usize, Instant>>,
}

impl Hosts {
    /// Puts the hosts that were found silent a short time ago behind the others.
    fn sort(&self, order: &mut [usize]) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        order.sort_by_key(|index| {
            silent.get(index).is_some_and(|since| now.saturating_duration_since(*since) < RECHECK)
        });
        // While this thread tries the first host again, other threads do not wait for it as well.
        if let Some(since) = order.first().and_then(|first| silent.get_mut(first)) {
            *since = now;
        }
    }

    fn note_silent(&self, index: usize) {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).insert(index, Instant::now());
    }

    fn note_answer(&self, index: usize) {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).remove(&index);
    }
}

/// Opens a session on the first host that accepts one.
///
/// # Errors
/// All hosts have failed. Each one's failure is told, as far as there was time for it.
pub(super) fn open(
    target: &Target,
    config: &Config,
    tls: &MakeRustlsConnect,
    hosts: &Hosts,
    deadline: Deadline,
) -> Result<Opened, Failure> {
    let (names, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = names.len().max(addresses.len());
    let is_random = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
    let mut order: Vec<usize> = (0..count).collect();
    if is_random {
        fastrand::shuffle(&mut order);
    }
    hosts.sort(&mut order);
    let attempts = Attempts { target, config, tls, hosts, is_random };
    let mut failures = Vec::new();
    for (tried, index) in order.into_iter().enumerate() {
        if deadline.has_passed() {
            break;
        }
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
        let share = share(deadline, count - tried);
        let (name, address) = (names.get(index), addresses.get(index));
        match attempts.open_host(index, name, address, port, share) {
            Ok(opened) => return Ok(opened),
            Err(failure) => failures.push((name_of(name, address, port), failure)),
        }
    }
    Err(Failure::of_several(failures))
}

/// An equal part of the time that is left, if `count` remain that need a part.
fn share(deadline: Deadline, count: usize) -> Deadline {
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    if count == 1 { deadline } else { deadline.within(deadline.left() / count) }
}

/// The attempts of one opening.
struct Attempts<'a> {
    target: &'a Target,
    config: &'a Config,
    tls: &'a MakeRustlsConnect,
    hosts: &'a Hosts,
    /// Whether the addresses of a host are tried in random order.
    is_random: bool,
}

impl Attempts<'_> {
    /// Tries the addresses of one host.
    fn open_host(
        &self,
        index: usize,
        host: Option<&Host>,
        address: Option<&IpAddr>,
        port: u16,
        deadline: Deadline,
    ) -> Result<Opened, Failure> {
        let servers = servers(host, address, port, self.limit(deadline));
        let mut servers = servers.inspect_err(|failure| {
            if let Failure::TimeUp = failure {
                self.hosts.note_silent(index);
            }
        })?;
        if self.is_random {
            fastrand::shuffle(&mut servers);
        }
        let count = servers.len();
        let mut last = Failure::TimeUp;
        for (tried, server) in servers.into_iter().enumerate() {
            if deadline.has_passed() {
                break;
            }
            match self.open_server(&server, self.limit(share(deadline, count - tried))) {
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

    /// Tries the modes of TLS that the URL allows. If all fail, the failure of the attempt with TLS is returned.
    fn open_server(&self, server: &Server, deadline: Deadline) -> Result<Opened, Failure> {
        let mut failure = None;
        for mode in self.target.tls.attempts() {
            let mut config = self.config.clone();
            config.ssl_mode(*mode);
            match server.clone().open(&config, self.tls, deadline) {
                Ok(opened) => return Ok(opened),
                Err(Failure::TimeUp) => return Err(failure.unwrap_or(Failure::TimeUp)),
                Err(error) => {
                    let last = !error.other_mode_may_do();
                    if failure.is_none() || *mode != SslMode::Disable {
                        failure = Some(error);
                    }
                    // "sslmode is ignored for Unix domain socket communication."
                    if last || server.address.is_unix() {
                        break;
                    }
                }
            }
        }
        Err(failure.unwrap_or(Failure::TimeUp))
    }

    /// The time of one address, which `connect_timeout` bounds.
    fn limit(&self, deadline: Deadline) -> Deadline {
        let own = self.config.get_connect_timeout().filter(|timeout| !timeout.is_zero());
        own.map_or(deadline, |timeout| deadline.within(*timeout))
    }
}

/// Asks the server to end the session's work. Returns whether the request reached the server in time; no answer tells
/// whether the server acted.
///
/// The server closes the connection when it has acted on the request. Like libpq, this waits for the close, because
/// some poolers drop the request of a client that closes first.
pub(super) fn cancel(
    token: &CancelToken,
    server: &Server,
    tls: &MakeRustlsConnect,
    deadline: Deadline,
) -> bool {
    let told = || -> Result<(), Failure> {
        let socket = server.reach(&Config::new(), deadline)?;
        let cancelled =
            token.cancel_query_raw(Stream(Arc::clone(&socket)), server.tls(tls, &Slot::default())?);
        run(&socket, cancelled, deadline)?.map_err(Failure::Refused)?;
        let closed_by = deadline.within(CLOSE_GRACE).instant();
        while socket.wait(closed_by) && socket.take(&mut Vec::new()).is_ok() {}
        Ok(())
    };
    told().inspect_err(|failure| log::debug!("a cancel request was not sent: {failure}")).is_ok()
}

/// The servers of a host in the URL. An address in the URL saves the look-up of the host's name.
fn servers(
    host: Option<&Host>,
    address: Option<&IpAddr>,
    port: u16,
    deadline: Deadline,
) -> Result<Vec<Server>, Failure> {
    let name = match host {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(directory)) if address.is_none() => {
            let path = directory.join(format!(".s.PGSQL.{port}"));
            let address = SockAddr::unix(path).map_err(Failure::Unreachable)?;
            return Ok(vec![Server { address, name: String::new() }]);
        }
        Some(Host::Unix(_)) | None => String::new(),
    };
    let addresses = match address.copied().or_else(|| name.parse().ok()) {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => look_up(name.clone(), port, deadline)?,
    };
    Ok(addresses.into_iter().map(|address| Server { address: address.into(), name: name.clone() }).collect())
}

/// The name of a host in messages.
fn name_of(host: Option<&Host>, address: Option<&IpAddr>, port: u16) -> String {
    match (host, address) {
        (Some(Host::Tcp(name)), _) => format!("{name}:{port}"),
        (_, Some(address)) => SocketAddr::new(*address, port).to_string(),
        (Some(Host::Unix(directory)), None) => format!("{}/.s.PGSQL.{port}", directory.display()),
        (None, None) => port.to_string(),
    }
}

/// Looks up a name on a thread of its own, because the system's look-up knows no deadline.
fn look_up(name: String, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, Failure> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let look_up = move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // The receiver may have given up waiting.
        drop(sender.send(found));
    };
    thread::Builder::new().name("look-up".into()).spawn(look_up).map_err(Failure::Unreachable)?;
    receiver.recv_deadline(deadline.instant()).map_err(|_| Failure::TimeUp)?.map_err(Failure::Unreachable)
}

impl Server {
    fn open(self, config: &Config, tls: &MakeRustlsConnect, deadline: Deadline) -> Result<Opened, Failure> {
        let socket = self.reach(config, deadline)?;
        let mut config = config.clone();
        if self.address.is_unix() {
            // "sslmode is ignored for Unix domain socket communication."
            config.ssl_mode(SslMode::Disable);
        }
        let slot = Slot::default();
        let opening = config.connect_raw(Stream(Arc::clone(&socket)), self.tls(tls, &slot)?);
        let opened = run(&socket, opening, deadline)?;
        let (client, mut connection) = opened.map_err(Failure::Refused)?;
        refuse_other_kind(&config, &client, &mut connection, &socket, deadline)?;
        let version = connection.parameter("server_version").and_then(major);
        let access = connection.parameter("default_transaction_read_only").map(access_of);
        let cancel = client.cancel_token();
        let process = process_named_by(&cancel);
        // Dropping them sends no good-bye, because nothing drives them.
        drop((connection, client));
        let channel = Channel::new(socket, &slot);
        Ok(Opened { channel, server: self, cancel, process, version: version.unwrap_or(0), access })
    }

    /// Connects a socket to the server.
    fn reach(&self, config: &Config, deadline: Deadline) -> Result<Arc<Socket>, Failure> {
        let timeout = deadline.left();
        if timeout.is_zero() {
            return Err(Failure::TimeUp);
        }
        let connect = || -> io::Result<Arc<Socket>> {
            let socket = RawSocket::new(self.address.domain(), Type::STREAM, None)?;
            if self.address.domain() != Domain::UNIX {
                socket.set_tcp_nodelay(true)?;
                system::set_user_timeout(&socket, config.get_tcp_user_timeout().copied())?;
                if config.get_keepalives() {
                    socket.set_tcp_keepalive(&keepalive(config))?;
                }
            }
            socket.connect_timeout(&self.address, timeout)?;
            Socket::new(socket)
        };
        connect().map_err(|error| match error.kind() {
            ErrorKind::TimedOut if deadline.has_passed() => Failure::TimeUp,
            _ => Failure::Unreachable(error),
        })
    }

    fn tls(&self, tls: &MakeRustlsConnect, slot: &Slot) -> Result<Handshake, Failure> {
        let made = MakeTlsConnect::<Stream>::make_tls_connect(&mut tls.clone(), &self.name);
        let connector = made.map_err(|error| Failure::Unreachable(io::Error::other(error)))?;
        Ok(Handshake::new(connector, slot))
    }
}

/// The major version, such as `15` of `15.18 (Debian 15.18-0+deb12u1)`.
fn major(version: &str) -> Option<u32> {
    version.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// The access that this value of `default_transaction_read_only` means.
pub(super) fn access_of(read_only: &str) -> Access {
    if read_only == "on" { Access::ReadOnly } else { Access::ReadWrite }
}

fn keepalive(config: &Config) -> TcpKeepalive {
    let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
    if let Some(interval) = config.get_keepalives_interval() {
        keepalive = keepalive.with_interval(interval);
    }
    match config.get_keepalives_retries() {
        Some(retries) => keepalive.with_retries(retries),
        None => keepalive,
    }
}

/// Refuses a server that is a primary or a standby where `target_session_attrs` asks for the other.
fn refuse_other_kind(
    config: &Config,
    client: &Client,
    connection: &mut Connection,
    socket: &Socket,
    deadline: Deadline,
) -> Result<(), Failure> {
    let wanted = config.get_target_session_attrs();
    if wanted == TargetSessionAttrs::Any {
        return Ok(());
    }
    let mut asked = Box::pin(client.simple_query("SHOW transaction_read_only"));
    let answer = std::future::poll_fn(|context| {
        if let Poll::Ready(answer) = asked.as_mut().poll(context) {
            return Poll::Ready(answer);
        }
        // If the connection ends, the question ends as well.
        while let Poll::Ready(Some(Ok(_))) = connection.poll_message(context) {}
        asked.as_mut().poll(context)
    });
    let messages = run(socket, answer, deadline)?.map_err(Failure::Refused)?;
    let reads_only = messages.iter().any(
        |message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0).is_some_and(|value| value == "on")),
    );
    let refusal = match wanted {
        TargetSessionAttrs::ReadWrite if reads_only => "database does not allow writes",
        TargetSessionAttrs::ReadOnly if !reads_only => "database is not read only",
        _ => return Ok(()),
    };
    Err(Failure::Unreachable(io::Error::new(ErrorKind::PermissionDenied, refusal)))
}

/// Runs work that waits only for the socket.
fn run<T>(socket: &Socket, work: impl Future<Output = T>, deadline: Deadline) -> Result<T, Failure> {
    let mut work = std::pin::pin!(work);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return Ok(done);
        }
        if !socket.wait(deadline.instant()) {
            return Err(Failure::TimeUp);
        }
    }
}
