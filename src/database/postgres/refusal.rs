//! The server's errors.
//!
//! Owns [`ServerError`], the only place that reads an error message and tells whether it ends the session. Pure. The
//! fields are those of the manual, 55.8.

use std::borrow::Cow;

use super::super::{Category, Error, Refusal};

/// One field of an error or a notice; empty if it is missing.
pub(super) fn field(body: &[u8], name: u8) -> Cow<'_, str> {
    let mut fields = body.split(|byte| *byte == 0).filter_map(<[u8]>::split_first);
    let found = fields.find(|(first, _)| **first == name);
    found.map(|(_, value)| String::from_utf8_lossy(value)).unwrap_or_default()
}

/// An error message of the server.
pub(super) struct ServerError {
    pub(super) error: Error,
    /// Whether the server ends the session with it. Nothing comes behind it then.
    pub(super) ends_session: bool,
}

impl ServerError {
    /// Reads the body of a message. The position in it counts in `sql`.
    pub(super) fn read(body: &[u8], sql: &str) -> Self {
        // `V` is never translated. Old servers have `S` alone.
        let ends_session = [b'V', b'S'].iter().any(|name| matches!(&*field(body, *name), "FATAL" | "PANIC"));
        Self { error: error_of(body, sql), ends_session }
    }
}

/// The error of a message. Its position counts in `sql`.
fn error_of(body: &[u8], sql: &str) -> Error {
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

/// Converts the position of a character, counted from 1, into its byte.
fn offset_of(character: usize, sql: &str) -> Option<usize> {
    let before = character.checked_sub(1)?;
    Some(sql.char_indices().nth(before).map_or(sql.len(), |(byte, _)| byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_every_field_of_the_servers_message() {
        let body = "SFEHLER\0VERROR\0C23505\0Mdoppelt\0Ddetail\0Hhint\0P9\0nkey\0\0".as_bytes();
        let ServerError { error, ends_session } = ServerError::read(body, "select 'ü' x");
        assert!(!ends_session);
        let Error::Refused(refusal) = error else { panic!("it is one") };
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
