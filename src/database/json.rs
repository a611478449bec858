//! Values as JSON bytes, appended to the response. All databases share this code, so that their answers are equal.
//!
//! Worker thread, pure. Allocates nothing but room in the output. Knows no database.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::base::value::Value;

/// Writes the text as a JSON string.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Writes bytes that ought to be UTF-8 as a JSON string. Other bytes (a `SQL_ASCII` database sends any) become U+FFFD.
pub(super) fn write_bytes_as_text(out: &mut Vec<u8>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => write_string(out, text),
        Err(_) => write_string(out, &String::from_utf8_lossy(bytes)),
    }
}

/// The inside of a JSON string; the bytes are UTF-8.
pub(super) fn write_escaped(out: &mut Vec<u8>, mut text: &[u8]) {
    let needs_escape = |byte: &u8| *byte < 0x20 || matches!(*byte, b'"' | b'\\');
    while let Some(plain) = text.iter().position(needs_escape) {
        out.extend_from_slice(&text[..plain]);
        write_escape(out, text[plain]);
        text = &text[plain + 1..];
    }
    out.extend_from_slice(text);
}

/// A whole number.
pub(super) fn write_int(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Writes a double as PostgreSQL prints it: the fewest digits that read back the same, an exponent below 1e-4 and from
/// 1e15 on (`double_to_shortest_decimal_buf`). JSON has no NaN and no infinity: they are strings, as in `to_json`.
pub(super) fn write_f64(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        write_float(out, format_args!("{value:e}"), 15);
    } else {
        write_string(out, non_finite(value));
    }
}

/// A single as PostgreSQL prints it: an exponent below 1e-4 and from 1e6 on (`float_to_shortest_decimal_buf`).
pub(super) fn write_f32(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() {
        write_float(out, format_args!("{value:e}"), 6);
    } else {
        write_string(out, non_finite(value.into()));
    }
}

/// Bytes as a JSON string in base64 (RFC 4648, section 4).
pub(super) fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("padded base64 takes 4 bytes for each 3 begun");
    out.truncate(start + written);
    out.push(b'"');
}

/// The items of an array as JSON text, for databases without arrays. Timestamps have the form of [`sql_timestamp`].
pub(super) fn array_text(items: &[Value]) -> String {
    let mut out = b"[".to_vec();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match item {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Bool(truth) => out.extend_from_slice(truth.to_string().as_bytes()),
            Value::Int(number) => write_int(&mut out, *number),
            Value::Float(number) => write_f64(&mut out, *number),
            Value::Text(text) | Value::Uuid(text) | Value::Date(text) => {
                write_string(&mut out, text);
            }
            Value::Timestamp(text) => {
                write_string(&mut out, &sql_timestamp(text));
            }
            Value::Json(text) => out.extend_from_slice(text.as_bytes()),
            Value::Bytes(bytes) => write_base64(&mut out, bytes),
            Value::Array(_, inner) => out.extend_from_slice(array_text(inner).as_bytes()),
        }
    }
    out.push(b']');
    String::from_utf8_lossy(&out).into_owned()
}

/// A timestamp in SQL's own form, `2013-01-01 10:00:00`, in UTC.
pub(super) fn sql_timestamp(text: &str) -> String {
    text.trim_end_matches('Z').replacen('T', " ", 1)
}

/// `"name":`, the bytes before a column's value.
pub(super) fn key(name: &str) -> Box<[u8]> {
    let mut key = Vec::with_capacity(name.len() + 3);
    write_string(&mut key, name);
    key.push(b':');
    key.into_boxed_slice()
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}

fn non_finite(value: f64) -> &'static str {
    if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// Rewrites Rust's `d.ddde±x`, which has the shortest digits, in PostgreSQL's layout.
