//! The demo data in each database: every value arrives, and a fill that fails changes nothing.

use std::fs;
use std::path::Path;

use postgres::{Client, NoTls, SimpleQueryMessage};
use rusqlite::types::ValueRef;
use wharf::internal::demo::{self, Error};

use crate::support::{Mariadb, Postgres, Wharf};

/// Each filled table, its columns as each database prints the CSV's texts, and its rows.
const TABLES: [(&str, &str, usize); 5] = [
    ("airlines", "carrier, name", 16),
    ("airports", "faa, name, lat, lon, alt, tz, dst, tzone", 1458),
    ("planes", "tailnum, year, type, manufacturer, model, engines, seats, speed, engine", 3322),
    (
        "flights",
        "id, day, SCHEDULED, carrier, flight, tailnum, origin, dest, dep_delay, arr_delay, air_time, distance, CANCELLED",
        27_004,
    ),
    ("account", "id, owner, balance", 4),
];

#[test]
fn sqlite_holds_every_value_of_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("demo.db");
    demo::fill_sqlite(&path).unwrap();
    let database = rusqlite::Connection::open(&path).unwrap();
    for (table, columns, count) in TABLES {
        let mut select = database.prepare(&format!("select {columns} from {table} order by 1")).unwrap();
        let width = select.column_count();
        let rows = select.query_map([], |row| (0..width).map(|at| row.get_ref(at).map(text_of)).collect());
        assert_rows(table, count, &rows.unwrap().collect::<Result<Vec<Vec<String>>, _>>().unwrap());
    }
    assert_eq!(files_in(directory.path()), ["demo.db"]);
    let violations: i64 =
        database.query_row("select count(*) from pragma_foreign_key_check", [], |row| row.get(0)).unwrap();
    assert_eq!(violations, 0);
}

#[test]
fn postgres_holds_every_value_of_the_files() {
    let database = Postgres::database();
    let mut client = Client::connect(&database.url(), NoTls).unwrap();
    demo::fill_postgres(&mut client, false).unwrap();
    for (table, columns, count) in TABLES {
        let columns = columns
            .replace("SCHEDULED", "to_char(scheduled at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS')")
            .replace("CANCELLED", "cancelled::int");
        let messages = client.simple_query(&format!("select {columns} from {table} order by 1")).unwrap();
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        });
        assert_rows(table, count, &rows.collect::<Vec<Vec<String>>>());
    }
}

#[test]
fn mariadb_holds_every_value_of_the_files() {
    let database = Mariadb::database();
    let fill =
        |more: &[&str]| Wharf::run("", &[&["demo", "--database", &database.url()], more].concat(), &[]);
    let filled = fill(&[]);
    assert_eq!(filled.code, Some(0), "{}", filled.stderr);
    for (table, columns, count) in TABLES {
        let shown = |column: &str| match column {
            "SCHEDULED" => "date_format(scheduled, '%Y-%m-%d %H:%i:%s')".to_owned(),
            column => format!("coalesce({}, '')", column.to_lowercase()),
        };
        let key = columns.split(", ").next().unwrap();
        let columns = columns.split(", ").map(shown).collect::<Vec<_>>().join(", ");
        let printed =
            database.sql(&format!("set time_zone = '+00:00'; select {columns} from {table} order by {key}"));
        let rows: Vec<Vec<String>> =
            printed.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
        assert_rows(table, count, &rows);
    }
    let again = fill(&[]);
    assert_ne!(again.code, Some(0));
    assert!(again.stderr.contains("flights") && again.stderr.contains("--replace"), "{}", again.stderr);
    database.sql("delete from flights where id > 10");
    assert_eq!(fill(&["--replace"]).code, Some(0));
    assert_eq!(database.sql("select count(*) from flights"), "27004");
}

#[test]
fn a_sqlite_file_that_exists_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("demo.db");
    fs::write(&path, "mine").unwrap();
    let error = demo::fill_sqlite(&path).unwrap_err();
    assert!(matches!(&error, Error::FileExists(named) if *named == path), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn a_sqlite_file_that_cannot_be_made_is_named_in_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("nowhere/demo.db");
    let error = demo::fill_sqlite(&path).unwrap_err();
    assert!(matches!(error, Error::File { .. }) && error.to_string().contains("nowhere"), "{error}");
}

#[test]
fn tables_that_exist_are_named_and_kept_unless_they_are_to_be_replaced() {
    let database = Postgres::database();
    database
        .psql("create table note (mine int); create table flights (mine int); insert into note values (42)");
    let mut client = Client::connect(&database.url(), NoTls).unwrap();
    let error = demo::fill_postgres(&mut client, false).unwrap_err();
    assert!(matches!(&error, Error::TablesExist(names) if *names == ["flights", "note"]), "{error}");
    assert_eq!(database.psql("select mine from note"), "42");
    for _ in 0..2 {
        demo::fill_postgres(&mut client, true).unwrap();
        assert_eq!(
            database.psql("select (select count(*) from note), (select count(*) from flights)"),
            "0|27004"
        );
    }
}

#[test]
fn a_fill_of_postgres_that_fails_leaves_no_table() {
    let database = Postgres::database();
    // Not a table, so it is not replaced; the last `create table` finds its name taken.
    database.psql("create view note as select 1 as id");
    let mut client = Client::connect(&database.url(), NoTls).unwrap();
    assert!(matches!(demo::fill_postgres(&mut client, true), Err(Error::Postgres(_))));
    assert_eq!(database.psql("select count(*) from pg_tables where schemaname = 'public'"), "0");
}

#[test]
fn postgres_is_filled_in_the_connections_own_schema() {
    let database = Postgres::database();
    database.psql("create table note (id int); create schema app");
    let mut client = Client::connect(&database.url(), NoTls).unwrap();
    client.batch_execute("set search_path = app, public").unwrap();
    demo::fill_postgres(&mut client, false).unwrap();
    demo::fill_postgres(&mut client, true).unwrap();
    assert_eq!(database.psql("select count(*) from app.flights"), "27004");
    assert_eq!(
        database.psql("select string_agg(tablename, ' ') from pg_tables where schemaname = 'public'"),
        "note"
    );
}

/// Compares a table, in the order of its first column, with its CSV file.
fn assert_rows(table: &str, count: usize, rows: &[Vec<String>]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("config/demo/{table}.csv"));
    let mut expected: Vec<csv::StringRecord> =
        csv::Reader::from_path(path).unwrap().records().collect::<Result<_, _>>().unwrap();
    // Texts by their bytes, as both databases sort them; `id` is ascending in the file.
    if !matches!(table, "flights" | "account") {
        expected.sort_by(|one, other| one[0].cmp(&other[0]));
    }
    assert_eq!((rows.len(), expected.len()), (count, count), "{table}");
    for (row, expected) in rows.iter().zip(&expected) {
        let same =
            row.len() == expected.len() && row.iter().zip(expected).all(|(value, text)| is_same(value, text));
        assert!(same, "{table}: {row:?} is not {expected:?}");
    }
}

/// The same text, or the same number written differently (`40.0`, `40`).
fn is_same(value: &str, text: &str) -> bool {
    let number = |text: &str| text.parse::<f64>().ok().map(f64::to_bits);
    value == text || (number(text).is_some() && number(value) == number(text))
}

fn text_of(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8(text.to_vec()).unwrap(),
    }
}

fn files_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
