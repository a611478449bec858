//! What sessions take from the configuration, which may change while they live.
//!
//! Each driver has one and shares it with its sessions, which look at it when they are opened and borrowed. Any thread.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::config::{self, StatementComment};

#[derive(Debug, Default)]
pub(super) struct Settings {
    init_sql: Mutex<Option<String>>,
    application_name: Mutex<String>,
    names_requests: AtomicBool,
    /// In microseconds; 0: none.
    statement_timeout: AtomicU64,
    max_prepared_statements: AtomicUsize,
    /// How often the schema was found to have changed.
    schema_changes: AtomicU64,
}

impl Settings {
    pub(super) fn new(configured: &config::Database) -> Self {
        let settings = Self::default();
        settings.set(configured);
        settings
    }

    /// Returns whether what runs on new sessions is other than what ran on those there are.
    pub(super) fn set(&self, configured: &config::Database) -> bool {
        let micros = u64::try_from(configured.statement_timeout.as_micros()).unwrap_or(u64::MAX);
        self.statement_timeout.store(micros, Relaxed);
        self.max_prepared_statements.store(configured.max_prepared_statements, Relaxed);
        self.names_requests.store(configured.statement_comment == StatementComment::Request, Relaxed);
        let mut application_name = self.application_name.lock().unwrap_or_else(PoisonError::into_inner);
        application_name.clone_from(&configured.application_name);
        let mut init_sql = self.init_sql.lock().unwrap_or_else(PoisonError::into_inner);
        let has_changed = *init_sql != configured.connection_init_sql;
        init_sql.clone_from(&configured.connection_init_sql);
        has_changed
    }

    /// What runs on a new session before it is used.
    pub(super) fn init_sql(&self) -> Option<String> {
        self.init_sql.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the database calls a new session.
    pub(super) fn application_name(&self) -> String {
        self.application_name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether statements say for which request they run.
    pub(super) fn names_requests(&self) -> bool {
        self.names_requests.load(Relaxed)
    }

    /// How long one statement may take; `None`: until the deadline.
    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        let micros = self.statement_timeout.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// How many statements a session keeps prepared.
    pub(super) fn max_prepared_statements(&self) -> usize {
        self.max_prepared_statements.load(Relaxed).max(1)
    }

    /// Says to all sessions that the schema has changed, so that what they remember of their statements may not hold.
    pub(super) fn note_schema_change(&self) {
        self.schema_changes.fetch_add(1, Relaxed);
    }

    /// Differs from what it was when sessions have heard of a change.
    pub(super) fn schema_changes(&self) -> u64 {
        self.schema_changes.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_seen_from_then_on() {
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
