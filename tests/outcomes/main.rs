//! The answers to clients when the database is lost, late or contended. An answer states the outcome if it is known,
//! and otherwise that it is unknown.

#[path = "../support/mod.rs"]
mod support;

mod departure;
mod faults;
mod late;
mod privileges;
mod refusals;
mod stopped;
mod together;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http::Method;
use support::{
    Answer, Client, Database, Forwarder, Gate, PATIENCE, Postgres, Then, config_of, gate, wait_until,
};
use wharf::config::{self, Config};
use wharf::database::{self, Access, RowWriter, Shape};
use wharf::deadline::Deadline;
use wharf::handler::{Context, Error, Handler};
use wharf::http::{Request, Response};
use wharf::server::Drained;
use wharf::server::{Running, Server};

/// Every request's, in seconds.
const DEADLINE: u64 = 1;

const UNKNOWN: &str = "urn:wharf:problem:outcome-unknown";

const ENDPOINTS: &str = "
[endpoint.add]
route   = 'POST /add/{label}'
params  = { label = 'text' }
sql     = 'insert into t values (:label)'

[endpoint.both]
route   = 'POST /both/{label}'
params  = { label = 'text' }
step    = [{ sql = 'insert into t values (:label)' }, { sql = 'select 1' }]

[endpoint.read]
route   = 'GET /read/{label}'
params  = { label = 'text' }
sql     = 'select :label::text as label'

[endpoint.slow]
route   = 'POST /slow'
sql     = \"insert into t select 'slow' from pg_sleep(100)\"
";

fn read(text: String) -> Config {
    config_of(text)
}

/// One connection to this database.
fn configuration(url: &str, more: &str, endpoints: &str) -> Config {
    read(format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = 1\ndeadline = '{DEADLINE}s'\n\
         [database]\nurl = \"{url}\"\nmaximum_pool_size = 1\n{more}\n{endpoints}"
    ))
}

/// A server with one connection to this database.
fn server(url: &str, more: &str, endpoints: &str) -> Server {
    Server::new(configuration(url, more, endpoints)).expect("the database is there")
}

fn start(server: Server) -> Running {
    server.start().expect("a free port")
}

fn ask(server: &Running, method: &str, path: &str) -> Answer {
    ask_at(server.address(), method, path)
}

fn ask_at(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut client = Client::connect(address);
    client.request(method, path, &[], "");
    client.answer()
}

fn with_table() -> Database {
    let database = Postgres::database();
    database.psql("create table t (label text)");
    database
}

fn rows(database: &Database, label: &str) -> String {
    database.psql(&format!("select count(*) from t where label = '{label}'"))
}

/// The database's URL by way of the forwarder, which is to read what goes by.
fn forwarded(database: &Database, forwarder: &Forwarder) -> String {
    format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", forwarder.port(), database.name())
}

/// A server that reaches its database through a forwarder.
fn through(database: &Database, more: &str) -> (Running, Forwarder) {
    let forwarder = Forwarder::to(Postgres::shared().port());
    let url =
        format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", forwarder.port(), database.name());
    let server = start(server(&url, more, ENDPOINTS));
    // From now on every statement is prepared, and the session is as it stays.
    assert_eq!(ask(&server, "POST", "/add/first").status, 204);
    assert_eq!(ask(&server, "POST", "/both/first").status, 204);
    assert_eq!(ask(&server, "GET", "/read/first").status, 200);
    (server, forwarder)
}

fn assert_unknown(answer: &Answer) {
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert_eq!(answer.json()["type"], UNKNOWN);
    assert!(answer.text().contains("check before you repeat it"), "{}", answer.text());
    assert_eq!(answer.header("Retry-After"), None);
}

/// Waits until the server has its connection again; the one that was cut is not lent any more.
fn assert_recovers(server: &Running) {
    wait_until("the pool does not recover", || ask(server, "GET", "/read/after").status == 200);
}

/// The database may reach the statement only after the connection was cut, because the cut hit the answer to an earlier
/// message.
fn assert_settled(database: &Database, label: &str, count: &str) {
    wait_until("it ran once at most, and was not run again", || rows(database, label) == count);
}

#[test]
fn a_connection_that_is_lost_during_the_commit_leaves_the_outcome_open() {
    let database = with_table();
    for (then, label, count) in [(Then::CutAnswer, "done", "1"), (Then::CutBefore, "undone", "0")] {
        let (server, forwarder) = through(&database, "");
        forwarder.once("COMMIT", then);
        assert_unknown(&ask(&server, "POST", &format!("/both/{label}")));
        assert_recovers(&server);
        assert_settled(&database, label, count);
        server.drain();
    }
}

