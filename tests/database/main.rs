//! The database layer on a real PostgreSQL and a real SQLite: binding, deadlines, transactions, the pool, errors.

#[path = "../support/mod.rs"]
mod support;

mod altered;
mod authentication;
mod comments;
mod endpoints;
mod hosts;
mod parameters;
mod pipeline;
mod round_trips;
mod single_inserts;
mod sqlite_files;
mod standby;
mod steps;
mod tls_authentication;
mod tls_certificates;
mod types;

use std::process::Command;
use std::time::{Duration, Instant};

use support::{Authority, Postgres};
use wharf::config::{self, Param, Place, Sql};
use wharf::database::{Access, Connection, Database, Error, Kind, RowWriter, Shape, Statement};
use wharf::deadline::Deadline;
use wharf::value::{Scalar, Type, Value};

/// A database with a pool of `size`.
fn open(url: &str, size: usize) -> Result<Database, Error> {
    let mut settings = config::Database::default();
    settings.maximum_pool_size = size;
    settings.minimum_idle = Some(0);
    settings.connection_timeout = Duration::from_secs(10);
    Database::open(&settings, url)
}

fn postgres(size: usize) -> Database {
    open(&Postgres::shared().url(), size).unwrap()
}

/// The directory must outlive the database.
fn sqlite(size: usize) -> (tempfile::TempDir, Database) {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&format!("sqlite:{}", directory.path().join("test.db").display()), size).unwrap();
    (directory, database)
}

