//! Traces as a collector receives them: over real sockets, decoded by OpenTelemetry's own types.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Code;
use prost::Message as _;
use wharf::config::Config;
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::Drained;
use wharf::server::{Running, Server};

use crate::support::{
    Authority, Client, Database, Gate, PATIENCE, Postgres, Wharf, ask, config_on, gate, wait_until,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// The client's span, which is recorded.
fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// Receives traces as a collector does.
struct Collector {
    server: Running,
    requests: Arc<Mutex<Vec<Received>>>,
}

struct Received {
    headers: BTreeMap<String, String>,
    traces: ExportTraceServiceRequest,
}

/// A collector calls this before it accepts a request. `Some`: it sends this answer instead of accepting.
type Whim = dyn Fn() -> Option<Response> + Send + Sync;

impl Collector {
    fn start() -> Self {
        Self::with(|| None, |_| {})
    }

    fn with(
        whim: impl Fn() -> Option<Response> + Send + Sync + 'static,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let whim: Arc<Whim> = Arc::new(whim);
        let requests = Arc::<Mutex<Vec<Received>>>::default();
        let taken = Arc::clone(&requests);
        let take = move |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
            if let Some(answer) = whim() {
                return Ok(answer);
            }
            let traces =
                ExportTraceServiceRequest::decode(request.body().as_ref()).map_err(Error::internal)?;
            let headers = request.header_lines().map(|(name, value)| {
                (name.to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned())
            });
            taken.lock().expect("nobody panics").push(Received { headers: headers.collect(), traces });
            Ok(Response::empty(StatusCode::OK))
        };
        let mut config = free_port();
        config.server.drain_timeout = Duration::ZERO;
        change(&mut config);
        let server = Server::new(config).expect("no database");
        Self { server: server.post("/v1/traces", take).start().expect("a free port"), requests }
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    fn spans(&self) -> Vec<Told> {
        let requests = self.requests.lock().expect("nobody panics");
        let resources = requests.iter().flat_map(|received| &received.traces.resource_spans);
        let spans = resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
        spans.map(Told::of).collect()
    }

    /// The spans of one trace, once its requests' own are there, in the order of their beginnings.
    fn trace(&self, trace: &str, requests: usize) -> Vec<Told> {
        let of = || self.spans().into_iter().filter(|span| span.trace == trace).collect::<Vec<_>>();
        let is_server = |span: &&Told| span.kind == SpanKind::Server;
        wait_until("a trace did not come", || of().iter().filter(is_server).count() == requests);
        let mut spans = of();
        spans.sort_by_key(|span| (span.start, u64::MAX - span.end));
        spans
    }
}

/// A span, for comparing.
#[derive(Clone, Debug)]
struct Told {
    trace: String,
    id: String,
    parent: String,
    state: String,
    name: String,
    kind: SpanKind,
    start: u64,
    end: u64,
    attributes: BTreeMap<String, String>,
    failed: bool,
}

impl Told {
    fn of(span: &Span) -> Self {
        Self {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            state: span.trace_state.clone(),
            name: span.name.clone(),
            kind: span.kind(),
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            attributes: attributes(&span.attributes),
            failed: span.status.as_ref().is_some_and(|status| status.code() == Code::Error),
        }
    }

    #[track_caller]
    fn says(&self, expected: &[(&str, &str)]) {
        for (name, value) in expected {
            let found = self.attributes.get(*name).map(String::as_str);
            assert_eq!(found, Some(*value), "{name} of {self:#?}");
        }
    }

    fn ms(&self) -> f64 {
        Duration::from_nanos(self.end - self.start).as_secs_f64() * 1e3
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|any| any.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let attributes: BTreeMap<_, _> = pairs.iter().map(|pair| (pair.key.clone(), text(&pair.value))).collect();
    assert_eq!(attributes.len(), pairs.len(), "an attribute stands there twice: {pairs:?}");
    attributes
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

fn free_port() -> Config {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().expect("an address");
    config
}

const ENDPOINTS: &str = "
[endpoint.move]
route   = 'POST /accounts/{id}'
params  = { id = 'int' }
returns = 'one'
[[endpoint.move.step]]
sql = \"insert into moved (id, note) values (:id, 'hunter2' || pg_sleep(0.02)::text)\"
[[endpoint.move.step]]
sql = 'select count(*) as n from moved where id = :id'

[endpoint.sleep]
route   = 'GET /sleep/{ms}'
params  = { ms = { type = 'int', min = 0, max = 60000 } }
sql     = 'select :ms as ms from pg_sleep(:ms / 1000.0)'
returns = 'one'

[endpoint.broken]
route   = 'GET /broken/{by}'
params  = { by = 'int' }
sql     = 'select (select 1 from generate_series(1, 2 + :by)) as n'

[endpoint.fixed]
route = 'GET /fixed'
body  = 'fixed'
";

fn database() -> Database {
    let database = Postgres::database();
    database.psql("create table moved (id int primary key, note text)");
    database
}

fn config(database: &Database, collector: &str) -> Config {
    let mut config = config_on(database.url(), ENDPOINTS);
    config.tracing.otlp_endpoint = Some(collector.to_owned());
    config
}

/// A server whose traces go to `collector`, with a function that answers at once.
fn serve(config: Config) -> Running {
    let server = Server::new(config).expect("the database is there");
    server.get_immediate("/at-once", |_| Response::text("at once")).start().expect("a free port")
}

/// The same without a database.
fn serve_without(collector: &str, gate: Gate, change: impl FnOnce(&mut Config)) -> Running {
    let mut config = free_port();
    config.tracing.otlp_endpoint = Some(collector.to_owned());
    change(&mut config);
    let departing = gate.clone();
    let left = move |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
        departing.begin();
        wait_until("its client is still there", || context.client_has_left());
        Ok(Response::text("nobody"))
    };
    let server =
        Server::new(config).expect("no database").route(Method::GET, "/gate", gate).get("/left", left);
    server.get_immediate("/at-once", |_| Response::text("at once")).start().expect("a free port")
}

fn ask_within_trace(server: &Running, method: &str, path: &str) -> crate::support::Answer {
    let mut client = Client::connect(server.address());
    let headers = [("traceparent", &*traceparent()), ("tracestate", "a=1"), ("User-Agent", "test/1")];
    client.request(method, path, &headers, "");
    client.answer()
}

#[test]
fn a_request_is_a_tree_of_spans_beneath_its_clients() {
    let (database, collector) = (database(), Collector::start());
    let mut config = config(&database, &collector.url());
    config.server.server_timing = true;
    let server = serve(config);
    let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    let answer = ask_within_trace(&server, "POST", "/accounts/7");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let after = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();

    let spans = collector.trace(TRACE, 1);
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    let expected = [
        "POST /accounts/{id}",
        "queue",
        "checkout",
        "move.step[1]",
        "move.step[2]",
        "COMMIT",
        "render",
        "write",
    ];
    assert_eq!(names, expected);
    let request = &spans[0];
    assert_eq!((&*request.parent, request.kind, request.failed), (PARENT, SpanKind::Server, false));
    let id = answer.header("X-Request-Id").expect("an id");
    request.says(&[
        ("http.request.method", "POST"),
        ("http.route", "/accounts/{id}"),
        ("http.response.status_code", "200"),
        ("url.path", "/accounts/7"),
        ("url.scheme", "http"),
        ("server.address", "localhost"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "test/1"),
        ("wharf.request_id", id),
    ]);
    assert!(!request.attributes.contains_key("error.type"));
    assert!(u128::from(request.start) + 1_000_000 > before && u128::from(request.end) < after + 1_000_000);
    for span in &spans {
        assert_eq!((&*span.trace, &*span.state), (TRACE, "a=1"));
        assert!(request.start <= span.start && span.end <= request.end, "{span:?} in {request:?}");
        assert!(!format!("{span:?}").contains("hunter2"));
    }
    for span in &spans[1..] {
        assert_eq!((&span.parent, span.failed), (&request.id, false));
        let is_statement = ["move.step[1]", "move.step[2]", "COMMIT"].contains(&&*span.name);
        assert_eq!(span.kind == SpanKind::Client, is_statement, "{span:?}");
        if is_statement {
            span.says(&[
                ("db.system.name", "postgresql"),
                ("db.namespace", database.name()),
                ("db.query.summary", &span.name),
            ]);
        }
    }
    assert!(spans.windows(2).skip(1).all(|pair| pair[0].end <= pair[1].start), "one after the other");
    agrees_with_server_timing(&spans, answer.header("Server-Timing").expect("it is on"));
    let requests = collector.requests.lock().expect("nobody panics");
    assert_eq!(requests[0].headers["content-type"], "application/x-protobuf");
    let resource = requests[0].traces.resource_spans[0].resource.as_ref().expect("whose spans they are");
    assert_eq!(attributes(&resource.attributes)["service.name"], "wharf");
}

fn agrees_with_server_timing(spans: &[Told], timing: &str) {
    let said = |name: &str| -> f64 {
        let part = timing.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix(";dur="));
        part.expect("it is there").parse().expect("a number")
    };
    let of = |names: &[&str]| -> f64 {
        spans.iter().filter(|span| names.contains(&&*span.name)).map(Told::ms).sum()
    };
    for (span, said) in [
        (of(&["queue"]), said("queue")),
        (of(&["checkout"]), said("pool")),
        (of(&["move.step[1]", "move.step[2]", "COMMIT"]), said("db")),
    ] {
        assert!((span - said).abs() < 0.05, "{span} ms, and {timing}");
    }
    assert!(of(&["move.step[1]"]) >= 20.0, "it sleeps for so long");
    assert!(of(&["render"]) <= said("render") + 0.05, "it is the last part of it");
}

#[test]
fn a_failure_is_marked_on_the_span_that_failed() {
    let (database, collector) = (database(), Collector::start());
    let mut config = config(&database, &collector.url());
    config.database.connection_timeout = Duration::from_millis(50);
    config.database.maximum_pool_size = 1;
    config.server.workers = Some(2);
    let server = serve(config);
    database.psql("insert into moved values (7, '')");
    for (method, path, status, failing, kind, failed) in [
        // The client's own fault is no failure of the server, but it is a failure of the statement.
        ("POST", "/accounts/7", 409, "move.step[1]", "23505", false),
        ("GET", "/broken/0", 500, "broken", "21000", true),
        ("GET", "/nothing", 404, "", "", false),
        ("GET", "/fixed", 200, "", "", false),
        ("GET", "/at-once", 200, "", "", false),
    ] {
        collector.requests.lock().expect("nobody panics").clear();
        assert_eq!(ask_within_trace(&server, method, path).status, status, "{path}");
        let spans = collector.trace(TRACE, 1);
        assert_eq!(spans[0].failed, failed, "{spans:#?}");
        spans[0].says(&[("http.response.status_code", &status.to_string()), ("url.path", path)]);
        let others: Vec<_> = spans[1..].iter().filter(|span| span.failed).collect();
        match others[..] {
            [] => assert_eq!(failing, "", "{spans:#?}"),
            [span] => {
                assert_eq!(span.name, failing);
                span.says(&[("error.type", kind), ("db.response.status_code", kind)]);
            }
            _ => panic!("{others:#?}"),
        }
        match path {
            "/broken/0" => spans[0].says(&[("error.type", "500")]),
            "/nothing" => {
                assert_eq!(spans[0].name, "GET");
                assert!(!spans[0].attributes.contains_key("http.route"));
            }
            "/fixed" | "/at-once" => {
                assert_eq!((spans.len(), spans[0].name.clone()), (1, format!("GET {path}")));
            }
            _ => {}
        }
    }
    // The only connection is away.
    let mut sleeping = ask(&server, "/sleep/60000");
    wait_until("the statement does not run", || {
        Postgres::shared().sessions("query like 'select%pg_sleep%'") > 0
    });
    collector.requests.lock().expect("nobody panics").clear();
    assert_eq!(ask_within_trace(&server, "GET", "/sleep/0").status, 503);
    let spans = collector.trace(TRACE, 1);
    assert!(spans[0].failed);
    let checkout = spans.iter().find(|span| span.name == "checkout").expect("it waited");
    assert!(checkout.failed && checkout.ms() >= 50.0, "{checkout:?}");
    checkout.says(&[("error.type", "pool_timeout")]);
    sleeping.say_the_end();
}

#[test]
fn requests_that_reach_no_worker_or_whose_client_leaves_are_traced_too() {
    let collector = Collector::start();
    let (handler, keeper) = gate();
    let server = serve_without(&collector.url(), handler, |config| {
        config.server.workers = Some(1);
        config.queue.max_length = 1;
        config.queue.max_wait = Duration::from_secs(1);
    });
    let trace = |path: &str| {
        let mut client = Client::connect(server.address());
        client.request("GET", path, &[("traceparent", &traceparent())], "");
        client
    };
    let mut running = ask(&server, "/gate");
    keeper.wait_for_one();
    let mut waiting = trace("/gate");
    wait_until("it does not wait", || server.observer().gauges().queue.length == 1);
    assert_eq!(trace("/gate").answer().status, 503);
    assert_eq!(waiting.answer().status, 503);
    let spans = collector.trace(TRACE, 2);
    let mut reasons: Vec<_> = spans.iter().map(|span| span.attributes["error.type"].as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["queue_full", "queue_wait"]);
    for span in &spans {
        assert!(span.failed && span.name == "GET /gate", "{span:?}");
        span.says(&[("http.response.status_code", "503")]);
    }
    collector.requests.lock().expect("nobody panics").clear();
    keeper.let_through(1);
    assert_eq!(running.answer().status, 200);
    let leaving = trace("/left");
    keeper.wait_for_one();
    // An end that comes at once is taken for half a close.
    let since = Instant::now();
    wait_until("time passes", || since.elapsed() > Duration::from_millis(50));
    drop(leaving);
    let spans = collector.trace(TRACE, 1);
    spans[0].says(&[("error.type", "client_left")]);
    assert!(spans[0].failed && !spans[0].attributes.contains_key("http.response.status_code"));
}

#[test]
fn requests_that_are_not_sampled_are_not_exported_and_a_reload_changes_the_share() {
    let collector = Collector::start();
    let mut config = Config::default();
    let server = serve_without(&collector.url(), gate().0, |new| {
        new.tracing.sample = 0;
        config = new.clone();
    });
    let at_once = |headers: &[(&str, &str)]| {
        let mut client = Client::connect(server.address());
        client.request("GET", "/at-once", headers, "");
        assert_eq!(client.answer().status, 200);
    };
    at_once(&[]);
    at_once(&[("traceparent", &traceparent().replace("-01", "-00"))]);
    at_once(&[("traceparent", &traceparent())]);
    assert_eq!(collector.trace(TRACE, 1).len(), 1);
    assert_eq!(collector.spans().len(), 1, "what came before it would be there as well");
    config.tracing.sample = 100;
    config.tracing.service_name = "another".to_owned();
    let reloaded = server.reload(config).expect("a good configuration");
    let restarts = reloaded.changes.keys.iter().filter(|change| change.needs_restart);
    assert_eq!(restarts.map(|change| change.key.as_str()).collect::<Vec<_>>(), ["tracing.service_name"]);
    at_once(&[]);
    wait_until("a trace that begins here did not come", || collector.spans().len() == 2);
    let begun = collector.spans().pop().expect("there are two");
    assert!(begun.parent.is_empty() && begun.trace != TRACE && begun.trace.len() == 32, "{begun:?}");
}

#[test]
fn a_collector_that_is_slow_costs_requests_nothing_and_what_it_does_not_take_is_counted() {
    const REQUESTS: usize = 5000;
    let (hanging, keeper) = gate();
    let collector = Collector::with(move || hanging.pass().ok().and(None), |_| {});
    let server = serve_without(&collector.url(), gate().0, |_| {});
    assert_eq!(ask_within_trace(&server, "GET", "/at-once").status, 200);
    keeper.wait_for_one();
    // It has one batch and does not answer: these fill the queue, and the last ones find no place.
    let began = Instant::now();
    let mut client = Client::connect(server.address());
    for _ in 0..REQUESTS / 100 {
        client.send("GET /at-once HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100));
        (0..100).for_each(|_| assert_eq!(client.answer().status, 200));
    }
    assert!(began.elapsed() < PATIENCE / 3, "requests waited for the collector");
    let metrics = server.metrics();
    let dropped = metrics.dropped_spans();
    assert!((1..REQUESTS as u64).contains(&dropped), "{dropped} of {REQUESTS}");
    assert_eq!(metrics.exported_spans(), 0);
    keeper.let_through(100);
    wait_until("what waited did not come", || {
        metrics.exported_spans() + metrics.dropped_spans() == REQUESTS as u64 + 1
    });
    assert_eq!(metrics.dropped_spans(), dropped);
    wait_until("what was counted did not come", || {
        collector.spans().len() as u64 == metrics.exported_spans()
    });
}

#[test]
fn a_batch_is_sent_again_after_a_passing_error_and_dropped_after_a_final_one() {
    let answers = Arc::new(Mutex::new(vec![(503, Some("1"))]));
    let next = Arc::clone(&answers);
    let whim = move || {
        let (status, retry_after) = next.lock().expect("nobody panics").pop()?;
        let response = Response::empty(StatusCode::from_u16(status).expect("a status"));
        Some(match retry_after {
            Some(after) => response.with_header(http::header::RETRY_AFTER, after.parse().expect("a value")),
            None if status == 200 => {
                let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "no".into() };
                response
                    .with_body(ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec())
            }
            None => response,
        })
    };
    let collector = Collector::with(whim, |_| {});
    let server = serve_without(&collector.url(), gate().0, |_| {});
    let metrics = server.metrics();
    let began = Instant::now();
    ask_within_trace(&server, "GET", "/at-once");
    wait_until("it was not tried again", || metrics.exported_spans() == 1);
    assert!(began.elapsed() >= Duration::from_secs(1), "it asked for a second");
    assert_eq!((collector.spans().len(), metrics.dropped_spans()), (1, 0));
    for (dropped, status) in [(1, 400), (2, 200)] {
        answers.lock().expect("nobody panics").push((status, None));
        ask_within_trace(&server, "GET", "/at-once");
        wait_until("it was not dropped", || metrics.dropped_spans() == dropped);
    }
    assert_eq!((collector.spans().len(), metrics.exported_spans()), (1, 1));
}

#[test]
fn a_drain_sends_what_there_is_and_waits_for_no_collector_that_is_away() {
    let collector = Collector::start();
    let server = serve_without(&collector.url(), gate().0, |_| {});
    let mut client = Client::connect(server.address());
    client.send("GET /at-once HTTP/1.1\r\nHost: a\r\n\r\n".repeat(50));
    (0..50).for_each(|_| assert_eq!(client.answer().status, 200));
    drop(client);
    let observer = server.observer().clone();
    assert_eq!(server.drain(), Drained::Complete);
    let metrics = observer.metrics();
    assert_eq!((metrics.exported_spans(), metrics.dropped_spans()), (50, 0));
    assert_eq!(collector.spans().len(), 50);

    let nobody = collector.url();
    collector.server.drain();
    let server = serve_without(&nobody, gate().0, |_| {});
    assert_eq!(ask_within_trace(&server, "GET", "/at-once").status, 200);
    let (observer, began) = (server.observer().clone(), Instant::now());
    server.drain();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let metrics = observer.metrics();
    assert_eq!((metrics.exported_spans(), metrics.dropped_spans()), (0, 1));
}

#[test]
fn the_binary_sends_over_tls_what_opentelemetrys_variables_say() {
    let authority = Authority::new("authority");
    let identity = authority.server(&["localhost"]);
    let collector = Collector::with(
        || None,
        |config| {
            config.tls.certificate = Some(identity.certificate.clone());
            config.tls.key = Some(identity.key.clone());
        },
    );
    let url = format!("https://localhost:{}/", collector.server.address().port());
    let roots = authority.file();
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=hunter%32,other=1"),
        ("OTEL_SERVICE_NAME", "flights"),
        ("SSL_CERT_FILE", roots.to_str().expect("a plain path")),
    ];
    let text = "[endpoint.fixed]\nroute = 'GET /fixed'\nbody = 'fixed'\n";
    let wharf = Wharf::start_with(text, &[], &environment);
    assert_eq!(wharf.request("GET", "/fixed", &[("traceparent", &traceparent())], "").status, 200);
    assert_eq!(collector.trace(TRACE, 1)[0].name, "GET /fixed");
    {
        let requests = collector.requests.lock().expect("nobody panics");
        assert_eq!((&*requests[0].headers["api-key"], &*requests[0].headers["other"]), ("hunter2", "1"));
        let resource = requests[0].traces.resource_spans[0].resource.as_ref().expect("whose spans they are");
        assert_eq!(attributes(&resource.attributes)["service.name"], "flights");
    }
    let mut admin = Client::connect(wharf.admin_address());
    admin.request("GET", "/config", &[], "");
    let shown = admin.answer();
    assert!(shown.text().contains("otlp_headers = \"[redacted]\""), "{}", shown.text());
    assert!(!wharf.log().contains("hunter"), "{}", wharf.log());
}

