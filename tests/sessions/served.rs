//! One server with one session, and how a test looks at that session.

use std::fmt::Write as _;

use wharf::config::Config;
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::server::{Running, Server};

use crate::support::{Answer, Client, Database, config_of};

/// A request's view of its session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The session's process in the server.
    pub(crate) pid: String,
    /// The value of the look's expression.
    pub(crate) state: String,
}

/// A configuration with one worker and one session.
pub(crate) fn configuration(url: &str, more: &str, endpoints: &str) -> Config {
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\nworkers = 1\nselectors = 1\ndeadline = '20s'\n\
         [queue]\nmax_wait = '100s'\ntarget = '30s'\ninterval = '30s'\n\
         [database]\nurl = \"{url}\"\nmaximum_pool_size = 1\nconnection_timeout = '20s'\nvalidation_timeout = '20s'\n{more}\n{endpoints}"
    );
    config_of(text)
}

/// A server that is not started, for routes of the test's own.
pub(crate) fn server(url: &str, more: &str, endpoints: &str) -> Server {
    Server::new(configuration(url, more, endpoints)).expect("the database is there")
}

pub(crate) fn serve(url: &str, endpoints: &str) -> Running {
    server(url, "", endpoints).start().expect("a free port")
}

/// An endpoint of one statement that answers one value. The name is a part of its route.
pub(crate) fn endpoint(method: &str, name: &str, sql: &str) -> String {
    let returns = if method == "GET" { "returns = 'value'\n" } else { "" };
    format!("[endpoint.{name}]\nroute = '{method} /{name}'\n{returns}sql = '''{sql}'''\n")
}

/// An endpoint of these steps.
pub(crate) fn steps(method: &str, name: &str, steps: &[&str]) -> String {
    let mut text = format!("[endpoint.{name}]\nroute = '{method} /{name}'\nreturns = 'value'\n");
    for sql in steps {
        write!(text, "[[endpoint.{name}.step]]\nsql = '''{sql}'''\n").expect("a String takes all");
    }
    text
}

/// `GET /look`, which tells the session and what this expression is in it.
pub(crate) fn looking(expression: &str) -> String {
    endpoint("GET", "look", &format!("select pg_backend_pid() || ' ' || coalesce(({expression})::text, '')"))
}

pub(crate) fn look(server: &Running) -> Seen {
    let answer = ask(server, "GET", "/look");
    assert_eq!(answer.status, 200, "the look fails: {}", answer.text());
    let text = answer.json().as_str().expect("a text").to_owned();
    let (pid, state) = text.split_once(' ').expect("a session's number and its state");
    Seen { pid: pid.to_owned(), state: state.to_owned() }
}

pub(crate) fn ask(server: &Running, method: &str, path: &str) -> Answer {
    let mut client = Client::connect(server.address());
    client.request(method, path, &[], "");
    client.answer()
}

/// The statement changes the value of `look` in a session of psql. A test whose statement leaves nothing proves nothing.
pub(crate) fn assert_leaves_something(database: &Database, statement: &str, look: &str) {
    let clean = database.psql(&format!("select coalesce(({look})::text, '')"));
    let after = database.psql(&format!("{statement}; commit; select coalesce(({look})::text, '')"));
    assert_ne!(after.lines().last(), Some(&*clean), "{statement} leaves nothing");
}

/// A handler that runs the command in the query's `sql` directly.
pub(crate) fn run_command(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let sql = request.query_value("sql").unwrap_or_default();
    context.database()?.postgres()?.execute(&sql, &[])?;
    Ok(Response::text("done"))
}

/// The path that has [`run_command`] run this.
pub(crate) fn running(sql: &str) -> String {
    form_urlencoded::Serializer::new("/run?".to_owned()).append_pair("sql", sql).finish()
}
