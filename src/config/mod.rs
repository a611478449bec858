//! The validated configuration, which every other module receives.
//!
//! Main thread, before anything is bound. There are two stages, as in ripgrep. The file as written ([`Config::read`])
//! becomes these types only if every key, type and range is right. After that nothing is checked again. Values are
//! rejected, never repaired. `config/reference.toml` has the unit, default and range of every field, and a test
//! compares it with these defaults.

mod app;
mod changes;
mod checks;
mod consistency;
mod endpoint;
mod keys;
mod listen;
mod listeners;
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
use std::sync::OnceLock;
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

use crate::base::system;
use crate::base::value::{Type, Value};

/// The whole configuration of one `wharf` process.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// `[server]`: where to listen, the number of workers, and the deadline of a request.
    pub server: Server,
    /// `[[listen]]`, in the order of the file. Empty: there is one listener, `server.listen`. See [`Config::listeners`].
    pub listen: Vec<Listener>,
    /// `[log]`: the content of the log.
    pub log: Log,
    /// `[tracing]`: what the server does with clients' traces.
    pub tracing: Tracing,
    /// `[admin]`: the listener for operators.
    pub admin: Admin,
    /// `[queue]`: how many requests may wait for a worker, and for how long.
    pub queue: Queue,
    /// `[http]`: limits on the size and the duration of clients' requests.
    pub http: Http,
    /// `[access]`: which requests are allowed.
    pub access: AccessRules,
    /// `[proxy]`: what proxies in front may say about the client.
    pub proxy: Proxy,
    /// `[tls]`: the certificate of HTTPS and its rules.
    pub tls: Tls,
    /// `[database]`: the database and its pool.
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
    /// `listen`: where clients connect, if [`Config::listen`] is empty.
    pub listen: Listen,
    /// `unix_mode`: the permissions of a Unix socket's file. `None`: what the umask leaves.
    pub unix_mode: Option<Mode>,
    /// `unix_owner`: whose file it is, by name or number. `None`: the process's user's.
    pub unix_owner: Option<String>,
    /// `unix_group`: its group. `None`: the process's.
    pub unix_group: Option<String>,
    /// `reuse_port`: `SO_REUSEPORT`, so that a second wharf may listen on the same port while the first drains.
    pub reuse_port: bool,
    /// `connector`: the implementation of HTTP.
    pub connector: Connector,
    /// `selectors`: the number of pollers. `None`: one for each core, at most 8.
    pub selectors: Option<usize>,
    /// `workers`: the number of workers. `None`: as many as `database.maximum_pool_size`, because a worker without a
    /// session can only wait.
    pub workers: Option<usize>,
    /// `pace_workers`: whether fewer workers get requests while more of them would only wait for a core.
    pub pace_workers: bool,
    /// `deadline`: the time from a request's last byte to its answer. Queue, checkout and statements spend from it.
    pub deadline: Duration,
    /// `deadline_header`: the request header by which a client may ask for a shorter deadline.
    pub deadline_header: Option<HeaderName>,
    /// `request_id_header`: the header with a request's id, in the request and in the answer. `None`: no header.
    pub request_id_header: Option<HeaderName>,
    /// `server_timing`: whether workers' answers say how long their request took in each phase.
    pub server_timing: bool,
    /// `drain_timeout`: how long a stopping server lets running requests finish.
    pub drain_timeout: Duration,
    /// `pid_file`: where `wharf serve` writes its process id. `None`: nowhere. A server inside another program ignores
    /// it.
    pub pid_file: Option<PathBuf>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Log {
    /// `level`: the least important messages that `wharf serve` logs. A server inside another program ignores it and
    /// uses that program's logger.
    pub level: LevelFilter,
    /// `format`: how `wharf serve` writes each line. Nothing to a server in another program either.
    pub format: LogFormat,
    /// `access`: whether each request has a line, and in which form.
    pub access: AccessLog,
    /// `access_file`: the destination of these lines. `None`: the log, with all other lines.
    pub access_file: Option<PathBuf>,
    /// `parameters`: whether lines may show the values of parameters.
    pub parameters: bool,
    /// `slow_request`: requests that take longer have a line. Zero: no request has one.
    pub slow_request: Duration,
    /// `slow_statement`: statements of endpoints that take longer have a line. Zero: no statement has one.
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
    /// `"off"`: no lines.
    Off,
    /// `"combined"`: the form of Apache and nginx, followed by wharf's own fields.
    Combined,
    /// `"json"`: a JSON object.
    Json,
}

