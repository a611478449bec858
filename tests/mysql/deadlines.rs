//! Statements that take too long, and clients that leave: the statement ends in the database within a second, and its session is
//! lent to nobody after.

use std::time::{Duration, Instant};

use http::Method;
use wharf::database::{Access, Error};
use wharf::deadline::Deadline;
use wharf::server::Server;

use crate::support::{
    Client, Forwarder, MariaDatabase, Mariadb, PATIENCE, Then, assert_nothing_is_left, gate, wait_until,
};
use crate::{ask, configuration, get, open, serve, serve_with, statement, value, write};

/// Statements that run far longer than any test. `sleep` returns a row when it is killed; the count fails then.
const LONG: [(&str, &str); 3] = [
    ("sleep", "select sleep(100)"),
    ("work", "select benchmark(100000000000, md5('x'))"),
    (
        "join",
        "select count(*) from digits a, digits b, digits c, digits d, digits e, digits f, digits g, digits h, digits i, digits j where a.n + b.n + c.n + d.n + e.n + f.n > rand() * 1e9",
    ),
];

fn with_digits() -> MariaDatabase {
    let database = Mariadb::database();
    database.sql("create table digits (n int); insert into digits select seq from seq_1_to_40; create table t (x varchar(20))");
    database
}

fn running(database: &MariaDatabase) -> usize {
    database.sessions("command not in ('Sleep')")
}

/// Waits until a statement of the server's runs, for long enough that its client does not look like one that only sends no more.
fn wait_for_statement(database: &MariaDatabase) {
    wait_until("the statement never ran", || running(database) == 1);
    let since = Instant::now();
    wait_until("time passes", || since.elapsed() > Duration::from_millis(50));
}

