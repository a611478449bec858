//! A real MariaDB: one server per test binary, one database per test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::postgres::free_port;
use super::{LOOK, PATIENCE};

/// One server. It ends when dropped, and at the latest with the test process.
pub(crate) struct Mariadb {
    directory: PathBuf,
    port: u16,
    /// The server's process, if it runs.
    server: Mutex<Option<Child>>,
    /// `mariadb.sh`. Its standard input closes with this process at the latest, and that ends the server: Rust never drops a
    /// static.
    keeper: Child,
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        self.kill();
        // `wait` closes the keeper's standard input first. The result says nothing that a test needs.
        let _ = self.keeper.wait();
    }
}

/// One fresh database, and a user who may do everything in it.
pub(crate) struct MariaDatabase {
    name: String,
    server: &'static Mariadb,
}

/// A suspended server. It runs again when this is dropped.
pub(crate) struct SuspendedMariadb<'a>(&'a Mariadb);

impl Drop for SuspendedMariadb<'_> {
    fn drop(&mut self) {
        self.0.signal("CONT");
    }
}

/// A session of the superuser, which holds what it was told to take. It ends when this is dropped.
pub(crate) struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        // `wait` closes the client's standard input first, which ends its session. The result says nothing that a test needs.
        let _ = self.0.wait();
    }
}

static SHARED: LazyLock<Mariadb> = LazyLock::new(Mariadb::start);

/// Makes the user of the URLs. It has no right that passes a limit or a read-only server.
pub(crate) const USER: &str = "
    create user app@'%' identified by 'app';
    grant alter, alter routine, create, create routine, create temporary tables, create view, delete, drop, event, execute, index,
        insert, lock tables, references, select, show view, trigger, update on *.* to app@'%'";

impl Mariadb {
    /// The server of this test binary. The first call starts it.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    /// A new, empty database in the shared server.
    pub(crate) fn database() -> MariaDatabase {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let server = Self::shared();
        server.sql("mysql", &format!("create database {name} character set utf8mb4"));
        MariaDatabase { name, server }
    }

    /// A new database in the shared server with all that `model` holds.
    pub(crate) fn database_like(model: &MariaDatabase) -> MariaDatabase {
        let database = Self::database();
        let socket = model.server.directory.join("socket");
        let copy = "mariadb-dump --no-defaults --socket=\"$0\" --user=root \"$1\" | mariadb --no-defaults --socket=\"$0\" --user=root \"$2\"";
        let status =
            Command::new("sh").args(["-c", copy]).arg(socket).args([&model.name, &database.name]).status();
        assert!(status.expect("sh runs").success(), "{copy}");
        database
    }

    /// A server of the caller's own, for tests that stop, break or reconfigure it. It ends when dropped.
    pub(crate) fn start() -> Self {
        Self::start_with("true", "")
    }

    /// Like [`Mariadb::start`], with more options for the server. Before the server's data is made, the shell command
    /// `prepare` runs in its directory; `data` is there and empty.
    pub(crate) fn start_with(prepare: &str, options: &str) -> Self {
        Self::start_on("", prepare, options)
    }

    fn start_on(disk: &str, prepare: &str, options: &str) -> Self {
        const TRIES: usize = 5;
        let mut failures = String::new();
        // Another process may take the free port before MariaDB does.
        for _ in 0..TRIES {
            let server = Self::prepare_on(free_port(), disk, prepare, options);
            match server.try_start(&[]) {
                Ok(()) => {
                    server.sql("mysql", USER);
                    server.sql("mysql", "create database main character set utf8mb4");
                    return server;
                }
                Err(failure) => failures.push_str(&failure),
            }
        }
        panic!("MariaDB did not start in {TRIES} tries:\n{failures}");
    }

    /// A server that is ready to start, on this port.
    pub(crate) fn prepare(port: u16, prepare: &str, options: &str) -> Self {
        Self::prepare_on(port, "", prepare, options)
    }

