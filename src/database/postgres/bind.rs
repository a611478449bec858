//! Values → the parameters of a prepared statement, in the types that PostgreSQL inferred for them.
//!
//! Worker thread. Numbers, booleans and bytes go in binary. Everything else goes as text: PostgreSQL parses it itself
//! and so accepts it for any type (`'…'::type` in a statement does the same).

use std::error::Error as StdError;
use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked};

use crate::base::value::{Scalar, Type as Declared, Value};
use crate::database::Error;
use crate::database::statement::Bound;

/// A value on its way into a statement.
#[derive(Debug)]
pub(super) struct Parameter<'a>(pub(super) &'a Value);

/// The two ways in which PostgreSQL takes a value.
enum Wire {
    Binary,
    Text,
}

/// Refuses a number that does not fit its place, before anything is sent. Each item of an array is checked.
pub(super) fn check(bound: &Bound, value: &Value, kind: &Type) -> Result<(), Error> {
    let kind = base(kind);
    let refuse = |expected: String, received: String| Err(bound.refuse(expected, received));
    match (value, kind.kind()) {
        (Value::Array(_, items), Kind::Array(item)) => {
            items.iter().try_for_each(|value| check(bound, value, item))
        }
        (Value::Int(number), _) => match integers(kind) {
            Some((low, high)) if !(low..=high).contains(number) => {
                refuse(format!("an integer from {low} to {high}"), number.to_string())
            }
            _ => Ok(()),
        },
        (Value::Float(number), _) if *kind == Type::FLOAT4 && !fits_float4(*number) => {
            refuse("a number that 32 bits can hold".to_owned(), number.to_string())
        }
        _ => Ok(()),
    }
}

/// The range of a type that holds fewer integers than a parameter.
fn integers(kind: &Type) -> Option<(i64, i64)> {
    match *kind {
        Type::INT2 => Some((i16::MIN.into(), i16::MAX.into())),
        Type::INT4 => Some((i32::MIN.into(), i32::MAX.into())),
        Type::OID => Some((0, u32::MAX.into())),
        _ => None,
    }
}

/// PostgreSQL rounds as well. But its own conversion fails where the result would be infinity, or zero for a small
/// number.
#[expect(clippy::cast_possible_truncation, reason = "what the conversion makes of it is the question")]
fn fits_float4(number: f64) -> bool {
    let narrow = number as f32;
    narrow.is_finite() && (narrow != 0.0 || number == 0.0)
}

/// Why a parameter of this declared type cannot stand at its place in the statement. `None`: it can.
pub(super) fn mismatch(bound: &Bound, kind: &Type) -> Option<String> {
    let fits = match (bound.kind, base(kind).kind()) {
        (Declared::One(Scalar::Text), _) => true,
        (Declared::One(scalar), _) => fits(scalar, base(kind)),
        (Declared::Many(scalar), Kind::Array(item)) => fits(scalar, base(item)),
        (Declared::Many(_), _) => false,
    };
    let (declared, cast) = names(bound.kind);
    let name = &bound.name;
    (!fits).then(|| {
        format!(
            "parameter :{name} is declared as {declared}, but PostgreSQL takes it for {kind} here; \
             declare it so, or write :{name}::{cast}"
        )
    })
}

fn fits(declared: Scalar, actual: &Type) -> bool {
    let is_text = matches!(*actual, Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN);
    let is_fraction = matches!(*actual, Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC);
    match declared {
        Scalar::Text => true,
        Scalar::Int => is_fraction || matches!(*actual, Type::INT2 | Type::INT4 | Type::INT8 | Type::OID),
        Scalar::Float => is_fraction,
        Scalar::Bool => *actual == Type::BOOL,
        Scalar::Uuid => is_text || *actual == Type::UUID,
        Scalar::Date => is_text || matches!(*actual, Type::DATE | Type::TIMESTAMP | Type::TIMESTAMPTZ),
        Scalar::Timestamp => is_text || matches!(*actual, Type::TIMESTAMP | Type::TIMESTAMPTZ),
        Scalar::Json => is_text || matches!(*actual, Type::JSON | Type::JSONB),
        Scalar::Bytes => *actual == Type::BYTEA,
    }
}

/// A declared type's name in the configuration, and the PostgreSQL type to cast to.
pub(super) fn names(declared: Declared) -> (String, String) {
    let (Declared::One(scalar) | Declared::Many(scalar)) = declared;
    let (name, cast) = match scalar {
        Scalar::Int => ("int", "bigint"),
        Scalar::Float => ("float", "float8"),
        Scalar::Text => ("text", "text"),
        Scalar::Bool => ("bool", "boolean"),
        Scalar::Uuid => ("uuid", "uuid"),
        Scalar::Date => ("date", "date"),
        Scalar::Timestamp => ("timestamp", "timestamptz"),
        Scalar::Json => ("json", "jsonb"),
        Scalar::Bytes => ("bytes", "bytea"),
    };
    let suffix = if matches!(declared, Declared::Many(_)) { "[]" } else { "" };
    (format!("{name}{suffix}"), format!("{cast}{suffix}"))
}

/// The type under its domains.
fn base(mut kind: &Type) -> &Type {
    while let Kind::Domain(inner) = kind.kind() {
        kind = inner;
    }
    kind
}

