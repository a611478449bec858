//! The system is Linux.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, ReadWriteFlags, preadv2, read, write};
use rustix::net::SendFlags;
use rustix::process::getpriority_process;
pub(crate) use rustix::thread::{Pid as ThreadId, gettid as this_thread};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use socket2::{SockFilter, Socket};
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use super::{CoreTicks, ThreadTimes};

/// The default niceness of a process, as `thread_priority` counts it.
const NICE_0: u8 = 48;

/// Sends without waiting. A closed connection is an error and no signal.
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Drops packets that ask for a connection (a SYN without ACK), and accepts all others. This is classic BPF, as the kernel's
/// `networking/filter.rst` describes it. A TCP socket's filter sees a packet from its TCP header on; byte 13 holds the flags.
const NO_NEWCOMERS: [SockFilter; 5] = {
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
};

/// Reads a part of a file, if the system has it in memory. Waits for no device. Returns the number of bytes, which is lower than asked
/// for where only the beginning is in memory. `None`: the system would have to wait, or cannot tell.
pub(crate) fn read_cached(file: &fs::File, bytes: &mut [u8], at: u64) -> io::Result<Option<usize>> {
    match preadv2(file, &mut [IoSliceMut::new(bytes)], at, ReadWriteFlags::NOWAIT) {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Wakes a poll when the next request of a load is due. epoll by itself counts in milliseconds.
pub(crate) struct Alarm {
    timer: OwnedFd,
    /// The time for which it is set, if it is.
    set_for: Option<Instant>,
}

impl Alarm {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, set_for: None })
    }

    /// Makes an event at that time, and none at a time that was set before. Setting the timer also makes it ready for its next
    /// event, so it is never read.
    pub(crate) fn set(&mut self, time: Instant, now: Instant) -> io::Result<()> {
        if self.set_for == Some(time) {
            return Ok(());
        }
        // Zero would switch it off.
        let left = time.saturating_duration_since(now).max(Duration::from_nanos(1));
        let seconds = left.as_secs().try_into().unwrap_or(i64::MAX);
        let left = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: left };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.set_for = Some(time);
        Ok(())
    }
}

/// From now on this thread preempts no other thread when it wakes up (`SCHED_BATCH`, sched(7)).
///
/// Linux lets a thread that often sleeps preempt the running one. So a poller would stop a worker at each request, and a worker
/// its database at each answer. With this policy, on busy cores, a poller reads several requests at a time, and a worker several
/// answers. On an idle core a thread still runs at once.
pub(crate) fn wait_for_turn() {
    // Setting the policy would also set the niceness, so a process that was given another one is left alone.
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
        log::debug!("cannot set SCHED_BATCH, so this thread preempts others at each wake-up: {error}");
    }
}

/// Makes the kernel drop attempts to connect, so that a listener can be closed with an empty backlog. The client's system tries
/// again after a second, and then finds another listener of the port, or none.
pub(crate) fn refuse_newcomers(listener: &Socket) -> io::Result<()> {
    listener.attach_filter(&NO_NEWCOMERS)
}

/// Whether a socket listens.
pub(crate) fn is_listener(socket: &Socket) -> io::Result<bool> {
    socket.is_listener()
}

/// Limits the bytes that the kernel holds for a slow client before it says that the socket is writable.
pub(crate) fn limit_unsent(socket: &Socket, bytes: u32) -> io::Result<()> {
    socket.set_tcp_notsent_lowat(bytes)
}

/// Limits how long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`).
pub(crate) fn set_user_timeout(socket: &Socket, timeout: Option<Duration>) -> io::Result<()> {
    socket.set_tcp_user_timeout(timeout)
}

/// Ends a thread's wait for another descriptor, if the thread waits for the bell's as well.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn ring(&self) {
        // It fails only if the bell has been rung already and very often.
        let _ = write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Takes back the ring, if there was one.
    pub(crate) fn silence(&self) {
        let _ = read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The monotonic clock, some milliseconds late, at the least cost.
pub(crate) fn coarse_monotonic() -> Duration {
    clock_gettime(ClockId::MonotonicCoarse).try_into().unwrap_or_default()
}

/// Seconds since 1970, some milliseconds late, at the least cost.
pub(crate) fn coarse_seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::RealtimeCoarse).tv_sec).unwrap_or_default()
}

/// The time of the cores that this process may use, and the part of it that they were idle, in ticks of 10 ms. Where a cgroup limits
/// the process to a part of the machine's cores, the rest of them says nothing.
pub(crate) fn core_ticks() -> Option<CoreTicks> {
    static QUOTA: OnceLock<Option<Quota>> = OnceLock::new();
    match QUOTA.get_or_init(Quota::of_this_process) {
        Some(quota) => quota.ticks(),
        None => machine_ticks(),
    }
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, and two that are parts of the first.
/// No figure ever decreases, except the time that waits for a disk.
fn machine_ticks() -> Option<CoreTicks> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks = stat.lines().next()?.split_whitespace().skip(1).take(8);
    let ticks: Vec<u128> = ticks.map(|ticks| ticks.parse().ok()).collect::<Option<_>>()?;
    Some(CoreTicks { all: ticks.iter().sum(), idle: ticks.get(3)? + ticks.get(4)? })
}

/// A limit on the processor time of a cgroup.
#[derive(Debug)]
struct Quota {
    /// The processor time that the group may use in each period, both in microseconds.
    time: u128,
    period: u128,
    /// The file with the time that the group has used, and whether that is one of version 2.
    used: PathBuf,
    is_unified: bool,
}

