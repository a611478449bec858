//! A schema that changes while pooled sessions remember their statements: every answer is right, or an error that heals.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use wharf::database::postgres::{Parameters, ToSql};

use super::*;
use crate::support::{Postgres, Wharf};

/// Runs the statement on each pooled session, with all sessions lent at the same time. Returns the columns' names and
/// values of each.
fn ask_all(database: &Database, size: usize, sql: &str) -> Vec<Result<String, Error>> {
    let mut lent: Vec<_> = (0..size).map(|_| database.checkout(soon()).unwrap()).collect();
    lent.iter_mut().map(|lent| run(lent, database, sql, Access::ReadOnly).map(|(_, rows)| rows)).collect()
}

#[track_caller]
fn expect_all(database: &Database, sql: &str, expected: &str) {
    for answer in ask_all(database, 2, sql) {
        assert_eq!(answer.unwrap(), expected, "{sql}");
    }
}

mod sqlite {
    use super::*;

    /// The connection of another process.
    fn foreign(file: &Path) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(file).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection
    }

    fn altered(before: &str) -> (tempfile::TempDir, Database, rusqlite::Connection) {
        let (directory, database) = sqlite(2);
        let other = foreign(&directory.path().join("test.db"));
        other.execute_batch(before).unwrap();
        (directory, database, other)
    }

    /// The columns were read before the first step, and SQLite prepares the statement again in that step. So each session's
    /// first answer after the change had a secret under the name of a column that was gone.
    #[test]
    fn a_server_names_the_columns_that_its_rows_have_now() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.db");
        let other = foreign(&file);
        other
            .execute_batch(
                "pragma journal_mode = wal; create table person (id integer primary key, phone text, name text); \
                 insert into person values (1, '555', 'Ann')",
            )
            .unwrap();
        let wharf = Wharf::start(&format!(
            "[server]\nworkers = 4\n[database]\nurl = 'sqlite:{}'\nmaximum_pool_size = 1\n\
             [endpoint.people]\nroute = 'GET /people'\nsql = 'select * from person'\n\
             [endpoint.person]\nroute = 'GET /person'\nsql = 'select * from person'\nreturns = 'one'\n\
             [endpoint.first]\nroute = 'POST /person'\nsql = 'update person set id = id returning *'\n\
             returns = 'one'\n",
            file.display()
        ));
        let ask = || {
            let people = wharf.get("/people").text().to_owned();
            (
                people,
                wharf.get("/person").text().to_owned(),
                wharf.json("POST", "/person", "{}").text().to_owned(),
            )
        };
        let one = r#"{"id":1,"phone":"555","name":"Ann"}"#;
        assert_eq!(ask(), (format!("[{one}]"), one.to_owned(), one.to_owned()));
        other
            .execute_batch(
                "alter table person drop phone; alter table person add secret text; \
                 update person set secret = 's3cret'",
            )
            .unwrap();
        let one = r#"{"id":1,"name":"Ann","secret":"s3cret"}"#;
        assert_eq!(ask(), (format!("[{one}]"), one.to_owned(), one.to_owned()));
    }

    #[test]
    fn each_pooled_connection_sees_what_another_process_changed() {
        let (_directory, database, other) = altered(
            "create table t (a boolean, b text); insert into t values (1, '{}'); create view v as select * from t",
        );
        let change = |sql: &str| other.execute_batch(sql).unwrap();
        let sql = "select * from t";
        expect_all(&database, sql, r#"{"a":true,"b":"{}"}"#);
        change("alter table t rename a to c");
        expect_all(&database, sql, r#"{"c":true,"b":"{}"}"#);
        change(
            "drop view v; drop table t; create table t (a integer, b json, c int); insert into t values (1, '{}', 2)",
        );
        expect_all(&database, sql, r#"{"a":1,"b":{},"c":2}"#);
        change("drop table t; create table t (a boolean); insert into t values (1)");
        expect_all(&database, sql, r#"{"a":true}"#);
        change("delete from t");
        expect_all(&database, sql, "");
        change("drop table t");
        for answer in ask_all(&database, 2, sql) {
            assert_eq!(answer.unwrap_err().status(), 500);
        }
        change("create view t as select 3 as x");
        expect_all(&database, sql, r#"{"x":3}"#);
    }

    /// A connection remembers the schema of its last statement.
    #[test]
    fn a_description_is_of_the_schema_as_it_is() {
        let (_directory, database, other) = altered("create table t (a boolean, b text)");
        let mut connection = database.checkout(soon()).unwrap();
        let all = statement(&database, "select * from t", &[]);
        let gone = statement(&database, "select a from t", &[]);
        let names = |connection: &mut Connection| {
            let described = connection.describe(&all).unwrap();
            described
                .columns
                .into_iter()
                .map(|column| (column.name, column.type_name.to_lowercase()))
                .collect::<Vec<_>>()
        };
        let column = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
        assert_eq!(names(&mut connection), [column("a", "boolean"), column("b", "text")]);
        connection.describe(&gone).unwrap();
        other.execute_batch("alter table t drop a; alter table t add c json").unwrap();
        assert!(connection.describe(&gone).unwrap_err().to_string().contains("no such column: a"));
        other.execute_batch("alter table t add d int").unwrap();
        assert_eq!(names(&mut connection), [column("b", "text"), column("c", "json"), column("d", "int")]);
    }

    /// Each version of the table holds the name of its column.
    #[test]
    fn names_and_values_belong_together_while_the_schema_changes_all_the_time() {
        let (_directory, database, mut other) =
            altered("create table t (c0 text); insert into t values ('c0')");
        follow_renames(&database, |from, to| {
            let change = other.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
            change
                .execute_batch(&format!("alter table t rename {from} to {to}; update t set {to} = '{to}'"))
                .unwrap();
            change.commit().unwrap();
        });
    }
}

/// Readers on all of two pooled connections while `rename` renames the one column of `t`, whose value is its name.
fn follow_renames(database: &Database, mut rename: impl FnMut(&str, &str)) {
    let done = AtomicBool::new(false);
    let met = std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            scope.spawn(|| {
                let mut met = std::collections::BTreeSet::new();
                while !done.load(Relaxed) {
                    let mut lent = database.checkout(soon()).unwrap();
                    let row = match run(&mut lent, database, "select * from t", Access::ReadOnly) {
                        Ok((_, row)) => row,
                        // A reader that waits for a lock at each of its tries is told to try again.
                        Err(error) if error.is_retryable() => continue,
                        Err(error) => panic!("{error}"),
                    };
                    let (name, value) = row.trim_matches(['{', '}']).split_once(':').unwrap();
                    assert_eq!(name, value);
                    met.insert(row);
                }
                met.len()
            })
        });
        for number in 0..200 {
            rename(&format!("c{number}"), &format!("c{}", number + 1));
        }
        done.store(true, Relaxed);
        readers.map(|reader| reader.join().unwrap())
    });
    assert!(met.iter().all(|met| *met > 1), "nobody read while the table changed: {met:?}");
}

