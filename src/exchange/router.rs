//! Finds the target of a method and a path. Poller thread; built once, then only read.
//!
//! Paths have matchit's form: `/flights/{id}`, `{name}` for one segment, `{*rest}` for the whole rest.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode};

use crate::base::queue::LaneSpec;
use crate::handler::{Batched, Handler, Policy};
use crate::http::{PathValue, Request, Response, normal_path, problem, sent_offset};
use crate::telemetry::metrics::{Endpoint, Metrics};

/// The target of a route.
#[derive(Clone)]
pub(crate) enum Target {
    /// Answered on the poller: the function must not block.
    Immediate(Arc<dyn Fn(&Request) -> Response + Send + Sync>),
    /// Answered by a worker.
    Handler(Answerer),
}

/// A handler and the rules of its route. The handler is asked for them once, so that the poller runs none of its code.
#[derive(Clone)]
pub(crate) struct Answerer {
    /// The handler.
    pub handler: Arc<dyn Handler>,
    /// See [`Handler::policy`].
    pub policy: Policy,
    /// See [`Handler::batched`].
    pub batched: Option<Batched>,
    /// The index in [`Router::lanes`] of the lane in which its requests wait.
    pub lane: usize,
}

impl Target {
    /// A handler's target.
    pub(crate) fn of(handler: impl Handler) -> Self {
        let (policy, batched) = (handler.policy(), handler.batched());
        Self::Handler(Answerer { handler: Arc::new(handler), policy, batched, lane: 0 })
    }
}

/// Every route of a server. Each method has its own tree, so that `GET /a/{id}` and `DELETE /a/{name}` may stand side
/// by side.
pub(crate) struct Router {
    metrics: Arc<Metrics>,
    methods: Vec<(Method, matchit::Router<Route>)>,
    lanes: Vec<LaneSpec>,
}

struct Route {
    /// The names of `{name}`, in their order. `None`: the path has none.
    names: Option<Arc<[Box<str>]>>,
    target: Target,
    endpoint: Arc<Endpoint>,
}

/// A matching route, and the path's values.
type Found<'a> = (&'a Route, Vec<PathValue>);

/// A route was not added: it exists already, it collides with another, or its path is malformed.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path}: {reason}")]
pub struct RouteError {
    /// The route's method.
    method: Method,
    /// Its path.
    path: String,
    /// matchit's reason.
    reason: matchit::InsertError,
}

