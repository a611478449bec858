//! The sessions' settings from the configuration. They may change while sessions live.
//!
//! Each driver shares its settings with its sessions. A session reads them when it is opened and when it is borrowed.
//! Any thread.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::config::{self, StatementComment};

/// Why a session cannot be used whose `connection_init_sql` was `begin`: each request on it would be in that transaction.
pub(super) const LEAVES_TRANSACTION: &str = "it leaves a transaction open; end it with commit";

#[derive(Debug, Default)]
pub(super) struct Settings {
    init_sql: Mutex<Option<String>>,
    application_name: Mutex<String>,
    names_requests: AtomicBool,
    /// In microseconds; 0: none.
    statement_timeout: AtomicU64,
    max_prepared_statements: AtomicUsize,
    maximum_pool_size: AtomicUsize,
    /// The number of changes of the schema that were noticed.
    schema_changes: AtomicU64,
}

impl Settings {
    pub(super) fn new(configured: &config::Database) -> Self {
        let settings = Self::default();
        settings.set(configured);
        settings
    }

    /// Returns whether `connection_init_sql` has changed. Open sessions have already run the old text.
    pub(super) fn set(&self, configured: &config::Database) -> bool {
        let micros = u64::try_from(configured.statement_timeout.as_micros()).unwrap_or(u64::MAX);
        self.statement_timeout.store(micros, Relaxed);
        self.max_prepared_statements.store(configured.max_prepared_statements, Relaxed);
        self.maximum_pool_size.store(configured.maximum_pool_size, Relaxed);
        self.names_requests.store(configured.statement_comment == StatementComment::Request, Relaxed);
        let mut application_name = self.application_name.lock().unwrap_or_else(PoisonError::into_inner);
        application_name.clone_from(&configured.application_name);
        let mut init_sql = self.init_sql.lock().unwrap_or_else(PoisonError::into_inner);
        let has_changed = *init_sql != configured.connection_init_sql;
        init_sql.clone_from(&configured.connection_init_sql);
        has_changed
    }

    /// The SQL that a new session runs before its first use.
    pub(super) fn init_sql(&self) -> Option<String> {
        self.init_sql.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The application name of a new session.
    pub(super) fn application_name(&self) -> String {
        self.application_name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether statements name the request for which they run.
    pub(super) fn names_requests(&self) -> bool {
        self.names_requests.load(Relaxed)
    }

    /// The longest time for one statement. `None`: until the deadline.
    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        let micros = self.statement_timeout.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// The most statements that a session keeps prepared.
    pub(super) fn max_prepared_statements(&self) -> usize {
        self.max_prepared_statements.load(Relaxed).max(1)
    }

    /// The most sessions of the pool.
    pub(super) fn maximum_pool_size(&self) -> usize {
        self.maximum_pool_size.load(Relaxed)
    }

    /// Tells all sessions that the schema has changed. They forget their statements at their next checkout.
    pub(super) fn note_schema_change(&self) {
        self.schema_changes.fetch_add(1, Relaxed);
    }

    /// A count that grows with each change that was noted.
    pub(super) fn schema_changes(&self) -> u64 {
        self.schema_changes.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_settings_are_visible_at_once() {
        let mut configured = config::Database::default();
        let settings = Settings::new(&configured);
        assert_eq!((settings.statement_timeout(), settings.max_prepared_statements()), (None, 256));
        configured.statement_timeout = Duration::from_millis(2);
        configured.max_prepared_statements = 3;
        configured.connection_init_sql = Some("select 1".to_owned());
        configured.application_name = "flights".to_owned();
        configured.statement_comment = StatementComment::Request;
        assert!(settings.set(&configured), "another text runs on new sessions");
        assert!(!settings.set(&configured));
        assert_eq!(settings.statement_timeout(), Some(Duration::from_millis(2)));
        assert_eq!(settings.max_prepared_statements(), 3);
        assert_eq!(settings.init_sql().as_deref(), Some("select 1"));
        assert_eq!((&*settings.application_name(), settings.names_requests()), ("flights", true));
    }
}
