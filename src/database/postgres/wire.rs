//! The conversation with a PostgreSQL server: messages out, messages in, and the limits of waiting for them.
//!
//! Owns [`Wire`], [`Wait`] and [`Failure`]. Messages are collected in a batch, sent at once, and answered in
//! their order. Each part of a batch ends with its own `ReadyForQuery`. Runs on the thread that makes a call; knows
//! nothing of statements.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::backend::{
    Header, NOTICE_RESPONSE_TAG, NOTIFICATION_RESPONSE_TAG, PARAMETER_STATUS_TAG, READY_FOR_QUERY_TAG,
};
use postgres_protocol::message::frontend;
use tokio_postgres::{CancelToken, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::channel::Channel;
use super::connect::{self, Opened, Server};
use super::errand::{Errand, ErrandKind, Finding, Step};
use super::refusal::{ServerError, field};
use super::url::{Place, Target};
use crate::base::deadline::Deadline;
use crate::base::system::Bell;
use crate::database::hosts::Hosts;
use crate::database::limit::{CANCEL_GRACE, Limit, SETTLE_GRACE};
pub(super) use crate::database::outcome::{Failure, Pause};
use crate::database::{Access, Error};

/// The size of the buffers that are kept from one batch to the next.
const KEPT_BYTES: usize = 64 * 1024;

/// A tag, and a length of four bytes.
const HEADER_BYTES: usize = 5;

/// A wait for answers, with its limits.
pub(super) struct Wait<'a> {
    limit: &'a Limit,
    end: Deadline,
    /// The end of the patience of the clients behind this one.
    patience: Option<Instant>,
    /// It does not wait at all.
    is_brief: bool,
    /// Its ring ends the wait.
    bell: Option<&'a Bell>,
    /// The client's departure ends the wait.
    watched: bool,
    /// The reason why the statement was cancelled. The wait for its end continues.
    cancelled: Option<Error>,
}

impl<'a> Wait<'a> {
    /// Makes the wait end at once.
    pub(super) fn cut_short(&mut self) {
        self.is_brief = true;
    }

    /// Makes a ring of the bell end the wait.
    pub(super) fn listen_to(&mut self, bell: Option<&'a Bell>) {
        self.bell = bell;
    }

    fn until(&self) -> Instant {
        self.patience.map_or(self.end.instant(), |patience| patience.min(self.end.instant()))
    }

    /// The next statement of the batch begins to run now, and has its own time.
    pub(super) fn begin_next(&mut self) {
        if self.cancelled.is_none() {
            self.end = self.limit.end();
        }
    }

    fn unwatch(&mut self) {
        if mem::take(&mut self.watched) {
            self.limit.client.wake_nobody();
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.unwatch();
    }
}

/// A message from the server: its tag, and the place of its body.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Range<usize>,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and any of them may hold with the others"
)]
pub(super) struct Wire {
    channel: Channel,
    /// Ends a wait for the server.
    interruption: Waker,
    cancel: CancelToken,
    server: Server,
    tls: MakeRustlsConnect,
    /// The server's major version; 0 where it is not known.
    pub(super) version: u32,
    /// The connection may be out of order. It must be closed, not used.
    broken: bool,
    /// The last batch was sent in part. Further bytes would be taken for the rest of a message.
    is_cut: bool,
    /// The batch in the making, and the number of its parts. The server will report at the end of each part that it is
    /// ready.
    batch: BytesMut,
    parts: usize,
    /// The number of batches that were sent so far.
    pub(super) sends: u64,
    /// The received bytes. The bytes before `read` were used.
    received: Vec<u8>,
    read: usize,
    /// The number of `ReadyForQuery` messages that the server still has to send.
    owed: usize,
    /// The shortest round trip so far; zero before the first.
    distance: Duration,
    /// Whether the server was in a transaction when it last said so.
    is_in_transaction: bool,
    /// Whether the server has begun to run something of the last batch.
    has_begun: bool,
    /// The errands with answers before those to the batch, and the errands of the batch in the making.
    errands: VecDeque<Errand>,
    new_errands: Vec<Errand>,
    /// The access of the session's transactions, if the server reports it.
    access: Option<Access>,
    /// The reason why the command before a statement was refused.
    refusal: Option<Error>,
    /// Statements that were prepared by SQL still exist.
    leftovers: bool,
    /// A pooler stands between here and the server.
    pub(super) has_pooler: bool,
}

