//! Errors between a worker and its database, and the one place that maps them to an HTTP status.
//!
//! Any thread. This file knows SQLSTATE, SQLite's result codes and MySQL's error numbers, but no driver's types and no response.
//! `docs/errors.md` has the three tables for users, and a test below compares them with the code.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use super::disclosure;
use crate::resource::Gauges;

/// The reason why the database did not carry out a request. `Display` and `Debug` are for logs and show no value that a
/// client may have sent; [`Error::in_full`] shows such values too. A client sees only [`Error::public_detail`].
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server has no database.
    #[error("database.url is not set")]
    NotConfigured,
    /// The database's URL cannot be used.
    #[error("database url: {0}")]
    Url(String),
    /// No session could be opened.
    #[error("cannot open a session on {target}: {reason}")]
    Open {
        /// The server and the user's name there; never the password.
        target: String,
        /// The server's or the system's message.
        reason: String,
        /// Whether trying again may help: a server that starts, not a wrong password.
        transient: bool,
    },
    /// The pool had no session to lend in time.
    #[error("no database session within {waited:?} ({gauges}){}", last_failure(last_error.as_ref()))]
    NoConnection {
        /// How long the request waited.
        waited: Duration,
        /// The pool at that moment.
        gauges: Gauges,
        /// Why the pool could not open more, if it has tried and failed since its last success.
        last_error: Option<String>,
    },
    /// The database is known to be down.
    #[error("the database is down: {reason}")]
    Down {
        /// Why the last try to open a session failed.
        reason: String,
    },
    /// The number of requests that wait for a session has reached its limit.
    #[error("too many requests wait for a database session (database.maximum_pending): {gauges}")]
    Crowded {
        /// The pool at that moment.
        gauges: Gauges,
    },
    /// The request's deadline passed; the statement was cancelled.
    #[error("the deadline passed before the database had answered")]
    Deadline,
    /// The statement took longer than `database.statement_timeout`; it was cancelled.
    #[error("the statement took longer than database.statement_timeout")]
    StatementTimeout,
    /// The client left before it had its answer; the statement was cancelled.
    #[error("the client has left")]
    ClientLeft,
    /// The answer to a commit, or to a statement that commits by itself, never came. Whether the database committed is
    /// unknown, so the statement is never repeated automatically.
    #[error("whether it was committed is not known: {cause}")]
    OutcomeUnknown {
        /// Why the answer did not come.
        cause: Box<Error>,
    },
    /// The session ended while it ran the statement.
    #[error("the database session was lost: {0}")]
    Lost(String),
    /// The rows are more than one response may hold.
    #[error("the rows make a response of more than {limit} bytes")]
    ResponseTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A value that the statement's parameter cannot take.
    #[error("parameter {param}: expected {expected}")]
    BadValue {
        /// The parameter's name, as the client calls it.
        param: String,
        /// The type or range that the database expects.
        expected: String,
        /// The value that came; `None` where the value is secret.
        received: Option<String>,
    },
    /// A column whose type has no JSON form here.
    #[error("column \"{column}\" has type {type_name}, which has no JSON form here; write {instead}")]
    UnsupportedType {
        /// The column's name.
        column: String,
        /// The database's name of its type.
        type_name: String,
        /// An expression in the column's place that has a form.
        instead: String,
    },
    /// A row that does not decode as its own description says.
    #[error("column \"{column}\" does not decode as {type_name}")]
    Malformed {
        /// The column's name.
        column: String,
        /// The database's name of its type.
        type_name: String,
    },
    /// `query_one` met no row, or `query_one` or `query_opt` met several.
    #[error("the statement returned {received} rows, expected {expected}")]
    RowCount {
        /// The number of rows that the caller asked for.
        expected: &'static str,
        /// The number of rows that came.
        received: usize,
    },
    /// The caller used the connection in a way that it does not support.
    #[error("{0}")]
    Usage(String),
    /// The database refused the statement.
    #[error("{0}")]
    Refused(Box<Refusal>),
}

