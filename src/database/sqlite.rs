//! SQLite: opening its sessions, and one session.
//!
//! Owns everything about SQLite: its URL, its sessions, their transactions and limits, and its values as JSON.
//! Everything runs on the worker that borrowed the session, SQLite's own work included. Answers look as they do in
//! `postgres`: the storage class decides. Where SQLite has no type of its own (BOOLEAN, JSON, TIMESTAMP), the column's
//! declared type decides.

mod file;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Error as SqliteError};

pub(crate) use self::file::file_of;
use self::file::{File, Identity, SCHEME};
use super::json::{self, array_text, sql_timestamp, write_base64, write_bytes_as_text, write_f64, write_int};
use super::settings::{LEAVES_TRANSACTION, Settings};
use super::statement::Notation;
use super::{Access, Category, Column, Description, Error, Kind, Refusal, RowWriter, Statement};
use super::{driver, note_cancelled, pool};
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::value::Value;
use crate::config;
use crate::telemetry::metrics;
use crate::telemetry::sparing::sparingly;

/// The number of SQLite's virtual instructions between two checks of the clock: some 10 µs of work.
const INSTRUCTIONS_PER_CHECK: i32 = 1000;

/// The result code of a commit that the commit hook turned into a rollback.
const COMMIT_REFUSED: &str = "531";

/// The pauses between two tries for a held lock, in milliseconds. The short first pauses catch the lock of a short
/// transaction soon. The last pause bounds the time until a departure is noticed, so it is shorter than in SQLite's own
/// handler.
const LOCK_PAUSES_MS: [u64; 7] = [1, 2, 5, 10, 15, 20, 25];

/// How often a session looks whether its file still has its name, which takes a microsecond.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Makes SQLite compare its copy of the schema with the file. It returns one row.
const READ_SCHEMA: &str = "select count(*) from sqlite_schema where false";

/// SQLite's entry in the table of databases.
pub(super) const PROVIDER: driver::Provider = driver::Provider {
    kind: Kind::Sqlite,
    schemes: &[SCHEME],
    url_form: "sqlite:FILE",
    driver: |url, settings| Ok(Box::new(Driver::new(url, settings)?)),
    display_url: str::to_owned,
};

/// Opens sessions on one file.
struct Driver {
    /// The file's name as in the URL.
    name: String,
    file: Arc<File>,
    settings: Arc<Settings>,
}

impl Driver {
    fn new(url: &str, configured: &config::Database) -> Result<Self, Error> {
        let file = Arc::new(File::of(url)?);
        let name = file.path.display().to_string();
        Ok(Self { name, file, settings: Arc::new(Settings::new(configured)) })
    }
}

impl driver::Driver for Driver {
    fn kind(&self) -> Kind {
        Kind::Sqlite
    }

    fn only_look(&mut self) {
        self.file = Arc::new(self.file.for_a_look());
    }

    fn database_name(&self) -> &str {
        &self.name
    }

    fn notation(&self) -> Notation {
        Notation::Numbered('?')
    }

    fn reconfigure(&self, configured: &config::Database) -> bool {
        self.settings.set(configured)
    }

    fn open(&self, deadline: Deadline) -> Result<Box<dyn driver::Session>, Error> {
        let failed = |reason| Error::Open { target: self.name.clone(), reason, transient: false };
        let mut session = Session::open(&self.file, Arc::clone(&self.settings), deadline)
            .map_err(|error| failed(self.file.advice(&error)))?;
        if let Some(sql) = self.settings.init_sql() {
            let initialized = session.connection.execute_batch(&sql);
            initialized.map_err(|error| failed(format!("connection_init_sql: {error}")))?;
            if !session.connection.is_autocommit() {
                return Err(failed(format!("connection_init_sql: {LEAVES_TRANSACTION}")));
            }
        }
        session.watch().map_err(|error| failed(error.to_string()))?;
        Ok(Box::new(session))
    }
}

