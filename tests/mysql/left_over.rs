//! What one request leaves on its session is not there for the next one, although both have the same session.

use wharf::server::Running;

use crate::support::{Mariadb, assert_nothing_is_left, assert_problem};
use crate::{ask, get, serve, value, write};

/// Something that stays on a session: its name, the statements of a write that leaves it, and SQL that shows it.
struct Left {
    name: &'static str,
    steps: &'static [&'static str],
    shows: &'static str,
}

const LEFT: &[Left] = &[
    Left { name: "variable", steps: &["set @caller = 'ann'"], shows: "select @caller" },
    Left { name: "assigned", steps: &["select @caller := 'ann'", "do 1"], shows: "select @caller" },
    Left { name: "into", steps: &["select 'ann' into @caller"], shows: "select @caller" },
    Left { name: "by_procedure", steps: &["call leave_variable()"], shows: "select @caller" },
    Left { name: "time_zone", steps: &["set time_zone = '+09:00'"], shows: "select @@time_zone" },
    Left { name: "sql_mode", steps: &["set session sql_mode = ''"], shows: "select @@sql_mode" },
    Left { name: "sql_mode_by_procedure", steps: &["call leave_mode()"], shows: "select @@sql_mode" },
    Left {
        name: "ansi_quotes",
        steps: &["set sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'"],
        shows: "select 'a\\nb'",
    },
    Left { name: "names", steps: &["set names latin1"], shows: "select @@character_set_results" },
    Left {
        name: "isolation",
        steps: &["set session transaction isolation level serializable"],
        shows: "select @@tx_isolation",
    },
    Left { name: "autocommit", steps: &["set autocommit = 0"], shows: "select @@autocommit" },
    Left {
        name: "limit",
        steps: &["set sql_select_limit = 1"],
        shows: "select count(*) from (select 1 union all select 2) t",
    },
    Left {
        name: "foreign_keys",
        steps: &["set foreign_key_checks = 0"],
        shows: "select @@foreign_key_checks",
    },
    Left { name: "read_only", steps: &["set session transaction read only"], shows: "select @@tx_read_only" },
    Left {
        name: "lock_wait",
        steps: &["set innodb_lock_wait_timeout = 7"],
        shows: "select @@innodb_lock_wait_timeout",
    },
    Left { name: "insert_id", steps: &["insert into numbered values ()"], shows: "select last_insert_id()" },
    Left {
        name: "temporary_table",
        steps: &["create temporary table whose as select 'ann' as owner"],
        shows: "select owner from whose",
    },
    Left { name: "temporary_by_procedure", steps: &["call leave_table()"], shows: "select owner from whose" },
    Left { name: "lock", steps: &["do get_lock('mine', 0)"], shows: "select is_used_lock('mine') is null" },
    Left {
        name: "lock_by_function",
        steps: &["do leave_lock()"],
        shows: "select is_used_lock('hidden') is null",
    },
    Left { name: "lock_tables", steps: &["lock tables numbered read"], shows: "select count(*) from whose" },
    Left {
        name: "rand",
        steps: &["set rand_seed1 = 1, rand_seed2 = 1"],
        shows: "select rand() = 0.00000027939677283",
    },
    Left { name: "role", steps: &["set role none"], shows: "select current_role()" },
    Left { name: "timestamp", steps: &["set timestamp = 1"], shows: "select year(now()) > 2000" },
];

const SCHEMA: &str = "
    create table whose (owner varchar(20)); insert into whose values ('everybody');
    create table numbered (id int auto_increment primary key);
    create procedure leave_variable() set @caller = 'ann';
    create procedure leave_mode() set session sql_mode = '';
    create procedure leave_table() create temporary table whose as select 'ann' as owner;
    create function leave_lock() returns int return get_lock('hidden', 0)";

fn start(database: &crate::support::MariaDatabase) -> Running {
    database.sql(SCHEMA);
    let mut endpoints = value("id", "select connection_id()");
    for left in LEFT {
        let steps: Vec<String> =
            left.steps.iter().map(|sql| format!("{{ sql = \"{}\" }}", sql.replace('\\', "\\\\"))).collect();
        endpoints += &if steps.len() == 1 {
            write(&format!("leave_{}", left.name), left.steps[0])
        } else {
            format!(
                "[endpoint.leave_{}]\nroute = 'POST /leave_{}'\nstep = [{}]\n",
                left.name,
                left.name,
                steps.join(", ")
            )
        };
        endpoints += &value(&format!("show_{}", left.name), left.shows);
        // A write sees what a write has left, if the session keeps something for those alone.
        endpoints += &format!(
            "[endpoint.seen_{name}]\nroute = 'POST /seen_{name}'\nreturns = 'value'\nstatus = 200\n\
             step = [{{ sql = 'insert into numbered values ()' }}, {{ sql = \"{}\" }}]\n",
            left.shows.replace('\\', "\\\\"),
            name = left.name,
        );
    }
    serve(&database.url(), &endpoints)
}

