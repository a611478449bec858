//! The traces that a statement may leave on its session, by its text.
//!
//! Owns [`Leaves`]. Pure. The server itself tells of changed variables, of another database and of temporary tables
//! ([`Done::changed_session`](super::packet::Done)); the text tells of the rest, such as locks. In doubt it may leave something.

/// The traces that a statement may leave for the next borrower of its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leaves {
    /// Nothing that the server does not tell of.
    #[default]
    Nothing,
    /// A lock by `get_lock`, which a trigger of its table may take.
    TriggersLocks,
    /// A lock by `get_lock`, which one of its functions may take.
    Locks,
    /// Anything.
    Anything,
}

/// The effects of a statement on its session, and of the session on the statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    pub(super) leaves: Leaves,
    /// It may read the number that a statement before it has left: `last_insert_id()`.
    pub(super) reads_id: bool,
    /// It may read a count that the statement before it has left: `found_rows()`, `row_count()`.
    pub(super) reads_count: bool,
}

/// The commands that leave nothing by themselves.
const CLEAN: [&str; 17] = [
    "alter", "analyze", "create", "delete", "desc", "describe", "drop", "explain", "insert", "optimize",
    "rename", "replace", "select", "show", "truncate", "update", "values",
];

/// The words with which a statement may leave anything.
const DIRTY: [&str; 11] = [
    "get_lock",
    "lastval",
    "nextval",
    "setval",
    "temporary",
    "sql_calc_found_rows",
    "outfile",
    "dumpfile",
    "sql_log_bin",
    "is_used_lock",
    "release_lock",
];

/// The commands that run triggers.
const WRITES: [&str; 4] = ["delete", "insert", "replace", "update"];

/// Words that may stand before a parenthesis without being a function that an author has written: keywords, and functions of the
/// server.
const HARMLESS: &str = " abs adddate addtime all and any as asc avg between bin bit_and bit_count bit_length bit_or bit_xor by \
    cast ceil ceiling char char_length character_length check coalesce collate concat concat_ws constraint conv convert \
    convert_tz count crc32 cume_dist curdate current_date current_time current_timestamp current_user curtime database date \
    date_add date_format date_sub datediff datetime day dayname dayofmonth dayofweek dayofyear decimal default degrees dense_rank \
    desc distinct div duplicate elt else end exists exp export_set extract extractvalue field find_in_set first_value floor \
    format from from_base64 from_days from_unixtime greatest group_concat grouping having hex hour if ifnull in index insert instr \
    int interval into is isnull join json json_array json_array_append json_array_insert json_arrayagg json_compact json_contains \
    json_contains_path json_depth json_detailed json_exists json_extract json_insert json_keys json_length json_loose \
    json_merge json_merge_patch json_merge_preserve json_object json_objectagg json_overlaps json_pretty json_query json_quote \
    json_remove json_replace json_search json_set json_table json_type json_unquote json_valid json_value key lag last_day \
    last_insert_id found_rows row_count last_value lcase lead least left length like limit ln localtime localtimestamp locate log \
    log10 log2 lower lpad ltrim make_set makedate maketime match max md5 member microsecond mid min minute mod month monthname \
    natural_sort_key not now nth_value ntile null nullif oct octet_length of offset on or ord order over partition percent_rank \
    period_add period_diff pi point position pow power primary quarter quote radians rand rank references regexp \
    regexp_instr regexp_like regexp_replace regexp_substr repeat returning reverse right round row row_number rpad rtrim second \
    select sec_to_time set sha sha1 sha2 sign signed some soundex space sqrt st_asgeojson st_astext st_contains st_distance \
    st_distance_sphere st_geomfromtext st_intersects st_within st_x st_y std stddev stddev_pop stddev_samp str_to_date strcmp \
    subdate substr substring substring_index subtime sum sysdate table then time time_format time_to_sec timediff timestamp \
    timestampadd timestampdiff to_base64 to_days to_seconds trim truncate ucase unhex union unique unix_timestamp unsigned \
    update upper user using utc_date utc_time utc_timestamp uuid uuid_short uuid_to_bin bin_to_uuid value values var_pop \
    var_samp varchar variance version week weekday weekofyear weight_string when where window with year yearweek ";

/// Words behind which a parenthesis belongs to a table or a list of columns.
const BEFORE_NAME: [&str; 9] =
    ["into", "table", "with", "recursive", "references", "index", "key", "constraint", "join"];

impl Effects {
    /// The effects of a step behind others. A count is always of the step before, so only the first one can read that of an earlier
    /// borrower.
    pub(super) fn behind(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        Self {
            leaves: self.leaves.max(before.leaves),
            reads_id: self.reads_id || before.reads_id,
            reads_count: before.reads_count,
        }
    }