/// An open session.
pub(super) struct Session {
    connection: Connection,
    clock: Arc<Clock>,
    settings: Arc<Settings>,
    /// The value of `settings.max_prepared_statements()` that SQLite's connection was given.
    statements_max: usize,
    /// The access that `PRAGMA query_only` is set to.
    access: Access,
    /// A transaction was begun here. Some errors end it by themselves; its remaining statements must not run outside it
    /// then.
    in_transaction: bool,
    /// A statement was prepared that changes the session beyond its transaction. See [`Session::watch`].
    touched: Arc<AtomicBool>,
    broken: bool,
    file: Arc<File>,
    /// The file on which the session was opened, and when its name was last looked up.
    identity: Option<Identity>,
    looked: Instant,
    /// The pool's counters.
    metrics: Arc<metrics::Pool>,
}

/// The limits of the running statement, for SQLite's handlers: its time and its client.
struct Clock {
    epoch: Instant,
    /// The request's deadline, in microseconds after `epoch`.
    deadline: AtomicU64,
    /// The running statement's timeout, in microseconds after `epoch`; `u64::MAX`: none.
    statement: AtomicU64,
    /// Never contended: the handlers run on the thread that runs the statement.
    client: Mutex<Presence>,
    /// The commit hook has let a commit begin since the last reset. The session resets this before each of its
    /// statements. Otherwise a handler's own commit on the session would count as the statement's.
    committing: AtomicBool,
}

impl Clock {
    fn new(deadline: Deadline) -> Self {
        let clock = Self {
            epoch: Instant::now(),
            deadline: AtomicU64::new(u64::MAX),
            statement: AtomicU64::new(u64::MAX),
            client: Mutex::default(),
            committing: AtomicBool::new(false),
        };
        clock.set(deadline, None);
        clock
    }

    fn set(&self, deadline: Deadline, statement: Option<Duration>) {
        self.deadline.store(self.micros(deadline), Ordering::Relaxed);
        let end = statement.map_or(u64::MAX, |timeout| self.micros(Deadline::after(timeout)));
        self.statement.store(end, Ordering::Relaxed);
    }

    fn set_client(&self, client: Presence) {
        *self.client() = client;
    }

    /// Lifts the limits, so that nothing interrupts the next statement. Returns the argument for
    /// [`resume`](Self::resume).
    fn stop(&self) -> (u64, Presence) {
        self.statement.store(u64::MAX, Ordering::Relaxed);
        let client = std::mem::take(&mut *self.client());
        (self.deadline.swap(u64::MAX, Ordering::Relaxed), client)
    }

    fn resume(&self, (deadline, client): (u64, Presence)) {
        self.deadline.store(deadline, Ordering::Relaxed);
        self.set_client(client);
    }

