//! The least that a server of wharf's shape can be: a poller, a queue, workers, a database connection for each. It leaves out
//! everything that wharf promises: it has no limit, no deadline, no pipelining, no cancellation, no answer to errors, no counters.
//! The difference between wharf and this server is the cost of the promises.
//!
//! `/plaintext` is answered on the poller, `/db` by one of WORKERS threads. Reads PORT, PGHOST, PGPORT, PGUSER and PGDATABASE.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use postgres::{Client, Config, NoTls};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);

struct Connection {
    stream: Arc<TcpStream>,
    received: Vec<u8>,
}

enum Path {
    Plaintext,
    Db,
    Unknown,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (jobs, waiting) = crossbeam_channel::unbounded();
    for _ in 0..variable("WORKERS", 16) {
        let (client, waiting) = (connect()?, waiting.clone());
        thread::spawn(move || work(client, &waiting).expect("the database and the client stay"));
    }
    Ok(poll(&jobs)?)
}

fn connect() -> Result<Client, postgres::Error> {
    Config::new()
        .host(&variable("PGHOST", "127.0.0.1".to_owned()))
        .port(variable("PGPORT", 5432))
        .user(&variable("PGUSER", "postgres".to_owned()))
        .dbname(&variable("PGDATABASE", "hello_world".to_owned()))
        .connect(NoTls)
}

fn work(mut client: Client, waiting: &Receiver<Arc<TcpStream>>) -> Result<(), Box<dyn Error>> {
    let world = client.prepare("SELECT id, randomnumber FROM world WHERE id = $1")?;
    let (mut answer, mut body) = (Vec::new(), Vec::new());
    for stream in waiting {
        let row = client.query_one(&world, &[&fastrand::i32(1..=10_000)])?;
        let (id, number): (i32, i32) = (row.get(0), row.get(1));
        body.clear();
        write!(body, "{{\"id\":{id},\"randomNumber\":{number}}}")?;
        write_answer(&mut answer, "200 OK", "application/json", &body)?;
        send(&stream, &answer)?;
    }
    Ok(())
}

fn poll(jobs: &Sender<Arc<TcpStream>>) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], variable("PORT", 8080))))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: Slab<Connection> = Slab::new();
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut connections)?;
            } else if let Some(connection) = connections.get_mut(event.token().0)
                && connection.read(jobs).is_err()
            {
                connections.remove(event.token().0);
            }
        }
    }
}

fn accept(listener: &TcpListener, poll: &Poll, connections: &mut Slab<Connection>) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        let entry = connections.vacant_entry();
        // Edge-triggered, once, as everything that mio registers.
        poll.registry().register(&mut stream, Token(entry.key()), Interest::READABLE)?;
        entry.insert(Connection { stream: Arc::new(stream), received: Vec::new() });
    }
}

impl Connection {
    /// Reads what has come, and answers a request that is whole or gives it to the workers.
    fn read(&mut self, jobs: &Sender<Arc<TcpStream>>) -> Result<(), Box<dyn Error>> {
        let mut bytes = [0; 4096];
        loop {
            let read = match (&*self.stream).read(&mut bytes) {
                Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            self.received.extend_from_slice(&bytes[..read]);
            let Some(path) = parse(&self.received)? else { continue };
            self.received.clear();
            let mut answer = Vec::new();
            match path {
                Path::Db => jobs.send(Arc::clone(&self.stream))?,
                Path::Plaintext => {
                    write_answer(&mut answer, "200 OK", "text/plain", b"Hello, World!")?;
                    send(&self.stream, &answer)?;
                }
                Path::Unknown => {
                    write_answer(&mut answer, "404 Not Found", "text/plain", b"")?;
                    send(&self.stream, &answer)?;
                }
            }
            if read < bytes.len() {
                return Ok(());
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Option<Path>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    if request.parse(bytes)?.is_partial() {
        return Ok(None);
    }
    Ok(Some(match request.path {
        Some("/db") => Path::Db,
        Some("/plaintext") => Path::Plaintext,
        _ => Path::Unknown,
    }))
}

fn write_answer(out: &mut Vec<u8>, status: &str, content_type: &str, body: &[u8]) -> io::Result<()> {
    out.clear();
    let length = body.len();
    write!(out, "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n")?;
    out.extend_from_slice(body);
    Ok(())
}

/// The socket takes so few bytes whole. The poller finds out when a client has left.
fn send(stream: &TcpStream, answer: &[u8]) -> io::Result<()> {
    let mut stream = stream;
    match stream.write_all(answer) {
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(()),
        written => written,
    }
}

fn variable<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
