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

/// Runs a command; `commits`: whether it commits what was done before it.
pub(super) fn run_command(wire: &mut Wire, sql: &str, limit: &Limit, commits: bool) -> Result<(), Error> {
    let mut wait = wire.begin(limit, None)?;
    let done = ask(wire, sql, &mut wait);
    wire.conclude(wait, done.map(drop), commits)
}

/// Runs commands, and returns the rows of all of them.
pub(super) fn ask(wire: &mut Wire, sql: &str, wait: &mut Wait<'_>) -> Result<Vec<Texts>, Failure> {
    wire.begin_batch();
    wire.add_query(sql)?;
    wire.send(wait)?;
    let (mut rows, mut refusal) = (Vec::new(), None);
    // Commands that are done.
    let mut complete = 0;
    loop {
        let message = wire.message(wait)?;
        let body = wire.body(&message);
        match message.tag {
            ROW_DESCRIPTION_TAG => {}
            COMMAND_COMPLETE_TAG | EMPTY_QUERY_RESPONSE_TAG => complete += 1,
            DATA_ROW_TAG => {
                let fields = Fields(body.get(2..).unwrap_or_default());
                let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
                rows.push(fields.map(|field| field.map(text)).collect());
            }
            ERROR_RESPONSE_TAG => {
                let (error, fatal) = (refused(body, sql), is_fatal(body));
                if fatal {
                    wire.close();
                    return Err(if complete > 0 { Failure::Lost(error) } else { Failure::Known(error) });
                }
                refusal = Some(error);
            }
            READY_FOR_QUERY_TAG => return refusal.map_or(Ok(rows), |error| Err(error.into())),
            tag => return Err(wire.unexpected(tag)),
        }
    }
}
