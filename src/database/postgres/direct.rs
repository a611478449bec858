//! Statements that are sent together, and their answers, as they are on the wire: here a statement costs a worker no future, no
//! channel and hardly an allocation, which with tokio-postgres is more than all else that it does for a request.
//!
//! tokio-postgres prepares the statements and owns the session. Between its own messages, and only where there is no TLS,
//! others can be sent past it ([`Socket::is_quiet`]); whatever is not as expected then ends the session, and those who have no
//! answer yet ask again through tokio-postgres.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;
use std::str;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{
    BIND_COMPLETE_TAG, COMMAND_COMPLETE_TAG, DATA_ROW_TAG, EMPTY_QUERY_RESPONSE_TAG, ERROR_RESPONSE_TAG,
    Header, NOTICE_RESPONSE_TAG, NOTIFICATION_RESPONSE_TAG, PARAMETER_STATUS_TAG, READY_FOR_QUERY_TAG,
};
use postgres_protocol::message::frontend;
use tokio_postgres::types::{BorrowToSql, Format, IsNull as Null, ToSql, Type};

use super::pipeline::{Answer, Form, Kind, Question};
use super::row::{Fields, Row};
use super::socket::Socket;
use super::{Prepared, Statements, bind, column};
use crate::database::{Category, Error, Refusal, RowWriter};

/// Longer messages go the other way: what a session that does nothing takes without its server reading is more.
const SENT_MAX: usize = 16 * 1024;

/// Room that is kept from one use to the next.
const KEPT: usize = 64 * 1024;

/// What a session keeps for it.
pub(super) struct Direct {
    socket: Arc<Socket>,
    sent: BytesMut,
    /// The statements whose answers are to come, the next one first.
    asked: VecDeque<Arc<Prepared>>,
    /// What has come and is not used, from `at` on.
    come: Vec<u8>,
    at: usize,
    /// The answer that is coming.
    answer: Option<Coming>,
    /// How many are not at their end, those included that nobody waits for.
    owed: usize,
}

/// An answer as far as it has come.
struct Coming {
    so_far: Answer,
    stage: Stage,
    refusal: Option<Error>,
}

/// How far the server has come with an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Awaited,
    /// Rows may come.
    Begun,
    /// Only its end is to come.
    Complete,
}

impl Direct {
    pub(super) fn new(socket: &Arc<Socket>) -> Self {
        Self {
            socket: Arc::clone(socket),
            sent: BytesMut::new(),
            asked: VecDeque::new(),
            come: Vec::new(),
            at: 0,
            answer: None,
            owed: 0,
        }
    }

    /// Puts the messages of all of them together. `None`: they cannot go this way, and the other will say why, if need be.
    pub(super) fn compose(&mut self, questions: &[Question], statements: &Statements) -> Option<&[u8]> {
        self.forget();
        if !self.socket.is_quiet() || self.ask_all(questions, statements).is_none() {
            self.forget();
            return None;
        }
        Some(&self.sent)
    }

    fn ask_all(&mut self, questions: &[Question], statements: &Statements) -> Option<()> {
        for Question(kind) in questions {
            let prepared = statements.known(kind.text())?;
            let (name, types) = (prepared.name.as_deref()?, prepared.statement.params());
            match kind {
                Kind::Written { statement, values, .. } => {
                    let bound = || statement.bound.iter();
                    let mut checked = bound()
                        .zip(types)
                        .map(|(bound, kind)| bind::check(bound, &values[bound.index], kind));
                    if prepared.unsupported().is_some() || checked.any(|checked| checked.is_err()) {
                        return None;
                    }
                    let parameters = bound().map(|bound| bind::Parameter(&values[bound.index]));
                    ask(name, types, parameters, &mut self.sent)?;
                }
                Kind::Rows { parameters, .. } => {
                    let parameters = parameters.iter().map(|one| &**one as &(dyn ToSql + Sync));
                    ask(name, types, parameters, &mut self.sent)?;
                }
            }
            self.asked.push_back(Arc::clone(prepared));
            if self.sent.len() > SENT_MAX {
                return None;
            }
        }
        Some(())
    }

    /// Nothing is asked, and what took much room is given back.
    fn forget(&mut self) {
        self.asked.clear();
        self.answer = None;
        self.sent.clear();
        if self.sent.capacity() > KEPT {
            self.sent = BytesMut::new();
        }
        if self.come.capacity() > KEPT {
            self.come = Vec::new();
        }
    }

    /// They are sent.
    pub(super) fn begin(&mut self) {
        self.owed = self.asked.len();
        self.come.clear();
        self.at = 0;
    }

