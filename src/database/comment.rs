//! The comment at a statement's end that tells whoever looks at the database which endpoint or request it is from.
//!
//! In the form of sqlcommenter (<https://google.github.io/sqlcommenter/spec/>): `/*key='value',…*/`, sorted by key, values
//! percent-encoded. Pure; made at startup, and on the worker where it names a request.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What stays as it is in a value: RFC 3986's unreserved characters. So no value has a quote, a `*/`, a `$1` or a line's end
/// left, and a comment is ASCII.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How long a value may be once it is encoded; more of it is cut off. The six that there are then fit into 1,024 bytes, which
/// is all that `pg_stat_activity` shows of a statement unless `track_activity_query_size` says otherwise.
const VALUE_BYTES_MAX: usize = 128;

/// What a comment says, in the order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comment(Vec<(&'static str, String)>);

impl Comment {
    /// Values that are empty say nothing, and are left out.
    pub(super) fn new<'v>(pairs: impl IntoIterator<Item = (&'static str, &'v str)>) -> Self {
        let said = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        let mut pairs: Vec<_> = said.map(|(key, value)| (key, encoded(value))).collect();
        pairs.sort_unstable_by_key(|(key, _)| *key);
        Self(pairs)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends it, with what `more` says at its place in between.
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

/// Up to where a statement without comments goes when one is to stand behind it: without its semicolon, behind which nothing
/// is part of the statement any more and `pg_stat_statements` does not look.
pub(super) fn end(sql: &str) -> usize {
    sql.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace()).len()
}

/// Cut between two characters, so that what is left can be decoded.
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
    fn it_is_sqlcommenters_sorted_encoded_and_at_the_end() {
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
    fn the_longest_comment_is_one_that_can_be_seen() {
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
