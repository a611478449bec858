//! The validated configuration: what every other module is handed.
//!
//! Main thread, before anything is bound. Two stages, as ripgrep does it: the file as written ([`Config::read`]) becomes these
//! types only when every key, type and range is right; after that nothing checks again. Reject, never repair.
//! Every field's unit, default and range is in `config/reference.toml`, which a test holds equal to these defaults.

mod app;
mod changes;
mod checks;
mod consistency;
mod endpoint;
mod keys;
mod listen;
mod otlp;
mod param;
mod problem;
mod read;
mod route;
mod setting;
mod shown;
mod socket_access;
pub mod sql;
mod summary;
mod traffic;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, Method, StatusCode};
use log::LevelFilter;

pub use changes::{Change, Changes};
pub use listen::ListenError;
pub use otlp::otlp_headers;
pub use problem::{Problem, Problems};
pub use read::{Flags, LocateError};
pub use setting::{Environment, parse_time};
pub use socket_access::{Mode, ModeError, SocketAccess};

pub use crate::http::{ForwardedBy, Networks, Origins};

pub use crate::base::queue::Priority;

use crate::base::value::{Type, Value};

/// Everything that one `wharf` process needs to know.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// `[server]`: where to listen, how many request threads, how long a request may take.
    pub server: Server,
    /// `[log]`: what the log says.
    pub log: Log,
    /// `[tracing]`: what becomes of clients' traces.
    pub tracing: Tracing,
    /// `[admin]`: where operators look and ask.
    pub admin: Admin,
    /// `[queue]`: how many parsed requests may wait for a worker, and for how long.
    pub queue: Queue,
    /// `[http]`: the limits on what a client may send and how long it may take.
    pub http: Http,
    /// `[access]`: who may ask for what.
    pub access: AccessRules,
    /// `[proxy]`: what proxies in front may say of the client.
    pub proxy: Proxy,
    /// `[tls]`: HTTPS instead of HTTP.
    pub tls: Tls,
    /// `[database]`: which database, and its connection pool.
    pub database: Database,
    /// `[endpoint.NAME]`, in the order of the file.
    pub endpoints: Vec<Endpoint>,
    /// `[app]`; see [`Config::app`].
    app: app::App,
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Server {
    /// `listen`: where clients connect.
    pub listen: Listen,
    /// `unix_mode`: the permissions of a Unix socket's file. `None`: what the umask leaves.
    pub unix_mode: Option<Mode>,
    /// `unix_owner`: whose file it is, by name or number. `None`: the process's user's.
    pub unix_owner: Option<String>,
    /// `unix_group`: its group. `None`: the process's.
    pub unix_group: Option<String>,
    /// `reuse_port`: `SO_REUSEPORT`, so that a second wharf may listen on the same port while the first drains.
    pub reuse_port: bool,
    /// `connector`: who speaks HTTP.
    pub connector: Connector,
    /// `selectors`: poller threads. `None`: one for each core, at most 8.
    pub selectors: Option<usize>,
    /// `workers`: request threads. `None`: as many as `database.maximum_pool_size`, because a request thread that has no
    /// connection to run on can only wait.
    pub workers: Option<usize>,
    /// `deadline`: the time from a request's last byte to its answer; queue, checkout and statements spend from it.
    pub deadline: Duration,
    /// `deadline_header`: the request header by which a client may ask for less time than that.
    pub deadline_header: Option<HeaderName>,
    /// `request_id_header`: the header in which a request's id comes and goes. `None`: in none.
    pub request_id_header: Option<HeaderName>,
    /// `server_timing`: whether answers of workers say where their request's time went.
    pub server_timing: bool,
    /// `drain_timeout`: how long a stopping server lets requests in flight finish.
    pub drain_timeout: Duration,
    /// `pid_file`: where `wharf serve` writes its process id. `None`: nowhere. Nothing to a server in another program.
    pub pid_file: Option<PathBuf>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Log {
    /// `level`: the least important message that `wharf serve` logs. Nothing to a server in another program, whose logger is
    /// its own.
    pub level: LevelFilter,
    /// `format`: how `wharf serve` writes each line. Nothing to a server in another program either.
    pub format: LogFormat,
    /// `access`: whether each request has a line, and in which form.
    pub access: AccessLog,
    /// `access_file`: where those lines go. `None`: to the log, as all others.
    pub access_file: Option<PathBuf>,
    /// `parameters`: whether lines may show the values of parameters.
    pub parameters: bool,
    /// `slow_request`: requests that take longer have a line. Zero: none has.
    pub slow_request: Duration,
    /// `slow_statement`: statements of endpoints that take longer have a line. Zero: none has.
    pub slow_statement: Duration,
}

/// How each line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `"text"`: for people.
    Text,
    /// `"json"`: an object a line.
    Json,
}

