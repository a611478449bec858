//! A table of all keys outside `[endpoint]`, with the field that each sets, its range and its default.
//!
//! Main thread. The file's reader, the names of the environment variables, the changes of a reload and the test of
//! `config/reference.toml` all use this table. So a key that is added here is known everywhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use log::LevelFilter;

use self::Effect::{Live, Restart};
use self::Target::{
    Account, Budget, Bytes, Collector, Count, Fields, File, Flag, Header, Name, Optional, Secret, Statement,
    Time, Trusted, Url,
};

use super::app::App;
use super::listen::ListenError;
use super::otlp;
use super::setting::{Setting, show_bytes, show_time};
use super::socket_access::account;
use super::{
    AccessLog, AccessRules, Admin, AdminListen, ClientAuth, Config, Connector, Database, ForwardedBy, Http,
    Listen, Listener, Log, LogFormat, Mode, Proxy, Queue, Server, StatementComment, Tls, TlsVersion, Tracing,
};
use crate::http::{Networks, NetworksError, Origins, OriginsError};

/// Workers and sessions. A single machine with more than this only switches between them.
pub(super) const THREADS: RangeInclusive<usize> = 1..=10_000;
const HOUR: Duration = Duration::from_secs(3600);
/// Times that somebody waits for. Zero would refuse everything.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=HOUR;
/// Lifetimes of sessions. Below a second the pool would do nothing but open sessions.
const AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// The same range, with zero to turn the feature off.
const AGE_OR_NEVER: RangeInclusive<Duration> = Duration::ZERO..=*AGE.end();
/// Figures are read once a second, and one is kept for each second.
const WINDOW: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Clients' connections, open at once or new in a second. The memory and ports of one machine hold about a million.
const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;

impl Default for Config {
    /// The values that apply if the file says nothing: no endpoints and no database.
    fn default() -> Self {
        Self {
            server: Server {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)).into(),
                // Whoever may connect to a socket in a directory of one's own is the directory's matter.
                unix_mode: None,
                unix_owner: None,
                unix_group: None,
                // A second wharf that is started by mistake must fail with "address in use" instead of taking half of
                // the clients.
                reuse_port: false,
                connector: Connector::Native,
                selectors: None,
                workers: None,
                pace_workers: true,
                // Longer than any query that a client should wait for. Shorter than the 30 s after which most clients
                // and proxies give up, so that the answer still finds its client.
                deadline: Duration::from_secs(10),
                deadline_header: None,
                // The name that nginx, Envoy and most services use.
                request_id_header: Some(HeaderName::from_static("x-request-id")),
                // Strangers need not know how the server is doing.
                server_timing: false,
                // Jetty's stop timeout, and the time that Kubernetes grants before it kills a process.
                drain_timeout: Duration::from_secs(30),
                pid_file: None,
            },
            listen: Vec::new(),
            // Everything that an operator must know, and nothing about single requests.
            log: Log {
                level: LevelFilter::Info,
                // A new user reads the log.
                format: LogFormat::Text,
                access: AccessLog::Off,
                access_file: None,
                // Parameters may be secrets.
                parameters: false,
                // A time that people notice, and a tenth of the deadline.
                slow_request: Duration::from_secs(1),
                slow_statement: Duration::from_millis(500),
            },
            // Services that a request asks belong to its trace, whether or not wharf itself is recorded. An operator
            // who configures a collector wants to see the first traces.
            tracing: Tracing {
                propagate: true,
                otlp_endpoint: None,
                otlp_headers: None,
                service_name: "wharf".to_owned(),
                sample: 100,
            },
            admin: Admin {
                listen: None,
                token: None,
                // Long enough that a burst does not count, short enough for an orchestrator that asks every few
                // seconds.
                ready_window: Duration::from_secs(10),
                // A server that refuses less than half of its requests still does more good with traffic than without.
                ready_max_refused: 50,
            },
            queue: Queue {
                // About ten seconds of work for ten workers at 10 ms a request. `max_wait` refuses longer waits anyway.
                max_length: 1024,
                max_wait: Duration::from_secs(1),
                // Users do not notice this wait beside a statement of 20 ms. Facebook's 5 ms would refuse requests of a
                // few hundred clients that each wait for their answer, which is no overload.
                target: Duration::from_millis(50),
                // The value of CoDel and Facebook: a few round trips or statements, so that a burst does not count as
                // overload.
                interval: Duration::from_millis(100),
            },
            http: http_defaults(),
            // Otherwise a page of any site could write.
            access: AccessRules { origins: Origins::default() },
            // Otherwise any client could claim any address.
            proxy: Proxy { trusted: Networks::default(), protocol: false, header: ForwardedBy::Nothing },
            tls: Tls {
                certificate: None,
                key: None,
                // RFC 9325: 1.2 is the lowest sound version. With 1.3 as the lowest, clients from before 2018 would be refused.
                min_version: TlsVersion::V12,
                client_ca: None,
                client_auth: ClientAuth::Nothing,
                // Kestrel's HandshakeTimeout, and the same time that a head may take.
                handshake_timeout: Duration::from_secs(10),
                // A handshake takes about a millisecond of one core, so a client behind a thousand others would wait
                // for over a second.
                max_handshakes: 1000,
            },
            database: Database {
                url: None,
                demo: false,
                maximum_pool_size: 10,
                minimum_idle: None,
                // HikariCP waits for 30 s. Under overload every thread then waits on behalf of clients that have left.
                // There are as many workers as sessions, so a wait of this length means that the database is in
                // trouble.
                connection_timeout: Duration::from_secs(1),
                // Only workers wait, so their number is the limit already.
                maximum_pending: None,
                // HikariCP's 5 s are longer than `connection_timeout`. A healthy database answers within milliseconds.
                validation_timeout: Duration::from_millis(500),
                alive_bypass_window: Duration::from_millis(500),
                // HikariCP tries once. A database that starts in another container at the same time needs a little
                // longer.
                initialization_fail_timeout: Duration::from_secs(5),
                idle_timeout: Duration::from_secs(600),
                keepalive_time: Duration::from_secs(120),
                max_lifetime: Duration::from_secs(1800),
                leak_detection_threshold: Duration::ZERO,
                connection_init_sql: None,
                application_name: "wharf".to_owned(),
                // The first question about a slow database is where its statement comes from.
                statement_comment: StatementComment::Endpoint,
                statement_timeout: Duration::ZERO,
                // The value of pgjdbc's preparedStatementCacheQueries.
                max_prepared_statements: 256,
                max_pipelined_requests: 64,
            },
            endpoints: Vec::new(),
            app: App::default(),
        }
    }
}

