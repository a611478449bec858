//! A reader of standard error that stands still. It once held up every worker, the admin listener and the end.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::{Client, PATIENCE, Wharf, assert_says, directory_with, wait_until};

/// A server that logs a line for each request.
const CONFIG: &str = "
[server]
workers = 2
[log]
slow_request = '1ms'
slow_statement = '0s'
[database]
url = 'sqlite:x.db'
[endpoint.slow]
route = 'GET /slow'
sql   = 'with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000) select sum(i) as s from n'
";

/// Both ends of the pipe that is a server's standard error.
struct Pipe(File);

impl Pipe {
    /// Starts a server whose standard error is a pipe that only the test reads.
    fn of_server(config: &str) -> (Wharf, Self) {
        let directory = Arc::new(directory_with(config));
        let path = directory.path().join("log");
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
        let pipe = Self(File::options().read(true).write(true).open(&path).expect("a pipe"));
        let arguments = ["--config", "wharf.toml", "--listen", "127.0.0.1:0"];
        let wharf = Wharf::start_by("exec \"$0\" \"$@\" 2>log", None, &directory, &arguments);
        (wharf, pipe)
    }

    fn can(&self, what: PollFlags) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.0, what)], Some(&at_once)).expect("a pipe can be polled") == 1
    }

    /// Leaves no room in the pipe.
    fn fill(&mut self) {
        while self.can(PollFlags::OUT) {
            self.0.write_all(&[b'\n'; 4096]).expect("there is room");
        }
    }

    /// Reads until there is a line that contains `text`. Returns all that was read.
    fn read_until(&mut self, text: &str) -> String {
        let (mut all, mut bytes) = (Vec::new(), vec![0; 64 << 10]);
        wait_until(&format!("no line says {text:?}"), || {
            while self.can(PollFlags::IN) {
                let count = self.0.read(&mut bytes).expect("a pipe");
                all.extend_from_slice(&bytes[..count]);
            }
            all.windows(text.len()).any(|window| window == text.as_bytes())
        });
        String::from_utf8(all).expect("the log is text")
    }
}

fn admin(wharf: &Wharf, method: &str, path: &str) -> (u16, String) {
    let mut client = Client::connect(wharf.admin_address());
    client.request(method, path, &[], "");
    let answer = client.answer();
    (answer.status, answer.text().to_owned())
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_request_no_operator_and_no_end() {
    let (wharf, mut pipe) = Pipe::of_server(CONFIG);
    pipe.fill();
    for _ in 0..20 {
        assert_eq!(wharf.get("/slow").status, 200);
    }
    assert_eq!(admin(&wharf, "POST", "/log-level?level=debug").0, 200);
    assert_eq!(admin(&wharf, "GET", "/live").0, 200);
    assert_eq!(admin(&wharf, "POST", "/reload").0, 200);
    wharf.signal("HUP");
    assert_eq!(wharf.get("/slow").status, 200);
    let asked = Instant::now();
    wharf.signal("TERM");
    assert_says(&wharf.wait(), 0, &[]);
    assert!(asked.elapsed() < PATIENCE / 2, "it ended after {:?}", asked.elapsed());
}

#[test]
fn the_last_lines_are_written_when_the_reader_is_back_before_the_end() {
    let (wharf, mut pipe) = Pipe::of_server(CONFIG);
    pipe.fill();
    assert_eq!(wharf.get("/slow").status, 200);
    wharf.signal("TERM");
    let log = pipe.read_until("stopped: ");
    assert!(log.contains("slow request") && log.contains("draining: "), "{log}");
    assert_says(&wharf.wait(), 0, &[]);
}

#[test]
fn lines_that_do_not_fit_are_counted_and_the_log_says_so_when_it_is_read_again() {
    const LINES: usize = 12_000;
    let (wharf, mut pipe) = Pipe::of_server(CONFIG);
    pipe.fill();
    // Each is a line of 1 KB; all are more than may wait.
    let path = format!("/{}", "x".repeat(900));
    let mut client = Client::connect(wharf.admin_address());
    for _ in 0..LINES {
        client.request("POST", &path, &[], "");
        assert_eq!(client.answer().status, 404);
    }
    let lost = || {
        let (_, text) = admin(&wharf, "GET", "/metrics");
        let name = "wharf_log_lines_lost_total{log=\"main\"} ";
        let count = text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        count.expect("there is a counter").parse::<f64>().expect("a number")
    };
    let before = lost();
    assert!(before > 100.0 && before < 6000.0, "{before} are lost");
    let log = pipe.read_until(" lines of the log were lost");
    let told =
        log.lines().find_map(|line| line.split_once(" lines of the log were lost")?.0.rsplit(' ').next());
    let told: usize = told.expect("the line").parse().expect("a number");
    let written = log.lines().filter(|line| line.contains("admin: POST /x")).count();
    assert_eq!(told + written, LINES, "{told} lost, {written} written");
    assert!((lost() - before).abs() < 0.5, "no more are lost");
    // It goes on.
    assert_eq!(admin(&wharf, "POST", "/nowhere").0, 404);
    pipe.read_until("admin: POST /nowhere");
}

#[test]
fn a_closed_standard_error_stops_nothing() {
    let directory = Arc::new(directory_with(CONFIG));
    let arguments = ["--config", "wharf.toml", "--listen", "127.0.0.1:0"];
    for closed in ["2>&-", "2>/dev/full"] {
        let script = format!("exec \"$0\" \"$@\" {closed}");
        let wharf = Wharf::start_by(&script, None, &directory, &arguments);
        for _ in 0..20 {
            assert_eq!(wharf.get("/slow").status, 200);
        }
        let began = Instant::now();
        wharf.signal("TERM");
        assert_says(&wharf.wait(), 0, &[]);
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
