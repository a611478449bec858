//! A request's line in the access log: in the form that web servers have always used, or as JSON.
//!
//! Text from a client is escaped, so that it cannot end its line and begin another one.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::{Entry, SHORT};
use crate::base::request_id::{RequestId, Trace, hex};
use crate::http::{Outline, Template, decimals, microseconds, milliseconds};
use crate::telemetry::metrics::{Phase, Reason};

/// The forms of the time in a JSON line, and in a combined one.
const JSON: &str = "%Y-%m-%dT%H:%M:%S";
const COMBINED: &str = "%d/%b/%Y:%H:%M:%S +0000";

/// The times of a request that a worker had.
const TIMED: Template<99, 6> = Template::new(
    b",\"total_ms\":0.000,\"queue_ms\":0.000,\"pool_ms\":0.000,\"db_ms\":0.000,\"render_ms\":0.000,\"write_ms\":0.000",
);
const TOTAL: Template<17, 1> = Template::new(b",\"total_ms\":0.000");

pub(super) struct Line<'a> {
    pub(super) entry: &'a Entry<'a>,
    /// Whether values of parameters may be shown.
    pub(super) parameters: bool,
}

impl Line<'_> {
    /// The combined form of Apache and nginx, followed by wharf's own fields: times in milliseconds.
    pub(super) fn combined(&self, out: &mut Vec<u8>, clock: &mut Clock) {
        let Entry { outline, client, request_id, status, bytes, ended, total, spans, endpoint, reason } =
            *self.entry;
        match client {
            Some(client) => address(client, out),
            None => out.push(b'-'),
        }
        out.extend_from_slice(b" - - [");
        clock.with_time(COMBINED, ended, |time, _| out.extend_from_slice(time));
        out.extend_from_slice(b"] ");
        quoted(out, outline.map(|outline| self.request_line(outline)).as_deref());
        write(out, format_args!(" {status} {bytes} "));
        quoted(out, outline.and_then(|outline| self.referer(outline)));
        out.push(b' ');
        quoted(out, outline.and_then(|outline| outline.user_agent()));
        out.extend_from_slice(b" total=");
        milliseconds(total, out);
        for (phase, name) in SHORT {
            write(out, format_args!(" {name}="));
            match spans {
                Some(spans) => milliseconds(spans.of(phase), out),
                None => out.push(b'-'),
            }
        }
        write(out, format_args!(" id={} trace=", request_id.map_or("-", RequestId::id)));
        match request_id.and_then(RequestId::known_trace) {
            Some(trace) => trace_id(trace, out),
            None => out.push(b'-'),
        }
        write(out, format_args!(" reason={} route=", reason.map_or("-", Reason::name)));
        quoted(out, endpoint.map(|endpoint| endpoint.route.as_bytes()));
        out.push(b'\n');
    }

    /// The line as a JSON object. Missing values are left out.
    pub(super) fn json(&self, out: &mut Vec<u8>, clock: &mut Clock) {
        let Entry { outline, client, request_id, status, bytes, ended, total, spans, endpoint, reason } =
            *self.entry;
        out.extend_from_slice(b"{\"time\":\"");
        clock.with_time(JSON, ended, |time, ms| {
            out.extend_from_slice(time);
            out.extend_from_slice(&decimals(ms.into()));
            out.extend_from_slice(b"Z\"");
        });
        if let Some(client) = client {
            out.extend_from_slice(b",\"client\":");
            in_quotes(out, |out| address(client, out));
        }
        let target = outline.map(|outline| outline.target(self.parameters));
        plain(out, b",\"method\":", outline.map(|outline| outline.method().as_bytes()));
        member(out, b",\"target\":", target.as_deref());
        plain(out, b",\"protocol\":", outline.map(|outline| outline.protocol().as_bytes()));
        out.extend_from_slice(b",\"status\":");
        out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        out.extend_from_slice(b",\"bytes\":");
        out.extend_from_slice(itoa::Buffer::new().format(bytes).as_bytes());
        member(out, b",\"referer\":", outline.and_then(|outline| self.referer(outline)));
        member(out, b",\"user_agent\":", outline.and_then(|outline| outline.user_agent()));
        match spans {
            Some(spans) => {
                let of = |phase| spans.of(phase);
                let [queue, pool, database] = [Phase::Queue, Phase::Pool, Phase::Database].map(of);
                let times = [total, queue, pool, database, of(Phase::Render), of(Phase::Write)];
                TIMED.write(times.map(microseconds), out);
            }
            None => TOTAL.write([microseconds(total)], out),
        }
        plain(out, b",\"request_id\":", request_id.map(RequestId::id_bytes));
        if let Some(trace) = request_id.and_then(RequestId::known_trace) {
            out.extend_from_slice(b",\"trace_id\":");
            in_quotes(out, |out| trace_id(trace, out));
        }
        member(out, b",\"route\":", endpoint.map(|endpoint| endpoint.route.as_bytes()));
        plain(out, b",\"reason\":", reason.map(|reason| reason.name().as_bytes()));
        out.extend_from_slice(b"}\n");
    }

    fn request_line(&self, outline: Outline<'_>) -> Vec<u8> {
        let (method, target) = (outline.method().as_bytes(), outline.target(self.parameters));
        [method, &target, outline.protocol().as_bytes()].join(&b' ')
    }

    /// The `Referer`, without its query unless values may be shown, because it may be a URL of this server.
    fn referer<'o>(&self, outline: Outline<'o>) -> Option<&'o [u8]> {
        let referer = outline.referer()?;
        let end = if self.parameters { None } else { memchr::memchr2(b'?', b'#', referer) };
        Some(&referer[..end.unwrap_or(referer.len())])
    }
}