fn http_defaults() -> Http {
    Http {
        max_connections: 10_000,
        // One address may be many clients, behind NAT or an unknown proxy.
        max_connections_per_address: None,
        // Accepting is cheap, and `max_connections` limits the connections that stay.
        max_accept_rate: None,
        // nginx closes after 1000 requests to give memory back. Here a connection keeps nothing of its
        // requests.
        max_requests_per_connection: None,
        // Heads in Jetty and nginx are 8 KiB. Here half of the head is left for cookies if the target takes its
        // whole 8 KiB.
        max_head_bytes: 16 * KIB,
        max_headers: 100,
        max_target_bytes: 8 * KIB,
        max_body_bytes: MIB,
        // Most forms and JSON documents fit as a whole, and `max_connections` uploads at once still need less
        // than 1 GiB.
        buffer_body_bytes: 64 * KIB,
        // Kestrel's MinRequestBodyDataRate, which has a grace period of 5 s.
        min_body_rate: 240,
        max_response_bytes: 16 * MIB,
        max_buffered_bytes: None,
        // The bytes in flight to a client 20 ms away at 100 Mbit/s. A smaller buffer would delay its handler
        // between acknowledgements.
        response_buffer_bytes: 256 * KIB,
        head_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(75),
        // Jetty's idle timeout of a connector, which limits its writes. With 64 KiB this means at least 2
        // KiB/s, the speed of a modem.
        write_timeout: Duration::from_secs(30),
    }
}

/// One key of a section.
pub(super) struct Key<'c> {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    effect: Effect,
    target: Target<'c>,
}

/// When a new value takes effect on a running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// After a reload.
    Live,
    /// After a restart.
    Restart,
}

