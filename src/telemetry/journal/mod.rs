//! What the log says of requests: a line for each (`log.access`), and one for each that was slow.
//!
//! Any thread; each makes its own line. What is asked for can change at any time, so it stands in atomics. Knows what a request
//! was and what became of it, and not who answered it.

mod line;
mod writer;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use log::Level;

use self::line::Line;
use self::writer::{Target, Writer};
use crate::base::request_id::{RequestId, Trace};
use crate::config::{AccessLog, Log};
use crate::http::Outline;
use crate::telemetry::metrics::{Endpoint, PHASES, Phase, Reason, Spans};
use crate::telemetry::sparing::sparingly;

/// What the access log's lines have for a target, where they go to the log.
pub const TARGET: &str = "wharf::access";

/// What is said of requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// An [`AccessLog`].
    access: AtomicU8,
    /// Whether values of parameters may be shown.
    parameters: AtomicBool,
    /// Zero: never.
    slow_request_ns: AtomicU64,
    slow_statement_ns: AtomicU64,
    writer: Writer,
}

/// A request and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// What was asked; `None` where no head was read.
    pub outline: Option<Outline<'a>>,
    /// Who asked, as far as that is known.
    pub client: Option<IpAddr>,
    /// Who the request is.
    pub request_id: Option<&'a RequestId>,
    /// The answer's status, or 499.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// When it ended.
    pub ended: Instant,
    /// How long before that the request had come, or its head had.
    pub total: Duration,
    /// Where that went, if a worker had it.
    pub spans: Option<&'a Spans>,
    /// The endpoint, if it came to one.
    pub endpoint: Option<&'a Endpoint>,
    /// Why it was refused, if it was.
    pub reason: Option<Reason>,
}

/// The access log's next file, opened already.
#[derive(Debug)]
pub struct Opened(Target);

impl Opened {
    /// Opens what the configuration says, so that what cannot be opened is known before anything changes.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(settings: &Log) -> io::Result<Self> {
        let file = settings.access_file.as_deref().filter(|_| settings.access != AccessLog::Off);
        file.map_or(Ok(Target::Log), Target::open).map(Self)
    }
}

/// New settings, with the open file that they ask for.
#[derive(Debug)]
pub struct Prepared {
    settings: Log,
    target: Target,
}

impl Default for Journal {
    /// Says nothing.
    fn default() -> Self {
        Self(Arc::new(Shared {
            access: AtomicU8::new(AccessLog::Off as u8),
            parameters: AtomicBool::default(),
            slow_request_ns: AtomicU64::default(),
            slow_statement_ns: AtomicU64::default(),
            writer: Writer::default(),
        }))
    }
}

impl Journal {
    /// Starts the thread that writes, if these settings need one. Nothing else changes.
    ///
    /// # Errors
    /// When the system has no thread.
    pub fn prepare(&self, settings: &Log, Opened(target): Opened) -> io::Result<Prepared> {
        if settings.access != AccessLog::Off {
            self.0.writer.start()?;
        }
        Ok(Prepared { settings: settings.clone(), target })
    }

    /// Goes by the prepared settings from now on.
    pub fn reconfigure(&self, Prepared { settings, target }: Prepared) {
        let shared = &*self.0;
        if settings.access != AccessLog::Off {
            shared.writer.write_to(target);
        }
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        shared.access.store(settings.access as u8, Relaxed);
        shared.parameters.store(settings.parameters, Relaxed);
        shared.slow_request_ns.store(nanoseconds(settings.slow_request), Relaxed);
        shared.slow_statement_ns.store(nanoseconds(settings.slow_statement), Relaxed);
    }

    /// Opens the access log's file again: somebody has moved it.
    pub fn reopen(&self) {
        self.0.writer.reopen();
    }

    /// Writes what there is, and nothing more.
    pub fn close(&self) {
        self.0.access.store(AccessLog::Off as u8, Relaxed);
        self.0.writer.close();
    }

    /// How many lines of the access log were lost so far, because they could not be written or not as fast as they came.
    pub fn lost(&self) -> u64 {
        self.0.writer.lost()
    }

