//! `wharf load`: sends requests to URLs, shows figures during the run, and reports the outcomes at the end.

mod comparison;
mod live;
mod signals;

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{ClientAuth, Config, Listen, Listener, parse_time};
use crate::database::Database;
use crate::sizing::load::{
    self, Arrivals, ClientIdentity, HdrLog, Interval, Objective, Origin, Pace, Plan, Rate, Report,
    ServerTrust, Stages, Target, Template, Trust,
};
use crate::telemetry::stderr;
use anyhow::Context as _;
use clap::ArgGroup;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::client::reachable;
use super::endpoint_flags::{self, EndpointFlags};
use super::{Common, DATABASE_HELP, FAILED, USAGE, print};
use comparison::Base;
use live::Live;
use signals::RunStop;

/// The exit code of a stopped run. A shell reports the same of a process that ended by SIGINT.
const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
With --rate or --stages the loop is open: each request goes out when it is due, and its latency \
counts from then, also when the server stalls. With --connections it is closed: each client waits \
for its answer before its next request, which finds the capacity of a server, but hides its stalls.

After the last request, the run waits for the answers that are under way, each for --timeout at most. They count, but in no rate. \
Ctrl-C (or SIGTERM) ends the sending, and a second one the waiting. Both give the report of what was measured.

Exit codes: 0 done; 1 an objective was missed; 2 wrong arguments, or the schedule was not held: \
more than 1 % of the requests were sent late or not at all; 130 the run was stopped.

  wharf load --rate 2000/s --slo 'p99<50ms' --slo 'errors<0.1%' http://127.0.0.1:8080/flights/1
  wharf load --stages 30s:0..2000,2m:2000 --poisson http://127.0.0.1:8080/flights/1
  wharf load --connections 64 http://127.0.0.1:8080/flights/1
  wharf load --rate 2000/s --ca root.crt https://localhost:8443/flights/1
  wharf load --rate 2000/s --unix-socket /run/wharf.sock http://localhost/flights/1
  wharf load --rate 2000/s --config wharf.toml";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("pace").required(true))]
pub(crate) struct Arguments {
    /// URLs to request, in turn: http://HOST:PORT/PATH or https://HOST:PORT/PATH
    #[arg(required_unless_present = "config", conflicts_with = "config", value_name = "URL")]
    urls: Vec<String>,
    /// Send requests to the endpoints of this configuration, with parameters drawn as its endpoint.NAME.load says
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the configuration's server is: ADDRESS:PORT or unix:PATH, with https:// before it when the server uses TLS [default:
    /// its first listener that can be asked, with plain HTTP if there is one]
    #[arg(long, value_name = "ADDR", value_parser = place, requires = "config")]
    at: Option<Place>,
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
    /// PEM file of the authorities that may have signed the server's certificate [default: the system's; with --config, the
    /// server must show the certificate in the configuration]
    #[arg(long, value_name = "FILE", alias = "cacert")]
    ca: Option<PathBuf>,
    /// Accept any certificate of the server
    #[arg(short = 'k', long, conflicts_with = "ca")]
    insecure: bool,
    /// PEM file of the certificate to show to a server that asks for one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// PEM file of the key to --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Connect to this Unix socket in place of the URLs' hosts
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    unix_socket: Option<PathBuf>,
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

/// A server's place, and whether it speaks TLS there.
#[derive(Clone, Debug)]
struct Place {
    listen: Listen,
    is_encrypted: bool,
}

fn place(text: &str) -> Result<Place, String> {
    let (address, is_encrypted) = match text.strip_prefix("https://") {
        Some(address) => (address, true),
        None => (text, false),
    };
    match address.parse() {
        Ok(listen @ (Listen::Tcp(_) | Listen::Unix(_))) => Ok(Place { listen, is_encrypted }),
        _ => Err(format!(
            "{text:?} is not a place such as 127.0.0.1:8080, unix:/run/wharf.sock or https://127.0.0.1:8443"
        )),
    }
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
    let live = Arc::new(Mutex::new(Live::new(&plan.pace, io::stderr().is_terminal())));
    let mut unwritten = None;
    let observe = |interval: &Interval<'_>| {
        let mut live = live.lock().unwrap_or_else(PoisonError::into_inner);
        // The run goes on even when nobody can see its progress.
        let _ = io::stderr().write_all(live.show(interval).as_bytes());
        drop(live);
        if let Some(Err(error)) = hdr.as_mut().map(|log| log.add(interval)) {
            unwritten.get_or_insert(error);
        }
    };
    let stop = RunStop::by_signals(plan.timeout, Arc::clone(&live))?;
    let mut report = load::run_until(&plan, stop.as_stop(), observe)?;
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
        _ if report.stopped => ExitCode::from(INTERRUPTED),
        (Some(_), _) => ExitCode::from(USAGE),
        (None, true) => ExitCode::SUCCESS,
        (None, false) => ExitCode::from(FAILED),
    })
}

