//! One connection to a PostgreSQL server, and the bound on waiting for it.
//!
//! tokio-postgres speaks the protocol; here it is driven by the thread that makes a call, and only during that call, without a
//! runtime.

use std::cell::Cell;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use tokio_postgres::error::{DbError, ErrorPosition};
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::{Category, Error, Refusal};
use super::connect::{self, Opened, Server};
use super::socket::Socket;
use super::url::{Target, explain};
use crate::deadline::Deadline;
use crate::presence::Presence;

/// How long past the deadline a cancelled statement may take to end, the cancel request included; after that the
/// connection is given up. The client waits for its 504 meanwhile, so it is short; a server in order needs a few ms.
const CANCEL_GRACE: Duration = Duration::from_millis(500);

/// How long rows that nobody wants any more may take to arrive before the statement is cancelled.
const SETTLE_GRACE: Duration = Duration::from_millis(50);

/// How long work for one client may take.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    /// The work ends when the client leaves.
    pub(super) client: Presence,
    /// The request's.
    pub(super) deadline: Deadline,
    /// `database.statement_timeout`.
    pub(super) statement: Option<Duration>,
}

impl Limit {
    /// The deadline alone, for nobody in particular.
    pub(super) fn until(deadline: Deadline) -> Self {
        Self { client: Presence::default(), deadline, statement: None }
    }

    /// By when a statement that begins now ends.
    fn end(&self) -> Deadline {
        self.statement.map_or(self.deadline, |timeout| self.deadline.within(timeout))
    }

    /// Why nothing may begin any more.
    fn is_over(&self, now: Instant) -> Option<Error> {
        if self.client.has_left() {
            Some(Error::ClientLeft)
        } else {
            (now >= self.deadline.instant()).then_some(Error::Deadline)
        }
    }
}

/// How far work was driven.
enum Driven<T> {
    Done(Result<T, Error>),
    TimeUp,
    ClientLeft,
}

pub(super) struct Wire {
    connection: Pin<Box<connect::Connection>>,
    socket: Arc<Socket>,
    /// Ends a wait for the server.
    interruption: Waker,
    cancel: CancelToken,
    server: Server,
    tls: MakeRustlsConnect,
    /// Not known to be in order: to be closed, not used.
    broken: bool,
    /// What comes is not for the connection, but for the work itself.
    direct: bool,
    /// Whether what talks to the server has something to do, and whether the connection has.
    work: Waking,
    flow: Waking,
}

/// Whether something that is polled was woken. Both ends of it are on the thread that drives it.
struct Waking {
    woken: Arc<Woken>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Default for Waking {
    fn default() -> Self {
        let woken = Arc::<Woken>::default();
        Self { waker: Waker::from(Arc::clone(&woken)), woken }
    }
}

impl Waking {
    fn set(&self) {
        self.woken.wake_by_ref();
    }

    fn is_set(&self) -> bool {
        self.woken.0.load(Relaxed)
    }

