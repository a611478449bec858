//! Support for the integration tests: a PostgreSQL and a MariaDB of their own, the real binary, and clients on real sockets.
//!
//! Nothing here sleeps for a fixed time or uses a fixed port, and nothing waits without a limit.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

mod breaking;
mod config;
mod counting;
mod distant;
mod forwarder;
mod gate;
mod log;
mod mariadb;
mod pgbouncer;
mod postgres;
mod relay;
mod tls;
mod wharf;
mod wire;
mod withholding;

use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) use breaking::Suspended;
pub(crate) use config::{config_of, config_on, default_config};
pub(crate) use counting::Counting;
pub(crate) use distant::Distant;
pub(crate) use forwarder::{Forwarder, Then};
pub(crate) use gate::{Gate, Keeper, gate};
pub(crate) use log::Log;
pub(crate) use mariadb::{Held, MariaDatabase, Mariadb, SuspendedMariadb, USER as MARIADB_USER};
pub(crate) use pgbouncer::{PgBouncer, Setup, psql};
pub(crate) use postgres::{Database, Postgres, free_port};
pub(crate) use tls::{Authority, Identity};
pub(crate) use wharf::{Exit, Wharf, directory_with};
pub(crate) use wire::{Answer, Client};
pub(crate) use withholding::Withholding;

/// How long a test waits for an event that must happen. It is generous: only a failing test ever waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks at a condition that another thread or process makes true.
pub(crate) const LOOK: Duration = Duration::from_millis(1);

/// Waits until another thread or process has made this condition true. Checks it once a millisecond.
pub(crate) fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_for(holds, || what.to_owned());
}

/// Like [`wait_until`]. `state` describes the state when the condition never becomes true.
pub(crate) fn wait_for(mut holds: impl FnMut() -> bool, state: impl Fn() -> String) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{}", state());
        std::thread::sleep(LOOK);
    }
}

/// Runs a test that measures, up to three times until it holds. Other tests and programs share the cores, and a measurement
/// beside them may miss what is there. A fault of the server or of a tool misses it each time.
pub(crate) fn measured(test: impl Fn()) {
    const TIMES: usize = 3;
    // The message of a failure is printed each time.
    let holds = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(&test)).is_ok();
    assert!((0..TIMES).any(|_| holds()), "it failed {TIMES} times; see the messages above");
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    id.stdout.trim_ascii() == b"0"
}

/// Asks for `path` on a new connection.
pub(crate) fn ask(server: &::wharf::server::Running, path: &str) -> Client {
    let mut client = Client::connect(server.address());
    client.request("GET", path, &[], "");
    client
}

/// Asserts that the answer is a problem (RFC 9457) with this status, whose detail contains `detail`.
pub(crate) fn assert_problem(answer: &Answer, status: u16, detail: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("Content-Type"), Some("application/problem+json"));
    assert_eq!(answer.json()["status"], status);
    let said = answer.json()["detail"].as_str().expect("a problem has a detail").to_owned();
    assert!(said.contains(detail), "{said:?} does not say {detail:?}");
}

/// Asserts that a `wharf` ended with this code and printed all of these texts.
pub(crate) fn assert_says(exit: &Exit, code: i32, texts: &[&str]) {
    assert_eq!(exit.code, Some(code), "{}{}", exit.stdout, exit.stderr);
    let said = format!("{}{}", exit.stdout, exit.stderr);
    for text in texts {
        assert!(said.contains(text), "does not say {text:?}:\n{said}");
    }
}

/// Asserts the state at the end of a test, after its clients have left. Every request that was read finished exactly
/// once, every connection gave its place back, and the drain has nothing to wait for.
pub(crate) fn assert_nothing_is_left(server: ::wharf::server::Running) {
    let metrics = server.metrics();
    wait_until("connections stay open", || metrics.open_connections() == 0);
    wait_until("a request came to no end, or to two", || metrics.requests() == metrics.finished());
    assert_eq!(server.drain(), ::wharf::server::Drained::Complete);
}
