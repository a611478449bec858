//! `Running::reload`, in the test's own process.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use http::Method;
use postgres::NoTls;
use wharf::config::{Config, Connector};
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::metrics::Reason;
use wharf::server::{ReloadError, Reloaded, Running, Server};

use crate::support::{
    Client, Gate, Keeper, PATIENCE, Postgres, assert_nothing_is_left, config_of, gate, wait_until,
};

const BOTH: [Connector; 2] = [Connector::Native, Connector::TinyHttp];

/// Before the time that a request may have is over, by far.
const SOON: Duration = Duration::from_secs(10);

/// A server of this configuration and of routes in Rust: `/rust` answers at once, `/gate` when the test says so.
fn serve(config: Config) -> (Running, Keeper) {
    let (gate, keeper) = gate();
    (with_routes(config, gate), keeper)
}

fn with_routes(config: Config, gate: Gate) -> Running {
    let rust = |_: &Request, _: &mut Context<'_>| -> Result<Response, Error> { Ok(Response::text("rust")) };
    let echo = |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::text(request.body().clone()))
    };
    let server = Server::new(config).unwrap_or_else(|error| panic!("{error}"));
    let server = server.get("/rust", rust).post("/echo", echo).route(Method::GET, "/gate", gate);
    let server = server.get_immediate("/immediate", |_| Response::text("immediate"));
    server.start().unwrap_or_else(|error| panic!("{error}"))
}

fn reloaded(server: &Running, text: &str) -> Reloaded {
    server.reload(config_of(text)).unwrap_or_else(|error| panic!("{error}"))
}

/// Status and text of `GET path` on this connection.
fn get(client: &mut Client, path: &str) -> (u16, String) {
    client.request("GET", path, &[], "");
    let answer = client.answer();
    (answer.status, answer.text().to_owned())
}

fn fixed(name: &str, body: &str) -> String {
    format!("[endpoint.{name}]\nroute = 'GET /{name}'\nbody = '{body}'\n")
}

#[test]
fn endpoints_come_change_and_go_on_a_connection_that_stays() {
    for connector in BOTH {
        let word = if connector == Connector::Native { "native" } else { "tiny_http" };
        let with = |endpoints: &[String]| format!("server.connector = '{word}'\n{}", endpoints.concat());
        let first = with(&[fixed("kept", "kept"), fixed("changed", "old"), fixed("removed", "there")]);
        let (server, _) = serve(config_of(&first));
        let mut client = Client::connect(server.address());
        assert_eq!(get(&mut client, "/changed"), (200, "old".into()));
        assert_eq!(get(&mut client, "/removed"), (200, "there".into()));
        assert_eq!(get(&mut client, "/added").0, 404);
        let second = with(&[fixed("added", "new"), fixed("changed", "new"), fixed("kept", "kept")]);
        let outcome = reloaded(&server, &second);
        let changes = &outcome.changes;
        assert_eq!(
            (&changes.added[..], &changes.changed[..]),
            (&["added".into()][..], &["changed".into()][..])
        );
        assert_eq!((&changes.removed[..], changes.keys.len()), (&["removed".into()][..], 0));
        let text = "endpoint.added: added\nendpoint.changed: changed\nendpoint.removed: removed";
        assert_eq!(outcome.to_string(), text);
        for (path, answer) in [("/kept", "kept"), ("/changed", "new"), ("/added", "new"), ("/rust", "rust")] {
            assert_eq!(get(&mut client, path), (200, answer.into()), "{word}");
        }
        assert_eq!(get(&mut client, "/removed").0, 404);
        assert_eq!(reloaded(&server, &second).to_string(), "nothing has changed");
        drop(client);
        assert_nothing_is_left(server);
    }
}