/// `[tracing]`.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Tracing {
    /// `propagate`: whether each request continues the trace in its client's `traceparent`, or else begins one.
    pub propagate: bool,
    /// `otlp_endpoint`: the collector that receives traces, without `/v1/traces`. `None`: no traces are sent.
    pub otlp_endpoint: Option<String>,
    /// `otlp_headers`: additional headers for the collector, as `name=value` separated by commas; see [`otlp_headers`].
    pub otlp_headers: Option<String>,
    /// `service_name`: the server's name in traces.
    pub service_name: String,
    /// `sample`: the percentage of traces that are sent, among those that begin here.
    pub sample: usize,
}

/// `[admin]`.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Admin {
    /// `listen`: where operators connect. `None`: on loopback; see [`Config::admin_listen`].
    pub listen: Option<AdminListen>,
    /// `token`: the secret that operators must send. `None`: no secret, and then they connect on loopback.
    pub token: Option<String>,
    /// `ready_window`: the period in which `/ready` counts refused requests.
    pub ready_window: Duration,
    /// `ready_max_refused`: the percentage of requests that may be refused.
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

/// Where clients connect. Read from and shown as text: `127.0.0.1:8080`, `unix:/run/wharf.sock`, `systemd`,
/// `systemd:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket with this path of 1 to 107 bytes.
    Unix(PathBuf),
    /// The next socket that systemd passes (`LISTEN_FDS`).
    Inherited,
    /// The next socket that systemd passes under this name (`LISTEN_FDNAMES`).
    Named(String),
}

/// One `[[listen]]`: an address, and how a connection there begins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listener {
    /// `address`: where clients connect.
    pub address: Listen,
    /// `tls`: HTTPS instead of HTTP.
    pub tls: bool,
    /// `certificate`: the file with the PEM chain. `None`: `tls.certificate`, with `tls.key`.
    pub certificate: Option<PathBuf>,
    /// `key`: the file with the PEM private key, given if and only if `certificate` is.
    pub key: Option<PathBuf>,
    /// `client_ca`: the PEM file of the authorities for client certificates. `None`: `tls.client_ca`.
    pub client_ca: Option<PathBuf>,
    /// `client_auth`: whether clients show certificates. `None`: `tls.client_auth`.
    pub client_auth: Option<ClientAuth>,
    /// `proxy_protocol`: expect a PROXY protocol header, version 1 or 2, at the beginning of each connection.
    pub proxy_protocol: bool,
    /// `unix_mode`: the permissions of a Unix socket's file. `None`: what the umask leaves.
    pub unix_mode: Option<Mode>,
    /// `unix_owner`: whose file it is, by name or number. `None`: the process's user's.
    pub unix_owner: Option<String>,
    /// `unix_group`: its group. `None`: the process's.
    pub unix_group: Option<String>,
}

/// The implementation of HTTP for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connector {
    /// wharf's own pollers: a connection costs memory, but no thread.
    Native,
    /// `tiny_http`: a thread for each connection; the simple build.
    TinyHttp,
}

/// `[queue]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Queue {
    /// `max_length`: how many requests may wait for a worker. The next request is refused with 503.
    pub max_length: usize,
    /// `max_wait`: how long a request may wait before it is refused with 503.
    pub max_wait: Duration,
    /// `target`: the wait that may last. While waits stay above it, only requests that can be taken within it are
    /// admitted.
    pub target: Duration,
    /// `interval`: how long waits may stay above `target` before that, and the longest wait that a burst may cause.
    pub interval: Duration,
}

