//! A session stays due for its cleaning until the cleaning is sent, and a transaction is one on a session that had to be wiped.

use wharf::server::Running;

use super::served::{endpoint, looking, run_command, running, server, steps};
use crate::support::{Answer, Client, Keeper, Postgres, ask, gate};

const LEAVE: &str = "create function leave() returns int language plpgsql as
    $$ begin perform set_config('app.user', 'ann', false); return 1; end $$";

/// Sends requests while a gate holds the one worker, so that the worker has no time between them.
fn in_a_row(server: &Running, keeper: &Keeper, requests: &[(&str, &str)]) -> Vec<Answer> {
    let mut first = ask(server, "/gate");
    keeper.wait_for_one();
    // The requests of one connection keep their order.
    let mut client = Client::connect(server.address());
    for (method, path) in requests {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
    }
    keeper.let_through(1);
    assert_eq!(first.answer().status, 200);
    requests.iter().map(|_| client.answer()).collect()
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

/// The value does not fit its column, which is found before anything is sent.
#[test]
fn a_statement_that_is_not_sent_does_not_cancel_the_cleaning_before_it() {
    let database = Postgres::database();
    database.psql(&format!("create table t (n int); {LEAVE}"));
    let endpoints = endpoint("POST", "leave", "select leave()")
        + &endpoint("POST", "write", "insert into t values (:n)")
        + "params = { n = 'int' }\n"
        + &looking("current_setting('app.user', true)");
    let (gate, keeper) = gate();
    let server = server(&database.url(), "", &endpoints)
        .route(http::Method::GET, "/gate", gate)
        .start()
        .expect("a free port");
    for _ in 0..5 {
        let requests = [("POST", "/leave"), ("POST", "/write?n=5000000000"), ("GET", "/look")];
        let answers = in_a_row(&server, &keeper, &requests);
        assert_eq!(statuses(&answers), [204, 400, 200]);
        assert!(!answers[2].text().contains("ann"), "the next request sees {}", answers[2].text());
    }
    server.drain();
}

#[test]
fn the_steps_behind_leftovers_are_one_transaction() {
    let database = Postgres::database();
    database.psql("create table t (n int)");
    let failing =
        steps("POST", "fail", &["insert into t values (1)", "select 1 / (count(*) - count(*)) from t"]);
    let endpoints = failing + &looking("1");
    let (gate, keeper) = gate();
    let server = server(&database.url(), "", &endpoints)
        .post("/run", run_command)
        .route(http::Method::GET, "/gate", gate)
        .start()
        .expect("a free port");
    for round in 0..3 {
        // The command prepares a statement in a function's place, which the cleaning finds.
        let prepare = running("do $$ begin execute 'prepare left_over as select 1'; end $$");
        let answers = in_a_row(&server, &keeper, &[("POST", &prepare), ("POST", "/fail"), ("GET", "/look")]);
        assert_eq!(statuses(&answers), [200, 400, 200], "round {round}");
        assert_eq!(database.psql("select count(*) from t"), "0", "round {round}");
    }
    server.drain();
}
