//! SQL endpoints: the configuration's endpoints as handlers.
//!
//! Worker thread. [`targets`] and [`check`] run on the main thread before the server starts.

mod bind;
mod check;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};

pub(crate) use check::{check, check_on, check_samples};

use crate::base::value::Value;
use crate::config::{self, Action, Config, Otherwise, Returns};
use crate::database::{
    self, Access, Answer, Connection, Database, Form, Question, RowWriter, Shape, Statement, Steps,
};
use crate::exchange::router::Target;
use crate::handler::{Batched, BatchedStatement, Context, Error, Handler, Policy, Work, Worked};
use crate::http::{Request, Response};

/// The most runs of a request's statements before a collision with another transaction becomes its answer. The pauses
/// between them add up to fifteen times the first. A collision that outlasts them is contention, which further runs
/// would only increase.
const ATTEMPTS_MAX: u32 = 5;

/// The shortest and the longest pause before the second attempt. Each further pause is twice as long. The first pause
/// is about as long as a short transaction, so that the rival has finished. It is random, so that rivals do not collide
/// again.
const PAUSE_US: RangeInclusive<u64> = 1000..=5000;

/// The targets of the configuration's endpoints, for the router. Without a database only endpoints with a fixed body
/// are left. This surprises nobody, because such a configuration is refused earlier.
pub(crate) fn targets(config: &Config, database: Option<&Database>) -> Vec<(Method, String, Target)> {
    let targets = config.endpoints.iter().filter_map(|endpoint| {
        let target = match &endpoint.action {
            Action::Fixed { body, content_type } => fixed(endpoint.status, body, content_type),
            Action::Sql { .. } => Target::of(Arc::new(SqlEndpoint::new(endpoint, database?, config)?)),
        };
        Some((endpoint.method.clone(), endpoint.path.clone(), target))
    });
    targets.collect()
}

fn fixed(status: StatusCode, body: &str, content_type: &str) -> Target {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let content_type = HeaderValue::from_str(content_type).ok();
    Target::Immediate(Arc::new(move |_| {
        let response = Response::empty(status).with_body(body.clone());
        match &content_type {
            Some(value) => response.with_header(http::header::CONTENT_TYPE, value.clone()),
            None => response,
        }
    }))
}

/// One endpoint that runs SQL.
struct SqlEndpoint {
    params: Vec<config::Param>,
    /// Whether a name that is no parameter is refused.
    strict: bool,
    steps: Vec<Step>,
    returns: Returns,
    status: StatusCode,
    access: Access,
    policy: Policy,
    max_response_bytes: usize,
    /// Whether its requests can share a round trip.
    is_batched: bool,
    /// The mean duration of its statement.
    takes: Work,
}

struct Step {
    /// The key of the statement in the configuration file: `endpoint.NAME`, or `endpoint.NAME.step[1]`.
    key: String,
    statement: Arc<Statement>,
    expect_rows: Option<u64>,
    otherwise: Otherwise,
}

/// Why the steps did not succeed.
enum Failure {
    /// The database's error, with the key of the failed statement, if it was a statement.
    Database(database::Error, Option<String>),
    /// The steps ran, but not with the result that the configuration expects.
    Unexpected(Error),
}

impl From<database::Error> for Failure {
    fn from(error: database::Error) -> Self {
        Self::Database(error, None)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Database(error, Some(key)) => Self::from(error).at(key),
            Failure::Database(error, None) => error.into(),
            Failure::Unexpected(error) => error,
        }
    }
}