#[test]
fn a_connection_that_is_lost_under_an_autocommitted_statement_leaves_the_outcome_open() {
    let database = with_table();
    for (then, label, count) in [(Then::CutAnswer, "written", "1"), (Then::CutBefore, "unwritten", "0")] {
        let (server, forwarder) = through(&database, "");
        // The label passes as one of the parameters.
        forwarder.once(label, then);
        assert_unknown(&ask(&server, "POST", &format!("/add/{label}")));
        assert_recovers(&server);
        assert_settled(&database, label, count);
        server.drain();
    }
}

#[test]
fn without_a_possible_commit_a_lost_database_is_a_plain_503() {
    let database = with_table();
    let (server, forwarder) = through(&database, "");
    for (method, path) in [("POST", "/both/step"), ("GET", "/read/step")] {
        forwarder.once("step", Then::CutAnswer);
        let answer = ask(&server, method, path);
        assert_eq!(answer.status, 503, "{path}: {}", answer.text());
        assert_eq!(answer.json()["type"], serde_json::Value::Null);
        assert!(answer.header("Retry-After").is_some());
        assert_recovers(&server);
    }
    assert_eq!(rows(&database, "step"), "0", "the first step was undone");
    server.drain();
}

/// Nobody answers any more, not even to the cancel.
#[test]
fn a_commit_whose_cancel_is_not_confirmed_leaves_the_outcome_open_too() {
    let database = with_table();
    for (then, label) in [(Then::FallSilent, "silent"), (Then::Hang, "hanging")] {
        for (path, awaited) in [("both", "COMMIT"), ("add", label)] {
            let (server, forwarder) = through(&database, "");
            forwarder.once(awaited, then);
            let asked = Instant::now();
            assert_unknown(&ask(&server, "POST", &format!("/{path}/{label}")));
            let after = asked.elapsed();
            assert!(after < Duration::from_millis(DEADLINE * 1000 + 100), "{then:?}, {path}: {after:?}");
            assert_eq!(server.drain(), Drained::Complete, "the worker is not lost");
        }
        assert_eq!(rows(&database, label), "2", "{then:?}: each ran once");
    }
}

#[test]
fn a_statement_that_is_known_to_be_cancelled_has_a_known_outcome() {
    let database = with_table();
    let server = start(server(&database.url(), "statement_timeout = '100ms'", ENDPOINTS));
    let asked = Instant::now();
    let answer = ask(&server, "POST", "/slow");
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(answer.text().contains("database.statement_timeout"), "{}", answer.text());
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_eq!(rows(&database, "slow"), "0");
    server.drain();
}

/// The database's own limit ended the statement. The server took that as proof that its cancel request had arrived; the
/// request then hit the next statement.
#[test]
fn a_session_that_a_cancel_may_still_hit_is_not_lent_again() {
    /// The code of a cancel request, which follows its length.
    const CANCEL_REQUEST: [u8; 4] = [0x04, 0xd2, 0x16, 0x2e];
    let database = with_table();
    let more = "connection_init_sql = \"set statement_timeout = '300ms'\"\n\
                [endpoint.backend]\nroute = 'GET /backend'\nsql = 'select pg_backend_pid()'\nreturns = 'value'";
    let (server, forwarder) = through(&database, more);
    // No other statement has to keep this limit.
    let limited = format!("statement_timeout = '100ms'\n{more}");
    let limited = configuration(&forwarded(&database, &forwarder), &limited, ENDPOINTS);
    server.reload(limited).expect("a good configuration");
    let backend = || {
        let mut backend = String::new();
        wait_until("no statement keeps the limit", || {
            let answer = ask(&server, "GET", "/backend");
            answer.text().clone_into(&mut backend);
            answer.status == 200
        });
        backend
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let before = backend();
        forwarder.once(CANCEL_REQUEST, Then::CutBefore);
        let answer = ask(&server, "POST", "/slow");
        if answer.status == 504 && forwarder.has_broken() {
            assert_ne!(backend(), before);
            break;
        }
        // On a busy machine the database's limit may end before the server's, or after the time that a cancelled statement has.
        if answer.status != 504 {
            assert_unknown(&answer);
        }
        assert!(Instant::now() < until, "the limits never end one after the other");
    }
    assert_eq!(rows(&database, "slow"), "0");
    server.drain();
}

