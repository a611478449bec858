//! The interface for users of the crate: a handler, which is a plain function from request and context to response or
//! error.
//!
//! Worker thread. A handler may block: on the database, on a file, or on its own work.

mod error;
mod policy;
mod query;
mod test_context;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

pub use self::error::Error;
pub(crate) use self::error::{FAILED, outcome_unknown, unavailable};
pub use self::policy::{BodyUse, Policy, Priority};
pub use self::query::{Batched, Parameters, Query, query};
pub(crate) use self::query::{BatchedStatement, Work, Worked};
pub use self::test_context::TestContext;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::request_id::{RequestId, Trace};
use crate::database::{self, Connection, Database};
use crate::http::{Request, Response};
use crate::telemetry::activity::Activity;
use crate::telemetry::journal::{Journal, Ran};

/// Answers requests on a worker thread. Every `fn(&Request, &mut Context) -> Result<Response, Error>` is a handler.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// The answer that the client gets instead; see [`Error`].
    fn handle(&self, request: &Request, context: &mut Context<'_>) -> Result<Response, Error>;

    /// The rules for its requests. The server asks for them once, when the route is added. A handler that wraps another
    /// one passes on the inner policy, or sets rules before it: `Policy::new().deadline(…).or(self.inner.policy())`.
    fn policy(&self) -> Policy {
        Policy::default()
    }

    /// How several of its requests share a round trip to the database; see [`query`](fn@query). The server asks once,
    /// when the route is added. Such requests bypass [`handle`](Self::handle). So a handler that wraps another one
    /// passes this on only if it does nothing else. Without this, requests are answered one by one.
    fn batched(&self) -> Option<Batched> {
        None
    }

    /// This handler with a policy. The handler's own policy applies where the new one sets no rule.
    ///
    /// ```
    /// use wharf::handler::{Context, Error, Handler as _, Policy};
    /// use wharf::http::{Method, Request, Response};
    ///
    /// fn upload(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
    ///     let bytes = std::io::copy(&mut request.reader(), &mut std::io::sink())?;
    ///     Ok(Response::text(format!("{bytes} bytes")))
    /// }
    ///
    /// # fn main() -> Result<(), wharf::server::StartError> {
    /// # let mut config = wharf::config::Config::default();
    /// # config.server.workers = Some(1);
    /// # let server = wharf::server::Server::new(config)?;
    /// let large = Policy::streaming().max_body_bytes(8 << 30);
    /// let server = server.route(Method::PUT, "/upload", upload.with(large));
    /// # drop(server);
    /// # Ok(())
    /// # }
    /// ```
    fn with(self, policy: Policy) -> With<Self>
    where
        Self: Sized,
    {
        With { handler: self, policy }
    }
}

/// A handler with a policy; see [`Handler::with`].
#[derive(Clone, Debug)]
pub struct With<H> {
    handler: H,
    policy: Policy,
}

impl<H: Handler> Handler for With<H> {
    fn handle(&self, request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
        self.handler.handle(request, context)
    }

    fn policy(&self) -> Policy {
        self.policy.clone().or(self.handler.policy())
    }

    fn batched(&self) -> Option<Batched> {
        self.handler.batched()
    }
}

impl<F> Handler for F
where
    F: Fn(&Request, &mut Context<'_>) -> Result<Response, Error> + Send + Sync + 'static,
{
    fn handle(&self, request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
        self(request, context)
    }
}

/// Gives a closure the types of a handler's arguments, where it has a [policy](Handler::with) or goes into a variable.
/// The methods of [`Server`](crate::server::Server) that are named after HTTP's methods need no such help.
///
/// ```
/// use wharf::handler::{Handler as _, Policy, function};
/// use wharf::http::Response;
///
/// let slow = function(|request, _| Ok(Response::text(request.path().to_owned())))
///     .with(Policy::new().max_concurrency(1));
/// ```
pub fn function<F>(function: F) -> F
where
    F: Fn(&Request, &mut Context<'_>) -> Result<Response, Error> + Send + Sync + 'static,
{
    function
}

/// The means that a handler has besides the request.
#[derive(Debug)]
pub struct Context<'a> {
    pub(crate) deadline: Deadline,
    pub(crate) database: Option<&'a Database>,
    pub(crate) client: &'a Presence,
    pub(crate) activity: &'a Activity,
    pub(crate) request_id: Option<&'a RequestId>,
    pub(crate) journal: &'a Journal,
}

impl Context<'_> {
    /// The time by which the client must have its answer. Checkouts and statements end by then without the handler's
    /// help.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Whether the client has left, so that nobody waits for the answer. The wait for a connection and the statements
    /// on it then end early. A handler that works for long without the database asks here.
    pub fn client_has_left(&self) -> bool {
        self.client.has_left()
    }

    /// The request's id; see [`Request::id`].
    pub fn request_id(&self) -> &str {
        self.request_id.map_or("", RequestId::id)
    }

    /// The `traceparent` for a request that the handler sends to another service, so that both belong to one trace.
    /// `None` where `tracing.propagate` is false.
    pub fn traceparent(&self) -> Option<String> {
        self.trace().map(Trace::traceparent)
    }

    /// The `tracestate` for such a request, if there is one.
    pub fn tracestate(&self) -> Option<&str> {
        self.trace()?.tracestate()
    }

    fn trace(&self) -> Option<&Trace> {
        self.request_id?.trace()
    }

    /// Notes a statement that has run or failed. `name` is the statement's name; `values` are its parameters, as far as
    /// a log may show them.
    pub(crate) fn note_statement(&self, name: &str, took: Duration, values: &dyn Fn() -> String) {
        self.journal.ran(&Ran { name, took, values, request_id: self.request_id });
    }

    /// Notes that the statements run once more, after a collision with another transaction.
    pub(crate) fn note_retry(&self) {
        if let Some(database) = self.database {
            database.metrics().retries.fetch_add(1, Relaxed);
        }
    }

    /// Borrows a database connection; dropping it gives it back.
    ///
    /// # Errors
    /// No connection became free in time, or the database is down (both 503); the server has no database (500); or the
    /// client has left.
    pub fn database(&self) -> Result<Connection, database::Error> {
        let database = self.database.ok_or(database::Error::NotConfigured)?;
        let mut connection = database.checkout_for(self.client, self.activity, self.deadline)?;
        if connection.names_requests() {
            connection.name_request(self.request_id(), &self.traceparent().unwrap_or_default());
        }
        Ok(connection)
    }
}
