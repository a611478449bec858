//! `wharf tune`: finds the sizes on the user's own database, proves them, and writes them into the file.

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
    self, Allowance, Change, Edited, Error, Progress, Report, Request, Stage, Value, edit,
};
use anyhow::Context as _;
use log::LevelFilter;

use super::asked::{self, Asked};
use super::load::{Output, create, stopped_by_signals, tell, time};
use super::{Common, FAILED, demo, log_level};

const EXAMPLES: &str = "\
Starts the server in this process on the file's database, asks its endpoints as endpoint.NAME.load says, and measures pool sizes,
then workers, then the queue. What it recommends has been run at up to ten times its capacity.

Exit codes: 0 the recommendation stands; 1 there is none; 2 wrong arguments or configuration.

  wharf tune --target 'p99<50ms' --write";

/// Past this many connections one machine's database gains nothing that a sweep would find in its time.
const LARGEST: usize = 32;

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    asked: Asked,
    /// What each size is held to: p99<50ms, errors<0.1%; may be repeated
    #[arg(long, value_name = "OBJECTIVE")]
    target: Vec<Objective>,
    /// Instances of this service that share the database's connections
    #[arg(long, value_name = "N", default_value = "1")]
    instances: NonZeroUsize,
    /// Try at most so many connections [default: 32, or fewer where the database allows fewer]
    #[arg(long, value_name = "N")]
    max_pool: Option<NonZeroUsize>,
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    time: Duration,
    /// Of the order of the measurements and of what is asked [default: a random one]
    #[arg(long)]
    seed: Option<u64>,
    /// Write the recommended values into the file, which keeps its comments and its order
    #[arg(long)]
    write: bool,
    /// Write all that was found as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write all that was found as one HTML page with charts, which needs no other file and no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (source, config) = asked::sound(arguments.common.load()?)?;
    let file = arguments.file(&source)?;
    let url = config.database.url.as_deref();
    let url = url.context("there is nothing to tune: the configuration has no database.url")?;
    // A server that refuses thousands of requests a second would log each.
    log_level::set(config.log.level.min(LevelFilter::Error));
    demo::fill_if_missing(&config)?;
    let (largest, because) = arguments.largest(&config.database, url)?;
    let mut json = arguments.json.as_deref().map(Output::create).transpose()?;
    let mut html = arguments.html.as_deref().map(create).transpose()?;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let request = Request { largest, objectives: arguments.target.clone(), time: arguments.time, seed };
    let stop = stopped_by_signals()?;
    let began = Instant::now();
    let mut show = Show { terminal: std::io::stderr().is_terminal() };
    let tuned = tune::tune(
        &config,
        &request,
        |address, database| arguments.asked.traffic(&config, database, address, seed),
        &stop,
        &mut |progress| show.progress(progress),
    );
    show.end();
    let tuned = tuned.map_err(|error| match error {
        Error::Traffic(error) => asked::explained(error, &source),
        error => error.into(),
    })?;
    let report = Report::new(&tuned, &config, &request, because, began.elapsed());
    let edited = edited(&source, &report)?;
    if let Some(json) = &mut json {
        json.write(&serde_json::to_string_pretty(&report)?).context("--json cannot be written")?;
    }
    if let Some(file) = &mut html {
        file.write_all(report.page().as_bytes()).context("--html cannot be written")?;
    }
    let found = format!("{report}{}", Lines(&edited));
    tell(&found, json.as_ref());
    if !report.stands {
        return Ok(ExitCode::from(FAILED));
    }
    if let Some(file) = file {
        write(&file, &edited)?;
        warn_of_variables(&report);
    }
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    /// The file to write to, if that is asked for.
    fn file(&self, source: &Source) -> anyhow::Result<Option<PathBuf>> {
        match (&source.path, self.write) {
            (_, false) => Ok(None),
            (Some(path), true) => Ok(Some(path.clone())),
            (None, true) => {
                anyhow::bail!("--write: the built-in configuration is no file; expected --config FILE")
            }
        }
    }

    /// The most connections to try, and why not more.
    fn largest(&self, settings: &Settings, url: &str) -> anyhow::Result<(usize, String)> {
        let mut settings = settings.clone();
        (settings.maximum_pool_size, settings.minimum_idle) = (1, Some(1));
        let database = Database::open(&settings, url)?;
        let allowed = Allowance::ask(&database, self.instances)?;
        let (wanted, because) = match self.max_pool {
            Some(most) => (most.get(), "as --max-pool says".to_owned()),
            None => (LARGEST, "--max-pool tries more".to_owned()),
        };
        let Some(allowed) = allowed else { return Ok((wanted, because)) };
        anyhow::ensure!(allowed.connections > 0, "the database has no connection left: {}", allowed.because);
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

/// The lines of the file that are to change.
struct Lines<'e>(&'e Edited);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.changes.is_empty() {
            writeln!(f, "the configuration has these values already")?;
        }
        for Change { line, before, after, .. } in &self.0.changes {
            if let Some(before) = before {
                writeln!(f, "{line:>5} - {before}")?;
            }
            writeln!(f, "{line:>5} + {after}")?;
        }
        Ok(())
    }
}

/// A variable decides in the file's place.
fn warn_of_variables(report: &Report) {
    for setting in &report.recommended {
        let variable = format!("WHARF_{}", setting.key.replace('.', "_")).to_uppercase();
        if std::env::var_os(&variable).is_some() {
            eprintln!("the variable {variable} is set and decides in place of {}", setting.key);
        }
    }
}

/// In place of the old one, at once: whoever reads it meanwhile reads one of both.
fn write(file: &Path, edited: &Edited) -> anyhow::Result<()> {
    if edited.changes.is_empty() {
        return Ok(());
    }
    let beside = file.with_extension("toml.new");
    fs::write(&beside, &edited.text).with_context(|| format!("cannot write {}", beside.display()))?;
    if let Ok(metadata) = fs::metadata(file) {
        fs::set_permissions(&beside, metadata.permissions())?;
    }
    fs::rename(&beside, file).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("written into {}; `wharf reload` has a running server take it", file.display());
    Ok(())
}

/// What is measured, line by line; on a terminal the last line says how long it still takes.
struct Show {
    terminal: bool,
}

impl Show {
    fn progress(&mut self, progress: &Progress) {
        let line = match progress {
            Progress::Measured { stage, measurement, left } => {
                let what = match stage {
                    Stage::Pool => "connections",
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
        // Whether anybody sees it or not, the run goes on.
        let mut stderr = std::io::stderr();
        let _ = if self.terminal { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
    }

    fn end(&self) {
        if self.terminal {
            let _ = writeln!(std::io::stderr());
        }
    }
}