/// Whether each request has a line in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessLog {
    /// `"off"`: none has.
    Off,
    /// `"combined"`: in the form of Apache and nginx, with what is ours behind it.
    Combined,
    /// `"json"`: an object.
    Json,
}

/// `[tracing]`.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Tracing {
    /// `propagate`: whether each request continues the trace that its client's `traceparent` names, or else begins one.
    pub propagate: bool,
    /// `otlp_endpoint`: the collector that traces are sent to, without `/v1/traces`. `None`: none are.
    pub otlp_endpoint: Option<String>,
    /// `otlp_headers`: what requests to it say beside, as `name=value` with commas between; see [`otlp_headers`].
    pub otlp_headers: Option<String>,
    /// `service_name`: what the server is called in traces.
    pub service_name: String,
    /// `sample`: how many percent of the traces that begin here are sent.
    pub sample: usize,
}

/// `[admin]`.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Admin {
    /// `listen`: where operators connect. `None`: on loopback; see [`Config::admin_listen`].
    pub listen: Option<AdminListen>,
    /// `token`: what they must show. `None`: nothing, and then they connect on loopback.
    pub token: Option<String>,
    /// `ready_window`: of how long `/ready` counts the requests that were refused.
    pub ready_window: Duration,
    /// `ready_max_refused`: how many percent of them may be.
    pub ready_max_refused: usize,
}

/// Where operators connect. As text: `127.0.0.1:8081`, `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminListen {
    /// Nowhere.
    Off,
    /// Address and port; port 0 takes a free one.
    At(SocketAddr),
}

/// Where clients connect. As text, which it is read from and shown as: `127.0.0.1:8080`, `unix:/run/wharf.sock`, `systemd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket of this path, which is 1 to 107 bytes.
    Unix(PathBuf),
    /// The socket that systemd passes (`LISTEN_FDS`).
    Inherited,
}

/// Who speaks HTTP to the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connector {
    /// Our own poller: connections cost memory, never a thread.
    Native,
    /// `tiny_http`: a thread per connection; the simple build.
    TinyHttp,
}

/// `[queue]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Queue {
    /// `max_length`: requests that may wait for a worker; the next one is refused with 503.
    pub max_length: usize,
    /// `max_wait`: how long one may wait before it is refused with 503.
    pub max_wait: Duration,
    /// `target`: the wait that may last; while waits stay above it, only so many requests are let in as can be taken within it.
    pub target: Duration,
    /// `interval`: for how long waits may stay above `target` before that; and the longest wait that a burst may make.
    pub interval: Duration,
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Http {
    /// `max_connections`: clients' sockets at once.
    pub max_connections: usize,
    /// `max_connections_per_address`: of one client, whose IPv6 address counts by its /64; trusted proxies are not counted.
    /// `None`: no limit of its own.
    pub max_connections_per_address: Option<usize>,
    /// `max_accept_rate`: new connections a second. `None`: no limit.
    pub max_accept_rate: Option<usize>,
    /// `max_requests_per_connection`: after so many the answer says `Connection: close`. `None`: no limit.
    pub max_requests_per_connection: Option<usize>,
    /// `max_head_bytes`: request line and headers together.
    pub max_head_bytes: usize,
    /// `max_headers`: how many header lines.
    pub max_headers: usize,
    /// `max_target_bytes`: the request target (path and query).
    pub max_target_bytes: usize,
    /// `max_body_bytes`: a request's body, after chunked decoding.
    pub max_body_bytes: usize,
    /// `buffer_body_bytes`: how much of a body is read before a handler that streams begins, and is buffered at a time.
    pub buffer_body_bytes: usize,
    /// `min_body_rate`: the least that a body must bring, in bytes a second of the client's own time; 0: no limit.
    pub min_body_rate: usize,
    /// `max_response_bytes`: what one SQL endpoint may answer.
    pub max_response_bytes: usize,
    /// `response_buffer_bytes`: how much of a streamed answer may wait for its client before its handler waits.
    pub response_buffer_bytes: usize,
    /// `head_timeout`: from a request's first byte to the end of its head, absolute, not per read.
    pub head_timeout: Duration,
    /// `body_timeout`: from the end of the head to the end of a body that is buffered whole. Bodies that stream have
    /// `min_body_rate` and their deadline.
    pub body_timeout: Duration,
    /// `idle_timeout`: how long a keep-alive connection may wait for its next request.
    pub idle_timeout: Duration,
    /// `write_timeout`: how long the client may take to receive each 64 KiB of a response.
    pub write_timeout: Duration,
}