impl Wire {
    /// Connects by `config`, with the TLS that the URL asks for. Also returns the process that cancel requests name.
    pub(super) fn open(
        target: &Target,
        config: &Config,
        tls: &MakeRustlsConnect,
        hosts: &Hosts,
        deadline: Deadline,
    ) -> Result<(Self, Option<i32>), Error> {
        let opened = connect::open(target, config, tls, hosts, deadline).map_err(|failure| Error::Open {
            target: target.name.clone(),
            reason: failure.to_string(),
            transient: failure.is_transient(),
        })?;
        let Opened { channel, server, cancel, process, version, access } = opened;
        let wire = Self {
            interruption: Waker::from(Arc::clone(channel.socket())),
            channel,
            cancel,
            server,
            tls: tls.clone(),
            version,
            broken: false,
            is_cut: false,
            batch: BytesMut::new(),
            parts: 0,
            sends: 0,
            received: Vec::new(),
            read: 0,
            owed: 0,
            distance: Duration::ZERO,
            is_in_transaction: false,
            has_begun: false,
            errands: VecDeque::new(),
            new_errands: Vec::new(),
            access,
            refusal: None,
            leftovers: false,
            has_pooler: false,
        };
        Ok((wire, process))
    }

    /// The host of the URL that took the session.
    pub(super) fn place(&self) -> &Place {
        &self.server.place
    }

    pub(super) fn is_broken(&self) -> bool {
        // Nothing can be read after an interruption, even if the answer was quicker.
        self.broken || self.channel.socket().is_interrupted()
    }

    /// Gives the connection up.
    pub(super) fn close(&mut self) {
        self.broken = true;
    }

    /// The default access of the session's transactions, if the server reports it.
    pub(super) fn reported_access(&self) -> Option<Access> {
        self.access
    }

    /// Whether the server has answered everything except errands.
    pub(super) fn is_settled(&self) -> bool {
        self.owed_answers() == 0
    }

    /// The number of `ReadyForQuery` messages that the server still has to send, errands not counted.
    fn owed_answers(&self) -> usize {
        self.owed - self.errands.iter().map(|errand| errand.parts).sum::<usize>()
    }

    /// Whether no errand is on its way.
    pub(super) fn has_no_errands(&self) -> bool {
        self.errands.is_empty() && !self.leftovers
    }

