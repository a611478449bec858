//! An endpoint's statement in the form for a database, and a database's description of a statement before it runs.
//!
//! Owns [`Statement`], its parameters and its comment, and [`Description`]. Pure: nothing here speaks to a database.

use std::borrow::Cow;

use super::comment::{self, Comment};
use super::error::Error;
use crate::base::value::Type;
use crate::config;

/// The notation of parameters in a database's statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notation {
    /// A sign and a number for each distinct parameter, such as `$1`.
    Numbered(char),
    /// A `?` for each use of a parameter. The value is sent once for each use.
    Positional,
}

/// An endpoint's statement in one database's notation: `$1` or `?1` for each distinct parameter, or a `?` for each use of one.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its name in a trace. Empty where it has none.
    name: String,
    pub(super) text: String,
    /// The length of the user's part of the text. The comment stands behind that.
    own: usize,
    comment: Comment,
    pub(super) bound: Vec<Bound>,
    marks: Vec<Mark>,
}

/// The parameter behind a `$n` or a `?`.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    /// The index of the endpoint's parameter, and of its value.
    pub(super) index: usize,
    pub(super) name: String,
    /// The client's name for it.
    wire_name: String,
    pub(super) kind: Type,
    /// The value is secret.
    is_hidden: bool,
}

impl Bound {
    pub(super) fn new(index: usize, param: &config::Param) -> Self {
        let config::Param { name, wire_name, kind, .. } = param;
        let (name, wire_name, is_hidden) = (name.clone(), wire_name.clone(), param.is_hidden());
        Self { index, name, wire_name, kind: *kind, is_hidden }
    }

    /// The error of a value that does not fit where the statement has the parameter.
    pub(super) fn refuse(&self, expected: String, received: String) -> Error {
        let received = (!self.is_hidden).then_some(received);
        Error::BadValue { param: self.wire_name.clone(), expected, received }
    }
}

/// The place of a parameter: the byte after it in [`Statement::text`], and in the text as written.
#[derive(Clone, Copy, Debug)]
struct Mark {
    text: usize,
    written: usize,
}

impl Statement {
    pub(super) fn new(sql: &config::Sql, params: &[config::Param], notation: Notation) -> Self {
        let (mut text, mut written) = (String::new(), 0);
        let (mut bound, mut marks) = (Vec::<Bound>::new(), Vec::new());
        for (piece, slot) in sql.pieces.iter().zip(&sql.slots) {
            let param = &params[*slot];
            text.push_str(piece);
            match notation {
                Notation::Numbered(sign) => {
                    let known = bound.iter().position(|bound| bound.index == *slot);
                    let number = known.unwrap_or(bound.len()) + 1;
                    if known.is_none() {
                        bound.push(Bound::new(*slot, param));
                    }
                    text.push(sign);
                    text.push_str(&number.to_string());
                }
                Notation::Positional => {
                    bound.push(Bound::new(*slot, param));
                    text.push('?');
                }
            }
            written += piece.len() + ":".len() + param.name.len();
            marks.push(Mark { text: text.len(), written });
        }
        text.push_str(sql.pieces.last().map_or("", String::as_str));
        Self { name: String::new(), own: text.len(), text, comment: Comment::default(), bound, marks }
    }

    /// The same statement with a name for traces.
    pub(super) fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// The same statement with a comment at its end.
    pub(super) fn with_comment(mut self, comment: Comment) -> Self {
        self.own = comment::end(&self.text);
        self.text.truncate(self.own);
        comment.write(&Comment::default(), &mut self.text);
        Self { comment, ..self }
    }

    /// The text with `request` in its comment. `None`: the statement has no comment, or `request` is empty.
    pub(super) fn text_for(&self, request: &Comment) -> Option<String> {
        if request.is_empty() || self.comment.is_empty() {
            return None;
        }
        let mut text = String::with_capacity(self.text.len() + 256);
        text.push_str(&self.text[..self.own]);
        self.comment.write(request, &mut text);
        Some(text)
    }

    /// The error, with its place in the user's own part of the text. If something is missing at the statement's end,
    /// the database points behind the comment.
    pub(super) fn before_comment(&self, mut error: Error) -> Error {
        if let Error::Refused(refusal) = &mut error
            && let Some(offset) = &mut refusal.offset
        {
            *offset = self.own.min(*offset);
        }
        error
    }

