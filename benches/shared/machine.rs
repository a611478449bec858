//! Linux's counters, read from `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};

/// Today, as `2026-01-31`.
pub(crate) fn date() -> String {
    let now = Timestamp::now().to_string();
    now.split('T').next().unwrap_or_default().to_owned()
}

/// Its cores, and what they are.
pub(crate) fn name() -> String {
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{} cores ({})", num_cpus::get(), model.map_or("unknown", |(_, model)| model))
}

/// A process's resident memory in bytes.
pub(crate) fn resident(process: u32) -> io::Result<u64> {
    Ok(status(process, "VmRSS:")? * 1024)
}

/// The most that it ever had.
pub(crate) fn peak_resident(process: u32) -> io::Result<u64> {
    Ok(status(process, "VmHWM:")? * 1024)
}

/// A process's threads.
pub(crate) fn threads(process: u32) -> io::Result<u64> {
    status(process, "Threads:")
}

/// A process's open descriptors: each connection that it holds is one.
pub(crate) fn descriptors(process: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/fd"))?.count())
}

fn status(process: u32, key: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
    let number = value.and_then(|value| value.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("/proc/PID/status has no {key}")))
}

/// The processor time that a process has used, in user mode and in the kernel.
pub(crate) fn processor_time(process: &str) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // proc_pid_stat(5): fields 14 and 15; the second is the name, which ends with the last parenthesis.
    let (_, after) = stat.rsplit_once(')').context("stat has a name")?;
    ticks(after.split_whitespace().skip(11).take(2))
}

/// The processor time that all processes and the kernel have used, and what the hypervisor gave to others.
pub(crate) fn busy_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    // proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
    let times = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    ticks(times.enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, time)| time))
}

fn ticks<'a>(numbers: impl Iterator<Item = &'a str>) -> anyhow::Result<Duration> {
    let ticks = numbers.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_micros(ticks * 1_000_000 / rustix::param::clock_ticks_per_second()))
}

/// The bytes that wait in the buffers of all TCP sockets of this machine.
pub(crate) fn socket_memory() -> anyhow::Result<u64> {
    let sockets = fs::read_to_string("/proc/net/sockstat")?;
    let line = sockets.lines().find_map(|line| line.strip_prefix("TCP:"));
    let pages = line.and_then(|line| line.split_whitespace().skip_while(|word| *word != "mem").nth(1));
    let pages: u64 = pages.context("sockstat has TCP's mem")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// Asks a process to end.
pub(crate) fn terminate(process: u32) -> io::Result<()> {
    signal(process, Signal::TERM)
}

/// Sends a signal to a process.
pub(crate) fn signal(process: u32, signal: Signal) -> io::Result<()> {
    let id = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(id, signal)?)
}
