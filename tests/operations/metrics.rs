//! Compares a server's metrics with the requests that were sent to it. Another project's parser reads them, and their
//! names must be those of `docs/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use wharf::config::Config;
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Drained;
use wharf::server::{Running, Server};

use crate::support::{
    Client, Database, Gate, PATIENCE, Postgres, Wharf, ask, assert_problem, config_on, gate, wait_until,
};

/// Debian's python3-prometheus-client: the reference implementations of both formats. Prints the families as JSON.
const PARSE: &str = r#"
import json, sys
from prometheus_client import parser as old
from prometheus_client.openmetrics import parser as new
parse = new if sys.argv[1] == "new" else old
families = []
for family in parse.text_string_to_metric_families(sys.stdin.read()):
    samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
    families.append({"name": family.name, "type": family.type, "unit": family.unit, "help": family.documentation, "samples": samples})
print(json.dumps(families))
"#;

const ENDPOINTS: &str = "
[endpoint.slow]
route   = 'GET /slow/{ms}'
params  = { ms = { type = 'int', min = 0, max = 1000 } }
sql     = 'select :ms as ms from pg_sleep(:ms / 1000.0)'
returns = 'one'

[endpoint.none]
route   = 'GET /none'
sql     = 'select 1 as one where false'
returns = 'one'

[endpoint.fixed]
route = 'GET /fixed'
body  = 'fixed'
";

/// A server's metrics by sample and labels: `name{label=value,…}`.
struct Metrics {
    samples: BTreeMap<String, f64>,
    /// Family → type and the labels of its samples.
    families: BTreeMap<String, (String, BTreeSet<String>)>,
}

impl Metrics {
    fn of(server: &Running) -> Self {
        Self::parsed(&server.observer().exposition(true), "new")
    }

    fn parsed(text: &str, format: &str) -> Self {
        let python = ["/usr/bin/python3", "python3"]
            .into_iter()
            .find(|path| !path.starts_with('/') || Path::new(path).exists());
        let mut child = Command::new(python.expect("the last one is always found"))
            .args(["-c", PARSE, format])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(text.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "the parser refuses this:\n{text}");
        let parsed: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
        let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::new());
        for family in parsed.as_array().expect("a list") {
            let of = |key: &str| family[key].as_str().expect("text").to_owned();
            assert!(!of("help").is_empty(), "{family}");
            let mut names = BTreeSet::new();
            for sample in family["samples"].as_array().expect("a list") {
                let labels = sample[1].as_object().expect("labels");
                names.extend(labels.keys().filter(|name| *name != "le").cloned());
                let labels: Vec<String> = labels
                    .iter()
                    .map(|(name, value)| format!("{name}={}", value.as_str().expect("text")))
                    .collect();
                let name = sample[0].as_str().expect("a name");
                let key = if labels.is_empty() {
                    name.to_owned()
                } else {
                    format!("{name}{{{}}}", labels.join(","))
                };
                assert!(
                    samples.insert(key.clone(), sample[2].as_f64().expect("a number")).is_none(),
                    "{key} twice"
                );
            }
            families.insert(of("name"), (of("type"), names));
        }
        Self { samples, families }
    }

    fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} in {:#?}", self.samples))
    }

    /// Whole numbers, as counters are.
    fn count(&self, sample: &str) -> i64 {
        let value = self.value(sample);
        assert!(value.fract().abs() < f64::EPSILON, "{sample} is {value}");
        format!("{value:.0}").parse().expect("a whole number")
    }
}

/// The endpoints above on this database and a free port.
fn config(url: &str) -> Config {
    config_on(url.to_owned(), ENDPOINTS)
}

/// A server on this database with the endpoints above, `/gate` and `/panic`.
fn serve(database: &Database, gate: Gate, change: impl FnOnce(&mut Config)) -> Running {
    let mut config = config(&database.url());
    config.server.selectors = Some(1);
    change(&mut config);
    let panics = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { panic!("on purpose") };
    let server = Server::new(config).expect("the database is there");
    server.route(Method::GET, "/gate", gate).get("/panic", panics).start().expect("a free port")
}

/// A client may have its answer before that is counted.
fn settle(server: &Running) {
    wait_until("a request is not counted", || server.metrics().requests() == server.metrics().finished());
}

fn status(server: &Running, path: &str) -> u16 {
    ask(server, path).answer().status
}

