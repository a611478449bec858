//! The time that a request spent in each phase, as the header `Server-Timing` of its answer
//! (<https://www.w3.org/TR/server-timing/>).

use std::time::Duration;

/// How long a request was in each phase before the head of its answer was sent. In microseconds that fit into 32 bits,
/// so that a response stays small. More than an hour counts as an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing([u32; 4]);

impl Timing {
    /// The header's name.
    pub(crate) const HEADER: &str = "server-timing";

    /// The times of waiting for a worker, of waiting for a session, of statements, and of the rest of the handler.
    pub fn new(queue: Duration, pool: Duration, database: Duration, render: Duration) -> Self {
        let us = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        Self([queue, pool, database, render].map(us))
    }

    /// Appends the header's value: milliseconds with three decimals, under the names that `wharf load` knows.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        const ALL: Template<63, 4> =
            Template::new(b"queue;dur=0.000, pool;dur=0.000, db;dur=0.000, render;dur=0.000");
        ALL.write(self.0.map(u64::from), out);
    }
}

/// A text with times in milliseconds, each to the microsecond. Most times are below ten milliseconds. Then
/// writing is one copy of the text, with digits set at known places.
pub(crate) struct Template<const LENGTH: usize, const TIMES: usize> {
    text: [u8; LENGTH],
    /// The place of each time in the text.
    places: [usize; TIMES],
}

/// The placeholder of a time in the text.
const NONE: &[u8; 5] = b"0.000";

impl<const LENGTH: usize, const TIMES: usize> Template<LENGTH, TIMES> {
    /// A template from a text with `0.000` for each time and no other point.
    pub(crate) const fn new(text: &[u8; LENGTH]) -> Self {
        let (mut places, mut found, mut at) = ([0; TIMES], 0, 0);
        while at < LENGTH {
            if text[at] == b'.' {
                places[found] = at - 1;
                found += 1;
            }
            at += 1;
        }
        assert!(found == TIMES, "a place for each time");
        Self { text: *text, places }
    }

    /// Appends the text with these times in microseconds.
    pub(crate) fn write(&self, times: [u64; TIMES], out: &mut Vec<u8>) {
        if times.iter().all(|us| *us < 10_000) {
            let mut text = self.text;
            for (place, us) in self.places.into_iter().zip(times) {
                text[place..place + NONE.len()].copy_from_slice(&short(us));
            }
            return out.extend_from_slice(&text);
        }
        let mut from = 0;
        for (place, us) in self.places.into_iter().zip(times) {
            out.extend_from_slice(&self.text[from..place]);
            thousandths(us, out);
            from = place + NONE.len();
        }
        out.extend_from_slice(&self.text[from..]);
    }
}

/// The whole microseconds of a duration.
pub(crate) fn microseconds(time: Duration) -> u64 {
    // 128-bit arithmetic would take longer than the rest of this file's work.
    time.as_secs().saturating_mul(1_000_000).saturating_add(time.subsec_micros().into())
}

/// Appends a time in milliseconds, to the microsecond.
pub(crate) fn milliseconds(time: Duration, out: &mut Vec<u8>) {
    thousandths(microseconds(time), out);
}

/// Appends a number of thousandths, as a decimal number with three decimals.
fn thousandths(number: u64, out: &mut Vec<u8>) {
    if number < 10_000 {
        return out.extend_from_slice(&short(number));
    }
    out.extend_from_slice(itoa::Buffer::new().format(number / 1000).as_bytes());
    out.extend_from_slice(&decimals(number % 1000));
}

/// The digits of a number below ten thousand. Two digits at a time halve the number of divisions, and a known length
/// saves a call.
fn short(thousandths: u64) -> [u8; 5] {
    let ([a, b], [c, d]) = (two_digits(thousandths / 100), two_digits(thousandths % 100));
    [a, b'.', b, c, d]
}

/// The digits of a number below 100.
fn two_digits(number: u64) -> [u8; 2] {
    const ALL: [[u8; 2]; 100] = {
        let mut all = [[0; 2]; 100];
        let mut number = 0;
        while number < 100 {
            all[number] = [b"0123456789"[number / 10], b"0123456789"[number % 10]];
            number += 1;
        }
        all
    };
    ALL[(number % 100) as usize]
}

/// A number of thousandths below 1,000, as a point and three digits.
pub(crate) fn decimals(thousandths: u64) -> [u8; 4] {
    [b'.', digit(thousandths / 100), digit(thousandths / 10), digit(thousandths)]
}

/// The last digit of a number.
fn digit(number: u64) -> u8 {
    b"0123456789"[(number % 10) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_with_three_decimals() {
        let us = Duration::from_micros;
        let timing = Timing::new(us(120), us(10), us(1020), us(12_345_050));
        let mut out = Vec::new();
        timing.write(&mut out);
        let text = "queue;dur=0.120, pool;dur=0.010, db;dur=1.020, render;dur=12345.050";
        assert_eq!(String::from_utf8(out).expect("ASCII"), text);
        let timing = Timing::new(us(0), us(999), us(9999), us(1000));
        let mut out = Vec::new();
        timing.write(&mut out);
        let text = "queue;dur=0.000, pool;dur=0.999, db;dur=9.999, render;dur=1.000";
        assert_eq!(String::from_utf8(out).expect("ASCII"), text);
    }
}