/// The database's own error. `Display` and `Debug` are for logs, as with [`Error`].
#[derive(Clone)]
pub struct Refusal {
    /// The error's meaning for the client.
    pub category: Category,
    /// SQLSTATE, SQLite's extended result code, or MySQL's error number.
    pub code: String,
    /// The database's message.
    pub message: String,
    /// The database's detail.
    pub detail: Option<String>,
    /// The database's hint.
    pub hint: Option<String>,
    /// The database's context: the functions that were running, the line of a document.
    pub context: Option<String>,
    /// The constraint that was violated.
    pub constraint: Option<String>,
    /// The column that has no value where it needs one.
    pub column: Option<String>,
    /// Where in the statement's own text ([`super::Statement::text`]) the error stands, in bytes;
    /// [`super::Statement::written_offset`] turns it into a place in the text as the user wrote it.
    pub offset: Option<usize>,
    /// The message without any part that may be a client's value.
    redacted: String,
}

/// The meaning of a refusal, the same for every database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Category {
    /// Unique, foreign key or exclusion constraint.
    Conflict,
    /// Check or not-null constraint, or a value outside its type.
    Invalid,
    /// A value that is larger, or nested deeper, than the database accepts.
    TooMuch,
    /// A function or a trigger refused the request and said why: a business rule. The message is meant for the client.
    Raised(StatusCode),
    /// Serialization failure or deadlock: the same request may succeed when it is run again.
    Retry,
    /// The database's user lacks the privilege.
    Permission,
    /// The statement was cancelled.
    Cancelled,
    /// The database is not there, or is shutting down.
    Down,
    /// The database is there but takes no more work: its connection slots or SQLite's write lock are taken.
    Busy,
    /// The database is there, but its disk or its memory is full.
    Exhausted,
    /// The database only reads for now, as a standby does, and the statement was to write.
    ReadOnly,
    /// Everything else: the statement or the schema is wrong.
    Other,
}

/// The category of each SQLSTATE (PostgreSQL's Appendix A). The first row that fits decides, and a code without a row is
/// [`Category::Other`]. A `*` stands for a whole class. The table follows PostgREST with one exception: a wrong statement or schema
/// is a 500, because no client can mend it.
pub const SQLSTATES: &[(&str, Category)] = &[
    ("08*", Category::Down),
    ("0L*", Category::Permission),
    ("0P*", Category::Permission),
    ("22*", Category::Invalid),
    ("23001", Category::Conflict),
    ("23503", Category::Conflict),
    ("23505", Category::Conflict),
    ("23P01", Category::Conflict),
    ("23*", Category::Invalid),
    ("28*", Category::Permission),
    ("40001", Category::Retry),
    ("40P01", Category::Retry),
    ("42501", Category::Permission),
    ("44000", Category::Invalid),
    ("53300", Category::Busy),
    ("53*", Category::Exhausted),
    ("54*", Category::TooMuch),
    ("55P03", Category::Busy),
    ("57014", Category::Cancelled),
    ("57P01", Category::Down),
    ("57P02", Category::Down),
    ("57P03", Category::Down),
    ("57P05", Category::Down),
    ("58030", Category::Down),
    ("P0001", Category::Raised(StatusCode::BAD_REQUEST)),
];

/// The category of each of SQLite's extended result codes (<https://sqlite.org/rescode.html>). A code without a row has the category
/// of its primary code, the lowest eight bits, or is [`Category::Other`].
pub const SQLITE_CODES: &[(i32, Category)] = &[
    (3, Category::Permission),
    (5, Category::Busy),
    (6, Category::Busy),
    (7, Category::Exhausted),
    (9, Category::Cancelled),
    (10, Category::Down),
    (13, Category::Exhausted),
    (14, Category::Down),
    (18, Category::TooMuch),
    (20, Category::Invalid),
    (23, Category::Permission),
    (275, Category::Invalid),
    (787, Category::Conflict),
    (1299, Category::Invalid),
    (1555, Category::Conflict),
    (SQLITE_CONSTRAINT_TRIGGER, Category::Raised(StatusCode::BAD_REQUEST)),
    (2067, Category::Conflict),
    (2579, Category::Conflict),
    (3091, Category::Invalid),
];

/// The code of `RAISE` in a trigger. A foreign key's RESTRICT has it too, because SQLite runs that as a trigger.
const SQLITE_CONSTRAINT_TRIGGER: i32 = 1811;

