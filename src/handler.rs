//! What users of the crate write: a handler, a plain function from request and context to response or error.
//!
//! Worker thread. A handler may block: on the database, on a file, on whatever it does itself.

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
pub(crate) use self::query::{BatchedStatement, Mean};
pub use self::test_context::TestContext;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::base::request_id::{RequestId, Trace};
use crate::database::{self, Connection, Database};
use crate::http::{Request, Response};
use crate::telemetry::activity::Activity;
use crate::telemetry::journal::{Journal, Ran};

/// Answers requests on a worker thread. Every `fn(&Request, &mut Context) -> Result<Response, Error>` is one.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// What the client is to be told instead; see [`Error`].
    fn handle(&self, request: &Request, context: &mut Context<'_>) -> Result<Response, Error>;

    /// The rules that its requests are served by. Asked once, when its route is added. A handler around another one passes on the
    /// policy of the other, or sets rules before it: `Policy::new().deadline(…).or(self.inner.policy())`.
    fn policy(&self) -> Policy {
        Policy::default()
    }

    /// How its requests are answered where several share a round trip to the database; see [`query`](fn@query). Asked once, when its
    /// route is added. Such requests pass [`handle`](Self::handle) by. So a handler around another one passes this on only if it
    /// does nothing else; without it the requests are answered one by one.
    fn batched(&self) -> Option<Batched> {
        None
    }

    /// This handler with a policy. Where the policy says nothing, the handler's own one counts.
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

/// Gives a closure the types of a handler's arguments, where it has a [policy](Handler::with) or goes into a variable. The methods
/// of [`Server`](crate::server::Server) that are named after HTTP's do so by themselves.
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

/// What a handler works with beside the request.
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
    /// By when the client has its answer. Checkouts and statements end with it by themselves.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Whether the client has left, so that nobody waits for the answer. The wait for a connection and the statements on it
    /// end by themselves then; a handler that works for long without the database asks here.
    pub fn client_has_left(&self) -> bool {
        self.client.has_left()
    }

    /// The request's id; see [`Request::id`].
    pub fn request_id(&self) -> &str {
        self.request_id.map_or("", RequestId::id)
    }

    /// What a request that the handler makes of another service says in `traceparent`, so that it belongs to the same trace;
    /// `None` where `tracing.propagate` is false.
    pub fn traceparent(&self) -> Option<String> {
        self.trace().map(Trace::traceparent)
    }

    /// And in `tracestate`, if anything.
    pub fn tracestate(&self) -> Option<&str> {
        self.trace()?.tracestate()
    }

    fn trace(&self) -> Option<&Trace> {
        self.request_id?.trace()
    }

    /// A statement has run, or failed. `name`: what it is called; `values`: what it was run with, as far as that may be shown.
    pub(crate) fn note_statement(&self, name: &str, took: Duration, values: &dyn Fn() -> String) {
        self.journal.ran(&Ran { name, took, values, request_id: self.request_id });
    }

    /// The statements run once more, after a collision with another transaction.
    pub(crate) fn note_retry(&self) {
        if let Some(database) = self.database {
            database.metrics().retries.fetch_add(1, Relaxed);
        }
    }

    /// Borrows a database connection; dropping it gives it back.
    ///
    /// # Errors
    /// When none is free in time, or the database is down (both 503), or the server has no database (500), or the client
    /// has left.
    pub fn database(&self) -> Result<Connection, database::Error> {
        let database = self.database.ok_or(database::Error::NotConfigured)?;
        let mut connection = database.checkout_for(self.client, self.activity, self.deadline)?;
        if connection.names_requests() {
            connection.name_request(self.request_id(), &self.traceparent().unwrap_or_default());
        }
        Ok(connection)
    }
}
