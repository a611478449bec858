//! Errors of MariaDB, provoked for real, and the statuses that they become.

use std::time::Instant;

use crate::support::{Mariadb, assert_nothing_is_left, assert_problem, wait_until};
use crate::{ask, get, serve, serve_with, value, write};

const SCHEMA: &str = "
    create table parent (id int primary key);
    create table t (id int primary key, small tinyint, name varchar(3), needed int not null, checked int check (checked > 0),
        day date, mood enum('sad', 'glad'), parent int, unsigned_number int unsigned, constraint family foreign key (parent)
        references parent (id), unique key of_name (name));
    insert into parent values (1), (2);
    insert into t (id, needed, parent) values (1, 1, 1);
    create view positive as select id, needed, small from t where needed > 0 with check option;
    create procedure refuse(text varchar(100)) signal sqlstate '45000' set message_text = text;
    create table refusing (number int);
    create trigger refusing before insert on refusing for each row
        signal sqlstate '45000' set mysql_errno = new.number, message_text = 'mine'";

#[test]
fn each_error_has_its_status() {
    let database = Mariadb::database();
    database.sql(SCHEMA);
    let cases = [
        // MariaDB's number, the statement, the status, a part of the detail.
        (1062, "insert into t (id, needed) values (1, 1)", 409, ""),
        (1062, "insert into t (id, needed, name) values (7, 1, 'a'), (8, 1, 'a')", 409, "of_name"),
        (1451, "delete from parent where id = 1", 409, "family"),
        (1452, "insert into t (id, needed, parent) values (2, 1, 9)", 409, "family"),
        (1048, "insert into t (id, needed) values (2, null)", 400, ""),
        (1364, "insert into t (id) values (2)", 400, ""),
        (1406, "insert into t (id, needed, name) values (2, 1, 'long')", 400, ""),
        (1264, "insert into t (id, needed, small) values (2, 1, 300)", 400, ""),
        (1264, "insert into t (id, needed, unsigned_number) values (2, 1, -1)", 400, ""),
        (1366, "insert into t (id, needed) values (2, 'x')", 400, ""),
        (1292, "insert into t (id, needed, day) values (2, 1, 'someday')", 400, ""),
        (1265, "insert into t (id, needed, mood) values (2, 1, 'odd')", 400, ""),
        (1690, "insert into t (id, needed) select 2, 9223372036854775807 + 1", 400, ""),
        (1365, "insert into t (id, needed) values (2, 1 / 0)", 400, ""),
        (1369, "insert into positive (id, needed) values (2, -1)", 400, ""),
        (4025, "insert into t (id, needed, checked) values (2, 1, 0)", 400, ""),
        (1644, "call refuse('out of stock')", 400, "out of stock"),
        (1213, "insert into refusing values (1213)", 503, ""),
        (1205, "insert into refusing values (1205)", 503, ""),
        (1041, "insert into refusing values (1041)", 503, ""),
        (1021, "insert into refusing values (1021)", 503, ""),
        (1114, "insert into refusing values (1114)", 503, ""),
        (1317, "insert into refusing values (1317)", 504, ""),
        (1242, "insert into t (id, needed) values (2, (select id from parent))", 500, ""),
    ];
    let endpoints: String =
        cases.iter().enumerate().map(|(at, (_, sql, ..))| write(&format!("e{at}"), sql)).collect();
    let server = serve(&database.url(), &(endpoints + &value("count", "select count(*) from t")));
    let mut failures = Vec::new();
    for round in 0..2 {
        for (at, (number, sql, status, detail)) in cases.iter().enumerate() {
            let answer = ask(&server, "POST", &format!("/e{at}"));
            let seen = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
            if answer.status != *status || !seen.contains(detail) {
                failures.push(format!(
                    "{round} {number} {sql}: {} {}, expected {status} {detail}",
                    answer.status,
                    answer.text()
                ));
            }
            assert_eq!(answer.header("Retry-After").is_some(), answer.status == 503, "{sql}");
        }
        assert_eq!(get(&server, "/count"), "1");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_nothing_is_left(server);
}

#[test]
fn a_missing_privilege_is_403() {
    let own = Mariadb::start();
    own.sql(
        "main",
        "create table t (x int, y int); create table u (x int); insert into t values (1, 2); create procedure p() select 1;
         create user few@'%' identified by 'few'; grant select on main.t to few@'%'; grant select on main.u to few@'%'",
    );
    let url = format!("mysql://few:few@127.0.0.1:{}/main", own.port());
    let server = serve(&url, &(value("t", "select x from t") + &value("y", "select y from t")));
    assert_eq!(get(&server, "/t"), "1");
    // The privilege goes while the server runs. 1142 is about a table, 1143 about a column.
    own.sql("main", "revoke select on main.t from few@'%'; grant select (x) on main.t to few@'%'");
    assert_eq!(get(&server, "/t"), "1");
    assert_problem(&ask(&server, "GET", "/y"), 403, "not permitted");
    own.sql("main", "revoke select (x) on main.t from few@'%'");
    assert_problem(&ask(&server, "GET", "/t"), 403, "not permitted");
    assert_nothing_is_left(server);
}

/// A lock that does not come free in time. MariaDB rolls back only the statement, so the server must roll back the rest.
#[test]
fn a_lock_that_is_held_is_503_and_nothing_of_the_transaction_stays() {
    let database = Mariadb::database();
    database.sql("create table t (x int primary key, n int); insert into t values (1, 0), (2, 0)");
    let endpoints = "[endpoint.steps]\nroute = 'POST /steps'\n\
         step = [{ sql = 'update t set n = n + 1 where x = 2' }, { sql = 'update t set n = n + 1 where x = 1' }]\n\
         [endpoint.nowait]\nroute = 'POST /nowait'\nreturns = 'value'\nstatus = 200\nsql = 'select n from t where x = 1 for update nowait'\n"
        .to_owned()
        + &value("n", "select sum(n) from t")
        + &write("one", "update t set n = n + 1 where x = 1")
        + &holder();
    let server = serve_with(
        &database.url(),
        2,
        "connection_init_sql = 'set innodb_lock_wait_timeout = 1'",
        &endpoints,
    );
    let holder = hold(&server, &database);
    for path in ["/steps", "/one", "/nowait"] {
        let asked = Instant::now();
        let answer = ask(&server, "POST", path);
        assert_eq!(answer.status, 503, "{path} after {:?}: {}", asked.elapsed(), answer.text());
    }
    drop(holder);
    wait_until("the lock stays", || ask(&server, "POST", "/one").status == 204);
    assert_eq!(get(&server, "/n"), "1", "nothing of the transaction that failed");
    assert_nothing_is_left(server);
}

/// An endpoint that holds the lock of row 1.
fn holder() -> String {
    "[endpoint.hold]\nroute = 'POST /hold'\ndeadline = '60s'\n\
     step = [{ sql = 'update t set n = n where x = 1' }, { sql = 'do sleep(50)' }]\n"
        .to_owned()
}

fn hold(server: &wharf::server::Running, database: &crate::support::MariaDatabase) -> crate::support::Client {
    let mut client = crate::support::Client::connect(server.address());
    client.request("POST", "/hold", &[], "");
    wait_until("nobody holds the lock", || database.sessions("info like 'do sleep%'") == 1);
    client
}

/// Two transactions that take two locks in turn: one of them is rolled back by the database, and runs again.
#[test]
fn a_deadlock_is_run_again() {
    const EACH: usize = 60;
    let database = Mariadb::database();
    database.sql("create table t (x int primary key, n int); insert into t values (1, 0), (2, 0)");
    let steps = |name: &str, first, second| {
        format!(
            "[endpoint.{name}]\nroute = 'POST /{name}'\n\
             step = [{{ sql = 'update t set n = n + 1 where x = {first}' }}, {{ sql = 'update t set n = n + 1 where x = {second}' }}]\n"
        )
    };
    let endpoints = steps("up", 1, 2) + &steps("down", 2, 1) + &value("n", "select sum(n) from t");
    let server = serve_with(&database.url(), 4, "", &endpoints);
    let good = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (server, good) = (&server, &good);
            scope.spawn(move || {
                for _ in 0..EACH {
                    let answer = ask(server, "POST", if client % 2 == 0 { "/up" } else { "/down" });
                    match answer.status {
                        204 => _ = good.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
                        503 => assert!(answer.text().contains("collided"), "{}", answer.text()),
                        _ => panic!("{}: {}", answer.status, answer.text()),
                    }
                }
            });
        }
    });
    let good = good.into_inner();
    assert!(good > 4 * EACH * 9 / 10, "{good}: nearly all are through with another attempt");
    assert_eq!(get(&server, "/n"), (2 * good).to_string());
    assert_nothing_is_left(server);
}