/// `[access]`: who may ask for what.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AccessRules {
    /// `origins`: the other sites whose pages may have a browser send requests that write.
    pub origins: Origins,
}

/// `[proxy]`: what proxies in front may say of the client.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Proxy {
    /// `trusted`: the networks, addresses and `unix` whose word is taken. Empty: nobody's.
    pub trusted: Networks,
    /// `protocol`: expect a PROXY protocol header, version 1 or 2, at the beginning of each connection.
    pub protocol: bool,
    /// `header`: which header names the client.
    pub header: ForwardedBy,
}

/// `[tls]`: HTTPS instead of HTTP, where a certificate is given.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Tls {
    /// `certificate`: file with the PEM chain. `None`: plain HTTP.
    pub certificate: Option<PathBuf>,
    /// `key`: file with the PEM private key; there exactly when `certificate` is.
    pub key: Option<PathBuf>,
    /// `min_version`: what a client must speak at least.
    pub min_version: TlsVersion,
    /// `client_ca`: PEM file of the authorities for client certificates; there exactly when `client_auth` asks for them.
    pub client_ca: Option<PathBuf>,
    /// `client_auth`: whether clients show certificates.
    pub client_auth: ClientAuth,
    /// `handshake_timeout`: how long a client may take for its handshake.
    pub handshake_timeout: Duration,
    /// `max_handshakes`: handshakes in progress at once; a newcomer above it is closed.
    pub max_handshakes: usize,
}

/// A version of TLS, in the order of their age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// `"1.2"`: RFC 5246.
    V12,
    /// `"1.3"`: RFC 8446.
    V13,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// `"none"`: they are not asked.
    Nothing,
    /// `"optional"`: they are asked; who has none is served all the same, who has a wrong one is not.
    Optional,
    /// `"required"`: who has none is not served.
    Required,
}

/// `[database]`. Names, units and defaults follow HikariCP where it has them.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Database {
    /// `url`: `sqlite:FILE` or `postgres://…`. `None`: no database (only endpoints with a fixed `body`).
    pub url: Option<String>,
    /// `demo`: create and fill the SQLite file with the demo data when it does not exist yet.
    pub demo: bool,
    /// `maximum_pool_size`: connections at most.
    pub maximum_pool_size: usize,
    /// `minimum_idle`: connections kept open. `None`: as many as `maximum_pool_size` (HikariCP's advice: a fixed pool).
    pub minimum_idle: Option<usize>,
    /// `maximum_pending`: requests that may wait for a connection at once. `None`: no limit but that of workers.
    pub maximum_pending: Option<usize>,
    /// `connection_timeout`: how long a request may wait for a connection.
    pub connection_timeout: Duration,
    /// `validation_timeout`: how long the database may take to show that a connection is alive.
    pub validation_timeout: Duration,
    /// `alive_bypass_window`: within this time after its last use a connection is lent without asking the database.
    pub alive_bypass_window: Duration,
    /// `initialization_fail_timeout`: how long a start tries to reach a database that is not there yet.
    pub initialization_fail_timeout: Duration,
    /// `idle_timeout`: how long a connection above `minimum_idle` may sit unused.
    pub idle_timeout: Duration,
    /// `keepalive_time`: after this long without use an idle connection is asked whether it is alive. Zero: never.
    pub keepalive_time: Duration,
    /// `max_lifetime`: how old a connection may get.
    pub max_lifetime: Duration,
    /// `leak_detection_threshold`: a connection that is borrowed for longer is reported in the log. Zero: never.
    pub leak_detection_threshold: Duration,
    /// `connection_init_sql`: what runs on each new connection before it is used.
    pub connection_init_sql: Option<String>,
    /// `application_name`: what PostgreSQL's `pg_stat_activity` calls the connections, unless the URL says it.
    pub application_name: String,
    /// `statement_comment`: what an endpoint's statements tell PostgreSQL of where they come from.
    pub statement_comment: StatementComment,
    /// `statement_timeout`: how long one statement may take, within its request's deadline. Zero: until that.
    pub statement_timeout: Duration,
    /// `max_prepared_statements`: how many a connection keeps prepared.
    pub max_prepared_statements: usize,
    /// `max_pipelined_requests`: how many requests may share a round trip to PostgreSQL. 1: each has its own.
    pub max_pipelined_requests: usize,
}

