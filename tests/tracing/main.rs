//! Which request an answer is of, which trace it belongs to, and where its time went.

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "otlp")]
mod otlp;

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use support::{
    Answer, Client, PATIENCE, Wharf, ask, assert_nothing_is_left, assert_problem, default_config, gate,
};
use wharf::config::{Config, Connector};
use wharf::handler::{Context, Error, Handler, Policy};
use wharf::http::{Request, Response};
use wharf::server::{Running, Server};

const BOTH: [Connector; 2] = [Connector::Native, Connector::TinyHttp];

const ID: &str = "x-request-id";

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Answers with the request's id as both sources give it, and with its trace.
fn who(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let traceparent = context.traceparent().unwrap_or_default();
    let tracestate = context.tracestate().unwrap_or_default();
    let text = format!("{} {} {traceparent} {tracestate}", request.id(), context.request_id());
    Ok(Response::text(text))
}

fn serve(handler: impl Handler, change: impl FnOnce(&mut Config)) -> Running {
    let mut config = default_config();
    config.server.workers = Some(1);
    config.server.selectors = Some(1);
    change(&mut config);
    let fails = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Err(std::io::Error::other("on purpose").into())
    };
    let own = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::text("own").with_header(
            ID.parse().map_err(Error::internal)?,
            "of the handler".parse().map_err(Error::internal)?,
        ))
    };
    let stream = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::stream("text/plain", |writer| Ok(std::io::Write::write_all(writer, b"streamed")?)))
    };
    let server = Server::new(config).expect("no database to open");
    let server =
        server.route(Method::GET, "/gate", handler).get("/who", who).post("/who", who).get("/fails", fails);
    let server = server.get("/own", own).route(Method::GET, "/stream", stream.with(Policy::streaming()));
    server.get_immediate("/immediate", |_| Response::text("immediate")).start().expect("a free port")
}

fn asked(server: &Running, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut client = Client::connect(server.address());
    client.request(method, path, headers, "");
    if method == "HEAD" { client.head_answer() } else { client.answer() }
}

/// The id of an answer that has one, and only one.
#[track_caller]
fn id(answer: &Answer) -> String {
    let ids: Vec<_> = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(ID)).collect();
    assert_eq!(ids.len(), 1, "{:?}", answer.headers);
    ids[0].1.clone()
}

fn is_made(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
}

#[test]
fn every_answer_has_the_clients_id_whoever_answers() {
    for connector in BOTH {
        let server = serve(gate().0, |config| config.server.connector = connector);
        for (method, path, status) in [
            ("GET", "/who", 200),
            ("HEAD", "/who", 200),
            ("GET", "/immediate", 200),
            ("GET", "/stream", 200),
            ("GET", "/own", 200),
            ("GET", "/fails", 500),
            ("GET", "/nothing", 404),
            ("DELETE", "/who", 405),
            ("OPTIONS", "/who", 204),
        ] {
            let answer = asked(&server, method, path, &[("X-Request-ID", "the client's")]);
            assert_eq!(answer.status, status, "{method} {path}");
            // An id must not contain a quote, so the server makes its own.
            assert!(is_made(&id(&answer)), "{method} {path}: {}", id(&answer));
            let answer = asked(&server, method, path, &[("X-Request-ID", "the-client:1")]);
            assert_eq!((answer.status, &*id(&answer)), (status, "the-client:1"), "{method} {path}");
        }
        let answer = asked(&server, "GET", "/who", &[(ID, "mine")]);
        assert!(answer.text().starts_with("mine mine 00-"), "{}", answer.text());
    }
}

