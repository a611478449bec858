//! The number of connections for which the process has file descriptors. Called at the start, on the thread that calls
//! `run`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{DEFAULT_MAX_CONNECTIONS, Error};

/// Descriptors for other uses: standard streams, epoll, the timer, written files, and the rest of the process.
const OTHERS: usize = 32;

/// Returns the wanted number of connections, or without one the default or as many as possible. Raises the process's
/// limit as far as allowed.
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
