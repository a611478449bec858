//! The demo data, embedded in the binary: fills a SQLite file, a PostgreSQL schema or a MySQL database with it.
//!
//! Main thread, before anything is served; called by `cli`. This module knows no configuration, no pool and no server.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use crate::base::value::Value;
use crate::database::{self, Access, mysql};
use rusqlite::{OpenFlags, TransactionBehavior, params_from_iter};

/// The schemas differ only in the names of types. The files explain the differences.
const SQLITE_SCHEMA: &str = include_str!("../../../config/demo/sqlite.sql");
const POSTGRES_SCHEMA: &str = include_str!("../../../config/demo/postgres.sql");
const MYSQL_SCHEMA: &str = include_str!("../../../config/demo/mysql.sql");

/// Every table with its rows as CSV. A table comes before the tables that refer to it. The first line has the names of
/// the columns, and an empty field is null. All databases convert the texts by the columns' types, so the same file
/// serves all.
const TABLES: [(&str, &str); 6] = [
    ("airlines", include_str!("../../../config/demo/airlines.csv")),
    ("airports", include_str!("../../../config/demo/airports.csv")),
    ("planes", include_str!("../../../config/demo/planes.csv")),
    ("flights", include_str!("../../../config/demo/flights.csv")),
    ("account", include_str!("../../../config/demo/account.csv")),
    ("note", "id,flight_id,author,body,done\n"),
];

