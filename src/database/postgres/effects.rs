//! The effects of statements on their session, as far as they are known.
//!
//! Owns [`SessionEffect`], one for each statement of a pool. A session keeps settings, roles, locks, temporary tables,
//! cursors and more from one request to the next, and any function may change them. The planner's answer shows which
//! statements cannot: those that could run in parallel as a whole. Functions that change the session are not parallel
//! safe (the manual, 15.4), and the planner looks for them in views, policies and operators too. About plain writes the
//! catalog is asked instead, by their [`Names`]. After all other statements the session is cleaned; see
//! [`cleaning`](super::cleaning).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::names::Names;
use super::text::writes_rows;
use crate::base::system;
use crate::database::statement::first_word;

/// The age at which the planner is asked again, in seconds: a view or a policy may have changed by then.
const AGE_MAX_S: u64 = 1;

/// The number of statements that are remembered for all sessions of a pool. If there are more, a handler most likely
/// makes up the texts of its statements.
const KNOWN_MAX: usize = 4096;

/// Longer texts are neither remembered nor asked about.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// The state that a statement may leave on its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Leaves {
    #[default]
    Nothing,
    /// The last numbers of sequences, which only `currval` and `lastval` read.
    Numbers,
    Anything,
}

/// The effect of one statement on its session, as far as it is known. All sessions of a pool share it.
#[derive(Debug, Default)]
pub(super) struct SessionEffect {
    verdict: AtomicU8,
    /// The time of the last question, in seconds of the system's clock.
    asked_at: AtomicU64,
    /// The names about which the catalog is asked. `None`: the planner is asked about the statement.
    pub(super) names: Option<Names>,
    writes: bool,
}

const UNKNOWN: u8 = 0;
const NOTHING: u8 = 1;
const NUMBERS: u8 = 2;
const ANYTHING: u8 = 3;
/// It is a command, or is very long or unusual: neither the planner nor the catalog can be asked.
const NO_QUESTION: u8 = 4;

impl SessionEffect {
    fn of(sql: &str) -> Self {
        const PLANNED: [&str; 4] = ["select", "values", "table", "with"];
        let word = first_word(sql);
        let is_short = sql.len() <= TEXT_BYTES_MAX;
        let is_planned = PLANNED.iter().any(|planned| word.eq_ignore_ascii_case(planned));
        let names = if is_short { Names::of(sql) } else { None };
        let has_question = is_short && is_planned || names.is_some();
        Self {
            verdict: AtomicU8::new(if has_question { UNKNOWN } else { NO_QUESTION }),
            asked_at: AtomicU64::default(),
            names,
            writes: writes_rows(sql),
        }
    }

    /// The state that the statement may leave, as far as it is known.
    pub(super) fn leaves(&self) -> Leaves {
        match self.verdict.load(Relaxed) {
            NOTHING => Leaves::Nothing,
            NUMBERS => Leaves::Numbers,
            _ => Leaves::Anything,
        }
    }

    /// Whether the statement is known to change nothing about the session, and is not a plain write either.
    pub(super) fn is_none(&self) -> bool {
        self.leaves() == Leaves::Nothing && !self.writes
    }

    /// Whether the caller must ask the question now. Only one caller gets `true`.
    pub(super) fn is_due(&self) -> bool {
        let verdict = self.verdict.load(Relaxed);
        if verdict == NO_QUESTION {
            return false;
        }
        let (now, asked_at) = (seconds(), self.asked_at.load(Relaxed));
        (verdict == UNKNOWN || now >= asked_at + AGE_MAX_S)
            && self.asked_at.compare_exchange(asked_at, now, Relaxed, Relaxed).is_ok()
    }

    /// Takes the answer.
    pub(super) fn learn(&self, leaves: Leaves) {
        let verdict = match leaves {
            Leaves::Nothing => NOTHING,
            Leaves::Numbers => NUMBERS,
            Leaves::Anything => ANYTHING,
        };
        self.verdict.store(verdict, Relaxed);
    }
}

fn seconds() -> u64 {
    system::coarse_monotonic().as_secs()
}

/// The effects of a pool's statements on their sessions, by the statements' texts.
#[derive(Debug, Default)]
pub(super) struct SessionEffects(Mutex<HashMap<Box<str>, Arc<SessionEffect>>>);

impl SessionEffects {
    pub(super) fn of(&self, sql: &str) -> Arc<SessionEffect> {
        if sql.len() > TEXT_BYTES_MAX {
            return Arc::new(SessionEffect::of(sql));
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(sql) {
            return Arc::clone(known);
        }
        if all.len() >= KNOWN_MAX {
            all.clear();
        }
        Arc::clone(all.entry(sql.into()).or_insert_with(|| Arc::new(SessionEffect::of(sql))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_asked_about_once_and_again_when_the_answer_is_old() {
        let effects = SessionEffect::of("select 1");
        effects.asked_at.store(seconds(), Relaxed);
        assert!(effects.is_due() && !effects.is_none());
        effects.learn(Leaves::Nothing);
        assert!(!effects.is_due() && effects.is_none());
        effects.asked_at.store(seconds().saturating_sub(AGE_MAX_S), Relaxed);
        assert!(effects.is_due() && !effects.is_due());
        effects.learn(Leaves::Anything);
        assert!(!effects.is_none());
    }

    #[test]
    fn no_question_is_asked_about_a_command_or_an_unusual_write() {
        for sql in ["set timezone to 'UTC'", "insert into t values (e'')", "merge into t using s on true"] {
            let effects = SessionEffect::of(sql);
            assert_eq!((effects.is_due(), effects.leaves()), (false, Leaves::Anything), "{sql}");
        }
    }

    #[test]
    fn a_write_never_counts_as_a_read_without_effect() {
        let effects = SessionEffect::of("insert into t values (1)");
        assert!(effects.is_due() && effects.names.is_some());
        for leaves in [Leaves::Numbers, Leaves::Nothing] {
            effects.learn(leaves);
            assert_eq!((effects.leaves(), effects.is_none()), (leaves, false));
        }
    }

    #[test]
    fn all_sessions_share_a_bounded_number_of_known_effects() {
        let all = SessionEffects::default();
        all.of("select 1").learn(Leaves::Nothing);
        assert!(all.of("select 1").is_none());
        for number in 0..=KNOWN_MAX {
            all.of(&format!("select '{number}'"));
        }
        assert!(all.0.lock().unwrap().len() <= KNOWN_MAX);
    }
}
