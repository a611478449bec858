//! What the server says of an error.
//!
//! Pure. The fields are those of the manual, 55.8.

use std::borrow::Cow;

use super::super::{Category, Error, Refusal};

/// One field of an error or a notice; empty where it is not there.
pub(super) fn field(body: &[u8], name: u8) -> Cow<'_, str> {
    let mut fields = body.split(|byte| *byte == 0).filter_map(<[u8]>::split_first);
    let found = fields.find(|(first, _)| **first == name);
    found.map(|(_, value)| String::from_utf8_lossy(value)).unwrap_or_default()
}

/// Whether the server ends the session with this error. `V` is never translated, and younger than `S`.
pub(super) fn is_fatal(body: &[u8]) -> bool {
    [b'V', b'S'].iter().any(|name| matches!(&*field(body, *name), "FATAL" | "PANIC"))
}

/// An error message; `sql` is what its position counts in.
pub(super) fn refused(body: &[u8], sql: &str) -> Error {
    /// The part of the server that runs a function's `raise`.
    const RAISE: &str = "exec_stmt_raise";
    let said = |name| Some(field(body, name).into_owned()).filter(|value| !value.is_empty());
    let (code, routine) = (field(body, b'C'), field(body, b'R'));
    let category = match &*routine {
        // Messages are translated, names in the server's source are not.
        "RevalidateCachedQuery" => Category::Retry,
        _ => Category::of_sqlstate(&code),
    };
    let mut refusal = Refusal::new(category, &code, &field(body, b'M'));
    refusal.detail = said(b'D');
    refusal.hint = said(b'H');
    refusal.context = said(b'W');
    refusal.constraint = said(b'n');
    refusal.column = said(b'c');
    refusal.offset = said(b'P').and_then(|position| offset_of(position.parse().ok()?, sql));
    let refusal = if routine == RAISE {
        refusal.raised()
    } else {
        // The names of constraint, column, table, schema and type.
        let names: Vec<_> = [b'n', b'c', b't', b's', b'd'].map(|name| field(body, name)).into();
        refusal.knowing(&names.iter().map(|name| &**name).chain([sql]).collect::<Vec<_>>())
    };
    Error::Refused(Box::new(refusal))
}

/// The byte at which a character stands, counted from 1.
fn offset_of(character: usize, sql: &str) -> Option<usize> {
    let before = character.checked_sub(1)?;
    Some(sql.char_indices().nth(before).map_or(sql.len(), |(byte, _)| byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_all_that_the_server_said() {
        let body = "SFEHLER\0VERROR\0C23505\0Mdoppelt\0Ddetail\0Hhint\0P9\0nkey\0\0".as_bytes();
        assert!(!is_fatal(body));
        let Error::Refused(refusal) = refused(body, "select 'ü' x") else { panic!("it is one") };
        assert_eq!((refusal.category, &*refusal.code), (Category::Conflict, "23505"));
        assert_eq!((&*refusal.message, refusal.detail.as_deref()), ("doppelt", Some("detail")));
        assert_eq!(refusal.hint.as_deref(), Some("hint"));
        assert_eq!((refusal.constraint.as_deref(), refusal.offset), (Some("key"), Some(8)));
    }

    #[test]
    fn a_position_past_the_end_is_the_end() {
        assert_eq!((offset_of(1, "ab"), offset_of(9, "ab"), offset_of(0, "ab")), (Some(0), Some(2), None));
    }
}