fn write_float(out: &mut Vec<u8>, scientific: std::fmt::Arguments<'_>, fixed_below: i32) {
    let mut buffer = [0_u8; 32];
    let mut free = &mut buffer[..];
    free.write_fmt(scientific).expect("the shortest form of a double has at most 24 bytes");
    let used = 32 - free.len();
    let text = &buffer[..used];
    let mark = text.iter().position(|byte| *byte == b'e').expect("`{:e}` writes an exponent");
    let exponent: i32 = std::str::from_utf8(&text[mark + 1..])
        .ok()
        .and_then(|exponent| exponent.parse().ok())
        .expect("`{:e}` writes a decimal exponent");
    let mantissa = text[..mark].strip_prefix(b"-").inspect(|_| out.push(b'-')).unwrap_or(&text[..mark]);
    let (first, rest) = (mantissa[0], mantissa.get(2..).unwrap_or_default());
    if exponent < -4 || exponent >= fixed_below {
        out.push(first);
        write_fraction(out, rest);
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "e{sign}{:02}", exponent.abs()).expect("a Vec takes every write");
        return;
    }
    let Ok(whole) = usize::try_from(exponent) else {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', exponent.unsigned_abs() as usize - 1));
        out.push(first);
        out.extend_from_slice(rest);
        return;
    };
    out.push(first);
    let (integral, fraction) = rest.split_at(whole.min(rest.len()));
    out.extend_from_slice(integral);
    out.extend(std::iter::repeat_n(b'0', whole - integral.len()));
    write_fraction(out, fraction);
}

fn write_fraction(out: &mut Vec<u8>, digits: &[u8]) {
    if !digits.is_empty() {
        out.push(b'.');
        out.extend_from_slice(digits);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::value::Scalar;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_look_as_psql_shows_them() {
        let expected = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (100.0, "100"),
            (0.1, "0.1"),
            (1234.5, "1234.5"),
            (0.0001, "0.0001"),
            (0.000_012, "1.2e-05"),
            (999_999_999_999_999.0, "999999999999999"),
            (1e15, "1e+15"),
            (1.5e300, "1.5e+300"),
            (f64::NAN, "\"NaN\""),
            (f64::NEG_INFINITY, "\"-Infinity\""),
        ];
        for (value, text) in expected {
            assert_eq!(written(|out| write_f64(out, value)), text);
        }
        assert_eq!(written(|out| write_f32(out, 1e6)), "1e+06");
        assert_eq!(written(|out| write_f32(out, 0.1)), "0.1");
    }

    #[test]
    fn base64_has_its_padding() {
        assert_eq!(written(|out| write_base64(out, b"")), "\"\"");
        assert_eq!(written(|out| write_base64(out, b"a")), "\"YQ==\"");
        assert_eq!(written(|out| write_base64(out, b"abc")), "\"YWJj\"");
    }

    #[test]
    fn bytes_that_are_no_unicode_still_make_valid_json() {
        assert_eq!(written(|out| write_bytes_as_text(out, b"a\xff\"")), "\"a\u{fffd}\\\"\"");
    }

    proptest! {
        #[test]
        fn every_finite_double_reads_back(value in any::<f64>().prop_filter("finite", |value| value.is_finite())) {
            let text = written(|out| write_f64(out, value));
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits());
            prop_assert!(serde_json::from_str::<f64>(&text).is_ok());
        }

        #[test]
        fn every_text_reads_back(text: String) {
            let json = written(|out| write_string(out, &text));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }

    #[test]
    fn arrays_are_bound_as_json() {
        let items = vec![Value::Text("a\"b".to_owned()), Value::Null];
        assert_eq!(array_text(&items), r#"["a\"b",null]"#);
        assert_eq!(array_text(&[Value::Bool(true), Value::Int(2)]), "[true,2]");
        let timestamp =
            Value::Array(Scalar::Timestamp, vec![Value::Timestamp("2013-01-01T10:00:00Z".to_owned())]);
        let Value::Array(_, items) = &timestamp else { unreachable!() };
        assert_eq!(array_text(items), r#"["2013-01-01 10:00:00"]"#);
    }
}
