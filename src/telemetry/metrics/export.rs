//! The metrics in Prometheus's formats: `OpenMetrics`, or the older text for clients that do not ask for it.
//!
//! The thread that asks for them. No request passes through this code. `docs/metrics.md` explains each name, and a test
//! compares it with this file.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::process::Process;
use super::{Buckets, CENSUS, CLOSINGS, Counts, Endpoint, Metrics, PHASES, Pool, REASONS, UNSERVED};

/// The media types of the output of [`Exposition::text`]: `OpenMetrics`, and the older text.
pub const CONTENT_TYPE: [&str; 2] = [
    "application/openmetrics-text; version=1.0.0; charset=utf-8",
    "text/plain; version=0.0.4; charset=utf-8",
];

/// The figures that are read when somebody asks, instead of counted.
#[derive(Clone, Copy, Debug)]
pub struct Gauges {
    /// When the server started.
    pub started: SystemTime,
    /// The request threads.
    pub workers: WorkerGauges,
    /// The queue.
    pub queue: QueueGauges,
    /// The database pool, if there is one.
    pub pool: Option<PoolGauges>,
}

/// The workers at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct WorkerGauges {
    /// The configured number of workers.
    pub max: usize,
    /// The number of workers that there are.
    pub count: usize,
    /// The number of workers that have a request.
    pub busy: usize,
    /// How many may have one. It is lower than `max` while more workers would only wait for a core.
    pub busy_max: usize,
    /// The number of workers that wait for a request.
    pub idle: usize,
    /// The number of workers with a request whose deadline has passed.
    pub stuck: usize,
}

/// The queue at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueGauges {
    /// The number of jobs that wait.
    pub length: usize,
    /// How many may wait.
    pub max_length: usize,
    /// The wait of the oldest job so far.
    pub oldest: Duration,
}

/// The database pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PoolGauges {
    /// `database.maximum_pool_size`.
    pub max: u32,
    /// `database.minimum_idle`.
    pub min: u32,
    /// Sessions that exist.
    pub open: u32,
    /// Sessions that workers have borrowed.
    pub active: u32,
    /// Sessions that are open and not borrowed.
    pub idle: u32,
    /// Workers that wait for a session.
    pub pending: u32,
    /// Whether there is no session and none can be opened.
    pub is_down: bool,
}

/// A server's metrics, ready to be written.
#[derive(Debug)]
pub struct Exposition {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The pool's counters, if there is a pool.
    pub pool: Option<Arc<Pool>>,
    /// The figures of this moment.
    pub gauges: Gauges,
    /// How many lines of the access log and of the log were lost.
    pub lost_lines: [u64; 2],
    /// How many series there are.
    pub detail: Detail,
}

/// How many series are exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detail {
    /// Whether each route has its own series. Otherwise those of all routes are added up.
    pub by_route: bool,
    /// The buckets of all histograms. `None`: fine ones, but coarse ones for the durations of single routes if there are more than 100
    /// routes.
    pub buckets: Option<Buckets>,
}

impl Detail {
    /// The buckets of a histogram of which a server has one.
    fn of_server(self) -> Buckets {
        self.buckets.unwrap_or(Buckets::Fine)
    }
}

impl Default for Detail {
    fn default() -> Self {
        Self { by_route: true, buckets: None }
    }
}

/// With more routes than this their histograms have coarse buckets. Fine ones would be more than 14,000 series, which is much for one
/// server.
const FINE_ROUTES_MAX: usize = 100;

impl Exposition {
    /// The metrics as text, in `OpenMetrics` or in the older format.
    pub fn text(self, open_metrics: bool) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut written = String::new();
        let done = if open_metrics {
            text::encode(&mut written, &registry)
        } else {
            prometheus_text::encode(&mut written, &registry)
        };
        // Writing to memory cannot fail.
        debug_assert!(done.is_ok());
        written
    }
}

/// A label and the type of its values.
type Label<'a> = [(&'static str, &'a str); 1];

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut Out(&mut encoder);
        self.process(out)?;
        self.requests(out)?;
        self.connections(out)?;
        self.stages(out)?;
        match (&self.pool, self.gauges.pool) {
            (Some(pool), Some(gauges)) => pool_metrics(pool, gauges, self.detail.of_server(), out),
            _ => Ok(()),
        }
    }
}

