//! A server that stops while clients go on: each request that was sent has an answer, and no client sees a reset.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use http::Method;
use socket2::{Domain, Socket, Type};
use wharf::config::Config;
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Drained;
use wharf::server::{Running, Server};

use crate::support::{Client, Keeper, PATIENCE, Wharf, default_config, gate, wait_until};

/// More than a socket's buffers take at once.
const LARGE: usize = 8 << 20;

/// How long a client tries to connect: a system may let it wait where there was a listener a moment ago.
const CONNECT: Duration = Duration::from_millis(200);

fn serve(selectors: usize, change: impl FnOnce(&mut Config)) -> (Running, Keeper) {
    let mut config = default_config();
    config.server.selectors = Some(selectors);
    config.server.workers = Some(2);
    config.server.deadline = PATIENCE;
    config.queue.max_wait = PATIENCE;
    change(&mut config);
    let (gate, keeper) = gate();
    let quick = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Ok(Response::text("quick")) };
    let large = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::text(vec![b'x'; LARGE]))
    };
    let server = Server::new(config).expect("no database to open");
    let server = server.get("/quick", quick).get("/large", large).route(Method::GET, "/gate", gate);
    let server = server.get_immediate("/immediate", |_| Response::text("immediate"));
    (server.start().expect("a free port"), keeper)
}

