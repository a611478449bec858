//! Every request has one outcome, counted as what it is.

use std::thread;
use std::time::Duration;

use serde_json::json;

use super::server::{Reply, Server, answer, ok};
use super::{assert_every_request_has_one_outcome, count, load, ms, report};
use crate::support::assert_says;

const FIFTY: [&str; 4] = ["--rate", "100/s", "--duration", "500ms"];

#[test]
fn answers_of_every_framing_are_read() {
    let framings: [&[u8]; 5] = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n3\r\nyou\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
    ];
    let server = Server::start(move |number| {
        let bytes = framings[number % framings.len()].to_vec();
        // Nothing but its end says where the answer ends.
        if number.is_multiple_of(7) {
            Reply::Last(b"HTTP/1.1 200 OK\r\n\r\nall of it".to_vec())
        } else {
            Reply::Bytes(bytes)
        }
    });
    let report = report(&server.url(), &FIFTY);
    assert_eq!((count(&report, "good"), count(&report, "failed")), (50, 0), "{report:#}");
}

#[test]
fn an_answer_to_head_has_no_body_and_a_body_is_sent_whole() {
    let heads = Server::start(|_| Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec()));
    let of_heads = report(&heads.url(), &[&FIFTY[..], &["--method", "HEAD"]].concat());
    assert_eq!(count(&of_heads, "good"), 50, "{of_heads:#}");
    // More than a socket takes at once, so that it goes out in pieces.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("body");
    std::fs::write(&file, vec![b'x'; 8 << 20]).expect("a file");
    let bodies = Server::start(|_| ok());
    let body = format!("@{}", file.display());
    let arguments = ["--rate", "4/s", "--duration", "1s", "--method", "POST", "--body", &body];
    let of_bodies = report(&bodies.url(), &arguments);
    assert_eq!((count(&of_bodies, "good"), bodies.requests()), (4, 4), "{of_bodies:#}");
}

#[test]
fn refusals_are_counted_apart() {
    let server = Server::start(|number| {
        if number.is_multiple_of(2) {
            return Reply::Bytes(answer(if number.is_multiple_of(4) { 503 } else { 429 }));
        }
        thread::sleep(Duration::from_millis(100));
        ok()
    });
    let report = report(&server.url(), &FIFTY);
    assert_eq!((count(&report, "refused"), count(&report, "good")), (25, 25), "{report:#}");
    let [good, busy, too_many] = ["200", "503", "429"].map(|status| report["statuses"][status].as_u64());
    assert_eq!((good, busy.zip(too_many).map(|(busy, too_many)| busy + too_many)), (Some(25), Some(25)));
    assert_eq!(report["errors_percent"], 50.0);
    // A refusal costs the client no time, and does not make the answers look faster.
    assert_eq!(report["refusal_ms"]["count"], 25);
    assert!(ms(&report, "latency_ms", "min") >= 100.0, "{report:#}");
    assert!(ms(&report, "refusal_ms", "min") < 100.0, "{report:#}");
}

#[test]
fn an_unanswered_request_counts_with_its_whole_waiting_time() {
    let server = Server::start(|number| if number.is_multiple_of(5) { Reply::Silence } else { ok() });
    let report = report(&server.url(), &[&FIFTY[..], &["--timeout", "400ms"]].concat());
    assert_eq!((count(&report, "timeouts"), count(&report, "good")), (10, 40), "{report:#}");
    // A fifth of the requests has no answer, so p75 is the time of an answer and p90 is not.
    assert!(ms(&report, "latency_ms", "p90") >= 400.0, "{report:#}");
    assert_eq!(report["latency_ms"]["count"], 50);
    assert!(ms(&report, "latency_ms", "p50") < 400.0, "{report:#}");
}

#[test]
fn a_waiting_request_is_not_lost_behind_many_answered_ones() {
    let server = Server::start(|number| if number == 1 { Reply::Silence } else { ok() });
    let report = report(&server.url(), &["--connections", "2", "--duration", "1s", "--timeout", "900ms"]);
    // More requests than the generator keeps in its queue of possible timeouts.
    assert!(count(&report, "good") > 1100, "{report:#}");
    assert_eq!((count(&report, "timeouts"), count(&report, "failed")), (1, 0), "{report:#}");
    assert!(ms(&report, "service_ms", "max") >= 900.0, "{report:#}");
}

