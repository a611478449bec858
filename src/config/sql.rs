//! The SQL lexer: finds the `:name` places of a statement and the kind of the statement.
//!
//! Main thread, at startup. Knows the lexical rules that PostgreSQL and SQLite share, and those of MySQL ([`Dialect`]), not their
//! grammar. The database decides whether a statement makes sense, when `wharf check` prepares it. Comments nest, as in PostgreSQL,
//! but not in MySQL.
//!
//! A colon begins a parameter if a name follows (`[A-Za-z_][A-Za-z0-9_]*`). Colons in strings, quoted names, comments
//! and dollar quotes do not count, and neither does `::`. Inside `[…]`, a colon right after a name, a number, `]`, `)`
//! or a quote is an array slice. So `a[:i]` and `a[1 : :n]` have parameters, but `a[1:n]` has none.

mod dialect;
mod insert;

use std::ops::Range;

pub use self::dialect::Dialect;
pub(crate) use self::insert::InsertedRows;
use super::Sql;

/// One statement, lexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The text around the `:name` places. There is always one more piece than names.
    pub pieces: Vec<String>,
    /// The name at each place and the byte offset of its colon.
    pub names: Vec<(String, usize)>,
    /// Whether it changes data, or locks data to change it, so that a read-only transaction refuses it. A function that
    /// writes cannot be detected here. The database refuses such a call when it runs.
    pub writes: bool,
    /// Whether the database commits the transaction in which it stands, as MySQL does with a change of the schema.
    pub commits: bool,
}

/// Why a text is not one statement, and at which place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// The byte offset in the statement's text.
    pub offset: usize,
    /// The problem, and what to write instead.
    pub message: String,
}

impl Statement {
    /// Lexes one statement of PostgreSQL or SQLite.
    ///
    /// # Errors
    /// As [`parse_for`](Self::parse_for).
    pub fn parse(text: &str) -> Result<Self, SqlError> {
        Self::parse_for(text, Dialect::Standard)
    }

    /// Lexes one statement.
    ///
    /// # Errors
    /// A string, quoted name or comment does not end. There is no statement, or more than one. The statement controls
    /// transactions, changes the session beyond its transaction, or has positional parameters.
    pub fn parse_for(text: &str, dialect: Dialect) -> Result<Self, SqlError> {
        let tokens = Lexer::new(text, dialect).tokens()?;
        refuse_numbers(&tokens)?;
        let first = tokens.iter().find(|token| !matches!(token.kind, Kind::Open | Kind::Semicolon));
        let first = first.filter(|token| token.kind == Kind::Word);
        let first = first.ok_or_else(|| error(0, "there is no statement here"))?;
        refuse_transaction_control(text, first)?;
        refuse_session_state(text, first, &tokens, dialect)?;
        refuse_second_statement(&tokens)?;
        let commits = dialect.commits(&text[first.range.clone()].to_ascii_lowercase());
        let writes = commits || writes(text, first, &tokens, dialect);
        let mut statement = Self { pieces: Vec::new(), names: Vec::new(), writes, commits };
        let mut piece = 0;
        for place in tokens.iter().filter(|token| token.kind == Kind::Parameter) {
            statement.pieces.push(text[piece..place.range.start].to_owned());
            statement
                .names
                .push((text[place.range.start + 1..place.range.end].to_owned(), place.range.start));
            piece = place.range.end;
        }
        statement.pieces.push(text[piece..].to_owned());
        Ok(statement)
    }
}

impl Sql {
    /// Whether a text has a comment anywhere. The text may have `$1` in place of `:name`. A text that is not SQL counts
    /// as having one, because its end may belong to a comment.
    pub fn has_comment(&self, dialect: Dialect) -> bool {
        let text = self.pieces.join(":p");
        let mut lexer = Lexer::new(&text, dialect);
        lexer.tokens().is_err() || lexer.has_comment
    }
}