#[test]
fn in_sqlite_a_statement_has_its_time_too() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite:{}", directory.path().join("test.db").display());
    let endpoints = "[endpoint.endless]\nroute = 'GET /endless'\nreturns = 'value'\n\
         sql = 'with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n'\n\
         [endpoint.one]\nroute = 'GET /one'\nreturns = 'value'\nsql = 'select 1'";
    let server = start(server(&url, "statement_timeout = '100ms'", endpoints));
    let answer = ask(&server, "GET", "/endless");
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(answer.text().contains("database.statement_timeout"), "{}", answer.text());
    assert_eq!(ask(&server, "GET", "/one").text(), "1");
    server.drain();
}

/// A handler that writes when the test lets it, as a single statement or in a transaction that it has begun.
fn writer(in_transaction: bool, gate: Gate) -> impl Handler {
    move |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
        let mut connection = context.database()?;
        let session = connection.postgres()?;
        if in_transaction {
            return session.transaction(Access::ReadWrite, |session| {
                session.execute("insert into t values ('late')", &[])?;
                gate.pass()
            });
        }
        // Of another select it would not be known that it only reads.
        session.transaction(Access::ReadOnly, |session| session.query("select 1", &[]).map(drop))?;
        gate.pass()?;
        session.execute("insert into t values ('late')", &[])?;
        Ok(Response::text("written"))
    }
}

/// The session is either killed by its server, which announces that, or cut off without notice.
#[test]
fn a_write_that_meets_a_closed_connection_is_known_not_to_be_committed() {
    let database = with_table();
    for (in_transaction, killed) in [(false, true), (false, false), (true, true), (true, false)] {
        let (gate, keeper) = gate();
        let forwarder = Forwarder::to(Postgres::shared().port());
        let server = server(&forwarded(&database, &forwarder), "", "");
        let server = start(server.route(Method::POST, "/write", writer(in_transaction, gate)));
        let mut client = Client::connect(server.address());
        client.request("POST", "/write", &[], "");
        keeper.wait_for_one();
        if killed {
            let killed = database.psql(
                // The previous session was cut off, and its backend may not have noticed yet.
                "select bool_and(pg_terminate_backend(pid, 5000)) from pg_stat_activity \
                 where datname = current_database() and pid <> pg_backend_pid()",
            );
            assert_eq!(killed, "t");
        } else {
            forwarder.cut();
        }
        keeper.let_through(1);
        let answer = client.answer();
        assert_eq!(answer.status, 503, "{in_transaction}, {killed}: {}", answer.text());
        assert_eq!(rows(&database, "late"), "0");
        drop(client);
        server.drain();
    }
}

#[test]
fn under_contention_each_request_is_run_again_or_told_to_come_back_and_the_sum_is_right() {
    const RIVALS: u64 = 6;
    const EACH: u64 = 20;
    let database = Postgres::database();
    database.psql("create table counter (n bigint); insert into counter values (0)");
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = {RIVALS}\n[queue]\ntarget = '30s'\ninterval = '30s'\nmax_wait = '30s'\n\
         [database]\nurl = '{}'\nmaximum_pool_size = {RIVALS}\n\
         connection_init_sql = \"set default_transaction_isolation = 'serializable'\"\n\
         [endpoint.count]\nroute = 'POST /count'\nreturns = 'value'\n\
         step = [{{ sql = 'select n from counter' }}, {{ sql = 'update counter set n = n + 1 returning n' }}]\n\
         [endpoint.level]\nroute = 'GET /level'\nreturns = 'value'\n\
         sql = \"select current_setting('transaction_isolation')\"",
        database.url()
    );
    let server = start(Server::new(read(text)).expect("the database is there"));
    assert_eq!(ask(&server, "GET", "/level").text(), "\"serializable\"");
    let (counted, address) = (AtomicU64::new(0), server.address());
    thread::scope(|scope| {
        for _ in 0..RIVALS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let answer = ask_at(address, "POST", "/count");
                    match answer.status {
                        200 => _ = counted.fetch_add(1, Ordering::Relaxed),
                        503 => assert!(answer.text().contains("collided"), "{}", answer.text()),
                        _ => panic!("{}: {}", answer.status, answer.text()),
                    }
                }
            });
        }
    });
    let counted = counted.into_inner();
    assert!(counted > RIVALS * EACH / 2, "{counted}: most are through with another attempt");
    assert_eq!(database.psql("select n from counter"), counted.to_string());
    let open =
        "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in%'";
    assert_eq!(database.psql(open), "0");
    server.drain();
}

fn settings(change: impl FnOnce(&mut config::Database)) -> config::Database {
    let mut settings = config::Database::default();
    settings.maximum_pool_size = 1;
    change(&mut settings);
    settings
}