/// The field that a key sets, and its range.
enum Target<'c> {
    Listen(&'c mut Listen),
    /// `admin.listen`.
    AdminListen(&'c mut Option<AdminListen>),
    /// `server.unix_mode`.
    Mode(&'c mut Option<Mode>),
    /// A user or a group.
    Account(&'c mut Option<String>),
    /// A text that nobody else may know.
    Secret(&'c mut Option<String>),
    /// `client_auth` of a listener.
    Asks(&'c mut Option<ClientAuth>),
    /// One of several words, and the word at the time when the table was made.
    Choice(Set<'c>, &'static str),
    Url(&'c mut Option<String>),
    /// `tracing.otlp_endpoint`.
    Collector(&'c mut Option<String>),
    /// `tracing.otlp_headers`, which may hold a secret.
    Fields(&'c mut Option<String>),
    Flag(&'c mut bool),
    /// A header's name.
    Header(&'c mut Option<HeaderName>),
    /// A statement of SQL.
    Statement(&'c mut Option<String>),
    /// The name of the sessions in the database.
    Name(&'c mut String),
    Count(&'c mut usize, RangeInclusive<usize>),
    /// A count without a default. Without a value it follows from something else, or there is no limit.
    Optional(&'c mut Option<usize>, RangeInclusive<usize>),
    /// A number of bytes that has a default of the system's.
    Budget(&'c mut Option<usize>, RangeInclusive<usize>),
    /// The path of a file, and the file's description in messages.
    File(&'c mut Option<PathBuf>, &'static str),
    /// `access.origins`.
    Origins(&'c mut Origins),
    /// `proxy.trusted`.
    Trusted(&'c mut Networks),
    Bytes(&'c mut usize, RangeInclusive<usize>),
    Time(&'c mut Duration, RangeInclusive<Duration>),
}

/// Sets a field whose type does not appear in the table.
type Set<'c> = Box<dyn FnMut(Setting) -> Result<(), String> + 'c>;

/// A field that accepts one of several words.
fn choice<'c, T: Copy + PartialEq>(field: &'c mut T, choices: &'c [(&'static str, T)]) -> Target<'c> {
    let word = choices.iter().find(|(_, value)| value == field).map_or("", |(word, _)| word);
    Target::Choice(Box::new(move |setting| setting.choice(choices).map(|value| *field = value)), word)
}

/// Every key, in the order of `config/reference.toml`.
pub(super) fn keys(config: &mut Config) -> Vec<Key<'_>> {
    let Config {
        server,
        listen: _,
        log,
        tracing,
        admin,
        queue,
        http,
        access,
        proxy,
        tls,
        database,
        endpoints: _,
        app: _,
    } = config;
    let sections = [
        ("server", server_keys(server)),
        ("log", log_keys(log)),
        ("tracing", tracing_keys(tracing)),
        ("admin", admin_keys(admin)),
        ("queue", queue_keys(queue)),
        ("http", http_keys(http)),
        ("access", access_keys(access)),
        ("proxy", proxy_keys(proxy)),
        ("tls", tls_keys(tls)),
        ("database", database_keys(database)),
    ];
    let name = |section| move |(name, effect, target)| Key { section, name, effect, target };
    sections.into_iter().flat_map(|(section, keys)| keys.into_iter().map(name(section))).collect()
}

/// Every key of one `[[listen]]`, in the order of `config/reference.toml`.
pub(super) fn keys_of_listener(listener: &mut Listener) -> Vec<Key<'_>> {
    let keys: Vec<(&'static str, Target<'_>)> = vec![
        ("address", Target::Listen(&mut listener.address)),
        ("tls", Flag(&mut listener.tls)),
        ("certificate", File(&mut listener.certificate, PEM)),
        ("key", File(&mut listener.key, PEM)),
        ("client_ca", File(&mut listener.client_ca, PEM)),
        ("client_auth", Target::Asks(&mut listener.client_auth)),
        ("proxy_protocol", Flag(&mut listener.proxy_protocol)),
        ("unix_mode", Target::Mode(&mut listener.unix_mode)),
        ("unix_owner", Account(&mut listener.unix_owner)),
        ("unix_group", Account(&mut listener.unix_group)),
    ];
    let key = |(name, target)| Key { section: "listen", name, effect: Restart, target };
    keys.into_iter().map(key).collect()
}

type Named<'c> = (&'static str, Effect, Target<'c>);

fn server_keys(server: &mut Server) -> Vec<Named<'_>> {
    vec![
        ("listen", Restart, Target::Listen(&mut server.listen)),
        ("unix_mode", Restart, Target::Mode(&mut server.unix_mode)),
        ("unix_owner", Restart, Account(&mut server.unix_owner)),
        ("unix_group", Restart, Account(&mut server.unix_group)),
        ("reuse_port", Restart, Flag(&mut server.reuse_port)),
        (
            "connector",
            Restart,
            choice(
                &mut server.connector,
                &[("native", Connector::Native), ("tiny_http", Connector::TinyHttp)],
            ),
        ),
        ("selectors", Restart, Optional(&mut server.selectors, 1..=64)),
        ("workers", Live, Optional(&mut server.workers, THREADS)),
        ("pace_workers", Live, Flag(&mut server.pace_workers)),
        ("deadline", Live, Time(&mut server.deadline, WAIT)),
        ("deadline_header", Live, Header(&mut server.deadline_header)),
        ("request_id_header", Live, Header(&mut server.request_id_header)),
        ("server_timing", Live, Flag(&mut server.server_timing)),
        ("drain_timeout", Live, Time(&mut server.drain_timeout, Duration::ZERO..=HOUR)),
        ("pid_file", Restart, File(&mut server.pid_file, "a file")),
    ]
}

fn log_keys(log: &mut Log) -> Vec<Named<'_>> {
    let levels = &[
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
    let forms = &[("off", AccessLog::Off), ("combined", AccessLog::Combined), ("json", AccessLog::Json)];
    vec![
        ("level", Live, choice(&mut log.level, levels)),
        ("format", Live, choice(&mut log.format, &[("text", LogFormat::Text), ("json", LogFormat::Json)])),
        ("access", Live, choice(&mut log.access, forms)),
        ("access_file", Live, File(&mut log.access_file, "a file")),
        ("parameters", Live, Flag(&mut log.parameters)),
        ("slow_request", Live, Time(&mut log.slow_request, Duration::ZERO..=HOUR)),
        ("slow_statement", Live, Time(&mut log.slow_statement, Duration::ZERO..=HOUR)),
    ]
}

fn tracing_keys(tracing: &mut Tracing) -> Vec<Named<'_>> {
    vec![
        ("propagate", Live, Flag(&mut tracing.propagate)),
        ("otlp_endpoint", Restart, Collector(&mut tracing.otlp_endpoint)),
        ("otlp_headers", Restart, Fields(&mut tracing.otlp_headers)),
        ("service_name", Restart, Name(&mut tracing.service_name)),
        ("sample", Live, Count(&mut tracing.sample, 0..=100)),
    ]
}

fn admin_keys(admin: &mut Admin) -> Vec<Named<'_>> {
    vec![
        ("listen", Restart, Target::AdminListen(&mut admin.listen)),
        // Changes only together with `listen`, which may need a token.
        ("token", Restart, Secret(&mut admin.token)),
        ("ready_window", Live, Time(&mut admin.ready_window, WINDOW)),
        ("ready_max_refused", Live, Count(&mut admin.ready_max_refused, 1..=100)),
    ]
}

fn queue_keys(queue: &mut Queue) -> Vec<Named<'_>> {
    vec![
        ("max_length", Live, Count(&mut queue.max_length, 1..=1_000_000)),
        ("max_wait", Live, Time(&mut queue.max_wait, WAIT)),
        ("target", Live, Time(&mut queue.target, WAIT)),
        ("interval", Live, Time(&mut queue.interval, WAIT)),
    ]
}

fn http_keys(http: &mut Http) -> Vec<Named<'_>> {
    vec![
        ("max_connections", Live, Count(&mut http.max_connections, CONNECTIONS)),
        ("max_connections_per_address", Live, Optional(&mut http.max_connections_per_address, CONNECTIONS)),
        ("max_accept_rate", Live, Optional(&mut http.max_accept_rate, CONNECTIONS)),
        (
            "max_requests_per_connection",
            Live,
            Optional(&mut http.max_requests_per_connection, 1..=1_000_000_000),
        ),
        ("max_head_bytes", Live, Bytes(&mut http.max_head_bytes, 256..=MIB)),
        ("max_headers", Live, Count(&mut http.max_headers, 1..=1000)),
        ("max_target_bytes", Live, Bytes(&mut http.max_target_bytes, 64..=MIB)),
        ("max_body_bytes", Live, Bytes(&mut http.max_body_bytes, 0..=1024 * MIB)),
        ("buffer_body_bytes", Live, Bytes(&mut http.buffer_body_bytes, KIB..=MIB)),
        ("min_body_rate", Live, Bytes(&mut http.min_body_rate, 0..=1024 * MIB)),
        ("max_response_bytes", Live, Bytes(&mut http.max_response_bytes, 256..=1024 * MIB)),
        ("max_buffered_bytes", Live, Budget(&mut http.max_buffered_bytes, MIB..=1024 * 1024 * MIB)),
        ("response_buffer_bytes", Live, Bytes(&mut http.response_buffer_bytes, 4 * KIB..=64 * MIB)),
        ("head_timeout", Live, Time(&mut http.head_timeout, WAIT)),
        ("body_timeout", Live, Time(&mut http.body_timeout, WAIT)),
        ("idle_timeout", Live, Time(&mut http.idle_timeout, WAIT)),
        ("write_timeout", Live, Time(&mut http.write_timeout, WAIT)),
    ]
}

fn access_keys(access: &mut AccessRules) -> Vec<Named<'_>> {
    vec![("origins", Live, Target::Origins(&mut access.origins))]
}

fn proxy_keys(proxy: &mut Proxy) -> Vec<Named<'_>> {
    let headers = &[
        ("none", ForwardedBy::Nothing),
        ("forwarded", ForwardedBy::Forwarded),
        ("x-forwarded-for", ForwardedBy::XForwardedFor),
    ];
    vec![
        ("trusted", Live, Trusted(&mut proxy.trusted)),
        ("protocol", Live, Flag(&mut proxy.protocol)),
        ("header", Live, choice(&mut proxy.header, headers)),
    ]
}

/// The words of `client_auth`.
const ASKS: [(&str, ClientAuth); 3] =
    [("none", ClientAuth::Nothing), ("optional", ClientAuth::Optional), ("required", ClientAuth::Required)];

fn asks_word(asks: ClientAuth) -> &'static str {
    ASKS.iter().find(|(_, value)| *value == asks).map_or("", |(word, _)| word)
}

fn tls_keys(tls: &mut Tls) -> Vec<Named<'_>> {
    let versions = &[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)];
    vec![
        ("certificate", Restart, File(&mut tls.certificate, PEM)),
        ("key", Restart, File(&mut tls.key, PEM)),
        ("min_version", Restart, choice(&mut tls.min_version, versions)),
        ("client_ca", Restart, File(&mut tls.client_ca, PEM)),
        ("client_auth", Restart, choice(&mut tls.client_auth, &ASKS)),
        ("handshake_timeout", Live, Time(&mut tls.handshake_timeout, WAIT)),
        ("max_handshakes", Live, Count(&mut tls.max_handshakes, 1..=1_000_000)),
    ]
}

fn database_keys(database: &mut Database) -> Vec<Named<'_>> {
    let comments = &[
        ("off", StatementComment::Off),
        ("endpoint", StatementComment::Endpoint),
        ("request", StatementComment::Request),
    ];
    vec![
        ("url", Restart, Url(&mut database.url)),
        ("demo", Restart, Flag(&mut database.demo)),
        ("maximum_pool_size", Live, Count(&mut database.maximum_pool_size, THREADS)),
        ("minimum_idle", Live, Optional(&mut database.minimum_idle, 0..=*THREADS.end())),
        ("maximum_pending", Live, Optional(&mut database.maximum_pending, 0..=1_000_000)),
        ("connection_timeout", Live, Time(&mut database.connection_timeout, WAIT)),
        ("validation_timeout", Live, Time(&mut database.validation_timeout, WAIT)),
        ("alive_bypass_window", Live, Time(&mut database.alive_bypass_window, Duration::ZERO..=HOUR)),
        (
            "initialization_fail_timeout",
            Restart,
            Time(&mut database.initialization_fail_timeout, Duration::ZERO..=HOUR),
        ),
        ("idle_timeout", Live, Time(&mut database.idle_timeout, AGE)),
        ("keepalive_time", Live, Time(&mut database.keepalive_time, AGE_OR_NEVER)),
        ("max_lifetime", Live, Time(&mut database.max_lifetime, AGE)),
        ("leak_detection_threshold", Live, Time(&mut database.leak_detection_threshold, AGE_OR_NEVER)),
        ("connection_init_sql", Live, Statement(&mut database.connection_init_sql)),
        ("application_name", Live, Name(&mut database.application_name)),
        ("statement_comment", Live, choice(&mut database.statement_comment, comments)),
        ("statement_timeout", Live, Time(&mut database.statement_timeout, Duration::ZERO..=HOUR)),
        ("max_prepared_statements", Live, Count(&mut database.max_prepared_statements, 1..=10_000)),
        ("max_pipelined_requests", Live, Count(&mut database.max_pipelined_requests, 1..=1000)),
    ]
}

/// Whether a key with this name may hold a password, in any section.
pub(super) fn is_secret(name: &str) -> bool {
    keys(&mut Config::default()).iter().any(|key| key.is_secret() && key.name == name)
}

impl Key<'_> {
    /// `server.workers`.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variables that set the key: `WHARF_SERVER_WORKERS`, and a short name for variables that every
    /// container sets.
    pub(super) fn variables(&self) -> Vec<String> {
        let mut names = vec![format!("WHARF_{}_{}", self.section, self.name).to_uppercase()];
        match self.target {
            Target::Listen(_) => names.push("WHARF_LISTEN".to_owned()),
            Url(_) => names.push("WHARF_DATABASE".to_owned()),
            _ => {}
        }
        names
    }

    /// OpenTelemetry's variable for the key, which applies if no source of wharf's own sets it.
    pub(super) fn standard_variable(&self) -> Option<&'static str> {
        let known = otlp::VARIABLES.iter().find(|(name, _)| self.section == "tracing" && *name == self.name);
        known.map(|(_, variable)| *variable)
    }

    /// Sets the field. The error says what came and what is accepted.
    pub(super) fn set(&mut self, setting: Setting) -> Result<(), String> {
        match &mut self.target {
            Target::Listen(field) => **field = setting.parse(ListenError::ACCEPTED)?,
            Target::AdminListen(field) => **field = Some(setting.parse(AdminListen::ACCEPTED)?),
            Target::Mode(field) => **field = Some(setting.parse(Mode::ACCEPTED)?),
            Account(field) => **field = Some(account(setting)?),
            Target::Asks(field) => **field = Some(setting.choice(&ASKS)?),
            Target::Choice(set, _) => set(setting)?,
            Secret(field) => **field = Some(secret(setting)?),
            Url(field) => **field = Some(url(setting)?),
            Collector(field) => **field = Some(otlp::endpoint(setting)?),
            Fields(field) => **field = Some(otlp::fields(setting)?),
            Flag(field) => **field = setting.flag()?,
            Header(field) => **field = header(setting)?,
            Statement(field) => **field = Some(statement(setting)?),
            Name(field) => **field = name(setting)?,
            Count(field, range) => **field = setting.count(range)?,
            Optional(field, range) => **field = Some(setting.count(range)?),
            Budget(field, range) => **field = Some(setting.bytes(range)?),
            File(field, what) => **field = Some(file(setting, what)?),
            Target::Origins(field) => **field = origins(setting)?,
            Trusted(field) => **field = trusted(setting)?,
            Bytes(field, range) => **field = setting.bytes(range)?,
            Time(field, range) => **field = setting.time(range)?,
        }
        Ok(())
    }

    /// Whether a new value takes effect only after a restart.
    pub(super) fn needs_restart(&self) -> bool {
        self.effect == Restart
    }

    /// Whether the value may hold a password and must not be shown.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self.target, Url(_) | Statement(_) | Secret(_) | Fields(_))
    }

    /// The value as text. Different values have different texts.
    pub(super) fn value(&self) -> String {
        let absent = || "not given".to_owned();
        match &self.target {
            Target::Listen(field) => field.to_string(),
            Target::AdminListen(field) => field.map_or_else(absent, |listen| listen.to_string()),
            Target::Mode(field) => field.map_or_else(absent, |mode| format!("\"{mode}\"")),
            Target::Asks(field) => field.map_or_else(absent, |asks| asks_word(asks).to_owned()),
            Target::Choice(_, word) => (*word).to_owned(),
            Account(field) | Url(field) | Statement(field) | Secret(field) | Collector(field)
            | Fields(field) => field.as_ref().map_or_else(absent, |text| format!("{text:?}")),
            Name(field) => format!("{field:?}"),
            Flag(field) => field.to_string(),
            Header(field) => format!("{:?}", field.as_ref().map_or("", HeaderName::as_str)),
            Count(field, _) => field.to_string(),
            Optional(field, _) => field.map_or_else(absent, |count| count.to_string()),
            Budget(field, _) => field.map_or_else(absent, show_bytes),
            File(field, _) => field.as_ref().map_or_else(absent, |path| format!("\"{}\"", path.display())),
            Target::Origins(field) => format!("[{field}]"),
            Trusted(field) => format!("[{field}]"),
            Bytes(field, _) => show_bytes(**field),
            Time(field, _) => format!("{field:?}"),
        }
    }

    /// The value in the form of the file, without a possible password. `url` shows a URL without its password. `None`:
    /// the key has no value.
    pub(super) fn shown(&self, url: &dyn Fn(&str) -> String) -> Option<String> {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        match &self.target {
            Url(field) => field.as_ref().map(|text| quoted(&url(text))),
            Statement(field) | Secret(field) | Fields(field) => field.as_ref().map(|_| quoted(REDACTED)),
            Collector(field) | Account(field) => field.as_ref().map(|text| quoted(text)),
            Target::Mode(field) => field.map(|mode| quoted(&mode.to_string())),
            Target::AdminListen(field) => field.map(|listen| quoted(&listen.to_string())),
            Target::Asks(field) => field.map(|asks| quoted(asks_word(asks))),
            Header(field) => field.as_ref().map(|name| quoted(name.as_str())),
            Optional(field, _) => field.map(|count| count.to_string()),
            Budget(field, _) => field.map(|bytes| quoted(&show_bytes(bytes))),
            File(field, _) => field.as_ref().map(|path| quoted(&path.to_string_lossy())),
            Name(field) => Some(quoted(field)),
            Target::Origins(field) => Some(quoted(&field.to_string())),
            Trusted(field) => Some(quoted(&field.to_string())),
            Time(field, _) => Some(quoted(&show_time(**field))),
            Target::Listen(_) | Target::Choice(..) | Bytes(..) => Some(quoted(&self.value())),
            Flag(_) | Count(..) => Some(self.value()),
        }
    }

    /// Takes over the value of the same key in another configuration.
    pub(super) fn copy(&mut self, other: &Self) {
        match (&mut self.target, &other.target) {
            (Target::Listen(to), Target::Listen(from)) => (*to).clone_from(from),
            (Target::Choice(set, _), Target::Choice(_, word)) => {
                // The word of the other configuration is one of the accepted words.
                let _ = set(Setting::Text((*word).to_owned()));
            }
            (Target::AdminListen(to), Target::AdminListen(from)) => **to = **from,
            (Target::Mode(to), Target::Mode(from)) => **to = **from,
            (Target::Asks(to), Target::Asks(from)) => **to = **from,
            (Account(to), Account(from))
            | (Url(to), Url(from))
            | (Statement(to), Statement(from))
            | (Secret(to), Secret(from))
            | (Collector(to), Collector(from))
            | (Fields(to), Fields(from)) => {
                (*to).clone_from(from);
            }
            (Name(to), Name(from)) => (*to).clone_from(from),
            (Flag(to), Flag(from)) => **to = **from,
            (Header(to), Header(from)) => (*to).clone_from(from),
            (Count(to, _), Count(from, _)) | (Bytes(to, _), Bytes(from, _)) => **to = **from,
            (Budget(to, _), Budget(from, _)) | (Optional(to, _), Optional(from, _)) => **to = **from,
            (File(to, _), File(from, _)) => (*to).clone_from(from),
            (Target::Origins(to), Target::Origins(from)) => (*to).clone_from(from),
            (Trusted(to), Trusted(from)) => (*to).clone_from(from),
            (Time(to, _), Time(from, _)) => **to = **from,
            _ => debug_assert!(false, "{} is another kind of key than {}", self.path(), other.path()),
        }
    }
}

