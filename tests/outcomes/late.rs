//! Answers at the deadline: a plain 504 or 503 says that nothing was committed, and that must stay true.

use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use http::{Method, StatusCode};
use tempfile::TempDir;
use wharf::config;
use wharf::database::{self, Access, RowWriter, Shape};
use wharf::deadline::Deadline;
use wharf::handler::{Context, Error, Handler};
use wharf::http::{Request, Response};
use wharf::server::Drained;
use wharf::server::{Running, Server};

use super::{ask, assert_unknown, forwarded, read, rows, start, with_table};
use crate::support::{
    Client, Database, Forwarder, Gate, PATIENCE, Postgres, Then, assert_problem, gate, wait_until,
};

/// A table `t` in one of the databases.
enum Table {
    Postgres(Database),
    Sqlite(TempDir),
}

impl Table {
    fn in_postgres() -> Self {
        Self::Postgres(with_table())
    }

    fn in_sqlite() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let table = Self::Sqlite(directory);
        table.file().execute_batch("create table t (label text)").expect("the file is new");
        table
    }

    fn url(&self) -> String {
        match self {
            Self::Postgres(database) => database.url(),
            Self::Sqlite(directory) => format!("sqlite:{}", directory.path().join("test.db").display()),
        }
    }

    fn file(&self) -> rusqlite::Connection {
        let url = self.url();
        let file = url.strip_prefix("sqlite:").expect("it is SQLite");
        rusqlite::Connection::open(file).expect("SQLite opens")
    }

    fn rows(&self, label: &str) -> u32 {
        match self {
            Self::Postgres(database) => rows(database, label).parse().expect("a count"),
            Self::Sqlite(_) => {
                let count = "select count(*) from t where label = ?1";
                self.file().query_row(count, [label], |row| row.get(0)).expect("the table is there")
            }
        }
    }
}

/// How a handler writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One statement, which commits by itself.
    Alone,
    InTransaction,
    /// On rusqlite's own connection.
    Raw,
    /// A transaction there.
    RawTransaction,
}

/// Each way to write, with the database it is for.
fn all_ways() -> Vec<(Table, Way)> {
    vec![
        (Table::in_postgres(), Way::Alone),
        (Table::in_postgres(), Way::InTransaction),
        (Table::in_sqlite(), Way::Alone),
        (Table::in_sqlite(), Way::InTransaction),
        (Table::in_sqlite(), Way::Raw),
        (Table::in_sqlite(), Way::RawTransaction),
    ]
}

/// A server whose requests have this time, and the pool that its handlers borrow from.
fn server_within(url: &str, deadline: Duration, more: &str) -> (Server, database::Database) {
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = 1\ndeadline = '{}ms'\n{more}\n\
         [database]\nurl = \"{url}\"\nmaximum_pool_size = 1\n",
        deadline.as_millis()
    );
    let server = Server::new(read(text)).expect("the database is there");
    let pool = server.database().expect("it has one").clone();
    (server, pool)
}

/// Runs a statement by this time, whatever the request's own deadline is.
fn run(
    pool: &database::Database,
    connection: &mut database::Connection,
    sql: &str,
    access: Access,
    until: Deadline,
) -> Result<(), database::Error> {
    let statement = pool.statement(&config::Sql { pieces: vec![sql.to_owned()], slots: Vec::new() }, &[]);
    let mut body = Vec::new();
    let mut rows = RowWriter::new(&mut body, Shape::Discard, 1000, 1000);
    connection.run(&statement, &[], access, until, &mut rows).map(drop)
}

/// Writes one row and takes all the time for it. `pause` comes before the row's commit.
fn write(
    pool: &database::Database,
    connection: &mut database::Connection,
    way: Way,
    pause: impl FnOnce() -> Result<Response, Error>,
) -> Result<(), Error> {
    const INSERT: &str = "insert into t values ('row')";
    let until = Deadline::after(PATIENCE);
    match way {
        Way::Alone => {
            pause()?;
            run(pool, connection, INSERT, Access::ReadWrite, until)?;
        }
        Way::InTransaction => {
            connection.begin(Access::ReadWrite, until)?;
            run(pool, connection, INSERT, Access::ReadWrite, until)?;
            pause()?;
            connection.commit(until)?;
        }
        Way::Raw => {
            let connection = connection.sqlite()?;
            pause()?;
            connection.execute(INSERT, [])?;
        }
        Way::RawTransaction => {
            let transaction = connection.sqlite()?.transaction()?;
            transaction.execute(INSERT, [])?;
            pause()?;
            transaction.commit()?;
        }
    }
    Ok(())
}