    fn micros(&self, deadline: Deadline) -> u64 {
        let micros = deadline.instant().saturating_duration_since(self.epoch).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX)
    }

    fn client(&self) -> MutexGuard<'_, Presence> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.remaining_us() == 0 || self.client().has_left()
    }

    fn remaining_us(&self) -> u64 {
        let end = self.deadline.load(Ordering::Relaxed).min(self.statement.load(Ordering::Relaxed));
        end.saturating_sub(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Why the time is over, if it is.
    fn verdict(&self) -> Option<Error> {
        if self.client().has_left() {
            return Some(Error::ClientLeft);
        }
        if self.remaining_us() > 0 {
            return None;
        }
        let of_statement = self.statement.load(Ordering::Relaxed) < self.deadline.load(Ordering::Relaxed);
        Some(if of_statement { Error::StatementTimeout } else { Error::Deadline })
    }

    /// SQLite's commit hook, called before each commit of a write transaction. Returns whether SQLite must roll back
    /// instead, because the client was told that nothing was done.
    fn refuses_commit(&self) -> bool {
        let begun = self.client().begin_commit();
        self.committing.store(begun, Ordering::Relaxed);
        !begun
    }

    fn take_committing(&self) -> bool {
        self.committing.swap(false, Ordering::Relaxed)
    }

    /// SQLite's busy handler, called when a lock is still held after `tries` tries. Returns whether to try again.
    fn wait_for_lock(&self, tries: i32) -> bool {
        let index = usize::try_from(tries).unwrap_or(0).min(LOCK_PAUSES_MS.len() - 1);
        thread::sleep(Duration::from_micros((LOCK_PAUSES_MS[index] * 1000).min(self.remaining_us())));
        !self.is_over()
    }
}

impl pool::Session for Session {
    fn is_alive(&mut self) -> bool {
        !self.broken
    }

    fn validate(&mut self, _: Deadline) -> bool {
        !self.broken
    }

    fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether the file still has its name. A session on a file that was replaced or removed would read what is past, and write
    /// what nobody finds.
    fn is_clean(&mut self) -> bool {
        if self.looked.elapsed() < LOOK_EVERY {
            return true;
        }
        self.looked = Instant::now();
        let is_same = self.file.identity() == self.identity;
        if !is_same {
            sparingly!(
                log::Level::Warn,
                "sessions on a file that was replaced or removed",
                "{} was replaced or removed, so a session on it is closed",
                self.file.path.display()
            );
        }
        is_same
    }
}

impl Session {
    fn open(file: &Arc<File>, settings: Arc<Settings>, deadline: Deadline) -> Result<Self, SqliteError> {
        let mut connection = file.open()?;
        let identity = file.identity();
        let clock = Arc::new(Clock::new(deadline));
        let [waiting, running, committing] = [&clock, &clock, &clock].map(Arc::clone);
        connection.busy_handler(Some(move |tries| waiting.wait_for_lock(tries)))?;
        connection.progress_handler(INSTRUCTIONS_PER_CHECK, Some(move || running.is_over()))?;
        connection.commit_hook(Some(move || committing.refuses_commit()))?;
        // Readers and a writer do not wait for each other. The file survives a crash of the process. A crash of the
        // machine loses at most the last transactions (sqlite.org/pragma.html#pragma_synchronous).
        if !file.is_read_only() {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
        }
        connection.pragma_update(None, "foreign_keys", true)?;
        let statements_max = settings.max_prepared_statements();
        connection.set_prepared_statement_cache_capacity(statements_max);
        let access = Access::ReadWrite;
        Ok(Self {
            connection,
            clock,
            settings,
            statements_max,
            access,
            in_transaction: false,
            touched: Arc::default(),
            broken: false,
            file: Arc::clone(file),
            identity,
            looked: Instant::now(),
            metrics: Arc::default(),
        })
    }

    /// From now on notices each prepared statement that changes the session beyond its transaction. A handler may run
    /// such a statement on the raw connection; the session is closed afterwards, which is cheaper than undoing the
    /// change.
    fn watch(&mut self) -> Result<(), SqliteError> {
        let touched = Arc::clone(&self.touched);
        self.connection.authorizer(Some(move |context: AuthContext<'_>| {
            if changes_connection(context.action) {
                touched.store(true, Ordering::Relaxed);
            }
            Authorization::Allow
        }))
    }

    /// Sets the deadline for the next statement, its wait for the write lock included.
    fn start(&mut self, deadline: Deadline) {
        self.clock.set(deadline, self.settings.statement_timeout());
    }

    /// The raw connection, open for writing. The session cannot see where its statements begin, so only the deadline
    /// ends them.
    pub(super) fn raw(&mut self) -> Result<&mut Connection, Error> {
        self.clock.statement.store(u64::MAX, Ordering::Relaxed);
        self.switch_to(Access::ReadWrite)?;
        Ok(&mut self.connection)
    }

    fn run_in_time(
        &mut self,
        statement: &Statement,
        values: &[Value],
        access: Access,
        rows: &mut RowWriter<'_>,
    ) -> Result<u64, Error> {
        if let Some(error) = self.clock.verdict() {
            return Err(error);
        }
        if self.connection.is_autocommit() {
            // SQLite rolls back by itself when the disk or the memory is full, and on some errors of the disk.
            if self.in_transaction {
                return Err(Error::Usage("an error in the transaction has rolled it back".to_owned()));
            }
            self.switch_to(access)?;
        }
        self.clock.take_committing();
        let ran = self.run_now(statement, values, rows);
        self.note(ran)
    }

    fn run_now(
        &mut self,
        statement: &Statement,
        values: &[Value],
        rows: &mut RowWriter<'_>,
    ) -> Result<u64, Error> {
        let refused = |error| refused(error, &statement.text);
        let mut prepared = self.connection.prepare_cached(&statement.text).map_err(refused)?;
        if self.touched.load(Ordering::Relaxed) {
            return Err(Error::Usage(TOUCHES.to_owned()));
        }
        for (index, bound) in statement.bound.iter().enumerate() {
            prepared.raw_bind_parameter(index + 1, Parameter(&values[bound.index])).map_err(refused)?;
        }
        // The text alone decides whether a statement has columns. The schema decides which columns.
        if prepared.column_count() == 0 {
            return prepared.raw_execute().map(|changed| changed as u64).map_err(refused);
        }
        let mut plan = Vec::new();
        let mut found = prepared.raw_query();
        while let Some(row) = found.next().map_err(refused)? {
            if plan.is_empty() {
                // The first step prepares the statement again if the schema has changed, so the columns are read after
                // it. They stay the same until the last row, because the statement reads one snapshot of the file.
                plan = row.as_ref().columns().map(|column| ColumnPlan::new(&column)).collect::<Vec<_>>();
            }
            rows.row(plan.iter().map(|column| &*column.key), |index, out| {
                let value = row.get_ref(index).map_err(refused)?;
                plan[index].declared.write(out, value);
                Ok(())
            })?;
        }
        Ok(rows.rows())
    }

    /// Applies an error to the session and to the commit that the statement reached. Replaces an interruption by its
    /// cause.
    fn note<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        // A statement that has reached its commit can fail only in the commit.
        if !self.clock.take_committing() {
            return self.note_error(done);
        }
        let outcome = done.as_ref().map_or_else(CommitOutcome::of, |_| CommitOutcome::Committed);
        match outcome {
            CommitOutcome::Committed => self.clock.client().end_commit(true),
            CommitOutcome::Undone => self.clock.client().end_commit(false),
            CommitOutcome::Unknown => {}
        }
        match self.note_error(done) {
            Err(cause @ Error::Refused(_)) if outcome == CommitOutcome::Unknown => {
                Err(Error::OutcomeUnknown { cause: Box::new(cause) })
            }
            done => done,
        }
    }

    fn note_error<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        match done {
            Err(Error::Refused(refusal)) if refusal.code == COMMIT_REFUSED => Err(Error::Deadline),
            Err(Error::Refused(refusal)) => match refusal.category {
                Category::Cancelled => {
                    let why = self.clock.verdict().unwrap_or(Error::Deadline);
                    if let Error::ClientLeft = why {
                        self.clock.client().note_cancelled();
                    }
                    Err(why)
                }
                Category::Busy if self.clock.client().has_left() => {
                    self.clock.client().note_cancelled();
                    Err(Error::ClientLeft)
                }
                // The file is not what the session expects, or cannot be read. A new session finds out.
                Category::Down => {
                    self.broken = true;
                    Err(Error::Refused(refusal))
                }
                _ => Err(Error::Refused(refusal)),
            },
            done => done,
        }
    }

    fn switch_to(&mut self, access: Access) -> Result<(), Error> {
        if self.access != access {
            let read_only = access == Access::ReadOnly;
            self.clock.take_committing();
            let touched = self.touched.load(Ordering::Relaxed);
            let switched = self.connection.pragma_update(None, "query_only", read_only);
            self.touched.store(touched, Ordering::Relaxed);
            self.note(switched.map_err(|error| refused(error, "")))?;
            self.access = access;
        }
        Ok(())
    }

    fn command(&mut self, sql: &str) -> Result<(), Error> {
        self.clock.take_committing();
        let done = self.connection.execute_batch(sql).map_err(|error| refused(error, sql));
        self.note(done)
    }
}