impl Exposition {
    fn process(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut family = out.metric("wharf_build", "The server's version", None, MetricType::Info)?;
        family.encode_info(&version)?;
        let started = self.gauges.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        out.gauge("wharf_start_time", "When the server started, since 1970", Some(&Unit::Seconds), started)?;
        let help = "When the first certificate of the listeners expires, since 1970";
        let mut ends =
            out.metric("wharf_tls_certificate_end_time", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        if let Some(end) = self.metrics.certificates_end() {
            ends.encode_gauge(&end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())?;
        }
        let Process { processor, resident, threads, open_files, max_files } = Process::read();
        let mut cpu =
            out.metric("process_cpu", "Processor time", Some(&Unit::Seconds), MetricType::Counter)?;
        cpu.encode_counter::<NoLabelSet, _, f64>(&processor.as_secs_f64(), None)?;
        for (name, help, unit, value) in [
            ("process_resident_memory", "Resident memory", Some(&Unit::Bytes), resident),
            ("process_threads", "Threads", None, threads),
            ("process_open_fds", "Open file descriptors", None, open_files),
            ("process_max_fds", "File descriptors that may be open", None, max_files),
        ] {
            if let Some(value) = value {
                out.gauge(name, help, unit, float(value))?;
            }
        }
        Ok(())
    }

    fn requests(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let metrics = &self.metrics;
        let (received, finished) = (metrics.requests(), metrics.finished());
        out.counter("wharf_http_requests_received", "Requests read, unreadable ones included", received)?;
        let in_flight = received.saturating_sub(finished);
        out.gauge(
            "wharf_http_requests_in_flight",
            "Requests read and not yet answered",
            None,
            float(in_flight),
        )?;

        let endpoints = metrics.endpoints();
        let mut family =
            out.metric("wharf_http_requests", "Answers by endpoint and status", None, MetricType::Counter)?;
        // Without routes, the statuses of all endpoints together.
        let mut statuses = BTreeMap::<_, u64>::new();
        for endpoint in &endpoints {
            for (status, count) in endpoint.statuses() {
                if !self.detail.by_route {
                    *statuses.entry(status).or_default() += count;
                    continue;
                }
                let status = status.to_string();
                let labels = [
                    ("method", endpoint.method.as_str()),
                    ("route", endpoint.route.as_str()),
                    ("status", status.as_str()),
                ];
                count_with(&mut family, &labels, count)?;
            }
        }
        for (status, count) in statuses {
            count_with(&mut family, &[("status", &*status.to_string())], count)?;
        }
        let help = "Time from a complete request to the worker's handover of its answer";
        let seconds = Some(Unit::Seconds);
        let mut family =
            out.metric("wharf_http_request_duration", help, seconds.as_ref(), MetricType::Histogram)?;
        let buckets = self.duration_buckets(&endpoints);
        let mut together = Counts::default();
        for endpoint in &endpoints {
            let counts = endpoint.durations();
            if !self.detail.by_route {
                together.add(&counts);
            } else if counts.count() > 0 {
                let labels = [("method", endpoint.method.as_str()), ("route", endpoint.route.as_str())];
                histogram(&mut family.encode_family(&labels)?, &counts, buckets)?;
            }
        }
        if !self.detail.by_route {
            histogram(&mut family, &together, buckets)?;
        }
        let help = "Time that a request spent in each phase";
        let mut family =
            out.metric("wharf_http_request_phase", help, seconds.as_ref(), MetricType::Histogram)?;
        for (phase, name) in PHASES {
            let labels: Label<'_> = [("phase", name)];
            histogram(&mut family.encode_family(&labels)?, &metrics.phase(phase), self.detail.of_server())?;
        }
        let help = "Total time that the requests of each endpoint spent in each phase";
        let mut family = out.metric("wharf_http_route_phase", help, seconds.as_ref(), MetricType::Counter)?;
        let shown = |endpoint: &&Arc<Endpoint>| self.detail.by_route && endpoint.durations().count() > 0;
        for endpoint in endpoints.iter().filter(shown) {
            for (phase, name) in PHASES {
                let labels = [
                    ("method", endpoint.method.as_str()),
                    ("route", endpoint.route.as_str()),
                    ("phase", name),
                ];
                let spent = endpoint.spent(phase).as_secs_f64();
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&spent, None)?;
            }
        }
        let help = "Time that pollers needed to send the rest of an answer";
        let mut family =
            out.metric("wharf_http_response_flush", help, seconds.as_ref(), MetricType::Histogram)?;
        histogram(&mut family, &metrics.flushes(), self.detail.of_server())?;

        let help = "Requests that the server refused, by the limit that they met";
        out.family("wharf_http_requests_refused", help, "reason", |label, write| {
            REASONS.into_iter().try_for_each(|(reason, name)| label(write, name, metrics.refused_for(reason)))
        })?;
        let help = "Requests whose client left before the answer";
        out.counter("wharf_http_requests_abandoned", help, metrics.abandoned_by_clients())?;
        out.counter("wharf_handler_panics", "Handlers that panicked", metrics.panics())?;
        let help = "Panics outside of handlers, after which the thread went on";
        out.counter("wharf_thread_panics", help, metrics.thread_panics())?;
        let help = "Lines that were lost, because writing them failed or was too slow";
        out.family("wharf_log_lines_lost", help, "log", |label, write| {
            ["access", "main"]
                .into_iter()
                .zip(self.lost_lines)
                .try_for_each(|(log, lost)| label(write, log, lost))
        })?;
        let help = "Spans that the collector of traces has taken";
        out.counter("wharf_spans_exported", help, metrics.exported_spans())?;
        let help = "Spans that the collector has not taken: it was too slow, unreachable, or refused them";
        out.counter("wharf_spans_dropped", help, metrics.dropped_spans())?;
        let (received, sent) = metrics.bytes();
        out.counter_of("wharf_http_received", "Bytes read from clients", &Unit::Bytes, received)?;
        out.counter_of("wharf_http_sent", "Bytes written to clients", &Unit::Bytes, sent)
    }

