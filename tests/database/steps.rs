//! Transactions whose steps are sent together: the first failing step is reported, and a failure leaves nothing.
//!
//! Each request is sent several times: a session runs the steps one after the other when it meets them for the first time.

use wharf::database::Access;
use wharf::database::postgres::{Step, StepError, ToSql};
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response, StatusCode};
use wharf::server::{Running, Server};

use crate::support::{Answer, Client, Database, Postgres, assert_problem, config_of};

const SCHEMA: &str = "
    create table t (label text, n int);
    create table wide (label text);
    insert into wide select repeat('x', 100) from generate_series(1, 9);
    create sequence tries;
    create function collide(times int) returns int language plpgsql as
        $$ begin if nextval('tries') <= times then raise exception 'collided' using errcode = '40001'; end if; return 1; end $$;
    create procedure put(label text) language sql as 'insert into t values (label, 0)'";

const ENDPOINTS: &str = "
[http]
max_response_bytes = '256B'

[endpoint.three]
route  = 'POST /three/{label}'
params = { label = 'text', a = 'int', b = 'int', c = 'int' }
step   = [
    { sql = 'insert into t values (:label, 1 / :a)' },
    { sql = 'insert into t values (:label, 1 / :b)' },
    { sql = 'insert into t values (:label, 1 / :c)' },
]

[endpoint.guarded]
route   = 'POST /guarded/{label}'
params  = { label = 'text', a = 'int', b = 'int', divisor = 'int' }
returns = 'value'
[[endpoint.guarded.step]]
sql         = 'insert into t select :label, n from generate_series(1, :a) n'
expect_rows = 1
otherwise   = { status = 409, detail = 'the first' }
[[endpoint.guarded.step]]
sql         = 'insert into t select :label, n from generate_series(1, :b) n'
expect_rows = 1
otherwise   = { status = 412, detail = 'the second' }
[[endpoint.guarded.step]]
sql         = 'select 7 / :divisor'

[endpoint.wide]
route   = 'POST /wide/{label}'
params  = { label = 'text' }
returns = 'many'
step    = [{ sql = 'insert into t values (:label, 1)' }, { sql = 'select label from wide' }]

[endpoint.several]
route   = 'POST /several/{label}'
params  = { label = 'text' }
returns = 'one'
step    = [{ sql = 'insert into t values (:label, 1)' }, { sql = 'select 1 as n from wide' }]

[endpoint.big]
route   = 'POST /big/{label}'
params  = { label = 'text', n = 'int' }
step    = [{ sql = 'insert into t values (:label, 1)' }, { sql = 'insert into t values (:label, :n)' }]

[endpoint.collide]
route   = 'POST /collide/{label}'
params  = { label = 'text', times = 'int' }
returns = 'value'
step    = [{ sql = 'insert into t values (:label, 1)' }, { sql = 'select collide(:times)' }]

[endpoint.call]
route   = 'POST /call/{label}'
params  = { label = 'text' }
step    = [{ sql = 'call put(:label)' }, { sql = 'insert into t values (:label, 1)' }]

[endpoint.all]
route   = 'POST /all/{label}'
params  = { label = 'text' }
returns = 'many'
step    = [{ sql = 'insert into t (label, n) values (:label, 1)' }, { sql = 'select * from t where label = :label' }]
";

fn serve(database: &Database) -> Running {
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = 1\n\
         [database]\nurl = '{}'\nmaximum_pool_size = 1\n{ENDPOINTS}",
        database.url()
    );
    Server::new(config_of(text))
        .expect("the database is there")
        .post("/handler/{label}", handler)
        .post("/query_all/{label}", query_all)
        .post("/ignored/{label}", ignored)
        .start()
        .expect("a free port")
}

fn number(request: &Request, name: &str) -> i32 {
    request.query_value(name).and_then(|value| value.parse().ok()).unwrap_or(1)
}

