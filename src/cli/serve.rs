//! `wharf serve`: checks the configuration, fills a missing demo database, starts, and prints what is served. SIGHUP
//! makes it read the configuration again, and other signals make it drain.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::value::{Scalar, Type, Value};
use crate::config::{Action, ClientAuth, Config, Endpoint, Listener, LogFormat, Place, Problems, Source};
use crate::connector::{Address, Drained};
use crate::endpoint;
use crate::server::{self, NewConfig, Reload, ReloadError, Reloaded, Running, Server, log_reload, signals};
use crate::telemetry::stderr::{self, WHOLE_IN_A_PIPE};
use anyhow::Context as _;
use http::Method;
use log::LevelFilter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::pid_file::{self, PidFile, ReloadLog};
use super::reload::whole_name;
use super::{Common, FAILED, STANDARD_OUTPUT, USAGE, complain, demo, log_level};

/// How long a start waits for a reader of standard output that stands still.
const SUMMARY: Duration = Duration::from_secs(1);

pub(super) fn run(common: Common) -> anyhow::Result<ExitCode> {
    server::catch_signals().context("signals cannot be caught")?;
    // From now on a reader of standard error that stands still holds nothing up.
    stderr::start_writer().context("the log's thread cannot be started")?;
    let loaded = common.load()?;
    if !loaded.problems.list().is_empty() {
        complain(&loaded.problems.to_string());
        return Ok(ExitCode::from(USAGE));
    }
    let config = loaded.config;
    log_level::set(config.log.level);
    log_level::set_format(config.log.format);
    // The file is claimed before anything else is touched, and removed at the end.
    let pid_file = config.server.pid_file.as_deref().map(PidFile::claim).transpose()?.map(Arc::new);
    if let Some(file) = pid_file.as_ref().map(Arc::downgrade) {
        signals::at_early_end(move || file.upgrade().iter().for_each(|file| file.remove()));
    }
    let filled = demo::fill_if_missing(&config)?;
    let (name, endpoints) = (loaded.source.name(), config.endpoints.clone());
    let summary = StartSummary::new(&config, name, filled);
    let (level, format) = (config.log.level, config.log.format);
    let server = Server::new(config)?;
    let check = |database| endpoint::check(&loaded.source, &endpoints, database);
    let found = server.database().map_or_else(Vec::new, check);
    if !found.is_empty() {
        complain(&Problems::new(loaded.source, found).to_string());
        return Ok(ExitCode::from(USAGE));
    }
    let reload_log = pid_file.as_ref().map(|file| file.reload_log(whole_name(&loaded.source)));
    let rereading =
        Rereading { common, source: loaded.source, reload_log: reload_log.clone(), level, format, began: 0 };
    let started = |running: &Running| {
        if let (Some(file), Some(reload_log)) = (&pid_file, &reload_log) {
            // The record of reloads must exist before the file that leads to it.
            write_outcome(reload_log, 0, true, "started");
            file.write().unwrap_or_else(|error| log::error!("server.pid_file cannot be written: {error}"));
        }
        print_summary(&summary.text(running, &endpoints));
    };
    match server.on_reload(rereading).on_log_level(log_level::change).run_and_tell(started)? {
        Drained::Complete => Ok(ExitCode::SUCCESS),
        Drained::CutOff(clients) => {
            log::error!("{clients} clients were cut off before their answer");
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// Prints the summary. A standard output that is closed, full or not read does not stop a server that serves.
fn print_summary(text: &str) {
    if let Err(error) = print_in_time(text, Instant::now() + SUMMARY) {
        log::warn!("the server serves, but its summary cannot be printed: {error:#}");
    }
}

/// Prints in parts that a pipe takes without waiting, each when there is room for it.
fn print_in_time(text: &str, until: Instant) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for part in text.as_bytes().chunks(WHOLE_IN_A_PIPE) {
        loop {
            let left = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
            match poll(&mut [PollFd::new(&out, PollFlags::OUT)], Some(&left)) {
                Ok(0) => anyhow::bail!("standard output is not read"),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context(STANDARD_OUTPUT),
            }
        }
        out.write_all(part).and_then(|()| out.flush()).context(STANDARD_OUTPUT)?;
    }
    Ok(())
}

fn write_outcome(reload_log: &ReloadLog, began: u128, good: bool, text: &str) {
    if let Err(error) = reload_log.write(began, good, text) {
        log::error!("the outcome of a reload cannot be written beside server.pid_file: {error}");
    }
}

/// The source of the configuration for SIGHUP: the same file, flags and variables as at the start.
struct Rereading {
    common: Common,
    source: Source,
    reload_log: Option<ReloadLog>,
    /// The log level in the configuration that was read last.
    level: LevelFilter,
    /// The same.
    format: LogFormat,
    /// The time at which that read began.
    began: u128,
}

impl Reload for Rereading {
    fn read(&mut self) -> Result<NewConfig, String> {
        self.began = pid_file::now();
        let loaded = self.common.load_again(&self.source).map_err(|error| format!("{error:#}"))?;
        if !loaded.problems.list().is_empty() {
            return Err(loaded.problems.to_string());
        }
        (self.level, self.format) = (loaded.config.log.level, loaded.config.log.format);
        Ok(NewConfig::read_from(loaded.source, loaded.config))
    }

    fn report(&mut self, outcome: &Result<Reloaded, ReloadError>) {
        let mut text = outcome.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        if let Ok(reloaded) = outcome {
            // The change itself is logged at the more verbose of both levels.
            log_level::set(self.level.max(log::max_level()));
            let changed = reloaded.changes.keys.iter().any(|change| change.key == "log.level");
            if changed && log_level::is_set_by_variable() {
                text.push_str(HELD);
                log::warn!("reload: {}", HELD.trim_start());
            }
        }
        if outcome.is_ok() {
            log_level::set_format(self.format);
        }
        log_reload(outcome);
        if outcome.is_ok() {
            log_level::set(self.level);
        }
        if let Some(reload_log) = &self.reload_log {
            write_outcome(reload_log, self.began, outcome.is_ok(), &text);
        }
    }
}

const HELD: &str = "\nlog.level: the variable WHARF_LOG is set and decides in its place";

/// The lines that a new server prints about itself.
struct StartSummary {
    configuration: String,
    database: String,
    sizes: String,
    limits: String,
    /// The number of the listener in the requests to try.
    tried: usize,
}

impl StartSummary {
    fn new(config: &Config, configuration: String, filled: bool) -> Self {
        let database = match &config.database.url {
            Some(url) => {
                let note = if filled { " (created and filled with the demo data)" } else { "" };
                format!("{}{note}", crate::database::display_url(url))
            }
            None => "none".to_owned(),
        };
        let is_open = |listener: &Listener| {
            let asks = listener.tls && config.tls_of(listener).client_auth == ClientAuth::Required;
            !listener.proxy_protocol && !asks
        };
        let tried = config.listeners().iter().position(is_open).unwrap_or(0);
        Self { configuration, database, sizes: config.sizes(), limits: config.limits(), tried }
    }

    fn text(&self, running: &Running, endpoints: &[Endpoint]) -> String {
        let listeners = running.listeners();
        // There is always one. One that needs neither a proxy's header nor a certificate answers whoever tries.
        let shown = &listeners[self.tried.min(listeners.len() - 1)];
        let scheme = if shown.is_encrypted() { "https" } else { "http" };
        // curl takes a Unix socket as an option. Its URL still needs a host.
        let (base, curl) = match shown.address() {
            Address::Tcp(_) => (shown.to_string(), "curl".to_owned()),
            Address::Unix(path) => {
                let path = path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
                (format!("{scheme}://localhost"), format!("curl --unix-socket {}", shell_word(&path)))
            }
        };
        let places: Vec<_> = listeners.iter().map(ToString::to_string).collect();
        let mut lines = vec![
            format!("wharf {}", env!("CARGO_PKG_VERSION")),
            format!("  configuration  {}", self.configuration),
            format!("  database       {}", self.database),
            format!("  sizes          {}", self.sizes),
            format!("  limits         {}", self.limits),
            format!("  endpoints      {}", endpoints.len()),
        ];
        for example in endpoints.iter().filter_map(example).take(3) {
            lines.push(format!("  try            {curl} {}", shell_word(&format!("{base}{example}"))));
        }
        lines.push(match running.admin_address() {
            Some(address) => format!("  admin          http://{address}/"),
            None => "  admin          off".to_owned(),
        });
        // This line comes last: a program that waits for it has then read all others.
        lines.push(format!("listening on {}\n", places.join(", ")));
        lines.join("\n")
    }
}

/// A request target to try: of an endpoint that reads, and that needs only numbers in its path.
fn example(endpoint: &Endpoint) -> Option<String> {
    let Action::Sql { params, .. } = &endpoint.action else { return None };
    let mut target = endpoint.path.clone();
    for param in params.iter().filter(|param| param.default.is_none()) {
        let number = match (&param.checks.min, param.kind) {
            (Some(Value::Int(min)), Type::One(Scalar::Int)) => *min,
            (None, Type::One(Scalar::Int)) => 1,
            _ => return None,
        };
        if param.place != Place::Path {
            return None;
        }
        target = target.replace(&format!("{{{}}}", param.wire_name), &number.to_string());
    }
    (endpoint.method == Method::GET).then_some(target)
}

/// The text, quoted when a shell would see more than a word.
fn shell_word(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || ":/.-_=".contains(c));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