/// Refuses `$1` and MySQL's `?`, which would clash with the numbers that binding assigns.
fn refuse_numbers(tokens: &[Token]) -> Result<(), SqlError> {
    match tokens.iter().find(|token| token.kind == Kind::Number) {
        Some(number) => {
            let hint = "declare the parameter under `params` and write `:name`";
            Err(error(number.range.start, format!("parameters are written by name, not by number: {hint}")))
        }
        None => Ok(()),
    }
}

/// Refuses transaction control. The endpoint controls its transactions: a statement that ended one early would leave
/// the session, and its next borrower, without a transaction.
fn refuse_transaction_control(text: &str, first: &Token) -> Result<(), SqlError> {
    const CONTROL: [&str; 8] =
        ["abort", "begin", "commit", "end", "release", "rollback", "savepoint", "start"];
    let word = text[first.range.clone()].to_ascii_lowercase();
    if CONTROL.contains(&word.as_str()) {
        let hint = "the steps of an endpoint already run in one transaction; leave this statement out";
        return Err(error(first.range.start, format!("`{word}` controls transactions: {hint}")));
    }
    Ok(())
}

/// Refuses a statement that changes the session, because the next request that borrows the session would see the
/// change. Changes by a function cannot be detected here. The cleaning removes those when the session comes back.
fn refuse_session_state(
    text: &str,
    first: &Token,
    tokens: &[Token],
    dialect: Dialect,
) -> Result<(), SqlError> {
    const COMMANDS: [(&[&str], &str); 8] = [
        (
            &["set"],
            "write `set local` in a step, or set it for every session with database.connection_init_sql",
        ),
        (&["reset"], "leave it out: each request gets a session in the state in which it was opened"),
        (&["listen", "unlisten"], "leave it out: no client can receive a notification"),
        (&["load"], "load it for every session with database.connection_init_sql"),
        (&["declare", "fetch", "move", "close"], "write the cursor's statement as the endpoint's own"),
        (&["prepare", "execute", "deallocate"], "write the statement itself: each is prepared once"),
        (&["discard"], "leave it out: each request gets a session in the state in which it was opened"),
        (&["attach", "detach"], "attach the file for every session with database.connection_init_sql"),
    ];
    let word = |at: usize| {
        let token = tokens.get(at).filter(|token| token.kind == Kind::Word);
        token.map_or(String::new(), |token| text[token.range.clone()].to_ascii_lowercase())
    };
    let is_temporary = |at: usize| matches!(&*word(at), "temp" | "temporary");
    let start = tokens.iter().position(|token| token.range == first.range).unwrap_or_default();
    let refuse = |at: usize, what: &str, hint: &str| {
        let left = "would affect the next request on its session";
        Err(error(tokens[at].range.start, format!("what `{what}` leaves {left}: {hint}")))
    };
    let command = word(start);
    let is_local = command == "set" && word(start + 1) == "local" && dialect == Dialect::Standard;
    let known = dialect.session_commands().iter().chain(&COMMANDS);
    if let Some((_, hint)) = known.into_iter().find(|(words, _)| words.contains(&&*command))
        && !is_local
    {
        return refuse(start, &command, hint);
    }
    let assigns = |token: &Token| &text[token.range.clone()] == "=";
    if command == "pragma" && tokens.iter().any(assigns) {
        return refuse(start, "pragma", "set it for every session with database.connection_init_sql");
    }
    let table = "use a common table expression (`with x as (…)`), or a table that stays";
    if command == "create" && (is_temporary(start + 1) || is_temporary(start + 2)) {
        return refuse(start, "create temporary", table);
    }
    for at in 0..tokens.len() {
        let name = word(at);
        let inserts = matches!(&*word(at.wrapping_sub(1)), "insert" | "merge");
        if name == "into" && is_temporary(at + 1) && !inserts {
            return refuse(at, "into temporary", table);
        }
        let is_call = tokens.get(at + 1).is_some_and(|next| next.kind == Kind::Open);
        let is_lock = name
            .strip_prefix("pg_try")
            .or(name.strip_prefix("pg"))
            .is_some_and(|rest| rest == "_advisory_lock" || rest == "_advisory_lock_shared");
        if is_call && is_lock {
            let hint =
                format!("write `{}`, which ends with its transaction", name.replace("_lock", "_xact_lock"));
            return refuse(at, &name, &hint);
        }
        if is_call && dialect == Dialect::Mysql && name == "get_lock" {
            return refuse(at, &name, "use `select … for update`, whose lock ends with the transaction");
        }
        let lasts = |last: &str| last.eq_ignore_ascii_case("false");
        if is_call && name == "set_config" && last_argument(text, &tokens[at + 1..]).is_some_and(lasts) {
            return refuse(at, "set_config(…, false)", "write `true`, so that it ends with its transaction");
        }
    }
    Ok(())
}

