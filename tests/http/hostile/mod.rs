//! Clients that want to hurt the server or each other, and handlers that fail in odd places.

mod other_sites;

use std::fmt;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use wharf::config::Config;
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Drained;
use wharf::server::{Running, Server};

use crate::support::{Client, Log, PATIENCE, ask, default_config, wait_until};

const LARGE: usize = 20 << 20;

/// Says that it was asked and then waits for the test.
struct Gate {
    begun: Receiver<()>,
    open: Sender<()>,
}

/// A server with one worker and the routes that the attacks need.
fn serve(change: impl FnOnce(&mut Config)) -> (Running, Gate) {
    let mut config = default_config();
    config.server.workers = Some(1);
    change(&mut config);
    let ((reached, begun), (open, passage)) = (unbounded(), unbounded());
    let gate = move |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        reached.send(()).map_err(Error::internal)?;
        passage.recv_timeout(PATIENCE).map_err(Error::internal)?;
        Ok(Response::text("through"))
    };
    let unprintable =
        |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Err(Error::internal(Unprintable)) };
    let quick = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Ok(Response::text("quick")) };
    let server = Server::new(config).expect("no database to open");
    let server = server.get("/gate", gate).get("/quick", quick).get("/unprintable", unprintable);
    let server = server.get_immediate("/immediate", |_| Response::text("immediate"));
    // As much as fits with other answers into one write.
    let server = server.get_immediate("/medium", |_| Response::text(vec![b'x'; 60_000]));
    let server = server.get_immediate("/large", |_| Response::text(vec![b'x'; LARGE]));
    (server.start().expect("a free port"), Gate { begun, open })
}

/// An error whose text cannot be made.
#[derive(Debug)]
struct Unprintable;

impl fmt::Display for Unprintable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("on purpose")
    }
}

impl std::error::Error for Unprintable {}

/// The poller reads on while a socket gives whole buffers; a client that is fast enough could keep it for itself.
#[test]
fn one_client_that_pipelines_without_end_does_not_hold_up_another() {
    let (server, _) = serve(|_| {});
    let greedy = Client::connect(server.address());
    let over = Arc::new(AtomicBool::new(false));
    let mut sending = greedy.stream().try_clone().expect("a socket can be cloned");
    let mut receiving = greedy.stream().try_clone().expect("a socket can be cloned");
    let stop = Arc::clone(&over);
    let sender = thread::spawn(move || {
        let wire = "GET /immediate HTTP/1.1\r\nHost: h\r\n\r\n".repeat(10_000);
        while !stop.load(Ordering::Relaxed) {
            sending.write_all(wire.as_bytes()).expect("the server takes the bytes");
        }
    });
    let (first, begun) = unbounded();
    let receiver = thread::spawn(move || {
        let (mut bytes, mut total) = (vec![0; 1 << 20], 0);
        while let Ok(1..) = receiving.read(&mut bytes).inspect(|count| total += count) {
            // Whether the test still listens does not matter here.
            let _ = first.send(total);
        }
    });
    wait_until("the pipeline runs", || begun.try_recv().is_ok_and(|total| total > 4 << 20));
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let started = Instant::now();
        assert_eq!(ask(&server, "/immediate").answer().text(), "immediate");
        slowest = slowest.max(started.elapsed());
    }
    over.store(true, Ordering::Relaxed);
    sender.join().expect("no panic");
    greedy.stream().shutdown(std::net::Shutdown::Both).expect("still open");
    receiver.join().expect("no panic");
    assert!(slowest < Duration::from_secs(5), "the other client waited {slowest:?}");
}

/// An abandoned job held its client's socket open, so that a client that was cut off did not notice.
#[test]
fn a_closed_connection_is_closed_though_an_old_job_of_it_is_still_in_the_queue() {
    let (server, gate) = serve(|config| {
        config.queue.max_wait = Duration::from_millis(20);
        config.http.write_timeout = Duration::from_millis(50);
    });
    let mut running = ask(&server, "/gate");
    gate.begun.recv_timeout(PATIENCE).expect("the worker is busy");
    let mut client = ask(&server, "/quick");
    assert_eq!(client.answer().status, 503, "its job stays in the queue");
    client.request("GET", "/large", &[], "");
    wait_until("the client is not cut off", || server.metrics().open_connections() == 1);
    // All of this would wait for the worker, which waits for the test.
    assert!(client.rest().len() < LARGE);
    gate.open.send(()).expect("the handler waits");
    assert_eq!(running.answer().text(), "through");
    assert_eq!(server.drain(), Drained::Complete);
}

/// The error's text was made outside of what catches a panic: the worker died, and its client waited for the deadline.
#[test]
fn an_error_that_panics_when_it_is_printed_costs_no_worker() {
    let (server, _) = serve(|_| {});
    // An error that is not logged is not printed.
    Log::start(log::LevelFilter::Error);
    let mut client = ask(&server, "/unprintable");
    assert_eq!(client.answer().status, 500);
    client.request("GET", "/quick", &[], "");
    assert_eq!(client.answer().text(), "quick", "the only worker is alive");
    assert_eq!(server.drain(), Drained::Complete);
}

/// A request that waited behind unsent answers of its own connection was forgotten when the client left.
#[test]
fn a_request_whose_client_leaves_before_it_can_be_queued_is_counted_as_abandoned() {
    let (server, _) = serve(|config| config.http.write_timeout = Duration::from_millis(50));
    let mut client = Client::connect(server.address());
    let pair = "GET /medium HTTP/1.1\r\nHost: h\r\n\r\nGET /quick HTTP/1.1\r\nHost: h\r\n\r\n";
    client.send(pair.repeat(500));
    wait_until("the client's requests are read", || server.metrics().requests() > 0);
    wait_until("the client is not cut off", || server.metrics().open_connections() == 0);
    let metrics = server.metrics();
    assert_eq!(metrics.requests(), metrics.finished(), "{metrics}");
}
