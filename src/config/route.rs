//! The route of an endpoint, as its parameters need it.

use http::Method;

use super::Span;

/// `route = "GET /flights/{id}"`.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: String,
    /// The names between braces.
    pub(super) names: Vec<String>,
    /// Where the route stands.
    pub(super) span: Span,
}
