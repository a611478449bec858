//! The effects of a statement on its session, and the cleaning of a session after it.
//!
//! A session keeps settings, roles, locks, temporary tables, cursors and more from one request to the next, and any function may
//! change them. The planner tells which statements cannot: those that it could run in parallel as a whole. Functions that change the
//! session are not parallel safe (the manual, 15.4), and the planner looks for them in views, policies and operators too. After all
//! other statements the session is cleaned. Nobody waits for the answers to the cleaning and to the questions about statements.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use postgres_protocol::message::frontend;
use tokio_postgres::types::Type;

use super::super::Access;
use super::statements::{Prepared, first_word};
use super::wire::{Kind, Wire, unsendable};
use crate::base::system;
use crate::database::Error;

/// How old an answer of the planner may become, in seconds: a view or a policy may be another by then.
const AGE_MAX_S: u64 = 1;

/// How many statements are remembered for all sessions of a pool. More of them are most likely made up by a handler.
const KNOWN_MAX: usize = 4096;

/// Longer texts are neither remembered nor asked about.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// The first lines of a plan that runs as a whole in one process beside the session's own. A plan that is parallel for its cost alone
/// begins otherwise, and may leave some functions to the session.
pub(super) const PARALLEL: [&str; 3] = ["Gather", "  Workers Planned: 1", "  Single Copy: true"];

/// The effects of one statement, as far as they are known. All sessions of a pool share them.
#[derive(Debug, Default)]
pub(super) struct Effects {
    verdict: AtomicU8,
    /// When the planner was asked, in seconds of the system's clock.
    asked_at: AtomicU64,
}

const UNKNOWN: u8 = 0;
const HARMLESS: u8 = 1;
const HARMFUL: u8 = 2;
/// It writes, is a command, or is very long: there is no plan to look at.
const NO_PLAN: u8 = 3;

impl Effects {
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

    /// Whether it is known to change nothing of the session.
    pub(super) fn are_none(&self) -> bool {
        self.verdict.load(Relaxed) == HARMLESS
    }

    /// Whether the planner is to be asked, and by the caller.
    pub(super) fn want_a_look(&self) -> bool {
        let verdict = self.verdict.load(Relaxed);
        if verdict == NO_PLAN {
            return false;
        }
        let (now, asked_at) = (seconds(), self.asked_at.load(Relaxed));
        (verdict == UNKNOWN || now >= asked_at + AGE_MAX_S)
            && self.asked_at.compare_exchange(asked_at, now, Relaxed, Relaxed).is_ok()
    }

    pub(super) fn learn(&self, harmless: bool) {
        self.verdict.store(if harmless { HARMLESS } else { HARMFUL }, Relaxed);
    }
}

/// Whether a statement writes rows, by its first word.
pub(super) fn writes_rows(sql: &str) -> bool {
    const WRITE: [&str; 4] = ["insert", "update", "delete", "merge"];
    let word = first_word(sql);
    WRITE.iter().any(|write| word.eq_ignore_ascii_case(write))
}

fn seconds() -> u64 {
    system::coarse_monotonic().as_secs()
}

/// The effects of a pool's statements, by their texts.
#[derive(Debug, Default)]
pub(super) struct AllEffects(Mutex<HashMap<Box<str>, Arc<Effects>>>);