impl driver::Session for Session {
    fn kind(&self) -> Kind {
        Kind::Sqlite
    }

    fn borrow(&mut self, borrower: &driver::Borrower<'_>) {
        self.metrics.clone_from(borrower.metrics);
        self.clock.set_client(borrower.client.clone());
        self.clock.set(borrower.deadline, None);
        let max = self.settings.max_prepared_statements();
        if self.statements_max != max {
            self.connection.set_prepared_statement_cache_capacity(max);
            self.statements_max = max;
        }
    }

    fn describe(&mut self, statement: &Statement) -> Result<Description, Error> {
        let refused = |error| refused(error, &statement.text);
        // SQLite prepares by the schema that the session read last. Only a step notices a change of the schema.
        self.connection.query_row(READ_SCHEMA, [], |_| Ok(())).map_err(refused)?;
        let prepared = self.connection.prepare(&statement.text).map_err(refused)?;
        let columns = prepared.columns();
        let columns = columns.map(|column| Column {
            name: column.name().to_owned(),
            type_name: column.decl_type().unwrap_or_default().to_owned(),
        });
        let columns = columns.collect();
        let touches = self.touched.swap(false, Ordering::Relaxed);
        let problems = touches.then(|| TOUCHES.to_owned()).into_iter().collect();
        Ok(Description { columns, problems })
    }