/// The category of each error number of MySQL and MariaDB. A number without a row is [`Category::Other`]. Numbers from 2000 on are
/// of a client; a proxy sends them when it has lost its server, and some of its own from 9000 on.
pub const MYSQL_CODES: &[(u16, Category)] = &[
    (1020, Category::Retry),
    (1021, Category::Exhausted),
    (1037, Category::Exhausted),
    (1038, Category::Exhausted),
    (1040, Category::Busy),
    (1041, Category::Exhausted),
    (1042, Category::Down),
    (1044, Category::Permission),
    (1045, Category::Permission),
    (1047, Category::Down),
    (1048, Category::Invalid),
    (1053, Category::Down),
    (1062, Category::Conflict),
    (1077, Category::Down),
    (1079, Category::Down),
    (1080, Category::Down),
    (1114, Category::Exhausted),
    (1129, Category::Permission),
    (1130, Category::Permission),
    (1142, Category::Permission),
    (1143, Category::Permission),
    (1153, Category::TooMuch),
    (1158, Category::Down),
    (1159, Category::Down),
    (1160, Category::Down),
    (1161, Category::Down),
    (1169, Category::Conflict),
    (1180, Category::Down),
    (1203, Category::Busy),
    (1205, Category::Busy),
    (1213, Category::Retry),
    (1226, Category::Busy),
    (1227, Category::Permission),
    (1264, Category::Invalid),
    (1265, Category::Invalid),
    (1292, Category::Invalid),
    (1301, Category::TooMuch),
    (1317, Category::Cancelled),
    (1364, Category::Invalid),
    (1365, Category::Invalid),
    (1366, Category::Invalid),
    (1369, Category::Invalid),
    (1370, Category::Permission),
    (1406, Category::Invalid),
    (1411, Category::Invalid),
    (1451, Category::Conflict),
    (1452, Category::Conflict),
    (1461, Category::Busy),
    (1586, Category::Conflict),
    (MYSQL_SIGNAL, Category::Raised(StatusCode::BAD_REQUEST)),
    (1690, Category::Invalid),
    (1836, Category::ReadOnly),
    (1927, Category::Down),
    (1969, Category::Cancelled),
    (2006, Category::Down),
    (2013, Category::Down),
    (3024, Category::Cancelled),
    (3140, Category::Invalid),
    (3141, Category::Invalid),
    (3572, Category::Busy),
    (3819, Category::Invalid),
    (4025, Category::Invalid),
    (4031, Category::Down),
    (4038, Category::Invalid),
    (9001, Category::Down),
    (9002, Category::Down),
];

/// The number of an error that a SIGNAL raised without a number of its own.
const MYSQL_SIGNAL: u16 = 1644;

/// The number of a statement that an option of the server does not allow. `read_only` is one of these options.
const MYSQL_OPTION: u16 = 1290;

impl Category {
    /// The category of an error number of MySQL alone, without its SQLSTATE and message.
    pub fn of_mysql(code: u16) -> Self {
        let row = MYSQL_CODES.iter().find(|(known, _)| *known == code);
        row.map_or(Self::Other, |(_, category)| *category)
    }

    /// The category of MySQL's error number, SQLSTATE and message. Only the message tells some errors apart; the names of options in
    /// it are never translated.
    pub fn of_mysql_error(code: u16, state: &str, message: &str) -> Self {
        match code {
            MYSQL_OPTION if message.contains("read-only") || message.contains("read_only") => Self::ReadOnly,
            MYSQL_SIGNAL => raised_status(state).map_or(Self::of_mysql(code), Self::Raised),
            _ => Self::of_mysql(code),
        }
    }

