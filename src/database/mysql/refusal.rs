//! The server's errors.
//!
//! Owns [`ServerError`], the only place that reads an error packet and tells whether it ends the session. Pure.

use super::packet::Reader;
use crate::database::{Category, Error, Refusal};

/// An error packet of the server.
#[derive(Debug)]
pub(super) struct ServerError {
    pub(super) error: Error,
    /// Whether the session is of no use afterwards.
    pub(super) ends_session: bool,
}

impl ServerError {
    /// Reads a packet. A place in its message is a place in `sql`.
    pub(super) fn read(packet: &[u8], sql: &str) -> Self {
        let mut reader = Reader(packet.get(1..).unwrap_or_default());
        let code = reader.u16().unwrap_or_default();
        // Before the login, an error has no SQLSTATE.
        let state = match reader.0.first() {
            Some(b'#') => reader.bytes(6).ok().map(|state| String::from_utf8_lossy(&state[1..]).into_owned()),
            _ => None,
        };
        let message = String::from_utf8_lossy(reader.0);
        let category = Category::of_mysql_error(code, state.as_deref().unwrap_or_default(), &message);
        let ends_session = matches!(category, Category::Down | Category::ReadOnly);
        Self { error: error_of(category, code, &message, sql), ends_session }
    }
}

fn error_of(category: Category, code: u16, message: &str, sql: &str) -> Error {
    let mut refusal = Refusal::new(category, &code.to_string(), message);
    let last_quoted = |mark: char| message.rsplit(mark).nth(1).map(str::to_owned);
    match code {
        // "Duplicate entry 'a' for key 'name'", "Check constraint 'name' is violated."
        1062 | 1586 | 3819 => refusal.constraint = last_quoted('\'').map(|key| without_table(&key)),
        // "… CONSTRAINT `name` FOREIGN KEY …", "CONSTRAINT `name` failed for …"
        1451 | 1452 | 4025 => {
            let after = message.split_once("CONSTRAINT `").map(|(_, after)| after);
            refusal.constraint = after.and_then(|after| after.split('`').next()).map(str::to_owned);
        }
        // "Column 'a' cannot be null", "Field 'a' doesn't have a default value"
        1048 | 1364 => refusal.column = message.split('\'').nth(1).map(str::to_owned),
        _ => {}
    }
    refusal.offset = offset_of(message, sql);
    // The author of a SIGNAL has written the message.
    let refusal = if code == SIGNAL { refusal.raised() } else { refusal.knowing(&[sql]) };
    Error::Refused(Box::new(refusal))
}

/// The code of an error that SIGNAL has raised without a code of its own.
const SIGNAL: u16 = 1644;

/// MySQL from 8.0.19 on names a key with its table.
fn without_table(key: &str) -> String {
    key.rsplit_once('.').map_or(key, |(_, name)| name).to_owned()
}

/// The place of a syntax error: the message quotes the rest of the statement, cut after 80 characters.
fn offset_of(message: &str, sql: &str) -> Option<usize> {
    let (_, near) = message.split_once(" near '")?;
    let near = near.rsplit_once("' at line ").map(|(near, _)| near)?;
    if near.is_empty() {
        return Some(sql.len());
    }
    sql.rfind(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(code: u16, text: &str, sql: &str) -> Refusal {
        let packet = [&[0xff], &code.to_le_bytes()[..], text.as_bytes()].concat();
        let Error::Refused(refusal) = ServerError::read(&packet, sql).error else {
            panic!("it is a refusal")
        };
        *refusal
    }

    #[test]
    fn a_refusal_names_its_constraint_its_column_and_its_place() {
        let refusal = read(1062, "#23000Duplicate entry 'hunter2' for key 'account.PRIMARY'", "insert");
        assert_eq!((refusal.category, &*refusal.code), (Category::Conflict, "1062"));
        assert_eq!(refusal.constraint.as_deref(), Some("PRIMARY"));
        assert!(!refusal.to_string().contains("hunter2"), "{refusal}");
        let text = "#23000Cannot add or update a child row: a foreign key constraint fails (`d`.`c`, CONSTRAINT `c_p` \
                    FOREIGN KEY (`p`) REFERENCES `p` (`id`))";
        assert_eq!(read(1452, text, "").constraint.as_deref(), Some("c_p"));
        assert_eq!(
            read(4025, "#23000CONSTRAINT `positive` failed for `d`.`t`", "").constraint.as_deref(),
            Some("positive")
        );
        assert_eq!(read(1048, "#23000Column 'a' cannot be null", "").column.as_deref(), Some("a"));
        let sql = "select 'é' frm t";
        let text = "#42000You have an error in your SQL syntax; check the manual […] near 'frm t' at line 1";
        assert_eq!(read(1064, text, sql).offset, sql.find("frm"));
        assert_eq!(read(1064, "#42000x near '' at line 1", sql).offset, Some(sql.len()));
    }

    #[test]
    fn an_error_before_the_login_has_no_state() {
        let refusal = read(1040, "Too many connections", "");
        assert_eq!((refusal.category, &*refusal.message), (Category::Busy, "Too many connections"));
    }

    #[test]
    fn the_author_of_a_signal_chooses_the_status() {
        assert_eq!(read(1644, "#45000no seats", "").category.status(), 400);
        assert_eq!(read(1644, "#PT404no such flight", "").category.status(), 404);
        assert!(read(1644, "#45000no seats", "").is_for_client());
    }
}