fn write(out: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    // Writing into a vector cannot fail.
    drop(out.write_fmt(what));
}

/// Most addresses are short, and the formatting machinery takes several times as long as their digits.
fn address(client: IpAddr, out: &mut Vec<u8>) {
    let IpAddr::V4(client) = client else { return write(out, format_args!("{client}")) };
    for (index, part) in client.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        let digit = |number: u8| b'0' + number % 10;
        match part {
            100.. => out.extend_from_slice(&[digit(part / 100), digit(part / 10), digit(part)]),
            10.. => out.extend_from_slice(&[digit(part / 10), digit(part)]),
            _ => out.push(digit(part)),
        }
    }
}

fn in_quotes(out: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    text(out);
    out.push(b'"');
}

/// Quotes a text. Characters that could end the text or the line become `\xHH`, as in nginx's log. A missing text
/// becomes `-`.
fn quoted(out: &mut Vec<u8>, text: Option<&[u8]>) {
    in_quotes(out, |out| {
        for byte in text.unwrap_or(b"-") {
            match byte {
                b' '..=b'~' if !b"\"\\".contains(byte) => out.push(*byte),
                _ => write(out, format_args!("\\x{byte:02X}")),
            }
        }
    });
}

/// The 32 digits of a trace's id.
fn trace_id(trace: &Trace, out: &mut Vec<u8>) {
    let [high, low] = [trace.id() >> 64, trace.id() & u128::from(u64::MAX)];
    for half in [high, low] {
        // Half of 128 bits are 64.
        out.extend_from_slice(&hex(u64::try_from(half).unwrap_or_default()));
    }
}

/// Appends a member of an object after other members. If a key's length is known, appending it takes a few instructions
/// and no call.
#[inline]
fn member<const N: usize>(out: &mut Vec<u8>, key: &[u8; N], value: Option<&[u8]>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        string(out, value);
    }
}

/// Like `member`, with a text that needs no escapes: a method is a token (RFC 9110 section 9.1), and an id is checked.
#[inline]
fn plain<const N: usize>(out: &mut Vec<u8>, key: &[u8; N], value: Option<&[u8]>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        in_quotes(out, |out| out.extend_from_slice(value));
    }
}

/// Appends a JSON string. Invalid UTF-8 becomes the replacement character.
fn string(out: &mut Vec<u8>, text: &[u8]) {
    let escapes = |byte: u8| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\');
    // This checks all bytes instead of stopping at the first match, so that the processor checks several at a time.
    if text.iter().fold(false, |any, byte| any | escapes(*byte)) {
        // Writing into a vector cannot fail, and a text is always valid JSON.
        drop(serde_json::to_writer(out, &String::from_utf8_lossy(text)));
    } else {
        in_quotes(out, |out| out.extend_from_slice(text));
    }
}

