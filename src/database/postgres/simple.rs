//! Commands without parameters, as text both ways.
//!
//! For commands that are rare, or whose plan is not worth keeping. Owns [`TextRow`]. Runs on the thread that makes a
//! call.

use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, DATA_ROW_TAG, EMPTY_QUERY_RESPONSE_TAG, ERROR_RESPONSE_TAG, READY_FOR_QUERY_TAG,
    ROW_DESCRIPTION_TAG,
};

use super::fields::Fields;
use super::refusal::ServerError;
use super::wire::{Failure, Wait, Wire};
use crate::database::Error;
use crate::database::limit::Limit;

/// The status of a session without a transaction, in `ReadyForQuery`.
const IDLE: u8 = b'I';

/// The values of a row; `None` is null.
pub(super) type TextRow = Vec<Option<String>>;

/// Runs commands that commit nothing.
pub(super) fn run(wire: &mut Wire, sql: &str, limit: &Limit) -> Result<Vec<TextRow>, Error> {
    let mut wait = wire.begin(limit, None)?;
    let done = ask(wire, sql, &mut wait);
    wire.conclude(wait, done, false)
}

/// Runs commands that commit nothing. Returns whether they leave a transaction open.
pub(super) fn leaves_transaction(wire: &mut Wire, sql: &str, limit: &Limit) -> Result<bool, Error> {
    let mut wait = wire.begin(limit, None)?;
    let done = ask_all(wire, sql, &mut wait);
    let left = done.and_then(|Done { refusal, in_transaction, .. }| match refusal {
        None => Ok(in_transaction),
        Some(error) => Err(Failure::Known(error)),
    });
    wire.conclude(wait, left, false)
}

/// Runs commands, and returns the rows of all of them.
pub(super) fn ask(wire: &mut Wire, sql: &str, wait: &mut Wait<'_>) -> Result<Vec<TextRow>, Failure> {
    let Done { rows, complete, refusal, .. } = ask_all(wire, sql, wait)?;
    match refusal {
        None => Ok(rows),
        // An error that ends the session is the last message, so it may hide that the later commands were done.
        Some(error) if wire.is_broken() && complete > 0 => Err(Failure::Lost(error)),
        Some(error) => Err(Failure::Known(error)),
    }
}

/// Runs a command that commits. Once the server has reported the commit, no later error undoes it. The server notices a
/// cancel that comes during a commit only afterwards, when it next logs something.
pub(super) fn commit(wire: &mut Wire, sql: &str, wait: &mut Wait<'_>) -> Result<(), Failure> {
    let Done { complete, refusal, .. } = ask_all(wire, sql, wait)?;
    refusal.filter(|_| complete == 0).map_or(Ok(()), |error| Err(Failure::Known(error)))
}

/// The result of some commands.
#[derive(Default)]
struct Done {
    rows: Vec<TextRow>,
    /// The number of commands that are done.
    complete: usize,
    /// The reason why the next command was not done.
    refusal: Option<Error>,
    /// Whether the session is in a transaction after them.
    in_transaction: bool,
}

fn ask_all(wire: &mut Wire, sql: &str, wait: &mut Wait<'_>) -> Result<Done, Failure> {
    wire.begin_batch();
    wire.add_query(sql)?;
    wire.send(wait)?;
    let mut done = Done::default();
    loop {
        let message = wire.message(wait)?;
        let body = wire.body(&message);
        match message.tag {
            ROW_DESCRIPTION_TAG => {}
            COMMAND_COMPLETE_TAG | EMPTY_QUERY_RESPONSE_TAG => done.complete += 1,
            DATA_ROW_TAG => {
                let fields = Fields(body.get(2..).unwrap_or_default());
                let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
                done.rows.push(fields.map(|field| field.map(text)).collect());
            }
            ERROR_RESPONSE_TAG => {
                let ServerError { error, ends_session } = wire.error(&message, sql);
                done.refusal = Some(error);
                if ends_session {
                    return Ok(done);
                }
            }
            READY_FOR_QUERY_TAG => {
                done.in_transaction = body.first().is_some_and(|status| *status != IDLE);
                return Ok(done);
            }
            tag => return Err(wire.unexpected(tag)),
        }
    }
}
