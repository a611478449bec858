//! The settings of a session: when it is opened, and when it is reset between two borrowers.
//!
//! Runs on the thread that opens a session, or on a worker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::rows::{NoRows, Texts};
use super::state::{READS, RELEASE, Transaction, Writable};
use crate::base::deadline::Deadline;
use crate::database::Error;
use crate::database::limit::Limit;
use crate::database::mysql::connect::Opened;
use crate::database::mysql::effects::Leaves;
use crate::database::mysql::login::Failure as Unopened;
use crate::database::mysql::packet::capability;
use crate::database::mysql::statements::Statements;
use crate::database::mysql::wire::{Command, Failure, Wait, Wire};
use crate::database::settings::{LEAVES_TRANSACTION, Settings};
use crate::telemetry::activity::Activity;

/// The settings of each session. A value that does not fit its column is refused instead of cut, so that no answer tells of a row that
/// was not written. Times are in UTC, and text in UTF-8. The server's other modes stay, but not those that change where strings and
/// names end, because `config::sql` must find the same ends as the server.
const SETTINGS: &str = "set names utf8mb4, autocommit = 1, time_zone = '+00:00', sql_mode = concat(\
    replace(replace(replace(replace(replace(replace(replace(replace(@@sql_mode, \
    'NO_BACKSLASH_ESCAPES', ''), 'ANSI_QUOTES', ''), 'ANSI', ''), 'ORACLE', ''), 'MSSQL', ''), 'DB2', ''), 'MAXDB', ''), 'POSTGRESQL', ''), \
    ',STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION')";

/// Makes the server tell of changes of the session. MySQL before 5.7 and MariaDB before 10.2 do not have it.
const TRACKING: &str = "set session_track_state_change = 1";

/// Asks for the session's number, its longest packet, its modes, and the most prepared statements of all sessions.
const FACTS: &str = "select connection_id(), @@max_allowed_packet, @@sql_mode, @@max_prepared_stmt_count";

/// Whether a node of a Galera cluster belongs to the part that has the data. Other servers have no provider of a cluster.
const READINESS: &str = "show status where variable_name in ('wsrep_provider_name', 'wsrep_ready')";

/// `ER_UNKNOWN_SYSTEM_VARIABLE`.
const NO_VARIABLE: &str = "1193";

/// Makes a session of a new connection.
pub(in crate::database::mysql) fn open(
    opened: Opened,
    settings: &Arc<Settings>,
    deadline: Deadline,
) -> Result<Session, Unopened> {
    let is_tracking = opened.facts.has(capability::SESSION_TRACK);
    let mut session = Session {
        wire: Wire::new(opened),
        settings: Arc::clone(settings),
        statements: Statements::default(),
        transaction: Transaction::None,
        limit: Limit::until(deadline),
        activity: Activity::default(),
        metrics: Arc::default(),
        leaves: Leaves::Nothing,
        releases_locks: false,
        asked: VecDeque::new(),
        is_fresh: true,
        has_foreign_id: true,
        is_tracking,
        is_writable: Writable::No,
        backstop: 0,
    };
    let limit = session.limit.clone();
    let prepared = session.prepare(&limit);
    prepared.map_err(|error| match error {
        Error::Deadline => Unopened::TimeUp,
        Error::Lost(reason) => {
            Unopened::Unreachable(std::io::Error::new(std::io::ErrorKind::ConnectionReset, reason))
        }
        error => Unopened::Unusable(error),
    })?;
    Ok(session)
}

impl Session {
    fn prepare(&mut self, limit: &Limit) -> Result<(), Error> {
        self.wire.begin_batch();
        self.add_settings()?;
        self.wire.add_query(FACTS)?;
        self.wire.add_query(READINESS)?;
        let began = Instant::now();
        let mut wait = self.wire.begin(limit)?;
        let sent = self.wire.send(&mut wait);
        let read = sent.and_then(|()| self.read_settings(&mut wait));
        let done = read.and_then(|()| {
            let (mut facts, mut readiness) = (Texts::default(), Texts::default());
            self.wire.result(FACTS, &mut wait, &mut facts)?;
            self.wire.result(READINESS, &mut wait, &mut readiness)?;
            Ok((facts.0, readiness.0))
        });
        let (facts, readiness) = self.wire.conclude(wait, done, false)?;
        // The server has little to do in this round trip, so it shows the distance.
        self.wire.note_round_trip(began.elapsed());
        self.take_facts(&facts)?;
        let value = |name: &str| {
            let row =
                readiness.iter().find(|row| row.first().is_some_and(|found| found.as_deref() == Some(name)));
            row.and_then(|row| row.get(1)?.as_deref()).unwrap_or_default()
        };
        if !value("wsrep_provider_name").is_empty() && value("wsrep_ready") != "ON" {
            return Err(Error::Lost("the node is not a part of its cluster (wsrep_ready)".to_owned()));
        }
        Ok(())
    }

