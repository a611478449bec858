//! The effects of statements on their session, as far as they are known.
//!
//! Owns [`SessionEffect`], one for each statement of a pool. A session keeps settings, roles, locks, temporary tables,
//! cursors and more from one request to the next, and any function may change them. The planner's answer shows which
//! statements cannot: those that could run in parallel as a whole. Functions that change the session are not parallel
//! safe (the manual, 15.4), and the planner looks for them in views, policies and operators too. After all other
//! statements the session is cleaned; see [`cleaning`](super::cleaning).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::text::first_word;
use crate::base::system;

/// The age at which the planner is asked again, in seconds: a view or a policy may have changed by then.
const AGE_MAX_S: u64 = 1;

/// The number of statements that are remembered for all sessions of a pool. If there are more, a handler most likely
/// makes up the texts of its statements.
const KNOWN_MAX: usize = 4096;

/// Longer texts are neither remembered nor asked about.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// The effect of one statement on its session, as far as it is known. All sessions of a pool share it.
#[derive(Debug, Default)]
pub(super) struct SessionEffect {
    verdict: AtomicU8,
    /// The time of the last question to the planner, in seconds of the system's clock.
    asked_at: AtomicU64,
}

const UNKNOWN: u8 = 0;
const HARMLESS: u8 = 1;
const HARMFUL: u8 = 2;
/// It writes, is a command, or is very long: the planner cannot be asked.
const NO_PLAN: u8 = 3;

impl SessionEffect {
    fn of(sql: &str) -> Self {
        const PLANNED: [&str; 4] = ["select", "values", "table", "with"];
        let word = first_word(sql);
        let planned =
            sql.len() <= TEXT_BYTES_MAX && PLANNED.iter().any(|planned| word.eq_ignore_ascii_case(planned));
        Self {
            verdict: AtomicU8::new(if planned { UNKNOWN } else { NO_PLAN }),
            asked_at: AtomicU64::default(),
        }
    }

    /// Whether the statement is known to change nothing about the session.
    pub(super) fn is_none(&self) -> bool {
        self.verdict.load(Relaxed) == HARMLESS
    }

    /// Whether the caller must ask the planner now. Only one caller gets `true`.
    pub(super) fn is_due(&self) -> bool {
        let verdict = self.verdict.load(Relaxed);
        if verdict == NO_PLAN {
            return false;
        }
        let (now, asked_at) = (seconds(), self.asked_at.load(Relaxed));
        (verdict == UNKNOWN || now >= asked_at + AGE_MAX_S)
            && self.asked_at.compare_exchange(asked_at, now, Relaxed, Relaxed).is_ok()
    }

    /// Takes the planner's answer.
    pub(super) fn learn(&self, harmless: bool) {
        self.verdict.store(if harmless { HARMLESS } else { HARMFUL }, Relaxed);
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
        effects.learn(true);
        assert!(!effects.is_due() && effects.is_none());
        effects.asked_at.store(seconds().saturating_sub(AGE_MAX_S), Relaxed);
        assert!(effects.is_due() && !effects.is_due());
        effects.learn(false);
        assert!(!effects.is_none());
    }

    #[test]
    fn no_question_is_asked_about_a_statement_without_a_plan() {
        let effects = SessionEffect::of("insert into t values (1)");
        assert!(!effects.is_due() && !effects.is_none());
    }

    #[test]
    fn all_sessions_share_a_bounded_number_of_known_effects() {
        let all = SessionEffects::default();
        all.of("select 1").learn(true);
        assert!(all.of("select 1").is_none());
        for number in 0..=KNOWN_MAX {
            all.of(&format!("select '{number}'"));
        }
        assert!(all.0.lock().unwrap().len() <= KNOWN_MAX);
    }
}
