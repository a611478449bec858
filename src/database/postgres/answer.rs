//! Reads the answer to one run of a statement.
//!
//! Owns [`AnswerReader`], which keeps its place in a partly received answer, and [`RowTaker`], which gets the rows.
//! Runs on the thread that makes a call.

use std::str;
use std::sync::Arc;

use postgres_protocol::message::backend::{
    BIND_COMPLETE_TAG, COMMAND_COMPLETE_TAG, DATA_ROW_TAG, EMPTY_QUERY_RESPONSE_TAG, ERROR_RESPONSE_TAG,
    NO_DATA_TAG, PARSE_COMPLETE_TAG, READY_FOR_QUERY_TAG, ROW_DESCRIPTION_TAG,
};

use super::fields::Fields;
use super::prepared::{DescribedColumn, Prepared};
use super::refusal::ServerError;
use super::wire::{Failure, Wait, Wire};
use crate::database::Error;

/// Takes the rows of an answer.
pub(super) trait RowTaker {
    /// Takes another row. It has as many fields as the statement has columns.
    fn row(&mut self, prepared: &Arc<Prepared>, fields: &[u8]) -> Result<(), Error>;

    /// Takes the columns of a statement that was sent as text and parsed for this run. Returns the statement by which
    /// its rows are read.
    fn described(
        &mut self,
        prepared: &Arc<Prepared>,
        columns: &[DescribedColumn],
    ) -> Result<Arc<Prepared>, Error> {
        if prepared.has(columns) {
            return Ok(Arc::clone(prepared));
        }
        Err(Error::Usage("its columns have changed since it was prepared".to_owned()))
    }
}

/// The place in an answer during its reading.
#[derive(Default)]
pub(super) struct AnswerReader {
    stage: Stage,
    /// The statement was parsed for this run. Its columns are described before the rows.
    is_parsed: bool,
    refusal: Option<Error>,
    /// The number of rows that were returned or changed, by the server's word.
    count: u64,
    /// The statement with its columns as they were described in this answer.
    columns: Option<Arc<Prepared>>,
    /// Other answers follow in the same part of the batch.
    is_followed: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Awaited,
    /// Rows may come.
    Begun,
    /// Only the end is missing.
    Complete,
}

impl AnswerReader {
    /// Reads an answer that other answers follow in the same part of the batch. If the run fails, the server leaves out the
    /// rest of the part, and the reading goes on to the end of the part.
    pub(super) fn followed(is_followed: bool) -> Self {
        Self { is_followed, ..Self::default() }
    }

    /// Sets whether other answers follow; see [`followed`](Self::followed).
    pub(super) fn set_followed(&mut self, is_followed: bool) {
        self.is_followed = is_followed;
    }

    /// Reads the answer to its end. Returns the number of rows that were returned or changed, by the server's word. The position of an
    /// error counts in `sql`.
    pub(super) fn read(
        &mut self,
        wire: &mut Wire,
        wait: &mut Wait<'_>,
        prepared: &Arc<Prepared>,
        sql: &str,
        taker: &mut impl RowTaker,
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
                    let columns = DescribedColumn::columns(body).map_err(Failure::Lost)?;
                    self.columns = Some(taker.described(prepared, &columns)?);
                }
                (DATA_ROW_TAG, Stage::Begun) => {
                    let prepared = self.columns.as_ref().unwrap_or(prepared);
                    let Some(fields) = fields_of(body, prepared.columns.len()) else {
                        return Err(Failure::Lost(Error::Lost("it sent a row of other columns".to_owned())));
                    };
                    taker.row(prepared, fields)?;
                }
                (COMMAND_COMPLETE_TAG | EMPTY_QUERY_RESPONSE_TAG, Stage::Begun) => {
                    (self.stage, self.count) = (Stage::Complete, count_of(body));
                    if self.is_followed {
                        return Ok(self.count);
                    }
                }
                // An error may come behind the last row too, if the transaction cannot end.
                (ERROR_RESPONSE_TAG, stage) => {
                    let ServerError { error, ends_session } = wire.error(&message, sql);
                    if ends_session {
                        return Err(match stage {
                            Stage::Complete => Failure::Lost(error),
                            Stage::Awaited | Stage::Begun => Failure::Known(error),
                        });
                    }
                    (self.refusal, self.stage) = (Some(error), Stage::Complete);
                }
                (READY_FOR_QUERY_TAG, Stage::Complete) => {
                    return self.refusal.take().map_or(Ok(self.count), |refusal| Err(refusal.into()));
                }
                (tag, _) => return Err(wire.unexpected(tag)),
            }
        }
    }
}

/// The fields of a row, if there are exactly `count`.
fn fields_of(body: &[u8], count: usize) -> Option<&[u8]> {
    let (said, fields) = body.split_first_chunk()?;
    let mut rest = Fields(fields);
    let met = rest.by_ref().count();
    (usize::from(u16::from_be_bytes(*said)) == count && met == count && rest.0.is_empty()).then_some(fields)
}

/// The number behind the command's name: `SELECT 5`, `INSERT 0 5`.
fn count_of(body: &[u8]) -> u64 {
    let words = body.strip_suffix(b"\0").and_then(|words| words.rsplit(|byte| *byte == b' ').next());
    words.and_then(|number| str::from_utf8(number).ok()?.parse().ok()).unwrap_or_default()
}