/// The first listener that a load can be sent to, one with plain HTTP if there is any, and the file of the certificate that it
/// shows. The PROXY protocol is not supported.
fn listener_for_load(config: &Config, has_certificate: bool) -> anyhow::Result<(Place, Option<PathBuf>)> {
    let mut reason = None;
    let mut encrypted = None;
    for listener in &config.listeners() {
        let Listener { address, tls, proxy_protocol, .. } = listener;
        let lacks = match address {
            _ if *proxy_protocol => format!("{address} expects the PROXY protocol, which is not supported"),
            Listen::Tcp(tcp) if tcp.port() == 0 => format!("the server listens on {address}, any free port"),
            Listen::Inherited | Listen::Named(_) => format!("the server listens on {address}"),
            _ if *tls && !has_certificate && config.tls_of(listener).client_auth == ClientAuth::Required => {
                format!("{address} asks for a certificate of its clients, which --cert and --key give")
            }
            _ => {
                let place = Place { listen: address.clone(), is_encrypted: *tls };
                if !*tls {
                    return Ok((place, None));
                }
                encrypted.get_or_insert((place, config.tls_of(listener).certificate));
                continue;
            }
        };
        reason.get_or_insert(lacks);
    }
    let reason = reason.unwrap_or_default();
    encrypted.with_context(|| format!("{reason}: --at ADDR says where the server can be asked"))
}

/// The certificate that the configuration's server shows at this place, if the configuration tells.
fn certificate_at(config: &Config, place: &Place) -> Option<PathBuf> {
    let listeners = config.listeners();
    let encrypted = || listeners.iter().filter(|listener| listener.tls);
    // A server behind a forwarded port has another address, and then the first certificate.
    let listener = encrypted().find(|listener| listener.address == place.listen).or(encrypted().next())?;
    config.tls_of(listener).certificate
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
        let is_encrypted = self.urls.iter().any(|url| url.starts_with("https:"));
        let template = Template {
            method: self.method.clone(),
            headers,
            body: self.body.as_deref().map(body).transpose()?.unwrap_or_default(),
            trust: is_encrypted.then(|| self.trust(ServerTrust::System)).transpose()?,
            unix_socket: self.unix_socket.clone(),
        };
        let targets = self.urls.iter().map(|url| Target::from_url(url, &template));
        Ok(targets.collect::<Result<_, _>>()?)
    }

    /// The server at this place. With TLS it must show the certificate in this file, unless an argument says otherwise.
    fn origin(&self, place: Place, certificate: Option<&Path>) -> anyhow::Result<Origin> {
        let origin = match place.listen {
            Listen::Tcp(address) => Origin::from(reachable(address)),
            Listen::Unix(path) => Origin::unix(path),
            other => anyhow::bail!("the server listens on {other}: --at ADDR says where"),
        };
        if !place.is_encrypted {
            return Ok(origin);
        }
        let trust = self.trust(certificate.map_or(ServerTrust::System, ServerTrust::Exactly))?;
        origin.with_tls(&trust).context("the address cannot be the name in a certificate")
    }

    /// The certificates that servers may show: by the arguments, or else these.
    fn trust(&self, or_else: ServerTrust<'_>) -> anyhow::Result<Trust> {
        let server = match &self.ca {
            Some(file) => ServerTrust::Authority(file),
            None if self.insecure => ServerTrust::Anything,
            None => or_else,
        };
        let client = self.cert.as_deref().zip(self.key.as_deref());
        let client = client.map(|(certificate, key)| ClientIdentity { certificate, key });
        Ok(Trust::new(server, client)?)
    }

    /// Targets for the endpoints of a configuration whose server already runs.
    fn configured(&self, file: &Path, seed: u64) -> anyhow::Result<Vec<Target>> {
        let common = Common { config: Some(file.to_owned()), listen: None, database: self.database.clone() };
        let (source, config) = endpoint_flags::sound(common.load()?)?;
        let (place, certificate) = match &self.at {
            Some(place) => (place.clone(), certificate_at(&config, place)),
            None => listener_for_load(&config, self.cert.is_some())?,
        };
        let origin = self.origin(place, certificate.as_deref())?;
        // Samples are read one after another, so one session is enough.
        let mut settings = config.database.clone();
        (settings.maximum_pool_size, settings.minimum_idle) = (1, Some(1));
        let samples = config.endpoints.iter().any(|endpoint| endpoint.traffic.sample.is_some());
        let url = config.database.url.as_deref().filter(|_| samples);
        let database = url.map(|url| Database::open(&settings, url)).transpose()?;
        let traffic = self.endpoints.traffic(&config, database.as_ref(), origin, seed);
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

/// The first signal ends the run with its report. The second signal ends the process. For `wharf tune`.
pub(super) fn stopped_by_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::<AtomicBool>::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED.into(), Arc::clone(&stop))?;
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
