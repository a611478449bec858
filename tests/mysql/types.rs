//! Every type of MariaDB that has a JSON form here, against what its own client shows for it.

use std::fmt::Write as _;

use crate::support::{MariaDatabase, Mariadb, PATIENCE};
use crate::{look, open, refused, value};
use wharf::deadline::Deadline;

/// How the JSON follows from what the client shows.
#[derive(Clone, Copy)]
enum Shown {
    /// The same without quotes: a number, or JSON itself.
    Plain,
    /// The same number, in whatever form.
    Number,
    /// A JSON string of the same text.
    Text,
    /// `true` for 1 and `false` for 0.
    Bool,
    /// A JSON string with a `T` in the middle, without zeros at the fraction's end.
    Moment,
    /// The same with a `Z`.
    Instant,
    /// A JSON string of the bytes in base64.
    Base64,
    /// The same as this SQL expression shows, without quotes.
    Of(&'static str),
}
use Shown::{Base64, Bool, Instant, Moment, Number, Of, Plain, Text};

/// The type of a column, the literals that are stored there, and the form of the values.
type Row = (&'static str, &'static [&'static str], Shown);

const NUMBERS: &[Row] = &[
    ("bool", &["true", "false"], Bool),
    ("tinyint(1)", &["1", "0"], Bool),
    ("tinyint", &["-128", "127", "0"], Plain),
    ("tinyint unsigned", &["255"], Plain),
    ("smallint", &["-32768", "32767"], Plain),
    ("smallint unsigned", &["65535"], Plain),
    ("mediumint", &["-8388608", "8388607"], Plain),
    ("mediumint unsigned", &["16777215"], Plain),
    ("int", &["-2147483648", "2147483647"], Plain),
    ("int unsigned", &["4294967295"], Plain),
    ("int(5) unsigned zerofill", &["42"], Number),
    ("bigint", &["-9223372036854775808", "9223372036854775807"], Plain),
    ("bigint unsigned", &["18446744073709551615", "9223372036854775808", "0"], Plain),
    ("float", &["0", "-1.5", "0.1", "1e10", "-3e-20"], Number),
    (
        "double",
        &["0", "-1.5", "0.1", "0.30000000000000004", "1e15", "1.7976931348623157e308", "5e-324"],
        Number,
    ),
    ("decimal(10,0)", &["0", "-1", "9999999999"], Plain),
    ("decimal(20,5)", &["1.5", "-0.00001", "0"], Plain),
    ("decimal(65,30)", &["12345678901234567890123456789012345.123456789012345678901234567890"], Plain),
    ("decimal(10,2) unsigned", &["1.10"], Plain),
    ("bit(1)", &["b'1'", "b'0'"], Of("v + 0")),
    ("bit(8)", &["b'101'", "255"], Of("v + 0")),
    ("bit(64)", &["18446744073709551615", "1"], Of("v + 0")),
    ("year", &["1901", "2155", "0000"], Number),
];

const MOMENTS: &[Row] = &[
    (
        "date",
        &["'2013-01-31'", "'2000-02-29'", "'1000-01-01'", "'9999-12-31'", "'0000-00-00'", "'2013-00-00'"],
        Text,
    ),
    (
        "time",
        &["'00:00:00'", "'23:59:59'", "'-00:00:01'", "'838:59:59'", "'-838:59:59'", "'100:00:00'"],
        Text,
    ),
    (
        "time(6)",
        &["'01:02:03.000001'", "'-838:59:59.999999'", "'24:00:00.500000'"],
        Of("json_quote(trim(trailing '0' from v))"),
    ),
    ("datetime", &["'2013-01-01 05:00:00'", "'9999-12-31 23:59:59'"], Moment),
    (
        "datetime(6)",
        &["'2013-01-01 05:00:00.5'", "'1969-12-31 23:59:59.999999'", "'2013-01-01 05:00:00'"],
        Moment,
    ),
    ("datetime(3)", &["'2013-01-01 05:00:00.250'"], Moment),
    ("timestamp null", &["'2013-01-01 05:00:00'", "'2037-12-31 23:59:59'"], Instant),
    ("timestamp(6) null", &["'2013-01-01 05:00:00.123456'"], Instant),
];

const TEXTS: &[Row] = &[
    (
        "varchar(100)",
        &[
            "''",
            "'it''s'",
            r#"'"quoted" \\\\ /'"#,
            "'ünïcødé 😀'",
            r"'line\nbreak\ttab\r'",
            "char(1, 31, 127)",
        ],
        Text,
    ),
    ("char(5)", &["'ab'", "''"], Text),
    ("char(5) character set latin1", &["'é'"], Text),
    ("varchar(20) character set latin1", &["'naïve €'"], Text),
    ("varchar(20) character set utf8mb3", &["'ünï'"], Text),
    ("varchar(20) character set ucs2", &["'ünï'"], Text),
    ("varchar(20) character set utf16", &["'😀'"], Text),
    ("varchar(20) character set utf32", &["'😀'"], Text),
    ("varchar(20) character set cp1251", &["'Жук'"], Text),
    ("varchar(20) character set sjis", &["'ソース'"], Text),
    ("varchar(20) collate utf8mb4_bin", &["'Bin'"], Text),
    ("tinytext", &["'tiny'"], Text),
    ("text", &["'text'"], Text),
    ("mediumtext", &["repeat('m', 70000)"], Text),
    ("longtext", &["'long'"], Text),
    ("enum('sad', 'very \"happy\"', '')", &["'sad'", "'very \"happy\"'", "''"], Text),
    ("set('a', 'b', 'ü')", &["'a,ü'", "''", "'b'"], Text),
    ("json", &[r#"'{"a" : [1, 2.50, null]}'"#, r#"'"text"'"#, "'null'", "'1e2'"], Plain),
    ("binary(4)", &["x'00ff'"], Base64),
    ("varbinary(10)", &["x'00ff10'", "''"], Base64),
    ("tinyblob", &["x'01'"], Base64),
    ("blob", &["x'deadbeef'", "''"], Base64),
    ("longblob", &["repeat(x'00', 300)"], Base64),
    ("uuid", &["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"], Text),
    ("inet6", &["'2001:db8::1'", "'::ffff:192.0.2.1'"], Text),
    ("inet4", &["'192.0.2.1'"], Text),
];

#[test]
fn numbers_look_as_the_client_shows_them() {
    check(NUMBERS);
}

#[test]
fn dates_and_times_look_as_the_client_shows_them() {
    check(MOMENTS);
}

#[test]
fn texts_and_bytes_look_as_the_client_shows_them() {
    check(TEXTS);
}

fn check(rows: &[Row]) {
    let tables = Mariadb::database();
    let database = open(&tables.url(), PATIENCE).expect("the server is there");
    let mut connection = database.checkout(Deadline::after(PATIENCE)).expect("a session is free");
    let mut failures = Vec::new();
    for (number, (kind, literals, shown)) in rows.iter().enumerate() {
        let table = format!("t{number}");
        // Zero dates are stored where strict mode does not forbid them.
        let mut sql = format!(
            "set sql_mode = 'STRICT_ALL_TABLES'; set time_zone = '+00:00'; create table {table} (id int, v {kind});"
        );
        for (id, literal) in literals.iter().enumerate() {
            write!(sql, "insert into {table} values ({id}, {literal});").expect("a String takes all");
        }
        tables.sql(&sql);
        for (id, literal) in literals.iter().enumerate() {
            let expected = expected(&tables, &table, id, *shown);
            for source in [
                format!("select v from {table} where id = {id}"),
                format!("select max(v) from {table} where id = {id}"),
            ] {
                // The maximum of a column may have another type than the column.
                if source.contains("max(") && !is_kept(kind) {
                    continue;
                }
                let actual = look(&database, &mut connection, &source)
                    .unwrap_or_else(|error| error.in_full().into_owned());
                let equal = match shown {
                    Number => actual.parse::<f64>().ok() == expected.parse::<f64>().ok(),
                    _ => actual == expected,
                };
                if !equal {
                    failures.push(format!("{kind} {literal}: {actual}, expected {expected}"));
                }
            }
        }
        let null = look(
            &database,
            &mut connection,
            &format!("select v from {table} where false union all select null"),
        );
        if null.as_ref().map_or("", String::as_str) != "null" {
            failures.push(format!("{kind} null: {null:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Whether `max` of a column is of the column's type and form.
fn is_kept(kind: &str) -> bool {
    ![
        "tinyint(1)",
        "bool",
        "json",
        "bit",
        "enum",
        "set",
        "char(5)",
        "int(5)",
        "year",
        "float",
        "binary",
        "blob",
        "character set",
    ]
    .iter()
    .any(|other| kind.contains(other))
}

fn expected(tables: &MariaDatabase, table: &str, id: usize, shown: Shown) -> String {
    let of = |expression: &str| {
        tables.sql(&format!("set time_zone = '+00:00'; select {expression} from {table} where id = {id}"))
    };
    let quoted = |text: &str| serde_json::to_string(text).expect("text is JSON");
    let moment = |text: String| {
        let text = text.replacen(' ', "T", 1);
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match shown {
        Plain | Number => of("v"),
        Text => quoted(&of("v")),
        Bool => (if of("v") == "1" { "true" } else { "false" }).to_owned(),
        Moment => quoted(&moment(of("v"))),
        Instant => quoted(&(moment(of("v")) + "Z")),
        Base64 => quoted(&of("to_base64(v)").replace('\n', "")),
        Of(expression) => of(expression),
    }
}

/// Expressions that belong to no column have the form of their own type.
#[test]
fn expressions_have_the_form_of_their_type() {
    let tables = Mariadb::database();
    let database = open(&tables.url(), PATIENCE).expect("the server is there");
    let mut connection = database.checkout(Deadline::after(PATIENCE)).expect("a session is free");
    for (sql, expected) in [
        ("select 1", "1"),
        ("select 1.50", "1.50"),
        ("select 1e3", "1000"),
        ("select 'a'", "\"a\""),
        ("select null", "null"),
        ("select 1 = 1", "1"),
        ("select 1 union select 2 limit 1", "1"),
        ("select x'00ff'", "\"AP8=\""),
        ("select date '2013-01-31'", "\"2013-01-31\""),
        ("select time '26:00:00'", "\"26:00:00\""),
        ("select timestamp '2013-01-31 10:00:00'", "\"2013-01-31T10:00:00\""),
        ("select count(*) from information_schema.engines where false", "0"),
        ("select sum(n) from (select 1 as n union all select 2) t", "3"),
        ("select group_concat(n order by n) from (select 'ü' as n union all select 'a') t", "\"a,ü\""),
        ("select cast('ä' as char character set latin1)", "\"ä\""),
        ("select database()", "TEST"),
        ("select 18446744073709551615", "18446744073709551615"),
        ("select -9223372036854775808", "-9223372036854775808"),
        ("select concat('😀', 1)", "\"😀1\""),
        ("select repeat('', 5)", "\"\""),
        ("select @@sql_mode like '%STRICT%'", "1"),
        ("select @@time_zone", "\"+00:00\""),
        ("select @@character_set_results", "\"utf8mb4\""),
        ("select @@local_infile * 0", "0"),
    ] {
        let expected =
            if expected == "TEST" { format!("\"{}\"", tables.name()) } else { expected.to_owned() };
        let actual =
            look(&database, &mut connection, sql).unwrap_or_else(|error| error.in_full().into_owned());
        assert_eq!(actual, expected, "{sql}");
    }
}

#[test]
fn a_type_without_a_json_form_is_named_with_its_column_and_a_way_out() {
    let tables = Mariadb::database();
    tables.sql("create table place (at point, shape polygon, any geometry)");
    for (column, kind) in [("at", "point"), ("shape", "polygon"), ("any", "geometry")] {
        let error =
            refused(&tables.url(), &value("places", &format!("select {column} as `odd one` from place")));
        for part in ["odd one", kind, "st_as"] {
            assert!(error.to_lowercase().contains(part), "{column}: {error}");
        }
    }
}

#[test]
fn no_local_file_is_ever_read() {
    let tables = Mariadb::database();
    tables.sql("create table t (x varchar(200))");
    let database = open(&tables.url(), PATIENCE).expect("the server is there");
    let mut connection = database.checkout(Deadline::after(PATIENCE)).expect("a session is free");
    let loaded = look(&database, &mut connection, "load data local infile '/etc/hostname' into table t");
    assert!(loaded.is_err(), "{loaded:?}");
    assert_eq!(tables.sql("select count(*) from t"), "0");
}
