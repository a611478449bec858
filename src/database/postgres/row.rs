//! Rows and parameters in the form for a handler in Rust.
//!
//! Owns [`Row`] and the ways to name its columns. Pure; any thread.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tokio_postgres::types::{FromSql, ToSql, WrongType};

use super::fields::Fields;
use super::prepared::{Column, Prepared};
use crate::database::Error;

/// A handler's parameters: `&[&id, &name]`.
pub type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// A parameter from a [`handler::query`](crate::handler::query).
pub type Parameter = Box<dyn ToSql + Sync + Send>;

/// One row of a statement's answer.
pub struct Row {
    prepared: Arc<Prepared>,
    /// The offset of each field, in four bytes, followed by the fields.
    bytes: Box<[u8]>,
}

const OFFSET: usize = size_of::<u32>();

/// The index of a column, from 0, or its name. The case of letters in a name counts only if several columns differ in nothing else.
pub trait RowIndex: fmt::Display {
    /// The index of that column.
    fn find(&self, columns: &[Column]) -> Option<usize>;
}

impl RowIndex for usize {
    fn find(&self, columns: &[Column]) -> Option<usize> {
        (*self < columns.len()).then_some(*self)
    }
}

impl RowIndex for str {
    fn find(&self, columns: &[Column]) -> Option<usize> {
        let exact = columns.iter().position(|column| column.name() == self);
        exact.or_else(|| columns.iter().position(|column| column.name().eq_ignore_ascii_case(self)))
    }
}

impl<T: RowIndex + ?Sized> RowIndex for &T {
    fn find(&self, columns: &[Column]) -> Option<usize> {
        T::find(self, columns)
    }
}

impl Row {
    /// A row from the fields in a message. Each has its length before it, and there are as many as the statement has
    /// columns.
    pub(super) fn new(prepared: &Arc<Prepared>, fields: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(OFFSET * prepared.columns.len() + fields.len());
        let mut rest = Fields(fields);
        for _ in &prepared.columns {
            // A message is always so short that four bytes hold the offset.
            let offset = u32::try_from(fields.len() - rest.0.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&offset.to_ne_bytes());
            rest.next();
        }
        bytes.extend_from_slice(fields);
        Self { prepared: Arc::clone(prepared), bytes: bytes.into() }
    }

    /// Its columns.
    pub fn columns(&self) -> &[Column] {
        &self.prepared.columns
    }

    /// The number of its columns.
    pub fn len(&self) -> usize {
        self.columns().len()
    }

    /// Whether it has no columns.
    pub fn is_empty(&self) -> bool {
        self.columns().is_empty()
    }

    /// A column's value.
    ///
    /// # Panics
    /// Where [`Row::try_get`] fails, because the statement is not the one that its handler expects.
    #[track_caller]
    pub fn get<'a, I: RowIndex, T: FromSql<'a>>(&'a self, column: I) -> T {
        match self.try_get(column) {
            Ok(value) => value,
            Err(error) => panic!("{error}"),
        }
    }

    /// A column's value.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no such column, or if its value is null or does not fit the type `T`.
    pub fn try_get<'a, I: RowIndex, T: FromSql<'a>>(&'a self, column: I) -> Result<T, Error> {
        let refuse = |why: &dyn fmt::Display| Error::Usage(format!("column {column}: {why}"));
        let index = column.find(self.columns()).ok_or_else(|| refuse(&"there is none"))?;
        self.value(index).map_err(|error| refuse(&error))
    }

    fn value<'a, T: FromSql<'a>>(&'a self, index: usize) -> Result<T, Box<dyn StdError + Sync + Send>> {
        let kind = self.columns()[index].type_();
        if !T::accepts(kind) {
            return Err(Box::new(WrongType::new::<T>(kind.clone())));
        }
        let (offsets, fields) = self.bytes.split_at(OFFSET * self.columns().len());
        let (offsets, _) = offsets.as_chunks();
        let offset = usize::try_from(u32::from_ne_bytes(offsets[index]))?;
        T::from_sql_nullable(kind, Fields(&fields[offset..]).next().flatten())
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("columns", &self.columns()).finish_non_exhaustive()
    }
}
