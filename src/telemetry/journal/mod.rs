//! The log of requests: a line for each request (`log.access`), and a line for each slow request or statement.
//!
//! Any thread, and each makes its own lines. The settings can change at any time, so they are atomics. The journal
//! knows a request and its outcome, but not which code answered it.

mod line;

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use log::Level;

use self::line::{Clock, Line};
use crate::base::request_id::{RequestId, Trace};
use crate::config::{AccessLog, Log};
use crate::http::Outline;
use crate::telemetry::metrics::{Endpoint, PHASES, Phase, Reason, Spans};
use crate::telemetry::sparing::sparingly;
use crate::telemetry::stderr;
use crate::telemetry::writer::{Target, Writer};

/// The target of access log lines that go to the log.
pub const TARGET: &str = "wharf::access";

thread_local! {
    /// The formatted time of this thread's lines.
    static CLOCK: RefCell<Clock> = RefCell::default();
}

/// Writes the lines of requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// An [`AccessLog`].
    access: AtomicU8,
    /// Whether values of parameters may be shown.
    parameters: AtomicBool,
    /// Zero: no request has a line for being slow.
    slow_request_ns: AtomicU64,
    slow_statement_ns: AtomicU64,
    writer: Writer,
}

/// A request and its outcome.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The request. `None` if no head was read.
    pub outline: Option<Outline<'a>>,
    /// The client's address, if it is known.
    pub client: Option<IpAddr>,
    /// The identity of the request.
    pub request_id: Option<&'a RequestId>,
    /// The answer's status, or 499.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// When the request ended.
    pub ended: Instant,
    /// The time between the arrival of the request, or of its head, and its end.
    pub total: Duration,
    /// The time in each phase, if a worker had the request.
    pub spans: Option<&'a Spans>,
    /// The endpoint, if the request came to one.
    pub endpoint: Option<&'a Endpoint>,
    /// The reason, if the request was refused.
    pub reason: Option<Reason>,
}

/// The access log's next file, already open.
#[derive(Debug)]
pub struct Opened(Target);

impl Opened {
    /// Opens the access log of these settings, so that a failure is known before anything changes.
    ///
    /// # Errors
    /// The system's error.
    pub fn new(settings: &Log) -> io::Result<Self> {
        let file = settings.access_file.as_deref().filter(|_| settings.access != AccessLog::Off);
        file.map_or(Ok(Target::Lines(log_access)), Target::open).map(Self)
    }
}

/// New settings with the open file that they need.
#[derive(Debug)]
pub struct Prepared {
    settings: Log,
    target: Target,
}

impl Default for Journal {
    /// A journal that writes nothing.
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
    /// Starts the writing thread if these settings need one. Nothing else changes.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn prepare(&self, settings: &Log, Opened(target): Opened) -> io::Result<Prepared> {
        if settings.access != AccessLog::Off {
            self.0.writer.start("access-log")?;
        }
        Ok(Prepared { settings: settings.clone(), target })
    }

    /// Applies the prepared settings.
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

    /// Opens the access log's file again, because it was moved.
    pub fn reopen(&self) {
        self.0.writer.reopen();
    }

    /// Writes the lines that wait, and accepts no more.
    pub fn close(&self) {
        self.0.access.store(AccessLog::Off as u8, Relaxed);
        self.0.writer.close();
    }

    /// The number of access log lines that were lost, because writing failed or was too slow.
    pub fn lost(&self) -> u64 {
        self.0.writer.lost()
    }

    /// Whether values of parameters may be shown.
    pub fn shows_values(&self) -> bool {
        self.0.parameters.load(Relaxed)
    }

    /// Whether each request has a line, so that its outline must be kept.
    pub fn has_access(&self) -> bool {
        self.0.access.load(Relaxed) != AccessLog::Off as u8
    }

    /// Whether a line may show the query of a request of this endpoint.
    fn shows_query(&self, endpoint: Option<&Endpoint>) -> bool {
        self.shows_values() && endpoint.is_none_or(|endpoint| !endpoint.hides_query())
    }

    /// Writes the line of a request that has ended.
    pub fn ended(&self, entry: &Entry<'_>) {
        let access = self.0.access.load(Relaxed);
        if access == AccessLog::Off as u8 {
            return;
        }
        let line = Line { entry, parameters: self.shows_query(entry.endpoint) };
        self.0.writer.add(|out| {
            CLOCK.with_borrow_mut(|clock| {
                if access == AccessLog::Json as u8 {
                    line.json(out, clock);
                } else {
                    line.combined(out, clock);
                }
            });
        });
    }

    /// A worker has finished a request, which may have been slow. `outline` returns the request, for a line that may
    /// show it.
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

    /// A statement of an endpoint has ended, and may have been slow.
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

/// A finished statement.
pub(crate) struct Ran<'a> {
    /// Its name: `endpoint.NAME` or `endpoint.NAME.step[1]`.
    pub(crate) name: &'a str,
    /// How long it took.
    pub(crate) took: Duration,
    /// The values of the endpoint's parameters, without hidden ones.
    pub(crate) values: &'a dyn Fn() -> String,
    /// The identity of the request that ran it.
    pub(crate) request_id: Option<&'a RequestId>,
}

/// Puts a line of the access log into the log, unless the log is half full: it must keep room for other lines.
fn log_access(line: &str) -> bool {
    let has_room = !stderr::is_half_full();
    if has_room {
        log::info!(target: TARGET, "{line}");
    }
    has_room
}

fn is_slow(took: Duration, limit_ns: &AtomicU64) -> bool {
    let limit = limit_ns.load(Relaxed);
    limit > 0 && took >= Duration::from_nanos(limit)
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

/// The trace's id, to find the request in a tracing system.
fn trace(request_id: Option<&RequestId>) -> String {
    let trace = request_id.and_then(RequestId::trace).map(Trace::id);
    trace.map(|id| format!(", trace {id:032x}")).unwrap_or_default()
}

/// The phases under the names of `Server-Timing`, and the phase after the answer's head was sent.
const SHORT: [(Phase, &str); 5] = [
    (Phase::Queue, "queue"),
    (Phase::Pool, "pool"),
    (Phase::Database, "db"),
    (Phase::Render, "render"),
    (Phase::Write, "write"),
];
