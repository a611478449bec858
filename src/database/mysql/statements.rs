//! The statements that a session keeps prepared.
//!
//! Owns [`Statements`] and [`Prepared`]. Runs on the worker that borrowed the session.

use std::collections::HashMap;

use super::effects::{Effects, Leaves};
use super::packet::Malformed;
use super::values::Plan;
use super::wire::{Definitions, PreparedAnswer};
use crate::database::Error;

/// The error of a statement whose text has another number of `?` than it has parameters.
pub(super) fn other_count(places: usize, bound: usize) -> Error {
    Error::Usage(format!("the statement has {places} places for parameters, and {bound} parameters"))
}

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) id: u32,
    pub(super) parameter_count: usize,
    pub(super) effects: Effects,
    /// The columns of its rows, as the server described them last.
    definitions: Definitions,
    pub(super) plan: Plan,
    /// The server has told that a run of it changed the session.
    pub(super) changes_session: bool,
    /// The time of its last use, in uses.
    used: u64,
}

impl Prepared {
    pub(super) fn new(sql: &str, answer: PreparedAnswer, has_extended: bool) -> Result<Self, Malformed> {
        let PreparedAnswer { id, parameter_count, definitions } = answer;
        let plan = Plan::of(definitions.columns(has_extended)?);
        Ok(Self {
            id,
            parameter_count,
            effects: Effects::of(sql),
            definitions,
            plan,
            changes_session: false,
            used: 0,
        })
    }

    /// Whether it leaves nothing that the next statement could see, neither by its text nor by what the server has told of its runs.
    pub(super) fn is_harmless(&self) -> bool {
        let Effects { leaves, reads_id, reads_count } = self.effects;
        leaves == Leaves::Nothing && !reads_id && !reads_count && !self.changes_session
    }

    /// Its number, if a statement with so many parameters can use it, and run it if `runs`.
    pub(super) fn check(&self, bound: usize, runs: bool) -> Result<u32, Error> {
        if runs && self.parameter_count != bound {
            return Err(other_count(self.parameter_count, bound));
        }
        let refusal = self.plan.refusals().next().filter(|_| runs);
        refusal.map_or(Ok(self.id), Err)
    }

    /// Takes over the columns of a result. They differ from the earlier ones after an ALTER, or in the results of a procedure.
    pub(super) fn describe(
        &mut self,
        definitions: &Definitions,
        has_extended: bool,
    ) -> Result<(), Malformed> {
        if self.definitions != *definitions {
            self.plan = Plan::of(definitions.columns(has_extended)?);
            self.definitions.clone_from(definitions);
        }
        Ok(())
    }
}

/// The session's prepared statements by their text; when full, the one that was not used for the longest time makes room.
#[derive(Default)]
pub(super) struct Statements {
    pub(super) max: usize,
    known: HashMap<Box<str>, Prepared>,
    uses: u64,
    /// The statements that the server is to forget. It is told with a later batch.
    dismissed: Vec<u32>,
}

impl Statements {
    pub(super) fn known(&mut self, sql: &str) -> Option<&mut Prepared> {
        let prepared = self.known.get_mut(sql)?;
        self.uses += 1;
        prepared.used = self.uses;
        Some(prepared)
    }

    /// The statement, without counting this as a use.
    pub(super) fn peek(&self, sql: &str) -> Option<&Prepared> {
        self.known.get(sql)
    }

    pub(super) fn add(&mut self, sql: &str, mut prepared: Prepared) {
        while self.known.len() >= self.max.max(1) {
            let oldest =
                self.known.iter().min_by_key(|(_, prepared)| prepared.used).map(|(sql, _)| sql.clone());
            let Some(oldest) = oldest else { break };
            self.forget_one(&oldest);
        }
        self.uses += 1;
        prepared.used = self.uses;
        if let Some(replaced) = self.known.insert(sql.into(), prepared) {
            self.dismissed.push(replaced.id);
        }
    }

    /// Stops using this statement.
    pub(super) fn forget_one(&mut self, sql: &str) {
        self.dismissed.extend(self.known.remove(sql).map(|prepared| prepared.id));
    }

    /// Stops using any of the statements.
    pub(super) fn forget(&mut self) {
        self.dismissed.extend(self.known.drain().map(|(_, prepared)| prepared.id));
    }

    /// Notes that the server has forgotten all of them.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.dismissed.clear();
    }

    /// Adds statements that the server is to forget.
    pub(super) fn dismiss(&mut self, numbers: &mut Vec<u32>) {
        self.dismissed.append(numbers);
    }

    /// The statements that the server is to forget now.
    pub(super) fn take_dismissed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.dismissed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(id: u32) -> Prepared {
        let answer = PreparedAnswer { id, parameter_count: 0, definitions: Definitions::default() };
        Prepared::new("select 1", answer, false).unwrap()
    }

    #[test]
    fn the_statement_that_was_not_used_for_longest_makes_room() {
        let mut statements = Statements { max: 2, ..Statements::default() };
        statements.add("a", prepared(1));
        statements.add("b", prepared(2));
        assert!(statements.known("a").is_some());
        statements.add("c", prepared(3));
        assert!(statements.known("b").is_none() && statements.known("a").is_some());
        assert_eq!(statements.take_dismissed(), [2]);
        statements.max = 1;
        statements.add("d", prepared(4));
        assert_eq!(statements.take_dismissed().len(), 2);
        statements.clear();
        assert!(statements.known("d").is_none() && statements.take_dismissed().is_empty());
    }
}
