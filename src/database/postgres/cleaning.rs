//! The cleaning of a session, and the questions that can make a later cleaning needless.
//!
//! Owns [`Untidy`], the work between two borrowers of a session, and its SQL. Nobody waits for the answers:
//! [`errand`](super::errand) notes them when they come. Runs on the worker that borrowed the session, or on an idle
//! one.

use std::sync::Arc;

use postgres_protocol::message::frontend;
use tokio_postgres::types::Type;

use super::effects::{Leaves, SessionEffect};
use super::errand::ErrandKind;
use super::names::Names;
use super::prepared::Prepared;
use super::text::writes_rows;
use super::wire::{Wire, unsendable};
use crate::database::{Access, Error};

/// Work that must be done before another request uses the session.
#[derive(Default)]
pub(super) struct Untidy {
    /// A statement may have changed the session, so it must be cleaned.
    pub(super) is_touched: bool,
    /// A statement may have prepared others by SQL, so the cleaning must look for them. A write of rows prepares none,
    /// unless a trigger makes up its SQL. The search takes a third of the cleaning's time.
    pub(super) may_have_leftovers: bool,
    /// A statement has left the last numbers of sequences. They stay while the next statements cannot read them.
    pub(super) leaves_numbers: bool,
    /// The statements about which the planner or the catalog must be asked.
    pub(super) questions: Vec<(Box<str>, Arc<Prepared>)>,
}

impl Untidy {
    /// Puts the work into the batch. The catalog is asked first: the question does not depend on the session's state
    /// and leaves nothing, and its ROLLBACK must not end a cleaning that has failed. The planner is asked on a clean
    /// session. It may run functions as well, so the session is cleaned again afterwards.
    pub(super) fn put(&self, cleaning: &str, wire: &mut Wire) -> Result<(), Error> {
        for (_, prepared) in &self.questions {
            if let Some(names) = &prepared.effect.names {
                put_names_question(names, &prepared.effect, wire)?;
            }
        }
        if self.is_touched {
            put_cleaning(cleaning, wire)?;
        }
        for (sql, prepared) in &self.questions {
            if prepared.effect.names.is_none() {
                put_plan_question(sql, prepared, wire)?;
            }
        }
        if self.asks_planner() {
            put_cleaning(cleaning, wire)?;
        } else if self.leaves_numbers && !self.is_touched {
            put_cleaning(FORGET_NUMBERS, wire)?;
        }
        Ok(())
    }

    /// Whether there is any work.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_touched && !self.leaves_numbers && self.questions.is_empty()
    }

    /// Whether numbers of sequences are all that is left.
    pub(super) fn is_only_numbers(&self) -> bool {
        !self.is_touched && self.leaves_numbers && self.questions.is_empty()
    }

    /// Whether the session will be cleaned as a whole.
    pub(super) fn cleans(&self) -> bool {
        self.is_touched || self.asks_planner()
    }

    /// Whether the cleaning must look for statements that were prepared by SQL.
    pub(super) fn looks_for_leftovers(&self) -> bool {
        self.may_have_leftovers || self.asks_planner()
    }

    fn asks_planner(&self) -> bool {
        self.questions.iter().any(|(_, prepared)| prepared.effect.names.is_none())
    }

    /// Adds the work of a later borrow.
    pub(super) fn add(&mut self, later: Self) {
        self.is_touched |= later.is_touched;
        self.may_have_leftovers |= later.may_have_leftovers;
        self.leaves_numbers |= later.leaves_numbers;
        self.questions.extend(later.questions);
    }

    /// Notes that a statement was run.
    pub(super) fn note_run(&mut self, sql: &str, leaves: Leaves) {
        self.leaves_numbers |= leaves == Leaves::Numbers;
        if leaves == Leaves::Anything {
            self.is_touched = true;
            self.may_have_leftovers |= !writes_rows(sql);
        }
    }

    /// Adds a question about a statement's effect, if that is due.
    pub(super) fn ask(&mut self, sql: &str, prepared: &Arc<Prepared>) {
        /// Questions for one checkin. All messages have to fit into the socket's buffer.
        const MAX: usize = 8;
        let is_there = self.questions.iter().any(|(_, known)| Arc::ptr_eq(&known.effect, &prepared.effect));
        if !is_there && self.questions.len() < MAX && prepared.effect.is_due() {
            self.questions.push((sql.into(), Arc::clone(prepared)));
        }
    }
}

