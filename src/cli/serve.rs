//! `wharf serve`: check, fill the demo database if there is none yet, start, say what is served, and drain on a signal.

use std::process::ExitCode;

use http::Method;
use wharf::config::{Action, Config, Endpoint, Place, Problems};
use wharf::connector::{Address, Drained};
use wharf::endpoint;
use wharf::server::{Running, Server};
use wharf::value::{Scalar, Type, Value};

use super::{Common, FAILED, USAGE, demo};

pub(super) fn run(common: Common) -> anyhow::Result<ExitCode> {
    let loaded = common.load()?;
    if !loaded.problems.list().is_empty() {
        eprintln!("{}", loaded.problems);
        return Ok(ExitCode::from(USAGE));
    }
    let config = loaded.config;
    let filled = demo::fill_if_missing(&config)?;
    let (name, endpoints) = (loaded.source.name(), config.endpoints.clone());
    let summary = Summary::new(&config, name, filled);
    let server = Server::new(config)?;
    let check = |database| endpoint::check(&loaded.source, &endpoints, database);
    let found = server.database().map_or_else(Vec::new, check);
    if !found.is_empty() {
        eprintln!("{}", Problems::new(loaded.source, found));
        return Ok(ExitCode::from(USAGE));
    }
    match server.run_and_tell(|running| summary.print(running, &endpoints))? {
        Drained::Complete => Ok(ExitCode::SUCCESS),
        Drained::CutOff(clients) => {
            log::error!("{clients} clients were cut off before their answer");
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// What a new server says of itself.
struct Summary {
    configuration: String,
    database: String,
    sizes: String,
}

impl Summary {
    fn new(config: &Config, configuration: String, filled: bool) -> Self {
        let database = match &config.database.url {
            Some(url) => {
                let note = if filled { " (created and filled with the demo data)" } else { "" };
                format!("{}{note}", wharf::database::display_url(url))
            }
            None => "none".to_owned(),
        };
        let pool = match config.database.url {
            Some(_) => format!("pool of {} connections", config.database.maximum_pool_size),
            None => "no pool".to_owned(),
        };
        let (queue, workers) = (&config.queue, config.workers());
        let sizes = format!(
            "{workers} workers, queue of {} for at most {:?}, {pool}",
            queue.max_length, queue.max_wait
        );
        Self { configuration, database, sizes }
    }

    fn print(&self, running: &Running, endpoints: &[Endpoint]) {
        let scheme = if running.is_encrypted() { "https" } else { "http" };
        // curl takes a Unix socket as an option, and its URL needs some host.
        let (base, curl) = match running.listening_on() {
            Address::Tcp(address) => (format!("{scheme}://{address}"), "curl".to_owned()),
            Address::Unix(path) => {
                let path = path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
                (format!("{scheme}://localhost"), format!("curl --unix-socket {}", shell_word(&path)))
            }
        };
        let place = match running.listening_on() {
            Address::Tcp(_) => base.clone(),
            unix @ Address::Unix(_) => unix.to_string(),
        };
        println!("wharf {}", env!("CARGO_PKG_VERSION"));
        println!("  configuration  {}", self.configuration);
        println!("  database       {}", self.database);
        println!("  sizes          {}", self.sizes);
        println!("  endpoints      {}", endpoints.len());
        for example in endpoints.iter().filter_map(example).take(3) {
            println!("  try            {curl} {}", shell_word(&format!("{base}{example}")));
        }
        // Last, so that whoever waits for this line has all the others.
        println!("listening on {place}");
    }
}

/// A target to try: of an endpoint that reads, and that needs nothing but numbers in its path.
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

/// Quoted where a shell would see more than a word in it.
fn shell_word(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || ":/.-_=".contains(c));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
