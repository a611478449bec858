//! The uses of a prepared statement: only preparing it, a handler's runs, and an endpoint's run.
//!
//! Owns [`Work`]. Each use puts its messages into a batch and reads their answers. Runs on the worker that borrowed the
//! session; knows nothing of the session.

use std::sync::Arc;

use crate::base::value::Value;
use crate::database::comment::Comment;
use crate::database::postgres::answer::{AnswerReader, RowTaker};
use crate::database::postgres::bind;
use crate::database::postgres::prepared::{DescribedColumn, Prepared, write_row};
use crate::database::postgres::row::{Parameters, Row};
use crate::database::postgres::types::Types;
use crate::database::postgres::wire::{Failure, Wait, Wire};
use crate::database::{Error, RowWriter, Statement};

/// A use of a prepared statement.
pub(super) trait Work {
    /// The result.
    type Output;

    /// Whether the statement is run.
    const RUNS: bool;

    /// Whether a borrower who runs it outside of a transaction runs nothing else on the session.
    const IS_ALONE: bool = false;

    /// Puts its runs into the batch.
    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error>;

    /// Reads their answers.
    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        types: &Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
    ) -> Result<Self::Output, Failure>;

    /// Whether the statement was sent as text, and had other columns than when it was prepared.
    fn has_other_columns(&self) -> bool {
        false
    }
}

/// Only prepares the statement.
pub(super) struct PrepareOnly;

impl Work for PrepareOnly {
    type Output = Arc<Prepared>;

    const RUNS: bool = false;

    fn put(&mut self, _: &Prepared, _: &Comment, _: &mut Wire) -> Result<(), Error> {
        Ok(())
    }

    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        _: &Types,
        _: &mut Wire,
        _: &mut Wait<'_>,
    ) -> Result<Arc<Prepared>, Failure> {
        Ok(Arc::clone(prepared))
    }
}

/// A handler's runs of a statement. They are sent together.
pub(super) struct HandlerRuns<'a> {
    sql: &'a str,
    pub(super) parameters: &'a [&'a Parameters<'a>],
    rows_wanted: bool,
    pub(super) rows: Vec<Row>,
    pub(super) count: u64,
    has_other_columns: bool,
}

impl<'a> HandlerRuns<'a> {
    pub(super) fn of(sql: &'a str, parameters: &'a [&'a Parameters<'a>]) -> Self {
        Self { sql, parameters, rows_wanted: true, rows: Vec::new(), count: 0, has_other_columns: false }
    }

    /// The same runs, counting the rows only.
    pub(super) fn without_rows(self) -> Self {
        Self { rows_wanted: false, ..self }
    }
}

impl Work for HandlerRuns<'_> {
    type Output = ();

    const RUNS: bool = true;

    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error> {
        let text = prepared.text_for(self.sql, request);
        let mut runs = self.parameters.iter();
        runs.try_for_each(|parameters| prepared.run(text.as_deref(), parameters.iter().copied(), wire))
    }

    /// Reads all answers, and returns the first error.
    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        types: &Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
    ) -> Result<(), Failure> {
        (self.count, self.has_other_columns) = (0, false);
        self.rows.clear();
        let mut failed = None;
        for (index, _) in self.parameters.iter().enumerate() {
            // The rest of an earlier answer may be unread, if the type of a column was not known.
            wire.skip_to(self.parameters.len() - index, wait)?;
            let (rows, wanted) = (&mut self.rows, self.rows_wanted);
            let row = |prepared: &Arc<Prepared>, fields: &[u8]| {
                if wanted {
                    rows.push(Row::new(prepared, fields));
                }
                Ok(())
            };
            let mut taker = RunTaker { types, has_other_columns: &mut self.has_other_columns, row };
            match AnswerReader::default().read(wire, wait, prepared, self.sql, &mut taker) {
                Ok(count) => self.count += count,
                Err(Failure::Known(error)) if !wire.is_broken() => _ = failed.get_or_insert(error),
                Err(lost) => return Err(lost),
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    fn has_other_columns(&self) -> bool {
        self.has_other_columns
    }
}

/// Takes the rows of a run. The run may have been sent as text, and so may have other columns than the prepared
/// statement.
struct RunTaker<'a, F> {
    types: &'a Types,
    has_other_columns: &'a mut bool,
    row: F,
}

impl<F: FnMut(&Arc<Prepared>, &[u8]) -> Result<(), Error>> RowTaker for RunTaker<'_, F> {
    fn row(&mut self, prepared: &Arc<Prepared>, fields: &[u8]) -> Result<(), Error> {
        (self.row)(prepared, fields)
    }

    fn described(
        &mut self,
        prepared: &Arc<Prepared>,
        columns: &[DescribedColumn],
    ) -> Result<Arc<Prepared>, Error> {
        if prepared.has(columns) {
            return Ok(Arc::clone(prepared));
        }
        *self.has_other_columns = true;
        Ok(Arc::new(prepared.with_columns(self.types.columns(columns)?)))
    }
}

/// An endpoint's run of its statement. The rows are written when they come.
pub(super) struct EndpointRun<'a, 'r> {
    pub(super) statement: &'a Statement,
    pub(super) values: &'a [Value],
    pub(super) rows: &'a mut RowWriter<'r>,
    pub(super) has_other_columns: bool,
}

impl Work for EndpointRun<'_, '_> {
    type Output = u64;

    const RUNS: bool = true;

    const IS_ALONE: bool = true;

    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error> {
        let Self { statement, values, .. } = self;
        checked(prepared, statement, values)?;
        let text = statement.text_for(request).or_else(|| prepared.text_if_open(&statement.text));
        let bound = statement.bound.iter().map(|bound| bind::Parameter(&values[bound.index]));
        prepared.run(text.as_deref(), bound, wire)
    }

    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        types: &Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
    ) -> Result<u64, Failure> {
        self.rows.restart();
        self.has_other_columns = false;
        let Self { statement, rows, has_other_columns, .. } = self;
        let row = |prepared: &Arc<Prepared>, fields: &[u8]| write_row(prepared, fields, rows);
        let mut taker = RunTaker { types, has_other_columns, row };
        let count = AnswerReader::default().read(wire, wait, prepared, &statement.text, &mut taker)?;
        Ok(if prepared.plan.is_empty() { count } else { rows.rows() })
    }

    fn has_other_columns(&self) -> bool {
        self.has_other_columns
    }
}

/// Refuses values that cannot be sent, and rows without a form in JSON, before anything is sent.
pub(super) fn checked(prepared: &Prepared, statement: &Statement, values: &[Value]) -> Result<(), Error> {
    for (bound, kind) in statement.bound.iter().zip(&prepared.params) {
        bind::check(bound, &values[bound.index], kind)?;
    }
    prepared.unsupported().map_or(Ok(()), |index| Err(prepared.refusal_of(index)))
}
