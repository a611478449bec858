//! The number of rows of an `insert … values (…) returning …`, as far as its text shows it.
//!
//! Any thread, pure. The rules are PostgreSQL's. A text that is not understood in every part has no answer.

use super::{Dialect, Kind, Lexer, Token};
use crate::config::Sql;

/// The rows that an insert of one tuple returns, if neither a trigger nor a rule of the table interferes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InsertedRows {
    /// Exactly one.
    One,
    /// One, or none because the row conflicts with another one.
    AtMostOne,
}

/// Calls that return one value, by their names. Other functions in a tuple may return several rows or none: PostgreSQL inserts
/// one row for each then.
const SINGLE_VALUED: [&str; 10] = [
    "clock_timestamp",
    "coalesce",
    "gen_random_uuid",
    "greatest",
    "least",
    "now",
    "nullif",
    "random",
    "statement_timestamp",
    "transaction_timestamp",
];

impl Sql {
    /// The rows that the statement returns if it is an insert of a single tuple. `None`: it is another statement, or its text
    /// does not show the number of rows. The text has `$1` in place of `:name`.
    pub(crate) fn inserted_rows(&self) -> Option<InsertedRows> {
        let text = self.pieces.join("$1");
        // Where `standard_conforming_strings` is off, a backslash may hide the end of a string.
        if text.contains('\\') {
            return None;
        }
        let tokens = Lexer::new(&text, Dialect::Standard).tokens().ok()?;
        Tokens { text: &text, rest: &tokens }.insert()
    }
}

/// The tokens that are not read yet.
struct Tokens<'t> {
    text: &'t str,
    rest: &'t [Token],
}

impl<'t> Tokens<'t> {
    fn insert(mut self) -> Option<InsertedRows> {
        self.take_word("insert")?;
        self.take_word("into")?;
        self.take_name()?;
        if self.is_word(0, "as") {
            self.rest = &self.rest[1..];
            self.take_name()?;
        }
        if self.is(0, Kind::Open) {
            self.take_parenthesis()?;
        }
        if self.is_word(0, "overriding") {
            self.rest = self.rest.get(3..)?;
        }
        self.take_word("values")?;
        let tuple = self.take_parenthesis()?;
        if !(Tokens { text: self.text, rest: tuple }).are_single_values() {
            return None;
        }
        let rows = if self.is_word(0, "on") { self.take_conflict()? } else { InsertedRows::One };
        self.is_word(0, "returning").then_some(rows)
    }

    /// Takes the conflict clause, up to `returning`.
    fn take_conflict(&mut self) -> Option<InsertedRows> {
        let end = self.position("returning")?;
        let clause = Tokens { text: self.text, rest: &self.rest[..end] };
        self.rest = &self.rest[end..];
        let action = Tokens { text: self.text, rest: &clause.rest[clause.position("do")?..] };
        let updates = action.is_word(1, "update") && action.position("where").is_none();
        Some(if updates { InsertedRows::One } else { InsertedRows::AtMostOne })
    }

    /// Whether each of a tuple's expressions has one value: parameters, literals, `default`, casts, and well-known functions.
    fn are_single_values(&self) -> bool {
        const NO_VALUE: [&str; 7] = ["select", "with", "values", "table", "like", "ilike", "similar"];
        (0..self.rest.len()).all(|at| match self.rest[at].kind {
            Kind::Word if self.is(at + 1, Kind::Open) => {
                SINGLE_VALUED.iter().any(|name| self.is_word(at, name))
                    && !(at > 0 && self.is_text(at - 1, "."))
            }
            Kind::Word => !NO_VALUE.iter().any(|word| self.is_word(at, word)),
            Kind::Quoted => !self.is(at + 1, Kind::Open),
            Kind::Number | Kind::Open | Kind::Close => true,
            // Behind a value, a dot may call a function.
            Kind::Other if self.is_text(at, ".") => at > 0 && self.is(at - 1, Kind::Word),
            // Other operators may be defined by a function that returns rows.
            Kind::Other => [",", "::", "[", "]"].iter().any(|sign| self.is_text(at, sign)),
            Kind::Parameter | Kind::Semicolon => false,
        })
    }

