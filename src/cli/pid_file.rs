//! `server.pid_file`: the process that serves. The file `PIDFILE.reload` beside it has the outcome of the last reload.
//!
//! Main thread of the server, which writes both files, and of `wharf reload`, which reads them. The server holds a lock
//! on its file for its whole life, and the system releases the lock with the process. So a file without a lock was left
//! behind, even when another process now has its number.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

/// `wharf reload` holds a lock for a moment to check that no server holds it. A start that meets this lock tries again.
const LOCK_TRIES: usize = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The file of this server, removed when it is dropped.
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Claims the file for this process, before the server listens. A file that was left behind is taken over.
    pub(super) fn claim(path: &Path) -> anyhow::Result<Self> {
        let of = || format!("server.pid_file: {}", path.display());
        for _ in 0..LOCK_TRIES {
            let mut options = OpenOptions::new();
            let file =
                options.read(true).write(true).create(true).truncate(false).open(path).with_context(of)?;
            match file.try_lock() {
                // The earlier owner may have removed the file before it was locked here.
                Ok(()) if is_at(&file, path) => return Ok(Self { path: path.to_owned(), file }),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(error)) => return Err(error).with_context(of),
            }
        }
        let other = fs::read_to_string(path).unwrap_or_default();
        anyhow::bail!("{}: another server runs, process {}", of(), other.trim())
    }

    /// Writes the id of this process: the server is running.
    pub(super) fn write(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        writeln!(&self.file, "{}", std::process::id())
    }

    /// The writer of the outcomes of reloads.
    pub(super) fn reload_log(&self, configuration: String) -> ReloadLog {
        ReloadLog { path: reload_path(&self.path), configuration }
    }
}

impl PidFile {
    /// Removes the file, and the record of reloads with it.
    pub(super) fn remove(&self) {
        if is_at(&self.file, &self.path) {
            for path in [reload_path(&self.path), self.path.clone()] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        log::warn!("{} cannot be removed: {error}", path.display());
                    }
                    _ => {}
                }
            }
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Whether the path still names this file.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

/// `PIDFILE.reload`.
fn reload_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".reload");
    name.into()
}

/// Writes the outcomes of the server's reloads.
#[derive(Clone)]
pub(super) struct ReloadLog {
    path: PathBuf,
    configuration: String,
}

/// The content of `PIDFILE.reload`, line by line: the configuration that the server reads, the start of its last
/// reload, `good` or `refused`, and then the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReloadRecord {
    pub(super) configuration: String,
    /// The start of the reload, in nanoseconds since 1970.
    pub(super) began: u128,
    pub(super) good: bool,
    pub(super) text: String,
}

impl ReloadLog {
    /// Writes the outcome. A reader sees all of it or none.
    pub(super) fn write(&self, began: u128, good: bool, text: &str) -> io::Result<()> {
        let Self { path, configuration } = self;
        let outcome = if good { "good" } else { "refused" };
        let unfinished = path.with_extension("reload.new");
        fs::write(&unfinished, format!("{configuration}\n{began}\n{outcome}\n{text}\n"))?;
        fs::rename(unfinished, path)
    }
}

/// The time now, as in [`ReloadRecord::began`].
pub(super) fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// A running server, found by its file.
pub(super) struct RunningServer {
    path: PathBuf,
    file: File,
    pub(super) process: i32,
}

impl RunningServer {
    /// Finds the server by its file.
    pub(super) fn find(path: &Path) -> anyhow::Result<Self> {
        let of = || format!("server.pid_file: {}", path.display());
        let nobody = || format!("{}: no server runs", of());
        let mut file = File::open(path).with_context(nobody)?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(of)?;
        anyhow::ensure!(!is_left_behind(&file), "{}, and the file was left behind", nobody());
        let process = text.trim().parse().with_context(|| format!("{}: has no process id yet", of()))?;
        Ok(Self { path: path.to_owned(), file, process })
    }

    /// Whether the server still runs.
    pub(super) fn runs(&self) -> bool {
        !is_left_behind(&self.file)
    }

    /// The outcome of its last reload.
    pub(super) fn last_record(&self) -> Option<ReloadRecord> {
        let text = fs::read_to_string(reload_path(&self.path)).ok()?;
        let mut lines = text.splitn(4, '\n');
        let configuration = lines.next()?.to_owned();
        let began = lines.next()?.parse().ok()?;
        let good = lines.next()? == "good";
        Some(ReloadRecord { configuration, began, good, text: lines.next()?.trim_end().to_owned() })
    }
}

/// Whether the process that wrote the file has ended.
fn is_left_behind(file: &File) -> bool {
    let free = file.try_lock_shared().is_ok();
    if free {
        // A failure does not matter, because the file is closed soon.
        let _ = file.unlock();
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T>(result: anyhow::Result<T>) -> String {
        result.err().map_or_else(String::new, |error| format!("{error:#}"))
    }

    #[test]
    fn a_file_belongs_to_one_server_until_it_ends() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("wharf.pid");
        assert!(message(RunningServer::find(&path)).contains("no server runs"));
        let first = PidFile::claim(&path).expect("nobody has it");
        assert!(message(RunningServer::find(&path)).contains("no process id yet"));
        first.write().expect("the directory takes a file");
        first.reload_log("wharf.toml".into()).write(7, true, "one\ntwo").expect("the directory takes a file");
        let found = RunningServer::find(&path).expect("it runs");
        assert_eq!(u32::try_from(found.process), Ok(std::process::id()));
        let record = ReloadRecord {
            configuration: "wharf.toml".into(),
            began: 7,
            good: true,
            text: "one\ntwo".into(),
        };
        assert_eq!(found.last_record(), Some(record));
        let second = message(PidFile::claim(&path));
        assert!(second.contains(&format!("another server runs, process {}", std::process::id())), "{second}");
        assert!(found.runs());
        drop(first);
        assert!(!found.runs());
        let left = fs::read_dir(directory.path()).expect("readable").count();
        assert_eq!(left, 0, "both files are gone");
    }

    #[test]
    fn a_file_that_was_left_behind_is_taken_over() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("wharf.pid");
        // The id of a process that runs but is not a server.
        fs::write(&path, "1\n and more").expect("the directory takes a file");
        assert!(message(RunningServer::find(&path)).contains("left behind"));
        let file = PidFile::claim(&path).expect("nobody has it");
        file.write().expect("the file takes a number");
        let text = fs::read_to_string(&path).expect("it is there");
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_file_that_another_server_has_claimed_stays() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("wharf.pid");
        let first = PidFile::claim(&path).expect("nobody has it");
        fs::remove_file(&path).expect("it is there");
        let second = PidFile::claim(&path).expect("nobody has this one");
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
