//! The messages of a server to systemd: the real binary with a `NOTIFY_SOCKET` of the test's own.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use super::support::{Client, PATIENCE, Wharf, assert_says, directory_with};

const HELLO: &str = "[endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n";

/// Some seconds of counting, which no index shortens.
const SLOW: &str = "database.url = 'sqlite:x.db'\nserver.workers = 1\nserver.deadline = '200ms'\n[endpoint.slow]\n\
    route = 'GET /slow'\nsql = 'with recursive n(i) as (select 1 union all select i + 1 from n limit 100000000) select count(*) from n'\n";

const SERVE: [&str; 4] = ["--config", "wharf.toml", "--listen", "127.0.0.1:0"];

/// The time within which systemd would want a sign of life. A test that fails waits for longer.
const PERIOD: Duration = Duration::from_millis(400);

/// The other end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a path in a new directory is free");
        Self { socket, path, _directory: directory }
    }

    /// The next message within this time, line by line.
    fn within(&self, patience: Duration) -> Option<Vec<String>> {
        self.socket.set_read_timeout(Some(patience)).expect("the time is not zero");
        let mut message = [0; 4096];
        match self.socket.recv(&mut message) {
            Ok(length) => {
                let text = std::str::from_utf8(&message[..length]).expect("a message is text");
                Some(text.lines().map(str::to_owned).collect())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("NOTIFY_SOCKET: {error}"),
        }
    }

    /// The next message that has this line.
    fn expect(&self, line: &str) -> Vec<String> {
        loop {
            let message = self.within(PATIENCE).unwrap_or_else(|| panic!("nobody said {line}"));
            if message.iter().any(|said| said == line) {
                return message;
            }
        }
    }

    fn start(&self, config: &str) -> Wharf {
        let directory = Arc::new(directory_with(config));
        Wharf::start_in(&directory, &SERVE, &[("NOTIFY_SOCKET", self.path())])
    }

    /// A server whose threads can be held by a word on the returned pipe.
    fn start_with_watchdog(&self, config: &str) -> (Wharf, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        let holding = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packaging/holding.py");
        let micros = PERIOD.as_micros();
        let script = format!(
            "export NOTIFY_SOCKET={} WATCHDOG_USEC={micros}; exec python3 {holding} \"$0\" \"$@\"",
            self.path()
        );
        let directory = Arc::new(directory_with(config));
        (Wharf::start_by(&script, Some(OwnedFd::from(reader)), &directory, &SERVE), writer)
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("a temporary path is ASCII")
    }

    /// Nobody says that all is well until the thread is let go on.
    fn misses(&self, wharf: &Wharf, words: &mut impl std::io::Write, reason: &str) {
        wharf.wait_for_log(&format!("the watchdog gets no report, because {reason}"));
        // From now on only an answer of the held thread can bring a message.
        self.socket.set_nonblocking(true).expect("a socket has that");
        while self.within(PATIENCE).is_some() {}
        self.socket.set_nonblocking(false).expect("a socket has that");
        assert_eq!(self.within(2 * PERIOD), None);
        words.write_all(b"release\n").expect("the other end reads");
        self.expect("WATCHDOG=1");
    }
}

/// Microseconds of `CLOCK_MONOTONIC`.
fn monotonic() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000
}

#[test]
fn ready_is_said_once_clients_are_served() {
    let manager = Manager::new();
    let wharf = manager.start(HELLO);
    let address = wharf.address();
    let first = manager.within(PATIENCE).expect("it says that it is ready");
    assert_eq!(first, ["READY=1".to_owned(), format!("STATUS=serving on {address}")]);
    assert_eq!(wharf.get("/hello").text(), "hi");
}

#[test]
fn nothing_is_said_where_the_database_refuses_a_statement() {
    let manager = Manager::new();
    let config =
        "database.url = 'sqlite:x.db'\n[endpoint.x]\nroute = 'GET /x'\nsql = 'select * from nowhere'\n";
    let arguments = ["serve", "--config", "wharf.toml", "--listen", "127.0.0.1:0"];
    let exit = Wharf::run(config, &arguments, &[("NOTIFY_SOCKET", manager.path())]);
    assert_says(&exit, 2, &["nowhere"]);
    // It has ended, so that whatever it said is there.
    assert_eq!(manager.within(Duration::from_millis(1)), None);
}

