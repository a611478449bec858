//! The socket on which clients connect: a TCP address, a Unix socket, or one that systemd passes on. Main thread.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use super::socket_access;
use crate::base::system;
use crate::config::{Listen, SocketAccess};

/// How many clients may wait in the kernel until they are accepted. A lower `net.core.somaxconn` lowers it.
const BACKLOG: i32 = 1024;

/// A socket that clients can connect to.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    address: Address,
    file: Option<SocketFile>,
    /// Whether another process has the same socket and goes on listening.
    inherited: bool,
}

/// The file of a Unix socket that this process made. Device and inode tell it from a later file at the same path.
#[derive(Debug)]
pub(crate) struct SocketFile {
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
    pub(crate) fn remove(&self) -> io::Result<()> {
        let found = std::fs::symlink_metadata(&self.path)?;
        let ours = found.dev() == self.device && found.ino() == self.inode;
        if ours { std::fs::remove_file(&self.path) } else { Ok(()) }
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

impl Listener {
    /// Binds the configured address. The file of a Unix socket is replaced if no process listens on it any more. Any
    /// other file is left alone. `reuse_port` lets other processes listen on the same TCP port (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// When the system refuses, or systemd has passed no socket.
    pub(crate) fn bind(listen: &Listen, reuse_port: bool) -> io::Result<Self> {
        Self::bind_for(listen, reuse_port, SocketAccess::default())
    }

    /// Binds; `access` says which accounts may connect to a Unix socket.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), and an owner or a group that cannot be set.
    pub(crate) fn bind_for(listen: &Listen, reuse_port: bool, access: SocketAccess<'_>) -> io::Result<Self> {
        let socket = match listen {
            Listen::Tcp(address) => tcp(*address, reuse_port)?,
            Listen::Unix(path) => unix(path, access)?,
            Listen::Inherited => inherited()?,
        };
        let local = socket.local_addr()?;
        let address = local
            .as_socket()
            .map_or_else(|| Address::Unix(local.as_pathname().map(Path::to_owned)), Address::Tcp);
        let file = if let Listen::Unix(path) = listen { Some(SocketFile::at(path)?) } else { None };
        Ok(Self { socket, address, file, inherited: *listen == Listen::Inherited })
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
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

fn tcp(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // As std does: a restart need not wait until the last connections' TIME_WAIT has passed.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn unix(path: &Path, access: SocketAccess<'_>) -> io::Result<Socket> {
    // Before there is a file.
    let access = socket_access::Resolved::new(access)?;
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if is_abandoned(path, &address)? {
        std::fs::remove_file(path)?;
    }
    socket.bind(&address)?;
    if let Err(error) = access.apply(path) {
        std::fs::remove_file(path)?;
        return Err(error);
    }
    // Nobody can connect before this, whatever the file was like until now.
    socket.listen(BACKLOG)?;
    Ok(socket)
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

/// The first socket that systemd passes (`sd_listen_fds`(3)): the unit's `ListenStream=`.
fn inherited() -> io::Result<Socket> {
    let (_, descriptor) =
        sd_listen_fds::get().map_err(io::Error::other)?.into_iter().next().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "systemd has passed no socket (LISTEN_FDS and LISTEN_PID are not for this process)",
            )
        })?;
    let socket = Socket::from(descriptor.into_std());
    if !system::is_listener(&socket)? || socket.r#type()? != Type::STREAM {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "systemd has passed no listening stream socket",
        ));
    }
    Ok(socket)
}