/// Runs `test` on both databases.
fn on_both(size: usize, test: impl Fn(&Database)) {
    test(&postgres(size));
    let (_directory, database) = sqlite(size);
    test(&database);
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn in_ms(ms: u64) -> Deadline {
    Deadline::after(Duration::from_millis(ms))
}

/// `select :a` in pieces, with parameters `a`, `b`… of these types.
fn statement(database: &Database, sql: &str, kinds: &[Type]) -> Statement {
    let names: Vec<String> = ('a'..).take(kinds.len()).map(|name| name.to_string()).collect();
    let params: Vec<Param> =
        names.iter().zip(kinds).map(|(name, kind)| Param::new(name, Place::Query, *kind)).collect();
    let (mut pieces, mut slots) = (vec![String::new()], Vec::new());
    let mut rest = sql;
    while let Some(at) = rest.find('@') {
        pieces.last_mut().unwrap().push_str(&rest[..at]);
        slots.push(names.iter().position(|name| rest[at + 1..].starts_with(name.as_str())).unwrap());
        pieces.push(String::new());
        rest = &rest[at + 2..];
    }
    pieces.last_mut().unwrap().push_str(rest);
    database.statement(&Sql { pieces, slots }, &params)
}

/// Runs `sql`, where `@a` is the first value.
fn run(
    connection: &mut Connection,
    database: &Database,
    sql: &str,
    access: Access,
) -> Result<(u64, String), Error> {
    run_with(connection, &statement(database, sql, &[]), &[], access, soon())
}

fn run_with(
    connection: &mut Connection,
    statement: &Statement,
    values: &[Value],
    access: Access,
    deadline: Deadline,
) -> Result<(u64, String), Error> {
    let mut out = Vec::new();
    let mut rows = RowWriter::new(&mut out, Shape::Objects, 1 << 20, u64::MAX);
    let count = connection.run(statement, values, access, deadline, &mut rows)?;
    Ok((count, String::from_utf8(out).unwrap()))
}

fn write(database: &Database, sql: &str) {
    let mut connection = database.checkout(soon()).unwrap();
    run(&mut connection, database, sql, Access::ReadWrite).unwrap();
}

fn read(database: &Database, sql: &str) -> String {
    let mut connection = database.checkout(soon()).unwrap();
    run(&mut connection, database, sql, Access::ReadOnly).unwrap().1
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn backend(database: &Database) -> (Connection, i32) {
    let mut connection = database.checkout(soon()).unwrap();
    let row = connection.postgres().unwrap().query_one("select pg_backend_pid()", &[]).unwrap();
    (connection, row.get(0))
}

mod binding {
    use super::*;

    /// One value through `select @a::cast`, and what comes back.
    fn round_trip(database: &Database, cast: &str, kind: Type, value: Value) -> Result<String, Error> {
        let mut connection = database.checkout(soon()).unwrap();
        let statement = statement(database, &format!("select @a{cast} as v"), &[kind]);
        run_with(&mut connection, &statement, &[value], Access::ReadOnly, soon()).map(|(_, json)| json)
    }

    #[test]
    fn every_kind_of_value_arrives_in_postgresql() {
        let database = postgres(1);
        let one = Type::One;
        let cases = [
            ("::int2", one(Scalar::Int), Value::Int(-5), "-5"),
            ("::int4", one(Scalar::Int), Value::Int(5), "5"),
            ("::int8", one(Scalar::Int), Value::Int(i64::MIN), "-9223372036854775808"),
            ("::oid", one(Scalar::Int), Value::Int(4_294_967_295), "4294967295"),
            ("::numeric", one(Scalar::Int), Value::Int(5), "5"),
            ("::float8", one(Scalar::Int), Value::Int(5), "5"),
            ("::float4", one(Scalar::Float), Value::Float(0.5), "0.5"),
            ("::float8", one(Scalar::Float), Value::Float(-1e300), "-1e+300"),
            ("::numeric", one(Scalar::Float), Value::Float(0.1), "0.1"),
            ("::text", one(Scalar::Text), text("'; drop table x; --"), "\"'; drop table x; --\""),
            ("::int", one(Scalar::Text), text("42"), "42"),
            ("::bool", one(Scalar::Bool), Value::Bool(true), "true"),
            ("::date", one(Scalar::Date), Value::Date("2013-01-31".into()), "\"2013-01-31\""),
            (
                "::timestamptz",
                one(Scalar::Timestamp),
                Value::Timestamp("2013-01-01T10:00:00Z".into()),
                "\"2013-01-01T10:00:00Z\"",
            ),
            (
                "::timestamp",
                one(Scalar::Timestamp),
                Value::Timestamp("2013-01-01T10:00:00.5".into()),
                "\"2013-01-01T10:00:00.5\"",
            ),
            (
                "::uuid",
                one(Scalar::Uuid),
                Value::Uuid("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".into()),
                "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"",
            ),
            ("::json", one(Scalar::Json), Value::Json("{\"a\": [1]}".into()), "{\"a\": [1]}"),
            ("::bytea", one(Scalar::Bytes), Value::Bytes(vec![0, 255]), "\"AP8=\""),
            ("::int", one(Scalar::Int), Value::Null, "null"),
            (
                "::int[]",
                Type::Many(Scalar::Int),
                Value::Array(Scalar::Int, vec![Value::Int(1), Value::Null]),
                "[1,null]",
            ),
            (
                "::text[]",
                Type::Many(Scalar::Text),
                Value::Array(Scalar::Text, vec![text("a,\"b\\"), text(""), text("NULL")]),
                r#"["a,\"b\\","","NULL"]"#,
            ),
            (
                "::bytea[]",
                Type::Many(Scalar::Bytes),
                Value::Array(Scalar::Bytes, vec![Value::Bytes(vec![1])]),
                "[\"AQ==\"]",
            ),
            (
                "::bool[]",
                Type::Many(Scalar::Bool),
                Value::Array(Scalar::Bool, vec![Value::Bool(false)]),
                "[false]",
            ),
            ("::int[]", Type::Many(Scalar::Int), Value::Array(Scalar::Int, vec![]), "[]"),
        ];
        for (cast, kind, value, expected) in cases {
            let json = round_trip(&database, cast, kind, value.clone()).unwrap();
            assert_eq!(json, format!("{{\"v\":{expected}}}"), "{value:?}{cast}");
        }
    }

    #[test]
    fn every_kind_of_value_arrives_in_sqlite() {
        let (_directory, database) = sqlite(1);
        let one = Type::One;
        let cases = [
            ("", one(Scalar::Int), Value::Int(i64::MIN), "-9223372036854775808"),
            ("", one(Scalar::Float), Value::Float(2.5), "2.5"),
            ("", one(Scalar::Text), text("'; drop table x; --"), "\"'; drop table x; --\""),
            ("", one(Scalar::Bool), Value::Bool(true), "1"),
            (
                "",
                one(Scalar::Timestamp),
                Value::Timestamp("2013-01-01T10:00:00Z".into()),
                "\"2013-01-01 10:00:00\"",
            ),
            (
                " = datetime('2013-01-01 10:00:00')",
                one(Scalar::Timestamp),
                Value::Timestamp("2013-01-01T10:00:00Z".into()),
                "1",
            ),
            ("", one(Scalar::Bytes), Value::Bytes(vec![0, 255]), "\"AP8=\""),
            ("", one(Scalar::Int), Value::Null, "null"),
            (
                " ->> 1",
                Type::Many(Scalar::Text),
                Value::Array(Scalar::Text, vec![text("a"), text("b\"")]),
                "\"b\\\"\"",
            ),
        ];
        for (cast, kind, value, expected) in cases {
            let json = round_trip(&database, cast, kind, value.clone()).unwrap();
            assert_eq!(json, format!("{{\"v\":{expected}}}"), "{value:?}{cast}");
        }
    }

    #[test]
    fn a_number_that_its_place_cannot_hold_is_named() {
        let database = postgres(1);
        for (cast, number) in [("::int2", 32_768), ("::int4", -2_147_483_649), ("::oid", -1)] {
            let error = round_trip(&database, cast, Type::One(Scalar::Int), Value::Int(number)).unwrap_err();
            assert_eq!(error.status(), 400, "{cast}");
            let detail = error.public_detail();
            assert!(detail.contains("parameter a") && detail.contains(&number.to_string()), "{detail}");
        }
    }

    #[test]
    fn text_that_its_place_cannot_read_is_the_clients_mistake() {
        let database = postgres(1);
        for cast in ["::int", "::uuid", "::date", "::jsonb", "::int[]"] {
            let error = round_trip(&database, cast, Type::One(Scalar::Text), text("nonsense")).unwrap_err();
            assert_eq!(error.status(), 400, "{cast}: {error}");
        }
    }

    #[test]
    fn describe_tells_columns_and_mismatches() {
        let database = postgres(1);
        let mut connection = database.checkout(soon()).unwrap();
        let sql = "select relname, oid from pg_class where relname = @a and relnatts = @b";
        let described = statement(&database, sql, &[Type::One(Scalar::Int), Type::One(Scalar::Int)]);
        let description = connection.describe(&described).unwrap();
        let columns: Vec<_> =
            description.columns.iter().map(|column| (&*column.name, &*column.type_name)).collect();
        assert_eq!(columns, [("relname", "name"), ("oid", "oid")]);
        assert_eq!(description.problems.len(), 1);
        assert!(description.problems[0].contains(":a is declared as int"), "{}", description.problems[0]);
    }

    #[test]
    fn an_error_in_the_statement_has_its_place_in_the_text_as_written() {
        on_both(1, |database| {
            let mut connection = database.checkout(soon()).unwrap();
            let sql = |parameter: &str| {
                format!("select 'ü', {parameter} = 1, {parameter} = 2, nosuch from (select 1) x")
            };
            let wrong = statement(database, &sql("@a"), &[Type::One(Scalar::Int)]);
            let error = connection.describe(&wrong).unwrap_err();
            assert_eq!(error.status(), 500);
            let offset = error.offset().expect("both databases tell where a column is unknown");
            assert_eq!(wrong.written_offset(offset), sql(":a").find("nosuch").unwrap(), "{error}");
        });
    }
}

mod deadlines {
    use super::*;

    fn running(database: &Database, pid: i32) -> String {
        read(
            database,
            &format!("select count(*) as n from pg_stat_activity where pid = {pid} and state = 'active'"),
        )
    }

    #[test]
    fn a_slow_statement_is_cancelled_and_its_connection_replaced() {
        let database = postgres(1);
        let (mut connection, pid) = backend(&database);
        let slow = statement(&database, "select pg_sleep(60)", &[]);
        let started = Instant::now();
        let error = run_with(&mut connection, &slow, &[], Access::ReadOnly, in_ms(200)).unwrap_err();
        assert!(matches!(error, Error::Deadline), "{error}");
        assert_eq!(error.status(), 504);
        assert!(started.elapsed() < Duration::from_secs(2));
        drop(connection);
        assert_eq!(running(&postgres(1), pid), "{\"n\":0}");
        assert_ne!(backend(&database).1, pid, "a late cancel would hit the next statement");
    }

    #[test]
    fn a_write_past_its_deadline_leaves_nothing() {
        let database = postgres(1);
        write(&database, "create table slow_write (n int)");
        let mut connection = database.checkout(soon()).unwrap();
        connection.begin(Access::ReadWrite, soon()).unwrap();
        run(&mut connection, &database, "insert into slow_write values (1)", Access::ReadWrite).unwrap();
        let slow = statement(&database, "insert into slow_write select 1 from pg_sleep(60)", &[]);
        assert!(run_with(&mut connection, &slow, &[], Access::ReadWrite, in_ms(100)).is_err());
        drop(connection);
        assert_eq!(read(&database, "select count(*) as n from slow_write"), "{\"n\":0}");
    }

    #[test]
    fn a_server_that_stops_answering_costs_the_deadline_and_its_connection() {
        let database = postgres(2);
        let (mut connection, pid) = backend(&database);
        signal(pid, "STOP");
        let started = Instant::now();
        let error = run_with(
            &mut connection,
            &statement(&database, "select 2", &[]),
            &[],
            Access::ReadOnly,
            in_ms(300),
        );
        let took = started.elapsed();
        signal(pid, "CONT");
        assert!(error.is_err());
        assert!(took < Duration::from_secs(2), "{took:?}");
        drop(connection);
        let (_connection, other) = backend(&database);
        assert_ne!(other, pid, "a connection that is not proven clean is not lent again");
    }

    fn signal(pid: i32, name: &str) {
        assert!(
            Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success()
        );
    }

    #[test]
    fn sqlite_is_interrupted() {
        let (_directory, database) = sqlite(1);
        let mut connection = database.checkout(soon()).unwrap();
        let endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n";
        let endless = statement(&database, endless, &[]);
        let started = Instant::now();
        let error = run_with(&mut connection, &endless, &[], Access::ReadOnly, in_ms(100)).unwrap_err();
        assert!(matches!(error, Error::Deadline), "{error}");
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(
            run(&mut connection, &database, "select 1 as n", Access::ReadOnly).unwrap().1,
            "{\"n\":1}"
        );
    }

    #[test]
    fn nothing_is_sent_once_the_deadline_has_passed() {
        on_both(1, |database| {
            let mut connection = database.checkout(soon()).unwrap();
            let select = statement(database, "select 1", &[]);
            let error = run_with(&mut connection, &select, &[], Access::ReadOnly, in_ms(0)).unwrap_err();
            assert!(matches!(error, Error::Deadline), "{error}");
            assert!(matches!(database.checkout(in_ms(0)), Err(Error::Deadline)));
        });
    }
}

mod transactions {
    use super::*;

    #[test]
    fn dropping_the_connection_rolls_back() {
        on_both(1, |database| {
            write(database, "create table dropped (n int)");
            let mut connection = database.checkout(soon()).unwrap();
            connection.begin(Access::ReadWrite, soon()).unwrap();
            run(&mut connection, database, "insert into dropped values (1)", Access::ReadWrite).unwrap();
            drop(connection);
            assert_eq!(read(database, "select count(*) as n from dropped"), "{\"n\":0}");
        });
    }

    #[test]
    fn a_commit_stays() {
        on_both(1, |database| {
            write(database, "create table committed (n int)");
            let mut connection = database.checkout(soon()).unwrap();
            connection.begin(Access::ReadWrite, soon()).unwrap();
            let insert =
                run(&mut connection, database, "insert into committed values (1), (2)", Access::ReadWrite);
            assert_eq!(insert.unwrap().0, 2);
            connection.commit(soon()).unwrap();
            drop(connection);
            assert_eq!(read(database, "select count(*) as n from committed"), "{\"n\":2}");
        });
    }

    #[test]
    fn a_transaction_with_a_failed_statement_does_not_pretend_to_commit() {
        let database = postgres(1);
        let mut connection = database.checkout(soon()).unwrap();
        connection.begin(Access::ReadWrite, soon()).unwrap();
        assert!(run(&mut connection, &database, "select 1 / 0", Access::ReadWrite).is_err());
        assert!(connection.commit(soon()).is_err());
        assert_eq!(
            run(&mut connection, &database, "select 1 as n", Access::ReadOnly).unwrap().1,
            "{\"n\":1}"
        );
    }

    #[test]
    fn read_only_refuses_to_write_and_does_not_stick() {
        on_both(1, |database| {
            write(database, "create table guarded (n int)");
            let mut connection = database.checkout(soon()).unwrap();
            let insert = "insert into guarded values (1)";
            let refused = run(&mut connection, database, insert, Access::ReadOnly).unwrap_err();
            assert_eq!(refused.status(), 500, "{refused}");
            connection.begin(Access::ReadOnly, soon()).unwrap();
            assert!(run(&mut connection, database, insert, Access::ReadOnly).is_err());
            connection.rollback().unwrap();
            run(&mut connection, database, insert, Access::ReadWrite).unwrap();
            assert_eq!(
                run(&mut connection, database, "select n from guarded", Access::ReadOnly).unwrap().0,
                1
            );
        });
    }

    #[test]
    fn commands_that_begin_or_end_a_transaction_are_refused() {
        let database = postgres(1);
        let mut connection = database.checkout(soon()).unwrap();
        for sql in ["begin", "-- sly\ncommit", "copy pg_class to stdout"] {
            assert!(
                matches!(run(&mut connection, &database, sql, Access::ReadWrite), Err(Error::Usage(_))),
                "{sql}"
            );
        }
    }
}

mod pool {
    use super::*;

    /// r2d2's own thread brings the first session: the first checkout waited for that thread, and on a busy machine for
    /// longer than a short `connection_timeout`.
    #[test]
    fn an_open_pool_has_a_connection_to_lend_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", directory.path().join("test.db").display());
        let mut settings = config::Database::default();
        settings.maximum_pool_size = 1;
        settings.connection_timeout = Duration::from_millis(1);
        for _ in 0..50 {
            let database = Database::open(&settings, &url).unwrap();
            assert_eq!(database.gauges().idle, 1);
            database.checkout(soon()).unwrap();
        }
    }

    #[test]
    fn exhaustion_tells_the_gauges() {
        on_both(1, |database| {
            let held = database.checkout(soon()).unwrap();
            let started = Instant::now();
            let Err(error) = database.checkout(in_ms(100)) else { panic!("the pool has one connection") };
            assert!(started.elapsed() >= Duration::from_millis(100));
            assert!(matches!(error, Error::Deadline), "{error}");
            let mut settings = config::Database::default();
            settings.maximum_pool_size = 1;
            settings.connection_timeout = Duration::from_millis(100);
            database.reconfigure(&settings);
            let started = Instant::now();
            let Err(error) = database.checkout(soon()) else { panic!("the pool has one connection") };
            assert!(started.elapsed() >= Duration::from_millis(100));
            assert_eq!(error.status(), 503);
            assert!(error.to_string().contains("total=1, active=1, idle=0, waiting=0"), "{error}");
            drop(held);
            let gauges = database.gauges();
            assert_eq!((gauges.maximum, gauges.open, gauges.active, gauges.idle), (1, 1, 0, 1));
        });
    }

    #[test]
    fn a_waiting_worker_gets_the_connection_that_comes_back() {
        let database = postgres(1);
        let held = database.checkout(soon()).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| database.checkout(soon()).is_ok());
            support::wait_until("nobody waits", || database.gauges().waiting > 0);
            drop(held);
            assert!(waiter.join().unwrap());
        });
    }

    #[test]
    fn a_session_that_the_server_ended_is_replaced() {
        let database = postgres(1);
        let (mut connection, pid) = backend(&database);
        let admin = postgres(1);
        read(&admin, &format!("select pg_terminate_backend({pid}, 5000) as done"));
        let error = run(&mut connection, &database, "select 1", Access::ReadOnly).unwrap_err();
        assert_eq!(error.status(), 503, "{error}");
        drop(connection);
        assert_ne!(backend(&database).1, pid);
    }

    #[test]
    fn a_session_that_ended_while_idle_is_not_lent() {
        let database = postgres(1);
        let (connection, pid) = backend(&database);
        drop(connection);
        let idle_since = Instant::now();
        let admin = postgres(1);
        read(&admin, &format!("select pg_terminate_backend({pid}, 5000) as done"));
        // The pool looks at a session's socket once it was idle for half a second; what that takes is spent in the server.
        while idle_since.elapsed() < Duration::from_millis(510) {
            read(&admin, "select pg_sleep(0.1)");
        }
        assert_ne!(backend(&database).1, pid);
    }

    #[test]
    fn the_first_connection_must_succeed() {
        let port = Postgres::shared().port();
        let unknown =
            open(&format!("postgres://postgres:hidden@127.0.0.1:{port}/nosuch"), 1).unwrap_err().to_string();
        for part in ["postgres@127.0.0.1:", "nosuch", "does not exist"] {
            assert!(unknown.contains(part), "{unknown}");
        }
        assert!(!unknown.contains("hidden"), "{unknown}");
        let directory = tempfile::tempdir().unwrap();
        let missing = format!("sqlite:{}", directory.path().join("no/such.db").display());
        assert!(open(&missing, 1).unwrap_err().to_string().contains("no such directory"));
        let text = directory.path().join("text.db");
        std::fs::write(
            &text,
            "not a database, but long enough to be taken for the header of one. ".repeat(20),
        )
        .unwrap();
        let error = open(&format!("sqlite:{}", text.display()), 1).unwrap_err().to_string();
        assert!(error.contains("not a database"), "{error}");
        assert!(open("sqlite::memory:", 1).unwrap_err().to_string().contains("its own database"));
        assert!(open("mysql://h/d", 1).is_err());
    }

    #[test]
    fn unix_sockets_work() {
        let server = Postgres::shared();
        let url = format!(
            "postgres:///postgres?host={}&port={}&user=postgres&sslmode=require",
            server.directory().display(),
            server.port()
        );
        assert_eq!(open(&url, 1).unwrap().kind(), Kind::Postgres);
    }

    #[test]
    fn a_changed_table_does_not_break_its_prepared_statement() {
        let database = postgres(1);
        write(&database, "create table changing (a int)");
        write(&database, "insert into changing values (1)");
        assert_eq!(read(&database, "select * from changing"), "{\"a\":1}");
        write(&database, "alter table changing add column b text default 'x'");
        assert_eq!(read(&database, "select * from changing"), "{\"a\":1,\"b\":\"x\"}");
    }

    #[test]
    fn an_answer_over_the_limit_is_refused_and_the_connection_stays_usable() {
        on_both(1, |database| {
            let numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000) select i from n";
            let mut connection = database.checkout(soon()).unwrap();
            let mut out = Vec::new();
            let mut rows = RowWriter::new(&mut out, Shape::Objects, 1000, u64::MAX);
            let refused =
                connection.run(&statement(database, numbers, &[]), &[], Access::ReadOnly, soon(), &mut rows);
            assert!(matches!(refused, Err(Error::ResponseTooLarge { limit: 1000 })));
            drop(connection);
            assert_eq!(read(database, "select 1 as n"), "{\"n\":1}");
        });
    }
}