/// The settings of every session. Poolers refuse them in a startup packet.
pub(super) const SETTINGS: &str = "set timezone to 'UTC'";

/// SQL that restores the state of a new session but keeps its prepared statements: a part of `DISCARD ALL`. It is one
/// transaction. If any of it fails, the transaction stays failed, so the server runs nothing on a session that is not
/// clean.
pub(super) fn cleaning(
    access: Access,
    looks_for_leftovers: bool,
    settings: &str,
    init_sql: Option<&str>,
) -> String {
    // One query for both is cheaper: planning it takes most of its time.
    let look = if looks_for_leftovers {
        ", 1 / (not exists(select from pg_catalog.pg_prepared_statement() where from_sql))::int"
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
         select pg_catalog.pg_advisory_unlock_all(){look}; discard temp; discard sequences; \
         set session characteristics as transaction {access}; {settings}; \
         {init_sql}\n; commit"
    )
}

/// The longest time for a question's statements, each. It also holds for the rollback: on a busy machine a time of a second
/// passed before the server had done the rollback. The transaction then stays failed, and the cleaning behind it fails as well.
const QUESTION_TIMEOUT: &str = "10s";

/// The cleaning of a session on which only the last numbers of sequences are left.
const FORGET_NUMBERS: &str = "begin; discard sequences; commit";

/// Puts the [cleaning] into the batch. Nobody waits for its answer.
fn put_cleaning(cleaning: &str, wire: &mut Wire) -> Result<(), Error> {
    wire.add_query(cleaning)?;
    wire.add_errand(ErrandKind::Clean, 1);
    Ok(())
}

/// Puts the question to the catalog into the batch. The question works on a session that is not clean, because all
/// names in it are qualified, and operators are those of `pg_catalog`. Nobody waits for the answer.
fn put_names_question(names: &Names, effect: &Arc<SessionEffect>, wire: &mut Wire) -> Result<(), Error> {
    /// The parts of the batch that are added below.
    const PARTS: usize = 2;
    wire.add_query(&format!(
        "begin read only; set local search_path = pg_catalog, pg_temp; \
         set local lock_timeout = '5ms'; set local statement_timeout = '{QUESTION_TIMEOUT}'; {}",
        names.question()
    ))?;
    wire.add_query("rollback")?;
    let effect = Arc::clone(effect);
    wire.add_errand(ErrandKind::Names { effect, leaves: Leaves::Anything }, PARTS);
    Ok(())
}

/// Puts the question to the planner into the batch. The question prepares the statement under another name and
/// deallocates it, so that the session does not keep this plan. Nobody waits for the answer.
fn put_plan_question(sql: &str, prepared: &Prepared, wire: &mut Wire) -> Result<(), Error> {
    /// The parts of the batch that are added below.
    const PARTS: usize = 5;
    const NAME: &str = "wharf_look";
    let parallel = if wire.version >= 16 { "debug_parallel_query" } else { "force_parallel_mode" };
    wire.add_query(&format!(
        "begin read only; set local {parallel} = on; set local max_parallel_workers_per_gather = 2; \
         set local parallel_setup_cost = 1e300; set local plan_cache_mode = force_generic_plan; \
         set local lock_timeout = '5ms'; \
         set local statement_timeout = '{QUESTION_TIMEOUT}'"
    ))?;
    frontend::parse(NAME, sql, prepared.params.iter().map(Type::oid), wire.batch()).map_err(unsendable)?;
    wire.add_sync();
    let values = vec!["null"; prepared.params.len()].join(", ");
    let values = if values.is_empty() { values } else { format!("({values})") };
    wire.add_query(&format!("explain (costs off) execute {NAME}{values}"))?;
    wire.add_query("rollback")?;
    frontend::close(b'S', NAME, wire.batch()).map_err(unsendable)?;
    wire.add_sync();
    let effect = Arc::clone(&prepared.effect);
    wire.add_errand(ErrandKind::Plan { effect, line: 0, is_harmless: true }, PARTS);
    Ok(())
}
