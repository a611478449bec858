//! Many clients that do everything at once, wrong things too: every answer belongs to its request and comes in order,
//! nothing hangs, nothing is left over, and the counters add up.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Client, PATIENCE};
use wharf::config::Config;
use wharf::connector::Drained;
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::metrics::Reason;
use wharf::server::{Running, Server};

const CLIENTS: u64 = 24;
const ROUNDS: usize = 60;

fn echo(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text(request.body().clone()))
}

/// An answer as long as the path says, of one repeated letter.
fn long(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let length = request.path_value("length").unwrap_or("0").parse()?;
    Ok(Response::text(vec![b'l'; length]))
}

fn serve(queue: usize, max_wait: Duration) -> Running {
    let mut config = Config::default();
    config.server.listen.set_port(0);
    config.server.workers = Some(2);
    config.queue.max_length = queue;
    config.queue.max_wait = max_wait;
    let server = Server::new(config).expect("no database to open");
    let immediate = |request: &Request| Response::text(request.query().to_owned());
    let server =
        server.post("/echo", echo).get("/long/{length}", long).get_immediate("/immediate", immediate);
    server.start().expect("a free port")
}

/// One request as bytes, and what a 200 to it has as its body.
fn request(random: &mut fastrand::Rng, number: u64) -> (Vec<u8>, Vec<u8>) {
    match random.u32(0..4) {
        0 => {
            (format!("GET /immediate?{number} HTTP/1.1\r\nHost: h\r\n\r\n").into(), number.to_string().into())
        }
        1 => {
            let limit = if random.u32(0..20) == 0 { 2_000_000 } else { 2_000 };
            let length = random.usize(0..limit);
            (format!("GET /long/{length} HTTP/1.1\r\nHost: h\r\n\r\n").into(), vec![b'l'; length])
        }
        2 => {
            let body = number.to_string().repeat(random.usize(1..2_000));
            let head = format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
            ((head + &body).into(), body.into())
        }
        _ => {
            let body = number.to_string().repeat(random.usize(1..500));
            let mut wire = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in body.as_bytes().chunks(random.usize(1..700)) {
                wire.extend(format!("{:X};n=1\r\n", chunk.len()).bytes());
                wire.extend(chunk);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\nTrailer: t\r\n\r\n");
            (wire, body.into())
        }
    }
}

/// Sends bytes in parts of random size.
fn send_split(client: &mut Client, random: &mut fastrand::Rng, wire: &[u8]) {
    let mut rest = wire;
    while !rest.is_empty() {
        let largest = if random.bool() { rest.len() } else { rest.len().min(40) };
        let (part, after) = rest.split_at(random.usize(1..=largest));
        client.send(part);
        rest = after;
    }
}

/// One client's life: pipelines of requests, some of them abandoned. Counts the requests whose answers it read.
fn behave(address: SocketAddr, seed: u64, answered: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut client = Client::connect(address);
    for round in 0..ROUNDS {
        let count = random.usize(1..8);
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (bytes, body) = request(&mut random, seed * 1_000_000 + (round * 10 + number) as u64);
            wire.extend(bytes);
            expected.push(body);
        }
        let last = random.u32(0..10) == 0;
        match random.u32(0..12) {
            // Leaves in the middle of sending.
            0 => {
                let cut = random.usize(0..wire.len());
                client.send(&wire[..cut]);
                client = Client::connect(address);
                continue;
            }
            // Leaves without reading; what is unread makes it a reset.
            1 => {
                client.send(&wire);
                client = Client::connect(address);
                continue;
            }
            _ => {}
        }
        // The answers are read beside the sending, or a long pipeline of long answers would block both sides.
        let stream = client.stream().try_clone().expect("a socket can be cloned");
        let mut sender = Client::over(stream);
        let mut other = random.fork();
        let sending = thread::spawn(move || {
            send_split(&mut sender, &mut other, &wire);
            if last {
                sender.finish_sending();
            }
        });
        for body in &expected {
            let answer = client.answer();
            match answer.status {
                200 => assert!(answer.body == *body, "seed {seed}, round {round}: another request's answer"),
                503 => assert_eq!(answer.header("Retry-After"), Some("1")),
                status => panic!("seed {seed}, round {round}: {status} {}", answer.text()),
            }
            answered.fetch_add(1, Ordering::Relaxed);
        }
        sending.join().expect("everything is sent");
        if last {
            assert!(
                client.is_closed(),
                "seed {seed}, round {round}: the server closes after the last answer"
            );
            client = Client::connect(address);
        }
    }
}

#[test]
fn nothing_is_mixed_up_lost_or_left_over() {
    for (queue, max_wait) in [(1, Duration::from_millis(1)), (4, Duration::from_millis(5)), (1024, PATIENCE)]
    {
        let server = serve(queue, max_wait);
        let address = server.address();
        let answered = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| {
                let answered = Arc::clone(&answered);
                thread::spawn(move || behave(address, seed, &answered))
            })
            .collect();
        for client in clients {
            client.join().expect("every client is content");
        }
        let until = Instant::now() + PATIENCE;
        while server.metrics().open_connections() > 0 {
            assert!(Instant::now() < until, "{} connections stay", server.metrics().open_connections());
            thread::yield_now();
        }
        let mut client = Client::connect(address);
        client.request("POST", "/echo", &[], "as before");
        assert_eq!(client.answer().text(), "as before");
        drop(client);
        let metrics = server.metrics();
        let refused = metrics.refused_for(Reason::QueueFull) + metrics.refused_for(Reason::QueueWait);
        let read = answered.load(Ordering::Relaxed) + 1;
        let counted = metrics.answered_requests() + refused;
        assert!(counted >= read, "{counted} counted, {read} answers read");
        assert_eq!(metrics.refused_for(Reason::Deadline), 0);
        if queue == 1024 {
            assert_eq!(refused, 0, "there was room and time for all");
        }
        assert_eq!(server.drain(), Drained::Complete);
    }
}
