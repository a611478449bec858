//! The log of requests: it has a line for each request, and no line that a client has made up.

mod secrets;
mod stalled;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use wharf::config::{AccessLog, Config, Connector};
use wharf::handler::{Context, Error, Handler as _, Policy};
use wharf::http::{Request, Response};
use wharf::server::Server;

use crate::support::{
    Client, Wharf, ask, assert_nothing_is_left, assert_says, default_config, gate, wait_until,
};

const ID: &str = "x-request-id";

/// One endpoint that answers on the poller, and some that run SQL on SQLite.
const ENDPOINTS: &str = "
database.url = 'sqlite:x.db'
[endpoint.fixed]
route = 'GET /fixed/{name}'
body  = 'fixed'
[endpoint.echo]
route  = 'GET /echo'
params = { word = 'text' }
sql    = 'select :word as word'
[endpoint.fails]
route  = 'GET /fails/{number}'
params = { number = 'int' }
sql    = 'select abs(:number - 9223372036854775807 - 1) as a'
";

fn config(server: &str, log: &str) -> String {
    format!(
        "{server}\n[log]\n{log}\n[queue]\n[tracing]\n[http]\n{}",
        ENDPOINTS.replacen("database.url", "[database]\nurl", 1)
    )
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The lines of a JSON file by their request's id, once there are `count` lines.
#[track_caller]
fn entries(path: &Path, count: usize) -> HashMap<String, Value> {
    wait_until("not every request has its line", || read(path).matches('\n').count() >= count);
    let text = read(path);
    let entries: HashMap<String, Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .map(|entry| (entry["request_id"].as_str().expect("each has an id").to_owned(), entry))
        .collect();
    assert_eq!((text.lines().count(), entries.len()), (count, count), "{text}");
    entries
}

#[test]
fn one_request_is_followed_by_its_id_from_its_answer_through_every_log() {
    let wharf = Wharf::start(&config(
        "[server]\nserver_timing = true",
        "access = 'json'\naccess_file = 'access.log'\nslow_request = '1ms'",
    ));
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("X-Request-Id", "follow-me"), ("Traceparent", &*parent), ("User-Agent", "test")];
    let answer = wharf.request("GET", "/fails/0?secret=1", &headers, "");
    assert_eq!((answer.status, answer.header(ID)), (500, Some("follow-me")));
    assert_eq!(answer.json()["request_id"], "follow-me");
    let timing = answer.header("Server-Timing").expect("it is on").to_owned();
    let entry = &entries(&wharf.directory().join("access.log"), 1)["follow-me"];
    for (key, value) in [
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("target", "/fails/0"),
        ("protocol", "HTTP/1.1"),
        ("user_agent", "test"),
        ("trace_id", trace),
        ("route", "/fails/{number}"),
    ] {
        assert_eq!(entry[key], value, "{entry:#}");
    }
    assert_eq!((&entry["status"], &entry["bytes"]), (&500.into(), &answer.body.len().into()));
    assert_eq!((&entry["referer"], &entry["reason"]), (&Value::Null, &Value::Null));
    for part in timing.split(", ") {
        let (name, time) = part.split_once(";dur=").expect("a duration");
        assert_eq!(entry[format!("{name}_ms")].as_f64(), time.parse().ok(), "{timing} is not {entry:#}");
    }
    let phases = ["queue", "pool", "db", "render", "write"].map(|name| entry[format!("{name}_ms")].as_f64());
    let sum: f64 = phases.map(|phase| phase.expect("a worker had it")).iter().sum();
    assert!((sum - entry["total_ms"].as_f64().expect("a time")).abs() < 0.01, "{entry:#}");
    wharf.wait_for_log("request follow-me: GET /fails/0: 500");
    assert!(!wharf.log().contains("secret"), "{}", wharf.log());
}

