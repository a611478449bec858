//! The real binary on a configuration, in a directory of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::{Answer, Client, PATIENCE};

/// A running `wharf serve`, killed on drop.
pub(crate) struct Wharf {
    child: Child,
    /// Where it listens, in the words of its first output.
    listening_on: String,
    stdout: Arc<Stream>,
    stderr: Arc<Stream>,
    directory: Arc<tempfile::TempDir>,
}

/// How a `wharf` ended and what it said.
pub(crate) struct Exit {
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// All that it printed on standard output.
    pub(crate) stdout: String,
    /// All that it printed on standard error: messages and the log.
    pub(crate) stderr: String,
}

impl Wharf {
    /// Serves `config`, the text of a configuration file, on a free port.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, &[], &[])
    }

    /// Serves `config` with further arguments and environment variables.
    ///
    /// The working directory is new and holds the configuration as `wharf.toml`. This process's `WHARF_*` variables are
    /// not passed on.
    pub(crate) fn start_with(config: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut serve = vec!["--config", "wharf.toml", "--listen", "127.0.0.1:0"];
        serve.extend(arguments);
        Self::start_in(&Arc::new(directory_with(config)), &serve, environment)
    }

    /// Runs `wharf serve` with exactly these arguments. The directory lasts until its last user drops it.
    pub(crate) fn start_in(
        directory: &Arc<tempfile::TempDir>,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let serve: Vec<&str> = ["serve"].iter().chain(arguments).copied().collect();
        let command = command(&serve, environment, directory.path());
        Self::wait_for_start(command, directory)
    }

    /// Runs `wharf serve` with these arguments and this standard input. A shell runs `script`, which ends in `exec "$0"
    /// "$@"`.
    pub(crate) fn start_by(
        script: &str,
        stdin: Option<OwnedFd>,
        directory: &Arc<tempfile::TempDir>,
        arguments: &[&str],
    ) -> Self {
        Self::wait_for_start(by_shell(script, stdin, directory, arguments), directory)
    }

    fn wait_for_start(mut command: Command, directory: &Arc<tempfile::TempDir>) -> Self {
        let directory = Arc::clone(directory);
        let mut child = command.spawn().expect("the wharf binary runs");
        let stdout = Stream::follow(child.stdout.take().expect("stdout is piped"));
        let stderr = Stream::follow(child.stderr.take().expect("stderr is piped"));
        let listens = |line: &str| line.strip_prefix("listening on ").map(str::to_owned);
        let Some(listening_on) = stdout.wait_for(listens) else {
            let _ = child.kill();
            panic!("wharf does not listen.\nstdout:\n{}\nstderr:\n{}", stdout.all(), stderr.all());
        };
        Self { child, listening_on, stdout, stderr, directory }
    }

    /// Runs `wharf` with `arguments` to its end, in a directory that holds `config` as `wharf.toml`.
    pub(crate) fn run(config: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Exit {
        Self::run_in(&directory_with(config), arguments, environment)
    }

    /// Runs `wharf` with `arguments` to its end in this directory.
    pub(crate) fn run_in(
        directory: &tempfile::TempDir,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Exit {
        Self::run_at(directory.path(), arguments, environment)
    }

    /// Like [`Wharf::run_in`], in a directory that the caller does not own.
    pub(crate) fn run_at(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Exit {
        run(command(arguments, environment, directory))
    }

    /// Runs `wharf serve` to its end as [`Wharf::start_by`] starts it.
    pub(crate) fn run_by(
        script: &str,
        stdin: Option<OwnedFd>,
        directory: &tempfile::TempDir,
        arguments: &[&str],
    ) -> Exit {
        run(by_shell(script, stdin, directory, arguments))
    }

    /// The address on which it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        let address = self.listening_on.split_once("://").and_then(|(_, address)| address.parse().ok());
        address.unwrap_or_else(|| panic!("{} is no TCP address", self.listening_on))
    }

    /// The address of its admin listener.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        let output = self.output();
        let line = output.lines().find_map(|line| line.trim().strip_prefix("admin "));
        let address =
            line.and_then(|url| url.trim().strip_prefix("http://")?.strip_suffix('/')?.parse().ok());
        address.unwrap_or_else(|| panic!("no admin listener: {output}"))
    }

    /// Where it listens, as it printed it: `http://ADDRESS:PORT` or `unix:PATH`.
    pub(crate) fn listening_on(&self) -> &str {
        &self.listening_on
    }

    /// Its working directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A new connection to it.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    /// `GET path` on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], "")
    }

    /// A whole request on a connection of its own; a body that is not empty gets its `Content-Length`.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut client = self.connect();
        client.request(method, path, headers, body);
        if method == "HEAD" { client.head_answer() } else { client.answer() }
    }

    /// A request with a JSON body.
    pub(crate) fn json(&self, method: &str, path: &str, body: &str) -> Answer {
        self.request(method, path, &[("Content-Type", "application/json")], body)
    }

    /// Sends `bytes` and closes the sending half. Returns all bytes that come back until wharf closes the connection.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut client = self.connect();
        client.send(bytes);
        client.finish_sending();
        client.rest()
    }

    /// The standard output so far.
    pub(crate) fn output(&self) -> String {
        self.stdout.all()
    }

    /// The log so far, which goes to standard error.
    pub(crate) fn log(&self) -> String {
        self.stderr.all()
    }

    /// Waits until its log has a line that contains `text`.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let seen = self.stderr.wait_for(|line| line.contains(text).then_some(()));
        assert!(seen.is_some(), "the log has no {text:?}:\n{}", self.log());
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own kill, because not every system has the program.
        let kill = format!("kill -s {name} {}", self.id());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("sh runs");
        assert!(status.success(), "kill -s {name}");
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Exit {
        exit(&mut self.child, &self.stdout, &self.stderr)
    }
}

