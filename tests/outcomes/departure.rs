//! Clients that leave while their requests wait or run: what was begun for them ends, and each is counted once. And clients
//! that only send no more, who have their answers.

use std::io::Read as _;
use std::thread;
use std::time::{Duration, Instant};

use http::Method;
use socket2::SockRef;
use wharf::config::{AdminListen, Config};
use wharf::database;
use wharf::handler::{Context, Error, Handler as _, Policy};
use wharf::http::{Request, Response};
use wharf::metrics::Metrics;
use wharf::server::{Running, Server};

use crate::support::{
    Answer, Authority, Client, Database, PATIENCE, Postgres, ask, assert_nothing_is_left, config_of, gate,
    wait_until,
};

/// Endpoints whose statements would run far longer than any test, and endpoints that show the effects of those.
const ENDPOINTS: &str = "
[endpoint.sleep]
route   = 'GET /sleep'
sql     = 'select pg_sleep(100)::text as slept'
returns = 'one'

[endpoint.nap]
route   = 'GET /nap'
sql     = 'select pg_sleep(0.05)::text as slept'
returns = 'one'

[endpoint.insert]
route   = 'POST /insert'
sql     = 'insert into t values (1)'

[endpoint.backend]
route   = 'GET /backend'
sql     = 'select pg_backend_pid()'
returns = 'value'
";

const SQLITE_ENDPOINTS: &str = "
[endpoint.endless]
route   = 'GET /endless'
sql     = 'with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n'
returns = 'value'

[endpoint.insert]
route   = 'POST /insert'
sql     = 'insert into t values (1)'

[endpoint.count]
route   = 'GET /count'
sql     = 'select count(*) from t'
returns = 'value'
";

/// A server with one worker and one session, on which no time limit ends anything. `change` changes its configuration.
fn server(url: &str, endpoints: &str, change: impl FnOnce(&mut Config)) -> Server {
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = 1\ndeadline = '200s'\n[queue]\nmax_wait = '100s'\n\
         [database]\nurl = '{url}'\nmaximum_pool_size = 1\nconnection_timeout = '100s'\n{endpoints}"
    );
    let mut config = config_of(text);
    config.server.selectors = Some(1);
    // Requests wait here on purpose, and must not count as a standing queue.
    config.queue.target = PATIENCE;
    config.queue.interval = PATIENCE;
    change(&mut config);
    let quick = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Ok(Response::text("quick")) };
    let server = Server::new(config).expect("the database is there").get("/quick", quick);
    server.get_immediate("/immediate", |_| Response::text("immediate"))
}

fn serve(database: &Database) -> Running {
    server(&database.url(), ENDPOINTS, |_| {}).start().expect("a free port")
}

/// A server that does not serve yet, with a certificate if there is an authority.
fn server_with(database: &Database, authority: Option<&Authority>) -> Server {
    server(&database.url(), ENDPOINTS, |config| {
        if let Some(identity) = authority.map(|authority| authority.server(&["localhost"])) {
            config.tls.certificate = Some(identity.certificate);
            config.tls.key = Some(identity.key);
        }
    })
}

/// A client of such a server.
fn connect(server: &Running, authority: Option<&Authority>) -> Client {
    match authority {
        Some(authority) => Client::connect_tls(server.address(), authority),
        None => Client::connect(server.address()),
    }
}

fn get(server: &Running, path: &str) -> Answer {
    ask(server, path).answer()
}

fn with_table() -> Database {
    let database = Postgres::database();
    database.psql("create table t (x int)");
    database
}

/// Waits until a statement of this server's sleeps in the database, and a client that leaves now cannot be taken for one
/// that only sends no more.
fn wait_for_sleep(database: &Database) {
    wait_until("the statement never ran", || sleeping(database) == "1");
    let_the_half_close_pass();
}

fn sleeping(database: &Database) -> String {
    database.psql(
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'active' \
         and query like 'select pg_sleep(100)%'",
    )
}

