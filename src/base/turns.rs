//! How the system shares its cores out between pollers, workers and who works for them: a database on the same machine.
//!
//! On the thread that it is about.

use rustix::process::getpriority_process;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// The niceness that a process has unless somebody gave it another, in the words of `thread_priority`.
const NICE_0: u8 = 48;

/// From now on this thread does not interrupt another to run. Linux calls it `SCHED_BATCH` (sched(7)).
///
/// Who sleeps until something comes goes first when it does, and stops whoever has the core: a poller a worker for each request, a
/// worker the database for each of several answers that it is about to give. Where all cores are at work a poller now reads several
/// requests at a time instead, once a worker waits, and a worker several answers, once its database does; where one is idle both run
/// at once, as before.
pub(crate) fn wait_for_turn() {
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
        log::debug!("a thread goes before others: it cannot be scheduled as a batch: {error}");
    }
}