#[test]
fn a_route_that_is_written_in_rust_stays_and_no_endpoint_takes_its_place() {
    let (server, _) = serve(config_of(""));
    let mut client = Client::connect(server.address());
    let refused = server.reload(config_of(fixed("rust", "configured"))).expect_err("it is there already");
    assert!(matches!(refused, ReloadError::Route(_)), "{refused}");
    assert_eq!(get(&mut client, "/rust"), (200, "rust".into()));
    reloaded(&server, &fixed("other", "other"));
    for (path, answer) in [("/rust", "rust"), ("/immediate", "immediate"), ("/other", "other")] {
        assert_eq!(get(&mut client, path), (200, answer.into()));
    }
}

#[test]
fn a_smaller_body_is_the_limit_on_a_connection_that_is_open() {
    for connector in ["native", "tiny_http"] {
        let with = |limit: &str| format!("server.connector = '{connector}'\nhttp.max_body_bytes = '{limit}'");
        let (server, _) = serve(config_of(with("1MiB")));
        let mut client = Client::connect(server.address());
        client.request("POST", "/echo", &[], "four and more");
        assert_eq!(client.answer().text(), "four and more");
        let outcome = reloaded(&server, &with("4B"));
        assert_eq!(outcome.to_string(), "http.max_body_bytes: 4B, before 1MiB");
        client.request("POST", "/echo", &[], "four");
        assert_eq!(client.answer().text(), "four");
        client.request("POST", "/echo", &[], "fives");
        assert_eq!(client.answer().status, 413);
    }
}

/// Each waited for its next request for as long as the configuration said when it began to wait.
#[test]
fn a_connection_that_is_idle_already_waits_only_as_long_as_the_new_timeout_says() {
    let (server, _) = serve(config_of("http.idle_timeout = '1h'"));
    let (mut by_poller, mut by_worker) =
        (Client::connect(server.address()), Client::connect(server.address()));
    assert_eq!(get(&mut by_poller, "/immediate").0, 200);
    assert_eq!(get(&mut by_worker, "/rust").0, 200);
    reloaded(&server, "http.idle_timeout = '1ms'");
    assert!(by_poller.is_closed());
    assert!(by_worker.is_closed());
    reloaded(&server, "http.idle_timeout = '1h'");
    let mut stays = Client::connect(server.address());
    assert_eq!((get(&mut stays, "/rust").0, get(&mut stays, "/rust").0), (200, 200));
    drop(stays);
    assert_nothing_is_left(server);
}

#[test]
fn a_limit_below_the_open_connections_cuts_no_client_off() {
    let text = |max: usize| format!("server.workers = 4\nhttp.max_connections = {max}");
    let (server, keeper) = serve(config_of(text(4)));
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(server.address())).collect();
    for client in &mut clients {
        client.request("GET", "/gate", &[], "");
        keeper.wait_for_one();
    }
    reloaded(&server, &text(1));
    for _ in 0..100 {
        let mut newcomer = Client::connect(server.address());
        assert_eq!(newcomer.answer().status, 503, "it has no place, and nobody is idle");
    }
    assert_eq!(server.metrics().refused_for(Reason::ConnectionLimit), 100);
    keeper.let_through(3);
    assert!(clients.iter_mut().all(|client| client.answer().text() == "through"));
    // Two connections that are idle now make room for one newcomer.
    let until = Instant::now() + PATIENCE;
    loop {
        let mut newcomer = Client::connect(server.address());
        newcomer.request("GET", "/rust", &[], "");
        if newcomer.answer().status == 200 {
            break;
        }
        assert!(Instant::now() < until, "those that are idle make no room");
    }
    reloaded(&server, &text(4));
    let mut four: Vec<_> = (0..4).map(|_| Client::connect(server.address())).collect();
    for client in &mut four {
        client.request("GET", "/gate", &[], "");
        keeper.wait_for_one();
    }
    keeper.let_through(4);
    assert!(four.iter_mut().all(|client| client.answer().text() == "through"));
    drop((four, clients));
    assert_nothing_is_left(server);
}

