//! The problems of a configuration and their display: file, line, column, key, what came, what is accepted, and the
//! line itself with a caret under the place.
//!
//! Main thread. Knows positions and texts, but not the meaning of keys: `wharf check` makes its own problems from
//! spans.

use std::fmt;
use std::iter;

use super::{Source, Span, keys};

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The place in the file. `None`: the value came from an environment variable or a flag, which `key` names.
    pub span: Option<Span>,
    /// The full key, such as `endpoint.flight.params.id.type`. Empty for the file as a whole.
    pub key: String,
    /// The message: what came and what is accepted.
    pub message: String,
}

impl Problem {
    /// A problem at `span` of the file.
    pub fn new(span: impl Into<Option<Span>>, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { span: span.into(), key: key.into(), message: message.into() }
    }
}

/// All problems, with the text of the file that they are in.
#[derive(Clone, Debug)]
pub struct Problems {
    source: Source,
    list: Vec<Problem>,
}

impl Problems {
    /// The problems in the order of the file. Problems without a place come first.
    pub fn new(source: Source, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.span.map(|span| (span.start, span.end)));
        Self { source, list }
    }

    /// Each problem, in the order of the file.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Problem { span, key, message } in &self.list {
            if let Some(span) = span {
                let (line, column) = self.source.position(span.start);
                write!(f, "{}:{line}:{column}: ", self.source.name())?;
            }
            let separator = if key.is_empty() { "" } else { ": " };
            writeln!(f, "{key}{separator}{message}")?;
            if let Some(span) = span {
                self.source.show(f, *span)?;
            }
            writeln!(f)?;
        }
        match self.list.len() {
            1 => write!(f, "1 problem"),
            count => write!(f, "{count} problems"),
        }
    }
}

impl Source {
    /// The name of the file in messages.
    pub fn name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "(embedded) wharf.toml".to_owned(),
        }
    }

    /// The line and the column of a byte offset. Both count from 1, and the column counts characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.before(offset);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The place in the file of the byte at `offset` in the string at `span`, which fills `length` bytes there. If
    /// escapes before it make the offsets differ, it is the place of the whole string.
    pub fn inside(&self, span: Span, offset: usize, length: usize) -> Span {
        let raw = self.text.get(span.start..span.end).unwrap_or_default();
        let Some(quote) = raw.chars().next().filter(|quote| matches!(quote, '"' | '\'')) else {
            return span;
        };
        let triple = String::from_iter([quote; 3]);
        // The newline right after three quotes does not belong to the string.
        let content = match raw.strip_prefix(&triple) {
            Some(rest) => rest.strip_prefix("\r\n").or(rest.strip_prefix('\n')).unwrap_or(rest),
            None => &raw[1..],
        };
        let has_place =
            content.get(..offset + length).is_some_and(|passed| quote == '\'' || !passed.contains('\\'));
        if !has_place {
            return span;
        }
        let start = span.end - content.len() + offset;
        Span { start, end: start + length }
    }

    /// Shows the first line of the span with carets under it, as rustc does. Of a long line it shows the part around
    /// the place. Of a line that may hold a password it shows nothing behind its `=`.
    fn show(&self, f: &mut fmt::Formatter<'_>, span: Span) -> fmt::Result {
        let (number, column) = self.position(span.start);
        let line = self.text.lines().nth(number - 1).unwrap_or_default();
        let end = self.before(span.end).len().max(span.start);
        let marked = self.text.get(span.start..end).and_then(|text| text.lines().next());
        let marked = marked.map_or(1, |text| text.chars().count().max(1));
        let shown = without_secret(line, column - 1 + marked);
        let hidden_from = shown.chars().count();
        let at = (column - 1).min(if shown.len() < line.len() { hidden_from } else { usize::MAX });
        let whole: Vec<char> = shown.chars().chain((shown.len() < line.len()).then_some('…')).collect();
        let from = if whole.len() > LINE_CHARS_MAX { at.saturating_sub(CHARS_BEFORE_MAX) } else { 0 };
        let to = whole.len().min(from + LINE_CHARS_MAX);
        let part = whole.get(from..to).unwrap_or_default();
        let cut = |is_cut: bool| if is_cut { "…" } else { "" };
        let (before, after) = (cut(from > 0), cut(to < whole.len()));
        // Tabs stay tabs, so that the caret stands under its place for every width of a tab.
        let indent: String = before
            .chars()
            .chain(part.iter().copied())
            .chain(iter::repeat(' '))
            .take(before.chars().count() + at - from)
            .map(|char| if char == '\t' { '\t' } else { ' ' })
            .collect();
        let carets = "^".repeat(marked.min(to.saturating_sub(at)).max(1));
        let (number, part) = (number.to_string(), part.iter().collect::<String>());
        let margin = " ".repeat(number.len());
        writeln!(f, "{margin} |\n{number} | {before}{part}{after}\n{margin} | {indent}{carets}")
    }

    /// The text before `offset`, or before the character that contains `offset`.
    fn before(&self, offset: usize) -> &str {
        let offset = offset.min(self.text.len());
        let start = (0..=offset).rev().find(|&at| self.text.is_char_boundary(at)).unwrap_or(0);
        &self.text[..start]
    }
}

/// The number of a line's characters that fit beside its number on a terminal.
const LINE_CHARS_MAX: usize = 100;

/// The number of these characters that may stand before the place.
const CHARS_BEFORE_MAX: usize = 40;

