//! Rows into the response's bytes, within its limits.
//!
//! Worker thread, pure. Knows neither database nor HTTP: the database's module hands it one value after the other.

use super::Error;

/// The form of a row in the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A JSON object, `{"column":value,…}`.
    Objects,
    /// The first column's value by itself.
    Value,
    /// Nothing: rows are only counted.
    Discard,
}

/// Appends rows to a response, comma-separated, and stops at a limit.
#[derive(Debug)]
pub struct RowWriter<'a> {
    out: &'a mut Vec<u8>,
    shape: Shape,
    start: usize,
    bytes_max: usize,
    rows_max: u64,
    rows: u64,
}

impl<'a> RowWriter<'a> {
    /// A writer that appends at most `bytes_max` bytes to `out`, and at most `rows_max` rows. More bytes are
    /// [`Error::ResponseTooLarge`]; the bytes before that stay. Rows past the limit are counted, not written.
    pub fn new(out: &'a mut Vec<u8>, shape: Shape, bytes_max: usize, rows_max: u64) -> Self {
        let start = out.len();
        Self { out, shape, start, bytes_max, rows_max, rows: 0 }
    }

    /// Continues behind rows that stand in `out` from `start` on.
    pub(super) fn behind(self, start: usize, rows: u64) -> Self {
        Self { start, rows, ..self }
    }

    /// The number of rows so far, written or not.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The most bytes that it appends.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Forgets the written rows, because the statement runs from its start again.
    pub(super) fn restart(&mut self) {
        self.out.truncate(self.start);
        self.rows = 0;
    }

    /// Takes one row: `keys` are the columns' `"name":` bytes, `value` appends the value of the column with that index.
    pub(super) fn row<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k [u8]>,
        mut value: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.rows += 1;
        if self.shape == Shape::Discard || self.rows > self.rows_max {
            return Ok(());
        }
        if self.rows > 1 {
            self.out.push(b',');
        }
        if self.shape == Shape::Value {
            value(0, self.out)?;
        } else {
            let mut before = b'{';
            for (index, key) in keys.enumerate() {
                self.out.push(before);
                self.out.extend_from_slice(key);
                value(index, self.out)?;
                before = b',';
            }
            // A row without columns (`select` alone is one in PostgreSQL) is still an object.
            self.out.extend_from_slice(if before == b'{' { b"{}" } else { b"}" });
        }
        if self.out.len() - self.start > self.bytes_max {
            return Err(Error::ResponseTooLarge { limit: self.bytes_max });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::json;
    use super::*;

    impl RowWriter<'_> {
        fn number(&mut self, number: i64) -> Result<(), Error> {
            let key = json::key("n");
            self.row(std::iter::once(&*key), |_, out| {
                json::write_int(out, number);
                Ok(())
            })
        }
    }

    #[test]
    fn rows_are_objects_separated_by_commas() {
        let mut out = b"[".to_vec();
        let mut rows = RowWriter::new(&mut out, Shape::Objects, 100, u64::MAX);
        rows.number(1).unwrap();
        rows.number(2).unwrap();
        assert_eq!(out, b"[{\"n\":1},{\"n\":2}");
    }

    #[test]
    fn rows_past_the_limit_are_counted_not_written() {
        let mut out = Vec::new();
        let mut rows = RowWriter::new(&mut out, Shape::Value, 100, 1);
        rows.number(1).unwrap();
        rows.number(2).unwrap();
        assert_eq!(rows.rows(), 2);
        assert_eq!(out, b"1");
    }

    #[test]
    fn one_byte_over_the_limit_is_refused() {
        let mut out = b"before".to_vec();
        assert!(RowWriter::new(&mut out, Shape::Objects, 7, 1).number(1).is_ok());
        let refused = RowWriter::new(&mut out, Shape::Objects, 6, 1).number(1);
        assert!(matches!(refused, Err(Error::ResponseTooLarge { limit: 6 })));
    }
}