#[test]
fn connection_init_sql_runs_on_each_connection_or_the_error_says_why_not() {
    let database = Postgres::database();
    let named = settings(|settings| {
        settings.connection_init_sql =
            Some("set application_name = 'greeted'; set work_mem = '5MB'".to_owned());
    });
    let opened = database::Database::open(&named, &database.url()).expect("the server is there");
    let name = "select application_name from pg_stat_activity where datname = current_database() \
                and pid <> pg_backend_pid()";
    assert_eq!(database.psql(name), "greeted");
    drop(opened);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = format!("sqlite:{}", directory.path().join("test.db").display());
    let limited = settings(|settings| {
        settings.connection_init_sql = Some("pragma max_page_count = 77; pragma cache_size = 78".to_owned());
    });
    let opened = database::Database::open(&limited, &file).expect("the file can be made");
    let mut connection = opened.checkout(Deadline::after(PATIENCE)).expect("a connection is free");
    let sqlite = connection.sqlite().expect("it is SQLite");
    let size: i64 = sqlite.query_row("pragma cache_size", [], |row| row.get(0)).expect("it is known");
    assert_eq!(size, 78);
    drop(connection);
    let wrong = settings(|settings| settings.connection_init_sql = Some("set sail".to_owned()));
    for url in [database.url(), file] {
        let asked = Instant::now();
        let error = database::Database::open(&wrong, &url).expect_err("that is no SQL").to_string();
        assert!(error.contains("connection_init_sql: ") && error.contains("syntax error"), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(4), "trying again is no use");
    }
}

#[test]
fn a_connection_keeps_no_more_statements_prepared_than_it_may() {
    let database = Postgres::database();
    let few = settings(|settings| settings.max_prepared_statements = 3);
    let opened = database::Database::open(&few, &database.url()).expect("the server is there");
    let mut connection = opened.checkout(Deadline::after(PATIENCE)).expect("a connection is free");
    let session = connection.postgres().expect("it is PostgreSQL");
    for round in 0..3 {
        for number in 0..10 {
            session.query_one(&format!("select {number}"), &[]).expect("it runs");
        }
        let kept: i64 =
            session.query_one("select count(*) from pg_prepared_statements", &[]).expect("it runs").get(0);
        assert_eq!(kept, 3, "round {round}: the server has forgotten the others");
    }
}

/// SQLite rolls back on its own when the disk is full. The remaining statements of the transaction would have run
/// outside it.
#[test]
fn a_full_disk_undoes_the_whole_transaction() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite:{}", directory.path().join("test.db").display());
    let file = rusqlite::Connection::open(directory.path().join("test.db")).expect("SQLite opens");
    file.execute_batch("create table t (label text, load blob)").expect("the table is made");
    drop(file);
    let endpoints = "[endpoint.fill]\nroute = 'POST /fill/{bytes}'\nparams.bytes = 'int'\n\
         step = [{ sql = \"insert into t values ('first', null)\" }, \
         { sql = \"insert into t values ('second', zeroblob(:bytes))\" }]\n\
         [endpoint.count]\nroute = 'GET /count'\nreturns = 'value'\nsql = 'select count(*) from t'";
    let server = server(&url, "connection_init_sql = 'pragma max_page_count = 100'", endpoints);
    let pool = server.database().expect("it has one").clone();
    let server = start(server);
    let answer = ask(&server, "POST", "/fill/10000000");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("no room left"), "{}", answer.text());
    assert_eq!(ask(&server, "GET", "/count").text(), "0");
    let statement =
        |sql: &str| pool.statement(&config::Sql { pieces: vec![sql.to_owned()], slots: Vec::new() }, &[]);
    let (until, mut body) = (Deadline::after(PATIENCE), Vec::new());
    let mut rows = RowWriter::new(&mut body, Shape::Discard, 1000, 1000);
    let mut connection = pool.checkout(until).expect("a connection is free");
    let mut run = |connection: &mut database::Connection, sql| {
        connection.run(&statement(sql), &[], Access::ReadWrite, until, &mut rows)
    };
    connection.begin(Access::ReadWrite, until).expect("none is open");
    let full = run(&mut connection, "insert into t values ('full', zeroblob(10000000))");
    assert_eq!(full.expect_err("it does not fit").code(), Some("13"));
    let alone = run(&mut connection, "insert into t values ('alone', null)");
    assert!(matches!(alone, Err(database::Error::Usage(_))), "{alone:?}");
    assert!(connection.commit(until).is_err());
    connection.rollback().expect("it is rolled back already");
    run(&mut connection, "insert into t values ('after', null)").expect("there is room for this");
    drop(connection);
    assert_eq!(ask(&server, "POST", "/fill/10").status, 204);
    assert_eq!(ask(&server, "GET", "/count").text(), "3");
    server.drain();
}