/// An end that comes within 10 ms is taken for half a close.
pub(super) fn let_the_half_close_pass() {
    let since = Instant::now();
    wait_until("time passes", || since.elapsed() > Duration::from_millis(50));
}

fn abandoned(metrics: &Metrics) -> u64 {
    metrics.abandoned_by_clients()
}

/// Leaves with a reset, where dropping the client only closes it.
fn reset(client: Client) {
    SockRef::from(client.stream()).set_linger(Some(Duration::ZERO)).expect("a TCP socket lingers");
    drop(client);
}

#[test]
fn a_statement_ends_when_its_client_leaves_and_worker_and_place_in_the_pool_serve_the_next() {
    let database = Postgres::database();
    for leave in [drop, reset] {
        let server = serve(&database);
        let backend = get(&server, "/backend").text().to_owned();
        let client = ask(&server, "/sleep");
        wait_for_sleep(&database);
        let left = Instant::now();
        leave(client);
        assert_ne!(get(&server, "/backend").text(), backend, "the cancel might hit what runs next");
        assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
        assert_eq!(sleeping(&database), "0");
        let metrics = server.metrics();
        assert_eq!((abandoned(metrics), metrics.cancelled_statements()), (1, 1), "{metrics}");
        assert_nothing_is_left(server);
    }
}

#[test]
fn through_tls_a_client_leaves_with_its_socket_or_with_its_last_word() {
    let authority = Authority::new("the authority");
    let database = Postgres::database();
    let leave: [fn(&mut Client); 3] = [
        |client| client.say_the_end(),
        |client| client.finish_sending(),
        |client| client.stream().shutdown(std::net::Shutdown::Both).expect("it is connected"),
    ];
    for leave in leave {
        let server = server_with(&database, Some(&authority)).start().expect("a free port");
        let mut client = Client::connect_tls(server.address(), &authority);
        client.request("GET", "/sleep", &[], "");
        wait_for_sleep(&database);
        leave(&mut client);
        let mut other = Client::connect_tls(server.address(), &authority);
        other.request("GET", "/quick", &[], "");
        assert_eq!(other.answer().text(), "quick", "the only worker is free");
        assert_eq!(sleeping(&database), "0");
        let metrics = server.metrics();
        assert_eq!((abandoned(metrics), metrics.cancelled_statements()), (1, 1), "{metrics}");
        drop((client, other));
        assert_nothing_is_left(server);
    }
}

#[test]
fn on_a_unix_socket_a_close_is_a_departure_at_once() {
    let database = Postgres::database();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("wharf.sock");
    let server = server(&database.url(), ENDPOINTS, |config| {
        config.server.listen = format!("unix:{}", path.display()).parse().expect("an address");
        config.admin.listen = Some(AdminListen::Off);
    });
    let server = server.start().expect("a free path");
    let mut client = Client::connect_unix(&path);
    client.request("GET", "/sleep", &[], "");
    wait_until("the statement never ran", || sleeping(&database) == "1");
    drop(client);
    let mut other = Client::connect_unix(&path);
    other.request("GET", "/quick", &[], "");
    assert_eq!(other.answer().text(), "quick", "the only worker is free");
    assert_eq!(abandoned(server.metrics()), 1);
    drop(other);
    assert_nothing_is_left(server);
}

/// As with `printf … | nc -N`, the end comes with the request.
#[test]
fn a_client_that_only_sends_no_more_has_its_answer() {
    let authority = Authority::new("the authority");
    let database = Postgres::database();
    for signer in [None, Some(&authority)] {
        let server = server_with(&database, signer);
        let server = server.start().expect("a free port");
        let mut client = connect(&server, signer);
        // The handshake, and an answer before the last.
        client.request("GET", "/quick", &[], "");
        assert_eq!(client.answer().text(), "quick");
        client.cork();
        client.request("GET", "/nap", &[], "");
        client.finish_sending();
        let answer = client.answer();
        assert_eq!(answer.status, 200, "encrypted: {}: {}", signer.is_some(), answer.text());
        assert!(client.is_closed());
        assert_eq!(abandoned(server.metrics()), 0);
        drop(client);
        assert_nothing_is_left(server);
    }
}

