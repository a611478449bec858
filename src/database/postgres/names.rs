//! The names in a statement's text, and the question to PostgreSQL's catalog about them.
//!
//! Owns [`Names`]. The planner tells nothing about a write. It also takes `random()` for a function that may change the
//! session. For such statements the catalog is asked about everything that a name in the text may mean: functions, and
//! tables with their triggers, rules, policies, defaults, constraints and indexes. All schemas are looked at, so the
//! answer does not depend on the `search_path`. A text with anything unusual in it has no names here. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The names in a statement that only reads or writes rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// Each name, and whether it may be called as one of PostgreSQL's own functions. Keywords are among them.
    all: BTreeMap<Box<str>, bool>,
    writes: bool,
}

impl Names {
    /// The names in the statement, if it is a plain write or a `select` that calls `random()`, and if nothing in it is
    /// unusual.
    pub(super) fn of(sql: &str) -> Option<Self> {
        const WRITES: [&str; 3] = ["insert", "update", "delete"];
        let mut all = BTreeMap::new();
        let (mut first, mut last, mut before_last) = (None, Token::Other, Token::Other);
        let mut rest = behind_blanks(sql)?;
        while !rest.is_empty() {
            let (token, behind) = token(rest)?;
            rest = behind_blanks(behind)?;
            match (&token, &last) {
                (Token::Name(name), _) => {
                    first.get_or_insert_with(|| name.clone());
                    // `(1).f` calls `f`. In `t.f`, only functions of whole rows can be meant.
                    let is_called = matches!(last, Token::Dot) && !matches!(before_last, Token::Name(_));
                    *all.entry(name.clone()).or_insert(false) |= is_called;
                }
                (Token::Opening, Token::Name(name)) => _ = all.insert(name.clone(), true),
                (Token::End, _) if !rest.is_empty() => return None,
                _ => {}
            }
            (before_last, last) = (last, token);
        }
        let first = first?;
        let writes = WRITES.contains(&&*first);
        let calls_random = || RANDOM.iter().any(|name| all.get(*name) == Some(&true));
        // SELECT INTO makes a table, which may be a temporary one.
        let reads = || &*first == "select" && !all.contains_key("into") && calls_random();
        (writes || reads()).then_some(Self { all, writes })
    }

