//! Rows as JSON: from the binary form of a prepared statement's rows.
//!
//! Owns [`Plan`], the forms of a statement's columns. Pure. The forms are those of PostgreSQL's values here, so that answers are
//! equal. A `tinyint(1)` is a boolean, as for MySQL's other clients. A zero date is a text, as MySQL's client shows it.

use std::io::Write as _;
use std::sync::Arc;

use super::packet::{Column, Malformed, Reader};
use super::row::Row;
use crate::base::value::Value;
use crate::database::json::{self, write_base64, write_bytes_as_text, write_f32, write_f64, write_int};
use crate::database::{Error, RowWriter};

/// The numbers of types in the protocol.
mod kind {
    pub(super) const DECIMAL: u8 = 0;
    pub(super) const TINY: u8 = 1;
    pub(super) const SHORT: u8 = 2;
    pub(super) const LONG: u8 = 3;
    pub(super) const FLOAT: u8 = 4;
    pub(super) const DOUBLE: u8 = 5;
    pub(super) const NULL: u8 = 6;
    pub(super) const TIMESTAMP: u8 = 7;
    pub(super) const LONGLONG: u8 = 8;
    pub(super) const INT24: u8 = 9;
    pub(super) const DATE: u8 = 10;
    pub(super) const TIME: u8 = 11;
    pub(super) const DATETIME: u8 = 12;
    pub(super) const YEAR: u8 = 13;
    pub(super) const NEWDATE: u8 = 14;
    pub(super) const VARCHAR: u8 = 15;
    pub(super) const BIT: u8 = 16;
    pub(super) const JSON: u8 = 245;
    pub(super) const NEWDECIMAL: u8 = 246;
    pub(super) const ENUM: u8 = 247;
    pub(super) const SET: u8 = 248;
    pub(super) const TINY_BLOB: u8 = 249;
    pub(super) const BLOB: u8 = 252;
    pub(super) const VAR_STRING: u8 = 253;
    pub(super) const STRING: u8 = 254;
}

/// The number of the character set `binary`.
const BINARY: u16 = 63;

const UNSIGNED: u16 = 1 << 5;
const IS_ENUM: u16 = 1 << 8;
const IS_SET: u16 = 1 << 11;

/// The form of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Null,
    Boolean,
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Year,
    Float,
    Double,
    /// Digits as text.
    Decimal,
    Date,
    Time,
    DateTime,
    Timestamp,
    Bit,
    Json,
    Text,
    Binary,
}

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

fn form_of(column: &Column) -> Option<Form> {
    let int = |bytes| Form::Int { bytes, unsigned: column.flags & UNSIGNED != 0 };
    let text = if column.charset == BINARY { Form::Binary } else { Form::Text };
    match column.extended.as_deref() {
        Some("json") => return Some(Form::Json),
        // They come as text.
        Some("uuid" | "inet4" | "inet6" | "xmltype") => return Some(Form::Text),
        _ => {}
    }
    Some(match column.kind {
        kind::TINY if column.length == 1 && column.flags & UNSIGNED == 0 => Form::Boolean,
        kind::TINY => int(1),
        kind::SHORT => int(2),
        kind::LONG | kind::INT24 => int(4),
        kind::LONGLONG => int(8),
        kind::FLOAT => Form::Float,
        kind::DOUBLE => Form::Double,
        kind::DECIMAL | kind::NEWDECIMAL => Form::Decimal,
        kind::NULL => Form::Null,
        kind::TIMESTAMP => Form::Timestamp,
        kind::DATETIME => Form::DateTime,
        kind::DATE | kind::NEWDATE => Form::Date,
        kind::TIME => Form::Time,
        kind::YEAR => Form::Year,
        kind::BIT => Form::Bit,
        kind::JSON => Form::Json,
        kind::ENUM | kind::SET => Form::Text,
        kind::VARCHAR | kind::VAR_STRING | kind::STRING | kind::TINY_BLOB..=kind::BLOB => text,
        _ => return None,
    })
}