/// Whether the server has ended the connection already, as the client would see it now.
fn has_ended(client: &Client) -> bool {
    let stream = client.stream();
    stream.set_nonblocking(true).expect("an open socket");
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("an open socket");
    match seen {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Sends whole requests. Whether they were there before the server closed the connection, so that the first must be answered.
fn asks(client: &Client, wire: &str) -> bool {
    { client.stream() }.write_all(wire.as_bytes()).is_ok() && !has_ended(client)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// Reads one answer, whole. Returns whether the connection goes on.
fn goes_on(client: &mut Client, must_answer: bool) -> bool {
    let Some(answer) = client.answer_or_end() else {
        assert!(!must_answer, "a request that had come before the end has no answer");
        return false;
    };
    assert!([200, 503].contains(&answer.status), "{}", answer.status);
    if answer.header("Connection") == Some("close") {
        assert!(client.is_closed() && !client.was_reset(), "after the last answer it is closed in peace");
        return false;
    }
    true
}

/// The clients of one round, each on a thread of its own until the server lets it go.
struct Load {
    address: SocketAddr,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn of(server: &Running) -> Self {
        let mut load = Self { address: server.address(), answered: Arc::default(), clients: Vec::new() };
        for path in ["/immediate", "/quick"] {
            for _ in 0..2 {
                load.client(move |client, answered| keep_asking(client, path, answered));
                load.client(move |client, answered| pipeline(client, path, answered));
            }
            load.client(move |client, _| be_idle(client, path));
            let address = load.address;
            load.thread(move |answered| come_and_go(address, path, answered));
        }
        for _ in 0..2 {
            // Its answer is owed only if it has asked before the drain begins.
            let client = Client::connect(load.address);
            assert!(asks(&client, &get("/large")));
            load.thread(move |_| read_slowly(client));
        }
        load
    }

    /// Connected before the drain can begin, however late its thread first runs.
    fn client(&mut self, run: impl FnOnce(Client, &AtomicUsize) + Send + 'static) {
        let client = Client::connect(self.address);
        self.thread(move |answered| run(client, answered));
    }

    fn thread(&mut self, run: impl FnOnce(&AtomicUsize) + Send + 'static) {
        let answered = Arc::clone(&self.answered);
        self.clients.push(thread::spawn(move || run(&answered)));
    }

    fn wait_for(&self, count: usize) {
        wait_until("the load does not run", || self.answered.load(Ordering::Relaxed) >= count);
    }

    fn end(self) {
        for client in self.clients {
            client.join().expect("nothing that a client was owed was lost");
        }
    }
}

fn keep_asking(mut client: Client, path: &str, answered: &AtomicUsize) {
    loop {
        let must_answer = asks(&client, &get(path));
        if !goes_on(&mut client, must_answer) {
            return;
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

fn pipeline(mut client: Client, path: &str, answered: &AtomicUsize) {
    const BATCH: usize = 8;
    loop {
        let mut must_answer = asks(&client, &get(path).repeat(BATCH));
        for _ in 0..BATCH {
            // Once one was answered the next is answered too, or the answer has said that it will not be.
            if !goes_on(&mut client, must_answer) {
                return;
            }
            must_answer = true;
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn be_idle(mut client: Client, path: &str) {
    asks(&client, &get(path));
    if goes_on(&mut client, false) {
        assert!(client.is_closed() && !client.was_reset());
    }
}

/// Has asked for the large answer.
fn read_slowly(mut client: Client) {
    // A little at a time, for about as long as the others run.
    let mut stream = client.stream();
    let (mut total, mut bytes) = (0, vec![0; 16 * 1024]);
    while total < LARGE / 2 {
        total += match stream.read(&mut bytes) {
            Ok(0) => panic!("the answer ends after {total} bytes"),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => panic!("neither reset nor too late: {error}"),
        };
        thread::yield_now();
    }
    let rest = client.rest();
    assert!(total + rest.len() > LARGE && !client.was_reset(), "{total} and {}", rest.len());
}

/// Connects for each request, until the server no longer listens.
fn come_and_go(address: SocketAddr, path: &str, answered: &AtomicUsize) {
    loop {
        let mut client = match Client::try_connect(address, CONNECT) {
            Ok(client) => client,
            Err(error) if [ErrorKind::ConnectionRefused, ErrorKind::TimedOut].contains(&error.kind()) => {
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let must_answer = asks(&client, &get(path));
        goes_on(&mut client, must_answer);
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_drain_under_load_answers_every_request_and_resets_no_client() {
    for round in 0..20 {
        let (server, _) = serve(1 + round % 2, |_| {});
        let load = Load::of(&server);
        load.wait_for(200 + 20 * round);
        assert_eq!(server.drain(), Drained::Complete);
        load.end();
    }
}

/// Fills a server that takes one connection: that one is busy, and clients beyond the limit have been refused and stay.
fn crowd(server: &Running, keeper: &Keeper, refused: usize) -> (Client, Vec<Client>) {
    let mut busy = Client::connect(server.address());
    busy.request("GET", "/gate", &[], "");
    keeper.wait_for_one();
    let mut crowd: Vec<Client> = (0..refused).map(|_| Client::connect(server.address())).collect();
    for client in &mut crowd {
        assert_eq!(client.answer().status, 503);
    }
    (busy, crowd)
}

/// Clients in the backlog were reset if they waited there until others had read their refusals.
#[test]
fn clients_waiting_at_the_limit_are_refused_by_a_server_that_stops() {
    for selectors in [1, 2] {
        let (server, keeper) = serve(selectors, |config| config.http.max_connections = 1);
        let (mut busy, refused) = crowd(&server, &keeper, 64);
        let mut waiting: Vec<Client> = (0..100).map(|_| Client::connect(server.address())).collect();
        for client in &mut waiting {
            client.request("GET", "/quick", &[], "");
        }
        let draining = thread::spawn(move || server.drain());
        for client in &mut waiting {
            let answer = client.answer_or_end().expect("it had asked before");
            assert_eq!((answer.status, answer.header("Connection")), (503, Some("close")));
            assert!(client.is_closed() && !client.was_reset());
        }
        keeper.let_through(1);
        assert_eq!(busy.answer().text(), "through");
        drop((busy, refused, waiting));
        assert_eq!(draining.join().expect("no panic"), Drained::Complete);
    }
}

/// When one poller had no room for a newcomer, it passed it on to another poller, which could have ended already.
#[test]
fn a_newcomer_is_not_handed_to_a_poller_that_has_ended() {
    for _ in 0..100 {
        let (server, keeper) = serve(2, |config| config.http.max_connections = 1);
        let (mut busy, _) = crowd(&server, &keeper, 0);
        let mut newcomers: Vec<Client> = (0..20).map(|_| Client::connect(server.address())).collect();
        for client in &newcomers {
            asks(client, &get("/quick"));
        }
        let draining = thread::spawn(move || server.drain());
        for client in &mut newcomers {
            let answer = client.answer_or_end().expect("it had asked before");
            assert_eq!(answer.status, 503);
        }
        keeper.let_through(1);
        assert_eq!(busy.answer().text(), "through");
        drop((busy, newcomers));
        assert_eq!(draining.join().expect("no panic"), Drained::Complete);
    }
}

const ENDLESS: &str = "[database]\nurl = 'sqlite:endless.db'\n\
    [endpoint.endless]\nroute = 'GET /endless'\ndeadline = '1m'\nreturns = 'value'\nsql = '''\n\
    with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000000000) select count(*) from n'''\n\
    [endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n";

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    for client_stays in [true, false] {
        let wharf = Wharf::start(ENDLESS);
        let mut client = wharf.connect();
        client.request("GET", "/endless", &[], "");
        // One poller reads in turn, so the statement is on its way.
        assert_eq!(wharf.get("/hello").status, 200);
        let client = client_stays.then_some(client);
        wharf.signal("TERM");
        wharf.wait_for_log("draining");
        wharf.signal("TERM");
        let began = Instant::now();
        let exit = wharf.wait();
        assert!(began.elapsed() < Duration::from_secs(10), "{client_stays} {:?}", began.elapsed());
        assert!(exit.stderr.contains("second signal: stopping at once"), "{}", exit.stderr);
        if let Some(mut client) = client {
            assert_eq!(exit.code, Some(1), "{}", exit.stderr);
            assert!(exit.stderr.contains("1 clients were cut off"), "{}", exit.stderr);
            assert!(client.is_closed());
        }
    }
}

/// A handler that ignores its deadline has no client any more once the client has its 504. A second signal did not end
/// the wait for such a handler.
#[test]
fn a_second_signal_also_ends_the_wait_for_a_handler_that_has_no_client_any_more() {
    let (server, keeper) = serve(1, |config| config.server.deadline = Duration::from_millis(50));
    let address = server.address();
    let mut client = Client::connect(address);
    client.request("GET", "/gate", &[], "");
    keeper.wait_for_one();
    assert_eq!(client.answer().status, 504);
    assert!(client.is_closed());
    drop(client);
    // Until the server handles signals, the test must handle them.
    let seen = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&seen)).expect("a signal to handle");
    let (ended, end) = crossbeam_channel::bounded(1);
    let began = Instant::now();
    thread::spawn(move || ended.send(server.run_until_signal().is_ok()));
    let ended = (0..1000).any(|_| {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .expect("it is our own process");
        end.recv_timeout(Duration::from_millis(20)).is_ok()
    });
    assert!(ended && began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    drop(keeper);
}

/// The acceptor went on for as long as clients connected.
#[test]
fn a_drain_ends_though_clients_go_on_connecting() {
    let wharf =
        Wharf::start("[server]\nselectors = 1\n[endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n");
    let address = wharf.address();
    let over = Arc::new(AtomicBool::new(false));
    let connected = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (over, connected) = (Arc::clone(&over), Arc::clone(&connected));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let socket =
                        Socket::new(Domain::IPV4, Type::STREAM, None).expect("the system has sockets");
                    socket.set_linger(Some(Duration::ZERO)).expect("a TCP socket lingers");
                    socket.set_nonblocking(true).expect("an open socket");
                    let _ = socket.connect(&address.into());
                    connected.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    wait_until("nobody connects", || connected.load(Ordering::Relaxed) > 5000);
    let began = Instant::now();
    wharf.signal("TERM");
    let exit = wharf.wait();
    let took = began.elapsed();
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no panic");
    }
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(took < Duration::from_secs(5), "{took:?}");
}
