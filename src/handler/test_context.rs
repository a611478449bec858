//! The context of a handler that a test calls.

use std::fmt;
use std::time::Duration;

use super::Context;
use crate::base::deadline::Deadline;
use crate::base::presence::Presence;
use crate::database::Database;
use crate::telemetry::activity::Activity;
use crate::telemetry::journal::Journal;

/// Makes a [`Context`] for a test that calls a handler directly. [`Server::client`](crate::server::Server::client)
/// tests routes, policies and limits too.
///
/// ```
/// use wharf::handler::{Context, Error, TestContext};
/// use wharf::http::{Request, Response};
///
/// fn greet(request: &Request, _: &mut Context<'_>) -> Result<Response, Error> {
///     let name = request.path_value("name").unwrap_or("stranger");
///     Ok(Response::text(format!("Hello, {name}!")))
/// }
///
/// let request = Request::builder().path_value("name", "Ada").build()?;
/// let response = greet(&request, &mut TestContext::new().context())?;
/// assert_eq!(response.body(), b"Hello, Ada!");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct TestContext {
    database: Option<Database>,
    allowance: Option<Duration>,
    client: Presence,
    activity: Activity,
    journal: Journal,
}

/// The default of `server.deadline`.
const ALLOWANCE: Duration = Duration::from_secs(5);

impl TestContext {
    /// A context without a database, and with five seconds for each request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a database.
    #[must_use]
    pub fn with_database(self, database: Database) -> Self {
        Self { database: Some(database), ..self }
    }

    /// Sets the time for each request.
    #[must_use]
    pub fn with_deadline(self, allowance: Duration) -> Self {
        Self { allowance: Some(allowance), ..self }
    }

    /// The context of one request, whose time begins now.
    pub fn context(&self) -> Context<'_> {
        Context {
            deadline: Deadline::after(self.allowance.unwrap_or(ALLOWANCE)),
            database: self.database.as_ref(),
            client: &self.client,
            activity: &self.activity,
            request_id: None,
            journal: &self.journal,
        }
    }
}

impl fmt::Debug for TestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestContext").field("allowance", &self.allowance).finish_non_exhaustive()
    }
}
