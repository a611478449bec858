//! A view, a policy, a trigger and other things call functions that no statement names. Their state is gone as well.

use super::served::{ask, endpoint, look, looking, run_command, running, serve, server};
use crate::support::Postgres;

/// The functions that leave a setting and a lock. The last two lie about what they do.
const LEAVING: &str = "
    create function leave() returns int language plpgsql as
        $$ begin perform set_config('app.user', 'ann', false), pg_advisory_lock(77); return 1; end $$;
    create function leave_in_sql() returns text language sql as
        $$ select set_config('app.user', 'ann', false) || pg_try_advisory_lock(77) $$;
    create function leave_on_change() returns trigger language plpgsql as
        $$ begin perform leave(); return new; end $$;
    create function leave_stable() returns int language plpgsql stable as
        $$ begin perform set_config('app.user', 'ann', false), pg_advisory_lock(77); return 1; end $$;
    create function leave_immutable(int) returns int language plpgsql immutable as
        $$ begin perform set_config('app.user', 'ann', false), pg_advisory_lock(77); return $1; end $$;
    create function leave_unseen(int) returns int language plpgsql as
        $$ begin perform leave(); return $1; end $$;";

/// Name, what is made for it, method, statement.
const HIDDEN: [(&str, &str, &str, &str); 17] = [
    ("function_in_sql", "", "GET", "select leave_in_sql()"),
    ("stable", "", "GET", "select leave_stable()"),
    ("immutable", "", "GET", "select leave_immutable(1)"),
    ("condition", "create table c as select 1 as n", "GET", "select n from c where leave() = n"),
    (
        "estimate",
        "create table e as select n from generate_series(1, 9) n; analyze e",
        "GET",
        "select count(*) from e where n = leave_stable()",
    ),
    ("view", "create view v as select 1 as n, leave() as m", "GET", "select * from v"),
    (
        "materialized",
        "create materialized view mv as select leave() as n with no data",
        "POST",
        "refresh materialized view mv",
    ),
    (
        "policy",
        "create table guarded as select 1 as n; alter table guarded enable row level security;
         create policy p on guarded using (leave() = 1)",
        "GET",
        "select n from guarded",
    ),
    (
        "trigger",
        "create table watched (n int);
         create trigger w before insert on watched for each row execute function leave_on_change()",
        "POST",
        "insert into watched values (1)",
    ),
    (
        "deferred_trigger",
        "create table late (n int); create constraint trigger l after insert on late
             deferrable initially deferred for each row execute function leave_on_change()",
        "POST",
        "insert into late values (1)",
    ),
    (
        "default_value",
        "create table d (n int default leave(), m int)",
        "POST",
        "insert into d (m) values (1)",
    ),
    ("check_constraint", "create table k (n int check (leave() = n))", "POST", "insert into k values (1)"),
    (
        "index",
        "create table i (n int); create index on i (leave_immutable(n))",
        "POST",
        "insert into i values (2)",
    ),
    ("domain", "create domain one as int check (leave() = value)", "GET", "select 1::one::int"),
    ("operator", "create operator !+ (rightarg = int, function = leave_unseen)", "GET", "select !+ 1"),
    (
        "rule",
        "create table r (n int); create rule r as on insert to r do also select leave()",
        "POST",
        "insert into r values (1)",
    ),
    (
        "procedure",
        "create procedure leave_and_commit() language plpgsql as $$ begin perform leave(); commit; end $$",
        "POST",
        "call leave_and_commit()",
    ),
];

const LOOK: &str = "concat(current_setting('app.user', true),
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()))";

#[test]
fn a_function_that_hides_leaves_nothing() {
    let database = Postgres::database();
    let role = format!("{}_user", database.name());
    database.psql(LEAVING);
    let mut endpoints = looking(LOOK);
    for (name, made, method, sql) in HIDDEN {
        if !made.is_empty() {
            database.psql(made);
        }
        endpoints += &endpoint(method, name, sql);
    }
    // Policies do not hold for a superuser.
    database.psql(&format!(
        "create role {role} login; grant all on all tables in schema public to {role};
         alter materialized view mv owner to {role}"
    ));
    let server = serve(&database.url().replace("postgres@", &format!("{role}@")), &endpoints);
    let clean = look(&server);
    assert_eq!(clean.state, "0");
    let mut left = Vec::new();
    for (name, _, method, _) in HIDDEN {
        // The first executions each make a plan of their own. Later ones share a kept plan.
        for _ in 0..7 {
            let answer = ask(&server, method, &format!("/{name}"));
            assert!(answer.status < 300, "{name}: {}", answer.text());
            let seen = look(&server);
            assert_eq!(seen.pid, clean.pid, "the session was closed for {name}");
            if seen.state != clean.state {
                left.push((name, seen.state));
                break;
            }
        }
        // Clear any leftover, so that the next statement is not blamed for it.
        ask(&server, "GET", "/look");
    }
    assert!(left.is_empty(), "the next request sees what was left by {left:?}");
    server.drain();
}

#[test]
fn a_block_that_a_handler_runs_leaves_nothing() {
    let database = Postgres::database();
    database.psql(LEAVING);
    let server = server(&database.url(), "", &looking(LOOK)).get("/run", run_command);
    let server = server.start().expect("a free port");
    let clean = look(&server);
    for block in ["do $$ begin perform leave(); end $$", "do $$ begin perform leave(); commit; end $$"] {
        let ran = ask(&server, "GET", &running(block));
        assert_eq!(ran.status, 200, "{}", ran.text());
        assert_eq!(look(&server), clean, "after {block}");
    }
    server.drain();
}

/// A statement's text does not show its effect, because the function may have been replaced.
#[test]
fn a_function_that_begins_to_leave_something_later_leaves_nothing() {
    let database = Postgres::database();
    database.psql(LEAVING);
    database.psql(
        "create function harmless() returns int language sql as 'select 1';
         create view v as select harmless() as n",
    );
    let endpoints = endpoint("GET", "call", "select harmless()")
        + &endpoint("GET", "view", "select n from v")
        + &looking(LOOK);
    let server = serve(&database.url(), &endpoints);
    let clean = look(&server);
    for _ in 0..10 {
        assert_eq!(ask(&server, "GET", "/call").text(), "1");
        assert_eq!(ask(&server, "GET", "/view").text(), "1");
    }
    database.psql("create or replace function harmless() returns int language sql as 'select leave() + 1'");
    for path in ["/call", "/view"] {
        assert_eq!(ask(&server, "GET", path).text(), "2");
        assert_eq!(look(&server), clean, "after {path}");
    }
    server.drain();
}

/// The view was harmless when the statement was prepared and first run. The server relies on the planner's answer for a
/// second.
#[test]
fn a_view_that_begins_to_call_such_a_function_soon_leaves_nothing() {
    let database = Postgres::database();
    database.psql(LEAVING);
    database.psql("create table t as select 1 as n; create view v as select n from t");
    let server = serve(&database.url(), &(endpoint("GET", "view", "select n from v") + &looking(LOOK)));
    let clean = look(&server);
    for _ in 0..10 {
        assert_eq!(ask(&server, "GET", "/view").text(), "1");
    }
    assert_eq!(look(&server), clean);
    database.psql("create or replace view v as select n from t where leave() = 1");
    crate::support::wait_until("the planner is not asked again", || {
        assert_eq!(ask(&server, "GET", "/view").text(), "1");
        look(&server) == clean
    });
    for _ in 0..3 {
        assert_eq!(ask(&server, "GET", "/view").text(), "1");
        assert_eq!(look(&server), clean, "the view calls the function now");
    }
    server.drain();
}
