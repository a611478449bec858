//! Every type of PostgreSQL that has a JSON form here, against what PostgreSQL itself shows for it.

use std::time::Duration;

use wharf::config;
use wharf::database::{Access, Connection, Database, Error, RowWriter, Shape, Statement};
use wharf::deadline::Deadline;

use crate::support::Postgres;

fn connect() -> (Database, Connection) {
    let mut settings = config::Database::default();
    settings.maximum_pool_size = 1;
    let database = Database::open(&settings, &Postgres::shared().url()).unwrap();
    let connection = database.checkout(soon()).unwrap();
    (database, connection)
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn statement(database: &Database, sql: &str) -> Statement {
    database.statement(&config::Sql { pieces: vec![sql.to_owned()], slots: vec![] }, &[])
}

fn value(database: &Database, connection: &mut Connection, sql: &str) -> Result<String, Error> {
    let mut out = Vec::new();
    let mut rows = RowWriter::new(&mut out, Shape::Value, 1 << 20, 1);
    connection.run(&statement(database, sql), &[], Access::ReadWrite, soon(), &mut rows)?;
    Ok(String::from_utf8(out).unwrap())
}

fn setup(connection: &mut Connection, sql: &[&str]) {
    for sql in sql {
        connection.postgres().unwrap().execute(sql, &[]).unwrap();
    }
}

/// The text with which an expression's JSON is compared.
enum Shown {
    /// `to_json(…)::text`, the type's form in JSON.
    ToJson,
    /// `…::text`, as psql shows it, in a JSON string.
    Text,
    /// `to_json` of the value as that type: it quotes an oid, which is a number here.
    ToJsonOf(&'static str),
    /// This.
    As(&'static str),
}
use Shown::{As, Text, ToJson, ToJsonOf};

#[test]
fn every_type_looks_as_postgresql_shows_it() {
    let (database, mut connection) = connect();
    setup(
        &mut connection,
        &[
            "create type mood as enum ('sad', 'very \"happy\"')",
            "create domain positive as int check (value > 0)",
            "create domain tags as text[]",
            "create domain deep as positive",
        ],
    );
    let mut failures = Vec::new();
    // A server may be built without libxml.
    let has_xml = connection.postgres().unwrap().query_one("select '<a/>'::xml::text", &[]).is_ok();
    for (kind, values, shown) in table() {
        if kind == "xml" && !has_xml {
            continue;
        }
        for literal in values {
            let typed = format!("'{}'::{kind}", literal.replace('\'', "''"));
            let expected = match shown {
                ToJson => format!("to_json({typed})::text"),
                ToJsonOf(other) => format!("to_json({typed}::{other})::text"),
                Text => format!("to_json({typed}::text)::text"),
                As(text) => format!("'{text}'::text"),
            };
            let row = connection.postgres().unwrap().query_one(&format!("select {expected}"), &[]).unwrap();
            let expected: String = row.get(0);
            let expected = expected.replace("+00:00", "Z");
            let actual = value(&database, &mut connection, &format!("select {typed}"));
            let actual = actual.unwrap_or_else(|error| error.to_string());
            if actual != expected {
                failures.push(format!("{typed}: {actual}, expected {expected}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn table() -> Vec<(&'static str, Vec<&'static str>, Shown)> {
    vec![
        ("bool", vec!["true", "false"], ToJson),
        ("int2", vec!["0", "-32768", "32767"], ToJson),
        ("int4", vec!["0", "-2147483648", "2147483647"], ToJson),
        ("int8", vec!["0", "-9223372036854775808", "9223372036854775807"], ToJson),
        ("oid", vec!["0", "4294967295"], ToJsonOf("int8")),
        (
            "float4",
            vec![
                "0",
                "-0",
                "1",
                "0.1",
                "-1.5",
                "100000",
                "1000000",
                "1234567",
                "1e-4",
                "1e-5",
                "3.4e38",
                "1e-45",
                "NaN",
                "Infinity",
                "-Infinity",
            ],
            ToJson,
        ),
        (
            "float8",
            vec![
                "0",
                "-0",
                "1",
                "0.1",
                "-1.5",
                "100000000000000",
                "999999999999999",
                "1000000000000000",
                "1e15",
                "1.2345e20",
                "1e-4",
                "1e-5",
                "1.7976931348623157e308",
                "5e-324",
                "0.30000000000000004",
                "123456.789",
                "9007199254740993",
                "NaN",
                "Infinity",
                "-Infinity",
            ],
            ToJson,
        ),
        (
            "numeric",
            vec![
                "0",
                "0.00",
                "1",
                "-1",
                "10000",
                "9999",
                "100000000",
                "0.0001",
                "0.00001",
                "1.10",
                "-12345.678900",
                "123456789012345678901234567890.123456789",
                "1e100",
                "1e-20",
                "0.000000000000000000000000000001",
                "NaN",
                "Infinity",
                "-Infinity",
            ],
            ToJson,
        ),
        ("numeric(20,5)", vec!["1.5", "-0.00001"], ToJson),
        (
            "text",
            vec![
                "",
                "plain",
                "\"quoted\" \\ /",
                "line\nbreak\ttab\r",
                "\u{1}\u{1f}\u{7f}",
                "ünïcødé 😀",
                "\u{2028}",
            ],
            ToJson,
        ),
        ("varchar(10)", vec!["", "it's"], ToJson),
        ("char(5)", vec!["ab"], ToJson),
        ("name", vec!["pg_class"], ToJson),
        ("\"char\"", vec!["a", "\"", ""], ToJson),
        ("mood", vec!["sad", "very \"happy\""], ToJson),
        ("xml", vec!["<a b=\"c\">d</a>"], ToJson),
        (
            "uuid",
            vec!["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"],
            ToJson,
        ),
        (
            "date",
            vec![
                "2013-01-31",
                "2000-02-29",
                "1999-12-31",
                "1900-02-28",
                "0001-01-01",
                "0001-12-31 BC",
                "4713-01-01 BC",
                "5874897-12-31",
                "12013-06-01",
                "infinity",
                "-infinity",
            ],
            ToJson,
        ),
        ("time", vec!["00:00:00", "05:06:07.5", "23:59:59.999999", "24:00:00", "01:02:03.000001"], ToJson),
        (
            "timetz",
            vec!["05:06:07+00", "05:06:07.25-08", "05:06:07+05:30", "05:06:07-03:25:45", "00:00:00+15:59"],
            Text,
        ),
        (
            "timestamp",
            vec![
                "2013-01-01 05:00:00",
                "2013-01-01 05:00:00.5",
                "1969-12-31 23:59:59.999999",
                "0044-03-15 12:00:00 BC",
                "294276-12-31 23:59:59",
                "12013-06-01 00:00:00",
                "infinity",
                "-infinity",
            ],
            ToJson,
        ),
        (
            "timestamptz",
            vec![
                "2013-01-01 05:00:00+00",
                "2013-01-01 05:00:00.123456+02",
                "1999-12-31 23:00:00-05",
                "0044-03-15 12:00:00+00 BC",
                "infinity",
                "-infinity",
            ],
            ToJson,
        ),
        (
            "interval",
            vec![
                "0",
                "1 year 2 mons 3 days 04:05:06.789",
                "1 day",
                "-1 day",
                "-1 year +2 mons",
                "1 mon -1 day",
                "-1 day +04:00:00",
                "1 day -04:00:00",
                "-00:00:00.5",
                "100:00:00",
                "2 years",
                "-13 mons",
                "1 sec",
            ],
            ToJson,
        ),
        ("json", vec!["{\"a\" : [1, 2.50, null]}", "\"text\"", "null", "1e2"], ToJson),
        ("jsonb", vec!["{\"b\": 1, \"a\": [true, {}]}", "\"text\"", "null", "12.50"], ToJson),
        ("bytea", vec!["\\x"], As("\"\"")),
        ("bytea", vec!["\\x00ff10"], As("\"AP8Q\"")),
        (
            "inet",
            vec![
                "127.0.0.1",
                "10.1.0.0/16",
                "::1",
                "::",
                "2001:db8::1/64",
                "::ffff:1.2.3.4",
                "::1.2.3.4",
                "2001:db8:0:0:1:0:0:1",
                "fe80::/10",
                "1:0:0:0:0:0:0:0",
            ],
            ToJson,
        ),
        ("cidr", vec!["10.0.0.0/8", "192.168.1.1/32", "2001:db8::/32", "::/0"], ToJson),
        ("macaddr", vec!["08:00:2b:01:02:03"], ToJson),
        ("macaddr8", vec!["08:00:2b:01:02:03:04:05"], ToJson),
        ("bit(3)", vec!["101"], ToJson),
        ("varbit", vec!["", "1", "101010101"], ToJson),
        ("positive", vec!["7"], ToJson),
        ("deep", vec!["7"], ToJson),
        ("tags", vec!["{a,\"b c\"}"], ToJson),
        ("int4range", vec!["[1,10)", "(,5)", "[1,)", "(,)", "empty", "[3,3]"], ToJson),
        ("int8range", vec!["[-5,9223372036854775806]"], ToJson),
        ("numrange", vec!["[1.50,2.5]", "(NaN,)", "[0,Infinity)"], ToJson),
        (
            "daterange",
            vec!["[2013-01-01,2013-02-01)", "[0044-03-15 BC,2000-01-01)", "[-infinity,infinity]"],
            ToJson,
        ),
        ("tsrange", vec!["[2013-01-01 00:00,2013-01-02 00:00)", "[-infinity,2013-01-02 00:00)"], ToJson),
        ("tstzrange", vec!["[2013-01-01 00:00+00,2013-01-02 00:00:00.5+00)"], ToJson),
        ("int4[]", vec!["{}", "{1,2,NULL}", "{{1,2},{3,4}}", "[0:1]={5,6}", "{{{1},{2}},{{3},{4}}}"], ToJson),
        ("text[]", vec!["{}", "{\"a,b\",NULL,\"NULL\",\"\\\"\"}", "{{a,b},{c,NULL}}"], ToJson),
        ("numeric[]", vec!["{1.10,NaN}"], ToJson),
        ("bool[]", vec!["{t,f,NULL}"], ToJson),
        ("timestamptz[]", vec!["{2013-01-01 00:00:00+00}"], ToJson),
        ("date[]", vec!["{2013-01-01,infinity}"], ToJson),
        ("uuid[]", vec!["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"], ToJson),
        ("jsonb[]", vec!["{\"{\\\"a\\\": 1}\",NULL}"], ToJson),
        ("mood[]", vec!["{sad,NULL}"], ToJson),
        ("interval[]", vec!["{1 day,-1 mon}"], ToJson),
        ("inet[]", vec!["{10.0.0.1/8}"], ToJson),
        ("int4range[]", vec!["{\"[1,2)\",empty}"], ToJson),
        ("float8[]", vec!["{1,0.5,NaN}"], ToJson),
        ("bytea[]", vec!["{\"\\\\x00\"}"], As("[\"AA==\"]")),
    ]
}

#[test]
fn null_and_void_are_null() {
    let (database, mut connection) = connect();
    for sql in ["select null::int", "select null::text[]", "select null", "select pg_sleep(0)"] {
        assert_eq!(value(&database, &mut connection, sql).unwrap(), "null", "{sql}");
    }
}

#[test]
fn a_type_without_a_json_form_is_named_with_its_column_and_a_cast() {
    let (database, mut connection) = connect();
    setup(&mut connection, &["create type pair as (a int, b int)"]);
    let kinds = ["point", "money", "tsvector", "regclass", "pair", "int4multirange", "pair[]", "aclitem"];
    for kind in kinds {
        let unsupported = statement(&database, &format!("select 1 as fine, null::{kind} as \"odd one\""));
        let problems = connection.describe(&unsupported).unwrap().problems;
        assert_eq!(problems.len(), 1, "{kind}");
        for part in ["\"odd one\"", kind, "\"odd one\"::text"] {
            assert!(problems[0].contains(part), "{kind}: {}", problems[0]);
        }
        let mut out = Vec::new();
        let mut rows = RowWriter::new(&mut out, Shape::Objects, 1000, 1);
        let refused = connection.run(&unsupported, &[], Access::ReadOnly, soon(), &mut rows);
        assert!(matches!(refused, Err(Error::UnsupportedType { .. })), "{kind}");
        assert!(out.is_empty());
    }
}