/// The last word of a call. `tokens` begin with the call's parenthesis.
fn last_argument<'t>(text: &'t str, tokens: &[Token]) -> Option<&'t str> {
    let mut depth = 0;
    let end = tokens.iter().position(|token| {
        depth += match token.kind {
            Kind::Open => 1,
            Kind::Close => -1,
            _ => 0,
        };
        depth == 0
    })?;
    let last = tokens.get(end.checked_sub(1)?)?;
    (last.kind == Kind::Word).then(|| &text[last.range.clone()])
}

fn refuse_second_statement(tokens: &[Token]) -> Result<(), SqlError> {
    let mut after = tokens.iter().skip_while(|token| token.kind != Kind::Semicolon);
    match after.find(|token| token.kind != Kind::Semicolon) {
        Some(second) => {
            let hint = "write each as a step, [[endpoint.NAME.step]]; all steps run in one transaction";
            Err(error(second.range.start, format!("a second statement starts here: {hint}")))
        }
        None => Ok(()),
    }
}

fn error(offset: usize, message: impl Into<String>) -> SqlError {
    SqlError { offset, message: message.into() }
}

/// The first words of all commands of PostgreSQL and SQLite that do more than read. A misspelt word is not in the list,
/// and then only the database reports it.
const WRITE: [&str; 41] = [
    "alter",
    "analyze",
    "attach",
    "call",
    "checkpoint",
    "close",
    "cluster",
    "comment",
    "copy",
    "create",
    "deallocate",
    "declare",
    "delete",
    "detach",
    "discard",
    "do",
    "drop",
    "execute",
    "fetch",
    "grant",
    "import",
    "insert",
    "listen",
    "load",
    "lock",
    "merge",
    "move",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "replace",
    "reset",
    "revoke",
    "security",
    "set",
    "truncate",
    "unlisten",
    "update",
    "vacuum",
];

/// Decides by words alone: the statement's first word, `insert` and similar words where a statement may start, and `for
/// update`.
fn writes(text: &str, first: &Token, tokens: &[Token], dialect: Dialect) -> bool {
    let is = |at: usize, words: &[&str]| {
        tokens.get(at).is_some_and(|token| {
            let word = &text[token.range.clone()];
            token.kind == Kind::Word && words.iter().any(|wanted| word.eq_ignore_ascii_case(wanted))
        })
    };
    // A statement starts at the beginning, in a parenthesis (`with x as (insert …)`) or after one (`with x as (…)
    // insert …`). A word or a quoted name follows its keyword. That distinguishes the column in `(delete)` from
    // `(delete from …)`.
    let starts = |at: usize| {
        (at == 0 || matches!(tokens[at - 1].kind, Kind::Open | Kind::Close))
            && tokens.get(at + 1).is_some_and(|next| matches!(next.kind, Kind::Word | Kind::Quoted))
            && is(at, &["insert", "update", "delete", "merge"])
    };
    let locks = |at: usize| {
        is(at, &["for"])
            && (is(at + 1, &["update", "share"])
                || is(at + 1, &["no", "key"]) && is(at + 2, &["key", "share"]))
    };
    let first = text[first.range.clone()].to_ascii_lowercase();
    WRITE.contains(&first.as_str())
        || dialect.writes().contains(&first.as_str())
        || (0..tokens.len()).any(|at| starts(at) || locks(at))
}