    /// The category of a SQLSTATE. A refused write has no category of its own: most often the statement has no business
    /// to write.
    pub fn of_sqlstate(code: &str) -> Self {
        if let Some(status) = raised_status(code) {
            return Self::Raised(status);
        }
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(class) => code.starts_with(class),
            None => code == pattern,
        };
        let row = SQLSTATES.iter().find(|(pattern, _)| fits(pattern));
        row.map_or(Self::Other, |(_, category)| *category)
    }

    /// The category of SQLite's extended result code alone, without its message.
    pub fn of_sqlite(code: i32) -> Self {
        let row = |code: i32| SQLITE_CODES.iter().find(|(known, _)| *known == code);
        row(code).or_else(|| row(code & 0xff)).map_or(Self::Other, |(_, category)| *category)
    }

    /// The category of SQLite's extended result code and its message. Only the message tells some errors apart.
    pub fn of_sqlite_error(code: i32, message: &str) -> Self {
        /// The one code with which SQLite's own functions refuse an argument, for whatever reason.
        const SQLITE_ERROR: i32 = 1;
        const INVALID: [&str; 3] = ["malformed JSON", "bad JSON path", "JSON path error"];
        const TOO_MUCH: [&str; 3] =
            ["JSON nested too deep", "LIKE or GLOB pattern too complex", "string or blob too big"];
        let begins = |texts: &[&str]| texts.iter().any(|text| message.starts_with(text));
        match code {
            SQLITE_CONSTRAINT_TRIGGER if message == FOREIGN_KEY => Self::Conflict,
            SQLITE_ERROR if begins(&INVALID) => Self::Invalid,
            SQLITE_ERROR if begins(&TOO_MUCH) => Self::TooMuch,
            _ => Self::of_sqlite(code),
        }
    }

    /// The HTTP status of this category.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Raised(status) => status,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Invalid | Self::TooMuch => StatusCode::BAD_REQUEST,
            Self::Permission => StatusCode::FORBIDDEN,
            Self::Cancelled => StatusCode::GATEWAY_TIMEOUT,
            Self::Retry | Self::Down | Self::Busy | Self::Exhausted | Self::ReadOnly => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Other => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// SQLite's message for a violated foreign key. It does not name the key.
const FOREIGN_KEY: &str = "FOREIGN KEY constraint failed";

/// The status that a function asks for with `errcode = 'PTxyz'`, as in PostgREST. It must be an error's status: the
/// transaction is rolled back, so a status below 400 would be a lie. 499 is left out, because it counts clients that
/// have left.
fn raised_status(code: &str) -> Option<StatusCode> {
    let digits = code.strip_prefix("PT").filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))?;
    let status = digits.parse().ok().filter(|status| (400..=599).contains(status) && *status != 499)?;
    StatusCode::from_u16(status).ok()
}

impl Error {
    /// The kind of the error for traces: the database's own code, or a word. It contains no value.
    pub fn kind(&self) -> Cow<'static, str> {
        let word = match self {
            Self::Refused(refusal) => return refusal.code.clone().into(),
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::NoConnection { .. } => "pool_timeout",
            Self::Crowded { .. } => "pool_crowded",
            Self::Url(_) | Self::Open { .. } | Self::Down { .. } => "database_down",
            Self::Lost(_) => "connection_lost",
            Self::Deadline => "deadline",
            Self::StatementTimeout => "statement_timeout",
            Self::ClientLeft => "client_left",
            Self::ResponseTooLarge { .. } => "response_too_large",
            Self::BadValue { .. } => "bad_value",
            Self::UnsupportedType { .. } | Self::Malformed { .. } => "unreadable_row",
            Self::RowCount { .. } => "row_count",
            Self::NotConfigured => "not_configured",
            Self::Usage(_) => "usage",
        };
        word.into()
    }

    /// The HTTP status that this error becomes.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Open { .. }
            | Self::NoConnection { .. }
            | Self::Down { .. }
            | Self::Crowded { .. }
            | Self::Lost(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Deadline | Self::StatementTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::ClientLeft => client_left(),
            Self::BadValue { .. } => StatusCode::BAD_REQUEST,
            Self::Refused(refusal) => refusal.category.status(),
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the database's user lacks a privilege. A function that raises such an error as a business rule does not
    /// count.
    pub fn lacks_privilege(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.category == Category::Permission && refusal.redacted != RAISED)
    }

    /// Whether the whole transaction may succeed if it runs again at once, as after a serialization failure.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.category == Category::Retry)
    }

    /// The text for the client. It names no statement, no table and no host. It may name a violated constraint or a
    /// wrong value, or be the message of a business rule, which its author wrote for the client.
    pub fn public_detail(&self) -> Cow<'_, str> {
        match self {
            Self::BadValue { received: Some(received), .. } => format!("{self}, received {received}").into(),
            Self::Refused(refusal) => refusal.public_detail(&refusal.message),
            _ => self.public_detail_without_values(),
        }
    }

    /// The text for the client without any value that a client has sent, for requests that carry a secret.
    pub fn public_detail_without_values(&self) -> Cow<'_, str> {
        match self {
            Self::NotConfigured => "no database".into(),
            Self::Open { .. } | Self::Down { .. } | Self::Lost(_) => "the database is not available".into(),
            Self::Crowded { .. } => {
                "too many requests wait for a database session (database.maximum_pending)".into()
            }
            Self::NoConnection { .. } => "no database session became free in time".into(),
            Self::Deadline => "the request took longer than its deadline".into(),
            Self::StatementTimeout => "a statement took longer than database.statement_timeout".into(),
            Self::ClientLeft => "the client has left".into(),
            Self::OutcomeUnknown { .. } => {
                "the request failed after part of it may have been committed, so it is not known whether it \
                 took effect; check before you repeat it"
                    .into()
            }
            Self::ResponseTooLarge { .. } => "the answer is larger than a response may be".into(),
            Self::BadValue { .. } => self.to_string().into(),
            Self::Refused(refusal) => refusal.public_detail(&refusal.redacted),
            _ => "the database could not run the statement".into(),
        }
    }

    /// The whole text, with values that a client has sent. It is for a log that shows them (`log.parameters`), and for
    /// a check, in which no client has sent any.
    pub fn in_full(&self) -> Cow<'_, str> {
        match self {
            Self::BadValue { .. } => self.public_detail(),
            Self::Refused(refusal) => refusal.in_full().into(),
            Self::OutcomeUnknown { cause } => {
                format!("whether it was committed is not known: {}", cause.in_full()).into()
            }
            other => other.to_string().into(),
        }
    }

    /// The byte in the statement's text where the database found the error; see [`Refusal::offset`].
    pub fn offset(&self) -> Option<usize> {
        match self {
            Self::Refused(refusal) => refusal.offset,
            _ => None,
        }
    }

    /// The database's code, if the database refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => Some(&refusal.code),
            _ => None,
        }
    }
}

