//! Sets values in the text of a TOML file and keeps the rest of the file byte by byte.
//!
//! Main thread; text in, text out. The `toml` crate reports the position of each value, and only that position is
//! written. `toml_edit` would rewrite the whole file: it turns CRLF into LF, moves dotted keys of one table together,
//! and drops a byte order mark.

mod document;

use std::fmt;

use serde::Serialize;
use toml::de::DeTable;

use self::document::{Document, Position};

/// A value to set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A whole number.
    Count(usize),
    /// A string, such as a time: `50ms`.
    Text(String),
}

/// The text after all changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The whole text.
    pub text: String,
    /// The changes, in the order of the file. Keys that had their value already are left out.
    pub changes: Vec<ChangedLine>,
}

/// A line that was changed or added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedLine {
    /// The key in full.
    pub key: String,
    /// The number of the line in the new text; the first is 1.
    pub line: usize,
    /// The line as it was, without its end; `None` when the key is new.
    pub before: Option<String>,
    /// The line as it is.
    pub after: String,
}

/// Why a text could not be edited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The text is not TOML.
    #[error("not TOML: {0}")]
    Syntax(#[source] toml::de::Error),
    /// Another kind of value stands at the key, or on the way to it.
    #[error("cannot set {key}: {what} is in its place")]
    Taken {
        /// The key in full.
        key: String,
        /// The kind of value that stands there.
        what: &'static str,
    },
}

/// Sets these dotted keys, such as `database.maximum_pool_size`, to these values.
///
/// A value that exists is replaced, and the comment after it stays. A missing key goes into its table: below its
/// commented-out line (`# workers = 10`) if there is one, else at the end of the table. The new key takes the form of
/// its table: under its header, inline, or as a dotted key. A missing table is added at the end of the file.
///
/// # Errors
/// The text is not TOML, or setting a key would remove something else. Then nothing is changed.
pub fn edit(text: &str, values: &[(&str, Value)]) -> Result<Edited, EditError> {
    let mut edited = text.to_owned();
    let mut written = Vec::new();
    for (key, value) in values {
        let place = place(&edited, key)?;
        let before = match &place {
            Position::Value { old, .. } if old.as_ref() == Some(value) => continue,
            Position::Value { at, .. } => Some(line_of(&edited, at.start).1.to_owned()),
            _ => None,
        };
        edited = place.write(&edited, key, value);
        // The caller will write this text over a file, so the result is parsed again and checked.
        if !matches!(self::place(&edited, key), Ok(Position::Value { old: Some(now), .. }) if now == *value) {
            return Err(EditError::Taken { key: (*key).to_owned(), what: "a table that cannot be added to" });
        }
        written.push((*key, before));
    }
    let mut changes = Vec::new();
    for (key, before) in written {
        if let Position::Value { at, .. } = place(&edited, key)? {
            let (line, after) = line_of(&edited, at.start);
            changes.push(ChangedLine { key: key.to_owned(), line, before, after: after.to_owned() });
        }
    }
    changes.sort_by_key(|change| change.line);
    Ok(Edited { text: edited, changes })
}

fn place(text: &str, key: &str) -> Result<Position, EditError> {
    let tree = DeTable::parse(text).map_err(EditError::Syntax)?;
    Document::new(text, tree.get_ref()).place(key)
}

impl Position {
    fn write(&self, text: &str, key: &str, value: &Value) -> String {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        let end_of_line = if text.contains("\r\n") { "\r\n" } else { "\n" };
        match self {
            Self::Value { at, .. } => format!("{}{value}{}", &text[..at.start], &text[at.end..]),
            Self::Inline { at, before, behind } => {
                format!("{}{before}{name} = {value}{behind}{}", &text[..*at], &text[*at..])
            }
            Self::Line { after, prefix } => {
                let line = format!("{prefix}{name} = {value}");
                match text[*after..].find('\n') {
                    Some(end) => {
                        let (above, below) = text.split_at(after + end + 1);
                        format!("{above}{line}{end_of_line}{below}")
                    }
                    None => format!("{text}{end_of_line}{line}"),
                }
            }
            Self::Table => {
                let ended = text.is_empty() || text.ends_with('\n');
                let end = if ended { "" } else { end_of_line };
                let gap = if text.trim_start_matches('\u{feff}').is_empty() { "" } else { end_of_line };
                let last = if ended { end_of_line } else { "" };
                format!("{text}{end}{gap}[{table}]{end_of_line}{name} = {value}{last}")
            }
        }
    }
}

