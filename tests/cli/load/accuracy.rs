//! Times and rates are right within 2 %.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::server::{Server, ok};
use super::{assert_near, count, ms, number, report};
use crate::support::measured;

/// How long the stall takes.
const STALL: Duration = Duration::from_secs(2);

#[test]
fn known_service_times_are_what_the_percentiles_show() {
    measured(|| shows_known_service_times("1"));
}

#[test]
fn several_threads_show_known_service_times_together() {
    measured(|| shows_known_service_times("3"));
}

fn shows_known_service_times(threads: &str) {
    // Of ten requests six take no time, three 400 ms, one 1,200.
    let server = Server::start(|number| {
        let ms = match number % 10 {
            0 => 1200,
            3 | 6 | 9 => 400,
            _ => 0,
        };
        thread::sleep(Duration::from_millis(ms));
        ok()
    });
    let report = report(&server.url(), &["--rate", "100/s", "--duration", "2s", "--threads", threads]);
    assert_eq!((count(&report, "scheduled"), count(&report, "good")), (200, 200), "{report:#}");
    let mut took: Vec<f64> = server.served().iter().map(|served| served.took.as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    for times in ["latency_ms", "service_ms"] {
        // The median request takes the server no time. So the measured median bounds the cost of the way there and back on
        // a machine this busy; on an idle machine it is almost nothing.
        let way = (ms(&report, times, "p50") - took[99]).max(0.0);
        for (percentile, took) in [("p75", took[149]), ("p95", took[189])] {
            let within = took * 0.98..=(took + way) * 1.02;
            let measured = ms(&report, times, percentile);
            assert!(within.contains(&measured), "{percentile} is not in {within:?}: {report:#}");
        }
        assert!(ms(&report, times, "p75") >= 400.0 && ms(&report, times, "p95") >= 1200.0, "{report:#}");
    }
}

/// Stalls for 2 s when its 51st request comes; all that come meanwhile wait until it is over.
fn stalling(service: Duration) -> Server {
    let over = Mutex::new(None::<Instant>);
    Server::start(move |number| {
        let until = {
            let mut over = over.lock().expect("nobody panics with it");
            if number == 51 {
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
    measured(|| shows_a_stall("1"));
}

#[test]
fn several_threads_show_a_stall_as_one_does() {
    measured(|| shows_a_stall("2"));
}

fn shows_a_stall(threads: &str) {
    let server = stalling(Duration::ZERO);
    let report = report(&server.url(), &["--rate", "50/s", "--duration", "5s", "--threads", threads]);
    assert_eq!((count(&report, "scheduled"), count(&report, "good")), (250, 250), "{report:#}");
    // 100 of 250 requests are due during the stall, and wait for its end: 2 s at its start, not at all at its end. So 60 %
    // are answered at once, and from there percentiles grow evenly to 2 s. On a busy machine the stall itself is longer, and
    // its hundred threads are woken one after the other. A loop that hides the stall shows none of it at p75.
    let stalled = server.served().iter().map(|served| served.took).max().expect("all were answered");
    let tolerance = STALL.mul_f64(0.1) + stalled.saturating_sub(STALL);
    for (percentile, expected_ms) in [("p75", 750.0), ("p90", 1500.0), ("p99", 1950.0)] {
        let off = ms(&report, "latency_ms", percentile) - expected_ms;
        assert!(off.abs() <= tolerance.as_secs_f64() * 1e3, "{percentile} is off by {off}: {report:#}");
    }
    assert!(ms(&report, "latency_ms", "p50") < 200.0, "{report:#}");
}

#[test]
fn a_closed_loop_hides_the_stall_and_says_what_it_is() {
    measured(|| {
        let server = stalling(Duration::from_millis(2));
        let report = report(&server.url(), &["--connections", "1", "--duration", "4s"]);
        assert_eq!(report["loop"], "closed");
        // One request met the stall, and one in a hundred must have done so for p99 to show it.
        assert!(count(&report, "good") > 150, "{report:#}");
        assert!(ms(&report, "service_ms", "max") >= 2e3 * 0.99, "{report:#}");
        assert!(ms(&report, "service_ms", "p99") < 1e3, "{report:#}");
    });
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

/// How many a second the server has answered in two seconds, by when these begin: on a busy machine the generator begins to
/// count somewhat before or after the first answer.
fn rates_of(server: &Server) -> RangeInclusive<f64> {
    const OFF: Duration = Duration::from_millis(100);
    const STEP: Duration = Duration::from_millis(10);
    let mut at: Vec<Instant> = server.served().iter().map(|served| served.at).collect();
    at.sort();
    let rates = (0..=20).map(|step| {
        let begin = (at[0] + step * STEP).checked_sub(OFF).expect("the machine runs for longer");
        let within = at.iter().filter(|at| (begin..begin + Duration::from_secs(2)).contains(*at)).count();
        f64::from(u32::try_from(within).expect("few")) / 2.0
    });
    rates.clone().fold(f64::INFINITY, f64::min)..=rates.fold(0.0, f64::max)
}

fn assert_is_rate_of(server: &Server, measured: f64, report: &Value) {
    let rates = rates_of(server);
    let within = rates.start() * 0.98..=rates.end() * 1.02;
    assert!(within.contains(&measured), "{measured} is not in {within:?}: {report:#}");
}

#[test]
fn a_closed_loop_finds_a_known_capacity() {
    measured(|| finds_a_known_capacity("1"));
}

#[test]
fn several_threads_find_a_known_capacity_together() {
    measured(|| finds_a_known_capacity("3"));
}

fn finds_a_known_capacity(threads: &str) {
    let server = one_at_a_time();
    let report = report(&server.url(), &["--connections", "4", "--duration", "2s", "--threads", threads]);
    assert_is_rate_of(&server, number(&report, "answered_per_s"), &report);
    assert_is_rate_of(&server, number(&report, "good_per_s"), &report);
    assert_eq!(report["statuses"]["200"], count(&report, "scheduled"));
}

#[test]
fn an_open_loop_above_the_capacity_offers_its_rate_and_is_answered_at_the_servers() {
    measured(|| {
        let server = one_at_a_time();
        let report = report(&server.url(), &["--rate", "400/s", "--duration", "2s"]);
        assert_eq!(count(&report, "scheduled"), 800);
        assert_near(number(&report, "offered_per_s"), 400.0, &report);
        assert_is_rate_of(&server, number(&report, "answered_per_s"), &report);
        // Every request was sent, and its answer waited for after the end.
        assert_eq!(count(&report, "good"), 800, "{report:#}");
    });
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