#[test]
fn both_formats_are_read_by_other_parsers_and_documented() {
    let (handler, _keeper) = gate();
    let server = serve(&Postgres::database(), handler, |_| {});
    assert_eq!(status(&server, "/slow/0"), 200);
    settle(&server);
    let metrics = Metrics::of(&server);
    let older = Metrics::parsed(&server.observer().exposition(false), "old");
    // The older format writes a bound of 1 where OpenMetrics has 1.0.
    let names = |metrics: &Metrics| -> BTreeSet<String> {
        metrics.samples.keys().map(|name| name.replace(".0,", ",").replace(".0}", "}")).collect()
    };
    let (newer, older) = (names(&metrics), names(&older));
    assert_eq!(newer.symmetric_difference(&older).collect::<Vec<_>>(), [""; 0]);

    let text = fs::read_to_string("docs/metrics.md").expect("it is there");
    let mut documented = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `wharf_") || line.starts_with("| `process_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (name, kind) = (cells[1].trim_matches('`'), cells[2]);
        let family = name.strip_suffix(if kind == "info" { "_info" } else { "_total" }).unwrap_or(name);
        let labels = cells[3].split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        assert!(documented.insert(family.to_owned(), (kind.to_owned(), labels)).is_none(), "{name} twice");
    }
    assert_eq!(metrics.families, documented);
    assert_eq!(server.drain(), Drained::Complete);
}

/// With 5,000 endpoints the answer had 12 MB.
#[test]
fn the_series_of_routes_can_be_left_out() {
    let mut text = "admin.listen = '127.0.0.1:0'\n[database]\nurl = 'sqlite:x.db'\n".to_owned();
    for number in 0..300 {
        writeln!(text, "[endpoint.e{number}]\nroute = 'GET /e/{number}'\nsql = 'select 1'")
            .expect("a String takes all");
    }
    let wharf = Wharf::start(&text);
    for number in 0..300 {
        assert_eq!(wharf.get(&format!("/e/{number}")).status, 200);
    }
    let read = |target: &str| {
        let mut client = Client::connect(wharf.admin_address());
        client.request("GET", target, &[], "");
        client.answer()
    };
    let (all, short) = (read("/metrics"), read("/metrics?routes=off&buckets=coarse"));
    assert!(all.text().contains("route=\"/e/299\"") && !short.text().contains("route="), "{}", short.text());
    assert!(short.text().contains("wharf_http_requests_total{status=\"200\"} 300"), "{}", short.text());
    assert!(short.body.len() < 50_000 && all.body.len() > 10 * short.body.len(), "{}", short.body.len());
    assert!(read("/metrics?routes=on").text().contains("route="));
    assert_problem(&read("/metrics?routes=no"), 400, "expected on or off, received");

    // With more than a hundred routes, each has few buckets unless a scraper wants many.
    let buckets = |target: &str| read(target).text().matches("_duration_seconds_bucket{").count();
    assert_eq!((buckets("/metrics"), buckets("/metrics?routes=off")), (300 * 17, 142));
    assert_eq!(buckets("/metrics?buckets=fine"), 300 * 142);
    assert_eq!(buckets("/metrics?buckets=coarse&routes=off"), 17);
    assert_problem(&read("/metrics?buckets=no"), 400, "expected fine or coarse, received");
}

#[test]
fn every_metric_in_dashboards_and_alerts_is_exported() {
    let (handler, _keeper) = gate();
    let server = serve(&Postgres::database(), handler, |_| {});
    assert_eq!(status(&server, "/slow/0"), 200);
    settle(&server);
    let exported = server.observer().exposition(true);
    for file in ["docs/monitoring/grafana-dashboard.json", "docs/monitoring/alerts.yml"] {
        let text = fs::read_to_string(file).expect("it is there");
        let names: BTreeSet<&str> = text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("wharf_"))
            .collect();
        assert!(names.len() > 5, "{file}: {names:?}");
        for name in names {
            assert!(
                // A metric without a value here has only its type.
                exported.contains(&format!("\n{name}{{"))
                    || exported.contains(&format!("\n{name} "))
                    || exported.contains(&format!("\n# TYPE {name} ")),
                "{file}: {name}"
            );
        }
    }
    let dashboard = fs::read("docs/monitoring/grafana-dashboard.json").expect("it is there");
    serde_json::from_slice::<Value>(&dashboard).expect("it is JSON");
    assert_eq!(server.drain(), Drained::Complete);
}

