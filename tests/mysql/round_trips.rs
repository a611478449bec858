//! The round trips of requests, counted by a proxy between wharf and MariaDB.

use std::fmt::Write as _;

use crate::support::{Counting, Mariadb, assert_nothing_is_left};
use crate::{ask, serve_with, value, write};

/// The requests, and the round trips that each takes. An insert that returns rows commits when its rows are known to be acceptable.
const TABLE: [(&str, &str, usize); 8] = [
    ("GET", "/read", 1),
    ("POST", "/write", 1),
    ("POST", "/returning", 2),
    ("POST", "/mixed", 2),
    ("POST", "/steps1", 2),
    ("POST", "/steps3", 2),
    ("POST", "/steps5", 2),
    ("POST", "/refused3", 2),
];

/// An endpoint of `count` steps, the last of which must change `expected` rows.
fn steps(name: &str, count: usize, expected: usize) -> String {
    let mut text = format!("[endpoint.{name}{count}]\nroute = 'POST /{name}{count}'\n");
    for step in 1..=count {
        let rows = if step == count { expected } else { 1 };
        write!(
            text,
            "[[endpoint.{name}{count}.step]]\nsql = 'update account set balance = balance + 1 where id = {step}'\n\
             expect_rows = {rows}\notherwise = {{ status = 409, detail = 'step {step}' }}\n"
        )
        .expect("a String takes all");
    }
    text
}

#[test]
fn every_kind_of_request_takes_the_round_trips_of_the_table() {
    let database = Mariadb::database();
    database.sql(
        "create table account (id int primary key, balance int not null); insert into account select seq, 0 from seq_1_to_9;
         create table note (id int auto_increment primary key, label varchar(40))",
    );
    let endpoints = value("read", "select balance from account where id = 1")
        + &write("write", "insert into note (label) values ('a')")
        + "[endpoint.returning]\nroute = 'POST /returning'\nreturns = 'one'\n\
           sql = \"insert into note (label) values ('a') returning id, label\"\n\
           [endpoint.mixed]\nroute = 'POST /mixed'\nreturns = 'value'\n\
           step = [{ sql = \"insert into note (label) values ('a')\" }, { sql = 'select last_insert_id()' }]\n"
        + &steps("steps", 1, 1)
        + &steps("steps", 3, 1)
        + &steps("steps", 5, 1)
        + &steps("refused", 3, 2);
    for more in ["", "connection_init_sql = \"set @tenant = 'seven'\""] {
        let proxy = Counting::to(Mariadb::shared().port());
        let server = serve_with(&database.url_at(proxy.port()), 1, more, &endpoints);
        let mut failures = Vec::new();
        for (method, path, expected) in TABLE {
            let good = |status: u16| if path.starts_with("/refused") { status == 409 } else { status < 300 };
            // From then on the statements are known.
            for _ in 0..3 {
                let answer = ask(&server, method, path);
                assert!(good(answer.status), "{path}: {}", answer.text());
            }
            let mut counts = Vec::new();
            for _ in 0..10 {
                proxy.begin();
                assert!(good(ask(&server, method, path).status), "{path}");
                counts.push(proxy.count());
            }
            counts.sort_unstable();
            if counts[counts.len() / 2] != expected || counts[counts.len() - 1] > expected + 1 {
                failures.push(format!("{path}: {counts:?}, expected {expected}"));
            }
        }
        assert!(failures.is_empty(), "{more}\n{}", failures.join("\n"));
        assert_nothing_is_left(server);
    }
}
