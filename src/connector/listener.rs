//! The sockets on which clients connect: TCP addresses, Unix sockets, and those that systemd passes on. Main thread.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::socket_access;
use crate::base::system;
use crate::config::{Config, Listen, SocketAccess};

/// How many clients may wait in the kernel until they are accepted. A lower `net.core.somaxconn` lowers it.
const BACKLOG: i32 = 1024;

/// How often, and after which pause, a start tries to lock the directory of a Unix socket. Another start holds the lock for less than a
/// millisecond.
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The bound listeners for clients, in the order of the configuration.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) all: Vec<Listener>,
    pub(crate) files: SocketFiles,
}

/// The files of Unix sockets that this process made. Until they are to [stay](Self::keep), dropping this removes them, so
/// a start that fails leaves none.
#[derive(Debug, Default)]
pub(crate) struct SocketFiles {
    files: Vec<SocketFile>,
    stay: bool,
}

/// An address that cannot be bound.
#[derive(Debug)]
pub(crate) struct BindError {
    pub(crate) address: Listen,
    pub(crate) cause: io::Error,
}

/// A socket that clients can connect to.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    address: Address,
    /// Whether another process has the same socket and goes on listening.
    inherited: bool,
}

/// The file of a Unix socket that this process made. Device and inode tell it from a later file at the same path.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    /// Removes the file if it is still this process's own. Call it before the listener closes: after that the file
    /// looks abandoned, so another process may bind the path and would lose its file.
    fn remove(&self) -> io::Result<()> {
        let found = std::fs::symlink_metadata(&self.path)?;
        let ours = found.dev() == self.device && found.ino() == self.inode;
        if ours { std::fs::remove_file(&self.path) } else { Ok(()) }
    }
}

impl SocketFiles {
    /// The start has succeeded: only [`remove`](Self::remove) removes the files from now on.
    pub(crate) fn keep(&mut self) {
        self.stay = true;
    }

    /// Removes the files that are still this process's own. Call it before the listeners close.
    pub(crate) fn remove(&mut self) {
        for file in self.files.drain(..) {
            if let Err(error) = file.remove() {
                log::warn!("unix:{} cannot be removed: {error}", file.path.display());
            }
        }
    }
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        if !self.stay {
            self.remove();
        }
    }
}

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address. If port 0 was asked for, it has the port that the system chose.
    Tcp(SocketAddr),
    /// A socket in the file system; `None` for one without a name.
    Unix(Option<PathBuf>),
}

impl Listeners {
    /// Binds the address of every configured listener, or of none. The file of a Unix socket is replaced if no process
    /// listens on it any more. Any other file is left alone. With `server.reuse_port` other processes may listen on the
    /// same TCP ports (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// When the system refuses an address, an owner or a group, or systemd has passed no socket for it.
    pub(crate) fn bind(config: &Config) -> Result<Self, BindError> {
        let listeners = config.listeners();
        let has_v4 = |port| {
            let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            port != 0 && listeners.iter().any(|listener| listener.address == every.into())
        };
        let (mut all, mut passed) = (Vec::new(), Passed::default());
        // Before the listeners in the order of drops: a file goes before its listener closes.
        let mut files = SocketFiles::default();
        for (index, listener) in listeners.iter().enumerate() {
            let section = config.section_of_listener(index);
            let address = &listener.address;
            let socket = match address {
                Listen::Tcp(address) => {
                    let is_every_v6 = address.is_ipv6() && address.ip().is_unspecified();
                    // A socket for every IPv6 address takes IPv4 clients too, unless a listener of its own does.
                    tcp(*address, config.server.reuse_port, is_every_v6 && has_v4(address.port()))
                }
                Listen::Unix(path) => unix(path, listener.socket_access(&section)).map(|(socket, file)| {
                    files.files.push(file);
                    socket
                }),
                Listen::Inherited => passed.take(None),
                Listen::Named(name) => passed.take(Some(name)),
            };
            let is_inherited = matches!(address, Listen::Inherited | Listen::Named(_));
            let bound = socket.and_then(|socket| Listener::new(socket, is_inherited));
            all.push(bound.map_err(|cause| BindError { address: address.clone(), cause })?);
        }
        passed.warn_of_the_rest();
        Ok(Self { all, files })
    }
}

impl Listener {
    /// Binds one TCP address. `reuse_port` lets other processes listen on the same port (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn bind_tcp(address: SocketAddr, reuse_port: bool) -> io::Result<Self> {
        Self::new(tcp(address, reuse_port, false)?, false)
    }

    fn new(socket: Socket, inherited: bool) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let address = local
            .as_socket()
            .map_or_else(|| Address::Unix(local.as_pathname().map(Path::to_owned)), Address::Tcp);
        Ok(Self { socket, address, inherited })
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Whether closing it resets clients that have connected and are not accepted yet.
    pub(crate) fn closes_for_all(&self) -> bool {
        !self.inherited
    }

    /// Drops new attempts to connect, so that the listener can be closed with an empty backlog. A client that tries is
    /// not told: its system tries again after a second, and then finds another listener on the port, or none.
    ///
    /// # Errors
    /// When the system has no such filters. Then clients can connect as before.
    pub(crate) fn turn_away(&self) -> io::Result<()> {
        match self.address {
            Address::Tcp(_) if !self.inherited => system::refuse_newcomers(&self.socket),
            // A Unix socket's file is gone already, and a socket from systemd is systemd's to close.
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Self::Unix(None) => f.write_str("unix"),
        }
    }
}

