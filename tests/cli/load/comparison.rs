//! `--compare`: two runs, with confidence.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::NEVER_LATE;
use super::server::{Server, ok};
use crate::support::{Exit, Wharf, assert_says, measured};

#[test]
fn a_server_that_became_slower_is_told_from_one_that_did_not() {
    measured(|| {
        let service = Arc::new(AtomicU64::new(20));
        let server = Server::start({
            let service = Arc::clone(&service);
            move |_| {
                thread::sleep(Duration::from_millis(service.load(Ordering::Relaxed)));
                ok()
            }
        });
        let directory = tempfile::tempdir().expect("a temporary directory");
        let url = server.url();
        let run = |arguments: &[&str]| -> Exit {
            let first = ["load", "--duration", "5s", "--compare", "base.json"];
            Wharf::run_at(directory.path(), &[&first[..], &NEVER_LATE, arguments, &[&url]].concat(), &[])
        };
        let base = ["load", "--rate", "100/s", "--duration", "5s", "--json", "base.json"];
        let exit = Wharf::run_at(directory.path(), &[&base[..], &NEVER_LATE, &[&url]].concat(), &[]);
        assert_eq!(exit.code, Some(0), "{}", exit.stderr);

        let again = run(&["--rate", "100/s", "--tolerance", "25%"]);
        assert_says(
            &again,
            0,
            &["beside base.json, with a tolerance of 25 %", "the same within the tolerance"],
        );
        service.store(60, Ordering::Relaxed);
        let slower = run(&["--rate", "100/s", "--tolerance", "25%"]);
        assert_says(&slower, 1, &["worse: +"]);
        let line = |name: &str| {
            slower.stdout.lines().find(|line| line.trim_start().starts_with(name)).map(str::to_owned)
        };
        assert!(line("p50").is_some_and(|line| line.contains("worse: +")), "{}", slower.stdout);
        assert!(line("good answers").is_some_and(|line| !line.contains("worse")), "{}", slower.stdout);

        assert_says(
            &run(&["--rate", "50/s"]),
            2,
            &["base.json: its pace is \"5 s of 100/s\"", "\"5 s of 50/s\""],
        );
        assert_says(
            &run(&["--connections", "2"]),
            2,
            &["its loop is \"open\", and this run's is \"closed\""],
        );
        let base = r#"{ "seconds": [], "loop": "closed", "pace": "2 connections for 5 s", "threads": 1 }"#;
        fs::write(directory.path().join("base.json"), base).expect("the file is written");
        let threads = run(&["--connections", "2", "--threads", "2"]);
        assert_says(&threads, 2, &["base.json: its --threads is 1, and this run's is 2; expected the same"]);
        fs::write(directory.path().join("base.json"), "{}").expect("the file is written");
        assert_says(&run(&["--rate", "100/s"]), 2, &["base.json: not a report"]);
        fs::write(directory.path().join("base.json"), "x").expect("the file is written");
        assert_says(&run(&["--rate", "100/s"]), 2, &["base.json: not JSON"]);
        fs::remove_file(directory.path().join("base.json")).expect("it was there");
        assert_says(&run(&["--rate", "100/s"]), 2, &["base.json: cannot be read"]);
        assert_says(
            &run(&["--rate", "100/s", "--tolerance", "5"]),
            2,
            &["\"5\" is not a tolerance such as 5%"],
        );
    });
}
