//! The answers to clients when there is more work than workers, and when work takes too long, fails, or must end.

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod panics;
mod stress;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use http::Method;
use support::{Answer, Client, Gate, Keeper, PATIENCE, ask, assert_problem, default_config, gate};
use wharf::config::{Config, Connector};
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::metrics::Reason;
use wharf::server::Drained;
use wharf::server::{Running, Server};

const BOTH: [Connector; 2] = [Connector::Native, Connector::TinyHttp];

fn quick(_: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Ok(Response::text("quick"))
}

/// A server with one worker behind a gate, changed by `change`.
fn serve(gate: Gate, change: impl FnOnce(&mut Config)) -> Running {
    let mut config = default_config();
    config.server.workers = Some(1);
    config.server.selectors = Some(1);
    change(&mut config);
    let panics = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { panic!("on purpose") };
    let server = Server::new(config).expect("no database to open");
    let immediate = |_: &Request| Response::text("immediate");
    let server = server.route(Method::GET, "/gate", gate).get("/quick", quick).get("/panic", panics);
    server.get_immediate("/immediate", immediate).start().expect("a free port")
}

/// Asks for the gate until a worker has begun with it, and returns how many requests that took. On a busy machine a request's time
/// may be over before.
fn occupy(server: &Running, keeper: &Keeper) -> (Client, u64) {
    let finished = || server.metrics().finished();
    for attempts in 1.. {
        let before = finished();
        let client = ask(server, "/gate");
        let mut has_begun = false;
        support::wait_until("the request is neither begun nor refused", || {
            has_begun = keeper.has_one();
            has_begun || finished() > before
        });
        // It may have begun and ended between the two looks.
        if has_begun || keeper.has_one() {
            return (client, attempts);
        }
        assert!(attempts < 1000, "no worker begins with any request");
    }
    unreachable!("attempts have an end")
}

#[test]
fn a_full_queue_answers_503_at_once() {
    for connector in BOTH {
        let (handler, keeper) = gate();
        let server = serve(handler, |config| {
            config.server.connector = connector;
            config.queue.max_length = 1;
            config.queue.max_wait = PATIENCE;
        });
        let mut running = ask(&server, "/gate");
        keeper.wait_for_one();
        // One of these finds the place in the queue; whichever it is, the other is refused while nothing else moves.
        let (refused, waiting) =
            bounded(2).into_first_answer(vec![ask(&server, "/gate"), ask(&server, "/gate")]);
        assert_problem(&refused, 503, "queue is full");
        assert_eq!(refused.header("Retry-After"), Some("1"));
        assert_eq!(server.metrics().refused_for(Reason::QueueFull), 1);
        keeper.let_through(2);
        assert_eq!(running.answer().text(), "through");
        assert_eq!(waiting.recv_timeout(PATIENCE).expect("the other is served").text(), "through");
        assert_eq!(server.drain(), Drained::Complete);
    }
}

/// Reads several clients' answers side by side.
trait FirstAnswer {
    fn into_first_answer(self, clients: Vec<Client>) -> (Answer, Receiver<Answer>);
}

impl FirstAnswer for (Sender<Answer>, Receiver<Answer>) {
    fn into_first_answer(self, clients: Vec<Client>) -> (Answer, Receiver<Answer>) {
        let (sender, receiver) = self;
        for mut client in clients {
            let sender = sender.clone();
            thread::spawn(move || sender.send(client.answer()));
        }
        (receiver.recv_timeout(PATIENCE).expect("one is answered"), receiver)
    }
}

#[test]
fn a_request_that_waits_too_long_answers_503_while_every_worker_is_still_busy() {
    let (handler, keeper) = gate();
    let server = serve(handler, |config| config.queue.max_wait = Duration::from_millis(30));
    let mut running = ask(&server, "/gate");
    keeper.wait_for_one();
    let started = Instant::now();
    let mut client = ask(&server, "/quick");
    let waited = client.answer();
    assert_problem(&waited, 503, "queue.max_wait");
    assert_eq!(waited.header("Retry-After"), Some("1"));
    assert!(started.elapsed() >= Duration::from_millis(30), "it had its time to wait");
    // The connection is as good as before, and the job that is still in the queue is not run for it.
    client.request("GET", "/immediate", &[], "");
    assert_eq!(client.answer().text(), "immediate");
    keeper.let_through(1);
    assert_eq!(running.answer().text(), "through");
    assert_eq!(server.metrics().refused_for(Reason::QueueWait), 1);
    assert_eq!(server.drain(), Drained::Complete);
}

#[test]
fn with_tiny_http_a_job_that_waited_too_long_is_refused_by_the_worker() {
    let (handler, keeper) = gate();
    let server = serve(handler, |config| {
        config.server.connector = Connector::TinyHttp;
        config.queue.max_length = 1;
        config.queue.max_wait = Duration::from_millis(50);
        config.server.deadline = PATIENCE;
    });
    let (mut running, _) = occupy(&server, &keeper);
    // One of these finds the place in the queue, and the other's refusal says that it has it.
    let (refused, waiting) =
        bounded(2).into_first_answer(vec![ask(&server, "/quick"), ask(&server, "/quick")]);
    assert_problem(&refused, 503, "queue is full");
    let queued = Instant::now();
    support::wait_until("time never passes", || queued.elapsed() > Duration::from_millis(60));
    keeper.let_through(1);
    assert_eq!(running.answer().text(), "through");
    let waited = waiting.recv_timeout(PATIENCE).expect("the other is answered");
    assert_problem(&waited, 503, "queue.max_wait");
}

