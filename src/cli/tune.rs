//! `wharf tune`: finds sizes on the user's own database, proves them, and writes them into the file.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::config::{Database as Settings, Source};
use crate::database::Database;
use crate::sizing::load::Objective;
use crate::sizing::tune::{
    self, Allowance, Bound, ChangedLine, Edited, Error, Options, Progress, Report, Stage, Value, edit,
};
use anyhow::Context as _;
use log::LevelFilter;

use super::endpoint_flags::{self, EndpointFlags};
use super::load::{Output, create, print_text, stopped_by_signals, time};
use super::{Common, FAILED, demo, log_level};

const EXAMPLES: &str = "\
Starts the server in this process on the file's database, sends requests as endpoint.NAME.load says, and measures pool sizes,
then workers, then the queue. The recommended sizes have been run at up to ten times their capacity.

Ctrl-C or SIGTERM ends the run with what it has found until then; a second one ends it at once.

Exit codes: 0 the recommendation stands; 1 there is none; 2 wrong arguments or configuration; 3 there is none because
throughput still grows at the largest size that was tried; 130 the run was stopped.

  wharf tune --target 'p99<50ms' --write";

/// The default limit of sessions for a database that has no limit of its own.
const LARGEST: usize = 32;

const MAX_POOL_SAYS: &str = "as --max-pool says";

/// Throughput still grows at the largest size that was tried, so that no size can be recommended.
const STILL_GROWING: u8 = 3;

/// The run was stopped by a signal, as shells have it for SIGINT.
const STOPPED: u8 = 130;

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    endpoints: EndpointFlags,
    /// Objective for each size: p99<50ms, errors<0.1%; may be repeated
    #[arg(long, value_name = "OBJECTIVE")]
    target: Vec<Objective>,
    /// Instances of this service that share the database's limit of sessions
    #[arg(long, value_name = "N", default_value = "1")]
    instances: NonZeroUsize,
    /// Most sessions to try [default: as many as the database allows; 32 with SQLite]
    #[arg(long, value_name = "N")]
    max_pool: Option<NonZeroUsize>,
    /// Time for the whole run
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    time: Duration,
    /// Seed of the order of measurements and of the drawn requests [default: a random one]
    #[arg(long)]
    seed: Option<u64>,
    /// Write the recommended values into the file; its comments and order stay
    #[arg(long)]
    write: bool,
    /// Write the whole result as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the whole result as one HTML page with charts, which needs no other file and no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (source, config) = endpoint_flags::sound(arguments.common.load()?)?;
    let file = arguments.file(&source)?;
    let url = config.database.url.as_deref();
    let url = url.context("there is nothing to tune: the configuration has no database.url")?;
    // A server that refuses thousands of requests a second would log each refusal.
    log_level::set(config.log.level.min(LevelFilter::Error));
    demo::fill_if_missing(&config)?;
    let (largest, bound, because) = arguments.largest(&config.database, url)?;
    let mut json = arguments.json.as_deref().map(Output::create).transpose()?;
    let mut html = arguments.html.as_deref().map(create).transpose()?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let options =
        Options { largest, bound, objectives: arguments.target.clone(), time: arguments.time, seed };
    let stop = stopped_by_signals()?;
    let began = Instant::now();
    let mut show = ProgressLines { terminal: std::io::stderr().is_terminal() };
    let tuned = tune::tune(
        &config,
        &options,
        |address, database| arguments.endpoints.traffic(&config, database, address, seed),
        &stop,
        &mut |progress| show.progress(progress),
    );
    show.end();
    let tuned = tuned.map_err(|error| match error {
        Error::Traffic(error) => endpoint_flags::explained(error, &source),
        error => error.into(),
    })?;
    let report = Report::new(&tuned, &config, &options, because, began.elapsed());
    if let Some(json) = &mut json {
        json.write(&serde_json::to_string_pretty(&report)?).context("--json cannot be written")?;
    }
    if let Some(file) = &mut html {
        file.write_all(report.page().as_bytes()).context("--html cannot be written")?;
    }
    if !report.stands {
        print_text(&report.to_string(), json.as_ref())?;
        return match tuned.cut_short {
            Some(Error::Stopped) => Ok(ExitCode::from(STOPPED)),
            Some(error) => Err(error.into()),
            None if report.still_growing => Ok(ExitCode::from(STILL_GROWING)),
            None => Ok(ExitCode::from(FAILED)),
        };
    }
    let edited = edited(&source, &report)?;
    let printed = print_text(&format!("{report}{}", ChangedLines(&edited)), json.as_ref());
    if let Some(file) = file {
        write(&file, &source.text, &edited)?;
        warn_of_variables(&report);
    }
    printed.map(|()| ExitCode::SUCCESS)
}

