//! Transactions whose steps are sent together, at a deadline, a departure and a lost connection.

use super::departure::let_the_half_close_pass;
use super::{
    ask, assert_recovers, assert_settled, assert_unknown, forwarded, rows, server, start, with_table,
};
use crate::support::{Client, Database, Forwarder, Postgres, Then, assert_problem, wait_until};

/// The middle step sleeps for `seconds`. A server has to know `GET /read` for [`assert_recovers`].
const STEPS: &str = "
[endpoint.slow]
route   = 'POST /slow/{label}'
params  = { label = 'text', seconds = 'float' }
step    = [
    { sql = 'insert into t values (:label)' },
    { sql = 'select pg_sleep(:seconds)' },
    { sql = 'insert into t values (:label)' },
]

[endpoint.read]
route   = 'GET /read/{label}'
params  = { label = 'text' }
sql     = 'select :label::text as label'
";

fn wait_for_sleep(database: &Database) {
    let sleeping =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
    wait_until("the second step does not run", || database.psql(sleeping) == "1");
}

fn wait_for_no_sleep(database: &Database) {
    let sleeping =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";
    wait_until("the second step runs on", || database.psql(sleeping) == "0");
}

#[test]
fn the_deadline_passes_in_the_middle() {
    let database = with_table();
    let server = start(server(&database.url(), "", STEPS));
    for _ in 0..3 {
        assert_eq!(ask(&server, "POST", "/slow/good?seconds=0").status, 204);
    }
    assert_problem(&ask(&server, "POST", "/slow/late?seconds=15"), 504, "");
    wait_for_no_sleep(&database);
    assert_eq!(rows(&database, "late"), "0");
    assert_recovers(&server);
    server.drain();
}

#[test]
fn the_time_of_a_statement_is_each_steps_own() {
    let database = with_table();
    let steps = STEPS.replace("step    =", "deadline = '100s'\nstep =").replace(
        "    { sql = 'select pg_sleep(:seconds)' },\n",
        "    { sql = 'select pg_sleep(:seconds)' },\n    { sql = 'select pg_sleep(:seconds) as again' },\n",
    );
    let server = start(server(&database.url(), "statement_timeout = '3s'", &steps));
    for _ in 0..3 {
        assert_eq!(ask(&server, "POST", "/slow/good?seconds=0").status, 204);
    }
    assert_eq!(
        ask(&server, "POST", "/slow/good?seconds=1.7").status,
        204,
        "the two sleeps are longer together"
    );
    assert_problem(&ask(&server, "POST", "/slow/late?seconds=15"), 504, "statement_timeout");
    wait_for_no_sleep(&database);
    assert_eq!(rows(&database, "late"), "0");
    assert_recovers(&server);
    server.drain();
}

#[test]
fn the_client_leaves_in_the_middle() {
    let database = with_table();
    let server = start(server(&database.url(), "", &STEPS.replace("step    =", "deadline = '100s'\nstep =")));
    for _ in 0..3 {
        assert_eq!(ask(&server, "POST", "/slow/good?seconds=0").status, 204);
    }
    let mut client = Client::connect(server.address());
    client.request("POST", "/slow/left?seconds=15", &[], "");
    wait_for_sleep(&database);
    let_the_half_close_pass();
    drop(client);
    wait_for_no_sleep(&database);
    assert_recovers(&server);
    assert_eq!(rows(&database, "left"), "0");
    server.drain();
}

#[test]
fn a_connection_that_is_lost_under_the_steps_leaves_nothing() {
    let database = with_table();
    for (then, label) in [(Then::CutAnswer, "unheard"), (Then::CutBefore, "unsent")] {
        let forwarder = Forwarder::to(Postgres::shared().port());
        let server = start(server(&forwarded(&database, &forwarder), "", STEPS));
        for _ in 0..3 {
            assert_eq!(ask(&server, "POST", "/slow/good?seconds=0").status, 204);
        }
        forwarder.once(label, then);
        assert_problem(&ask(&server, "POST", &format!("/slow/{label}?seconds=0")), 503, "");
        assert_recovers(&server);
        assert_settled(&database, label, "0");
        server.drain();
    }
}

#[test]
fn a_connection_that_is_lost_during_the_commit_of_steps_leaves_the_outcome_open() {
    let database = with_table();
    for (then, label, count) in [(Then::CutAnswer, "done", "2"), (Then::CutBefore, "undone", "0")] {
        let forwarder = Forwarder::to(Postgres::shared().port());
        let server = start(server(&forwarded(&database, &forwarder), "", STEPS));
        for _ in 0..3 {
            assert_eq!(ask(&server, "POST", "/slow/good?seconds=0").status, 204);
        }
        forwarder.once("COMMIT", then);
        assert_unknown(&ask(&server, "POST", &format!("/slow/{label}?seconds=0")));
        assert_recovers(&server);
        assert_settled(&database, label, count);
        server.drain();
    }
}