#[test]
fn nothing_that_a_request_leaves_is_met_by_the_next_one() {
    let database = Mariadb::database();
    let server = start(&database);
    let mut failures = Vec::new();
    for left in LEFT {
        let show = format!("/show_{}", left.name);
        let seen = |path: &str, method: &str| {
            let answer = ask(&server, method, path);
            format!("{} {}", answer.status, answer.text())
        };
        let written = format!("/seen_{}", left.name);
        // The write itself changes the last number that was given out.
        let by_write = left.name != "insert_id";
        let before = (seen(&show, "GET"), by_write.then(|| seen(&written, "POST")));
        for round in 0..2 {
            let done = ask(&server, "POST", &format!("/leave_{}", left.name));
            let after = (seen(&show, "GET"), by_write.then(|| seen(&written, "POST")));
            if before != after {
                failures.push(format!(
                    "{} ({round}, {}): {before:?} before, {after:?} after",
                    left.name, done.status
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_nothing_is_left(server);
}

/// A session that a request has left dirty serves the next one without being opened again, as long as it can be made clean.
#[test]
fn ordinary_requests_keep_their_session_and_its_statements() {
    let database = Mariadb::database();
    let server = start(&database);
    let session = get(&server, "/id");
    let prepared = || -> i64 {
        let all = database.sql("show global status like 'Com_stmt_prepare'");
        all.split('\t').next_back().and_then(|count| count.parse().ok()).expect("a count")
    };
    for _ in 0..3 {
        assert_eq!(get(&server, "/show_limit"), "2");
        assert_eq!(ask(&server, "POST", "/seen_limit").status, 200);
    }
    let before = prepared();
    for _ in 0..20 {
        assert_eq!(get(&server, "/show_limit"), "2");
        assert_eq!(ask(&server, "POST", "/seen_limit").status, 200);
        assert_eq!(get(&server, "/id"), session);
    }
    // Other tests of this process prepare statements too, so only a multitude would show.
    assert!(prepared() - before < 10_000);
    assert_nothing_is_left(server);
}

#[test]
fn another_database_that_a_request_uses_is_not_the_next_ones() {
    let (database, other) = (Mariadb::database(), Mariadb::database());
    other.sql("create table whose (owner varchar(20)); insert into whose values ('nobody')");
    database.sql(&format!(
        "create table whose (owner varchar(20)); insert into whose values ('everybody'); create table t (x int)"
    ));
    let endpoints = value("whose", "select owner from whose")
        + &value("database", "select database()")
        + &write("use", &format!("use {}", other.name()));
    // MariaDB does not prepare USE, which is as good as a refusal.
    let config = crate::configuration(&database.url(), 1, "", &endpoints);
    if let Ok(server) = wharf::server::Server::new(config) {
        let server = server.start().expect("a free port");
        for _ in 0..2 {
            let used = ask(&server, "POST", "/use");
            assert_eq!(get(&server, "/whose"), "\"everybody\"", "after {}", used.status);
            assert_eq!(get(&server, "/database"), format!("\"{}\"", database.name()));
        }
        assert_nothing_is_left(server);
    }
}

/// A transaction that a statement opens is rolled back.
#[test]
fn a_transaction_that_is_left_open_is_undone() {
    let database = Mariadb::database();
    database.sql("create table t (x int)");
    let endpoints = value("count", "select count(*) from t")
        + &value(
            "open",
            "select count(*) from information_schema.innodb_trx where trx_mysql_thread_id = connection_id()",
        )
        + &write("begin", "start transaction")
        + &write("add", "insert into t values (1)");
    let config = crate::configuration(&database.url(), 1, "", &endpoints);
    let Ok(server) = wharf::server::Server::new(config) else { return };
    let server = server.start().expect("a free port");
    for round in 1..3 {
        let begun = ask(&server, "POST", "/begin");
        assert_eq!(ask(&server, "POST", "/add").status, 204);
        assert_eq!(
            database.sql("select count(*) from t"),
            round.to_string(),
            "it was committed, after {}",
            begun.status
        );
        assert_eq!(get(&server, "/count"), round.to_string());
    }
    assert_nothing_is_left(server);
}

/// An error must not keep a session in a state either.
#[test]
fn a_request_that_fails_leaves_nothing() {
    let database = Mariadb::database();
    database.sql("create table t (x int primary key); insert into t values (1)");
    let endpoints = value("count", "select count(*) from t")
        + &value("caller", "select @caller")
        + "[endpoint.fail]\nroute = 'POST /fail'\n\
           step = [{ sql = \"set @caller = 'ann'\" }, { sql = 'insert into t values (2)' }, { sql = 'insert into t values (1)' }]\n";
    let server = serve(&database.url(), &endpoints);
    for _ in 0..3 {
        assert_problem(&ask(&server, "POST", "/fail"), 409, "");
        assert_eq!(get(&server, "/caller"), "null");
        assert_eq!(get(&server, "/count"), "1");
    }
    assert_nothing_is_left(server);
}