#[test]
fn known_traffic_is_counted_exactly() {
    let (handler, keeper) = gate();
    let server = serve(&Postgres::database(), handler, |config| {
        config.server.workers = Some(1);
        config.queue.max_length = 1;
        config.queue.max_wait = PATIENCE;
    });
    for (path, expected, count) in [
        ("/slow/0", 200, 5),
        ("/none", 404, 3),
        ("/fixed", 200, 2),
        ("/nowhere", 404, 4),
        ("/slow/x", 400, 1),
        ("/panic", 500, 2),
    ] {
        for _ in 0..count {
            assert_eq!(status(&server, path), expected, "{path}");
        }
    }
    let mut malformed = Client::connect(server.address());
    malformed.send("no HTTP at all\r\n\r\n");
    assert_eq!(malformed.answer().status, 400);

    // One runs, one waits, one is refused, and the one that waits leaves.
    let mut running = ask(&server, "/gate");
    keeper.wait_for_one();
    let waiting = ask(&server, "/gate");
    wait_until("the second waits", || Metrics::of(&server).count("wharf_queue_jobs") == 1);
    assert_eq!(status(&server, "/gate"), 503);
    let busy = Metrics::of(&server);
    assert_eq!(busy.count("wharf_workers_busy"), 1);
    assert_eq!(busy.count("wharf_http_requests_in_flight"), 2);
    assert!(busy.value("wharf_queue_oldest_seconds") > 0.0);
    waiting.stream().shutdown(Shutdown::Both).expect("it is open");
    wait_until("it is missed", || Metrics::of(&server).count("wharf_http_requests_abandoned_total") == 1);
    keeper.let_through(1);
    assert_eq!(running.answer().status, 200);
    drop((running, waiting, malformed));
    settle(&server);
    wait_until("the worker is idle", || Metrics::of(&server).count("wharf_workers_idle") == 1);

    let metrics = Metrics::of(&server);
    for (method, route, status, count) in [
        ("GET", "/slow/{ms}", 200, 5),
        ("GET", "/slow/{ms}", 400, 1),
        ("GET", "/none", 404, 3),
        ("GET", "/fixed", 200, 2),
        ("GET", "/panic", 500, 2),
        ("GET", "/gate", 200, 1),
        ("GET", "/gate", 503, 1),
        ("GET", "/gate", 499, 1),
        ("", "unmatched", 404, 4),
        ("", "unmatched", 400, 1),
    ] {
        let sample = format!("wharf_http_requests_total{{method={method},route={route},status={status}}}");
        assert_eq!(metrics.count(&sample), count, "{sample}");
    }
    let answers: f64 = metrics
        .samples
        .iter()
        .filter(|(name, _)| name.starts_with("wharf_http_requests_total"))
        .map(|(_, value)| value)
        .sum();
    assert!((answers - metrics.value("wharf_http_requests_received_total")).abs() < 0.5);
    for (sample, count) in [
        ("wharf_http_requests_received_total", 21),
        ("wharf_http_requests_refused_total{reason=queue_full}", 1),
        ("wharf_http_requests_refused_total{reason=malformed}", 1),
        ("wharf_http_requests_refused_total{reason=shed}", 0),
        ("wharf_handler_panics_total", 2),
        ("wharf_connections_accepted_total", 21),
        ("wharf_connections_open", 0),
        // Workers' answers only: 5 + 1 + 3 + 2 + 1.
        ("wharf_http_request_phase_seconds_count{phase=queue}", 12),
        ("wharf_http_request_duration_seconds_count{method=GET,route=/slow/{ms}}", 6),
        ("wharf_http_request_duration_seconds_count{method=GET,route=/panic}", 2),
        // Parameters are looked at before there is a connection.
        ("wharf_pool_acquire_seconds_count", 8),
        ("wharf_pool_usage_seconds_count", 8),
        ("wharf_pool_connections_active", 0),
        ("wharf_pool_acquire_failures_total{reason=timeout}", 0),
    ] {
        assert_eq!(metrics.count(sample), count, "{sample}");
    }
    assert_eq!(server.drain(), Drained::Complete);
}