impl Arguments {
    /// The file to write to, with `--write`.
    fn file(&self, source: &Source) -> anyhow::Result<Option<PathBuf>> {
        match (&source.path, self.write) {
            (_, false) => Ok(None),
            (Some(path), true) => Ok(Some(path.clone())),
            (None, true) => {
                anyhow::bail!("--write: the built-in configuration is not a file; expected --config FILE")
            }
        }
    }

    /// The most sessions to try, what this limit comes from, and why.
    fn largest(&self, settings: &Settings, url: &str) -> anyhow::Result<(usize, Bound, String)> {
        let mut settings = settings.clone();
        (settings.maximum_pool_size, settings.minimum_idle) = (1, Some(1));
        let database = Database::open(&settings, url)?;
        let allowed = Allowance::read(&database, self.instances)?;
        let Some(allowed) = allowed else {
            return Ok(match self.max_pool {
                Some(most) => (most.get(), Bound::Firm, MAX_POOL_SAYS.to_owned()),
                None => (LARGEST, Bound::Default, "--max-pool tries more".to_owned()),
            });
        };
        anyhow::ensure!(allowed.connections > 0, "the database has no session left: {}", allowed.because);
        match self.max_pool {
            Some(most) if most.get() > allowed.connections => anyhow::bail!(
                "--max-pool {most}: the database allows {}: {}",
                allowed.connections,
                allowed.because
            ),
            Some(most) => Ok((most.get(), Bound::Firm, MAX_POOL_SAYS.to_owned())),
            None => Ok((allowed.connections.min(tune::THREADS_MAX), Bound::Firm, allowed.because)),
        }
    }
}

/// The file's text with the recommended values.
fn edited(source: &Source, report: &Report) -> anyhow::Result<Edited> {
    let differing = report.recommended.iter().filter(|setting| setting.differs);
    let values: Vec<(&str, Value)> = differing.map(|setting| (setting.key, setting.value.clone())).collect();
    edit(&source.text, &values).context("the recommended values cannot be written into the file")
}

/// The lines of the file that change.
struct ChangedLines<'e>(&'e Edited);

impl fmt::Display for ChangedLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.changes.is_empty() {
            writeln!(f, "the configuration has these values already")?;
        }
        for ChangedLine { line, before, after, .. } in &self.0.changes {
            if let Some(before) = before {
                writeln!(f, "{line:>5} - {before}")?;
            }
            writeln!(f, "{line:>5} + {after}")?;
        }
        Ok(())
    }
}

/// Warns of variables that override a recommended value in the file.
fn warn_of_variables(report: &Report) {
    for setting in &report.recommended {
        let variable = format!("WHARF_{}", setting.key.replace('.', "_")).to_uppercase();
        if std::env::var_os(&variable).is_some() {
            super::complain(&format!(
                "the variable {variable} is set and decides in place of {}",
                setting.key
            ));
        }
    }
}

/// Writes the edited text into the file. `before`: the text that was read at the start of the run.
fn write(file: &Path, before: &str, edited: &Edited) -> anyhow::Result<()> {
    if edited.changes.is_empty() {
        return Ok(());
    }
    let shown = file.display();
    // A symbolic link stays, and its target is written.
    let target = fs::canonicalize(file).with_context(|| format!("cannot write {shown}"))?;
    let now = fs::read_to_string(&target).with_context(|| format!("cannot read {shown} again"))?;
    anyhow::ensure!(now == before, "{shown} was changed during the run, so nothing is written into it");
    if let Err(error) = replace(&target, &edited.text) {
        log::debug!("{shown} is written in place, because it cannot be replaced: {error}");
        fs::write(&target, &edited.text).with_context(|| format!("cannot write {shown}"))?;
    }
    super::complain(&format!("written into {shown}; `wharf reload` applies it to a running server"));
    Ok(())
}

