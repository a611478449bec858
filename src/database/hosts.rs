//! The hosts of a URL: their order, their shares of the time, and the addresses behind their names.
//!
//! Owns [`Hosts`]. Runs on the thread that opens a session. Nothing here waits past the deadline. Only a name look-up that the
//! system does not end occupies its own thread for longer.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::base::deadline::Deadline;

/// For this long, a host that did not answer is tried after all others. pgjdbc's `hostRecheckSeconds`.
const RECHECK: Duration = Duration::from_secs(10);

/// The hosts of a URL that earlier openings found silent.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    /// When the host with this index was last found silent, or was last tried again after that.
    silent: Mutex<BTreeMap<usize, Instant>>,
}

impl Hosts {
    /// Puts the hosts that were found silent a short time ago behind the others.
    pub(super) fn sort(&self, order: &mut [usize]) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        order.sort_by_key(|index| {
            silent.get(index).is_some_and(|since| now.saturating_duration_since(*since) < RECHECK)
        });
        // While this thread tries the first host again, other threads do not wait for it as well.
        if let Some(since) = order.first().and_then(|first| silent.get_mut(first)) {
            *since = now;
        }
    }

    pub(super) fn note_silent(&self, index: usize) {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).insert(index, Instant::now());
    }

    pub(super) fn note_answer(&self, index: usize) {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).remove(&index);
    }
}

/// An equal part of the time that is left, if `count` remain that need a part.
pub(super) fn share(deadline: Deadline, count: usize) -> Deadline {
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    if count == 1 { deadline } else { deadline.within(deadline.left() / count) }
}

/// Why a name was not looked up.
#[derive(Debug)]
pub(super) enum LookUp {
    /// There was no time left.
    TimeUp,
    /// The system has refused.
    Failed(io::Error),
}

/// Looks up a name on a thread of its own, because the system's look-up knows no deadline.
pub(super) fn look_up(name: String, port: u16, deadline: Deadline) -> Result<Vec<SocketAddr>, LookUp> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let look_up = move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // The receiver may have given up waiting.
        drop(sender.send(found));
    };
    thread::Builder::new().name("look-up".into()).spawn(look_up).map_err(LookUp::Failed)?;
    receiver.recv_deadline(deadline.instant()).map_err(|_| LookUp::TimeUp)?.map_err(LookUp::Failed)
}

/// Whether a server that could not be reached may be reached a moment later.
pub(super) fn may_pass(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NotFound
            | ErrorKind::TimedOut
            | ErrorKind::UnexpectedEof
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(hosts: &Hosts) -> Vec<usize> {
        let mut order = vec![0, 1, 2];
        hosts.sort(&mut order);
        order
    }

    #[test]
    fn a_silent_host_is_last_until_one_session_tries_it_again() {
        let hosts = Hosts::default();
        assert_eq!(order(&hosts), [0, 1, 2]);
        hosts.note_silent(0);
        assert_eq!(order(&hosts), [1, 2, 0]);
        hosts.note_silent(1);
        assert_eq!(order(&hosts), [2, 0, 1]);
        let long_ago = Instant::now().checked_sub(RECHECK).expect("the machine runs for longer");
        hosts.silent.lock().unwrap().insert(0, long_ago);
        assert_eq!(order(&hosts), [0, 2, 1], "one tries it again");
        assert_eq!(order(&hosts), [2, 0, 1], "the others do not wait for that");
        hosts.note_answer(0);
        assert_eq!(order(&hosts), [0, 2, 1]);
    }

    #[test]
    fn the_time_is_shared_equally_and_the_last_has_the_rest() {
        let deadline = Deadline::after(Duration::from_secs(30));
        assert_eq!(share(deadline, 1), deadline);
        let third = share(deadline, 3).left();
        assert!(third <= Duration::from_secs(10) && third > Duration::from_secs(9), "{third:?}");
        assert_eq!(share(deadline, 0), deadline);
    }
}