    /// Whether it was; from now on it is not.
    fn take(&self) -> bool {
        let woken = self.is_set();
        self.woken.0.store(false, Relaxed);
        woken
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl Wire {
    /// Connects as `config` says, with TLS as the URL asks for it.
    pub(super) fn open(
        target: &Target,
        config: &Config,
        tls: &MakeRustlsConnect,
        deadline: Deadline,
    ) -> Result<(Client, Self), Error> {
        let opened = connect::open(target, config, tls, deadline).map_err(|failure| Error::Open {
            target: target.name.clone(),
            reason: failure.to_string(),
            transient: failure.is_transient(),
        })?;
        let Opened { client, connection, socket, server } = opened;
        socket.follow();
        let wire = Self {
            connection: Box::pin(connection),
            interruption: Waker::from(Arc::clone(&socket)),
            socket,
            cancel: client.cancel_token(),
            server,
            tls: tls.clone(),
            broken: false,
            direct: false,
            work: Waking::default(),
            flow: Waking::default(),
        };
        Ok((client, wire))
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Gives the connection up.
    pub(super) fn close(&mut self) {
        self.broken = true;
    }

    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Sends something past the connection, while that has nothing on its way; what is answered is for the work, until
    /// [`Wire::end_direct`]. `false`: there is no room for it.
    pub(super) fn send_direct(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        if self.broken {
            return Err(closed_before());
        }
        let lost = match self.socket.send(bytes) {
            Ok(0) => return Ok(false),
            Ok(sent) if sent == bytes.len() => {
                self.direct = true;
                return Ok(true);
            }
            Ok(sent) => format!("it took {sent} bytes of {}", bytes.len()),
            Err(error) => error.to_string(),
        };
        self.give_up();
        Err(Error::Lost(lost))
    }

    /// All that was answered was taken; what was not is read by `rest`, or the session is given up.
    pub(super) fn end_direct(&mut self, rest: Option<impl Future<Output = Result<(), Error>>>) {
        if let Some(rest) = rest.filter(|_| !self.broken) {
            let until = Deadline::after(SETTLE_GRACE);
            if !matches!(self.drive(pin!(rest), &Presence::default(), until.instant()), Driven::Done(Ok(())))
            {
                self.give_up();
            }
        }
        self.direct = false;
    }

    /// Whether the server has not closed the connection while it was idle. Looks at the socket, sends nothing.
    pub(super) fn is_open(&mut self) -> bool {
        if !self.broken && !self.socket.is_silent() {
            self.broken = poll_end(&mut self.connection, &mut Context::from_waker(Waker::noop())).is_some();
        }
        !self.broken
    }

    /// Runs what puts messages together without waiting. Where that panics, the connection is given up.
    pub(super) fn compose(&mut self, compose: impl FnOnce()) {
        let was_broken = mem::replace(&mut self.broken, true);
        compose();
        self.broken = was_broken;
    }

    /// Runs `work`, which talks to the server through the connection's client, to its end or to its limit; then the
    /// statement is cancelled. `commits` says whether what was sent so far may have been committed by itself: if then its
    /// answer does not come, nobody knows whether it was.
    pub(super) fn complete<T>(
        &mut self,
        work: impl Future<Output = Result<T, Error>>,
        limit: &Limit,
        commits: &Cell<bool>,
    ) -> Result<T, Error> {
        self.begin(limit, Instant::now())?;
        let end = limit.end();
        let mut work = pin!(work);
        let driven = self.drive(work.as_mut(), &limit.client, end.instant());
        self.conclude(driven, work, end, limit, commits)
    }

    /// The same for work that others wait behind: `None` when it has not come to its end within their `patience`, from `now` on. It can
    /// go on then.
    pub(super) fn complete_within<T>(
        &mut self,
        (now, patience): (Instant, Duration),
        work: impl Future<Output = Result<T, Error>>,
        limit: &Limit,
        commits: &Cell<bool>,
    ) -> Option<Result<T, Error>> {
        if let Err(error) = self.begin(limit, now) {
            return Some(Err(error));
        }
        let end = limit.end();
        let mut work = pin!(work);
        let soon = Deadline::at(now, patience);
        let driven = self.drive(work.as_mut(), &limit.client, end.min(soon).instant());
        if soon < end && matches!(driven, Driven::TimeUp) {
            return None;
        }
        Some(self.conclude(driven, work, end, limit, commits))
    }

    fn begin(&self, limit: &Limit, now: Instant) -> Result<(), Error> {
        if self.broken {
            return Err(closed_before());
        }
        limit.is_over(now).map_or(Ok(()), Err)
    }

    /// What driven work comes to, whose time ended at `end`.
    fn conclude<T>(
        &mut self,
        driven: Driven<T>,
        work: Pin<&mut impl Future<Output = Result<T, Error>>>,
        end: Deadline,
        limit: &Limit,
        commits: &Cell<bool>,
    ) -> Result<T, Error> {
        let why = match driven {
            Driven::Done(Err(lost @ Error::Lost(_))) if commits.get() => {
                self.broken = true;
                return Err(Error::OutcomeUnknown { cause: Box::new(lost) });
            }
            Driven::Done(done) => return done.inspect_err(|error| self.broken |= ends_session(error)),
            Driven::TimeUp if end < limit.deadline => Error::StatementTimeout,
            Driven::TimeUp => Error::Deadline,
            Driven::ClientLeft => Error::ClientLeft,
        };
        if let Error::ClientLeft = why {
            limit.client.note_cancelled();
        }
        // The poller answers for a worker that is late; what the cancel comes to it cannot know.
        limit.client.set_outcome_open(commits.get());
        let ended = self.abandon(work);
        limit.client.set_outcome_open(false);
        match ended {
            Some(Ok(done)) if commits.get() => Ok(done),
            // Nobody is told, where nobody is left.
            None | Some(Err(Error::Lost(_))) if commits.get() && !matches!(why, Error::ClientLeft) => {
                Err(Error::OutcomeUnknown { cause: Box::new(why) })
            }
            _ => Err(why),
        }
    }

    /// Whether the server answers by `deadline`: one round trip.
    pub(super) fn answers(&mut self, client: &Client, deadline: Deadline) -> bool {
        let asked = async { client.check_connection().await.map_err(|error| refused(&error, "")) };
        let nobody = Presence::default();
        let answered = !self.broken
            && matches!(self.drive(pin!(asked), &nobody, deadline.instant()), Driven::Done(Ok(())));
        self.broken |= !answered;
        answered
    }

    /// After `work` was left before the server had sent everything: reads the rest, or gives up.
    pub(super) fn settle(&mut self, client: &Client) {
        if !self.answers(client, Deadline::after(SETTLE_GRACE)) {
            self.give_up();
        }
    }

    /// Ends what the server does now. Which statement the cancel will hit cannot be known, so the connection goes too.
    fn give_up(&mut self) {
        self.broken = true;
        self.send_cancel(Deadline::after(CANCEL_GRACE));
    }

    /// Cancels the running statement, and returns what it came to all the same.
    ///
    /// The connection is given up, whatever that is. A cancel request names a session, not a statement, and nothing answers
    /// it; so one that comes late hits whatever runs then. That the statement was cancelled proves nothing: the database's
    /// own `statement_timeout`, or somebody else, may have been quicker. The pool opens another session behind the requests.
    fn abandon<T>(
        &mut self,
        work: Pin<&mut impl Future<Output = Result<T, Error>>>,
    ) -> Option<Result<T, Error>> {
        self.broken = true;
        let until = Deadline::after(CANCEL_GRACE);
        match self.send_cancel(until).then(|| self.drive(work, &Presence::default(), until.instant())) {
            Some(Driven::Done(ended)) => Some(ended),
            _ => None,
        }
    }

    fn send_cancel(&self, until: Deadline) -> bool {
        connect::cancel(&self.cancel, &self.server, &self.tls, until)
    }

    /// Polls `work` and the connection until `work` is done, until `until`, or until the client has left.
    ///
    /// `work` waits for nothing but the connection, and that for nothing but `work` and the socket: when neither has woken the
    /// other, the socket is waited for.
    fn drive<T>(
        &mut self,
        mut work: Pin<&mut impl Future<Output = Result<T, Error>>>,
        client: &Presence,
        until: Instant,
    ) -> Driven<T> {
        let [mut work_context, mut flow_context] =
            [&self.work, &self.flow].map(|side| Context::from_waker(&side.waker));
        self.work.set();
        self.flow.set();
        let mut watched = false;
        // A parameter that panics leaves half a message behind it.
        let was_broken = mem::replace(&mut self.broken, true);
        let driven = loop {
            if self.work.take()
                && let Poll::Ready(done) = work.as_mut().poll(&mut work_context)
            {
                break Driven::Done(done);
            }
            if !self.direct
                && self.flow.take()
                && let Some(end) = poll_end(&mut self.connection, &mut flow_context)
            {
                // First what the server said, then that it left.
                break match work.as_mut().poll(&mut work_context) {
                    Poll::Ready(done) => Driven::Done(done),
                    Poll::Pending => Driven::Done(Err(end)),
                };
            }
            if self.work.is_set() || !self.direct && self.flow.is_set() {
                continue;
            }
            if !watched {
                client.wake_when_left(&self.interruption);
                watched = true;
            }
            if client.has_left() {
                break Driven::ClientLeft;
            }
            if !self.socket.wait(until) {
                break Driven::TimeUp;
            }
            (if self.direct { &self.work } else { &self.flow }).set();
        };
        self.broken = was_broken;
        if watched {
            client.wake_nobody();
        }
        if !self.socket.is_interrupted() {
            return driven;
        }
        // Nothing more can be read, whatever came before.
        self.broken = true;
        match driven {
            Driven::Done(Err(Error::Lost(_))) if client.has_left() => Driven::ClientLeft,
            driven => driven,
        }
    }
}

fn closed_before() -> Error {
    Error::Lost("it was closed after an earlier error".to_owned())
}

/// Does the connection's reading and writing; `Some` when it has ended, after which it must not be polled again.
fn poll_end(connection: &mut Pin<Box<connect::Connection>>, context: &mut Context<'_>) -> Option<Error> {
    loop {
        match connection.poll_message(context) {
            Poll::Pending => return None,
            Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => {
                // Its message is a function's, which may have put values into it.
                log::debug!("the database sent a notice: {} {}", notice.severity(), notice.code().code());
            }
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => return Some(refused(&error, "")),
            Poll::Ready(None) => return Some(Error::Lost("closed".to_owned())),
        }
    }
}

/// tokio-postgres's error as ours; `sql` is what its position counts in.
pub(super) fn refused(error: &tokio_postgres::Error, sql: &str) -> Error {
    match error.as_db_error() {
        Some(refusal) => Error::Refused(Box::new(refusal_of(refusal, sql))),
        None if is_caller_mistake(error) => Error::Usage(explain(error)),
        None => Error::Lost(explain(error)),
    }
}

fn refusal_of(error: &DbError, sql: &str) -> Refusal {
    /// The part of the server that runs a function's `raise`.
    const RAISE: &str = "exec_stmt_raise";
    let category = Category::of_sqlstate(error.code().code());
    let mut refusal = Refusal::new(category, error.code().code(), error.message());
    let owned = |text: Option<&str>| text.map(str::to_owned);
    refusal.detail = owned(error.detail());
    refusal.hint = owned(error.hint());
    refusal.context = owned(error.where_());
    refusal.constraint = owned(error.constraint());
    refusal.column = owned(error.column());
    refusal.offset = match error.position() {
        Some(ErrorPosition::Original(character)) => {
            let before = usize::try_from(*character).unwrap_or(usize::MAX).saturating_sub(1);
            Some(sql.char_indices().nth(before).map_or(sql.len(), |(byte, _)| byte))
        }
        _ => None,
    };
    if error.routine() == Some(RAISE) {
        return refusal.raised();
    }
    let names = [error.constraint(), error.column(), error.table(), error.schema(), error.datatype()];
    refusal.knowing(&names.map(Option::unwrap_or_default).into_iter().chain([sql]).collect::<Vec<_>>())
}

/// Parameters of the wrong number, type or size: nothing was sent, the connection is in order. tokio-postgres keeps the
/// kinds of its errors private, so their words must do; a test on a real server notices when they change.
fn is_caller_mistake(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    ["error serializing parameter", "error encoding message", "expected "]
        .iter()
        .any(|start| text.starts_with(start))
}

/// Errors after which the session is of no use (HikariCP's `isConnectionDead`).
fn ends_session(error: &Error) -> bool {
    match error {
        Error::Lost(_) => true,
        Error::Refused(refusal) => refusal.category == Category::Down,
        _ => false,
    }
}