    /// The place of a word outside of all parentheses.
    fn position(&self, word: &str) -> Option<usize> {
        let mut depth = 0_usize;
        (0..self.rest.len()).find(|at| {
            match self.rest[*at].kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && self.is_word(*at, word)
        })
    }

    /// Takes a name with or without its schema.
    fn take_name(&mut self) -> Option<()> {
        loop {
            let name = self.rest.first()?;
            if !matches!(name.kind, Kind::Word | Kind::Quoted) {
                return None;
            }
            self.rest = &self.rest[1..];
            if !self.is_text(0, ".") {
                return Some(());
            }
            self.rest = &self.rest[1..];
        }
    }

    /// Takes a parenthesis with all that it encloses. Returns the inside.
    fn take_parenthesis(&mut self) -> Option<&'t [Token]> {
        let mut depth = 0_usize;
        let end = self.rest.iter().position(|token| {
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0
        })?;
        let inside = self.rest.get(1..end)?;
        self.rest = &self.rest[end + 1..];
        Some(inside)
    }

    fn take_word(&mut self, word: &str) -> Option<()> {
        if !self.is_word(0, word) {
            return None;
        }
        self.rest = &self.rest[1..];
        Some(())
    }

    fn is(&self, at: usize, kind: Kind) -> bool {
        self.rest.get(at).is_some_and(|token| token.kind == kind)
    }

    fn is_word(&self, at: usize, word: &str) -> bool {
        self.is(at, Kind::Word) && self.token_text(at).eq_ignore_ascii_case(word)
    }

    fn is_text(&self, at: usize, text: &str) -> bool {
        at < self.rest.len() && self.token_text(at) == text
    }

    fn token_text(&self, at: usize) -> &'t str {
        &self.text[self.rest[at].range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(sql: &str) -> Option<InsertedRows> {
        Sql::without_parameters(sql).inserted_rows()
    }

    #[test]
    fn one_tuple_of_plain_values_is_one_row() {
        for sql in [
            "insert into t values ($1) returning id",
            "INSERT INTO \"a b\".t AS x (a, b) VALUES ($1, 'x, (y') RETURNING a, b;",
            "insert into t (a, b, c) values (default, $1::text, now()) returning a /* route='x' */",
            "insert into t (a) overriding system value values (1.5) returning *",
            "insert into t values (coalesce($1, $2), array[$3], $$ ( $$) returning id",
            "insert into t values ($1) on conflict (id) where a > f(1) do update set a = excluded.a returning id",
            "insert into t values ($1) on conflict (id) do update set a = (select b from u where c) returning id",
        ] {
            assert_eq!(rows(sql), Some(InsertedRows::One), "{sql}");
        }
    }

    #[test]
    fn a_conflict_may_leave_no_row() {
        for sql in [
            "insert into t values ($1) on conflict do nothing returning id",
            "insert into t values ($1) on conflict (id) do update set a = 1 where t.a > f(t.a) returning id",
        ] {
            assert_eq!(rows(sql), Some(InsertedRows::AtMostOne), "{sql}");
        }
    }

    #[test]
    fn other_statements_have_no_known_number_of_rows() {
        for sql in [
            "insert into t values ($1)",
            "insert into t values ($1), ($2) returning id",
            "insert into t select $1 returning id",
            "insert into t default values returning id",
            "insert into t values (generate_series(1, 10)) returning id",
            "insert into t values (a.now()) returning id",
            "insert into t values (\"unnest\"($1)) returning id",
            "insert into t values (($1::u).f) returning id",
            "insert into t values ((select 1)) returning id",
            "insert into t values ($1 #> $2) returning id",
            "insert into t values ('\\') returning id') returning id",
            "insert into t values ($1 returning id",
            "with x as (select 1) insert into t values ($1) returning id",
            "update t set a = 1 returning id",
            "replace into t values (1) returning id",
            "insert into t values ($1) on conflict do nothing",
        ] {
            assert_eq!(rows(sql), None, "{sql}");
        }
    }
}
