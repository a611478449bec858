//! Questions and answers: the statements of several requests that share a round trip, and their results.
//!
//! Owns [`Question`], [`Answer`] and [`Form`], which the worker, the handlers and a database's driver pass to each
//! other. Runs nothing: [`driver`](super::driver) has the trait that does.

use std::sync::Arc;

use super::postgres::{Parameter, Row};
use super::rows::Shape;
use super::statement::Statement;
use crate::base::value::Value;

/// The one statement of a request. It only reads.
#[derive(Debug)]
pub(crate) enum Question {
    /// An endpoint's statement, with the values of its parameters. Its rows are written as JSON when they come.
    Endpoint { statement: Arc<Statement>, values: Vec<Value>, form: Form },
    /// The statement of a handler in Rust, which reads the rows itself. Its parameters and rows are PostgreSQL's, as in the
    /// handler's own code.
    Handler { sql: Arc<str>, parameters: Vec<Parameter> },
}

/// The database's answer to a question.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The rows as JSON, behind their [opening](Form::opening), and the number of rows.
    Written(Vec<u8>, u64),
    /// The rows.
    Rows(Vec<Row>),
}

/// The form of an endpoint's rows; see [`RowWriter::new`](super::RowWriter::new).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) shape: Shape,
    pub(crate) bytes_max: usize,
    pub(crate) rows_max: u64,
    /// The bytes before the rows.
    pub(crate) opening: &'static str,
}

impl Form {
    /// A body with the opening, to which the rows are added.
    pub(super) fn begun(self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        body.extend_from_slice(self.opening.as_bytes());
        body
    }
}

impl Question {
    /// The text of the statement.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Endpoint { statement, .. } => statement.text(),
            Self::Handler { sql, .. } => sql,
        }
    }

    /// The values that an endpoint's statement is run with.
    pub(crate) fn values(&self) -> &[Value] {
        match self {
            Self::Endpoint { values, .. } => values,
            Self::Handler { .. } => &[],
        }
    }
}

impl Answer {
    /// The rows of a handler's statement.
    pub(crate) fn into_rows(self) -> Vec<Row> {
        match self {
            Self::Rows(rows) => rows,
            Self::Written(..) => Vec::new(),
        }
    }

    /// The body of an endpoint's answer, and the number of rows.
    pub(crate) fn into_written(self) -> (Vec<u8>, u64) {
        match self {
            Self::Written(body, rows) => (body, rows),
            Self::Rows(_) => (Vec::new(), 0),
        }
    }
}
