//! Method and path → what answers. Poller thread; built once, read only.
//!
//! Paths are matchit's: `/flights/{id}`, `{name}` for one segment, `{*rest}` for all that follows.

use std::ops::Range;
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode};

use crate::handler::Handler;
use crate::http::{Request, Response, problem};

/// What a route leads to.
#[derive(Clone)]
pub enum Target {
    /// Answered on the poller: the function must not block.
    Immediate(Arc<dyn Fn(&Request) -> Response + Send + Sync>),
    /// Answered by a worker.
    Handler(Arc<dyn Handler>),
}

/// Every route of a server.
#[derive(Default)]
pub struct Router {
    /// Path → index into `paths`.
    tree: matchit::Router<usize>,
    paths: Vec<Path>,
}

/// One path with its methods.
struct Path {
    text: String,
    /// The names of `{name}`, in their order; `None` for a path without.
    names: Option<Arc<[Box<str>]>>,
    methods: Vec<(Method, Target)>,
}

/// Why a route was not added.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Method and path are taken.
    #[error("{0} {1} has two handlers")]
    Duplicate(Method, String),
    /// The path is malformed, or cannot stand beside another.
    #[error("{path}: {reason}")]
    Path {
        /// The path.
        path: String,
        /// What matchit says of it.
        reason: matchit::InsertError,
    },
}

impl Router {
    /// Adds a route.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn add(&mut self, method: Method, path: &str, target: Target) -> Result<(), RouteError> {
        if let Some(known) = self.paths.iter_mut().find(|known| known.text == path) {
            if known.methods.iter().any(|(taken, _)| *taken == method) {
                return Err(RouteError::Duplicate(method, path.to_owned()));
            }
            known.methods.push((method, target));
            return Ok(());
        }
        self.tree
            .insert(path, self.paths.len())
            .map_err(|reason| RouteError::Path { path: path.to_owned(), reason })?;
        let names: Arc<[Box<str>]> = parameter_names(path).map(Box::from).collect();
        let names = (!names.is_empty()).then_some(names);
        self.paths.push(Path { text: path.to_owned(), names, methods: vec![(method, target)] });
        Ok(())
    }

    /// Finds what answers the request and writes the path's values into it.
    ///
    /// # Errors
    /// The answer, where no route does: 404, 405 or 501, or `Allow` for `OPTIONS`.
    pub fn route(&self, request: &mut Request) -> Result<&Target, Response> {
        let (path, values) = self.find(request)?;
        request.path_values = values;
        request.path_names.clone_from(&path.names);
        path.target(request.method())
    }

    /// The answer to a request that no route answers.
    pub fn refuses(&self, request: &Request) -> Option<Response> {
        self.find(request).and_then(|(path, _)| path.target(request.method())).err()
    }

    /// The path that matches, and where its values stand in the request's head.
    fn find(&self, request: &Request) -> Result<(&Path, Vec<Range<usize>>), Response> {
        let text = request.path();
        if text == "*" {
            return Err(Response::empty(StatusCode::NO_CONTENT));
        }
        let found = self.tree.at(text).map_err(|_| not_found())?;
        let offset = |value: &str| {
            let at = request.path.start + (value.as_ptr() as usize - text.as_ptr() as usize);
            at..at + value.len()
        };
        let values = found.params.iter().map(|(_, value)| offset(value)).collect();
        Ok((&self.paths[*found.value], values))
    }
}

impl Path {
    fn target(&self, method: &Method) -> Result<&Target, Response> {
        let find = |wanted: &Method| {
            self.methods.iter().find(|(known, _)| known == wanted).map(|(_, target)| target)
        };
        match find(method) {
            Some(target) => Ok(target),
            None if *method == Method::HEAD && find(&Method::GET).is_some() => {
                find(&Method::GET).ok_or_else(not_found)
            }
            None if *method == Method::OPTIONS => {
                Err(Response::empty(StatusCode::NO_CONTENT).with_header(http::header::ALLOW, self.allow()))
            }
            None if !is_standard(method) => {
                let detail = "the method is none that HTTP defines";
                Err(problem(StatusCode::NOT_IMPLEMENTED, detail, &[]))
            }
            None => {
                let detail = "the path is known, but not with this method; see Allow";
                let response = problem(StatusCode::METHOD_NOT_ALLOWED, detail, &[]);
                Err(response.with_header(http::header::ALLOW, self.allow()))
            }
        }
    }

