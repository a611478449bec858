//! The thread that makes spans from requests and sends them.
//!
//! It sends once a second, or earlier if there is much. While it waits for the collector, requests wait in its queue or
//! are dropped. Nobody waits for this thread.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::ServerFacts;
use super::batch::{Batch, Clock};
use super::collector::{Collector, Failure};
use super::served::Served;
use crate::config;
use crate::telemetry::metrics::Metrics;

/// Short enough that an operator who has just sent a request finds its trace.
const INTERVAL: Duration = Duration::from_secs(1);

/// The default of OpenTelemetry's `OTEL_EXPORTER_OTLP_TIMEOUT`.
const PATIENCE: Duration = Duration::from_secs(10);

/// About half a minute with the pauses in between. The queue holds the beginning of it.
const ATTEMPTS_MAX: u32 = 6;

/// The pause before the second attempt. It doubles before each further attempt, and a random part of up to a half is
/// added.
const PAUSE: Duration = Duration::from_secs(1);

/// The shortest time between two complaints in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// How long a stopping server waits for the last spans to be sent.
pub(super) const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// The source of requests.
pub(super) struct Inbox {
    pub(super) waiting: Receiver<Box<Served>>,
    /// A message means that many requests wait.
    pub(super) woken: Receiver<()>,
    /// Disconnected when no more requests will come.
    pub(super) closing: Receiver<Infallible>,
}

struct Exporter {
    inbox: Inbox,
    batch: Batch,
    collector: Collector,
    metrics: Arc<Metrics>,
    /// The time by which everything must be sent. `None`: the server still runs.
    until: Option<Instant>,
    /// The number of dropped spans that the log has reported.
    dropped: u64,
    complained: Option<Instant>,
    is_failing: bool,
}

/// Starts the thread. The returned channel is disconnected when the thread has ended.
pub(super) fn start(
    endpoint: &str,
    config: &config::Tracing,
    facts: ServerFacts,
    inbox: Inbox,
    metrics: &Arc<Metrics>,
) -> io::Result<Receiver<Infallible>> {
    let mut exporter = Exporter {
        inbox,
        batch: Batch::new(&config.service_name, facts),
        collector: Collector::new(endpoint, config.otlp_headers.as_deref())?,
        metrics: Arc::clone(metrics),
        until: None,
        dropped: 0,
        complained: None,
        is_failing: false,
    };
    let (running, ended) = crossbeam_channel::bounded(0);
    let run = move || {
        exporter.run();
        drop(running);
    };
    thread::Builder::new().name("traces".into()).spawn(run)?;
    Ok(ended)
}

impl Exporter {
    fn run(&mut self) {
        while self.until.is_none() {
            self.wait();
            self.send_all();
            self.look_for_drops();
        }
    }

    fn wait(&mut self) {
        crossbeam_channel::select! {
            recv(self.inbox.closing) -> _ => self.begin_to_end(),
            recv(self.inbox.woken) -> _ => {}
            recv(crossbeam_channel::after(INTERVAL)) -> _ => {}
        }
    }

    fn begin_to_end(&mut self) {
        self.until = Some(Instant::now() + LAST_PATIENCE);
    }

    fn send_all(&mut self) {
        let mut clock = Clock::now();
        while let Ok(served) = self.inbox.waiting.try_recv() {
            self.metrics.spans_dropped(self.batch.add(&served, clock));
            if self.batch.is_full() {
                self.send();
                clock = Clock::now();
            }
        }
        if !self.batch.is_empty() {
            self.send();
        }
    }

    /// Sends the batch, several times if a retry may help.
    fn send(&mut self) {
        let (body, spans) = self.batch.take();
        for attempt in 1..=ATTEMPTS_MAX {
            let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break;
            }
            match self.collector.send(&body, left.unwrap_or(PATIENCE).min(PATIENCE)) {
                Ok(rejected) => return self.sent(spans, rejected.min(spans)),
                Err(failure) => {
                    self.is_failing |= self.complain(&failure.why);
                    // A stopping server has no time for another attempt.
                    if !failure.may_pass || left.is_some() || attempt == ATTEMPTS_MAX {
                        break;
                    }
                    self.pause(attempt, &failure);
                }
            }
        }
        self.metrics.spans_dropped(spans);
    }

    fn sent(&mut self, spans: u64, rejected: u64) {
        self.metrics.spans_exported(spans - rejected);
        self.metrics.spans_dropped(rejected);
        if self.is_failing {
            self.is_failing = false;
            log::info!("traces: {} accepts spans again", self.collector.url());
        }
    }

    fn pause(&mut self, attempts: u32, failure: &Failure) {
        let pause = failure.retry_after.unwrap_or_else(|| {
            let pause = PAUSE * 2_u32.pow(attempts - 1);
            pause + pause.mul_f64(fastrand::f64() / 2.0)
        });
        if self.inbox.closing.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            self.begin_to_end();
        }
    }

    fn look_for_drops(&mut self) {
        let dropped = self.metrics.dropped_spans();
        if dropped > self.dropped {
            self.complain("it accepts spans too slowly");
        }
    }

    /// Logs a failure, but once a minute at most, so that a collector that is down does not fill the log. Returns
    /// whether it was logged.
    fn complain(&mut self, why: &str) -> bool {
        if self.complained.is_some_and(|at| at.elapsed() < COMPLAIN_EVERY) {
            return false;
        }
        self.complained = Some(Instant::now());
        let dropped = self.metrics.dropped_spans();
        log::warn!(
            "traces: {}: {why}; {} spans dropped since the last such line",
            self.collector.url(),
            dropped - self.dropped
        );
        self.dropped = dropped;
        true
    }
}
