//! A copy of this system to install into: an overlay whose changes are kept in memory, in a mount namespace of its own. It is gone
//! with its value. Needs root.

use std::io::{BufRead as _, BufReader, PipeWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Mounts, says so, and lives until its standard input ends.
const KEEPER: &str = "
    set -e
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/changes /mnt/work /mnt/root
    mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/changes,workdir=/mnt/work /mnt/root
    for place in proc dev; do mount --rbind /$place /mnt/root/$place; done
    mount -t tmpfs tmpfs /mnt/root/run
    mkdir -p /mnt/root/run/shared
    mount --bind \"$0\" /mnt/root/run/shared
    echo mounted
    exec cat";

/// The system's copy.
pub(crate) struct Root {
    keeper: Child,
    /// Its end ends the keeper, and with it the mounts.
    _end: PipeWriter,
    shared: tempfile::TempDir,
}

/// The output of a command in the copy, and whether it went well.
pub(crate) struct Said {
    pub(crate) good: bool,
    pub(crate) text: String,
}

impl Root {
    /// A new copy; `None` where the system lets no overlay be mounted, as in some containers.
    pub(crate) fn new() -> Option<Self> {
        let shared = tempfile::tempdir().expect("a temporary directory");
        let (reader, end) = std::io::pipe().expect("a pipe can be made");
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", KEEPER])
            .arg(shared.path())
            .stdin(reader)
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux's unshare runs");
        let mut line = String::new();
        let stdout = keeper.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it is text");
        let root = Self { keeper, _end: end, shared };
        if line == "mounted\n" {
            return Some(root);
        }
        eprintln!("no overlay can be mounted here, so the package is packed, but not installed");
        None
    }

    /// A directory that the copy has as `/run/shared`.
    pub(crate) fn shared(&self) -> &Path {
        self.shared.path()
    }

    /// A command line of the shell, run in the copy.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.keeper.id()))
            .args(["--mount", "--", "chroot", "/mnt/root", "sh", "-c", line])
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, line: &str) -> Said {
        let output = self.command(line).output().expect("util-linux's nsenter runs");
        let text = [output.stdout, output.stderr].concat();
        Said { good: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
    }

    /// The output of a command that has to go well.
    pub(crate) fn good(&self, line: &str) -> String {
        let said = self.run(line);
        assert!(said.good, "{line}:\n{}", said.text);
        said.text
    }

    /// Writes a file of the copy, in a directory that is there.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let mut child =
            self.command(&format!("cat >'{path}'")).stdin(Stdio::piped()).spawn().expect("nsenter runs");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(text.as_bytes()).expect("cat reads");
        drop(stdin);
        assert!(child.wait().expect("a child can be waited for").success(), "{path}");
    }

    /// Whether the copy has this file.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.run(&format!("test -e '{path}' -o -L '{path}'")).good
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// The project.
pub(crate) fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
