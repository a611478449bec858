//! Every limit on what clients may do, each with the refusal that is counted for it.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use fastrand::Rng;
use http::Method;
use wharf::config::Config;
use wharf::handler::{Context, Error, Handler as _, Policy};
use wharf::http::{Request, Response};
use wharf::metrics::{Closing, Reason};
use wharf::server::{Running, Server};

use crate::support::{
    Client, Keeper, LOOK, PATIENCE, ask, assert_nothing_is_left, assert_problem, default_config, gate,
    wait_until,
};

const LARGE: usize = 20 << 20;

/// Every test's server: `/gate` waits in a worker for the test and `/block` on the poller, the others answer at once.
fn serve(change: impl FnOnce(&mut Config)) -> (Running, Keeper) {
    let mut config = default_config();
    config.server.selectors = Some(1);
    config.server.workers = Some(4);
    config.server.deadline = PATIENCE;
    change(&mut config);
    let (gate, keeper) = gate();
    let blocking = gate.clone();
    let quick = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Ok(Response::text("quick")) };
    let echo = |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::text(request.body().clone()))
    };
    let count = |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        let mut bytes = Vec::new();
        request.reader().read_to_end(&mut bytes)?;
        Ok(Response::text(bytes.len().to_string()))
    };
    let large = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::text(vec![b'x'; LARGE]))
    };
    let server = Server::new(config).expect("no database to open");
    let server = server.route(Method::GET, "/gate", gate).get("/quick", quick).get("/large", large);
    let server = server.post("/echo", echo).route(Method::POST, "/count", count.with(Policy::streaming()));
    let server = server.get_immediate("/immediate", |_| Response::text("immediate"));
    let server = server.get_immediate("/block", move |_| blocking.pass().expect("the test lets it through"));
    (server.start().expect("a free port"), keeper)
}

/// A connection that was served and now waits for its next request.
fn idle(server: &Running, path: &str) -> Client {
    let mut client = ask(server, path);
    assert_eq!(client.answer().status, 200);
    client
}

/// Asks on new connections until one is served, and returns that one. An answered connection becomes idle only when its
/// worker has handed it back, so the first attempts may be refused.
fn served(server: &Running, path: &str) -> Client {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut client = ask(server, path);
        if client.answer().status == 200 {
            return client;
        }
        assert!(Instant::now() < until, "no place becomes free");
    }
}

fn asks_again(client: &mut Client, path: &str) {
    client.request("GET", path, &[], "");
    assert_eq!(client.answer().status, 200);
}

/// The whole answer of a client that was refused, to the connection's end.
fn assert_unavailable(client: &mut Client, detail: &str) {
    let answer = client.answer();
    assert_problem(&answer, 503, detail);
    assert_eq!((answer.header("Retry-After"), answer.header("Connection")), (Some("1"), Some("close")));
    assert!(client.is_closed());
}

#[test]
fn at_the_limit_the_connection_that_was_idle_for_longest_makes_room() {
    for path in ["/immediate", "/quick"] {
        let (server, _) = serve(|config| {
            config.http.max_connections = 4;
            config.server.workers = Some(1);
        });
        let mut last = Client::connect(server.address());
        // Once the only worker has answered this one as well, it has given back the one before; for at least two
        // milliseconds, because it is known to the millisecond when it did.
        let mut settle = || {
            asks_again(&mut last, path);
            let began = Instant::now();
            wait_until("time never passes", || began.elapsed() > Duration::from_millis(2));
            asks_again(&mut last, path);
        };
        let mut settled = || {
            let client = idle(&server, path);
            settle();
            client
        };
        let (mut first, mut second, mut third) = (settled(), settled(), settled());
        let mut fourth = settled();
        assert!(first.is_closed(), "it was idle for longest");
        asks_again(&mut second, path);
        let mut fifth = settled();
        assert!(third.is_closed(), "the second was used meanwhile");
        let sixth = settled();
        assert!(fourth.is_closed(), "newer than the second, but not used since");
        asks_again(&mut second, path);
        asks_again(&mut fifth, path);
        assert_eq!(server.metrics().closed_for(Closing::Evicted), 3);
        assert_eq!(server.metrics().refused_for(Reason::ConnectionLimit), 0);
        assert_eq!(server.metrics().open_connections(), 4);
        drop((second, fifth, sixth, last));
        assert_nothing_is_left(server);
    }
}

