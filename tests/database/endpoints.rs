//! SQL endpoints: transactions, rows, limits, and errors of the database.

use std::time::{Duration, Instant};

use crate::support::{Answer, PATIENCE, Postgres, Wharf, assert_problem, wait_until};

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

[endpoint.booking]
route   = 'POST /bookings'
params  = { src = { in = 'body', type = 'int' }, entry = { in = 'body', type = 'int' }, account = { in = 'body', type = 'int' }, label = { in = 'body', type = 'text', optional = true } }
[[endpoint.booking.step]]
sql = 'update account set balance = balance - 10 where id = :src'
[[endpoint.booking.step]]
sql = 'update account set balance = balance + 10 where id <> :src'
[[endpoint.booking.step]]
sql = 'insert into entry (id, account, label) values (:entry, :account, :label)'

[endpoint.empty_several]
route   = 'POST /empty/several'
sql     = 'update account set balance = 0 returning id'
returns = 'one'

[endpoint.rename_long]
route   = 'POST /names'
params  = { owner = { in = 'body', type = 'text' } }
sql     = 'update account set owner = :owner || id returning owner'
returns = 'many'
";

const BEFORE: &str = r#"[{"id":1,"balance":100},{"id":2,"balance":100}]"#;

/// A server on each database behind each connector, with the tables.
fn on_both(endpoints: &str, test: impl Fn(&Wharf)) {
    for connector in ["native", "tiny_http"] {
        let connector = [("WHARF_SERVER_CONNECTOR", connector)];
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("test.db");
        let file = rusqlite::Connection::open(&path).expect("SQLite opens");
        file.execute_batch(SCHEMA).expect("the tables are made");
        let config = format!("[database]\nurl = 'sqlite:{}'\n{endpoints}", path.display());
        test(&Wharf::start_with(&config, &[], &connector));
        let database = Postgres::database();
        database.psql(SCHEMA);
        let config = format!("[database]\nurl = '{}'\n{endpoints}", database.url());
        // Looked at before the server goes, and its sessions with it.
        let wharf = Wharf::start_with(&config, &[], &connector);
        test(&wharf);
        assert_none_open(&database);
    }
}

/// A connection is back in the pool before its request is answered, so none keeps a transaction open once all are. An idle
/// worker's cleaning and its question to the planner are transactions that end by themselves.
fn assert_none_open(database: &crate::support::Database) {
    let open =
        "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in%'";
    wait_until("a transaction is left open", || database.psql(open) == "0");
}

