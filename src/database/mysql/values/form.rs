//! The form of a value: its bytes in a row, and its JSON.
//!
//! Owns [`Form`]. Pure.

use std::io::Write as _;

use crate::base::value::Value;
use crate::database::json::{write_base64, write_bytes_as_text, write_f32, write_f64, write_int};
use crate::database::mysql::packet::{Column, Malformed, Reader};

/// The numbers of types in the protocol.
pub(super) mod kind {
    pub(in super::super) const DECIMAL: u8 = 0;
    pub(in super::super) const TINY: u8 = 1;
    pub(in super::super) const SHORT: u8 = 2;
    pub(in super::super) const LONG: u8 = 3;
    pub(in super::super) const FLOAT: u8 = 4;
    pub(in super::super) const DOUBLE: u8 = 5;
    pub(in super::super) const NULL: u8 = 6;
    pub(in super::super) const TIMESTAMP: u8 = 7;
    pub(in super::super) const LONGLONG: u8 = 8;
    pub(in super::super) const INT24: u8 = 9;
    pub(in super::super) const DATE: u8 = 10;
    pub(in super::super) const TIME: u8 = 11;
    pub(in super::super) const DATETIME: u8 = 12;
    pub(in super::super) const YEAR: u8 = 13;
    pub(in super::super) const NEWDATE: u8 = 14;
    pub(in super::super) const VARCHAR: u8 = 15;
    pub(in super::super) const BIT: u8 = 16;
    pub(in super::super) const JSON: u8 = 245;
    pub(in super::super) const NEWDECIMAL: u8 = 246;
    pub(in super::super) const ENUM: u8 = 247;
    pub(in super::super) const SET: u8 = 248;
    pub(in super::super) const TINY_BLOB: u8 = 249;
    pub(in super::super) const BLOB: u8 = 252;
    pub(in super::super) const VAR_STRING: u8 = 253;
    pub(in super::super) const STRING: u8 = 254;
}

/// The number of the character set `binary`.
pub(super) const BINARY: u16 = 63;

pub(super) const UNSIGNED: u16 = 1 << 5;
const IS_ENUM: u16 = 1 << 8;
const IS_SET: u16 = 1 << 11;

/// The form of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
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

pub(super) fn form_of(column: &Column) -> Option<Form> {
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
pub(super) fn type_name(column: &Column) -> String {
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
    pub(super) fn write(self, values: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
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
    pub(super) fn read(self, values: &mut Reader<'_>, scratch: &mut Vec<u8>) -> Result<Value, Malformed> {
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
