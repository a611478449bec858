//! The file of a SQLite database: where it is, how it is opened, and whether it is still the same.
//!
//! Any thread.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use rusqlite::{Connection, Error as SqliteError, OpenFlags};

use super::super::Error;

/// The start of a URL of SQLite.
pub(in super::super) const SCHEME: &str = "sqlite:";

/// The characters that end or change a path in a URI of SQLite's (sqlite.org/uri.html).
const RESERVED: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');

/// The access to the file: `mode` of the URL, as in SQLite's own URIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// `ro`: they only read it.
    ReadOnly,
    /// `rw`: they read and write it. It must exist.
    ReadWrite,
    /// `rwc`, the default: the first session makes it where it is missing.
    Create,
    /// There is no file, and the database is empty: for a look at a file that a server would make.
    Empty,
}

/// The file of a pool's sessions.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    mode: Mode,
    /// `immutable`: nobody writes the file, so SQLite neither locks it nor looks for changes.
    immutable: bool,
    /// A session was opened on it. From then on it is not made again: a file that was removed is missed.
    was_opened: AtomicBool,
}

/// Tells a file from another one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl File {
    /// Reads a URL: `sqlite:FILE`, with `?mode=` and `immutable=` as in SQLite's own URIs.
    ///
    /// # Errors
    /// The URL has no file or an unknown parameter, or the file's directory is missing.
    pub(super) fn of(url: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Err(Error::Url(reason));
        let (name, parameters) = parts(url);
        if name.is_empty() {
            return wrong("sqlite: needs a file, as in sqlite:flights.db".to_owned());
        }
        if name.starts_with(":memory:") {
            let reason =
                "sqlite::memory: cannot be served: each session of the pool would have its own database";
            return wrong(reason.to_owned());
        }
        if name.starts_with("//") && !name.starts_with("///") {
            return wrong(format!("write sqlite:FILE, as in sqlite:{}", name.trim_start_matches('/')));
        }
        let (mut mode, mut immutable) = (None, false);
        for (key, value) in form_urlencoded::parse(parameters.as_bytes()) {
            match (&*key, &*value) {
                ("mode", "ro") => mode = Some(Mode::ReadOnly),
                ("mode", "rw") => mode = Some(Mode::ReadWrite),
                ("mode", "rwc") => mode = Some(Mode::Create),
                ("immutable", "1") => immutable = true,
                ("immutable", "0") => immutable = false,
                ("mode", other) => {
                    return wrong(format!("sqlite: mode is {other:?}; expected ro, rw or rwc"));
                }
                ("immutable", other) => {
                    return wrong(format!("sqlite: immutable is {other:?}; expected 0 or 1"));
                }
                (other, _) => {
                    return wrong(format!("sqlite: unknown parameter {other:?}; expected mode or immutable"));
                }
            }
        }
        let mode = match mode {
            None | Some(Mode::ReadOnly) if immutable => Mode::ReadOnly,
            Some(_) if immutable => {
                return wrong("sqlite: an immutable file is only read; expected mode=ro".to_owned());
            }
            mode => mode.unwrap_or(Mode::Create),
        };
        let path = PathBuf::from(name);
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        if let Some(missing) = directory.filter(|directory| !directory.is_dir()) {
            return wrong(format!("{}: no such directory", missing.display()));
        }
        Ok(Self { path, mode, immutable, was_opened: AtomicBool::new(false) })
    }

    /// The same file for sessions that neither make nor change it.
    pub(super) fn for_a_look(&self) -> Self {
        let is_made = self.mode == Mode::Create && !self.path.exists();
        let mode = if is_made { Mode::Empty } else { Mode::ReadOnly };
        Self { path: self.path.clone(), mode, immutable: self.immutable, was_opened: AtomicBool::new(false) }
    }

    pub(super) fn is_read_only(&self) -> bool {
        matches!(self.mode, Mode::ReadOnly | Mode::Empty)
    }

    /// Opens the file.
    pub(super) fn open(&self) -> Result<Connection, SqliteError> {
        let access = match self.mode {
            Mode::ReadOnly => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Mode::Create if !self.was_opened.load(Ordering::Relaxed) => {
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
            }
            Mode::ReadWrite | Mode::Create => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Mode::Empty => return Connection::open_in_memory(),
        };
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let connection = if self.immutable {
            let path = self.path.to_string_lossy();
            let uri = format!("file:{}?immutable=1", utf8_percent_encode(&path, RESERVED));
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
        } else {
            Connection::open_with_flags(&self.path, flags)?
        };
        self.was_opened.store(true, Ordering::Relaxed);
        Ok(connection)
    }

    /// The file of this name at the moment. `None`: no file has it.
    pub(super) fn identity(&self) -> Option<Identity> {
        let metadata = fs::metadata(&self.path).ok()?;
        Some(Identity { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Says what to do about an error, where the reason is most likely that the file cannot be written.
    pub(super) fn advice(&self, error: &SqliteError) -> String {
        use rusqlite::ErrorCode::{CannotOpen, ReadOnly};
        let is_refused = matches!(error.sqlite_error_code(), Some(CannotOpen | ReadOnly));
        if is_refused && !self.path.exists() {
            let made = if self.mode == Mode::Create { ", and it cannot be made" } else { "" };
            format!("no such file{made}")
        } else if !is_refused || self.is_read_only() {
            error.to_string()
        } else {
            format!(
                "{error}; for a file that is only read, write sqlite:{}?mode=ro, or ?immutable=1 where its directory cannot be \
                 written either",
                self.path.display()
            )
        }
    }
}

/// The file's name in a URL of SQLite, and the parameters.
fn parts(url: &str) -> (&str, &str) {
    let name = url.strip_prefix(SCHEME).unwrap_or(url);
    name.split_once('?').unwrap_or((name, ""))
}

/// The file of a URL of SQLite; `None`: the URL is of another database.
pub(crate) fn file_of(url: &str) -> Option<&Path> {
    url.starts_with(SCHEME).then(|| Path::new(parts(url).0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_how_the_file_is_opened() {
        for (url, mode, immutable) in [
            ("sqlite:x.db", Mode::Create, false),
            ("sqlite:x.db?mode=rwc&immutable=0", Mode::Create, false),
            ("sqlite:x.db?mode=rw", Mode::ReadWrite, false),
            ("sqlite:x.db?mode=ro", Mode::ReadOnly, false),
            ("sqlite:x.db?immutable=1", Mode::ReadOnly, true),
            ("sqlite:x.db?mode=ro&immutable=1", Mode::ReadOnly, true),
        ] {
            let file = File::of(url).expect("a good URL");
            assert_eq!(
                (&*file.path, file.mode, file.immutable),
                (Path::new("x.db"), mode, immutable),
                "{url}"
            );
        }
        for (url, reason) in [
            ("sqlite:?mode=ro", "needs a file"),
            ("sqlite:x.db?mode=memory", "mode is \"memory\"; expected ro, rw or rwc"),
            ("sqlite:x.db?immutable=yes", "immutable is \"yes\"; expected 0 or 1"),
            ("sqlite:x.db?immutable=1&mode=rw", "expected mode=ro"),
            ("sqlite:x.db?cache=shared", "unknown parameter \"cache\"; expected mode or immutable"),
            ("sqlite:missing/x.db", "missing: no such directory"),
        ] {
            let error = File::of(url).expect_err(url).to_string();
            assert!(error.contains(reason), "{url}: {error}");
        }
    }
}
