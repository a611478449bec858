//! `Server::client`: a request of the test's own process has the answer that it would have had over a socket.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use wharf::config::{Config, Environment, Flags, Source};
use wharf::database;
use wharf::handler::{Context, Error, Handler as _, Policy, TestContext, function};
use wharf::http::{Request, RequestBuilder, Response};
use wharf::server::Server;

const ENDPOINTS: &str = r#"
[endpoint.note]
route = "GET /notes/{id}"
sql = "select id, text from note where id = :id"
returns = "one"
params.id = "int"

[endpoint.write]
route = "POST /notes"
sql = "insert into note (text) values (:text)"
returns = "none"
status = 201
params.text = { type = "text", in = "body" }
"#;

/// An application's own errors.
#[derive(Debug)]
enum AppError {
    NoNote(i64),
    Database(database::Error),
}

impl From<AppError> for Error {
    fn from(error: AppError) -> Self {
        match error {
            AppError::NoNote(id) => Self::new(StatusCode::NOT_FOUND, format!("there is no note {id}")),
            AppError::Database(error) => error.into(),
        }
    }
}

impl From<database::Error> for AppError {
    fn from(error: database::Error) -> Self {
        Self::Database(error)
    }
}

fn length_of(note: i64, context: &Context<'_>) -> Result<i64, AppError> {
    let mut connection = context.database()?;
    let statement = "select length(text) from note where id = ?1";
    let found = connection.sqlite()?.query_row(statement, [note], |row| row.get(0));
    found.map_err(|_| AppError::NoNote(note))
}

fn length(request: &Request, context: &mut Context<'_>) -> Result<Response, Error> {
    let id = request.path_value("id").unwrap_or_default();
    let id = id.parse().map_err(|_| Error::bad_parameter("id", "a number", id))?;
    Ok(Response::json(length_of(id, context)?.to_string()))
}

fn server(change: impl FnOnce(&mut Config)) -> (Server, TempDir) {
    let directory = TempDir::new().expect("a directory");
    let text = format!("[database]\nurl = \"sqlite:{}/notes.db\"\n{ENDPOINTS}", directory.path().display());
    let source = Source { path: None, text };
    let mut config =
        Config::read(source, &Environment::default(), &Flags::default()).unwrap_or_else(|e| panic!("{e}"));
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0)).into();
    config.admin.listen = Some(wharf::config::AdminListen::Off);
    config.server.workers = Some(2);
    change(&mut config);
    let server = Server::new(config).expect("a database");
    let until = wharf::deadline::Deadline::after(Duration::from_secs(5));
    let mut connection = server.database().expect("it has one").checkout(until).expect("it is there");
    let create = "create table note (id integer primary key, text text); insert into note values (1, 'tea')";
    connection.sqlite().expect("SQLite").execute_batch(create).expect("a new file");
    drop(connection);
    let server = server
        .get("/length/{id}", length)
        .put("/put", |request, _| Ok(Response::text(request.body().clone())))
        .patch("/patch", |_, _| Ok(Response::empty(StatusCode::NO_CONTENT)))
        .delete("/delete", |_, _| Err(Error::new(StatusCode::GONE, "it is gone")))
        .get("/panic", |_, _| panic!("on purpose"))
        .get("/stream", |_, _| {
            Ok(Response::stream("text/plain", |body| Ok(body.write_all(&vec![b'x'; 50_000])?)))
        })
        .get_immediate("/now", |_| Response::text("now"))
        .route(
            Method::POST,
            "/count",
            function(|request, _| {
                let bytes = std::io::copy(&mut request.reader(), &mut std::io::sink())?;
                Ok(Response::text(bytes.to_string()))
            })
            .with(Policy::streaming().max_body_bytes(100_000)),
        );
    (server, directory)
}

/// The status, the headers without `Date` and the connection's own, and the body without the request's id.
type Seen = (u16, Vec<(String, String)>, String);

fn seen(status: u16, headers: &http::HeaderMap, body: &[u8]) -> Seen {
    let kept = |name: &str| !["date", "connection", "x-request-id", "transfer-encoding"].contains(&name);
    let headers = headers.iter().filter(|(name, _)| kept(name.as_str()));
    let mut headers: Vec<_> =
        headers.map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_owned())).collect();
    headers.sort();
    let text = String::from_utf8(body.to_vec()).expect("text");
    let text = match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(mut members)) if members.contains_key("request_id") => {
            assert!(members.remove("request_id").is_some_and(|id| id != ""));
            Value::Object(members).to_string()
        }
        _ => text,
    };
    (status, headers, text)
}

/// The same request over a socket.
fn over_a_socket(address: SocketAddr, head: &str, body: &[u8]) -> Seen {
    let mut socket = TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{head}Host: localhost\r\nConnection: close\r\n{length}\r\n");
    // A server that refuses a body does not read all of it.
    drop(socket.write_all(&[head.as_bytes(), body].concat()));
    let mut answer = Vec::new();
    drop(socket.read_to_end(&mut answer));
    let mut headers = [httparse::EMPTY_HEADER; 30];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) = parsed.parse(&answer).expect("an answer") else {
        panic!("no head")
    };
    let mut map = http::HeaderMap::new();
    for header in &*parsed.headers {
        let name = http::HeaderName::from_bytes(header.name.as_bytes()).expect("a name");
        map.append(name, http::HeaderValue::from_bytes(header.value).expect("a value"));
    }
    let mut body = answer[end..].to_vec();
    if map.contains_key("transfer-encoding") {
        let mut decoded = Vec::new();
        wharf::http::Decoder::default().decode(&body, &mut decoded, usize::MAX).expect("chunks");
        body = decoded;
    }
    seen(parsed.code.expect("a status"), &map, &body)
}

