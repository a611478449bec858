//! Signals to a server that starts. They were lost, or ended the process where they should not.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Wharf, assert_says, directory_with, is_root, wait_until};

/// The shell writes its own number before it becomes wharf.
const PLAIN: &str = "echo $$ > pid; exec \"$0\" \"$@\"";

/// Wharf is the first process of a namespace, as in a container.
const FIRST: &str = "echo $$ > pid; exec unshare --fork --pid --mount-proc \"$0\" \"$@\"";

/// A server of PostgreSQL that accepts and says nothing.
struct Silent {
    listener: TcpListener,
    accepted: Vec<TcpStream>,
}

impl Silent {
    fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").expect("a free port"), accepted: Vec::new() }
    }

    fn config(&self) -> String {
        let port = self.listener.local_addr().expect("it is bound").port();
        let url = format!("postgres://wharf@127.0.0.1:{port}/wharf?sslmode=disable");
        format!(
            "[server]\npid_file = 'wharf.pid'\n[database]\nurl = '{url}'\ninitialization_fail_timeout = '20s'\n"
        )
    }

    fn accept(&mut self) {
        self.accepted.push(self.listener.accept().expect("wharf connects").0);
    }
}

/// The process that the script became, or its only child.
fn process(directory: &Path, is_child: bool) -> String {
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let process = text(directory.join("pid"));
    if is_child { text(format!("/proc/{process}/task/{process}/children").into()) } else { process }
}

fn signal(process: &str, name: &str) {
    let kill = format!("kill -s {name} {process}");
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh runs").success(), "{kill}");
}

#[test]
fn a_server_that_waits_for_its_database_ends_at_sigterm_and_not_at_sighup() {
    for (script, is_first) in [(PLAIN, false), (FIRST, true)] {
        if is_first && !is_root() {
            continue;
        }
        let mut database = Silent::new();
        let directory = directory_with(&database.config());
        let path = directory.path().to_owned();
        let arguments = ["--config", "wharf.toml", "--listen", "127.0.0.1:0"];
        let run = thread::spawn(move || Wharf::run_by(script, None, &directory, &arguments));
        database.accept();
        let process = process(&path, is_first);
        signal(&process, "HUP");
        // SIGHUP has ended it, or the process still runs when the next signal comes.
        wait_until("the signal is taken", || is_taken(&process, 1));
        let asked = Instant::now();
        signal(&process, "TERM");
        let exit = run.join().expect("no panic");
        assert_says(&exit, 0, &["SIGTERM while starting: the process ends"]);
        assert!(asked.elapsed() < PATIENCE / 3 && asked.elapsed() < Duration::from_secs(8), "{asked:?}");
        assert!(!path.join("wharf.pid").exists(), "the pid file is left");
    }
}

/// Whether no signal of this number waits for the process, which runs.
fn is_taken(process: &str, number: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let pending = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    let bits = |mask: &str| u64::from_str_radix(mask.trim(), 16).expect("a mask");
    pending.map(bits).all(|mask| mask >> (number - 1) & 1 == 0)
}
