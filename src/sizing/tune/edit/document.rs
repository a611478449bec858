//! The positions of keys and values in the text of a TOML file, and the place for a new key.
//!
//! Main thread. This module only reads.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{EditError, Value};

/// The place of a value in the text, or the place where it has to be written.
pub(super) enum Position {
    /// An old value, which the new one replaces.
    Value { at: Range<usize>, old: Option<Value> },
    /// A new line after the line that ends at or after byte `after`. `prefix` comes before the key.
    Line { after: usize, prefix: String },
    /// Inside an inline table, at byte `at`, with `before` ahead of the key and `behind` after the value.
    Inline { at: usize, before: &'static str, behind: &'static str },
    /// At the end of the file, under a new header.
    Table,
}

/// A value in the text, with the key in front of it.
struct Leaf {
    key: usize,
    end: usize,
}

/// The text of a file, and the positions of its keys and values.
pub(super) struct Document<'a> {
    text: &'a str,
    root: &'a DeTable<'a>,
    /// In the order of the text.
    leaves: Vec<Leaf>,
    /// The positions of the headers.
    headers: Vec<Range<usize>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str, root: &'a DeTable<'a>) -> Self {
        let mut document = Self { text, root, leaves: Vec::new(), headers: Vec::new() };
        document.collect(root);
        document.leaves.sort_by_key(|leaf| leaf.key);
        document.headers.sort_by_key(|header| header.start);
        document
    }

    fn collect(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let (name, at) = (key.span(), value.span());
            match value.get_ref() {
                DeValue::Table(inside) if form(&name, &at) != TableForm::Inline => {
                    if form(&name, &at) == TableForm::Header {
                        self.headers.push(at);
                    }
                    self.collect(inside);
                }
                DeValue::Array(items) if form(&name, &at) == TableForm::Header => {
                    for item in items {
                        self.headers.push(item.span());
                        if let DeValue::Table(inside) = item.get_ref() {
                            self.collect(inside);
                        }
                    }
                }
                _ => self.leaves.push(Leaf { key: name.start, end: at.end }),
            }
        }
    }

    /// The place of a dotted key's value, or the place to write it.
    pub(super) fn place(&self, key: &str) -> Result<Position, EditError> {
        let taken = |what: &DeValue<'_>| EditError::Taken { key: key.to_owned(), what: kind_of(what) };
        let mut table = self.root;
        let mut here = (TableForm::Root, 0..0);
        let (tables, name) = key.rsplit_once('.').unwrap_or(("", key));
        for part in tables.split('.').filter(|part| !part.is_empty()) {
            let Some((found, value)) = table.get_key_value(part) else { return Ok(Position::Table) };
            let DeValue::Table(inside) = value.get_ref() else { return Err(taken(value.get_ref())) };
            if here.0 != TableForm::Inline {
                here = (form(&found.span(), &value.span()), value.span());
            } else if form(&found.span(), &value.span()) != TableForm::Inline {
                // Nobody writes dotted keys inside an inline table in a configuration, so that form is refused.
                return Err(taken(value.get_ref()));
            } else {
                here.1 = value.span();
            }
            table = inside;
        }
        if let Some(value) = table.get(name) {
            let old = match value.get_ref() {
                DeValue::Table(_) | DeValue::Array(_) => return Err(taken(value.get_ref())),
                DeValue::String(text) => Some(Value::Text(text.to_string())),
                DeValue::Integer(number) => {
                    usize::from_str_radix(number.as_str(), number.radix()).ok().map(Value::Count)
                }
                _ => None,
            };
            return Ok(Position::Value { at: value.span(), old });
        }
        Ok(match here {
            (TableForm::Inline, at) => self.inside(&at, table),
            (TableForm::Dotted, _) => self.after_dotted_keys(table),
            (TableForm::Header, at) => self.below(&at, name),
            (TableForm::Root, _) => self.below(&(0..0), name),
        })
    }

    /// After the last value of an inline table, and after the comma that may follow that value.
    fn inside(&self, at: &Range<usize>, table: &DeTable<'_>) -> Position {
        let Some(end) = end_of(table) else {
            return Position::Inline { at: at.start + 1, before: " ", behind: " " };
        };
        let rest = &self.text[end..at.end];
        let comma = rest.trim_start().starts_with(',').then(|| end + rest.len() - rest.trim_start().len());
        comma.map_or(Position::Inline { at: end, before: ", ", behind: "" }, |comma| Position::Inline {
            at: comma + 1,
            before: " ",
            behind: ",",
        })
    }

    /// On a line after the last of a table's dotted keys, in the same form.
    fn after_dotted_keys(&self, table: &DeTable<'_>) -> Position {
        let last = table
            .iter()
            .filter(|(_, value)| !matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_)))
            .map(|(key, value)| (key.span().start, value.span().end))
            .max();
        let Some((name, end)) = last else { return Position::Table };
        let start = self.text[..name].rfind('\n').map_or(0, |at| at + 1);
        let prefix = self.text[start..name].trim_start_matches('\u{feff}').to_owned();
        Position::Line { after: end, prefix }
    }

    /// At the end of the section under a header, or below the commented-out line that has this key.
    fn below(&self, header: &Range<usize>, name: &str) -> Position {
        let next = self.headers.iter().find(|other| other.start > header.start || header.is_empty());
        let section = header.end..next.map_or(self.text.len(), |next| next.start);
        let last = self.leaves.iter().rfind(|leaf| section.contains(&leaf.key));
        let prefix = |key: usize| {
            let start = self.text[..key].rfind('\n').map_or(0, |at| at + 1);
            let before = self.text[start..key].trim_start_matches('\u{feff}');
            before[..before.len() - before.trim_start().len()].to_owned()
        };
        if let Some(comment) = self.commented_out(&section, name) {
            return Position::Line { after: comment, prefix: prefix(comment) };
        }
        match last {
            Some(leaf) => Position::Line { after: leaf.end, prefix: prefix(leaf.key) },
            None => Position::Line { after: header.end, prefix: prefix(header.start) },
        }
    }

    /// The position of the `#` of a comment such as `# workers = 10` in a section.
    fn commented_out(&self, section: &Range<usize>, name: &str) -> Option<usize> {
        let mut start = section.start;
        for line in self.text[section.clone()].split_inclusive('\n') {
            let comment = line.trim_start();
            let at = start + line.len() - comment.len();
            start += line.len();
            let inside = self.leaves.iter().any(|leaf| (leaf.key..leaf.end).contains(&at));
            let rest =
                comment.strip_prefix('#').map(str::trim_start).and_then(|rest| rest.strip_prefix(name));
            if !inside && rest.is_some_and(|rest| rest.trim_start().starts_with('=')) {
                return Some(at);
            }
        }
        None
    }
}

/// The end of an inline table's last value. The key of that value may be dotted.
fn end_of(table: &DeTable<'_>) -> Option<usize> {
    let ends = table.iter().filter_map(|(key, value)| match value.get_ref() {
        DeValue::Table(inside) if form(&key.span(), &value.span()) == TableForm::Dotted => end_of(inside),
        _ => Some(value.span().end),
    });
    ends.max()
}

/// How a table is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TableForm {
    /// The file itself.
    Root,
    /// `[table]`: the parser gives the table a span that includes the key.
    Header,
    /// `table.key = …`, or only part of a header's key: the parser gives the table the span of the key.
    Dotted,
    /// `table = { … }`: the key comes before the table's span.
    Inline,
}

fn form(key: &Range<usize>, value: &Range<usize>) -> TableForm {
    if key == value {
        TableForm::Dotted
    } else if value.start < key.start {
        TableForm::Header
    } else {
        TableForm::Inline
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Table(_) => "a table",
        DeValue::Array(_) => "a list",
        _ => "another value",
    }
}