/// Commits a row, and then waits for the test however late it is.
fn committer(pool: database::Database, way: Way, gate: Gate) -> impl Handler {
    move |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
        write(&pool, &mut context.database()?, way, || Ok(Response::text("on")))?;
        gate.pass()
    }
}

/// Waits for the test however late it is, commits a row, and tells what came of that.
fn late_committer(
    pool: database::Database,
    way: Way,
    gate: Gate,
    ended: Sender<Result<(), String>>,
) -> impl Handler {
    move |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
        let written = write(&pool, &mut context.database()?, way, || gate.pass());
        ended
            .send(written.as_ref().copied().map_err(|error| format!("{error:?}")))
            .map_err(Error::internal)?;
        written.map(|()| Response::text("written"))
    }
}

/// How many answers of this status the server has counted.
fn counted(server: &Running, status: u16) -> u64 {
    let text = server.observer().exposition(false);
    let status = format!("status=\"{status}\"");
    let samples =
        text.lines().filter(|line| line.starts_with("wharf_http_requests_total") && line.contains(&status));
    samples.map(|line| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)).sum()
}

#[test]
fn a_request_that_has_committed_something_is_no_plain_504_when_its_time_is_up() {
    for (table, way) in all_ways() {
        let (gate, keeper) = gate();
        let (server, pool) = server_within(&table.url(), Duration::from_millis(400), "");
        let server = start(server.route(Method::POST, "/write", committer(pool, way, gate)));
        let mut client = Client::connect(server.address());
        client.request("POST", "/write", &[], "");
        keeper.wait_for_one();
        let answer = client.answer();
        assert_unknown(&answer);
        assert_eq!(table.rows("row"), 1, "{way:?}");
        let counts = [500, 504].map(|status| counted(&server, status));
        assert_eq!(counts, [1, 0], "{way:?}: what is counted is what was sent");
        keeper.let_through(1);
        drop(client);
        assert_eq!(server.drain(), Drained::Complete);
    }
}

#[test]
fn a_request_answered_504_commits_nothing_afterwards() {
    for (table, way) in all_ways() {
        let ((gate, keeper), (ended, has_ended)) = (gate(), unbounded());
        let (server, pool) = server_within(&table.url(), Duration::from_millis(400), "");
        let server = start(server.route(Method::POST, "/write", late_committer(pool, way, gate, ended)));
        let mut client = Client::connect(server.address());
        client.request("POST", "/write", &[], "");
        keeper.wait_for_one();
        assert_problem(&client.answer(), 504, "deadline");
        keeper.let_through(1);
        let written = has_ended.recv_timeout(PATIENCE).expect("the handler comes to its end");
        assert_eq!(table.rows("row"), 0, "{way:?}: {written:?}");
        let refused = written.expect_err("nobody would be told of it");
        if let Way::Alone | Way::InTransaction = way {
            assert!(refused.contains("deadline"), "{way:?}: {refused}");
        }
        assert_eq!(counted(&server, 504), 1);
        drop(client);
        assert_eq!(server.drain(), Drained::Complete);
    }
}

/// Both requests come on one connection. The outcome of the first must not count as the second's.
#[test]
fn the_next_request_on_the_connection_starts_clean() {
    for (table, way) in all_ways() {
        let (gate, keeper) = gate();
        let (server, pool) = server_within(&table.url(), Duration::from_millis(400), "");
        let writer = move |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
            write(&pool, &mut context.database()?, way, || Ok(Response::text("on")))?;
            Ok(Response::text("written"))
        };
        let server = start(server.route(Method::POST, "/write", writer).route(Method::POST, "/wait", gate));
        let mut client = Client::connect(server.address());
        client.request("POST", "/write", &[], "");
        assert_eq!((client.answer().status, table.rows("row")), (200, 1), "{way:?}");
        client.request("POST", "/wait", &[], "");
        keeper.wait_for_one();
        assert_problem(&client.answer(), 504, "longer than");
        keeper.let_through(1);
        drop(client);
        assert_eq!(server.drain(), Drained::Complete);
    }
}

