//! A real PostgreSQL: one cluster per test binary, one database per test.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::{Authority, Identity};

/// One cluster. It ends when dropped, and at the latest with the test process.
pub(crate) struct Postgres {
    bin: PathBuf,
    directory: PathBuf,
    port: u16,
    /// `postgres.sh`. Its standard input closes with this process at the latest, and that ends the cluster: Rust never
    /// drops a static.
    keeper: Child,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // `wait` closes the keeper's standard input first, which ends the cluster. The result says nothing that a test
        // needs.
        let _ = self.keeper.wait();
    }
}

/// One fresh database.
pub(crate) struct Database {
    name: String,
    cluster: &'static Postgres,
}

static CLUSTER: LazyLock<Postgres> = LazyLock::new(Postgres::start);

impl Postgres {
    /// The cluster of this test binary. The first call starts it.
    pub(crate) fn shared() -> &'static Self {
        &CLUSTER
    }

    /// A new, empty database in the shared cluster.
    pub(crate) fn database() -> Database {
        Self::shared().create_database("template1")
    }

    /// A new database in the shared cluster with all that `model` holds; nothing may be connected to `model`.
    pub(crate) fn database_like(model: &Database) -> Database {
        Self::shared().create_database(&model.name)
    }

    fn create_database(&'static self, template: &str) -> Database {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("create database {name} template {template}"));
        Database { name, cluster: self }
    }

    /// A cluster of the caller's own, for tests that stop, break or reconfigure it. It ends when dropped.
    pub(crate) fn start() -> Self {
        Self::start_with("true", "")
    }

    /// Like [`Postgres::start`], with more options for the server. Before the server starts, the shell command
    /// `prepare` runs as the server's user in its directory.
    pub(crate) fn start_with(prepare: &str, options: &str) -> Self {
        Self::start_within(&[], prepare, options)
    }

    /// Like [`Postgres::start`], with TLS and a certificate for `localhost` from this authority.
    pub(crate) fn start_encrypted(authority: &Authority) -> Self {
        Self::start_encrypted_with(authority, "true", "")
    }

    /// Like [`Postgres::start_encrypted`], with a command and options as [`Postgres::start_with`] has them.
    pub(crate) fn start_encrypted_with(authority: &Authority, prepare: &str, options: &str) -> Self {
        let Identity { certificate, key } = authority.server(&["localhost"]);
        let read = |file| std::fs::read_to_string(file).expect("it was written");
        // The server's user may not read our directory.
        let prepare = format!(
            "echo '{}' > data/server.crt; echo '{}' > data/server.key; chmod 600 data/server.key; {prepare}",
            read(certificate),
            read(key)
        );
        Self::start_with(&prepare, &format!("-c ssl=on {options}"))
    }

    /// A standby of this server, with more options.
    pub(crate) fn start_standby(&self, options: &str) -> Self {
        let program = self.bin.join("pg_basebackup");
        let (program, port) = (program.display(), self.port);
        let prepare = format!(
            "rm -rf data; {program} -h 127.0.0.1 -p {port} -U postgres -D data -R -c fast --no-sync >backup.log 2>&1"
        );
        Self::start_with(&prepare, options)
    }

    /// Like [`Postgres::start_with`], run by another program such as `nsenter`. `program` holds its name and arguments.
    pub(crate) fn start_within(program: &[&str], prepare: &str, options: &str) -> Self {
        const TRIES: usize = 5;
        let mut failures = String::new();
        // Another process may take the free port before PostgreSQL does.
        for _ in 0..TRIES {
            match Self::try_start(program, free_port(), prepare, options) {
                Ok(cluster) => return cluster,
                Err(failure) => failures.push_str(&failure),
            }
        }
        panic!("PostgreSQL did not start in {TRIES} tries:\n{failures}");
    }

    fn try_start(program: &[&str], port: u16, prepare: &str, options: &str) -> Result<Self, String> {
        let bin = programs();
        let mut words = program.iter().chain(&["sh", "-c"]);
        let mut keeper = Command::new(words.next().expect("there is sh"))
            .args(words)
            .arg(include_str!("postgres.sh"))
            .arg("postgres.sh")
            .arg(&bin)
            .arg(port.to_string())
            .args(run_as_postgres())
            .envs([("PREPARE", prepare), ("OPTIONS", options)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C reaches the tests only; the keeper must outlive them to clean up.
            .process_group(0)
            .spawn()
            .expect("sh runs");
        match first_line(&mut keeper) {
            Some(directory) => Ok(Self { bin, directory: directory.into(), port, keeper }),
            None => Err(rest_of_stderr(keeper)),
        }
    }

    /// The URL of its superuser's own database.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Ends the server as a crash does. Only for a cluster of the caller's own.
    pub(crate) fn stop(&self) {
        self.control(&["-m", "immediate", "stop"]);
    }

    /// Starts the server again after [`Postgres::stop`], on the same port with the same options.
    pub(crate) fn start_again(&self) {
        let options = std::fs::read_to_string(self.directory.join("data/postmaster.opts"));
        let options = options.expect("a server that ran has left its command line");
        let (_, options) = options.trim_end().split_once(' ').expect("there are options");
        self.control(&["-w", "-t", "30", "-o", options, "start"]);
    }

    /// Runs `pg_ctl` on it.
    pub(super) fn control(&self, arguments: &[&str]) {
        let data = self.directory.join("data");
        let program = self.bin.join("pg_ctl").into_os_string();
        let mut words = run_as_postgres().iter().map(Into::into).chain([program]);
        let status = Command::new(words.next().expect("there is a program"))
            .args(words)
            .arg("-D")
            .arg(&data)
            .arg("-l")
            .arg(data.join("log"))
            .args(arguments)
            // The server inherits these streams and would hold a pipe open.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(
            status.expect("pg_ctl runs").success(),
            "pg_ctl {arguments:?}; see {}",
            data.join("log").display()
        );
    }

    /// The port on which it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket and of the cluster (`data`, with the server's log in `data/log`).
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs SQL as the superuser in `database`. Returns what psql prints: one row per line, columns split by `|`.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        let output = Command::new(self.bin.join("psql"))
            .env("PGOPTIONS", "-c client_min_messages=warning")
            .env("PGTZ", "UTC")
            .args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
            .arg(&self.directory)
            .args(["-p", &self.port.to_string(), "-d", database, "-c", sql])
            .output()
            .expect("psql runs");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "psql: {sql}\n{complaint}");
        let printed = String::from_utf8(output.stdout).expect("the database is UTF-8");
        printed.strip_suffix('\n').unwrap_or(&printed).to_owned()
    }
}

