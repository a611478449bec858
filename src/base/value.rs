//! A parameter's value, checked against the type that the configuration declares.
//!
//! Pure values, any thread. Knows no HTTP and no database: `config` keeps defaults as values, `endpoint` makes values
//! from requests, `database` binds them.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::value::RawValue;

/// The declared type of a parameter (`type = "int"`, `type = "int[]"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A single value.
    One(Scalar),
    /// An array of values (`"int[]"`). A query or a form repeats the name (`?id=1&id=2`), JSON has an array.
    Many(Scalar),
}

/// The type of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// A 64-bit signed integer.
    Int,
    /// A finite 64-bit float.
    Float,
    /// Unicode text without NUL.
    Text,
    /// `true` or `false`.
    Bool,
    /// A UUID in its hyphenated form.
    Uuid,
    /// A calendar date, `2013-01-31`.
    Date,
    /// RFC 3339, with an offset or without.
    Timestamp,
    /// Any JSON document.
    Json,
    /// Bytes, base64 on the wire.
    Bytes,
}

/// One value, ready to bind. The variants from `Uuid` to `Json` hold their canonical text. `Debug` shows only the kind
/// of the value, because the value may be a secret.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// SQL's null, for an optional parameter that was not sent.
    Null,
    /// See [`Scalar::Bool`].
    Bool(bool),
    /// See [`Scalar::Int`].
    Int(i64),
    /// See [`Scalar::Float`].
    Float(f64),
    /// See [`Scalar::Text`].
    Text(String),
    /// Lower-case, hyphenated.
    Uuid(String),
    /// `YYYY-MM-DD`.
    Date(String),
    /// In UTC if it came with an offset (`2013-01-01T10:00:00Z`), otherwise as it is (`2013-01-01T10:00:00`).
    Timestamp(String),
    /// The document as the client wrote it.
    Json(String),
    /// The decoded bytes.
    Bytes(Vec<u8>),
    /// Values of one scalar type, never nested.
    Array(Scalar, Vec<Value>),
}

/// A value that does not fit its declared type. A client reads this in its 400. `Debug` does not show the value.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, received {received}")]
pub struct Mismatch {
    /// The accepted form in words, such as `an integer`.
    pub expected: String,
    /// The received text, quoted and cut after [`Mismatch::RECEIVED_CHARS_MAX`] characters.
    pub received: String,
}

impl fmt::Debug for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mismatch").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Mismatch {
    /// Enough to recognise a value, too little to turn an error message into a megabyte.
    pub const RECEIVED_CHARS_MAX: usize = 60;

    /// A mismatch of the text `received`.
    pub fn new(expected: impl Into<String>, received: &str) -> Self {
        Self { expected: expected.into(), received: format!("{:?}", cut(received)) }
    }

    /// A mismatch of a JSON value. It is shown as JSON, so that `5` and `"5"` differ.
    pub fn of_json(expected: impl Into<String>, received: &RawValue) -> Self {
        Self { expected: expected.into(), received: cut(received.get()).into_owned() }
    }
}

impl Type {
    /// Reads a type such as `int` or `int[]`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix("[]") {
            Some(item) => Scalar::parse(item).map(Self::Many),
            None => Scalar::parse(text).map(Self::One),
        }
    }

    /// The type of the value, or of each of its items.
    pub fn scalar(self) -> Scalar {
        match self {
            Self::One(scalar) | Self::Many(scalar) => scalar,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(scalar) => write!(f, "{scalar}"),
            Self::Many(scalar) => write!(f, "{scalar}[]"),
        }
    }
}

