//! A row as a handler in Rust reads it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tokio_postgres::types::{FromSql, WrongType};

use super::statements::{Column, Prepared};
use crate::database::Error;

/// One row of a statement's answer.
pub struct Row {
    prepared: Arc<Prepared>,
    /// Where each field begins, in four bytes, and behind that the fields.
    bytes: Box<[u8]>,
}

const OFFSET: usize = size_of::<u32>();

/// What names a column: its index from 0, or its name, in which the case of letters counts only where several differ in
/// nothing else.
pub trait RowIndex: fmt::Display {
    /// Where that column is.
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
    /// Of a message's fields, each of which has its length before it, and which are as many as the statement has columns.
    pub(super) fn new(prepared: &Arc<Prepared>, fields: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(OFFSET * prepared.columns.len() + fields.len());
        let mut rest = Fields(fields);
        for _ in &prepared.columns {
            // A message is shorter than what four bytes can count.
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

    /// How many columns it has.
    pub fn len(&self) -> usize {
        self.columns().len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.columns().is_empty()
    }

    /// A column's value.
    ///
    /// # Panics
    /// As [`Row::try_get`] fails: the statement is not what its handler takes it for.
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
    /// [`Error::Usage`] where there is no such column, or its value is null or of a type that `T` is not.
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

/// The fields of a message one after the other; `None` is null. Ends early where they are not what they say.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            self.0 = rest;
            return Some(None);
        };
        let (field, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(Some(field))
    }
}
