//! A single setting as written in the file, an environment variable or a flag, and its conversions to a number in a
//! range, a time, a size or a switch.
//!
//! Main thread. Knows units and ranges, not keys.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// The environment variables by name. The caller hands them in, because the library reads no global state.
pub type Environment = BTreeMap<String, String>;

/// One value as written. The error of a conversion says what came and what is accepted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Setting {
    Text(String),
    /// A text in which `${NAME}` was replaced, a variable or a flag. It may also mean a number or a switch.
    Expanded(String),
    Integer(i64),
    Float(f64),
    Flag(bool),
    List(Vec<Setting>),
    /// A value that is never a setting: a date or a table. The text names it.
    Other(&'static str),
}

impl Setting {
    pub(super) fn text(self) -> Result<String, String> {
        match self {
            Self::Text(text) | Self::Expanded(text) => Ok(text),
            other => Err(other.is_not("a string")),
        }
    }

    /// One word of a list.
    pub(super) fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Result<T, String> {
        let words = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let text = self.text().map_err(|_| format!("expected one of {words}"))?;
        let choice = choices.iter().find(|(word, _)| *word == text);
        choice.map(|(_, choice)| *choice).ok_or_else(|| format!("{text:?} is none of {words}"))
    }

    pub(super) fn flag(self) -> Result<bool, String> {
        match self {
            Self::Flag(flag) => Ok(flag),
            Self::Expanded(text) if text == "true" || text == "false" => Ok(text == "true"),
            other => Err(other.is_not("true or false")),
        }
    }

    pub(super) fn integer(self) -> Result<i64, String> {
        match self {
            Self::Integer(number) => Ok(number),
            Self::Expanded(text) => text.parse().map_err(|_| Self::Expanded(text).is_not("an integer")),
            other => Err(other.is_not("an integer")),
        }
    }

    pub(super) fn count<T>(self, range: &RangeInclusive<T>) -> Result<T, String>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let number = self.integer()?;
        let count = T::try_from(number).ok().filter(|count| range.contains(count));
        count
            .ok_or_else(|| format!("{number} is out of range; expected {} to {}", range.start(), range.end()))
    }

    pub(super) fn time(self, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
        let accepted = "a time such as \"500ms\", \"30s\", \"5m\" or \"1h\"";
        let text = self.text().map_err(|_| format!("expected {accepted}"))?;
        let time = parse_time(&text).ok_or_else(|| format!("{text:?} is not {accepted}"))?;
        let (least, most) = (show_time(*range.start()), show_time(*range.end()));
        let out = || format!("{text:?} is out of range; expected {least} to {most}");
        range.contains(&time).then_some(time).ok_or_else(out)
    }

    pub(super) fn bytes(self, range: &RangeInclusive<usize>) -> Result<usize, String> {
        let accepted = "a number of bytes or a text such as \"64KiB\" or \"1MiB\"";
        let bytes = match &self {
            Self::Integer(number) => usize::try_from(*number).ok(),
            Self::Text(text) | Self::Expanded(text) => parse_bytes(text),
            _ => None,
        };
        let bytes = bytes.ok_or_else(|| self.is_not(accepted))?;
        let (least, most) = (show_bytes(*range.start()), show_bytes(*range.end()));
        let out = || format!("{} is out of range; expected {least} to {most}", show_bytes(bytes));
        range.contains(&bytes).then_some(bytes).ok_or_else(out)
    }

    /// Several texts: an array, or one text with commas, which is all that a variable can hold. No text is empty, but
    /// the list may be: a variable says so with an empty text.
    pub(super) fn texts(self, accepted: &str) -> Result<Vec<String>, String> {
        let items = match self {
            Self::List(items) => items,
            Self::Text(text) | Self::Expanded(text) if text.trim().is_empty() => Vec::new(),
            Self::Text(text) | Self::Expanded(text) => {
                text.split(',').map(|part| Self::Text(part.to_owned())).collect()
            }
            other => return Err(format!("expected {accepted}, not {}", other.shown())),
        };
        let text = |item: Self| match item {
            Self::Text(text) | Self::Expanded(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            other => Err(format!("the list has {}; expected {accepted}", other.shown())),
        };
        items.into_iter().map(text).collect()
    }

    /// Any type that can be read from text.
    pub(super) fn parse<T: FromStr>(self, accepted: &str) -> Result<T, String> {
        let text = self.text().map_err(|_| format!("expected {accepted}"))?;
        text.parse().map_err(|_| format!("{text:?} is not {accepted}"))
    }

    /// The message for a setting other than `accepted`.
    pub(super) fn is_not(&self, accepted: &str) -> String {
        match self {
            Self::List(_) | Self::Other(_) => format!("expected {accepted}, not {}", self.shown()),
            _ => format!("{} is not {accepted}", self.shown()),
        }
    }

    /// The value, for a message.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) | Self::Expanded(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::List(_) => "an array".to_owned(),
            Self::Other(kind) => (*kind).to_owned(),
        }
    }
}

