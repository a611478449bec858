//! How many sessions the database allows this service.
//!
//! Main thread, before the run.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::Value;

use super::formulas::Connections;
use crate::base::deadline::Deadline;
use crate::config::Sql;
use crate::database::{Access, Database, Error, Kind, RowWriter, Shape};

/// The time limit for one query on system tables.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer is one row of a few numbers.
const BYTES_MAX: usize = 4096;

/// `reserved_connections` exists from PostgreSQL 16 on. The query counts the sessions of all roles, which any role may
/// see here, but leaves out its own session.
const SQL: &str = "\
    select current_setting('max_connections')::int as max, \
           current_setting('superuser_reserved_connections')::int as superuser_reserved, \
           coalesce(current_setting('reserved_connections', true)::int, 0) as reserved, \
           (select sum(numbackends)::int - 1 from pg_stat_database) as others, \
           (select rolconnlimit from pg_roles where rolname = current_user) as role_limit, \
           (select datconnlimit from pg_database where datname = current_database()) as database_limit";

/// MySQL's limits. Without the privilege PROCESS, a user sees only its own sessions. `max_user_connections` is the user's own limit, where
/// it has one; 0 means none.
const MYSQL_SQL: &str = "\
    select @@max_connections as max, 0 as superuser_reserved, 0 as reserved, \
           (select count(*) - 1 from information_schema.processlist) as others, \
           if(@@max_user_connections = 0, -1, @@max_user_connections) as role_limit, -1 as database_limit";

/// The most sessions that one instance may open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How many.
    pub connections: usize,
    /// How that number comes about.
    pub because: String,
}

impl Allowance {
    /// Reads the database's limits on a single session. `None`: the database has no limit of its own.
    ///
    /// # Errors
    /// When the database does not answer.
    pub fn read(database: &Database, instances: NonZeroUsize) -> Result<Option<Self>, Error> {
        let sql = match database.kind() {
            Kind::Sqlite => return Ok(None),
            Kind::Postgres => SQL,
            Kind::Mysql => MYSQL_SQL,
        };
        let deadline = Deadline::after(PATIENCE);
        let statement = database.statement(&Sql::without_parameters(sql), &[]);
        let mut row = Vec::new();
        let mut writer = RowWriter::new(&mut row, Shape::Objects, BYTES_MAX, 1);
        database.checkout(deadline)?.run(&statement, &[], Access::ReadOnly, deadline, &mut writer)?;
        let row: Value = serde_json::from_slice(&row).unwrap_or_default();
        Ok(Some(Self::of(&row, instances)))
    }

    fn of(row: &Value, instances: NonZeroUsize) -> Self {
        let number = |name: &str| row[name].as_i64().and_then(|number| usize::try_from(number).ok());
        let count = |name| number(name).unwrap_or_default();
        let limits = Connections {
            max: count("max"),
            superuser_reserved: count("superuser_reserved"),
            reserved: count("reserved"),
            others: count("others"),
        };
        let mut because = format!(
            "max_connections {}, of which {} are reserved and {} others'",
            limits.max,
            limits.superuser_reserved + limits.reserved,
            limits.others
        );
        let mut connections = limits.for_each_of(instances).map_or(0, NonZeroUsize::get);
        // −1 means that there is no limit.
        for (name, whose) in [("role_limit", "role"), ("database_limit", "database")] {
            if let Some(limit) = number(name).filter(|limit| *limit / instances < connections) {
                connections = limit / instances;
                because = format!("the {whose}'s connection limit is {limit}");
            }
        }
        if instances.get() > 1 {
            because = format!("{because}, for {instances} instances");
        }
        Self { connections, because }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(row: &Value, instances: usize) -> (usize, String) {
        let allowance = Allowance::of(row, NonZeroUsize::new(instances).expect("some"));
        (allowance.connections, allowance.because)
    }

    #[test]
    fn reserved_sessions_and_those_of_others_are_subtracted() {
        let mut row = json!({ "max": 100, "superuser_reserved": 3, "reserved": 2, "others": 15,
                              "role_limit": -1, "database_limit": -1 });
        assert_eq!(
            of(&row, 1),
            (80, "max_connections 100, of which 5 are reserved and 15 others'".to_owned())
        );
        assert_eq!(of(&row, 3).0, 26);
        row["role_limit"] = json!(12);
        assert_eq!(of(&row, 2), (6, "the role's connection limit is 12, for 2 instances".to_owned()));
        row["others"] = json!(95);
        assert_eq!(of(&row, 1).0, 0);
    }
}
