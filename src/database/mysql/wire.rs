//! The conversation with a server: commands out, answers in, and the limits of waiting for them.
//!
//! Owns [`Wire`] and [`Wait`]. Commands are collected in a batch, sent at once, and answered in their order. A statement
//! past its time is ended by `KILL QUERY` over another connection, again and again until its answer has come. The session is closed
//! afterwards, so that no late kill can hit another request. [`answers`] reads the answers. Runs on the thread that makes a call.

mod answers;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

pub(super) use self::answers::{Definitions, PreparedAnswer, RowTaker};
use super::connect::{End, Killer, Opened, Server};
use super::frames::{self, Frames, put_packet};
use super::login::Facts;
use super::packet::{EOF, ERR, Malformed, capability};
use crate::base::deadline::Deadline;
use crate::base::system::Bell;
use crate::database::Error;
use crate::database::limit::{CANCEL_GRACE, Limit, SETTLE_GRACE};
pub(super) use crate::database::outcome::{Failure, Pause};

/// The pause between two kills of the same statement.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// A command's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Quit = 1,
    InitDatabase = 2,
    Query = 3,
    Ping = 14,
    Prepare = 22,
    Execute = 23,
    Close = 25,
    SetOption = 27,
    Reset = 31,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lost(Error::Lost(match error.kind() {
            io::ErrorKind::UnexpectedEof => "closed".to_owned(),
            _ => error.to_string(),
        }))
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::Lost(Error::Lost("it sent a packet that was not expected".to_owned()))
    }
}

/// A wait for answers, with its limits.
pub(super) struct Wait<'a> {
    limit: &'a Limit,
    end: Deadline,
    /// The client's departure ends the wait.
    watched: bool,
    /// The reason why the statement is to end. The wait for its end continues.
    cancelled: Option<Error>,
    killer: Option<Killer>,
    /// The first packet of an answer is not waited for.
    is_brief: bool,
    /// The end of the patience of the clients behind this one, until the first packet has come.
    patience: Option<Instant>,
    /// Rings when something is more urgent than the first packet of an answer.
    bell: Option<&'a Bell>,
}

impl<'a> Wait<'a> {
    /// Makes the wait for the next answer end at once, if nothing of the answer has come.
    pub(super) fn cut_short(&mut self) {
        self.is_brief = true;
    }

    /// Makes the wait for the next answer's first packet end with the patience or a ring of the bell.
    pub(super) fn listen_to(&mut self, patience: Option<(Instant, Duration)>, bell: Option<&'a Bell>) {
        self.patience = patience.map(|(since, patience)| since + patience);
        self.bell = bell;
    }

    /// An answer has begun. It is read to its end.
    fn begin_answer(&mut self) {
        (self.is_brief, self.patience, self.bell) = (false, None, None);
    }

    /// The next statement begins to run now, and has its own time.
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

pub(super) struct Wire {
    frames: Frames,
    pub(super) facts: Facts,
    /// The longest packet that the server takes.
    pub(super) packet_max: usize,
    /// The most statements that all sessions of the server may keep prepared. `None`: not known.
    pub(super) prepared_max: Option<usize>,
    server: Server,
    /// Ends a wait for the server.
    interruption: Waker,
    /// The connection may be out of order. It must be closed, not used.
    broken: bool,
    /// The commands in the making, and the first frame's number of each answer to them.
    batch: Vec<u8>,
    new_answers: Vec<u8>,
    /// The answers that the server still has to send, each with its first frame's number.
    owed: VecDeque<u8>,
    /// The rows of an answer were read in part.
    is_in_rows: bool,
    /// The columns of the result that is being read.
    definitions: Definitions,
    /// Whether the server was in a transaction when it last said so.
    is_in_transaction: bool,
    /// The shortest round trip so far; zero before the first.
    distance: Duration,
}

impl Wire {
    pub(super) fn new(opened: Opened) -> Self {
        /// The least default of any version. The session asks for the server's own.
        const PACKET_MAX: usize = 4 << 20;
        let Opened { frames, facts, server } = opened;
        Self {
            interruption: Waker::from(Arc::clone(frames.channel.socket())),
            frames,
            facts,
            packet_max: PACKET_MAX,
            prepared_max: None,
            server,
            broken: false,
            batch: Vec::new(),
            new_answers: Vec::new(),
            owed: VecDeque::new(),
            is_in_rows: false,
            definitions: Definitions::default(),
            is_in_transaction: false,
            distance: Duration::ZERO,
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        // Nothing can be read after an interruption, even if the answer was quicker.
        self.broken || self.frames.channel.socket().is_interrupted()
    }

    /// Gives the connection up.
    pub(super) fn close(&mut self) {
        self.broken = true;
    }

    /// Whether the server was in a transaction when it last said so.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.is_in_transaction
    }