impl Database {
    /// How many requests may be asked together. A text that names its request is another one each time, which the server would
    /// parse and plan in everybody's line.
    pub fn pipelined_max(&self) -> usize {
        match self.statement_comment {
            StatementComment::Request => 1,
            StatementComment::Off | StatementComment::Endpoint => self.max_pipelined_requests,
        }
    }
}

/// What an endpoint's statements say in a comment at their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementComment {
    /// `"off"`: nothing.
    Off,
    /// `"endpoint"`: the application, the method, the route and the statement's name.
    Endpoint,
    /// `"request"`: the request's id and its place in a trace too.
    Request,
}

/// What holds where the file says nothing.
impl Default for Database {
    fn default() -> Self {
        Config::default().database
    }
}

/// One endpoint: a route and what it does.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Endpoint {
    /// NAME of `[endpoint.NAME]`.
    pub name: String,
    /// `description`: one line for whoever reads the list of endpoints.
    pub description: Option<String>,
    /// The method of `route = "GET /flights/{id}"`.
    pub method: Method,
    /// The path of the route, with `{name}` for its path parameters.
    pub path: String,
    /// `status`: of the answer when all went well; 200, or 204 for `returns = "none"`.
    pub status: StatusCode,
    /// `deadline`: overrides `server.deadline`.
    pub deadline: Option<Duration>,
    /// `max_concurrency`: how many of its requests may be with workers at once. `None`: as many as there are workers.
    pub max_concurrency: Option<usize>,
    /// `priority`: who goes first when requests wait for a worker.
    pub priority: Priority,
    /// What the endpoint does.
    pub action: Action,
    /// `load`: what `wharf load` and `wharf tune` ask of it.
    pub traffic: Traffic,
    /// Where `[endpoint.NAME]` stands, for messages.
    pub span: Span,
}

/// `[endpoint.NAME.load]`: what `wharf load` and `wharf tune` ask of an endpoint. Nothing to a server.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Traffic {
    /// `weight`: its share of the requests, in proportion to the other endpoints' weights. 0: it is left out.
    pub weight: u32,
    /// `sample`: a statement whose rows give parameters, by the names of its columns.
    pub sample: Option<Sample>,
    /// `params`: where else values come from, each with the index into the endpoint's parameters.
    pub origins: Vec<(usize, Origin)>,
    /// Where `[endpoint.NAME.load]` stands, or else the endpoint, for messages.
    pub span: Span,
}

/// `sample = "select id from flights"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The statement; it has no parameters and only reads.
    pub sql: String,
    /// Where its text stands in the file, for messages.
    pub span: Span,
}

/// Where the values of a parameter come from, drawn by lot.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// `range = [1, 1000]`, both ends included.
    Range(RangeInclusive<i64>),
    /// `one_of = ["AA", "UA"]`.
    OneOf(Vec<Value>),
    /// `csv = "airports.csv"`, a file whose first line names its columns.
    Csv {
        /// From the working directory, unless absolute.
        file: PathBuf,
        /// `column`: the parameter's name unless given.
        column: String,
    },
}

/// What an endpoint does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `body` and `content_type`: answered on the poller, without a worker or the database.
    Fixed {
        /// The whole body.
        body: String,
        /// Its media type; `text/plain; charset=utf-8` unless given.
        content_type: String,
    },
    /// `sql`, or several `[[endpoint.NAME.step]]` in one transaction.
    Sql {
        /// `params`, in the order of the file.
        params: Vec<Param>,
        /// At least one; more than one run in one transaction.
        steps: Vec<Step>,
        /// `returns`: what the last step's rows become.
        returns: Returns,
    },
}

/// What an endpoint's rows become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// `"one"`: one row as an object; no row: 404.
    One,
    /// `"many"`: an array of objects.
    Many,
    /// `"value"`: the first column of the one row, by itself; no row: 404.
    Value,
    /// `"none"`: no body.
    None,
}

