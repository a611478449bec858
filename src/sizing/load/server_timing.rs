//! Where a server says that a request's time went: the header `Server-Timing` of its answer.
//!
//! Generator thread. <https://www.w3.org/TR/server-timing/>: metrics apart by commas, each a name with parameters, of which `dur`
//! is a time in milliseconds. The metrics that wharf sends are known by their names, others are passed over; nothing is
//! allocated.

/// The metrics that are known, in the order in which a request meets them.
pub(super) const PHASES: [&str; 4] = ["queue", "pool", "db", "render"];

/// Longer than anything that a request waits for; it keeps sums from overflowing.
const LONGEST_MS: f64 = 1e9;

/// The time of each phase in nanoseconds. One that is not named took none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerTiming(pub(super) [u64; PHASES.len()]);

impl ServerTiming {
    /// Adds what a header line says; whether that is anything.
    pub(super) fn read(&mut self, value: &[u8]) -> bool {
        let mut known = false;
        for metric in (Pieces { rest: value, by: b',' }) {
            let mut parts = Pieces { rest: metric, by: b';' };
            let name = parts.next().unwrap_or_default();
            let Some(phase) = PHASES.iter().position(|phase| name.eq_ignore_ascii_case(phase.as_bytes()))
            else {
                continue;
            };
            // Of several the first one counts.
            if let Some(duration) = parts.find_map(duration) {
                self.0[phase] = self.0[phase].saturating_add(nanoseconds(duration));
                known = true;
            }
        }
        known
    }
}

/// What stands between separators, but for those within quotes.
struct Pieces<'b> {
    rest: &'b [u8],
    by: u8,
}

impl<'b> Iterator for Pieces<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        let end = self.rest.iter().position(|byte| {
            let was_escaped = std::mem::take(&mut escaped);
            match byte {
                b'\\' if quoted && !was_escaped => escaped = true,
                b'"' if !was_escaped => quoted = !quoted,
                _ => {}
            }
            *byte == self.by && !quoted
        });
        let (piece, rest) = match end {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &[][..]),
        };
        self.rest = rest;
        Some(piece.trim_ascii())
    }
}

/// The value of `dur=…`, which may stand in quotes.
fn duration(parameter: &[u8]) -> Option<f64> {
    let equals = parameter.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (parameter[..equals].trim_ascii(), parameter[equals + 1..].trim_ascii());
    if !name.eq_ignore_ascii_case(b"dur") {
        return None;
    }
    let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    let value: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (0.0..=LONGEST_MS).contains(&value).then_some(value)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 10^15")]
fn nanoseconds(ms: f64) -> u64 {
    (ms * 1e6).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<[f64; 4]> {
        let mut timing = ServerTiming::default();
        #[expect(clippy::cast_precision_loss, reason = "they are small")]
        timing.read(value.as_bytes()).then(|| timing.0.map(|ns| ns as f64 / 1e6))
    }

    #[test]
    fn phases_are_read_in_any_order_and_others_passed_over() {
        for (value, expected) in [
            ("queue;dur=1.2, pool;dur=0.3, db;dur=4.5, render;dur=0.1", Some([1.2, 0.3, 4.5, 0.1])),
            ("total;dur=9,db;dur=4", Some([0.0, 0.0, 4.0, 0.0])),
            ("DB ; desc=\"a, b; dur=7 \\\" ,\" ; Dur = \"4\"", Some([0.0, 0.0, 4.0, 0.0])),
            ("db;dur=1, db;dur=2", Some([0.0, 0.0, 3.0, 0.0])),
            ("db;dur=1;dur=2", Some([0.0, 0.0, 1.0, 0.0])),
            ("queue;dur=0", Some([0.0; 4])),
            (", ,queue;dur=1,", Some([1.0, 0.0, 0.0, 0.0])),
        ] {
            assert_eq!(read(value), expected, "{value}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for value in [
            "",
            ",",
            ";",
            "db",
            "db;dur",
            "db;dur=",
            "db;dur=x",
            "db;dur=-1",
            "db;dur=NaN",
            "db;dur=inf",
            "db;dur=1e99",
            "db;dur=\"1",
            "db;desc=dur",
            "dbx;dur=1",
            "db;\u{e9}=1",
            "cache;dur=2",
            "db;desc=\"dur=1",
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