    fn prepare_on(port: u16, disk: &str, prepare: &str, options: &str) -> Self {
        let mut keeper = Command::new("sh")
            .args(["-c", include_str!("mariadb.sh"), "mariadb.sh"])
            .arg(port.to_string())
            .envs([("PREPARE", prepare), ("OPTIONS", options), ("DISK", disk)])
            // Debian has mariadbd where not every user looks.
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C reaches the tests only; the keeper must outlive them to clean up.
            .process_group(0)
            .spawn()
            .expect("sh runs");
        let stdout = keeper.stdout.take().expect("stdout is piped");
        let Some(directory) = BufReader::new(stdout).lines().next() else {
            let mut complaint = String::new();
            let mut stderr = keeper.stderr.take().expect("stderr is piped");
            stderr.read_to_string(&mut complaint).expect("stderr is readable");
            keeper.wait().expect("the keeper ends after its complaint");
            panic!(
                "these tests need MariaDB: apt-get install mariadb-server (scripts/test does it)\n{complaint}"
            );
        };
        let directory = PathBuf::from(directory.expect("a directory's name is UTF-8"));
        Self { directory, port, server: Mutex::new(None), keeper }
    }

    /// Starts the server with further options and waits until it answers.
    fn try_start(&self, options: &[&str]) -> Result<(), String> {
        self.launch(options);
        let until = Instant::now() + PATIENCE;
        loop {
            if self.query("mysql", "select 1").status.success() {
                return Ok(());
            }
            if !self.is_running() || Instant::now() >= until {
                return Err(self.log());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Starts the server's process with further options, and does not wait for its answer.
    pub(crate) fn launch(&self, options: &[&str]) {
        let server = Command::new("sh")
            .arg(self.directory.join("start"))
            .args(options)
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        *self.process() = Some(server.expect("sh runs"));
    }

    /// A server whose data lies on a disk of this size, such as `80m`. `None` where the system does not let us mount one.
    pub(crate) fn start_on_small_disk(size: &str) -> Option<Self> {
        let tried = Command::new("unshare").args(["--mount", "true"]).status();
        if !super::is_root() || !tried.is_ok_and(|status| status.success()) {
            return None;
        }
        Some(Self::start_on(size, "true", ""))
    }

    /// Starts the server again after [`Mariadb::kill`] or [`Mariadb::stop`], on the same port with the same options.
    pub(crate) fn start_again(&self) {
        self.try_start(&[]).unwrap_or_else(|log| panic!("MariaDB does not start again:\n{log}"));
    }

    /// Whether the server's process has not ended.
    pub(crate) fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(|server| server.try_wait().is_ok_and(|ended| ended.is_none()))
    }

    /// Ends the server as a crash does.
    pub(crate) fn kill(&self) {
        if let Some(mut server) = self.process().take() {
            // Kill fails only when the process has ended already.
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Stops the server as an administrator does.
    pub(crate) fn stop(&self) {
        self.signal("TERM");
        if let Some(mut server) = self.process().take() {
            server.wait().expect("a child can be waited for");
        }
    }

    /// Suspends the server. It keeps its connections and its port, and answers nothing.
    pub(crate) fn suspend(&self) -> SuspendedMariadb<'_> {
        self.signal("STOP");
        SuspendedMariadb(self)
    }

    fn signal(&self, name: &str) {
        let server = self.process().as_ref().expect("the server runs").id();
        let kill = format!("kill -s {name} {server}");
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh runs").success(), "{kill}");
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the server greets a client over TCP. Returns the time of its first greeting.
    pub(crate) fn answers(&self) -> Instant {
        let until = Instant::now() + PATIENCE;
        while !self.greets() {
            assert!(Instant::now() < until, "the server does not answer:\n{}", self.log());
            std::thread::sleep(LOOK);
        }
        Instant::now()
    }

    fn greets(&self) -> bool {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let Ok(mut client) = TcpStream::connect_timeout(&address, PATIENCE) else { return false };
        client.set_read_timeout(Some(Duration::from_secs(1))).expect("the limit is not zero");
        // The fifth byte is the protocol's version; an error has 255 there.
        let mut head = [0; 5];
        client.read_exact(&mut head).is_ok() && head[4] == 10
    }

    /// The port on which it listens on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket (`socket`), of the data (`data`) and of the server's log (`log.err`).
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The `mysql://…` URL of its database `main`.
    pub(crate) fn url(&self) -> String {
        format!("mysql://app:app@127.0.0.1:{}/main", self.port)
    }

    /// The whole log of the server.
    pub(crate) fn log(&self) -> String {
        let read = |file| std::fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        read("said") + &read("log.err")
    }

    /// Runs SQL as the superuser in `database`. Returns what the client prints: one row per line, columns split by tabs.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.query(database, sql);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mariadb: {sql}\n{complaint}");
        let printed = String::from_utf8(output.stdout).expect("the database is UTF-8");
        printed.strip_suffix('\n').unwrap_or(&printed).to_owned()
    }

    /// Opens a session in `database` that runs this SQL and stays open.
    pub(crate) fn hold(&self, database: &str, sql: &str) -> Held {
        let client =
            self.client(database).args(["--unbuffered"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut client = client.expect("the client mariadb runs");
        let stdin = client.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{sql}; select 'held';").expect("the client reads");
        let stdout = client.stdout.take().expect("stdout is piped");
        let held = BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line == "held");
        assert!(held, "{sql}");
        Held(client)
    }

    /// The result of [`Mariadb::sql`]; `None` when the server does not answer, or refuses.
    pub(crate) fn try_sql(&self, database: &str, sql: &str) -> Option<String> {
        let output = self.query(database, sql);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Runs SQL as [`Mariadb::sql`] does, whatever comes of it.
    fn query(&self, database: &str, sql: &str) -> Output {
        let mut client = self.client(database);
        client.args(["-e", sql]).stdin(Stdio::null()).output().expect("the client mariadb runs")
    }

    fn client(&self, database: &str) -> Command {
        let mut client = Command::new("mariadb");
        client.arg("--no-defaults").arg("--socket").arg(self.directory.join("socket"));
        client.args(["--user=root", "--default-character-set=utf8mb4", "--connect-timeout=5", "--raw"]);
        client.args(["--batch", "--skip-column-names", database]);
        client
    }

    /// The number of sessions of the URLs' user that match this SQL condition on `information_schema.processlist`.
    pub(crate) fn sessions(&self, which: &str) -> usize {
        let sql =
            format!("select count(*) from information_schema.processlist where user = 'app' and ({which})");
        self.sql("mysql", &sql).parse().expect("a count")
    }

    /// Ends every session of the URLs' user.
    pub(crate) fn end_sessions(&self) {
        self.sql("mysql", "kill user app");
    }
}

impl MariaDatabase {
    /// The `mysql://…` URL over TCP.
    pub(crate) fn url(&self) -> String {
        self.url_at(self.server.port)
    }

    /// The same by another port of this machine, behind which the server is.
    pub(crate) fn url_at(&self, port: u16) -> String {
        format!("mysql://app:app@127.0.0.1:{port}/{}", self.name)
    }

    /// Its name in the server.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// See [`Mariadb::sql`].
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.name, sql)
    }

    /// Makes a function, a procedure or a trigger whose body has several statements.
    pub(crate) fn routine(&self, sql: &str) {
        // The client splits SQL at its delimiter, which is a semicolon otherwise.
        self.server.sql(&self.name, &format!("delimiter //\n{sql}//"));
    }

    /// The number of sessions on this database that match this SQL condition on `information_schema.processlist`.
    pub(crate) fn sessions(&self, which: &str) -> usize {
        self.server.sessions(&format!("db = '{}' and ({which})", self.name))
    }
}