fn tcp(address: SocketAddr, reuse_port: bool, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if only_v6 {
        socket.set_only_v6(true)?;
    }
    // As std does: a restart need not wait until the last connections' TIME_WAIT has passed.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn unix(path: &Path, access: SocketAccess<'_>) -> io::Result<(Socket, SocketFile)> {
    // Before there is a file.
    let access = socket_access::Resolved::new(access)?;
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let _lock = lock_directory(path)?;
    if is_abandoned(path, &address)? {
        std::fs::remove_file(path)?;
    }
    socket.bind(&address)?;
    let made = access.apply(path).and_then(|()| SocketFile::at(path)).and_then(|file| {
        // Nobody can connect before this, whatever the file was like until now.
        socket.listen(BACKLOG)?;
        Ok(file)
    });
    match made {
        Ok(file) => Ok((socket, file)),
        Err(error) => {
            std::fs::remove_file(path)?;
            Err(error)
        }
    }
}

/// Locks the directory of a socket's file until the result is dropped. Two servers could otherwise find the same stale file. The slower
/// one would then remove the file of the faster one, to which nobody could connect any more.
fn lock_directory(path: &Path) -> io::Result<Option<File>> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = match File::open(parent) {
        Ok(directory) => directory,
        // A server may write into a directory that it cannot read. Its file can be made, only not locked.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            log::debug!("{} cannot be locked: {error}", parent.display());
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    for _ in 0..LOCK_TRIES {
        match directory.try_lock() {
            Ok(()) => return Ok(Some(directory)),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => {
                log::debug!("{} cannot be locked: {error}", parent.display());
                return Ok(None);
            }
        }
    }
    let said = format!("{} is locked by another process", parent.display());
    Err(io::Error::new(io::ErrorKind::WouldBlock, said))
}

/// Whether the process of a socket's file has ended without removing the file.
fn is_abandoned(path: &Path, address: &SockAddr) -> io::Result<bool> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if !is_socket {
        return Ok(false);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Without this, a listener with a full backlog would make the attempt wait.
    probe.set_nonblocking(true)?;
    let refused = probe.connect(address).err().map(|error| error.kind());
    Ok(refused == Some(io::ErrorKind::ConnectionRefused))
}

/// The sockets that systemd passes (`sd_listen_fds`(3)), as far as no listener has taken them: the `ListenStream=` lines of the
/// socket units, each with the `FileDescriptorName=` of its unit.
#[derive(Default)]
struct Passed {
    /// `None` until the first listener asks. A descriptor must not be owned twice, so the crate is asked once.
    sockets: Option<Vec<(Option<String>, Socket)>>,
    taken: usize,
}

impl Passed {
    /// Takes the next socket, or the next with this name.
    fn take(&mut self, name: Option<&str>) -> io::Result<Socket> {
        let sockets = match &mut self.sockets {
            Some(sockets) => sockets,
            none => {
                let passed = sd_listen_fds::get().map_err(io::Error::other)?.into_iter();
                none.insert(passed.map(|(name, socket)| (name, Socket::from(socket.into_std()))).collect())
            }
        };
        let fits = |passed: &Option<String>| name.is_none_or(|name| passed.as_deref() == Some(name));
        let Some(found) = sockets.iter().position(|(passed, _)| fits(passed)) else {
            let said = match (self.taken, name) {
                (0, None) => {
                    "systemd has passed no socket (LISTEN_FDS and LISTEN_PID are not for this process)"
                        .to_owned()
                }
                (taken, None) => {
                    format!("systemd has passed no more sockets than the {taken} that other listeners have")
                }
                (_, Some(name)) => {
                    let names: Vec<_> = sockets.iter().filter_map(|(name, _)| name.as_deref()).collect();
                    let rest = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                    format!(
                        "systemd has passed no socket named {name:?} (FileDescriptorName) that no other listener has; left: {rest}"
                    )
                }
            };
            return Err(io::Error::new(io::ErrorKind::NotFound, said));
        };
        let (_, socket) = sockets.remove(found);
        self.taken += 1;
        if !system::is_listener(&socket)? || socket.r#type()? != Type::STREAM {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "systemd has passed no listening stream socket",
            ));
        }
        Ok(socket)
    }

    /// Clients of a socket that no listener takes would wait in its backlog without an end.
    fn warn_of_the_rest(&self) {
        let rest = self.sockets.as_ref().map_or(0, Vec::len);
        if rest > 0 {
            let taken = self.taken;
            log::warn!(
                "systemd has passed {} sockets, and only {taken} of them have a listener",
                taken + rest
            );
        }
    }
}
