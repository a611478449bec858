//! What Linux counts, out of `/proc`.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

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