/// The bounds and cumulative counts of a route's durations, as a scraper reads them.
fn buckets_of(metrics: &Metrics, route: &str) -> Vec<(f64, f64)> {
    let bound = |name: &str| {
        let labels = name.strip_prefix("wharf_http_request_duration_seconds_bucket{")?;
        labels.contains(&format!("route={route}")).then_some(())?;
        let (_, rest) = labels.split_once("le=")?;
        rest.split([',', '}']).next()?.replace("+Inf", "inf").parse::<f64>().ok()
    };
    let mut buckets: Vec<_> =
        metrics.samples.iter().filter_map(|(name, count)| Some((bound(name)?, *count))).collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    buckets
}

/// `histogram_quantile` of Prometheus.
fn quantile(buckets: &[(f64, f64)], part: f64) -> f64 {
    let rank = buckets.last().map_or(0.0, |(_, all)| *all) * part;
    let (mut from, mut below) = (0.0, 0.0);
    for (to, count) in buckets {
        if *count >= rank && *count > below {
            return from + (to - from) * (rank - below) / (count - below);
        }
        (from, below) = (*to, *count);
    }
    from
}

/// A constant 202 ms was shown as 225, and Prometheus made 75 ms of 51. The client's own measurement is the
/// measure, because a busy machine adds to the 202 ms.
#[test]
fn percentiles_are_those_that_the_client_measures() {
    crate::support::measured(|| {
        let server = serve(&Postgres::database(), gate().0, |config| config.server.workers = Some(1));
        let mut client = Client::connect(server.address());
        let mut measure = |ms: u64| {
            let sent = Instant::now();
            client.request("GET", &format!("/slow/{ms}"), &[], "");
            assert_eq!(client.answer().status, 200);
            sent.elapsed().as_secs_f64() * 1e3
        };
        // The first request prepares the statement; it is one of many.
        let mut times: Vec<f64> = [51; 17].into_iter().chain([202; 4]).map(&mut measure).collect();
        settle(&server);
        times.sort_by(f64::total_cmp);
        let stats = serde_json::to_value(server.observer().stats()).expect("it is JSON");
        let endpoint = &stats["endpoints"][0];
        let buckets = buckets_of(&Metrics::of(&server), "/slow/{ms}");
        assert_eq!(buckets.len(), 142, "{buckets:?}");
        for (name, part, place) in [("p50_ms", 0.5, 10), ("p99_ms", 0.99, 20)] {
            let measured = times[place];
            let shown = endpoint[name].as_f64().expect("a number");
            assert!(
                (shown / measured - 1.0).abs() < 0.05,
                "{name} is {shown}, measured {measured} of {times:?}"
            );
            let scraped = quantile(&buckets, part) * 1e3;
            assert!(
                (scraped / measured - 1.0).abs() < 0.1,
                "{name} is {scraped}, measured {measured} of {times:?}"
            );
        }
        assert_eq!(server.drain(), Drained::Complete);
    });
}

#[test]
fn each_phase_has_the_time_that_was_spent_in_it() {
    let (handler, keeper) = gate();
    let server = serve(&Postgres::database(), handler, |config| {
        config.server.workers = Some(2);
        config.database.maximum_pool_size = 1;
        config.database.connection_timeout = PATIENCE;
        (config.queue.target, config.queue.interval, config.queue.max_wait) = (PATIENCE, PATIENCE, PATIENCE);
    });
    let began = Instant::now();
    // Both have a worker, and one waits for the other's connection.
    let (mut one, mut other) = (ask(&server, "/slow/200"), ask(&server, "/slow/200"));
    assert_eq!((one.answer().status, other.answer().status), (200, 200));
    // A worker each at the gate, and a third behind them.
    let mut gates = [ask(&server, "/gate"), ask(&server, "/gate")];
    keeper.wait_for_one();
    keeper.wait_for_one();
    let mut behind = ask(&server, "/slow/0");
    let waited = Instant::now();
    wait_until("it waits", || Metrics::of(&server).count("wharf_queue_jobs") == 1);
    wait_until("for a while", || waited.elapsed() > Duration::from_millis(100));
    keeper.let_through(2);
    assert_eq!(behind.answer().status, 200);
    for gate in &mut gates {
        assert_eq!(gate.answer().status, 200);
    }
    let elapsed = began.elapsed().as_secs_f64();
    let workers_elapsed = 2.0 * elapsed;

    settle(&server);
    let metrics = Metrics::of(&server);
    let phase = |name: &str| metrics.value(&format!("wharf_http_request_phase_seconds_sum{{phase={name}}}"));
    for (name, least) in [("database", 0.4), ("pool", 0.19), ("queue", 0.1), ("render", 0.2), ("write", 0.0)]
    {
        let spent = phase(name);
        assert!((least..workers_elapsed).contains(&spent), "{name}: {spent} s of {elapsed} s");
    }
    let all: f64 = ["queue", "pool", "database", "render", "write"].into_iter().map(phase).sum();
    let durations: f64 = ["/slow/{ms}", "/gate"]
        .into_iter()
        .map(|route| {
            metrics.value(&format!("wharf_http_request_duration_seconds_sum{{method=GET,route={route}}}"))
        })
        .sum();
    assert!((all - durations).abs() < 1e-6, "the phases of {durations} s are {all} s");
    let of_slow =
        metrics.value("wharf_http_route_phase_seconds_total{method=GET,phase=database,route=/slow/{ms}}");
    assert!((of_slow - phase("database")).abs() < 1e-9);
    assert!((0.19..elapsed).contains(&metrics.value("wharf_pool_acquire_seconds_sum")));
    assert!((0.4..elapsed).contains(&metrics.value("wharf_pool_usage_seconds_sum")));
    assert!(metrics.value("wharf_pool_creation_seconds_sum") > 0.0);
    assert_eq!(server.drain(), Drained::Complete);
}

