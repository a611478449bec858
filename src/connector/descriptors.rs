//! How many connections the process has file descriptors for. Main thread, at the start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::native::REFUSED_AT_ONCE;
use crate::config::Config;

/// Descriptors for neither clients nor the database: standard streams, pollers, a listener, the log, the files of
/// answers, the admin listener and some of its clients.
const OTHERS: usize = 48;

/// The most descriptors of one database session: SQLite opens the file, its log and its shared memory.
const DATABASE_CONNECTION: usize = 3;

/// As many of `http.max_connections` as can be open at once. Raises the process's own limit as far as it may (its soft
/// limit to its hard one, as Go's runtime does), and warns if that is not enough.
pub(crate) fn fitting(config: &Config) -> usize {
    let wanted = config.http.max_connections;
    let pool = config.database.url.as_ref().map_or(0, |_| config.database.maximum_pool_size);
    // The first listener is among the others.
    let listeners = config.listeners().len().saturating_sub(1);
    let reserved = OTHERS + listeners + REFUSED_AT_ONCE + DATABASE_CONNECTION * pool;
    let Some(limit) = raised_limit() else { return wanted };
    // Of a tiny limit, clients get at least half, so that the server can serve at all.
    let fitting = limit.saturating_sub(reserved).max(limit / 2).max(1);
    if fitting < wanted {
        log::warn!(
            "the process may open {limit} files (ulimit -n), so that it takes {fitting} connections \
             instead of http.max_connections = {wanted}"
        );
    }
    wanted.min(fitting)
}

/// The limit of open files, raised as far as possible. `None`: there is no limit.
fn raised_limit() -> Option<usize> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current?;
    if maximum.is_none_or(|maximum| current < maximum) {
        let raised = Rlimit { current: maximum, maximum };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => return maximum.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            Err(error) => log::debug!("the limit of open files stays at {current}: {error}"),
        }
    }
    Some(usize::try_from(current).unwrap_or(usize::MAX))
}