/// The part of a line that may be shown. It ends before the value of a key that may hold a password, or before a user
/// in a URL. It also ends before the value at the place itself, whose key may be a misspelt one of these. `end`: the
/// character behind the place.
fn without_secret(line: &str, end: usize) -> &str {
    let end = line.char_indices().nth(end).map_or(line.len(), |(at, _)| at);
    let quotes = ['"', '\''];
    for (equals, _) in line.match_indices('=') {
        let value = line[equals + 1..].trim_start();
        let key = line[..equals].trim_end();
        let name = key.rsplit(['.', '{', ' ', ',']).next().unwrap_or_default().trim_matches(quotes);
        let is_place = key.trim_end_matches(quotes).len() <= end && end <= equals;
        if value.starts_with(quotes) && (is_place || keys::is_secret(name)) {
            return &line[..line.len() - value.len()];
        }
    }
    match line.split_once("://") {
        Some((before, rest)) if rest.contains('@') => &line[..before.len() + "://".len()],
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { path: Some("a.toml".into()), text: text.into() }
    }

    fn span(text: &str, part: &str) -> Span {
        let start = text.find(part).expect("the part is in the text");
        Span { start, end: start + part.len() }
    }

    #[test]
    fn problems_show_their_line_in_the_order_of_the_file() {
        let text = "a = 1\n\té = \"x\"\n";
        let list = vec![
            Problem::new(span(text, "\"x\""), "t.é", "wrong"),
            Problem::new(span(text, "a"), "a", "unknown"),
            Problem::new(None, "WHARF_A", "unknown"),
        ];
        let shown = Problems::new(source(text), list).to_string();
        assert_eq!(
            shown,
            "WHARF_A: unknown\n\n\
             a.toml:1:1: a: unknown\n  |\n1 | a = 1\n  | ^\n\n\
             a.toml:2:6: t.é: wrong\n  |\n2 | \té = \"x\"\n  | \t    ^^^\n\n\
             3 problems"
        );
    }

    #[test]
    fn a_long_line_is_shown_around_its_place() {
        let text = format!("sql = 'select {}, wrong, {}'\n", "a, ".repeat(300), "b, ".repeat(300));
        let shown = |part: &str| {
            Problems::new(source(&text), vec![Problem::new(span(&text, part), "", "x")]).to_string()
        };
        let lines: Vec<String> = shown("wrong").lines().map(str::to_owned).collect();
        assert!(
            lines[2].starts_with("1 | …") && lines[2].ends_with('…') && lines[2].contains("wrong"),
            "{lines:?}"
        );
        let place = |line: &str, part: &str| line.find(part).map(|at| line[..at].chars().count());
        assert_eq!(place(&lines[3], "^^^^^"), place(&lines[2], "wrong"), "{lines:?}");
        let whole = shown(text.trim_end().strip_prefix("sql = ").expect("the statement"));
        assert!(whole.lines().all(|line| line.chars().count() < 110), "{whole}");
        assert!(shown("sql").contains("1 | sql = …\n  | ^^^\n"), "{}", shown("sql"));
    }

    #[test]
    fn no_excerpt_contains_a_password() {
        for (text, place, shown) in [
            ("url = \"postgres://a:hunter2@h/d\"", "\"postgres://a:hunter2@h/d\"", "url = …\n  |       ^"),
            ("database.url = 'hunter2'", "'hunter2'", "database.url = …\n"),
            ("token = 'hunter2", "2", "token = …\n"),
            ("tokn = 'hunter2'", "tokn", "tokn = …\n  | ^^^^\n"),
            ("admin = { tokn = 'hunter2' }", "tokn", "admin = { tokn = …\n"),
            ("admin = { token = 'hunter2' }", "'hunter2'", "admin = { token = …\n"),
            ("token = { type = 'txt' }", "'txt'", "token = { type = 'txt' }\n"),
            ("x = [\"http://a:hunter2@h\"]", "[", "x = [\"http://…\n"),
            ("wrokers = 4", "wrokers", "wrokers = 4\n"),
        ] {
            let problems =
                Problems::new(source(text), vec![Problem::new(span(text, place), "", "x")]).to_string();
            assert!(!problems.contains("unter2") && problems.contains(&format!("1 | {shown}")), "{problems}");
        }
    }

    #[test]
    fn a_place_at_the_end_of_the_file_is_shown() {
        let shown = Problems::new(
            source("a = "),
            vec![Problem::new(Span { start: 4, end: 4 }, "", "a value is missing")],
        );
        assert!(shown.to_string().contains("1 | a = \n  |     ^\n"), "{shown}");
        for text in ["", "\n", "é"] {
            let list = (0..4).map(|at| Problem::new(Span { start: at, end: at + 1 }, "", "x"));
            assert!(Problems::new(source(text), list.collect()).to_string().ends_with("4 problems"));
        }
    }

    #[test]
    fn an_offset_in_a_string_has_a_place_unless_escapes_move_it() {
        for (text, offset, expected) in [
            ("s = 'a :b'", 2, ":b"),
            ("s = \"a :b\"", 2, ":b"),
            ("s = '''\na\n :b'''", 3, ":b"),
            ("s = \"\"\"a\r\n:b \\\n c\"\"\"", 3, ":b"),
            ("s = '\\ :b'", 2, ":b"),
            ("s = \"\\t :b\"", 2, "\"\\t :b\""),
            ("s = '''\\ :b'''", 2, ":b"),
        ] {
            let string = Span { start: 4, end: text.len() };
            assert_eq!(source(text).inside(string, offset, 2), span(text, expected), "{text}");
        }
    }
}