#[test]
fn one_request_is_followed_by_its_id() {
    let (database, collector) = (database(), Collector::start());
    let text = format!(
        "server.server_timing = true\nlog.access = 'json'\ndatabase.statement_comment = 'request'\ndatabase.url = '{}'\n\
         tracing.otlp_endpoint = '{}'\n{ENDPOINTS}",
        database.url(),
        collector.url()
    );
    let wharf = Wharf::start(&text);
    let mut client = wharf.connect();
    let headers = [("traceparent", &*traceparent()), ("X-Request-Id", "followed-1")];
    client.request("GET", "/sleep/2000", &headers, "");
    // While it runs, the database's administrator sees whose it is.
    let running = "select query from pg_stat_activity where datname = current_database() \
                   and state = 'active' and query like '%request_id=''followed-1''%' \
                   and pid <> pg_backend_pid()";
    wait_until("nobody sees it", || !database.psql(running).is_empty());
    let seen = database.psql(running);
    let answer = client.answer();
    assert_eq!(answer.header("X-Request-Id"), Some("followed-1"));
    let timing = answer.header("Server-Timing").expect("it is on");
    let spans = collector.trace(TRACE, 1);
    spans[0].says(&[("wharf.request_id", "followed-1"), ("http.route", "/sleep/{ms}")]);
    let statement = spans.iter().find(|span| span.name == "sleep").expect("the statement's span");
    assert!(statement.ms() >= 2000.0, "{timing}");
    let noted = "\"request_id\":\"followed-1\"";
    wharf.wait_for_log(noted);
    let log = wharf.log();
    let line = log.lines().find(|line| line.contains(noted)).expect("it was waited for");
    assert!(line.contains(&format!("\"trace_id\":\"{TRACE}\"")), "{line}");
    // The comment names the request's span, which is the statement's parent.
    assert!(seen.contains(&format!("traceparent='00-{TRACE}-{}-01'", spans[0].id)), "{seen}");
    assert_eq!(statement.parent, spans[0].id);
    assert!(seen.contains("statement='sleep'"), "{seen}");
}
