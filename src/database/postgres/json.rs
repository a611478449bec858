//! A column's value in PostgreSQL's binary form → JSON bytes.
//!
//! Worker thread, pure. The encoders of a statement's columns are chosen once, when it is prepared ([`Encoder::of`]). A
//! row then costs one `match` for each value, and allocates only room in the output. The binary forms are those of the
//! `*_send` functions in PostgreSQL's `src/backend/utils/adt`. The text is that of `to_json`, with `Z` for UTC.

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio_postgres::types::{Kind, Type};

use super::super::json::{write_base64, write_bytes_as_text, write_f32, write_f64, write_int, write_string};

/// The encoder of one column's values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Encoder {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Text,
    Char,
    Json,
    Jsonb,
    Bytea,
    Uuid,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Interval,
    Inet,
    Cidr,
    MacAddr,
    Bits,
    Void,
    Array(Box<Encoder>),
    Range(Box<Encoder>),
}

/// The bytes do not have their type's binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

type Written = Result<(), Malformed>;

impl Encoder {
    /// The encoder of a type; `None` when it has no JSON form here.
    pub(super) fn of(kind: &Type) -> Option<Self> {
        Some(match *kind {
            Type::BOOL => Self::Bool,
            Type::INT2 => Self::Int2,
            Type::INT4 => Self::Int4,
            Type::INT8 => Self::Int8,
            Type::OID => Self::Oid,
            Type::FLOAT4 => Self::Float4,
            Type::FLOAT8 => Self::Float8,
            Type::NUMERIC => Self::Numeric,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::XML | Type::UNKNOWN => Self::Text,
            Type::CHAR => Self::Char,
            Type::JSON => Self::Json,
            Type::JSONB => Self::Jsonb,
            Type::BYTEA => Self::Bytea,
            Type::UUID => Self::Uuid,
            Type::DATE => Self::Date,
            Type::TIME => Self::Time,
            Type::TIMETZ => Self::TimeTz,
            Type::TIMESTAMP => Self::Timestamp,
            Type::TIMESTAMPTZ => Self::TimestampTz,
            Type::INTERVAL => Self::Interval,
            Type::INET => Self::Inet,
            Type::CIDR => Self::Cidr,
            Type::MACADDR | Type::MACADDR8 => Self::MacAddr,
            Type::BIT | Type::VARBIT => Self::Bits,
            Type::VOID => Self::Void,
            _ => return Self::of_derived(kind),
        })
    }

    fn of_derived(kind: &Type) -> Option<Self> {
        match kind.kind() {
            Kind::Enum(_) => Some(Self::Text),
            Kind::Domain(base) => Self::of(base),
            Kind::Array(item) => Self::of(item).map(|item| Self::Array(Box::new(item))),
            Kind::Range(item) => {
                Self::of(item).filter(Self::is_range_item).map(|item| Self::Range(Box::new(item)))
            }
            Kind::Simple if kind.name() == "citext" => Some(Self::Text),
            _ => None,
        }
    }

    /// Whether an item's text needs quoting in a range at most for its spaces.
    fn is_range_item(&self) -> bool {
        matches!(
            self,
            Self::Int2
                | Self::Int4
                | Self::Int8
                | Self::Float8
                | Self::Numeric
                | Self::Date
                | Self::Time
                | Self::Timestamp
                | Self::TimestampTz
        )
    }

