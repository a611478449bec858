//! The takers of rows: into the response, to a handler, or to nobody.
//!
//! Runs on the worker that borrowed the session.

use crate::database::mysql::packet::{Malformed, Reader};
use crate::database::mysql::row::Row;
use crate::database::mysql::statements::Prepared;
use crate::database::mysql::wire::{Definitions, RowTaker};
use crate::database::{Error, RowWriter};

/// Where the rows of a statement go.
pub(super) enum Sink<'a, 'r> {
    /// Sink the response.
    Response(&'a mut RowWriter<'r>),
    /// To a handler in Rust.
    Handler(&'a mut Vec<Row>),
}

impl Sink<'_, '_> {
    /// Forgets the rows, because the statement runs from its start again.
    pub(super) fn restart(&mut self) {
        match self {
            Self::Response(rows) => rows.restart(),
            Self::Handler(rows) => rows.clear(),
        }
    }

    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Response(rows) => rows.rows(),
            Self::Handler(rows) => rows.len() as u64,
        }
    }
}

/// Takes rows.
pub(super) struct Rows<'a, 'i, 'r> {
    pub(super) prepared: &'a mut Prepared,
    pub(super) sink: &'a mut Sink<'i, 'r>,
    pub(super) has_extended: bool,
    pub(super) has_columns: bool,
    /// There was another result behind the first.
    pub(super) has_further: bool,
}

impl RowTaker for Rows<'_, '_, '_> {
    fn further(&mut self) {
        self.has_further = true;
    }

    fn columns(&mut self, definitions: Option<&Definitions>) -> Result<(), Error> {
        self.has_columns = true;
        if let Some(definitions) = definitions {
            let described = self.prepared.describe(definitions, self.has_extended);
            described
                .map_err(|Malformed| Error::Lost("it described its columns in another way".to_owned()))?;
        }
        self.prepared.plan.refusals().next().map_or(Ok(()), Err)
    }

    fn row(&mut self, row: &[u8]) -> Result<(), Error> {
        match self.sink {
            Sink::Response(rows) => self.prepared.plan.write(row, rows),
            Sink::Handler(rows) => {
                rows.push(self.prepared.plan.read(row)?);
                Ok(())
            }
        }
    }
}

/// Counts rows. `None`: the result has no columns.
#[derive(Default)]
pub(super) struct Counted(pub(super) Option<u64>);

impl RowTaker for Counted {
    fn columns(&mut self, _: Option<&Definitions>) -> Result<(), Error> {
        self.0 = Some(0);
        Ok(())
    }

    fn row(&mut self, _: &[u8]) -> Result<(), Error> {
        self.0 = self.0.map(|count| count + 1);
        Ok(())
    }
}

/// Ignores rows.
pub(super) struct NoRows;

impl RowTaker for NoRows {
    fn columns(&mut self, _: Option<&Definitions>) -> Result<(), Error> {
        Ok(())
    }

    fn row(&mut self, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }
}

/// Keeps the rows of a statement that was sent as text.
#[derive(Default)]
pub(super) struct Texts(pub(super) Vec<Vec<Option<String>>>);

impl RowTaker for Texts {
    fn columns(&mut self, _: Option<&Definitions>) -> Result<(), Error> {
        Ok(())
    }

    fn row(&mut self, row: &[u8]) -> Result<(), Error> {
        /// The first byte of a value that is null.
        const NULL: u8 = 0xfb;
        let (mut reader, mut values) = (Reader(row), Vec::new());
        while let Some(first) = reader.0.first() {
            if *first == NULL {
                reader.0 = &reader.0[1..];
                values.push(None);
                continue;
            }
            let value = reader.counted();
            let value =
                value.map_err(|Malformed| Error::Lost("it sent a row that is cut short".to_owned()))?;
            values.push(Some(String::from_utf8_lossy(value).into_owned()));
        }
        self.0.push(values);
        Ok(())
    }
}