#[test]
fn the_state_of_each_worker_is_shown_while_it_works() {
    let (handler, keeper) = gate();
    let server = serve(&Postgres::database(), handler, |config| config.server.workers = Some(2));
    let mut slow = ask(&server, "/slow/1000");
    let mut held = ask(&server, "/gate");
    keeper.wait_for_one();
    let states = || {
        let threads = server.observer().threads();
        let mut states: Vec<_> = threads.into_iter().map(|thread| (thread.state, thread.route)).collect();
        states.sort_unstable();
        states
    };
    let expected = [("database", Some("/slow/{ms}".to_owned())), ("handler", Some("/gate".to_owned()))];
    wait_until("both are at work", || states() == expected);
    keeper.let_through(1);
    assert_eq!((slow.answer().status, held.answer().status), (200, 200));
    wait_until("both are idle", || states() == [("idle", None), ("idle", None)]);
    assert_eq!(server.drain(), Drained::Complete);
}

#[test]
fn the_pools_troubles_are_counted_by_their_kind() {
    let cluster = Postgres::start();
    let mut config = config(&cluster.url());
    config.server.workers = Some(2);
    config.database.maximum_pool_size = 1;
    config.database.connection_timeout = Duration::from_millis(250);
    let (gate, keeper) = gate();
    let hold = move |_: &Request, context: &mut Context<'_>| {
        let _connection = context.database()?;
        gate.pass()
    };
    let server = Server::new(config).expect("the database is there");
    let server = server.get("/hold", hold).start().expect("a free port");
    let failures =
        |how: &str| Metrics::of(&server).count(&format!("wharf_pool_acquire_failures_total{{reason={how}}}"));

    let mut holding = ask(&server, "/hold");
    keeper.wait_for_one();
    assert_eq!(status(&server, "/slow/0"), 503);
    assert_eq!(failures("timeout"), 1);
    keeper.let_through(1);
    assert_eq!(holding.answer().status, 200);

    settle(&server);
    let holds = "wharf_http_request_duration_seconds_count{method=GET,route=/hold}";
    assert_eq!(Metrics::of(&server).count(holds), 1);
    cluster.stop();
    wait_until("it is seen to be down", || status(&server, "/slow/0") == 503 && failures("down") > 0);
    let metrics = Metrics::of(&server);
    assert_eq!((metrics.count("wharf_pool_down"), metrics.count("wharf_pool_connections")), (1, 0));
    assert!(metrics.count("wharf_pool_creation_failures_total") > 0);
    assert!(metrics.count("wharf_pool_connections_closed_total") > 0);
    // No request to it was served, so it has no latency.
    assert!(!metrics.samples.keys().any(|name| name.contains("duration_seconds") && name.contains("/slow/")));
    cluster.start_again();
    wait_until("it is back", || status(&server, "/slow/0") == 200);
    assert_eq!(Metrics::of(&server).count("wharf_pool_down"), 0);
    assert_eq!(server.drain(), Drained::Complete);
}
