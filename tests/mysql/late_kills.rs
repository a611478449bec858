//! A kill that comes late hits no other request, however often requests are cancelled at any moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, Mariadb, PATIENCE, assert_nothing_is_left, wait_until};
use crate::{serve_with, value};

const CLIENTS: u64 = 8;

/// Requests that each get an answer of their own, while others are cancelled.
const REQUESTS: u64 = 10_000;

/// Half of the clients ask for their own number, and must have it each time. The others' statements are cancelled a moment before, at
/// or after their end: by a deadline that is about as long as the statement, or by leaving.
#[test]
fn each_answer_is_its_own_while_others_are_cancelled_at_any_moment() {
    let database = Mariadb::database();
    let endpoints = "[endpoint.own]\nroute = 'GET /own/{n}'\nparams.n = 'int'\nreturns = 'value'\nsql = 'select :n'\n\
         [endpoint.slow]\nroute = 'GET /slow/{n}'\nparams = { n = 'int', s = 'float' }\nreturns = 'one'\ndeadline = '25ms'\n\
         sql = 'select :n as n, sleep(:s) as slept'\n\
         [endpoint.add]\nroute = 'POST /add/{n}'\nparams = { n = 'int', s = 'float' }\ndeadline = '25ms'\n\
         step = [{ sql = 'insert into t values (:n)' }, { sql = 'do sleep(:s)' }]\n"
        .to_owned()
        + &value("count", "select count(*) from t");
    database.sql("create table t (n bigint primary key)");
    let server = serve_with(&database.url(), 4, "", &endpoints);
    let (asked, cancelled, added) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let until = Instant::now() + PATIENCE;
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, asked, cancelled, added) = (&server, &asked, &cancelled, &added);
            scope.spawn(move || {
                let mut connection = Client::connect(server.address());
                loop {
                    let number = asked.fetch_add(1, Ordering::Relaxed);
                    if number >= REQUESTS || Instant::now() > until {
                        return;
                    }
                    if client % 2 == 0 || number % 8 != 0 {
                        connection.request("GET", &format!("/own/{number}"), &[], "");
                        let answer = connection.answer();
                        assert_eq!(
                            (answer.status, answer.text()),
                            (200, &*number.to_string()),
                            "{}",
                            answer.text()
                        );
                        continue;
                    }
                    // Around the deadline of 25 ms.
                    let seconds = f64::from(u32::try_from(15 + number % 16).expect("it is small")) / 1000.0;
                    let (method, path) = match number % 3 {
                        0 => ("POST", format!("/add/{number}?s={seconds}")),
                        _ => ("GET", format!("/slow/{number}?s={seconds}")),
                    };
                    let mut other = Client::connect(server.address());
                    other.request(method, &path, &[], "");
                    if number % 5 == 0 {
                        let since = Instant::now();
                        wait_until("time passes", || {
                            since.elapsed() > Duration::from_millis(12 + number % 8)
                        });
                        continue;
                    }
                    let answer = other.answer();
                    match answer.status {
                        200 => assert_eq!(answer.json()["n"], number, "{}", answer.text()),
                        204 => _ = added.fetch_add(1, Ordering::Relaxed),
                        // The commit was on its way when the deadline passed.
                        500 => assert_eq!(answer.json()["type"], "urn:wharf:problem:outcome-unknown"),
                        504 => _ = cancelled.fetch_add(1, Ordering::Relaxed),
                        503 => {}
                        _ => panic!("{path}: {} {}", answer.status, answer.text()),
                    }
                }
            });
        }
    });
    let cancelled = cancelled.into_inner();
    eprintln!(
        "{cancelled} cancelled, {} added, {} statements",
        added.load(Ordering::Relaxed),
        server.metrics().cancelled_statements()
    );
    assert!(cancelled > 20, "{cancelled}: hardly any statement was cancelled");
    wait_until("a statement stays", || database.sessions("command <> 'Sleep'") == 0);
    let kept: u64 = database.sql("select count(*) from t").parse().expect("a count");
    assert!(kept >= added.into_inner(), "a good answer is in the table");
    assert_nothing_is_left(server);
}