    pub(super) fn of(sql: &str) -> Self {
        let mut effects = Self::default();
        let mut words = Words { text: sql, at: 0 };
        let (mut is_first, mut before) = (true, String::new());
        while let Some(piece) = words.next() {
            match piece {
                // A variable of the session or of the user.
                Piece::At => effects.leaves = Leaves::Anything,
                Piece::Other => {}
                Piece::Word(word, is_called) => {
                    let word = word.to_ascii_lowercase();
                    let is_command = std::mem::take(&mut is_first);
                    if is_command && !CLEAN.contains(&&*word) && word != "with" && word != "table"
                        || DIRTY.contains(&&*word)
                    {
                        effects.leaves = Leaves::Anything;
                    }
                    effects.reads_id |= word == "last_insert_id";
                    effects.reads_count |= matches!(&*word, "found_rows" | "row_count");
                    if WRITES.contains(&&*word) {
                        effects.leaves = effects.leaves.max(Leaves::TriggersLocks);
                    }
                    let is_function = is_called && !BEFORE_NAME.contains(&&*before);
                    if is_function && !HARMLESS.contains(&format!(" {word} ")) {
                        effects.leaves = effects.leaves.max(Leaves::Locks);
                    }
                    before = word;
                }
            }
        }
        effects
    }
}

/// A piece of a statement.
enum Piece<'t> {
    /// A word, and whether a parenthesis follows it.
    Word(&'t str, bool),
    At,
    Other,
}

/// The pieces of a statement outside of quotes and comments. The inside of `/*! … */` is SQL.
struct Words<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Words<'t> {
    fn next(&mut self) -> Option<Piece<'t>> {
        let bytes = self.text.as_bytes();
        let first = *bytes.get(self.at)?;
        let start = self.at;
        let rest = &self.text[start..];
        if rest.starts_with("/*!") || rest.starts_with("/*M!") {
            self.at += 3;
        } else if rest.starts_with("/*") {
            self.skip_past("*/");
        } else if first == b'#' || rest.starts_with("--") {
            self.skip_past("\n");
        } else if matches!(first, b'\'' | b'"' | b'`') {
            self.skip_quoted(first);
        } else if first == b'@' {
            self.at += 1;
            return Some(Piece::At);
        } else if is_word(first) {
            let length = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
            self.at += length;
            let is_called = self.text[self.at..].trim_start().starts_with('(');
            // The letter that makes a string one of a kind, such as in x'00'.
            return Some(Piece::Word(&self.text[start..self.at], is_called));
        } else {
            self.at += 1;
        }
        Some(Piece::Other)
    }

    fn skip_past(&mut self, end: &str) {
        let rest = &self.text[self.at..];
        // Behind the beginning of a comment, so that `/*/` does not end it.
        self.at +=
            rest.get(2..).and_then(|inner| inner.find(end)).map_or(rest.len(), |at| 2 + at + end.len());
    }

    fn skip_quoted(&mut self, quote: u8) {
        let bytes = self.text.as_bytes();
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            if *byte == b'\\' && quote != b'`' {
                self.at += 1;
            } else if *byte == quote {
                break;
            }
        }
        self.at = self.at.min(bytes.len());
        while !self.text.is_char_boundary(self.at) {
            self.at += 1;
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_statement_leaves_something_only_if_its_text_may() {
        for (sql, leaves) in [
            ("select a, '@b', `get_lock` from t where x in (1) and count(*) > 1", Leaves::Nothing),
            ("insert into t (a) values (?)", Leaves::TriggersLocks),
            ("insert into `t`(a) values (now())", Leaves::TriggersLocks),
            ("with recursive x (n) as (select 1) select n from x -- @y", Leaves::Nothing),
            ("select my_function(1)", Leaves::Locks),
            ("select 'it''s \\' @a', get_lock('a', 1)", Leaves::Anything),
            ("select @a := 1", Leaves::Anything),
            ("/*! set x = 1 */", Leaves::Anything),
            ("call p()", Leaves::Anything),
            ("set names latin1", Leaves::Anything),
            ("create temporary table t (a int)", Leaves::Anything),
            ("create table t (a int)", Leaves::Nothing),
            ("lock tables t read", Leaves::Anything),
        ] {
            assert_eq!(Effects::of(sql).leaves, leaves, "{sql}");
        }
        assert!(Effects::of("select LAST_INSERT_ID()").reads_id);
        assert!(
            !Effects::of("select 'last_insert_id'").reads_id && Effects::of("select row_count()").reads_count
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(sql in "[a-z@'\"`\\\\#/*!( é-]{0,40}") {
            // An answer of any kind is all that is asked for.
            let effects = Effects::of(&sql);
            prop_assert!(effects.leaves <= Leaves::Anything);
        }
    }
}
