//! The end of a run: what is sent, what is waited for, and what a signal leaves.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Reply, Server, ok};
use super::{NEVER_LATE, assert_every_request_has_one_outcome, assert_near, count, load, number, report};
use crate::support::{assert_says, wait_until};

/// The time from the start of the run to its last answer.
fn took_s(report: &Value) -> f64 {
    let last = report["seconds"].as_array().and_then(|seconds| seconds.last());
    last.map_or(0.0, |second| number(second, "to_s"))
}

/// "sent a second" was the asked rate, also where half of it was sent, and the run went on for seconds after its end.
#[test]
fn a_run_that_falls_behind_says_the_rate_that_it_reached_and_ends_in_time() {
    let turn = Mutex::new(());
    let server = Server::start(move |_| {
        let _turn = turn.lock().expect("nobody panics with it");
        thread::sleep(Duration::from_millis(5));
        ok()
    });
    let run = ["--rate", "1000/s", "--duration", "1s", "--max-connections", "1", "--json", "-"];
    let exit = load(&[&run[..], &[&server.url()]].concat());
    let report: Value = serde_json::from_str(&exit.stdout).expect("JSON");
    assert_every_request_has_one_outcome(&report);
    assert_eq!((count(&report, "scheduled"), number(&report, "offered_per_s")), (1000, 1000.0), "{report:#}");
    assert_eq!(
        count(&report, "sent") + count(&report, "skipped"),
        1000,
        "every due request is sent or skipped"
    );
    // At most one request in 5 ms.
    let sent = number(&report, "sent_per_s");
    assert!(sent > 0.0 && sent <= 201.0, "{report:#}");
    assert!(sent - number(&report, "answered_per_s") <= 3.0, "{report:#}");
    // Sending everything would take 5 s.
    assert!(took_s(&report) < 3.0, "{report:#}");
    let shown = format!("  a second  {:>12}{sent:>12.1}", "1000.0");
    let by = format!("The schedule was not held: {sent:.1} of 1000.0 requests a second were sent.");
    assert_says(&exit, 2, &[&shown, &by, "were never sent", "behind the schedule by "]);
    let seconds = report["seconds"].as_array().expect("an array");
    assert!(number(&seconds[0], "behind_ms") > 300.0, "{report:#}");
}

#[test]
fn answers_after_the_end_count_but_are_in_no_rate() {
    let server = Server::start(|_| {
        thread::sleep(Duration::from_millis(600));
        ok()
    });
    let report = report(&server.url(), &["--rate", "10/s", "--duration", "1s"]);
    assert_eq!((count(&report, "scheduled"), count(&report, "good")), (10, 10), "{report:#}");
    assert_eq!(report["latency_ms"]["count"], 10);
    let after = count(&report, "answered_after_end");
    assert!((5..=10).contains(&after), "{report:#}");
    let in_time = f64::from(u32::try_from(10 - after).expect("few"));
    assert_near(number(&report, "answered_per_s"), in_time, &report);
    assert_near(number(&report, "good_per_s"), in_time, &report);
    assert_near(number(&report, "sent_per_s"), 10.0, &report);
}

#[test]
fn the_wait_for_answers_ends_with_the_timeout() {
    let server = Server::start(|_| Reply::Silence);
    let report = report(&server.url(), &["--rate", "20/s", "--duration", "300ms", "--timeout", "700ms"]);
    assert_eq!((count(&report, "timeouts"), count(&report, "answered")), (6, 0), "{report:#}");
    assert!((0.7..3.0).contains(&took_s(&report)), "{report:#}");
    assert!(number(&report["latency_ms"], "min") >= 700.0, "{report:#}");
}