impl Refusal {
    /// Whether the refusal is about a connection. A pooler may then have sent it after it lost its server, so it proves
    /// nothing about a commit.
    pub(super) fn is_of_connection(&self) -> bool {
        /// MySQL's numbers for a session that ended during a statement, and for a commit that failed halfway.
        const MYSQL: [&str; 10] =
            ["1047", "1053", "1158", "1159", "1160", "1161", "1180", "1927", "2006", "2013"];
        self.code.starts_with("08") || MYSQL.contains(&self.code.as_str())
    }

    /// A refusal with nothing but its code and message. Quoted text in the message counts as a client's value.
    pub(super) fn new(category: Category, code: &str, message: &str) -> Self {
        Self {
            category,
            code: code.to_owned(),
            message: message.to_owned(),
            detail: None,
            hint: None,
            context: None,
            constraint: None,
            column: None,
            offset: None,
            redacted: String::new(),
        }
        .knowing(&[])
    }

    /// Names texts that no client has written, such as the statement and the database's own names. The log may show
    /// words of these texts where the message quotes them.
    pub(super) fn knowing(mut self, known: &[&str]) -> Self {
        self.redacted = match (self.category, self.code.as_str()) {
            // The author may have put values into the message, and nothing tells them from the other words.
            (Category::Raised(_), _) | (_, "P0004") => RAISED.to_owned(),
            (_, code) if code.starts_with("PT") => RAISED.to_owned(),
            _ => disclosure::without_values(&self.message, known),
        };
        self
    }

    /// Marks the message as an author's, whatever the code.
    pub(super) fn raised(mut self) -> Self {
        RAISED.clone_into(&mut self.redacted);
        self
    }

    /// Whether the message, the detail and the hint were written for the client.
    pub fn is_for_client(&self) -> bool {
        matches!(self.category, Category::Raised(_))
    }

    fn public_detail<'a>(&'a self, message: &'a str) -> Cow<'a, str> {
        match (self.category, &self.constraint) {
            (Category::Raised(_), _) => self.message.as_str().into(),
            (Category::Conflict | Category::Invalid, Some(name)) => {
                format!("constraint \"{name}\" is violated").into()
            }
            (Category::Conflict, None) if self.message == FOREIGN_KEY => "a foreign key is violated".into(),
            (Category::Conflict, None) => "a constraint is violated".into(),
            (Category::Invalid, None) => match (self.code.as_str(), &self.column) {
                (_, Some(column)) => format!("a value is missing for column \"{column}\"").into(),
                // SQLite's own functions and types. Their messages name no value.
                ("1" | "20" | "3091", _) => message.into(),
                (code, _) if code.starts_with("22") => message.into(),
                _ => "a value is missing or not acceptable".into(),
            },
            (Category::TooMuch, _) => "a value is larger or nested deeper than the database accepts".into(),
            (Category::Retry, _) => "the request collided with another one; try again".into(),
            (Category::Permission, _) => "not permitted".into(),
            (Category::Cancelled, _) => "the statement was cancelled".into(),
            (Category::Down, _) => "the database is not available".into(),
            (Category::Busy, _) => "the database is busy".into(),
            (Category::Exhausted, _) => "the database has no room left".into(),
            (Category::ReadOnly, _) => "the database accepts no writes now".into(),
            (Category::Other, _) => "the database could not run the statement".into(),
        }
    }