impl Drop for Wharf {
    fn drop(&mut self) {
        // Kill fails only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("wharf said:\n{}{}", self.output(), self.log());
        }
    }
}

/// A fresh directory that holds `config` as `wharf.toml`.
pub(crate) fn directory_with(config: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("wharf.toml"), config).expect("a temporary file");
    directory
}

fn command(arguments: &[&str], environment: &[(&str, &str)], directory: &Path) -> Command {
    prepared(Command::new(env!("CARGO_BIN_EXE_wharf")), arguments, environment, directory)
}

fn by_shell(
    script: &str,
    stdin: Option<OwnedFd>,
    directory: &tempfile::TempDir,
    arguments: &[&str],
) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_wharf"), "serve"]);
    let mut command = prepared(shell, arguments, &[], directory.path());
    if let Some(stdin) = stdin {
        command.stdin(stdin);
    }
    command
}

fn prepared(
    mut command: Command,
    arguments: &[&str],
    environment: &[(&str, &str)],
    directory: &Path,
) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"WHARF_") {
            command.env_remove(name);
        }
    }
    // The default is a fixed port, which servers that run at the same time cannot share.
    command.env("WHARF_ADMIN_LISTEN", "127.0.0.1:0");
    command.args(arguments).envs(environment.iter().copied()).current_dir(directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(mut command: Command) -> Exit {
    let mut child = command.spawn().expect("the wharf binary runs");
    let stdout = Stream::follow(child.stdout.take().expect("stdout is piped"));
    let stderr = Stream::follow(child.stderr.take().expect("stderr is piped"));
    exit(&mut child, &stdout, &stderr)
}

fn exit(child: &mut Child, stdout: &Stream, stderr: &Stream) -> Exit {
    // A process that has ended has closed its streams. Waiting for the streams has a limit; waiting for the process has
    // none.
    let ended = stdout.wait_for_end() && stderr.wait_for_end();
    if !ended {
        let _ = child.kill();
        panic!("wharf does not end.\nstdout:\n{}\nstderr:\n{}", stdout.all(), stderr.all());
    }
    let status: ExitStatus = child.wait().expect("a child can be waited for");
    Exit { code: status.code(), stdout: stdout.all(), stderr: stderr.all() }
}

/// The lines that a process writes. A separate thread reads them, so that the process never waits for the test.
struct Stream {
    state: Mutex<StreamState>,
    grown: Condvar,
}

#[derive(Default)]
struct StreamState {
    lines: Vec<String>,
    ended: bool,
}

impl Stream {
    fn follow(source: impl Read + Send + 'static) -> Arc<Self> {
        let stream = Arc::new(Self { state: Mutex::default(), grown: Condvar::new() });
        let writer = Arc::clone(&stream);
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                writer.change(|state| state.lines.push(String::from_utf8_lossy(&line).into_owned()));
            }
            writer.change(|state| state.ended = true);
        });
        stream
    }

    fn change(&self, change: impl FnOnce(&mut StreamState)) {
        change(&mut self.state.lock().expect("no thread panics while it holds the lines"));
        self.grown.notify_all();
    }

    /// The first result of `find` on a line, now or later. `None` when the stream ends or [`PATIENCE`] has passed.
    fn wait_for<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let until = Instant::now() + PATIENCE;
        let mut seen = 0;
        let mut state = self.state.lock().expect("no thread panics while it holds the lines");
        loop {
            if let Some(found) = state.lines[seen..].iter().find_map(|line| find(line)) {
                return Some(found);
            }
            seen = state.lines.len();
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state =
                self.grown.wait_timeout(state, left).expect("no thread panics while it holds the lines").0;
        }
    }

    fn wait_for_end(&self) -> bool {
        let state = self.state.lock().expect("no thread panics while it holds the lines");
        let (state, _) = self
            .grown
            .wait_timeout_while(state, PATIENCE, |state| !state.ended)
            .expect("no thread panics while it holds the lines");
        state.ended
    }

    fn all(&self) -> String {
        let state = self.state.lock().expect("no thread panics while it holds the lines");
        state.lines.iter().flat_map(|line| [line, "\n"]).collect()
    }
}
