//! The interface of a database: what one database implements, and the rest of the crate calls.
//!
//! Owns the traits [`Driver`], [`Session`] and [`RoundTrip`], and the row of a [`Provider`] in the table of databases. A driver opens
//! sessions; a session runs statements; a round trip answers several statements that were sent together, where a database can do
//! that. The pool holds boxed sessions, so each call costs one jump through a table.
//!
//! Must not know any database by its name: `mod.rs` has the table.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::question::{Answer, Question};
use super::statement::{Description, Notation, Statement};
use super::{Access, Error, Kind, RowWriter, pool};
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::system::Bell;
use crate::base::value::{Type, Value};
use crate::config::{self, sql::Dialect};
use crate::telemetry::activity::Activity;
use crate::telemetry::metrics;

type MakeDriver = fn(&str, &config::Database) -> Result<Box<dyn Driver>, Error>;

/// One database in the table of databases.
pub(super) struct Provider {
    pub(super) kind: Kind,
    /// The beginnings of its URLs.
    pub(super) schemes: &'static [&'static str],
    /// The form of its URLs, for messages.
    pub(super) url_form: &'static str,
    /// Reads a URL. Connects to nothing.
    pub(super) driver: MakeDriver,
    /// The URL without its password.
    pub(super) display_url: fn(&str) -> String,
}

/// Opens sessions on one database.
pub(super) trait Driver: Send + Sync + 'static {
    /// The kind of the database.
    fn kind(&self) -> Kind;

    /// From now on no session makes or changes a file.
    fn only_look(&mut self) {}

    /// The name of the database, or its file.
    fn database_name(&self) -> &str;

    /// The application name in the URL, which goes before `database.application_name`.
    fn application_name(&self) -> Option<&str> {
        None
    }

    /// The dialect of its SQL.
    fn dialect(&self) -> Dialect {
        Dialect::Standard
    }

    /// The notation of parameters in a statement.
    fn notation(&self) -> Notation;

    /// Whether a comment behind each statement is of use, because readers can see the database's running statements.
    fn takes_comments(&self) -> bool {
        false
    }

    /// Whether its sessions have [`Session::share`].
    fn shares_round_trips(&self) -> bool {
        false
    }

    /// Takes over the settings of sessions. Returns whether the pool must close the sessions that are open already.
    fn reconfigure(&self, settings: &config::Database) -> bool;

    /// Opens a session by `deadline`.
    fn open(&self, deadline: Deadline) -> Result<Box<dyn Session>, Error>;

    /// Makes each session prepare its statements anew from its next checkout on. A database that notices every change of the schema
    /// has nothing to do.
    fn forget_statements(&self) {}
}

/// The borrower of a session.
pub(super) struct Borrower<'a> {
    /// The client that waits for the answer. Its departure ends the running work.
    pub(super) client: &'a Presence,
    /// The account to which the waits for the database are added.
    pub(super) activity: &'a Activity,
    /// The counters of the pool.
    pub(super) metrics: &'a Arc<metrics::Pool>,
    /// The deadline of the work on the session.
    pub(super) deadline: Deadline,
}

/// An open session. Each method blocks the worker that calls it, at most until the deadline and the time for a cancel.
pub(super) trait Session: pool::Session + Any {
    /// The kind of its database.
    fn kind(&self) -> Kind;

    /// Called at checkout.
    fn borrow(&mut self, borrower: &Borrower<'_>);

    /// Prepares a statement, and does not run it.
    fn describe(&mut self, statement: &Statement) -> Result<Description, Error>;

    /// The database's message about the first privilege that its user lacks for the statement, which is not run. `None`: the user
    /// lacks none that can be seen, or the database has no privileges.
    fn missing_privilege(&mut self, _statement: &Statement) -> Result<Option<String>, Error> {
        Ok(None)
    }

    /// The database's type for a parameter of type `declared`, if `error` means that the type of a parameter is open in
    /// the statement. A cast to it then helps.
    fn cast_against(&self, _error: &Error, _declared: Type) -> Option<String> {
        None
    }

    /// Begins a transaction.
    fn begin(&mut self, access: Access, deadline: Deadline) -> Result<(), Error>;

    /// Whether [`begin`](Self::begin) only takes note, because BEGIN goes to the database with the first statement.
    fn defers_begin(&self) -> bool {
        false
    }

    /// Commits the open transaction.
    fn commit(&mut self, deadline: Deadline) -> Result<(), Error>;

    /// Rolls the open transaction back, if there is one.
    fn rollback(&mut self) -> Result<(), Error>;

    /// Runs a statement and writes its rows. Returns the number of rows.
    fn run(
        &mut self,
        statement: &Statement,
        values: &[Value],
        access: Access,
        deadline: Deadline,
        rows: &mut RowWriter<'_>,
    ) -> Result<u64, Error>;

    /// Runs all steps of the transaction that was begun in one round trip, and notes each result. The last step's rows are written.
    /// [`Together::Apart`]: nothing was done, and the caller runs the steps one after the other.
    fn run_together(
        &mut self,
        _steps: &Steps<'_>,
        _rows: &mut RowWriter<'_>,
        _note: &mut Note<'_>,
    ) -> Result<Together, Error> {
        Ok(Together::Apart)
    }

    /// Runs a statement that returns rows without a transaction around it, if nothing can go wrong after its rows. `needs_row`: an
    /// answer without a row is an error. `None`: the statement needs a transaction, and nothing was done.
    fn run_alone(
        &mut self,
        _statement: &Statement,
        _values: &[Value],
        _deadline: Deadline,
        _needs_row: bool,
        _rows: &mut RowWriter<'_>,
    ) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    /// Whether a statement that has run on this session can share a round trip with others. It must be known to change
    /// nothing about the session.
    fn can_share(&self, _sql: &str) -> bool {
        false
    }

    /// The time that a round trip to the database takes without any work of the database, as far as it is known: the shortest round
    /// trip of this session.
    fn distance(&self) -> Duration {
        Duration::ZERO
    }

    /// Notes that a round trip took this long.
    fn note_round_trip(&mut self, _took: Duration) {}

    /// Begins a round trip for the statements of several requests. Only a database whose driver
    /// [`shares_round_trips`](Driver::shares_round_trips) offers this.
    fn share(&mut self) -> Result<Box<dyn RoundTrip + '_>, Error> {
        Err(Error::Usage("this database answers one statement at a time".to_owned()))
    }