#[test]
fn each_problem_has_the_id_of_its_request_whoever_answers() {
    let settings = "[http]\nmax_body_bytes = 10\nbody_timeout = '30ms'\nmax_target_bytes = '64B'\nmax_head_bytes = '512B'\n\
        [database]\nurl = 'sqlite:x.db'\n";
    let post = "[endpoint.post]\nroute = 'POST /post'\nparams = { word = { in = 'body', type = 'text' } }\nsql = 'select :word'\n";
    let endpoints = ENDPOINTS.split_once('[').expect("the endpoints").1;
    for connector in ["native", "tiny_http"] {
        let text = format!("server.connector = '{connector}'\n{settings}{post}[{endpoints}");
        let wharf = Wharf::start(&text);
        let long = "9".repeat(100);
        let json = "Content-Type: application/json\r\n";
        for (head, body, status) in [
            ("GET /nowhere", "", 404),
            ("DELETE /echo", "", 405),
            ("BREW /echo", "", 501),
            ("GET /echo", "", 400),
            ("GET /fails/x", "", 400),
            ("GET /fails/0", "", 500),
            ("POST /post", "{\"word\":1}", 400),
            ("POST /post", "{\"word\":\"too long\"}", 413),
            ("POST /post", "slow", 408),
            (&*format!("GET /{long}"), "", 414),
            ("GET /a b", "", 400),
        ] {
            let native_only = [408, 414].contains(&status) || head == "GET /a b" || head == "BREW /echo";
            if connector == "tiny_http" && native_only {
                continue;
            }
            let length = body.len() + usize::from(body == "slow");
            let mut client = Client::connect(wharf.address());
            client.send(format!(
                "{head} HTTP/1.1\r\nHost: a\r\n{ID}: of-mine\r\n{json}Content-Length: {length}\r\n\r\n{body}"
            ));
            let answer = client.answer();
            assert_eq!(answer.status, status, "{connector} {head}: {}", answer.text());
            let id = answer.header(ID).expect("each answer has an id");
            assert_eq!(answer.json()["request_id"], id, "{connector} {head}: {}", answer.text());
            // Of what cannot be read the id is not known either.
            assert!(id == "of-mine" || status == 414 || head == "GET /a b", "{head}: {id}");
        }
    }
}

/// For a server in this process, whose access log is JSON in that file.
fn logging_to(file: &Path) -> Config {
    let mut config = default_config();
    (config.log.access, config.log.access_file) = (AccessLog::Json, Some(file.to_owned()));
    config
}