    /// Appends one value, `None` being null.
    pub(super) fn write(&self, out: &mut Vec<u8>, raw: Option<&[u8]>) -> Written {
        let Some(raw) = raw else {
            out.extend_from_slice(b"null");
            return Ok(());
        };
        let mut raw = Reader(raw);
        match self {
            Self::Bool => out.extend_from_slice(if raw.array::<1>()? == [0] { b"false" } else { b"true" }),
            Self::Int2 => write_int(out, i16::from_be_bytes(raw.array()?)),
            Self::Int4 => write_int(out, raw.i32()?),
            Self::Int8 => write_int(out, raw.i64()?),
            Self::Oid => write_int(out, u32::from_be_bytes(raw.array()?)),
            Self::Float4 => write_f32(out, f32::from_be_bytes(raw.array()?)),
            Self::Float8 => write_f64(out, f64::from_be_bytes(raw.array()?)),
            Self::Numeric => write_numeric(out, &mut raw)?,
            Self::Text => write_bytes_as_text(out, raw.rest()),
            Self::Char => write_char(out, raw.array()?),
            Self::Json => out.extend_from_slice(raw.rest()),
            Self::Jsonb => write_jsonb(out, &mut raw)?,
            Self::Bytea => write_base64(out, raw.rest()),
            Self::Void => out.extend_from_slice(b"null"),
            Self::Array(item) => write_array(out, &mut raw, item)?,
            _ => {
                out.push(b'"');
                self.write_quoted(out, &mut raw)?;
                out.push(b'"');
            }
        }
        Ok(())
    }

    /// The types whose JSON form is a string that needs no escapes.
    fn write_quoted(&self, out: &mut Vec<u8>, raw: &mut Reader<'_>) -> Written {
        match self {
            Self::Uuid => write_uuid(out, raw.array()?),
            Self::Date => write_date(out, raw.i32()?),
            Self::Time => write_time(out, raw.i64()?),
            Self::TimeTz => {
                write_time(out, raw.i64()?);
                write_offset(out, raw.i32()?);
            }
            Self::Timestamp => write_timestamp(out, raw.i64()?, b'T', b""),
            Self::TimestampTz => write_timestamp(out, raw.i64()?, b'T', b"Z"),
            Self::Interval => write_interval(out, raw)?,
            Self::Inet | Self::Cidr => write_network(out, raw)?,
            Self::MacAddr => write_mac(out, raw.rest()),
            Self::Bits => write_bits(out, raw)?,
            Self::Range(item) => write_range(out, raw, item)?,
            _ => return Err(Malformed),
        }
        Ok(())
    }
}

/// Big-endian fields off the front of a value.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*field)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(field)
    }

    fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.i32()?).map_err(|_| Malformed)
    }

    /// A value with its length before it; -1 is null.
    fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32()? {
            -1 => Ok(None),
            length => self.bytes(usize::try_from(length).map_err(|_| Malformed)?).map(Some),
        }
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

fn write_padded(out: &mut Vec<u8>, value: impl itoa::Integer, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

/// Digits to the base 10,000, the first worth 10,000^weight; `scale` decimals are shown (`numeric_send`).
fn write_numeric(out: &mut Vec<u8>, raw: &mut Reader<'_>) -> Written {
    let count = usize::try_from(raw.i16()?).map_err(|_| Malformed)?;
    let weight = raw.i16()?;
    let sign = raw.array()?;
    let scale = usize::try_from(raw.i16()?).map_err(|_| Malformed)?;
    match u16::from_be_bytes(sign) {
        0x0000 => {}
        0x4000 => out.push(b'-'),
        special => {
            write_string(out, special_numeric(special).ok_or(Malformed)?);
            return Ok(());
        }
    }
    let digits = raw.bytes(count * 2)?;
    let digit = |place: i32| {
        let at = usize::try_from(place).ok().map(|place| place * 2);
        at.and_then(|at| digits.get(at..at + 2)).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
    };
    let weight = i32::from(weight);
    write_int(out, if weight < 0 { 0 } else { digit(0) });
    for place in 1..=weight {
        write_padded(out, digit(place), 4);
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + scale;
        for place in weight + 1.. {
            write_padded(out, digit(place), 4);
            if out.len() >= end {
                break;
            }
        }
        out.truncate(end);
    }
    Ok(())
}

fn special_numeric(sign: u16) -> Option<&'static str> {
    match sign {
        0xC000 => Some("NaN"),
        0xD000 => Some("Infinity"),
        0xF000 => Some("-Infinity"),
        _ => None,
    }
}

