//! A throw-away PostgreSQL for one test binary: its own cluster, on a free port, gone when the binary ends.
#![allow(dead_code, reason = "no test binary needs all of it")]

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

/// A running server.
pub(crate) struct Server {
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
    /// Where its unix socket, its data and the files that a test gave it are.
    pub(crate) directory: String,
    /// While it is open, the server runs; the kernel closes it when the test binary ends, however it ends.
    _lifeline: ChildStdin,
}

impl Server {
    /// The URL of its superuser's database.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

/// The server that all tests of a binary share.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| start("true", ""))
}

/// Starts a server. `prepare` is a shell command that runs in its directory before the start; `options` are the
/// server's own.
pub(crate) fn start(prepare: &str, options: &str) -> Server {
    const SCRIPT: &str = r#"
        set -e
        d=$(mktemp -d); cd "$d"
        trap 'cd /; rm -rf "$d"' EXIT
        initdb -D data -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >log 2>&1 || { cat log >&2; exit 1; }
        eval "$3"
        pg_ctl -D data -w -l log -o "-p $1 -k $d -c listen_addresses=127.0.0.1 -c fsync=off $2" start >/dev/null 2>&1 ||
            { cat log >&2; exit 1; }
        echo "$d"
        cat >/dev/null || true
        pg_ctl -D data -m immediate stop >/dev/null 2>&1 || true
    "#;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    // PostgreSQL refuses to run as root.
    let become_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"];
    let mut words = if is_root { become_postgres.to_vec() } else { Vec::new() };
    words.extend(["sh", "-c", SCRIPT, "sh"]);
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .args([&port.to_string(), options, prepare])
        .env("PATH", search_path())
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut directory = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut directory).unwrap();
    assert!(!directory.is_empty(), "PostgreSQL did not start; its log is above");
    let lifeline = child.stdin.take().unwrap();
    std::thread::spawn(move || child.wait());
    Server { port, directory: directory.trim().to_owned(), _lifeline: lifeline }
}

/// `PATH`, and where Debian keeps the programs of PostgreSQL's versions, the newest first.
fn search_path() -> OsString {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    found.sort();
    found.reverse();
    found.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    std::env::join_paths(found).unwrap()
}
