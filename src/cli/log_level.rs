//! The level of the log: from `WHARF_LOG`, or else from the configuration, which may change while the server runs. Also
//! the filter for lines of other crates.
//!
//! Main thread; `change` runs on the thread of the admin listener. Any thread logs.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::config::LogFormat;
use crate::telemetry::stderr;
use log::{Level, LevelFilter, Log, Metadata, Record};
use serde::Serialize;
use serde_json::value::RawValue;

/// Unlike `log.level`, this variable may set levels for single modules.
const VARIABLE: &str = "WHARF_LOG";

/// The logger's own variable for colors: auto, always or never.
const STYLE_VARIABLE: &str = "RUST_LOG_STYLE";

/// Crates whose lines below `warn` contain values. The PostgreSQL driver logs bound values and the notices of
/// functions; the HTTP client logs headers with keys.
const REVEALING: [&str; 5] = ["postgres", "postgres_protocol", "tokio_postgres", "ureq", "ureq_proto"];

/// Whether lines are JSON. The `log` crate has one logger for the process and gives it back to nobody, so its settings are global too.
static IN_JSON: AtomicBool = AtomicBool::new(false);

/// A line of the log as an object.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    level: &'a str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    /// The access log's line of a request, if that is JSON too.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a RawValue>,
}

/// Starts the log before the configuration is read. The logger's own filter cannot change later. So without the
/// variable it lets everything through, and the level of the `log` crate decides.
pub(crate) fn start_log() {
    let builder = || {
        let mut builder = env_logger::Builder::from_env(env_logger::Env::new().filter_or(VARIABLE, "trace"));
        builder.target(env_logger::Target::Pipe(Box::new(ToStderr)));
        // The logger looks for a terminal only where it writes itself.
        if !std::env::var(STYLE_VARIABLE).is_ok_and(|style| ["always", "never"].contains(&&*style)) {
            builder.write_style(anstream::AutoStream::choice(&io::stderr()).into());
        }
        builder
    };
    let text = builder().format_target(false).build();
    let json = builder().format(write_json).build();
    let filter = text.filter();
    let named = std::env::var(VARIABLE).as_deref().map(named).unwrap_or_default();
    // The program starts only one log, so this cannot fail.
    if log::set_boxed_logger(Box::new(FilteredLog { text, json, named })).is_ok() {
        log::set_max_level(filter);
    }
    set(LevelFilter::Info);
}

/// The target of formatted lines.
struct ToStderr;

impl io::Write for ToStderr {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        stderr::write(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log with one filter for lines of other crates. Lines below `warn` may contain clients' values or passwords. They
/// are logged only from crates that `WHARF_LOG` names, and never from those in [`REVEALING`]. So no level and no
/// variable puts a value into the log with `log.parameters = false`.
struct FilteredLog {
    text: env_logger::Logger,
    /// The same for lines that are objects.
    json: env_logger::Logger,
    /// The crates named in the variable.
    named: Vec<String>,
}

impl FilteredLog {
    fn takes(&self, metadata: &Metadata<'_>) -> bool {
        let origin = metadata.target().split("::").next().unwrap_or_default();
        metadata.level() <= Level::Warn
            || origin == env!("CARGO_PKG_NAME")
            || !REVEALING.contains(&origin) && self.named.iter().any(|name| name == origin)
    }
}

impl Log for FilteredLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.takes(metadata) && self.text.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.takes(record.metadata()) {
            let inner = if IN_JSON.load(Relaxed) { &self.json } else { &self.text };
            inner.log(record);
        }
    }

    fn flush(&self) {
        stderr::flush();
    }
}

/// Writes lines in this form from now on.
pub(super) fn set_format(format: LogFormat) {
    IN_JSON.store(format == LogFormat::Json, Relaxed);
}

fn write_json(out: &mut env_logger::fmt::Formatter, record: &Record<'_>) -> io::Result<()> {
    let (time, message) = (out.timestamp_millis().to_string(), record.args().to_string());
    let is_access = record.target() == "wharf::access";
    let request = is_access.then(|| serde_json::from_str::<&RawValue>(&message).ok()).flatten();
    let line = Line {
        time: &time,
        level: record.level().as_str(),
        target: record.target(),
        message: request.is_none().then_some(&message),
        request,
    };
    serde_json::to_writer(&mut *out, &line)?;
    writeln!(out)
}

/// The crates named in directives such as `info,rustls=debug`.
fn named(directives: &str) -> Vec<String> {
    let modules = directives.split('/').next().unwrap_or_default().split(',');
    let names = modules.filter_map(|one| one.trim().split(['=', ':']).next());
    names.map(str::to_owned).collect()
}

/// Whether the variable decides instead of the configuration.
pub(super) fn is_set_by_variable() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Changes the level at the request of the admin listener, and returns the level before.
pub(super) fn change(level: LevelFilter) -> Result<LevelFilter, String> {
    if is_set_by_variable() {
        return Err(format!("the variable {VARIABLE} is set and decides"));
    }
    let before = log::max_level();
    set(level);
    Ok(before)
}

/// Sets the level, unless the variable decides.
pub(super) fn set(level: LevelFilter) {
    if !is_set_by_variable() {
        log::set_max_level(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_other_crates_need_their_name_and_must_not_reveal_values() {
        let log = |directives: &str| FilteredLog {
            text: env_logger::Builder::new().parse_filters(directives).build(),
            json: env_logger::Builder::new().parse_filters(directives).build(),
            named: named(directives),
        };
        let hears = |directives: &str, target: &str, level: Level| {
            log(directives).enabled(&Metadata::builder().target(target).level(level).build())
        };
        for directives in ["trace", "debug,tokio_postgres=trace", "tokio_postgres::query=debug,ureq=trace"] {
            for target in ["tokio_postgres::query", "postgres::config", "ureq::run", "ureq_proto"] {
                assert!(!hears(directives, target, Level::Info), "{directives} {target}");
            }
        }
        assert!(hears("trace", "tokio_postgres", Level::Warn));
        assert!(!hears("trace", "rustls::client", Level::Debug));
        assert!(hears("info,rustls=debug", "rustls::client", Level::Debug));
        assert!(hears("info,rustls::client=debug", "rustls::client", Level::Debug));
        assert!(hears("info,wharf::database=debug", "wharf::database::pool", Level::Debug));
        assert!(hears("trace", "wharf", Level::Trace));
        assert!(!hears("trace", "wharf_like", Level::Debug));
    }
}