/// Writes a `"char"`: one byte, which need not be a character. 0 is the empty text; high bytes are octal (`charout`).
fn write_char(out: &mut Vec<u8>, [byte]: [u8; 1]) {
    match byte {
        0 => out.extend_from_slice(b"\"\""),
        1..0x80 => write_bytes_as_text(out, &[byte]),
        _ => write_string(out, &format!("\\{byte:03o}")),
    }
}

fn write_jsonb(out: &mut Vec<u8>, raw: &mut Reader<'_>) -> Written {
    if raw.array()? != [1] {
        return Err(Malformed);
    }
    out.extend_from_slice(raw.rest());
    Ok(())
}

fn write_uuid(out: &mut Vec<u8>, uuid: [u8; 16]) {
    for (index, byte) in uuid.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        write_hex(out, byte);
    }
}

fn write_hex(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(HEX[usize::from(byte >> 4)]);
    out.push(HEX[usize::from(byte & 15)]);
}

fn write_mac(out: &mut Vec<u8>, bytes: &[u8]) {
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 {
            out.push(b':');
        }
        write_hex(out, *byte);
    }
}

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// The year (0 is 1 BC), month and day of a day counted from 2000-01-01, in the proleptic Gregorian calendar. After
/// Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`: years start in March, and eras have 400
/// years.
fn civil(days_since_2000: i64) -> (i64, i64, i64) {
    const FROM_0000_03_01_TO_2000_01_01: i64 = 730_425;
    const DAYS_PER_ERA: i64 = 146_097;
    let days = days_since_2000 + FROM_0000_03_01_TO_2000_01_01;
    let (era, day) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_month)
}

/// Writes `YYYY-MM-DD`. Returns whether the year is before Christ; that mark stands behind everything else.
fn write_civil(out: &mut Vec<u8>, days: i64) -> bool {
    let (year, month, day) = civil(days);
    write_padded(out, if year > 0 { year } else { 1 - year }, 4);
    out.push(b'-');
    write_padded(out, month, 2);
    out.push(b'-');
    write_padded(out, day, 2);
    year <= 0
}

fn write_date(out: &mut Vec<u8>, days: i32) {
    match days {
        i32::MAX => out.extend_from_slice(b"infinity"),
        i32::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            if write_civil(out, days.into()) {
                out.extend_from_slice(b" BC");
            }
        }
    }
}

fn write_timestamp(out: &mut Vec<u8>, micros: i64, between: u8, zone: &[u8]) {
    match micros {
        i64::MAX => out.extend_from_slice(b"infinity"),
        i64::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            let before_christ = write_civil(out, micros.div_euclid(MICROS_PER_DAY));
            out.push(between);
            write_time(out, micros.rem_euclid(MICROS_PER_DAY));
            out.extend_from_slice(zone);
            if before_christ {
                out.extend_from_slice(b" BC");
            }
        }
    }
}

