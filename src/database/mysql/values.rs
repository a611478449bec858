//! Rows as JSON: from the binary form of a prepared statement's rows.
//!
//! Owns [`Plan`], the columns of a statement, each with its form ([`form`]). Pure. The forms are those of PostgreSQL's values here, so that answers are
//! equal. A `tinyint(1)` is a boolean, as for MySQL's other clients. A zero date is a text, as MySQL's client shows it.

mod form;

use std::sync::Arc;

use self::form::{Form, form_of, type_name};

use super::packet::{Column, Malformed, Reader};
use super::row::Row;
use crate::base::value::Value;
use crate::database::json;
use crate::database::{Error, RowWriter};

/// A column of a statement's rows.
#[derive(Clone, Debug)]
struct Planned {
    /// `"name":`
    key: Box<[u8]>,
    name: String,
    type_name: String,
    /// `None`: its type has no form.
    form: Option<Form>,
}

/// The columns of a statement's rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    planned: Vec<Planned>,
    /// The columns' names, for the rows of handlers.
    names: Arc<[Box<str>]>,
}

impl Plan {
    pub(super) fn of(columns: Vec<Column>) -> Self {
        let names = columns.iter().map(|column| Box::from(&*column.name)).collect();
        let planned = columns.into_iter().map(|column| Planned {
            key: json::key(&column.name),
            form: form_of(&column),
            type_name: type_name(&column),
            name: column.name,
        });
        Self { planned: planned.collect(), names }
    }

    /// Name and type of each column.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&str, &str)> {
        self.planned.iter().map(|column| (&*column.name, &*column.type_name))
    }

    /// The columns whose types have no form in JSON.
    pub(super) fn refusals(&self) -> impl Iterator<Item = Error> {
        self.planned.iter().filter(|column| column.form.is_none()).map(|column| {
            let instead = if column.is_geometry() {
                format!("st_astext(`{0}`) or st_asgeojson(`{0}`)", column.name)
            } else {
                format!("cast(`{}` as char)", column.name)
            };
            let (column, type_name) = (column.name.clone(), column.type_name.clone());
            Error::UnsupportedType { column, type_name, instead }
        })
    }

    /// Writes a row in the binary form.
    pub(super) fn write(&self, row: &[u8], rows: &mut RowWriter<'_>) -> Result<(), Error> {
        let (nulls, mut values) = self.split(row)?;
        rows.row(self.planned.iter().map(|column| &*column.key), |index, out| {
            let column = &self.planned[index];
            if is_null(nulls, index) {
                out.extend_from_slice(b"null");
                return Ok(());
            }
            // A statement whose columns have no form is refused before its first row.
            let written = column.form.map_or(Err(Malformed), |form| form.write(&mut values, out));
            written.map_err(|Malformed| column.malformed())
        })
    }
}

impl Plan {
    /// Reads a row in the binary form, for a handler.
    pub(super) fn read(&self, row: &[u8]) -> Result<Row, Error> {
        let mut out = Vec::new();
        let mut values = Vec::with_capacity(self.planned.len());
        self.each(row, |column, reader| {
            values.push(match reader {
                Some(reader) => column.form.map_or(Err(Malformed), |form| form.read(reader, &mut out))?,
                None => Value::Null,
            });
            Ok(())
        })?;
        Ok(Row::new(&self.names, values))
    }

    /// Calls `take` with each column and, unless its value is null, with a reader of the value.
    fn each<'p>(
        &'p self,
        row: &[u8],
        mut take: impl FnMut(&'p Planned, Option<&mut Reader<'_>>) -> Result<(), Malformed>,
    ) -> Result<(), Error> {
        let (nulls, mut values) = self.split(row)?;
        for (index, column) in self.planned.iter().enumerate() {
            let reader = (!is_null(nulls, index)).then_some(&mut values);
            take(column, reader).map_err(|Malformed| column.malformed())?;
        }
        Ok(())
    }

    /// The bitmap of nulls, and the values behind it.
    fn split<'r>(&self, row: &'r [u8]) -> Result<(&'r [u8], Reader<'r>), Error> {
        let mut values = Reader(row);
        let nulls = values.u8().and_then(|_| values.bytes((self.planned.len() + FIRST_BIT).div_ceil(8)));
        let nulls = nulls
            .map_err(|Malformed| Error::Lost("it sent a row that does not have its columns".to_owned()))?;
        Ok((nulls, values))
    }
}

/// The bitmap of nulls begins at this bit.
const FIRST_BIT: usize = 2;

fn is_null(nulls: &[u8], index: usize) -> bool {
    let bit = index + FIRST_BIT;
    nulls[bit / 8] >> (bit % 8) & 1 == 1
}

impl Planned {
    fn malformed(&self) -> Error {
        Error::Malformed { column: self.name.clone(), type_name: self.type_name.clone() }
    }

