//! The text of a statement, as far as it tells something without being parsed.
//!
//! Owns the rules about words: the commands that a session cannot run, and a `*` for columns. Pure.

use crate::database::Error;
use crate::database::statement::first_word;

/// Refuses the commands that would leave the session in a state unknown to the checkin, or that speak another protocol.
pub(super) fn refuse_session_commands(sql: &str) -> Result<(), Error> {
    const REFUSED: [&str; 12] = [
        "abort",
        "begin",
        "commit",
        "copy",
        "deallocate",
        "discard",
        "end",
        "prepare",
        "release",
        "rollback",
        "savepoint",
        "start",
    ];
    let word = first_word(sql);
    match REFUSED.iter().find(|refused| word.eq_ignore_ascii_case(refused)) {
        Some(_) => Err(Error::Usage(format!(
            "{word} is not a statement that can run here; transactions are begun and \
             ended by wharf"
        ))),
        None => Ok(()),
    }
}

/// Whether a statement writes rows, by its first word.
pub(super) fn writes_rows(sql: &str) -> bool {
    const WRITE: [&str; 4] = ["insert", "update", "delete", "merge"];
    let word = first_word(sql);
    WRITE.iter().any(|write| word.eq_ignore_ascii_case(write))
}

/// Whether a `*` in a statement in lower case stands for columns, not for a multiplication and not in `count(*)`.
pub(super) fn has_star(text: &str) -> bool {
    const BEFORE: [&str; 6] = [".", ",", "select", "distinct", "all", "returning"];
    text.match_indices('*').any(|(at, _)| {
        let before = text[..at].trim_end();
        BEFORE.iter().any(|end| before.ends_with(end))
            || before.ends_with(')') && text.contains("distinct on")
    })
}

/// The statement without its comments. Text that looks like a comment in a string goes as well.
pub(super) fn without_comments(sql: &str) -> String {
    let (mut text, mut rest) = (String::with_capacity(sql.len()), sql);
    while let Some(begin) = rest.find("/*").into_iter().chain(rest.find("--")).min() {
        text.push_str(&rest[..begin]);
        let end = if rest[begin..].starts_with("/*") { "*/" } else { "\n" };
        rest = rest[begin + 2..].split_once(end).map_or("", |(_, behind)| behind);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_commands_are_refused_behind_comments_too() {
        assert!(refuse_session_commands("/* x */ -- y\n BEGIN").is_err());
        assert!(refuse_session_commands("commit;").is_err());
        assert!(refuse_session_commands("select 'begin'").is_ok());
        assert!(refuse_session_commands("with a as (select 1) select * from a").is_ok());
    }

    #[test]
    fn a_star_for_columns_is_distinguished_from_other_stars() {
        for sql in ["select * from f()", "select a, *", "select f.*", "select distinct on (a) *"] {
            assert!(has_star(sql), "{sql}");
        }
        for sql in ["select 2 * a from f()", "select count(*) from f()", "select (a + b) * c"] {
            assert!(!has_star(sql), "{sql}");
        }
        let sql = without_comments("select /* a */ * -- b\nfrom c /*statement='d'*/");
        assert_eq!(sql, "select  * from c ");
        assert!(has_star(&sql));
    }
}