    /// Goes on with the next answer, which is the one to `question`.
    pub(super) fn poll(&mut self, Question(kind): &Question) -> Poll<Result<Answer, Error>> {
        // Some of an earlier one was not waited for.
        while self.owed > self.asked.len() {
            std::task::ready!(self.poll_skip())?;
        }
        let mut coming = self.answer.take().unwrap_or_else(|| Coming::of(kind));
        loop {
            let Poll::Ready(message) = self.poll_message() else {
                self.answer = Some(coming);
                return Poll::Pending;
            };
            let (tag, body) = message?;
            let Some(prepared) = self.asked.front() else { return Poll::Ready(Err(unexpected(tag))) };
            let body = &self.come[body];
            match (tag, coming.stage) {
                (BIND_COMPLETE_TAG, Stage::Awaited) => coming.stage = Stage::Begun,
                (DATA_ROW_TAG, Stage::Begun) => coming.add(kind, prepared, body)?,
                (COMMAND_COMPLETE_TAG | EMPTY_QUERY_RESPONSE_TAG, Stage::Begun) => {
                    coming.complete(prepared, body);
                }
                // Also behind the last row, where it is its transaction that cannot end.
                (ERROR_RESPONSE_TAG, _) => {
                    let refusal = refused(body);
                    if is_fatal(body) {
                        // Nothing comes behind it.
                        return Poll::Ready(Err(refusal));
                    }
                    (coming.refusal, coming.stage) = (Some(refusal), Stage::Complete);
                }
                (READY_FOR_QUERY_TAG, Stage::Complete) => {
                    self.owed -= 1;
                    return Poll::Ready(coming.refusal.map_or(Ok(coming.so_far), Err));
                }
                (NOTICE_RESPONSE_TAG, _) => log::debug!("{}: {}", field(body, b'S'), field(body, b'M')),
                (NOTIFICATION_RESPONSE_TAG | PARAMETER_STATUS_TAG, _) => {}
                _ => return Poll::Ready(Err(unexpected(tag))),
            }
        }
    }

    /// Nobody waits for the next answer any more, or it has come: the one behind it is the next.
    pub(super) fn leave(&mut self) {
        self.asked.pop_front();
        self.answer = None;
    }

    /// Whether something of the answers is still to come.
    pub(super) fn is_owed(&self) -> bool {
        self.owed > 0
    }

    /// Reads what nobody waits for any more.
    pub(super) fn poll_rest(&mut self) -> Poll<Result<(), Error>> {
        while self.owed > 0 {
            std::task::ready!(self.poll_skip())?;
        }
        Poll::Ready(Ok(()))
    }

    /// All answers have come, or nobody waits for them. Returns whether nothing came behind them that the driver would have to
    /// know of.
    pub(super) fn end(&mut self) -> bool {
        let mut rest = &self.come[self.at..];
        while let Ok(Some(header)) = Header::parse(rest)
            && ASIDE.contains(&header.tag())
            && let Some(behind) = rest.get(length(header)..)
        {
            rest = behind;
        }
        let is_clean = rest.is_empty();
        self.forget();
        is_clean
    }

    fn poll_skip(&mut self) -> Poll<Result<(), Error>> {
        let (tag, _) = std::task::ready!(self.poll_message())?;
        self.owed -= usize::from(tag == READY_FOR_QUERY_TAG);
        Poll::Ready(Ok(()))
    }

    /// The next message's tag, and where its body is.
    fn poll_message(&mut self) -> Poll<Result<(u8, Range<usize>), Error>> {
        loop {
            let rest = &self.come[self.at..];
            let header = Header::parse(rest).map_err(|error| Error::Lost(error.to_string()))?;
            if let Some(header) = header.filter(|header| rest.len() >= length(*header)) {
                let begin = self.at;
                self.at += length(header);
                return Poll::Ready(Ok((header.tag(), begin + HEADER..self.at)));
            }
            self.come.drain(..self.at);
            self.at = 0;
            if !self.socket.take(&mut self.come).map_err(|error| Error::Lost(error.to_string()))? {
                return Poll::Pending;
            }
        }
    }
}

/// A tag, and a length of four bytes.
const HEADER: usize = 5;

/// What a server may say at any time (the manual, 55.2.7).
const ASIDE: [u8; 3] = [NOTICE_RESPONSE_TAG, NOTIFICATION_RESPONSE_TAG, PARAMETER_STATUS_TAG];

/// Of a whole message: its length counts itself, and not the tag before it.
fn length(header: Header) -> usize {
    1 + usize::try_from(header.len()).unwrap_or_default()
}