impl SqlEndpoint {
    fn new(endpoint: &config::Endpoint, database: &Database, config: &Config) -> Option<Self> {
        let Action::Sql { params, strict, steps, returns } = &endpoint.action else { return None };
        let steps = steps.iter().map(|step| {
            let origin = [
                ("method", endpoint.method.as_str()),
                ("route", &*endpoint.path),
                ("statement", &*step.name),
            ];
            Step {
                key: format!("endpoint.{}", step.name),
                statement: Arc::new(database.statement_of(&origin, &config.database, &step.sql, params)),
                expect_rows: step.expect_rows,
                otherwise: step.otherwise.clone(),
            }
        });
        let mut new = Self {
            steps: steps.collect(),
            params: params.clone(),
            strict: *strict,
            returns: *returns,
            status: endpoint.status,
            access: access(&endpoint.method),
            policy: policy(endpoint, params),
            max_response_bytes: config.http.max_response_bytes,
            is_batched: false,
            takes: Work::default(),
        };
        let only_reads = new.access == Access::ReadOnly && !new.is_transaction();
        new.is_batched = only_reads && database.shares_round_trips();
        Some(new)
    }

    /// Runs the steps and writes the last one's rows into `body`.
    fn run(
        &self,
        connection: &mut Connection,
        values: &[Value],
        context: &Context<'_>,
        body: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let mut rows = RowWriter::new(body, self.shape(), self.max_response_bytes, self.max_rows());
        if self.run_alone(connection, values, context, &mut rows)? {
            return Ok(());
        }
        let deadline = context.deadline();
        connection.begin(self.access, deadline)?;
        let statements: Vec<&Statement> = self.steps.iter().map(|step| &*step.statement).collect();
        let steps = Steps { statements: &statements, values, access: self.access, deadline };
        let (mut failed, mut unexpected) = (None, None);
        let mut note = |index: usize, took: Duration, ran: &Result<u64, database::Error>| {
            let step = &self.steps[index];
            context.note_statement(&step.key, took, &|| self.shown(values));
            match ran {
                Ok(count) => unexpected = self.expect(index, *count).err(),
                Err(_) => failed = Some(step.key.clone()),
            }
            ran.is_ok() && unexpected.is_none()
        };
        let ran = connection.run_steps(&steps, &mut rows, &mut note);
        ran.map_err(|error| Failure::Database(error, failed))?;
        if let Some(unexpected) = unexpected {
            return Err(Failure::Unexpected(unexpected));
        }
        connection.commit(deadline)?;
        Ok(())
    }

    /// Runs the only step without a transaction around it, if it needs none. Returns whether it has run.
    fn run_alone(
        &self,
        connection: &mut Connection,
        values: &[Value],
        context: &Context<'_>,
        rows: &mut RowWriter<'_>,
    ) -> Result<bool, Failure> {
        let (deadline, began) = (context.deadline(), Instant::now());
        let [step] = &*self.steps else { return Ok(false) };
        // The first run on a session prepares the statement, and so says nothing of the runs to come.
        let is_prepared = self.is_batched && connection.can_share(step.statement.text());
        let ran = if !self.is_transaction() {
            connection.run(&step.statement, values, self.access, deadline, rows).map(Some)
        } else if self.access == Access::ReadWrite && step.expect_rows.is_none() {
            // It has a transaction only so that a wrong answer can be undone.
            let needs_row = self.returns != Returns::Many;
            connection.run_alone(&step.statement, values, deadline, needs_row, rows)
        } else {
            Ok(None)
        };
        if let Ok(None) = ran {
            return Ok(false);
        }
        let took = began.elapsed();
        context.note_statement(&step.key, took, &|| self.shown(values));
        if self.is_batched {
            let can_share = connection.can_share(step.statement.text());
            self.takes.note_run(is_prepared, can_share, || connection.work_in(took));
        }
        let count =
            ran.map_err(|error| Failure::Database(error, Some(step.key.clone())))?.unwrap_or_default();
        match self.expect_result(count) {
            // A trigger that the catalog did not show a moment ago may have changed something in place of the row.
            Err(_) if self.access == Access::ReadWrite => {
                let received = usize::try_from(count).unwrap_or(usize::MAX);
                let cause = Box::new(database::Error::RowCount { expected: "one", received });
                let error = database::Error::OutcomeUnknown { cause };
                Err(Failure::Database(error, Some(step.key.clone())))
            }
            result => result.map(|()| true).map_err(Failure::Unexpected),
        }
    }