impl Scalar {
    /// Every scalar type, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Int,
        Self::Float,
        Self::Text,
        Self::Bool,
        Self::Uuid,
        Self::Date,
        Self::Timestamp,
        Self::Json,
        Self::Bytes,
    ];

    /// Reads a type such as `int`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scalar| scalar.name() == text)
    }

    /// The name of the type in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Float => "float",
            Self::Text => "text",
            Self::Bool => "bool",
            Self::Uuid => "uuid",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
            Self::Json => "json",
            Self::Bytes => "bytes",
        }
    }

    /// The form that a client has to send, in words.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Int => "a 64-bit integer",
            Self::Float => "a finite number",
            Self::Text => "text without NUL",
            Self::Bool => "true or false",
            Self::Uuid => "a UUID such as 01234567-89ab-cdef-0123-456789abcdef",
            Self::Date => "a date such as 2013-01-31",
            Self::Timestamp => "a timestamp such as 2013-01-31T10:00:00Z",
            Self::Json => "a JSON document",
            Self::Bytes => "base64 with padding",
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Bool(_) => f.write_str("Bool(…)"),
            Self::Int(_) => f.write_str("Int(…)"),
            Self::Float(_) => f.write_str("Float(…)"),
            Self::Text(_) => f.write_str("Text(…)"),
            Self::Uuid(_) => f.write_str("Uuid(…)"),
            Self::Date(_) => f.write_str("Date(…)"),
            Self::Timestamp(_) => f.write_str("Timestamp(…)"),
            Self::Json(_) => f.write_str("Json(…)"),
            Self::Bytes(_) => f.write_str("Bytes(…)"),
            Self::Array(scalar, items) => write!(f, "Array({scalar}, {} items)", items.len()),
        }
    }
}

impl Value {
    /// Reads a value from the text in a path, a query, a header or a form.
    ///
    /// # Errors
    /// The text is not a `scalar`; see [`Scalar::expected`].
    pub fn parse(scalar: Scalar, text: &str) -> Result<Self, Mismatch> {
        let value = match scalar {
            Scalar::Int => int(text).map(Self::Int),
            Scalar::Float => float(text).map(Self::Float),
            Scalar::Text => (!text.contains('\0')).then(|| Self::Text(text.to_owned())),
            Scalar::Bool => text.parse().ok().map(Self::Bool),
            Scalar::Uuid => uuid(text).map(Self::Uuid),
            Scalar::Date => date(text).map(Self::Date),
            Scalar::Timestamp => timestamp(text).map(Self::Timestamp),
            Scalar::Json => json(text).map(Self::Json),
            Scalar::Bytes => BASE64.decode(text).ok().map(Self::Bytes),
        };
        value.ok_or_else(|| Mismatch::new(scalar.expected(), text))
    }

    /// Reads a value from a member of a JSON body. Numbers and booleans must be JSON's own, other types except `json` a
    /// JSON string. `null` is a value only for `json`: the caller decides whether a member may be absent.
    ///
    /// # Errors
    /// The member is not a `kind`, or one of its items is not.
    pub fn from_json(kind: Type, member: &RawValue) -> Result<Self, Mismatch> {
        match kind {
            Type::One(scalar) => Self::one_from_json(scalar, member),
            Type::Many(scalar) => {
                let items: Vec<&RawValue> = serde_json::from_str(member.get())
                    .map_err(|_| Mismatch::of_json(format!("an array of {scalar}"), member))?;
                let items = items.into_iter().map(|item| Self::one_from_json(scalar, item));
                Ok(Self::Array(scalar, items.collect::<Result<_, _>>()?))
            }
        }
    }

    /// The text of the value in a path, a query, a header or a form. There each item of an array is sent by itself.
    /// Null cannot be sent there, so its text is empty.
    pub fn to_text(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Bool(flag) => flag.to_string(),
            Self::Int(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Text(text)
            | Self::Uuid(text)
            | Self::Date(text)
            | Self::Timestamp(text)
            | Self::Json(text) => text.clone(),
            Self::Bytes(bytes) => BASE64.encode(bytes),
            Self::Array(_, items) => items.iter().map(Self::to_text).collect::<Vec<_>>().join(","),
        }
    }