#[test]
fn at_the_limit_a_newcomer_is_refused_when_nobody_is_idle() {
    let (server, keeper) = serve(|config| config.http.max_connections = 2);
    let mut busy = [ask(&server, "/gate"), ask(&server, "/gate")];
    keeper.wait_for_one();
    keeper.wait_for_one();
    assert_unavailable(&mut ask(&server, "/quick"), "http.max_connections");
    // It need not ask for anything to be told.
    assert_unavailable(&mut Client::connect(server.address()), "http.max_connections");
    assert_eq!(server.metrics().refused_for(Reason::ConnectionLimit), 2);
    keeper.let_through(1);
    let ended = thread::spawn(move || busy.each_mut().map(|client| client.answer().text().to_owned()));
    // One of the two is idle as soon as it has its answer, and makes room.
    drop(served(&server, "/quick"));
    assert_eq!(server.metrics().closed_for(Closing::Evicted), 1);
    keeper.let_through(1);
    assert_eq!(ended.join().expect("both have their answer"), ["through", "through"]);
    assert_nothing_is_left(server);
}

/// A connection was given up for a newcomer wherever one could be, and that a refused one lingers counted as such: every
/// other newcomer was served beyond the limit.
#[test]
fn a_refused_client_that_stays_makes_no_room_for_the_next() {
    let (server, keeper) = serve(|config| config.http.max_connections = 1);
    let mut busy = ask(&server, "/gate");
    keeper.wait_for_one();
    let mut refused: Vec<Client> = (0..10).map(|_| ask(&server, "/quick")).collect();
    for client in &mut refused {
        assert_problem(&client.answer(), 503, "http.max_connections");
    }
    assert_eq!(server.metrics().closed_for(Closing::Evicted), 0);
    keeper.let_through(1);
    assert_eq!(busy.answer().text(), "through");
    // While they still linger, there is one place, and one only.
    let mut first = served(&server, "/immediate");
    assert!(busy.is_closed());
    first.request("GET", "/gate", &[], "");
    keeper.wait_for_one();
    assert_problem(&ask(&server, "/quick").answer(), 503, "http.max_connections");
    keeper.let_through(1);
    assert_eq!(first.answer().text(), "through");
    drop((busy, refused, first));
    assert_nothing_is_left(server);
}

#[test]
fn an_idle_connection_of_another_poller_makes_room() {
    for busy_first in [true, false] {
        let (server, keeper) = serve(|config| {
            config.server.selectors = Some(2);
            config.http.max_connections = 2;
        });
        // The pollers take turns, so these two are on different ones, and the third is where the first is.
        let (mut busy, mut spare) = if busy_first {
            let busy = ask(&server, "/gate");
            keeper.wait_for_one();
            (busy, idle(&server, "/immediate"))
        } else {
            let spare = idle(&server, "/immediate");
            let busy = ask(&server, "/gate");
            keeper.wait_for_one();
            (busy, spare)
        };
        let mut third = idle(&server, "/immediate");
        assert!(spare.is_closed());
        assert_eq!(server.metrics().closed_for(Closing::Evicted), 1);
        third.request("GET", "/gate", &[], "");
        keeper.wait_for_one();
        for _ in 0..4 {
            assert_unavailable(&mut ask(&server, "/immediate"), "http.max_connections");
        }
        assert_eq!(server.metrics().refused_for(Reason::ConnectionLimit), 4, "each is refused once");
        keeper.let_through(2);
        assert_eq!((busy.answer().text(), third.answer().text()), ("through", "through"));
        drop((busy, third));
        assert_nothing_is_left(server);
    }
}