/// Replaces `${NAME}` and `${NAME:-default}` with values from the environment. `$${` means a literal `${`. As in a
/// shell, the default also replaces an empty variable. `None`: there was nothing to replace.
pub(super) fn expand(text: &str, environment: &Environment) -> Result<Option<String>, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            expanded.push_str(&rest[..start]);
            expanded.push('{');
            rest = &rest[start + 2..];
            continue;
        }
        expanded.push_str(&rest[..start]);
        let (inside, after) = rest[start + 2..]
            .split_once('}')
            .ok_or("`${` has no `}`; write `$${` where `${` itself is meant")?;
        expanded.push_str(variable(inside, environment)?);
        rest = after;
    }
    Ok((rest.len() < text.len()).then(|| expanded + rest))
}

fn variable<'a>(inside: &'a str, environment: &'a Environment) -> Result<&'a str, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let set = environment.get(name).map(String::as_str);
    match (set, default) {
        (None | Some(""), Some(default)) => Ok(default),
        (Some(set), _) => Ok(set),
        (None, None) => Err(format!(
            "the environment variable {name} is not set; `${{{name}:-default}}` gives it a default"
        )),
    }
}

const TIMES: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

const SIZES: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a time such as `500ms`, `30s`, `5m` or `1h`. `None`: the text is no time.
pub fn parse_time(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let (_, factor) = TIMES.into_iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(factor).map(Duration::from_millis)
}

fn parse_bytes(text: &str) -> Option<usize> {
    let (number, unit) = split_unit(text).unwrap_or((text, "B"));
    let (_, factor) = SIZES.into_iter().find(|(name, _)| *name == unit)?;
    number.parse::<usize>().ok()?.checked_mul(factor)
}

fn split_unit(text: &str) -> Option<(&str, &str)> {
    text.find(|char: char| !char.is_ascii_digit()).map(|at| text.split_at(at))
}

/// A time in the largest unit that needs no fraction.
pub(super) fn show_time(time: Duration) -> String {
    let ms = time.as_millis();
    let whole = |(_, factor): &(&str, u64)| ms > 0 && ms.is_multiple_of(u128::from(*factor));
    let (unit, factor) = TIMES.into_iter().find(whole).unwrap_or(("s", 1000));
    format!("{}{unit}", ms / u128::from(factor))
}

