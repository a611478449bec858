//! The rules for a route's requests.

use std::time::Duration;

pub use crate::base::queue::Priority;

/// The rules for a route's requests, apart from the handler. They are the same for the configuration's endpoints and
/// for handlers in Rust. Where a rule is not set, the server's applies.
///
/// ```
/// use std::time::Duration;
/// use wharf::handler::{Policy, Priority};
///
/// let report = Policy::new()
///     .deadline(Duration::from_secs(30))
///     .max_concurrency(2)
///     .priority(Priority::Low);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    pub(crate) deadline: Option<Duration>,
    body: Option<BodyUse>,
    pub(crate) max_body_bytes: Option<usize>,
    pub(crate) max_concurrency: Option<usize>,
    priority: Option<Priority>,
    hides_query: Option<bool>,
}

/// The way in which a handler takes a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyUse {
    /// In memory and whole. No worker waits for a client that sends the body slowly.
    #[default]
    Whole,
    /// As a stream, if it is longer than `http.buffer_body_bytes`. The body takes no more memory than that, and
    /// occupies a worker while it comes.
    Stream,
}

impl Policy {
    /// The server's rules only.
    pub fn new() -> Self {
        Self::default()
    }

    /// The rules of a handler that takes request bodies as a stream; see [`Request::reader`](crate::http::Request::reader).
    ///
    /// A body up to `http.buffer_body_bytes` has come whole when the handler begins. Of a longer body the beginning has
    /// come, and the handler reads the rest as it comes.
    pub fn streaming() -> Self {
        Self::new().body(BodyUse::Stream)
    }

    /// Sets the time for a whole request, its body and its answer included, in place of `server.deadline`.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Sets how the handler takes a request's body. The default is whole.
    #[must_use]
    pub fn body(self, body: BodyUse) -> Self {
        Self { body: Some(body), ..self }
    }

    /// Sets the length of the longest body, in bytes, in place of `http.max_body_bytes`.
    #[must_use]
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        Self { max_body_bytes: Some(bytes), ..self }
    }

    /// Limits the number of the route's requests that workers have at once, at least one. Further requests wait in a
    /// lane of their own, so that the route cannot take the last worker from other routes. The default is the number of
    /// workers.
    #[must_use]
    pub fn max_concurrency(self, requests: usize) -> Self {
        Self { max_concurrency: Some(requests.max(1)), ..self }
    }

    /// Sets the order in which waiting requests get a worker. The default is [`Priority::Normal`].
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        Self { priority: Some(priority), ..self }
    }

    /// Says whether a request's query may hold a secret, which no log then shows. The default is no.
    #[must_use]
    pub fn hide_query(self, hides: bool) -> Self {
        Self { hides_query: Some(hides), ..self }
    }

    /// These rules, completed by the rules of `other`.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "rules to come are texts and functions")]
    pub fn or(self, other: Self) -> Self {
        let Self { deadline, body, max_body_bytes, max_concurrency, priority, hides_query } = other;
        Self {
            deadline: self.deadline.or(deadline),
            body: self.body.or(body),
            max_body_bytes: self.max_body_bytes.or(max_body_bytes),
            max_concurrency: self.max_concurrency.or(max_concurrency),
            priority: self.priority.or(priority),
            hides_query: self.hides_query.or(hides_query),
        }
    }

    pub(crate) fn body_use(&self) -> BodyUse {
        self.body.unwrap_or_default()
    }

    pub(crate) fn rank(&self) -> Priority {
        self.priority.unwrap_or_default()
    }

    pub(crate) fn hides_query(&self) -> bool {
        self.hides_query.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policys_open_rules_come_from_the_policy_beneath() {
        let second = Duration::from_secs(1);
        let beneath = Policy::streaming().deadline(second).priority(Priority::High).hide_query(true);
        let policy = Policy::new().deadline(2 * second).hide_query(false).max_concurrency(0).or(beneath);
        assert_eq!(policy.deadline, Some(2 * second));
        assert_eq!((policy.body_use(), policy.rank()), (BodyUse::Stream, Priority::High));
        assert_eq!((policy.max_concurrency, policy.max_body_bytes), (Some(1), None));
        assert!(!policy.hides_query());
        assert_eq!(Policy::new().or(Policy::new()), Policy::default());
    }
}
