//! A standard output or a standard error that cannot be written. Every command once panicked there.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::HELLO;
use crate::support::{Client, Wharf, directory_with, wait_until};

/// Both ways in which a standard output takes nothing.
fn full() -> Stdio {
    std::fs::File::options().write(true).open("/dev/full").expect("Linux has it").into()
}

/// A pipe whose reader has left, as that of `| head -1`.
fn left() -> Stdio {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.args(arguments).current_dir(directory).env("WHARF_ADMIN_LISTEN", "127.0.0.1:0");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn a_standard_output_that_takes_nothing_is_an_error_and_no_panic() {
    let directory = directory_with(HELLO);
    let wharf = Wharf::start(HELLO);
    let (url, admin) = (format!("http://{}/hello", wharf.address()), wharf.admin_address().to_string());
    for arguments in [
        &["check"][..],
        &["version"],
        &["--help"],
        &["completions", "bash"],
        &["demo", "--replace", "--database", "sqlite:demo.db"],
        &["load", "--connections", "1", "--duration", "100ms", &url],
        &["load", "--connections", "1", "--duration", "100ms", "--json", "-", &url],
        &["top", "--once", &admin],
    ] {
        for stdout in [full(), left()] {
            let run = command(directory.path(), arguments).stdout(stdout).output().expect("it runs");
            let said = String::from_utf8_lossy(&run.stderr);
            assert_eq!(run.status.code(), Some(2), "{arguments:?}: {said}");
            assert!(!said.contains("panicked"), "{arguments:?}: {said}");
            assert!(said.contains("cannot be written"), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn a_standard_error_that_takes_nothing_changes_no_exit_code() {
    let directory = directory_with("[server]\nworkers = 0\n");
    let broken = HELLO.replace("GET /hello", "GET hello");
    for (config, arguments, code) in [
        ("[server]\nworkers = 0\n", &["check"][..], 1),
        (&broken, &["serve"], 2),
        (HELLO, &["reload"], 2),
        (HELLO, &["load", "--config", "nowhere.toml"], 2),
        (HELLO, &["top", "--once", "127.0.0.1:1"], 1),
        (HELLO, &["health", "127.0.0.1:1"], 1),
        (HELLO, &["nothing"], 2),
    ] {
        std::fs::write(directory.path().join("wharf.toml"), config).expect("a file");
        let status = command(directory.path(), arguments).stdout(Stdio::null()).stderr(full()).status();
        assert_eq!(status.expect("it runs").code(), Some(code), "{arguments:?}");
    }
}

/// A server that is ended when the test fails.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Served {
    fn end(mut self) -> (ExitStatus, String) {
        let kill = format!("kill -s TERM {}", self.0.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh runs").success());
        let mut said = String::new();
        let stderr = self.0.stderr.as_mut().expect("it is piped");
        io::Read::read_to_string(stderr, &mut said).expect("a text");
        (self.0.wait().expect("a child"), said)
    }
}

#[test]
fn a_server_serves_though_its_summary_cannot_be_printed() {
    let (_reader, mut writer) = io::pipe().expect("a pipe");
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    while poll(&mut [PollFd::new(&writer, PollFlags::OUT)], Some(&at_once)).expect("a pipe can be polled")
        == 1
    {
        writer.write_all(&[b'x'; 4096]).expect("there is room");
    }
    for stdout in [full(), left(), writer.into()] {
        let directory = directory_with(HELLO);
        let socket = directory.path().join("wharf.sock");
        let mut serve = command(directory.path(), &["serve", "--listen", "unix:wharf.sock"]);
        let served = Served(serve.stdout(stdout).spawn().expect("it runs"));
        wait_until("it listens", || UnixStream::connect(&socket).is_ok());
        let mut client = Client::connect_unix(&socket);
        client.request("GET", "/hello", &[], "");
        assert_eq!(client.answer().status, 200);
        let (status, said) = served.end();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(said.contains("the server serves, but its summary cannot be printed"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