    /// The value as a member of a JSON body.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(flag) => (*flag).into(),
            Self::Int(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            // The text was read as JSON before, so it is JSON.
            Self::Json(document) => serde_json::from_str(document).unwrap_or_default(),
            Self::Array(_, items) => items.iter().map(Self::to_json).collect(),
            text => text.to_text().into(),
        }
    }

    fn one_from_json(scalar: Scalar, member: &RawValue) -> Result<Self, Mismatch> {
        let raw = member.get();
        let text = match scalar {
            // `parse` reads the text of a JSON number or boolean. A JSON string starts with a quote, which `parse`
            // refuses.
            Scalar::Int | Scalar::Float | Scalar::Bool => Some(Cow::Borrowed(raw)),
            Scalar::Json => return Ok(Self::Json(raw.to_owned())),
            _ => serde_json::from_str::<String>(raw).ok().map(Cow::Owned),
        };
        text.and_then(|text| Self::parse(scalar, &text).ok()).ok_or_else(|| {
            let expected = match scalar {
                Scalar::Int | Scalar::Float | Scalar::Bool => scalar.expected().to_owned(),
                _ => format!("a JSON string with {}", scalar.expected()),
            };
            Mismatch::of_json(expected, member)
        })
    }
}

fn cut(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(Mismatch::RECEIVED_CHARS_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// Accepts canonical digits only. Each number has one spelling, so that caches and logs agree on it.
fn int(text: &str) -> Option<i64> {
    let number = text.parse().ok()?;
    (itoa::Buffer::new().format(number) == text).then_some(number)
}

/// Rust also reads `inf`, `NaN` and `+1`. Here a number starts with a digit, `-` or `.`.
fn float(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    (number.is_finite() && !text.starts_with('+')).then_some(number)
}

fn uuid(text: &str) -> Option<String> {
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    (text.len() == 36 && text.bytes().enumerate().all(fits)).then(|| text.to_ascii_lowercase())
}

/// Years 1 to 9999: RFC 3339 can write them and every database can store them.
fn date(text: &str) -> Option<String> {
    let date: jiff::civil::Date = text.parse().ok()?;
    // jiff also reads other forms (`20130131`, a date with a time). Only the form that jiff writes is accepted.
    (date.year() > 0 && date.to_string() == text).then(|| text.to_owned())
}

/// RFC 3339 with an optional offset. jiff reads more (seconds of 60, hours alone, zone names), so the form is checked
/// first.
fn timestamp(text: &str) -> Option<String> {
    let (clock, rest) = text.split_at_checked(19)?;
    let form = b"dddd-dd-ddTdd:dd:dd";
    let fits = clock.bytes().zip(form).all(|(byte, form)| match form {
        b'd' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't' | b' '),
        _ => byte == *form,
    });
    if !fits || clock.ends_with("60") {
        return None;
    }
    let digits = rest
        .strip_prefix('.')
        .map_or("", |fraction| &fraction[..fraction.bytes().take_while(u8::is_ascii_digit).count()]);
    let offset = if digits.is_empty() { rest } else { &rest[1 + digits.len()..] };
    match offset.as_bytes() {
        [] => {
            let local: jiff::civil::DateTime = text.parse().ok()?;
            (local.year() > 0).then(|| local.to_string())
        }
        [b'Z' | b'z'] | [b'+' | b'-', b'0'..=b'9', b'0'..=b'9', b':', b'0'..=b'9', b'0'..=b'9'] => {
            let instant: jiff::Timestamp = text.parse().ok()?;
            let utc = instant.to_string();
            // With its offset, a time on the first or the last day may fall outside of the four-digit years.
            (utc.as_bytes()[..4].iter().all(u8::is_ascii_digit) && !utc.starts_with("0000")).then_some(utc)
        }
        _ => None,
    }
}

fn json(text: &str) -> Option<String> {
    serde_json::from_str::<&RawValue>(text).ok().map(|document| document.get().to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(scalar: Scalar, cases: &[(&str, Value)]) {
        for (text, value) in cases {
            assert_eq!(Value::parse(scalar, text).as_ref(), Ok(value), "{scalar} {text:?}");
        }
    }

    fn rejects(scalar: Scalar, cases: &[&str]) {
        for text in cases {
            assert!(Value::parse(scalar, text).is_err(), "{scalar} {text:?}");
        }
    }

    fn member(kind: &str, json: &str) -> Result<Value, Mismatch> {
        let raw = RawValue::from_string(json.to_owned()).expect("the test wrote JSON");
        Value::from_json(Type::parse(kind).expect("the test names a type"), &raw)
    }

    #[test]
    fn types_are_written_as_they_are_read() {
        for scalar in Scalar::ALL {
            for kind in [Type::One(scalar), Type::Many(scalar)] {
                assert_eq!(Type::parse(&kind.to_string()), Some(kind));
            }
        }
        for wrong in ["integer", "int[][]", "[]", "Int", "int []", ""] {
            assert_eq!(Type::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn int_has_one_spelling() {
        accepts(
            Scalar::Int,
            &[
                ("0", Value::Int(0)),
                ("-9223372036854775808", Value::Int(i64::MIN)),
                ("9223372036854775807", Value::Int(i64::MAX)),
            ],
        );
        let wrong = ["", "-", "-0", "+1", "01", " 1", "1 ", "1.0", "1e3", "0x1", "٣", "9223372036854775808"];
        rejects(Scalar::Int, &wrong);
    }

    #[test]
    fn float_is_finite() {
        accepts(Scalar::Float, &[("1", Value::Float(1.0)), ("-2.5e-3", Value::Float(-0.0025))]);
        rejects(Scalar::Float, &["", "NaN", "inf", "-infinity", "1e400", "+1", "1,5", "1.0f"]);
    }

    #[test]
    fn text_bool_uuid_bytes_and_json() {
        accepts(Scalar::Text, &[("", Value::Text(String::new())), ("é'--", Value::Text("é'--".into()))]);
        rejects(Scalar::Text, &["a\0b"]);
        accepts(Scalar::Bool, &[("true", Value::Bool(true)), ("false", Value::Bool(false))]);
        rejects(Scalar::Bool, &["", "True", "1", "yes", " true"]);
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        accepts(Scalar::Uuid, &[(&uuid.to_uppercase(), Value::Uuid(uuid.into()))]);
        rejects(
            Scalar::Uuid,
            &["", "0123456789abcdef0123456789abcdef", "{01234567-89ab-cdef-0123-456789abcdef}"],
        );
        rejects(
            Scalar::Uuid,
            &["01234567-89ab-cdef-0123-456789abcdeg", "0123456789-ab-cdef-0123-456789abcdef"],
        );
        accepts(Scalar::Bytes, &[("", Value::Bytes(vec![])), ("AP8=", Value::Bytes(vec![0, 255]))]);
        rejects(Scalar::Bytes, &["AP8", "AP9=", "A P8=", "_-8=", "===="]);
        accepts(Scalar::Json, &[(" {\"a\": 1} ", Value::Json("{\"a\": 1}".into()))]);
        rejects(Scalar::Json, &["", "{a:1}", "[1,]", "1 2", "NaN"]);
    }

    #[test]
    fn dates_are_days_that_exist() {
        accepts(Scalar::Date, &[("2024-02-29", Value::Date("2024-02-29".into()))]);
        let wrong =
            ["", "2023-02-29", "2013-1-31", "20130131", "0000-01-01", "-000001-01-01", "+002013-01-01"];
        rejects(Scalar::Date, &wrong);
        rejects(Scalar::Date, &["2013-01-31T10:00:00", "31.01.2013", "2013-W05-4", "2013-01-31[UTC]"]);
    }

    #[test]
    fn timestamps_come_out_in_utc_or_without_offset() {
        let cases = [
            ("2013-01-01T10:00:00Z", "2013-01-01T10:00:00Z"),
            ("2013-01-01t10:00:00z", "2013-01-01T10:00:00Z"),
            ("2013-01-01 10:00:00.250+02:00", "2013-01-01T08:00:00.25Z"),
            ("2013-01-01T00:30:00+01:00", "2012-12-31T23:30:00Z"),
            ("2013-01-01 10:00:00", "2013-01-01T10:00:00"),
            ("2013-01-01T10:00:00.000001", "2013-01-01T10:00:00.000001"),
        ];
        for (text, canonical) in cases {
            accepts(Scalar::Timestamp, &[(text, Value::Timestamp(canonical.into()))]);
        }
        rejects(
            Scalar::Timestamp,
            &["", "2013-01-01", "2013-01-01T10:00", "2016-12-31T23:59:60Z", "2013-01-01T24:00:00Z"],
        );
        rejects(
            Scalar::Timestamp,
            &["2013-01-01T10:00:00+02", "2013-01-01T10:00:00 02:00", "2013-02-30T10:00:00Z"],
        );
        rejects(Scalar::Timestamp, &["2013-01-01T10:00:00+02:00[Europe/Berlin]", "2013-01-01T10:00:00,5Z"]);
        rejects(Scalar::Timestamp, &["2013-01-01T10:00:00.Z", "2013-01-01T10:00:00.", "0000-06-01T00:00:00"]);
        rejects(
            Scalar::Timestamp,
            &["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00", "2013-01-01T10:00:0é"],
        );
    }

    #[test]
    fn json_members_keep_their_json_type() {
        assert_eq!(member("int", "5"), Ok(Value::Int(5)));
        assert_eq!(member("text", r#""a\u0041""#), Ok(Value::Text("aA".into())));
        assert_eq!(member("date", r#""2013-01-31""#), Ok(Value::Date("2013-01-31".into())));
        assert_eq!(member("json", "null"), Ok(Value::Json("null".into())));
        let both = Value::Array(Scalar::Int, vec![Value::Int(1), Value::Int(-2)]);
        assert_eq!(member("int[]", "[1, -2]"), Ok(both));
        assert_eq!(member("text[]", "[]"), Ok(Value::Array(Scalar::Text, vec![])));
        let wrong = [
            ("int", r#""5""#),
            ("int", "5.0"),
            ("int", "null"),
            ("bool", "1"),
            ("bool", r#""true""#),
            ("text", "5"),
            ("text", r#""\u0000""#),
            ("int[]", "1"),
            ("int[]", "[1, null]"),
            ("int[]", "[[1]]"),
            ("uuid", "{}"),
        ];
        for (kind, json) in wrong {
            assert!(member(kind, json).is_err(), "{kind} {json}");
        }
    }

    #[test]
    fn a_mismatch_says_what_was_expected_and_what_came() {
        let mismatch = Value::parse(Scalar::Int, "5\"x").expect_err("not an integer");
        assert_eq!(mismatch.to_string(), r#"expected a 64-bit integer, received "5\"x""#);
        let mismatch = member("date", "[1]").expect_err("not a string");
        assert_eq!(
            mismatch.to_string(),
            "expected a JSON string with a date such as 2013-01-31, received [1]"
        );
        let long = Value::parse(Scalar::Int, &"é".repeat(1000)).expect_err("not an integer");
        assert_eq!(long.received.chars().count(), Mismatch::RECEIVED_CHARS_MAX + 3);
    }

    #[test]
    fn a_sent_value_is_read_as_the_same_value() {
        for (scalar, text) in [
            (Scalar::Int, "-7"),
            (Scalar::Float, "1e-7"),
            (Scalar::Text, "a \"b\" & ü"),
            (Scalar::Bool, "true"),
            (Scalar::Uuid, "01234567-89ab-cdef-0123-456789abcdef"),
            (Scalar::Date, "2013-01-31"),
            (Scalar::Timestamp, "2013-01-31T10:00:00+02:00"),
            (Scalar::Json, "{\"a\":[1,null]}"),
            (Scalar::Bytes, "AAEC"),
        ] {
            let value = Value::parse(scalar, text).expect(text);
            assert_eq!(Value::parse(scalar, &value.to_text()).as_ref(), Ok(&value));
            assert_eq!(member(scalar.name(), &value.to_json().to_string()).as_ref(), Ok(&value));
        }
        let array = Value::Array(Scalar::Int, vec![Value::Int(1), Value::Int(2)]);
        assert_eq!(member("int[]", &array.to_json().to_string()), Ok(array));
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_a_mismatch(text in "\\PC{0,40}|[-0-9TZ:. +]{0,40}") {
            for scalar in Scalar::ALL {
                if let Ok(Value::Timestamp(canonical)) = Value::parse(scalar, &text) {
                    prop_assert_eq!(Value::parse(scalar, &canonical), Ok(Value::Timestamp(canonical.clone())));
                }
            }
        }
    }
}
