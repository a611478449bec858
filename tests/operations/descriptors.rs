//! File descriptors that run out, and processor time that is not spent on waiting for them or for anything else.

use std::fs::DirEntry;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::{Client, PATIENCE, Wharf, directory_with, wait_until};

const HELLO: &str = "[endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n";
const REQUEST: &[u8] = b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n";

/// How a connection of one request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Answered(u16),
    /// The connection was closed without an answer.
    Closed,
    Failed(ErrorKind),
}

/// Asks once, as a client does that knows nothing of the server's shortage. Returns the socket, which is still open.
fn ask(address: SocketAddr) -> (Outcome, Option<TcpStream>) {
    let mut stream = match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(stream) => stream,
        Err(error) => return (Outcome::Failed(error.kind()), None),
    };
    stream.set_read_timeout(Some(PATIENCE)).expect("the limit is not zero");
    // Sending may fail when the server has closed the connection already. The client can still read the reason.
    let _ = stream.write_all(REQUEST);
    let mut received = Vec::new();
    let mut bytes = [0; 4096];
    let outcome = loop {
        match stream.read(&mut bytes) {
            Ok(0) => break Outcome::Closed,
            Ok(length) => received.extend_from_slice(&bytes[..length]),
            Err(error) => break Outcome::Failed(error.kind()),
        }
        if let Some(status) = received.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3)) {
            let status = std::str::from_utf8(status).ok().and_then(|status| status.parse().ok());
            break Outcome::Answered(status.expect("a status"));
        }
    };
    (outcome, Some(stream))
}

#[test]
fn with_a_hundred_descriptors_three_hundred_clients_are_served_or_told_so() {
    const CLIENTS: usize = 300;
    let directory = Arc::new(directory_with(HELLO));
    let wharf = Wharf::start_by(
        "ulimit -n 100; exec \"$0\" \"$@\"",
        None,
        &directory,
        &["--config", "wharf.toml", "--listen", "127.0.0.1:0"],
    );
    wharf.wait_for_log("takes 50 connections instead of http.max_connections = 10000");
    let address = wharf.address();
    for round in 0..3 {
        let (outcomes, happened) = unbounded();
        let (over, hold) = crossbeam_channel::bounded::<()>(0);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (outcomes, hold) = (outcomes.clone(), hold.clone());
                thread::spawn(move || {
                    let (outcome, stream) = ask(address);
                    outcomes.send(outcome).expect("the test counts them");
                    let _ = hold.recv();
                    drop(stream);
                })
            })
            .collect();
        for count in 0..CLIENTS {
            let outcome = happened.recv_timeout(PATIENCE).expect("none is left without any outcome");
            let fine = matches!(outcome, Outcome::Answered(200 | 503) | Outcome::Closed);
            assert!(fine, "round {round}, {count}: {outcome:?}");
        }
        drop(over);
        for client in clients {
            client.join().expect("no panic");
        }
        assert_eq!(wharf.get("/hello").status, 200, "as before, at once");
    }
    wharf.signal("TERM");
    assert_eq!(wharf.wait().code, Some(0));
}

/// A running server whose descriptors the test takes away.
struct Starved {
    wharf: Wharf,
    before: Rlimit,
    /// Clients that were served and now wait for their next request.
    idle: Vec<Client>,
}

impl Starved {
    fn start() -> Self {
        let before = rustix::process::getrlimit(Resource::Nofile);
        let mut server = Self { wharf: Wharf::start(HELLO), before, idle: Vec::new() };
        server.let_in_one();
        server
    }

    fn let_in_one(&mut self) {
        let mut client = self.wharf.connect();
        client.send(REQUEST);
        assert_eq!(client.answer().status, 200);
        self.idle.push(client);
    }

    /// It may have no descriptor from this one up.
    fn limit_to(&self, limit: u64) {
        let id = i32::try_from(self.wharf.id()).ok().and_then(Pid::from_raw);
        let limit = Rlimit { current: Some(limit), maximum: self.before.maximum };
        prlimit(id, Resource::Nofile, limit).expect("it is our own process");
    }

    /// Lowers the server's limit to the descriptors that it has. Clients fill the gaps between them.
    fn take_the_rest(&mut self) {
        loop {
            let listed = std::fs::read_dir(format!("/proc/{}/fd", self.wharf.id())).expect("it runs");
            let name = |entry: std::io::Result<DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
            let descriptors: Vec<u64> = listed.filter_map(name).collect();
            let end = descriptors.iter().max().map_or(0, |last| last + 1);
            if descriptors.len() as u64 == end {
                return self.limit_to(end);
            }
            self.let_in_one();
        }
    }

    fn give_back(&self) {
        self.limit_to(self.before.current.expect("tests run with a limit"));
    }

    /// A client that is answered, whatever the answer.
    fn ask(&self) -> Outcome {
        ask(self.wharf.address()).0
    }

    fn assert_refused(&self) {
        let mut client = self.wharf.connect();
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("1")));
        assert!(answer.text().contains("file descriptor"), "{}", answer.text());
        assert!(client.is_closed());
    }
}