    /// Fewer buckets where there are many histograms. The number of routes changes only with the configuration, so a series does not
    /// come and go.
    fn duration_buckets(&self, endpoints: &[Arc<Endpoint>]) -> Buckets {
        match self.detail {
            Detail { by_route: true, buckets: None } if endpoints.len() > FINE_ROUTES_MAX => Buckets::Coarse,
            detail => detail.of_server(),
        }
    }

    fn connections(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let metrics = &self.metrics;
        let open = metrics.open_connections();
        out.gauge("wharf_connections_open", "Clients' connections", None, float(open as u64))?;
        let help = "Memory of the connections' requests and answers";
        out.gauge("wharf_http_buffered", help, Some(&Unit::Bytes), float(metrics.buffered_bytes() as u64))?;
        let help = "Clients' connections by state, at most a second old while anything happens";
        let mut family = out.metric("wharf_connections", help, None, MetricType::Gauge)?;
        debug_assert_eq!(metrics.census.counts().len(), CENSUS.len());
        for (name, count) in metrics.census.counts() {
            let labels: Label<'_> = [("state", name)];
            family.encode_family(&labels)?.encode_gauge(&float(count as u64))?;
        }
        out.counter("wharf_connections_accepted", "Clients that connected", metrics.connections())?;
        let help = "Connections that the server closed without refusing a request, by reason";
        out.family("wharf_connections_closed", help, "reason", |label, write| {
            CLOSINGS
                .into_iter()
                .try_for_each(|(closing, name)| label(write, name, metrics.closed_for(closing)))
        })
    }

    fn stages(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let WorkerGauges { max, count, busy, busy_max, idle, stuck } = self.gauges.workers;
        for (name, help, value) in [
            ("wharf_workers", "Request threads", count),
            ("wharf_workers_max", "Request threads, as configured", max),
            ("wharf_workers_busy", "Request threads with a request", busy),
            (
                "wharf_workers_busy_max",
                "Request threads that may have a request: fewer while more would only wait for a core",
                busy_max,
            ),
            ("wharf_workers_idle", "Request threads that wait for a request", idle),
            ("wharf_workers_stuck", "Request threads whose request's deadline has passed", stuck),
        ] {
            out.gauge(name, help, None, float(value as u64))?;
        }
        let QueueGauges { length, max_length, oldest } = self.gauges.queue;
        out.gauge("wharf_queue_jobs", "Requests that wait for a worker", None, float(length as u64))?;
        let help = "Requests that may wait for a worker (queue.max_length)";
        out.gauge("wharf_queue_jobs_max", help, None, float(max_length as u64))?;
        let help = "Time that the oldest request has waited for a worker";
        out.gauge("wharf_queue_oldest", help, Some(&Unit::Seconds), oldest.as_secs_f64())
    }
}

