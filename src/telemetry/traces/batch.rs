//! Makes spans from requests as OTLP defines them (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/> and
//! <https://opentelemetry.io/docs/specs/semconv/database/database-spans/>), in one `ExportTraceServiceRequest`.
//!
//! The exporter's thread. No span has the value of a parameter, except for those in the path.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{Method, Version};

use super::protobuf::Message;
use super::served::Served;
use super::{Outcome, RequestTimes, ServerFacts};
use crate::base::request_id::Trace;
use crate::telemetry::activity::{Wait, WorkerState};

/// Far below the megabyte that New Relic accepts at a time, and more than the 512 spans that other exporters send.
const ENOUGH_BYTES: usize = 256 * 1024;

/// Spans that are sent together.
#[derive(Debug)]
pub(super) struct Batch {
    /// The resource, which comes before the spans: the service that they belong to.
    resource: Vec<u8>,
    facts: ServerFacts,
    /// `ScopeSpans`.
    scope: Message,
    spans: u64,
}

/// Converts the monotonic clock that measures requests into the time of day.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    moment: Instant,
    since_1970: Duration,
}

impl Clock {
    pub(super) fn now() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { moment: Instant::now(), since_1970 }
    }

    fn ns(self, at: Instant) -> u64 {
        let ago = self.moment.saturating_duration_since(at);
        u64::try_from(self.since_1970.saturating_sub(ago).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// `SpanKind`.
#[derive(Clone, Copy)]
enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

/// The numbers of the fields of `Span`.
mod span {
    pub(super) const TRACE_ID: u64 = 1;
    pub(super) const SPAN_ID: u64 = 2;
    pub(super) const TRACE_STATE: u64 = 3;
    pub(super) const PARENT_SPAN_ID: u64 = 4;
    pub(super) const NAME: u64 = 5;
    pub(super) const KIND: u64 = 6;
    pub(super) const START_TIME_UNIX_NANO: u64 = 7;
    pub(super) const END_TIME_UNIX_NANO: u64 = 8;
    pub(super) const ATTRIBUTES: u64 = 9;
    pub(super) const STATUS: u64 = 15;
    pub(super) const FLAGS: u64 = 16;
}

/// The bits of `Span.flags`: W3C's own, and whether the span's parent is known to be remote or not.
const SAMPLED: u32 = 1;
const KNOWS_PARENT: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// The fields of `ScopeSpans`.
const SCOPE: u64 = 1;
const SPANS: u64 = 2;

impl Batch {
    pub(super) fn new(service_name: &str, facts: ServerFacts) -> Self {
        const ATTRIBUTES: u64 = 1;
        let mut resource = Message::default();
        resource.message(1, |resource| {
            for (name, value) in [
                ("service.name", service_name),
                ("telemetry.sdk.name", "wharf"),
                ("telemetry.sdk.language", "rust"),
                ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
            ] {
                text(resource, ATTRIBUTES, name, value);
            }
            number(resource, ATTRIBUTES, "process.pid", u64::from(std::process::id()));
        });
        let mut batch = Self { resource: resource.into_bytes(), facts, scope: Message::default(), spans: 0 };
        batch.begin();
        batch
    }

    fn begin(&mut self) {
        self.scope.message(SCOPE, |scope| {
            scope.bytes(1, b"wharf");
            scope.bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.scope.len() >= ENOUGH_BYTES
    }

    /// Takes the bytes to send and the number of their spans. The next batch begins.
    pub(super) fn take(&mut self) -> (Vec<u8>, u64) {
        let scope = std::mem::take(&mut self.scope).into_bytes();
        let spans = std::mem::take(&mut self.spans);
        self.begin();
        let mut request = Message::default();
        request.message(1, |resource_spans| {
            resource_spans.raw(&self.resource);
            resource_spans.bytes(2, &scope);
        });
        (request.into_bytes(), spans)
    }

    /// Adds a request's spans. Returns how many of them had no room.
    pub(super) fn add(&mut self, served: &Served, clock: Clock) -> u64 {
        let Some(trace) = served.request_id.trace() else { return served.spans() };
        let missed = u64::from(served.request_times.waits.missed);
        self.spans += served.spans() - missed;
        self.request(served, trace, clock);
        let RequestTimes { since, began, made, ended, waits } = &served.request_times;
        if let Some(began) = began {
            self.child(trace, "queue", Kind::Internal, [clock.ns(*since), clock.ns(*began)], |_| {});
        }
        for wait in &waits.kept {
            self.wait(trace, wait, clock);
        }
        if let (Some(began), Some(made)) = (began, made) {
            let before = waits.kept.iter().map(|wait| wait.since + wait.took).filter(|end| end <= made).max();
            let render = [clock.ns(before.unwrap_or(*began)), clock.ns(*made)];
            self.child(trace, "render", Kind::Internal, render, |_| {});
            self.child(trace, "write", Kind::Internal, [clock.ns(*made), clock.ns(*ended)], |_| {});
        }
        missed
    }

    fn request(&mut self, served: &Served, trace: &Trace, clock: Clock) {
        let scheme = if served.is_encrypted { "https" } else { "http" };
        let request_times = &served.request_times;
        let parent = trace.parent();
        let remote = parent.map_or(0, |_| KNOWS_PARENT | PARENT_IS_REMOTE);
        self.scope.message(SPANS, |to| {
            begin(to, trace, trace.span(), parent, SAMPLED | remote);
            named(to, Kind::Server, |name| {
                let method = method(&served.method).unwrap_or("HTTP");
                name.raw(method.as_bytes());
                if let Some(endpoint) = &served.endpoint {
                    name.raw(b" ");
                    name.raw(endpoint.route.as_bytes());
                }
            });
            times(to, [clock.ns(request_times.since), clock.ns(request_times.ended)]);
            about(to, served, scheme);
            outcome(to, served.outcome);
        });
    }

    fn wait(&mut self, trace: &Trace, wait: &Wait, clock: Clock) {
        let ServerFacts { database_system, database_name, .. } = &self.facts;
        let (system, database) = (*database_system, database_name.clone());
        let times = [clock.ns(wait.since), clock.ns(wait.since + wait.took)];
        let error = |to: &mut Message| {
            if let Some(kind) = &wait.error {
                failed(to, kind);
            }
        };
        if wait.state == WorkerState::Pool {
            self.child(trace, "checkout", Kind::Internal, times, error);
            return;
        }
        self.child(trace, &wait.name, Kind::Client, times, |to| {
            text(to, span::ATTRIBUTES, "db.system.name", system);
            text(to, span::ATTRIBUTES, "db.namespace", &database);
            text(to, span::ATTRIBUTES, "db.query.summary", &wait.name);
            if let Some(code) =
                wait.error.as_ref().filter(|code| code.starts_with(|c: char| c.is_ascii_digit()))
            {
                text(to, span::ATTRIBUTES, "db.response.status_code", code);
            }
            error(to);
        });
    }

    /// Writes a span within the request's span.
    fn child(
        &mut self,
        trace: &Trace,
        name: &str,
        kind: Kind,
        [start, end]: [u64; 2],
        more: impl FnOnce(&mut Message),
    ) {
        self.scope.message(SPANS, |to| {
            begin(to, trace, fastrand::u64(1..), Some(trace.span()), SAMPLED | KNOWS_PARENT);
            named(to, kind, |to| to.raw(name.as_bytes()));
            times(to, [start, end]);
            more(to);
        });
    }
}

fn begin(to: &mut Message, trace: &Trace, id: u64, parent: Option<u64>, flags: u32) {
    to.bytes(span::TRACE_ID, &trace.id().to_be_bytes());
    to.bytes(span::SPAN_ID, &id.to_be_bytes());
    if let Some(state) = trace.tracestate() {
        to.bytes(span::TRACE_STATE, state.as_bytes());
    }
    if let Some(parent) = parent {
        to.bytes(span::PARENT_SPAN_ID, &parent.to_be_bytes());
    }
    to.fixed32(span::FLAGS, flags);
}

fn named(to: &mut Message, kind: Kind, name: impl FnOnce(&mut Message)) {
    // A text is encoded like a message of bytes.
    to.message(span::NAME, name);
    to.uint(span::KIND, kind as u64);
}

fn times(to: &mut Message, [start, end]: [u64; 2]) {
    to.fixed64(span::START_TIME_UNIX_NANO, start);
    to.fixed64(span::END_TIME_UNIX_NANO, end.max(start));
}

/// Writes the attributes of the request, its client and its server.
fn about(to: &mut Message, served: &Served, scheme: &str) {
    let known = method(&served.method);
    text(to, span::ATTRIBUTES, "http.request.method", known.unwrap_or("_OTHER"));
    if known.is_none() {
        text(to, span::ATTRIBUTES, "http.request.method_original", served.method.as_str());
    }
    if let Some(endpoint) = &served.endpoint {
        text(to, span::ATTRIBUTES, "http.route", &endpoint.route);
    }
    text(to, span::ATTRIBUTES, "url.path", &served.path);
    text(to, span::ATTRIBUTES, "url.scheme", scheme);
    let version = if served.version == Version::HTTP_10 { "1.0" } else { "1.1" };
    text(to, span::ATTRIBUTES, "network.protocol.version", version);
    if let Some((address, port)) = served.host.as_deref().and_then(address_and_port) {
        text(to, span::ATTRIBUTES, "server.address", address);
        if let Some(port) = port {
            number(to, span::ATTRIBUTES, "server.port", u64::from(port));
        }
    }
    if let Some(client) = served.client {
        text(to, span::ATTRIBUTES, "client.address", &client.to_string());
    }
    if let Some(agent) = &served.user_agent {
        text(to, span::ATTRIBUTES, "user_agent.original", agent);
    }
    text(to, span::ATTRIBUTES, "wharf.request_id", served.request_id.id());
}

/// Writes the outcome. A server's span fails only if the failure is the server's: a 404 is an answer.
fn outcome(to: &mut Message, Outcome { status, failure }: Outcome) {
    if let Some(status) = status {
        number(to, span::ATTRIBUTES, "http.response.status_code", u64::from(status));
    }
    match (failure, status) {
        (Some(failure), None | Some(500..)) => failed(to, failure),
        (Some(failure), _) => text(to, span::ATTRIBUTES, "error.type", failure),
        (None, Some(status @ 500..)) => failed(to, &status.to_string()),
        (None, _) => {}
    }
}

fn failed(to: &mut Message, kind: &str) {
    const CODE: u64 = 3;
    const ERROR: u64 = 2;
    text(to, span::ATTRIBUTES, "error.type", kind);
    to.message(span::STATUS, |status| status.uint(CODE, ERROR));
}

/// Writes a `KeyValue` with a text.
fn text(to: &mut Message, field: u64, key: &str, value: &str) {
    to.message(field, |pair| {
        pair.bytes(1, key.as_bytes());
        pair.message(2, |any| any.bytes(1, value.as_bytes()));
    });
}

/// Writes a `KeyValue` with a whole number.
fn number(to: &mut Message, field: u64, key: &str, value: u64) {
    to.message(field, |pair| {
        pair.bytes(1, key.as_bytes());
        pair.message(2, |any| any.uint(3, value));
    });
}

/// The methods that OpenTelemetry knows. Clients could make up any number of others.
fn method(method: &Method) -> Option<&str> {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
        Method::CONNECT,
        Method::TRACE,
    ];
    known.contains(method).then_some(method.as_str())
}

/// The host and the port in a `Host`, without the brackets of an IPv6 address.
fn address_and_port(host: &str) -> Option<(&str, Option<u16>)> {
    let authority: http::uri::Authority = host.parse().ok()?;
    let port = authority.port_u16();
    let address = authority.host().len();
    Some((host.get(..address)?.trim_matches(['[', ']']), port)).filter(|(address, _)| !address.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_an_address_and_an_optional_port() {
        for (host, parts) in [
            ("example.org", Some(("example.org", None))),
            ("example.org:8080", Some(("example.org", Some(8080)))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("", None),
            (":80", None),
        ] {
            assert_eq!(address_and_port(host), parts, "{host}");
        }
    }

    #[test]
    fn unknown_methods_share_one_name() {
        assert_eq!(method(&Method::DELETE), Some("DELETE"));
        assert_eq!(method(&Method::from_bytes(b"MADE-UP").expect("a token")), None);
    }
}
