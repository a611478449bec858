//! `wharf reload`: checks the configuration, tells the running server to read it again, and waits for its word on it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Source;
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::check::{self, Checked};
use super::pid_file::{self, Said, Server};
use super::{Common, FAILED, USAGE};

/// How long the server may take: it gives its database some seconds, and may be at another reload.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at what it says.
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
        eprintln!("{problems}\nnothing was reloaded");
        return Ok(ExitCode::from(USAGE));
    }
    if let Err(reason) = statements {
        eprintln!("the SQL cannot be checked: {reason}\nnothing was reloaded");
        return Ok(ExitCode::from(USAGE));
    }
    match (arguments.pid, &config.server.pid_file) {
        (Some(process), _) => {
            hang_up(process)?;
            println!("process {process} was told; its log says what became of it");
            Ok(ExitCode::SUCCESS)
        }
        (None, Some(path)) => ask(path, &source),
        (None, None) => anyhow::bail!("server.pid_file is not set; say which process serves with --pid"),
    }
}

/// SIGHUP.
fn hang_up(process: i32) -> anyhow::Result<()> {
    let id = Pid::from_raw(process).context("no process has the id 0")?;
    kill_process(id, Signal::HUP).with_context(|| format!("process {process} cannot be told"))
}

/// Tells the server of this file and prints its word.
fn ask(pid_file: &Path, source: &Source) -> anyhow::Result<ExitCode> {
    let server = Server::find(pid_file)?;
    let reads = server.said().map(|said| said.configuration).unwrap_or_default();
    let checked = whole_name(source);
    anyhow::ensure!(
        is_same(&reads, &checked),
        "the server reads {reads}, and what was checked is {checked}; nothing was reloaded"
    );
    let began = pid_file::now();
    hang_up(server.process)?;
    let Some(said) = word_since(&server, began) else {
        eprintln!("wharf: the server says nothing; its log may say more");
        return Ok(ExitCode::from(FAILED));
    };
    if said.good {
        println!("{}", said.text);
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("nothing has changed: {}", said.text);
    Ok(ExitCode::from(FAILED))
}

/// What the server says of a reload that began later than this. `None`: nothing in time, or it has ended.
fn word_since(server: &Server, began: u128) -> Option<Said> {
    let until = Instant::now() + PATIENCE;
    loop {
        // Before what it says is looked at: it may say so and end.
        let runs = server.runs();
        if let Some(said) = server.said().filter(|said| said.began >= began) {
            return Some(said);
        }
        if !runs || Instant::now() >= until {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// The configuration's name, which is the same from every directory. Links are left as they are: what they lead to may be
/// another file at each reload.
pub(super) fn whole_name(source: &Source) -> String {
    let whole = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    source.path.as_ref().map_or_else(|| source.name(), |path| whole(path).display().to_string())
}

/// Whether two names are one file's, now.
fn is_same(one: &str, other: &str) -> bool {
    let file = |name: &str| Path::new(name).canonicalize().ok();
    one == other || file(one).is_some_and(|found| file(other) == Some(found))
}
