//! The command as a user meets it: its arguments, its outputs, its exit codes.

use std::fs;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::server::{Reply, Server, ok};
use super::{NEVER_LATE, count, load, report};
use crate::support::{Wharf, assert_says};

const URL: &str = "http://127.0.0.1:1/";

#[test]
fn wrong_arguments_say_what_came_and_what_is_expected() {
    for (arguments, said) in [
        (&[URL][..], &["--rate", "--stages", "--connections"][..]),
        (&["--rate", "1/s"], &["<URL>"]),
        (&["--rate", "fast", URL], &["--rate", "\"fast\" is not a rate such as 2000/s or 120/m"]),
        (&["--rate", "0/s", URL], &["\"0/s\"", "more than 0"]),
        (&["--stages", "30s", URL], &["--stages", "\"30s\" is not stages such as 30s:0..2000,2m:2000"]),
        (&["--rate", "1/s", "--connections", "1", URL], &["--rate", "cannot be used with", "--connections"]),
        (&["--rate", "1/s", "--stages", "1s:1", URL], &["cannot be used with"]),
        (&["--stages", "1s:1", "--duration", "1s", URL], &["--duration", "cannot be used with"]),
        (&["--connections", "1", "--poisson", URL], &["--poisson", "cannot be used with"]),
        (&["--connections", "1", "--max-connections", "1", URL], &["cannot be used with"]),
        (&["--connections", "0", URL], &["--connections", "0 is not in 1..=1000000"]),
        (&["--rate", "1/s", "--threads", "0", URL], &["--threads", "0 is not in 1..=64"]),
        (&["--rate", "1/s", "--duration", "5", URL], &["--duration", "\"5\" is not a time such as 500ms"]),
        (&["--rate", "1/s", "--timeout", "0s", URL], &["--timeout", "\"0s\" is not a time", "from 1ms"]),
        (&["--rate", "1/s", "--slo", "p99", URL], &["--slo", "\"p99\" is not an objective such as p99<50ms"]),
        (&["--rate", "1/s", "--header", "a", URL], &["--header", "\"a\" is not a header such as"]),
        (&["--rate", "1/s", "--method", "a b", URL], &["--method", "\"a b\" is not a method"]),
        (&["--rate", "1/s", "--body", "@nothing", URL], &["@nothing"]),
        (&["--rate", "1/s", "127.0.0.1:1"], &["\"127.0.0.1:1\" is not a URL such as http://"]),
        (&["--rate", "1/s", "ftp://127.0.0.1/"], &["begins with ftp://", "expected http:// or https://"]),
        (&["--rate", "1/s", "--cert", "a", URL], &["--key"]),
        (&["--rate", "1/s", "--json", "nowhere/report", URL], &["nowhere/report cannot be written"]),
        (&["--rate", "1/s", "--hdr", "nowhere/log", URL], &["nowhere/log cannot be written"]),
    ] {
        assert_says(&load(arguments), 2, said);
    }
}

#[test]
fn a_server_that_is_not_there_is_said_before_the_run() {
    // Bound, so that the port is nobody else's, and not listening.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address").into()).expect("a port");
    let address = socket.local_addr().expect("bound").as_socket().expect("a TCP address");
    let url = format!("http://{address}/");
    assert_says(&load(&["--rate", "100/s", &url]), 2, &[&url, "no connection", "refused"]);
}

#[test]
fn objectives_decide_the_exit_code() {
    let server = Server::start(|_| ok());
    let judge = |objectives: &[&str]| {
        let slo: Vec<&str> = objectives.iter().flat_map(|objective| ["--slo", objective]).collect();
        let run = ["--rate", "50/s", "--duration", "200ms", &server.url()];
        load(&[&NEVER_LATE[..], &slo, &run].concat())
    };
    assert_says(
        &judge(&["p99<30s", "errors<0.1%", "rate>10/s"]),
        0,
        &["met     p99<30s", "met     rate>10/s: 50 /s"],
    );
    let missed = judge(&["p50<1us", "errors<0.1%"]);
    assert_says(&missed, 1, &["missed  p50<1us", "met     errors<0.1%: 0 %"]);
}

#[test]
fn the_table_names_the_loop_and_the_lines_meanwhile_too() {
    let server = Server::start(|_| ok());
    let open = load(&[&NEVER_LATE[..], &["--rate", "50/s", "--duration", "1200ms", &server.url()]].concat());
    assert_says(&open, 0, &["open loop: 1.2 s of 50/s", "latency", "service", "offered", "status 200"]);
    let lines: Vec<&str> = open.stderr.lines().collect();
    assert!(lines[0].contains("open loop  offered 50/s  sent "), "{}", open.stderr);
    // No terminal, so nothing is drawn again.
    assert!(!open.stderr.contains('\x1b'), "{:?}", open.stderr);
    let closed = load(&["--connections", "2", "--duration", "200ms", &server.url()]);
    assert_says(&closed, 0, &["closed loop: 2 connections for 0.2 s", "Closed loop: while a server stalls"]);
    assert!(!closed.stdout.contains("latency") && !closed.stdout.contains("offered"), "{}", closed.stdout);
}