/// Inserts a row, as many rows as `b` says where one is expected, and `1 / c`.
fn handler(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let label = request.path_value("label").unwrap_or_default();
    let (b, c) = (number(request, "b"), number(request, "c"));
    let steps: [(&str, &[&(dyn ToSql + Sync)]); 3] = [
        ("insert into t values ($1, 1) returning label", &[&label]),
        ("insert into t select $1, n from generate_series(1, $2) n", &[&label, &b]),
        ("insert into t values ($1, 1 / $2)", &[&label, &c]),
    ];
    let steps = steps.map(|(sql, parameters)| Step::new(sql, parameters).expect_rows(1));
    match context.database()?.postgres()?.run_together(&steps) {
        Ok(results) => {
            assert_eq!(results.iter().map(|result| result.count).collect::<Vec<_>>(), [1, 1, 1]);
            assert_eq!(results[0].rows[0].get::<_, &str>(0), label);
            Ok(Response::text("done"))
        }
        Err(StepError::Rows { step: 1, expected: 1, received }) => {
            Err(Error::new(StatusCode::CONFLICT, format!("{received} rows")))
        }
        Err(StepError::Database { step, error }) => {
            assert_eq!(step, Some(2), "{error}");
            Err(error.into())
        }
        Err(other) => Err(other.into()),
    }
}

fn query_all(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let label = request.path_value("label").unwrap_or_default();
    let c = number(request, "c");
    let insert = "insert into t values ($1, 1 / $2) returning n";
    let runs: [&[&(dyn ToSql + Sync)]; 3] = [&[&label, &1], &[&label, &c], &[&label, &1]];
    let mut connection = context.database()?;
    let session = connection.postgres()?;
    let rows = session.query_all(insert, &runs)?;
    assert_eq!(rows.len(), 3);
    assert_eq!(session.execute_all("update t set n = $2 where label = $1", &runs)?, 9);
    assert!(session.query_all("call put($1)", &[&[&label]]).is_err(), "a procedure may commit by itself");
    assert!(session.query_all(insert, &[])?.is_empty());
    Ok(Response::text("done"))
}

/// Goes on after a step with an unexpected number of rows, as if nothing had happened.
fn ignored(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let label = request.path_value("label").unwrap_or_default();
    let mut connection = context.database()?;
    connection.postgres()?.transaction(Access::ReadWrite, |session| {
        session.execute("insert into t values ($1, 1)", &[&label])?;
        let insert = "insert into t values ($1, 2)";
        let parameters: &[&(dyn ToSql + Sync)] = &[&label];
        let steps = [Step::new(insert, parameters).expect_rows(2), Step::new(insert, parameters)];
        assert!(session.run_together(&steps).is_err());
        Ok::<_, Error>(())
    })?;
    Ok(Response::text("done"))
}

fn post(server: &Running, path: &str) -> Answer {
    let mut client = Client::connect(server.address());
    client.request("POST", path, &[], "");
    client.answer()
}

fn rows(database: &Database, label: &str) -> String {
    database.psql(&format!("select count(*) from t where label = '{label}'"))
}

fn with_tables() -> Database {
    let database = Postgres::database();
    database.psql(SCHEMA);
    database
}

#[test]
fn a_step_that_fails_in_any_place_undoes_all() {
    let database = with_tables();
    let server = serve(&database);
    for round in 0..3 {
        for query in ["a=0&b=1&c=1", "a=1&b=0&c=1", "a=1&b=1&c=0", "a=0&b=0&c=0"] {
            assert_problem(&post(&server, &format!("/three/bad?{query}")), 400, "");
            assert_eq!(rows(&database, "bad"), "0", "{query}, round {round}");
        }
        let label = format!("good-{round}");
        assert_eq!(post(&server, &format!("/three/{label}?a=1&b=1&c=1")).status, 204);
        assert_eq!(rows(&database, &label), "3");
    }
    server.drain();
}

#[test]
fn the_first_failing_step_is_reported() {
    let database = with_tables();
    let server = serve(&database);
    for round in 0..3 {
        for (query, status, detail) in [
            ("a=0&b=1&divisor=1", 409, "the first"),
            ("a=2&b=0&divisor=0", 409, "the first"),
            ("a=1&b=3&divisor=1", 412, "the second"),
            ("a=1&b=0&divisor=0", 412, "the second"),
            ("a=1&b=1&divisor=0", 400, ""),
        ] {
            assert_problem(&post(&server, &format!("/guarded/bad?{query}")), status, detail);
            assert_eq!(rows(&database, "bad"), "0", "{query}, round {round}");
        }
        assert_eq!(post(&server, &format!("/guarded/good-{round}?a=1&b=1&divisor=1")).text(), "7");
        assert_eq!(rows(&database, &format!("good-{round}")), "2");
    }
    server.drain();
}

