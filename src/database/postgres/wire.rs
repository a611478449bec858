//! One connection to a PostgreSQL server: its runtime, its socket, and the bound on waiting for it.
//!
//! Runs on the thread that makes a call, and only during that call.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::{self, Runtime};
use tokio::time::timeout_at;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::{Category, Error, Refusal};
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
    fn is_over(&self) -> Option<Error> {
        if self.client.has_left() {
            Some(Error::ClientLeft)
        } else {
            self.deadline.has_passed().then_some(Error::Deadline)
        }
    }
}

/// How far work was driven.
enum Driven<T> {
    Done(Result<T, Error>),
    TimeUp,
    ClientLeft,
}

type Tls = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

pub(super) struct Wire {
    connection: Pin<Box<tokio_postgres::Connection<Socket, Tls>>>,
    cancel: CancelToken,
    tls: MakeRustlsConnect,
    /// Not known to be in order: to be closed, not used.
    broken: bool,
    // Last, so that the socket is dropped before the runtime that it is registered with.
    runtime: Runtime,
}

impl Wire {
    /// Connects as `config` says, with TLS as the URL asks for it.
    pub(super) fn open(
        target: &Target,
        config: &Config,
        tls: &MakeRustlsConnect,
        deadline: Deadline,
    ) -> Result<(Client, Self), Error> {
        let failed = |reason, transient| Error::Open { target: target.name.clone(), reason, transient };
        let runtime = runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| failed(error.to_string(), false))?;
        match connect(&runtime, target, config, tls, deadline) {
            Ok((client, connection)) => {
                let wire = Self {
                    connection: Box::pin(connection),
                    cancel: client.cancel_token(),
                    tls: tls.clone(),
                    broken: false,
                    runtime,
                };
                Ok((client, wire))
            }
            Err(error) => {
                // A name look-up may still block a thread of the runtime's; do not wait for it.
                runtime.shutdown_background();
                Err(match error {
                    Some(error) => failed(explain(&error), is_transient(&error)),
                    None => failed("no answer in time".to_owned(), true),
                })
            }
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Gives the connection up.
    pub(super) fn close(&mut self) {
        self.broken = true;
    }

    /// Whether the server has not closed the connection while it was idle. Looks at the socket, sends nothing.
    pub(super) fn is_open(&mut self) -> bool {
        let connection = &mut self.connection;
        let end = self.runtime.block_on(async {
            // The runtime notes what the socket has to say only when it gets to run.
            tokio::task::yield_now().await;
            poll_fn(|context| Poll::Ready(poll_end(connection, context))).await
        });
        self.broken |= end.is_some();
        !self.broken
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
        if self.broken {
            return Err(Error::Lost("it was closed after an earlier error".to_owned()));
        }
        if let Some(error) = limit.is_over() {
            return Err(error);
        }
        let end = limit.end();
        let mut work = pin!(work);
        let why = match self.drive(work.as_mut(), &limit.client, end.instant()) {
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
        let ended = self.abandon(work.as_mut());
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
            // Which statement the cancel will hit cannot be known any more, so the connection goes too.
            self.send_cancel(Instant::now() + CANCEL_GRACE);
        }
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
        let until = Instant::now() + CANCEL_GRACE;
        match self.send_cancel(until).then(|| self.drive(work, &Presence::default(), until)) {
            Some(Driven::Done(ended)) => Some(ended),
            _ => None,
        }
    }

    fn send_cancel(&self, until: Instant) -> bool {
        let sent = async { timeout_at(until.into(), self.cancel.cancel_query(self.tls.clone())).await };
        matches!(self.runtime.block_on(sent), Ok(Ok(())))
    }

    /// Polls `work` and the connection until `work` is done, until `until`, or until the client has left.
    ///
    /// `work` waits for nothing but the connection, which is polled beside it; so it needs no waker of its own, and an
    /// answer costs no second turn of the runtime.
    fn drive<T>(
        &mut self,
        mut work: Pin<&mut impl Future<Output = Result<T, Error>>>,
        client: &Presence,
        until: Instant,
    ) -> Driven<T> {
        let connection = &mut self.connection;
        let mut poll_work = move || work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let driven = poll_fn(|context| {
            if let Poll::Ready(done) = poll_work() {
                return Poll::Ready(Driven::Done(done));
            }
            let end = poll_end(connection, context);
            // First what the server said, then that it left.
            match (poll_work(), end) {
                (Poll::Ready(done), _) => Poll::Ready(Driven::Done(done)),
                (Poll::Pending, Some(end)) => Poll::Ready(Driven::Done(Err(end))),
                (Poll::Pending, None) => {
                    client.wake_when_left(context.waker());
                    if client.has_left() { Poll::Ready(Driven::ClientLeft) } else { Poll::Pending }
                }
            }
        });
        let driven = self.runtime.block_on(async { timeout_at(until.into(), driven).await });
        client.wake_nobody();
        driven.unwrap_or(Driven::TimeUp)
    }
}

/// Does the connection's reading and writing; `Some` when it has ended, after which it must not be polled again.
fn poll_end(
    connection: &mut Pin<Box<tokio_postgres::Connection<Socket, Tls>>>,
    context: &mut Context<'_>,
) -> Option<Error> {
    loop {
        match connection.poll_message(context) {
            Poll::Pending => return None,
            Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => {
                log::debug!("{}: {}", notice.severity(), notice.message());
            }
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => return Some(refused(&error, "")),
            Poll::Ready(None) => return Some(Error::Lost("closed".to_owned())),
        }
    }
}

type Connected = (Client, tokio_postgres::Connection<Socket, Tls>);

/// Tries the modes that the URL allows; the error is that of the attempt with TLS, `None` when the time was up.
fn connect(
    runtime: &Runtime,
    target: &Target,
    config: &Config,
    tls: &MakeRustlsConnect,
    deadline: Deadline,
) -> Result<Connected, Option<tokio_postgres::Error>> {
    let mut failure = None;
    for mode in target.tls.attempts() {
        let mut config = config.clone();
        config.ssl_mode(*mode);
        let attempt = async { timeout_at(deadline.instant().into(), config.connect(tls.clone())).await };
        match runtime.block_on(attempt) {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => {
                let other_mode_may_do =
                    error.code().is_none_or(|code| *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
                if failure.is_none() || *mode != SslMode::Disable {
                    failure = Some(error);
                }
                if !other_mode_may_do {
                    break;
                }
            }
            Err(_elapsed) => return Err(failure),
        }
    }
    Err(failure)
}

/// Whether a server that could not be reached may be reached a moment later.
fn is_transient(error: &tokio_postgres::Error) -> bool {
    if let Some(code) = error.code() {
        return matches!(
            Category::of_sqlstate(code.code()),
            Category::Down | Category::Busy | Category::Exhausted
        );
    }
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.map_or(error.is_closed(), |cause| {
        matches!(
            cause.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::NotFound
                | ErrorKind::TimedOut
                | ErrorKind::UnexpectedEof
        )
    })
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
    let details = [error.detail(), error.hint(), error.where_()];
    let details: Vec<&str> = details.into_iter().flatten().collect();
    Refusal {
        category: Category::of_sqlstate(error.code().code()),
        code: error.code().code().to_owned(),
        message: error.message().to_owned(),
        detail: (!details.is_empty()).then(|| details.join("; ")),
        constraint: error.constraint().map(str::to_owned),
        offset: match error.position() {
            Some(ErrorPosition::Original(character)) => {
                let before = usize::try_from(*character).unwrap_or(usize::MAX).saturating_sub(1);
                Some(sql.char_indices().nth(before).map_or(sql.len(), |(byte, _)| byte))
            }
            _ => None,
        },
    }
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