#[test]
fn a_connection_with_a_request_in_its_socket_is_never_closed_for_another() {
    for path in ["/immediate", "/quick"] {
        let (server, keeper) = serve(|config| config.http.max_connections = 2);
        let (mut waiting, mut blocking) = (idle(&server, path), idle(&server, path));
        blocking.request("GET", "/block", &[], "");
        keeper.wait_for_one();
        // The newcomer arrives while the poller is blocked. The poller handles it before it looks at the sockets again.
        let mut newcomer = ask(&server, path);
        wait_until("nobody accepts", || server.metrics().open_connections() == 3);
        // A client that is answered before the newcomer's turn may be closed for it. So both clients ask for the gate,
        // and none is answered.
        for client in [&mut waiting, &mut blocking] {
            client.request("GET", "/gate", &[], "");
        }
        keeper.let_through(1);
        assert_unavailable(&mut newcomer, "http.max_connections");
        keeper.let_through(2);
        assert_eq!(waiting.answer().text(), "through");
        assert_eq!((blocking.answer().text(), blocking.answer().text()), ("through", "through"));
        assert_eq!(server.metrics().closed_for(Closing::Evicted), 0);
        drop((waiting, blocking));
        assert_nothing_is_left(server);
    }
}

#[test]
fn a_client_that_has_said_nothing_yet_keeps_its_place_for_a_second() {
    let (server, _) = serve(|config| config.http.max_connections = 1);
    let began = Instant::now();
    let mut silent = Client::connect(server.address());
    drop(served(&server, "/quick"));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(silent.is_closed());
    assert!(server.metrics().refused_for(Reason::ConnectionLimit) > 0);
    assert_nothing_is_left(server);
}

#[test]
fn a_flood_at_the_limit_is_refused_while_all_are_busy_and_served_as_soon_as_one_is_not() {
    const FLOOD: usize = 150;
    let (server, keeper) = serve(|config| config.http.max_connections = 2);
    let mut busy = [ask(&server, "/gate"), ask(&server, "/gate")];
    keeper.wait_for_one();
    keeper.wait_for_one();
    let address = server.address();
    // At most 64 refused clients may stay connected at a time; the others wait.
    let (statuses, answered) = unbounded();
    let (over, hold) = crossbeam_channel::bounded::<()>(0);
    let clients: Vec<_> = (0..FLOOD)
        .map(|_| {
            let (statuses, hold) = (statuses.clone(), hold.clone());
            thread::spawn(move || {
                let mut client = Client::connect(address);
                client.request("GET", "/quick", &[], "");
                statuses.send(client.answer().status).expect("the test counts them");
                // Until the test is over.
                let _ = hold.recv();
            })
        })
        .collect();
    let next = || answered.recv_timeout(PATIENCE).expect("each is answered");
    assert!((0..64).all(|_| next() == 503));
    keeper.let_through(2);
    for client in &mut busy {
        assert_eq!(client.answer().text(), "through");
    }
    let statuses: Vec<u16> = (64..FLOOD).map(|_| next()).collect();
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&200));
    drop(over);
    for client in clients {
        client.join().expect("each has its answer");
    }
    drop(busy);
    asks_again(&mut Client::connect(address), "/quick");
    assert_nothing_is_left(server);
}

/// The server read from a refused client for as long as that client went on sending. So 64 such clients kept all others
/// in the backlog for half a minute, although there was a place.
#[test]
fn refused_clients_that_go_on_sending_do_not_keep_others_from_a_place() {
    let (server, keeper) = serve(|config| config.http.max_connections = 1);
    let mut busy = ask(&server, "/gate");
    keeper.wait_for_one();
    let mut refused: Vec<Client> = (0..64).map(|_| ask(&server, "/quick")).collect();
    for client in &mut refused {
        assert_eq!(client.answer().status, 503);
    }
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let sender = thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for client in &refused {
                // It fails once the server has closed the connection.
                let _ = client.stream().write(b"x");
            }
            thread::sleep(LOOK);
        }
    });
    keeper.let_through(1);
    assert_eq!(busy.answer().text(), "through");
    let began = Instant::now();
    assert_eq!(ask(&server, "/quick").answer().status, 200);
    let waited = began.elapsed();
    over.store(true, Ordering::Relaxed);
    sender.join().expect("no panic");
    assert!(waited < Duration::from_secs(8), "the place was free, and yet it took {waited:?}");
    drop(busy);
    assert_nothing_is_left(server);
}