/// `[http]`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Http {
    /// `max_connections`: the number of clients' connections at once.
    pub max_connections: usize,
    /// `max_connections_per_address`: the limit for one client. An IPv6 address counts by its /64. Trusted proxies are
    /// not counted. `None`: no separate limit.
    pub max_connections_per_address: Option<usize>,
    /// `max_accept_rate`: new connections a second. `None`: no limit.
    pub max_accept_rate: Option<usize>,
    /// `max_requests_per_connection`: the answer to the last of so many requests says `Connection: close`. `None`: no
    /// limit.
    pub max_requests_per_connection: Option<usize>,
    /// `max_head_bytes`: request line and headers together.
    pub max_head_bytes: usize,
    /// `max_headers`: the number of header lines.
    pub max_headers: usize,
    /// `max_target_bytes`: the request target (path and query).
    pub max_target_bytes: usize,
    /// `max_body_bytes`: a request's body, after chunked decoding.
    pub max_body_bytes: usize,
    /// `buffer_body_bytes`: how much of a body is read before a handler that streams begins, and how much is buffered
    /// at a time.
    pub buffer_body_bytes: usize,
    /// `min_body_rate`: the slowest accepted body, in bytes a second of the client's own time. 0: no limit.
    pub min_body_rate: usize,
    /// `max_response_bytes`: the longest answer of an SQL endpoint.
    pub max_response_bytes: usize,
    /// `max_buffered_bytes`: the memory of all connections' requests and answers together. `None`: a quarter of what the process may
    /// use; see [`Http::buffered_max`].
    pub max_buffered_bytes: Option<usize>,
    /// `response_buffer_bytes`: how much of a streamed answer may wait for its client before its handler waits.
    pub response_buffer_bytes: usize,
    /// `head_timeout`: the time from a request's first byte to the end of its head. It is absolute, not per read.
    pub head_timeout: Duration,
    /// `body_timeout`: the time from the end of the head to the end of a body that is buffered whole. `min_body_rate`
    /// and the deadline limit bodies that stream.
    pub body_timeout: Duration,
    /// `idle_timeout`: how long a keep-alive connection may wait for its next request.
    pub idle_timeout: Duration,
    /// `write_timeout`: how long the client may take to receive each 64 KiB of a response.
    pub write_timeout: Duration,
}

/// `[access]`: which requests are allowed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AccessRules {
    /// `origins`: the other sites whose pages may make a browser send requests that write.
    pub origins: Origins,
}

/// `[proxy]`: what proxies in front may say about the client.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Proxy {
    /// `trusted`: the networks, addresses and `unix` that are trusted. Empty: no peer is trusted.
    pub trusted: Networks,
    /// `protocol`: expect a PROXY protocol header, version 1 or 2, at the beginning of each connection to `server.listen`.
    pub protocol: bool,
    /// `header`: the header that names the client.
    pub header: ForwardedBy,
}

/// `[tls]`: HTTPS instead of HTTP. It holds for `server.listen` if a certificate is given, and for each `[[listen]]` with `tls =
/// true`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Tls {
    /// `certificate`: the file with the PEM chain. `None`: plain HTTP.
    pub certificate: Option<PathBuf>,
    /// `key`: the file with the PEM private key, given if and only if `certificate` is.
    pub key: Option<PathBuf>,
    /// `min_version`: the lowest version that a client may use.
    pub min_version: TlsVersion,
    /// `client_ca`: the PEM file of the authorities for client certificates, given if and only if `client_auth` asks
    /// for them.
    pub client_ca: Option<PathBuf>,
    /// `client_auth`: whether clients show certificates.
    pub client_auth: ClientAuth,
    /// `handshake_timeout`: how long a client may take for its handshake.
    pub handshake_timeout: Duration,
    /// `max_handshakes`: how many handshakes may run at once. A further connection is closed.
    pub max_handshakes: usize,
}

