//! Several generator threads do together what one does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use http::{HeaderMap, Method};
use wharf::load::{self, Arrivals, Pace, Plan, Rate, Report, Request, Stages, Target, Template};

use super::server::{Server, ok};
use super::{count, load, report};
use crate::support::assert_says;

/// Asks for `/NAME/0`, `/NAME/1` and so on.
fn target(server: &Server, name: &str, requests: usize, weight: u32) -> Target {
    let mut target = Target::from_url(&server.url(), &Template::default()).expect("a URL");
    let get =
        |number| Request::new(&Method::GET, &format!("/{name}/{number}"), "test", &HeaderMap::new(), b"");
    target.requests = (0..requests).map(get).collect();
    target.weight = weight;
    target
}

fn run(targets: Vec<Target>, pace: Pace, threads: usize) -> Report {
    let plan = Plan {
        targets,
        pace,
        timeout: Duration::from_secs(30),
        max_connections: None,
        late_after: Duration::from_secs(30),
        threads,
    };
    load::run(&plan, &AtomicBool::new(false), |_| {}).expect("the server is there")
}

fn rate(per_second: f64, length: Duration, arrivals: Arrivals) -> Pace {
    Pace::Open { stages: Stages::constant(Rate::new(per_second).expect("a rate"), length), arrivals }
}

/// How often each path was asked.
fn asked(server: &Server) -> BTreeMap<String, usize> {
    let mut asked = BTreeMap::new();
    for path in server.paths() {
        *asked.entry(path).or_default() += 1;
    }
    asked
}

#[test]
fn each_request_of_the_schedule_goes_out_once() {
    for threads in [2, 3] {
        let server = Server::start(|_| ok());
        let pace = rate(2000.0, Duration::from_millis(500), Arrivals::Constant);
        let report = run(vec![target(&server, "a", 1000, 1)], pace, threads);
        assert_eq!((report.threads, report.all.scheduled, report.all.good), (threads, 1000, 1000));
        let asked = asked(&server);
        assert_eq!(asked.len(), 1000);
        assert!(asked.values().all(|times| *times == 1), "{asked:?}");
    }
}

#[test]
fn arrivals_by_lot_are_those_of_one_thread() {
    let server = Server::start(|_| ok());
    let scheduled = [1, 2, 3].map(|threads| {
        let pace = rate(300.0, Duration::from_secs(1), Arrivals::Poisson { seed: 3 });
        let report = run(vec![target(&server, "a", 1, 1)], pace, threads);
        assert_eq!(report.all.good, report.all.scheduled);
        report.all.scheduled
    });
    assert_eq!(scheduled, [scheduled[0]; 3]);
}

#[test]
fn clients_of_several_threads_meet_the_weights_however_unevenly_they_are_answered() {
    let fast = Server::start(|_| ok());
    let slow = Server::start(|number| {
        thread::sleep(Duration::from_millis(if number.is_multiple_of(2) { 15 } else { 1 }));
        ok()
    });
    let targets = vec![target(&fast, "fast", 10, 3), target(&slow, "slow", 7, 1)];
    let pace = Pace::Closed { connections: 3, duration: Duration::from_secs(1) };
    let report = run(targets, pace, 2);
    assert_eq!((report.threads, report.all.good), (2, report.all.scheduled));
    let [fast_sent, slow_sent] = [0, 1].map(|index| report.targets[index].good);
    assert!(slow_sent > 20 && fast_sent.abs_diff(3 * slow_sent) <= 3, "{fast_sent} and {slow_sent}");
    for (server, requests) in [(&fast, 10), (&slow, 7)] {
        // No request of a list is sent a second time before each was sent once.
        let asked = asked(server);
        let (least, most) = (asked.values().min(), asked.values().max());
        assert_eq!(asked.len(), requests);
        assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{asked:?}");
    }
}

#[test]
fn there_are_no_more_threads_than_clients_or_connections() {
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let server = Server::start(move |_| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(5));
        now.fetch_sub(1, Ordering::SeqCst);
        ok()
    });
    let closed = report(&server.url(), &["--connections", "3", "--duration", "500ms", "--threads", "8"]);
    assert_eq!((count(&closed, "threads"), most.swap(0, Ordering::SeqCst)), (3, 3), "{closed:#}");
    // Twice what five connections can do.
    let open = ["--rate", "2000/s", "--duration", "200ms", "--max-connections", "5", "--threads", "64"];
    let open = report(&server.url(), &open);
    assert_eq!((count(&open, "threads"), most.load(Ordering::SeqCst)), (5, 5), "{open:#}");
    assert_eq!(count(&open, "good"), 400, "{open:#}");
}

#[test]
fn several_threads_are_named() {
    let server = Server::start(|_| ok());
    let run = ["--connections", "4", "--duration", "300ms", "--threads"];
    let of = |threads| load(&[&run[..], &[threads, &server.url()]].concat());
    assert_says(&of("2"), 0, &["closed loop: 4 connections for 0.3 s, 2 threads"]);
    assert!(!of("1").stdout.contains("thread"), "one is nothing to speak of");
}