#[test]
fn json_has_counts_rates_and_times_with_their_units() {
    let server = Server::start(|_| ok());
    let report = report(&server.url(), &["--rate", "50/s", "--duration", "1500ms"]);
    let expected = [
        "wharf",
        "loop",
        "pace",
        "seed",
        "connections",
        "max_connections",
        "timeout_ms",
        "late_after_ms",
        "length_s",
        "stopped",
        "threads",
        "generator_processor_s",
        "not_held",
        "target",
        "scheduled",
        "sent",
        "answered",
        "good",
        "refused",
        "timeouts",
        "failed",
        "late",
        "skipped",
        "abandoned",
        "errors_percent",
        "offered_per_s",
        "sent_per_s",
        "answered_per_s",
        "good_per_s",
        "answered_after_end",
        "statuses",
        "failures",
        "latency_ms",
        "service_ms",
        "refusal_ms",
        "lateness_ms",
        "connect_ms",
        "targets",
        "objectives",
        "seconds",
    ];
    let mut expected: Vec<&str> = expected.into();
    expected.sort_unstable();
    let keys: Vec<&String> = report.as_object().expect("an object").keys().collect();
    assert_eq!(keys, expected);
    let times = ["count", "max", "mean", "min", "p50", "p75", "p90", "p95", "p99", "p99.9", "p99.99"];
    assert_eq!(report["latency_ms"].as_object().expect("an object").keys().collect::<Vec<_>>(), times);
    assert_eq!(report["loop"], "open");
    let seconds = report["seconds"].as_array().expect("an array");
    assert!(seconds.len() >= 2, "{report:#}");
    let sum = |name: &str| seconds.iter().map(|second| count(second, name)).sum::<u64>();
    assert_eq!((sum("answered"), sum("sent"), sum("good")), (75, 75, 75), "{report:#}");
}

#[test]
fn the_log_of_histograms_has_every_answer() {
    let server = Server::start(|_| ok());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("log.hdr");
    let log = path.to_str().expect("UTF-8");
    let report = report(&server.url(), &["--rate", "50/s", "--duration", "1500ms", "--hdr", log]);
    let text = std::fs::read(&path).expect("it was written");
    assert!(text.starts_with(b"#[Histogram log format version 1.3]\n"));
    let (mut latency, mut service) = (Histogram::<u64>::new(3).expect("three digits"), 0);
    for entry in IntervalLogIterator::new(&text) {
        let LogEntry::Interval(interval) = entry.expect("a line of the format") else { continue };
        let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, interval.encoded_histogram());
        let histogram: Histogram<u64> =
            Deserializer::new().deserialize(&mut &bytes.expect("base64")[..]).expect("a histogram");
        match interval.tag() {
            None => latency.add(histogram).expect("it grows as it must"),
            Some(tag) => {
                assert_eq!(tag.as_str(), "service");
                service += histogram.len();
            }
        }
    }
    assert_eq!((latency.len(), service), (75, 75));
    let ms = std::time::Duration::from_nanos(latency.value_at_quantile(0.5)).as_secs_f64() * 1e3;
    let reported = super::ms(&report, "latency_ms", "p50");
    assert!((ms - reported).abs() <= 0.002 + reported * 0.002, "{ms} and {reported}");
}

#[test]
fn a_page_has_the_figures_and_loads_nothing() {
    let phases = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\
                  Server-Timing: queue;dur=1.5, pool;dur=0.5, db;dur=4, render;dur=0.25\r\n\r\nhi";
    let server = Server::start(move |_| Reply::Bytes(phases.as_bytes().to_vec()));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = server.url();
    let arguments = ["load", "--rate", "50/s", "--duration", "1s", "--html", "page.html", "--json", "-"];
    let exit = Wharf::run_at(directory.path(), &[&arguments[..], &NEVER_LATE, &[&url]].concat(), &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let page = fs::read_to_string(directory.path().join("page.html")).expect("the page is written");
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"), "{page}");
    let elsewhere = page.replace(&url, "").replace("http://www.w3.org/", "");
    assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{elsewhere}");
    let report: Value = serde_json::from_str(&exit.stdout).expect("a report");
    for (phase, ms) in [("queue", 1.5), ("pool", 0.5), ("db", 4.0), ("render", 0.25)] {
        let mean = report["server_timing"][format!("{phase}_ms")]["mean"].as_f64();
        assert!(mean.is_some_and(|mean| (mean - ms).abs() < 0.01 * ms), "{phase}: {report:#}");
    }
    assert!(page.contains("Open loop") || page.contains("open loop"), "{page}");
}
