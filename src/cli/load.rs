//! `wharf load`: sends requests to URLs, shows figures during the run, and reports the outcomes at the end.

mod comparison;
mod live;

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::config::{Config, Listen, parse_time};
use crate::database::Database;
use crate::sizing::load::{
    self, Arrivals, HdrLog, Interval, Objective, Pace, Plan, Rate, Report, Stages, Target, Template,
};
use crate::telemetry::stderr;
use anyhow::Context as _;
use clap::ArgGroup;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::endpoint_flags::{self, EndpointFlags};
use super::{Common, DATABASE_HELP, FAILED, USAGE, print};
use comparison::Base;
use live::Live;

/// The exit code of a process that ended by SIGINT, as a shell reports it.
const INTERRUPTED: i32 = 130;

const EXAMPLES: &str = "\
With --rate or --stages the loop is open: each request goes out when it is due, and its latency \
counts from then, also when the server stalls. With --connections it is closed: each client waits \
for its answer before its next request, which finds the capacity of a server, but hides its stalls.

Exit codes: 0 done; 1 an objective was missed; 2 wrong arguments, or the schedule was not held: \
more than 1 % of the requests were sent late or not at all.

  wharf load --rate 2000/s --slo 'p99<50ms' --slo 'errors<0.1%' http://127.0.0.1:8080/flights/1
  wharf load --stages 30s:0..2000,2m:2000 --poisson http://127.0.0.1:8080/flights/1
  wharf load --connections 64 http://127.0.0.1:8080/flights/1
  wharf load --rate 2000/s --config wharf.toml";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("pace").required(true))]
pub(crate) struct Arguments {
    /// URLs to request, in turn: http://HOST:PORT/PATH
    #[arg(required_unless_present = "config", conflicts_with = "config", value_name = "URL")]
    urls: Vec<String>,
    /// Send requests to the endpoints of this configuration, with parameters drawn as its endpoint.NAME.load says
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the configuration's server [default: its server.listen]
    #[arg(long, value_name = "ADDRESS:PORT", requires = "config")]
    at: Option<SocketAddr>,
    #[arg(long, value_name = "URL", requires = "config", help = DATABASE_HELP)]
    database: Option<String>,
    #[command(flatten)]
    endpoints: EndpointFlags,
    /// Open loop at one rate: 2000/s, 120/m
    #[arg(long, group = "pace")]
    rate: Option<Rate>,
    /// Open loop at rates that change, such as 30s:0..2000,2m:2000
    #[arg(long, group = "pace", conflicts_with = "duration")]
    stages: Option<Stages>,
    /// Closed loop with this many clients
    #[arg(long, group = "pace", value_name = "N", value_parser = count())]
    connections: Option<u64>,
    /// Time for which requests are sent
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    duration: Duration,
    /// Poisson arrivals, independent of each other like those of many users, instead of even ones
    #[arg(long, conflicts_with = "connections")]
    poisson: bool,
    /// Seed of all random choices; the same seed repeats a run [default: a random one]
    #[arg(long)]
    seed: Option<u64>,
    /// Time that a request waits for its answer
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    timeout: Duration,
    /// Most connections at once, in an open loop [default: 10000, or fewer if ulimit -n allows fewer]
    #[arg(long, value_name = "N", conflicts_with = "connections", value_parser = count())]
    max_connections: Option<u64>,
    /// A request that is sent later than this after it was due counts as late
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = time)]
    late_after: Duration,
    /// Threads that send requests [default: 2 for 32 clients or more and two processors, 1 otherwise and in an open
    /// loop]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: Option<u64>,
    /// Method of the requests
    #[arg(short = 'X', long, default_value = "GET", value_parser = method, conflicts_with = "config")]
    method: Method,
    /// Header for each request, as "Name: value"; may be repeated
    #[arg(short = 'H', long, value_name = "HEADER", value_parser = load::parse_header, conflicts_with = "config")]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Body of the requests; @FILE is the content of a file
    #[arg(long, conflicts_with = "config")]
    body: Option<String>,
    /// Objective of the run: p99<50ms, mean<5ms, max<1s, errors<0.1%, rate>1900/s; may be repeated
    #[arg(long, value_name = "OBJECTIVE")]
    slo: Vec<Objective>,
    /// Write the report as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Compare with an earlier run of the same pace, from its --json file; a worse run has exit code 1
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Change that does not matter in --compare
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = percent, requires = "compare")]
    tolerance: f64,
    #[arg(long, value_name = "FILE", help = "Write latencies, second by second, as an HdrHistogram log")]
    hdr: Option<PathBuf>,
    /// Write the report as one HTML page with charts, which needs no other file and no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// The number of clients or connections. The limit is the number of ports to one server.
