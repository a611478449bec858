//! `wharf reload`: checks the configuration, signals the running server to read it again, and waits for the outcome.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Source;
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::check::{self, Checked};
use super::pid_file::{self, ReloadRecord, RunningServer};
use super::{Common, FAILED, USAGE, complain, print};

/// The time limit for the server. It gives its database some seconds, and may be busy with another reload.
const PATIENCE: Duration = Duration::from_secs(30);

/// The interval between two checks for the outcome.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[arg(long, help = "The server's process id, where it has no server.pid_file", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Checked { source, config, problems, statements } = check::check(arguments.common.load()?);
    if let Some(problems) = problems {
        complain(&format!("{problems}\nnothing was reloaded"));
        return Ok(ExitCode::from(USAGE));
    }
    if let Err(reason) = statements {
        complain(&format!("the SQL cannot be checked: {reason}\nnothing was reloaded"));
        return Ok(ExitCode::from(USAGE));
    }
    match (arguments.pid, &config.server.pid_file) {
        (Some(process), _) => {
            hang_up(process)?;
            print(&format!("process {process} was signalled; its log has the outcome\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        (None, Some(path)) => signal_and_wait(path, &source),
        (None, None) => anyhow::bail!("server.pid_file is not set; say which process serves with --pid"),
    }
}

/// Sends SIGHUP.
fn hang_up(process: i32) -> anyhow::Result<()> {
    let id = Pid::from_raw(process).context("no process has the id 0")?;
    kill_process(id, Signal::HUP).with_context(|| format!("process {process} cannot be signalled"))
}

/// Signals the server of this file, and prints the outcome.
fn signal_and_wait(pid_file: &Path, source: &Source) -> anyhow::Result<ExitCode> {
    let server = RunningServer::find(pid_file)?;
    let reads = server.last_record().map(|record| record.configuration).unwrap_or_default();
    let checked = whole_name(source);
    anyhow::ensure!(
        is_same(&reads, &checked),
        "the server reads {reads}, but the checked file is {checked}; nothing was reloaded"
    );
    let began = pid_file::now();
    hang_up(server.process)?;
    let Some(record) = record_since(&server, began) else {
        complain("wharf: the server has reported no outcome; its log may say more");
        return Ok(ExitCode::from(FAILED));
    };
    if record.good {
        print(&format!("{}\n", record.text))?;
        return Ok(ExitCode::SUCCESS);
    }
    complain(&format!("nothing has changed: {}", record.text));
    Ok(ExitCode::from(FAILED))
}

/// The outcome of a reload that began at this time or later. `None`: no outcome in time, or the server has ended.
fn record_since(server: &RunningServer, began: u128) -> Option<ReloadRecord> {
    let until = Instant::now() + PATIENCE;
    loop {
        // This check comes first, because the server may write the outcome and then end.
        let runs = server.runs();
        if let Some(record) = server.last_record().filter(|record| record.began >= began) {
            return Some(record);
        }
        if !runs || Instant::now() >= until {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// The absolute name of the configuration, the same from every directory. Links are not resolved, because they may lead
/// to another file at each reload.
pub(super) fn whole_name(source: &Source) -> String {
    let whole = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    source.path.as_ref().map_or_else(|| source.name(), |path| whole(path).display().to_string())
}

/// Whether two names lead to the same file now.
fn is_same(one: &str, other: &str) -> bool {
    let file = |name: &str| Path::new(name).canonicalize().ok();
    one == other || file(one).is_some_and(|found| file(other) == Some(found))
}
