//! What SQL endpoints do with transactions, rows, limits and a database that says no.

mod support;

use std::time::{Duration, Instant};

use support::{Answer, PATIENCE, Postgres, Wharf};

const SCHEMA: &str = "
    create table account (id integer primary key, owner text not null unique, balance integer not null check (balance >= 0));
    create table entry (id integer primary key, account integer not null references account, label text not null);
    insert into account values (1, 'Ada', 100), (2, 'Grace', 100)";

const ENDPOINTS: &str = "
[endpoint.accounts]
route   = 'GET /accounts'
sql     = 'select id, balance from account order by id'

[endpoint.account]
route   = 'GET /accounts/{id}'
params  = { id = 'int' }
sql     = 'select id, owner, balance from account where id = :id'
returns = 'one'

[endpoint.balance]
route   = 'GET /accounts/{id}/balance'
params  = { id = 'int' }
sql     = 'select balance from account where id = :id'
returns = 'value'

[endpoint.several]
route   = 'GET /several'
sql     = 'select id from account'
returns = 'one'

[endpoint.add]
route   = 'POST /accounts'
params  = { id = { in = 'body', type = 'int' }, owner = { in = 'body', type = 'text', optional = true }, balance = { in = 'body', type = 'int' } }
sql     = 'insert into account (id, owner, balance) values (:id, :owner, :balance) returning id, owner'
returns = 'one'
status  = 201

[endpoint.empty_all]
route       = 'POST /empty'
sql         = 'update account set balance = 0'
expect_rows = 1
otherwise   = { status = 412, detail = 'one account, please' }

[endpoint.remove]
route   = 'DELETE /accounts/{id}'
params  = { id = 'int' }
sql     = 'delete from account where id = :id'

[endpoint.label]
route   = 'PUT /accounts/{id}/label'
params  = { id = 'int', label = { in = 'body', type = 'text' } }
sql     = 'insert into entry (id, account, label) values (1, :id, :label)'

[endpoint.transfer]
route   = 'POST /transfers'
params  = { src = { in = 'body', type = 'int' }, dst = { in = 'body', type = 'int' }, amount = { in = 'body', type = 'int', min = 1 } }
returns = 'many'
[[endpoint.transfer.step]]
sql = 'update account set balance = balance - :amount where id = :src and balance >= :amount'
expect_rows = 1
otherwise = { status = 409, detail = 'insufficient funds' }
[[endpoint.transfer.step]]
sql = 'update account set balance = balance + :amount where id = :dst'
expect_rows = 1
otherwise = { status = 404, detail = 'no such account' }
[[endpoint.transfer.step]]
sql = 'select id, balance from account order by id'
";

/// A server on each database, with the tables.
fn on_both(endpoints: &str, test: impl Fn(&Wharf)) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("test.db");
    let file = rusqlite::Connection::open(&path).expect("SQLite opens");
    file.execute_batch(SCHEMA).expect("the tables are made");
    test(&Wharf::start(&format!("[database]\nurl = 'sqlite:{}'\n{endpoints}", path.display())));
    let database = Postgres::database();
    database.psql(SCHEMA);
    test(&Wharf::start(&format!("[database]\nurl = '{}'\n{endpoints}", database.url())));
    let open = database.psql(
        "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in%'",
    );
    assert_eq!(open, "0", "no transaction is left open");
}

fn assert_problem(answer: &Answer, status: u16, detail: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let said = answer.json()["detail"].as_str().expect("a problem has a detail").to_owned();
    assert!(said.contains(detail), "{said:?} does not say {detail:?}");
}