/// A size in the largest unit that needs no fraction.
pub(super) fn show_bytes(bytes: usize) -> String {
    let whole = |(_, factor): &(&str, usize)| bytes > 0 && bytes.is_multiple_of(*factor);
    let (unit, factor) = SIZES.into_iter().find(whole).unwrap_or(("B", 1));
    format!("{}{unit}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Setting {
        Setting::Text(text.into())
    }

    #[test]
    fn times_have_units_and_ranges() {
        let range = Duration::from_millis(1)..=Duration::from_secs(3600);
        for (written, ms) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000)] {
            assert_eq!(text(written).time(&range), Ok(Duration::from_millis(ms)));
            assert_eq!(show_time(Duration::from_millis(ms)), written);
        }
        for wrong in ["", "s", "5", "5 s", "-5s", "1.5s", "5d", "5S", "99999999999999999999s", "é"] {
            let message = text(wrong).time(&range).expect_err(wrong);
            assert!(message.contains("is not a time such as"), "{message}");
        }
        let message = text("61m").time(&range).expect_err("more than an hour");
        assert_eq!(message, "\"61m\" is out of range; expected 1ms to 1h");
        assert!(text("0s").time(&range).is_err());
        assert!(Setting::Integer(5).time(&range).is_err());
        assert!(text("18446744073709551615h").time(&range).is_err());
    }

    #[test]
    fn sizes_are_integers_or_have_binary_units() {
        let range = 1..=1 << 30;
        for (written, bytes) in [("100B", 100), ("64KiB", 65_536), ("1MiB", 1 << 20)] {
            assert_eq!(text(written).bytes(&range), Ok(bytes));
            assert_eq!(show_bytes(bytes), written);
        }
        assert_eq!(Setting::Integer(100).bytes(&range), Ok(100));
        assert_eq!(Setting::Expanded("100".into()).bytes(&range), Ok(100));
        for wrong in ["", "KiB", "1KB", "1 KiB", "1kib", "-1KiB", "99999999999999999999GiB"] {
            assert!(text(wrong).bytes(&range).is_err(), "{wrong}");
        }
        let message = text("2GiB").bytes(&range).expect_err("more than 1 GiB");
        assert_eq!(message, "2GiB is out of range; expected 1B to 1GiB");
    }

    #[test]
    fn only_an_expanded_text_stands_for_a_number_or_a_switch() {
        assert_eq!(Setting::Expanded("16".into()).count(&(1..=20usize)), Ok(16));
        assert_eq!(Setting::Expanded("true".into()).flag(), Ok(true));
        assert_eq!(text("16").integer(), Err("\"16\" is not an integer".into()));
        assert_eq!(text("true").flag(), Err("\"true\" is not true or false".into()));
        let message = Setting::Integer(-1).count(&(1..=20usize)).expect_err("negative");
        assert_eq!(message, "-1 is out of range; expected 1 to 20");
    }

    #[test]
    fn texts_are_an_array_or_one_text_with_commas() {
        let accepted = "names such as [\"a\"]";
        let array = |items: &[&str]| Setting::List(items.iter().map(|item| text(item)).collect());
        for (setting, expected) in [
            (array(&["a", " b "]), &["a", "b"][..]),
            (text("a, b"), &["a", "b"]),
            (Setting::Expanded("a".into()), &["a"]),
            (array(&[]), &[]),
            (text(" "), &[]),
        ] {
            assert_eq!(
                setting.clone().texts(accepted),
                Ok(expected.iter().map(|&text| text.into()).collect()),
                "{setting:?}"
            );
        }
        for (setting, message) in [
            (text("a,,b"), "the list has \"\"; expected names such as [\"a\"]"),
            (array(&["a", " "]), "the list has \" \"; expected names such as [\"a\"]"),
            (Setting::List(vec![Setting::Integer(1)]), "the list has 1; expected names such as [\"a\"]"),
            (Setting::List(vec![array(&["a"])]), "the list has an array; expected names such as [\"a\"]"),
            (Setting::Integer(1), "expected names such as [\"a\"], not 1"),
        ] {
            assert_eq!(setting.texts(accepted), Err(message.into()));
        }
    }

    #[test]
    fn variables_are_replaced() {
        let variables = [("A", "1"), ("EMPTY", ""), ("NESTED", "${A}")];
        let environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let environment = Environment::from(environment);
        for (written, expanded) in [
            ("plain $A {A}", None),
            ("${A}", Some("1")),
            ("x${A}y${B:-2}z", Some("x1y2z")),
            ("${EMPTY}|${EMPTY:-3}|${B:-}", Some("|3|")),
            ("${NESTED}", Some("${A}")),
            ("$${A}", Some("${A}")),
            ("$$${A}", Some("$${A}")),
            ("${B:-a:-b}", Some("a:-b")),
        ] {
            let result = expand(written, &environment).expect(written);
            assert_eq!(result.as_deref(), expanded, "{written}");
        }
        assert!(expand("${B}", &environment).expect_err("not set").contains("variable B is not set"));
        assert!(expand("${A", &environment).is_err());
        assert!(expand("${}", &environment).is_err());
    }
}