    /// Whether the server was in a transaction when it last said that it is ready.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.is_in_transaction
    }

    /// Notes that the server has begun to run a statement of the last batch.
    pub(super) fn note_begun(&mut self) {
        self.has_begun = true;
    }

    /// Notes that the answer to the next statement of the batch is read now. [`has_begun`](Self::has_begun) is about that
    /// statement from now on.
    pub(super) fn note_next(&mut self) {
        self.has_begun = false;
    }

    /// Whether the server has begun to run a statement of the last batch. The server may then have done some of it,
    /// even if it failed.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Gives back the memory of a large message.
    pub(super) fn shrink(&mut self) {
        if self.received.capacity() > KEPT_BYTES && self.read == self.received.len() {
            (self.received, self.read) = (Vec::new(), 0);
        }
        if self.batch.capacity() > KEPT_BYTES {
            self.batch = BytesMut::new();
        }
    }

    /// Whether a cleaned session still has statements of an earlier borrower. The cleaning's transaction has then
    /// failed, and the server ran nothing that was sent behind it.
    pub(super) fn has_leftovers(&self) -> bool {
        self.leftovers
    }

    /// Notes that the leftovers are gone.
    pub(super) fn note_wiped(&mut self) {
        self.leftovers = false;
    }

    /// The reason why the command before the answered statement was refused, if it was.
    pub(super) fn take_refusal(&mut self) -> Option<Error> {
        self.refusal.take()
    }

    /// Begins a batch. Collected messages that were not sent are dropped.
    pub(super) fn begin_batch(&mut self) {
        self.batch.clear();
        self.new_errands.clear();
        self.has_begun = false;
        if self.batch.capacity() > KEPT_BYTES {
            self.batch = BytesMut::new();
        }
        self.parts = 0;
    }

    /// The batch, to add messages to.
    pub(super) fn batch(&mut self) -> &mut BytesMut {
        &mut self.batch
    }

    /// Calls `put`, which adds messages to the batch. If `put` fails, they are removed again.
    pub(super) fn try_put(&mut self, put: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        let (length, parts) = (self.batch.len(), self.parts);
        put(self).inspect_err(|_| {
            self.batch.truncate(length);
            self.parts = parts;
        })
    }

    /// Ends a part of the batch. The next part is another transaction, unless a transaction is open.
    pub(super) fn add_sync(&mut self) {
        frontend::sync(&mut self.batch);
        self.parts += 1;
    }

    /// Adds commands without parameters, as a part of their own.
    pub(super) fn add_query(&mut self, sql: &str) -> Result<(), Error> {
        frontend::query(sql, &mut self.batch).map_err(unsendable)?;
        self.parts += 1;
        Ok(())
    }

    /// Makes the last parts of the batch an errand: nobody waits for their answers, which are noted on arrival.
    pub(super) fn add_errand(&mut self, kind: ErrandKind, parts: usize) {
        self.new_errands.push(Errand::new(kind, parts));
    }

    /// Adds a BEGIN to the part of the statement behind it. If BEGIN fails, the server does not run the statement.
    pub(super) fn add_begin(&mut self, sql: &str) -> Result<(), Error> {
        let no_values = std::iter::empty::<()>();
        let nothing = |(), _: &mut BytesMut| Ok(postgres_protocol::IsNull::Yes);
        frontend::parse("", sql, [], &mut self.batch).map_err(unsendable)?;
        frontend::bind("", "", [], no_values, nothing, [], &mut self.batch)
            .map_err(|_| Error::Usage("a command without values was refused".to_owned()))?;
        frontend::execute("", 0, &mut self.batch).map_err(unsendable)?;
        self.add_errand(ErrandKind::Begin, 0);
        Ok(())
    }

    /// Begins a wait within the limit, if there is time for one. `patience` is the patience of the clients behind this
    /// one, counted from a moment that has just passed.
    pub(super) fn begin<'a>(
        &self,
        limit: &'a Limit,
        patience: Option<(Instant, Duration)>,
    ) -> Result<Wait<'a>, Error> {
        if self.is_broken() {
            return Err(Error::Lost("it was closed after an earlier error".to_owned()));
        }
        let now = patience.map_or_else(Instant::now, |(now, _)| now);
        if let Some(over) = limit.is_over(now) {
            return Err(over);
        }
        let patience = patience.map(|(now, patience)| now + patience);
        let (is_brief, bell, watched, cancelled) = (false, None, false, None);
        Ok(Wait { limit, end: limit.end(), patience, is_brief, bell, watched, cancelled })
    }

    /// Sends the batch. While the socket has no room, it waits and reads messages.
    pub(super) fn send(&mut self, wait: &mut Wait<'_>) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.sends += 1;
        let batch = mem::take(&mut self.batch);
        let sent = self.send_all(&batch, wait);
        self.batch = batch;
        // Half a batch is of no use, and the server's reaction to it is not known.
        self.is_cut |= sent.is_err();
        self.broken |= self.is_cut;
        self.owed += mem::take(&mut self.parts);
        self.errands.extend(self.new_errands.drain(..));
        sent
    }

    fn send_all(&mut self, mut bytes: &[u8], wait: &mut Wait<'_>) -> Result<(), Failure> {
        let whole = bytes.len();
        loop {
            let sent = self.channel.send(bytes).map_err(|error| match lost(error) {
                // The server has received nothing. Of an encrypted batch it may have received a part.
                Failure::Lost(error) if bytes.len() == whole && !self.channel.is_encrypted() => {
                    Failure::NotRun(error)
                }
                lost => lost,
            })?;
            bytes = &bytes[sent..];
            if bytes.is_empty() && self.channel.flush().map_err(lost)? {
                return Ok(());
            }
            if sent == 0 || bytes.is_empty() {
                self.wait_for_socket(wait)?;
                self.channel.take(&mut self.received).map_err(lost)?;
            }
        }
    }

    /// Sends the batch without waiting. If the socket has no room for it, the connection is given up.
    pub(super) fn send_at_once(&mut self) {
        self.sends += 1;
        let sent = self.channel.send(&self.batch).is_ok_and(|sent| sent == self.batch.len());
        self.is_cut |= !sent || !self.channel.flush().unwrap_or(false);
        self.broken |= self.is_cut;
        self.owed += mem::take(&mut self.parts);
        self.errands.extend(self.new_errands.drain(..));
    }

    /// The next message of an answer.
    pub(super) fn message(&mut self, wait: &mut Wait<'_>) -> Result<Message, Failure> {
        loop {
            if let Some(message) = self.next_received()? {
                return Ok(message);
            }
            if !self.take()? {
                self.wait_for_socket(wait)?;
            }
        }
    }

    /// The next message, if it has come already. Waits for nothing.
    pub(super) fn message_at_hand(&mut self) -> Result<Option<Message>, Failure> {
        loop {
            if let Some(message) = self.next_received()? {
                return Ok(Some(message));
            }
            if !self.take()? && (self.channel.socket().is_silent() || !self.take()?) {
                return Ok(None);
            }
        }
    }

    pub(super) fn body(&self, message: &Message) -> &[u8] {
        &self.received[message.body.clone()]
    }

    /// Reads an error message, whose position counts in `sql`. If the error ends the session, the connection is given
    /// up.
    pub(super) fn error(&mut self, message: &Message, sql: &str) -> ServerError {
        let error = ServerError::read(self.body(message), sql);
        self.broken |= error.ends_session;
        error
    }

    fn next_received(&mut self) -> Result<Option<Message>, Failure> {
        loop {
            let rest = &self.received[self.read..];
            let header = Header::parse(rest).map_err(lost)?;
            let Some(header) = header.filter(|header| rest.len() >= length(*header)) else { return Ok(None) };
            let body = self.read + HEADER_BYTES..self.read + length(header);
            self.read = body.end;
            match header.tag() {
                NOTICE_RESPONSE_TAG => {
                    let notice = &self.received[body];
                    // A function wrote the message, and may have put values into it.
                    log::debug!(
                        "the database sent a notice: {} {}",
                        field(notice, b'S'),
                        field(notice, b'C')
                    );
                }
                PARAMETER_STATUS_TAG => self.note_setting(body),
                NOTIFICATION_RESPONSE_TAG => {}
                READY_FOR_QUERY_TAG if self.owed == 0 => return Err(self.unexpected(READY_FOR_QUERY_TAG)),
                tag => {
                    if tag == READY_FOR_QUERY_TAG {
                        self.owed -= 1;
                        self.is_in_transaction = self.received[body.clone()] != *b"I";
                    }
                    if self.errands.is_empty() || !self.note_errand(tag, body.clone())? {
                        return Ok(Some(Message { tag, body }));
                    }
                }
            }
        }
    }

    /// Gives a message to the first errand. Returns whether nobody else needs it.
    fn note_errand(&mut self, tag: u8, body: Range<usize>) -> Result<bool, Failure> {
        let Some(errand) = self.errands.front_mut() else { return Ok(false) };
        let step = errand.read(tag, &self.received[body]);
        if let Step::Over(_) | Step::BeginRefused(_) = step {
            self.errands.pop_front();
        }
        match step {
            Step::More | Step::Over(Finding::Nothing) => {}
            Step::Fatal(error) => {
                self.broken = true;
                return Err(error.into());
            }
            Step::BeginRefused(error) => {
                self.refusal = Some(error);
                return Ok(false);
            }
            Step::Over(Finding::Leftovers) => self.leftovers = true,
            Step::Over(Finding::NotClean(error)) => {
                self.broken = true;
                // The cleaning's transaction has failed, and so has all that was sent behind it.
                let error = Error::Lost(format!("it could not be cleaned after the request before: {error}"));
                return Err(Failure::NotRun(error));
            }
            Step::Over(Finding::Command(refusal)) => self.refusal = refusal,
        }
        Ok(true)
    }

    fn note_setting(&mut self, body: Range<usize>) {
        let mut words = self.received[body].split(|byte| *byte == 0);
        if words.next() == Some(b"default_transaction_read_only") {
            let value = String::from_utf8_lossy(words.next().unwrap_or_default());
            self.access = Some(connect::access_of(&value));
        }
    }

    /// Takes the socket's bytes. Returns whether there were any.
    fn take(&mut self) -> Result<bool, Failure> {
        self.received.drain(..self.read);
        self.read = 0;
        if self.received.is_empty() && self.received.capacity() > KEPT_BYTES {
            self.received = Vec::new();
        }
        self.channel.take(&mut self.received).map_err(|error| {
            self.broken = true;
            lost(error)
        })
    }

    /// Waits until the socket has bytes or room. A statement past its limit is cancelled. The wait then goes on a
    /// little, because the server may have been quicker.
    fn wait_for_socket(&mut self, wait: &mut Wait<'_>) -> Result<(), Failure> {
        if wait.is_brief {
            return Err(Failure::NotYet(Pause::Bell));
        }
        if !wait.watched && wait.cancelled.is_none() {
            wait.limit.client.wake_when_left(&self.interruption);
            wait.watched = true;
        }
        if wait.cancelled.is_none() && wait.limit.client.has_left() {
            return Err(self.abandon_for_departure(wait));
        }
        let (has_news, has_rung) = match wait.bell {
            Some(bell) if wait.cancelled.is_none() => self.channel.socket().wait_or_bell(wait.until(), bell),
            _ => (self.channel.socket().wait(wait.until()), false),
        };
        if has_news {
            if !self.channel.socket().is_interrupted() {
                return Ok(());
            }
            // Nothing more can be read after an interruption.
            return Err(self.abandon_for_departure(wait));
        }
        if has_rung {
            return Err(Failure::NotYet(Pause::Bell));
        }
        if Instant::now() < wait.until() {
            // A signal has ended the wait.
            return Ok(());
        }
        if wait.cancelled.is_some() {
            return Err(Failure::Lost(Error::Lost("it did not answer to a cancel".to_owned())));
        }
        if wait.patience.is_some() && wait.until() < wait.end.instant() {
            return Err(Failure::NotYet(Pause::Patience));
        }
        let why = if wait.end < wait.limit.deadline { Error::StatementTimeout } else { Error::Deadline };
        let until = Deadline::after(CANCEL_GRACE);
        wait.unwatch();
        (wait.cancelled, wait.end, wait.patience) = (Some(why), until, None);
        // A cancel request names a session, not a statement, and nothing answers it. So a late cancel ends whatever
        // runs then. The cancelled statement does not prove that the request has arrived: the database's own
        // `statement_timeout`, or another client, may have been quicker. The pool opens another session in the
        // background.
        self.broken = true;
        if self.send_cancel(until) {
            Ok(())
        } else {
            Err(Failure::Lost(Error::Lost("it was not reached with a cancel".to_owned())))
        }
    }

    fn abandon_for_departure(&mut self, wait: &mut Wait<'_>) -> Failure {
        self.broken = true;
        wait.cancelled = Some(Error::ClientLeft);
        wait.limit.client.note_cancelled();
        self.send_cancel(Deadline::after(CANCEL_GRACE));
        Failure::Lost(Error::ClientLeft)
    }

    /// The result of a wait. With `commits`, the server may have committed the statement: if its answer does not come,
    /// the outcome is unknown.
    pub(super) fn conclude<T>(
        &mut self,
        mut wait: Wait<'_>,
        done: Result<T, Failure>,
        commits: bool,
    ) -> Result<T, Error> {
        self.broken |= matches!(done, Err(Failure::Lost(_) | Failure::NotRun(_)));
        match (wait.cancelled.take(), done) {
            (None, Ok(done)) => Ok(done),
            // A commit despite the cancel is an answer.
            (Some(_), Ok(done)) if commits => Ok(done),
            // A client that has left gets no answer, and the server's own error shows that nothing was committed.
            (Some(why @ Error::ClientLeft), _) | (Some(why), Err(Failure::NotRun(_))) => Err(why),
            (Some(why), Err(Failure::Known(Error::Refused(refusal))))
                if !(commits && refusal.is_of_connection()) =>
            {
                Err(why)
            }
            (Some(why), _) if commits => Err(Error::OutcomeUnknown { cause: Box::new(why) }),
            (Some(why), _) => Err(why),
            (None, Err(Failure::Lost(error))) if commits => {
                Err(Error::OutcomeUnknown { cause: Box::new(error) })
            }
            (None, Err(Failure::Lost(error) | Failure::Known(error) | Failure::NotRun(error))) => Err(error),
            (None, Err(Failure::NotYet(_))) => Err(Error::Deadline),
        }
    }

    /// The failure of an unexpected message. The messages behind it cannot be understood.
    pub(super) fn unexpected(&mut self, tag: u8) -> Failure {
        self.broken = true;
        Failure::Lost(Error::Lost(format!("it sent a message that was not expected, {:?}", char::from(tag))))
    }

    /// Whether the server answers by `deadline`: one round trip. A connection without an answer by then is given up.
    pub(super) fn answers(&mut self, deadline: Deadline) -> bool {
        let began = Instant::now();
        self.begin_batch();
        self.add_sync();
        // The patience ends before the limit. So the wait ends at the deadline. No cancel is sent, because no request has a
        // statement there, and a cancelled connection would be of no use even if an answer came.
        let patience = deadline.left();
        let limit = Limit::until(Deadline::after(patience.saturating_mul(2)));
        let Ok(mut wait) = self.begin(&limit, Some((Instant::now(), patience))) else { return false };
        let answered = self.send(&mut wait).and_then(|()| self.skip(&mut wait));
        self.broken |= answered.is_err();
        self.note_round_trip(began.elapsed());
        answered.is_ok()
    }

    /// Notes that a round trip took this long.
    pub(super) fn note_round_trip(&mut self, took: Duration) {
        self.distance = if self.distance.is_zero() { took } else { self.distance.min(took) };
    }

    /// The time of a round trip in which the server has nothing to do: the shortest one so far.
    pub(super) fn distance(&self) -> Duration {
        self.distance
    }

    /// Reads the rest of an unfinished answer, or gives the connection up.
    pub(super) fn settle(&mut self) {
        if self.is_broken() || self.is_settled() {
            return;
        }
        // The patience ends before the time. So the cancel is sent here, without waiting for its end.
        let limit = Limit::until(Deadline::after(2 * SETTLE_GRACE));
        let settled = match self.begin(&limit, Some((Instant::now(), SETTLE_GRACE))) {
            Ok(mut wait) => self.skip(&mut wait).is_ok(),
            Err(_) => false,
        };
        if !settled {
            self.give_up();
        }
    }

    /// Reads every answer that is owed.
    fn skip(&mut self, wait: &mut Wait<'_>) -> Result<(), Failure> {
        self.skip_to(0, wait)
    }

    /// Reads until the server owes no more than `owed` `ReadyForQuery` messages, errands not counted.
    pub(super) fn skip_to(&mut self, owed: usize, wait: &mut Wait<'_>) -> Result<(), Failure> {
        while self.owed_answers() > owed {
            self.message(wait)?;
        }
        Ok(())
    }

    /// Cancels the running statement. The cancel may hit a later one, so the connection is given up too.
    pub(super) fn give_up(&mut self) {
        self.broken = true;
        self.send_cancel(Deadline::after(CANCEL_GRACE));
    }

    fn send_cancel(&self, until: Deadline) -> bool {
        connect::cancel(&self.cancel, &self.server, &self.tls, until)
    }
}

