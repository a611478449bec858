//! Commands without parameters, as text both ways.
//!
//! For what is sent seldom, or has no plan that is worth keeping. Runs on the thread that makes a call.

use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, DATA_ROW_TAG, EMPTY_QUERY_RESPONSE_TAG, ERROR_RESPONSE_TAG, READY_FOR_QUERY_TAG,
    ROW_DESCRIPTION_TAG,
};

use super::refusal::{is_fatal, refused};
use super::row::Fields;
use super::wire::{Failure, Limit, Wait, Wire};
use crate::database::Error;

/// A row's values; `None` is null.
pub(super) type Texts = Vec<Option<String>>;

/// Runs commands that commit nothing.
pub(super) fn run(wire: &mut Wire, sql: &str, limit: &Limit) -> Result<Vec<Texts>, Error> {
    let mut wait = wire.begin(limit, None)?;
    let done = ask(wire, sql, &mut wait);
    wire.conclude(wait, done, false)
}

/// Runs commands, and returns the rows of all of them.
pub(super) fn ask(wire: &mut Wire, sql: &str, wait: &mut Wait<'_>) -> Result<Vec<Texts>, Failure> {
    let Done { rows, complete, refusal } = ask_all(wire, sql, wait)?;
    match refusal {
        None => Ok(rows),
        // Nothing comes behind an error that ends the session, so it may have come in place of what was done.
        Some(error) if wire.is_broken() && complete > 0 => Err(Failure::Lost(error)),
        Some(error) => Err(Failure::Known(error)),
    }
}

/// Runs a command that commits. Once the server has said that it is done, no error behind that undoes it: a cancel that comes during a
/// commit is looked at when the server next logs something, which is after it.
pub(super) fn commit(wire: &mut Wire, sql: &str, wait: &mut Wait<'_>) -> Result<(), Failure> {
    let Done { complete, refusal, .. } = ask_all(wire, sql, wait)?;
    refusal.filter(|_| complete == 0).map_or(Ok(()), |error| Err(Failure::Known(error)))
}

/// What commands have come to.
#[derive(Default)]
struct Done {
    rows: Vec<Texts>,
    /// How many of them are done.
    complete: usize,
    /// Why the next one is not.
    refusal: Option<Error>,
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
                let fatal = is_fatal(body);
                done.refusal = Some(refused(body, sql));
                if fatal {
                    wire.close();
                    return Ok(done);
                }
            }
            READY_FOR_QUERY_TAG => return Ok(done),
            tag => return Err(wire.unexpected(tag)),
        }
    }
}