mod postgres {
    use super::*;

    /// A database of its own, which psql changes, and a pool of two sessions.
    fn altered(before: &str) -> (Database, impl Fn(&str)) {
        let own = Postgres::database();
        own.psql(before);
        (open(&own.url(), 2).unwrap(), move |sql: &str| drop(own.psql(sql)))
    }

    #[test]
    fn each_pooled_session_sees_what_another_one_changed() {
        let (database, change) = altered("create table t (a int, b text); insert into t values (1, 'x')");
        let sql = "select * from t";
        expect_all(&database, sql, r#"{"a":1,"b":"x"}"#);
        change("alter table t rename a to c");
        expect_all(&database, sql, r#"{"c":1,"b":"x"}"#);
        change("alter table t drop c, add d text default 'secret'");
        expect_all(&database, sql, r#"{"b":"x","d":"secret"}"#);
        change("alter table t alter b type jsonb using '{}'");
        expect_all(&database, sql, r#"{"b":{},"d":"secret"}"#);
        change("drop table t; create table t (b int, d int); insert into t values (1, 2)");
        expect_all(&database, sql, r#"{"b":1,"d":2}"#);
        change("drop table t; create view t as select 3 as x");
        expect_all(&database, sql, r#"{"x":3}"#);
        change(
            "create schema other; alter view t set schema other; create table t (y text); insert into t values ('z')",
        );
        expect_all(&database, sql, r#"{"y":"z"}"#);
    }

    #[test]
    fn a_function_that_was_replaced_answers_with_its_own_columns() {
        let (database, change) = altered(
            "create table t (a text, b text); insert into t values ('a', 'b'); \
             create function rows() returns setof t language plpgsql as 'begin return query select * from t; end'; \
             create function tabled() returns table (a int, b int) language sql as 'select 1, 2'",
        );
        let (rows, tabled) = ("select * from rows()", "select * from tabled()");
        expect_all(&database, rows, r#"{"a":"a","b":"b"}"#);
        expect_all(&database, tabled, r#"{"a":1,"b":2}"#);
        change(
            "drop function tabled(); create function tabled() returns table (b int, a int) language sql as 'select 1, 2'",
        );
        expect_all(&database, tabled, r#"{"b":1,"a":2}"#);
        change(
            "drop function tabled(); create function tabled() returns table (b text) language sql as $$select 'x'$$",
        );
        expect_all(&database, tabled, r#"{"b":"x"}"#);
        change("alter table t drop a, add c text default 'secret'");
        expect_all(&database, rows, r#"{"b":"b","c":"secret"}"#);
        change("alter table t rename b to x; alter table t rename c to b; alter table t rename x to c");
        expect_all(&database, rows, r#"{"c":"b","b":"secret"}"#);
    }

    #[test]
    fn names_and_values_belong_together_while_the_schema_changes_all_the_time() {
        let (database, change) = altered("create table t (c0 text); insert into t values ('c0')");
        follow_renames(&database, |from, to| {
            change(&format!("alter table t rename {from} to {to}; update t set {to} = '{to}'"));
        });
    }

    /// A session keeps the parameter types of a statement that it remembers.
    #[test]
    fn a_parameter_is_taken_for_what_it_is_compared_with_now() {
        let (database, change) = altered("create table t (a int, b text); insert into t values (1, 'x')");
        let find = statement(&database, "select b from t where a = @a", &[Type::One(Scalar::Int)]);
        let named = statement(&database, "select b from t where a = @a", &[Type::One(Scalar::Text)]);
        let add = statement(&database, "insert into t (a) values (@a)", &[Type::One(Scalar::Text)]);
        let all = |statement: &Statement, value: &Value| {
            let mut lent = [(); 2].map(|()| database.checkout(soon()).unwrap());
            lent.each_mut().map(|lent| {
                let ran = run_with(lent, statement, std::slice::from_ref(value), Access::ReadWrite, soon());
                ran.map(|(count, rows)| if rows.is_empty() { count.to_string() } else { rows })
            })
        };
        let expect = |statement: &Statement, value: Value, expected: &str| {
            for answer in all(statement, &value) {
                assert_eq!(answer.unwrap(), expected, "{} {value:?}", statement.text());
            }
        };
        expect(&find, Value::Int(1), r#"{"b":"x"}"#);
        for answer in all(&find, &Value::Int(3_000_000_000)) {
            assert!(matches!(answer, Err(Error::BadValue { .. })), "{answer:?}");
        }
        change("alter table t alter a type bigint; update t set a = 3000000000");
        expect(&find, Value::Int(3_000_000_000), r#"{"b":"x"}"#);
        expect(&named, text("3000000000"), r#"{"b":"x"}"#);
        change("alter table t alter a type text");
        expect(&named, text("3000000000"), r#"{"b":"x"}"#);
        expect(&named, text("words"), "0");
        expect(&add, text("words"), "1");
        change("delete from t; alter table t alter a type int using a::int");
        expect(&add, text("7"), "1");
        for answer in all(&add, &text("words")) {
            assert_eq!(answer.unwrap_err().status(), 400);
        }
        expect(&add, text("8"), "1");
    }

    /// The server says nothing of a parameter that was taken for a narrower type, and rounds its values. So what one session
    /// finds out, all of them heed.
    #[test]
    fn a_value_is_not_rounded_to_what_its_column_was() {
        let (database, change) = altered("create table t (a float4)");
        let add = statement(&database, "insert into t values (@a)", &[Type::One(Scalar::Float)]);
        let add_to_both = || {
            let mut lent = [(); 2].map(|()| database.checkout(soon()).unwrap());
            for lent in &mut lent {
                run_with(lent, &add, &[Value::Float(0.1)], Access::ReadWrite, soon()).unwrap();
            }
        };
        add_to_both();
        expect_all(&database, "select distinct * from t", r#"{"a":0.1}"#);
        change("delete from t; alter table t alter a type float8");
        assert_eq!(read(&database, "select distinct * from t"), "");
        add_to_both();
        expect_all(&database, "select distinct * from t", r#"{"a":0.1}"#);
    }

    /// Where no statement returns the column, a reload says it.
    #[test]
    fn statements_that_are_to_be_forgotten_are_prepared_anew() {
        let (database, change) = altered("create table t (a float4)");
        let add = statement(&database, "insert into t values (@a)", &[Type::One(Scalar::Float)]);
        let add = || {
            let mut lent = database.checkout(soon()).unwrap();
            run_with(&mut lent, &add, &[Value::Float(0.1)], Access::ReadWrite, soon()).unwrap();
        };
        add();
        change("delete from t; alter table t alter a type float8");
        database.forget_statements();
        add();
        assert_eq!(read(&database, "select a from t"), r#"{"a":0.1}"#);
    }

    #[test]
    fn a_type_that_was_made_anew_is_taken_as_it_is_now() {
        let create =
            "create type mood as enum ('sad'); create table t (a mood); insert into t values ('sad')";
        let (database, change) = altered(create);
        let find = statement(&database, "select a from t where a = @a", &[Type::One(Scalar::Text)]);
        let expect = |value: &str| {
            let mut lent = [(); 2].map(|()| database.checkout(soon()).unwrap());
            for lent in &mut lent {
                let (_, rows) = run_with(lent, &find, &[text(value)], Access::ReadOnly, soon()).unwrap();
                assert_eq!(rows, format!("{{\"a\":\"{value}\"}}"));
            }
        };
        expect("sad");
        change(&format!("drop table t; drop type mood; {}", create.replace("sad", "glad")));
        expect("glad");
    }

    #[test]
    fn a_column_without_a_form_in_json_heals() {
        let (database, change) = altered("create table t (a text); insert into t values ('(1,2)')");
        let sql = "select a from t";
        expect_all(&database, sql, r#"{"a":"(1,2)"}"#);
        change("alter table t alter a type point using a::point");
        for answer in ask_all(&database, 2, sql) {
            assert!(matches!(answer, Err(Error::UnsupportedType { .. })), "{answer:?}");
        }
        change("alter table t alter a type text");
        expect_all(&database, sql, r#"{"a":"(1,2)"}"#);
    }

    /// Runs that were sent together and committed by themselves were all run again when one of them was refused as stale.
    #[test]
    fn runs_that_are_committed_are_not_repeated() {
        let (database, _change) = altered(
            "create table t (a int); create function picky(a int) returns int language plpgsql as \
             'begin if a = 2 then raise feature_not_supported; end if; return a; end'",
        );
        let mut connection = database.checkout(soon()).unwrap();
        let session = connection.postgres().unwrap();
        let values = [1, 2, 3].map(|value| [Box::new(value) as Box<dyn ToSql + Sync>]);
        let runs: Vec<[&(dyn ToSql + Sync); 1]> = values.iter().map(|run| [&*run[0]]).collect();
        let runs: Vec<&Parameters<'_>> = runs.iter().map(|run| &run[..]).collect();
        let sql = "insert into t values (picky($1))";
        assert_eq!(session.execute_each(sql, &runs).unwrap_err().code(), Some("0A000"));
        assert!(session.query_each(&format!("{sql} returning a"), &runs).is_err());
        drop(connection);
        assert_eq!(
            read(&database, "select a, count(*) from t group by a order by a"),
            r#"{"a":1,"count":2},{"a":3,"count":2}"#
        );
    }

    #[test]
    fn a_handlers_rows_have_the_names_and_types_of_now() {
        let (database, change) = altered("create table t (a int, b text); insert into t values (1, 'x')");
        let both = || {
            let mut lent = [(); 2].map(|()| database.checkout(soon()).unwrap());
            lent.each_mut().map(|lent| {
                let row = lent.postgres().unwrap().query_one("select * from t", &[]).unwrap();
                let names: Vec<_> = row.columns().iter().map(|column| column.name().to_owned()).collect();
                (names.join(","), row.get::<_, String>("b"))
            })
        };
        for (names, b) in both() {
            assert_eq!((&*names, &*b), ("a,b", "x"));
        }
        change("alter table t drop a, add c text default 'secret'");
        for (names, b) in both() {
            assert_eq!((&*names, &*b), ("b,c", "x"));
        }
        change("alter table t rename b to d; alter table t rename c to b");
        for (names, b) in both() {
            assert_eq!((&*names, &*b), ("d,b", "secret"));
        }
    }
}