mod errors {
    use super::*;

    #[test]
    fn each_violation_has_its_status_on_both_databases() {
        on_both(1, |database| {
            write(database, "create table parent (id int primary key)");
            write(database, "insert into parent values (1)");
            write(
                database,
                "create table child (id int not null unique, parent int references parent (id), \
                 n int constraint small check (n < 10))",
            );
            write(database, "insert into child values (1, 1, 1)");
            let cases = [
                ("insert into child values (1, 1, 1)", 409),
                ("insert into child values (2, 99, 1)", 409),
                ("insert into child values (3, 1, 10)", 400),
                ("insert into child values (null, 1, 1)", 400),
                ("insert into nosuch values (1)", 500),
            ];
            let mut connection = database.checkout(soon()).unwrap();
            for (sql, status) in cases {
                let error = run(&mut connection, database, sql, Access::ReadWrite).unwrap_err();
                assert_eq!(error.status(), status, "{sql}: {error}");
            }
            let error =
                run(&mut connection, database, "insert into child values (3, 1, 10)", Access::ReadWrite);
            assert_eq!(error.unwrap_err().public_detail(), "constraint \"small\" is violated");
        });
    }

    #[test]
    fn postgresql_reports_the_rest_of_the_categories() {
        let database = postgres(1);
        let mut connection = database.checkout(soon()).unwrap();
        let raise = |code: &str| format!("do $$ begin raise exception 'x' using errcode = '{code}'; end $$");
        for (code, status) in
            [("40001", 503), ("40P01", 503), ("42501", 403), ("57014", 504), ("53300", 503), ("P0001", 400)]
        {
            let error = run(&mut connection, &database, &raise(code), Access::ReadWrite).unwrap_err();
            assert_eq!(error.status(), status, "{code}: {error}");
            assert_eq!(error.is_retryable(), code.starts_with("40"), "{code}");
        }
        let error = run(&mut connection, &database, "select 1 / 0", Access::ReadOnly).unwrap_err();
        assert_eq!((error.status().as_u16(), &*error.public_detail()), (400, "division by zero"));
    }

