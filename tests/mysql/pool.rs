//! The pool on MariaDB: sessions end and come back with the server, a full server is lived with, drain and reload.

use std::time::{Duration, Instant};

use wharf::server::Drained;

use crate::support::{Mariadb, Wharf, assert_nothing_is_left, wait_until};
use crate::{ask, configuration, get, serve, serve_with, value, write};

#[test]
fn sessions_open_and_close_with_the_server() {
    let database = Mariadb::database();
    let server = serve_with(&database.url(), 5, "", &value("one", "select 1"));
    wait_until("the pool does not fill", || database.sessions("true") == 5);
    assert_eq!(database.sessions("command <> 'Sleep'"), 0);
    assert_eq!(get(&server, "/one"), "1");
    assert_eq!(server.drain(), Drained::Complete);
    wait_until("sessions stay", || database.sessions("true") == 0);
}

#[test]
fn a_restart_of_the_server_costs_what_ran_and_no_more() {
    let own = Mariadb::start();
    let url = own.url();
    let server = serve_with(&url, 3, "connection_timeout = '500ms'", &value("one", "select 1"));
    assert_eq!(get(&server, "/one"), "1");
    for stop in [Mariadb::stop, Mariadb::kill] {
        stop(&own);
        wait_until("the end is not noticed", || ask(&server, "GET", "/one").status == 503);
        let answer = ask(&server, "GET", "/one");
        assert!(answer.header("Retry-After").is_some(), "{}", answer.text());
        own.start_again();
        let back = Instant::now();
        wait_until("it does not come back", || ask(&server, "GET", "/one").status == 200);
        assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
        for _ in 0..20 {
            assert_eq!(get(&server, "/one"), "1");
        }
    }
    assert_nothing_is_left(server);
}

/// 1040: a server that has no room for another session.
#[test]
fn a_full_server_is_lived_with() {
    /// The least that MariaDB takes.
    const ROOM: usize = 10;
    let own = Mariadb::start_with("true", &format!("--max-connections={ROOM}"));
    let server =
        serve_with(&own.url(), ROOM + 4, "connection_timeout = '1s'", &(value("nap", "select sleep(0.01)")));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..ROOM + 4 {
            scope.spawn(|| {
                while start.elapsed() < Duration::from_secs(2) {
                    let answer = ask(&server, "GET", "/nap");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
        }
    });
    // And without any room: 503, and service again as soon as there is some.
    assert_eq!(server.drain(), Drained::Complete);
    wait_until("sessions stay", || own.sessions("true") == 0);
    let others: Vec<_> = (0..ROOM).map(|_| serve(&own.url(), &value("one", "select 1"))).collect();
    let config = format!(
        "[database]\nurl = '{}'\nmaximum_pool_size = 1\ninitialization_fail_timeout = '200ms'\nconnection_timeout = '300ms'\n{}",
        own.url(),
        value("one", "select 1")
    );
    let exit = Wharf::run(&config, &["serve", "--config", "wharf.toml", "--listen", "127.0.0.1:0"], &[]);
    assert!(exit.stderr.contains("Too many connections"), "{}", exit.stderr);
    drop(others);
}

#[test]
fn a_reload_brings_other_endpoints_and_the_same_sessions() {
    let database = Mariadb::database();
    database.sql("create table t (x int)");
    let server = serve(&database.url(), &value("id", "select connection_id()"));
    let session = get(&server, "/id");
    let more = value("id", "select connection_id()") + &write("add", "insert into t values (1)");
    server.reload(configuration(&database.url(), 1, "", &more)).expect("a good configuration");
    assert_eq!(ask(&server, "POST", "/add").status, 204);
    assert_eq!(get(&server, "/id"), session);
    let wrong = configuration(&database.url(), 1, "", &value("wrong", "select x from nowhere"));
    let error = server.reload(wrong).expect_err("there is no such table").to_string();
    assert!(error.contains("nowhere"), "{error}");
    assert_eq!(get(&server, "/id"), session, "the old configuration stays");
    assert_nothing_is_left(server);
}

/// A table that is changed while the server runs: statements are prepared again.
#[test]
fn a_changed_table_is_noticed() {
    let database = Mariadb::database();
    database.sql("create table t (x int, y int); insert into t values (1, 2)");
    let endpoints = "[endpoint.all]\nroute = 'GET /all'\nreturns = 'one'\nsql = 'select * from t'\n"
        .to_owned()
        + &write("add", "insert into t (x) values (5)");
    let server = serve(&database.url(), &endpoints);
    assert_eq!(get(&server, "/all"), r#"{"x":1,"y":2}"#);
    database.sql("alter table t add z varchar(10) default 'new'");
    assert_eq!(get(&server, "/all"), r#"{"x":1,"y":2,"z":"new"}"#);
    database.sql("alter table t modify y varchar(10)");
    assert_eq!(get(&server, "/all"), r#"{"x":1,"y":"2","z":"new"}"#);
    database.sql("alter table t drop z, drop y");
    assert_eq!(get(&server, "/all"), r#"{"x":1}"#);
    database
        .sql("drop table t; create table t (x bigint unsigned); insert into t values (18446744073709551615)");
    assert_eq!(get(&server, "/all"), r#"{"x":18446744073709551615}"#);
    assert_eq!(ask(&server, "POST", "/add").status, 204);
    database.sql("drop table t");
    assert_eq!(ask(&server, "GET", "/all").status, 500);
    database.sql("create table t (x int); insert into t values (3)");
    assert_eq!(get(&server, "/all"), r#"{"x":3}"#);
    assert_nothing_is_left(server);
}

/// Sessions keep no more statements than they may, and a server that has no room for another is lived with.
#[test]
fn prepared_statements_are_bounded() {
    let own = Mariadb::start_with("true", "--max-prepared-stmt-count=20");
    let many: String =
        (0..30).map(|number| value(&format!("n{number}"), &format!("select {number}"))).collect();
    let count = || -> usize {
        let said = own.sql("mysql", "show global status like 'Prepared_stmt_count'");
        said.split('\t').next_back().and_then(|count| count.parse().ok()).expect("a count")
    };
    let server = serve_with(&own.url(), 1, "max_prepared_statements = 4", &many);
    for _ in 0..3 {
        for number in 0..30 {
            assert_eq!(get(&server, &format!("/n{number}")), number.to_string());
        }
    }
    assert!(count() <= 5, "{} are prepared", count());
    assert_nothing_is_left(server);
    wait_until("statements stay", || count() == 0);
    // 1461: two sessions that would keep more than the server has room for.
    let server = serve_with(&own.url(), 2, "", &many);
    for _ in 0..3 {
        for number in 0..30 {
            assert_eq!(get(&server, &format!("/n{number}")), number.to_string());
        }
    }
    assert_nothing_is_left(server);
}

/// The server ends sessions that are idle for a second; each is replaced before a request meets it, or with the request.
#[test]
fn sessions_that_the_server_ends_are_replaced() {
    let own = Mariadb::start_with("true", "--wait-timeout=1");
    let server = serve_with(&own.url(), 1, "", &value("id", "select connection_id()"));
    let first = get(&server, "/id");
    wait_until("the server ends no session", || own.sessions(&format!("id = {first}")) == 0);
    for _ in 0..5 {
        assert_ne!(get(&server, "/id"), first);
    }
    assert_nothing_is_left(server);
}
