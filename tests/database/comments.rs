//! PostgreSQL's own views name the application, the endpoint and the request of wharf's sessions and statements.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use wharf::config::{self, Param, Place, Sql, StatementComment};
use wharf::database::{Access, Connection, Database, Error, RowWriter, Shape, Statement};
use wharf::deadline::Deadline;
use wharf::server::Server;
use wharf::value::{Scalar, Type, Value};

use crate::support::{Counting, Postgres, assert_nothing_is_left, config_of};

/// The session's own statement, as everybody sees it.
const OWN_TEXT: &str = "select query as q from pg_stat_activity where pid = pg_backend_pid()";

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const ORIGIN: [(&str, &str); 3] = [("statement", "own"), ("route", "/own/{id}"), ("method", "GET")];

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn settings(comment: StatementComment) -> config::Database {
    let mut settings = config::Database::default();
    settings.maximum_pool_size = 1;
    settings.statement_comment = comment;
    settings
}

fn open(url: &str, comment: StatementComment) -> Database {
    Database::open(&settings(comment), url).expect("the database is there")
}

/// An endpoint's statement; `:n` in it is a whole number.
fn statement(database: &Database, comment: StatementComment, sql: &str) -> Statement {
    statement_from(database, comment, &ORIGIN, sql)
}

fn statement_from(
    database: &Database,
    comment: StatementComment,
    origin: &[(&'static str, &str)],
    sql: &str,
) -> Statement {
    let pieces: Vec<String> = sql.split(":n").map(str::to_owned).collect();
    let sql = Sql { slots: vec![0; pieces.len() - 1], pieces };
    let params = [Param::new("n", Place::Query, Type::One(Scalar::Int))];
    database.statement_of(origin, &settings(comment), &sql, &params)
}

/// How many rows there were or were changed, and the rows as JSON.
fn run(connection: &mut Connection, statement: &Statement, access: Access) -> Result<(u64, String), Error> {
    let mut out = Vec::new();
    let mut rows = RowWriter::new(&mut out, Shape::Objects, 1 << 20, u64::MAX);
    let count = connection.run(statement, &[Value::Int(7)], access, soon(), &mut rows)?;
    Ok((count, String::from_utf8(out).expect("JSON is Unicode")))
}

fn read(connection: &mut Connection, statement: &Statement) -> String {
    run(connection, statement, Access::ReadOnly).unwrap_or_else(|error| panic!("{error}")).1
}

/// The comment of a statement that reads its own text.
fn own_comment(connection: &mut Connection, statement: &Statement) -> String {
    let row = read(connection, statement);
    let row: serde_json::Value = serde_json::from_str(&row).unwrap_or_else(|error| panic!("{row}: {error}"));
    let text = row["q"].as_str().expect("a session sees its own statement");
    let comment = text.strip_prefix(OWN_TEXT).expect("it begins as it was written");
    comment.to_owned()
}

mod sessions {
    use super::*;

    const NAMES: &str = "select string_agg(distinct application_name, ',') from pg_stat_activity \
                         where datname = current_database() and pid <> pg_backend_pid()";

    /// Sessions that were closed take a moment to go.
    fn assert_named(database: &crate::support::Database, names: &str) {
        crate::support::wait_until(names, || database.psql(NAMES) == names);
    }

    #[test]
    fn are_called_as_the_url_says_or_else_the_key() {
        let database = Postgres::database();
        let mut named = settings(StatementComment::Off);
        let default = Database::open(&named, &database.url()).expect("the database is there");
        assert_named(&database, "wharf");
        drop(default);
        named.application_name = "flights 2".to_owned();
        let by_key = Database::open(&named, &database.url()).expect("the database is there");
        assert_named(&database, "flights 2");
        drop(by_key);
        let url = format!("{}?application_name=by%20url", database.url());
        let by_url = Database::open(&named, &url).expect("the database is there");
        assert_named(&database, "by url");
        named.application_name = "changed".to_owned();
        by_url.reconfigure(&named);
        let statement = statement(&by_url, StatementComment::Endpoint, OWN_TEXT);
        let mut connection = by_url.checkout(soon()).expect("a connection is free");
        assert!(own_comment(&mut connection, &statement).starts_with(" /*application='by%20url',method="));
    }

    #[test]
    fn have_the_new_name_when_opened_after_a_reload() {
        let database = Postgres::database();
        let mut settings = settings(StatementComment::Off);
        settings.maximum_pool_size = 2;
        settings.minimum_idle = Some(1);
        let opened = Database::open(&settings, &database.url()).expect("the database is there");
        let first = opened.checkout(soon()).expect("a connection is free");
        settings.application_name = "later".to_owned();
        opened.reconfigure(&settings);
        let second = opened.checkout(soon()).expect("another one is opened");
        assert_named(&database, "later,wharf");
        drop((first, second));
    }
}

mod endpoints {
    use super::*;

    #[test]
    fn are_named_in_what_another_session_sees_of_their_statements() {
        let database = Postgres::database();
        let text = |comment: &str| {
            format!(
                "[server]\nworkers = 1\n[database]\nurl = '{}'\n{comment}\n\
                 [endpoint.wait]\nroute = 'GET /wait/{{id}}'\nparams = {{ id = 'int' }}\nreturns = 'one'\n\
                 sql = 'select :id as id from pg_advisory_xact_lock(:id) ; '\n\
                 [endpoint.both]\nroute = 'POST /both'\n\
                 step = [{{ sql = 'select 1' }}, {{ sql = 'select pg_advisory_xact_lock(7)' }}]\n\
                 [endpoint.own]\nroute = 'GET /own'\nsql = 'select pg_advisory_xact_lock(7) -- mine'\n",
                database.url()
            )
        };
        let server = Server::new(config_of(text(""))).and_then(Server::start).expect("it starts");
        let gate = |path: &str, method: &str| {
            let mut other = postgres::Client::connect(&database.url(), postgres::NoTls).expect("it is there");
            other.execute("select pg_advisory_lock(7)", &[]).expect("nobody has it");
            let mut client = crate::support::Client::connect(server.address());
            client.request(method, path, &[], "");
            database.wait_for_a_waiting_lock();
            let seen = "select query from pg_stat_activity where wait_event = 'advisory' \
                        and datname = current_database()";
            let seen = database.psql(seen);
            other.execute("select pg_advisory_unlock(7)", &[]).expect("it is ours");
            assert!(client.answer().status < 300);
            seen
        };
        assert_eq!(
            gate("/wait/7", "GET"),
            "select $1 as id from pg_advisory_xact_lock($1) \
             /*application='wharf',method='GET',route='%2Fwait%2F%7Bid%7D',statement='wait'*/"
        );
        assert_eq!(
            gate("/both", "POST"),
            "select pg_advisory_xact_lock(7) /*application='wharf',method='POST',route='%2Fboth',statement='both.step%5B2%5D'*/"
        );
        assert_eq!(gate("/own", "GET"), "select pg_advisory_xact_lock(7) -- mine");
        let named = "application_name = \"it's\"\nstatement_comment = 'endpoint'";
        server.reload(config_of(text(named))).expect("it is good");
        assert!(gate("/both", "POST").contains(" /*application='it%27s',method='POST',"));
        server.reload(config_of(text("statement_comment = 'off'"))).expect("it is good");
        assert_eq!(gate("/wait/7", "GET"), "select $1 as id from pg_advisory_xact_lock($1) ; ");
        assert_nothing_is_left(server);
    }

    #[test]
    fn have_each_statement_prepared_once() {
        let database = open(&Postgres::database().url(), StatementComment::Endpoint);
        let own = statement(&database, StatementComment::Endpoint, OWN_TEXT);
        let comment = " /*application='wharf',method='GET',route='%2Fown%2F%7Bid%7D',statement='own'*/";
        for _ in 0..3 {
            let mut connection = database.checkout(soon()).expect("a connection is free");
            connection.name_request("7", TRACE);
            assert_eq!(own_comment(&mut connection, &own), comment, "requests are not named unless told");
        }
        let mut connection = database.checkout(soon()).expect("a connection is free");
        let count = "select count(*) from pg_prepared_statements where statement like '%application%'";
        let row = connection.postgres().expect("it is PostgreSQL").query_one(count, &[]).expect("one row");
        // The one that counts is among them.
        assert_eq!(row.get::<_, i64>(0), 2);
    }

    #[test]
    fn are_one_entry_each_in_pg_stat_statements_whatever_their_requests() {
        let cluster = Postgres::start_with("true", "-c shared_preload_libraries=pg_stat_statements");
        cluster.psql("postgres", "create extension pg_stat_statements");
        let database = open(&cluster.url(), StatementComment::Request);
        let count =
            statement(&database, StatementComment::Request, "select count(*) from pg_class where oid = :n;");
        for id in 0..5 {
            let mut connection = database.checkout(soon()).expect("a connection is free");
            connection.name_request(&id.to_string(), TRACE);
            read(&mut connection, &count);
        }
        let entries = cluster.psql(
            "postgres",
            "select calls, query from pg_stat_statements where query like 'select count(*) from pg_class%'",
        );
        assert!(entries.starts_with("5|select count(*) from pg_class where oid = $1 /*"), "{entries}");
        assert!(entries.contains("route='%2Fown%2F%7Bid%7D'"), "{entries}");
        assert_eq!(entries.lines().count(), 1, "{entries}");
    }
}

mod requests {
    use super::*;

    #[test]
    fn are_named_in_what_another_session_sees_until_the_checkin() {
        let own = Postgres::database();
        let database = open(&own.url(), StatementComment::Request);
        let sleep = statement(&database, StatementComment::Request, "select :n as n from pg_sleep(:n * 100)");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut connection = database.checkout(soon()).expect("a connection is free");
                connection.name_request("it's */ 7", TRACE);
                run(&mut connection, &sleep, Access::ReadOnly)
            });
            let seen = "select pid, query from pg_stat_activity where query like '%pg_sleep($1%' and state = 'active' \
                        and wait_event = 'PgSleep' and datname = current_database()";
            crate::support::wait_until("the statement never ran", || !own.psql(seen).is_empty());
            let (pid, query) = own
                .psql(seen)
                .split_once('|')
                .map(|(pid, query)| (pid.to_owned(), query.to_owned()))
                .expect("one row");
            assert_eq!(
                query,
                format!(
                    "select $1 as n from pg_sleep($1 * 100) /*application='wharf',method='GET',\
                     request_id='it%27s%20%2A%2F%207',route='%2Fown%2F%7Bid%7D',statement='own',traceparent='{TRACE}'*/"
                )
            );
            own.psql(&format!("select pg_cancel_backend({pid})"));
            let ended = waiting.join().expect("it does not panic");
            assert!(matches!(&ended, Err(error) if error.code() == Some("57014")), "{ended:?}");
        });
        let own_text = statement(&database, StatementComment::Request, OWN_TEXT);
        let mut connection = database.checkout(soon()).expect("a connection is free");
        assert!(
            own_comment(&mut connection, &own_text).ends_with("%7D',statement='own'*/"),
            "it is nobody's"
        );
        connection.name_request("", TRACE);
        assert!(own_comment(&mut connection, &own_text).ends_with(&format!(",traceparent='{TRACE}'*/")));
    }

    #[test]
    fn of_handlers_in_rust_are_named_alone() {
        let database = open(&Postgres::database().url(), StatementComment::Request);
        let mut connection = database.checkout(soon()).expect("a connection is free");
        let text = |connection: &mut Connection, sql: &str| -> String {
            let session = connection.postgres().expect("it is PostgreSQL");
            session.query_one(sql, &[]).unwrap_or_else(|error| panic!("{error}")).get(0)
        };
        assert_eq!(text(&mut connection, OWN_TEXT), OWN_TEXT);
        connection.name_request("7", "");
        assert_eq!(text(&mut connection, &format!("{OWN_TEXT} ;")), format!("{OWN_TEXT} /*request_id='7'*/"));
        assert_eq!(text(&mut connection, &format!("{OWN_TEXT} -- mine")), format!("{OWN_TEXT} -- mine"));
        let session = connection.postgres().expect("it is PostgreSQL");
        session.execute("create temp table t (a int primary key, b text)", &[]).expect("it can be made");
        let insert = "insert into t values ($1, $2) returning a, '$3' as b";
        let rows = session.query_each(insert, &[&[&1, &"one"], &[&2, &None::<&str>]]).expect("they are new");
        assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), [1, 2]);
        assert_eq!(rows[1].get::<_, &str>(1), "$3");
        let changed = session.execute_each("update t set b = $2 where a >= $1", &[&[&1, &"x"], &[&2, &"y"]]);
        assert_eq!(changed.expect("they are there"), 3);
        assert_eq!(session.execute("delete from t where a = $1", &[&2]).expect("it is there"), 1);
        let again = session.execute(insert, &[&1, &"one"]).expect_err("it is there already");
        assert_eq!(again.status(), 409, "{again}");
        for wrong in [
            session.query("select $1::int", &[]).expect_err("a parameter is missing"),
            session.query("select $1::int", &[&1, &2]).expect_err("that is one too many"),
            session.query("select $1::int", &[&"one"]).expect_err("that is a text"),
        ] {
            assert!(matches!(wrong, Error::Usage(_)), "{wrong}");
        }
        assert_eq!(session.query_one("select $1::int", &[&5]).expect("one row").get::<_, i32>(0), 5);
    }

    #[test]
    fn get_the_answers_that_they_would_get_without_a_name() {
        let own = Postgres::database();
        own.psql("create type mood as enum ('sad', 'ok'); create table t (a int primary key, m mood)");
        let database = open(&own.url(), StatementComment::Request);
        let statements = [
            "select :n as n, 1.50 as a, 'x'::text as b, now() > '2000-01-01' as c, array[1, :n] as d, 'ok'::mood as e, \
             null::jsonb as f, '{\"a\": 1}'::jsonb as g",
            "select generate_series(1, 3) as i",
            "select 1 as i where false",
            "select",
            "insert into t values (:n, 'sad') returning a, m",
            "update t set m = 'ok' where a = :n",
            "insert into t values (:n, 'ok')",
            "delete from t",
            "select 1 / (:n - 7)",
            "select :n::int2 / 0.0",
            "create temp table gone on commit drop as select :n as n",
        ];
        let answers = |comment: StatementComment, request: &str| -> Vec<_> {
            let answer = |sql: &&str| {
                let mut connection = database.checkout(soon()).expect("a connection is free");
                connection.name_request(request, TRACE);
                let statement = statement(&database, comment, sql);
                run(&mut connection, &statement, Access::ReadWrite)
                    .map_err(|error| (error.status().as_u16(), error.code().map(str::to_owned)))
            };
            statements.iter().map(answer).collect()
        };
        let plain = answers(StatementComment::Off, "1");
        assert!(
            plain.contains(&Err((409, Some("23505".to_owned())))) && plain.contains(&Ok((1, String::new()))),
            "{plain:?}"
        );
        // The first time they are prepared, the second time they are not.
        assert_eq!(answers(StatementComment::Request, "1"), plain);
        assert_eq!(answers(StatementComment::Request, "2"), plain);
    }

    #[test]
    fn are_served_over_a_table_that_was_altered_and_change_it_once() {
        let own = Postgres::database();
        own.psql("create table t (a int); insert into t values (1)");
        let database = open(&own.url(), StatementComment::Request);
        let add = statement(&database, StatementComment::Request, "update t set a = a + 1 returning *");
        let answer = || {
            let mut connection = database.checkout(soon()).expect("a connection is free");
            connection.name_request("7", TRACE);
            run(&mut connection, &add, Access::ReadWrite).unwrap_or_else(|error| panic!("{error}")).1
        };
        assert_eq!(answer(), r#"{"a":2}"#);
        own.psql("alter table t add b text default 'new'");
        assert_eq!(answer(), r#"{"a":3,"b":"new"}"#);
        assert_eq!(answer(), r#"{"a":4,"b":"new"}"#);
    }

    /// Everything that a run sends is there before the database has answered any of it.
    #[test]
    fn cost_no_round_trip() {
        let proxy = Counting::to(Postgres::shared().port());
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
        let database = open(&url, StatementComment::Request);
        let statement = statement(&database, StatementComment::Request, "select :n::int as n");
        let round_trips = |request: &str| {
            let mut connection = database.checkout(soon()).expect("a connection is free");
            connection.name_request(request, TRACE);
            proxy.begin();
            assert_eq!(read(&mut connection, &statement), r#"{"n":7}"#);
            proxy.count()
        };
        assert_eq!(round_trips(""), 2, "it is prepared once");
        // The count is 0 when the statement is sent right behind the cleaning of the session, because no request waits
        // for the cleaning.
        for request in ["", "named", "another"] {
            let count = round_trips(request);
            assert!(count <= 1, "{request}: {count}");
        }
    }
}

mod injection {
    use super::*;

    #[test]
    fn nothing_in_a_route_a_name_or_an_id_breaks_out_of_the_comment() {
        let own = Postgres::database();
        own.psql("create table t (a int)");
        let database = open(&own.url(), StatementComment::Request);
        let hostile = |text: &str| {
            let mut connection = database.checkout(soon()).expect("a connection is free");
            let origin = [("route", text), ("statement", text)];
            let own_text = statement_from(&database, StatementComment::Request, &origin, OWN_TEXT);
            connection.name_request(text, text);
            let comment = own_comment(&mut connection, &own_text);
            let inside =
                comment.strip_prefix(" /*application='wharf',").and_then(|rest| rest.strip_suffix("*/"));
            inside.is_some_and(|inside| !inside.contains("*/") && !inside.contains("/*") && inside.is_ascii())
        };
        for text in [
            "*/; drop table t; --",
            "'; drop table t; --",
            "\\'*/ or 1=1 /*",
            "%27*%2F",
            "a\n*/\ndrop table t;\r\n",
            "/*/*",
            "$1 :n ?",
            "é\u{2028}*/",
            "$$*/$$",
            "\"*/\"",
            "%",
            "**//",
        ] {
            assert!(hostile(text), "{text:?}");
        }
        let texts = "[*/'\\\\%;$\"\n\r:é -]{1,40}";
        let mut runner = TestRunner::new(ProptestConfig { cases: 200, ..ProptestConfig::default() });
        runner
            .run(&texts.prop_map(String::from), |text| {
                prop_assert!(hostile(&text));
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(own.psql("select count(*) from t"), "0");
    }

    /// Beside a comment an error stands where it stood without one.
    #[test]
    fn errors_point_into_the_text_as_it_was_written() {
        let database = open(&Postgres::database().url(), StatementComment::Request);
        let cases = [
            ("select :n + nothing", "nothing"),
            ("select :n, 'é', nothing", "nothing"),
            ("select :n +", ""),
            ("select :n +  ; ", ""),
            ("selekt :n", "selekt"),
            ("select 1 / (:n - 7), 1", ""),
        ];
        let place = |comment: StatementComment, sql: &str| {
            let mut connection = database.checkout(soon()).expect("a connection is free");
            connection.name_request("7", TRACE);
            let statement = statement(&database, comment, sql);
            let ran = run(&mut connection, &statement, Access::ReadOnly).expect_err(sql);
            let described = connection.describe(&statement).err();
            assert!(described.is_none_or(|error| error.offset() == ran.offset()), "{sql}");
            let mut said = ran.to_string();
            if let Some(offset) = ran.offset() {
                write!(said, " at {}", statement.written_offset(offset)).expect("a String takes every write");
            }
            (said, ran.offset().map(|offset| statement.written_offset(offset)))
        };
        for (sql, word) in cases {
            let (_, plain) = place(StatementComment::Off, sql);
            for comment in [StatementComment::Endpoint, StatementComment::Request] {
                let (said, at) = place(comment, sql);
                assert!(!said.contains("/*") && !said.contains("route"), "{said}");
                if sql.contains(';') {
                    assert_eq!(at, Some("select :n +".len()), "{sql}: {said}");
                } else {
                    assert_eq!(at, plain, "{sql}: {said}");
                }
                assert!(at.is_none_or(|at| sql[at..].starts_with(word)), "{sql}: {said}");
            }
        }
    }
}
