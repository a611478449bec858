//! `examples/streaming.rs` as a process of its own: what it answers, and how much memory an upload costs it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::*;

const UPLOAD: usize = 256 * MIB;

/// The running example; ends when dropped.
struct Example {
    child: Child,
    address: SocketAddr,
}

impl Example {
    fn start() -> Self {
        let mut command = Command::new(built());
        command.arg("127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the example runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens, or ends");
        let address = line.trim_end().strip_prefix("listening on http://").and_then(|text| text.parse().ok());
        let mut example = Self { child, address: SocketAddr::from(([0, 0, 0, 0], 0)) };
        example.address = address.unwrap_or_else(|| panic!("no address: {line:?}"));
        example
    }

    /// The most memory that it has had so far, in KiB.
    fn peak(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    fn upload(&self, length: usize) -> String {
        let mut client = Client::connect(self.address);
        client.send(upload_head("/upload", Some(length)).replace("POST", "PUT"));
        let piece = vec![1; MIB];
        for _ in 0..length / MIB {
            client.stream().write_all(&piece).expect("the server takes all");
        }
        client.answer().text().to_owned()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the example and returns its path. `cargo test --test http` does not build examples by itself, and an example
/// that was built before may be of another version.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its file");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/");
    let name = profile.file_name().and_then(|name| name.to_str()).expect("ASCII");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--example", "streaming", "--profile"]);
    cargo.arg(if name == "debug" { "dev" } else { name }).current_dir(env!("CARGO_MANIFEST_DIR"));
    // This cargo tells the test about its package in environment variables. Passed on, they would make cargo build
    // packages with build scripts again.
    for (name, _) in std::env::vars_os() {
        let begins_with = |start: &[u8]| name.as_encoded_bytes().starts_with(start);
        if begins_with(b"CARGO_PKG_") || begins_with(b"CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    assert!(cargo.status().expect("cargo runs").success(), "the example is not built");
    profile.join("examples/streaming")
}

#[test]
fn the_example_answers_and_an_upload_of_any_length_costs_it_no_memory() {
    let example = Example::start();
    assert_eq!(example.upload(MIB), format!("{MIB} bytes, sum {MIB}\n"));
    let mut client = Client::connect(example.address);
    client.request("GET", "/file", &[], "");
    assert_eq!(client.answer().text(), include_str!("../../../examples/streaming.rs"));
    client.request("GET", "/numbers?n=100000", &[], "");
    let answer = client.answer();
    assert!(answer.text().lines().map(str::parse).eq((0..100_000).map(Ok::<u32, _>)));
    client.request("GET", "/numbers?n=many", &[], "");
    assert_eq!(client.answer().status, 400);
    let before = example.peak();
    assert_eq!(example.upload(UPLOAD), format!("{UPLOAD} bytes, sum {UPLOAD}\n"));
    let grown = example.peak() - before;
    assert!(grown < 10 * 1024, "{UPLOAD} bytes cost {grown} KiB of memory");
}
