//! How many connections the process has file descriptors for. The thread that calls `run`, at the begin.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{DEFAULT_MAX_CONNECTIONS, Error};

/// What is no connection: standard streams, epoll, the timer, the files that are written, and what the rest of the process has.
const OTHERS: usize = 32;

/// As many as are wanted, or else the default or what can be had. Raises the process's own limit as far as it may.
pub(super) fn for_connections(wanted: Option<usize>) -> Result<usize, Error> {
    let limit = raised_limit();
    let most = limit.saturating_sub(OTHERS).max(1);
    match wanted {
        Some(wanted) if wanted > most => Err(Error::Descriptors { limit, wanted, most }),
        Some(wanted) => Ok(wanted),
        None => Ok(DEFAULT_MAX_CONNECTIONS.min(most)),
    }
}

fn raised_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
