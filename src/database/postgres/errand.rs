//! Messages without a waiting reader, and the reading of their answers.
//!
//! Owns [`Errand`]. The wire keeps a list of errands, and gives each message of an answer to the first. Pure; runs on
//! the thread that reads the wire.

use std::sync::Arc;

use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, DATA_ROW_TAG, ERROR_RESPONSE_TAG, READY_FOR_QUERY_TAG,
};

use super::effects::{Leaves, SessionEffect};
use super::fields::Fields;
use super::names::{NOTHING, NUMBERS};
use super::refusal::ServerError;
use crate::database::Error;

/// The SQLSTATE of a cleaning that finds statements prepared by SQL. It divides by zero then.
const HAS_LEFTOVERS: &str = "22012";

/// The first lines of a plan that runs as a whole in one process beside the session's own. A plan that is parallel for
/// its cost alone begins differently, and may leave some functions to the session.
pub(super) const PARALLEL: [&str; 3] = ["Gather", "  Workers Planned: 1", "  Single Copy: true"];

/// Messages that were sent without anybody waiting for their answers.
pub(super) struct Errand {
    kind: ErrandKind,
    /// The number of `ReadyForQuery` messages that the server still has to send for it.
    pub(super) parts: usize,
    /// The first error.
    refusal: Option<Error>,
}

/// The purpose of an errand.
pub(super) enum ErrandKind {
    /// Cleans the session. An error of its own shows that statements are left that were prepared by SQL.
    Clean,
    /// Asks for the plan of a statement: could the statement run in parallel, and so has no effect on the session?
    Plan {
        /// The effect of that statement.
        effect: Arc<SessionEffect>,
        /// The number of the plan's next line.
        line: usize,
        /// Whether the lines so far show that it has none.
        is_harmless: bool,
    },
    /// Asks the catalog about the names in a statement: can the statement leave something on the session?
    Names {
        /// The effect of that statement.
        effect: Arc<SessionEffect>,
        /// The answer.
        leaves: Leaves,
    },
    /// A command before a statement.
    Command,
    /// The BEGIN of a transaction, in the statement's own part.
    Begin,
}

/// The state of an errand after a message.
pub(super) enum Step {
    /// More messages come for the errand.
    More,
    /// The server ends the session with this error.
    Fatal(Error),
    /// The errand is over.
    Over(Finding),
    /// BEGIN was refused. The message is the answer to the statement behind it as well.
    BeginRefused(Error),
}

/// The result of an errand.
pub(super) enum Finding {
    /// There is nothing to do about it.
    Nothing,
    /// The session still has statements that were prepared by SQL.
    Leftovers,
    /// The session could not be cleaned.
    NotClean(Error),
    /// The command was done, or refused for this reason.
    Command(Option<Error>),
}

impl Errand {
    pub(super) fn new(kind: ErrandKind, parts: usize) -> Self {
        Self { kind, parts, refusal: None }
    }

    /// Reads a message of the answer.
    pub(super) fn read(&mut self, tag: u8, body: &[u8]) -> Step {
        if let ErrandKind::Begin = self.kind {
            return match tag {
                ERROR_RESPONSE_TAG => Step::BeginRefused(ServerError::read(body, "").error),
                COMMAND_COMPLETE_TAG => Step::Over(Finding::Nothing),
                _ => Step::More,
            };
        }
        match tag {
            ERROR_RESPONSE_TAG => {
                let ServerError { error, ends_session } = ServerError::read(body, "");
                if ends_session {
                    return Step::Fatal(error);
                }
                self.refusal.get_or_insert(error);
            }
            DATA_ROW_TAG => {
                let text = first_field(body).unwrap_or_default();
                match &mut self.kind {
                    ErrandKind::Plan { line, is_harmless, .. } => {
                        *is_harmless &= PARALLEL.get(*line).is_none_or(|wanted| text == wanted.as_bytes());
                        *line += 1;
                    }
                    ErrandKind::Names { leaves, .. } if text == NOTHING.as_bytes() => {
                        *leaves = Leaves::Nothing;
                    }
                    ErrandKind::Names { leaves, .. } if text == NUMBERS.as_bytes() => {
                        *leaves = Leaves::Numbers;
                    }
                    _ => {}
                }
            }
            READY_FOR_QUERY_TAG => self.parts -= 1,
            _ => {}
        }
        if self.parts > 0 { Step::More } else { Step::Over(self.finding()) }
    }

    fn finding(&mut self) -> Finding {
        match (&self.kind, self.refusal.take()) {
            (ErrandKind::Clean, Some(error)) if error.code() == Some(HAS_LEFTOVERS) => Finding::Leftovers,
            (ErrandKind::Clean, Some(error)) => Finding::NotClean(error),
            (ErrandKind::Clean, None) => Finding::Nothing,
            (ErrandKind::Plan { effect, line, is_harmless }, refusal) => {
                let is_harmless = *is_harmless && *line >= PARALLEL.len() && refusal.is_none();
                effect.learn(if is_harmless { Leaves::Nothing } else { Leaves::Anything });
                Finding::Nothing
            }
            (ErrandKind::Names { effect, leaves }, refusal) => {
                effect.learn(if refusal.is_none() { *leaves } else { Leaves::Anything });
                Finding::Nothing
            }
            (ErrandKind::Command | ErrandKind::Begin, refusal) => Finding::Command(refusal),
        }
    }
}

/// The first field of a row.
fn first_field(body: &[u8]) -> Option<&[u8]> {
    Fields(body.get(2..)?).next()?
}