/// Behind tiny_http only the worker answers. Behind the native connector the worker mostly comes before the poller.
#[test]
fn a_worker_that_runs_out_of_time_after_a_commit_says_so_itself() {
    const ENDLESS: &str =
        "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n";
    for connector in ["native", "tiny_http"] {
        for (table, way) in [
            (Table::in_postgres(), Way::Alone),
            (Table::in_sqlite(), Way::InTransaction),
            (Table::in_sqlite(), Way::Raw),
        ] {
            let slow = if let Table::Postgres(_) = table { "select pg_sleep(100)" } else { ENDLESS };
            for (commits, own) in [(true, false), (false, false), (true, true)] {
                let more = format!("connector = '{connector}'");
                let (server, pool) = server_within(&table.url(), Duration::from_millis(400), &more);
                let handler = move |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
                    if commits {
                        write(&pool, &mut context.database()?, way, || Ok(Response::text("on")))?;
                    }
                    let mut connection = context.database()?;
                    match run(&pool, &mut connection, slow, Access::ReadOnly, context.deadline()) {
                        Err(_) if own => {
                            Err(Error::new(StatusCode::GATEWAY_TIMEOUT, "as the handler has it"))
                        }
                        ran => Ok(ran.map(|()| Response::text("slept"))?),
                    }
                };
                let server = start(server.route(Method::POST, "/write", handler));
                let before = table.rows("row");
                let answer = ask(&server, "POST", "/write");
                match (commits, own) {
                    (true, false) => assert_unknown(&answer),
                    (false, _) => assert_problem(&answer, 504, "longer than"),
                    // The poller was first, and does not know the handler's own answer.
                    (true, true) if answer.status == 500 => assert_unknown(&answer),
                    (true, true) => assert_problem(&answer, 504, "as the handler has it"),
                }
                assert_eq!(table.rows("row") - before, u32::from(commits), "{connector}, {way:?}");
                server.drain();
            }
        }
    }
}

#[test]
fn a_database_that_is_lost_after_a_commit_is_no_plain_503() {
    let database = with_table();
    for commits in [true, false] {
        let forwarder = Forwarder::to(Postgres::shared().port());
        let (gate, keeper) = gate();
        let (server, pool) = server_within(&forwarded(&database, &forwarder), PATIENCE, "");
        let handler = move |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
            if commits {
                write(&pool, &mut context.database()?, Way::Alone, || Ok(Response::text("on")))?;
            }
            let mut connection = context.database()?;
            gate.pass()?;
            run(
                &pool,
                &mut connection,
                "insert into t values ('second')",
                Access::ReadWrite,
                context.deadline(),
            )?;
            Ok(Response::text("written"))
        };
        let server = start(server.route(Method::POST, "/write", handler));
        let mut client = Client::connect(server.address());
        client.request("POST", "/write", &[], "");
        keeper.wait_for_one();
        forwarder.cut();
        keeper.let_through(1);
        let answer = client.answer();
        if commits {
            assert_unknown(&answer);
        } else {
            assert_problem(&answer, 503, "not available");
        }
        drop(client);
        server.drain();
    }
    assert_eq!([rows(&database, "row"), rows(&database, "second")], ["1", "0"]);
}

/// A function may write, and nothing in the text of its `select` says so.
#[test]
fn a_select_of_a_request_that_may_write_may_have_written() {
    let database = with_table();
    database.psql(
        "create function f(label text) returns text language sql as 'insert into t values (label) returning label'",
    );
    for (method, transaction, sql, label, unknown) in [
        ("POST", None, "select f($1)", "posted", true),
        ("GET", None, "select $1::text", "got", false),
        ("POST", Some(Access::ReadOnly), "select $1::text", "looked", false),
        ("POST", Some(Access::ReadWrite), "select f($1)", "undone", false),
    ] {
        let forwarder = Forwarder::to(Postgres::shared().port());
        let (server, _) = server_within(&forwarded(&database, &forwarder), PATIENCE, "");
        let handler = move |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
            let mut connection = context.database()?;
            let session = connection.postgres()?;
            match transaction {
                None => session.query(sql, &[&label]).map(drop)?,
                Some(access) => {
                    session.transaction(access, |session| session.query(sql, &[&label]).map(drop))?;
                }
            }
            Ok(Response::text("asked"))
        };
        let method_of = Method::from_bytes(method.as_bytes()).expect("a method");
        let server = start(server.route(method_of, "/ask", handler));
        forwarder.once(label, Then::CutAnswer);
        let answer = ask(&server, method, "/ask");
        if unknown {
            assert_unknown(&answer);
        } else {
            assert_problem(&answer, 503, "not available");
        }
        assert_eq!(rows(&database, label), if unknown { "1" } else { "0" }, "{method} {sql}");
        server.drain();
    }
}