/// The table had "0.000 of 0", and JSON had 0.0.
#[test]
fn what_was_not_measured_has_no_figure() {
    let server = Server::start(|_| Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi".to_vec()));
    let run = ["--rate", "20/s", "--duration", "500ms", "--slo", "p99<1s", "--slo", "rate<1/s"];
    let exit = load(&[&NEVER_LATE[..], &run, &["--json", "r.json", &server.url()]].concat());
    let missed = "missed  p99<1s: nothing was answered";
    assert_says(&exit, 1, &["answer cut off           10", "errors            100.000 %  of 10", missed]);
    let row = exit.stdout.lines().find(|line| line.starts_with("  latency")).expect("a row");
    let expected: Vec<&str> = "latency - - - - - - 0".split(' ').collect();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), expected);
    assert!(exit.stderr.contains("p50 -  p99 -"), "{}", exit.stderr);

    let report = report(&server.url(), &["--connections", "1", "--duration", "200ms"]);
    for times in ["latency_ms", "service_ms", "refusal_ms", "lateness_ms"] {
        let times = report[times].as_object().expect("times");
        for (name, value) in times {
            assert_eq!(*value, if name == "count" { json!(0) } else { Value::Null }, "{name}: {report:#}");
        }
    }
    assert_eq!(report["offered_per_s"], Value::Null);
    assert!(count(&report["connect_ms"], "count") > 0, "{report:#}");
    for second in report["seconds"].as_array().expect("an array") {
        assert_eq!((&second["p50_ms"], &second["p99_ms"]), (&Value::Null, &Value::Null), "{report:#}");
    }
}

/// A `wharf load` that runs, and its lines on standard error.
struct Running {
    child: Child,
    said: Receiver<String>,
}

impl Running {
    fn start(server: &Server, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args(["load", "--json", "-"]).args(NEVER_LATE).args(arguments).arg(server.url());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("wharf runs");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, said) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, said }
    }

    fn signal(&self, signal: &str) {
        let kill = format!("kill -s {signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh runs").success());
    }

    fn wait_for(&self, words: &str) {
        assert!(self.said.iter().any(|line| line.contains(words)), "it does not say {words:?}");
    }

    /// Its exit code and its report.
    fn end(mut self) -> (Option<i32>, Value) {
        let mut stdout = String::new();
        self.child.stdout.take().expect("it is piped").read_to_string(&mut stdout).expect("UTF-8");
        let status = self.child.wait().expect("it ends");
        (status.code(), serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}")))
    }
}

#[test]
fn the_first_signal_says_what_it_waits_for_and_waits() {
    for (signal, threads) in [("INT", "1"), ("TERM", "3")] {
        let (open, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        // From the tenth request on, each waits until the sender is dropped.
        let server = Server::start(move |number| {
            if number >= 10 {
                let _ = gate.lock().expect("nobody panics with it").recv();
            }
            ok()
        });
        let run = ["--rate", "100/s", "--duration", "1h", "--timeout", "50s", "--threads", threads];
        let running = Running::start(&server, &run);
        wait_until("nothing is sent", || server.requests() >= 20);
        running.signal(signal);
        running.wait_for(
            "stopping: no further request is sent; waiting for the answers that are under way, 50 s at most",
        );
        // The line of the next second has the number.
        running.wait_for("  waiting for ");
        drop(open);
        let (code, report) = running.end();
        assert_eq!((code, &report["stopped"]), (Some(130), &json!(true)), "{report:#}");
        assert_every_request_has_one_outcome(&report);
        assert_eq!(count(&report, "good"), count(&report, "scheduled"), "{report:#}");
        assert!(count(&report, "answered_after_end") > 0, "{report:#}");
    }
}

/// It lost everything that was measured.
#[test]
fn the_second_signal_ends_the_run_at_once_with_the_report() {
    for threads in ["1", "2"] {
        let server = Server::start(|number| if number > 10 { Reply::Silence } else { ok() });
        let run = ["--rate", "100/s", "--duration", "1h", "--timeout", "1h", "--threads", threads];
        let running = Running::start(&server, &run);
        wait_until("nothing is sent", || server.requests() >= 20);
        running.signal("INT");
        running.wait_for("a second signal ends the run at once");
        running.signal("INT");
        running.wait_for("ending at once, with the report so far");
        let (code, report) = running.end();
        assert_eq!((code, &report["stopped"]), (Some(130), &json!(true)), "{report:#}");
        assert_every_request_has_one_outcome(&report);
        // Nobody knows what would have become of the others.
        assert_eq!((count(&report, "good"), count(&report, "timeouts")), (10, 0), "{report:#}");
        assert!(count(&report, "abandoned") >= 10, "{report:#}");
        assert_eq!(
            (number(&report, "errors_percent"), &report["latency_ms"]["count"]),
            (0.0, &json!(10)),
            "{report:#}"
        );
    }
}
