//! The uses of a prepared statement: only preparing it, a handler's runs, an endpoint's run, and a step of a transaction.
//!
//! Owns [`Work`], one statement with its parts of a batch, and [`Run`], which may share a part with other runs. Each use puts
//! its messages into a batch and reads their answers. Runs on the worker that borrowed the session; knows nothing of the session.

use std::borrow::Cow;
use std::sync::Arc;

use crate::base::value::Value;
use crate::database::comment::Comment;
use crate::database::postgres::answer::{AnswerReader, RowTaker};
use crate::database::postgres::bind;
use crate::database::postgres::prepared::{DescribedColumn, Prepared, write_row};
use crate::database::postgres::row::{Parameters, Row};
use crate::database::postgres::types::Types;
use crate::database::postgres::wire::{Failure, Wait, Wire};
use crate::database::statement::command;
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

/// One run of a prepared statement. Several runs may stand in one part of a batch: if one fails, the server leaves out the runs
/// behind it.
pub(super) trait Run {
    /// The text from which the statement is prepared.
    fn sql(&self) -> &str;

    /// The name of the statement in a trace.
    fn name(&self) -> Cow<'static, str>;

    /// Puts the run into the batch. The caller ends the part.
    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error>;

    /// Reads the answer. Returns the number of rows that were returned or changed. `is_last`: the part ends behind this run.
    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        types: &Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
        is_last: bool,
    ) -> Result<u64, Failure>;

    /// Whether the statement was sent as text, and had other columns than when it was prepared.
    fn has_other_columns(&self) -> bool;

    /// The error of the run, with its place in the user's own text.
    fn located(&self, error: Error) -> Error {
        error
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
    /// All runs are one part of the batch, so that they are one transaction.
    is_one_part: bool,
    pub(super) rows: Vec<Row>,
    pub(super) count: u64,
    has_other_columns: bool,
}

impl<'a> HandlerRuns<'a> {
    pub(super) fn of(sql: &'a str, parameters: &'a [&'a Parameters<'a>]) -> Self {
        Self {
            sql,
            parameters,
            rows_wanted: true,
            is_one_part: false,
            rows: Vec::new(),
            count: 0,
            has_other_columns: false,
        }
    }

    /// The same runs, counting the rows only.
    pub(super) fn without_rows(self) -> Self {
        Self { rows_wanted: false, ..self }
    }

    /// The same runs, in one part of the batch.
    pub(super) fn in_one_part(self) -> Self {
        Self { is_one_part: true, ..self }
    }
}

impl Work for HandlerRuns<'_> {
    type Output = ();

    const RUNS: bool = true;

    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error> {
        let text = prepared.text_for(self.sql, request);
        for (index, parameters) in self.parameters.iter().enumerate() {
            prepared.put(text.as_deref(), parameters.iter().copied(), wire)?;
            if !self.is_one_part || index + 1 == self.parameters.len() {
                wire.add_sync();
            }
        }
        Ok(())
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
            let is_last = index + 1 == self.parameters.len();
            if !self.is_one_part {
                // The rest of an earlier answer may be unread, if the type of a column was not known.
                wire.skip_to(self.parameters.len() - index, wait)?;
            }
            let (rows, wanted) = (&mut self.rows, self.rows_wanted);
            let row = |prepared: &Arc<Prepared>, fields: &[u8]| {
                if wanted {
                    rows.push(Row::new(prepared, fields));
                }
                Ok(())
            };
            let mut taker = RunTaker { types, has_other_columns: &mut self.has_other_columns, row };
            let mut reader = AnswerReader::followed(self.is_one_part && !is_last);
            match reader.read(wire, wait, prepared, self.sql, &mut taker) {
                Ok(count) => self.count += count,
                Err(Failure::Known(error)) if !wire.is_broken() && !self.is_one_part => {
                    _ = failed.get_or_insert(error);
                }
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

/// A step of a handler's transaction.
pub(super) struct HandlerStep<'a> {
    pub(super) sql: &'a str,
    parameters: &'a Parameters<'a>,
    pub(super) rows: Vec<Row>,
    has_other_columns: bool,
}

impl<'a> HandlerStep<'a> {
    pub(super) fn new(sql: &'a str, parameters: &'a Parameters<'a>) -> Self {
        Self { sql, parameters, rows: Vec::new(), has_other_columns: false }
    }
}

impl Run for HandlerStep<'_> {
    fn sql(&self) -> &str {
        self.sql
    }

    fn name(&self) -> Cow<'static, str> {
        command(self.sql)
    }

    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error> {
        let text = prepared.text_for(self.sql, request);
        prepared.put(text.as_deref(), self.parameters.iter().copied(), wire)
    }

    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        types: &Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
        is_last: bool,
    ) -> Result<u64, Failure> {
        self.rows.clear();
        self.has_other_columns = false;
        let Self { sql, rows, has_other_columns, .. } = self;
        let row = |prepared: &Arc<Prepared>, fields: &[u8]| {
            rows.push(Row::new(prepared, fields));
            Ok(())
        };
        let mut taker = RunTaker { types, has_other_columns, row };
        AnswerReader::followed(!is_last).read(wire, wait, prepared, sql, &mut taker)
    }

    fn has_other_columns(&self) -> bool {
        self.has_other_columns
    }
}