    fn begin(&mut self, access: Access, deadline: Deadline) -> Result<(), Error> {
        self.start(deadline);
        if !self.connection.is_autocommit() {
            return Err(Error::Usage("a transaction is open already".to_owned()));
        }
        self.switch_to(access)?;
        // A writer takes its lock at once: a transaction that first reads and then writes could not wait for the lock.
        self.command(match access {
            Access::ReadOnly => "BEGIN",
            Access::ReadWrite => "BEGIN IMMEDIATE",
        })?;
        self.in_transaction = true;
        Ok(())
    }

    fn commit(&mut self, deadline: Deadline) -> Result<(), Error> {
        self.start(deadline);
        if self.connection.is_autocommit() {
            return Err(Error::Usage("no transaction is open, or an error in it rolled it back".to_owned()));
        }
        self.command("COMMIT")?;
        self.in_transaction = false;
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), Error> {
        self.in_transaction = false;
        if self.connection.is_autocommit() {
            return Ok(());
        }
        // A rollback touches only memory and the log's index, and a passed deadline must not interrupt it.
        let limits = self.clock.stop();
        let rolled_back = self.command("ROLLBACK").inspect_err(|_| self.broken = true);
        self.clock.resume(limits);
        rolled_back
    }

    fn run(
        &mut self,
        statement: &Statement,
        values: &[Value],
        access: Access,
        deadline: Deadline,
        rows: &mut RowWriter<'_>,
    ) -> Result<u64, Error> {
        self.start(deadline);
        let ran = self.run_in_time(statement, values, access, rows);
        ran.inspect_err(|error| note_cancelled(error, &self.metrics))
    }

    fn finish(&mut self) {
        if let Err(error) = driver::Session::rollback(self) {
            sparingly!(
                log::Level::Warn,
                "sessions closed in a rollback",
                "{error}, while rolling back; the session is closed"
            );
        }
        drop(self.clock.stop());
        self.broken |= self.touched.load(Ordering::Relaxed);
    }
}

/// The message about an endpoint's statement that changes its session.
const TOUCHES: &str = "what this statement changes on its connection (a pragma, an attached file, a temporary table) would be met by the \
    next request: set it for every session with database.connection_init_sql";

/// Whether a statement with this action leaves a change on the session for its next user.
fn changes_connection(action: AuthAction<'_>) -> bool {
    /// Pragmas that read although they have an argument.
    const TELLING: [&str; 9] = [
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "quick_check",
        "table_info",
        "table_xinfo",
    ];
    match action {
        AuthAction::Pragma { pragma_name, pragma_value: Some(_) } => {
            !TELLING.iter().any(|telling| pragma_name.eq_ignore_ascii_case(telling))
        }
        AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::CreateTempIndex { .. }
        | AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempView { .. } => true,
        _ => false,
    }
}

/// A value on its way into a statement. Booleans are 0 and 1, timestamps have SQLite's own form (`2013-01-01 10:00:00`,
/// UTC, as `datetime()` makes them), and arrays are JSON for `json_each`.
struct Parameter<'a>(&'a Value);

