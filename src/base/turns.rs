//! How the system shares its cores between pollers, workers and a database on the same machine.
//!
//! Runs on the thread whose scheduling it changes.

use rustix::process::getpriority_process;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// The default niceness of a process, on the scale of `thread_priority`.
const NICE_0: u8 = 48;

/// From now on this thread does not preempt another thread when it wakes. Linux calls it `SCHED_BATCH` (sched(7)).
///
/// Otherwise a waking thread preempts the running one: a poller stops a worker for each request, and a worker stops the
/// database for each of several answers. With this policy, busy cores batch work: a poller reads several requests
/// before a worker runs, and a worker reads several answers of the database. If a core is idle, both run at once, as
/// before.
pub(crate) fn wait_for_turn() {
    // Setting the priority again would undo another niceness.
    if getpriority_process(None) != Ok(0) {
        return;
    }
    let nice_0 = ThreadPriorityValue::try_from(NICE_0).map(ThreadPriority::Crossplatform);
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    let set = nice_0.and_then(|nice_0| {
        set_thread_priority_and_policy(thread_native_id(), nice_0, policy)
            .map_err(|error| format!("{error:?}"))
    });
    if let Err(error) = set {
        log::debug!("a thread goes before others: it cannot be scheduled as a batch: {error}");
    }
}