/// One SQL statement of an endpoint.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// What it is called in logs, in traces and by the database: like its endpoint, or `NAME.step[1]`, counted from 1, where it
    /// stands under `step`.
    pub name: String,
    /// The statement, split at its `:name` places.
    pub sql: Sql,
    /// `expect_rows`: exactly this many rows returned or changed; otherwise everything is rolled back.
    pub expect_rows: Option<u64>,
    /// `otherwise`: what the client gets when `expect_rows` does not hold.
    pub otherwise: Otherwise,
    /// Where the statement's text stands in the file, for messages.
    pub span: Span,
}

/// `otherwise = { status = 409, detail = "…" }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Otherwise {
    /// 409 unless given.
    pub status: StatusCode,
    /// The problem's `detail`.
    pub detail: String,
}

/// A statement's text as pieces; between piece `i` and piece `i + 1` stands the value of `slots[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql {
    /// The text around the `:name` places: always one more than `slots`.
    pub pieces: Vec<String>,
    /// For each place the index into the endpoint's `params`.
    pub slots: Vec<usize>,
}

impl Sql {
    /// A statement that has none.
    pub fn without_parameters(text: &str) -> Self {
        Self { pieces: vec![text.to_owned()], slots: Vec::new() }
    }
}

/// One declared parameter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Param {
    /// Its name, as in `:name`.
    pub name: String,
    /// `in`: where the client puts it.
    pub place: Place,
    /// The name it has there: itself, or `as = "X-Request-Name"`.
    pub wire_name: String,
    /// `type`.
    pub kind: Type,
    /// `secret`: no log and no error shows its value.
    pub secret: bool,
    /// What is bound when the client does not send it. `None`: it is required (400).
    pub default: Option<Value>,
    /// The checks on a value that was sent.
    pub checks: Checks,
}

impl Param {
    /// A required parameter that is called the same everywhere, with no checks but its type.
    pub fn new(name: &str, place: Place, kind: Type) -> Self {
        let name = name.to_owned();
        let (secret, checks) = (false, Checks::default());
        Self { wire_name: name.clone(), name, place, kind, secret, default: None, checks }
    }

    /// Whether its value is shown to nobody: a secret, or a header, which carries credentials more often than not.
    pub fn is_hidden(&self) -> bool {
        self.secret || self.place == Place::Header
    }
}

/// Where a parameter comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `{name}` in the route.
    Path,
    /// `?name=`.
    Query,
    /// A header.
    Header,
    /// A member of the JSON object that is the body.
    Body,
    /// A field of an `application/x-www-form-urlencoded` body.
    Form,
}

/// What a value must satisfy beyond its type; an array's items each.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// `min`: the smallest number, date or timestamp accepted.
    pub min: Option<Value>,
    /// `max`: the largest.
    pub max: Option<Value>,
    /// `min_len`: characters of a text, bytes of bytes.
    pub min_len: Option<usize>,
    /// `max_len`.
    pub max_len: Option<usize>,
    /// `max_items`: of an array.
    pub max_items: Option<usize>,
    /// `pattern`: the whole text must match; the source is kept for messages.
    pub pattern: Option<regex_lite::Regex>,
    /// `one_of`: the values accepted.
    pub one_of: Vec<Value>,
}

impl PartialEq for Checks {
    fn eq(&self, other: &Self) -> bool {
        self.min == other.min
            && self.max == other.max
            && self.min_len == other.min_len
            && self.max_len == other.max_len
            && self.max_items == other.max_items
            && self.pattern.as_ref().map(regex_lite::Regex::as_str)
                == other.pattern.as_ref().map(regex_lite::Regex::as_str)
            && self.one_of == other.one_of
    }
}

/// A range of bytes in the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// The configuration file as text: what messages point into.
#[derive(Clone)]
pub struct Source {
    /// Where it came from. `None`: the configuration embedded in the binary.
    pub path: Option<PathBuf>,
    /// All of it.
    pub text: String,
}

impl Config {
    /// How many request threads there are: `server.workers`, or as many as connections, or without a database a few per
    /// core, since what such handlers wait for is not known here.
    pub fn workers(&self) -> usize {
        const PER_CORE: usize = 4;
        let fitting = || match self.database.url {
            Some(_) => self.database.maximum_pool_size,
            None => PER_CORE * num_cpus::get(),
        };
        self.server.workers.unwrap_or_else(fitting)
    }

    /// How many pollers there are: `server.selectors`, or one for each core. Past eight they would hand over more connections
    /// a second than any database has answers for.
    pub fn selectors(&self) -> usize {
        self.server.selectors.unwrap_or_else(|| num_cpus::get().min(8))
    }
}