/// `hh:mm:ss[.ffffff]`, the fraction without trailing zeros; the hours of an interval may have more digits.
fn write_time(out: &mut Vec<u8>, micros: i64) {
    let (seconds, fraction) = (micros / MICROS_PER_SECOND, micros % MICROS_PER_SECOND);
    write_padded(out, seconds / 3600, 2);
    out.push(b':');
    write_padded(out, seconds / 60 % 60, 2);
    out.push(b':');
    write_padded(out, seconds % 60, 2);
    if fraction != 0 {
        out.push(b'.');
        write_padded(out, fraction, 6);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// The zone of a `timetz`, which PostgreSQL keeps in seconds west of Greenwich: `+hh[:mm[:ss]]`.
fn write_offset(out: &mut Vec<u8>, seconds_west: i32) {
    out.push(if seconds_west > 0 { b'-' } else { b'+' });
    let seconds = seconds_west.unsigned_abs();
    write_padded(out, seconds / 3600, 2);
    if !seconds.is_multiple_of(3600) {
        out.push(b':');
        write_padded(out, seconds / 60 % 60, 2);
    }
    if !seconds.is_multiple_of(60) {
        out.push(b':');
        write_padded(out, seconds % 60, 2);
    }
}

/// `1 year 2 mons 3 days 04:05:06.7`, the `postgres` interval style (`EncodeInterval`): a part after a negative one
/// shows its plus.
fn write_interval(out: &mut Vec<u8>, raw: &mut Reader<'_>) -> Written {
    let (micros, days, months) = (raw.i64()?, raw.i32()?, raw.i32()?);
    let start = out.len();
    let mut after_negative = false;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value != 0 {
            let gap = if out.len() == start { "" } else { " " };
            let plus = if after_negative && value > 0 { "+" } else { "" };
            let plural = if value == 1 { "" } else { "s" };
            write!(out, "{gap}{plus}{value} {unit}{plural}").expect("a Vec takes every write");
            after_negative = value < 0;
        }
    }
    let alone = out.len() == start;
    if alone || micros != 0 {
        if !alone {
            out.push(b' ');
        }
        if micros < 0 {
            out.push(b'-');
        } else if after_negative {
            out.push(b'+');
        }
        let magnitude = micros.checked_abs().ok_or(Malformed)?;
        write_time(out, magnitude);
    }
    Ok(())
}

/// Family, prefix length, whether it is a `cidr`, the address's bytes (`network_send`).
fn write_network(out: &mut Vec<u8>, raw: &mut Reader<'_>) -> Written {
    let [_family, prefix, is_cidr, _length] = raw.array()?;
    let address = raw.rest();
    let full = if let Ok(v4) = <[u8; 4]>::try_from(address) {
        write!(out, "{}", Ipv4Addr::from(v4)).expect("a Vec takes every write");
        32
    } else {
        let v6 = <[u8; 16]>::try_from(address).map_err(|_| Malformed)?;
        write_ipv6(out, Ipv6Addr::from(v6));
        128
    };
    if is_cidr != 0 || prefix != full {
        out.push(b'/');
        write_int(out, prefix);
    }
    Ok(())
}

/// Writes an IPv6 address as Rust does, except for IPv4-compatible addresses: PostgreSQL shows their tail dotted.
fn write_ipv6(out: &mut Vec<u8>, address: Ipv6Addr) {
    let parts = address.segments();
    let written = if parts[..6] == [0; 6] && parts[6] != 0 {
        let [a, b] = parts[6].to_be_bytes();
        let [c, d] = parts[7].to_be_bytes();
        write!(out, "::{a}.{b}.{c}.{d}")
    } else {
        write!(out, "{address}")
    };
    written.expect("a Vec takes every write");
}

fn write_bits(out: &mut Vec<u8>, raw: &mut Reader<'_>) -> Written {
    let count = raw.length()?;
    let bytes = raw.rest();
    if count > bytes.len() * 8 {
        return Err(Malformed);
    }
    out.extend((0..count).map(|bit| b'0' + (bytes[bit / 8] >> (7 - bit % 8) & 1)));
    Ok(())
}

/// Dimensions, a flag, the items' type, each dimension's length and lower bound, then the items (`array_send`).
fn write_array(out: &mut Vec<u8>, raw: &mut Reader<'_>, item: &Encoder) -> Written {
    const DIMENSIONS_MAX: usize = 6; // PostgreSQL's MAXDIM
    let dimensions = raw.length()?;
    raw.array::<8>()?;
    let mut lengths = [0; DIMENSIONS_MAX];
    for length in lengths.get_mut(..dimensions).ok_or(Malformed)? {
        // PostgreSQL sends an empty array without dimensions; one of length 0 would make an item of no bytes.
        *length = raw.length().and_then(|length| if length == 0 { Err(Malformed) } else { Ok(length) })?;
        raw.array::<4>()?;
    }
    write_items(out, raw, item, &lengths[..dimensions])
}

fn write_items(out: &mut Vec<u8>, raw: &mut Reader<'_>, item: &Encoder, lengths: &[usize]) -> Written {
    let Some((length, inner)) = lengths.split_first() else {
        out.extend_from_slice(b"[]");
        return Ok(());
    };
    out.push(b'[');
    for index in 0..*length {
        if index > 0 {
            out.push(b',');
        }
        if inner.is_empty() {
            item.write(out, raw.value()?)?;
        } else {
            write_items(out, raw, item, inner)?;
        }
    }
    out.push(b']');
    Ok(())
}

/// Flags, then the finite bounds with their lengths (`range_send`). The text is that of `range_out`: a bound with a
/// space stands in double quotes, which JSON escapes.
fn write_range(out: &mut Vec<u8>, raw: &mut Reader<'_>, item: &Encoder) -> Written {
    const EMPTY: u8 = 1;
    const LOWER_INCLUSIVE: u8 = 2;
    const UPPER_INCLUSIVE: u8 = 4;
    const LOWER_INFINITE: u8 = 8;
    const UPPER_INFINITE: u8 = 16;
    let [flags] = raw.array()?;
    if flags & EMPTY != 0 {
        out.extend_from_slice(b"empty");
        return Ok(());
    }
    out.push(if flags & LOWER_INCLUSIVE != 0 { b'[' } else { b'(' });
    if flags & LOWER_INFINITE == 0 {
        write_bound(out, raw.value()?, item)?;
    }
    out.push(b',');
    if flags & UPPER_INFINITE == 0 {
        write_bound(out, raw.value()?, item)?;
    }
    out.push(if flags & UPPER_INCLUSIVE != 0 { b']' } else { b')' });
    Ok(())
}

fn write_bound(out: &mut Vec<u8>, raw: Option<&[u8]>, item: &Encoder) -> Written {
    let mut raw = Reader(raw.ok_or(Malformed)?);
    let start = out.len();
    match item {
        Encoder::Timestamp => write_timestamp(out, raw.i64()?, b' ', b""),
        Encoder::TimestampTz => write_timestamp(out, raw.i64()?, b' ', b"+00"),
        Encoder::Date | Encoder::Time => item.write_quoted(out, &mut raw)?,
        _ => {
            item.write(out, Some(raw.rest()))?;
            // A number's NaN and infinity are JSON strings, but in a range they have no quotes.
            if out[start] == b'"' {
                out.remove(start);
                out.pop();
            }
        }
    }
    if out[start..].contains(&b' ') {
        out.splice(start..start, *b"\\\"");
        out.extend_from_slice(b"\\\"");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_cut_short_are_refused_not_read_past() {
        for encoder in [Encoder::Int4, Encoder::Numeric, Encoder::Interval, Encoder::Inet, Encoder::Bits] {
            assert_eq!(encoder.write(&mut Vec::new(), Some(&[0, 1])), Err(Malformed), "{encoder:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_an_encoder_panic(bytes: Vec<u8>) {
            let simple = [
                Encoder::Numeric, Encoder::Char, Encoder::Jsonb, Encoder::Date, Encoder::Time, Encoder::TimeTz,
                Encoder::Timestamp, Encoder::Interval, Encoder::Inet, Encoder::Bits,
                Encoder::Array(Box::new(Encoder::Int4)), Encoder::Range(Box::new(Encoder::Numeric)),
            ];
            for encoder in simple {
                let _decoded_or_refused = encoder.write(&mut Vec::new(), Some(&bytes));
            }
        }

        #[test]
        fn the_calendar_agrees_with_jiff(days in -300_000_i64..2_900_000) {
            let date = jiff::civil::date(2000, 1, 1) + jiff::Span::new().days(days);
            let (year, month, day) = civil(days);
            prop_assert_eq!((i64::from(date.year()), i64::from(date.month()), i64::from(date.day())), (year, month, day));
        }
    }
}
