//! The comment at a statement's end. It names the statement's endpoint or request for a reader of the database's
//! statistics.
//!
//! The form is that of sqlcommenter (<https://google.github.io/sqlcommenter/spec/>): `/*key='value',…*/`, sorted by
//! key, with percent-encoded values. Pure. Comments are made at startup, and on the worker where they name a request.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Only RFC 3986's unreserved characters stay unencoded. So no value keeps a quote, a `*/`, a `$1` or a line's end, and
/// a comment is ASCII.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The most bytes of an encoded value; the rest is cut off. All six values then fit into 1,024 bytes, the default of
/// `track_activity_query_size`: `pg_stat_activity` shows no more of a statement.
const VALUE_BYTES_MAX: usize = 128;

/// The keys and values of a comment, in the order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comment(Vec<(&'static str, String)>);

impl Comment {
    /// A comment of these pairs. Empty values are left out.
    pub(super) fn new<'v>(pairs: impl IntoIterator<Item = (&'static str, &'v str)>) -> Self {
        let said = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let mut pairs: Vec<_> = said.map(|(key, value)| (key, encoded(value))).collect();
        pairs.sort_unstable_by_key(|(key, _)| *key);
        Self(pairs)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the comment, merged with `more` in the order of the keys.
    pub(super) fn write(&self, more: &Self, statement: &mut String) {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), more.0.iter().peekable());
        let mut before = " /*";
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (Some((our, _)), Some((their, _))) if their < our => theirs.next(),
                (Some(_), _) => ours.next(),
                (None, _) => theirs.next(),
            };
            let Some((key, value)) = next else { break };
            // Writing to a String cannot fail.
            let _ = write!(statement, "{before}{key}='{value}'");
            before = ",";
        }
        if before == "," {
            statement.push_str("*/");
        }
    }
}

/// The end of a statement's text to which a comment can be appended. The semicolon is left out: text behind it does not
/// belong to the statement, and `pg_stat_statements` does not look there.
pub(super) fn end(sql: &str) -> usize {
    sql.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace()).len()
}

/// Encodes a value and cuts it between two characters, so that the rest can be decoded.
fn encoded(value: &str) -> String {
    let mut encoded = String::new();
    for character in value.chars() {
        let start = encoded.len();
        let mut buffer = [0; 4];
        let character: Cow<'_, str> = utf8_percent_encode(character.encode_utf8(&mut buffer), ENCODED).into();
        encoded.push_str(&character);
        if encoded.len() > VALUE_BYTES_MAX {
            encoded.truncate(start);
            break;
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;

    fn text(comment: &Comment, more: &Comment) -> String {
        let mut text = "select 1".to_owned();
        comment.write(more, &mut text);
        text
    }

    #[test]
    fn a_comment_has_sqlcommenters_form_and_stands_at_the_end() {
        let comment = Comment::new([("route", "/flights/{id}"), ("method", "GET"), ("application", "wharf")]);
        let request = Comment::new([("traceparent", "00-1-2-01"), ("request_id", "7"), ("empty", "")]);
        assert_eq!(
            text(&comment, &Comment::default()),
            "select 1 /*application='wharf',method='GET',route='%2Fflights%2F%7Bid%7D'*/"
        );
        assert_eq!(
            text(&comment, &request),
            "select 1 /*application='wharf',method='GET',request_id='7',route='%2Fflights%2F%7Bid%7D',\
             traceparent='00-1-2-01'*/"
        );
        assert_eq!(
            text(&Comment::default(), &request),
            "select 1 /*request_id='7',traceparent='00-1-2-01'*/"
        );
        assert_eq!(text(&Comment::default(), &Comment::default()), "select 1");
    }

    #[test]
    fn the_longest_comment_fits_into_what_pg_stat_activity_shows() {
        let keys = ["application", "method", "request_id", "route", "statement", "traceparent"];
        let long = "é'".repeat(1000);
        let comment = Comment::new(keys.map(|key| (key, long.as_str())));
        let text = text(&comment, &Comment::default());
        assert!(text.len() < 1024 - 100, "{} bytes", text.len());
        assert!(text.contains("route='%C3%A9%27") && text.ends_with("%27'*/"), "{text}");
    }

    proptest! {
        #[test]
        fn no_value_breaks_out_and_each_can_be_read_back(
            values in prop::collection::vec(prop_oneof![any::<String>(), "[*/'\\\\%;$\n\u{0}-]{0,60}"], 1..4),
        ) {
            let keys = ["a", "b", "c"];
            let comment = Comment::new(keys.into_iter().zip(values.iter().map(String::as_str)));
            let mut whole = String::new();
            comment.write(&Comment::default(), &mut whole);
            let said: Vec<_> = keys.iter().zip(&values).filter(|(_, value)| !value.is_empty()).collect();
            prop_assert_eq!(whole.is_empty(), said.is_empty());
            let inside = whole.strip_prefix(" /*").and_then(|rest| rest.strip_suffix("*/")).unwrap_or_default();
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~%=',".contains(c);
            prop_assert!(inside.chars().all(allowed), "{}", inside);
            let read = inside.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
                let (key, value) = pair.split_once("='").expect("a key has a value");
                let value = value.strip_suffix('\'').expect("a value ends");
                (key, percent_decode_str(value).decode_utf8().expect("no character was cut"))
            });
            let read: Vec<_> = read.collect();
            prop_assert_eq!(read.len(), said.len());
            for ((key, value), (name, given)) in read.iter().zip(said) {
                prop_assert_eq!(key, name);
                prop_assert!(given.starts_with(&**value));
                prop_assert!(given == value || encoded(given).len() > VALUE_BYTES_MAX - 12);
            }
        }
    }
}
