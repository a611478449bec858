//! The route of an endpoint, for the reader of its parameters.

use http::Method;

use super::Span;

/// `route = "GET /flights/{id}"`.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: String,
    /// The names in braces.
    pub(super) names: Vec<String>,
    /// The place of the route in the file.
    pub(super) span: Span,
}