    /// The methods of this path, with those that come by themselves.
    fn allow(&self) -> HeaderValue {
        let mut names: Vec<&str> = self.methods.iter().map(|(method, _)| method.as_str()).collect();
        if names.contains(&"GET") && !names.contains(&"HEAD") {
            names.push("HEAD");
        }
        if !names.contains(&"OPTIONS") {
            names.push("OPTIONS");
        }
        // Methods are tokens, so their list is a header value.
        HeaderValue::from_str(&names.join(", ")).unwrap_or(HeaderValue::from_static("OPTIONS"))
    }
}

fn is_standard(method: &Method) -> bool {
    use Method as M;
    [M::GET, M::HEAD, M::POST, M::PUT, M::DELETE, M::PATCH, M::OPTIONS, M::TRACE, M::CONNECT].contains(method)
}

fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "no endpoint has this path", &[])
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
        let mut router = Router::default();
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
        let limits =
            Limits { max_head_bytes: 1000, max_target_bytes: 1000, max_headers: 9, max_body_bytes: 0 };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        parse_head(head.as_bytes(), &limits).expect("a request").request
    }

    fn ask(method: &str, path: &str) -> (u16, String) {
        let mut request = request(method, path);
        let response = match router().route(&mut request) {
            Ok(Target::Immediate(answer)) => answer(&request),
            Ok(Target::Handler(_)) => panic!("no handler was added"),
            Err(response) => response,
        };
        let allow = response.headers().get("allow").map(|value| value.to_str().expect("ASCII").to_owned());
        let body = String::from_utf8(response.body().to_vec()).expect("text");
        (response.status().as_u16(), allow.unwrap_or(body))
    }

    #[test]
    fn method_and_path_find_their_target() {
        assert_eq!(ask("GET", "/a/7?x=/b"), (200, "GET /a/{id}".into()));
        assert_eq!(ask("POST", "/a/7"), (200, "POST /a/{id}".into()));
        assert_eq!(ask("HEAD", "/a/7"), (200, "GET /a/{id}".into()), "HEAD is answered as GET");
        assert_eq!(ask("GET", "/f/x/y"), (200, "GET /f/{*rest}".into()));
    }

    #[test]
    fn what_has_no_target_is_told_why() {
        assert_eq!(ask("GET", "/nothing").0, 404);
        assert_eq!(ask("PUT", "/a/7"), (405, "GET, POST, HEAD, OPTIONS".into()));
        assert_eq!(ask("HEAD", "/b"), (405, "DELETE, OPTIONS".into()));
        assert_eq!(ask("OPTIONS", "/b"), (204, "DELETE, OPTIONS".into()));
        assert_eq!(ask("OPTIONS", "*").0, 204);
        assert_eq!(ask("BREW", "/a/7").0, 501);
    }

    #[test]
    fn path_values_are_found_by_name() {
        let (router, mut request) = (router(), request("GET", "/a/x%20y"));
        assert!(router.route(&mut request).is_ok());
        assert_eq!(request.path_value("id"), Some("x%20y"));
        assert_eq!(request.path_value("other"), None);
    }

    #[test]
    fn routes_that_collide_are_refused() {
        let target = || Target::Immediate(Arc::new(|_: &Request| Response::text("")));
        let mut router = router();
        assert!(matches!(router.add(Method::GET, "/a/{id}", target()), Err(RouteError::Duplicate(..))));
        assert!(matches!(router.add(Method::GET, "/a/{other}", target()), Err(RouteError::Path { .. })));
        assert!(matches!(router.add(Method::GET, "/x/{id", target()), Err(RouteError::Path { .. })));
    }
}
