//! The server's own account of a request's time: the header `Server-Timing` of its answer.
//!
//! Generator thread. <https://www.w3.org/TR/server-timing/>: metrics are separated by commas. Each is a name with
//! parameters, and the parameter `dur` is a time in milliseconds. The metrics that wharf sends are recognized by name;
//! others are skipped. Nothing is allocated.

/// The recognized metrics, in the order of a request's way.
pub(super) const PHASES: [&str; 4] = ["queue", "pool", "db", "render"];

/// An upper limit far above any real time, so that sums do not overflow.
const LONGEST_MS: f64 = 1e9;

/// The time of each phase in nanoseconds; 0 for a phase that is not named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerTiming(pub(super) [u64; PHASES.len()]);

impl ServerTiming {
    /// Adds the metrics of a header line, and returns whether it had any.
    pub(super) fn read(&mut self, value: &[u8]) -> bool {
        let mut known = false;
        for metric in (Pieces { rest: value, by: b',' }) {
            let mut parts = Pieces { rest: metric, by: b';' };
            let name = parts.next().unwrap_or_default();
            let Some(phase) = PHASES.iter().position(|phase| name.eq_ignore_ascii_case(phase.as_bytes()))
            else {
                continue;
            };
            // With several `dur` parameters the first one counts.
            if let Some(duration) = parts.find_map(duration) {
                self.0[phase] = self.0[phase].saturating_add(nanoseconds(duration));
                known = true;
            }
        }
        known
    }
}

/// The pieces between separators. A separator within quotes does not count.
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

/// The value of `dur=…`, which may be quoted.
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
    fn phases_are_read_in_any_order_and_other_metrics_are_skipped() {
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
    fn a_value_that_is_not_a_time_gives_none() {
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