#[test]
fn the_deadline_answers_504_though_the_handler_ignores_it() {
    let (handler, keeper) = gate();
    let server = serve(handler, |config| config.server.deadline = Duration::from_millis(50));
    let (mut client, attempts) = occupy(&server, &keeper);
    let started = Instant::now();
    let late = client.answer();
    assert_problem(&late, 504, "deadline");
    assert!(started.elapsed() < Duration::from_millis(50 + 100) + Duration::from_secs(1));
    assert_eq!(server.metrics().refused_for(Reason::Deadline), attempts);
    keeper.let_through(1);
    support::wait_until("the worker is not free again", || ask(&server, "/quick").answer().text() == "quick");
    assert_eq!(server.drain(), Drained::Complete);
}

#[test]
fn a_panic_answers_500_and_costs_nothing_else() {
    for connector in BOTH {
        let server = serve(gate().0, |config| config.server.connector = connector);
        let mut client = ask(&server, "/panic");
        let answer = client.answer();
        assert_problem(&answer, 500, "server's log");
        assert!(!answer.text().contains("on purpose"), "internals stay inside");
        assert!(answer.json()["request_id"].is_string());
        // The same connection and the only worker go on.
        client.request("GET", "/quick", &[], "");
        assert_eq!(client.answer().text(), "quick");
        assert_eq!(server.drain(), Drained::Complete);
    }
}

#[test]
fn requests_that_need_no_worker_are_answered_while_none_is_free() {
    let (handler, keeper) = gate();
    let server = serve(handler, |config| config.queue.max_length = 1);
    let mut blocked = ask(&server, "/gate");
    keeper.wait_for_one();
    assert_eq!(ask(&server, "/immediate").answer().text(), "immediate");
    assert_eq!(ask(&server, "/nothing").answer().status, 404);
    keeper.let_through(1);
    assert_eq!(blocked.answer().status, 200);
}

#[test]
fn a_drain_answers_what_is_in_flight_and_closes_what_is_idle() {
    for connector in BOTH {
        let (handler, keeper) = gate();
        let server = serve(handler, |config| config.server.connector = connector);
        let address = server.address();
        let mut idle = ask(&server, "/quick");
        assert_eq!(idle.answer().status, 200);
        let mut queued = Vec::new();
        let mut running = ask(&server, "/gate");
        keeper.wait_for_one();
        for _ in 0..3 {
            queued.push(ask(&server, "/gate"));
        }
        if connector == Connector::Native {
            // The one poller reads in turn: once this is answered, the three before it are in the queue.
            assert_eq!(ask(&server, "/immediate").answer().status, 200);
        }
        let draining = thread::spawn(move || server.drain());
        if connector == Connector::Native {
            assert!(idle.is_closed(), "an idle connection is closed");
            assert!(
                std::net::TcpStream::connect_timeout(&address, PATIENCE).is_err(),
                "the listener is closed"
            );
        }
        keeper.let_through(4);
        assert_eq!(running.answer().text(), "through");
        if connector == Connector::Native {
            for mut client in queued {
                let answer = client.answer();
                assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
                assert!(client.is_closed());
            }
        }
        drop(idle);
        assert_eq!(draining.join().expect("no panic"), Drained::Complete);
    }
}

#[test]
fn a_drain_under_load_loses_no_response() {
    const CLIENTS: usize = 16;
    let mut config = default_config();
    config.server.workers = Some(4);
    let server = Server::new(config).expect("no database").get("/quick", quick).start().expect("a free port");
    let address = server.address();
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let answered = Arc::clone(&answered);
            // Here, and not when its thread comes to it: the drain may have begun by then.
            let mut client = Client::connect(address);
            thread::spawn(move || {
                loop {
                    client.request("GET", "/quick", &[], "");
                    let answer = client.answer();
                    assert_eq!(answer.status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                    if answer.header("Connection") == Some("close") {
                        return assert!(client.is_closed());
                    }
                }
            })
        })
        .collect();
    support::wait_until("the load does not run", || answered.load(Ordering::Relaxed) >= 100 * CLIENTS);
    assert_eq!(server.drain(), Drained::Complete);
    for client in clients {
        client.join().expect("every request that was sent had its answer");
    }
}

#[test]
fn a_drain_that_takes_too_long_says_how_many_were_cut_off() {
    let (handler, keeper) = gate();
    let server = serve(handler, |config| config.server.drain_timeout = Duration::from_millis(50));
    let mut client = ask(&server, "/gate");
    keeper.wait_for_one();
    assert_eq!(server.drain(), Drained::CutOff(1));
    drop(keeper);
    assert!(client.is_closed());
}