#[test]
fn open_connections_count_against_a_new_limit_per_address() {
    let (server, _) = serve(config_of(""));
    let mut here: Vec<_> = (0..2).map(|_| Client::connect(server.address())).collect();
    assert!(here.iter_mut().all(|client| get(client, "/rust").0 == 200));
    reloaded(&server, "http.max_connections_per_address = 2");
    let refused = Client::connect(server.address()).answer();
    assert!(refused.status == 503 && refused.text().contains("max_connections_per_address"), "{refused:?}");
    assert!(here.iter_mut().all(|client| get(client, "/rust").0 == 200));
    reloaded(&server, "http.max_accept_rate = 1");
    let mut taken = Client::connect(server.address());
    assert_eq!(get(&mut taken, "/rust").0, 200);
    let refused = Client::connect(server.address()).answer();
    assert!(refused.status == 503 && refused.text().contains("max_accept_rate"), "{refused:?}");
    reloaded(&server, "");
    assert_eq!(get(&mut Client::connect(server.address()), "/rust").0, 200);
}

#[test]
fn a_request_whose_body_is_on_its_way_is_answered_as_it_began() {
    let database = tempfile::tempdir().expect("a temporary directory");
    let url = format!("database.url = 'sqlite:{}'\n", database.path().join("x.db").display());
    let endpoint = |word: &str| {
        format!(
            "{url}[endpoint.a]\nroute = 'POST /a'\nparams = {{ text = {{ type = 'text', in = 'body' }} }}\n\
             sql = \"select '{word} ' || :text as text\"\nreturns = 'value'\n"
        )
    };
    let (server, _) = serve(config_of(endpoint("old")));
    let head = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 12\r\n";
    let mut client = Client::connect(server.address());
    client.send(format!("{head}Expect: 100-continue\r\n\r\n"));
    // So much of it was seen.
    assert_eq!(client.answer().status, 100);
    reloaded(&server, &url);
    reloaded(&server, &endpoint("new"));
    client.send("{\"text\":\"b\"}");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text()), (200, "\"old b\""));
    client.send(format!("{head}\r\n{{\"text\":\"c\"}}"));
    assert_eq!(client.answer().text(), "\"new c\"");
    drop(client);
    assert_nothing_is_left(server);
}

#[test]
fn a_request_that_runs_keeps_its_handler_and_its_deadline() {
    let database = Postgres::database();
    let text = |word: &str, deadline: &str| {
        format!(
            "database.url = '{}'\nserver.deadline = '{deadline}'\n[endpoint.a]\nroute = 'GET /a'\n\
             sql = \"select '{word}' as word from pg_advisory_xact_lock(7)\"\nreturns = 'value'\n",
            database.url()
        )
    };
    let (server, _) = serve(config_of(text("old", "30s")));
    let mut other = postgres::Client::connect(&database.url(), NoTls).expect("the database is there");
    other.execute("select pg_advisory_lock(7)", &[]).expect("nobody has it");
    let mut client = Client::connect(server.address());
    client.request("GET", "/a", &[], "");
    database.wait_for_a_waiting_lock();
    let began = Instant::now();
    reloaded(&server, &text("new", "200ms"));
    let mut later = Client::connect(server.address());
    // The new deadline passes for this one, and so it has for the other, whose it is not.
    assert_eq!(get(&mut later, "/a").0, 504);
    assert!(began.elapsed() < SOON);
    other.execute("select pg_advisory_unlock(7)", &[]).expect("it is ours");
    assert_eq!(client.answer().text(), "\"old\"");
    // On a busy machine the new deadline may pass again, and then the connection may end.
    wait_until("the new one is never served", || {
        let (status, text) = get(&mut Client::connect(server.address()), "/a");
        status == 200 && text == "\"new\""
    });
    drop((client, later));
    assert_nothing_is_left(server);
}