fn count() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=1_000_000)
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    let day = Duration::from_secs(24 * 3600);
    let time = parse_time(text).filter(|time| (Duration::from_millis(1)..=day).contains(time));
    time.ok_or_else(|| format!("{text:?} is not a time such as 500ms, 30s or 5m, from 1ms to 24h"))
}

/// A percentage as a part: 0.05 for `5%`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
    let percent = number.filter(|percent: &f64| *percent > 0.0 && *percent < 100.0);
    percent.map(|percent| percent / 100.0).ok_or_else(|| format!("{text:?} is not a tolerance such as 5%"))
}

fn method(text: &str) -> Result<Method, String> {
    let method = Method::from_bytes(text.as_bytes()).ok().filter(|method| *method != Method::CONNECT);
    method.ok_or_else(|| format!("{text:?} is not a method such as GET or POST"))
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let plan = arguments.plan()?;
    // The files are created before the run, because a run whose results cannot be written would be wasted.
    let mut json = arguments.json.as_deref().map(Output::create).transpose()?;
    let mut html = arguments.html.as_deref().map(create).transpose()?;
    let hdr = arguments.hdr.as_deref().map(create).transpose()?;
    let mut hdr = hdr.map(HdrLog::begin).transpose().context("--hdr")?;
    let base = arguments.compare.as_deref().map(|path| Base::read(path, &plan)).transpose()?;
    let mut live = Live::new(&plan.pace, io::stderr().is_terminal());
    let mut unwritten = None;
    let observe = |interval: &Interval<'_>| {
        // The run goes on even when nobody can see its progress.
        let _ = io::stderr().write_all(live.show(interval).as_bytes());
        if let Some(Err(error)) = hdr.as_mut().map(|log| log.add(interval)) {
            unwritten.get_or_insert(error);
        }
    };
    let stop = stopped_by_signals()?;
    let mut report = load::run(&plan, &stop, observe)?;
    let met = arguments.slo.iter().map(|objective| report.judge(objective));
    // All objectives are judged, even after a missed one.
    let missed = met.filter(|met| !met).count();
    if let Some(file) = &mut html {
        file.write_all(report.page().as_bytes()).context("--html cannot be written")?;
    }
    show(&report, json.as_mut())?;
    let mut worse = false;
    if let Some(base) = base {
        let comparisons = base.compare_with(&report, arguments.tolerance)?;
        print_text(&comparisons.to_string(), json.as_ref())?;
        worse = comparisons.is_worse();
    }
    if let Some(error) = unwritten {
        return Err(error).context("--hdr");
    }
    Ok(match (&report.not_held, missed == 0 && !worse) {
        (Some(_), _) => ExitCode::from(USAGE),
        (None, true) => ExitCode::SUCCESS,
        (None, false) => ExitCode::from(FAILED),
    })
}

/// The first listener that a load can be sent to: a TCP address with plain HTTP and without the PROXY protocol.
fn address_for_load(config: &Config) -> anyhow::Result<SocketAddr> {
    let mut reason = None;
    for listener in config.listeners() {
        let address = listener.address;
        let lacks = match address {
            _ if listener.tls => format!("{address} speaks TLS, which is not supported"),
            _ if listener.proxy_protocol => {
                format!("{address} expects the PROXY protocol, which is not supported")
            }
            Listen::Tcp(address) if address.port() > 0 => return Ok(address),
            other => format!("the server listens on {other}"),
        };
        reason.get_or_insert(lacks);
    }
    let reason = reason.unwrap_or_default();
    anyhow::bail!("{reason}: --at ADDRESS:PORT says where the server takes plain HTTP")
}