impl Router {
    /// A router without routes. It counts requests in these metrics.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, methods: Vec::new(), lanes: Vec::new() }
    }

    /// Adds a route.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub(crate) fn add(&mut self, method: Method, path: &str, mut target: Target) -> Result<(), RouteError> {
        if let Target::Handler(answerer) = &mut target {
            let (priority, max_concurrency) = (answerer.policy.rank(), answerer.policy.max_concurrency);
            let name = max_concurrency.map(|_| format!("{method} {path}"));
            answerer.lane = self.lane(LaneSpec { name, priority, max_concurrency });
        }
        let names: Arc<[Box<str>]> = parameter_names(path).map(Box::from).collect();
        let endpoint = self.metrics.endpoint(method.as_str(), path);
        endpoint.hide_query(matches!(&target, Target::Handler(answerer) if answerer.policy.hides_query()));
        let route = Route { names: (!names.is_empty()).then_some(names), target, endpoint };
        let index = self.methods.iter().position(|(known, _)| *known == method).unwrap_or_else(|| {
            self.methods.push((method.clone(), matchit::Router::new()));
            self.methods.len() - 1
        });
        let inserted = self.methods[index].1.insert(normal_path(path), route);
        inserted.map_err(|reason| RouteError { method, path: path.to_owned(), reason })
    }

    /// The lanes of the queue that the routes need.
    pub(crate) fn lanes(&self) -> &[LaneSpec] {
        &self.lanes
    }

    fn lane(&mut self, spec: LaneSpec) -> usize {
        self.lanes.iter().position(|lane| *lane == spec).unwrap_or_else(|| {
            self.lanes.push(spec);
            self.lanes.len() - 1
        })
    }

    /// Finds the target and the metrics of the request's endpoint, and writes the path's values into the request.
    ///
    /// # Errors
    /// The answer if no route matches: 404, 405 or 501, or `Allow` for `OPTIONS`.
    pub(crate) fn route(&self, request: &mut Request) -> Result<(&Target, &Arc<Endpoint>), Response> {
        let (route, values) = self.find(request).ok_or_else(|| self.refusal(request))?;
        request.path_values = values;
        request.path_names.clone_from(&route.names);
        Ok((&route.target, &route.endpoint))
    }

    /// The metrics of the request's endpoint, if a route matches.
    pub(crate) fn endpoint(&self, request: &Request) -> Option<&Arc<Endpoint>> {
        self.find(request).map(|(route, _)| &route.endpoint)
    }

    /// Finds the target of a request of which only the head has come.
    ///
    /// # Errors
    /// As [`Router::route`].
    pub(crate) fn target(&self, request: &Request) -> Result<&Target, Response> {
        self.find(request).map(|(route, _)| &route.target).ok_or_else(|| self.refusal(request))
    }

    /// The route for the request's method; `HEAD` is answered as `GET` (RFC 9110 section 9.3.2).
    fn find(&self, request: &Request) -> Option<Found<'_>> {
        let of = |wanted: &Method| {
            let (_, tree) = self.methods.iter().find(|(known, _)| known == wanted)?;
            let text = request.path();
            match normal_path(text) {
                Cow::Borrowed(_) => {
                    let found = tree.at(text).ok()?;
                    let offset = |value: &str| {
                        let at = request.path.start + (value.as_ptr() as usize - text.as_ptr() as usize);
                        PathValue::Sent(at..at + value.len())
                    };
                    Some((found.value, found.params.iter().map(|(_, value)| offset(value)).collect()))
                }
                Cow::Owned(normal) => {
                    let found = tree.at(&normal).ok()?;
                    let sent = |value: &str| {
                        let at = value.as_ptr() as usize - normal.as_ptr() as usize;
                        &text[sent_offset(text, at)..sent_offset(text, at + value.len())]
                    };
                    let values = found.params.iter().map(|(_, value)| PathValue::escaped(sent(value)));
                    Some((found.value, values.collect()))
                }
            }
        };
        match *request.method() {
            Method::HEAD => of(&Method::HEAD).or_else(|| of(&Method::GET)),
            ref method => of(method),
        }
    }

    fn refusal(&self, request: &Request) -> Response {
        let method = request.method();
        if request.path() == "*" {
            return Response::empty(StatusCode::NO_CONTENT);
        }
        if !is_standard(method) {
            return problem(StatusCode::NOT_IMPLEMENTED, "the method is not one that HTTP defines", &[]);
        }
        let Some(allow) = self.allow(request.path()) else {
            return problem(StatusCode::NOT_FOUND, "no endpoint has this path", &[]);
        };
        let response = if *method == Method::OPTIONS {
            Response::empty(StatusCode::NO_CONTENT)
        } else {
            let detail = "the path is known, but not with this method; see Allow";
            problem(StatusCode::METHOD_NOT_ALLOWED, detail, &[])
        };
        response.with_header(http::header::ALLOW, allow)
    }

    /// The methods of the path, with those that every path has. `None`: no route has this path.
    fn allow(&self, path: &str) -> Option<HeaderValue> {
        let path = normal_path(path);
        let with_path = self.methods.iter().filter(|(_, tree)| tree.at(&path).is_ok());
        let mut names: Vec<&str> = with_path.map(|(method, _)| method.as_str()).collect();
        if names.is_empty() {
            return None;
        }
        for (implied, present) in [("HEAD", names.contains(&"GET")), ("OPTIONS", true)] {
            if present && !names.contains(&implied) {
                names.push(implied);
            }
        }
        // Methods are tokens, so their list is a valid header value.
        HeaderValue::from_str(&names.join(", ")).ok()
    }
}

