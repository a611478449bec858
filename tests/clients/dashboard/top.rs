//! `wharf top`.

use std::fs;
use std::io::{Read, Write as _};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use super::Held;
use crate::support::{Forwarder, PATIENCE, Then, Wharf, assert_says};

pub(super) const TOP: &str = env!("CARGO_BIN_EXE_wharf");

/// The output of a process, as it comes.
pub(super) struct Output {
    pieces: Receiver<Vec<u8>>,
    pub(super) text: String,
}

impl Output {
    pub(super) fn follow(mut source: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut piece) {
                if sender.send(piece[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { pieces, text: String::new() }
    }

    /// Waits until this has been written.
    fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |all| all.contains(text));
    }

    /// Waits until the text so far is as wanted. A program that draws for ever is no reason to wait for ever.
    pub(super) fn wait_until(&mut self, what: &str, is_there: impl Fn(&str) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_there(&self.text) {
            let piece = self.pieces.recv_timeout(until.saturating_duration_since(Instant::now()));
            let piece = piece.unwrap_or_else(|error| panic!("no {what:?} ({error}) in\n{}", self.text));
            self.text.push_str(&String::from_utf8_lossy(&piece));
        }
    }
}

/// The exit code; a process that does not end is killed.
pub(super) fn ended(mut child: Child) -> Option<i32> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return status.code();
        }
        if Instant::now() > until {
            let _ = child.kill();
            panic!("it does not end");
        }
        std::thread::sleep(crate::support::LOOK);
    }
}

fn top(arguments: &[&str], environment: &[(&str, &str)]) -> crate::support::Exit {
    Wharf::run("", &[&["top"], arguments].concat(), environment)
}

#[test]
fn top_shows_the_figures_of_stats_once() {
    let mut held = Held::start(&[]);
    held.fill();
    let address = held.wharf.admin_address().to_string();
    let shown = top(&[&format!("http://{address}/"), "--once"], &[]);
    let stats = held.stats();
    let requests = stats["totals"]["requests"].to_string();
    assert_says(
        &shown,
        0,
        &[
            &format!("wharf {}  {address}  ! saturated  up ", env!("CARGO_PKG_VERSION")),
            "workers  4/4 busy  ",
            "pool     3/3 lent  1 wait  AAA  A lent  I idle  - not open\n",
            "         D database 3  P pool 1  H handler 0  W write 0  ! late 0  . idle 0\n",
            "! saturated  since ",
            "why      4 of 4 workers are busy and 5 requests wait, the oldest for ",
            "queue    5/5 wait  [",
            "clients  9 open  ",
            "refused  queue_full 2\n",
            &format!("in all   requests {requests}  in flight 9  clients left 0  panics 0\n"),
            "503       2×  GET /waits  ",
            "500       1×  GET /fails  for-the-test\n",
        ],
    );
    let letters = shown.stdout.lines().find_map(|line| line.strip_prefix("workers  4/4 busy  "));
    let mut letters: Vec<char> = letters.unwrap_or_default().chars().collect();
    letters.sort_unstable();
    assert_eq!(letters, ['D', 'D', 'D', 'P'], "three with the database, one waits for a connection");
    assert!(!shown.stdout.contains('\x1b'), "no colours where nobody sees them");
    for endpoint in stats["endpoints"].as_array().expect("a list") {
        let route = endpoint["route"].as_str().expect("text");
        let row = shown.stdout.lines().find(|line| line.starts_with(&format!("GET {route} ")));
        assert!(row.is_some(), "{route} is not in\n{}", shown.stdout);
    }
    held.release();
}

#[test]
fn top_says_that_nobody_is_there() {
    let bound = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = bound.local_addr().expect("it has one").to_string();
    drop(bound);
    assert_says(
        &top(&[&address, "--once"], &[]),
        1,
        &[&address, "cannot get the figures of", "Connection refused"],
    );
    assert_says(&top(&["nowhere", "--once"], &[]), 2, &["nowhere is not an admin listener's address"]);
}

#[test]
fn top_wants_the_servers_token() {
    let wharf = Wharf::start_with("", &[], &[("WHARF_ADMIN_TOKEN", "only-for-tests")]);
    let address = wharf.admin_address().to_string();
    for wrong in [&[][..], &["--token", "another"]] {
        let shown = top(&[&[address.as_str(), "--once"], wrong].concat(), &[]);
        assert_says(&shown, 2, &["--token or WHARF_ADMIN_TOKEN"]);
    }
    let given = top(&[&address, "--once", "--token", "only-for-tests"], &[]);
    assert_says(&given, 0, &["✓ ready"]);
    let variable = top(&[&address, "--once"], &[("WHARF_ADMIN_TOKEN", "only-for-tests")]);
    assert_says(&variable, 0, &["✓ ready"]);
    assert_says(
        &top(&[&address, "--once", "--token", "a b"], &[]),
        2,
        &["expected a token of visible ASCII characters"],
    );
}

#[test]
fn top_goes_on_trying_until_it_is_interrupted() {
    let wharf = Wharf::start("");
    let forwarder = Forwarder::to(wharf.admin_address().port());
    forwarder.once("GET /stats", Then::CutBefore);
    let address = format!("127.0.0.1:{}", forwarder.port());
    let mut child = Command::new(TOP)
        .args(["top", &address, "--interval", "50ms"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the wharf binary runs");
    let mut said = Output::follow(child.stderr.take().expect("it is piped"));
    let mut shown = Output::follow(child.stdout.take().expect("it is piped"));
    said.wait_for("trying again");
    assert!(said.text.contains(&address), "{}", said.text);
    shown.wait_for("✓ ready");
    let interrupt = format!("kill -s INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &interrupt]).status().expect("sh runs").success());
    assert_eq!(ended(child), Some(0));
}

/// Runs the shell's commands in a terminal of their own. Returns it with its keyboard and its screen.
pub(super) fn in_a_terminal(shell: &str, prepare: impl FnOnce(&mut Command)) -> (Child, ChildStdin, Output) {
    // Of util-linux.
    let mut command = Command::new("script");
    command.args(["-qec", shell, "/dev/null"]).env("TERM", "xterm");
    prepare(&mut command);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script runs");
    let keys = child.stdin.take().expect("it is piped");
    let screen = Output::follow(child.stdout.take().expect("it is piped"));
    (child, keys, screen)
}

#[test]
fn top_in_a_terminal_ends_with_q_and_leaves_it_as_it_was() {
    let wharf = Wharf::start("");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let address = wharf.admin_address();
    let shell = format!("stty -a > before; {TOP} top {address}; echo $? > code; stty -a > after");
    let (child, mut keys, mut screen) = in_a_terminal(&shell, |command| {
        command.current_dir(directory.path()).env_remove("NO_COLOR");
    });
    screen.wait_for("in all");
    assert!(
        screen.text.contains("\x1b[?1049h") && screen.text.contains("\x1b[32m✓ ready"),
        "{}",
        screen.text
    );
    keys.write_all(b"q").expect("it reads keys");
    screen.wait_for("\x1b[?25h\x1b[?1049l");
    assert_eq!(ended(child), Some(0));
    let read =
        |name: &str| fs::read_to_string(directory.path().join(name)).expect("the shell has written it");
    assert_eq!(read("code"), "0\n");
    assert_eq!(read("before"), read("after"));
}
