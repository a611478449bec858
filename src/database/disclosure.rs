//! Takes clients' values out of a database's message, for readers who may not see them. Any thread.

/// The quotation marks of the messages' languages, opening and closing.
const QUOTES: [(char, char); 6] = [('"', '"'), ('«', '»'), ('»', '«'), ('“', '”'), ('„', '“'), ('\'', '\'')];

/// The message without clients' values. PostgreSQL, MySQL and SQLite quote each value that a message names, so this hides
/// quoted text. It shows the text only if one of the `known` texts has it as a word, because no client has written
/// those. A value may have quotes of its own, so a hidden text reaches to the last quotation mark.
pub(super) fn without_values(message: &str, known: &[&str]) -> String {
    let mut shown = 0;
    while let Some((begin, close)) = opening(message, shown) {
        let quoted = message[begin..].split(close).next().unwrap_or_default();
        let end = begin + quoted.len();
        let is_closed = end < message.len();
        if is_closed && known.iter().any(|known| has_word(known, quoted)) {
            shown = end + close.len_utf8();
            continue;
        }
        let last = message[begin..].rfind(|char| QUOTES.iter().any(|(_, close)| *close == char));
        let rest = last.map_or("", |last| &message[begin + last..]);
        return format!("{}…{rest}", &message[..begin]);
    }
    message.to_owned()
}

/// The beginning of the next quoted text, and the mark that ends it. An apostrophe within a word opens nothing.
fn opening(message: &str, from: usize) -> Option<(usize, char)> {
    let mut places = message[from..].char_indices().map(|(at, char)| (from + at, char));
    places.find_map(|(at, char)| {
        let (open, close) = QUOTES.iter().find(|(open, _)| *open == char)?;
        let in_word = *open == '\'' && message[..at].ends_with(char::is_alphanumeric);
        (!in_word).then_some((at + open.len_utf8(), *close))
    })
}

fn has_word(text: &str, word: &str) -> bool {
    let is_word = |char: char| char.is_alphanumeric() || char == '_';
    let stands_alone = |(at, _): (usize, &str)| {
        !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word)
    };
    !word.is_empty() && text.match_indices(word).any(stands_alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_shown_only_if_it_is_known() {
        let statement = "select id from flights where id = $1";
        for (message, expected) in [
            ("relation \"flights\" does not exist", "relation \"flights\" does not exist"),
            ("column \"id\" of relation \"flights\" is old", "column \"id\" of relation \"flights\" is old"),
            ("relation \"hunter2\" does not exist", "relation \"…\" does not exist"),
            ("relation \"light\" does not exist", "relation \"…\" does not exist"),
            ("invalid input for \"id\": \"a \"hunter2\" b\"", "invalid input for \"id\": \"…\""),
            ("invalid: \"hunter2", "invalid: \"…"),
            ("Relation »hunter2« fehlt", "Relation »…« fehlt"),
            ("relation « hunter2 » inexistante", "relation «…» inexistante"),
            ("Relation „hunter2“ fehlt", "Relation „…“ fehlt"),
            ("the server's message", "the server's message"),
            ("JSON path error near 'hunter2'", "JSON path error near '…'"),
            ("no quotes", "no quotes"),
        ] {
            assert_eq!(without_values(message, &[statement]), expected, "{message}");
        }
    }
}