/// The time of day, formatted once for all lines of a second. The system clock is read once a second too.
#[derive(Debug, Default)]
pub(super) struct Clock(Option<Second>);

impl Clock {
    /// Hands over that moment, formatted up to the second, and its milliseconds.
    fn with_time(&mut self, shape: &'static str, at: Instant, write: impl FnOnce(&[u8], u32)) {
        let Self(known) = self;
        if !known.as_ref().is_some_and(|second| second.has(at, shape)) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            *known = Second::of(at, now.saturating_sub(at.elapsed()), shape);
        }
        match known {
            Some(second) => write(second.text.as_bytes(), (at - second.begins).subsec_millis()),
            // `Instant`'s clock started less than a second ago.
            None => write(formatted(shape, 0).as_bytes(), 0),
        }
    }
}

/// One second of the day.
#[derive(Debug)]
struct Second {
    begins: Instant,
    shape: &'static str,
    text: String,
}

impl Second {
    /// The second of a moment. `since_1970` is the moment's distance from 1970.
    fn of(at: Instant, since_1970: Duration, shape: &'static str) -> Option<Self> {
        let begins = at.checked_sub(Duration::from_nanos(since_1970.subsec_nanos().into()))?;
        Some(Self { begins, shape, text: formatted(shape, since_1970.as_secs()) })
    }

    fn has(&self, at: Instant, shape: &'static str) -> bool {
        self.shape == shape && at >= self.begins && at - self.begins < Duration::from_secs(1)
    }
}

