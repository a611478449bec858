//! `wharf tune`: finds sizes on the user's own database, proves them, and writes them into the file.

use std::fmt;
use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::config::{Database as Settings, Source};
use crate::database::Database;
use crate::sizing::load::Objective;
use crate::sizing::tune::{
    self, Allowance, ChangedLine, Edited, Error, Options, Progress, Report, Stage, Value, edit,
};
use anyhow::Context as _;
use log::LevelFilter;

use super::endpoint_flags::{self, EndpointFlags};
use super::load::{Output, create, print_text, stopped_by_signals, time};
use super::{Common, FAILED, demo, log_level};

const EXAMPLES: &str = "\
Starts the server in this process on the file's database, sends requests as endpoint.NAME.load says, and measures pool sizes,
then workers, then the queue. The recommended sizes have been run at up to ten times their capacity.

Exit codes: 0 the recommendation stands; 1 there is none; 2 wrong arguments or configuration.

  wharf tune --target 'p99<50ms' --write";

/// The default limit of sessions. With more, the database of a single machine gains nothing that a sweep would find
/// in its time.
const LARGEST: usize = 32;

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
    /// Most sessions to try [default: 32, or fewer if the database allows fewer]
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
    let (largest, because) = arguments.largest(&config.database, url)?;
    let mut json = arguments.json.as_deref().map(Output::create).transpose()?;
    let mut html = arguments.html.as_deref().map(create).transpose()?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let options = Options { largest, objectives: arguments.target.clone(), time: arguments.time, seed };
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
    let edited = edited(&source, &report)?;
    if let Some(json) = &mut json {
        json.write(&serde_json::to_string_pretty(&report)?).context("--json cannot be written")?;
    }
    if let Some(file) = &mut html {
        file.write_all(report.page().as_bytes()).context("--html cannot be written")?;
    }
    let found = format!("{report}{}", ChangedLines(&edited));
    let printed = print_text(&found, json.as_ref());
    if !report.stands {
        return printed.map(|()| ExitCode::from(FAILED));
    }
    if let Some(file) = file {
        write(&file, &edited)?;
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

    /// The most sessions to try, and the reason for this limit.
    fn largest(&self, settings: &Settings, url: &str) -> anyhow::Result<(usize, String)> {
        let mut settings = settings.clone();
        (settings.maximum_pool_size, settings.minimum_idle) = (1, Some(1));
        let database = Database::open(&settings, url)?;
        let allowed = Allowance::read(&database, self.instances)?;
        let (wanted, because) = match self.max_pool {
            Some(most) => (most.get(), "as --max-pool says".to_owned()),
            None => (LARGEST, "--max-pool tries more".to_owned()),
        };
        let Some(allowed) = allowed else { return Ok((wanted, because)) };
        anyhow::ensure!(allowed.connections > 0, "the database has no session left: {}", allowed.because);
        if let (Some(most), true) = (self.max_pool, wanted > allowed.connections) {
            anyhow::bail!(
                "--max-pool {most}: the database allows {}: {}",
                allowed.connections,
                allowed.because
            );
        }
        Ok(if wanted > allowed.connections {
            (allowed.connections, allowed.because)
        } else {
            (wanted, because)
        })
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

/// Replaces the file in one step: a concurrent reader sees the old or the new text.
fn write(file: &Path, edited: &Edited) -> anyhow::Result<()> {
    if edited.changes.is_empty() {
        return Ok(());
    }
    let new_file = file.with_extension("toml.new");
    fs::write(&new_file, &edited.text).with_context(|| format!("cannot write {}", new_file.display()))?;
    if let Ok(metadata) = fs::metadata(file) {
        fs::set_permissions(&new_file, metadata.permissions())?;
    }
    fs::rename(&new_file, file).with_context(|| format!("cannot write {}", file.display()))?;
    super::complain(&format!(
        "written into {}; `wharf reload` applies it to a running server",
        file.display()
    ));
    Ok(())
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