fn pool_metrics(pool: &Pool, gauges: PoolGauges, buckets: Buckets, out: &mut Out<'_, '_>) -> fmt::Result {
    let PoolGauges { max, min, open, active, idle, pending, is_down } = gauges;
    for (name, help, value) in [
        ("wharf_pool_connections", "Database sessions", open),
        ("wharf_pool_connections_max", "database.maximum_pool_size", max),
        ("wharf_pool_connections_min", "database.minimum_idle", min),
        ("wharf_pool_connections_active", "Database sessions that are lent", active),
        ("wharf_pool_connections_idle", "Database sessions that are not lent", idle),
        ("wharf_pool_connections_pending", "Workers that wait for a database session", pending),
        (
            "wharf_pool_down",
            "1 while there is no database session and none can be opened",
            u32::from(is_down),
        ),
    ] {
        out.gauge(name, help, None, f64::from(value))?;
    }
    for (name, help, histogram_of) in [
        (
            "wharf_pool_acquire",
            "Time that a worker waited for a database session, failed waits included",
            &pool.acquire,
        ),
        ("wharf_pool_usage", "Time that a database session was lent", &pool.usage),
        ("wharf_pool_creation", "Time to open a database session", &pool.creation),
    ] {
        let mut family = out.metric(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        histogram(&mut family, &histogram_of.counts(), buckets)?;
    }
    let help = "Requests that got no database session, by reason";
    out.family("wharf_pool_acquire_failures", help, "reason", |label, write| {
        UNSERVED.into_iter().try_for_each(|(how, name)| label(write, name, pool.unserved_for(how)))
    })?;
    for (name, help, count) in [
        (
            "wharf_pool_creation_failures",
            "Database sessions that could not be opened",
            &pool.creation_failures,
        ),
        ("wharf_pool_connections_closed", "Database sessions that were closed", &pool.closed),
        (
            "wharf_pool_leaks",
            "Database sessions lent for longer than database.leak_detection_threshold",
            &pool.leaks,
        ),
        (
            "wharf_statements_cancelled",
            "Statements cancelled: their time was up, or their client had left",
            &pool.cancelled,
        ),
        (
            "wharf_statement_retries",
            "Times that statements ran again after a collision with another transaction",
            &pool.retries,
        ),
        (
            "wharf_pipelines",
            "Times that statements were sent on a session that several requests shared at that moment",
            &pool.pipelines,
        ),
        (
            "wharf_pipelined_requests",
            "Requests whose statement shared a round trip with others",
            &pool.pipelined,
        ),
    ] {
        out.counter(name, help, count.load(Relaxed))?;
    }
    Ok(())
}

struct Out<'a, 'e>(&'a mut DescriptorEncoder<'e>);

/// Writes a label's value with its count.
type WriteLabel<'a> = &'a dyn Fn(&mut MetricEncoder<'_>, &str, u64) -> fmt::Result;

impl Out<'_, '_> {
    fn metric<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> fmt::Result {
        self.metric(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        self.metric(name, help, None, MetricType::Counter)?.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    fn counter_of(&mut self, name: &str, help: &str, unit: &Unit, count: u64) -> fmt::Result {
        let mut metric = self.metric(name, help, Some(unit), MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    /// Writes counters that differ in one label.
    fn family(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        write_all: impl FnOnce(WriteLabel<'_>, &mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.metric(name, help, None, MetricType::Counter)?;
        let write = |family: &mut MetricEncoder<'_>, value: &str, count| {
            let labels: Label<'_> = [(label, value)];
            count_with(family, &labels, count)
        };
        write_all(&write, &mut family)
    }
}

fn count_with(family: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, count: u64) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)
}

fn histogram(metric: &mut MetricEncoder<'_>, counts: &Counts, buckets: Buckets) -> fmt::Result {
    let buckets = counts.exported(buckets);
    let count = buckets.iter().map(|(_, count)| count).sum();
    metric.encode_histogram::<NoLabelSet>(counts.sum().as_secs_f64(), count, &buckets, None)
}

#[allow(clippy::cast_precision_loss, reason = "nothing that is counted here reaches 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}