fn is_standard(method: &Method) -> bool {
    use Method as M;
    [M::GET, M::HEAD, M::POST, M::PUT, M::DELETE, M::PATCH, M::OPTIONS, M::TRACE, M::CONNECT].contains(method)
}

/// The names of `{name}` and `{*name}` in a route's path.
fn parameter_names(path: &str) -> impl Iterator<Item = &str> {
    path.split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name.trim_start_matches('*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Limits, parse_head};

    fn router() -> Router {
        let mut router = Router::new(Arc::default());
        for (method, path) in [
            (Method::GET, "/a/{id}"),
            (Method::POST, "/a/{id}"),
            (Method::DELETE, "/b"),
            (Method::GET, "/f/{*rest}"),
        ] {
            let named = format!("{method} {path}");
            let target = Target::Immediate(Arc::new(move |_| Response::text(named.clone())));
            router.add(method, path, target).expect("a new route");
        }
        router
    }

    fn request(method: &str, path: &str) -> Request {
        let limits = Limits { max_head_bytes: 1000, max_target_bytes: 1000, max_headers: 9 };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        parse_head(head.as_bytes(), &limits).expect("a request").request
    }

    fn answer(method: &str, path: &str) -> (u16, String) {
        let mut request = request(method, path);
        let response = match router().route(&mut request) {
            Ok((Target::Immediate(function), _)) => function(&request),
            Ok((Target::Handler(_), _)) => panic!("no handler was added"),
            Err(response) => response,
        };
        let allow = response.headers().get("allow").map(|value| value.to_str().expect("ASCII").to_owned());
        let body = String::from_utf8(response.body().to_vec()).expect("text");
        (response.status().as_u16(), allow.unwrap_or(body))
    }

    #[test]
    fn method_and_path_find_their_target() {
        assert_eq!(answer("GET", "/a/7?x=/b"), (200, "GET /a/{id}".into()));
        assert_eq!(answer("POST", "/a/7"), (200, "POST /a/{id}".into()));
        assert_eq!(answer("HEAD", "/a/7"), (200, "GET /a/{id}".into()), "HEAD is answered as GET");
        assert_eq!(answer("GET", "/f/x/y"), (200, "GET /f/{*rest}".into()));
    }

    #[test]
    fn a_request_without_a_target_gets_the_reason() {
        assert_eq!(answer("GET", "/nothing").0, 404);
        assert_eq!(answer("PUT", "/a/7"), (405, "GET, POST, HEAD, OPTIONS".into()));
        assert_eq!(answer("HEAD", "/b"), (405, "DELETE, OPTIONS".into()));
        assert_eq!(answer("OPTIONS", "/b"), (204, "DELETE, OPTIONS".into()));
        assert_eq!(answer("OPTIONS", "*").0, 204);
        assert_eq!(answer("BREW", "/a/7").0, 501);
    }

    #[test]
    fn path_values_are_found_by_name() {
        let (router, mut request) = (router(), request("GET", "/a/x%20y"));
        assert!(router.route(&mut request).is_ok());
        assert_eq!((request.path_value("id"), request.raw_path_value("id")), (Some("x y"), Some("x%20y")));
        assert_eq!(request.path_value("other"), None);
    }

    #[test]
    fn routes_that_collide_are_refused() {
        let target = || Target::Immediate(Arc::new(|_: &Request| Response::text("")));
        let mut router = router();
        assert!(router.add(Method::GET, "/a/{id}", target()).is_err());
        assert!(router.add(Method::GET, "/a/{other}", target()).is_err());
        assert!(router.add(Method::GET, "/x/{id", target()).is_err());
        assert!(router.add(Method::DELETE, "/a/{other}", target()).is_ok(), "another method, another name");
    }
}