    /// Whether values of parameters may be shown.
    pub fn shows_values(&self) -> bool {
        self.0.parameters.load(Relaxed)
    }

    /// Whether each request has a line, for which its outline is to be kept.
    pub fn has_access(&self) -> bool {
        self.0.access.load(Relaxed) != AccessLog::Off as u8
    }

    /// Whether a line may show the query of a request of this endpoint.
    fn shows_query(&self, endpoint: Option<&Endpoint>) -> bool {
        self.shows_values() && endpoint.is_none_or(|endpoint| !endpoint.hides_query())
    }

    /// A request has come to its end.
    pub fn ended(&self, entry: &Entry<'_>) {
        let access = self.0.access.load(Relaxed);
        if access == AccessLog::Off as u8 {
            return;
        }
        let line = Line { entry, parameters: self.shows_query(entry.endpoint) };
        self.0.writer.add(|out, clock| {
            if access == AccessLog::Json as u8 { line.json(out, clock) } else { line.combined(out, clock) }
        });
    }

    /// A worker is done with a request, which may have taken long. `outline`: what was asked, for where it may be shown.
    pub fn worked<'a>(
        &self,
        endpoint: &Endpoint,
        spans: &Spans,
        request_id: Option<&RequestId>,
        outline: impl Fn() -> Outline<'a>,
    ) {
        let total = spans.total();
        if !is_slow(total, &self.0.slow_request_ns) {
            return;
        }
        let split = PHASES.map(|(phase, name)| format!("{name} {}", seconds(spans.of(phase)))).join(", ");
        let asked = if self.shows_query(Some(endpoint)) {
            String::from_utf8_lossy(&outline().target(true)).into_owned()
        } else {
            String::new()
        };
        let (method, route) = (&endpoint.method, &endpoint.route);
        sparingly!(
            Level::Warn,
            "slow requests",
            "slow request {}: {method} {route} took {} ({split}){}{asked}{}",
            request_id.map_or("", RequestId::id),
            seconds(total),
            if asked.is_empty() { "" } else { ": " },
            trace(request_id),
        );
    }

    /// A statement of an endpoint has come to its end, and may have taken long.
    pub(crate) fn ran(&self, statement: &Ran<'_>) {
        if !is_slow(statement.took, &self.0.slow_statement_ns) {
            return;
        }
        let Ran { name, took, values, request_id } = statement;
        let values = Some(values).filter(|_| self.shows_values()).map(|values| values());
        let values = values.filter(|values| !values.is_empty());
        let values = values.map_or_else(String::new, |values| format!(", with {values}"));
        sparingly!(
            Level::Warn,
            "slow statements",
            "slow statement of request {}: {name} took {}{values}{}",
            request_id.map_or("", RequestId::id),
            seconds(*took),
            trace(*request_id),
        );
    }
}

/// A statement that was run.
pub(crate) struct Ran<'a> {
    /// What it is called: `endpoint.NAME`, or `endpoint.NAME.step[1]`.
    pub(crate) name: &'a str,
    /// How long it took.
    pub(crate) took: Duration,
    /// What the endpoint's parameters had, those left out that are shown to nobody.
    pub(crate) values: &'a dyn Fn() -> String,
    /// Whose statement it was.
    pub(crate) request_id: Option<&'a RequestId>,
}

fn is_slow(took: Duration, limit_ns: &AtomicU64) -> bool {
    let limit = limit_ns.load(Relaxed);
    limit > 0 && took >= Duration::from_nanos(limit)
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

/// Where to look for it in a tracing system.
fn trace(request_id: Option<&RequestId>) -> String {
    let trace = request_id.and_then(RequestId::trace).map(Trace::id);
    trace.map(|id| format!(", trace {id:032x}")).unwrap_or_default()
}

/// As `Server-Timing` calls them, and what comes after its head went out.
const SHORT: [(Phase, &str); 5] = [
    (Phase::Queue, "queue"),
    (Phase::Pool, "pool"),
    (Phase::Database, "db"),
    (Phase::Render, "render"),
    (Phase::Write, "write"),
];