#[test]
fn an_answer_that_is_too_large_or_has_too_many_rows_undoes_all() {
    let database = with_tables();
    let server = serve(&database);
    for _ in 0..3 {
        assert_problem(&post(&server, "/wide/bad"), 500, "larger");
        assert_problem(&post(&server, "/several/bad"), 500, "more than one row");
        assert_eq!(rows(&database, "bad"), "0");
    }
    assert_eq!(post(&server, "/three/good?a=1&b=1&c=1").status, 204);
    server.drain();
}

/// The value is refused before anything is sent, but the first step goes before it.
#[test]
fn a_value_that_cannot_be_sent_undoes_all() {
    let database = with_tables();
    let server = serve(&database);
    for _ in 0..3 {
        assert_problem(&post(&server, "/big/bad?n=5000000000"), 400, "n");
        assert_eq!(rows(&database, "bad"), "0");
        assert_eq!(post(&server, "/big/good?n=5").status, 204);
    }
    assert_eq!(rows(&database, "good"), "6");
    server.drain();
}

#[test]
fn a_collision_is_run_again_and_contention_is_a_503() {
    let database = with_tables();
    let server = serve(&database);
    for round in 0..3 {
        database.psql("select setval('tries', 1, false)");
        let label = format!("late-{round}");
        assert_eq!(post(&server, &format!("/collide/{label}?times=2")).text(), "1");
        assert_eq!(rows(&database, &label), "1");
        database.psql("select setval('tries', 1, false)");
        let answer = post(&server, "/collide/never?times=100");
        assert_problem(&answer, 503, "");
        assert!(answer.header("Retry-After").is_some());
        assert_eq!(database.psql("select last_value from tries"), "5");
        assert_eq!(rows(&database, "never"), "0");
    }
    server.drain();
}

#[test]
fn an_alter_between_two_requests_is_not_noticed_by_the_client() {
    let database = with_tables();
    let server = serve(&database);
    for _ in 0..3 {
        assert_eq!(post(&server, "/all/before").status, 200);
    }
    database.psql("alter table t add extra int default 5");
    for round in 0..3 {
        let answer = post(&server, &format!("/all/after-{round}"));
        assert_eq!(answer.text(), format!(r#"[{{"label":"after-{round}","n":1,"extra":5}}]"#));
    }
    for _ in 0..3 {
        assert_eq!(post(&server, "/big/number?n=5").status, 204);
    }
    // The parameter of the second step has another type now.
    database.psql("alter table t alter n type text");
    assert_eq!(post(&server, "/big/text?n=5000000000").status, 204);
    assert_eq!(database.psql("select n from t where label = 'text' order by n"), "1\n5000000000");
    server.drain();
}

#[test]
fn a_procedure_runs_among_the_steps() {
    let database = with_tables();
    let server = serve(&database);
    for _ in 0..3 {
        assert_eq!(post(&server, "/call/called").status, 204);
    }
    assert_eq!(rows(&database, "called"), "6");
    server.drain();
}

#[test]
fn a_handlers_steps_are_one_transaction() {
    let database = with_tables();
    let server = serve(&database);
    for round in 0..3 {
        assert_problem(&post(&server, "/handler/bad?b=3&c=0"), 409, "3 rows");
        assert_problem(&post(&server, "/handler/bad?b=0&c=1"), 409, "0 rows");
        assert_problem(&post(&server, "/handler/bad?b=1&c=0"), 400, "");
        assert_eq!(rows(&database, "bad"), "0");
        let label = format!("good-{round}");
        assert_eq!(post(&server, &format!("/handler/{label}")).text(), "done");
        assert_eq!(rows(&database, &label), "3");
        assert_eq!(post(&server, &format!("/ignored/ignored-{round}")).status, 500);
        assert_eq!(rows(&database, &format!("ignored-{round}")), "0", "the transaction cannot be committed");
    }
    server.drain();
}

#[test]
fn a_handlers_runs_in_one_piece_are_all_done_or_none() {
    let database = with_tables();
    let server = serve(&database);
    for round in 0..3 {
        assert_problem(&post(&server, "/query_all/bad?c=0"), 400, "");
        assert_eq!(rows(&database, "bad"), "0");
        let label = format!("good-{round}");
        assert_eq!(post(&server, &format!("/query_all/{label}")).text(), "done");
        assert_eq!(rows(&database, &label), "3");
    }
    server.drain();
}
