//! A privilege that the database's user lacks: `check` reports it before any request, and the log after one.

use crate::support::{Database, Exit, Postgres, Wharf, assert_problem};

const TABLES: &str = "
    create table open (id serial primary key, name text);
    create table named (id int generated always as identity, name text);
    create table shut (id int primary key, name text);
    create table half (id int primary key, name text, salary int);
    create view through as select * from shut;
    create view shut_view as select 1 as one;
    create function shut_function() returns int language sql volatile as 'select 1';
    create function strict_function(a int) returns int language sql strict immutable as 'select a';
    create function inside() returns int language plpgsql as $$ begin return (select count(*) from shut); end $$;
    create procedure shut_procedure() language sql as 'select 1';
    revoke execute on function shut_function(), strict_function(int) from public;
    revoke execute on procedure shut_procedure() from public";

fn database(role: &str) -> (Database, String) {
    let database = Postgres::database();
    database.psql(TABLES);
    database.psql(&format!(
        "create role {role} login; grant select, insert on open, named to {role}; grant select (id, name), update (name) on half to {role};
         grant select on through to {role}"
    ));
    let url = database.url().replace("postgres@", &format!("{role}@"));
    (database, url)
}

/// A statement in an endpoint of this method; `:a` in it is a parameter.
fn endpoint(name: &str, method: &str, sql: &str) -> String {
    let params = if sql.contains(":a") { "params = { a = 'int' }\n" } else { "" };
    format!("[endpoint.{name}]\nroute = '{method} /{name}'\n{params}sql = \"{sql}\"\n")
}

fn check(url: &str, endpoints: &str) -> Exit {
    Wharf::run(&format!("[database]\nurl = '{url}'\n{endpoints}"), &["check"], &[])
}

#[test]
fn check_asks_for_the_privileges_of_each_statement() {
    let (database, url) = database("checked");
    let missing = [
        ("table", "GET", "select name from shut where id = :a", "permission denied for table shut"),
        ("insert", "POST", "insert into shut values (:a, 'x')", "permission denied for table shut"),
        ("update", "POST", "update open set name = 'x' where id = :a", "permission denied for table open"),
        ("delete", "DELETE", "delete from half where id = :a", "permission denied for table half"),
        ("column", "GET", "select salary from half where id = :a", "permission denied for table half"),
        (
            "set_column",
            "POST",
            "update half set salary = :a where id = 1",
            "permission denied for table half",
        ),
        ("view", "GET", "select one from shut_view", "permission denied for view shut_view"),
        ("function", "GET", "select shut_function() as a", "permission denied for function shut_function"),
        (
            "strict",
            "GET",
            "select strict_function(:a) as a",
            "permission denied for function strict_function",
        ),
        (
            "sequence",
            "POST",
            "insert into open (name) values ('x')",
            "permission denied for sequence open_id_seq",
        ),
        (
            "never",
            "GET",
            "select name from shut where :a::int = 1 and false",
            "permission denied for table shut",
        ),
    ];
    let fine = [
        ("reads", "GET", "select id, name from open where id = :a -- to its end"),
        ("numbers", "POST", "insert into open values (:a, 'x')"),
        ("identity", "POST", "insert into named (name) values ('x')"),
        ("through", "GET", "select name from through where id = :a"),
        ("columns", "POST", "update half set name = 'x' where id = :a"),
        // These are seen only when they run.
        ("within", "GET", "select inside() as a"),
        ("procedure", "POST", "call shut_procedure()"),
    ];
    let of_missing = missing.map(|(name, method, sql, _)| endpoint(name, method, sql)).concat();
    let of_fine = fine.map(|(name, method, sql)| endpoint(name, method, sql)).concat();
    let exit = check(&url, &of_fine);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let exit = check(&url, &(of_missing + &of_fine));
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    for (name, _, _, said) in missing {
        let line = format!("endpoint.{name}.sql: the database's user may not run this: {said}; grant it");
        assert!(exit.stderr.contains(&line), "no {line:?}:\n{}", exit.stderr);
    }
    assert!(exit.stderr.ends_with(&format!("{} problems\n", missing.len())), "{}", exit.stderr);
    // Asking has run nothing.
    assert_eq!(database.psql("select count(*) from open"), "0");
    assert_eq!(database.psql("select is_called from open_id_seq"), "f");
}

#[test]
fn a_privilege_that_is_missing_when_it_is_needed_is_logged_as_an_error() {
    let (database, url) = database("denied");
    let endpoints = endpoint("orders", "GET", "select name from open where id = :a")
        + &endpoint("within", "GET", "select inside() as a")
        + "[endpoint.both]\nroute = 'POST /both'\nstep = [{ sql = 'select 1' }, { sql = 'select inside()' }]\n\
           [endpoint.rule]\nroute = 'GET /rule'\nsql = 'select refuse() as a'\n";
    database.psql(
        "create function refuse() returns int language plpgsql as
         $$ begin raise insufficient_privilege using message = 'not today'; end $$",
    );
    let wharf = Wharf::start(&format!("[database]\nurl = '{url}'\n{endpoints}"));
    assert_eq!(wharf.get("/orders?a=1").status, 200);
    database.psql("revoke select on open from denied");
    for (method, path, place, said) in [
        ("GET", "/orders?a=1", "endpoint.orders", "permission denied for table open"),
        ("GET", "/within", "endpoint.within", "permission denied for table shut"),
        ("POST", "/both", "endpoint.both.step[2]", "permission denied for table shut"),
    ] {
        let answer = wharf.request(method, path, &[("X-Request-Id", "mine")], "");
        assert_problem(&answer, 403, "not permitted");
        assert!(!answer.text().contains("table"), "{}", answer.text());
        let path = path.trim_end_matches("?a=1");
        let line =
            format!("request mine: {method} {path}: 403 Forbidden: not permitted ({place}: {said} (42501))");
        wharf.wait_for_log(&line);
    }
    let log = wharf.log();
    assert_eq!(log.matches("ERROR").count(), 3, "{log}");
    // A function that refuses on purpose is a rule, and not a mistake.
    assert_problem(&wharf.get("/rule"), 403, "not permitted");
    assert_eq!(wharf.log().matches("ERROR").count(), 3, "{}", wharf.log());
}
