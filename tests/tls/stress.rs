//! Many TLS clients that behave badly at random, and what must hold whatever they do.

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustls::ClientConfig;

use super::known;
use super::served::{Served, VERSIONS};
use super::session::Session;
use crate::support::{Client, wait_for};

const CLIENTS: u64 = 8;
const RUN: Duration = Duration::from_millis(500);
/// Less than fits into the sockets: a client may send all before it reads.
const BODIES: usize = 60_000;

/// The expected answer.
enum Expected {
    Text(String),
    Known(usize),
    Verdict(usize),
    Head,
}

/// A request and its answer. `mark` is in both where there is text.
fn request(rng: &mut Rng, mark: &str) -> (Vec<u8>, Expected) {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
    match rng.u8(0..12) {
        0..3 => (get(&format!("/path/{mark}")), Expected::Text(format!("/path/{mark}?"))),
        3..6 => (get("/immediate"), Expected::Text("immediate".into())),
        6 => {
            let length = rng.usize(1..3_000_000);
            (get(&format!("/bytes?{length}")), Expected::Known(length))
        }
        7 => (format!("HEAD /path/{mark} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes(), Expected::Head),
        8 => {
            let length = rng.usize(1..BODIES * 5);
            let head = format!("PUT /known HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
            ([head.as_bytes(), &known::bytes(length)].concat(), Expected::Verdict(length))
        }
        9 => {
            let body = mark.repeat(rng.usize(1..BODIES / mark.len()));
            let head = format!("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
            ((head + &body).into_bytes(), Expected::Text(body))
        }
        _ => {
            let body = mark.repeat(rng.usize(1..BODIES / mark.len()));
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
    let answer = if let Expected::Head = expected { client.head_answer() } else { client.answer() };
    assert_eq!(answer.status, 200, "{mark}: {}", answer.text());
    match expected {
        Expected::Text(text) => assert_eq!(answer.text(), text, "{mark}"),
        Expected::Known(length) => {
            assert!(answer.body.len() == *length && known::is_at(0, &answer.body), "{mark}: {length}");
        }
        Expected::Verdict(length) => {
            assert_eq!(answer.text(), format!("{length} bytes, known: true"), "{mark}");
        }
        Expected::Head => {}
    }
}

/// A few requests, sent together in records whose sizes have nothing to do with their ends; every answer is checked.
fn behave(rng: &mut Rng, client: &mut Client, name: &str) {
    let marks: Vec<String> = (0..rng.usize(1..6)).map(|count| format!("{name}-{count}.")).collect();
    let requests: Vec<_> = marks.iter().map(|mark| request(rng, mark)).collect();
    let wire: Vec<u8> = requests.iter().flat_map(|(wire, _)| wire).copied().collect();
    let largest = rng.choice([300, 5000, 1 << 20]).unwrap_or(1);
    let ends = rng.u8(0..4) == 0;
    if ends {
        client.cork();
    }
    let mut rest = &wire[..];
    while !rest.is_empty() {
        let piece = rng.usize(1..=largest).min(rest.len());
        client.send(&rest[..piece]);
        rest = &rest[piece..];
    }
    if ends {
        client.finish_sending();
    }
    for (mark, (_, expected)) in marks.iter().zip(&requests) {
        check(client, expected, mark);
    }
    if ends {
        assert!(client.is_closed() && client.ended_in_peace(), "{name}: after the last answer");
    }
}

/// Everything that a client may do wrong; nothing of it is checked here.
fn misbehave(rng: &mut Rng, address: SocketAddr, config: &Arc<ClientConfig>) {
    let mut session = Session::connect(address, Arc::clone(config));
    let way = rng.u8(0..7);
    if way >= 3 {
        session.shake_hands();
    }
    let bytes = match way {
        0 => session.pending(),
        1 => (0..rng.usize(0..200)).map(|_| rng.u8(..)).collect(),
        2 => b"GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        _ => {
            let (wire, _) = request(rng, "wrong.");
            let sent = if way == 5 { wire.len() } else { rng.usize(1..=wire.len()) };
            session.encrypted(&wire[..sent])
        }
    };
    let sent = if way == 5 { bytes.len() } else { rng.usize(0..=bytes.len()) };
    let mut bytes = bytes[..sent].to_vec();
    if way == 4
        && let Some(byte) = rng.choice(&mut bytes)
    {
        *byte ^= 1;
    }
    // The server may have closed the connection meanwhile.
    let _ = std::io::Write::write_all(&mut session.socket, &bytes);
    if way == 5 {
        // Bytes that are left unread turn the end into a reset.
        let _ = std::io::Read::read(&mut session.socket, &mut vec![0; rng.usize(1..100_000)]);
    }
    if rng.bool() {
        let _ = session.socket.shutdown(if rng.bool() { Shutdown::Both } else { Shutdown::Write });
    }
}

#[test]
fn each_answer_belongs_to_its_request_and_nothing_is_left_over_whatever_clients_do() {
    let server = Served::start_with(|config, _| config.server.workers = Some(2));
    let until = Instant::now() + RUN;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|index| {
            let (address, mut rng) = (server.address(), Rng::with_seed(index));
            // Kept over its connections, so that they resume its session.
            let config = server.authority.trusting_with(&[VERSIONS[rng.usize(0..2)]], None);
            thread::spawn(move || {
                let mut count = 0;
                while Instant::now() < until {
                    count += 1;
                    if rng.bool() {
                        misbehave(&mut rng, address, &config);
                    } else {
                        let mut client = Client::connect_tls_with(address, Arc::clone(&config));
                        behave(&mut rng, &mut client, &format!("{index}-{count}"));
                    }
                }
                count
            })
        })
        .collect();
    let connections: u64 =
        clients.into_iter().map(|client| client.join().expect("a client's checks hold")).sum();
    assert!(connections >= CLIENTS, "{connections}");
    server.wait_for_open(0);
    let metrics = server.metrics();
    wait_for(
        || metrics.requests() == metrics.finished(),
        || format!("{} requests: {metrics}", metrics.requests()),
    );
    server.serves();
    server.finish();
}
