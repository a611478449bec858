//! Times and rates are right within 2 %.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::server::{Server, ok};
use crate::{assert_near, count, ms, number, report};

/// How long the stall takes.
const STALL: Duration = Duration::from_secs(2);

#[test]
fn known_service_times_are_what_the_percentiles_show() {
    // Each tenth request takes 1,200 ms, the others 400: of which 2 % are more than a busy machine takes to wake a thread.
    let server = Server::start(|number| {
        thread::sleep(Duration::from_millis(if number.is_multiple_of(10) { 1200 } else { 400 }));
        ok()
    });
    let report = report(&server.url(), &["--rate", "100/s", "--duration", "2s"]);
    assert_eq!((count(&report, "scheduled"), count(&report, "good")), (200, 200), "{report:#}");
    // What the server itself took says how busy the machine is.
    let mut took: Vec<Duration> = server.served().iter().map(|served| served.took).collect();
    took.sort();
    // What was sent late, which the run reports, is in the latency and not in the service time.
    for (times, lateness) in [("latency_ms", ms(&report, "lateness_ms", "p50")), ("service_ms", 0.0)] {
        for (percentile, took) in [("p50", took[99]), ("p95", took[189])] {
            let expected = took.as_secs_f64() * 1e3 + lateness;
            assert_near(ms(&report, times, percentile), expected, &report);
        }
        assert!(ms(&report, times, "min") >= 400.0, "{report:#}");
        assert!(ms(&report, times, "p99") >= 1200.0, "{report:#}");
    }
}

/// Stalls for 2 s when its 101st request comes; all that come meanwhile wait until it is over.
fn stalling(service: Duration) -> Server {
    let over = Mutex::new(None::<Instant>);
    Server::start(move |number| {
        let until = {
            let mut over = over.lock().expect("nobody panics with it");
            if number == 101 {
                *over = Some(Instant::now() + STALL);
            }
            *over
        };
        let stalled = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        thread::sleep(stalled.max(service));
        ok()
    })
}

#[test]
fn an_open_loop_shows_a_stall_as_its_users_see_it() {
    let server = stalling(Duration::ZERO);
    let report = report(&server.url(), &["--rate", "100/s", "--duration", "5s"]);
    assert_eq!((count(&report, "scheduled"), count(&report, "good")), (500, 500), "{report:#}");
    // 200 of 500 requests are due during the stall, and wait for what is left of it: 2 s at its begin, nothing at its end. So
    // 60 % are answered at once, and from there percentiles grow evenly to 2 s.
    for (percentile, expected) in [("p75", 0.75), ("p90", 1.5), ("p99", 1.95)] {
        let expected = expected * 1e3;
        let measured = ms(&report, "latency_ms", percentile);
        assert!((measured - expected).abs() <= 0.02 * 2e3, "{percentile} is {measured}: {report:#}");
    }
    assert!(ms(&report, "latency_ms", "p50") < 200.0, "{report:#}");
}

#[test]
fn a_closed_loop_hides_the_stall_and_says_what_it_is() {
    let server = stalling(Duration::from_millis(2));
    let report = report(&server.url(), &["--connections", "1", "--duration", "4s"]);
    assert_eq!(report["loop"], "closed");
    // One request met the stall, and one in a hundred must have done so for p99 to show it.
    assert!(count(&report, "good") > 200, "{report:#}");
    assert!(ms(&report, "service_ms", "max") >= 2e3 * 0.99, "{report:#}");
    assert!(ms(&report, "service_ms", "p99") < 1e3, "{report:#}");
}

/// Serves one request at a time, each for 5 ms.
fn one_at_a_time() -> Server {
    let turn = Mutex::new(());
    Server::start(move |_| {
        let _turn = turn.lock().expect("nobody panics with it");
        thread::sleep(Duration::from_millis(5));
        ok()
    })
}

/// How many a second the server has answered in its first two seconds.
fn rate_of(server: &Server) -> f64 {
    let mut at: Vec<Instant> = server.served().iter().map(|served| served.at).collect();
    at.sort();
    let until = at[0] + Duration::from_secs(2);
    let within = at.iter().filter(|at| **at < until).count();
    f64::from(u32::try_from(within).expect("few")) / 2.0
}

#[test]
fn a_closed_loop_finds_a_known_capacity() {
    let server = one_at_a_time();
    let report = report(&server.url(), &["--connections", "4", "--duration", "2s"]);
    assert_near(number(&report, "answered_per_s"), rate_of(&server), &report);
    assert_near(number(&report, "good_per_s"), rate_of(&server), &report);
    assert_eq!(report["statuses"]["200"], count(&report, "scheduled"));
}

#[test]
fn an_open_loop_above_the_capacity_offers_its_rate_and_is_answered_at_the_servers() {
    let server = one_at_a_time();
    let report = report(&server.url(), &["--rate", "400/s", "--duration", "2s"]);
    assert_eq!(count(&report, "scheduled"), 800);
    assert_near(number(&report, "offered_per_s"), 400.0, &report);
    assert_near(number(&report, "answered_per_s"), rate_of(&server), &report);
    // Every request was sent, and its answer waited for after the end.
    assert_eq!(count(&report, "good"), 800, "{report:#}");
}

#[test]
fn stages_change_the_rate() {
    let server = Server::start(|_| ok());
    let report = report(&server.url(), &["--stages", "1s:0..100,500ms:0,1s:100", "--seed", "3"]);
    assert_eq!((count(&report, "scheduled"), count(&report, "good")), (150, 150), "{report:#}");
}

#[test]
fn poisson_arrivals_are_the_same_with_the_same_seed() {
    let server = Server::start(|_| ok());
    let run = |seed| {
        let report =
            report(&server.url(), &["--rate", "100/s", "--duration", "1s", "--poisson", "--seed", seed]);
        assert_eq!(report["seed"].to_string(), seed);
        count(&report, "scheduled")
    };
    let (one, other) = (run("5"), run("6"));
    assert_eq!(run("5"), one);
    assert!((50..150).contains(&one) && (50..150).contains(&other), "{one} and {other}");
}