#[test]
fn a_transaction_that_fails_at_any_step_leaves_nothing() {
    on_both(ENDPOINTS, |wharf| {
        let transfer = |src, dst, amount| {
            wharf.json("POST", "/transfers", &format!(r#"{{"src":{src},"dst":{dst},"amount":{amount}}}"#))
        };
        assert_problem(&transfer(1, 2, 101), 409, "insufficient funds");
        assert_problem(&transfer(1, 9, 50), 404, "no such account");
        assert_eq!(wharf.get("/accounts").text(), BEFORE, "the first step was undone");
        assert_eq!(transfer(2, 1, 100).text(), r#"[{"id":1,"balance":200},{"id":2,"balance":0}]"#);
        assert_eq!(transfer(1, 2, 100).text(), BEFORE);
        let book = |body: &str| wharf.json("POST", "/bookings", body);
        for (status, body, why) in [
            (400, r#"{"src":1,"entry":1,"account":1}"#, "not null, in the third step"),
            (409, r#"{"src":1,"entry":1,"account":9,"label":"x"}"#, "foreign key, in the third step"),
        ] {
            assert_eq!(book(body).status, status, "{why}");
            assert_eq!(wharf.get("/accounts").text(), BEFORE, "{why}");
        }
        let fine = r#"{"src":1,"entry":1,"account":1,"label":"x"}"#;
        assert_eq!(book(fine).status, 204);
        let after = r#"[{"id":1,"balance":90},{"id":2,"balance":110}]"#;
        assert_eq!(book(fine).status, 409, "the same primary key again, in the third step");
        assert_eq!(wharf.get("/accounts").text(), after);
        assert_eq!(book(r#"{"src":1,"entry":2,"account":1,"label":"x"}"#).status, 204);
        for entry in 3..11 {
            let body = format!(r#"{{"src":1,"entry":{entry},"account":1,"label":"x"}}"#);
            assert_eq!(book(&body).status, 204);
        }
        let overdrawn = book(r#"{"src":1,"entry":99,"account":1,"label":"x"}"#);
        assert_eq!(overdrawn.status, 400, "the balance is checked in the first step: {}", overdrawn.text());
        assert_eq!(wharf.get("/accounts").text(), r#"[{"id":1,"balance":0},{"id":2,"balance":200}]"#);
    });
}

/// A single statement used to be committed before its rows were found to be too many or too large: the client read 500
/// and the change was there.
#[test]
fn a_statement_whose_rows_cannot_be_answered_changes_nothing() {
    on_both(&format!("[http]\nmax_response_bytes = '256B'\n{ENDPOINTS}"), |wharf| {
        assert_problem(&wharf.request("POST", "/empty/several", &[], ""), 500, "more than one row");
        assert_eq!(wharf.get("/accounts").text(), BEFORE);
        let long = format!(r#"{{"owner":"{}"}}"#, "x".repeat(300));
        assert_problem(&wharf.json("POST", "/names", &long), 500, "larger than a response");
        assert_eq!(wharf.get("/accounts/1").json()["owner"], "Ada");
        let short = wharf.json("POST", "/names", r#"{"owner":"x"}"#);
        assert_eq!(short.text(), r#"[{"owner":"x1"},{"owner":"x2"}]"#);
    });
}

#[test]
fn a_transaction_over_its_deadline_leaves_nothing_and_is_gone() {
    let database = Postgres::database();
    database.psql(SCHEMA);
    let config = format!(
        "[server]\nworkers = 1\n[database]\nurl = '{}'\nmaximum_pool_size = 1\n\
         [endpoint.slow]\nroute = 'POST /slow'\ndeadline = '200ms'\n\
         step = [{{ sql = 'update account set balance = 0' }}, {{ sql = 'select 1 from pg_sleep(100)' }}]\n\
         [endpoint.accounts]\nroute = 'GET /accounts'\nsql = 'select id, balance from account order by id'",
        database.url()
    );
    let wharf = Wharf::start(&config);
    assert_eq!(wharf.request("POST", "/slow", &[], "").status, 504);
    // One worker, one connection: this runs after the other is over.
    assert_eq!(wharf.get("/accounts").text(), BEFORE);
    assert_none_open(&database);
    let running = "select count(*) from pg_stat_activity where query like '%pg_sleep(100)%' and state = 'active' \
                   and datname = current_database() and pid <> pg_backend_pid()";
    assert_eq!(database.psql(running), "0");
}

#[test]
fn a_collision_is_run_again_and_answered_503_when_it_does_not_end() {
    let database = Postgres::database();
    // A sequence keeps its count when the transaction is rolled back.
    database.psql(
        "create table t (x int); create sequence attempt; create function collide(times int) returns int language plpgsql as \
         'declare n int := nextval(''attempt''); begin if n <= times then raise exception ''collided'' using errcode = ''40001''; \
         end if; return n; end'",
    );
    let config = format!(
        "[database]\nurl = '{}'\n[endpoint.steps]\nroute = 'POST /steps/{{n}}'\nparams.n = 'int'\nreturns = 'value'\n\
         step = [{{ sql = 'insert into t values (1)' }}, {{ sql = 'select collide(:n) as x' }}]\n\
         [endpoint.single]\nroute = 'GET /single/{{n}}'\nparams.n = 'int'\nreturns = 'value'\n\
         sql = 'select collide(:n) as x'\n\
         [endpoint.writes]\nroute = 'POST /single/{{n}}'\nparams.n = 'int'\nsql = 'select collide(:n) as x'",
        database.url()
    );
    let wharf = Wharf::start(&config);
    let again = || database.psql("select setval('attempt', 1, false)");
    assert_eq!(wharf.request("POST", "/steps/4", &[], "").text(), "5", "the fifth attempt");
    assert_eq!(database.psql("select count(*) from t"), "1", "what the first four did was undone");
    again();
    let refused = wharf.request("POST", "/steps/5", &[], "");
    assert_problem(&refused, 503, "collided with another one");
    assert_eq!(refused.header("Retry-After"), Some("1"));
    assert_eq!(database.psql("select count(*) from t"), "1");
    again();
    assert_eq!(wharf.request("POST", "/single/4", &[], "").status, 204);
    again();
    assert_eq!(wharf.get("/single/0").status, 500, "a GET cannot count up, and that is no collision");
    assert_none_open(&database);
}

#[test]
fn a_table_that_changes_its_columns_costs_no_request() {
    let database = Postgres::database();
    database.psql("create table t (a int); insert into t values (1)");
    let config = format!(
        "[server]\nworkers = 1\n[database]\nurl = '{}'\nmaximum_pool_size = 1\n\
         [endpoint.read]\nroute = 'GET /t'\nsql = 'select * from t'\n\
         [endpoint.write]\nroute = 'POST /t'\nsql = 'update t set a = a + 1 returning *'\nreturns = 'one'\n\
         [endpoint.steps]\nroute = 'POST /steps'\nreturns = 'one'\nstep = [{{ sql = 'select 1' }}, \
         {{ sql = 'select * from t' }}]",
        database.url()
    );
    let wharf = Wharf::start(&config);
    let steps = || wharf.request("POST", "/steps", &[], "").text().to_owned();
    assert_eq!(steps(), r#"{"a":1}"#);
    assert_eq!(wharf.get("/t").text(), r#"[{"a":1}]"#);
    assert_eq!(wharf.request("POST", "/t", &[], "").text(), r#"{"a":2}"#);
    database.psql("alter table t add b int");
    assert_eq!(wharf.request("POST", "/t", &[], "").text(), r#"{"a":3,"b":null}"#);
    assert_eq!(wharf.get("/t").text(), r#"[{"a":3,"b":null}]"#);
    database.psql("alter table t add c int");
    assert_eq!(
        steps(),
        r#"{"a":3,"b":null,"c":null}"#,
        "what came first in the transaction is run again, too"
    );
}

#[test]
fn a_database_that_stops_is_503_and_comes_back_by_itself() {
    let cluster = Postgres::start();
    let config = format!(
        "[database]\nurl = '{}'\nmaximum_pool_size = 2\nconnection_timeout = '200ms'\n\
         [endpoint.quick]\nroute = 'GET /quick'\nsql = 'select 1 as x'\nreturns = 'value'\n\
         [endpoint.fixed]\nroute = 'GET /fixed'\nbody = 'here'",
        cluster.url()
    );
    let wharf = Wharf::start(&config);
    let mut client = wharf.connect();
    let mut ask = || {
        client.request("GET", "/quick", &[], "");
        client.answer()
    };
    assert_eq!(ask().text(), "1");
    cluster.stop();
    for _ in 0..4 {
        let down = ask();
        assert_eq!((down.status, down.header("Retry-After")), (503, Some("1")), "{}", down.text());
        assert!(!down.text().contains("127.0.0.1"), "no host goes out: {}", down.text());
        assert_eq!(wharf.get("/fixed").text(), "here");
    }
    cluster.start_again();
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = ask();
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(Instant::now() < until, "it does not come back");
    }
}

#[test]
fn an_unexpected_number_of_rows_undoes_a_single_statement() {
    on_both(ENDPOINTS, |wharf| {
        assert_problem(&wharf.request("POST", "/empty", &[], ""), 412, "one account, please");
        assert_eq!(wharf.get("/accounts").text(), r#"[{"id":1,"balance":100},{"id":2,"balance":100}]"#);
    });
}

/// Whether the answer came through tiny_http, which says so itself.
fn is_tiny_http(answer: &Answer) -> bool {
    answer.header("Server").is_some_and(|server| server.starts_with("tiny-http"))
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
        assert_eq!((deleted.status, deleted.text()), (204, ""));
        // RFC 9110 section 8.6 wants none; tiny_http always writes one.
        let length = deleted.header("Content-Length");
        assert!(length.is_none() || is_tiny_http(&deleted) && length == Some("0"), "{length:?}");
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
         [endpoint.steps]\nroute = 'GET /steps'\nreturns = 'value'\n\
         step = [{{ sql = 'select 1' }}, {{ sql = 'select sneak() as x' }}]\n\
         [endpoint.openly]\nroute = 'POST /sneak'\nsql = 'select sneak() as x'\nreturns = 'value'",
        database.url()
    );
    let wharf = Wharf::start(&config);
    assert_eq!(wharf.get("/sneak").status, 500);
    wharf.wait_for_log("read-only transaction");
    assert_eq!(wharf.get("/steps").status, 500);
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
         [endpoint.lock]\nroute = 'POST /lock'\nsql = 'select pg_advisory_xact_lock(1) is null as x'\nreturns = 'value'\n\
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
    database.wait_for_a_waiting_lock();
    let refused = wharf.get("/quick");
    assert_problem(&refused, 503, "no database session");
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