#[test]
fn one_address_has_its_own_limit_and_a_place_again_when_one_leaves() {
    let (server, _) = serve(|config| config.http.max_connections_per_address = Some(2));
    let connect = |source: &str| {
        let mut client = Client::connect_from(source, server.address());
        client.request("GET", "/quick", &[], "");
        client
    };
    let mut inside = [connect("127.0.0.2"), connect("127.0.0.2")];
    for client in &mut inside {
        assert_eq!(client.answer().status, 200);
    }
    // An idle connection makes no room here: it would be taken from the others of the same address.
    assert_unavailable(&mut connect("127.0.0.2"), "http.max_connections_per_address");
    assert_eq!(server.metrics().refused_for(Reason::AddressLimit), 1);
    let mut other = connect("127.0.0.3");
    assert_eq!(other.answer().status, 200, "another address is another client");
    wait_until("the refused one stays", || server.metrics().open_connections() == 3);
    let [first, mut second] = inside;
    drop(first);
    wait_until("the first stays", || server.metrics().open_connections() == 2);
    assert_eq!(connect("127.0.0.2").answer().status, 200);
    asks_again(&mut second, "/quick");
    assert_eq!(server.metrics().refused_for(Reason::AddressLimit), 1);
    drop((second, other));
    assert_nothing_is_left(server);
}

/// A refused connection was counted like a served one for as long as it lingered, so that a client which asked again now
/// and then shut itself out.
#[test]
fn a_refused_client_that_stays_does_not_count_for_its_address() {
    let (server, _) = serve(|config| config.http.max_connections_per_address = Some(1));
    let inside = idle(&server, "/quick");
    let mut refused = ask(&server, "/quick");
    assert_problem(&refused.answer(), 503, "http.max_connections_per_address");
    drop(inside);
    wait_until("it stays", || server.metrics().open_connections() == 1);
    assert_eq!(ask(&server, "/quick").answer().status, 200);
    assert_eq!(server.metrics().refused_for(Reason::AddressLimit), 1);
    drop(refused);
    assert_nothing_is_left(server);
}

#[test]
fn a_trusted_proxys_address_is_not_counted() {
    let (server, _) = serve(|config| {
        config.http.max_connections_per_address = Some(1);
        config.proxy.trusted = "127.0.0.2".parse().expect("an address");
    });
    let of_proxy: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = Client::connect_from("127.0.0.2", server.address());
            asks_again(&mut client, "/quick");
            client
        })
        .collect();
    let inside = idle(&server, "/quick");
    assert_unavailable(&mut ask(&server, "/quick"), "http.max_connections_per_address");
    drop((of_proxy, inside));
    assert_nothing_is_left(server);
}

#[test]
fn more_new_connections_than_may_come_in_a_second_are_refused() {
    let (server, _) = serve(|config| config.http.max_accept_rate = Some(3));
    let mut clients: Vec<Client> = (0..3).map(|_| idle(&server, "/immediate")).collect();
    let began = Instant::now();
    let mut refused = 0;
    // How many of these find a place depends on how long they take: one in a third of a second.
    for _ in 0..20 {
        let mut client = ask(&server, "/immediate");
        let answer = client.answer();
        if answer.status == 200 {
            continue;
        }
        assert_problem(&answer, 503, "http.max_accept_rate");
        assert_eq!((answer.header("Retry-After"), answer.header("Connection")), (Some("1"), Some("close")));
        assert!(client.is_closed());
        refused += 1;
    }
    let earned = u64::try_from(began.elapsed().as_millis() * 3 / 1000 + 1).expect("few");
    assert!(refused + earned >= 20, "{refused} refused in {:?}", began.elapsed());
    assert_eq!(server.metrics().refused_for(Reason::AcceptRate), refused);
    asks_again(&mut clients[0], "/immediate");
    drop((clients, served(&server, "/immediate")));
    assert_nothing_is_left(server);
}

