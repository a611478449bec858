//! Clients that upload, download and leave at random, and what must hold whatever they do.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::Shutdown;

use fastrand::Rng;
use http::Method;
use wharf::handler::{Handler as _, Policy};

use super::tunnel::Encryption;
use super::*;

const CLIENTS: u64 = 12;
const RUN: Duration = milliseconds(500);
const FILE: usize = 3 * MIB;

fn echo(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let mut reader = request.reader();
    Ok(Response::stream("application/octet-stream", move |writer| {
        std::io::copy(&mut reader, writer)?;
        Ok(())
    }))
}

fn hasty(_: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text("enough"))
}

fn numbers(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    let length: usize = request.query().parse().map_err(Error::internal)?;
    Ok(Response::stream("application/octet-stream", move |writer| Ok(writer.write_all(&body(length))?)))
}

fn serve(change: impl FnOnce(&mut Config)) -> Running {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&body(FILE)).and_then(|()| file.seek(SeekFrom::Start(0))).expect("a temporary file");
    let again = file.try_clone().expect("a file can be cloned");
    let of_worker = move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::file("application/octet-stream", file.try_clone()?)?)
    };
    let of_poller = move |_: &Request| {
        let file = again.try_clone().expect("a file can be cloned");
        Response::file("application/octet-stream", file).expect("it has a length")
    };
    let server = server(|config| {
        config.server.workers = Some(2);
        config.http.buffer_body_bytes = 4 * KIB;
        config.http.response_buffer_bytes = 16 * KIB;
        change(config);
    });
    let server =
        server.route(Method::POST, "/measure", measure.with(Policy::streaming().max_body_bytes(1 << 30)));
    let server = server.route(Method::POST, "/echo", echo.with(Policy::streaming().max_body_bytes(1 << 30)));
    let server =
        server.route(Method::POST, "/hasty", hasty.with(Policy::streaming().max_body_bytes(1 << 30)));
    start(server.get("/numbers", numbers).get("/file", of_worker).get_immediate("/at-once", of_poller))
}

/// One request's bytes, and how long a body its answer has; `None`: that does not matter, and the connection ends.
fn request(rng: &mut Rng) -> (Vec<u8>, Expected) {
    let get = |path: String| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
    let length = rng.choice([0, 10, 4096, 5000, 70_000, 400_000, 2_000_000]).unwrap_or(0);
    let post = |path: &str, rng: &mut Rng| {
        let chunk = [None, Some(rng.usize(1..20_000))][rng.usize(0..2)];
        let head = upload_head(path, chunk.is_none().then_some(length)).into_bytes();
        [head, chunk.map_or_else(|| body(length), |size| chunked(&body(length), size.max(length / 1000)))]
            .concat()
    };
    match rng.u8(0..20) {
        0..4 => (get("/quick".into()), Expected::Text("quick".into())),
        4..7 => (post("/measure", rng), Expected::Text(length.to_string())),
        7..10 => (post("/echo", rng), Expected::Body(length)),
        10 => (post("/hasty", rng), Expected::Text("enough".into())),
        11..15 => (get(format!("/numbers?{length}")), Expected::Body(length)),
        15..17 => (get("/file".into()), Expected::Body(FILE)),
        17..19 => (get("/at-once".into()), Expected::Body(FILE)),
        _ => (get("/immediate".into()), Expected::Text("immediate".into())),
    }
}

enum Expected {
    Text(String),
    Body(usize),
}

/// A client's treatment of its own connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    /// It reads and checks every answer.
    Good,
    /// It leaves in the middle of a request or an answer.
    Leaves,
    /// It only waits for the connection's end: the server may have to break off what takes too long.
    Waits,
}

/// One connection: requests sent together, in pieces that have nothing to do with their ends.
fn misbehave(rng: &mut Rng, address: SocketAddr, manners: Manners, name: &str) {
    let mut client = Client::connect(address);
    let requests: Vec<_> = (0..rng.usize(1..6)).map(|_| request(rng)).collect();
    let wire = requests.iter().flat_map(|(wire, _)| wire).copied().collect::<Vec<u8>>();
    let (sending, mut pieces) = (client.stream().try_clone().expect("a socket can be cloned"), rng.fork());
    let sender = thread::spawn(move || send(&mut pieces, &sending, &wire, manners));
    match manners {
        Manners::Good => check(&mut client, &requests, name),
        Manners::Waits => drop(read_to_end(client.stream())),
        Manners::Leaves => {
            client.stream().set_read_timeout(Some(milliseconds(20))).expect("the limit is not zero");
            let mut some = vec![0; rng.usize(1..200_000)];
            // How far it came does not matter.
            let _ = client.stream().read(&mut some);
            let _ = client.stream().shutdown(Shutdown::Both);
        }
    }
    drop(client);
    // The server may have closed before it had all.
    let _ = sender.join().expect("no panic");
}

