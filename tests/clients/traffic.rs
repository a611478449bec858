//! The requests that clients send through a proxy.

use std::io::Read as _;
use std::net::SocketAddr;
use std::slice::from_mut;
use std::thread;

use super::known;
use super::served::{FRAMING, LARGE, Served};
use crate::support::{Answer, Client, wait_for};

/// How many requests [`many_requests`] sends, and over how many connections.
pub(crate) const REQUESTS: usize = 500;
const THREADS: usize = 5;

/// Several clients at once, each with a connection of its own, which it keeps: every answer is right.
pub(crate) fn many_requests(through: SocketAddr) {
    thread::scope(|scope| {
        for index in 0..THREADS {
            scope.spawn(move || {
                let mut client = Client::connect(through);
                for count in 0..REQUESTS / THREADS {
                    ask_one(&mut client, count, &format!("{index}-{count}"));
                }
            });
        }
    });
}

/// One request of the kind that `count` chooses. `mark` is in its answer, and in no other.
fn ask_one(client: &mut Client, count: usize, mark: &str) {
    let path = format!("/path/{mark}");
    match count % 5 {
        0 => {
            client.request("GET", &path, &[], "");
            assert_text(&client.answer(), &format!("{path}?"));
        }
        1 => {
            client.request("HEAD", &path, &[], "");
            let head = client.head_answer();
            let length = (path.len() + 1).to_string();
            assert_eq!((head.status, head.header("Content-Length")), (200, Some(length.as_str())), "{mark}");
        }
        2 => {
            client.request("POST", "/echo", &[], mark);
            assert_text(&client.answer(), mark);
        }
        3 => {
            send_chunked(client, mark.as_bytes(), 3);
            assert_text(&client.answer(), mark);
        }
        _ => {
            client.request("GET", "/nothing", &[], "");
            assert_eq!(client.answer().status, 204, "{mark}");
        }
    }
}

fn assert_text(answer: &Answer, text: &str) {
    assert_eq!((answer.status, answer.text()), (200, text));
}

/// `POST /echo` with the body in chunks of `size`.
fn send_chunked(client: &mut Client, body: &[u8], size: usize) {
    client.send("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut wire = Vec::new();
    for chunk in body.chunks(size) {
        wire.extend(format!("{:x}\r\n", chunk.len()).bytes());
        wire.extend(chunk);
        wire.extend(b"\r\n");
    }
    wire.extend(b"0\r\n\r\n");
    client.send(wire);
}

/// `POST /echo` with a length.
fn send_with_length(client: &mut Client, body: &[u8]) {
    client.send(format!("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(body);
}

/// Bodies of several megabytes both ways, on one connection; `chunks_become` is how the proxy hands on a chunked one.
pub(crate) fn large_bodies(through: SocketAddr, chunks_become: &str) {
    let (body, mut client) = (known::bytes(5 << 20), Client::connect(through));
    for _ in 0..2 {
        send_with_length(&mut client, &body);
        assert_echo(&client.answer(), &body, "length");
        send_chunked(&mut client, &body, 7001);
        assert_echo(&client.answer(), &body, chunks_become);
        client.request("GET", "/large", &[], "");
        let answer = client.answer();
        assert!(answer.status == 200 && answer.body == known::bytes(LARGE), "{}", answer.status);
    }
}

fn assert_echo(answer: &Answer, body: &[u8], framing: &str) {
    assert_eq!((answer.status, answer.header(FRAMING.as_str())), (200, Some(framing)));
    assert!(answer.body == body, "{} bytes came back", answer.body.len());
}

/// Clients that leave in the middle of an answer; the server notices while the proxy goes on.
pub(crate) fn leave_early(through: SocketAddr, server: &Served) {
    for _ in 0..10 {
        let mut client = Client::connect(through);
        client.request("GET", "/large", &[], "");
        let mut some = [0; 1000];
        client.stream().read_exact(&mut some).expect("the answer begins");
    }
    // The proxy may keep a connection or two, or ask for the server's health on one.
    let open = || server.metrics().open_connections();
    wait_for(|| open() <= 3, || format!("{} connections stay", open()));
    server.wait_until_none_is_left();
}

/// Requests that come when the server is about to close the proxy's idle connections, or has just closed them: every
/// answer is right.
///
/// To let time pass, the test waits until the server closes an idle connection of its own. The server closes the proxy's
/// connections at nearly the same time: a little later if the test's was answered first, a little earlier if it was
/// answered last.
pub(crate) fn meet_the_idle_timeout(through: SocketAddr, server: &Served) {
    const ROUNDS: usize = 20;
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(through)).collect();
    let before = server.connections();
    for round in 0..ROUNDS {
        // The idle timeout must also hold for a connection that a worker answered, although the worker does not tell
        // the poller.
        let path = if round % 4 < 2 { "immediate" } else { "idle" };
        let mut direct = Client::connect(server.address());
        if round % 2 == 0 {
            ask(from_mut(&mut direct), path);
        }
        ask(&mut clients, path);
        if round % 2 == 1 {
            ask(from_mut(&mut direct), path);
        }
        assert!(direct.is_closed(), "the server's idle timeout");
    }
    // One connection per round is the test's own. If the server closes the proxy's connections, the proxy needs at
    // least one more in every other round.
    let used = server.connections() - before;
    assert!(used >= ROUNDS + ROUNDS / 2, "{used} connections: the proxy's were never closed");
}

/// All clients ask at once, and each must get its answer.
fn ask(clients: &mut [Client], path: &str) {
    for client in &mut *clients {
        client.request("GET", &format!("/{path}"), &[], "");
    }
    for client in clients {
        assert_text(&client.answer(), path);
    }
}