/// A version of TLS, from old to new.
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
    /// `"none"`: clients are not asked for one.
    Nothing,
    /// `"optional"`: clients are asked for one. A client without a certificate is served, a client with a wrong one is
    /// not.
    Optional,
    /// `"required"`: a client without a certificate is not served.
    Required,
}

/// `[database]`. Names, units and defaults follow HikariCP for the keys that it has too.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Database {
    /// `url`: `sqlite:FILE`, `postgres://…` or `mysql://…`. `None`: no database, so only endpoints with a fixed `body`.
    pub url: Option<String>,
    /// `demo`: create the SQLite file with the demo data if it does not exist yet.
    pub demo: bool,
    /// `maximum_pool_size`: the largest number of sessions.
    pub maximum_pool_size: usize,
    /// `minimum_idle`: the number of sessions to keep open. `None`: `maximum_pool_size` (HikariCP advises a fixed
    /// pool).
    pub minimum_idle: Option<usize>,
    /// `maximum_pending`: how many requests may wait for a session at once. `None`: only the number of workers limits it.
    pub maximum_pending: Option<usize>,
    /// `connection_timeout`: how long a request may wait for a session.
    pub connection_timeout: Duration,
    /// `validation_timeout`: how long the database may take to show that a session is alive.
    pub validation_timeout: Duration,
    /// `alive_bypass_window`: for so long after its last use, a session is lent without asking the database.
    pub alive_bypass_window: Duration,
    /// `initialization_fail_timeout`: how long the server tries at startup to reach a database that is not there yet.
    pub initialization_fail_timeout: Duration,
    /// `idle_timeout`: how long a session above `minimum_idle` may stay unused.
    pub idle_timeout: Duration,
    /// `keepalive_time`: after so long without use, the pool checks whether an idle session is alive. Zero: never.
    pub keepalive_time: Duration,
    /// `max_lifetime`: the greatest age of a session.
    pub max_lifetime: Duration,
    /// `leak_detection_threshold`: a session that is borrowed for longer is reported in the log. Zero: never.
    pub leak_detection_threshold: Duration,
    /// `connection_init_sql`: the SQL that runs on each new session before its first use.
    pub connection_init_sql: Option<String>,
    /// `application_name`: the name of the sessions in PostgreSQL's `pg_stat_activity` and MySQL's `session_connect_attrs`, unless the URL has one.
    pub application_name: String,
    /// `statement_comment`: what endpoints' statements say about their origin, for PostgreSQL and MySQL.
    pub statement_comment: StatementComment,
    /// `statement_timeout`: how long one statement may take, within its request's deadline. Zero: until the deadline.
    pub statement_timeout: Duration,
    /// `max_prepared_statements`: how many statements a session keeps prepared.
    pub max_prepared_statements: usize,
    /// `max_pipelined_requests`: how many requests may share a round trip to PostgreSQL. 1: each request has its own.
    pub max_pipelined_requests: usize,
}

impl Database {
    /// How many requests may share a round trip. If the comment names the request, each statement has a new text. The
    /// server would have to parse and plan it while the other requests of the round trip wait.
    pub fn pipelined_max(&self) -> usize {
        match self.statement_comment {
            StatementComment::Request => 1,
            StatementComment::Off | StatementComment::Endpoint => self.max_pipelined_requests,
        }
    }
}

/// The content of the comment at the end of an endpoint's statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatementComment {
    /// `"off"`: no comment.
    Off,
    /// `"endpoint"`: the application, the method, the route and the statement's name.
    Endpoint,
    /// `"request"`: additionally the request's id and its place in a trace.
    Request,
}

/// The values that apply if the file says nothing.
impl Default for Database {
    fn default() -> Self {
        Config::default().database
    }
}