#[derive(Debug)]
struct Token {
    kind: Kind,
    range: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A keyword, a name or a number.
    Word,
    /// A string or a quoted name.
    Quoted,
    Parameter,
    /// A positional parameter such as `$1` or `?`.
    Number,
    Open,
    Close,
    Semicolon,
    Other,
}

/// A piece of a statement.
enum Lexed {
    /// A space or a comment.
    Nothing,
    Token(Kind),
}

struct Lexer<'t> {
    text: &'t str,
    dialect: Dialect,
    at: usize,
    /// The number of open `[`. Only inside of them can a colon be a slice.
    brackets: usize,
    /// There was a comment before `at`.
    has_comment: bool,
    /// The beginning of the `/*! … */` in which `at` is.
    conditional: Option<usize>,
}

impl<'t> Lexer<'t> {
    fn new(text: &'t str, dialect: Dialect) -> Self {
        Self { text, dialect, at: 0, brackets: 0, has_comment: false, conditional: None }
    }

    fn tokens(&mut self) -> Result<Vec<Token>, SqlError> {
        let mut tokens = Vec::new();
        while let Some(byte) = self.peek(0) {
            let start = self.at;
            if let Some(kind) = self.token(byte)? {
                tokens.push(Token { kind, range: start..self.at });
            }
        }
        match self.conditional {
            Some(start) => Err(error(start, "this comment does not end; `*/` is missing")),
            None => Ok(tokens),
        }
    }

    /// Reads one token that starts with `byte`. Spaces and comments are no tokens.
    fn token(&mut self, byte: u8) -> Result<Option<Kind>, SqlError> {
        if self.dialect == Dialect::Mysql
            && let Some(token) = self.token_of_mysql(byte)?
        {
            return Ok(match token {
                Lexed::Nothing => None,
                Lexed::Token(kind) => Some(kind),
            });
        }
        match (byte, self.peek(1)) {
            (b'-', Some(b'-')) => self.line_comment(),
            (b'/', Some(b'*')) => self.block_comment()?,
            (b'\'', _) => return self.quoted("string", b'\'', false).map(Some),
            (b'E' | b'e', Some(b'\'')) => {
                self.at += 1;
                return self.quoted("string", b'\'', true).map(Some);
            }
            (b'"' | b'`', _) => return self.quoted("quoted name", byte, false).map(Some),
            (b'$', next) => return self.dollar(next).map(Some),
            (b':', next) => return Ok(Some(self.colon(next))),
            _ if byte.is_ascii_whitespace() => self.at += 1,
            _ if is_word(byte) => {
                self.skip_while(|byte| is_word(byte) || byte == b'$');
                return Ok(Some(Kind::Word));
            }
            _ => return Ok(Some(self.punctuation(byte))),
        }
        Ok(None)
    }

    /// Reads what MySQL reads otherwise. `None`: it has the same meaning as elsewhere.
    fn token_of_mysql(&mut self, byte: u8) -> Result<Option<Lexed>, SqlError> {
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        Ok(Some(match byte {
            b'#' => {
                self.line_comment();
                Lexed::Nothing
            }
            // A space, or the end, must follow the two signs.
            b'-' if rest.starts_with(b"--") && rest.get(2).is_some_and(|byte| *byte > b' ') => {
                self.at += 1;
                Lexed::Token(Kind::Other)
            }
            b'/' if rest.starts_with(b"/*!") || rest.starts_with(b"/*M!") => {
                self.has_comment = true;
                self.conditional.get_or_insert(start);
                self.at += if rest[2] == b'!' { 3 } else { 4 };
                // The least version of the server that runs the inside.
                self.skip_while(|byte| byte.is_ascii_digit());
                Lexed::Nothing
            }
            b'*' if rest.starts_with(b"*/") && self.conditional.is_some() => {
                self.conditional = None;
                self.at += 2;
                Lexed::Nothing
            }
            b'/' if rest.starts_with(b"/*") => {
                self.has_comment = true;
                let end = self.text[start + 2..].find("*/");
                let end = end.ok_or_else(|| error(start, "this comment does not end; `*/` is missing"))?;
                self.at += 2 + end + 2;
                Lexed::Nothing
            }
            b'\'' | b'"' => Lexed::Token(self.quoted("string", byte, true)?),
            b'E' | b'e' if rest.get(1) == Some(&b'\'') => {
                self.at += 1;
                Lexed::Token(Kind::Word)
            }
            b'?' => {
                self.at += 1;
                Lexed::Token(Kind::Number)
            }
            // It is a part of names, and begins no quote.
            b'$' => {
                self.skip_while(|byte| is_word(byte) || byte == b'$');
                Lexed::Token(Kind::Word)
            }
            b':' if rest.get(1) == Some(&b':') => {
                self.at += 2;
                Lexed::Token(Kind::Other)
            }
            b':' if self.conditional.is_some() && rest.get(1).is_some_and(|byte| is_word(*byte)) => {
                let reason = "whether this parameter counts depends on the server's version; write it outside of `/*! … */`";
                return Err(error(start, reason));
            }
            _ => return Ok(None),
        }))
    }

