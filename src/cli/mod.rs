//! The command line, with one file for each subcommand. Main thread.
//!
//! Exit codes: 0 done, 1 a check or an objective failed, 2 usage or configuration.

mod check;
mod client;
mod completions;
#[doc(hidden)]
pub mod demo;
mod endpoint_flags;
mod health;
mod load;
pub(crate) mod log_level;
mod man;
mod pid_file;
mod reload;
mod serve;
mod sparkline;
mod top;
mod tune;
mod version;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Config, Environment, Flags, Problems, Source};
use crate::telemetry::stderr;
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

/// A check or an objective failed.
pub(crate) const FAILED: u8 = 1;
/// The arguments or the configuration are wrong, or something that they need is missing.
pub(crate) const USAGE: u8 = 2;

const CONFIG_HELP: &str = "\
Configuration file [env: WHARF_CONFIG] [default: wharf.toml, config/wharf.toml, or else the built-in demo]";

const LISTEN_HELP: &str = "\
Where to listen, as server.listen: ADDRESS:PORT, unix:PATH or systemd; not beside [[listen]] [env: WHARF_LISTEN]";

const DATABASE_HELP: &str = "Database to use, as database.url [env: WHARF_DATABASE]";

const VARIABLES: &str = "\
Every key of the file has a variable, WHARF_SECTION_KEY: WHARF_SERVER_WORKERS=8, WHARF_QUEUE_MAX_LENGTH=100.
Flags override variables, which override the file. WHARF_LOG is the log's level in place of log.level: error, warn, info,
debug, trace, also for a module, as in info,wharf::database=debug. Other crates log warnings, and more if they
are named. The database driver never logs more, since that would show values.";

/// Runs the command in the process's arguments.
#[doc(hidden)]
pub fn main() -> ExitCode {
    log_level::start_log();
    let _flush = FlushOnDrop;
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // The help is such an error too.
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            let Err(unprinted) = error.print() else { return ExitCode::from(code) };
            complain(&format!("wharf: {STANDARD_OUTPUT}: {unprinted}"));
            return ExitCode::from(USAGE);
        }
    };
    match arguments.run() {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("wharf: {}", with_causes(&error)));
            ExitCode::from(USAGE)
        }
    }
}

/// Waits for the last lines at the end of the process, also where a panic ends it.
struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        stderr::flush();
    }
}

/// A line on standard error, in its order among the lines of the log. `eprintln!` would panic where nothing can be written.
fn complain(text: &str) {
    stderr::write(format!("{text}\n").as_bytes());
}

/// An error with its causes, without repetition. Many errors, ours and the drivers', already contain the text of their
/// cause.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Thread-per-request HTTP server for services that live on a database.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the endpoints of a configuration file
    Serve(Common),
    /// Check a configuration file, and its SQL against the database
    Check(Common),
    /// Check the configuration file, and have the running server read it again
    Reload(reload::Arguments),
    /// Send requests at a rate, and report their outcomes
    Load(Box<load::Arguments>),
    /// Find the sizes of pool, workers and queue on the configuration's database, and prove them
    Tune(tune::Arguments),
    /// Create the demo tables in a database and fill them
    Demo(demo::Arguments),
    /// Show the figures of a running server, second by second, in a terminal
    Top(top::Arguments),
    /// Check whether a running server answers; exits 0 if so
    Health(health::Arguments),
    /// Print version, commit, features and the version of SQLite
    Version,
    /// Print the script that lets a shell complete arguments
    Completions(completions::Arguments),
    /// Write the manual's pages into a directory
    Man(man::Arguments),
}

/// The arguments that `serve` and `check` share. Flags override environment variables, which override the file.
#[derive(Args)]
#[command(after_help = VARIABLES)]
pub(crate) struct Common {
    #[arg(long, value_name = "FILE", help = CONFIG_HELP)]
    config: Option<PathBuf>,
    #[arg(long, value_name = "ADDR", help = LISTEN_HELP)]
    listen: Option<String>,
    #[arg(long, value_name = "URL", help = DATABASE_HELP)]
    database: Option<String>,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Serve(common) => serve::run(common),
            Command::Check(common) => check::run(&common),
            Command::Reload(arguments) => reload::run(&arguments),
            Command::Load(arguments) => load::run(&arguments),
            Command::Tune(arguments) => tune::run(&arguments),
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Top(arguments) => top::run(arguments),
            Command::Health(arguments) => health::run(&arguments),
            Command::Version => version::run(),
            Command::Completions(arguments) => completions::run(&arguments),
            Command::Man(arguments) => man::run(&arguments),
        }
    }
}

/// A configuration that was read, and its text.
struct Loaded {
    source: Source,
    /// The configuration. It must not be served when there are problems.
    config: Config,
    /// All problems of the configuration.
    problems: Problems,
}

impl Common {
    fn load(&self) -> anyhow::Result<Loaded> {
        let environment = environment();
        let source = Config::locate(self.config.as_deref(), &environment)?;
        Ok(self.examine(source, &environment))
    }

    /// Reads the same file again, even where another file would now be found first.
    fn load_again(&self, before: &Source) -> anyhow::Result<Loaded> {
        let environment = environment();
        let source = match &before.path {
            Some(path) => Config::locate(Some(path), &environment)?,
            None => before.clone(),
        };
        Ok(self.examine(source, &environment))
    }

    fn examine(&self, source: Source, environment: &Environment) -> Loaded {
        let flags = Flags { listen: self.listen.clone(), database: self.database.clone() };
        let (config, problems) = Config::examine(source.clone(), environment, &flags);
        Loaded { source, config, problems }
    }
}

const STANDARD_OUTPUT: &str = "standard output cannot be written";

/// On standard output, or why it cannot be written there: `print!` would panic at the end of a pipe.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context(STANDARD_OUTPUT)
}

fn environment() -> Environment {
    // A variable that is not text is skipped: the names and values of wharf's variables are text.
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).collect()
}