/// The time that a fill waits for another writer of the same SQLite file. It is far longer than a request may write.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Why the demo data could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The SQLite file exists already.
    #[error("{} exists already; remove it to have it filled again", .0.display())]
    FileExists(PathBuf),
    /// The schema or the database already has some of the tables.
    #[error("the database already has {}; replace them if their rows may be dropped", .0.join(", "))]
    TablesExist(Vec<String>),
    /// The SQLite file could not be written.
    #[error("cannot write {}", .path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("SQLite did not take the demo data")]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL refused, or the connection broke.
    #[error("PostgreSQL did not take the demo data")]
    Postgres(#[from] postgres::Error),
    /// PostgreSQL stopped taking rows.
    #[error("PostgreSQL did not take the rows of {table}")]
    Copy {
        /// The table whose rows were sent.
        table: &'static str,
        /// The error of the connection.
        source: io::Error,
    },
    /// MySQL refused, or the connection broke.
    #[error("MySQL did not take the demo data: {}", .0.in_full())]
    Mysql(#[from] database::Error),
    /// An embedded file is not valid CSV.
    #[error("the embedded demo data is damaged")]
    Csv(#[from] csv::Error),
}

/// Creates the SQLite file `path` with the demo's tables and rows.
///
/// The database is written to a file beside it, which is moved to `path` once it is complete and on disk. So `path`
/// never names half a database.
///
/// # Errors
/// [`Error::FileExists`] when there is something at `path`; otherwise the error of SQLite or of the file system.
pub fn fill_sqlite(path: &Path) -> Result<(), Error> {
    let file_error = |source| Error::File { path: path.to_owned(), source };
    if path.try_exists().map_err(file_error)? {
        return Err(Error::FileExists(path.to_owned()));
    }
    let mut partial = path.as_os_str().to_owned();
    // Two processes that start at once write a file each. Both files are complete, so either may be moved last.
    partial.push(format!(".{}.partial", process::id()));
    let partial = PathBuf::from(partial);
    // An older file of a crashed process with the same id is truncated.
    let file = File::create(&partial).map_err(file_error)?;
    let filled = write_sqlite(&partial)
        .and_then(|()| file.sync_all().and_then(|()| fs::rename(&partial, path)).map_err(file_error));
    if filled.is_err() {
        // The error of the fill matters. A partial file that cannot be removed only takes space.
        let _ = fs::remove_file(&partial);
    }
    filled
}

/// Drops the demo's tables from the existing SQLite file `path`, and creates them again, in one transaction. Everything
/// else in the file stays.
///
/// # Errors
/// The error of SQLite. Then nothing has changed.
pub fn replace_sqlite(path: &Path) -> Result<(), Error> {
    // The file must exist: a wrong name must not become an empty file.
    let mut database = rusqlite::Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    database.busy_timeout(LOCK_PATIENCE)?;
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (table, _) in TABLES.iter().rev() {
        transaction.execute_batch(&format!("drop table if exists {table}"))?;
    }
    write_tables(&transaction)?;
    Ok(transaction.commit()?)
}

/// Creates the demo's tables and rows in the first schema of the connection's `search_path`, in one transaction.
///
/// # Errors
/// [`Error::TablesExist`] when some of the tables exist and `replace` is false; otherwise the error of PostgreSQL. In
/// both cases nothing has changed.
pub fn fill_postgres(client: &mut postgres::Client, replace: bool) -> Result<(), Error> {
    let mut transaction = client.transaction()?;
    let existing = existing_tables(&mut transaction)?;
    if !existing.is_empty() && !replace {
        return Err(Error::TablesExist(existing));
    }
    for table in existing.iter().rev() {
        transaction.batch_execute(&format!("drop table {table}"))?;
    }
    // The timestamps in the data are in UTC and do not say so, because SQLite writes them that way.
    transaction.batch_execute("set local time zone 'UTC'")?;
    transaction.batch_execute(POSTGRES_SCHEMA)?;
    for (table, csv) in TABLES {
        let (columns, _) = csv.split_once('\n').unwrap_or((csv, ""));
        let mut copy =
            transaction.copy_in(&format!("copy {table} ({columns}) from stdin (format csv, header)"))?;
        copy.write_all(csv.as_bytes()).map_err(|source| Error::Copy { table, source })?;
        copy.finish()?;
    }
    transaction.batch_execute("analyze airlines, airports, planes, flights, account, note")?;
    Ok(transaction.commit()?)
}

/// Creates the demo's tables and rows in the session's database. MySQL commits each change of the schema by itself, so this is not one
/// transaction.
///
/// # Errors
/// [`Error::TablesExist`] when some of the tables exist and `replace` is false; then nothing has changed. Otherwise the error of MySQL;
/// then the tables that were created are dropped again, as far as the server still answers.
pub fn fill_mysql(session: &mut mysql::Session, replace: bool) -> Result<(), Error> {
    let existing = existing_in_mysql(session).map_err(Error::Mysql)?;
    if !existing.is_empty() && !replace {
        return Err(Error::TablesExist(existing));
    }
    let filled = drop_in_mysql(session).and_then(|()| write_mysql(session));
    if filled.is_err()
        && let Err(error) = drop_in_mysql(session)
    {
        log::warn!("the incomplete demo tables stay: {error}");
    }
    filled
}

fn existing_in_mysql(session: &mut mysql::Session) -> Result<Vec<String>, database::Error> {
    let mut existing = Vec::new();
    for (table, _) in TABLES {
        let found = session.query(
            "select table_name from information_schema.tables where table_schema = database() and table_name = ?",
            &[Value::Text(table.to_owned())],
        )?;
        if !found.is_empty() {
            existing.push(table.to_owned());
        }
    }
    Ok(existing)
}

fn drop_in_mysql(session: &mut mysql::Session) -> Result<(), Error> {
    for (table, _) in TABLES.iter().rev() {
        session.execute(&format!("drop table if exists {table}"), &[]).map_err(Error::Mysql)?;
    }
    Ok(())
}

fn write_mysql(session: &mut mysql::Session) -> Result<(), Error> {
    for statement in MYSQL_SCHEMA.split(";\n").filter(|statement| !statement.trim().is_empty()) {
        session.execute(statement, &[]).map_err(Error::Mysql)?;
    }
    session.transaction(Access::ReadWrite, |session| {
        TABLES.iter().try_for_each(|(table, csv)| insert_in_mysql(session, table, csv))
    })?;
    for (table, _) in TABLES {
        session.query(&format!("analyze table {table}"), &[]).map_err(Error::Mysql)?;
    }
    Ok(())
}

/// Inserts many rows by each statement, because each takes a round trip.
fn insert_in_mysql(session: &mut mysql::Session, table: &str, csv: &str) -> Result<(), Error> {
    /// With at most 13 columns, a statement stays far below MySQL's 65,535 parameters.
    const ROWS_PER_STATEMENT: usize = 500;
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let columns: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    let places = format!("({})", vec!["?"; columns.len()].join(","));
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>()?;
    for rows in rows.chunks(ROWS_PER_STATEMENT) {
        let tuples = vec![&*places; rows.len()].join(",");
        let insert = format!("insert into {table} ({}) values {tuples}", columns.join(","));
        let fields = rows.iter().flat_map(csv::StringRecord::iter);
        let values: Vec<Value> = fields
            .map(|field| if field.is_empty() { Value::Null } else { Value::Text(field.to_owned()) })
            .collect();
        session.execute(&insert, &values).map_err(Error::Mysql)?;
    }
    Ok(())
}

/// Writes a whole database to the empty file `path`. A crash makes the file worthless anyway, so nothing is journalled.
fn write_sqlite(path: &Path) -> Result<(), Error> {
    let mut database = rusqlite::Connection::open(path)?;
    database.pragma_update(None, "journal_mode", "off")?;
    database.pragma_update(None, "synchronous", "off")?;
    let transaction = database.transaction()?;
    write_tables(&transaction)?;
    Ok(transaction.commit()?)
}

fn write_tables(database: &rusqlite::Connection) -> Result<(), Error> {
    database.execute_batch(SQLITE_SCHEMA)?;
    for (table, csv) in TABLES {
        insert_rows(database, table, csv)?;
    }
    Ok(database.execute_batch("analyze")?)
}

fn insert_rows(database: &rusqlite::Connection, table: &str, csv: &str) -> Result<(), Error> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let columns: Vec<&str> = reader.headers()?.iter().collect();
    let places = vec!["?"; columns.len()].join(",");
    let mut insert =
        database.prepare(&format!("insert into {table} ({}) values ({places})", columns.join(",")))?;
    let mut row = csv::StringRecord::new();
    while reader.read_record(&mut row)? {
        let fields = row.iter().map(|field| (!field.is_empty()).then_some(field));
        insert.execute(params_from_iter(fields))?;
    }
    Ok(())
}

/// The demo's tables in the connection's first schema, in the order of [`TABLES`].
fn existing_tables(client: &mut postgres::Transaction<'_>) -> Result<Vec<String>, Error> {
    let names: Vec<&str> = TABLES.iter().map(|(table, _)| *table).collect();
    let rows = client.query(
        "select name from unnest($1::text[]) with ordinality as demo (name, place)
         where exists (select from pg_tables where tablename = name and schemaname = current_schema())
         order by place",
        &[&names],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