    fn in_full(&self) -> String {
        let more = [&self.detail, &self.hint, &self.context].into_iter().flatten();
        more.fold(format!("{} ({})", self.message, self.code), |text, more| format!("{text}; {more}"))
    }
}

/// Replaces a message that a function's author wrote, in a log.
const RAISED: &str = "raised by a function or a trigger";

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.redacted, self.code)
    }
}

impl std::fmt::Debug for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Refusal({self})")
    }
}

impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {self}", self.kind())
    }
}

/// The status for a client that has left: nginx's 499, or else another that blames the client for the time. It only
/// appears in the log.
fn client_left() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT)
}

fn last_failure(reason: Option<&String>) -> String {
    reason.map_or_else(String::new, |reason| format!("; opening one failed: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(category: Category, code: &str, constraint: Option<&str>) -> Error {
        let refusal = Refusal::new(category, code, "secret_table: division by zero");
        Error::Refused(Box::new(Refusal { constraint: constraint.map(str::to_owned), ..refusal }))
    }

    /// The rows of the table in `docs/errors.md` whose first column has this heading: each code with its status.
    fn documented(first: &str) -> Vec<(String, u16)> {
        let document = include_str!("../../docs/errors.md");
        let table = document.split("\n\n").find(|part| part.starts_with(&format!("| {first} |")));
        let rows = table.expect("the table is there").lines().skip(2).flat_map(|row| {
            let mut cells = row.split('|').map(str::trim).skip(1);
            let codes = cells
                .next()
                .expect("a row has cells")
                .split(", ")
                .map(|code| code.trim_matches('`').to_owned());
            let status = cells.next().and_then(|status| status.parse().ok()).expect("a status");
            codes.map(move |code| (code, status)).collect::<Vec<_>>()
        });
        rows.collect()
    }

    #[test]
    fn each_sqlstate_has_its_documented_status() {
        let documented = documented("SQLSTATE");
        for (codes, status) in &documented {
            let code = codes.replace('*', "000");
            assert_eq!(Category::of_sqlstate(&code).status(), *status, "{codes}");
        }
        let missing: Vec<_> =
            SQLSTATES.iter().filter(|(code, _)| documented.iter().all(|(codes, _)| codes != code)).collect();
        assert!(missing.is_empty(), "docs/errors.md has no row for {missing:?}");
        for (code, status) in [("22P02", 400), ("23502", 400), ("53100", 503), ("54001", 400), ("00000", 500)]
        {
            assert_eq!(Category::of_sqlstate(code).status(), status, "{code}");
        }
    }

    #[test]
    fn each_sqlite_code_has_its_documented_status() {
        let documented = documented("SQLite's code");
        for (code, status) in &documented {
            let code = code.split(' ').next().and_then(|code| code.parse().ok()).expect("a number");
            assert_eq!(Category::of_sqlite(code).status(), *status, "{code}");
        }
        let has =
            |code: &i32| documented.iter().any(|(row, _)| row.split(' ').next() == Some(&code.to_string()));
        let missing: Vec<_> = SQLITE_CODES.iter().filter(|(code, _)| !has(code)).collect();
        assert!(missing.is_empty(), "docs/errors.md has no row for {missing:?}");
        assert_eq!(Category::of_sqlite(517), Category::Busy, "an extended code that has no row of its own");
        assert_eq!(Category::of_sqlite_error(1811, FOREIGN_KEY), Category::Conflict);
    }

    #[test]
    fn each_number_of_mysql_has_its_documented_status() {
        let documented = documented("MySQL's number");
        for (code, status) in &documented {
            let code = code.parse().expect("a number");
            assert_eq!(Category::of_mysql(code).status(), *status, "{code}");
        }
        let has = |code: &u16| documented.iter().any(|(row, _)| *row == code.to_string());
        let missing: Vec<_> = MYSQL_CODES.iter().filter(|(code, _)| !has(code)).collect();
        assert!(missing.is_empty(), "docs/errors.md has no row for {missing:?}");
        let read_only =
            "The MariaDB server is running with the --read-only option so it cannot execute this statement";
        assert_eq!(Category::of_mysql_error(1290, "HY000", read_only), Category::ReadOnly);
        assert_eq!(Category::of_mysql_error(1290, "HY000", "--secure-file-priv"), Category::Other);
        assert_eq!(Category::of_mysql_error(1644, "PT404", ""), Category::Raised(StatusCode::NOT_FOUND));
        assert_eq!(Category::of_mysql_error(1644, "45000", "").status(), 400);
    }

    #[test]
    fn a_function_may_ask_only_for_the_status_of_an_error() {
        for (code, status) in [("PT400", 400), ("PT402", 402), ("PT418", 418), ("PT503", 503), ("PT599", 599)]
        {
            let category = Category::of_sqlstate(code);
            assert_eq!((category, category.status().as_u16()), (Category::Raised(category.status()), status));
        }
        for nonsense in
            ["PT200", "PT302", "PT399", "PT499", "PT600", "PT000", "PT999", "PTABC", "PT4", "PT 40", "PT4+4"]
        {
            assert_eq!(Category::of_sqlstate(nonsense), Category::Other, "{nonsense}");
        }
    }

    #[test]
    fn only_collisions_are_retried() {
        assert!(refused(Category::Retry, "40001", None).is_retryable());
        assert!(!refused(Category::Busy, "53300", None).is_retryable());
        assert!(!Error::Deadline.is_retryable());
    }

    #[test]
    fn a_full_disk_and_slots_that_are_taken_are_told_apart() {
        assert_eq!(Category::of_sqlstate("53100"), Category::Exhausted);
        assert_eq!(Category::of_sqlstate("53300"), Category::Busy);
        assert_eq!(Category::of_sqlite(13), Category::Exhausted);
        assert_eq!(Category::of_sqlite(778), Category::Down);
    }

    #[test]
    fn an_unknown_outcome_is_neither_retried_nor_reported_as_a_refusal() {
        let collision = refused(Category::Retry, "40001", None);
        let error = Error::OutcomeUnknown { cause: Box::new(collision) };
        assert!(!error.is_retryable());
        assert_eq!(error.status(), 500);
        assert!(error.public_detail().contains("check before you repeat it"));
    }

    #[test]
    fn a_client_that_left_does_not_count_as_an_error_of_the_server() {
        assert_eq!(Error::ClientLeft.status(), 499);
        assert_eq!(Error::StatementTimeout.status(), 504);
    }

    #[test]
    fn a_log_has_no_values_unless_it_may_show_them() {
        let mut refusal =
            Refusal::new(Category::Invalid, "22P02", "invalid input syntax for type uuid: \"hunter2\"");
        refusal.detail = Some("Key (email)=(hunter2) already exists.".to_owned());
        let error = Error::Refused(Box::new(refusal));
        assert_eq!(error.to_string(), "invalid input syntax for type uuid: \"…\" (22P02)");
        assert_eq!(error.public_detail_without_values(), "invalid input syntax for type uuid: \"…\"");
        assert!(error.public_detail().contains("hunter2") && error.in_full().matches("hunter2").count() == 2);
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let received = Some("hunter2".to_owned());
        let bad = Error::BadValue { param: "n".to_owned(), expected: "a number".to_owned(), received };
        assert!(!format!("{bad:?} {bad}").contains("hunter2") && bad.in_full().contains("hunter2"));
        for code in ["P0001", "PT500", "PT999", "P0004"] {
            let raised = Refusal::new(Category::of_sqlstate(code), code, "no card hunter2").to_string();
            assert_eq!(raised, format!("raised by a function or a trigger ({code})"));
        }
    }

    #[test]
    fn a_client_sees_constraints_but_no_tables() {
        assert_eq!(
            refused(Category::Conflict, "23505", Some("account_pkey")).public_detail(),
            "constraint \"account_pkey\" is violated"
        );
        assert!(!refused(Category::Other, "42P01", None).public_detail().contains("secret_table"));
    }
}
