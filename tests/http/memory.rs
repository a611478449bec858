//! The memory of requests and answers is bounded over all connections, and comes back.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;

use wharf::metrics::{Closing, Reason};

use super::*;
use crate::support::{PATIENCE, Wharf, assert_problem, wait_until};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const MAX: usize = 2 * MIB;

fn bounded() -> Running {
    serve(|config| {
        // One poller knows all connections, so the oldest of them is the oldest of all.
        config.server.selectors = Some(1);
        config.http.max_body_bytes = MIB;
        config.http.max_buffered_bytes = Some(MAX);
        (config.http.body_timeout, config.http.min_body_rate) = (PATIENCE, 0);
        config.http.write_timeout = PATIENCE;
    })
}

/// Sends the head of a long body and `count` bytes of it.
fn begin_body(address: std::net::SocketAddr, count: usize) -> Client {
    let mut client = Client::connect(address);
    client.send(format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {MIB}\r\n\r\n").as_bytes());
    client.send(vec![b'x'; count]);
    client
}

#[test]
fn the_bodies_that_came_first_make_room_for_others() {
    let server = bounded();
    let (buffered, refused) =
        (|| server.metrics().buffered_bytes(), || server.metrics().refused_for(Reason::Memory));
    let mut clients = Vec::new();
    while refused() == 0 {
        let before = buffered();
        clients.push(begin_body(server.address(), 256 * KIB));
        wait_until("its bytes come", || buffered() >= before + 256 * KIB || refused() > 0);
        assert!(clients.len() <= MAX / (256 * KIB) + 1, "{} clients", clients.len());
    }
    assert_problem(&clients[0].answer(), 503, "http.max_buffered_bytes");
    assert!(clients[0].is_closed());
    // The one that came last goes on.
    let mut last = clients.pop().expect("there are several");
    last.send(vec![b'x'; MIB - 256 * KIB]);
    assert_eq!(last.answer().body.len(), MIB);
    drop((clients, last));
    wait_until("all memory is free again", || buffered() == 0);
}

#[test]
fn a_body_counts_until_its_answer_and_not_while_its_connection_is_idle() {
    let server = bounded();
    let mut clients = Vec::new();
    for length in [KIB, 20 * KIB, 500 * KIB] {
        let mut client = Client::connect(server.address());
        client.request("POST", "/echo", &[], &"x".repeat(length));
        assert_eq!(client.answer().body.len(), length);
        wait_until("the body is not counted any more", || server.metrics().buffered_bytes() == 0);
        clients.push(client);
    }
    assert_eq!(server.metrics().open_connections(), 3);
}

#[test]
fn the_answers_that_are_read_slowest_are_cut_off() {
    let server = bounded();
    let closed = || server.metrics().closed_for(Closing::Memory);
    // Each is longer than all that may be buffered.
    let mut first = Client::connect(server.address());
    first.request("GET", "/large", &[], "");
    wait_until("the first is cut off", || closed() == 1);
    assert!(first.rest().len() < LARGE, "it is cut off");
    let mut quick = Client::connect(server.address());
    quick.request("GET", "/path/x", &[], "");
    assert_eq!(quick.answer().text(), "/path/x?");
    drop(quick);
    wait_until("all memory is free again", || server.metrics().buffered_bytes() == 0);
}

/// The resident memory of a process, in bytes.
fn resident(wharf: &Wharf) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", wharf.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says it");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * KIB
}

/// Two thousand such clients held 1.9 GiB, and the process kept 1.6 GiB of it for good.
#[test]
fn an_attack_by_bodies_neither_takes_nor_keeps_much_memory() {
    const CLIENTS: usize = 300;
    let wharf = Wharf::start_with(
        "[http]\nmax_buffered_bytes = '32MiB'\nmin_body_rate = '0B'\n[database]\nurl = 'sqlite:x.db'\n\
         [endpoint.a]\nroute = 'POST /a'\nparams = { a = 'text' }\nsql = 'select :a as a'\n",
        &[],
        // As the Debian package and the Dockerfile set it.
        &[("MALLOC_MMAP_THRESHOLD_", "262144")],
    );
    let start = resident(&wharf);
    let mut most = 0;
    let piece = vec![b'x'; 900 * KIB];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = TcpStream::connect(wharf.address()).expect("it listens");
            let head = format!("POST /a HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {MIB}\r\n\r\n");
            // A client whose request was refused may be reset.
            drop(client.write_all(head.as_bytes()).and_then(|()| client.write_all(&piece)));
            most = most.max(resident(&wharf));
            client
        })
        .collect();
    assert!(most < start + 64 * MIB, "{most} bytes, and {start} at the start");
    drop(clients);
    wait_until("the memory is given back", || resident(&wharf) < start + 32 * MIB);
}