/// The same where the end is a segment of its own, which the server meets when the request is on its way already.
#[test]
fn an_end_right_behind_a_request_is_no_departure() {
    const TIMES: usize = 20;
    let database = Postgres::database();
    let server = serve(&database);
    let (mut times, until) = (0, Instant::now() + PATIENCE);
    while times < TIMES && Instant::now() < until {
        let mut client = Client::connect(server.address());
        let since = Instant::now();
        client.request("GET", "/nap", &[], "");
        // The poller has given the request to a worker by now.
        assert_eq!(get(&server, "/immediate").status, 200);
        client.finish_sending();
        let promptly = since.elapsed() < Duration::from_millis(5);
        let answer = client.answer_or_end();
        // A test that was held up itself is late, and shows nothing.
        if promptly {
            assert_eq!(answer.map(|answer| answer.status), Some(200), "after {times} times");
            times += 1;
        }
    }
    assert!(times > 0, "this machine is too slow to show anything");
    assert_nothing_is_left(server);
}

/// Bytes that a client sends behind a request are not read while a worker has that request. When the end came right behind
/// such bytes, but long after the request, the server took the client for one that had left.
#[test]
fn an_end_right_behind_what_is_not_read_yet_is_no_departure() {
    let authority = Authority::new("the authority");
    let database = Postgres::database();
    for signer in [None, Some(&authority)] {
        let (gate, keeper) = gate();
        let server = server_with(&database, signer).route(Method::GET, "/gate", gate);
        let server = server.start().expect("a free port");
        let mut client = connect(&server, signer);
        client.request("GET", "/gate", &[], "");
        keeper.wait_for_one();
        for _ in 0..2 {
            let_the_half_close_pass();
            client.cork();
            client.request("GET", "/quick", &[], "");
        }
        client.finish_sending();
        // The poller handles the end before it answers another client.
        let mut other = connect(&server, signer);
        other.request("GET", "/immediate", &[], "");
        assert_eq!(other.answer().text(), "immediate");
        keeper.let_through(1);
        for text in ["through", "quick", "quick"] {
            assert_eq!(client.answer_or_end().map(|answer| answer.text().to_owned()).as_deref(), Some(text));
        }
        assert!(client.is_closed());
        assert_eq!(abandoned(server.metrics()), 0, "encrypted: {}", signer.is_some());
        drop((client, other));
        assert_nothing_is_left(server);
    }
}

#[test]
fn a_client_that_leaves_while_waiting_for_a_connection_never_gets_one() {
    let database = with_table();
    let server = server(&database.url(), ENDPOINTS, |config| config.server.workers = Some(2));
    let pool = server.database().expect("it has one").clone();
    let server = server.start().expect("a free port");
    let first = ask(&server, "/sleep");
    wait_for_sleep(&database);
    let mut second = Client::connect(server.address());
    second.request("POST", "/insert", &[], "");
    wait_until("the second does not wait", || pool.gauges().waiting == 1);
    let_the_half_close_pass();
    drop(second);
    wait_until("it is not noticed", || abandoned(server.metrics()) == 1);
    assert_eq!(pool.gauges().waiting, 0);
    assert_eq!(sleeping(&database), "1", "the first goes on");
    drop(first);
    wait_until("they are not noticed", || abandoned(server.metrics()) == 2);
    assert_eq!(get(&server, "/backend").status, 200);
    assert_eq!(database.psql("select count(*) from t"), "0");
    assert_eq!(server.metrics().cancelled_statements(), 1, "the second ran none");
    assert_nothing_is_left(server);
}

