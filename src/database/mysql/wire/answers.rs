//! The answers of a server: to a preparation, and to a statement with its rows.
//!
//! Owns [`Definitions`] and [`RowTaker`]. Runs on the thread that makes a call.

use std::ops::Range;

use super::{Failure, Wait, Wire};
use crate::database::Error;
use crate::database::mysql::packet::{Column, Done, EOF, ERR, Malformed, OK, Reader, capability};
use crate::database::mysql::refusal::ServerError;

/// The most columns of a result, in MySQL and MariaDB.
const COLUMNS_MAX: u64 = 4096;

/// The columns of a result as the server describes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::database::mysql) struct Definitions {
    bytes: Vec<u8>,
    /// The end of each column's packet in `bytes`.
    ends: Vec<usize>,
}

impl Definitions {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn add(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.ends.push(self.bytes.len());
    }

    /// The columns. `has_extended`: the server names types that the protocol has no number for.
    pub(in crate::database::mysql) fn columns(&self, has_extended: bool) -> Result<Vec<Column>, Malformed> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts
            .zip(&self.ends)
            .map(|(start, end)| Column::read(&self.bytes[*start..*end], has_extended))
            .collect()
    }
}

/// Takes the rows of the first result of an answer.
pub(in crate::database::mysql) trait RowTaker {
    /// The columns of the rows. `None`: the same as those that the server described last for the statement.
    fn columns(&mut self, definitions: Option<&Definitions>) -> Result<(), Error>;

    fn row(&mut self, row: &[u8]) -> Result<(), Error>;

    /// A further result begins, which is skipped.
    fn further(&mut self) {}
}

/// The answer to a preparation.
pub(in crate::database::mysql) struct PreparedAnswer {
    pub(in crate::database::mysql) id: u32,
    pub(in crate::database::mysql) parameter_count: usize,
    pub(in crate::database::mysql) definitions: Definitions,
}

impl Wire {
    /// The answer to a preparation of `sql`.
    pub(in crate::database::mysql) fn prepared(
        &mut self,
        sql: &str,
        wait: &mut Wait<'_>,
    ) -> Result<PreparedAnswer, Failure> {
        let packet = self.begin_answer(wait)?;
        let mut reader = Reader(self.frames.body(&packet));
        match reader.u8()? {
            OK => {}
            ERR => return Err(self.refused(&packet, sql)),
            _ => return Err(Malformed.into()),
        }
        let (id, column_count, parameter_count) = (reader.u32()?, reader.u16()?, reader.u16()?);
        if parameter_count > 0 {
            self.skip_definitions(parameter_count, wait)?;
        }
        let mut definitions = Definitions::default();
        for _ in 0..column_count {
            let packet = self.packet(wait)?;
            definitions.add(self.frames.body(&packet));
        }
        if column_count > 0 {
            self.end_definitions(wait)?;
        }
        self.owed.pop_front();
        Ok(PreparedAnswer { id, parameter_count: parameter_count.into(), definitions })
    }

    fn skip_definitions(&mut self, count: u16, wait: &mut Wait<'_>) -> Result<(), Failure> {
        for _ in 0..count {
            self.packet(wait)?;
        }
        self.end_definitions(wait)
    }

    /// Reads the packet behind descriptions, which only old servers send.
    fn end_definitions(&mut self, wait: &mut Wait<'_>) -> Result<(), Failure> {
        if self.facts.has(capability::DEPRECATE_EOF) {
            return Ok(());
        }
        let packet = self.packet(wait)?;
        if self.frames.body(&packet).first() == Some(&EOF) { Ok(()) } else { Err(Malformed.into()) }
    }

    /// The answer to a statement. The first result's rows go to `taker`. Further results, which a procedure may have, are skipped.
    pub(in crate::database::mysql) fn result(
        &mut self,
        sql: &str,
        wait: &mut Wait<'_>,
        taker: &mut dyn RowTaker,
    ) -> Result<Done, Failure> {
        let mut packet = self.begin_answer(wait)?;
        let mut is_first = true;
        let mut total = Done::default();
        loop {
            let body = self.frames.body(&packet);
            let done = match body.first() {
                None => return Err(Malformed.into()),
                Some(&OK) => Done::of_ok(body, self.facts.has(capability::SESSION_TRACK))?,
                Some(&ERR) => return Err(self.refused(&packet, sql)),
                // The answer to an option.
                Some(&EOF) => self.end_of_rows(body)?,
                Some(_) => {
                    if !is_first {
                        taker.further();
                    }
                    self.rows(&packet, sql, wait, is_first.then_some(&mut *taker))?
                }
            };
            is_first = false;
            let changed_session = total.changed_session || done.changed_session;
            total = done;
            total.changed_session = changed_session;
            if !done.is_followed() {
                break;
            }
            packet = self.packet(wait)?;
        }
        self.owed.pop_front();
        self.is_in_transaction = total.is_in_transaction();
        Ok(total)
    }

    /// Reads a result with rows, whose first packet was read.
    fn rows(
        &mut self,
        packet: &Range<usize>,
        sql: &str,
        wait: &mut Wait<'_>,
        mut taker: Option<&mut dyn RowTaker>,
    ) -> Result<Done, Failure> {
        let mut reader = Reader(self.frames.body(packet));
        let count = reader.number()?;
        if count > COLUMNS_MAX {
            return Err(Malformed.into());
        }
        let is_described = reader.is_empty() || reader.u8()? != 0;
        if is_described {
            self.definitions.clear();
            for _ in 0..count {
                let packet = self.packet(wait)?;
                self.definitions.add(self.frames.body(&packet));
            }
            self.end_definitions(wait)?;
        }
        self.is_in_rows = true;
        if let Some(taker) = &mut taker {
            taker.columns(is_described.then_some(&self.definitions))?;
        }
        loop {
            let packet = self.packet(wait)?;
            let row = self.frames.body(&packet);
            match row.first() {
                Some(&ERR) => {
                    self.is_in_rows = false;
                    return Err(self.refused(&packet, sql));
                }
                Some(&EOF) if self.ends_rows(row) => {
                    self.is_in_rows = false;
                    return Ok(self.end_of_rows(row)?);
                }
                _ => {
                    if let Some(taker) = &mut taker {
                        taker.row(row)?;
                    }
                }
            }
        }
    }

    pub(super) fn ends_rows(&self, packet: &[u8]) -> bool {
        /// A longer packet that begins like this is a row, whose first value is long.
        const LONGEST: usize = 0xff_ffff;
        let longest = if self.facts.has(capability::DEPRECATE_EOF) { LONGEST } else { 9 };
        packet.len() < longest
    }

    pub(super) fn end_of_rows(&self, packet: &[u8]) -> Result<Done, Malformed> {
        if self.facts.has(capability::DEPRECATE_EOF) {
            Done::of_ok(packet, self.facts.has(capability::SESSION_TRACK))
        } else {
            Done::of_eof(packet)
        }
    }

    /// The first packet of the next answer.
    fn begin_answer(&mut self, wait: &mut Wait<'_>) -> Result<Range<usize>, Failure> {
        let number = self.owed.front().ok_or(Malformed)?;
        self.frames.expect(*number);
        let packet = self.packet(wait)?;
        wait.begin_answer();
        Ok(packet)
    }

    fn refused(&mut self, packet: &Range<usize>, sql: &str) -> Failure {
        let refused = ServerError::read(self.frames.body(packet), sql);
        self.broken |= refused.ends_session;
        self.owed.pop_front();
        Failure::Known(refused.error)
    }
}