impl AllEffects {
    pub(super) fn of(&self, sql: &str) -> Arc<Effects> {
        if sql.len() > TEXT_BYTES_MAX {
            return Arc::new(Effects::of(sql));
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(sql) {
            return Arc::clone(known);
        }
        if all.len() >= KNOWN_MAX {
            all.clear();
        }
        Arc::clone(all.entry(sql.into()).or_insert_with(|| Arc::new(Effects::of(sql))))
    }
}

/// The SQLSTATE of a cleaning that finds statements prepared by SQL. It divides by zero then.
pub(super) const HAS_LEFTOVERS: &str = "22012";

/// The settings that each session has. A startup packet could say them only in a way that poolers refuse.
pub(super) const SETTINGS: &str = "set timezone to 'UTC'";

/// SQL that makes the session as it was when it was opened, but keeps its prepared statements: a part of `DISCARD ALL`. It is one
/// transaction, which stays failed if any of it fails, so that the server runs nothing on a session that is not clean.
pub(super) fn cleaning(
    access: Access,
    looks_for_leftovers: bool,
    settings: &str,
    init_sql: Option<&str>,
) -> String {
    let look = if looks_for_leftovers {
        "select 1 / (not exists(select from pg_catalog.pg_prepared_statement() where from_sql))::int; "
    } else {
        ""
    };
    let access = match access {
        Access::ReadOnly => "read only",
        Access::ReadWrite => "read write",
    };
    let init_sql = init_sql.unwrap_or_default();
    format!(
        "begin; close all; set session authorization default; reset role; reset all; unlisten *; \
         select pg_catalog.pg_advisory_unlock_all(); discard temp; discard sequences; \
         set session characteristics as transaction {access}; {settings}; \
         {look}{init_sql}\n; commit"
    )
}

/// Puts the [cleaning] into the batch.
pub(super) fn clean(cleaning: &str, wire: &mut Wire) -> Result<(), Error> {
    wire.add_query(cleaning)?;
    wire.add_errand(Kind::Clean, 1);
    Ok(())
}

/// Puts the question about a statement into the batch. It prepares the statement under another name, and deallocates it, so that the
/// session does not keep this plan.
pub(super) fn look(sql: &str, prepared: &Prepared, wire: &mut Wire) -> Result<(), Error> {
    /// The five parts below.
    const PARTS: usize = 5;
    const NAME: &str = "wharf_look";
    let parallel = if wire.version >= 16 { "debug_parallel_query" } else { "force_parallel_mode" };
    wire.add_query(&format!(
        "begin read only; set local {parallel} = on; set local max_parallel_workers_per_gather = 2; \
         set local parallel_setup_cost = 1e300; set local plan_cache_mode = force_generic_plan; \
         set local lock_timeout = '5ms'; set local statement_timeout = '100ms'"
    ))?;
    frontend::parse(NAME, sql, prepared.params.iter().map(Type::oid), wire.batch()).map_err(unsendable)?;
    wire.add_sync();
    let values = vec!["null"; prepared.params.len()].join(", ");
    let values = if values.is_empty() { values } else { format!("({values})") };
    wire.add_query(&format!("explain (costs off) execute {NAME}{values}"))?;
    wire.add_query("rollback")?;
    frontend::close(b'S', NAME, wire.batch()).map_err(unsendable)?;
    wire.add_sync();
    wire.add_errand(Kind::Look { effects: Arc::clone(&prepared.effects), line: 0, harmless: true }, PARTS);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_asked_about_once_and_again_when_the_answer_is_old() {
        let effects = Effects::of("select 1");
        effects.asked_at.store(seconds(), Relaxed);
        assert!(effects.want_a_look() && !effects.are_none());
        effects.learn(true);
        assert!(!effects.want_a_look() && effects.are_none());
        effects.asked_at.store(seconds().saturating_sub(AGE_MAX_S), Relaxed);
        assert!(effects.want_a_look() && !effects.want_a_look());
        effects.learn(false);
        assert!(!effects.are_none());
    }

    #[test]
    fn of_what_has_no_plan_nothing_is_asked() {
        let effects = Effects::of("insert into t values (1)");
        assert!(!effects.want_a_look() && !effects.are_none());
    }

    #[test]
    fn all_sessions_share_what_is_known_and_not_without_end() {
        let all = AllEffects::default();
        all.of("select 1").learn(true);
        assert!(all.of("select 1").are_none());
        for number in 0..=KNOWN_MAX {
            all.of(&format!("select '{number}'"));
        }
        assert!(all.0.lock().unwrap().len() <= KNOWN_MAX);
    }
}
