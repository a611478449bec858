//! Which statements commit something by themselves, what their errors prove, and why an answer is not whole.
//!
//! Owns [`Commits`] and [`Failure`], and tells the client's [`Presence`] about the beginning and the end of each commit. Otherwise
//! pure.

use super::statement::first_word;
use super::{Access, Error};
use crate::base::presence::Presence;

/// The commits of a statement outside a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commits {
    /// The statement commits nothing.
    Nothing,
    /// The server commits it as a whole. If it fails, nothing was committed.
    Whole,
    /// The server commits its parts one by one. If it fails, earlier parts may be committed.
    InParts,
}

impl Commits {
    /// The commits of a query, by its first word alone: a `select` counts as reading, whatever its functions do.
    pub(super) fn of_query(sql: &str) -> Self {
        const READ: [&str; 5] = ["select", "values", "table", "show", "explain"];
        let word = first_word(sql);
        let reads = READ.iter().any(|read| word.eq_ignore_ascii_case(read));
        if reads { Self::Nothing } else { Self::of_write(sql) }
    }

    /// The commits of a statement that may write. A procedure and a `do` block may commit halfway. So may some commands
    /// of administrators, such as `create index concurrently`.
    pub(super) fn of_write(sql: &str) -> Self {
        const WHOLE: [&str; 9] =
            ["delete", "insert", "merge", "replace", "select", "table", "update", "values", "with"];
        let word = first_word(sql);
        let is_whole = WHOLE.iter().any(|whole| word.eq_ignore_ascii_case(whole));
        if is_whole { Self::Whole } else { Self::InParts }
    }

    pub(super) fn of_access(access: Access, sql: &str) -> Self {
        match access {
            Access::ReadOnly => Self::Nothing,
            Access::ReadWrite => Self::of_write(sql),
        }
    }

    /// The commits of several runs of the same statement: each run is committed by itself.
    pub(super) fn times(self, runs: usize) -> Self {
        if self == Self::Whole && runs > 1 { Self::InParts } else { self }
    }

    /// Whether there may be a commit.
    pub(super) fn may_happen(self) -> bool {
        self != Self::Nothing
    }

    /// Whether this error shows that the failed statement committed nothing.
    pub(super) fn is_undone(self, error: &Error) -> bool {
        let refused = match error {
            // An error of the connection may come from a pooler that lost its server during the statement.
            Error::Refused(refusal) => !refusal.is_of_connection(),
            // The server itself has ended a cancelled statement. The other errors were found before anything was sent.
            Error::Deadline | Error::StatementTimeout | Error::Usage(_) | Error::BadValue { .. } => true,
            _ => false,
        };
        refused && self != Self::InParts
    }
}

/// Announces a commit. Fails if the client was already told that nothing was done.
pub(super) fn begin_commit(client: &Presence) -> Result<(), Error> {
    if client.begin_commit() { Ok(()) } else { Err(Error::Deadline) }
}

/// Announces the end of a commit that [`begin_commit`] announced. Without an answer from the database the outcome stays open.
pub(super) fn end_commit<T>(client: &Presence, done: &Result<T, Error>, commits: Commits) {
    match done {
        Ok(_) => client.end_commit(true),
        Err(error) if commits.is_undone(error) => client.end_commit(false),
        Err(_) => {}
    }
}

/// The reason why a server's answer is not whole.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server has refused, or nothing was sent, or the rest of the answer is not wanted.
    Known(Error),
    /// The connection ended, or its messages can no longer be understood. The fate of the statement is not known.
    Lost(Error),
    /// The server has run nothing of it, or has not received all of it.
    NotRun(Error),
    /// The answer has not come, and the wait was not to last longer. It can be read later.
    NotYet(Pause),
}

/// Why a wait for an answer pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// There was to be no wait, or the bell has rung.
    Bell,
    /// The patience of the clients behind this one is over.
    Patience,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Known(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Category, Refusal};

    fn refused(code: &str) -> Error {
        Error::Refused(Box::new(Refusal::new(Category::of_sqlstate(code), code, "")))
    }

    #[test]
    fn a_query_is_taken_to_read_by_its_first_word() {
        for (sql, commits) in [
            ("select 1", Commits::Nothing),
            ("-- all\n VALUES (1)", Commits::Nothing),
            ("insert into t values (1) returning a", Commits::Whole),
            ("with x as (delete from t returning a) select a from x", Commits::Whole),
            ("call halves()", Commits::InParts),
        ] {
            assert_eq!(Commits::of_query(sql), commits, "{sql}");
        }
    }

    #[test]
    fn only_the_servers_own_word_about_a_whole_statement_says_that_it_was_undone() {
        for (commits, error, undone) in [
            (Commits::Whole, refused("23505"), true),
            (Commits::Whole, Error::Deadline, true),
            (Commits::Whole, refused("08P01"), false),
            (Commits::Whole, Error::Lost(String::new()), false),
            (Commits::Whole.times(2), refused("23505"), false),
            (Commits::of_write("call p()"), Error::Deadline, false),
        ] {
            assert_eq!(commits.is_undone(&error), undone, "{commits:?}: {error:?}");
        }
    }
}