    fn is_geometry(&self) -> bool {
        const OTHERS: [&str; 2] = ["uuid", "vector"];
        !OTHERS.contains(&&*self.type_name)
    }
}

#[cfg(test)]
mod tests {
    use super::form::{BINARY, UNSIGNED, kind};
    use super::*;
    use crate::database::Shape;

    fn column(kind: u8) -> Column {
        let name = "c".to_owned();
        Column { name, kind, charset: 45, length: 20, flags: 0, extended: None }
    }

    fn written(column: Column, value: &[u8]) -> String {
        let mut out = Vec::new();
        let plan = Plan::of(vec![column]);
        let row = [&[0, 0], value].concat();
        plan.write(&row, &mut RowWriter::new(&mut out, Shape::Value, 1000, 1)).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn counted(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        super::super::packet::put_counted(&mut out, bytes);
        out
    }

    #[test]
    fn numbers_are_written_without_loss() {
        let unsigned = |kind| Column { flags: UNSIGNED, ..column(kind) };
        assert_eq!(written(column(kind::TINY), &[0xff]), "-1");
        assert_eq!(written(unsigned(kind::TINY), &[0xff]), "255");
        let boolean = || Column { length: 1, ..column(kind::TINY) };
        assert_eq!([0, 1, 0xfe].map(|byte| written(boolean(), &[byte])), ["false", "true", "-2"]);
        assert_eq!(written(unsigned(kind::LONGLONG), &[0xff; 8]), "18446744073709551615");
        assert_eq!(written(column(kind::LONGLONG), &i64::MIN.to_le_bytes()), "-9223372036854775808");
        assert_eq!(written(column(kind::INT24), &(-8_388_608_i32).to_le_bytes()), "-8388608");
        assert_eq!(written(column(kind::YEAR), &[0x6b, 8]), "2155");
        assert_eq!(written(column(kind::BIT), &counted(&[1, 0])), "256");
        for (decimal, json) in [("-00.50", "-0.50"), ("007.10", "7.10"), ("0", "0"), (".5", "0.5")] {
            assert_eq!(written(column(kind::NEWDECIMAL), &counted(decimal.as_bytes())), json);
        }
        assert_eq!(written(column(kind::FLOAT), &0.1_f32.to_le_bytes()), "0.1");
    }

    #[test]
    fn times_have_the_forms_of_other_databases() {
        let date = [0xdd, 7, 1, 31];
        assert_eq!(written(column(kind::DATE), &counted(&date)), "\"2013-01-31\"");
        assert_eq!(written(column(kind::DATE), &[0]), "\"0000-00-00\"");
        assert_eq!(written(column(kind::DATETIME), &counted(&date)), "\"2013-01-31T00:00:00\"");
        let moment = [&date[..], &[10, 5, 7], &250_000_u32.to_le_bytes()].concat();
        assert_eq!(written(column(kind::TIMESTAMP), &counted(&moment)), "\"2013-01-31T10:05:07.25Z\"");
        let span = [&[1][..], &34_u32.to_le_bytes(), &[22, 59, 59], &1_u32.to_le_bytes()].concat();
        assert_eq!(written(column(kind::TIME), &counted(&span)), "\"-838:59:59.000001\"");
        assert_eq!(written(column(kind::TIME), &[0]), "\"00:00:00\"");
    }

    #[test]
    fn text_and_bytes_are_told_apart_by_their_character_set() {
        assert_eq!(written(column(kind::BLOB), &counted("é".as_bytes())), "\"é\"");
        let bytes = Column { charset: BINARY, ..column(kind::VAR_STRING) };
        assert_eq!(written(bytes, &counted(&[0, 255])), "\"AP8=\"");
        let json = || Column { extended: Some("json".to_owned()), ..column(kind::BLOB) };
        assert_eq!(written(json(), &counted(b"{\"a\": 1}")), "{\"a\": 1}");
        assert_eq!(written(json(), &counted(b"{")), "\"{\"");
        let plan = Plan::of(vec![column(255)]);
        let refusal = plan.refusals().next().expect("it has no form").to_string();
        assert!(refusal.contains("geometry") && refusal.contains("st_asgeojson(`c`)"), "{refusal}");
    }

    #[test]
    fn a_row_that_is_cut_short_is_an_error_and_a_null_is_null() {
        let plan = Plan::of(vec![column(kind::LONG), column(kind::DATE)]);
        let mut out = Vec::new();
        let mut rows = RowWriter::new(&mut out, Shape::Objects, 1000, 9);
        assert!(plan.write(&[0, 4, 4, 0xdd, 7, 1, 1], &mut rows).is_ok());
        assert!(plan.write(&[0, 0, 1, 0], &mut rows).is_err());
        assert!(plan.write(&[0], &mut rows).is_err());
        assert!(out.starts_with(br#"{"c":null,"c":"2013-01-01"}"#));
    }
}