#[test]
fn wrong_sql_changes_nothing_and_neither_does_a_database_that_does_not_prepare() {
    let database = Postgres::database();
    database.psql("create table note (id int)");
    let text = |sql: &str| {
        format!(
            "database.url = '{}'\n[endpoint.a]\nroute = 'GET /a'\nsql = '{sql}'\nreturns = 'value'\n{}",
            database.url(),
            fixed("b", sql)
        )
    };
    let (server, _) = serve(config_of(text("select 1")));
    let mut client = Client::connect(server.address());
    let refused = server.reload(config_of(text("select nothing"))).expect_err("there is no such column");
    let said = refused.to_string();
    assert!(matches!(refused, ReloadError::Statements(_)), "{said}");
    assert!(
        said.contains("endpoint.a.sql: the database refuses this statement: column \"nothing\""),
        "{said}"
    );
    assert_eq!(get(&mut client, "/a"), (200, "1".into()));

    let mut other = postgres::Client::connect(&database.url(), NoTls).expect("the database is there");
    other.batch_execute("begin; lock table note in access exclusive mode").expect("nobody has it");
    let began = Instant::now();
    thread::scope(|scope| {
        let reload = scope.spawn(|| server.reload(config_of(text("select id from note"))));
        // Poller and workers do not wait for it.
        let mut count = 0;
        while !reload.is_finished() {
            assert_eq!(get(&mut client, "/a"), (200, "1".into()));
            assert_eq!(get(&mut client, "/b"), (200, "select 1".into()));
            count += 1;
            assert!(began.elapsed() < PATIENCE, "the reload ends");
        }
        assert!(count > 10);
        let refused = reload.join().expect("no panic").expect_err("the table is locked");
        assert!(matches!(refused, ReloadError::Database(_)), "{refused}");
    });
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(get(&mut client, "/b"), (200, "select 1".into()));
    other.batch_execute("rollback").expect("it is there");
    reloaded(&server, &text("select count(*) from note"));
    assert_eq!(get(&mut client, "/a"), (200, "0".into()));
    drop(client);
    assert_nothing_is_left(server);
}

#[test]
fn a_statement_for_new_connections_that_fails_changes_nothing() {
    let database = Postgres::database();
    let text = |sql: &str| {
        format!("[database]\nurl = '{}'\nconnection_init_sql = '{sql}'\n{}", database.url(), fixed("a", sql))
    };
    let (server, _) = serve(config_of(text("select 1")));
    let refused = server.reload(config_of(text("select nothing"))).expect_err("there is no such column");
    assert!(refused.to_string().contains("\"nothing\" does not exist"), "{refused}");
    assert_eq!(get(&mut Client::connect(server.address()), "/a").1, "select 1");
    let outcome = reloaded(&server, &text("select 2"));
    assert_eq!(outcome.to_string(), "database.connection_init_sql\nendpoint.a: changed");
}

/// Its pool's connections are all in use, which is what a larger pool is for.
#[test]
fn a_busy_pool_becomes_larger() {
    let database = Postgres::database();
    let text = |size: usize| {
        format!(
            "server.workers = 2\n[database]\nurl = '{}'\nmaximum_pool_size = {size}\nconnection_timeout = '30s'\n\
             [endpoint.wait]\nroute = 'GET /wait'\nsql = 'select 1 from pg_advisory_xact_lock(7)'\n\
             [endpoint.quick]\nroute = 'GET /quick'\nsql = 'select 1'\n",
            database.url()
        )
    };
    let (server, _) = serve(config_of(text(1)));
    let mut other = postgres::Client::connect(&database.url(), NoTls).expect("the database is there");
    other.execute("select pg_advisory_lock(7)", &[]).expect("nobody has it");
    let (mut waiting, mut quick) = (Client::connect(server.address()), Client::connect(server.address()));
    waiting.request("GET", "/wait", &[], "");
    database.wait_for_a_waiting_lock();
    quick.request("GET", "/quick", &[], "");
    let outcome = reloaded(&server, &text(2));
    assert_eq!(outcome.to_string(), "database.maximum_pool_size: 2, before 1");
    assert_eq!(quick.answer().status, 200, "while the other still waits");
    other.execute("select pg_advisory_unlock(7)", &[]).expect("it is ours");
    assert_eq!(waiting.answer().status, 200);
    drop((waiting, quick));
    assert_nothing_is_left(server);
}

