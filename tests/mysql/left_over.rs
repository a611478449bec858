//! The next request on a session meets nothing of the request before it: no variable, setting, lock, table or transaction.

use wharf::database::{Access, Connection, Database, Error, RowWriter, Shape};
use wharf::deadline::Deadline;

use crate::support::{MariaDatabase, Mariadb, PATIENCE, assert_nothing_is_left};
use crate::{ask, get, look, open, refused, serve, statement, value, write};

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
    Left {
        name: "lock_by_trigger",
        steps: &["insert into triggering values ('lock')"],
        shows: "select is_used_lock('hidden') is null",
    },
    Left {
        name: "variable_by_trigger",
        steps: &["insert into triggering values ('variable')"],
        shows: "select @caller",
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
    create sequence counted;
    create table numbered (id int auto_increment primary key);
    create procedure leave_variable() set @caller = 'ann';
    create procedure leave_mode() set session sql_mode = '';
    create procedure leave_table() create temporary table whose as select 'ann' as owner;
    create table triggering (kind varchar(10));
    create trigger leaving after insert on triggering for each row
        case new.kind when 'lock' then do get_lock('hidden', 0); when 'variable' then set @caller = 'ann'; end case;
    create function leave_lock() returns int return get_lock('hidden', 0)";

fn schema(database: &MariaDatabase) {
    // Not every statement ends at its first semicolon.
    database.routine(&SCHEMA.replace(";\n    create", "//\n    create"));
}

/// A pool of one session.
struct Pool {
    database: Database,
    numbered: bool,
}

impl Pool {
    fn open(url: &str) -> Self {
        Self { database: open(url, PATIENCE).expect("the server is there"), numbered: true }
    }

    fn checkout(&self) -> Connection {
        self.database.checkout(Deadline::after(PATIENCE)).expect("a session is free")
    }

    /// A request: its statements alone, or as a transaction that is committed.
    fn request(&self, steps: &[&str], access: Access) -> Result<String, Error> {
        let mut connection = self.checkout();
        let [first, rest @ ..] = steps else { panic!("a request has a statement") };
        if rest.is_empty() && access == Access::ReadWrite {
            return look(&self.database, &mut connection, first);
        }
        let until = Deadline::after(PATIENCE);
        connection.begin(access, until)?;
        let mut last = String::new();
        for sql in steps {
            let mut out = Vec::new();
            let mut rows = RowWriter::new(&mut out, Shape::Value, 1 << 20, 1);
            connection.run(&statement(&self.database, sql), &[], access, until, &mut rows)?;
            last = String::from_utf8(out).expect("JSON is UTF-8");
        }
        connection.commit(until)?;
        Ok(last)
    }

    /// The results of three requests that look: one reads, one writes, and one writes in a transaction.
    fn seen(&self, sql: &str) -> Vec<String> {
        let told = |seen: Result<String, Error>| seen.unwrap_or_else(|error| error.in_full().into_owned());
        let mut seen =
            vec![told(self.request(&[sql], Access::ReadOnly)), told(self.request(&[sql], Access::ReadWrite))];
        if self.numbered {
            seen.push(told(self.request(&["insert into numbered values ()", sql], Access::ReadWrite)));
        }
        seen
    }
}

#[test]
fn nothing_that_a_request_leaves_is_met_by_the_next_one() {
    let database = Mariadb::database();
    schema(&database);
    let mut failures = Vec::new();
    for left in LEFT {
        let mut pool = Pool::open(&database.url());
        // The write itself changes the last number that was given out.
        pool.numbered = left.name != "insert_id";
        let before = pool.seen(left.shows);
        for round in 0..2 {
            let done = pool.request(left.steps, Access::ReadWrite);
            let after = pool.seen(left.shows);
            if before != after {
                failures
                    .push(format!("{} ({round}, {done:?}): {before:?} before, {after:?} after", left.name));
            }
            // An error in the end must not keep it either.
            let steps: Vec<&str> =
                left.steps.iter().copied().chain(["insert into nowhere values (1)"]).collect();
            let failed = pool.request(&steps, Access::ReadWrite);
            assert!(failed.is_err(), "{}", left.name);
            let after = pool.seen(left.shows);
            if before != after {
                failures.push(format!("{} ({round}, failed): {before:?} before, {after:?} after", left.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A read can leave as much as a write.
#[test]
fn nothing_that_a_read_leaves_is_met_by_the_next_one() {
    let database = Mariadb::database();
    schema(&database);
    for (read, shows) in [
        ("select @caller := 'ann'", "select @caller"),
        ("select get_lock('read', 0)", "select is_used_lock('read') is null"),
        ("select leave_lock()", "select is_used_lock('hidden') is null"),
        ("select last_insert_id(77)", "select last_insert_id()"),
        ("select nextval(counted)", "select lastval(counted)"),
    ] {
        let mut pool = Pool::open(&database.url());
        pool.numbered = shows != "select last_insert_id()";
        let before = pool.seen(shows);
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let done = pool.request(&[read], access);
            assert_eq!(pool.seen(shows), before, "{read}: {done:?}");
        }
    }
}

/// Reads, writes and transactions in turn need no new session.
#[test]
fn ordinary_requests_keep_their_session() {
    let database = Mariadb::database();
    schema(&database);
    let endpoints = value("id", "select connection_id()")
        + &value("owner", "select owner from whose")
        + "[endpoint.add]\nroute = 'POST /add'\nreturns = 'value'\nstatus = 200\n\
           step = [{ sql = 'insert into numbered values ()' }, { sql = 'select last_insert_id() > 0' }]\n"
        + &write("change", "update whose set owner = owner");
    let server = serve(&database.url(), &endpoints);
    let session = get(&server, "/id");
    let round = || {
        assert_eq!(get(&server, "/owner"), "\"everybody\"");
        assert_eq!(ask(&server, "POST", "/add").text(), "1");
        assert_eq!(ask(&server, "POST", "/change").status, 204);
        assert_eq!(get(&server, "/id"), session);
    };
    (0..20).for_each(|_| round());
    assert_nothing_is_left(server);
}

#[test]
fn another_database_that_a_request_uses_is_not_the_next_ones() {
    let (database, other) = (Mariadb::database(), Mariadb::database());
    other.sql("create table whose (owner varchar(20)); insert into whose values ('nobody')");
    database.sql("create table whose (owner varchar(20)); insert into whose values ('everybody'); create table numbered (id int auto_increment primary key)");
    let pool = Pool::open(&database.url());
    let before = pool.seen("select owner from whose");
    for _ in 0..2 {
        let used = pool.request(&[&format!("use {}", other.name())], Access::ReadWrite);
        assert_eq!(pool.seen("select owner from whose"), before, "after {used:?}");
        assert_eq!(
            pool.request(&["select database()"], Access::ReadOnly).expect("it is read"),
            format!("\"{}\"", database.name())
        );
    }
}

/// A transaction that a statement opens, or that its borrower does not end, is rolled back.
#[test]
fn a_transaction_that_is_left_open_is_undone() {
    let database = Mariadb::database();
    database.sql("create table t (x int)");
    let mut pool = Pool::open(&database.url());
    pool.numbered = false;
    let count = || database.sql("select count(*) from t");
    for begin in ["start transaction", "begin", "set autocommit = 0", "xa start 'mine'"] {
        let mut connection = pool.checkout();
        let begun = look(&pool.database, &mut connection, begin);
        let added = look(&pool.database, &mut connection, "insert into t values (1)");
        drop(connection);
        if begun.is_ok() && added.is_ok() && begin != "set autocommit = 0" {
            assert_eq!(count(), "0", "{begin}");
        }
        database.sql("delete from t");
        assert_eq!(
            pool.request(&["insert into t values (2)"], Access::ReadWrite)
                .map(drop)
                .map_err(|error| error.to_string()),
            Ok(()),
            "{begin}"
        );
        assert_eq!(count(), "1", "{begin}: what is written after it is committed");
        database.sql("delete from t");
    }
    let mut connection = pool.checkout();
    connection.begin(Access::ReadWrite, Deadline::after(PATIENCE)).expect("it begins");
    look(&pool.database, &mut connection, "insert into t values (3)").expect("it is written");
    drop(connection);
    assert_eq!(count(), "0", "a borrow that does not commit is undone");
    assert_eq!(pool.request(&["select count(*) from t"], Access::ReadOnly).expect("it is read"), "0");
}

/// The check refuses a statement whose text shows that it leaves something on its session.
#[test]
fn statements_that_leave_something_are_refused_by_the_check() {
    let database = Mariadb::database();
    for sql in [
        "set @caller = 'ann'",
        "set time_zone = '+09:00'",
        "create temporary table x (n int)",
        "start transaction",
        "lock tables t read",
        "use mysql",
    ] {
        refused(&database.url(), &write("leaves", sql));
    }
}
