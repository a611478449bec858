//! The system's figures of this process, under the names of Prometheus's own libraries.
//!
//! The thread that asks for metrics. The figures come from `/proc`. Systems without it have fewer figures.

use std::time::Duration;

use crate::base::system;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The process at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    /// Processor time of all its threads, including those that have ended.
    pub(super) processor: Duration,
    /// In bytes.
    pub(super) resident: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_files: Option<u64>,
    /// `None`: without limit.
    pub(super) max_files: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let status = system::process_status().unwrap_or_default();
        Self {
            processor: clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default(),
            resident: number(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024),
            threads: number(&status, "Threads:"),
            // The descriptor that reads the directory is not counted.
            open_files: system::open_descriptors(),
            max_files: getrlimit(Resource::Nofile).current,
        }
    }
}

/// The number after a name at the beginning of a line.
fn number(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_process_reports_its_resources() {
        let file = fs::File::open("/proc/self/status").expect("Linux");
        let process = Process::read();
        assert!(process.processor > Duration::ZERO);
        assert!(process.resident.is_some_and(|bytes| bytes > 1 << 20), "{process:?}");
        assert!(
            process.threads.is_some_and(|threads| threads >= 2),
            "the test's and the harness's: {process:?}"
        );
        assert!(process.open_files.is_some_and(|open| open >= 4), "streams and a file: {process:?}");
        drop(file);
    }
}