impl rusqlite::ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Borrowed(ValueRef::Null),
            Value::Bool(truth) => i64::from(*truth).into(),
            Value::Int(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Text(text) | Value::Uuid(text) | Value::Date(text) | Value::Json(text) => {
                text.as_str().into()
            }
            Value::Timestamp(text) => sql_timestamp(text).into(),
            Value::Bytes(bytes) => bytes.as_slice().into(),
            Value::Array(_, items) => array_text(items).into(),
        })
    }
}

struct ColumnPlan {
    /// `"name":`
    key: Box<[u8]>,
    declared: Declared,
}

impl ColumnPlan {
    fn new(column: &rusqlite::Column<'_>) -> Self {
        Self { key: json::key(column.name()), declared: Declared::of(column.decl_type().unwrap_or_default()) }
    }
}

/// The declared types that change how a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Declared {
    Plain,
    Boolean,
    Json,
    Timestamp,
    TimestampTz,
}

impl Declared {
    fn of(declared: &str) -> Self {
        let is = |names: &[&str]| names.iter().any(|name| declared.eq_ignore_ascii_case(name));
        if is(&["boolean", "bool"]) {
            Self::Boolean
        } else if is(&["json", "jsonb"]) {
            Self::Json
        } else if is(&["timestamp", "datetime", "timestamp without time zone"]) {
            Self::Timestamp
        } else if is(&["timestamptz", "timestamp with time zone"]) {
            Self::TimestampTz
        } else {
            Self::Plain
        }
    }

    fn write(self, out: &mut Vec<u8>, value: ValueRef<'_>) {
        match (value, self) {
            (ValueRef::Null, _) => out.extend_from_slice(b"null"),
            (ValueRef::Integer(truth @ (0 | 1)), Self::Boolean) => {
                out.extend_from_slice(if truth == 1 { b"true" } else { b"false" });
            }
            (ValueRef::Integer(number), _) => write_int(out, number),
            (ValueRef::Real(number), _) => write_f64(out, number),
            (ValueRef::Blob(bytes), _) => write_base64(out, bytes),
            (ValueRef::Text(text), Self::Json) if is_json(text) => out.extend_from_slice(text),
            (ValueRef::Text(text), Self::Timestamp) if is_timestamp(text) => {
                write_timestamp(out, text, b"");
            }
            (ValueRef::Text(text), Self::TimestampTz) if is_timestamp(text) => {
                let has_zone = text[19..].iter().any(|byte| matches!(byte, b'Z' | b'+' | b'-'));
                write_timestamp(out, text, if has_zone { b"" } else { b"Z" });
            }
            (ValueRef::Text(text), _) => write_bytes_as_text(out, text),
        }
    }
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok()
}

/// Whether the text begins as `YYYY-MM-DD HH:MM:SS`.
fn is_timestamp(text: &[u8]) -> bool {
    const FORM: &[u8] = b"dddd-dd-dd dd:dd:dd";
    text.len() >= FORM.len()
        && text.is_ascii()
        && FORM.iter().zip(text).all(
            |(form, byte)| {
                if *form == b'd' { byte.is_ascii_digit() } else { form == byte }
            },
        )
}

fn write_timestamp(out: &mut Vec<u8>, text: &[u8], zone: &[u8]) {
    let start = out.len();
    write_bytes_as_text(out, text);
    out[start + "\"YYYY-MM-DD".len()] = b'T';
    out.pop();
    out.extend_from_slice(zone);
    out.push(b'"');
}

/// Converts rusqlite's error. Its offset counts in `sql`.
fn refused(error: SqliteError, sql: &str) -> Error {
    let (failure, message, offset) = match error {
        SqliteError::SqliteFailure(failure, message) => (failure, message, None),
        SqliteError::SqlInputError { error, msg, offset, .. } => {
            (error, Some(msg), usize::try_from(offset).ok())
        }
        SqliteError::NulError(_) => return invalid_text(),
        other => return Error::Usage(other.to_string()),
    };
    let message = message.unwrap_or_else(|| failure.to_string());
    let category = Category::of_sqlite_error(failure.extended_code, &message);
    let mut refusal = Refusal::new(category, &failure.extended_code.to_string(), &message).knowing(&[sql]);
    refusal.offset = offset.map(|offset| offset.min(sql.len())).or_else(|| place_of_table(&message, sql));
    if matches!(category, Category::Conflict | Category::Invalid) {
        refusal.constraint = message.split_once(" constraint failed: ").map(|(_, name)| constraint(name));
    }
    Error::Refused(Box::new(refusal))
}

