//! Every key outside `[endpoint]` in one table, with the field that it sets, its range, and its default.
//!
//! Main thread. The file's reader, the names of the environment variables and the test of `config/reference.toml` all go by
//! this table, so a key that is added here is known everywhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use self::Target::{Address, Bytes, Count, Flag, Follows, Time, Url};
use super::setting::Setting;
use super::{Config, Connector, Database, Http, Queue, Server};

/// Workers and connections: past this many a single machine only switches between them.
const THREADS: RangeInclusive<usize> = 1..=10_000;
const HOUR: Duration = Duration::from_secs(3600);
/// What somebody waits for. Zero would refuse everything.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=HOUR;
/// How long a connection may live: below a second the pool would do nothing but open connections.
const AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const MIB: usize = 1 << 20;

impl Default for Config {
    /// What holds where the file says nothing: no endpoints and no database.
    fn default() -> Self {
        Self {
            server: Server {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
                connector: Connector::Native,
                workers: None,
                // Longer than any query that a client should wait for, shorter than the 30 s after which most clients and
                // proxies give up, so that the answer still finds someone.
                deadline: Duration::from_secs(10),
                // Jetty's stop timeout, and what Kubernetes grants before it kills.
                drain_timeout: Duration::from_secs(30),
            },
            queue: Queue {
                // About ten seconds of work for ten workers at 10 ms a request: past it, `max_wait` refuses anyway.
                max_length: 1024,
                max_wait: Duration::from_secs(1),
            },
            http: Http {
                max_connections: 10_000,
                // Jetty's and nginx's heads are 8 KiB; half of ours is left to cookies when the target takes its whole 8 KiB.
                max_head_bytes: 16 << 10,
                max_headers: 100,
                max_target_bytes: 8 << 10,
                max_body_bytes: MIB,
                max_response_bytes: 16 * MIB,
                head_timeout: Duration::from_secs(10),
                body_timeout: Duration::from_secs(30),
                idle_timeout: Duration::from_secs(60),
                // Jetty's connector idle timeout, which bounds its writes.
                write_timeout: Duration::from_secs(30),
            },
            database: Database {
                url: None,
                demo: false,
                maximum_pool_size: 10,
                minimum_idle: None,
                // HikariCP waits 30 s, so that under overload every thread stands in line for requests whose clients have left.
                // Workers are as many as connections, so a wait this long means that the database is in trouble.
                connection_timeout: Duration::from_secs(1),
                idle_timeout: Duration::from_secs(600),
                max_lifetime: Duration::from_secs(1800),
            },
            endpoints: Vec::new(),
        }
    }
}

/// One key of a section.
pub(super) struct Key<'c> {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    target: Target<'c>,
}