    /// Whether the server runs the statement that was prepared last without being told its number. Only MariaDB has capabilities of its
    /// own, and with them this.
    pub(super) fn runs_last_prepared(&self) -> bool {
        self.facts.extended != 0
    }

    pub(super) fn has_extended_types(&self) -> bool {
        self.facts.extended & capability::EXTENDED_TYPES != 0
    }

    /// Whether nothing has come without a question. Does not wait.
    pub(super) fn is_silent(&mut self) -> bool {
        !self.frames.has_unread() && self.frames.channel.socket().is_silent()
    }

    /// The database in which the session was opened.
    pub(super) fn database(&self) -> Option<&str> {
        self.server.database()
    }

    /// Gives back the memory of a large packet.
    pub(super) fn shrink(&mut self) {
        self.frames.shrink();
        frames::shrink(&mut self.batch);
    }

    /// Begins a batch. Collected commands that were not sent are dropped.
    pub(super) fn begin_batch(&mut self) {
        frames::shrink(&mut self.batch);
        self.new_answers.clear();
    }

    /// Adds a command, whose content `put` appends. If `put` fails, or the command is longer than the server takes, it is not added.
    pub(super) fn add(
        &mut self,
        command: Command,
        put: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let max = self.packet_max;
        let answer = put_packet(&mut self.batch, 0, |out| {
            let start = out.len();
            out.push(command as u8);
            put(out)?;
            if out.len() - start > max { Err(too_long(out.len() - start, max)) } else { Ok(()) }
        })?;
        if !matches!(command, Command::Close | Command::Quit) {
            self.new_answers.push(answer);
        }
        Ok(())
    }

    /// Adds a statement as text.
    pub(super) fn add_query(&mut self, sql: &str) -> Result<(), Error> {
        self.add(Command::Query, |out| {
            out.extend_from_slice(sql.as_bytes());
            Ok(())
        })
    }