#[test]
fn every_request_has_a_line_whoever_ends_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("access.log");
    let (handler, keeper) = gate();
    let mut config = logging_to(&file);
    config.server.workers = Some(1);
    config.server.selectors = Some(1);
    config.server.deadline = Duration::from_millis(600);
    config.queue.max_length = 1;
    config.queue.max_wait = Duration::from_millis(150);
    config.http.max_body_bytes = 10;
    config.http.body_timeout = Duration::from_millis(30);
    let stream = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::stream("text/plain", |writer| Ok(writer.write_all(b"streamed")?)))
    };
    let quick = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Ok(Response::text("quick")) };
    let server = Server::new(config).expect("no database to open");
    let server = server.route(Method::GET, "/gate", handler).get("/quick", quick).post("/quick", quick);
    let server = server
        .route(Method::GET, "/stream", stream.with(Policy::streaming()))
        .get_immediate("/now/{x}", |_| Response::text("now"));
    let server = server.start().expect("a free port");
    let mut expected = Vec::new();
    let mut client = Client::connect(server.address());
    for (id, method, path, status, bytes, route) in [
        ("worker", "GET", "/quick", 200, 5, Some("/quick")),
        ("head", "HEAD", "/quick", 200, 0, Some("/quick")),
        ("streamed", "GET", "/stream", 200, 18, Some("/stream")),
        ("immediate", "GET", "/now/1?a=b", 200, 3, Some("/now/{x}")),
        ("options", "OPTIONS", "/quick", 204, 0, None),
    ] {
        client.request(method, path, &[(ID, id)], "");
        let answer = if method == "HEAD" { client.head_answer() } else { client.answer() };
        assert_eq!(answer.status, status);
        expected.push((id, status, Some(bytes), route, None));
    }
    for (id, more, status, reason) in [
        ("too-long", "Content-Length: 11\r\n\r\n", 413, "body_bytes"),
        ("too-slow", "Content-Length: 9\r\n\r\nslow", 408, "body_timeout"),
    ] {
        let mut client = Client::connect(server.address());
        client.send(format!("POST /quick HTTP/1.1\r\nHost: a\r\n{ID}: {id}\r\n{more}"));
        assert_eq!(client.answer().status, status);
        expected.push((id, status, None, None, Some(reason)));
    }
    let mut malformed = Client::connect(server.address());
    malformed.send("GET /quick HTTP/1.1\r\nHost: a b\r\n\r\n");
    let malformed = malformed.answer().header(ID).expect("each answer has an id").to_owned();
    expected.push((&malformed, 400, None, None, Some("malformed")));
    // One runs until its deadline, one waits for too long, and one finds the queue full.
    let clients = ["late", "waited", "full"].map(|id| {
        let mut client = Client::connect(server.address());
        client.request("GET", "/gate", &[(ID, id)], "");
        if id == "late" {
            keeper.wait_for_one();
        }
        client
    });
    let statuses = clients.map(|mut client| client.answer().status);
    assert_eq!(statuses, [504, 503, 503]);
    for (id, status, reason) in
        [("late", 504, "deadline"), ("waited", 503, "queue_wait"), ("full", 503, "queue_full")]
    {
        expected.push((id, status, None, Some("/gate"), Some(reason)));
    }
    keeper.let_through(1);
    // One leaves while it runs, and one while it waits.
    let leaving = ["left-worker", "left-queue"].map(|id| {
        wait_until("the worker is free", || {
            id != "left-worker" || server.observer().gauges().workers.busy == 0
        });
        let mut client = Client::connect(server.address());
        client.request("GET", "/gate", &[(ID, id)], "");
        if id == "left-worker" {
            keeper.wait_for_one();
        }
        expected.push((id, 499, None, Some("/gate"), None));
        client
    });
    let began = std::time::Instant::now();
    // A client that ends its side at once may still wait for its answer, so let some time pass first.
    wait_until("time passes", || began.elapsed() > Duration::from_millis(30));
    wait_until("one waits", || server.observer().gauges().queue.length == 1);
    drop(leaving);
    wait_until("it has left the queue", || server.observer().gauges().queue.length == 0);
    keeper.let_through(1);
    drop(client);
    let entries = entries(&file, expected.len());
    for (id, status, bytes, route, reason) in expected {
        let entry = &entries[id];
        assert_eq!(entry["status"], status, "{entry:#}");
        assert_eq!(entry["reason"], reason.map_or(Value::Null, Value::from), "{entry:#}");
        assert!(bytes.is_none_or(|bytes: u64| entry["bytes"] == bytes), "{entry:#}");
        assert!(route.is_none_or(|route| entry["route"] == route), "{entry:#}");
        assert_eq!(entry["client"], "127.0.0.1");
    }
    assert_eq!(server.metrics().requests(), entries.len() as u64);
    assert_nothing_is_left(server);
}

#[test]
fn a_line_has_the_id_of_a_trace_that_others_know_of() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("access.log");
    let config = logging_to(&file);
    let told = |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::text(context.traceparent().expect("traces are on")))
    };
    let server = Server::new(config).expect("no database to open").get("/told", told);
    let server = server.get("/untold", |_: &Request, _: &mut Context<'_>| Ok(Response::text("untold")));
    let server = server.start().expect("a free port");
    let mut client = Client::connect(server.address());
    let answers = ["/told", "/untold"].map(|path| {
        client.request("GET", path, &[(ID, path)], "");
        client.answer().text().to_owned()
    });
    let entries = entries(&file, 2);
    assert_eq!(entries["/told"]["trace_id"], answers[0][3..35]);
    assert_eq!(entries["/untold"]["trace_id"], Value::Null, "it would lead nowhere");
    drop(client);
    assert_nothing_is_left(server);
}

#[test]
fn the_simple_connector_has_the_same_lines() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("access.log");
    let mut config = logging_to(&file);
    config.server.connector = Connector::TinyHttp;
    let quick = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Ok(Response::text("quick")) };
    let server = Server::new(config).expect("no database").get("/quick", quick);
    let server = server.get_immediate("/now", |_| Response::text("now")).start().expect("a free port");
    for (path, status) in [("/quick", 200), ("/now", 200), ("/nothing", 404)] {
        assert_eq!(ask(&server, path).answer().status, status);
    }
    for entry in entries(&file, 3).values() {
        let is_known = entry["target"] != "/nothing";
        assert_eq!(entry["status"], if is_known { 200 } else { 404 });
        assert_eq!(
            (entry["route"] == entry["target"], entry["client"] == "127.0.0.1"),
            (is_known, true),
            "{entry:#}"
        );
    }
}