impl Parameter<'_> {
    fn wire(&self, kind: &Type) -> Wire {
        let binary = match self.0 {
            Value::Int(_) => {
                matches!(
                    *kind,
                    Type::INT2 | Type::INT4 | Type::INT8 | Type::OID | Type::FLOAT4 | Type::FLOAT8
                )
            }
            Value::Float(_) => matches!(*kind, Type::FLOAT4 | Type::FLOAT8),
            Value::Bool(_) => *kind == Type::BOOL,
            Value::Bytes(_) => *kind == Type::BYTEA,
            _ => false,
        };
        if binary { Wire::Binary } else { Wire::Text }
    }
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        if *self.0 == Value::Null {
            return Ok(IsNull::Yes);
        }
        match self.wire(base(kind)) {
            Wire::Binary => write_binary(self.0, base(kind), out)?,
            Wire::Text => write_text(self.0, out)?,
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, kind: &Type) -> Format {
        match self.wire(base(kind)) {
            Wire::Binary => Format::Binary,
            Wire::Text => Format::Text,
        }
    }

    to_sql_checked!();
}

/// Writes the types that [`Parameter::wire`] calls binary.
fn write_binary(
    value: &Value,
    kind: &Type,
    out: &mut BytesMut,
) -> Result<(), Box<dyn StdError + Sync + Send>> {
    match (value, kind) {
        (Value::Int(number), &Type::INT2) => out.put_i16(i16::try_from(*number)?),
        (Value::Int(number), &Type::INT4) => out.put_i32(i32::try_from(*number)?),
        (Value::Int(number), &Type::OID) => out.put_u32(u32::try_from(*number)?),
        (Value::Int(number), &Type::INT8) => out.put_i64(*number),
        #[expect(
            clippy::cast_precision_loss,
            reason = "PostgreSQL's own conversion of an integer to float4 rounds so"
        )]
        (Value::Int(number), &Type::FLOAT4) => out.put_f32(*number as f32),
        #[expect(
            clippy::cast_precision_loss,
            reason = "PostgreSQL's own conversion of an integer to float8 rounds so"
        )]
        (Value::Int(number), _) => out.put_f64(*number as f64),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "PostgreSQL's own conversion to float4 rounds so"
        )]
        (Value::Float(number), &Type::FLOAT4) => out.put_f32(*number as f32),
        (Value::Float(number), _) => out.put_f64(*number),
        (Value::Bool(truth), _) => out.put_u8(u8::from(*truth)),
        (Value::Bytes(bytes), _) => out.put_slice(bytes),
        _ => return Err("not a binary parameter".into()),
    }
    Ok(())
}

fn write_text(value: &Value, out: &mut BytesMut) -> std::fmt::Result {
    match value {
        Value::Null => out.put_slice(b"NULL"),
        Value::Bool(truth) => write!(out, "{truth}")?,
        Value::Int(number) => write!(out, "{number}")?,
        Value::Float(number) => write!(out, "{number}")?,
        Value::Text(text)
        | Value::Uuid(text)
        | Value::Date(text)
        | Value::Timestamp(text)
        | Value::Json(text) => out.put_slice(text.as_bytes()),
        Value::Bytes(bytes) => {
            out.put_slice(b"\\x");
            for byte in bytes {
                write!(out, "{byte:02x}")?;
            }
        }
        Value::Array(_, items) => write_array(items, out)?,
    }
    Ok(())
}

/// Writes `{"a","b",NULL}`. Every item is quoted, so that no item is taken for syntax (manual, 8.15.6).
fn write_array(items: &[Value], out: &mut BytesMut) -> std::fmt::Result {
    out.put_u8(b'{');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        if *item == Value::Null {
            out.put_slice(b"NULL");
            continue;
        }
        let mut text = BytesMut::new();
        write_text(item, &mut text)?;
        out.put_u8(b'"');
        for byte in text {
            if matches!(byte, b'"' | b'\\') {
                out.put_u8(b'\\');
            }
            out.put_u8(byte);
        }
        out.put_u8(b'"');
    }
    out.put_u8(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &Value) -> String {
        let mut out = BytesMut::new();
        write_text(value, &mut out).unwrap();
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn array_items_cannot_break_out() {
        let items = ["a,b", "\"}", "\\", "NULL"].map(|item| Value::Text(item.to_owned()));
        let mut items = items.to_vec();
        items.push(Value::Null);
        assert_eq!(text(&Value::Array(Scalar::Text, items)), r#"{"a,b","\"}","\\","NULL",NULL}"#);
        assert_eq!(text(&Value::Array(Scalar::Bytes, vec![Value::Bytes(vec![0, 255])])), r#"{"\\x00ff"}"#);
    }

    #[test]
    fn a_mismatch_names_both_types_and_the_cast() {
        let param = crate::config::Param::new("id", crate::config::Place::Query, Declared::One(Scalar::Int));
        let bound = Bound::new(0, &param);
        let message = mismatch(&bound, &Type::TEXT).unwrap();
        assert!(message.contains("declared as int"), "{message}");
        assert!(message.contains("takes it for text"), "{message}");
        assert!(message.contains(":id::bigint"), "{message}");
        assert_eq!(mismatch(&bound, &Type::NUMERIC), None);
    }
}
