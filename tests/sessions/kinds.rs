//! Each kind of state: a function, a handler or the steps of a transaction leave it, and the next request does not see it.

use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};

use super::served::{
    ask, assert_leaves_something, endpoint, look, looking, run_command, running, serve, server, steps,
};
use crate::support::{Database, Postgres, wait_until};

/// One kind of state.
struct Kind {
    /// How a function leaves it, in PL/pgSQL.
    function: &'static str,
    /// How a command leaves it.
    command: &'static str,
    /// An expression that shows it.
    look: &'static str,
    /// Whether it is a write to PostgreSQL, so that no GET can leave it.
    writes: bool,
    /// Whether the session may be closed for it.
    may_close: bool,
}

/// Tables, and functions to look at a session. Roles belong to a whole cluster, so each test has its own.
const SCHEMA: &str = "
    create role ROLE; grant ROLE to current_user;
    create table whose as select 'everybody'::text as owner;
    create schema other; create table other.whose as select 'nobody'::text as owner;
    grant usage on schema other to ROLE; grant select on whose, other.whose to ROLE;
    create table numbered (id int generated always as identity);
    create function last_number() returns text language plpgsql as $$
        begin return lastval(); exception when others then return 'none'; end $$;
    create function current_number() returns text language plpgsql as $$
        begin return currval('numbered_id_seq'); exception when others then return 'none'; end $$";

/// The key of the advisory lock.
const LOCK: &str = "77";

fn kind(name: &str) -> Kind {
    let kind = |function, command, look| Kind { function, command, look, writes: false, may_close: false };
    let writing = |function, command, look| Kind { writes: true, ..kind(function, command, look) };
    match name {
        "role" => kind("execute 'set role ROLE';", "set role ROLE", "current_user"),
        "session_authorization" => kind(
            "execute 'set session authorization ROLE';",
            "set session authorization ROLE",
            "session_user",
        ),
        "search_path" => kind(
            "perform set_config('search_path', 'other', false);",
            "set search_path = other",
            "select owner from whose",
        ),
        "setting_of_its_own" => kind(
            "perform set_config('app.caller', 'ann', false);",
            "set app.caller = 'ann'",
            "current_setting('app.caller', true)",
        ),
        "time_zone" => kind(
            "perform set_config('TimeZone', 'Asia/Tokyo', false);",
            "set time zone 'Asia/Tokyo'",
            "timestamptz '2026-01-31 00:00:00Z'::text",
        ),
        "date_style" => kind(
            "perform set_config('DateStyle', 'German', false);",
            "set datestyle = 'German'",
            "date '2026-01-31'::text",
        ),
        "temporary_table" => writing(
            "create temp table whose as select 'somebody'::text as owner;",
            "create temp table whose as select 'somebody'::text as owner",
            "select owner from whose",
        ),
        "temporary_view" => writing(
            "create temp view whose as select 'somebody'::text as owner;",
            "create temp view whose as select 'somebody'::text as owner",
            "select owner from whose",
        ),
        "temporary_function" => writing(
            "create function pg_temp.sly() returns int language sql as 'select 1';",
            "create function pg_temp.sly() returns int language sql as 'select 1'",
            "select count(*) from pg_proc where pronamespace = pg_my_temp_schema()",
        ),
        "advisory_lock" => kind(
            "perform pg_advisory_lock(77);",
            "select pg_advisory_lock(77)",
            "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        ),
        "channel_to_listen_on" => {
            kind("execute 'listen news';", "listen news", "select count(*) from pg_listening_channels()")
        }
        "cursor" => kind(
            "execute 'declare kept cursor with hold for select 1';",
            "declare kept cursor with hold for select 1",
            "select count(*) from pg_cursors where is_holdable",
        ),
        "prepared_statement" => Kind {
            may_close: true,
            ..kind(
                "execute 'prepare sly as select 1';",
                "prepare sly as select 1",
                "select count(*) from pg_prepared_statements where from_sql",
            )
        },
        "number_of_a_sequence" => writing(
            "insert into numbered default values;",
            "insert into numbered default values",
            "last_number() || current_number()",
        ),
        _ => panic!("{name} is no kind"),
    }
}

/// A database with the schema, where `leave()` leaves this kind of state.
fn database_that_leaves(kind: &Kind) -> (Database, impl Fn(&str) -> String) {
    let database = Postgres::database();
    let role = format!("{}_guest", database.name());
    let named = move |text: &str| text.replace("ROLE", &role);
    database.psql(&named(SCHEMA));
    let function = format!(
        "create function leave() returns int language plpgsql as $leave$ begin {} return 1; end $leave$",
        kind.function
    );
    database.psql(&named(&function));
    assert_leaves_something(&database, "select leave()", kind.look);
    (database, named)
}

impl Kind {
    fn method(&self) -> &'static str {
        if self.writes { "POST" } else { "GET" }
    }
}

/// Somebody else can have the lock.
fn assert_nobody_has_the_lock(database: &Database) {
    let try_it = format!("select pg_try_advisory_lock({LOCK})");
    wait_until("the lock is held", || database.psql(&try_it) == "t");
}

fn by_function(name: &str) {
    let kind = kind(name);
    let (database, _) = database_that_leaves(&kind);
    let leaving = endpoint(kind.method(), "leave", "select leave()");
    let server = serve(&database.url(), &(leaving + &looking(kind.look)));
    let clean = look(&server);
    // The second time everything is known of the statement.
    for _ in 0..2 {
        let left = ask(&server, kind.method(), "/leave");
        assert!(left.status < 300, "{}", left.text());
        let seen = look(&server);
        assert_eq!(seen.state, clean.state, "the next request sees what the function left");
        assert!(kind.may_close || seen.pid == clean.pid, "the session was closed for it");
    }
    assert_nobody_has_the_lock(&database);
    server.drain();
}