#[test]
fn a_combined_line_stands_in_the_log_and_has_nothing_that_a_client_made_up() {
    let wharf = Wharf::start(&config(
        "[proxy]\ntrusted = '127.0.0.1'\nheader = 'x-forwarded-for'\n[server]",
        "access = 'combined'",
    ));
    let agent = "a\" 200 \\ \u{e9}\u{85}";
    let headers = [
        ("X-Forwarded-For", "203.0.113.7"),
        ("Referer", "http://example.com/a?secret=1"),
        ("User-Agent", agent),
        (ID, "an\"id"),
    ];
    assert_eq!(wharf.request("GET", "/echo?word=secret%0a", &headers, "").status, 200);
    wharf.wait_for_log("\"GET /echo HTTP/1.1\" 200 ");
    let log = wharf.log();
    let line = log.lines().find(|line| line.contains("GET /echo")).expect("it is there");
    assert!(line.contains("203.0.113.7 - - ["), "{line}");
    assert!(
        line.contains(" \"http://example.com/a\" \"a\\x22 200 \\x5C \\xC3\\xA9\\xC2\\x85\" total="),
        "{line}"
    );
    assert!(line.ends_with(" reason=- route=\"/echo\""), "{line}");
    assert!(!log.contains("secret") && !log.contains("an\"id"), "{log}");
    assert_eq!(wharf.get("/fixed/a").status, 200);
    wharf.wait_for_log("\"GET /fixed/a HTTP/1.1\" 200 5 \"-\" \"-\"");
}

#[test]
fn a_file_that_was_moved_is_followed_by_a_new_one_and_every_key_changes_at_a_reload() {
    let log = "access = 'json'\naccess_file = 'access.log'";
    let wharf = Wharf::start(&config("[server]", log));
    let [file, moved, other] =
        ["access.log", "access.log.1", "other.log"].map(|name| wharf.directory().join(name));
    let ask = |id: &str| assert_eq!(wharf.request("GET", "/echo?word=secret", &[(ID, id)], "").status, 200);
    ask("one");
    assert_eq!(entries(&file, 1).len(), 1);
    fs::rename(&file, &moved).expect("the file is there");
    wharf.signal("HUP");
    wait_until("the file is there again", || file.exists());
    ask("two");
    assert!(entries(&file, 1).contains_key("two") && entries(&moved, 1).contains_key("one"));
    let reload = |log: &str, says: &str| {
        fs::write(wharf.directory().join("wharf.toml"), config("[server]", log)).expect("a file");
        wharf.signal("HUP");
        wharf.wait_for_log(says);
    };
    // A file that cannot be opened changes nothing.
    reload(
        "access = 'json'\naccess_file = 'nowhere/access.log'",
        "nothing has changed: log.access_file cannot be opened",
    );
    ask("three");
    assert!(entries(&file, 2).contains_key("three"));
    reload(
        "access = 'combined'\naccess_file = 'other.log'\nparameters = true",
        "log.parameters: true, before false",
    );
    wait_until("it is open", || other.exists());
    ask("four");
    wait_until("it has the line", || read(&other).contains("id=four"));
    assert!(read(&other).contains("\"GET /echo?word=secret HTTP/1.1\" 200"), "{}", read(&other));
    reload("access = 'off'", "log.access: off, before combined");
    ask("five");
    wharf.signal("TERM");
    assert_says(&wharf.wait(), 0, &[]);
}

#[test]
fn a_file_that_cannot_be_opened_is_said_before_the_start() {
    let log = "access = 'json'\naccess_file = 'nowhere/access.log'";
    let directory = crate::support::directory_with(&config("[server]\nlisten = '127.0.0.1:0'", log));
    let exit = Wharf::run_in(&directory, &["serve", "--config", "wharf.toml"], &[]);
    assert_says(&exit, 2, &["log.access_file: nowhere/access.log cannot be opened"]);
}

