//! How the system shares its cores out between a poller and the workers.

use rustix::process::getpriority_process;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// The niceness that a process has unless somebody gave it another, in the words of `thread_priority`.
const NICE_0: u8 = 48;

/// From now on this thread does not interrupt another to run. Linux calls it `SCHED_BATCH` (sched(7)).
///
/// A poller sleeps until something comes, so it would always go before a worker, whose job it then stops for each request that
/// comes. Where all cores are at work it reads several requests at a time instead, once a worker waits for its database, and where
/// one is idle it runs at once, as before.
pub(super) fn wait_for_turn() {
    // To set it anew would undo another niceness.
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
        log::debug!("a poller goes before the workers: it cannot be scheduled as a batch: {error}");
    }
}
