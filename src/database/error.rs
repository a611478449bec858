//! What can go wrong between a worker and its database, and the one place that maps it to an HTTP status.
//!
//! Any thread. Knows SQLSTATE and SQLite's result codes, but neither driver's types and no response.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use super::Gauges;

/// Why the database did not do what was asked. `Display` tells everything, for the log; a client sees only
/// [`Error::public_detail`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database's URL cannot be used.
    #[error("database url: {0}")]
    Url(String),
    /// No connection could be opened.
    #[error("cannot open a connection to {target}: {reason}")]
    Open {
        /// Whom we tried to reach, and as whom; never the password.
        target: String,
        /// The server's or the system's message.
        reason: String,
        /// Whether trying again may help: a server that starts, not a wrong password.
        transient: bool,
    },
    /// The pool had no connection to lend in time.
    #[error("no pooled connection within {waited:?} ({gauges}){}", last_failure(last_error.as_ref()))]
    NoConnection {
        /// How long the request waited.
        waited: Duration,
        /// The pool at that moment.
        gauges: Gauges,
        /// Why the pool could not open more, if it tried and failed since its last success.
        last_error: Option<String>,
    },
    /// The database is known to be down.
    #[error("the database is down: {reason}")]
    Down {
        /// Why the last try to open a connection failed.
        reason: String,
    },
    /// As many requests wait for a connection as may.
    #[error("as many requests wait for a connection as may, database.maximum_pending ({gauges})")]
    Crowded {
        /// The pool at that moment.
        gauges: Gauges,
    },
    /// The request's deadline passed; the statement was cancelled.
    #[error("the deadline passed before the database had answered")]
    Deadline,
    /// The statement took longer than `database.statement_timeout`; it was cancelled.
    #[error("the statement took longer than it may (database.statement_timeout)")]
    StatementTimeout,
    /// The client left before it had its answer; the statement was cancelled.
    #[error("the client has left")]
    ClientLeft,
    /// The answer to a commit, or to a statement that commits by itself, never came: whether the database did it is not
    /// known. Never run again by itself.
    #[error("whether it was committed is not known: {cause}")]
    OutcomeUnknown {
        /// Why the answer did not come.
        cause: Box<Error>,
    },
    /// The connection ended under the statement.
    #[error("the connection to the database was lost: {0}")]
    Lost(String),
    /// The rows are more than one response may hold.
    #[error("the rows make a response of more than {limit} bytes")]
    ResponseTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A value that the statement's parameter cannot take.
    #[error("parameter {param}: expected {expected}, received {received}")]
    BadValue {
        /// The parameter's name.
        param: String,
        /// What the database takes there.
        expected: String,
        /// What came.
        received: String,
    },
    /// A column whose type has no JSON form here.
    #[error(
        "column \"{column}\" has type {type_name}, which has no JSON form here; write \"{column}\"::text"
    )]
    UnsupportedType {
        /// The column's name.
        column: String,
        /// The database's name of its type.
        type_name: String,
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
        /// What the caller asked for.
        expected: &'static str,
        /// How many came.
        received: usize,
    },
    /// The caller used the connection in a way that it does not support.
    #[error("{0}")]
    Usage(String),
    /// The database refused the statement.
    #[error("{0}")]
    Refused(Box<Refusal>),
}

/// The database's own error.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What it means for the client.
    pub category: Category,
    /// SQLSTATE, or SQLite's extended result code.
    pub code: String,
    /// The database's message.
    pub message: String,
    /// The database's detail and hint.
    pub detail: Option<String>,
    /// The constraint that was violated.
    pub constraint: Option<String>,
    /// Where in the statement's own text ([`super::Statement::text`]) the error stands, in bytes;
    /// [`super::Statement::written_offset`] turns it into a place in the text as the user wrote it.
    pub offset: Option<usize>,
}