#[test]
fn a_client_that_leaves_the_queue_takes_no_worker() {
    let database = with_table();
    let server = serve(&database);
    let first = ask(&server, "/sleep");
    wait_for_sleep(&database);
    let mut queued = Client::connect(server.address());
    queued.request("POST", "/insert", &[], "");
    wait_until("the second is not read", || server.metrics().requests() == 2);
    let_the_half_close_pass();
    drop(queued);
    wait_until("the second is not noticed", || abandoned(server.metrics()) == 1);
    drop(first);
    assert_eq!(get(&server, "/quick").text(), "quick");
    assert_eq!(database.psql("select count(*) from t"), "0");
    let metrics = server.metrics();
    assert_eq!((abandoned(metrics), metrics.cancelled_statements()), (2, 1), "{metrics}");
    assert_nothing_is_left(server);
}

#[test]
fn a_pipelining_client_that_leaves_is_counted_by_what_was_begun() {
    let authority = Authority::new("the authority");
    let database = with_table();
    for signer in [None, Some(&authority)] {
        let server = server_with(&database, signer);
        let server = server.start().expect("a free port");
        let mut client = connect(&server, signer);
        client.request("GET", "/sleep", &[], "");
        client.request("POST", "/insert", &[], "");
        wait_for_sleep(&database);
        client.finish_sending();
        let mut other = connect(&server, signer);
        other.request("GET", "/quick", &[], "");
        assert_eq!(other.answer().text(), "quick", "encrypted: {}", signer.is_some());
        assert_eq!(database.psql("select count(*) from t"), "0");
        let metrics = server.metrics();
        assert_eq!((metrics.requests(), abandoned(metrics)), (2, 1), "{metrics}");
        drop((client, other));
        assert_nothing_is_left(server);
    }
}

#[test]
fn clients_that_stay_do_not_notice() {
    let database = Postgres::database();
    let server = serve(&database);
    let mut idle = ask(&server, "/quick");
    assert_eq!(idle.answer().text(), "quick");
    let leaving = ask(&server, "/sleep");
    wait_for_sleep(&database);
    idle.request("GET", "/quick", &[], "");
    let_the_half_close_pass();
    drop(leaving);
    assert_eq!(idle.answer().text(), "quick", "what was queued meanwhile");
    idle.request("GET", "/backend", &[], "");
    assert_eq!(idle.answer().status, 200);
    assert_eq!(abandoned(server.metrics()), 1);
    drop(idle);
    assert_nothing_is_left(server);
}

#[test]
fn a_statement_behind_a_streamed_answer_ends_with_its_client() {
    let database = Postgres::database();
    let stream = |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
        let mut connection = context.database()?;
        Ok(Response::stream("text/plain", move |writer| {
            std::io::Write::write_all(writer, b"begun")?;
            std::io::Write::flush(writer)?;
            connection.postgres()?.query("select pg_sleep(100)::text", &[])?;
            Ok(())
        }))
    };
    let server = server(&database.url(), ENDPOINTS, |_| {}).get("/stream", stream);
    let server = server.start().expect("a free port");
    let client = ask(&server, "/stream");
    wait_for_sleep(&database);
    drop(client);
    assert_eq!(get(&server, "/backend").status, 200, "worker and connection are free");
    assert_eq!(sleeping(&database), "0");
    let metrics = server.metrics();
    assert_eq!((abandoned(metrics), metrics.cancelled_statements()), (1, 1), "{metrics}");
    assert_nothing_is_left(server);
}

/// The rest of a body is read only when its handler wants it, and so is the end behind it.
#[test]
fn a_statement_ends_though_its_handler_has_not_read_the_body() {
    let database = Postgres::database();
    let sleep_first = |request: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
        context.database()?.postgres()?.query("select pg_sleep(100)::text", &[])?;
        request.reader().read_to_end(&mut Vec::new())?;
        Ok(Response::text("read"))
    };
    for leave in [drop, reset] {
        let server = server(&database.url(), ENDPOINTS, |config| config.http.buffer_body_bytes = 1024);
        let server = server
            .route(Method::POST, "/upload", sleep_first.with(Policy::streaming()))
            .start()
            .expect("a free port");
        let mut client = Client::connect(server.address());
        client.send("POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n");
        client.send(vec![b'x'; 100_000]);
        wait_for_sleep(&database);
        leave(client);
        assert_eq!(get(&server, "/backend").status, 200, "worker and connection are free");
        let metrics = server.metrics();
        assert_eq!((abandoned(metrics), metrics.cancelled_statements()), (1, 1), "{metrics}");
        assert_nothing_is_left(server);
    }
}