    fn punctuation(&mut self, byte: u8) -> Kind {
        self.at += 1;
        match byte {
            b'(' => return Kind::Open,
            b')' => return Kind::Close,
            b';' => return Kind::Semicolon,
            b'[' if self.dialect == Dialect::Standard => self.brackets += 1,
            b']' => self.brackets = self.brackets.saturating_sub(1),
            _ => {}
        }
        Kind::Other
    }

    fn colon(&mut self, next: Option<u8>) -> Kind {
        let behind_value = self.at > 0 && {
            let before = self.text.as_bytes()[self.at - 1];
            is_word(before) || matches!(before, b']' | b')' | b'\'' | b'"' | b'`')
        };
        match next {
            Some(b':') => self.at += 2,
            Some(b'A'..=b'Z' | b'a'..=b'z' | b'_') if !(self.brackets > 0 && behind_value) => {
                self.at += 1;
                self.skip_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                return Kind::Parameter;
            }
            _ => self.at += 1,
        }
        Kind::Other
    }

    fn line_comment(&mut self) {
        self.has_comment = true;
        self.skip_while(|byte| byte != b'\n');
    }

    fn block_comment(&mut self) -> Result<(), SqlError> {
        self.has_comment = true;
        let start = self.at;
        let mut depth = 0;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => (depth, self.at) = (depth + 1, self.at + 2),
                (Some(b'*'), Some(b'/')) => (depth, self.at) = (depth - 1, self.at + 2),
                (Some(_), _) => self.at += 1,
                (None, _) => {
                    return Err(error(start, "this comment does not end; `*/` is missing"));
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Reads from the opening quote past the closing one. A doubled quote belongs to the text, and so does a quote
    /// after a backslash in `E'…'`.
    fn quoted(&mut self, what: &str, quote: u8, backslashes: bool) -> Result<Kind, SqlError> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            let escaped =
                if byte == quote { self.peek(1) == Some(quote) } else { backslashes && byte == b'\\' };
            // An escape at the very end moves `at` past the text. Nothing closes the quote there either.
            self.at += if escaped { 2 } else { 1 };
            if byte == quote && !escaped {
                return Ok(Kind::Quoted);
            }
        }
        Err(error(start, format!("this {what} does not end; `{}` is missing", char::from(quote))))
    }

    /// Reads `$$…$$`, `$tag$…$tag$` and `$1`. A single `$` belongs to an operator.
    fn dollar(&mut self, next: Option<u8>) -> Result<Kind, SqlError> {
        let start = self.at;
        self.at += 1;
        if next.is_some_and(|byte| byte.is_ascii_digit()) {
            self.skip_while(is_word);
            return Ok(Kind::Number);
        }
        self.skip_while(is_word);
        if self.peek(0) != Some(b'$') {
            return Ok(Kind::Other);
        }
        self.at += 1;
        let tag = &self.text[start..self.at];
        let Some(end) = self.text[self.at..].find(tag) else {
            return Err(error(start, format!("this dollar quote does not end; `{tag}` is missing")));
        };
        self.at += end + tag.len();
        Ok(Kind::Quoted)
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&wanted) {
            self.at += 1;
        }
    }
}

