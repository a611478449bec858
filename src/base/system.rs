//! Everything that one system has and another has not. Linux has all of it; elsewhere each part has a plain substitute.
//!
//! Both files have the same functions:
//!
//! | function | Linux | other Unix systems |
//! |---|---|---|
//! | [`Alarm`] | a timer in the poll, to the microsecond | a thread that writes to a pipe in the poll |
//! | [`Bell`] | an event's descriptor | a pair of sockets |
//! | [`wait_for_turn`] | `SCHED_BATCH` | nothing |
//! | [`refuse_newcomers`] | a filter on the listener | nothing: clients that connect during a drain are reset |
//! | [`coarse_monotonic`], [`coarse_seconds`] | the kernel's coarse clocks | the exact clocks |
//! | [`core_ticks`], [`thread_times`] | `/proc/stat`, `/proc/self/task` | none, so the pacer leaves all workers busy |
//! | [`memory_max`] | the smallest limit of the process's cgroups, or the machine's memory | not known |
//! | [`process_status`], [`open_descriptors`] | `/proc/self` | none: the metrics lack these figures |
//! | [`limit_unsent`], [`set_user_timeout`], [`is_listener`], [`SEND`] | socket options | the default, or the nearest option |

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
pub(crate) use self::linux::*;
#[cfg(not(target_os = "linux"))]
pub(crate) use self::other::*;

/// The time of all cores in ticks of the kernel, and the part of it that they were idle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreTicks {
    pub(crate) all: u128,
    pub(crate) idle: u128,
}

/// How long a thread ran, and how long it waited for a core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadTimes {
    pub(crate) ran: std::time::Duration,
    pub(crate) waited: std::time::Duration,
}