/// The columns, the name or the expression of a constraint, from SQLite's message. For an index the message has `index
/// '…'`.
fn constraint(message: &str) -> String {
    let index = message.strip_prefix("index '").and_then(|name| name.strip_suffix('\''));
    index.unwrap_or(message).to_owned()
}

/// The outcome of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommitOutcome {
    Committed,
    Undone,
    Unknown,
}

impl CommitOutcome {
    /// The outcome of a statement that reached its commit and then failed with this error. After an error of the disk
    /// the log may hold the whole transaction, and the next process that opens the file finds it there. After a full
    /// disk the transaction in the log is incomplete.
    fn of(error: &Error) -> Self {
        const BUSY: i32 = 5;
        const FULL: i32 = 13;
        /// `insert or fail` commits the rows before the refused one. SQLite checks any other constraint before a
        /// commit.
        const CONSTRAINT: i32 = 19;
        match error.code().and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff) {
            Some(BUSY | FULL) => Self::Undone,
            Some(CONSTRAINT) => Self::Committed,
            _ => Self::Unknown,
        }
    }
}

/// The place of a missing table, of which SQLite tells only the name. It is known if the name stands in the text once
/// as a word.
fn place_of_table(message: &str, sql: &str) -> Option<usize> {
    let name = message.strip_prefix("no such table: ")?;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut places = sql
        .match_indices(name)
        .map(|(at, _)| at)
        .filter(|at| !sql[..*at].ends_with(is_word) && !sql[at + name.len()..].starts_with(is_word));
    places.next().filter(|_| places.next().is_none())
}

fn invalid_text() -> Error {
    Error::Usage("the text of a statement holds a NUL".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(declared: &str, value: ValueRef<'_>) -> String {
        let mut out = Vec::new();
        Declared::of(declared).write(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_declared_type_decides_where_sqlite_has_no_type_of_its_own() {
        let expected = [
            ("BOOLEAN", ValueRef::Integer(1), "true"),
            ("BOOLEAN", ValueRef::Integer(7), "7"),
            ("INTEGER", ValueRef::Integer(1), "1"),
            ("json", ValueRef::Text(b"{\"a\": 1}"), "{\"a\": 1}"),
            ("json", ValueRef::Text(b"{broken"), "\"{broken\""),
            ("TEXT", ValueRef::Text(b"{}"), "\"{}\""),
            ("TIMESTAMP", ValueRef::Text(b"2013-01-01 05:00:00"), "\"2013-01-01T05:00:00\""),
            ("datetime", ValueRef::Text(b"2013-01-01 05:00:00.25"), "\"2013-01-01T05:00:00.25\""),
            ("timestamptz", ValueRef::Text(b"2013-01-01 05:00:00"), "\"2013-01-01T05:00:00Z\""),
            ("timestamptz", ValueRef::Text(b"2013-01-01 05:00:00+02:00"), "\"2013-01-01T05:00:00+02:00\""),
            ("TIMESTAMP", ValueRef::Text(b"soon"), "\"soon\""),
            ("", ValueRef::Real(1.0), "1"),
            ("", ValueRef::Real(f64::INFINITY), "\"Infinity\""),
            ("", ValueRef::Blob(&[0, 255]), "\"AP8=\""),
            ("", ValueRef::Null, "null"),
        ];
        for (declared, value, json) in expected {
            assert_eq!(written(declared, value), json, "{declared}");
        }
    }

    #[test]
    fn a_missing_table_is_located_if_its_name_occurs_once_as_a_word() {
        for (sql, place) in [
            ("select x from t", Some(14)),
            ("select t_, at from t where x = 'été'", Some(19)),
            ("select t from t", None),
            ("select 1", None),
        ] {
            assert_eq!(place_of_table("no such table: t", sql), place, "{sql}");
        }
        assert_eq!(place_of_table("no such column: t", "select x from t"), None);
    }
}