fn send(rng: &mut Rng, mut to: &TcpStream, wire: &[u8], manners: Manners) -> std::io::Result<()> {
    let (mut rest, largest) = (wire, rng.choice([200, 5000, 1 << 20]).unwrap_or(1));
    if manners == Manners::Leaves {
        rest = &rest[..rng.usize(0..=rest.len())];
    }
    // Small pieces only for a start: each is a segment of its own.
    for _ in 0..200 {
        let piece = rng.usize(1..=largest).min(rest.len());
        to.write_all(&rest[..piece])?;
        rest = &rest[piece..];
    }
    to.write_all(rest)?;
    if manners == Manners::Waits { to.shutdown(Shutdown::Write) } else { Ok(()) }
}

fn check(client: &mut Client, requests: &[(Vec<u8>, Expected)], name: &str) {
    for (count, (_, expected)) in requests.iter().enumerate() {
        let answer = client.answer();
        match expected {
            _ if answer.status == 503 => assert_eq!(answer.header("Retry-After"), Some("1"), "{name}"),
            Expected::Text(text) => assert_eq!(answer.text(), text, "{name}-{count}"),
            Expected::Body(length) => assert_eq!(Seen::all(&answer.body), *length, "{name}-{count}"),
        }
        // If the server did not want a body, or not at once, it does not answer the requests behind that body.
        if answer.header("Connection") == Some("close") {
            client.finish_sending();
            return assert!(client.is_closed(), "{name}-{count}");
        }
    }
}

/// Lets clients loose on a server, and looks at what is left of them. Returns how many connections there were.
fn attack(server: Running, address: SocketAddr, seed: u64, manners: fn(&mut Rng) -> Manners) -> usize {
    let until = Instant::now() + RUN;
    let client = |index| {
        move || {
            let mut rng = Rng::with_seed(seed * 1000 + index);
            let mut count = 0;
            while Instant::now() < until {
                let manners = manners(&mut rng);
                misbehave(&mut rng, address, manners, &format!("{seed}-{index}-{count}"));
                count += 1;
            }
            count
        }
    };
    let clients: Vec<_> = (0..CLIENTS).map(|index| thread::spawn(client(index))).collect();
    let count = clients.into_iter().map(|client| client.join().expect("a client's checks hold")).sum();
    let metrics = server.metrics();
    let state = || format!("seed {seed}: {} open, {metrics}", metrics.open_connections());
    wait_for(|| metrics.open_connections() == 0, state);
    let is_served = || {
        let mut client = Client::connect(address);
        client.request("GET", "/quick", &[], "");
        client.answer().text() == "quick"
    };
    wait_until("no fresh request is served", is_served);
    end(server);
    count
}

fn good_or_leaving(rng: &mut Rng) -> Manners {
    if rng.u8(0..4) == 0 { Manners::Leaves } else { Manners::Good }
}

fn waiting_or_leaving(rng: &mut Rng) -> Manners {
    if rng.u8(0..4) == 0 { Manners::Leaves } else { Manners::Waits }
}

#[test]
fn clients_of_all_manners_leave_nothing_over_and_get_their_own_bodies() {
    for (seed, queue, max_wait) in [(1, 1, 2), (2, 100, 30_000), (3, 4, 10)] {
        let server = serve(|config| {
            config.server.selectors = Some(if queue == 4 { 3 } else { 1 });
            config.queue.max_length = queue;
            config.queue.max_wait = milliseconds(max_wait);
        });
        let address = server.address();
        assert!(attack(server, address, seed, good_or_leaving) >= 12);
    }
}

#[test]
fn clients_of_all_manners_leave_nothing_over_with_tls() {
    let encryption = Encryption::new();
    for (seed, queue, max_wait) in [(4, 100, 30_000), (5, 4, 10)] {
        let server = serve(|config| {
            encryption.ask_for(config);
            config.queue.max_length = queue;
            config.queue.max_wait = milliseconds(max_wait);
        });
        let address = encryption.tunnel_to(server.address());
        assert!(attack(server, address, seed, good_or_leaving) >= 12);
    }
}

#[test]
fn whenever_deadlines_pass_nothing_is_left_over() {
    let encryption = Encryption::new();
    for (seed, deadline, tls) in [(6, 1, false), (7, 5, false), (8, 50, false), (9, 5, true), (10, 50, true)]
    {
        let server = serve(|config| {
            config.server.deadline = milliseconds(deadline);
            if tls {
                encryption.ask_for(config);
            }
        });
        let address = if tls { encryption.tunnel_to(server.address()) } else { server.address() };
        assert!(attack(server, address, seed, waiting_or_leaving) >= 12);
    }
}