    #[test]
    fn sqlites_write_lock_is_waited_for_until_the_deadline() {
        let (_directory, database) = sqlite(2);
        let mut writer = database.checkout(soon()).unwrap();
        writer.begin(Access::ReadWrite, soon()).unwrap();
        let mut other = database.checkout(soon()).unwrap();
        let error = other.begin(Access::ReadWrite, in_ms(100)).unwrap_err();
        assert_eq!(error.status(), 503, "{error}");
        writer.rollback().unwrap();
        other.begin(Access::ReadWrite, soon()).unwrap();
    }
}

mod handlers {
    use wharf::database::postgres::{Parameters, ToSql};

    use super::*;

    #[test]
    fn statements_run_together_answer_in_order() {
        let database = postgres(1);
        let mut connection = database.checkout(soon()).unwrap();
        let session = connection.postgres().unwrap();
        let numbers: Vec<i32> = (0..100).collect();
        let runs: Vec<[&(dyn ToSql + Sync); 1]> = numbers.iter().map(|n| [n as _]).collect();
        let runs: Vec<&Parameters<'_>> = runs.iter().map(|run| &run[..]).collect();
        let rows =
            session.query_each("select n from generate_series($1::int, $1::int + 1) n", &runs).unwrap();
        let expected: Vec<i32> = numbers.iter().flat_map(|n| [*n, *n + 1]).collect();
        assert_eq!(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), expected);
    }

    /// Several times what sockets hold.
    fn large(byte: char) -> String {
        byte.to_string().repeat(8 << 20)
    }

    #[test]
    fn answers_are_read_while_the_server_takes_nothing_more() {
        let database = postgres(1);
        let mut connection = database.checkout(soon()).unwrap();
        let session = connection.postgres().unwrap();
        let values = ['a', 'b', 'c', 'd'].map(large);
        let runs = values.each_ref().map(|value| [value as &(dyn ToSql + Sync)]);
        let rows = session.query_each("select $1::text", &runs.each_ref().map(|run| &run[..])).unwrap();
        assert!(rows.iter().map(|row| row.get::<_, &str>(0)).eq(&values));
    }

    #[test]
    fn a_deadline_ends_what_the_server_does_not_take() {
        let database = postgres(1);
        let (mut connection, pid) = backend(&database);
        drop(connection);
        connection = database.checkout(in_ms(300)).unwrap();
        let session = connection.postgres().unwrap();
        let (value, sql) = (large('a'), "select length($2::text) from pg_sleep($1::float8)");
        let runs = [[&60_f64 as &(dyn ToSql + Sync), &"asleep"], [&0_f64, &value]];
        let error = session.query_each(sql, &runs.each_ref().map(|run| &run[..])).unwrap_err();
        assert!(matches!(error, Error::Deadline), "{error}");
        drop(connection);
        assert_ne!(backend(&database).1, pid, "what is left of it is not known");
    }

    #[test]
    fn a_failed_closure_rolls_back() {
        let database = postgres(1);
        write(&database, "create table closure (n int)");
        let mut connection = database.checkout(soon()).unwrap();
        let session = connection.postgres().unwrap();
        let failed: Result<(), Error> = session.transaction(Access::ReadWrite, |session| {
            session.execute("insert into closure values ($1)", &[&1])?;
            Err(Error::Usage("no".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(session.query_one("select count(*) from closure", &[]).unwrap().get::<_, i64>(0), 0);
        let done: Result<u64, Error> = session.transaction(Access::ReadWrite, |session| {
            session.execute("insert into closure values ($1)", &[&1])
        });
        assert_eq!(done.unwrap(), 1);
        assert!(matches!(
            session.query_one("select 1 where false", &[]),
            Err(Error::RowCount { received: 0, .. })
        ));
    }

    #[test]
    fn a_parameter_of_the_wrong_type_costs_no_connection() {
        let database = postgres(1);
        let (mut connection, pid) = backend(&database);
        let session = connection.postgres().unwrap();
        assert!(matches!(session.query("select $1::int", &[&"text"]), Err(Error::Usage(_))));
        assert!(matches!(session.query("select $1::int", &[]), Err(Error::Usage(_))));
        drop(connection);
        assert_eq!(backend(&database).1, pid);
    }

    #[test]
    fn sqlite_is_open_for_writing_and_bound_by_the_deadline() {
        let (_directory, database) = sqlite(1);
        read(&database, "select 1");
        let mut connection = database.checkout(in_ms(300)).unwrap();
        let raw = connection.sqlite().unwrap();
        raw.execute_batch("create table raw (n)").unwrap();
        let endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n";
        assert!(raw.query_row(endless, [], |_| Ok(())).is_err());
    }
}

mod tls {
    use super::*;

    /// A server with TLS whose certificate is for `localhost`, and its authority, which has the other one's `other.crt`.
    fn server() -> &'static (Postgres, Authority) {
        static SERVER: std::sync::OnceLock<(Postgres, Authority)> = std::sync::OnceLock::new();
        SERVER.get_or_init(|| {
            let authority = Authority::new("wharf's tests");
            let other = Authority::new("wharf's tests");
            std::fs::copy(other.file(), authority.directory().join("other.crt")).unwrap();
            (Postgres::start_encrypted(&authority), authority)
        })
    }

    /// Whether the session is encrypted; `Err` when it could not be opened.
    fn encrypted(host: &str, parameters: &str) -> Result<bool, String> {
        let (server, authority) = server();
        let parameters = parameters.replace('%', &authority.directory().display().to_string());
        let url = format!("postgres://postgres@{host}:{}/postgres?{parameters}", server.port());
        let database = open(&url, 1).map_err(|error| error.to_string())?;
        let mut connection = database.checkout(soon()).unwrap();
        let session = connection.postgres().unwrap();
        Ok(session.query_one("select ssl from pg_stat_ssl where pid = pg_backend_pid()", &[]).unwrap().get(0))
    }

    #[test]
    fn each_mode_does_what_libpq_documents() {
        assert_eq!(encrypted("127.0.0.1", "sslmode=disable"), Ok(false));
        assert_eq!(encrypted("127.0.0.1", "sslmode=allow"), Ok(false));
        assert_eq!(encrypted("127.0.0.1", ""), Ok(true), "prefer is the default");
        assert_eq!(encrypted("127.0.0.1", "sslmode=require"), Ok(true));
        assert_eq!(encrypted("127.0.0.1", "sslmode=verify-ca&sslrootcert=%/root.crt"), Ok(true));
        assert_eq!(
            encrypted("localhost", "hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert=%/root.crt"),
            Ok(true)
        );
    }

    #[test]
    fn a_server_that_cannot_be_verified_is_refused() {
        let refused = [
            ("127.0.0.1", "sslmode=verify-full&sslrootcert=%/root.crt", "not valid for"),
            ("127.0.0.1", "sslmode=verify-ca&sslrootcert=%/other.crt", "certificate"),
            ("127.0.0.1", "sslmode=require&sslrootcert=%/other.crt", "certificate"),
            ("127.0.0.1", "sslmode=verify-ca&sslrootcert=%/missing.crt", "missing.crt"),
            ("127.0.0.1", "sslmode=verify-full", "sslrootcert"),
            ("127.0.0.1", "sslmode=require&sslrootcert=system", "verify-full"),
        ];
        for (host, parameters, reason) in refused {
            let error = encrypted(host, parameters).unwrap_err();
            assert!(error.contains(reason), "{parameters}: {error}");
        }
    }

    #[test]
    fn require_is_refused_by_a_server_without_tls() {
        let url = format!("{}?sslmode=require", Postgres::shared().url());
        let error = open(&url, 1).unwrap_err().to_string();
        assert!(error.contains("TLS"), "{error}");
    }

    #[test]
    fn a_deadline_cancels_over_tls_too() {
        let (server, _) = server();
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=require", server.port());
        let database = open(&url, 1).unwrap();
        let (mut connection, pid) = backend(&database);
        let slow = statement(&database, "select pg_sleep(60)", &[]);
        assert!(matches!(
            run_with(&mut connection, &slow, &[], Access::ReadOnly, in_ms(100)),
            Err(Error::Deadline)
        ));
        drop(connection);
        let running =
            format!("select count(*) as n from pg_stat_activity where pid = {pid} and state = 'active'");
        assert_eq!(read(&database, &running), "{\"n\":0}");
    }
}