#[test]
fn a_connection_ends_with_the_last_request_that_it_may_have() {
    for path in ["/immediate", "/quick"] {
        let (server, _) = serve(|config| config.http.max_requests_per_connection = Some(3));
        let mut client = Client::connect(server.address());
        for closes in [None, None, Some("close")] {
            client.request("GET", path, &[], "");
            assert_eq!(client.answer().header("Connection"), closes);
        }
        assert!(client.is_closed());
        assert_eq!(server.metrics().closed_for(Closing::RequestLimit), 1);
        let mut pipelining = Client::connect(server.address());
        pipelining.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").repeat(5));
        let answers = String::from_utf8(pipelining.rest()).expect("text");
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers}");
        assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
        assert_eq!(server.metrics().closed_for(Closing::RequestLimit), 2);
        // A client that closes by itself is not counted as closed for the limit.
        let mut leaving = idle(&server, path);
        asks_again(&mut leaving, path);
        leaving.request("GET", path, &[("Connection", "close")], "");
        assert_eq!(leaving.answer().status, 200);
        assert_eq!(server.metrics().closed_for(Closing::RequestLimit), 2);
        drop((client, pipelining, leaving));
        assert_nothing_is_left(server);
    }
}

#[test]
fn a_request_beyond_a_limit_is_refused_and_counted_under_that_limit() {
    let (server, _) = serve(|config| {
        config.http.max_head_bytes = 1000;
        config.http.max_target_bytes = 100;
        config.http.max_headers = 10;
        config.http.max_body_bytes = 100;
    });
    let get = |target: &str, headers: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    let post = |path: &str, rest: &str| format!("POST {path} HTTP/1.1\r\nHost: h\r\n{rest}");
    let chunked =
        |size: usize| format!("Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{}\r\n", "b".repeat(size));
    let long = format!("/{}", "t".repeat(99));
    let filler = |bytes: usize| format!("X: {}\r\n", "h".repeat(bytes));
    let wide = |bytes: usize| get("/immediate", &filler(bytes - get("/immediate", &filler(0)).len()));
    // Each at its limit and one beyond.
    for (within, beyond, status, reason) in [
        (wide(1000), wide(1001), 431, Reason::HeadBytes),
        (
            get("/immediate", &"X: h\r\n".repeat(9)),
            get("/immediate", &"X: h\r\n".repeat(10)),
            431,
            Reason::HeaderCount,
        ),
        (get(&long, ""), get(&format!("{long}t"), ""), 414, Reason::TargetBytes),
        (
            post("/echo", &format!("Content-Length: 100\r\n\r\n{}", "b".repeat(100))),
            post("/echo", "Content-Length: 101\r\n\r\n"),
            413,
            Reason::BodyBytes,
        ),
        (post("/echo", &(chunked(100) + "0\r\n\r\n")), post("/echo", &chunked(101)), 413, Reason::BodyBytes),
        (
            post("/count", &(chunked(100) + "0\r\n\r\n")),
            post("/count", &chunked(101)),
            413,
            Reason::BodyBytes,
        ),
    ] {
        let before = server.metrics().refused_for(reason);
        let mut client = Client::connect(server.address());
        client.send(&within);
        assert!([200, 404].contains(&client.answer().status), "{within}");
        assert_eq!(server.metrics().refused_for(reason), before);
        client.send(&beyond);
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("Connection")), (status, Some("close")), "{beyond}");
        assert!(client.is_closed());
        assert_eq!(server.metrics().refused_for(reason), before + 1, "{reason:?}");
    }
    assert_nothing_is_left(server);
}

/// Sends byte by byte for a while, at the pace of another client's requests. Bytes that the server no longer takes are
/// lost.
fn drip(client: &Client, server: &Running, duration: Duration) {
    let began = Instant::now();
    let mut other = Client::connect(server.address());
    while began.elapsed() < duration {
        asks_again(&mut other, "/immediate");
        let _ = client.stream().write(b"x");
    }
}