    fn take_facts(&mut self, facts: &[Vec<Option<String>>]) -> Result<(), Error> {
        let [row] = facts else { return Err(Error::Lost("it did not tell its number".to_owned())) };
        let [Some(thread), Some(packet_max), Some(modes), Some(prepared_max)] = &**row else {
            return Err(Error::Lost("it did not tell its number".to_owned()));
        };
        if let Ok(thread) = thread.parse() {
            self.wire.facts.thread = thread;
        }
        if let Ok(packet_max) = packet_max.parse() {
            self.wire.packet_max = packet_max;
        }
        self.wire.prepared_max = prepared_max.parse().ok();
        let wrong = ["ANSI_QUOTES", "NO_BACKSLASH_ESCAPES"];
        match wrong.iter().find(|mode| modes.split(',').any(|set| set == **mode)) {
            Some(mode) => {
                Err(Error::Usage(format!("its sql_mode has {mode}, with which strings end elsewhere")))
            }
            None => Ok(()),
        }
    }

    /// Adds the settings to the batch, and notes the answers to come.
    fn add_settings(&mut self) -> Result<(), Error> {
        const MANY_STATEMENTS: [u8; 2] = [0, 0];
        const ONE_STATEMENT: [u8; 2] = [1, 0];
        self.wire.add_query(SETTINGS)?;
        self.wire.add_query(TRACKING)?;
        self.asked.extend([Asked::Setting, Asked::Tracking]);
        if let Some(sql) = self.settings.init_sql() {
            let option = |bytes: [u8; 2]| {
                move |out: &mut Vec<u8>| {
                    out.extend_from_slice(&bytes);
                    Ok(())
                }
            };
            self.wire.add(Command::SetOption, option(MANY_STATEMENTS))?;
            self.wire.add_query(&sql)?;
            self.wire.add(Command::SetOption, option(ONE_STATEMENT))?;
            self.asked.extend([Asked::Setting, Asked::InitSql, Asked::Setting]);
        }
        self.wire.add_query(READS)?;
        self.asked.push_back(Asked::Setting);
        Ok(())
    }

    /// Sends a reset, which removes whatever a borrower has left, and the settings behind it.
    pub(super) fn begin_reset(&mut self) -> Result<(), Error> {
        self.statements.clear();
        self.wire.begin_batch();
        self.wire.add(Command::Reset, |_| Ok(()))?;
        self.asked.push_back(Asked::Setting);
        // The reset leaves the session in the database that a statement has chosen.
        let Some(database) = self.wire.database().map(str::to_owned) else {
            return Err(Error::Lost("it has no database to go back to".to_owned()));
        };
        self.wire.add(Command::InitDatabase, |out| {
            out.extend_from_slice(database.as_bytes());
            Ok(())
        })?;
        self.asked.push_back(Asked::Setting);
        self.add_settings()?;
        self.wire.send_at_once();
        self.releases_locks = false;
        self.is_writable = Writable::No;
        self.backstop = 0;
        Ok(())
    }

    /// Sends a release of all locks.
    pub(super) fn begin_release(&mut self) -> Result<(), Error> {
        self.wire.begin_batch();
        self.wire.add_query(RELEASE)?;
        self.asked.push_back(Asked::Setting);
        self.wire.send_at_once();
        Ok(())
    }

    /// Reads the answers to the settings, if they are still to come. A session without its settings is closed.
    pub(super) fn read_settings(&mut self, wait: &mut Wait<'_>) -> Result<(), Failure> {
        while let Some(asked) = self.asked.front() {
            let wrong = match (asked, self.wire.result("", wait, &mut NoRows)) {
                (Asked::Tracking, Err(Failure::Known(error))) if error.code() == Some(NO_VARIABLE) => {
                    self.is_tracking = false;
                    None
                }
                (Asked::InitSql, Err(Failure::Known(error))) => Some(error.in_full().into_owned()),
                (Asked::InitSql, Ok(done)) if done.is_in_transaction() => Some(LEAVES_TRANSACTION.to_owned()),
                (_, Ok(_)) => None,
                (_, Err(failure)) => {
                    self.wire.close();
                    return Err(failure);
                }
            };
            if let Some(wrong) = wrong {
                self.wire.close();
                return Err(Error::Usage(format!("connection_init_sql: {wrong}")).into());
            }
            self.asked.pop_front();
        }
        Ok(())
    }
}

/// A command of the settings, whose answer is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Setting,
    /// [`TRACKING`], which an old server does not have.
    Tracking,
    /// `connection_init_sql`, which may be wrong.
    InitSql,
}
