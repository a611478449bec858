//! Statements that break off, are run again or are run often: the session afterwards is as another request's.

use http::Method;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use wharf::database::Access;
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};

use super::served::{ask, endpoint, look, looking, serve, server};
use crate::support::Postgres;

/// A parameter that panics when it is to be sent.
#[derive(Debug)]
struct Sulky;

impl ToSql for Sulky {
    fn to_sql(
        &self,
        _: &Type,
        _: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        panic!("it is not to be sent");
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn panic_in_a_transaction(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    connection
        .postgres()?
        .transaction(Access::ReadWrite, |session| session.execute("insert into t values ($1)", &[&Sulky]))?;
    Ok(Response::text("done"))
}

/// The transaction's BEGIN went with what prepared its first statement, and was forgotten when the parameter panicked.
#[test]
fn a_parameter_that_panics_leaves_no_transaction_open() {
    let database = Postgres::database();
    database.psql(
        "create table t (a int); create function sneak() returns int language sql as
         'insert into t values (13) returning a'",
    );
    let endpoints =
        endpoint("POST", "add", "insert into t values (7)") + &endpoint("GET", "sneak", "select sneak()");
    let server = server(&database.url(), "", &endpoints);
    let server = server.route(Method::POST, "/panic", panic_in_a_transaction).start().expect("a free port");
    for round in 1..=3 {
        assert_eq!(ask(&server, "POST", "/panic").status, 500);
        assert_eq!(ask(&server, "GET", "/sneak").status, 500, "a GET does not write");
        assert_eq!(ask(&server, "POST", "/panic").status, 500);
        assert_eq!(ask(&server, "POST", "/add").status, 204);
        assert_eq!(database.psql("select count(*), sum(a) from t"), format!("{round}|{}", 7 * round));
    }
    server.drain();
}

/// The error is the one of a statement that the server has forgotten, which is prepared and run again.
#[test]
fn a_procedure_that_raises_such_an_error_runs_once() {
    let database = Postgres::database();
    database.psql(
        "create table t (a int);
         create procedure p() language plpgsql as
             $$ begin insert into t values (1); commit; raise exception 'no' using errcode = '26000'; end $$;
         create procedure q(b int) language plpgsql as
             $$ begin insert into t values (b); commit; raise exception 'no' using errcode = '22P02'; end $$",
    );
    let endpoints = endpoint("POST", "p", "call p()") + &endpoint("POST", "q", "call q(2)");
    let server = serve(&database.url(), &endpoints);
    for path in ["/p", "/q"] {
        for runs in 1..=3 {
            assert!(ask(&server, "POST", path).status >= 400);
            let count = format!("select count(*) from t where a = {}", if path == "/p" { 1 } else { 2 });
            assert_eq!(database.psql(&count), runs.to_string(), "{path}");
        }
    }
    server.drain();
}

/// Such a plan has the mark of one without effects, and leaves the function to the session.
#[test]
fn a_function_in_a_plan_that_is_parallel_anyway_leaves_nothing() {
    let database = Postgres::database();
    database.psql(
        "create table big as select n from generate_series(1, 20000) n; analyze big;
         create function locked(n int) returns int language plpgsql parallel restricted as
             $$ begin perform pg_advisory_lock(77); return n; end $$;
         do $$ begin
             execute format('alter database %I set parallel_setup_cost = 0', current_database());
             execute format('alter database %I set parallel_tuple_cost = 0', current_database());
             execute format('alter database %I set min_parallel_table_scan_size = 0', current_database());
         end $$",
    );
    let sql = "select locked(n) from big where n = 5";
    assert!(database.psql(&format!("explain {sql}")).starts_with("Gather"), "the plan is another");
    let looking = looking("select count(*) from pg_locks where locktype = 'advisory'");
    let server = serve(&database.url(), &(endpoint("GET", "lock", sql) + &looking));
    for _ in 0..5 {
        assert_eq!(ask(&server, "GET", "/lock").text(), "5");
        assert_eq!(look(&server).state, "0");
    }
    server.drain();
}

fn run_often(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    let session = connection.postgres()?;
    for _ in 0..1000 {
        session.query("select 1 as one from (select random()) x", &[])?;
    }
    Ok(Response::text("done"))
}

/// Each run was asked about, in more bytes than a socket takes at once.
#[test]
fn a_statement_that_a_handler_runs_often_keeps_its_session() {
    let database = Postgres::database();
    let server = server(&database.url(), "", &looking("select 1")).get("/often", run_often);
    let server = server.start().expect("a free port");
    let session = look(&server);
    for _ in 0..3 {
        assert_eq!(ask(&server, "GET", "/often").status, 200);
        assert_eq!(look(&server), session);
    }
    server.drain();
}