#[test]
fn a_head_or_body_that_is_not_whole_in_time_is_refused_however_it_drips() {
    let (server, _) = serve(|config| {
        config.http.head_timeout = Duration::from_millis(100);
        config.http.body_timeout = Duration::from_millis(100);
    });
    let half_head = "GET / HTTP/1.1\r\nHost: h\r\nX: ";
    let half_body = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\n";
    let half_chunk = "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nFFFF\r\n";
    for (start, reason, name) in [
        (half_head, Reason::HeadTimeout, "http.head_timeout"),
        (half_body, Reason::BodyTimeout, "http.body_timeout"),
        (half_chunk, Reason::BodyTimeout, "http.body_timeout"),
    ] {
        let before = server.metrics().refused_for(reason);
        for dripping in [0, 60] {
            let mut client = idle(&server, "/quick");
            let began = Instant::now();
            client.send(start);
            drip(&client, &server, Duration::from_millis(dripping));
            let answer = client.answer();
            assert_problem(&answer, 408, name);
            assert_eq!(answer.header("Connection"), Some("close"));
            assert!(client.is_closed());
            let waited = began.elapsed();
            assert!(waited >= Duration::from_millis(100) && waited < Duration::from_secs(5), "{waited:?}");
        }
        assert_eq!(server.metrics().refused_for(reason), before + 2);
    }
    assert_nothing_is_left(server);
}

#[test]
fn a_client_that_never_says_anything_is_closed_after_the_time_for_a_head() {
    let (server, _) = serve(|config| config.http.head_timeout = Duration::from_millis(50));
    assert!(Client::connect(server.address()).is_closed());
    assert_eq!(server.metrics().closed_for(Closing::Idle), 1);
    assert_eq!(server.metrics().requests(), 0, "nothing was asked, so nothing was refused");
    assert_nothing_is_left(server);
}

#[test]
fn a_connection_that_waits_too_long_for_its_next_request_is_closed() {
    let (server, _) = serve(|config| config.http.idle_timeout = Duration::from_millis(500));
    for (count, path) in ["/immediate", "/quick"].iter().enumerate() {
        let mut client = Client::connect(server.address());
        let began = Instant::now();
        // Each request starts the idle time again.
        for step in 1..=20 {
            wait_until("time never passes", || began.elapsed() > step * Duration::from_millis(50));
            asks_again(&mut client, path);
        }
        let last = Instant::now();
        assert!(client.is_closed());
        assert!(last.elapsed() < Duration::from_secs(5));
        assert_eq!(server.metrics().closed_for(Closing::Idle), count as u64 + 1);
    }
    assert_nothing_is_left(server);
}

/// This test takes as long as a rate is measured over: 5 s.
#[test]
fn a_body_that_comes_too_slowly_is_refused_and_one_that_is_fast_enough_is_not() {
    const LEAST: usize = 1500;
    let (server, _) = serve(|config| {
        config.http.min_body_rate = LEAST / 5;
        config.http.buffer_body_bytes = 1024;
    });
    let start = |path: &str, bytes: usize| {
        let mut client = Client::connect(server.address());
        client.send(format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n"));
        client.send("b".repeat(bytes));
        client
    };
    let began = Instant::now();
    // Buffered whole, not given to its handler yet, and with a handler that waits for more.
    let slow = [start("/echo", LEAST - 1), start("/count", 1000), start("/count", LEAST - 1)];
    let mut fast = [start("/echo", LEAST), start("/count", LEAST)];
    for (index, mut client) in slow.into_iter().enumerate() {
        let answer = client.answer();
        let waited = began.elapsed();
        assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(20), "{index}: {waited:?}");
        assert_problem(&answer, 408, "http.min_body_rate");
        assert_eq!(answer.header("Connection"), Some("close"));
        assert!(client.is_closed());
    }
    // A worker counts when the answer has gone.
    wait_until("not all are counted", || server.metrics().refused_for(Reason::BodyRate) == 3);
    for client in &mut fast {
        client.send("b".repeat(9000 - LEAST));
        assert_eq!(client.answer().status, 200);
    }
    drop(fast);
    assert_nothing_is_left(server);
}

