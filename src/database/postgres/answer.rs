//! The answer to one statement, as it comes.
//!
//! An answer that has come in part is kept, and read further when more of it is there. Runs on the thread that makes a call.

use std::str;
use std::sync::Arc;

use postgres_protocol::message::backend::{
    BIND_COMPLETE_TAG, COMMAND_COMPLETE_TAG, DATA_ROW_TAG, EMPTY_QUERY_RESPONSE_TAG, ERROR_RESPONSE_TAG,
    NO_DATA_TAG, PARSE_COMPLETE_TAG, READY_FOR_QUERY_TAG, ROW_DESCRIPTION_TAG,
};

use super::refusal::{is_fatal, refused};
use super::row::Fields;
use super::statements::{Described, Prepared};
use super::wire::{Failure, Wait, Wire};
use crate::database::Error;

/// Takes an answer's rows.
pub(super) trait Reader {
    /// Another row, whose fields are as many as the statement has columns.
    fn row(&mut self, prepared: &Arc<Prepared>, fields: &[u8]) -> Result<(), Error>;

    /// The statement was parsed anew, and these are its columns now: how its rows are to be read.
    fn described(&mut self, prepared: &Arc<Prepared>, columns: &[Described]) -> Result<Arc<Prepared>, Error> {
        if prepared.has(columns) {
            return Ok(Arc::clone(prepared));
        }
        Err(Error::Usage("its columns have changed since it was prepared".to_owned()))
    }
}

/// How far an answer has come.
#[derive(Default)]
pub(super) struct Answer {
    stage: Stage,
    /// Its statement was parsed for it, and is described before its rows.
    is_parsed: bool,
    refusal: Option<Error>,
    /// How many rows the server says that there were, or that were changed.
    count: u64,
    /// Where its statement was parsed anew and has other columns than it was prepared with.
    columns: Option<Arc<Prepared>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Awaited,
    /// Rows may come.
    Begun,
    /// Only its end is to come.
    Complete,
}

impl Answer {
    /// Reads it to its end. Returns how many rows the server says that there were, or that were changed. `sql`: what the position of
    /// an error counts in.
    pub(super) fn read(
        &mut self,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
        prepared: &Arc<Prepared>,
        sql: &str,
        reader: &mut impl Reader,
    ) -> Result<u64, Failure> {
        loop {
            let message = wire.message(wait)?;
            let body = wire.body(&message);
            match (message.tag, self.stage) {
                (PARSE_COMPLETE_TAG, Stage::Awaited) => self.is_parsed = true,
                (NO_DATA_TAG, Stage::Begun) if self.is_parsed => {}
                (BIND_COMPLETE_TAG, Stage::Awaited) => {
                    self.stage = Stage::Begun;
                    wire.note_begun();
                }
                (ROW_DESCRIPTION_TAG, Stage::Begun) if self.is_parsed && self.columns.is_none() => {
                    let columns = Described::columns(body).map_err(Failure::Lost)?;
                    self.columns = Some(reader.described(prepared, &columns)?);
                }
                (DATA_ROW_TAG, Stage::Begun) => {
                    let prepared = self.columns.as_ref().unwrap_or(prepared);
                    let Some(fields) = fields_of(body, prepared.columns.len()) else {
                        return Err(Failure::Lost(Error::Lost("it sent a row of other columns".to_owned())));
                    };
                    reader.row(prepared, fields)?;
                }
                (COMMAND_COMPLETE_TAG | EMPTY_QUERY_RESPONSE_TAG, Stage::Begun) => {
                    (self.stage, self.count) = (Stage::Complete, count_of(body));
                }
                // Also behind the last row, where it is its transaction that cannot end.
                (ERROR_RESPONSE_TAG, stage) => {
                    let (refusal, fatal) = (refused(body, sql), is_fatal(body));
                    if fatal {
                        // Nothing comes behind it.
                        wire.close();
                        return Err(match stage {
                            Stage::Complete => Failure::Lost(refusal),
                            Stage::Awaited | Stage::Begun => Failure::Known(refusal),
                        });
                    }
                    (self.refusal, self.stage) = (Some(refusal), Stage::Complete);
                }
                (READY_FOR_QUERY_TAG, Stage::Complete) => {
                    return self.refusal.take().map_or(Ok(self.count), |refusal| Err(refusal.into()));
                }
                (tag, _) => return Err(wire.unexpected(tag)),
            }
        }
    }
}

/// The fields of a row that has so many.
fn fields_of(body: &[u8], count: usize) -> Option<&[u8]> {
    let (said, fields) = body.split_first_chunk()?;
    let mut rest = Fields(fields);
    let met = rest.by_ref().count();
    (usize::from(u16::from_be_bytes(*said)) == count && met == count && rest.0.is_empty()).then_some(fields)
}

/// The number stands behind the command's name: `SELECT 5`, `INSERT 0 5`.
fn count_of(body: &[u8]) -> u64 {
    let words = body.strip_suffix(b"\0").and_then(|words| words.rsplit(|byte| *byte == b' ').next());
    words.and_then(|number| str::from_utf8(number).ok()?.parse().ok()).unwrap_or_default()
}