/// Replaces a value that may hold a password.
pub(super) const REDACTED: &str = "[redacted]";

/// The shortest token. Eight random characters are 47 bits, and each guess costs a request.
const TOKEN_MIN: usize = 8;

/// Reads a token that fits into `Authorization` unchanged. The message does not repeat the value.
fn secret(setting: Setting) -> Result<String, String> {
    let accepted =
        || format!("expected at least {TOKEN_MIN} letters, digits and signs of ASCII, and no space");
    let text = setting.text().map_err(|_| accepted())?;
    let fits = text.len() >= TOKEN_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text) } else { Err(accepted()) }
}

/// Reads a header's name. An empty text means no header.
fn header(setting: Setting) -> Result<Option<HeaderName>, String> {
    let name = setting.text()?;
    if name.is_empty() {
        return Ok(None);
    }
    name.parse().map(Some).map_err(|_| format!("expected a header's name, received {name:?}"))
}

fn statement(setting: Setting) -> Result<String, String> {
    let sql = setting.text()?;
    if sql.trim().is_empty() || sql.contains('\0') {
        // The message does not repeat the statement, because it may set a password.
        return Err("expected a statement, received none, or one with a NUL".to_owned());
    }
    Ok(sql)
}

/// Reads a session's name. PostgreSQL would cut it at 63 bytes and replace all but printable ASCII, so names that it
/// would change are refused.
fn name(setting: Setting) -> Result<String, String> {
    let accepted = "expected 1 to 63 printable ASCII characters";
    let name = setting.text().map_err(|_| accepted.to_owned())?;
    let is_name = (1..=63).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_name { Ok(name) } else { Err(format!("{accepted}, received {name:?}")) }
}