#[test]
fn a_client_that_takes_nothing_is_cut_off_in_time() {
    let (server, _) = serve(|config| config.http.write_timeout = Duration::from_millis(50));
    let mut client = ask(&server, "/large");
    wait_until("it keeps its connection", || server.metrics().closed_for(Closing::WriteTimeout) == 1);
    assert!(client.rest().len() < LARGE);
    assert_nothing_is_left(server);
}

/// The time is for each 64 KiB, and not for the whole.
#[test]
fn a_client_that_takes_each_part_in_time_may_take_as_long_as_it_needs_for_the_whole() {
    const STEP: Duration = Duration::from_millis(50);
    let (server, _) = serve(|config| {
        config.http.write_timeout = 20 * STEP;
        config.http.idle_timeout = STEP;
    });
    let mut slow = Client::connect_narrow(server.address(), 32 * 1024);
    slow.request("GET", "/large", &[], "");
    let (mut total, mut part) = (0, vec![0; 64 * 1024]);
    let began = Instant::now();
    while began.elapsed() < 60 * STEP {
        // The clock is a connection that is closed after a step.
        for _ in 0..5 {
            assert!(idle(&server, "/quick").is_closed());
        }
        slow.stream().read_exact(&mut part).expect("the answer goes on");
        total += part.len();
    }
    let rest = slow.rest();
    assert!(
        total + rest.len() > LARGE && !slow.was_reset(),
        "{total} bytes slowly and {} at once",
        rest.len()
    );
    assert_eq!(server.metrics().closed_for(Closing::WriteTimeout), 0);
    drop(slow);
    assert_nothing_is_left(server);
}

/// One client that comes, asks, and goes in one of several ways. A connection may be closed whenever it is idle.
fn come_and_go(rng: &mut Rng, address: SocketAddr) {
    let mut client = Client::connect(address);
    for _ in 0..rng.usize(1..4) {
        let count = rng.usize(1..4);
        let wire = "GET /active HTTP/1.1\r\nHost: h\r\n\r\n".repeat(count);
        if client.stream().write_all(wire.as_bytes()).is_err() {
            break;
        }
        if rng.u8(0..8) == 0 {
            return;
        }
        for _ in 0..count {
            let Some(answer) = client.answer_or_end() else { return };
            assert!([200, 503].contains(&answer.status), "{}", answer.text());
            if answer.header("Connection") == Some("close") {
                return assert!(client.is_closed() && !client.was_reset());
            }
        }
    }
    if rng.u8(0..4) == 0 {
        assert!(client.is_closed() && !client.was_reset(), "it makes room for somebody, or its time is over");
    }
}

#[test]
fn the_limit_holds_however_clients_come_and_go() {
    const LIMIT: usize = 6;
    for seed in 0..4 {
        let mut config = default_config();
        config.server.selectors = Some(1 + usize::from(seed % 2 == 1));
        config.server.workers = Some(2 * LIMIT);
        config.http.max_connections = LIMIT;
        config.http.idle_timeout = Duration::from_millis(500);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&most);
        let active = move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Response::text("active"))
        };
        let server = Server::new(config).expect("no database to open");
        let server = server.get("/active", active).start().expect("a free port");
        let address = server.address();
        let until = Instant::now() + Duration::from_millis(500);
        let clients: Vec<_> = (0..16)
            .map(|index| {
                thread::spawn(move || {
                    let mut rng = Rng::with_seed(100 * seed + index);
                    while Instant::now() < until {
                        come_and_go(&mut rng, address);
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().expect("a client's checks hold");
        }
        assert!(seen.load(Ordering::SeqCst) <= LIMIT, "{} at once", seen.load(Ordering::SeqCst));
        let metrics = server.metrics();
        assert!(metrics.closed_for(Closing::Evicted) > 0, "{metrics}");
        assert!(metrics.refused_for(Reason::ConnectionLimit) > 0, "{metrics}");
        // Every place is there again.
        wait_until("connections stay open", || metrics.open_connections() == 0);
        let mut all: Vec<Client> = (0..LIMIT).map(|_| idle(&server, "/active")).collect();
        for client in &mut all {
            asks_again(client, "/active");
        }
        drop(all);
        assert_nothing_is_left(server);
    }
}
