//! A function can undo the session's protection against writes. A GET that writes is refused all the same.

use std::time::Duration;

use http::Method;
use wharf::config::{self, Sql};
use wharf::database::{self, Access, Connection, RowWriter, Shape};
use wharf::deadline::Deadline;
use wharf::handler;
use wharf::http::Response;
use wharf::server::Running;

use super::served::{ask, endpoint, run_command, running, server, steps};
use crate::support::{Database, Postgres};

/// How a function undoes it.
const UNDOING: [&str; 6] = [
    "execute 'reset all';",
    "execute 'reset default_transaction_read_only';",
    "execute 'set default_transaction_read_only = off';",
    "perform set_config('default_transaction_read_only', 'off', false);",
    "execute 'set session characteristics as transaction read write';",
    "execute 'set session characteristics as transaction isolation level serializable, read write';",
];

/// A table, a function that writes to it unseen, and `undo_0()`, `undo_1()` and so on.
fn database() -> Database {
    let database = Postgres::database();
    database.psql(
        "create table t (label text);
         create function sneak() returns int language plpgsql as
             $$ begin insert into t values ('sly'); return 1; end $$",
    );
    for (number, undoing) in UNDOING.iter().enumerate() {
        database.psql(&format!(
            "create function undo_{number}() returns int language plpgsql as
                 $$ begin {undoing} return 1; end $$"
        ));
    }
    database
}

fn rows(database: &Database) -> String {
    database.psql("select count(*) from t")
}

fn undoing() -> impl Iterator<Item = String> {
    (0..UNDOING.len()).map(|number| format!("undo_{number}"))
}

/// A server with `GET /undo_0` and so on, `GET /sneak`, and the same as handlers that are one statement, as a handler that runs
/// any command, and in steps.
fn serve(database: &Database) -> Running {
    let mut endpoints = endpoint("GET", "sneak", "select sneak()")
        + &endpoint("POST", "write", "insert into t values ('honest')")
        + &steps("GET", "sneak_in_steps", &["select 1", "select sneak()"]);
    for name in undoing() {
        endpoints += &endpoint("GET", &name, &format!("select {name}()"));
        endpoints += &endpoint("GET", &format!("{name}_and_sneak"), &format!("select {name}() + sneak()"));
        let sql = format!("select {name}()");
        endpoints += &steps("GET", &format!("{name}_steps"), &[&sql, "select sneak()"]);
    }
    let mut server = server(&database.url(), "", &endpoints).get("/run", run_command).route(
        Method::GET,
        "/handler/sneak",
        handler::query(
            "insert into t values ('sly') returning 1",
            |_| Ok(()),
            |_, _| Ok(Response::text("written")),
        ),
    );
    for name in undoing() {
        let sql = format!("select {name}()");
        let undo = handler::query(sql, |_| Ok(()), |_, _| Ok(Response::text("undone")));
        server = server.route(Method::GET, &format!("/handler/{name}"), undo);
    }
    server.start().expect("a free port")
}

#[test]
fn a_get_that_writes_is_refused_whatever_the_requests_before_it_undid() {
    let database = database();
    let server = serve(&database);
    for name in undoing() {
        let handler = running(&format!("select {name}()"));
        for undo in [&format!("/{name}"), &format!("/handler/{name}"), &handler] {
            for sneak in ["/sneak", "/sneak_in_steps", "/handler/sneak"] {
                let undone = ask(&server, "GET", undo);
                assert_eq!(undone.status, 200, "{undo}: {}", undone.text());
                let answer = ask(&server, "GET", sneak);
                assert_eq!(answer.status, 500, "{sneak} after {undo}: {}", answer.text());
                assert_eq!(rows(&database), "0", "{sneak} after {undo}");
            }
        }
    }
    server.drain();
}

#[test]
fn a_get_that_undoes_its_own_protection_writes_nothing() {
    let database = database();
    let server = serve(&database);
    for name in undoing() {
        for path in [format!("/{name}_and_sneak"), format!("/{name}_steps")] {
            let answer = ask(&server, "GET", &path);
            assert_eq!(answer.status, 500, "{path}: {}", answer.text());
            assert_eq!(rows(&database), "0", "{path}");
        }
    }
    server.drain();
}

/// The next write used to be refused with 503, as if the server had become a standby.
#[test]
fn a_function_that_forbids_writes_forbids_none_to_the_next_request() {
    let database = database();
    database.psql(
        "create function forbid() returns int language plpgsql as
             $$ begin perform set_config('default_transaction_read_only', 'on', false); return 1; end $$",
    );
    let endpoints = endpoint("POST", "forbid", "select forbid()")
        + &endpoint("POST", "write", "insert into t values ('honest')");
    let server = server(&database.url(), "", &endpoints).start().expect("a free port");
    for count in ["1", "2"] {
        assert_eq!(ask(&server, "POST", "/forbid").status, 204);
        let answer = ask(&server, "POST", "/write");
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(rows(&database), count);
    }
    server.drain();
}

fn run(
    connection: &mut Connection,
    database: &database::Database,
    sql: &str,
    access: Access,
) -> Result<u64, database::Error> {
    let statement = database.statement(&Sql { pieces: vec![sql.to_owned()], slots: Vec::new() }, &[]);
    let mut body = Vec::new();
    let mut rows = RowWriter::new(&mut body, Shape::Discard, 1000, 1000);
    connection.run(&statement, &[], access, soon(), &mut rows)
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

#[test]
fn within_one_checkout_a_read_that_writes_is_refused_too() {
    let database = database();
    let mut settings = config::Database::default();
    settings.maximum_pool_size = 1;
    let pool = database::Database::open(&settings, &database.url()).expect("the server is there");
    for name in undoing() {
        let undo = format!("select {name}()");
        let mut connection = pool.checkout(soon()).expect("a connection is free");
        let sneak = |connection: &mut Connection, what: &str| {
            let sneaked = run(connection, &pool, "select sneak()", Access::ReadOnly);
            assert!(sneaked.is_err(), "{what}, then a read that writes");
            assert_eq!(rows(&database), "0", "{what}, then a read that writes");
        };
        run(&mut connection, &pool, &undo, Access::ReadOnly).expect("it only changes a setting");
        sneak(&mut connection, &undo);
        connection.postgres().expect("it is PostgreSQL").query(&undo, &[]).expect("it runs");
        sneak(&mut connection, &undo);
        run(&mut connection, &pool, "select 1", Access::ReadOnly).expect("it runs");
        connection.postgres().expect("it is PostgreSQL").query(&undo, &[]).expect("it runs");
        sneak(&mut connection, &undo);
        let session = connection.postgres().expect("it is PostgreSQL");
        session.query(&undo, &[]).expect("it runs");
        let written: Result<u64, database::Error> =
            session.transaction(Access::ReadOnly, |session| session.execute("select sneak()", &[]));
        assert!(written.is_err(), "{undo}, then a transaction that reads only");
        let written: Result<u64, database::Error> = session.transaction(Access::ReadOnly, |session| {
            session.query(&undo, &[])?;
            session.execute("select sneak()", &[])
        });
        assert!(written.is_err(), "{undo} in a transaction that reads only");
        assert_eq!(rows(&database), "0");
    }
}