impl Arguments {
    fn plan(&self) -> anyhow::Result<Plan> {
        // A short seed, which a person can type again.
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
        let pace = self.pace(seed);
        Ok(Plan {
            targets: self.targets(seed)?,
            threads: self.threads.map_or(pace.threads(), whole),
            pace,
            timeout: self.timeout,
            max_connections: self.max_connections.map(whole),
            late_after: self.late_after,
        })
    }

    fn targets(&self, seed: u64) -> anyhow::Result<Vec<Target>> {
        if let Some(file) = &self.config {
            return self.configured(file, seed);
        }
        anyhow::ensure!(
            !self.endpoints.is_given(),
            "--endpoint and --allow-writes need --config, because they select its endpoints"
        );
        let mut headers = HeaderMap::new();
        for (name, value) in &self.header {
            // A header that is given twice is sent twice.
            headers.append(name, value.clone());
        }
        let template = Template {
            method: self.method.clone(),
            headers,
            body: self.body.as_deref().map(body).transpose()?.unwrap_or_default(),
        };
        let targets = self.urls.iter().map(|url| Target::from_url(url, &template));
        Ok(targets.collect::<Result<_, _>>()?)
    }

    /// Targets for the endpoints of a configuration whose server already runs.
    fn configured(&self, file: &Path, seed: u64) -> anyhow::Result<Vec<Target>> {
        let common = Common { config: Some(file.to_owned()), listen: None, database: self.database.clone() };
        let (source, config) = endpoint_flags::sound(common.load()?)?;
        let is_encrypted = config.listeners().iter().all(|listener| listener.tls);
        anyhow::ensure!(!is_encrypted, "the server speaks TLS, which is not supported");
        let address = match self.at {
            Some(address) => address,
            None => address_for_load(&config)?,
        };
        // Samples are read one after another, so one session is enough.
        let mut settings = config.database.clone();
        (settings.maximum_pool_size, settings.minimum_idle) = (1, Some(1));
        let samples = config.endpoints.iter().any(|endpoint| endpoint.traffic.sample.is_some());
        let url = config.database.url.as_deref().filter(|_| samples);
        let database = url.map(|url| Database::open(&settings, url)).transpose()?;
        let traffic = self.endpoints.traffic(&config, database.as_ref(), address, seed);
        Ok(traffic.map_err(|error| endpoint_flags::explained(error, &source))?.targets)
    }

    fn pace(&self, seed: u64) -> Pace {
        let arrivals = if self.poisson { Arrivals::Poisson { seed } } else { Arrivals::Constant };
        match (&self.stages, self.rate, self.connections) {
            (Some(stages), _, _) => Pace::Open { stages: stages.clone(), arrivals },
            (None, Some(rate), _) => Pace::Open { stages: Stages::constant(rate, self.duration), arrivals },
            (None, None, connections) => {
                Pace::Closed { connections: whole(connections.unwrap_or(1)), duration: self.duration }
            }
        }
    }
}

fn whole(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// The text itself, or the content of the file for `@FILE`.
fn body(text: &str) -> anyhow::Result<Vec<u8>> {
    match text.strip_prefix('@') {
        Some(file) => std::fs::read(file).with_context(|| format!("--body {text}: cannot be read")),
        None => Ok(text.as_bytes().to_vec()),
    }
}

/// The first signal ends the run with its report. The second signal ends the process.
pub(super) fn stopped_by_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::<AtomicBool>::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

pub(super) enum Output {
    Stdout,
    File(File),
}

impl Output {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") { Ok(Self::Stdout) } else { create(path).map(Self::File) }
    }

    /// Writes the text and a line break.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                writeln!(out, "{text}")?;
                out.flush()
            }
            Self::File(file) => writeln!(file, "{text}"),
        }
    }
}

pub(super) fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("{} cannot be written", path.display()))
}

/// Prints to standard output, or to standard error when the JSON goes to standard output.
pub(super) fn print_text(text: &str, json: Option<&Output>) -> anyhow::Result<()> {
    if let Some(Output::Stdout) = json {
        stderr::write(text.as_bytes());
        Ok(())
    } else {
        print(text)
    }
}

fn show(report: &Report, json: Option<&mut Output>) -> anyhow::Result<()> {
    // A file is written even where the text cannot be.
    let printed = print_text(&report.to_string(), json.as_deref());
    let Some(output) = json else { return printed };
    output.write(&serde_json::to_string_pretty(report)?).context("--json cannot be written")?;
    printed
}