/// Nothing runs any more, and did not for longer than this.
fn expect_gone(database: &MariaDatabase, since: Instant) {
    wait_until("the statement goes on", || running(database) == 0);
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

#[test]
fn a_statement_past_its_deadline_is_504_and_ends() {
    let database = with_digits();
    for (name, sql) in LONG {
        let endpoints = format!(
            "[endpoint.long]\nroute = 'GET /long'\nreturns = 'value'\ndeadline = '300ms'\nsql = \"{sql}\"\n"
        ) + &value("id", "select connection_id()");
        let server = serve(&database.url(), &endpoints);
        for _ in 0..2 {
            let before = get(&server, "/id");
            let asked = Instant::now();
            let answer = ask(&server, "GET", "/long");
            assert_eq!(answer.status, 504, "{name}: {}", answer.text());
            let took = asked.elapsed();
            assert!(took > Duration::from_millis(290) && took < Duration::from_secs(1), "{name}: {took:?}");
            expect_gone(&database, asked + Duration::from_millis(300));
            assert_ne!(get(&server, "/id"), before, "{name}: a late kill might hit what runs next");
        }
        assert_nothing_is_left(server);
    }
}

#[test]
fn a_statement_past_the_timeout_of_statements_is_504_and_undone() {
    let database = with_digits();
    let endpoints = write("slow", "insert into t select sleep(100)")
        + "[endpoint.steps]\nroute = 'POST /steps'\n\
           step = [{ sql = \"insert into t values ('first')\" }, { sql = 'do sleep(100)' }]\n"
        + &value("count", "select count(*) from t");
    let server = serve_with(&database.url(), 1, "statement_timeout = '200ms'", &endpoints);
    for path in ["/slow", "/steps"] {
        let asked = Instant::now();
        let answer = ask(&server, "POST", path);
        assert_eq!(answer.status, 504, "{path}: {}", answer.text());
        assert!(answer.text().contains("database.statement_timeout"), "{}", answer.text());
        expect_gone(&database, asked + Duration::from_millis(200));
        assert_eq!(get(&server, "/count"), "0", "{path}");
    }
    assert_nothing_is_left(server);
}

#[test]
fn a_statement_ends_when_its_client_leaves_and_the_next_is_served() {
    let database = with_digits();
    for (name, sql) in LONG {
        let server = serve(&database.url(), &(value("long", sql) + &value("id", "select connection_id()")));
        let before = get(&server, "/id");
        let mut client = Client::connect(server.address());
        client.request("GET", "/long", &[], "");
        wait_for_statement(&database);
        let left = Instant::now();
        drop(client);
        assert_ne!(get(&server, "/id"), before, "{name}");
        expect_gone(&database, left);
        assert_eq!(server.metrics().abandoned_by_clients(), 1, "{name}");
        assert_eq!(server.metrics().cancelled_statements(), 1, "{name}");
        assert_nothing_is_left(server);
    }
}

/// A write of a client that has left is rolled back, and so is what came before it.
#[test]
fn a_client_that_leaves_undoes_its_transaction() {
    let database = with_digits();
    let endpoints = "[endpoint.steps]\nroute = 'POST /steps'\n\
         step = [{ sql = \"insert into t values ('first')\" }, { sql = 'do sleep(100)' }]\n"
        .to_owned()
        + &value("count", "select count(*) from t");
    let server = serve(&database.url(), &endpoints);
    let mut client = Client::connect(server.address());
    client.request("POST", "/steps", &[], "");
    wait_until("the second step never ran", || database.sessions("info like 'do sleep%'") == 1);
    wait_for_statement(&database);
    let left = Instant::now();
    drop(client);
    assert_eq!(get(&server, "/count"), "0");
    expect_gone(&database, left);
    assert_eq!(
        database.sql("select count(*) from information_schema.innodb_trx where trx_query is not null"),
        "0"
    );
    assert_nothing_is_left(server);
}

/// Rows of a statement that has begun to answer end too.
#[test]
fn rows_that_come_without_end_are_cancelled() {
    let database = with_digits();
    let endpoints = "[http]\nmax_response_bytes = '1GiB'\n[endpoint.rows]\nroute = 'GET /rows'\nreturns = 'many'\ndeadline = '400ms'\n\
         sql = 'select a.n from digits a, digits b, digits c, digits d, digits e, digits f, digits g'\n"
        .to_owned()
        + &value("one", "select 1");
    let server = serve(&database.url(), &endpoints);
    let asked = Instant::now();
    assert_eq!(ask(&server, "GET", "/rows").status, 504);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    expect_gone(&database, asked + Duration::from_millis(400));
    assert_eq!(get(&server, "/one"), "1");
    // And an answer that is too large: the rest of its rows is of no use.
    let small = endpoints.replace("1GiB", "1MiB").replace("400ms", "20s");
    let server = serve(&database.url(), &small);
    let asked = Instant::now();
    assert_eq!(ask(&server, "GET", "/rows").status, 500);
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    expect_gone(&database, Instant::now());
    assert_eq!(get(&server, "/one"), "1");
}

/// Where nothing can be cancelled any more, the answer still comes in time.
#[test]
fn a_server_that_is_gone_cannot_keep_a_request_past_its_deadline() {
    let database = with_digits();
    let endpoints = "[endpoint.look]\nroute = 'GET /look/{label}'\nparams.label = 'text'\nreturns = 'value'\n\
         deadline = '1s'\nsql = 'select :label'\n\
         [endpoint.add]\nroute = 'POST /add/{label}'\nparams.label = 'text'\ndeadline = '1s'\nsql = 'insert into t values (:label)'\n";
    for then in [Then::FallSilent, Then::Hang] {
        for (method, path, good, status) in [("GET", "look", 200, 504), ("POST", "add", 204, 500)] {
            let forwarder = Forwarder::to(Mariadb::shared().port());
            let server = serve(&database.url_at(forwarder.port()), endpoints);
            assert_eq!(ask(&server, method, &format!("/{path}/first")).status, good);
            forwarder.once("the-label", then);
            let asked = Instant::now();
            let answer = ask(&server, method, &format!("/{path}/the-label"));
            let took = asked.elapsed();
            assert_eq!(answer.status, status, "{then:?} {path}: {}", answer.text());
            assert!(took < Duration::from_millis(1100), "{then:?} {path}: {took:?}");
            if status == 500 {
                assert_eq!(answer.json()["type"], "urn:wharf:problem:outcome-unknown");
            }
            assert_eq!(server.drain(), wharf::server::Drained::Complete, "the worker is not lost");
        }
    }
}

/// Whether a commit happened is unknown when its answer does not come.
#[test]
fn an_answer_that_is_lost_after_a_write_leaves_the_outcome_open() {
    let endpoints = "[endpoint.add]\nroute = 'POST /add/{label}'\nparams.label = 'text'\nsql = 'insert into t values (:label)'\n\
         [endpoint.both]\nroute = 'POST /both/{label}'\nparams.label = 'text'\n\
         step = [{ sql = 'insert into t values (:label)' }, { sql = 'select 1' }]\n\
         [endpoint.look]\nroute = 'GET /look/{label}'\nparams.label = 'text'\nreturns = 'value'\nsql = 'select :label'\n";
    let database = with_digits();
    let forwarder = Forwarder::to(Mariadb::shared().port());
    let server = serve(&database.url_at(forwarder.port()), endpoints);
    let rows = |label: &str| database.sql(&format!("select count(*) from t where x = '{label}'"));
    let recovers =
        || wait_until("the pool does not recover", || ask(&server, "GET", "/look/after").status == 200);
    for path in ["/add/warm", "/both/warm"] {
        assert_eq!(ask(&server, "POST", path).status, 204);
    }
    recovers();
    for (path, label, awaited, then, count) in [
        ("add", "done", "done", Then::CutAnswer, "1"),
        ("add", "undone", "undone", Then::CutBefore, "0"),
        ("both", "kept", "COMMIT", Then::CutAnswer, "1"),
        ("both", "unkept", "COMMIT", Then::CutBefore, "0"),
    ] {
        for awaited in if awaited == "COMMIT" { vec!["COMMIT", "commit"] } else { vec![awaited] } {
            forwarder.once(awaited, then);
            let answer = ask(&server, "POST", &format!("/{path}/{label}"));
            if answer.status == 204 && !forwarder.has_broken() {
                // The word is written the other way.
                database.sql(&format!("delete from t where x = '{label}'"));
                continue;
            }
            assert_eq!(answer.status, 500, "{path} {label}: {}", answer.text());
            assert_eq!(answer.json()["type"], "urn:wharf:problem:outcome-unknown", "{path} {label}");
            recovers();
            wait_until("it ran once at most, and was not run again", || rows(label) == count);
        }
    }
    // Without a possible commit it is a plain 503.
    for (method, path) in [("POST", "/both/step"), ("GET", "/look/step")] {
        forwarder.once("step", Then::CutAnswer);
        let answer = ask(&server, method, path);
        assert_eq!(answer.status, 503, "{path}: {}", answer.text());
        assert_eq!(answer.json()["type"], serde_json::Value::Null);
        recovers();
    }
    wait_until("the first step was undone", || rows("step") == "0");
}

/// The database's own limit, where an administrator has set one, is a 504 as well.
#[test]
fn the_databases_own_limit_is_504_and_the_session_stays_good() {
    let database = with_digits();
    let endpoints =
        value("sleep", "select sleep(100)") + &value("join", LONG[2].1) + &value("one", "select 1");
    let more = "connection_init_sql = 'set max_statement_time = 0.2'";
    let server = serve_with(&database.url(), 1, more, &endpoints);
    for path in ["/sleep", "/join"] {
        let answer = ask(&server, "GET", path);
        assert_eq!(answer.status, 504, "{path}: {}", answer.text());
        assert_eq!(get(&server, "/one"), "1");
    }
    assert_nothing_is_left(server);
}

/// An administrator's KILL ends one request, and the pool replaces the session.
#[test]
fn a_session_that_an_administrator_kills_is_replaced() {
    let database = with_digits();
    let server = serve(&database.url(), &(value("long", LONG[0].1) + &value("id", "select connection_id()")));
    for kill in ["kill", "kill query"] {
        let session = get(&server, "/id");
        let mut client = Client::connect(server.address());
        client.request("GET", "/long", &[], "");
        wait_for_statement(&database);
        database.sql(&format!("{kill} {session}"));
        let status = client.answer().status;
        // A `sleep` that is killed returns a row, which nothing tells from a good one.
        let expected: &[u16] = if kill == "kill" { &[503] } else { &[200, 504] };
        assert!(expected.contains(&status), "{kill}: {status}");
        wait_until("the pool does not recover", || ask(&server, "GET", "/id").status == 200);
    }
    // And while nobody uses it.
    let session = get(&server, "/id");
    database.sql(&format!("kill {session}"));
    wait_until("the pool does not recover", || ask(&server, "GET", "/id").status == 200);
    assert_ne!(get(&server, "/id"), session);
    assert_nothing_is_left(server);
}

/// A handler that ignores its deadline is answered for, and its session is clean for the next.
#[test]
fn the_database_layer_keeps_its_deadline_itself() {
    let database = with_digits();
    let opened = open(&database.url(), PATIENCE).expect("the server is there");
    let mut connection = opened.checkout(Deadline::after(PATIENCE)).expect("a session is free");
    let (began, mut out) = (Instant::now(), Vec::new());
    let mut rows = wharf::database::RowWriter::new(&mut out, wharf::database::Shape::Value, 1000, 1);
    let until = Deadline::after(Duration::from_millis(100));
    let ended =
        connection.run(&statement(&opened, "select sleep(30)"), &[], Access::ReadOnly, until, &mut rows);
    assert!(matches!(ended, Err(Error::Deadline)), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    drop(connection);
    expect_gone(&database, Instant::now());
}

/// A drain lets a running request end, and a gate shows that it ran.
#[test]
fn a_drain_waits_for_what_runs() {
    let database = with_digits();
    let (gate, keeper) = gate();
    let config = configuration(
        &database.url(),
        2,
        "",
        &(value("nap", "select sleep(0.3)") + &value("one", "select 1")),
    );
    let server = Server::new(config).expect("the database is there").route(Method::GET, "/gate", gate);
    let server = server.start().expect("a free port");
    let mut held = Client::connect(server.address());
    held.request("GET", "/gate", &[], "");
    keeper.wait_for_one();
    let mut napping = Client::connect(server.address());
    napping.request("GET", "/nap", &[], "");
    wait_until("the nap never began", || running(&database) == 1);
    keeper.let_through(1);
    assert_eq!(server.drain(), wharf::server::Drained::Complete);
    assert_eq!((held.answer().status, napping.answer().text()), (200, "0"));
    wait_until("sessions stay", || database.sessions("true") == 0);
}
