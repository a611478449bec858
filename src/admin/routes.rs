//! The admin listener's paths and their answers. Poller thread of the admin listener.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};
use log::LevelFilter;
use serde_json::json;

use super::access::AdminAccess;
use super::dashboard::Dashboard;
use super::events::Events;
use super::observer::ConditionKind;
use super::readiness::Readiness;
use super::{Source, bad_request};
use crate::exchange::router::{RouteError, Router, Target};
use crate::handler::{Context, Error};
use crate::http::{Request, Response, problem};
use crate::telemetry::metrics::{Buckets, CONTENT_TYPE, Detail};

const OPEN_METRICS: &[u8] = b"application/openmetrics-text";

pub(super) fn router(
    source: &Arc<dyn Source>,
    access: &Arc<AdminAccess>,
    readiness: &Arc<Readiness>,
    events: &Arc<Events>,
) -> Result<Router, RouteError> {
    // These requests get counters of their own, which are never read, so that they do not count as clients'.
    let mut router = Router::new(Arc::default());
    let mut get = |path: &str, answer: Box<dyn Fn(&Request) -> Response + Send + Sync>| {
        router.add(Method::GET, path, Target::Immediate(answer.into()))
    };
    let dashboard = Dashboard::new();
    get("/", Box::new(move |_| dashboard.answer()))?;
    get("/live", Box::new(|_| Response::json("{\"live\":true}\n")))?;
    let (of, knows, seen) = (Arc::clone(source), Arc::clone(access), Arc::clone(readiness));
    get("/ready", Box::new(move |request| ready(&*of, &seen, knows.knows(request))))?;
    let of = Arc::clone(source);
    get("/metrics", Box::new(move |request| metrics(&*of, request)))?;
    let of = Arc::clone(source);
    get("/stats", Box::new(move |_| Response::json(of.stats())))?;
    let of = Arc::clone(source);
    get("/threads", Box::new(move |_| Response::json(of.threads())))?;
    let of = Arc::clone(source);
    get("/config", Box::new(move |_| Response::new(StatusCode::OK, "application/toml", of.config())))?;
    let events = Arc::clone(events);
    get("/events", Box::new(move |_| events.answer()))?;
    let of = Arc::clone(source);
    let level = Target::Immediate(Arc::new(move |request: &Request| set_log_level(&*of, request)));
    router.add(Method::POST, "/log-level", level)?;
    router.add(Method::POST, "/reload", Target::of(reload_without_worker))?;
    Ok(router)
}

/// Answers with `OpenMetrics` if the client accepts it, as Prometheus does. `?routes=off` leaves out the series of single routes, and
/// `?buckets=` chooses how many buckets the histograms have.
fn metrics(source: &dyn Source, request: &Request) -> Response {
    let by_route = match request.query_value("routes").as_deref() {
        None | Some("on") => true,
        Some("off") => false,
        Some(other) => return bad_request(&format!("routes: expected on or off, received {other:?}")),
    };
    let buckets = match request.query_value("buckets").as_deref() {
        None => None,
        Some("fine") => Some(Buckets::Fine),
        Some("coarse") => Some(Buckets::Coarse),
        Some(other) => return bad_request(&format!("buckets: expected fine or coarse, received {other:?}")),
    };
    let detail = Detail { by_route, buckets };
    let accepts =
        |value: &[u8]| value.windows(OPEN_METRICS.len()).any(|part| part.eq_ignore_ascii_case(OPEN_METRICS));
    let mut lines = request.header_lines();
    let open = lines.any(|(name, value)| name.eq_ignore_ascii_case("accept") && accepts(value));
    let [open_type, older_type] = CONTENT_TYPE;
    Response::new(StatusCode::OK, if open { open_type } else { older_type }, source.metrics(open, detail))
}

/// Answers with the names of the reasons, and with their texts if the client may know everything.
fn ready(source: &dyn Source, readiness: &Readiness, details: bool) -> Response {
    let reasons = readiness.reasons(source.is_draining(), Instant::now(), source.load());
    let names: Vec<_> = reasons.iter().map(|(name, _)| *name).collect();
    let mut body = json!({ "ready": names.is_empty(), "reasons": names });
    if details && !reasons.is_empty() {
        let details =
            reasons.into_iter().map(|(name, detail)| (name.to_owned(), explained(source, name, &detail)));
        body["details"] = details.collect();
    }
    let status = if names.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Response::json(format!("{body}\n")).with_status(status)
}

/// The text of a reason, with what the server's condition says about it.
fn explained(source: &dyn Source, reason: &str, detail: &str) -> serde_json::Value {
    let condition = match reason {
        "draining" => ConditionKind::Draining,
        "database" => ConditionKind::DatabaseDown,
        _ => ConditionKind::Saturated,
    };
    match source.why(condition) {
        Some(why) => json!(format!("{detail}: {why}")),
        None => json!(detail),
    }
}

fn set_log_level(source: &dyn Source, request: &Request) -> Response {
    let expected = "level: expected one of off, error, warn, info, debug, trace";
    let Some(level) = requested_level(request) else { return bad_request(expected) };
    let Ok(level) = level.parse::<LevelFilter>() else {
        return bad_request(&format!("{expected}, received {level:?}"));
    };
    match source.set_log_level(level) {
        Ok(before) => {
            log::warn!("the log's level is {}, before {}", word(level), word(before));
            let body = json!({ "level": word(level), "before": word(before) });
            Response::json(format!("{body}\n"))
        }
        Err(reason) => problem(StatusCode::CONFLICT, &reason, &[]),
    }
}

/// The level as `log.level` spells it.
fn word(level: LevelFilter) -> String {
    level.as_str().to_ascii_lowercase()
}

/// The level of the request, from its query, or from its body as JSON or as a form.
fn requested_level(request: &Request) -> Option<String> {
    if let Some(level) = request.query_value("level") {
        return Some(level);
    }
    if let Ok(body) = serde_json::from_slice::<serde_json::Value>(request.body()) {
        return body["level"].as_str().map(str::to_owned);
    }
    let mut pairs = form_urlencoded::parse(request.body());
    pairs.find(|(name, _)| name == "level").map(|(_, value)| value.into_owned())
}

/// The handler of `/reload`, which never runs: the thread that reloads answers by itself.
fn reload_without_worker(_: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, "no worker reloads"))
}