#[test]
fn refusals_have_the_id_as_well() {
    let (handler, keeper) = gate();
    let server = serve(handler, |config| {
        config.queue.max_length = 1;
        config.queue.max_wait = Duration::from_millis(40);
        config.server.deadline = Duration::from_millis(150);
        config.http.max_body_bytes = 10;
        config.http.body_timeout = Duration::from_millis(30);
        config.http.head_timeout = Duration::from_millis(30);
    });
    let given = [(ID, "refused-1")];
    let send = |head: &str| {
        let mut client = Client::connect(server.address());
        client.send(format!("{head}\r\nHost: a\r\n{ID}: refused-1\r\n"));
        client
    };
    for (more, status) in [("Content-Length: 11\r\n\r\n", 413), ("Content-Length: 9\r\n\r\nslow", 408)] {
        let mut client = send("POST /who HTTP/1.1");
        client.send(more);
        let answer = client.answer();
        assert_eq!((answer.status, &*id(&answer)), (status, "refused-1"));
    }
    // Where no head was read there is no client's id to take.
    for (unread, status) in [(&b"GET /who HTTP/1.1\r\nHost: a b\r\n\r\n"[..], 400), (b"GET /who HT", 408)] {
        let mut client = Client::connect(server.address());
        client.request("GET", "/immediate", &given, "");
        assert_eq!(id(&client.answer()), "refused-1");
        client.send(unread);
        let answer = client.answer();
        assert_eq!(answer.status, status);
        assert!(is_made(&id(&answer)), "it is not the one of the request before");
    }
    // One runs until its deadline, one waits for too long, and one finds the queue full.
    let mut running = Client::connect(server.address());
    running.request("GET", "/gate", &[(ID, "runs")], "");
    keeper.wait_for_one();
    let mut others = [Client::connect(server.address()), Client::connect(server.address())];
    for (client, name) in others.iter_mut().zip(["waits", "finds"]) {
        client.request("GET", "/who", &[(ID, name)], "");
    }
    let [waited, refused] = others.each_mut().map(Client::answer);
    assert_eq!([waited.status, refused.status], [503, 503]);
    assert_eq!([id(&waited), id(&refused)], ["waits", "finds"]);
    let late = running.answer();
    assert_problem(&late, 504, "deadline");
    assert_eq!(id(&late), "runs");
    keeper.let_through(1);
    drop((running, others));
    assert_nothing_is_left(server);
}

#[test]
fn ids_that_are_made_differ_on_every_connection_and_for_every_request() {
    let server = serve(gate().0, |config| {
        config.server.selectors = Some(2);
        config.server.workers = Some(2);
    });
    let address = server.address();
    let clients: Vec<_> = (0..4)
        .map(|number| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                let path = ["/immediate", "/who", "/nothing", "/fails"][number];
                // Pipelined: the answers come in the order of their requests.
                (0..250).for_each(|_| client.request("GET", path, &[], ""));
                (0..250).map(|_| id(&client.answer())).collect::<Vec<_>>()
            })
        })
        .collect();
    let ids: Vec<_> = clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect();
    assert!(ids.iter().all(|id| is_made(id)), "{ids:?}");
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1000);
}

#[test]
fn the_header_has_the_name_that_it_is_given_and_none_also_while_the_server_runs() {
    for connector in BOTH {
        let mut config = Config::default();
        let server = serve(gate().0, |new| {
            new.server.connector = connector;
            config = new.clone();
        });
        let mut client = ask(&server, "/who");
        assert!(is_made(&id(&client.answer())));
        for (name, sent, echoed) in [(Some("correlation-id"), "Correlation-Id", true), (None, ID, false)] {
            config.server.request_id_header = name.map(|name| name.parse().expect("a header's name"));
            config.tracing.propagate = false;
            let reloaded = server.reload(config.clone()).expect("a good configuration");
            assert!(reloaded.changes.keys.iter().all(|change| !change.needs_restart));
            let mut client = Client::connect(server.address());
            client.request("GET", "/who", &[(sent, "1234"), ("traceparent", PARENT)], "");
            let answer = client.answer();
            assert_eq!(answer.header(ID), None);
            assert_eq!(answer.header("Correlation-Id"), echoed.then_some("1234"));
            assert_eq!(answer.text().starts_with("1234 1234 "), echoed, "{}", answer.text());
            assert!(answer.text().ends_with("  "), "no trace goes on: {}", answer.text());
        }
    }
}

