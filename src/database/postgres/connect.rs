//! Reaches a PostgreSQL server: its hosts one after the other, their addresses, and the settings of a session from
//! libpq's parameters.
//!
//! Runs on the thread that opens a session. Nothing here waits past the deadline. Only a name look-up that the system
//! does not end occupies its own thread for longer.
//!
//! Each host has a share of the time, and each address of a host a share of the host's time: an equal part of the time
//! that is left. `connect_timeout` is the most for one address. As in libpq, it counts the whole login: the connection, TLS, the
//! authentication and the first questions. The last address has all the time that is left.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket as RawSocket, TcpKeepalive, Type};
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::{Access, Category};
use super::channel::{Channel, Handshake, Shared, Slot, process_named_by};
use super::url::{Place, Role, Target, explain};
use crate::base::deadline::Deadline;
use crate::base::system;
use crate::database::hosts::{Hosts, LookUp, look_up, may_pass, share};
use crate::database::socket::{Socket, Stream};

/// The time that a server has to act on a cancel request, and so to close its connection. It is shorter than the time
/// for a cancelled statement to end. So a server that does neither leaves time for the statement's own answer.
const CLOSE_GRACE: Duration = Duration::from_millis(300);

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
    /// The host of the URL, whose name its certificate must have.
    pub(super) place: Place,
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
    /// The server is not of the kind that is wanted. It may become one, as a standby does at a failover.
    OtherRole(String),
    /// Several hosts have failed: the name of each one, and its failure.
    Several(Vec<(String, Failure)>),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => f.write_str(&explain(error)),
            Self::Unreachable(error) => write!(f, "error connecting to server: {error}"),
            Self::TimeUp => f.write_str("no answer in time"),
            Self::OtherRole(reason) => f.write_str(reason),
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
            Self::TimeUp | Self::OtherRole(_) => true,
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
            Self::TimeUp | Self::OtherRole(_) | Self::Several(_) => false,
        }
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
    let is_random = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
    let wishes: &[Role] = match &target.wanted {
        // If no host is a standby, any host will do.
        Role::PreferStandby => &[Role::Standby, Role::Any],
        wanted => std::slice::from_ref(wanted),
    };
    let mut left = wishes.len() * target.hosts.len();
    let mut failures = Vec::new();
    for wanted in wishes {
        let mut order: Vec<usize> = (0..target.hosts.len()).collect();
        if is_random {
            fastrand::shuffle(&mut order);
        }
        hosts.sort(&mut order);
        failures.clear();
        let attempts = Attempts { target, config, tls, hosts, is_random, wanted: *wanted };
        for index in order {
            if deadline.has_passed() {
                break;
            }
            let place = &target.hosts[index];
            match attempts.open_host(index, place, share(deadline, left)) {
                Ok(opened) => return Ok(opened),
                Err(failure) => failures.push((place.name(), failure)),
            }
            left -= 1;
        }
    }
    Err(Failure::of_several(failures))
}

/// The attempts of one opening.
struct Attempts<'a> {
    target: &'a Target,
    config: &'a Config,
    tls: &'a MakeRustlsConnect,
    hosts: &'a Hosts,
    /// Whether the addresses of a host are tried in random order.
    is_random: bool,
    /// The kind of server that is wanted.
    wanted: Role,
}