/// Method, target, a header, the body and the status that is expected.
type Case<'a> = (&'a str, &'a str, Option<(&'a str, &'a str)>, Vec<u8>, u16);

#[test]
fn an_answer_is_the_one_of_a_socket() {
    let json = ("Content-Type", "application/json");
    let cases: Vec<Case> = vec![
        ("GET", "/notes/1", None, vec![], 200),
        ("HEAD", "/notes/1", None, vec![], 200),
        ("GET", "/notes/2", None, vec![], 404),
        ("GET", "/notes/x", None, vec![], 400),
        ("GET", "/nothing", None, vec![], 404),
        ("POST", "/nothing", None, b"hello".to_vec(), 404),
        ("PUT", "/notes/1", None, vec![], 405),
        ("OPTIONS", "/notes/1", None, vec![], 204),
        ("BREW", "/notes/1", None, vec![], 501),
        ("POST", "/notes", Some(json), br#"{"text":"coffee"}"#.to_vec(), 201),
        ("POST", "/notes", Some(json), br#"{"text":"#.to_vec(), 400),
        ("POST", "/notes", Some(("Content-Type", "text/plain")), b"coffee".to_vec(), 415),
        ("POST", "/notes", Some(("Origin", "https://elsewhere.example")), b"{}".to_vec(), 403),
        ("GET", "/length/1", None, vec![], 200),
        ("GET", "/length/7", None, vec![], 404),
        ("PUT", "/put", None, b"whole".to_vec(), 200),
        ("PUT", "/put", None, vec![b'x'; 2000], 413),
        ("PATCH", "/patch", None, vec![], 204),
        ("DELETE", "/delete", None, vec![], 410),
        ("GET", "/panic", None, vec![], 500),
        ("GET", "/stream", None, vec![], 200),
        ("GET", "/now", None, vec![], 200),
        ("POST", "/count", None, vec![b'x'; 90_000], 200),
        ("POST", "/count", None, vec![b'x'; 110_000], 413),
        ("GET", "/a b", None, vec![], 400),
    ];
    let limited = |config: &mut Config| config.http.max_body_bytes = 1000;
    let ((here, _one), (there, _other)) = (server(limited), server(limited));
    let client = here.client().expect("no port");
    let running = there.start().expect("a free port");
    for (method, target, header, body, status) in cases {
        let mut builder = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a token"))
            .target(target)
            .body(body.clone());
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if let Some((name, value)) = header {
            builder = builder.header(name, value);
            head.extend([name, ": ", value, "\r\n"]);
        }
        let answer = client.send(builder).expect("a whole answer");
        let here = seen(answer.status().as_u16(), answer.headers(), answer.body());
        assert_eq!(here.0, status, "{method} {target}: {}", here.2);
        assert_eq!(here, over_a_socket(running.address(), &head, &body), "{method} {target}");
    }
    running.drain();
}

#[test]
fn a_deadline_ends_a_request() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let has_begun = Arc::<AtomicBool>::default();
    let begins = Arc::clone(&has_begun);
    let (server, _directory) = server(|config| {
        config.server.workers = Some(1);
        config.server.deadline_header = Some(http::HeaderName::from_static("x-time"));
    });
    let ignores = function(move |_, _| {
        begins.store(true, Relaxed);
        let passed = gate.lock().map_err(|_| Error::internal("poisoned"))?.recv();
        Ok(Response::text(format!("{passed:?}")))
    });
    let short = Policy::new().deadline(Duration::from_millis(30));
    let client = server.route(Method::GET, "/ignores", ignores.with(short)).client().expect("no port");
    let status = |target: &str| client.get(target).expect("a whole answer").status().as_u16();
    // On a busy machine the deadline may pass before the worker begins.
    while !has_begun.load(Relaxed) {
        assert_eq!(status("/ignores"), 504, "its worker is still busy");
    }
    let asked = Request::builder().target("/length/1").header("X-Time", "0.02");
    assert_eq!(client.send(asked).expect("a whole answer").status(), 504, "no worker is free");
    open.send(()).expect("the handler waits");
    assert_eq!(status("/length/1"), 200);
}

#[test]
fn a_body_that_breaks_off_is_an_error() {
    let (server, _directory) = server(|_| {});
    let server = server.get("/broken", |_, _| {
        Ok(Response::stream("text/plain", |body| {
            body.write_all(b"beginning")?;
            Err("no end".into())
        }))
    });
    let client = server.client().expect("no port");
    let error = client.get("/broken").expect_err("its end is missing");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(client.get("/now").expect("a whole answer").status(), 200);
}

#[test]
fn a_handler_answers_without_a_server() {
    let (server, _directory) = server(|_| {});
    let bench = TestContext::new().with_database(server.database().expect("it has one").clone());
    let asked = |id: &str| -> RequestBuilder { Request::builder().path_value("id", id) };
    let answer = |id: &str| length(&asked(id).build().expect("a request"), &mut bench.context());
    assert_eq!(answer("1").expect("a note").body(), b"3");
    assert_eq!(answer("7").expect_err("no note").status(), 404);
    assert_eq!(answer("x").expect_err("no number").status(), 400);
    let without = length(&asked("1").build().expect("a request"), &mut TestContext::new().context());
    assert!(without.expect_err("no database").status().is_server_error());
}