/// One endpoint: a route and its action.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Endpoint {
    /// NAME of `[endpoint.NAME]`.
    pub name: String,
    /// `description`: one line for readers of the list of endpoints.
    pub description: Option<String>,
    /// The method of `route = "GET /flights/{id}"`.
    pub method: Method,
    /// The path of the route, with `{name}` for its path parameters.
    pub path: String,
    /// `status`: the status of a successful answer. 200, or 204 for `returns = "none"`.
    pub status: StatusCode,
    /// `deadline`: overrides `server.deadline`.
    pub deadline: Option<Duration>,
    /// `max_concurrency`: how many of its requests workers may have at once. `None`: as many as there are workers.
    pub max_concurrency: Option<usize>,
    /// `priority`: the order of requests that wait for a worker.
    pub priority: Priority,
    /// The action of the endpoint.
    pub action: Action,
    /// `load`: the requests that `wharf load` and `wharf tune` send to it.
    pub traffic: Traffic,
    /// The place of `[endpoint.NAME]`, for messages.
    pub span: Span,
}

/// `[endpoint.NAME.load]`: the requests that `wharf load` and `wharf tune` send to an endpoint. A server ignores it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Traffic {
    /// `weight`: its share of the requests, in proportion to the other endpoints' weights. 0: no requests.
    pub weight: u32,
    /// `sample`: a statement whose rows give values to the parameters with the names of its columns.
    pub sample: Option<Sample>,
    /// `params`: the other sources of values, each with the index into the endpoint's parameters.
    pub origins: Vec<(usize, Origin)>,
    /// The place of `[endpoint.NAME.load]`, or else of the endpoint, for messages.
    pub span: Span,
}

/// `sample = "select id from flights"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The statement. It has no parameters and only reads.
    pub sql: String,
    /// The place of its text in the file, for messages.
    pub span: Span,
}

/// The source of a parameter's values, which are drawn at random.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// `range = [1, 1000]`, both ends included.
    Range(RangeInclusive<i64>),
    /// `one_of = ["AA", "UA"]`.
    OneOf(Vec<Value>),
    /// `csv = "airports.csv"`, a file with the names of its columns in the first line.
    Csv {
        /// Relative to the working directory, unless absolute.
        file: PathBuf,
        /// `column`: by default the parameter's name.
        column: String,
    },
}

/// The action of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `body` and `content_type`: a poller answers, without a worker or the database.
    Fixed {
        /// The whole body.
        body: String,
        /// Its media type, by default `text/plain; charset=utf-8`.
        content_type: String,
    },
    /// `sql`, or several `[[endpoint.NAME.step]]` in one transaction.
    Sql {
        /// `params`, in the order of the file.
        params: Vec<Param>,
        /// `strict`: a name in the query, the form or the JSON body that is no parameter is refused.
        strict: bool,
        /// At least one step. Several steps run in one transaction.
        steps: Vec<Step>,
        /// `returns`: the form of the last step's rows in the answer.
        returns: Returns,
    },
}

/// The form of an endpoint's rows in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// `"one"`: one row as an object. Without a row: 404.
    One,
    /// `"many"`: an array of objects.
    Many,
    /// `"value"`: the first column of one row, without an object. Without a row: 404.
    Value,
    /// `"none"`: no body.
    None,
}

/// One SQL statement of an endpoint.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// The statement's name in logs, in traces and in the database. It is the endpoint's name, or `NAME.step[1]`,
    /// counted from 1, for a statement under `step`.
    pub name: String,
    /// The statement, split at its `:name` places.
    pub sql: Sql,
    /// `expect_rows`: the exact number of rows to be returned or changed. With another number everything is rolled
    /// back.
    pub expect_rows: Option<u64>,
    /// `otherwise`: the client's answer if `expect_rows` does not hold.
    pub otherwise: Otherwise,
    /// The place of the statement's text in the file, for messages.
    pub span: Span,
}

/// `otherwise = { status = 409, detail = "…" }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Otherwise {
    /// By default 409.
    pub status: StatusCode,
    /// The problem's `detail`.
    pub detail: String,
}

