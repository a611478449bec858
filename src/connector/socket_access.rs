//! Makes a Unix socket's file what the configuration says. Main thread.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::unistd::{Group, User};

use crate::config::{Mode, SocketAccess};

/// With numbers in place of names.
pub(super) struct Resolved {
    /// The section of the keys, for messages.
    section: String,
    mode: Option<Mode>,
    owner: Option<u32>,
    group: Option<u32>,
}

impl Resolved {
    /// Asks the system for the numbers.
    pub(super) fn new(access: SocketAccess<'_>) -> io::Result<Self> {
        let user = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
        let group = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
        let section = access.section;
        let number = |key: &str, kind, name, find: &dyn Fn(&str) -> nix::Result<Option<u32>>| {
            number(&format!("{section}.{key}"), kind, name, find)
        };
        Ok(Self {
            section: section.to_owned(),
            mode: access.mode,
            owner: access.owner.map(|name| number("unix_owner", "user", name, &user)).transpose()?,
            group: access.group.map(|name| number("unix_group", "group", name, &group)).transpose()?,
        })
    }

    /// Before the socket listens.
    pub(super) fn apply(&self, path: &Path) -> io::Result<()> {
        let of = |keys: &[&str], error: io::Error| {
            let keys: Vec<_> = keys.iter().map(|key| format!("{}.{key}", self.section)).collect();
            io::Error::new(error.kind(), format!("{}: {error}", keys.join(", ")))
        };
        if self.owner.is_some() || self.group.is_some() {
            let changed = std::os::unix::fs::lchown(path, self.owner, self.group);
            changed.map_err(|error| of(&["unix_owner", "unix_group"], error))?;
        }
        match self.mode {
            Some(Mode(mode)) => fs::set_permissions(path, Permissions::from_mode(mode))
                .map_err(|error| of(&["unix_mode"], error)),
            None => Ok(()),
        }
    }
}

/// A name's number, or the number that it is.
fn number(
    key: &str,
    kind: &str,
    name: &str,
    find: impl FnOnce(&str) -> nix::Result<Option<u32>>,
) -> io::Result<u32> {
    match find(name)
        .map_err(|error| io::Error::other(format!("{key}: {name:?} cannot be looked up: {error}")))?
    {
        Some(number) => Ok(number),
        None => name.parse().map_err(|_| {
            io::Error::new(io::ErrorKind::NotFound, format!("{key}: no {kind} is called {name:?}"))
        }),
    }
}