impl Quota {
    /// The smallest limit among the process's group and those above it.
    fn of_this_process() -> Option<Self> {
        let unified = groups("").into_iter().filter_map(|group| Self::unified(&group));
        // Version 1 counts the time in a controller of its own, in the group of the same name.
        let pairs = groups("cpu").into_iter().zip(groups("cpuacct"));
        let older = pairs.filter_map(|(group, account)| Self::older(&group, &account));
        unified
            .chain(older)
            .filter(|quota| quota.period > 0)
            .min_by_key(|quota| quota.time * 1000 / quota.period)
    }

    /// The limit of a group of version 2. `None`: it has none.
    fn unified(group: &Path) -> Option<Self> {
        let max = fs::read_to_string(group.join("cpu.max")).ok()?;
        let (time, period) = max.trim().split_once(' ')?;
        let used = group.join("cpu.stat");
        Some(Self { time: time.parse().ok()?, period: period.parse().ok()?, used, is_unified: true })
    }

    /// The same of version 1.
    fn older(group: &Path, account: &Path) -> Option<Self> {
        let read = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse().ok();
        let (time, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
        Some(Self { time, period, used: account.join("cpuacct.usage"), is_unified: false })
    }

    fn ticks(&self) -> Option<CoreTicks> {
        const TICK_US: u128 = 10_000;
        let text = fs::read_to_string(&self.used).ok()?;
        let used: u128 = if self.is_unified {
            text.lines().find_map(|line| line.strip_prefix("usage_usec "))?.parse().ok()?
        } else {
            text.trim().parse::<u128>().ok()? / 1000
        };
        let all = coarse_monotonic().as_micros() * self.time / self.period;
        // Both begin at different times, so only differences count. The offset keeps the second one positive.
        let idle = (all + (1 << 100)).saturating_sub(used);
        Some(CoreTicks { all: all / TICK_US, idle: idle / TICK_US })
    }
}

/// The directories of this process's cgroup and of those above it, for a controller of version 1; "": of version 2 (cgroups(7)).
fn groups(controller: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup").join(controller);
    // A line is NUMBER:CONTROLLERS:PATH. Version 2 has no controllers, and one line.
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let own = lines.filter(|(controllers, _)| controllers.split(',').any(|one| one == controller));
    let own = own.map(|(_, path)| root.join(path.trim_start_matches('/'))).next();
    let Some(own) = own else { return Vec::new() };
    own.ancestors().take_while(|group| group.starts_with(&root)).map(Path::to_owned).collect()
}

/// The times of a thread of this process (`schedstat`, Documentation/scheduler/sched-stats.rst).
pub(crate) fn thread_times(thread: ThreadId) -> Option<ThreadTimes> {
    let figures = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let mut figures = figures.split(' ').map(|figure| figure.parse().ok().map(Duration::from_nanos));
    Some(ThreadTimes { ran: figures.next()??, waited: figures.next()?? })
}

/// How many bytes of memory this process may use: the smallest limit of its cgroup and of those above it, or else the machine's
/// memory.
pub(crate) fn memory_max() -> Option<usize> {
    let number = |text: String| text.trim().parse::<usize>().ok();
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix(" kB")?.parse::<usize>().ok()?.checked_mul(1024)
    });
    let unified = groups("").into_iter().map(|group| group.join("memory.max"));
    let limits = unified.chain(groups("memory").into_iter().map(|group| group.join("memory.limit_in_bytes")));
    // A group without a limit has the text "max", or a number above the machine's memory.
    limits.filter_map(|file| fs::read_to_string(file).ok().and_then(number)).chain(total).min()
}

/// `/proc/self/status`.
pub(crate) fn process_status() -> Option<String> {
    fs::read_to_string("/proc/self/status").ok()
}

/// The number of descriptors that this process has open.
pub(crate) fn open_descriptors() -> Option<u64> {
    let listed = fs::read_dir("/proc/self/fd").ok()?.count();
    // The descriptor that reads the directory is closed again.
    u64::try_from(listed).ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_read_from_either_version_of_cgroups() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let group = directory.path();
        let write = |name: &str, text: &str| fs::write(group.join(name), text).expect("it is ours");
        assert!(Quota::unified(group).is_none() && Quota::older(group, group).is_none());
        write("cpu.max", "max 100000\n");
        write("cpu.cfs_quota_us", "-1\n");
        write("cpu.cfs_period_us", "100000\n");
        assert!(Quota::unified(group).is_none() && Quota::older(group, group).is_none(), "no limit");
        write("cpu.max", "50000 100000\n");
        write("cpu.cfs_quota_us", "50000\n");
        // Between the two looks the group uses a fifth of a second.
        for (quota, file, texts) in [
            (
                Quota::unified(group),
                "cpu.stat",
                ["usage_usec 1000000\nuser_usec 1\n", "usage_usec 1200000\n"],
            ),
            (Quota::older(group, group), "cpuacct.usage", ["1000000000\n", "1200000000\n"]),
        ] {
            let quota = quota.expect("there is a limit");
            assert_eq!((quota.time, quota.period), (50_000, 100_000));
            write(file, texts[0]);
            let before = quota.ticks().expect("the file is there");
            write(file, texts[1]);
            let after = quota.ticks().expect("the file is there");
            // All of the group's time was idle but these twenty ticks. Each figure is rounded down.
            let expected = before.idle + (after.all - before.all);
            assert!(expected.abs_diff(after.idle + 20) <= 2, "{before:?} {after:?}");
        }
    }

    #[test]
    fn the_memory_of_a_process_has_a_limit() {
        assert!(memory_max().expect("Linux says it") > 1 << 20);
    }
}
