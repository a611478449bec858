//! The checks on a parameter's value beyond its type.
//!
//! Any thread. `config` verifies defaults at startup, and `endpoint` verifies values from clients.

use super::Checks;
use crate::base::value::{Mismatch, Value};

impl Checks {
    /// Verifies the value, or each item of an array. Null passes, because no check decides whether a parameter may be
    /// missing.
    ///
    /// Dates and timestamps are compared by their canonical text, and so by time. A timestamp without an offset counts
    /// as UTC.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(&self, value: &Value) -> Result<(), Mismatch> {
        let Value::Array(_, items) = value else {
            return self.verify_one(value);
        };
        if let Some(most) = self.max_items.filter(|most| items.len() > *most) {
            let received = format!("{} items", items.len());
            return Err(Mismatch { expected: format!("at most {most} items"), received });
        }
        items.iter().try_for_each(|item| self.verify_one(item))
    }

    fn verify_one(&self, value: &Value) -> Result<(), Mismatch> {
        match self.failed(value) {
            Some(expected) => Err(Mismatch::new(expected, &show(value))),
            None => Ok(()),
        }
    }

    /// The description of the accepted values, if the value fails a check.
    fn failed(&self, value: &Value) -> Option<String> {
        if *value == Value::Null {
            return None;
        }
        let length = length(value);
        let below = |min: &&Value| less(value, min);
        let above = |max: &&Value| less(max, value);
        if let Some(min) = self.min.as_ref().filter(below) {
            Some(format!("at least {}", show(min)))
        } else if let Some(max) = self.max.as_ref().filter(above) {
            Some(format!("at most {}", show(max)))
        } else if let Some(least) = self.min_len.filter(|least| length < *least) {
            Some(format!("a length of at least {least}"))
        } else if let Some(most) = self.max_len.filter(|most| length > *most) {
            Some(format!("a length of at most {most}"))
        } else if !self.one_of.is_empty() && !self.one_of.contains(value) {
            let accepted: Vec<_> = self.one_of.iter().map(show).collect();
            Some(format!("one of {}", accepted.join(", ")))
        } else {
            let pattern = self.pattern.as_ref()?;
            let matches = matches!(value, Value::Text(text) if pattern.is_match(text));
            (!matches).then(|| format!("text that matches {}", written(pattern)))
        }
    }

    /// The pattern, anchored so that the whole text must match.
    ///
    /// # Errors
    /// The regex-lite crate cannot read the regular expression.
    pub(super) fn whole(pattern: &str) -> Result<regex_lite::Regex, String> {
        // The pattern is compiled alone first. Otherwise `a)|(b` would become valid inside of the anchors' parentheses.
        let invalid = |error: regex_lite::Error| format!("not a regular expression: {error}");
        regex_lite::Regex::new(pattern).map_err(invalid)?;
        regex_lite::Regex::new(&format!("^(?:{pattern})$")).map_err(invalid)
    }
}

/// The pattern without its anchors.
fn written(pattern: &regex_lite::Regex) -> &str {
    let pattern = pattern.as_str();
    pattern.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(pattern)
}

/// The number of characters of a text, or of bytes.
fn length(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    }
}

/// Whether `a` comes before `b`. `false` for values without an order.
pub(super) fn less(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a < b,
        (Value::Float(a), Value::Float(b)) => a < b,
        (Value::Date(a), Value::Date(b)) => a < b,
        // `…:00.5Z` comes after `…:00Z`, but `.` sorts before `Z`.
        (Value::Timestamp(a), Value::Timestamp(b)) => a.trim_end_matches('Z') < b.trim_end_matches('Z'),
        _ => false,
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Value::Null => "null".to_owned(),
        Value::Array(_, items) => format!("{} items", items.len()),
        other => other.to_text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::value::Scalar;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn expected(checks: &Checks, value: &Value) -> String {
        checks.verify(value).expect_err("the check fails").expected
    }

    #[test]
    fn numbers_and_times_have_bounds() {
        let checks = Checks { min: Some(Value::Int(1)), max: Some(Value::Int(9)), ..Checks::default() };
        assert_eq!(checks.verify(&Value::Int(1)), Ok(()));
        assert_eq!(checks.verify(&Value::Int(9)), Ok(()));
        assert_eq!(expected(&checks, &Value::Int(0)), "at least 1");
        assert_eq!(expected(&checks, &Value::Int(10)), "at most 9");

        let time = |time: &str| Value::Timestamp(time.into());
        let max = Some(time("2013-01-01T00:00:00Z"));
        let checks = Checks { max, ..Checks::default() };
        assert_eq!(checks.verify(&time("2013-01-01T00:00:00Z")), Ok(()));
        assert_eq!(checks.verify(&time("2013-01-01T00:00:00")), Ok(()));
        assert_eq!(expected(&checks, &time("2013-01-01T00:00:00.5Z")), "at most 2013-01-01T00:00:00Z");
    }

    #[test]
    fn lengths_count_characters_of_text_and_bytes_of_bytes() {
        let checks = Checks { min_len: Some(2), max_len: Some(3), ..Checks::default() };
        assert_eq!(checks.verify(&text("éé")), Ok(()));
        assert_eq!(expected(&checks, &text("é")), "a length of at least 2");
        assert_eq!(expected(&checks, &Value::Bytes(vec![0; 4])), "a length of at most 3");
    }

    #[test]
    fn a_pattern_matches_the_whole_text() {
        let pattern = Checks::whole("[A-Z]{3}|[A-Z]{2}").expect("a regular expression");
        let checks = Checks { pattern: Some(pattern), ..Checks::default() };
        assert_eq!(checks.verify(&text("JFK")), Ok(()));
        for wrong in ["JF1", "XJFK", "JFKX", "JFK\n", ""] {
            assert_eq!(expected(&checks, &text(wrong)), "text that matches [A-Z]{3}|[A-Z]{2}");
        }
        assert!(Checks::whole("a)|(b").is_err());
    }

    #[test]
    fn arrays_are_checked_item_by_item() {
        let one_of = vec![text("a"), text("b")];
        let checks = Checks { max_items: Some(2), one_of, ..Checks::default() };
        let array =
            |items: &[&str]| Value::Array(Scalar::Text, items.iter().map(|item| text(item)).collect());
        assert_eq!(checks.verify(&array(&["a", "b"])), Ok(()));
        assert_eq!(checks.verify(&Value::Null), Ok(()));
        assert_eq!(expected(&checks, &array(&["a", "c"])), "one of a, b");
        let mismatch = checks.verify(&array(&["a"; 3])).expect_err("three items");
        assert_eq!(mismatch.to_string(), "expected at most 2 items, received 3 items");
    }
}