#[test]
fn a_trace_goes_on_through_a_handler() {
    for connector in BOTH {
        let server = serve(gate().0, |config| config.server.connector = connector);
        let headers = [("Traceparent", PARENT), ("Tracestate", "one=1"), ("tracestate", "two=2")];
        let answer = asked(&server, "GET", "/who", &headers);
        let words: Vec<&str> = answer.text().split(' ').collect();
        let [_, _, traceparent, tracestate] = words[..] else { panic!("{words:?}") };
        assert_eq!((traceparent.len(), tracestate), (PARENT.len(), "one=1,two=2"));
        assert_eq!((&traceparent[..36], &traceparent[52..]), (&PARENT[..36], "-01"));
        assert_ne!(traceparent[36..52], PARENT[36..52], "the request is a span of its own");
        // A request without a valid trace context begins a new trace of its own.
        let broken = PARENT.replace("00-", "ff-");
        let begun: HashSet<String> = [&[][..], &[], &[("traceparent", &*broken), ("tracestate", "one=1")]]
            .map(|headers| {
                let answer = asked(&server, "GET", "/who", headers);
                let words: Vec<&str> = answer.text().split(' ').collect();
                assert!(words[2].starts_with("00-") && words[2].ends_with("-01") && words[3].is_empty());
                words[2][3..35].to_owned()
            })
            .into();
        assert_eq!(begun.len(), 3);
        assert!(!begun.contains(&PARENT[3..35]));
    }
}

/// The times of a `Server-Timing`, in milliseconds, under exactly the names that it is to have.
#[track_caller]
fn timing(answer: &Answer) -> [f64; 4] {
    let text = answer.header("Server-Timing").unwrap_or_else(|| panic!("{:?}", answer.headers));
    let parts: Vec<_> = text.split(", ").map(|part| part.split_once(";dur=").expect("a duration")).collect();
    let names: Vec<_> = parts.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["queue", "pool", "db", "render"], "{text}");
    std::array::from_fn(|at| parts[at].1.parse().expect("a number"))
}

#[test]
fn answers_of_workers_say_where_their_time_went_when_they_are_told_to() {
    for connector in BOTH {
        let (handler, keeper) = gate();
        let mut config = Config::default();
        let server = serve(handler, |new| {
            new.server.connector = connector;
            config = new.clone();
        });
        assert_eq!(asked(&server, "GET", "/who", &[]).header("Server-Timing"), None);
        config.server.server_timing = true;
        server.reload(config).expect("a good configuration");
        for (path, status) in [("/who", 200), ("/fails", 500), ("/stream", 200)] {
            let answer = asked(&server, "GET", path, &[]);
            assert_eq!(answer.status, status);
            let [queue, pool, database, render] = timing(&answer);
            assert_eq!((pool, database), (0.0, 0.0), "{path}");
            assert!(queue >= 0.0 && render > 0.0, "{path}");
        }
        assert_eq!(asked(&server, "GET", "/immediate", &[]).header("Server-Timing"), None);
        // One is in its handler for a while, and the one behind it in the queue.
        let mut running = ask(&server, "/gate");
        keeper.wait_for_one();
        let mut waiting = ask(&server, "/who");
        let began = std::time::Instant::now();
        support::wait_until("time never passes", || began.elapsed() > Duration::from_millis(20));
        keeper.let_through(1);
        assert!(timing(&running.answer())[3] >= 20.0);
        assert!(timing(&waiting.answer())[0] > 0.0);
    }
}

const SQLITE: &str = "
server.server_timing = true
database.url = 'sqlite:x.db'
[endpoint.some]
route = 'GET /some'
sql   = 'with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000) select sum(i) as s from n'
";

#[test]
fn wharf_load_adds_up_what_a_real_server_says() {
    let wharf = Wharf::start(SQLITE);
    let [_, pool, database, render] = timing(&wharf.get("/some"));
    assert!(pool > 0.0 && database > 0.0 && render > 0.0);
    let url = format!("{}/some", wharf.listening_on());
    let arguments =
        ["load", "--rate", "100/s", "--duration", "1s", "--late-after", "30s", "--json", "-", &url];
    let exit = Wharf::run_at(wharf.directory(), &arguments, &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let report: Value = serde_json::from_str(&exit.stdout).expect("JSON");
    for phase in ["queue_ms", "pool_ms", "db_ms", "render_ms"] {
        let mean = report["server_timing"][phase]["mean"].as_f64().expect("a mean of each phase");
        assert!(mean > 0.0 && mean < PATIENCE.as_secs_f64() * 1e3, "{phase}: {mean}");
    }
}