/// The bytes of names, keywords and numbers. Every non-ASCII character may be part of a name.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(sql: &str) -> Vec<String> {
        let statement = Statement::parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        statement.names.into_iter().map(|(name, _)| name).collect()
    }

    fn refusal(sql: &str) -> (usize, String) {
        let error = Statement::parse(sql).expect_err(sql);
        (error.offset, error.message)
    }

    #[test]
    fn parameters_split_the_text() {
        let statement = Statement::parse("select * from t where a=:a and b = :b_2;").expect("one statement");
        assert_eq!(statement.pieces, ["select * from t where a=", " and b = ", ";"]);
        assert_eq!(statement.names, [("a".into(), 24), ("b_2".into(), 35)]);
    }

    #[test]
    fn a_colon_is_a_parameter_only_where_sql_has_no_other_use_for_it() {
        let cases: [(&str, &[&str]); 24] = [
            ("select ':a', 'it''s :b', '\\', :c", &["c"]),
            (r"select E'\':a', e'\\', :b", &["b"]),
            (r#"select ":a", "x"":b", `:c`, :d"#, &["d"]),
            ("select 1 -- :a\n, :b", &["b"]),
            ("select 1 /* :a /* :b */ :c */, :d", &["d"]),
            ("select $$ :a $$, $x$ :b $$ :c $x$, :d", &["d"]),
            ("select a$b$:c from t where x = $b$ :d $b$", &["c"]),
            ("select :a::int, '1'::text, x :: int", &["a"]),
            ("select f(x := :a, y:=:b)", &["a", "b"]),
            ("select a[1:2], a[:i], a[:i::n], a[n:m]", &["i", "i"]),
            ("select a[f(1):n], a[b[1]:n], a['x':n]", &[]),
            ("select a[1 : :n], a[:i : :n]", &["n", "i", "n"]),
            ("select array[:a,:b]", &["a", "b"]),
            ("select case when 1=1then:a end", &["a"]),
            ("select (:a),:b+:c", &["a", "b", "c"]),
            ("select :a||:a", &["a", "a"]),
            ("select x:1, x : y, :é, :1", &[]),
            ("select naïve:a, 'ü' || :b", &["a", "b"]),
            ("select a - -:b, a->>:c, a/:d, a @> :e", &["b", "c", "d", "e"]),
            ("select '::' || :a::text || ':'", &["a"]),
            ("select '/*', :a, '*/'", &["a"]),
            ("select \"--\", :a", &["a"]),
            ("select :::a", &["a"]),
            ("select j ? 'k', a $ :b", &["b"]),
        ];
        for (sql, expected) in cases {
            assert_eq!(names(sql), expected, "{sql}");
        }
    }

    #[test]
    fn mysql_has_other_quotes_and_comments() {
        let parse = |sql: &str| Statement::parse_for(sql, Dialect::Mysql);
        let cases: [(&str, &[&str]); 13] = [
            (r"select '\':a', '\\', :b", &["b"]),
            (r#"select "it's \":a", "x"":b", :c"#, &["c"]),
            ("select `:a```, :b", &["b"]),
            ("select 1 # :a\n, :b", &["b"]),
            ("select 1 -- :a\n, :b", &["b"]),
            ("select 1--:a", &["a"]),
            ("select 1 /* :a /* :b */, :c", &["c"]),
            ("select /*!50000 straight_join */ :a", &["a"]),
            ("select /*M!100100 1, */ :a", &["a"]),
            ("select a$b, :c, $$ , :d", &["c", "d"]),
            ("select @a := :b, :c", &["b", "c"]),
            ("select e'x:a', :b", &["b"]),
            ("select json_extract(j, '$[0]'), a[:b]", &["b"]),
        ];
        for (sql, expected) in cases {
            let statement = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
            let names: Vec<_> = statement.names.iter().map(|(name, _)| &**name).collect();
            assert_eq!(names, expected, "{sql}");
        }
        for (sql, reason) in [
            ("select ?", ":name"),
            ("select /*! 1", "does not end"),
            ("select /* 1", "does not end"),
            ("select '\\'", "does not end"),
            ("select /*!50000 :a */ 1", "version"),
            ("set @a = 1", "connection_init_sql"),
            ("use d", "database.table"),
            ("lock tables t read", "for update"),
            ("select get_lock('a', 1)", "for update"),
            ("select 1 # ;\n; select 2", "second statement"),
        ] {
            let error = parse(sql).expect_err(sql);
            assert!(error.message.contains(reason), "{sql}: {error}");
        }
        for sql in ["create table t (a int)", "truncate t", "rename table a to b"] {
            let statement = parse(sql).expect(sql);
            assert!(statement.commits && statement.writes, "{sql}");
            assert!(!Statement::parse(sql).expect(sql).commits, "{sql}");
        }
    }

    #[test]
    fn an_open_string_or_comment_is_an_error_where_it_starts() {
        for (sql, offset) in [
            ("select 'a", 7),
            ("select 'a''", 7),
            (r"select E'a\'", 8),
            ("select E'\\", 8),
            ("select \"a", 7),
            ("select 1 /* /* */", 9),
            ("select /*/", 7),
            ("select $$a$", 7),
            ("select $x$a$$", 7),
        ] {
            let (at, message) = refusal(sql);
            assert_eq!(at, offset, "{sql}: {message}");
            assert!(message.contains("does not end"), "{sql}: {message}");
        }
    }

    #[test]
    fn one_statement_is_accepted_without_transaction_control() {
        assert!(refusal("select 1; select 2").1.contains("[[endpoint.NAME.step]]"));
        assert_eq!(refusal("select 1; select 2").0, 10);
        assert!(names("select ';' -- ;\n;; /* ; */ ;").is_empty());
        for sql in ["BEGIN", " commit;", "/* x */ rollback to a", "savepoint a", "start transaction", "end"] {
            assert!(refusal(sql).1.contains("controls transactions"), "{sql}");
        }
        for sql in ["", " ", ";", "-- nothing", "()"] {
            assert!(Statement::parse(sql).is_err(), "{sql:?}");
        }
        assert!(refusal("select $1").1.contains(":name"));
        assert!(refusal("insert into t values (1); commit").1.contains("second statement"));
    }

    #[test]
    fn writes_are_found_at_the_start_in_a_parenthesis_and_after_one() {
        for sql in [
            "insert into t values (1)",
            "UPDATE t set a = 1",
            "with x as (insert into t values (1) returning a) select a from x",
            "with x as (select 1) delete from t",
            "with x as (select 1) update \"t\" set a = 1",
            "with x as (/* y */ merge into t using x) select 1",
            "replace into t values (1)",
            "create table t (a int)",
            "(select 1) union all (select 2 for update)",
            "select 1 from t for no key update",
            "select 1 from t for key share skip locked",
            "call f()",
            "do $$ begin end $$",
        ] {
            assert!(Statement::parse(sql).expect(sql).writes, "{sql}");
        }
        for sql in [
            "select 'insert into t', \"update\" from t",
            "(select 1) union (select 2)",
            "with x as (select a from t) select * from x",
            "values (1)",
            "select replace(a, 'x', 'y'), (replace(a, 'x', 'y')) from t",
            "select (delete) from t where updated > 1 -- update t",
            "select insert_time, t.update from t",
            "select substring(a for 3) from t",
            "selct a from t",
        ] {
            assert!(!Statement::parse(sql).expect(sql).writes, "{sql}");
        }
    }

    #[test]
    fn changes_to_the_session_are_refused_with_an_alternative() {
        for (sql, word) in [
            ("set role x", "set local"),
            ("-- y\n SET search_path to z", "connection_init_sql"),
            ("reset all", "in the state in which it was opened"),
            ("listen x", "notification"),
            ("create temp table x (a int)", "with x as"),
            ("create local temporary table x (a int)", "with x as"),
            ("select 1 as a into temp b", "with x as"),
            ("select set_config('a.b', lower(:x), FALSE)", "`true`"),
            ("select pg_try_advisory_lock_shared(1)", "pg_try_advisory_xact_lock_shared"),
            ("select pg_catalog.pg_advisory_lock(1)", "pg_advisory_xact_lock"),
            ("attach 'x.db' as x", "connection_init_sql"),
            ("pragma foreign_keys = off", "connection_init_sql"),
            ("discard all", "in the state in which it was opened"),
            ("declare c cursor for select 1", "cursor"),
        ] {
            let (_, message) = refusal(sql);
            assert!(message.contains("next request") && message.contains(word), "{sql}: {message}");
        }
        for sql in [
            "set local role x",
            "select set_config('a.b', :x, true)",
            "select set_config('a.b', :x, :local)",
            "select pg_advisory_xact_lock(1)",
            "insert into temp values (1)",
            "update t set a = 1",
            "pragma table_info(t)",
            "select 'listen', \"set\", pg_advisory_lock from t",
            "create table temp_x (a int)",
        ] {
            assert!(Statement::parse(sql).is_ok(), "{sql}: {:?}", Statement::parse(sql));
        }
    }

    #[test]
    fn comments_are_found_where_the_database_finds_them() {
        let has_comment = |sql: &str| {
            let pieces = Statement::parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}")).pieces;
            Sql { slots: vec![0; pieces.len() - 1], pieces }.has_comment(Dialect::Standard)
        };
        for sql in
            ["select 1 -- one", "/* one */ select 1", "select :a /**/ + :b", "select 1; --", "select 1--"]
        {
            assert!(has_comment(sql), "{sql}");
        }
        for sql in
            ["select '--', \"/*\", $$ -- $$", "select :a - -:b", "select 1 / :a * 2", "select a[:i:2];"]
        {
            assert!(!has_comment(sql), "{sql}");
        }
        assert!(!Sql::without_parameters("select $1, '--'").has_comment(Dialect::Standard));
        assert!(Sql::without_parameters("select $1 -- one").has_comment(Dialect::Standard));
        assert!(
            Sql::without_parameters("select 'x").has_comment(Dialect::Standard),
            "its end is in the string"
        );
    }

    /// Fragments with a meaning for the lexer, so that random texts reach its special cases.
    fn nasty() -> impl Strategy<Value = String> {
        let fragment = prop::sample::select(vec![
            "'", "''", "\"", "`", "#", "/*!", "E'", "\\", "--", "\n", "/*", "*/", "$$", "$a$", "$1", "::",
            ":", ":=", ":a", ":b1", "[", "]", "(", ")", ";", "select ", "update ", "1", "é", " ", "?", "x",
        ]);
        prop::collection::vec(fragment, 0..20).prop_map(|fragments| fragments.concat())
    }

    proptest! {
        #[test]
        fn the_pieces_and_the_names_are_the_text(sql in nasty(), is_mysql: bool) {
            let dialect = if is_mysql { Dialect::Mysql } else { Dialect::Standard };
            if let Ok(statement) = Statement::parse_for(&sql, dialect) {
                prop_assert_eq!(statement.pieces.len(), statement.names.len() + 1);
                let mut text = statement.pieces[0].clone();
                for ((name, offset), piece) in statement.names.iter().zip(&statement.pieces[1..]) {
                    prop_assert_eq!(*offset, text.len());
                    text = format!("{text}:{name}{piece}");
                }
                prop_assert_eq!(text, sql);
            }
        }

        #[test]
        fn what_is_quoted_has_no_parameters(inside in nasty()) {
            let quoted = format!("select '{}', \"{}\"", inside.replace('\'', "''"), inside.replace('"', "\"\""));
            prop_assert_eq!(names(&quoted), Vec::<String>::new());
        }

        #[test]
        fn an_error_points_into_the_text(sql in nasty(), is_mysql: bool) {
            let dialect = if is_mysql { Dialect::Mysql } else { Dialect::Standard };
            if let Err(error) = Statement::parse_for(&sql, dialect) {
                prop_assert!(sql.get(error.offset..).is_some());
            }
        }
    }
}