    /// A query for the state that the statement may leave on its session: [`NOTHING`], [`NUMBERS`], or anything else.
    ///
    /// Functions that are parallel safe change nothing of the session (the manual, 15.4). The functions in
    /// [`RANDOM`] are restricted because each process has a seed of its own. No SQL can read the seed, and whether
    /// `setseed` makes later numbers predictable is not a secret that a request has from the next one.
    ///
    /// A function that is named nowhere in the text can come from a table, or from an operator, a cast, a type or an
    /// index's support function. PostgreSQL's own operators, casts and types are harmless. If anybody made one whose
    /// function is not parallel safe, no statement is taken as harmless.
    pub(super) fn question(&self) -> String {
        let mut named = String::new();
        for (name, is_called) in &self.all {
            let comma = if named.is_empty() { "" } else { ", " };
            // Names have neither quotes nor backslashes.
            let written = write!(named, "{comma}('{name}'::pg_catalog.name, {is_called})");
            debug_assert!(written.is_ok(), "a String takes all");
        }
        let writes = self.writes;
        let harmless =
            if writes { "'random', 'random_normal', 'nextval'" } else { "'random', 'random_normal'" };
        format!(
            "with named(name, is_called) as materialized (values {named}), \
             tables as materialized (select pg_class.* from named join pg_catalog.pg_class on relname = name \
                 where relkind not in ('i', 'I', 't', 'S', 'c')), \
             domains as materialized (select oid, typdefaultbin from pg_catalog.pg_type \
                 where oid >= 16384 and typtype = 'd'), \
             trees(tree) as ( \
                 select adbin::text from tables join pg_catalog.pg_attrdef on adrelid = tables.oid \
                     join pg_catalog.pg_attribute on attrelid = adrelid and attnum = adnum \
                     where {writes} or attgenerated <> '' \
                 union all select conbin::text from tables join pg_catalog.pg_constraint on conrelid = tables.oid \
                 union all select pg_catalog.concat(indexprs::text, indpred::text) \
                     from tables join pg_catalog.pg_index on indrelid = tables.oid \
                 union all select conbin::text from domains join pg_catalog.pg_constraint \
                     on conrelid = 0 and contypid = domains.oid \
                 union all select typdefaultbin::text from domains), \
             calls(called) as materialized (select distinct \
                 (pg_catalog.regexp_matches(tree, ':funcid ([0-9]+)', 'g'))[1]::pg_catalog.oid from trees), \
             functions as materialized ( \
                 select pg_proc.oid, proname, proparallel, pronargdefaults \
                     from named join pg_catalog.pg_proc on proname = name where is_called or pg_proc.oid >= 16384 \
                 union all select pg_proc.oid, proname, proparallel, pronargdefaults \
                     from calls join pg_catalog.pg_proc on pg_proc.oid = called), \
             unsafe as materialized (select oid from pg_catalog.pg_proc where oid >= 16384 and proparallel <> 's') \
             select case when \
             exists (select from functions where proparallel <> 's' and not (oid < 16384 and proname in ({harmless})) \
                 or oid >= 16384 and pronargdefaults > 0) \
             or exists (select from tables where oid < 16384 or relkind <> 'r' or relam <> 2 or relpersistence = 't' \
                 or relrowsecurity or relhasrules or relhassubclass or relispartition) \
             or {writes} and exists (select from tables join pg_catalog.pg_trigger on tgrelid = tables.oid \
                 left join pg_catalog.pg_proc on pg_proc.oid = tgfoid \
                 where not (tgisinternal and tgfoid < 16384 and proname in ('RI_FKey_check_ins', 'RI_FKey_check_upd', \
                     'RI_FKey_noaction_del', 'RI_FKey_noaction_upd', 'RI_FKey_restrict_del', 'RI_FKey_restrict_upd'))) \
             or exists (select from tables join pg_catalog.pg_statistic_ext on stxrelid = tables.oid \
                 where 'e' = any (stxkind)) \
             or exists (select from unsafe join pg_catalog.pg_operator on oprcode = unsafe.oid) \
             or exists (select from unsafe join pg_catalog.pg_cast on castfunc = unsafe.oid) \
             or exists (select from unsafe join pg_catalog.pg_amproc on amproc = unsafe.oid) \
             or exists (select from unsafe join pg_catalog.pg_range on unsafe.oid in (rngcanonical, rngsubdiff)) \
             or exists (select from unsafe join pg_catalog.pg_type \
                 on unsafe.oid in (typinput, typoutput, typreceive, typsend, typmodin, typmodout)) \
             then 'anything' when {writes} and (exists (select from functions where oid < 16384 and proname = 'nextval') \
                 or exists (select from tables join pg_catalog.pg_attribute on attrelid = tables.oid \
                     where attidentity <> '')) \
             then '{NUMBERS}' else '{NOTHING}' end"
        )
    }
}

/// The functions that only use a seed of their process.
const RANDOM: [&str; 2] = ["random", "random_normal"];

/// The answer about a statement that leaves nothing on its session.
pub(super) const NOTHING: &str = "nothing";

/// The answer about a statement that leaves at most the last numbers of sequences, for `currval` and `lastval`.
pub(super) const NUMBERS: &str = "numbers";

/// PostgreSQL cuts longer names.
const NAME_BYTES_MAX: usize = 63;

enum Token {
    /// A name or a keyword. PostgreSQL folds it to lower case if it is not quoted.
    Name(Box<str>),
    /// An opening parenthesis.
    Opening,
    /// The dot before a part of something.
    Dot,
    /// A semicolon.
    End,
    /// Anything that names nothing.
    Other,
}