/// An endpoint's run of its statement. The rows are written when they come, or only counted.
pub(super) struct EndpointRun<'a, 'r> {
    pub(super) statement: &'a Statement,
    pub(super) values: &'a [Value],
    /// The writer of the rows; `None`: the rows are only counted.
    pub(super) rows: Option<&'a mut RowWriter<'r>>,
    has_other_columns: bool,
    /// Set if the statement has no transaction around it only because nothing can go wrong after its rows.
    pub(super) alone: Option<Alone>,
    /// The statement was not sent, because it needs a transaction after all.
    pub(super) needs_transaction: bool,
}

impl<'a, 'r> EndpointRun<'a, 'r> {
    pub(super) fn new(
        statement: &'a Statement,
        values: &'a [Value],
        rows: Option<&'a mut RowWriter<'r>>,
    ) -> Self {
        Self { statement, values, rows, has_other_columns: false, alone: None, needs_transaction: false }
    }
}

/// The answer to a statement that has no transaction around it although it returns rows.
#[derive(Clone, Copy)]
pub(super) struct Alone {
    /// The most bytes of the answer.
    pub(super) bytes_max: usize,
    /// An answer without a row is an error.
    pub(super) needs_row: bool,
}

impl Alone {
    /// Whether nothing can go wrong after the rows of the statement.
    pub(super) fn allows(self, prepared: &Prepared) -> bool {
        prepared.single_insert.as_ref().is_some_and(|insert| insert.is_safe(self.bytes_max, self.needs_row))
    }
}

impl Run for EndpointRun<'_, '_> {
    fn sql(&self) -> &str {
        &self.statement.text
    }

    fn located(&self, error: Error) -> Error {
        self.statement.before_comment(error)
    }

    fn name(&self) -> Cow<'static, str> {
        self.statement.name()
    }

    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error> {
        // The statement may have been prepared again after an ALTER.
        if self.alone.is_some_and(|alone| !alone.allows(prepared)) {
            self.needs_transaction = true;
            return Err(Error::Usage("the statement needs a transaction".to_owned()));
        }
        self.needs_transaction = false;
        let Self { statement, values, .. } = self;
        put_endpoint(prepared, statement, values, request, wire)
    }

    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        types: &Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
        is_last: bool,
    ) -> Result<u64, Failure> {
        if let Some(rows) = &mut self.rows {
            rows.restart();
        }
        self.has_other_columns = false;
        let Self { statement, rows, has_other_columns, .. } = self;
        let mut row_count = 0;
        let row = |prepared: &Arc<Prepared>, fields: &[u8]| {
            row_count += 1;
            rows.as_mut().map_or(Ok(()), |rows| write_row(prepared, fields, rows))
        };
        let mut taker = RunTaker { types, has_other_columns, row };
        let mut reader = AnswerReader::followed(!is_last);
        let count = reader.read(wire, wait, prepared, &statement.text, &mut taker)?;
        Ok(if prepared.plan.is_empty() { count } else { row_count })
    }

    fn has_other_columns(&self) -> bool {
        self.has_other_columns
    }
}

/// A single run in a part of its own.
impl<R: Run> Work for R {
    type Output = u64;

    const RUNS: bool = true;

    const IS_ALONE: bool = true;

    fn put(&mut self, prepared: &Prepared, request: &Comment, wire: &mut Wire) -> Result<(), Error> {
        Run::put(self, prepared, request, wire)?;
        wire.add_sync();
        Ok(())
    }

    fn read(
        &mut self,
        prepared: &Arc<Prepared>,
        types: &Types,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
    ) -> Result<u64, Failure> {
        Run::read(self, prepared, types, wire, wait, true)
    }

    fn has_other_columns(&self) -> bool {
        Run::has_other_columns(self)
    }
}

/// Puts a run of an endpoint's statement into the batch. Refuses values that cannot be sent, and rows without a form in JSON. The
/// caller ends the part.
pub(super) fn put_endpoint(
    prepared: &Prepared,
    statement: &Statement,
    values: &[Value],
    request: &Comment,
    wire: &mut Wire,
) -> Result<(), Error> {
    for (bound, kind) in statement.bound.iter().zip(&prepared.params) {
        bind::check(bound, &values[bound.index], kind)?;
    }
    if let Some(index) = prepared.unsupported() {
        return Err(prepared.refusal_of(index));
    }
    let text = statement.text_for(request).or_else(|| prepared.text_if_open(&statement.text));
    let bound = statement.bound.iter().map(|bound| bind::Parameter(&values[bound.index]));
    prepared.put(text.as_deref(), bound, wire)
}