/// What a refusal means, the same for every database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Category {
    /// Unique, foreign key or exclusion constraint.
    Conflict,
    /// Check or not-null constraint, or a value outside its type.
    Invalid,
    /// Serialization failure or deadlock: the same request may succeed when it is run again.
    Retry,
    /// The database user lacks the right.
    Permission,
    /// The statement was cancelled.
    Cancelled,
    /// The database is not there, or is leaving.
    Down,
    /// The database is there, but takes no more: connection slots, or SQLite's write lock.
    Busy,
    /// The database is there, but its disk or its memory is full.
    Exhausted,
    /// The database only reads for now, as a standby does, and this was to write.
    ReadOnly,
    /// Everything else: the statement or the schema is wrong.
    Other,
}

impl Category {
    /// The category of a SQLSTATE (PostgreSQL's Appendix A). That a write was refused as such says nothing by itself: most
    /// often the statement has no business to write.
    pub fn of_sqlstate(code: &str) -> Self {
        match code {
            "23505" | "23503" | "23001" | "23P01" => Self::Conflict,
            "23502" | "23514" => Self::Invalid,
            "40001" | "40P01" => Self::Retry,
            "42501" => Self::Permission,
            "57014" => Self::Cancelled,
            "57P01" | "57P02" | "57P03" | "57P05" | "58030" => Self::Down,
            "53300" | "55P03" => Self::Busy,
            _ if code.starts_with("53") => Self::Exhausted,
            _ if code.starts_with("22") => Self::Invalid,
            _ if code.starts_with("08") => Self::Down,
            _ => Self::Other,
        }
    }

    /// The category of SQLite's extended result code (<https://sqlite.org/rescode.html>).
    pub fn of_sqlite(code: i32) -> Self {
        const UNIQUE: i32 = 2067;
        const PRIMARY_KEY: i32 = 1555;
        const ROW_ID: i32 = 2579;
        const FOREIGN_KEY: i32 = 787;
        const CHECK: i32 = 275;
        const NOT_NULL: i32 = 1299;
        const DATA_TYPE: i32 = 3091;
        match code {
            UNIQUE | PRIMARY_KEY | ROW_ID | FOREIGN_KEY => return Self::Conflict,
            CHECK | NOT_NULL | DATA_TYPE => return Self::Invalid,
            _ => {}
        }
        match code & 0xff {
            5 | 6 => Self::Busy,
            3 | 23 => Self::Permission,
            7 | 13 => Self::Exhausted,
            9 => Self::Cancelled,
            10 | 14 => Self::Down,
            18 | 20 => Self::Invalid,
            _ => Self::Other,
        }
    }
}

impl Error {
    /// What kind of error it is, as traces call it: the database's own code, or a word. Says nothing of any value.
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
            Self::Refused(refusal) => match refusal.category {
                Category::Conflict => StatusCode::CONFLICT,
                Category::Invalid => StatusCode::BAD_REQUEST,
                Category::Permission => StatusCode::FORBIDDEN,
                Category::Cancelled => StatusCode::GATEWAY_TIMEOUT,
                Category::Retry
                | Category::Down
                | Category::Busy
                | Category::Exhausted
                | Category::ReadOnly => StatusCode::SERVICE_UNAVAILABLE,
                Category::Other => StatusCode::INTERNAL_SERVER_ERROR,
            },
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the whole transaction may succeed when it is run again at once, as a serialization failure may.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.category == Category::Retry)
    }

    /// What a client may know: no statement, no table, no host; a violated constraint's name and what was wrong with a
    /// value.
    pub fn public_detail(&self) -> Cow<'_, str> {
        match self {
            Self::Open { .. } | Self::Down { .. } | Self::Lost(_) => "the database is not available".into(),
            Self::Crowded { .. } => {
                "too many requests wait for a database connection (database.maximum_pending)".into()
            }
            Self::NoConnection { .. } => "no database connection became free in time".into(),
            Self::Deadline => "the request took longer than it may".into(),
            Self::StatementTimeout => {
                "a statement took longer than it may (database.statement_timeout)".into()
            }
            Self::ClientLeft => "the client has left".into(),
            Self::OutcomeUnknown { .. } => {
                "the request came to no good end after something of it may have been committed, so \
                 nobody knows whether it took effect; look before you repeat it"
                    .into()
            }
            Self::ResponseTooLarge { .. } => "the answer is larger than a response may be".into(),
            Self::BadValue { .. } => self.to_string().into(),
            Self::Refused(refusal) => refusal.public_detail(),
            _ => "the database could not run the statement".into(),
        }
    }

    /// The byte in the statement's text at which the database found it wrong; see [`Refusal::offset`].
    pub fn offset(&self) -> Option<usize> {
        match self {
            Self::Refused(refusal) => refusal.offset,
            _ => None,
        }
    }

    /// The database's code, when it was the database that refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => Some(&refusal.code),
            _ => None,
        }
    }
}