fn formatted(shape: &str, second: u64) -> String {
    let timestamp = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
    timestamp.unwrap_or(Timestamp::UNIX_EPOCH).strftime(shape).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::Entry;
    use super::*;
    use crate::http::{Limits, Request, parse_head};
    use crate::telemetry::metrics::{Metrics, Spans};

    fn request(head: &[u8]) -> Option<Request> {
        let limits = Limits { max_head_bytes: 9999, max_target_bytes: 999, max_headers: 9 };
        Some(parse_head(head, &limits).ok()?.request)
    }

    fn lines(head: &[u8], parameters: bool) -> Option<[String; 2]> {
        let request = request(head)?;
        let (metrics, mut spans) = (Metrics::default(), Spans::default());
        spans.set(Phase::Database, Duration::from_micros(1500));
        let entry = Entry {
            outline: Some(Outline::of(&request)),
            client: Some([192, 0, 2, 7].into()),
            request_id: None,
            status: 503,
            bytes: 12,
            ended: Instant::now(),
            total: Duration::from_micros(2001),
            spans: Some(&spans),
            endpoint: Some(&metrics.endpoint("GET", "/a/{b}")),
            reason: Some(Reason::Shed),
        };
        let line = Line { entry: &entry, parameters };
        let (mut combined, mut json) = (Vec::new(), Vec::new());
        line.combined(&mut combined, &mut Clock::default());
        line.json(&mut json, &mut Clock::default());
        Some([combined, json].map(|line| String::from_utf8(line).expect("ASCII or JSON")))
    }

    const HEAD: &[u8] = b"GET /a/1?secret=2 HTTP/1.1\r\nHost: a\r\nReferer: http://a/?secret=3\r\n\
        User-Agent: one \"two\" \\ \xff\r\n\r\n";

    #[test]
    fn a_line_has_the_usual_fields_and_the_phases() {
        let [combined, json] = lines(HEAD, false).expect("a good head");
        let (start, rest) = combined.split_once('[').expect("a time");
        assert_eq!(start, "192.0.2.7 - - ");
        let (time, rest) = rest.split_once("] ").expect("a time");
        assert!(time.ends_with(" +0000") && time.len() == 26, "{time}");
        let expected = "\"GET /a/1 HTTP/1.1\" 503 12 \"http://a/\" \"one \\x22two\\x22 \\x5C \\xFF\" total=2.001 \
            queue=0.000 pool=0.000 db=1.500 render=0.000 write=0.000 id=- trace=- reason=shed route=\"/a/{b}\"\n";
        assert_eq!(rest, expected);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&json["target"], &json["referer"]), (&"/a/1".into(), &"http://a/".into()));
        assert_eq!(json["user_agent"], "one \"two\" \\ \u{fffd}");
        assert_eq!((&json["db_ms"], &json["total_ms"]), (&1.5.into(), &2.001.into()));
        let time: Timestamp = json["time"].as_str().expect("a text").parse().expect("a time");
        assert!(Timestamp::now().duration_since(time).as_secs() < 60);
    }

    #[test]
    fn values_are_shown_if_the_configuration_asks_for_them() {
        for line in lines(HEAD, true).expect("a good head") {
            assert!(line.contains("/a/1?secret=2") && line.contains("http://a/?secret=3"), "{line}");
        }
    }

    #[test]
    fn a_request_that_was_not_read_has_empty_fields() {
        let entry = Entry {
            outline: None,
            client: None,
            request_id: None,
            status: 400,
            bytes: 0,
            ended: Instant::now(),
            total: Duration::ZERO,
            spans: None,
            endpoint: None,
            reason: Some(Reason::Malformed),
        };
        let line = Line { entry: &entry, parameters: false };
        let (mut combined, mut json) = (Vec::new(), Vec::new());
        line.combined(&mut combined, &mut Clock::default());
        line.json(&mut json, &mut Clock::default());
        let combined = String::from_utf8(combined).expect("ASCII");
        assert!(
            combined.starts_with("- - - [")
                && combined.contains("] \"-\" 400 0 \"-\" \"-\" total=0.000 queue=- ")
        );
        let json: Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!((&json["method"], &json["reason"]), (&Value::Null, &"malformed".into()));
    }

    #[test]
    fn a_formatted_second_is_used_until_the_next_begins() {
        let at = Instant::now() + Duration::from_secs(5);
        let shape = "%H:%M:%S";
        let second = Second::of(at, Duration::from_millis(7250), shape).expect("it is long enough ago");
        assert_eq!(second.text, "00:00:07");
        assert_eq!((at - second.begins).subsec_millis(), 250);
        let earlier = at.checked_sub(Duration::from_millis(500)).expect("it is long enough ago");
        for (ms, has) in [(0, false), (249, false), (250, true), (1249, true), (1250, false)] {
            assert_eq!(second.has(earlier + Duration::from_millis(ms), shape), has, "{ms}");
        }
        let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        let now = Instant::now();
        let (mut clock, mut told) = (Clock::default(), Vec::new());
        for shape in [JSON, JSON, COMBINED, JSON] {
            clock.with_time(shape, now, |text, ms| told.push((text.to_vec(), ms)));
        }
        let after = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
        assert!(told[0] == told[1] && told[0].0 != told[2].0, "{told:?}");
        // Another form asks the clock again, which may have gone on by then.
        for (text, ms) in [&told[0], &told[3]] {
            let text = format!("{}.{ms:03}Z", String::from_utf8_lossy(text));
            let time: Timestamp = text.parse().expect("a time");
            let ms = u128::try_from(time.as_millisecond()).expect("after 1970");
            assert!((before.saturating_sub(1)..=after).contains(&ms), "{text}");
        }
    }

    #[test]
    fn a_time_is_written_in_the_form_of_its_line() {
        assert_eq!(
            [JSON, COMBINED].map(|shape| formatted(shape, 86_400 * 366)),
            ["1971-01-02T00:00:00", "02/Jan/1971:00:00:00 +0000"]
        );
    }

    proptest! {
        #[test]
        fn no_client_writes_a_line_of_its_own(
            target in proptest::collection::vec(any::<u8>(), 0..20),
            value in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let head = [b"GET /", &target[..], b" HTTP/1.1\r\nHost: a\r\nUser-Agent: ", &value, b"\r\n\r\n"].concat();
            if let Some([combined, json]) = lines(&head, true) {
                prop_assert_eq!(combined.matches('\n').count(), 1);
                prop_assert!(combined.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
                prop_assert_eq!(combined.matches('"').count(), 8, "{}", combined);
                prop_assert_eq!(json.matches('\n').count(), 1);
                prop_assert!(serde_json::from_str::<Value>(&json).is_ok());
            }
        }
    }
}