/// The name of a column's type, as it is declared.
fn type_name(column: &Column) -> String {
    if let Some(name) = &column.extended {
        return name.clone();
    }
    let is_binary = column.charset == BINARY;
    let name = match column.kind {
        kind::TINY if column.length == 1 => "tinyint(1)",
        kind::TINY => "tinyint",
        kind::SHORT => "smallint",
        kind::INT24 => "mediumint",
        kind::LONG => "int",
        kind::LONGLONG => "bigint",
        kind::FLOAT => "float",
        kind::DOUBLE => "double",
        kind::DECIMAL | kind::NEWDECIMAL => "decimal",
        kind::NULL => "null",
        kind::TIMESTAMP => "timestamp",
        kind::DATETIME => "datetime",
        kind::DATE | kind::NEWDATE => "date",
        kind::TIME => "time",
        kind::YEAR => "year",
        kind::BIT => "bit",
        kind::JSON => "json",
        242 => "vector",
        _ if column.flags & IS_ENUM != 0 => "enum",
        _ if column.flags & IS_SET != 0 => "set",
        kind::ENUM => "enum",
        kind::SET => "set",
        kind::VARCHAR | kind::VAR_STRING if is_binary => "varbinary",
        kind::VARCHAR | kind::VAR_STRING => "varchar",
        kind::STRING if is_binary => "binary",
        kind::STRING => "char",
        kind::TINY_BLOB..=kind::BLOB if is_binary => "blob",
        kind::TINY_BLOB..=kind::BLOB => "text",
        255 => "geometry",
        _ => "of an unknown kind",
    };
    let is_number = matches!(column.kind, kind::TINY..=kind::DOUBLE | kind::LONGLONG | kind::INT24);
    let unsigned = if is_number && column.flags & UNSIGNED != 0 { " unsigned" } else { "" };
    format!("{name}{unsigned}")
}

impl Form {
    fn write(self, values: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Boolean => match values.u8()? {
                0 => out.extend_from_slice(b"false"),
                1 => out.extend_from_slice(b"true"),
                // The column may hold any small number.
                other => write_int(out, other.cast_signed()),
            },
            Self::Int { bytes: 1, unsigned } => write_integer(out, values.u8()?, unsigned, u8::cast_signed),
            Self::Int { bytes: 2, unsigned } => write_integer(out, values.u16()?, unsigned, u16::cast_signed),
            Self::Int { bytes: 4, unsigned } => write_integer(out, values.u32()?, unsigned, u32::cast_signed),
            Self::Int { unsigned, .. } => write_integer(out, values.u64()?, unsigned, u64::cast_signed),
            Self::Year => write_int(out, values.u16()?),
            Self::Float => write_f32(out, f32::from_bits(values.u32()?)),
            Self::Double => write_f64(out, f64::from_bits(values.u64()?)),
            Self::Decimal => write_decimal(out, values.counted()?)?,
            Self::Date => {
                out.push(b'"');
                write_date(out, &mut Reader(values.counted()?))?;
                out.push(b'"');
            }
            Self::DateTime => write_moment(out, values.counted()?, "")?,
            Self::Timestamp => write_moment(out, values.counted()?, "Z")?,
            Self::Time => write_time(out, values.counted()?)?,
            Self::Bit => {
                let bytes = values.counted()?;
                if bytes.len() > 8 {
                    return Err(Malformed);
                }
                write_int(out, bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
            }
            Self::Json => {
                let text = values.counted()?;
                // A column of MariaDB's type may hold something else, if its check is off.
                if serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok() {
                    out.extend_from_slice(text);
                } else {
                    write_bytes_as_text(out, text);
                }
            }
            Self::Text => write_bytes_as_text(out, values.counted()?),
            Self::Binary => write_base64(out, values.counted()?),
        }
        Ok(())
    }
}