/// Reads each entry by itself, so that a message names the wrong one.
fn origins(setting: Setting) -> Result<Origins, String> {
    let entries = setting.texts("origins such as [\"https://shop.example\"]")?;
    for entry in &entries {
        entry.parse::<Origins>().map_err(|error| error.to_string())?;
    }
    entries.join(", ").parse().map_err(|error: OriginsError| error.to_string())
}

/// Reads each entry by itself, so that a message names the wrong one.
fn trusted(setting: Setting) -> Result<Networks, String> {
    let entries = setting.texts(TRUSTED)?;
    for entry in &entries {
        entry.parse::<Networks>().map_err(|error| error.to_string())?;
    }
    entries.join(", ").parse().map_err(|error: NetworksError| error.to_string())
}

/// The form of `proxy.trusted`.
const TRUSTED: &str = "networks and addresses such as [\"10.0.0.0/8\", \"::1\", \"unix\"]";

/// Reads a URL. Only its scheme is checked here, and the driver reads the rest. The message never repeats the value,
/// which may hold a password.
fn url(setting: Setting) -> Result<String, String> {
    let accepted = || {
        "expected \"sqlite:FILE\", \"postgres://USER@HOST/DATABASE\" or \"mysql://USER@HOST/DATABASE\""
            .to_owned()
    };
    let url = setting.text().map_err(|_| accepted())?;
    // All the rest of PostgreSQL's may come from the environment.
    let is_known = ["sqlite:", "postgres://", "postgresql://", "mysql://", "mariadb://"]
        .iter()
        .any(|scheme| url.starts_with(scheme));
    if is_known && url != "sqlite:" { Ok(url) } else { Err(accepted()) }
}