    /// Checks the number of rows of a step.
    fn expect(&self, index: usize, rows: u64) -> Result<(), Error> {
        self.steps[index].expect(rows)?;
        if index + 1 == self.steps.len() { self.expect_result(rows) } else { Ok(()) }
    }

    /// Whether the steps need a transaction. One statement is a transaction by itself. It needs another if its rows may
    /// show that it must be undone: too many, too large, or not the number expected. So a request that is answered with
    /// an error has changed nothing.
    fn is_transaction(&self) -> bool {
        let undoes = self.access == Access::ReadWrite && self.returns != Returns::None;
        undoes || self.steps.len() > 1 || self.steps.iter().any(|step| step.expect_rows.is_some())
    }

    /// Runs the steps, and runs them again after a collision, at most [`ATTEMPTS_MAX`] times in all and only while
    /// there is time. Each attempt is undone before the next. A collision means that nothing was committed, whatever
    /// the endpoint's method. Only a procedure may commit something before it collides; it is not run again then.
    fn run_again_on_collision(&self, values: &[Value], context: &Context<'_>) -> Result<Vec<u8>, Error> {
        let mut attempt = 1;
        loop {
            let mut body = Vec::with_capacity(256);
            body.extend_from_slice(self.opening().as_bytes());
            // Every way out drops the connection, which rolls back uncommitted work.
            let mut connection = context.database()?;
            match self.run(&mut connection, values, context, &mut body) {
                Err(Failure::Database(error, key))
                    if error.is_retryable()
                        && attempt < ATTEMPTS_MAX
                        && !context.client.may_have_committed() =>
                {
                    let pause = pause_after(attempt);
                    if context.deadline().left() <= pause {
                        return Err(Failure::Database(error, key).into());
                    }
                    log::debug!("attempt {attempt} collided: {error}");
                    context.note_retry();
                    // Other requests need the connection during the pause. If the client leaves, the next checkout
                    // reports it.
                    drop(connection);
                    thread::sleep(pause);
                    attempt += 1;
                }
                Err(failure) => return Err(failure.into()),
                Ok(()) => return Ok(body),
            }
        }
    }

    /// The values with their parameters' names, for a log that may show them. A hidden value is shown as `…`.
    fn shown(&self, values: &[Value]) -> String {
        let each = self.params.iter().zip(values).map(|(param, value)| {
            let shown = if param.is_hidden() { "…".to_owned() } else { value.to_json().to_string() };
            format!("{} = {shown}", param.name)
        });
        each.collect::<Vec<_>>().join(", ")
    }

    /// Whether one of the values is hidden. Then no message of the database is shown either, because it could contain
    /// the value.
    fn has_hidden(&self) -> bool {
        self.params.iter().any(config::Param::is_hidden)
    }

    /// The bytes before the rows.
    fn opening(&self) -> &'static str {
        if self.returns == Returns::Many { "[" } else { "" }
    }

    /// The answer with these rows.
    fn response(&self, mut body: Vec<u8>) -> Response {
        match self.returns {
            Returns::None => Response::empty(self.status),
            Returns::Many => {
                body.push(b']');
                Response::json(body).with_status(self.status)
            }
            Returns::One | Returns::Value => Response::json(body).with_status(self.status),
        }
    }

    fn shape(&self) -> Shape {
        match self.returns {
            Returns::One | Returns::Many => Shape::Objects,
            Returns::Value => Shape::Value,
            Returns::None => Shape::Discard,
        }
    }

    fn max_rows(&self) -> u64 {
        match self.returns {
            Returns::One | Returns::Value => 1,
            Returns::Many | Returns::None => u64::MAX,
        }
    }

    /// Checks the number of rows where one is expected. No row is 404, and several rows are a mistake in the statement.
    fn expect_result(&self, rows: u64) -> Result<(), Error> {
        match (self.returns, rows) {
            (Returns::Many | Returns::None, _) | (_, 1) => Ok(()),
            (_, 0) => Err(Error::new(StatusCode::NOT_FOUND, "there is no such row")),
            (_, several) => {
                Err(Error::new(StatusCode::INTERNAL_SERVER_ERROR, "the statement returned more than one row")
                    .because(format!(
                        "{several} rows where `returns` says one; add `limit 1` or returns = \"many\""
                    )))
            }
        }
    }
}