#[test]
fn a_reload_is_announced_and_its_end_too() {
    let manager = Manager::new();
    let wharf = manager.start(HELLO);
    manager.expect("READY=1");
    let before = monotonic();
    wharf.signal("HUP");
    let reloading = manager.within(PATIENCE).expect("it says that it reloads");
    assert_eq!(reloading[0], "RELOADING=1");
    let time = reloading[1].strip_prefix("MONOTONIC_USEC=").expect("the time is there");
    let time = time.parse::<i128>().expect("the time is a number");
    assert!(before <= time && time <= monotonic(), "{before} {time}");
    let place = format!("STATUS=serving on {}", wharf.address());
    assert_eq!(manager.within(PATIENCE), Some(vec!["READY=1".to_owned(), place.clone()]));

    fs::write(wharf.directory().join("wharf.toml"), "server.workers = 0").expect("a temporary file");
    wharf.signal("HUP");
    manager.expect("RELOADING=1");
    let refused = format!("{place}; the last reload changed nothing, and the log says why");
    assert_eq!(manager.within(PATIENCE), Some(vec!["READY=1".to_owned(), refused]));
    assert_eq!(wharf.get("/hello").text(), "hi");
}

#[test]
fn stopping_is_said_when_the_drain_begins_with_the_time_that_it_may_take() {
    let manager = Manager::new();
    let config = SLOW.replace("200ms", "20s").replace("100000000", "3000000");
    let wharf = manager.start(&format!("server.drain_timeout = '20s'\n{config}"));
    manager.expect("READY=1");
    let mut client = Client::connect(wharf.address());
    client.request("GET", "/slow", &[], "");
    // The request is in flight once the server has counted it as a worker's.
    super::support::wait_until("no worker has the request", || {
        let mut admin = Client::connect(wharf.admin_address());
        admin.request("GET", "/stats", &[], "");
        admin.answer().json()["workers"]["busy"] == 1
    });
    wharf.signal("TERM");
    let message = manager.expect("STOPPING=1");
    assert_eq!(message[1], "EXTEND_TIMEOUT_USEC=25000000");
    assert_eq!(client.answer().status, 200);
    assert_says(&wharf.wait(), 0, &["stopped"]);
}

#[test]
fn the_watchdog_is_not_told_while_a_poller_is_held() {
    let manager = Manager::new();
    let (wharf, mut words) = manager.start_with_watchdog(HELLO);
    for _ in 0..3 {
        manager.expect("WATCHDOG=1");
    }
    words.write_all(b"hold poller-0\n").expect("the other end reads");
    wharf.wait_for_log("held poller-0");
    manager.misses(&wharf, &mut words, "a poller does not answer");
}

#[test]
fn the_watchdog_is_not_told_while_every_worker_is_past_its_deadline() {
    let manager = Manager::new();
    let (wharf, mut words) = manager.start_with_watchdog(SLOW);
    manager.expect("WATCHDOG=1");
    let mut client = Client::connect(wharf.address());
    client.request("GET", "/slow", &[], "");
    super::support::wait_until("no worker has the request", || {
        let mut admin = Client::connect(wharf.admin_address());
        admin.request("GET", "/stats", &[], "");
        admin.answer().json()["workers"]["busy"] == 1
    });
    words.write_all(b"hold worker-0\n").expect("the other end reads");
    wharf.wait_for_log("held worker-0");
    // The poller answers it all the same.
    assert_eq!(client.answer().status, 504);
    manager.misses(&wharf, &mut words, "every worker is past its request's deadline");
}

#[test]
fn without_a_manager_there_is_no_thread_for_it() {
    let directory = Arc::new(directory_with(HELLO));
    let wharf = Wharf::start_in(&directory, &SERVE, &[("WATCHDOG_USEC", "1000000")]);
    let names = || -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", wharf.id())).expect("the process runs");
        let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.map_while(Result::ok).map(name).collect()
    };
    // A thread that has just begun has no name of its own yet.
    super::support::wait_until("the threads have their names", || {
        names().iter().any(|name| name == "poller-0\n")
    });
    let names = names();
    assert!(!names.iter().any(|name| name == "watchdog\n"), "{names:?}");
}
