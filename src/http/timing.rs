//! Where a request's time went, as its answer says it: the header `Server-Timing` (<https://www.w3.org/TR/server-timing/>).

use std::time::Duration;

/// How long a request was in each phase before its answer's head went out.
/// In microseconds, so that a response is not much larger for it; more than an hour is an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing([u32; 4]);

impl Timing {
    /// The header's name.
    pub(crate) const HEADER: &str = "server-timing";

    /// The times of waiting for a worker and for a database connection, of statements, and of the handler otherwise.
    pub fn new(queue: Duration, pool: Duration, database: Duration, render: Duration) -> Self {
        let us = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        Self([queue, pool, database, render].map(us))
    }

    /// Appends the header's value: milliseconds with three decimals, by the names that `wharf load` knows.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        const NAMES: [&[u8]; 4] = [b"queue;dur=", b", pool;dur=", b", db;dur=", b", render;dur="];
        for (name, us) in NAMES.into_iter().zip(self.0) {
            out.extend_from_slice(name);
            thousandths(us.into(), out);
        }
    }
}

/// Appends a time in milliseconds, to the microsecond.
pub(crate) fn milliseconds(time: Duration, out: &mut Vec<u8>) {
    // No arithmetic of 128 bits, which takes longer than all the rest of this.
    thousandths(time.as_secs().saturating_mul(1_000_000).saturating_add(time.subsec_micros().into()), out);
}

/// Appends so many thousandths, with their three decimals.
fn thousandths(number: u64, out: &mut Vec<u8>) {
    if let Ok(number @ 0..10_000) = u16::try_from(number) {
        // Most are that short. Two digits at a time are half of the divisions, and a length that is known costs no call.
        let ([a, b], [c, d]) = (two_digits(number / 100), two_digits(number % 100));
        return out.extend_from_slice(&[a, b'.', b, c, d]);
    }
    out.extend_from_slice(itoa::Buffer::new().format(number / 1000).as_bytes());
    out.extend_from_slice(&decimals(number % 1000));
}

/// Of a number below 100.
fn two_digits(number: u16) -> [u8; 2] {
    const ALL: [[u8; 2]; 100] = {
        let mut all = [[0; 2]; 100];
        let mut number = 0;
        while number < 100 {
            all[number] = [b"0123456789"[number / 10], b"0123456789"[number % 10]];
            number += 1;
        }
        all
    };
    ALL[usize::from(number)]
}

/// So many thousandths, behind a point.
pub(crate) fn decimals(thousandths: u64) -> [u8; 4] {
    [b'.', digit(thousandths / 100), digit(thousandths / 10), digit(thousandths)]
}

/// The last digit.
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
    }
}
