//! Where things stand in the text of a TOML file, and where a new one belongs.
//!
//! Main thread; only reads.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{EditError, Value};

/// Where a value stands, or has to be written.
pub(super) enum Place {
    /// In place of another.
    Value { at: Range<usize>, old: Option<Value> },
    /// On a line of its own after the one that ends at or behind this place, with this before the key.
    Line { after: usize, prefix: String },
    /// In an inline table: here, with this before the key and this behind the value.
    Inline { at: usize, before: &'static str, behind: &'static str },
    /// At the end of the file, under a header of its own.
    Table,
}

/// A value that stands somewhere, with the key that is before it.
struct Leaf {
    key: usize,
    end: usize,
}

/// A file, and where everything in it stands.
pub(super) struct Document<'a> {
    text: &'a str,
    root: &'a DeTable<'a>,
    /// In the order of the text.
    leaves: Vec<Leaf>,
    /// Where headers stand.
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
                DeValue::Table(inside) if form(&name, &at) != Form::Inline => {
                    if form(&name, &at) == Form::Header {
                        self.headers.push(at);
                    }
                    self.collect(inside);
                }
                DeValue::Array(items) if form(&name, &at) == Form::Header => {
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

    /// Where a dotted key stands, or has to be written.
    pub(super) fn place(&self, key: &str) -> Result<Place, EditError> {
        let taken = |what: &DeValue<'_>| EditError::Taken { key: key.to_owned(), what: what_is(what) };
        let mut table = self.root;
        let mut here = (Form::Root, 0..0);
        let (tables, name) = key.rsplit_once('.').unwrap_or(("", key));
        for part in tables.split('.').filter(|part| !part.is_empty()) {
            let Some((found, value)) = table.get_key_value(part) else { return Ok(Place::Table) };
            let DeValue::Table(inside) = value.get_ref() else { return Err(taken(value.get_ref())) };
            if here.0 != Form::Inline {
                here = (form(&found.span(), &value.span()), value.span());
            } else if form(&found.span(), &value.span()) != Form::Inline {
                // Dotted keys inside an inline table: nobody writes configuration like this.
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
            return Ok(Place::Value { at: value.span(), old });
        }
        Ok(match here {
            (Form::Inline, at) => self.inside(&at, table),
            (Form::Dotted, _) => self.beside(table),
            (Form::Header, at) => self.below(&at, name),
            (Form::Root, _) => self.below(&(0..0), name),
        })
    }

    /// Behind the last value of an inline table, and the comma that may follow it.
    fn inside(&self, at: &Range<usize>, table: &DeTable<'_>) -> Place {
        let Some(end) = end_of(table) else {
            return Place::Inline { at: at.start + 1, before: " ", behind: " " };
        };
        let rest = &self.text[end..at.end];
        let comma = rest.trim_start().starts_with(',').then(|| end + rest.len() - rest.trim_start().len());
        comma.map_or(Place::Inline { at: end, before: ", ", behind: "" }, |comma| Place::Inline {
            at: comma + 1,
            before: " ",
            behind: ",",
        })
    }

    /// After the last of a table's dotted keys, written like it.
    fn beside(&self, table: &DeTable<'_>) -> Place {
        let last = table
            .iter()
            .filter(|(_, value)| !matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_)))
            .map(|(key, value)| (key.span().start, value.span().end))
            .max();
        let Some((name, end)) = last else { return Place::Table };
        let start = self.text[..name].rfind('\n').map_or(0, |at| at + 1);
        let prefix = self.text[start..name].trim_start_matches('\u{feff}').to_owned();
        Place::Line { after: end, prefix }
    }

    /// At the end of what stands under a header, or below the comment that has this key.
    fn below(&self, header: &Range<usize>, name: &str) -> Place {
        let next = self.headers.iter().find(|other| other.start > header.start || header.is_empty());
        let section = header.end..next.map_or(self.text.len(), |next| next.start);
        let last = self.leaves.iter().rfind(|leaf| section.contains(&leaf.key));
        let prefix = |key: usize| {
            let start = self.text[..key].rfind('\n').map_or(0, |at| at + 1);
            let before = self.text[start..key].trim_start_matches('\u{feff}');
            before[..before.len() - before.trim_start().len()].to_owned()
        };
        if let Some(comment) = self.commented_out(&section, name) {
            return Place::Line { after: comment, prefix: prefix(comment) };
        }
        match last {
            Some(leaf) => Place::Line { after: leaf.end, prefix: prefix(leaf.key) },
            None => Place::Line { after: header.end, prefix: prefix(header.start) },
        }
    }

    /// Where the `#` of a comment such as `# workers = 10` stands in a section.
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

/// Where the last value of an inline table ends, also when its key is dotted.
fn end_of(table: &DeTable<'_>) -> Option<usize> {
    let ends = table.iter().filter_map(|(key, value)| match value.get_ref() {
        DeValue::Table(inside) if form(&key.span(), &value.span()) == Form::Dotted => end_of(inside),
        _ => Some(value.span().end),
    });
    ends.max()
}

/// How a table is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The file itself.
    Root,
    /// `[table]`: the key is inside of the place that the value is said to have.
    Header,
    /// `table.key = …`, or no more than part of a header's key: the key is that place.
    Dotted,
    /// `table = { … }`: the key is before it.
    Inline,
}

fn form(key: &Range<usize>, value: &Range<usize>) -> Form {
    if key == value {
        Form::Dotted
    } else if value.start < key.start {
        Form::Header
    } else {
        Form::Inline
    }
}

fn what_is(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Table(_) => "a table",
        DeValue::Array(_) => "a list",
        _ => "another value",
    }
}
