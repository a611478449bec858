//! Whether the database's user may run a statement, found out without running it. Main thread, before a server starts.
//!
//! PostgreSQL checks privileges when a statement is about to run, so it also prepares a statement that it will refuse.
//! EXPLAIN of a prepared statement goes as far as the check. It checks the tables, columns and views that the plan
//! reads or changes, and the functions that it calls, and runs nothing. The sequences of defaults are asked for by
//! their names, which the plan has. The check does not reach the inside of functions and triggers, CALL, and row-level
//! policies.

use super::Session;
use crate::database::outcome::Commits;
use crate::database::{Access, Error, Statement};

/// The name of the statement in question.
const NAME: &str = "wharf_privileges";

/// The SQLSTATE of a missing privilege.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// A plan names a sequence between these texts.
const NEXT_VALUE: (&str, &str) = ("nextval('", "'::regclass)");

impl Session {
    /// The server's message about the first missing privilege. `None`: no missing privilege is visible, or PREPARE does
    /// not take the statement, such as CALL.
    ///
    /// # Errors
    /// The server does not answer.
    pub(super) fn find_missing_privilege(&mut self, statement: &Statement) -> Result<Option<String>, Error> {
        let limit = self.limit.clone();
        match self.command(&format!("prepare {NAME} as {}", statement.text), &limit, false) {
            Ok(()) => {}
            // The protocol has prepared the statement already, so PREPARE does not take statements of its kind.
            Err(Error::Refused(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        self.begin_transaction(Access::ReadOnly)?;
        let asked = self.plan(statement.bound.len()).and_then(|plan| self.missing_sequence(&plan));
        self.roll_back()?;
        self.command(&format!("deallocate {NAME}"), &limit, false)?;
        match asked {
            Ok(missing) => Ok(missing),
            Err(Error::Refused(refusal)) if refusal.code == INSUFFICIENT_PRIVILEGE => {
                Ok(Some(refusal.message))
            }
            // The server may refuse nulls in place of the values. On a standby it may refuse the planning itself.
            Err(Error::Refused(refusal)) => {
                log::debug!("privileges of {:?} cannot be seen: {refusal}", statement.name());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The plan of the statement, as text.
    fn plan(&mut self, parameters: usize) -> Result<String, Error> {
        // A plan for these nulls would leave out the parts that nulls make superfluous.
        self.execute("set local plan_cache_mode = force_generic_plan", &[])?;
        let nulls = vec!["null"; parameters].join(", ");
        let values = if parameters == 0 { String::new() } else { format!("({nulls})") };
        let explain = format!("explain (verbose, costs off) execute {NAME}{values}");
        let lines = self.rows(&explain, &[], Access::ReadOnly, Commits::Nothing)?;
        Ok(lines.iter().map(|line| line.get::<_, String>(0) + "\n").collect())
    }

    /// The same message about the sequences from which the plan takes values.
    fn missing_sequence(&mut self, plan: &str) -> Result<Option<String>, Error> {
        for name in plan.split(NEXT_VALUE.0).skip(1).filter_map(|rest| rest.split_once(NEXT_VALUE.1)) {
            // The plan writes each quote within the quotes twice, and so does this text.
            let may = "select has_sequence_privilege($1::text, 'usage, update')";
            let name = name.0.replace("''", "'");
            let rows = self.rows(may, &[&name], Access::ReadOnly, Commits::Nothing)?;
            if rows.first().is_some_and(|row| !row.get::<_, bool>(0)) {
                return Ok(Some(format!("permission denied for sequence {name}")));
            }
        }
        Ok(None)
    }
}