impl Form {
    /// A value for a handler. `scratch` is empty before and afterwards.
    fn read(self, values: &mut Reader<'_>, scratch: &mut Vec<u8>) -> Result<Value, Malformed> {
        match self {
            Self::Null => return Ok(Value::Null),
            Self::Float => return Ok(Value::Float(f32::from_bits(values.u32()?).into())),
            Self::Double => return Ok(Value::Float(f64::from_bits(values.u64()?))),
            Self::Binary => return Ok(Value::Bytes(values.counted()?.to_vec())),
            Self::Text => return Ok(Value::Text(String::from_utf8_lossy(values.counted()?).into_owned())),
            _ => {}
        }
        self.write(values, scratch)?;
        let text = String::from_utf8(std::mem::take(scratch)).map_err(|_| Malformed)?;
        // No date and no time has a sign to escape.
        let inside = || text.trim_matches('"').to_owned();
        Ok(match self {
            Self::Boolean | Self::Int { .. } | Self::Year | Self::Bit => match (&*text, text.parse()) {
                ("true", _) => Value::Bool(true),
                ("false", _) => Value::Bool(false),
                (_, Ok(number)) => Value::Int(number),
                // A `bigint unsigned` may be larger than any `i64`.
                (_, Err(_)) => Value::Text(text),
            },
            Self::Date => Value::Date(inside()),
            Self::DateTime | Self::Timestamp => Value::Timestamp(inside()),
            Self::Time => Value::Text(inside()),
            Self::Json => Value::Json(text),
            _ => Value::Text(text),
        })
    }
}

fn write_integer<U: itoa::Integer + Copy, S: itoa::Integer>(
    out: &mut Vec<u8>,
    value: U,
    unsigned: bool,
    signed: impl FnOnce(U) -> S,
) {
    if unsigned { write_int(out, value) } else { write_int(out, signed(value)) }
}

/// A decimal without any loss. With `zerofill`, it has zeros in front, which a number in JSON must not have.
fn write_decimal(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Malformed> {
    let (sign, digits) = match text.strip_prefix(b"-") {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    if digits.is_empty() || !digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
        return Err(Malformed);
    }
    let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
    let digits = &digits[zeros..];
    out.extend_from_slice(sign.as_bytes());
    if !digits.first().is_some_and(u8::is_ascii_digit) {
        out.push(b'0');
    }
    out.extend_from_slice(digits);
    Ok(())
}

fn write_date(out: &mut Vec<u8>, value: &mut Reader<'_>) -> Result<(), Malformed> {
    let (year, month, day) =
        if value.is_empty() { (0, 0, 0) } else { (value.u16()?, value.u8()?, value.u8()?) };
    print(out, format_args!("{year:04}-{month:02}-{day:02}"));
    Ok(())
}

/// A date with a time of day.
fn write_moment(out: &mut Vec<u8>, value: &[u8], zone: &str) -> Result<(), Malformed> {
    let mut value = Reader(value);
    out.push(b'"');
    write_date(out, &mut value)?;
    let (hour, minute, second) =
        if value.is_empty() { (0, 0, 0) } else { (value.u8()?, value.u8()?, value.u8()?) };
    print(out, format_args!("T{hour:02}:{minute:02}:{second:02}"));
    write_micros(out, &mut value)?;
    out.extend_from_slice(zone.as_bytes());
    out.push(b'"');
    Ok(())
}

/// A span of up to 838 hours.
fn write_time(out: &mut Vec<u8>, value: &[u8]) -> Result<(), Malformed> {
    let mut value = Reader(value);
    if value.is_empty() {
        out.extend_from_slice(b"\"00:00:00\"");
        return Ok(());
    }
    let sign = if value.u8()? == 0 { "" } else { "-" };
    let (days, hour, minute, second) = (value.u32()?, value.u8()?, value.u8()?, value.u8()?);
    let hours = u64::from(days) * 24 + u64::from(hour);
    print(out, format_args!("\"{sign}{hours:02}:{minute:02}:{second:02}"));
    write_micros(out, &mut value)?;
    out.push(b'"');
    Ok(())
}

/// The fraction of a second without zeros at its end, as PostgreSQL writes it.
fn write_micros(out: &mut Vec<u8>, value: &mut Reader<'_>) -> Result<(), Malformed> {
    let micros = if value.is_empty() { 0 } else { value.u32()? };
    if micros > 0 {
        print(out, format_args!(".{micros:06}"));
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    Ok(())
}

fn print(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes every write");
}

#[cfg(test)]
mod tests {
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