/// Wharf may run the command and clean the session, or refuse the command.
fn by_handler(name: &str) {
    let kind = kind(name);
    let (database, named) = database_that_leaves(&kind);
    let server = server(&database.url(), "", &looking(kind.look)).get("/run", run_command);
    let server = server.start().expect("a free port");
    let clean = look(&server);
    for command in [kind.command, "select leave()"] {
        for _ in 0..2 {
            ask(&server, "GET", &running(&named(command)));
            let seen = look(&server);
            assert_eq!(seen.state, clean.state, "the next request sees what {command:?} left");
            assert!(kind.may_close || seen.pid == clean.pid, "the session was closed for {command:?}");
        }
    }
    assert_nobody_has_the_lock(&database);
    server.drain();
}

fn by_steps(name: &str) {
    let kind = kind(name);
    let (database, _) = database_that_leaves(&kind);
    let endpoints = steps(kind.method(), "leave", &["select 1", "select leave()", "select 3"])
        + &steps(kind.method(), "fail", &["select 1", "select leave()", "select 1 / 0"])
        + &looking(kind.look);
    let server = serve(&database.url(), &endpoints);
    let clean = look(&server);
    for (path, status) in [("/leave", 200), ("/fail", 400), ("/leave", 200)] {
        let left = ask(&server, kind.method(), path);
        assert_eq!(left.status, status, "{}", left.text());
        let seen = look(&server);
        assert_eq!(seen.state, clean.state, "the next request sees what the steps of {path} left");
        assert!(kind.may_close || seen.pid == clean.pid, "the session was closed for {path}");
    }
    assert_nobody_has_the_lock(&database);
    server.drain();
}

macro_rules! each {
    ($leave:ident: $($name:ident)*) => {
        $(#[test]
        fn $name() {
            super::$leave(stringify!($name));
        })*
    };
}

mod a_function_leaves_no {
    each!(by_function: role session_authorization search_path setting_of_its_own time_zone date_style temporary_table
        temporary_view temporary_function advisory_lock channel_to_listen_on cursor prepared_statement number_of_a_sequence);
}

mod a_handler_leaves_no {
    each!(by_handler: role session_authorization search_path setting_of_its_own time_zone date_style temporary_table
        temporary_view temporary_function advisory_lock channel_to_listen_on cursor prepared_statement number_of_a_sequence);
}

mod a_transaction_leaves_no {
    each!(by_steps: role session_authorization search_path setting_of_its_own time_zone date_style temporary_table
        temporary_view temporary_function advisory_lock channel_to_listen_on cursor prepared_statement number_of_a_sequence);
}

/// A lock of a session outlives the statement that took it and failed, and so does what a procedure has committed.
#[test]
fn a_statement_that_fails_leaves_nothing_either() {
    let database = Postgres::database();
    database.psql(
        "create function lock_and_fail() returns int language plpgsql as
             $$ begin perform pg_advisory_lock(77); raise exception 'no'; end $$;
         create function lock_and_sleep() returns int language plpgsql as
             $$ begin perform pg_advisory_lock(77); perform pg_sleep(100); return 1; end $$;
         create procedure commit_and_fail() language plpgsql as
             $$ begin perform set_config('app.user', 'ann', false); perform pg_advisory_lock(77); commit;
                raise exception 'no'; end $$",
    );
    let endpoints = endpoint("GET", "lock_and_fail", "select lock_and_fail()")
        + &endpoint("GET", "lock_and_sleep", "select lock_and_sleep()")
        + "deadline = '200ms'\n"
        + &endpoint("POST", "commit_and_fail", "call commit_and_fail()")
        + &looking(
            "coalesce(current_setting('app.user', true), '') ||
             (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())",
        );
    let server = serve(&database.url(), &endpoints);
    let mut wrong = Vec::new();
    for (method, path, status) in [
        ("GET", "/lock_and_fail", 400),
        ("POST", "/commit_and_fail", 400),
        // It is cancelled, and a session that a cancel was sent to is closed.
        ("GET", "/lock_and_sleep", 504),
    ] {
        let answer = ask(&server, method, path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let state = look(&server).state;
        if state != "0" {
            wrong.push((path, state));
        }
    }
    assert!(wrong.is_empty(), "the next request sees what failed statements left: {wrong:?}");
    assert_nobody_has_the_lock(&database);
    server.drain();
}

fn set_and_panic(_: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let mut connection = context.database()?;
    let session = connection.postgres()?;
    session.query("select set_config('app.caller', 'ann', false)", &[])?;
    session.query("select pg_advisory_lock(77)", &[])?;
    panic!("with all that in its hands");
}

#[test]
fn a_handler_that_panics_leaves_nothing_either() {
    let database = Postgres::database();
    let looking = looking(
        "coalesce(current_setting('app.caller', true), '') ||
         (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())",
    );
    let server = server(&database.url(), "", &looking).get("/panic", set_and_panic);
    let server = server.start().expect("a free port");
    for _ in 0..2 {
        assert_eq!(look(&server).state, "0");
        assert_eq!(ask(&server, "GET", "/panic").status, 500);
    }
    assert_eq!(look(&server).state, "0");
    assert_nobody_has_the_lock(&database);
    server.drain();
}