    /// Begins a wait within the limit, if there is time for one.
    pub(super) fn begin<'a>(&self, limit: &'a Limit) -> Result<Wait<'a>, Error> {
        if self.is_broken() {
            return Err(Error::Lost("it was closed after an earlier error".to_owned()));
        }
        if let Some(over) = limit.is_over(Instant::now()) {
            return Err(over);
        }
        Ok(Wait {
            limit,
            end: limit.end(),
            watched: false,
            cancelled: None,
            killer: None,
            is_brief: false,
            patience: None,
            bell: None,
        })
    }

    /// Sends the batch. While the socket has no room, it waits and takes bytes.
    pub(super) fn send(&mut self, wait: &mut Wait<'_>) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = mem::take(&mut self.batch);
        let sent = self.send_all(&batch, wait);
        self.batch = batch;
        self.batch.clear();
        // Half a batch is of no use.
        self.broken |= sent.is_err();
        self.owed.extend(self.new_answers.drain(..));
        sent
    }

    fn send_all(&mut self, mut bytes: &[u8], wait: &mut Wait<'_>) -> Result<(), Failure> {
        let whole = bytes.len();
        loop {
            let sent = self.frames.channel.send(bytes).map_err(|error| match Failure::from(error) {
                // The server has received nothing. Of an encrypted batch it may have received a part.
                Failure::Lost(error) if bytes.len() == whole && !self.frames.channel.is_encrypted() => {
                    Failure::NotRun(error)
                }
                lost => lost,
            })?;
            bytes = &bytes[sent..];
            if bytes.is_empty() && self.frames.channel.flush()? {
                return Ok(());
            }
            if sent == 0 || bytes.is_empty() {
                self.wait_for_socket(wait)?;
                self.take()?;
            }
        }
    }

    /// Sends the batch without waiting. If the socket has no room for it, the connection is given up.
    pub(super) fn send_at_once(&mut self) {
        let sent = self.frames.channel.send(&self.batch).is_ok_and(|sent| sent == self.batch.len());
        self.broken |= !sent || !self.frames.channel.flush().unwrap_or(false);
        self.batch.clear();
        self.owed.extend(self.new_answers.drain(..));
    }

    fn packet(&mut self, wait: &mut Wait<'_>) -> Result<Range<usize>, Failure> {
        loop {
            if let Some(packet) = self.frames.next_taken()? {
                return Ok(packet);
            }
            if !self.take()? {
                self.wait_for_socket(wait)?;
            }
        }
    }

    fn take(&mut self) -> Result<bool, Failure> {
        Ok(self.frames.take().inspect_err(|_| self.broken = true)?)
    }

    /// Waits until the socket has bytes or room. A statement past its limit is ended. The wait then goes on a little, because the
    /// server may have been quicker.
    fn wait_for_socket(&mut self, wait: &mut Wait<'_>) -> Result<(), Failure> {
        if wait.is_brief {
            return Err(Failure::NotYet(Pause::Bell));
        }
        if !wait.watched && wait.cancelled.is_none() {
            wait.limit.client.wake_when_left(&self.interruption);
            wait.watched = true;
        }
        let socket = Arc::clone(self.frames.channel.socket());
        if wait.cancelled.is_none() && wait.limit.client.has_left() {
            return Err(self.abandon_for_departure(wait));
        }
        loop {
            let until = match (&wait.killer, wait.patience) {
                (Some(_), _) => wait.end.instant().min(Instant::now() + KILL_AGAIN),
                (None, Some(patience)) => wait.end.instant().min(patience),
                (None, None) => wait.end.instant(),
            };
            let (has_news, has_rung) = match wait.bell {
                Some(bell) if wait.cancelled.is_none() => socket.wait_or_bell(until, bell),
                _ => (socket.wait(until), false),
            };
            if has_rung && !has_news {
                return Err(Failure::NotYet(Pause::Bell));
            }
            if has_news {
                if !socket.is_interrupted() {
                    return Ok(());
                }
                // Nothing more can be read after an interruption.
                return Err(self.abandon_for_departure(wait));
            }
            if Instant::now() < until {
                // A signal has ended the wait.
                continue;
            }
            if wait.cancelled.is_none() && !wait.end.has_passed() {
                return Err(Failure::NotYet(Pause::Patience));
            }
            if wait.cancelled.is_none() {
                wait.begin_answer();
                self.cancel(wait)?;
            } else if wait.end.has_passed() {
                return Err(Failure::Lost(Error::Lost("it did not answer to a kill".to_owned())));
            } else if let Some(killer) = &mut wait.killer
                && let Err(failure) = killer.kill(End::Statement, self.facts.thread, wait.end)
            {
                log::debug!("a kill was not repeated: {failure}");
                wait.killer = None;
            }
        }
    }

    /// Ends the statement whose time is over.
    fn cancel(&mut self, wait: &mut Wait<'_>) -> Result<(), Failure> {
        let why = if wait.end < wait.limit.deadline { Error::StatementTimeout } else { Error::Deadline };
        wait.unwatch();
        (wait.cancelled, wait.end) = (Some(why), Deadline::after(CANCEL_GRACE));
        // A kill names a session, not a statement. A late one ends whatever runs then.
        self.broken = true;
        match self.killer(End::Statement, wait.end) {
            Some(killer) => {
                wait.killer = Some(killer);
                Ok(())
            }
            None => Err(Failure::Lost(Error::Lost("it was not reached with a kill".to_owned()))),
        }
    }

    fn abandon_for_departure(&mut self, wait: &mut Wait<'_>) -> Failure {
        self.broken = true;
        wait.cancelled = Some(Error::ClientLeft);
        wait.limit.client.note_cancelled();
        self.killer(End::Session, Deadline::after(CANCEL_GRACE));
        Failure::Lost(Error::ClientLeft)
    }

    /// Ends the session's work over another connection, which can do it again.
    fn killer(&self, end: End, until: Deadline) -> Option<Killer> {
        let killed = self.server.killer(until).and_then(|mut killer| {
            killer.kill(end, self.facts.thread, until)?;
            Ok(killer)
        });
        killed.inspect_err(|failure| log::debug!("a kill was not sent: {failure}")).ok()
    }

    /// The result of a wait. With `commits`, the server may have committed the statement: if its answer does not come, the outcome is
    /// unknown.
    pub(super) fn conclude<T>(
        &mut self,
        mut wait: Wait<'_>,
        done: Result<T, Failure>,
        commits: bool,
    ) -> Result<T, Error> {
        self.broken |= matches!(done, Err(Failure::Lost(_) | Failure::NotRun(_)));
        match (wait.cancelled.take(), done) {
            (None, Ok(done)) => Ok(done),
            // A commit despite the kill is an answer.
            (Some(_), Ok(done)) if commits => Ok(done),
            // A client that has left gets no answer.
            (Some(why @ Error::ClientLeft), _) | (Some(why), Err(Failure::NotRun(_))) => Err(why),
            // The server's own error shows that nothing was committed.
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
            (None, Err(Failure::Known(Error::Refused(refusal)))) if commits && refusal.is_of_connection() => {
                Err(Error::OutcomeUnknown { cause: Box::new(Error::Refused(refusal)) })
            }
            (None, Err(Failure::Lost(error) | Failure::Known(error) | Failure::NotRun(error))) => Err(error),
            (None, Err(Failure::NotYet(_))) => Err(Error::Deadline),
        }
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
        if self.is_broken() || !self.is_in_rows {
            return;
        }
        let until = Instant::now() + SETTLE_GRACE;
        while self.is_in_rows && !self.broken {
            let Ok(packet) = self.frames.packet(until) else {
                self.broken = true;
                self.killer(End::Session, Deadline::after(CANCEL_GRACE));
                return;
            };
            let row = self.frames.body(&packet);
            let is_whole = match row.first() {
                Some(&ERR) => true,
                // Results behind it would need more reading than it is worth.
                Some(&EOF) if self.ends_rows(row) => {
                    self.end_of_rows(row).is_ok_and(|done| !done.is_followed())
                }
                _ => continue,
            };
            self.is_in_rows = false;
            self.owed.pop_front();
            self.broken |= !is_whole;
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.is_broken() || !self.owed.is_empty() {
            return;
        }
        self.begin_batch();
        let sent = self.add(Command::Quit, |_| Ok(())).is_ok();
        if sent && let Err(error) = self.frames.channel.send(&self.batch) {
            log::debug!("a session ended without a farewell: {error}");
        }
    }
}

/// The refusal of a command that the server would answer by closing the session.
fn too_long(length: usize, max: usize) -> Error {
    use crate::database::{Category, Refusal};
    /// `ER_NET_PACKET_TOO_LARGE`.
    const CODE: u16 = 1153;
    let text = format!("a packet of {length} bytes is longer than the server's max_allowed_packet, {max}");
    Error::Refused(Box::new(Refusal::new(Category::of_mysql(CODE), &CODE.to_string(), &text)))
}