impl Coming {
    fn of(kind: &Kind) -> Self {
        let so_far = match kind {
            Kind::Written { form, .. } => Answer::Written(form.begun(), 0),
            Kind::Rows { .. } => Answer::Rows(Vec::new()),
        };
        Self { so_far, stage: Stage::Awaited, refusal: None }
    }

    /// Another row.
    fn add(&mut self, kind: &Kind, prepared: &Arc<Prepared>, body: &[u8]) -> Result<(), Error> {
        let plan = &prepared.plan;
        let Some(fields) = fields_of(body, plan.len()) else {
            return Err(Error::Lost("it sent a row of other columns".to_owned()));
        };
        match (&mut self.so_far, kind) {
            (Answer::Written(body, count), Kind::Written { form, .. }) => {
                let Form { shape, bytes_max, rows_max, opening } = *form;
                let mut rows = RowWriter::new(body, shape, bytes_max, rows_max).behind(opening.len(), *count);
                let mut fields = Fields(fields);
                // One after the other, from the first on.
                rows.row(plan.iter().map(|column| &*column.key), |index, out| {
                    let encoder = plan.get(index).and_then(|column| column.encoder.as_ref());
                    let written =
                        fields.next().zip(encoder).map(|(field, encoder)| encoder.write(out, field));
                    written.and_then(Result::ok).ok_or_else(|| {
                        let (column, type_name) = column(prepared.statement.columns(), index);
                        Error::Malformed { column, type_name }
                    })
                })?;
                *count = rows.rows();
            }
            (Answer::Rows(rows), _) => rows.push(Row::direct(prepared, fields)),
            (Answer::Written(..), Kind::Rows { .. }) => {}
        }
        Ok(())
    }

    /// The last row was there. What has no columns says how many there were, behind its name: `SELECT 5`.
    fn complete(&mut self, prepared: &Prepared, body: &[u8]) {
        self.stage = Stage::Complete;
        if let Answer::Written(_, count) = &mut self.so_far
            && prepared.plan.is_empty()
        {
            let words = body.strip_suffix(b"\0").and_then(|words| words.rsplit(|byte| *byte == b' ').next());
            let number = words.and_then(|number| str::from_utf8(number).ok()?.parse().ok());
            *count = number.unwrap_or_default();
        }
    }
}

/// What an error message says, in short: whoever is to be told runs the statement again by itself.
fn refused(body: &[u8]) -> Error {
    let (code, message) = (field(body, b'C'), field(body, b'M'));
    let category = Category::of_sqlstate(&code);
    Error::Refused(Box::new(Refusal::new(category, &code, &message)))
}

/// Whether the server ends the session with this error. `V` is never translated, and younger than `S`.
fn is_fatal(body: &[u8]) -> bool {
    [b'V', b'S'].iter().any(|name| matches!(&*field(body, *name), "FATAL" | "PANIC"))
}

/// One field of an error or a notice (the manual, 55.8).
fn field(body: &[u8], name: u8) -> Cow<'_, str> {
    let mut fields = body.split(|byte| *byte == 0).filter_map(<[u8]>::split_first);
    let found = fields.find(|(first, _)| **first == name);
    found.map(|(_, value)| String::from_utf8_lossy(value)).unwrap_or_default()
}

/// The fields of a row that has so many.
fn fields_of(body: &[u8], count: usize) -> Option<&[u8]> {
    let (said, fields) = body.split_first_chunk()?;
    let mut rest = Fields(fields);
    let met = rest.by_ref().count();
    (usize::from(u16::from_be_bytes(*said)) == count && met == count && rest.0.is_empty()).then_some(fields)
}

/// Bind, Execute and Sync; the values come in binary.
fn ask<P: BorrowToSql>(
    name: &str,
    types: &[Type],
    parameters: impl ExactSizeIterator<Item = P> + Clone,
    out: &mut BytesMut,
) -> Option<()> {
    if parameters.len() != types.len() {
        return None;
    }
    let formats =
        parameters.clone().zip(types).map(|(one, kind)| match one.borrow_to_sql().encode_format(kind) {
            Format::Text => 0,
            Format::Binary => 1,
        });
    let serialize = |(one, kind): (P, &Type), out: &mut BytesMut| {
        one.borrow_to_sql().to_sql_checked(kind, out).map(|null| match null {
            Null::Yes => IsNull::Yes,
            Null::No => IsNull::No,
        })
    };
    frontend::bind("", name, formats, parameters.zip(types), serialize, Some(1), out).ok()?;
    frontend::execute("", 0, out).ok()?;
    frontend::sync(out);
    Some(())
}

fn unexpected(tag: u8) -> Error {
    Error::Lost(format!("it sent a message that was not expected, {:?}", char::from(tag)))
}

#[cfg(test)]
mod tests;