/// Replaces the file in one step: a concurrent reader sees the old or the new text. The new file has the mode and the
/// owner of the old one.
///
/// # Errors
/// The new file cannot be made beside the old one, cannot have its owner, or cannot take its place, as where the file is
/// a mount of its own. A file with several names is not replaced either, since the others would keep the old text.
fn replace(target: &Path, text: &str) -> io::Result<()> {
    let metadata = fs::metadata(target)?;
    if metadata.nlink() > 1 {
        return Err(io::Error::other("it has several names"));
    }
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = target.with_file_name(name);
    // Nobody else may read it before it has its mode: the text may hold a password.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = (|| {
        file.write_all(text.as_bytes())?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
            fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        // After the owner, because a change of owner clears some bits of the mode.
        file.set_permissions(metadata.permissions())?;
        file.sync_all()?;
        fs::rename(&new, target)
    })();
    // Without its rename, the new file is of no use.
    written.inspect_err(|_: &io::Error| drop(fs::remove_file(&new)))
}

/// The progress, line by line. On a terminal each line replaces the last.
struct ProgressLines {
    terminal: bool,
}

impl ProgressLines {
    fn progress(&mut self, progress: &Progress) {
        let line = match progress {
            Progress::Measured { stage, measurement, left } => {
                let what = match stage {
                    Stage::Pool => "sessions",
                    Stage::Workers => "workers",
                };
                format!(
                    "{:>5} {what:<12} {:>10.0}/s   p99 {:>9.3} ms   at most {} s left for {what}",
                    measurement.size,
                    measurement.throughput,
                    measurement.p99.as_secs_f64() * 1e3,
                    left.as_secs()
                )
            }
            Progress::Proved(level) => format!(
                "{:>5} % load       {:>10.0}/s   p99 {:>9.3} ms   refused {:.0}/s",
                level.percent,
                level.good,
                level.p99.as_secs_f64() * 1e3,
                level.refused
            ),
        };
        // The run goes on even when nobody can see its progress.
        let mut stderr = std::io::stderr();
        let _ = if self.terminal { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
    }

    fn end(&self) {
        if self.terminal {
            let _ = writeln!(std::io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    const BEFORE: &str = "[database]\nmaximum_pool_size = 3 # a guess\n";
    const AFTER: &str = "[database]\nmaximum_pool_size = 6 # a guess\n";

    fn six() -> Edited {
        edit(BEFORE, &[("database.maximum_pool_size", Value::Count(6))]).expect("it is TOML")
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("real.toml");
        fs::write(&file, BEFORE).expect("the file is written");
        (directory, file)
    }

    #[test]
    fn a_symbolic_link_stays_and_its_target_keeps_mode_and_owner() {
        let (directory, file) = file();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("it is ours");
        // Only root can give a file away. For others the owner is the same before and after.
        let _ = chown(&file, Some(4711), Some(4712));
        let before = fs::metadata(&file).expect("it is there");
        let link = directory.path().join("wharf.toml");
        symlink("real.toml", &link).expect("a link");
        write(&link, BEFORE, &six()).expect("it is written");
        assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
        assert_eq!(fs::read_to_string(&file).expect("it is there"), AFTER);
        let after = fs::metadata(&file).expect("it is there");
        assert_eq!(after.permissions().mode() & 0o7777, 0o640);
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 2, "no other file is left");
    }

    #[test]
    fn a_file_with_two_names_has_the_new_text_under_both() {
        let (directory, file) = file();
        let other = directory.path().join("other.toml");
        fs::hard_link(&file, &other).expect("a second name");
        write(&file, BEFORE, &six()).expect("it is written");
        assert_eq!([file, other].map(|name| fs::read_to_string(name).expect("it is there")), [AFTER; 2]);
    }

    #[test]
    fn a_file_that_was_changed_during_the_run_stays() {
        let (_directory, file) = file();
        fs::write(&file, "[database]\nmaximum_pool_size = 4\n").expect("the file is written");
        let error = write(&file, BEFORE, &six()).expect_err("it was changed");
        assert!(error.to_string().contains("was changed during the run"), "{error}");
        assert!(fs::read_to_string(&file).expect("it is there").ends_with("= 4\n"));
    }
}
