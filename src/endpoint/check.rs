//! Lets the database check every endpoint's SQL before a request comes. Main thread.

use std::time::Duration;

use crate::base::deadline::Deadline;
use crate::config::{Action, Endpoint, Problem, Source, Span, Sql};
use crate::database::{Connection, Database, Error, Statement};

/// Preparing a statement is quick; a database that takes longer than this for all of them is not ready to serve.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prepares every statement and returns each fault, with its place in the file.
pub(crate) fn check(source: &Source, endpoints: &[Endpoint], database: &Database) -> Vec<Problem> {
    let connection = database.checkout(Deadline::after(PATIENCE));
    connection
        .and_then(|mut connection| check_on(&mut connection, source, endpoints, database))
        .unwrap_or_else(|error| vec![Problem::new(None, "database.url", error.to_string())])
}

/// As [`check`], on this connection to the database.
///
/// # Errors
/// The database does not answer, or not in time.
pub(crate) fn check_on(
    connection: &mut Connection,
    source: &Source,
    endpoints: &[Endpoint],
    database: &Database,
) -> Result<Vec<Problem>, Error> {
    let mut problems = Vec::new();
    for endpoint in endpoints {
        let Action::Sql { params, steps, .. } = &endpoint.action else { continue };
        for step in steps {
            let key = format!("endpoint.{}.sql", step.name);
            let statement = database.statement(&step.sql, params);
            let found = check_statement(connection, &statement)?;
            problems.extend(found.into_iter().map(|(offset, message)| {
                Problem::new(place(source, step.span, &statement, offset), &*key, message)
            }));
        }
    }
    Ok(problems)
}

/// Prepares the samples, which a server does not use, and returns each fault.
pub(crate) fn check_samples(source: &Source, endpoints: &[Endpoint], database: &Database) -> Vec<Problem> {
    samples(source, endpoints, database)
        .unwrap_or_else(|error| vec![Problem::new(None, "database.url", error.to_string())])
}

fn samples(source: &Source, endpoints: &[Endpoint], database: &Database) -> Result<Vec<Problem>, Error> {
    let mut connection = database.checkout(Deadline::after(PATIENCE))?;
    let mut problems = Vec::new();
    for endpoint in endpoints {
        let (Some(sample), Action::Sql { params, .. }) = (&endpoint.traffic.sample, &endpoint.action) else {
            continue;
        };
        let statement = database.statement(&Sql::without_parameters(&sample.sql), &[]);
        let key = format!("endpoint.{}.load.sample", endpoint.name);
        for (offset, message) in check_statement(&mut connection, &statement)? {
            problems.push(Problem::new(place(source, sample.span, &statement, offset), &*key, message));
        }
        let Ok(description) = connection.describe(&statement) else { continue };
        let unknown =
            description.columns.iter().filter(|column| params.iter().all(|param| param.name != column.name));
        for column in unknown {
            let names: Vec<_> = params.iter().map(|param| param.name.as_str()).collect();
            let message = format!(
                "its column {:?} is none of the endpoint's parameters, {}",
                column.name,
                names.join(", ")
            );
            problems.push(Problem::new(sample.span, &*key, message));
        }
    }
    Ok(problems)
}

/// The faults of one statement, each with its byte in the text that the database saw, if the database names one.
fn check_statement(
    connection: &mut Connection,
    statement: &Statement,
) -> Result<Vec<(Option<usize>, String)>, Error> {
    match connection.describe(statement) {
        Ok(description) => {
            let problems = description.problems.into_iter().map(|problem| (None, problem));
            let missing = connection.missing_privilege(statement)?;
            let missing =
                missing.map(|said| (None, format!("the database's user may not run this: {said}; grant it")));
            Ok(problems.chain(missing).collect())
        }
        // The error says nothing about the statement, and the next statement would fail in the same way.
        Err(error @ (Error::Deadline | Error::Lost(_))) => Err(error),
        Err(error) => Ok(vec![(error.offset(), message(&error, statement, connection))]),
    }
}

fn message(error: &Error, statement: &Statement, connection: &Connection) -> String {
    let said = error.in_full();
    let number = said
        .split('$')
        .nth(1)
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    let untyped = number.and_then(|number| {
        let (name, kind) = statement.parameter(number)?;
        Some((name, connection.cast_against(error, kind)?))
    });
    match untyped {
        Some((name, cast)) => format!(
            "the database refuses this statement: {said}; compare :{name} with a column before `:{name} is null`, or \
             write cast(:{name} as {cast})"
        ),
        None => format!("the database refuses this statement: {said}"),
    }
}

/// The place of the word at that byte, or of the whole statement.
fn place(source: &Source, span: Span, statement: &Statement, offset: Option<usize>) -> Span {
    let Some(offset) = offset else { return span };
    let word = statement.text().get(offset..).unwrap_or_default();
    let length = word.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word.len()).max(1);
    source.inside(span, statement.written_offset(offset), length)
}