#[test]
fn a_transaction_that_fails_at_any_step_leaves_nothing() {
    on_both(ENDPOINTS, |wharf| {
        let before = r#"[{"id":1,"balance":100},{"id":2,"balance":100}]"#;
        let transfer = |src, dst, amount| {
            wharf.json("POST", "/transfers", &format!(r#"{{"src":{src},"dst":{dst},"amount":{amount}}}"#))
        };
        assert_problem(&transfer(1, 2, 101), 409, "insufficient funds");
        assert_problem(&transfer(1, 9, 50), 404, "no such account");
        assert_eq!(wharf.get("/accounts").text(), before, "the first step was undone");
        // The balance that the second step makes is more than the column holds.
        assert_eq!(transfer(2, 1, 100).text(), r#"[{"id":1,"balance":200},{"id":2,"balance":0}]"#);
        assert_eq!(transfer(1, 2, 100).text(), before);
    });
}

#[test]
fn an_unexpected_number_of_rows_undoes_a_single_statement() {
    on_both(ENDPOINTS, |wharf| {
        assert_problem(&wharf.request("POST", "/empty", &[], ""), 412, "one account, please");
        assert_eq!(wharf.get("/accounts").text(), r#"[{"id":1,"balance":100},{"id":2,"balance":100}]"#);
    });
}

#[test]
fn rows_become_what_returns_says() {
    on_both(ENDPOINTS, |wharf| {
        assert_eq!(wharf.get("/accounts/1").text(), r#"{"id":1,"owner":"Ada","balance":100}"#);
        assert_eq!(wharf.get("/accounts/1/balance").text(), "100");
        for path in ["/accounts/9", "/accounts/9/balance"] {
            assert_problem(&wharf.get(path), 404, "no such row");
        }
        assert_problem(&wharf.get("/several"), 500, "more than one row");
        let deleted = wharf.request("DELETE", "/accounts/2", &[], "");
        assert_eq!((deleted.status, deleted.text(), deleted.header("Content-Length")), (204, "", None));
        assert_eq!(wharf.get("/accounts").text(), r#"[{"id":1,"balance":100}]"#);
        let head = wharf.request("HEAD", "/accounts/1", &[], "");
        assert_eq!((head.status, head.header("Content-Length")), (200, Some("36")));
    });
}

#[test]
fn violated_constraints_are_answered_by_what_they_are() {
    on_both(ENDPOINTS, |wharf| {
        let add = |body| wharf.json("POST", "/accounts", body);
        assert_eq!(add(r#"{"id":3,"owner":"Edsger","balance":0}"#).status, 201);
        assert_eq!(add(r#"{"id":3,"owner":"Again","balance":0}"#).status, 409, "primary key");
        assert_eq!(add(r#"{"id":4,"owner":"Ada","balance":0}"#).status, 409, "unique");
        assert_eq!(wharf.json("PUT", "/accounts/9/label", r#"{"label":"x"}"#).status, 409, "foreign key");
        let check = add(r#"{"id":4,"owner":"Barbara","balance":-1}"#);
        assert_eq!(check.status, 400, "check: {}", check.text());
        assert!(!check.text().contains("insert into"), "no statement goes out: {}", check.text());
        assert_eq!(add(r#"{"id":4,"balance":0}"#).status, 400, "not null");
        assert_eq!(wharf.get("/accounts").json().as_array().map(Vec::len), Some(3));
    });
}

#[test]
fn a_get_cannot_write_not_even_through_a_function() {
    let database = Postgres::database();
    database.psql("create table t (x int); create function sneak() returns int language sql as 'insert into t values (1) returning x'");
    let config = format!(
        "[database]\nurl = '{}'\n[endpoint.sneak]\nroute = 'GET /sneak'\nsql = 'select sneak() as x'\nreturns = 'value'\n\
         [endpoint.openly]\nroute = 'POST /sneak'\nsql = 'select sneak() as x'\nreturns = 'value'",
        database.url()
    );
    let wharf = Wharf::start(&config);
    assert_eq!(wharf.get("/sneak").status, 500);
    wharf.wait_for_log("read-only transaction");
    assert_eq!(database.psql("select count(*) from t"), "0");
    assert_eq!(wharf.request("POST", "/sneak", &[], "").text(), "1", "POST may");
    assert_eq!(wharf.get("/sneak").status, 500, "and GET still may not");
    assert_eq!(database.psql("select count(*) from t"), "1");
}

#[test]
fn a_statement_over_its_deadline_is_cancelled_and_answered_504() {
    let database = Postgres::database();
    let endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n";
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (url, sql) in [
        (database.url(), "select 1 from pg_sleep(100)"),
        (format!("sqlite:{}", directory.path().join("test.db").display()), endless),
    ] {
        let config = format!(
            "[server]\nworkers = 1\n[database]\nurl = '{url}'\nmaximum_pool_size = 1\n\
             [endpoint.slow]\nroute = 'GET /slow'\nsql = '{sql}'\nreturns = 'value'\ndeadline = '100ms'\n\
             [endpoint.quick]\nroute = 'GET /quick'\nsql = 'select 1 as x'\nreturns = 'value'"
        );
        let wharf = Wharf::start(&config);
        let started = Instant::now();
        assert_eq!(wharf.get("/slow").status, 504);
        assert!(started.elapsed() >= Duration::from_millis(100), "it had its time");
        // The one worker and the one connection are good for the next request.
        assert_eq!(wharf.get("/quick").text(), "1");
        let running = "select count(*) from pg_stat_activity where datname = current_database() and query like '%pg_sleep(100)%' \
                       and state = 'active' and pid <> pg_backend_pid()";
        assert_eq!(database.psql(running), "0", "it does not run on");
    }
}

#[test]
fn a_pool_without_a_free_connection_answers_503_in_time() {
    let database = Postgres::database();
    let config = format!(
        "[server]\nworkers = 2\n[database]\nurl = '{}'\nmaximum_pool_size = 1\nconnection_timeout = '20ms'\n\
         [endpoint.lock]\nroute = 'POST /lock'\nsql = 'select pg_advisory_lock(1) is null as x'\nreturns = 'value'\n\
         [endpoint.quick]\nroute = 'GET /quick'\nsql = 'select 1 as x'\nreturns = 'value'",
        database.url()
    );
    let wharf = Wharf::start(&config);
    // Another session has the lock, so the first request keeps the one connection until it lets go.
    let mut holder =
        postgres::Client::connect(&database.url(), postgres::NoTls).expect("the database answers");
    holder.execute("select pg_advisory_lock(1)", &[]).expect("the lock is free");
    let mut blocked = wharf.connect();
    blocked.request("POST", "/lock", &[], "");
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    let until = Instant::now() + PATIENCE;
    while database.psql(waiting) != "1" {
        assert!(Instant::now() < until, "the request never reached the database");
    }
    let refused = wharf.get("/quick");
    assert_problem(&refused, 503, "no database connection");
    assert_eq!(refused.header("Retry-After"), Some("1"));
    wharf.wait_for_log("active=1");
    holder.execute("select pg_advisory_unlock(1)", &[]).expect("the lock is ours");
    assert_eq!(blocked.answer().status, 200);
    assert_eq!(wharf.get("/quick").text(), "1");
}

#[test]
fn an_answer_over_the_limit_is_a_500_that_the_log_explains() {
    let endpoints = "[http]\nmax_response_bytes = '1KiB'\n[endpoint.many]\nroute = 'GET /many'\n\
        sql = 'with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000) select i from n'\n\
        [endpoint.quick]\nroute = 'GET /quick'\nsql = 'select 1 as x'\nreturns = 'value'\n";
    on_both(endpoints, |wharf| {
        assert_problem(&wharf.get("/many"), 500, "larger than a response");
        wharf.wait_for_log("more than 1024 bytes");
        assert_eq!(wharf.get("/quick").text(), "1");
    });
}

#[test]
fn a_killed_session_costs_one_request_at_most() {
    let database = Postgres::database();
    let config = format!(
        "[server]\nworkers = 1\n[database]\nurl = '{}'\nmaximum_pool_size = 1\n\
         [endpoint.pid]\nroute = 'GET /pid'\nsql = 'select pg_backend_pid() as pid'\nreturns = 'value'",
        database.url()
    );
    let wharf = Wharf::start(&config);
    let first = wharf.get("/pid").text().to_owned();
    assert_eq!(database.psql(&format!("select pg_terminate_backend({first}, 10000)")), "t");
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = wharf.get("/pid");
        if answer.status == 200 {
            assert_ne!(answer.text(), first);
            break;
        }
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(Instant::now() < until, "it does not come back");
    }
}