/// The descriptor kept for refusals was lost at the first accept from an empty backlog. The next client was served on it,
/// and later clients waited until a client left.
#[test]
fn without_a_descriptor_each_client_is_told_so_and_the_first_to_leave_makes_room() {
    let mut server = Starved::start();
    server.take_the_rest();
    for _ in 0..5 {
        server.assert_refused();
    }
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let address = server.wharf.address();
            thread::spawn(move || ask(address).0)
        })
        .collect();
    for client in crowd {
        assert_eq!(client.join().expect("no panic"), Outcome::Answered(503));
    }
    for client in &mut server.idle {
        client.send(REQUEST);
        assert_eq!(client.answer().status, 200, "who is in is served as before");
    }
    drop(server.idle.pop());
    wait_until("nobody is let in", || server.ask() == Outcome::Answered(200));
    server.give_back();
    for _ in 0..20 {
        assert_eq!(server.ask(), Outcome::Answered(200));
    }
    server.wharf.signal("TERM");
    let exit = server.wharf.wait();
    assert_eq!(exit.code, Some(0));
    assert!(exit.stderr.contains("refused (descriptors)"), "{}", exit.stderr);
    assert!(!exit.stderr.contains("cannot accept"), "it never had to wait: {}", exit.stderr);
}

#[test]
fn without_even_the_descriptor_kept_for_refusals_clients_wait_and_are_served_once_there_are_some() {
    let mut server = Starved::start();
    server.limit_to(1);
    let address = server.wharf.address();
    let clients: Vec<_> = (0..20).map(|_| thread::spawn(move || ask(address).0)).collect();
    server.wharf.wait_for_log("cannot accept, trying again in 100ms");
    let spent = cpu_of(&server.wharf);
    assert!(spent < Duration::from_millis(100), "waiting cost {spent:?} a second");
    server.give_back();
    for client in clients {
        assert_eq!(client.join().expect("no panic"), Outcome::Answered(200));
    }
    // The one for refusals is there again.
    server.take_the_rest();
    for _ in 0..3 {
        server.assert_refused();
    }
    let log = server.wharf.log();
    assert!(log.matches("cannot accept").count() < 10, "a line for each pause: {log}");
}

/// The acceptor read the bytes behind the request until no more came.
#[test]
fn without_a_descriptor_a_client_that_sends_without_end_holds_up_nobody() {
    let mut server = Starved::start();
    server.take_the_rest();
    let over = Arc::new(AtomicBool::new(false));
    let address = server.wharf.address();
    let attackers: Vec<_> = (0..3)
        .map(|_| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let flood = vec![b'x'; 1 << 20];
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect_timeout(&address, PATIENCE) else { continue };
                    stream.set_write_timeout(Some(Duration::from_secs(1))).expect("the limit is not zero");
                    while !over.load(Ordering::Relaxed) && stream.write_all(&flood).is_ok() {}
                }
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..30 {
        let began = Instant::now();
        assert_eq!(server.ask(), Outcome::Answered(503));
        slowest = slowest.max(began.elapsed());
    }
    over.store(true, Ordering::Relaxed);
    for attacker in attackers {
        attacker.join().expect("no panic");
    }
    assert!(slowest < Duration::from_secs(5), "one waited {slowest:?}");
}

#[test]
fn waiting_costs_no_processor_time_at_the_limit_and_while_draining() {
    let config =
        format!("[server]\nselectors = 2\n[http]\nmax_connections = 4\nhead_timeout = '1m'\n{HELLO}");
    let wharf = Wharf::start(&config);
    // In the middle of a head no connection is idle and none is finished.
    let mut within: Vec<Client> = (0..4).map(|_| wharf.connect()).collect();
    for client in &mut within {
        client.send("GET");
    }
    let idle = cpu_of(&wharf);
    assert!(idle < Duration::from_millis(100), "nothing to do cost {idle:?} a second");
    let mut refused: Vec<Client> = (0..64).map(|_| wharf.connect()).collect();
    for client in &mut refused {
        assert_eq!(client.answer().status, 503);
    }
    // They are in the backlog for as long as the others read that they were refused, and are refused after them.
    let mut waiting: Vec<Client> = (0..20).map(|_| wharf.connect()).collect();
    let crowded = cpu_of(&wharf);
    assert!(crowded < Duration::from_millis(100), "a crowd cost {crowded:?} a second");
    drop(refused);
    for client in &mut waiting {
        assert_eq!(client.answer().status, 503);
    }
    wharf.signal("TERM");
    wharf.wait_for_log("draining");
    // The refused ones among them are given up meanwhile.
    let draining = cpu_of(&wharf);
    assert!(draining < Duration::from_millis(100), "a drain cost {draining:?} a second");
    for client in &mut within {
        client.send(&REQUEST[3..]);
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
        assert!(client.is_closed());
    }
    drop((within, waiting));
    assert_eq!(wharf.wait().code, Some(0));
}

/// The processor time that the process spends, in user and kernel mode, during a second in which nothing happens.
fn cpu_of(wharf: &Wharf) -> Duration {
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", wharf.id())).expect("a running process");
        let (_, after) = stat.rsplit_once(')').expect("the command is in parentheses");
        // utime and stime, the 14th and 15th field of proc_pid_stat(5), where the command is the second.
        after.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a count")).sum()
    };
    let before = ticks();
    let (_nobody, silence) = crossbeam_channel::bounded::<()>(0);
    assert!(silence.recv_timeout(Duration::from_secs(1)).is_err(), "nobody says anything");
    // A hundred ticks a second, whatever the kernel's own clock is (USER_HZ).
    Duration::from_millis(10 * (ticks() - before))
}