/// The field that a key sets, and its range.
enum Target<'c> {
    Address(&'c mut SocketAddr),
    Connector(&'c mut Connector),
    Url(&'c mut Option<String>),
    Flag(&'c mut bool),
    Count(&'c mut usize, RangeInclusive<usize>),
    /// A count that follows another key while it is not given.
    Follows(&'c mut Option<usize>, RangeInclusive<usize>),
    Bytes(&'c mut usize, RangeInclusive<usize>),
    Time(&'c mut Duration, RangeInclusive<Duration>),
}

/// Every key, in the order of `config/reference.toml`.
pub(super) fn keys(config: &mut Config) -> Vec<Key<'_>> {
    let Config { server, queue, http, database, endpoints: _ } = config;
    let sections = [
        ("server", server_keys(server)),
        ("queue", queue_keys(queue)),
        ("http", http_keys(http)),
        ("database", database_keys(database)),
    ];
    let name = |section| move |(name, target)| Key { section, name, target };
    sections.into_iter().flat_map(|(section, keys)| keys.into_iter().map(name(section))).collect()
}

type Named<'c> = (&'static str, Target<'c>);

fn server_keys(server: &mut Server) -> Vec<Named<'_>> {
    vec![
        ("listen", Address(&mut server.listen)),
        ("connector", Target::Connector(&mut server.connector)),
        ("workers", Follows(&mut server.workers, THREADS)),
        ("deadline", Time(&mut server.deadline, WAIT)),
        ("drain_timeout", Time(&mut server.drain_timeout, Duration::ZERO..=HOUR)),
    ]
}

fn queue_keys(queue: &mut Queue) -> Vec<Named<'_>> {
    vec![
        ("max_length", Count(&mut queue.max_length, 1..=1_000_000)),
        ("max_wait", Time(&mut queue.max_wait, WAIT)),
    ]
}

fn http_keys(http: &mut Http) -> Vec<Named<'_>> {
    vec![
        ("max_connections", Count(&mut http.max_connections, 1..=1_000_000)),
        ("max_head_bytes", Bytes(&mut http.max_head_bytes, 256..=MIB)),
        ("max_headers", Count(&mut http.max_headers, 1..=1000)),
        ("max_target_bytes", Bytes(&mut http.max_target_bytes, 64..=MIB)),
        ("max_body_bytes", Bytes(&mut http.max_body_bytes, 0..=1024 * MIB)),
        ("max_response_bytes", Bytes(&mut http.max_response_bytes, 256..=1024 * MIB)),
        ("head_timeout", Time(&mut http.head_timeout, WAIT)),
        ("body_timeout", Time(&mut http.body_timeout, WAIT)),
        ("idle_timeout", Time(&mut http.idle_timeout, WAIT)),
        ("write_timeout", Time(&mut http.write_timeout, WAIT)),
    ]
}

fn database_keys(database: &mut Database) -> Vec<Named<'_>> {
    vec![
        ("url", Url(&mut database.url)),
        ("demo", Flag(&mut database.demo)),
        ("maximum_pool_size", Count(&mut database.maximum_pool_size, THREADS)),
        ("minimum_idle", Follows(&mut database.minimum_idle, 0..=*THREADS.end())),
        ("connection_timeout", Time(&mut database.connection_timeout, WAIT)),
        ("idle_timeout", Time(&mut database.idle_timeout, AGE)),
        ("max_lifetime", Time(&mut database.max_lifetime, AGE)),
    ]
}

impl Key<'_> {
    /// `server.workers`.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variables that set it: `WHARF_SERVER_WORKERS`, and a short name for what every container sets.
    pub(super) fn variables(&self) -> Vec<String> {
        let mut names = vec![format!("WHARF_{}_{}", self.section, self.name).to_uppercase()];
        match self.target {
            Address(_) => names.push("WHARF_LISTEN".to_owned()),
            Url(_) => names.push("WHARF_DATABASE".to_owned()),
            _ => {}
        }
        names
    }

    /// Sets the field; the error is what came and what is accepted.
    pub(super) fn set(&mut self, setting: Setting) -> Result<(), String> {
        match &mut self.target {
            Address(field) => {
                **field = setting.parse("an IP address and a port, such as 127.0.0.1:8080")?;
            }
            Target::Connector(field) => {
                let choices = [("native", Connector::Native), ("tiny_http", Connector::TinyHttp)];
                **field = setting.choice(&choices)?;
            }
            Url(field) => **field = Some(url(setting)?),
            Flag(field) => **field = setting.flag()?,
            Count(field, range) => **field = setting.count(range)?,
            Follows(field, range) => **field = Some(setting.count(range)?),
            Bytes(field, range) => **field = setting.bytes(range)?,
            Time(field, range) => **field = setting.time(range)?,
        }
        Ok(())
    }
}

/// Only the scheme is checked here; the driver reads the rest. The message never repeats what came: it may hold a password.
fn url(setting: Setting) -> Result<String, String> {
    let accepted = || "expected \"sqlite:FILE\" or \"postgres://USER@HOST/DATABASE\"".to_owned();
    let url = setting.text().map_err(|_| accepted())?;
    let rest = ["sqlite:", "postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    if rest.is_some_and(|rest| !rest.is_empty()) { Ok(url) } else { Err(accepted()) }
}

#[cfg(test)]
mod tests {
    use super::super::setting::{show_bytes, show_time};
    use super::super::{Environment, Flags, Source};
    use super::*;

    const REFERENCE: &str = include_str!("../../config/reference.toml");

    /// The comments right above the line that shows `key`, whether it is set there or commented out.
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

    fn range(target: &Target<'_>) -> Option<String> {
        let (least, most) = match target {
            Count(_, range) | Follows(_, range) => (range.start().to_string(), range.end().to_string()),
            Bytes(_, range) => (show_bytes(*range.start()), show_bytes(*range.end())),
            Time(_, range) => (show_time(*range.start()), show_time(*range.end())),
            _ => return None,
        };
        Some(format!("{least} to {most}"))
    }

    #[test]
    fn the_reference_has_every_key_with_its_range() {
        for key in keys(&mut Config::default()) {
            let comments = documentation(key.section, key.name);
            let range = range(&key.target).unwrap_or_default();
            assert!(!comments.is_empty() && comments.contains(&range), "{}: {range}", key.path());
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
        // What the file leaves out has its default without being shown: so each is set, or follows another key.
        for key in keys(&mut Config::default()) {
            let set = REFERENCE.contains(&format!("\n{} = ", key.name));
            assert!(set || matches!(key.target, Follows(..) | Url(_)), "{}", key.path());
        }
    }
}
