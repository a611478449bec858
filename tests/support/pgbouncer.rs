//! A real pooler, Debian's `pgbouncer`, in front of a test's PostgreSQL.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::postgres::{free_port, programs, run_as_postgres};
use super::{PATIENCE, Postgres};

/// One pooler that knows every database of a cluster. It ends when dropped, and at the latest with the test process.
pub(crate) struct PgBouncer {
    /// Dropped before the directory, so that the pooler ends before its files are removed.
    running: Option<Running>,
    directory: tempfile::TempDir,
    cluster_port: u16,
    port: u16,
    setup: Setup,
}

/// How a pooler pools.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// `session`, `transaction` or `statement`.
    pub(crate) mode: &'static str,
    /// Connections to the server for each database and user.
    pub(crate) size: usize,
    /// `ignore_startup_parameters`. Debian's default has no name in it.
    pub(crate) ignored: &'static str,
}

struct Running {
    /// A shell that ends the pooler when its standard input closes.
    keeper: Child,
    pid: u32,
}

/// Prints the pooler's process id, and ends it with its own standard input.
const KEEPER: &str = r#""$@" </dev/null >/dev/null 2>&1 & pid=$!
echo "$pid"
cat >/dev/null
kill -s TERM "$pid" 2>/dev/null
wait "$pid""#;

impl PgBouncer {
    /// A pooler in front of the test binary's shared cluster.
    pub(crate) fn start(setup: Setup) -> Self {
        const TRIES: usize = 5;
        let directory = tempfile::tempdir().expect("a temporary directory");
        hand_over(directory.path());
        let cluster_port = Postgres::shared().port();
        let mut pooler = Self { running: None, directory, cluster_port, port: 0, setup };
        // Another process may take the free port before PgBouncer does.
        for _ in 0..TRIES {
            pooler.port = free_port();
            if pooler.run() {
                return pooler;
            }
        }
        panic!("PgBouncer did not start in {TRIES} tries:\n{}", pooler.log());
    }

    /// The port on which it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The `postgres://…` URL of a database through the pooler.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").pid
    }

    /// Whether the process still runs. A zombie does not count.
    pub(crate) fn is_alive(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Makes the pooler reload its configuration with this mode, and replace its connections to the server as they come
    /// back.
    pub(crate) fn reload_as(&mut self, mode: &'static str) {
        self.setup.mode = mode;
        self.write_configuration();
        self.admin("reload");
        self.admin("reconnect");
    }

    /// Ends the pooler at once, and starts it again on the same port with this mode.
    pub(crate) fn restart_as(&mut self, mode: &'static str) {
        self.setup.mode = mode;
        self.running = None;
        assert!(self.run(), "PgBouncer did not start again:\n{}", self.log());
    }

    /// Runs SQL through the pooler. Returns what psql prints.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        psql(&self.url(database), sql).expect("the pooler answers")
    }

    /// Runs a command on the pooler's administration console. Returns what psql prints.
    pub(crate) fn admin(&self, command: &str) -> String {
        self.psql("pgbouncer", command)
    }

    /// Starts the pooler. Returns false when it never answers.
    fn run(&mut self) -> bool {
        self.write_configuration();
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args(run_as_postgres())
            .arg(program())
            .arg(self.directory.path().join("pgbouncer.ini"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C must reach the tests only: the keeper outlives them to clean up.
            .process_group(0)
            .spawn()
            .expect("sh runs");
        let stdout = keeper.stdout.take().expect("stdout is piped");
        let line = BufReader::new(stdout).lines().next().expect("a line").expect("a number");
        self.running = Some(Running { keeper, pid: line.parse().expect("a process id") });
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok()
                && psql(&self.url("pgbouncer"), "show version").is_ok()
            {
                return true;
            }
            if !self.is_alive() {
                break;
            }
            std::thread::sleep(super::LOOK);
        }
        self.running = None;
        false
    }

    fn write_configuration(&self) {
        let Setup { mode, size, ignored } = &self.setup;
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let mut text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\nadmin_users = postgres\nlogfile = {}\n\
             pool_mode = {mode}\ndefault_pool_size = {size}\nmax_client_conn = 500\n",
            self.cluster_port,
            self.port,
            path("users"),
            path("log"),
        );
        if !ignored.is_empty() {
            writeln!(text, "ignore_startup_parameters = {ignored}").expect("a String takes all");
        }
        for (name, text) in [("users", "\"postgres\" \"\"\n"), ("pgbouncer.ini", &text)] {
            std::fs::write(path(name), text).expect("the file is written");
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PgBouncer said:\n{}", self.log());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Runs SQL at this URL, without settings from the environment. `Err` holds psql's complaint.
pub(crate) fn psql(url: &str, sql: &str) -> Result<String, String> {
    let output = Command::new(programs().join("psql"))
        .env_remove("PGOPTIONS")
        .env_remove("PGTZ")
        .args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql])
        .output()
        .expect("psql runs");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let printed = String::from_utf8(output.stdout).expect("the database is UTF-8");
    Ok(printed.strip_suffix('\n').unwrap_or(&printed).to_owned())
}

/// `pgbouncer` refuses to run as root, so the user that it runs as must write its log here.
fn hand_over(directory: &Path) {
    if super::is_root() {
        let status = Command::new("chown").arg("postgres").arg(directory).status().expect("chown runs");
        assert!(status.success(), "chown postgres {}", directory.display());
    }
}

/// Debian installs it in a directory that is not on every user's search path.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = [PathBuf::from("/usr/sbin")].into_iter().chain(std::env::split_paths(&path));
    places
        .map(|place| place.join("pgbouncer"))
        .find(|file| file.is_file())
        .expect("these tests need PgBouncer: apt-get install pgbouncer (scripts/test does it)")
}