#[test]
fn a_server_that_stops_writes_its_whole_journal() {
    let wharf = Wharf::start(&config("[server]", "access = 'json'\naccess_file = 'access.log'"));
    let file = wharf.directory().join("access.log");
    let kept = File::open(wharf.directory()).expect("it is there");
    for _ in 0..100 {
        assert_eq!(wharf.get("/fixed/a").status, 200);
    }
    let mut written = File::open(&file).expect("it is there");
    wharf.signal("TERM");
    assert_says(&wharf.wait(), 0, &[]);
    let mut text = String::new();
    written.read_to_string(&mut text).expect("a text");
    assert_eq!(text.lines().count(), 100);
    drop(kept);
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_and_not_requests() {
    let directory = std::sync::Arc::new(crate::support::directory_with(&config(
        "[server]\nlisten = '127.0.0.1:0'",
        "access = 'json'\naccess_file = 'pipe'",
    )));
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    // Open both ends at once, so that opening does not wait for a reader. Nothing is ever read.
    let end = File::options().read(true).write(true).open(&pipe).expect("a pipe");
    let wharf = Wharf::start_in(&directory, &["--config", "wharf.toml"], &[]);
    // More lines than may wait to be written.
    let agent = "x".repeat(15_000);
    let mut client = wharf.connect();
    for _ in 0..700 {
        client.request("GET", "/fixed/a", &[("User-Agent", &agent)], "");
        assert_eq!(client.answer().status, 200);
    }
    wharf.wait_for_log(" lines of the access log were lost");
    assert_eq!(wharf.get("/echo?word=a").status, 200);
    wharf.signal("TERM");
    assert_says(&wharf.wait(), 0, &[]);
    drop(end);
}

/// The start and the reload waited for a reader for ever, and SIGTERM waited for the reload.
#[test]
fn an_access_file_that_is_a_pipe_without_a_reader_is_refused() {
    let directory = std::sync::Arc::new(crate::support::directory_with(&config("[server]", "")));
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let wharf = Wharf::start_in(&directory, &["--config", "wharf.toml", "--listen", "127.0.0.1:0"], &[]);
    let to_pipe = config("[server]", "access = 'json'\naccess_file = 'pipe'");
    fs::write(directory.path().join("wharf.toml"), to_pipe).expect("a file");
    wharf.signal("HUP");
    wharf.wait_for_log("cannot be opened: it is a pipe that nobody reads");
    assert_eq!(wharf.get("/fixed/a").status, 200);
    wharf.signal("TERM");
    assert_says(&wharf.wait(), 0, &[]);
    let start =
        Wharf::run_in(&directory, &["serve", "--config", "wharf.toml", "--listen", "127.0.0.1:0"], &[]);
    assert_says(&start, 2, &["cannot be opened: it is a pipe that nobody reads"]);
}

#[test]
fn a_slow_request_is_logged_with_its_phases_and_with_values_only_if_asked() {
    let slow = "
[endpoint.slow]
route  = 'GET /slow'
params = { word = 'text' }
sql    = \"with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000) select sum(i), :word as w from n\"
";
    let settings = "slow_request = '1ms'\nslow_statement = '1ms'";
    for (log, shown) in [(settings.to_owned(), false), (format!("{settings}\nparameters = true"), true)] {
        let wharf = Wharf::start(&(config("[server]", &log) + slow));
        assert_eq!(wharf.request("GET", "/slow?word=secret", &[(ID, "slow-1")], "").status, 200);
        wharf.wait_for_log("slow statement of request slow-1: endpoint.slow took 0.");
        wharf.wait_for_log("slow request slow-1: GET /slow took 0.");
        let log = wharf.log();
        let line = log.lines().find(|line| line.contains("slow request slow-1")).expect("it is there");
        for phase in ["(queue 0.", ", pool 0.", ", database 0.", ", render 0.", ", write 0."] {
            assert!(line.contains(phase), "{line}");
        }
        assert!(line.contains(", trace "), "{line}");
        assert_eq!(log.matches("secret").count(), if shown { 2 } else { 0 }, "{log}");
    }
    let wharf = Wharf::start(&(config("[server]", "slow_request = '0s'\nslow_statement = '0s'") + slow));
    assert_eq!(wharf.get("/slow?word=secret").status, 200);
    wharf.signal("TERM");
    let exit = wharf.wait();
    assert!(!exit.stderr.contains("slow"), "{}", exit.stderr);
}

/// An endpoint that works until its deadline, and one that does not.
const BUSY: &str = "
[endpoint.busy]
route    = 'GET /busy'
deadline = '4s'
sql      = 'with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) as c from n'
";

/// The numbers in lines that say that requests were refused, all together.
fn refused(log: &str) -> usize {
    let lines = log.lines().filter_map(|line| line.split_once("refused ")?.1.split_once(" request"));
    lines.map(|(count, _)| count.replace(',', "").parse::<usize>().expect("a number")).sum()
}

#[test]
fn a_flood_of_refusals_is_a_line_a_second_and_a_server_at_its_limit_says_so() {
    const FLOOD: usize = 500;
    let server = "[server]\nworkers = 1\n";
    let config = config(server, "").replace("[queue]", "[queue]\nmax_length = 1\nmax_wait = '10s'");
    let wharf = Wharf::start(&(config + BUSY));
    let busy = |_| {
        let mut client = wharf.connect();
        client.request("GET", "/busy", &[], "");
        client
    };
    // One request runs, and the other waits as long, so a third is refused.
    let mut clients: Vec<_> = (0..2).map(busy).collect();
    let is_full = || {
        let mut client = Client::connect(wharf.admin_address());
        client.request("GET", "/stats", &[], "");
        let stats = client.answer().json();
        stats["workers"]["busy"] == 1 && stats["queue"]["length"] == 1
    };
    wait_until("one runs and the other waits", is_full);
    let mut client = wharf.connect();
    let mut count = 0;
    while count < FLOOD {
        client.request("GET", "/echo?word=a", &[], "");
        count += usize::from(client.answer().status == 503);
    }
    wait_until("each of them is in a line's count", || refused(&wharf.log()) >= count);
    wharf.wait_for_log("saturated for 3 s: 1 of 1 workers busy, 1 waiting, the oldest for ");
    assert!(clients.iter_mut().all(|client| client.answer().status == 504));
    wharf.wait_for_log("no longer saturated, after ");
    let log = wharf.log();
    assert!(refused(&log) <= count + 2, "each once: {log}");
    assert!(log.contains("in the last second: queue_full ") || log.contains(", queue_full "), "{log}");
    let about = log.lines().filter(|line| line.contains("refused ")).count();
    assert!(about <= 20, "{FLOOD} requests made {about} lines: {log}");
    assert_eq!(log.matches("saturated for 3 s").count(), 1, "{log}");
}

#[test]
fn requests_that_fail_one_after_the_other_are_a_few_lines_and_then_their_number() {
    let wharf = Wharf::start(&config("[server]", ""));
    let mut client = wharf.connect();
    for _ in 0..300 {
        client.request("GET", "/fails/0", &[], "");
        assert_eq!(client.answer().status, 500);
    }
    let more = |log: &str| -> usize {
        let lines = log
            .lines()
            .filter_map(|line| line.split_once(" more: requests that failed")?.0.rsplit(' ').next());
        lines.map(|count| count.parse::<usize>().expect("a number")).sum()
    };
    let shown = |log: &str| log.matches(": GET /fails/0: 500").count();
    wait_until("each is shown or counted", || shown(&wharf.log()) + more(&wharf.log()) == 300);
    // Five a second, and however slow the machine is, it is not that slow.
    assert!(shown(&wharf.log()) < 150, "{}", wharf.log());
}

#[test]
fn a_server_says_its_sizes_and_limits_when_it_starts() {
    let wharf = Wharf::start(&config("[server]\nworkers = 3", ""));
    let sizes = "3 workers, queue of 1024 for at most 1s, pool of 10 sessions";
    let limits = "10000 connections, heads of 16KiB, bodies of 1MiB, 10s for a request, 50ms in the queue";
    wharf.wait_for_log(&format!(": {sizes}; at most {limits}"));
    assert!(wharf.output().contains(sizes) && wharf.output().contains(limits), "{}", wharf.output());
}