impl Refusal {
    fn public_detail(&self) -> Cow<'_, str> {
        match (self.category, &self.constraint) {
            (Category::Conflict | Category::Invalid, Some(name)) => {
                format!("constraint \"{name}\" is violated").into()
            }
            (Category::Conflict, None) => "a constraint is violated".into(),
            (Category::Invalid, None) if self.code.starts_with("22") => self.message.as_str().into(),
            (Category::Invalid, None) => "a value is missing or not acceptable".into(),
            (Category::Retry, _) => "the request collided with another one; try again".into(),
            (Category::Permission, _) => "not permitted".into(),
            (Category::Cancelled, _) => "the request took longer than it may".into(),
            (Category::Down, _) => "the database is not available".into(),
            (Category::Busy, _) => "the database is busy".into(),
            (Category::Exhausted, _) => "the database has no room left".into(),
            (Category::ReadOnly, _) => "the database takes no writes now".into(),
            (Category::Other, _) => "the database could not run the statement".into(),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        self.detail.as_ref().map_or(Ok(()), |detail| write!(f, "; {detail}"))
    }
}

/// Nobody gets it, it stands in the log: nginx's 499, or what else blames the client for the time.
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
        Error::Refused(Box::new(Refusal {
            category,
            code: code.to_owned(),
            message: "secret_table: division by zero".to_owned(),
            detail: None,
            constraint: constraint.map(str::to_owned),
            offset: None,
        }))
    }

    #[test]
    fn each_sqlstate_has_the_status_that_the_design_names() {
        let expected = [
            ("23505", 409),
            ("23503", 409),
            ("23P01", 409),
            ("23514", 400),
            ("23502", 400),
            ("22P02", 400),
            ("22003", 400),
            ("40001", 503),
            ("40P01", 503),
            ("42501", 403),
            ("57014", 504),
            ("08006", 503),
            ("57P01", 503),
            ("57P05", 503),
            ("58030", 503),
            ("53000", 503),
            ("53100", 503),
            ("53200", 503),
            ("53300", 503),
            ("53400", 503),
            ("42P01", 500),
            ("25006", 500),
        ];
        for (code, status) in expected {
            assert_eq!(refused(Category::of_sqlstate(code), code, None).status(), status, "{code}");
        }
    }

    #[test]
    fn each_sqlite_code_has_the_status_of_its_postgresql_sibling() {
        let expected = [
            (2067, 409),
            (1555, 409),
            (787, 409),
            (275, 400),
            (1299, 400),
            (5, 503),
            (517, 503),
            (7, 503),
            (10, 503),
            (778, 503),
            (13, 503),
            (8, 500),
            (1, 500),
        ];
        for (code, status) in expected {
            assert_eq!(refused(Category::of_sqlite(code), "", None).status(), status, "{code}");
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
    fn an_unknown_outcome_is_never_run_again_and_no_refusal() {
        let collision = refused(Category::Retry, "40001", None);
        let error = Error::OutcomeUnknown { cause: Box::new(collision) };
        assert!(!error.is_retryable());
        assert_eq!(error.status(), 500);
        assert!(error.public_detail().contains("look before you repeat it"));
    }

    #[test]
    fn a_client_that_left_is_no_fault_of_the_server() {
        assert_eq!(Error::ClientLeft.status(), 499);
        assert_eq!(Error::StatementTimeout.status(), 504);
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