#[test]
fn changes_that_need_a_restart_are_named_each_time_and_not_applied() {
    let (server, _) = serve(config_of("server.selectors = 1"));
    let address = server.address();
    let mut new = config_of("server.selectors = 2\nserver.reuse_port = true\nserver.deadline = '3s'");
    new.server.listen = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    new.database.url = Some("sqlite:other.db".to_owned());
    let restart = [
        "server.listen: 127.0.0.1:1, before 127.0.0.1:0; this needs a restart, and the old value applies until then",
        "server.reuse_port: true, before false; this needs a restart, and the old value applies until then",
        "server.selectors: 2, before 1; this needs a restart, and the old value applies until then",
        "database.url; this needs a restart, and the old value applies until then",
    ];
    let first = server.reload(new.clone()).unwrap_or_else(|error| panic!("{error}")).to_string();
    assert_eq!(
        first.lines().collect::<Vec<_>>(),
        [&["server.deadline: 3s, before 10s"], &restart[..]].concat()
    );
    let again = server.reload(new.clone()).unwrap_or_else(|error| panic!("{error}")).to_string();
    assert_eq!(again.lines().collect::<Vec<_>>(), [&["nothing has changed"], &restart[..]].concat());
    assert_eq!(get(&mut Client::connect(address), "/rust").0, 200);
    // An endpoint that needs the new database cannot be served before the restart.
    let mut sql = config_of(format!(
        "database.url = 'sqlite:other.db'\n[endpoint.a]\nroute = 'GET /a'\nsql = 'select 1'\n{}",
        fixed("b", "b")
    ));
    sql.server.listen.clone_from(&new.server.listen);
    let refused = server.reload(sql).expect_err("there is no database").to_string();
    assert!(refused.starts_with("endpoint.a runs SQL, and the server was started without"), "{refused}");
    assert_eq!(get(&mut Client::connect(address), "/b").0, 404);
}

#[test]
fn a_poller_that_is_held_up_goes_on_with_the_new_configuration_later() {
    let (handler, keeper) = gate();
    let server = Server::new(config_of("server.selectors = 1")).expect("no database to open");
    let server = server.get_immediate("/block", move |_| handler.pass().expect("the test lets it through"));
    let server = server.start().expect("a free port");
    let mut client = Client::connect(server.address());
    client.request("GET", "/block", &[], "");
    keeper.wait_for_one();
    let began = Instant::now();
    reloaded(&server, &format!("server.selectors = 1\n{}", fixed("a", "new")));
    assert!(began.elapsed() < SOON);
    keeper.let_through(1);
    assert_eq!(client.answer().text(), "through");
    wait_until("the poller hears of the reload", || {
        get(&mut Client::connect(server.address()), "/a").0 == 200
    });
}

#[test]
fn a_raised_max_concurrency_wakes_the_requests_that_wait_for_it() {
    let database = Postgres::database();
    let with = |max: usize| {
        format!(
            "[server]\nworkers = 2\n[queue]\nmax_wait = '30s'\ntarget = '30s'\ninterval = '30s'\n[database]\nurl = '{}'\n\
             [endpoint.slow]\nroute = 'GET /slow'\nsql = 'select pg_sleep(60)'\ndeadline = '70s'\nmax_concurrency = {max}\n",
            database.url()
        )
    };
    let (server, _) = serve(config_of(with(1)));
    let count = || {
        database.psql(
            "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(60)%'",
        )
    };
    // This statement itself is one more.
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let mut client = Client::connect(server.address());
            client.request("GET", "/slow", &[], "");
            client
        })
        .collect();
    wait_until("one runs and the other waits", || {
        count().trim() == "2" && server.observer().gauges().queue.length == 1
    });
    reloaded(&server, &with(2));
    wait_until("both run", || count().trim() == "3");
    drop(clients);
    assert_nothing_is_left(server);
}