impl Drop for Wire {
    /// Leaves no answer to a pooler's next client.
    ///
    /// `PgBouncer` 1.18 takes a server for free when it has sent one `ReadyForQuery`. If its client leaves then, the
    /// answers to the later parts of a batch go to the next client. A message makes the server busy again, and
    /// `PgBouncer` closes a busy server when its client leaves. `Flush` is such a message, and has no answer.
    fn drop(&mut self) {
        if self.is_cut {
            return;
        }
        // Nobody has read the answers that came while the session was idle.
        while let Ok(Some(_)) = self.message_at_hand() {}
        if self.owed == 0 && !self.broken {
            return;
        }
        let mut farewell = BytesMut::new();
        frontend::flush(&mut farewell);
        frontend::terminate(&mut farewell);
        if let Err(error) = self.channel.send(&farewell).and_then(|_| self.channel.flush()) {
            log::debug!("a session ended without a farewell: {error}");
        }
    }
}

/// The length of a whole message. The length in the header counts itself, but not the tag before it.
fn length(header: Header) -> usize {
    1 + usize::try_from(header.len()).unwrap_or_default()
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
fn lost(error: io::Error) -> Failure {
    Failure::Lost(Error::Lost(match error.kind() {
        io::ErrorKind::UnexpectedEof => "closed".to_owned(),
        _ => error.to_string(),
    }))
}

/// The error of a value that does not fit into a message, such as a text with a zero byte.
#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
pub(super) fn unsendable(error: io::Error) -> Error {
    Error::Usage(format!("error encoding message: {error}"))
}