/// A statement's text in pieces. The value of `slots[i]` stands between piece `i` and piece `i + 1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql {
    /// The text around the `:name` places. There is always one more piece than slots.
    pub pieces: Vec<String>,
    /// The index into the endpoint's `params` for each place.
    pub slots: Vec<usize>,
}

impl Sql {
    /// A statement without parameters.
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
    /// `in`: where the client sends it.
    pub place: Place,
    /// The client's name for it: the same name, or the one in `as = "X-Request-Name"`.
    pub wire_name: String,
    /// `type`.
    pub kind: Type,
    /// `secret`: no log and no error shows its value.
    pub secret: bool,
    /// The value to bind if the client does not send one. `None`: the parameter is required (400).
    pub default: Option<Value>,
    /// The checks on a value that was sent.
    pub checks: Checks,
}

impl Param {
    /// A required parameter with one name everywhere and no checks but its type.
    pub fn new(name: &str, place: Place, kind: Type) -> Self {
        let name = name.to_owned();
        let (secret, checks) = (false, Checks::default());
        Self { wire_name: name.clone(), name, place, kind, secret, default: None, checks }
    }

    /// Whether its value is never shown. This holds for secrets, and for headers, which carry credentials more often
    /// than not.
    pub fn is_hidden(&self) -> bool {
        self.secret || self.place == Place::Header
    }
}

/// Where the client sends a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `{name}` in the route.
    Path,
    /// `?name=`.
    Query,
    /// A header.
    Header,
    /// A member of the JSON object in the body.
    Body,
    /// A field of an `application/x-www-form-urlencoded` body.
    Form,
}

/// The checks on a value beyond its type, or on each item of an array.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// `min`: the smallest number, date or timestamp accepted.
    pub min: Option<Value>,
    /// `max`: the largest number, date or timestamp accepted.
    pub max: Option<Value>,
    /// `min_len`: the smallest length, in characters of a text or in bytes.
    pub min_len: Option<usize>,
    /// `max_len`: the greatest length, in characters of a text or in bytes.
    pub max_len: Option<usize>,
    /// `max_items`: the greatest number of items of an array.
    pub max_items: Option<usize>,
    /// `pattern`: a pattern for the whole text. Its source is kept for messages.
    pub pattern: Option<regex_lite::Regex>,
    /// `one_of`: the accepted values.
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

/// The text of the configuration file, which messages refer to.
#[derive(Clone)]
pub struct Source {
    /// The path of the file. `None`: the configuration embedded in the binary.
    pub path: Option<PathBuf>,
    /// The whole text.
    pub text: String,
}

impl Http {
    /// The memory of all connections' requests and answers together, in bytes: `max_buffered_bytes`, or a quarter of what the process
    /// may use, by its cgroup or else by the machine.
    pub fn buffered_max(&self) -> usize {
        /// Where the system does not tell.
        const UNKNOWN: usize = 1 << 30;
        static QUARTER: OnceLock<usize> = OnceLock::new();
        let quarter = || system::memory_max().map_or(UNKNOWN, |max| max / 4);
        self.max_buffered_bytes.unwrap_or_else(|| *QUARTER.get_or_init(quarter))
    }
}

impl Config {
    /// The number of workers: `server.workers`, or as many as sessions. Without a database it is a few for each core,
    /// because the configuration cannot know what handlers wait for.
    pub fn workers(&self) -> usize {
        const PER_CORE: usize = 4;
        let fitting = || match self.database.url {
            Some(_) => self.database.maximum_pool_size,
            None => PER_CORE * num_cpus::get(),
        };
        self.server.workers.unwrap_or_else(fitting)
    }

    /// The number of pollers: `server.selectors`, or one for each core. More than eight would hand over more
    /// connections a second than any database has answers for.
    pub fn selectors(&self) -> usize {
        self.server.selectors.unwrap_or_else(|| num_cpus::get().min(8))
    }
}