    /// Whether statements name the request that they run for.
    fn names_requests(&self) -> bool {
        false
    }

    /// Names the request that the session is borrowed for, until the checkin.
    fn name_request(&mut self, _request_id: &str, _traceparent: &str) {}

    /// Called at checkin. Rolls back an open transaction, and makes the session either fit for the next borrower or
    /// broken.
    fn finish(&mut self);
}

/// The statements of a transaction, with the values of all its parameters.
#[derive(Clone, Copy)]
pub(crate) struct Steps<'a> {
    pub(crate) statements: &'a [&'a Statement],
    pub(crate) values: &'a [Value],
    pub(crate) access: Access,
    pub(crate) deadline: Deadline,
}

/// Takes note of a step's result, in the order of the steps: its index, its time, and the number of its rows. Returns whether
/// the transaction goes on, which it never does after an error.
pub(crate) type Note<'a> = dyn FnMut(usize, Duration, &Result<u64, Error>) -> bool + 'a;

/// How the steps of a transaction ended that were to run together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Together {
    /// All steps were run. The transaction can be committed.
    Done,
    /// The number of rows of a step was not acceptable. The transaction must be rolled back.
    Refused,
    /// The steps have to run one after the other. Nothing was done.
    Apart,
}

/// Statements on their way to the database and back. Their answers are fetched in the order in which they were sent.
pub(crate) trait RoundTrip {
    /// Whether several statements may be one transaction.
    fn joins_transactions(&self) -> bool;

    /// Sends statements, by `deadline`. A statement that cannot be sent has its error as its answer. If this fails, none of the
    /// statements that have no answer yet will have one.
    fn send(
        &mut self,
        statements: &mut dyn Iterator<Item = Outgoing>,
        deadline: Deadline,
    ) -> Result<(), Error>;

    /// Waits for the next answer, which is for `client`, until `deadline`. `None`: there are no more.
    fn fetch(&mut self, client: &Presence, deadline: Deadline, waits: Waits<'_>) -> Option<Fetched>;
}

/// A statement to send.
pub(crate) struct Outgoing {
    pub(crate) question: Question,
    /// The next statement belongs to the same transaction, as far as the database [allows](RoundTrip::joins_transactions) it. The
    /// answers to all statements of a transaction come together.
    pub(crate) is_followed: bool,
}

/// How long to wait for an answer that has not come.
#[derive(Clone, Copy)]
pub(crate) enum Waits<'a> {
    /// Not at all.
    Not,
    /// Until the deadline at most. With `patience`, the clients behind this one wait no longer than this time, counted from a moment
    /// that has just passed. A ring of the bell ends the wait as well.
    Until { patience: Option<(Instant, Duration)>, bell: Option<&'a Bell> },
}

/// The result of fetching an answer. Every answer that has not come can be fetched again.
pub(crate) enum Fetched {
    /// The next answer, and its question.
    Answer(Question, Result<Answer, Error>),
    /// The database has not run the next statement, because an earlier one of its transaction failed.
    NotRun,
    /// The answer has not come.
    NotYet,
    /// The answer has not come, and the patience of the others is over.
    Slow,
}

impl pool::Driver for Box<dyn Driver> {
    type Session = Box<dyn Session>;

    fn reconfigure(&self, settings: &config::Database) -> bool {
        (**self).reconfigure(settings)
    }

    fn open(&self, deadline: Deadline) -> Result<Box<dyn Session>, Error> {
        (**self).open(deadline)
    }
}

impl pool::Session for Box<dyn Session> {
    fn is_alive(&mut self) -> bool {
        (**self).is_alive()
    }

    fn validate(&mut self, deadline: Deadline) -> bool {
        (**self).validate(deadline)
    }

    fn is_broken(&self) -> bool {
        (**self).is_broken()
    }

    fn is_untidy(&self) -> bool {
        (**self).is_untidy()
    }

    fn tidy(&mut self) {
        (**self).tidy();
    }

    fn is_clean(&mut self) -> bool {
        (**self).is_clean()
    }
}