#[test]
fn a_server_that_breaks_off_is_a_failure_by_its_kind() {
    let server = Server::start(|number| match number {
        _ if number.is_multiple_of(5) => {
            Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi".to_vec())
        }
        _ if number.is_multiple_of(7) => Reply::Last(b"220 smtp.example ready\r\n".to_vec()),
        _ => ok(),
    });
    let report = report(&server.url(), &FIFTY);
    // Of 50: ten are multiples of 5, and seven of 7, of which 35 is both.
    assert_eq!(report["failures"], json!({ "answer cut off": 10, "malformed answer": 6 }), "{report:#}");
    assert_eq!(count(&report, "good"), 34);
}

#[test]
fn a_server_that_closes_its_connections_between_requests_is_asked_on_new_ones() {
    let server =
        Server::start(|number| if number.is_multiple_of(5) { Reply::Last(answer(200)) } else { ok() });
    let report = report(&server.url(), &FIFTY);
    // A request may go out in the moment in which its connection ends; nothing else may happen to it.
    assert!(count(&report, "good") >= 40, "{report:#}");
    assert_eq!(count(&report, "good") + count(&report, "failed"), 50, "{report:#}");
}

#[test]
fn a_server_that_goes_away_refuses_connections() {
    let server =
        Server::start(
            |number| if number == 20 { Reply::LastOfAll(answer(200)) } else { Reply::Last(answer(200)) },
        );
    let report = report(&server.url(), &["--rate", "20/s", "--duration", "2s"]);
    // A client that connected before the server went away gets an answer or a reset.
    assert!(count(&report, "good") >= 20, "{report:#}");
    assert!(report["failures"]["connection refused"].as_u64() >= Some(10), "{report:#}");
}

#[test]
fn clients_of_a_closed_loop_go_on_after_failures_but_not_at_once() {
    let server = Server::start(|number| if number == 20 { Reply::LastOfAll(answer(200)) } else { ok() });
    let report = report(&server.url(), &["--connections", "2", "--duration", "1s"]);
    // Each is refused 100 times a second at most; who still has a connection, not at all.
    let refused = report["failures"]["connection refused"].as_u64().unwrap_or_default();
    assert!((1..=200).contains(&refused), "{report:#}");
}

#[test]
fn due_requests_without_a_connection_are_late_or_skipped_and_the_run_says_so() {
    let server = Server::start(|_| {
        thread::sleep(Duration::from_millis(100));
        ok()
    });
    let exit = load(
        &[
            &["--rate", "50/s", "--duration", "1s", "--timeout", "400ms", "--max-connections", "1"][..],
            &["--json", "-", "--late-after", "15ms", &server.url()],
        ]
        .concat(),
    );
    assert_says(
        &exit,
        2,
        &["The schedule was not held", "all 1 connections were in use (--max-connections)"],
    );
    let report = serde_json::from_str(&exit.stdout).expect("JSON");
    assert_every_request_has_one_outcome(&report);
    assert_eq!(count(&report, "scheduled"), 50);
    assert!(count(&report, "late") > 0 && count(&report, "skipped") > 0, "{report:#}");
    // The server took 100 ms for each request. The users waited until it was their turn.
    assert!(ms(&report, "service_ms", "min") >= 99.0, "{report:#}");
    assert!(ms(&report, "latency_ms", "p90") >= 400.0, "{report:#}");
}

#[test]
fn several_targets_take_turns_and_are_counted_apart() {
    let (one, other) = (Server::start(|_| ok()), Server::start(|_| Reply::Bytes(answer(404))));
    let report = report(&one.url(), &[&FIFTY[..], &[&other.url()]].concat());
    assert_eq!((one.requests(), other.requests()), (25, 25));
    let targets = report["targets"].as_array().expect("an array");
    let counts: Vec<_> = targets.iter().map(|target| (count(target, "good"), &target["statuses"])).collect();
    assert_eq!(counts, [(0, &json!({ "404": 25 })), (25, &json!({ "200": 25 }))], "{report:#}");
}
