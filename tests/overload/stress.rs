//! Many clients that behave badly at random, and what must hold whatever they do.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Drained;
use wharf::server::{Running, Server};

use crate::support::{Client, default_config, wait_for};

const CLIENTS: u64 = 12;
const RUN: Duration = Duration::from_millis(500);
/// More than a socket's buffers take at once.
const LARGE: usize = 5 << 20;

/// A few hundred microseconds of work, so that the queue fills.
fn work() {
    let until = Instant::now() + Duration::from_micros(300);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

fn echo(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    work();
    Ok(Response::text(request.body().clone()))
}

fn query(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    work();
    Ok(Response::text(request.query().to_owned()))
}

fn large(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let mut body = request.query().as_bytes().to_vec();
    body.resize(LARGE, b'x');
    Ok(Response::text(body))
}

fn serve(queue: usize, max_wait: Duration) -> Running {
    let mut config = default_config();
    config.server.workers = Some(2);
    config.queue.max_length = queue;
    config.queue.max_wait = max_wait;
    let server = Server::new(config).expect("no database to open");
    let server = server.post("/echo", echo).get("/query", query).get("/large", large);
    let immediate = |request: &Request| Response::text(request.query().to_owned());
    server.get_immediate("/immediate", immediate).start().expect("a free port")
}

/// The expected answer to a request that is not refused.
enum Expected {
    Text(String),
    Large(String),
    Head(usize),
}

/// A request and its answer. `mark` is in both, and in no other.
fn request(rng: &mut Rng, mark: &str) -> (Vec<u8>, Expected) {
    let get = |path: &str| format!("GET {path}?{mark} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
    let text = || Expected::Text(mark.to_owned());
    match rng.u8(0..60) {
        0..18 => (get("/query"), text()),
        18..36 => (get("/immediate"), text()),
        36..42 => {
            let wire = format!("HEAD /query?{mark} HTTP/1.1\r\nHost: h\r\n\r\n");
            (wire.into_bytes(), Expected::Head(mark.len()))
        }
        42 => (get("/large"), Expected::Large(mark.to_owned())),
        43..52 => {
            let body = mark.repeat(rng.usize(1..400));
            let head = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length:";
            (format!("{head} {}\r\n\r\n{body}", body.len()).into_bytes(), Expected::Text(body))
        }
        _ => {
            let body = mark.repeat(rng.usize(1..400));
            let mut wire = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for part in body.as_bytes().chunks(rng.usize(1..3000)) {
                wire.extend(format!("{:x}\r\n", part.len()).bytes());
                wire.extend(part);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\n");
            (wire, Expected::Text(body))
        }
    }
}

fn check(client: &mut Client, expected: &Expected, mark: &str) {
    let answer = if let Expected::Head(_) = expected { client.head_answer() } else { client.answer() };
    match (answer.status, expected) {
        (503, _) => assert_eq!(answer.header("Retry-After"), Some("1"), "{mark}"),
        (200, Expected::Text(text)) => assert_eq!(answer.text(), text, "{mark}"),
        (200, Expected::Large(start)) => {
            assert_eq!(answer.body.len(), LARGE, "{mark}");
            assert!(answer.body.starts_with(start.as_bytes()), "{mark}");
        }
        (200, Expected::Head(length)) => {
            assert_eq!(answer.header("Content-Length"), Some(length.to_string().as_str()), "{mark}");
        }
        (status, _) => panic!("{mark}: {status} {}", answer.text()),
    }
}

/// One connection: some requests sent together, in pieces that have nothing to do with their ends; then one of several
/// ways to go on.
fn misbehave(rng: &mut Rng, address: SocketAddr, name: &str) {
    let mut client = Client::connect(address);
    for round in 0..rng.usize(1..4) {
        let marks: Vec<String> =
            (0..rng.usize(1..30)).map(|count| format!("{name}-{round}-{count}.")).collect();
        let requests: Vec<_> = marks.iter().map(|mark| request(rng, mark)).collect();
        let wire = requests.iter().flat_map(|(wire, _)| wire).copied().collect::<Vec<u8>>();
        // Sent from a thread of its own, because the server stops reading while its answers are not read.
        let mut sending = client.stream().try_clone().expect("a socket can be cloned");
        let (mut pieces, half_close) = (rng.fork(), rng.u8(0..6) == 0);
        let aborts = rng.u8(0..6) == 0;
        if half_close {
            client.cork();
        }
        let sender = thread::spawn(move || {
            let (mut rest, largest) = (&wire[..], pieces.choice([3, 200, 5000, 1 << 20]).unwrap_or(1));
            // Tiny pieces only for a start: each is a segment of its own.
            for _ in 0..200 {
                let piece = pieces.usize(1..=largest).min(rest.len());
                sending.write_all(&rest[..piece])?;
                rest = &rest[piece..];
            }
            sending.write_all(rest)?;
            if half_close { sending.shutdown(Shutdown::Write) } else { Ok(()) }
        });
        if aborts {
            // Some of it is read, so that what is left makes the close a reset. How far it came is not checked.
            let mut some = vec![0; rng.usize(1..100_000)];
            let _ = client.stream().read(&mut some);
            let _ = client.stream().shutdown(Shutdown::Both);
            drop(client);
            let _ = sender.join().expect("no panic");
            return;
        }
        for (mark, (_, expected)) in marks.iter().zip(&requests) {
            check(&mut client, expected, mark);
        }
        sender.join().expect("no panic").expect("the server reads all of it");
        if half_close {
            return assert!(client.is_closed(), "{name}: after the last answer");
        }
    }
}

fn fresh_request_is_served(address: SocketAddr) -> bool {
    let mut fresh = Client::connect(address);
    fresh.request("GET", "/query?fresh", &[], "");
    fresh.answer().text() == "fresh"
}

#[test]
fn each_answer_belongs_to_its_request_and_nothing_is_left_over_whatever_clients_do() {
    for (seed, queue, max_wait) in [(1, 1, 1), (2, 4, 5), (3, 2, 2)] {
        let server = serve(queue, Duration::from_millis(max_wait));
        let address = server.address();
        let until = Instant::now() + RUN;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|index| {
                thread::spawn(move || {
                    let mut rng = Rng::with_seed(seed * 1000 + index);
                    for count in 0.. {
                        misbehave(&mut rng, address, &format!("{seed}-{index}-{count}"));
                        // A thread that gets no core begins only after the end.
                        if Instant::now() >= until {
                            return count + 1;
                        }
                    }
                    0
                })
            })
            .collect();
        let connections: u64 =
            clients.into_iter().map(|client| client.join().expect("a client's checks hold")).sum();
        let metrics = server.metrics();
        let state = || {
            format!(
                "seed {seed}, {} open: {} requests, {metrics}",
                metrics.open_connections(),
                metrics.requests()
            )
        };
        wait_for(|| metrics.open_connections() == 0, state);
        wait_for(|| metrics.requests() == metrics.finished(), state);
        assert!(connections >= CLIENTS, "{}", state());
        // On a busy machine even a lone request may wait for longer than these servers allow.
        wait_for(|| fresh_request_is_served(address), || "no fresh request is served".into());
        assert_eq!(server.drain(), Drained::Complete);
    }
}