impl Attempts<'_> {
    /// Tries the addresses of one host.
    fn open_host(&self, index: usize, place: &Place, deadline: Deadline) -> Result<Opened, Failure> {
        let servers = servers(place, self.limit(deadline));
        let mut servers = servers.inspect_err(|failure| {
            if let Failure::TimeUp = failure {
                self.hosts.note_silent(index);
            }
        })?;
        if self.is_random {
            fastrand::shuffle(&mut servers);
        }
        let count = servers.len();
        let config = self.target.with_password(self.config, place);
        let mut last = Failure::TimeUp;
        for (tried, server) in servers.into_iter().enumerate() {
            if deadline.has_passed() {
                break;
            }
            match self.open_server(&server, &config, self.limit(share(deadline, count - tried))) {
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
    fn open_server(&self, server: &Server, config: &Config, deadline: Deadline) -> Result<Opened, Failure> {
        let mut failure = None;
        for mode in self.target.tls.attempts() {
            let mut config = config.clone();
            config.ssl_mode(*mode);
            match server.clone().open(&config, self.tls, self.wanted, deadline) {
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
fn servers(place: &Place, deadline: Deadline) -> Result<Vec<Server>, Failure> {
    let Place { host, address, port } = place;
    let addresses = match (host, address) {
        (_, Some(address)) => vec![SocketAddr::new(*address, *port)],
        (Host::Tcp(name), None) => match name.parse() {
            Ok(address) => vec![SocketAddr::new(address, *port)],
            Err(_) => look_up(name.clone(), *port, deadline).map_err(|error| match error {
                LookUp::TimeUp => Failure::TimeUp,
                LookUp::Failed(error) => Failure::Unreachable(error),
            })?,
        },
        (Host::Unix(directory), None) => {
            let path = directory.join(format!(".s.PGSQL.{port}"));
            let address = SockAddr::unix(path).map_err(Failure::Unreachable)?;
            return Ok(vec![Server { address, place: place.clone() }]);
        }
    };
    Ok(addresses
        .into_iter()
        .map(|address| Server { address: address.into(), place: place.clone() })
        .collect())
}

impl Server {
    fn open(
        self,
        config: &Config,
        tls: &MakeRustlsConnect,
        wanted: Role,
        deadline: Deadline,
    ) -> Result<Opened, Failure> {
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
        refuse_other_role(wanted, &client, &mut connection, &socket, deadline)?;
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
        let name = match &self.place.host {
            Host::Tcp(name) => name.as_str(),
            Host::Unix(_) => "",
        };
        let made = MakeTlsConnect::<Stream>::make_tls_connect(&mut tls.clone(), name);
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

/// Refuses a server that is not of the kind for which `target_session_attrs` asks.
fn refuse_other_role(
    wanted: Role,
    client: &Client,
    connection: &mut Connection,
    socket: &Socket,
    deadline: Deadline,
) -> Result<(), Failure> {
    if wanted == Role::Any {
        return Ok(());
    }
    let (is_standby, reads_only) = role(client, connection, socket, deadline)?;
    let name = match wanted {
        Role::ReadWrite if reads_only => "read-write",
        Role::ReadOnly if !reads_only => "read-only",
        Role::Primary if is_standby => "primary",
        Role::Standby if !is_standby => "standby",
        _ => return Ok(()),
    };
    let is = match (is_standby, reads_only) {
        (true, _) => "a standby",
        (false, true) => "a primary whose transactions are read-only",
        (false, false) => "a primary that takes writes",
    };
    Err(Failure::OtherRole(format!("the server is {is}, and target_session_attrs={name} asks for another")))
}

/// Whether the server is a standby, and whether its transactions only read by default.
fn role(
    client: &Client,
    connection: &mut Connection,
    socket: &Socket,
    deadline: Deadline,
) -> Result<(bool, bool), Failure> {
    const QUESTION: &str =
        "select pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";
    // PostgreSQL reports both from version 14 on.
    let reported = |name: &str| connection.parameter(name).map(|value| value == "on");
    if let (Some(is_standby), Some(reads_only)) =
        (reported("in_hot_standby"), reported("default_transaction_read_only"))
    {
        return Ok((is_standby, is_standby || reads_only));
    }
    let mut asked = Box::pin(client.simple_query(QUESTION));
    let answer = std::future::poll_fn(|context| {
        if let Poll::Ready(answer) = asked.as_mut().poll(context) {
            return Poll::Ready(answer);
        }
        // If the connection ends, the question ends as well.
        while let Poll::Ready(Some(Ok(_))) = connection.poll_message(context) {}
        asked.as_mut().poll(context)
    });
    let messages = run(socket, answer, deadline)?.map_err(Failure::Refused)?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)? == "t", row.get(1)? == "on")),
        _ => None,
    });
    row.ok_or_else(|| {
        Failure::Unreachable(io::Error::other("the server did not tell whether it is a standby"))
    })
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
