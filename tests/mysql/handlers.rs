//! Handlers in Rust: what `Context::database()?.mysql()?` lends them.

use http::Method;
use wharf::database::{Access, mysql::Session};
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::{Running, Server};
use wharf::value::Value;

use crate::support::{
    Gate, MariaDatabase, Mariadb, assert_nothing_is_left, assert_problem, gate, wait_until,
};
use crate::{ask, configuration, get, value};

/// The number of rows, from each request's own transaction.
fn add_twice(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    let session = connection.mysql()?;
    let count = session.transaction(Access::ReadWrite, |session| -> Result<u64, Error> {
        session.execute("insert into t (x) values (?)", &[Value::Int(1)])?;
        let added = session.execute("insert into t (x) values (?), (?)", &[Value::Int(2), Value::Null])?;
        Ok(added)
    })?;
    Ok(Response::text(count.to_string()))
}

fn fails_after_a_write(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    connection.mysql()?.transaction(Access::ReadWrite, |session| -> Result<Response, Error> {
        session.execute("insert into t (x) values (77)", &[])?;
        session.execute("insert into t (x) values ('none')", &[])?;
        Ok(Response::text("unreachable"))
    })
}

fn every_value(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    let sql = "select ? as n, ? as t, ? as f, ? as b, cast(1.50 as decimal(5,2)) as d, 18446744073709551615 as big, null as nothing";
    let values =
        [Value::Int(-7), Value::Text("ü' \\".into()), Value::Float(0.25), Value::Bytes(vec![0, 255])];
    let rows = connection.mysql()?.query(sql, &values)?;
    let [row] = &*rows else { return Ok(Response::text("not one row")) };
    // The debug form of a value hides its content.
    let shown = |name| match row.get(name) {
        Some(Value::Int(number)) => format!("int {number}"),
        Some(Value::Text(text)) => format!("text {text}"),
        Some(Value::Float(number)) => format!("float {number}"),
        Some(Value::Bytes(bytes)) => format!("bytes {bytes:?}"),
        Some(Value::Null) => "null".to_owned(),
        Some(_) => "another".to_owned(),
        None => "none".to_owned(),
    };
    Ok(Response::text(["n", "t", "f", "b", "d", "big", "nothing", "unknown"].map(shown).join("; ")))
}

fn leaves_much(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    let session = connection.mysql()?;
    for sql in [
        "set @caller = 'ann'",
        "set time_zone = '+09:00'",
        "do get_lock('handler', 0)",
        "create temporary table t as select 99 as x",
    ] {
        session.execute(sql, &[])?;
    }
    Ok(Response::text("left"))
}

/// A transaction that reads may not write.
fn writes_where_it_reads(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    connection.mysql()?.transaction(Access::ReadOnly, |session: &mut Session| -> Result<Response, Error> {
        session.execute("insert into t (x) values (5)", &[])?;
        Ok(Response::text("written"))
    })
}

fn serve(database: &MariaDatabase) -> Running {
    database.sql("create table t (x int)");
    let endpoints = value("count", "select count(*) from t")
        + &value("caller", "select concat_ws(',', @caller, @@time_zone, is_used_lock('handler') is null)");
    let config = configuration(&database.url(), 1, "", &endpoints);
    Server::new(config)
        .expect("the database is there")
        .post("/add", add_twice)
        .post("/fail", fails_after_a_write)
        .post("/leave", leaves_much)
        .post("/wrong", writes_where_it_reads)
        .get("/values", every_value)
        .start()
        .expect("a free port")
}

#[test]
fn a_handler_runs_statements_and_transactions() {
    let database = Mariadb::database();
    let server = serve(&database);
    for round in 1..3 {
        assert_eq!(ask(&server, "POST", "/add").text(), "2");
        assert_eq!(get(&server, "/count"), (3 * round).to_string());
        let failed = ask(&server, "POST", "/fail");
        assert_problem(&failed, 400, "");
        assert_problem(&ask(&server, "POST", "/wrong"), 500, "");
        assert_eq!(get(&server, "/count"), (3 * round).to_string(), "nothing stays of what failed");
    }
    let text = get(&server, "/values");
    let expected =
        "int -7; text ü' \\; float 0.25; bytes [0, 255]; text 1.50; text 18446744073709551615; null; none";
    assert_eq!(text, expected);
    assert_nothing_is_left(server);
}

#[test]
fn what_a_handler_leaves_is_gone_for_the_next_request() {
    let database = Mariadb::database();
    let server = serve(&database);
    let before = (get(&server, "/caller"), get(&server, "/count"));
    for _ in 0..2 {
        assert_eq!(ask(&server, "POST", "/leave").text(), "left");
        assert_eq!((get(&server, "/caller"), get(&server, "/count")), before);
    }
    assert_nothing_is_left(server);
}

/// Another database's handler says so.
#[test]
fn a_handler_for_another_database_is_told() {
    let wrong = |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
        context.database()?.postgres()?;
        Ok(Response::text("unreachable"))
    };
    let config = configuration(&Mariadb::database().url(), 1, "", &value("one", "select 1"));
    let server = Server::new(config)
        .expect("the database is there")
        .get("/wrong", wrong)
        .start()
        .expect("a free port");
    assert_eq!(ask(&server, "GET", "/wrong").status, 500);
    assert_eq!(get(&server, "/one"), "1");
    assert_nothing_is_left(server);
}

/// A transaction that a handler has open when its session is killed is known not to be committed.
#[test]
fn a_write_that_meets_a_closed_connection_is_known_not_to_be_committed() {
    let database = Mariadb::database();
    database.sql("create table t (x int)");
    for in_transaction in [true, false] {
        let (gate, keeper) = gate();
        let handler =
            move |_: &Request, context: &mut Context<'_>| write_late(in_transaction, &gate, context);
        let config = configuration(&database.url(), 1, "", &value("id", "select connection_id()"));
        let server =
            Server::new(config).expect("the database is there").route(Method::POST, "/write", handler);
        let server = server.start().expect("a free port");
        let session = get(&server, "/id");
        let mut client = crate::support::Client::connect(server.address());
        client.request("POST", "/write", &[], "");
        keeper.wait_for_one();
        database.sql(&format!("kill {session}"));
        wait_until("the session stays", || database.sessions(&format!("id = {session}")) == 0);
        keeper.let_through(1);
        let answer = client.answer();
        assert_eq!(answer.status, 503, "{in_transaction}: {}", answer.text());
        assert_eq!(database.sql("select count(*) from t"), "0");
        drop(client);
        assert_nothing_is_left(server);
    }
}

fn write_late(in_transaction: bool, gate: &Gate, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    let session = connection.mysql()?;
    if in_transaction {
        return session.transaction(Access::ReadWrite, |session| -> Result<Response, Error> {
            session.execute("insert into t values (1)", &[])?;
            gate.pass()
        });
    }
    session.transaction(Access::ReadOnly, |session| -> Result<(), Error> {
        session.query("select 1", &[])?;
        Ok(())
    })?;
    gate.pass()?;
    session.execute("insert into t values (2)", &[])?;
    Ok(Response::text("written"))
}