impl fmt::Display for Value {
    /// The value as TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Text(text) => {
                f.write_str("\"")?;
                for c in text.chars() {
                    match c {
                        '"' | '\\' => write!(f, "\\{c}")?,
                        c if c.is_control() => write!(f, "\\U{:08X}", u32::from(c))?,
                        c => write!(f, "{c}")?,
                    }
                }
                f.write_str("\"")
            }
        }
    }
}

impl fmt::Display for ChangedLine {
    /// `12: maximum_pool_size = 10  →  maximum_pool_size = 6`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.line)?;
        match &self.before {
            Some(before) => write!(f, "{}  →  {}", before.trim(), self.after.trim()),
            None => write!(f, "{}  (new)", self.after.trim()),
        }
    }
}

/// The line that contains this position: its number and its text.
fn line_of(text: &str, place: usize) -> (usize, &str) {
    let start = text[..place].rfind('\n').map_or(0, |at| at + 1);
    let end = text[place..].find('\n').map_or(text.len(), |at| place + at);
    let number = 1 + text[..start].matches('\n').count();
    (number, text[start..end].trim_end_matches('\r'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Config, Environment, Flags, Source};

    fn sizes(pool: usize) -> [(&'static str, Value); 5] {
        [
            ("database.maximum_pool_size", Value::Count(pool)),
            ("database.minimum_idle", Value::Count(pool)),
            ("server.workers", Value::Count(pool + 2)),
            ("queue.max_length", Value::Count(100)),
            ("queue.max_wait", Value::Text("50ms".into())),
        ]
    }

    fn set(text: &str, key: &str, value: usize) -> String {
        edit(text, &[(key, Value::Count(value))]).expect("it can be set").text
    }

    fn read(text: &str) -> Config {
        let source = Source { path: None, text: text.to_owned() };
        Config::read(source, &Environment::default(), &Flags::default()).expect("no problems")
    }

    fn holds(text: &str, pool: usize) {
        let config = read(text);
        assert_eq!(config.database.maximum_pool_size, pool);
        assert_eq!(config.database.minimum_idle, Some(pool));
        assert_eq!(config.server.workers, Some(pool + 2));
        assert_eq!(config.queue.max_length, 100);
        assert_eq!(config.queue.max_wait, std::time::Duration::from_millis(50));
    }

    /// Checks that the old and the new text are equal once the changed and the added lines are left out.
    fn only_those_lines_differ(old: &str, edited: &Edited) {
        let mut lines: Vec<&str> = edited.text.split('\n').collect();
        for change in edited.changes.iter().rev() {
            assert_eq!(lines[change.line - 1].trim_end_matches('\r'), change.after);
            match &change.before {
                Some(before) if lines[change.line - 1].ends_with('\r') => {
                    assert!(old.contains(&format!("{before}\r\n")));
                }
                Some(before) => assert!(old.contains(before)),
                None => {
                    lines.remove(change.line - 1);
                }
            }
        }
        let mut left = old.split('\n').peekable();
        for line in lines {
            let kept = left.peek() == Some(&line);
            let replaced = edited.changes.iter().any(|change| change.after == line.trim_end_matches('\r'));
            assert!(kept || replaced, "{line}");
            left.next();
        }
    }

    #[test]
    fn every_shipped_file_takes_the_sizes_and_keeps_the_rest() {
        for text in [
            include_str!("../../../../config/wharf.toml"),
            include_str!("../../../../config/postgres.toml"),
            include_str!("../../../../config/reference.toml"),
        ] {
            let database =
                |text: &str| text.replace("# url = \"sqlite:wharf.db\"", "url = \"sqlite:wharf.db\"");
            let text = database(text);
            let edited = edit(&text, &sizes(6)).expect("it can be set");
            holds(&edited.text, 6);
            assert_eq!(
                edit(&edited.text, &sizes(6)).expect("it can be set"),
                Edited { text: edited.text, changes: vec![] }
            );
            let windows = text.replace('\n', "\r\n");
            let edited = edit(&windows, &sizes(7)).expect("it can be set");
            holds(&edited.text, 7);
            assert_eq!(edited.text.matches('\n').count(), edited.text.matches("\r\n").count());
        }
    }

    #[test]
    fn a_new_key_goes_below_its_commented_out_line() {
        let text = include_str!("../../../../config/reference.toml");
        let edited = edit(text, &sizes(6)).expect("it can be set");
        only_those_lines_differ(text, &edited);
        assert!(edited.text.contains("\n# workers = 10\nworkers = 8\n"));
        assert!(edited.text.contains("\n# minimum_idle = 10\nminimum_idle = 6\n"));
        let shown: Vec<String> = edited.changes.iter().map(ToString::to_string).collect();
        assert!(shown[0].ends_with(": workers = 8  (new)"), "{shown:?}");
        assert!(shown[1].ends_with(": max_length = 1024  →  max_length = 100"), "{shown:?}");
    }

    #[test]
    fn a_value_is_replaced_and_its_comment_stays() {
        let text = "[database] # ours\nmaximum_pool_size   =  10# ten\n\n[server]\nworkers = 0x0a";
        let edited = edit(text, &[("database.maximum_pool_size", Value::Count(6))]).expect("it can be set");
        assert_eq!(
            edited.text,
            "[database] # ours\nmaximum_pool_size   =  6# ten\n\n[server]\nworkers = 0x0a"
        );
        assert_eq!(edited.changes.len(), 1);
        assert_eq!(edited.changes[0].line, 2);
        assert_eq!(edited.changes[0].before.as_deref(), Some("maximum_pool_size   =  10# ten"));
        assert_eq!(edited.changes[0].after, "maximum_pool_size   =  6# ten");
        assert_eq!(edit(text, &[("server.workers", Value::Count(10))]).expect("it is").changes, []);
        let variable = "database.maximum_pool_size = \"${POOL:-10}\"\n";
        assert_eq!(set(variable, "database.maximum_pool_size", 6), "database.maximum_pool_size = 6\n");
    }

    #[test]
    fn a_missing_key_goes_into_its_table_in_every_form_of_table() {
        for (text, expected) in [
            (
                "[server]\n  listen = 'a' # b\n\n# c\n[log]\n",
                "[server]\n  listen = 'a' # b\n  workers = 6\n\n# c\n[log]\n",
            ),
            ("[ server ] # a\r\n[log]\r\n", "[ server ] # a\r\nworkers = 6\r\n[log]\r\n"),
            ("[server]", "[server]\nworkers = 6"),
            ("[server]\na = [\n 1, # ]\n]", "[server]\na = [\n 1, # ]\n]\nworkers = 6"),
            (
                "[server]\na = \"\"\"\n# workers = 1\n\"\"\"\n",
                "[server]\na = \"\"\"\n# workers = 1\n\"\"\"\nworkers = 6\n",
            ),
            ("server.a = 1\nlog.b = 2", "server.a = 1\nserver.workers = 6\nlog.b = 2"),
            ("\u{feff}server . a = 1", "\u{feff}server . a = 1\nserver . workers = 6"),
            ("server = { a = 1 }\n", "server = { a = 1, workers = 6 }\n"),
            ("server = { a = { b = 1 }, }\n", "server = { a = { b = 1 }, workers = 6, }\n"),
            ("server = { a.b = 1 }\n", "server = { a.b = 1, workers = 6 }\n"),
            ("server = {}\n", "server = { workers = 6 }\n"),
            ("server = {\n a = 1 # }\n}\n", "server = {\n a = 1, workers = 6 # }\n}\n"),
            ("[log]\r\na = 1", "[log]\r\na = 1\r\n\r\n[server]\r\nworkers = 6"),
            ("", "[server]\nworkers = 6\n"),
            ("# none\n", "# none\n\n[server]\nworkers = 6\n"),
            ("[server.tls]\na = 1\n", "[server.tls]\na = 1\n\n[server]\nworkers = 6\n"),
            (
                "[server]\na.b = 1\n[server.tls]\nc = 1\n",
                "[server]\na.b = 1\nworkers = 6\n[server.tls]\nc = 1\n",
            ),
            ("[[a]]\nb = 1\n[server]\n[[a]]\nb = 2\n", "[[a]]\nb = 1\n[server]\nworkers = 6\n[[a]]\nb = 2\n"),
        ] {
            assert_eq!(set(text, "server.workers", 6), expected);
        }
        assert_eq!(set("a = 1\n[b]\nc = 1\n", "d", 2), "a = 1\nd = 2\n[b]\nc = 1\n");
    }

    #[test]
    fn a_key_that_cannot_be_set_is_an_error() {
        let error =
            |text| edit(text, &[("server.workers", Value::Count(6))]).expect_err("it cannot").to_string();
        assert!(error("[server\n").starts_with("not TOML: "));
        assert_eq!(error("server = 1\n"), "cannot set server.workers: another value is in its place");
        assert_eq!(error("[server.workers]\n"), "cannot set server.workers: a table is in its place");
        assert_eq!(error("[[server]]\n"), "cannot set server.workers: a list is in its place");
        let deep = edit("[a]\nb.c.d = 1\n", &[("a.b.e", Value::Count(6))]);
        assert!(matches!(deep, Err(EditError::Taken { .. })), "{deep:?}");
    }

    proptest! {
        #[test]
        fn any_text_survives_as_a_value(text in any::<String>(), others in any::<u16>()) {
            let before = format!("a = {others} # {}\n", others / 2);
            let edited = edit(&before, &[("b.c", Value::Text(text.clone()))]).expect("it can be set");
            let tree = DeTable::parse(&edited.text).expect("it is TOML");
            let found = tree.get_ref()["b"].get_ref().as_table().and_then(|b| b["c"].get_ref().as_str());
            prop_assert_eq!(found, Some(text.as_str()));
            prop_assert!(edited.text.starts_with(&before));
        }

        #[test]
        fn all_other_text_stays_the_same(
            order in Just(vec!["server", "queue", "database", "log"]).prop_shuffle(),
            forms in proptest::collection::vec(0..4_u8, 4),
            windows: bool,
            ended: bool,
            pool in 1..100_usize,
        ) {
            let keys = [("server", "drain_timeout = '1s'"), ("queue", "max_length = 1024"), ("database", "url = 'sqlite:a'"), ("log", "level = 'warn'")];
            // A dotted or an inline table belongs to the root of the file, so it is written before any header.
            let [mut first, mut last] = [String::from("# begins\n"), String::new()];
            for (section, form) in order.iter().zip(forms) {
                let key = keys.iter().find(|(name, _)| name == section).expect("it is one").1;
                match form {
                    0 => first.extend(["# ", section, "\n", section, ".", key, "\n"]),
                    1 => first.extend([section, " = { ", key, " } # ", section, "\n\n"]),
                    2 => last.extend(["# a\n[", section, "] # here\n", key, " # that\n# end\n\n"]),
                    _ => {}
                }
            }
            let mut text = first + &last;
            if !ended {
                text.truncate(text.trim_end().len());
            }
            if windows {
                text = text.replace('\n', "\r\n");
            }
            let edited = edit(&text, &sizes(pool)).expect("it can be set");
            let config = read(&edited.text);
            prop_assert_eq!(config.database.maximum_pool_size, pool);
            prop_assert_eq!(config.server.workers, Some(pool + 2));
            for line in text.split('\n') {
                let line = line.trim_end_matches('\r');
                let replaced = line.contains("max_length") || line.contains("= {");
                prop_assert!(replaced || edited.text.contains(line), "{line}");
            }
            let bare = edited.text.matches('\n').count() - edited.text.matches("\r\n").count();
            prop_assert!(!windows || bare == 0 || !text.contains('\n'));
        }
    }
}
