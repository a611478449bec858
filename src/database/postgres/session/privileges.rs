//! Whether the database's user may run a statement, found out without running it. Main thread, before a server starts.
//!
//! PostgreSQL checks privileges when a statement is about to run, so it prepares a statement that it will refuse. EXPLAIN of a
//! prepared statement goes just so far: it checks the tables, columns and views that the plan reads or changes, and the functions
//! that it calls, and runs nothing. Sequences of defaults are asked for by their names, which the plan has. The inside of functions,
//! triggers, CALL and row-level policies are beyond it.

use super::Session;
use super::outcome::Commits;
use crate::database::{Access, Error, Statement};

/// The name of the statement that is asked about.
const NAME: &str = "wharf_privileges";

/// The SQLSTATE of a privilege that is missing.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// A plan has the name of a sequence between these.
const NEXT_VALUE: (&str, &str) = ("nextval('", "'::regclass)");

impl Session {
    /// The server's message about the first privilege that the statement lacks. `None`: it lacks none that can be seen, or
    /// PREPARE does not take the statement, as it does not take CALL.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(super) fn find_missing_privilege(&mut self, statement: &Statement) -> Result<Option<String>, Error> {
        let limit = self.limit.clone();
        match self.command(&format!("prepare {NAME} as {}", statement.text), &limit, false) {
            Ok(()) => {}
            // The protocol has prepared it already, so it is what PREPARE does not take.
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
            // Nulls in place of the values may be refused, and so may planning itself on a standby.
            Err(Error::Refused(refusal)) => {
                log::debug!("privileges of {:?} cannot be seen: {refusal}", statement.name());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The plan of the statement, as text.
    fn plan(&mut self, parameters: usize) -> Result<String, Error> {
        // A plan for these nulls would leave out whatever they make superfluous.
        self.execute("set local plan_cache_mode = force_generic_plan", &[])?;
        let nulls = vec!["null"; parameters].join(", ");
        let values = if parameters == 0 { String::new() } else { format!("({nulls})") };
        let explain = format!("explain (verbose, costs off) execute {NAME}{values}");
        let lines = self.rows(&explain, &[], Access::ReadOnly, Commits::Nothing)?;
        Ok(lines.iter().map(|line| line.get::<_, String>(0) + "\n").collect())
    }

    /// The same for the sequences that the plan takes values from.
    fn missing_sequence(&mut self, plan: &str) -> Result<Option<String>, Error> {
        for name in plan.split(NEXT_VALUE.0).skip(1).filter_map(|rest| rest.split_once(NEXT_VALUE.1)) {
            // Within the quotes of the plan each quote is written twice, as it is here.
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
