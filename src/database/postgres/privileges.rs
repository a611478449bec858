//! Whether the database's user may run a statement, found out without running it. Main thread, before a server starts.
//!
//! PostgreSQL looks at privileges when a statement is about to run, so one that was prepared may be refused all the same. EXPLAIN
//! of a prepared statement goes so far and no further: it asks for the tables, columns and views that the plan reads or changes, and
//! for the functions that it calls. What a function does inside, what a trigger does and which rows a policy lets through shows only
//! when it runs. A sequence that a default takes its value from is asked for by its name, which the plan has.

use super::{Effect, Session};
use crate::database::{Access, Error, Statement};

/// What the statement is called while it is asked about.
const NAME: &str = "wharf_privileges";

/// The SQLSTATE of a privilege that is missing.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// What stands in a plan before the name of a sequence, and behind it.
const NEXT_VALUE: (&str, &str) = ("nextval('", "'::regclass)");

impl Session {
    /// What the server says of the first privilege that the statement lacks. `None`: it lacks none that can be seen, or is a
    /// command of which PREPARE knows nothing, such as CALL.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(in crate::database) fn missing_privilege(
        &mut self,
        statement: &Statement,
    ) -> Result<Option<String>, Error> {
        let limit = self.limit.clone();
        match self.command(&format!("prepare {NAME} as {}", statement.text), &limit, false) {
            Ok(()) => {}
            // The protocol has prepared it already, so it is what PREPARE does not take.
            Err(Error::Refused(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        self.begin(Access::ReadOnly)?;
        let asked = self.plan(statement.bound.len()).and_then(|plan| self.missing_sequence(&plan));
        self.rollback()?;
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
        let lines = self.rows(&explain, &[], Access::ReadOnly, Effect::Reads)?;
        Ok(lines.iter().map(|line| line.get::<_, String>(0) + "\n").collect())
    }

    /// The same for the sequences that the plan takes values from.
    fn missing_sequence(&mut self, plan: &str) -> Result<Option<String>, Error> {
        for name in plan.split(NEXT_VALUE.0).skip(1).filter_map(|rest| rest.split_once(NEXT_VALUE.1)) {
            // Within the quotes of the plan each quote is written twice, as it is here.
            let may = "select has_sequence_privilege($1::text, 'usage, update')";
            let name = name.0.replace("''", "'");
            let rows = self.rows(may, &[&name], Access::ReadOnly, Effect::Reads)?;
            if rows.first().is_some_and(|row| !row.get::<_, bool>(0)) {
                return Ok(Some(format!("permission denied for sequence {name}")));
            }
        }
        Ok(None)
    }
}