/// The files that `tls` opens.
const PEM: &str = "a PEM file";

/// Reads a path. A likely mistake in a variable is the text of a PEM file instead of its path, so this message does not
/// repeat the value either.
fn file(setting: Setting, what: &str) -> Result<PathBuf, String> {
    let accepted = || format!("expected the path of {what}");
    let path = setting.text().map_err(|_| accepted())?;
    let is_path = !path.is_empty() && !path.contains(['\n', '\0']);
    if is_path { Ok(path.into()) } else { Err(accepted()) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Environment, Flags, Source};
    use super::*;

    const REFERENCE: &str = include_str!("../../config/reference.toml");

    /// The comments right above the line with `key`, whether the key is set there or commented out.
    fn documentation(section: &str, key: &str) -> String {
        let section = REFERENCE.split(&format!("\n[{section}]\n")).nth(1).expect("the section is there");
        let mut comments = String::new();
        for line in section.lines() {
            if line.trim_start_matches("# ").starts_with(&format!("{key} = ")) {
                return comments;
            }
            if line.starts_with('#') {
                comments = comments + line + " ";
            } else {
                comments.clear();
            }
        }
        panic!("{key} is not in the reference");
    }

    /// A value of the key other than its default.
    pub(in super::super) fn other_value(key: &mut Key<'_>) -> Setting {
        let current = key.value();
        let text = |text: &str| Setting::Text(text.to_owned());
        match &mut key.target {
            Target::Listen(_) => text("unix:other.sock"),
            Target::AdminListen(_) => text("off"),
            Target::Mode(_) => text("0600"),
            Target::Asks(_) => text("optional"),
            Account(_) => text("somebody"),
            Secret(_) => text("another-token"),
            Collector(_) => text("https://other:4318"),
            Fields(_) => text("other=1"),
            Target::Choice(set, _) => {
                let message = set(Setting::Integer(0)).expect_err("a number is no word");
                let word = message.split('"').skip(1).step_by(2).find(|word| *word != current);
                text(word.expect("a choice has two words"))
            }
            Url(_) => text("sqlite:other.db"),
            Flag(field) => Setting::Flag(!**field),
            Header(_) => text("X-Other"),
            Statement(_) => text("select 1"),
            Name(_) => text("other"),
            Count(field, range) if **field == *range.end() => {
                Setting::Integer(i64::try_from(*range.start()).expect("a range begins below that"))
            }
            Count(_, range) | Optional(_, range) | Bytes(_, range) => {
                Setting::Integer(i64::try_from(*range.end()).expect("a range ends below that"))
            }
            File(..) => text("other.pem"),
            Target::Origins(_) => text("https://other.example"),
            Trusted(_) => text("::1"),
            Budget(_, range) => text(&show_bytes(*range.end())),
            Time(_, range) => text(&show_time(*range.end())),
        }
    }

    /// The texts that the documentation of a key must contain: its range or its words.
    fn accepted(target: &mut Target<'_>) -> Vec<String> {
        let (least, most) = match target {
            Target::Choice(set, _) => {
                let message = set(Setting::Integer(0)).expect_err("a number is no word");
                let words = message.strip_prefix("expected one of ").expect("the message has the words");
                return words.split(", ").map(str::to_owned).collect();
            }
            Count(_, range) | Optional(_, range) => (range.start().to_string(), range.end().to_string()),
            Bytes(_, range) | Budget(_, range) => (show_bytes(*range.start()), show_bytes(*range.end())),
            Time(_, range) => (show_time(*range.start()), show_time(*range.end())),
            _ => return Vec::new(),
        };
        vec![format!("{least} to {most}")]
    }

    #[test]
    fn the_reference_has_every_key_with_what_it_accepts() {
        for mut key in keys(&mut Config::default()) {
            let comments = documentation(key.section, key.name);
            assert!(!comments.is_empty(), "{}", key.path());
            for accepted in accepted(&mut key.target) {
                assert!(comments.contains(&accepted), "{}: {accepted}", key.path());
            }
        }
    }

    #[test]
    fn the_reference_shows_the_defaults() {
        let source = Source { path: None, text: REFERENCE.into() };
        let flags = Flags { database: Some("sqlite:x".into()), ..Flags::default() };
        let mut read =
            Config::read(source, &Environment::new(), &flags).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(read.endpoints.len(), 9);
        read.endpoints.clear();
        let mut expected = Config::default();
        expected.database.url = Some("sqlite:x".into());
        assert_eq!(read, expected);
        // A key that the file leaves out is not compared with its default. So each key is set, or has no value to show.
        for key in keys(&mut Config::default()) {
            let set = REFERENCE.contains(&format!("\n{} = ", key.name));
            assert!(
                set || matches!(
                    key.target,
                    Optional(..)
                        | Budget(..)
                        | File(..)
                        | Url(_)
                        | Header(_)
                        | Statement(_)
                        | Secret(_)
                        | Collector(_)
                        | Fields(_)
                        | Target::AdminListen(_)
                        | Target::Mode(_)
                        | Account(_)
                ),
                "{}",
                key.path()
            );
        }
    }
}
