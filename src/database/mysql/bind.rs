//! The parameters of a statement in the binary form.
//!
//! Pure. The server converts a text to the type of the place where it stands, so every declared type but numbers and bytes goes as
//! text. Arrays are JSON, for `json_table` and `member of`.

use crate::base::value::Value;
use crate::database::Error;
use crate::database::json::{array_text, sql_timestamp};

use super::packet::put_counted;

/// A session that prepared nothing else runs the statement that was prepared last by this number, on MariaDB.
pub(super) const LAST_PREPARED: u32 = u32::MAX;

mod kind {
    pub(super) const TINY: u8 = 1;
    pub(super) const DOUBLE: u8 = 5;
    pub(super) const NULL: u8 = 6;
    pub(super) const LONGLONG: u8 = 8;
    pub(super) const BLOB: u8 = 252;
    pub(super) const VAR_STRING: u8 = 253;
}

/// Appends the content of an execution of the statement with this number.
pub(super) fn put_execution(out: &mut Vec<u8>, id: u32, values: &[&Value]) -> Result<(), Error> {
    const NO_CURSOR: u8 = 0;
    const ONE_RUN: u32 = 1;
    out.extend_from_slice(&id.to_le_bytes());
    out.push(NO_CURSOR);
    out.extend_from_slice(&ONE_RUN.to_le_bytes());
    let count = values.len();
    if count == 0 {
        return Ok(());
    }
    let nulls = out.len();
    out.resize(nulls + count.div_ceil(8), 0);
    // The types follow.
    out.push(1);
    for (index, value) in values.iter().enumerate() {
        if **value == Value::Null {
            out[nulls + index / 8] |= 1 << (index % 8);
        }
        out.extend_from_slice(&[kind_of(value), 0]);
    }
    for value in values {
        put_value(out, value);
    }
    Ok(())
}

fn kind_of(value: &Value) -> u8 {
    match value {
        Value::Null => kind::NULL,
        Value::Bool(_) => kind::TINY,
        Value::Int(_) => kind::LONGLONG,
        Value::Float(_) => kind::DOUBLE,
        Value::Bytes(_) => kind::BLOB,
        _ => kind::VAR_STRING,
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => {}
        Value::Bool(truth) => out.push((*truth).into()),
        Value::Int(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::Float(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::Text(text) | Value::Uuid(text) | Value::Date(text) | Value::Json(text) => {
            put_counted(out, text.as_bytes());
        }
        Value::Timestamp(text) => put_counted(out, sql_timestamp(text).as_bytes()),
        Value::Bytes(bytes) => put_counted(out, bytes),
        Value::Array(_, items) => put_counted(out, array_text(items).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::value::Scalar;

    #[test]
    fn values_follow_their_types_and_nulls_are_bits() {
        let values = [
            Value::Null,
            Value::Int(-1),
            Value::Text("é".to_owned()),
            Value::Bool(true),
            Value::Timestamp("2013-01-01T10:00:00Z".to_owned()),
            Value::Array(Scalar::Int, vec![Value::Int(2)]),
        ];
        let mut out = Vec::new();
        put_execution(&mut out, 7, &values.iter().collect::<Vec<_>>()).unwrap();
        let expected = [
            &[7, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1][..],
            &[6, 0, 8, 0, 253, 0, 1, 0, 253, 0, 253, 0],
            &[0xff; 8],
            &[2, 0xc3, 0xa9, 1],
            &[19],
            b"2013-01-01 10:00:00",
            &[3],
            b"[2]",
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn a_statement_without_parameters_has_no_types() {
        let mut out = Vec::new();
        put_execution(&mut out, LAST_PREPARED, &[]).unwrap();
        assert_eq!(out, [255, 255, 255, 255, 0, 1, 0, 0, 0]);
    }
}