    /// Its name in a trace. Without one, its command.
    pub(super) fn name(&self) -> Cow<'static, str> {
        if self.name.is_empty() { command(&self.text) } else { Cow::Owned(self.name.clone()) }
    }

    /// The text that the database sees, unless its comment names a request too.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Name and declared type of the parameter that the database knows as `$number`, counted from 1.
    pub fn parameter(&self, number: usize) -> Option<(&str, Type)> {
        self.bound.get(number.checked_sub(1)?).map(|bound| (bound.name.as_str(), bound.kind))
    }

    /// Maps a byte of [`Statement::text`], such as [`Error::offset`], to the byte in the statement as the user wrote
    /// it, with its `:name`s.
    pub fn written_offset(&self, offset: usize) -> usize {
        let before = self.marks.iter().take_while(|mark| mark.text <= offset).last();
        before.map_or(offset, |mark| mark.written + (offset - mark.text))
    }
}

/// The command of a statement, which is its first word. Without parsing, the text tells no more for certain.
pub(super) fn command(sql: &str) -> Cow<'static, str> {
    const LONGEST: usize = 32;
    let word = sql.trim_start();
    let end = word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len());
    match &word[..end] {
        "" => "statement".into(),
        word if word.len() > LONGEST => "statement".into(),
        word => word.to_ascii_uppercase().into(),
    }
}

/// The first word behind comments.
pub(super) fn first_word(sql: &str) -> &str {
    let mut rest = sql.trim_start();
    loop {
        rest = if let Some(comment) = rest.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, after)| after)
        } else {
            break;
        }
        .trim_start();
    }
    rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default()
}

/// A database's description of a statement before it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// The columns that its rows have, in order.
    pub columns: Vec<Column>,
    /// The faults of the statement, each a sentence for the user: columns without a JSON form, and parameters whose declared type
    /// is not the one that the database expects.
    pub problems: Vec<String>,
}

/// A column of a statement's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The database's name of its type; empty where SQLite has none (an expression).
    pub type_name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(name: &str) -> config::Param {
        config::Param::new(name, config::Place::Query, Type::One(crate::base::value::Scalar::Int))
    }

    #[test]
    fn each_distinct_parameter_has_one_number() {
        let pieces = ["select ", " + ", " - ", ""].map(str::to_owned).to_vec();
        let sql = config::Sql { pieces, slots: vec![1, 0, 1] };
        let statement = Statement::new(&sql, &[param("a"), param("long")], Notation::Numbered('$'));
        assert_eq!(statement.text(), "select $1 + $2 - $1");
        assert_eq!(statement.bound.iter().map(|bound| bound.index).collect::<Vec<_>>(), [1, 0]);
        let written = "select :long + :a - :long";
        let of = |text: &str, from: &str| from.find(text).unwrap();
        assert_eq!(statement.written_offset(of("+", statement.text())), of("+", written));
        assert_eq!(statement.written_offset(of("-", statement.text())), of("-", written));
        assert_eq!(statement.written_offset(3), 3);
        let statement = Statement::new(&sql, &[param("a"), param("long")], Notation::Positional);
        assert_eq!(statement.text(), "select ? + ? - ?");
        assert_eq!(statement.bound.iter().map(|bound| bound.index).collect::<Vec<_>>(), [1, 0, 1]);
        assert_eq!(statement.written_offset(of("-", statement.text())), of("-", written));
    }

    #[test]
    fn a_comment_follows_the_statement_in_place_of_a_semicolon() {
        let sql = config::Sql { pieces: vec!["select ".to_owned(), " + \n;; ".to_owned()], slots: vec![0] };
        let plain = Statement::new(&sql, &[param("a")], Notation::Numbered('$'));
        let statement = plain.clone().with_comment(Comment::new([("route", "/;")]));
        assert_eq!(statement.text(), "select $1 + /*route='%2F%3B'*/");
        let request = Comment::new([("request_id", "7")]);
        let named = statement.text_for(&request);
        assert_eq!(named.as_deref(), Some("select $1 + /*request_id='7',route='%2F%3B'*/"));
        assert_eq!(statement.text_for(&Comment::default()), None);
        assert_eq!(plain.text_for(&request), None, "it has a comment of its own, or is no endpoint's");
    }
}