#[test]
fn a_handler_that_uses_no_database_can_ask() {
    let (gate, keeper) = gate();
    let waits = move |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
        gate.begin();
        wait_until("the client's departure is not told", || context.client_has_left());
        Ok(Response::text("to nobody"))
    };
    let database = Postgres::database();
    let server = server(&database.url(), "", |_| {}).get("/waits", waits).start().expect("a free port");
    let client = ask(&server, "/waits");
    keeper.wait_for_one();
    let_the_half_close_pass();
    drop(client);
    assert_eq!(get(&server, "/quick").text(), "quick");
    assert_eq!(abandoned(server.metrics()), 1);
    assert_nothing_is_left(server);
}

/// A server on a SQLite file with a table, and the file.
fn on_sqlite() -> (tempfile::TempDir, rusqlite::Connection, Running, database::Database) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("test.db");
    let file = rusqlite::Connection::open(&path).expect("SQLite opens");
    file.execute_batch("pragma journal_mode = wal; create table t (x int)").expect("the table is made");
    let server = server(&format!("sqlite:{}", path.display()), SQLITE_ENDPOINTS, |_| {});
    let pool = server.database().expect("it has one").clone();
    (directory, file, server.start().expect("a free port"), pool)
}

#[test]
fn in_sqlite_a_statement_ends_when_its_client_leaves() {
    let (_directory, _file, server, pool) = on_sqlite();
    let client = ask(&server, "/endless");
    wait_until("it never ran", || pool.gauges().active == 1);
    let_the_half_close_pass();
    let left = Instant::now();
    drop(client);
    assert_eq!(get(&server, "/count").text(), "0");
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
    let metrics = server.metrics();
    assert_eq!((abandoned(metrics), metrics.cancelled_statements()), (1, 1), "{metrics}");
    assert_nothing_is_left(server);
}

#[test]
fn in_sqlite_a_wait_for_the_lock_ends_when_its_client_leaves() {
    let (_directory, file, server, pool) = on_sqlite();
    file.execute_batch("begin immediate").expect("the lock is free");
    let mut client = Client::connect(server.address());
    client.request("POST", "/insert", &[], "");
    wait_until("it never ran", || pool.gauges().active == 1);
    let_the_half_close_pass();
    let left = Instant::now();
    drop(client);
    assert_eq!(get(&server, "/count").text(), "0", "reading needs no lock");
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
    file.execute_batch("commit").expect("it is open");
    assert_eq!(get(&server, "/count").text(), "0");
    let metrics = server.metrics();
    assert_eq!((abandoned(metrics), metrics.cancelled_statements()), (1, 1), "{metrics}");
    assert_nothing_is_left(server);
}

/// Every moment of a request has its way to be given up, and none is counted twice or not at all.
#[test]
fn clients_that_leave_at_any_moment_leave_nothing_behind() {
    const CLIENTS: u64 = 8;
    let database = with_table();
    let server = server(&database.url(), ENDPOINTS, |config| {
        config.server.workers = Some(3);
        config.database.maximum_pool_size = 2;
    });
    let server = server.start().expect("a free port");
    let address = server.address();
    let client = |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..20 {
            let mut client = Client::connect(address);
            let (method, path) = [("GET", "/nap"), ("POST", "/insert"), ("GET", "/quick")][rng.usize(0..3)];
            client.request(method, path, &[], "");
            let (since, stays) = (Instant::now(), Duration::from_millis(rng.u64(0..40)));
            wait_until("time never passes", || since.elapsed() >= stays);
            if rng.bool() { reset(client) } else { drop(client) }
        }
    };
    thread::scope(|scope| {
        for seed in 0..CLIENTS {
            scope.spawn(move || client(seed));
        }
    });
    assert_eq!(get(&server, "/quick").text(), "quick");
    assert_nothing_is_left(server);
}