/// The first token of the text, and the text behind it. `None`: it may be anything.
fn token(text: &str) -> Option<(Token, &str)> {
    let first = text.bytes().next()?;
    let one = |token| Some((token, &text[1..]));
    match first {
        b'(' => one(Token::Opening),
        b';' => one(Token::End),
        b'.' => one(Token::Dot),
        b')' | b',' | b'+' | b'-' | b'*' | b'/' | b'<' | b'>' | b'=' | b'~' | b'!' | b'@' | b'#' | b'%'
        | b'^' | b'&' | b'|' | b'`' | b'?' => one(Token::Other),
        b':' => Some((Token::Other, text.strip_prefix("::")?)),
        b'\'' => Some((Token::Other, behind_string(text)?)),
        b'"' => {
            let (name, behind) = text[1..].split_once('"')?;
            let is_usual = name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
                && !name.contains(['\'', '\\'])
                && !behind.starts_with('"');
            (is_usual && name.len() <= NAME_BYTES_MAX).then(|| (Token::Name(name.into()), behind))
        }
        // A parameter. A string in dollars may begin otherwise.
        b'$' => {
            let behind = text[1..].trim_start_matches(|letter: char| letter.is_ascii_digit());
            (behind.len() + 1 < text.len() && !behind.starts_with(continues_name))
                .then_some((Token::Other, behind))
        }
        b'0'..=b'9' => {
            let behind = text.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
            (!behind.starts_with(continues_name)).then_some((Token::Other, behind))
        }
        b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
            let behind = text.trim_start_matches(continues_name);
            let name = &text[..text.len() - behind.len()];
            // A string with a prefix has rules of its own: e'', b'', x'', n'', u&''.
            let is_prefix =
                behind.starts_with(['\'', '"']) || name.eq_ignore_ascii_case("u") && behind.starts_with('&');
            let name = name.to_ascii_lowercase();
            (!is_prefix && name.is_ascii() && name.len() <= NAME_BYTES_MAX)
                .then(|| (Token::Name(name.into()), behind))
        }
        _ => None,
    }
}

/// Whether a name goes on with this letter. Letters outside ASCII are among them, because they are not looked at
/// elsewhere.
fn continues_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '$') || !letter.is_ascii()
}

/// The text behind the string with which it begins. A backslash may have a meaning of its own.
fn behind_string(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('\'')?;
    loop {
        let at = rest.find(['\'', '\\'])?;
        let behind = rest[at..].strip_prefix('\'')?;
        match behind.strip_prefix('\'') {
            Some(more) => rest = more,
            None => return Some(behind),
        }
    }
}

/// The text behind blanks and comments. `None`: a comment has no end, or another one begins in it.
fn behind_blanks(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.find(['\n', '\r']).map_or("", |end| &comment[end..]);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            let (comment, behind) = comment.split_once("*/")?;
            if comment.contains("/*") {
                return None;
            }
            rest = behind;
        } else {
            return Some(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of a statement. Called ones end with a parenthesis.
    fn names(sql: &str) -> Option<String> {
        let names = Names::of(sql)?;
        let each =
            names.all.iter().map(|(name, is_called)| format!("{name}{}", if *is_called { "(" } else { "" }));
        Some(each.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn names_are_those_outside_of_strings_and_comments() {
        let read = "/* a */ select Random -- b\n () , 'it''s random()', \"A b\".c, $1::int, 1.5 ;";
        assert_eq!(names(read).as_deref(), Some("A b c int random( select"));
        let write = "insert into t(a, b) values ($1, lower('x')) returning (a).f, (b . g)";
        assert_eq!(names(write).as_deref(), Some("a b f( g insert into lower( returning( t( values("));
        assert_eq!(names("update t set n = $1.f+1--").as_deref(), Some("f( n set t update"));
        assert_eq!(names("delete from \"T\" where a >= -.5").as_deref(), Some("T a delete from where"));
    }

    #[test]
    fn only_plain_writes_and_random_reads_have_names() {
        for sql in [
            "select 1",
            "select random",
            "select 'random()'",
            "with a as (select random()) select 1",
            "call f()",
            "",
        ] {
            assert_eq!(names(sql), None, "{sql}");
        }
        assert_eq!(names("select random() into t"), None);
        assert!(names("select random()").is_some() && names("SELECT pg_catalog.\"random\"()").is_some());
    }

    #[test]
    fn a_text_with_anything_unusual_has_no_names() {
        for unusual in [
            "e'a'",
            "U&'a'",
            "u&\"a\"",
            "b'1'",
            "'a\\'",
            "'",
            "$$a$$",
            "$a$ $a$",
            "$1a",
            "\"a\"\"b\"",
            "\"a'\"",
            "\"a",
            "é",
            "aé",
            "\"é\"",
            "\u{a0}",
            "\x0b",
            "a[1]",
            "f(a := 1)",
            "/* /* */ */",
            "/*",
            "; select 2",
            "1e5",
            "{",
            "\\",
            "a_name_of_more_than_sixty_three_letters_which_the_server_cuts_short",
        ] {
            assert_eq!(names(&format!("update t set a = {unusual}")), None, "{unusual}");
        }
        assert!(names("update t set a = 'é' -- é").is_some());
    }
}