impl Database {
    /// The `postgres://…` URL over TCP.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.cluster.port, self.name)
    }

    /// The `postgres://…` URL through the Unix socket.
    pub(crate) fn socket_url(&self) -> String {
        let directory = self.cluster.directory.display();
        format!("postgres:///{}?host={directory}&port={}&user=postgres", self.name, self.cluster.port)
    }

    /// Its name in the cluster.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits until a session waits for an advisory lock. Then the request that takes the lock has reached the database.
    pub(crate) fn wait_for_a_waiting_lock(&self) {
        // The view also lists the locks of other tests' databases.
        let waiting = "select count(*) from pg_locks join pg_database d on d.oid = database \
             where locktype = 'advisory' and not granted and datname = current_database()";
        super::wait_until("the request never reached the database", || self.psql(waiting) == "1");
    }

    /// See [`Postgres::psql`].
    pub(crate) fn psql(&self, sql: &str) -> String {
        self.cluster.psql(&self.name, sql)
    }
}

/// The server's programs: those in the directory `TEST_POSTGRES_BIN`, or the newest ones in Debian's places, or those on the search
/// path.
pub(super) fn programs() -> PathBuf {
    if let Some(named) = std::env::var_os("TEST_POSTGRES_BIN") {
        let named = PathBuf::from(named);
        assert!(named.join("initdb").is_file(), "TEST_POSTGRES_BIN={} holds no initdb", named.display());
        return named;
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| {
            entry.file_name().to_str()?.parse::<u32>().ok().map(|version| (version, entry.path()))
        })
        .max()
        .map(|(_, path)| path.join("bin"));
    let on_path =
        || std::env::split_paths(&std::env::var_os("PATH")?).find(|path| path.join("initdb").is_file());
    newest
        .filter(|path| path.join("initdb").is_file())
        .or_else(on_path)
        .expect("these tests need PostgreSQL's server: apt-get install postgresql (scripts/test does it)")
}

/// PostgreSQL refuses to run as root; Debian's package brings the user `postgres`.
pub(super) fn run_as_postgres() -> &'static [&'static str] {
    if super::is_root() { &["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] } else { &[] }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

fn first_line(keeper: &mut Child) -> Option<String> {
    let stdout = keeper.stdout.take().expect("stdout is piped");
    let line = BufReader::new(stdout).lines().next()?;
    Some(line.expect("a directory's name is UTF-8"))
}

fn rest_of_stderr(mut keeper: Child) -> String {
    let mut complaint = String::new();
    if let Some(mut stderr) = keeper.stderr.take() {
        stderr.read_to_string(&mut complaint).expect("stderr is readable");
    }
    keeper.wait().expect("the keeper ends after its complaint");
    complaint
}
