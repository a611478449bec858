//! The steps of a handler's transaction, and their results.
//!
//! Owns [`Step`], [`StepResult`] and [`StepError`]. Pure; any thread.

use std::fmt;

use super::row::{Parameters, Row};
use crate::database::Error;

/// A statement of a transaction whose statements are sent together; see [`Session::run_together`](super::Session::run_together).
#[derive(Clone, Copy)]
pub struct Step<'a> {
    pub(super) sql: &'a str,
    pub(super) parameters: &'a Parameters<'a>,
    pub(super) expected: Option<u64>,
}

impl<'a> Step<'a> {
    /// A step that may return or change any number of rows.
    pub fn new(sql: &'a str, parameters: &'a Parameters<'a>) -> Self {
        Self { sql, parameters, expected: None }
    }

    /// The same step, which fails if it does not return or change exactly `rows` rows.
    #[must_use]
    pub fn expect_rows(self, rows: u64) -> Self {
        Self { expected: Some(rows), ..self }
    }
}

impl Step<'_> {
    /// The failure of this number of rows, if it is not the expected one. The step has the index `step`.
    pub(super) fn unexpected(&self, step: usize, received: u64) -> Option<StepError> {
        let expected = self.expected.filter(|expected| *expected != received)?;
        Some(StepError::Rows { step, expected, received })
    }
}

impl fmt::Debug for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("sql", &self.sql)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

/// The result of a step.
#[derive(Debug)]
pub struct StepResult {
    /// The rows that the statement returned.
    pub rows: Vec<Row>,
    /// The number of rows that the statement returned or changed.
    pub count: u64,
}

/// The failure of a transaction of steps, which was undone.
#[derive(Debug)]
#[non_exhaustive]
pub enum StepError {
    /// A step returned or changed another number of rows than it was to.
    Rows {
        /// The index of the step.
        step: usize,
        /// The expected number of rows.
        expected: u64,
        /// The number of rows that were returned or changed.
        received: u64,
    },
    /// A step failed, or the transaction did.
    Database {
        /// The index of the step. `None`: the transaction could not be begun or committed.
        step: Option<usize>,
        /// The reason.
        error: Error,
    },
}

impl StepError {
    /// The index of the step that had an unexpected number of rows, if that is the failure.
    pub fn unexpected_step(&self) -> Option<usize> {
        match self {
            Self::Rows { step, .. } => Some(*step),
            Self::Database { .. } => None,
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows { step, expected, received } => {
                write!(f, "step {} had {received} rows, expected {expected}", step + 1)
            }
            Self::Database { step: Some(step), error } => write!(f, "step {}: {error}", step + 1),
            Self::Database { step: None, error } => error.fmt(f),
        }
    }
}

impl std::error::Error for StepError {}