impl Step {
    fn expect(&self, rows: u64) -> Result<(), Error> {
        match self.expect_rows {
            Some(expected) if expected != rows => {
                Err(Error::new(self.otherwise.status, self.otherwise.detail.clone()))
            }
            _ => Ok(()),
        }
    }
}

impl Handler for Arc<SqlEndpoint> {
    fn handle(&self, request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
        let values = bind::values(&self.params, self.strict, request)?;
        let body = self.run_again_on_collision(&values, context);
        let body = body.map_err(|error| if self.has_hidden() { error.hiding_values() } else { error })?;
        Ok(self.response(body))
    }

    fn policy(&self) -> Policy {
        self.policy.clone()
    }

    fn batched(&self) -> Option<Batched> {
        self.is_batched.then(|| Batched(Arc::clone(self) as _))
    }
}

impl BatchedStatement for SqlEndpoint {
    fn takes(&self) -> Option<Duration> {
        self.takes.mean()
    }

    fn usually_takes(&self) -> Duration {
        self.takes.median()
    }

    fn question(&self, request: &Request) -> Result<Question, Error> {
        let form = Form {
            shape: self.shape(),
            bytes_max: self.max_response_bytes,
            rows_max: self.max_rows(),
            opening: self.opening(),
        };
        let values = bind::values(&self.params, self.strict, request)?;
        Ok(Question::Endpoint { statement: Arc::clone(&self.steps[0].statement), values, form })
    }

    fn note(&self, question: &Question, took: Duration, work: Worked, context: &Context<'_>) {
        context.note_statement(&self.steps[0].key, took, &|| self.shown(question.values()));
        self.takes.note(work.time, work.is_behind);
    }

    fn answer(&self, _: &Request, answer: Answer) -> Result<Response, Error> {
        let (body, rows) = answer.into_written();
        self.expect_result(rows)?;
        Ok(self.response(body))
    }
}

/// The rules of an endpoint, from the configuration.
fn policy(endpoint: &config::Endpoint, params: &[config::Param]) -> Policy {
    let hides_query = params.iter().any(|param| param.secret && param.place == config::Place::Query);
    let policy = Policy::new().priority(endpoint.priority).hide_query(hides_query);
    let policy = endpoint.deadline.into_iter().fold(policy, Policy::deadline);
    endpoint.max_concurrency.into_iter().fold(policy, Policy::max_concurrency)
}

/// The pause after this many attempts: random, so that colliding transactions do not meet again, and doubled each time.
fn pause_after(attempts: u32) -> Duration {
    Duration::from_micros(fastrand::u64(PAUSE_US) << (attempts - 1))
}

/// Safe methods (RFC 9110 section 9.2.1) run read-only.
fn access(method: &Method) -> Access {
    if method.is_safe() { Access::ReadOnly } else { Access::ReadWrite }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_differ() {
        for attempts in 1..ATTEMPTS_MAX {
            let pauses: Vec<Duration> = (0..20).map(|_| pause_after(attempts)).collect();
            let unit = Duration::from_millis(1 << (attempts - 1));
            assert!(pauses.iter().all(|pause| (unit..=5 * unit).contains(pause)), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "rivals would meet again: {pauses:?}");
        }
    }
}