/// A procedure ends its own transactions, so an error of it says nothing of what it has done before.
#[test]
fn a_procedure_that_fails_after_its_own_commit_is_not_run_again_and_no_plain_refusal() {
    let database = with_table();
    database.psql(
        "create procedure halves(label text) language plpgsql as $$ begin \
           insert into t values (label); \
           commit; \
           if label = 'slow' then perform pg_sleep(100); end if; \
           raise exception 'collided' using errcode = '40001'; \
         end $$",
    );
    let endpoints = "[endpoint.halves]\nroute = 'POST /halves/{label}'\nparams.label = 'text'\nreturns = 'none'\n\
                     deadline = '600ms'\nsql = 'call halves(:label)'";
    let server = start(super::server(&database.url(), "", endpoints));
    for label in ["slow", "collided"] {
        assert_unknown(&ask(&server, "POST", &format!("/halves/{label}")));
        assert_eq!(rows(&database, label), "1", "{label}");
    }
    server.drain();
}

/// One statement that is run several times outside a transaction: each run commits by itself.
#[test]
fn a_run_that_is_cancelled_says_nothing_of_those_before_it() {
    let database = with_table();
    let (server, _) = server_within(&database.url(), Duration::from_millis(400), "");
    let handler = |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
        let mut connection = context.database()?;
        let insert = "insert into t select $1 from pg_sleep($2)";
        connection.postgres()?.execute_each(insert, &[&[&"first", &0.0], &[&"second", &100.0]])?;
        Ok(Response::text("written"))
    };
    let server = start(server.route(Method::POST, "/write", handler));
    assert_unknown(&ask(&server, "POST", "/write"));
    assert_eq!([rows(&database, "first"), rows(&database, "second")], ["1", "0"]);
    server.drain();
}

/// PostgreSQL looks at a cancel that came during a commit when it next logs something, which is after that commit: then it
/// answers COMMIT with "canceling statement due to user request".
#[test]
fn a_cancel_that_comes_too_late_for_a_commit_is_no_proof() {
    let options = "-c fsync=on -c synchronous_commit=on -c commit_delay=100000 -c commit_siblings=0 \
                   -c log_min_duration_statement=0";
    let cluster = Postgres::start_with("true", options);
    cluster.psql("postgres", "create table t (label text)");
    let endpoints = "[endpoint.both]\nroute = 'POST /both'\ndeadline = '60ms'\n\
                     step = [{ sql = \"insert into t values ('both')\" }, { sql = 'select 1' }]";
    let server = start(super::server(&cluster.url(), "", endpoints));
    for _ in 0..5 {
        let before = cluster.psql("postgres", "select count(*) from t");
        let answer = ask(&server, "POST", "/both");
        // The commit has the lock of its transaction until it is done.
        cluster.psql("postgres", "begin; lock table t in access exclusive mode; commit");
        let committed = cluster.psql("postgres", "select count(*) from t") != before;
        match answer.status {
            204 => assert!(committed),
            500 => assert_unknown(&answer),
            _ => assert!(!committed, "{}: {}", answer.status, answer.text()),
        }
    }
    server.drain();
}

/// The head said 200, so the client can only learn that the answer is not whole. The counts say more.
#[test]
fn a_stream_that_is_taken_back_commits_nothing_afterwards() {
    for ((table, way), first) in
        all_ways().into_iter().map(|each| (each, false)).chain([((Table::in_postgres(), Way::Alone), true)])
    {
        let ((gate, keeper), (ended, has_ended)) = (gate(), unbounded());
        let (server, pool) = server_within(&table.url(), Duration::from_millis(400), "");
        let handler = move |_: &Request, context: &mut Context<'_>| -> Result<Response, Error> {
            let (pool, gate, ended) = (pool.clone(), gate.clone(), ended.clone());
            let mut connection = context.database()?;
            Ok(Response::stream("text/plain", move |_| {
                if first {
                    let until = Deadline::after(PATIENCE);
                    run(&pool, &mut connection, "insert into t values ('first')", Access::ReadWrite, until)?;
                }
                let written = write(&pool, &mut connection, way, || gate.pass());
                ended.send(written.map_err(|error| format!("{error:?}")))?;
                Ok(())
            }))
        };
        let server = start(server.route(Method::POST, "/stream", handler));
        let mut client = Client::connect(server.address());
        client.request("POST", "/stream", &[], "");
        keeper.wait_for_one();
        let status = if first { 500 } else { 504 };
        wait_until("the stream is not taken back", || counted(&server, status) == 1);
        keeper.let_through(1);
        let written = has_ended.recv_timeout(PATIENCE).expect("the stream's writer comes to its end");
        assert!(written.is_err(), "{way:?}");
        assert_eq!((table.rows("first"), table.rows("row")), (u32::from(first), 0), "{way:?}");
        client.rest();
        assert!(client.was_reset());
        drop(client);
        server.drain();
    }
}
