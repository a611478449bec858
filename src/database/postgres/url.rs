//! `postgres://…` → the server, and the way to connect to it.
//!
//! Main thread, at startup. The URL is libpq's (PostgreSQL manual, 34.1.1.2 and 34.1.2). [`parameters`](super::parameters) lists its
//! parameters. An environment variable of libpq stands in for a parameter that the URL does not have.
//!
//! tokio-postgres has a reader of URLs, which is not used. It knows some of the parameters only, adds a `port` to the one of the host
//! instead of overriding it, and counts `tcp_user_timeout` in seconds.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use log::Level;
use nix::unistd::{User, getuid};
use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, LoadBalanceHosts, SslNegotiation};

use super::super::Error;
use super::parameters::{self, PARAMETERS};
use super::passwords::{self, Wanted};
use super::tls;
use crate::telemetry::sparing::sparingly;

/// libpq's port.
const PORT: u16 = 5432;

/// A parsed URL.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The settings of a session, without its hosts.
    pub(super) config: Config,
    /// The hosts in their order. There is always one.
    pub(super) hosts: Vec<Place>,
    /// The kind of server that is wanted.
    pub(super) wanted: Role,
    /// The TLS settings.
    pub(super) tls: tls::Settings,
    /// The file in which a missing password is looked up.
    password_file: Option<PathBuf>,
    /// `user@host:port/database`, for messages.
    pub(super) name: String,
}

/// A host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The name, which TLS checks, or the directory of a Unix socket.
    pub(super) host: Host,
    /// The address, where the URL has one. It saves the look-up of the name.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

/// `target_session_attrs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// The values from the URL and the environment, by the parameters' names. Only a password may be no text.
#[derive(Default)]
struct Given(BTreeMap<&'static str, Vec<u8>>);

impl Target {
    /// # Errors
    /// [`Error::Url`] names the part that is wrong.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        Self::parse_in(url, |name| std::env::var_os(name).map(OsString::into_vec))
    }

    /// As [`Target::parse`], in the environment that `variable` tells.
    fn parse_in(url: &str, variable: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Self, Error> {
        let (base, query) = parts(url)?;
        let mut given = Given::default();
        given.take_base(base)?;
        given.take_query(query)?;
        given.take_environment(variable)?;
        let hosts = given.hosts()?;
        let mut tls = tls::Settings::default();
        for name in tls::PARAMETERS {
            if let Some(value) = given.text(name)? {
                tls.set(name, value).map_err(Error::Url)?;
            }
        }
        let mut config = given.config()?;
        if tls.is_direct().map_err(Error::Url)? {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        if hosts.iter().all(|place| matches!(place.host, Host::Unix(_))) {
            // "sslmode is ignored for Unix domain socket communication."
            tls = tls::Settings::disabled();
        }
        let wanted = given.choice("target_session_attrs", &ROLES)?.unwrap_or_default();
        let password_file = match given.text("passfile")? {
            Some(file) => Some(file.into()),
            None => passwords::default_file(),
        };
        let name = name(&config, &hosts);
        Ok(Self { config, hosts, wanted, tls, password_file, name })
    }

    /// The settings of a session on this host: with the password from the password file if they have none.
    pub(super) fn with_password(&self, config: &Config, place: &Place) -> Config {
        let mut config = config.clone();
        let (Some(file), None, Some(user)) = (&self.password_file, config.get_password(), config.get_user())
        else {
            return config;
        };
        let host = match &place.host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(directory) => directory.display().to_string(),
        };
        let database = config.get_dbname().unwrap_or(user);
        let wanted = Wanted { host: &host, port: place.port, database, user };
        match passwords::look_up(file, wanted) {
            Ok(Some(password)) => {
                config.password(password);
            }
            Ok(None) => {}
            // As in libpq, the login goes on: the server may ask for no password.
            Err(error) => {
                sparingly!(Level::Warn, 1 of "password files that are not used", "the password file {} is not used: {error}", file.display());
            }
        }
        config
    }
}

impl Place {
    /// The name in messages.
    pub(super) fn name(&self) -> String {
        let port = self.port;
        match &self.host {
            Host::Tcp(host) if host.contains(':') => format!("[{host}]:{port}"),
            Host::Tcp(host) => format!("{host}:{port}"),
            Host::Unix(directory) => format!("{}/.s.PGSQL.{port}", directory.display()),
        }
    }
}

const ROLES: [(&str, Role); 6] = [
    ("any", Role::Any),
    ("read-write", Role::ReadWrite),
    ("read-only", Role::ReadOnly),
    ("primary", Role::Primary),
    ("standby", Role::Standby),
    ("prefer-standby", Role::PreferStandby),
];

impl Given {
    /// Takes the part of the URL before its `?`.
    fn take_base(&mut self, base: &str) -> Result<(), Error> {
        let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
        let (credentials, rest) =
            rest.split_once('@').map_or((None, rest), |(credentials, rest)| (Some(credentials), rest));
        if let Some(credentials) = credentials {
            let (user, password) = credentials
                .split_once(':')
                .map_or((credentials, None), |(user, password)| (user, Some(password)));
            self.put("user", user)?;
            if let Some(password) = password {
                self.put("password", password)?;
            }
        }
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, port) = match host.strip_prefix('[') {
                Some(inner) => {
                    let (name, after) = inner
                        .split_once(']')
                        .ok_or_else(|| Error::Url("host: an address in brackets has no end".to_owned()))?;
                    let port = match after.strip_prefix(':') {
                        Some(port) => port,
                        None if after.is_empty() => "",
                        None => return Err(Error::Url("host: expected `:` and a port after `]`".to_owned())),
                    };
                    (name, port)
                }
                None => host.split_once(':').unwrap_or((host, "")),
            };
            names.push(name);
            ports.push(port);
        }
        if !hosts.is_empty() {
            self.put("host", &names.join(","))?;
        }
        if ports.iter().any(|port| !port.is_empty()) {
            self.put("port", &ports.join(","))?;
        }
        self.put("dbname", database)
    }

    /// Takes the parameters behind the `?`. They override what comes before.
    fn take_query(&mut self, query: &str) -> Result<(), Error> {
        for (index, pair) in query.split('&').enumerate().filter(|(_, pair)| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = percent_decode_str(name).decode_utf8_lossy();
            // libpq takes this one from JDBC's URLs.
            if (&*name, value) == ("ssl", "true") {
                self.put("sslmode", "require")?;
                continue;
            }
            let parameter = parameters::named(&name, index)?;
            let decoded = percent_decode_str(value).decode_utf8_lossy();
            if decoded.is_empty() || parameter.takes(&decoded)? {
                self.put(parameter.name, value)?;
            }
        }
        Ok(())
    }

    /// Takes libpq's variables for the parameters that are not given.
    fn take_environment(&mut self, variable: impl Fn(&str) -> Option<Vec<u8>>) -> Result<(), Error> {
        let has_host = self.0.contains_key("host");
        for parameter in PARAMETERS {
            let Some(name) = parameter.variable.filter(|_| !self.0.contains_key(parameter.name)) else {
                continue;
            };
            // The address of another host.
            if parameter.name == "hostaddr" && has_host {
                continue;
            }
            if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
                let taken = parameter.takes(&String::from_utf8_lossy(&value));
                if taken.map_err(|error| Error::Url(format!("{name}: {}", without_kind(&error))))? {
                    self.0.insert(parameter.name, value);
                }
            }
        }
        Ok(())
    }

    /// Notes a value as it stands in the URL. An empty one counts as missing.
    fn put(&mut self, name: &'static str, encoded: &str) -> Result<(), Error> {
        let bytes: Vec<u8> = percent_decode_str(encoded).collect();
        if bytes.contains(&0) {
            return Err(Error::Url(format!("{name}: %00 is not allowed")));
        }
        if bytes.is_empty() {
            self.0.remove(name);
        } else {
            self.0.insert(name, bytes);
        }
        Ok(())
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Error> {
        let Some(bytes) = self.0.get(name) else { return Ok(None) };
        let text = std::str::from_utf8(bytes);
        text.map(Some).map_err(|_| Error::Url(format!("{name}: expected text in UTF-8")))
    }

    fn number<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let wrong = |_| Error::Url(format!("{name}={text}: expected {expected}"));
        text.trim().parse().map(Some).map_err(wrong)
    }

    /// A duration of so many units. Zero and less mean: as if it were not given.
    fn duration(&self, name: &str, unit: Duration, expected: &str) -> Result<Option<Duration>, Error> {
        let count = self.number::<i32>(name, expected)?;
        let count = count.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
        Ok(count.map(|count| unit.saturating_mul(count)))
    }

    fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Error> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let chosen = choices.iter().find(|(known, _)| *known == text).map(|(_, chosen)| *chosen);
        chosen.map(Some).ok_or_else(|| {
            let known: Vec<_> = choices.iter().map(|(known, _)| *known).collect();
            Error::Url(format!("{name}={text}: expected {}", known.join(", ")))
        })
    }

    /// The hosts with their addresses and ports. Lists that are given must be of the same length; one port may stand for all.
    fn hosts(&self) -> Result<Vec<Place>, Error> {
        let list = |name| -> Result<Vec<&str>, Error> {
            Ok(self.text(name)?.map(|text| text.split(',').collect()).unwrap_or_default())
        };
        let (names, addresses, ports) = (list("host")?, list("hostaddr")?, list("port")?);
        let count = names.len().max(addresses.len());
        if count == 0 {
            let reason = "no host; write postgres://user@host/database, or for a unix socket \
                          postgres:///database?host=/directory/of/the/socket";
            return Err(Error::Url(reason.to_owned()));
        }
        let fits = |length: usize, may_be: usize| length == count || length <= may_be;
        if !fits(names.len(), 0) || !fits(addresses.len(), 0) || !fits(ports.len(), 1) {
            let (names, addresses, ports) = (names.len(), addresses.len(), ports.len());
            let text = format!("{names} hosts, {addresses} hostaddrs and {ports} ports do not fit together");
            return Err(Error::Url(text));
        }
        (0..count)
            .map(|index| {
                let address = addresses.get(index).filter(|address| !address.is_empty());
                let address = address.map(|address| {
                    address
                        .parse::<IpAddr>()
                        .map_err(|_| Error::Url(format!("hostaddr={address}: expected an IP address")))
                });
                let address = address.transpose()?;
                // Without a name, TLS checks the address.
                let name = names.get(index).filter(|name| !name.is_empty()).map(ToString::to_string);
                let host = match name.or_else(|| Some(address?.to_string())) {
                    Some(path) if path.starts_with('/') => Host::Unix(path.into()),
                    Some(name) => Host::Tcp(name),
                    None => return Err(Error::Url("host: one of the hosts has no name".to_owned())),
                };
                let port = ports.get(index).or(ports.first()).filter(|port| !port.is_empty());
                let port = match port {
                    None => PORT,
                    Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                        // It may be a password, if the `@` behind that is missing.
                        Error::Url("port: expected a number from 1 to 65535".to_owned())
                    })?,
                };
                Ok(Place { host, address, port })
            })
            .collect()
    }

    /// The settings of a session.
    fn config(&self) -> Result<Config, Error> {
        const SECONDS: &str = "a number of seconds";
        let mut config = Config::new();
        // PostgreSQL's tools take the name of the system's user as well.
        match self.text("user")? {
            Some(user) => config.user(user),
            None => match User::from_uid(getuid()) {
                Ok(Some(user)) => config.user(user.name),
                // tokio-postgres then tells what is missing.
                Ok(None) | Err(_) => &mut config,
            },
        };
        if let Some(password) = self.0.get("password") {
            config.password(password);
        }
        if let Some(database) = self.text("dbname")? {
            config.dbname(database);
        }
        if let Some(options) = self.text("options")? {
            config.options(options);
        }
        if let Some(name) = self.text("application_name")? {
            config.application_name(name);
        }
        if let Some(timeout) = self.duration("connect_timeout", Duration::from_secs(1), SECONDS)? {
            config.connect_timeout(timeout);
        }
        let milliseconds =
            self.duration("tcp_user_timeout", Duration::from_millis(1), "a number of milliseconds")?;
        if let Some(timeout) = milliseconds {
            config.tcp_user_timeout(timeout);
        }
        if let Some(keepalives) = self.number::<i32>("keepalives", "0 or 1")? {
            config.keepalives(keepalives != 0);
        }
        if let Some(idle) = self.duration("keepalives_idle", Duration::from_secs(1), SECONDS)? {
            config.keepalives_idle(idle);
        }
        if let Some(interval) = self.duration("keepalives_interval", Duration::from_secs(1), SECONDS)? {
            config.keepalives_interval(interval);
        }
        let retries = self.number::<i32>("keepalives_count", "a number")?;
        if let Some(retries) = retries.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0)
        {
            config.keepalives_retries(retries);
        }
        let bindings = [
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ];
        if let Some(binding) = self.choice("channel_binding", &bindings)? {
            config.channel_binding(binding);
        }
        let balances = [("disable", LoadBalanceHosts::Disable), ("random", LoadBalanceHosts::Random)];
        if let Some(balance) = self.choice("load_balance_hosts", &balances)? {
            config.load_balance_hosts(balance);
        }
        Ok(config)
    }
}

/// The reason alone.
fn without_kind(error: &Error) -> String {
    match error {
        Error::Url(reason) => reason.clone(),
        error => error.to_string(),
    }
}

/// The URL without its password. If a URL cannot be used, only its kind is shown, because the end of its password is
/// not known.
pub(in super::super) fn display(url: &str) -> String {
    let Ok((base, query)) = Target::parse(url).and_then(|_| parts(url)) else {
        return "postgres://…".to_owned();
    };
    let (scheme, rest) = base.split_once("://").unwrap_or(("postgres", base));
    let shown = match rest.split_once('@') {
        Some((user, host)) => format!("{}@{host}", user.split(':').next().unwrap_or_default()),
        None => rest.to_owned(),
    };
    let is_shown = |pair: &&str| {
        let key = percent_decode_str(pair.split('=').next().unwrap_or_default()).decode_utf8_lossy();
        PARAMETERS.iter().any(|parameter| parameter.is_shown && parameter.name == key)
    };
    let pairs: Vec<&str> = query.split('&').filter(is_shown).collect();
    let mark = if pairs.is_empty() { "" } else { "?" };
    format!("{scheme}://{shown}{mark}{}", pairs.join("&"))
}

/// The URL before and after its `?`. A `?` inside the credentials does not count.
///
/// # Errors
/// It is no URL, or the end of its password is not certain. The message then contains nothing of the URL.
fn parts(url: &str) -> Result<(&str, &str), Error> {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let rest = rest.ok_or_else(|| Error::Url("expected postgres://user@host/database".to_owned()))?;
    let credentials = rest.split_once('@').map(|(credentials, _)| credentials);
    if rest.matches('@').count() > 1 || credentials.is_some_and(|text| text.contains('/')) {
        let reason = "write %40 for each `@` but the one before the host, and %2F for a `/` in the user or the password";
        return Err(Error::Url(reason.to_owned()));
    }
    let after_credentials = url.find('@').unwrap_or(0);
    Ok(match url[after_credentials..].find('?') {
        Some(mark) => (&url[..after_credentials + mark], &url[after_credentials + mark + 1..]),
        None => (url, ""),
    })
}

fn name(config: &Config, hosts: &[Place]) -> String {
    let hosts: Vec<String> = hosts.iter().map(Place::name).collect();
    let user = config.get_user().map_or_else(String::new, |user| format!("{user}@"));
    let database = config.get_dbname().map_or_else(String::new, |database| format!(" database {database}"));
    format!("{user}{}{database}", hosts.join(","))
}

/// An error with its causes, which tokio-postgres's own `Display` leaves out.
pub(super) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_sockets_and_parameters_are_taken_as_libpq_does() {
        let name = |url: &str| Target::parse(url).unwrap().name;
        assert_eq!(
            name("postgres://anna:secret@db.example:6432/flights"),
            "anna@db.example:6432 database flights"
        );
        assert_eq!(name("postgresql:///x?host=/run/pg&port=7&user=b"), "b@/run/pg/.s.PGSQL.7 database x");
        assert_eq!(name("postgres://b@%2Frun%2Fpg/x"), "b@/run/pg/.s.PGSQL.5432 database x");
        assert_eq!(name("postgres://b@/x?hostaddr=127.0.0.1"), "b@127.0.0.1:5432 database x");
        assert_eq!(name("postgres://b@h/x?hostaddr=127.0.0.1"), "b@h:5432 database x");
    }

    #[test]
    fn the_unknown_or_missing_part_is_named() {
        let refusal = |url: &str| Target::parse(url).unwrap_err().to_string();
        assert!(refusal("postgres://h/d?sslmod=require").contains("sslmod"));
        assert!(refusal("postgres://h/d?sslmode=sometimes").contains("sometimes"));
        assert!(refusal("postgres:///d").contains("no host"));
        assert!(refusal("postgres://h:port/d").contains("port"));
    }

    #[test]
    fn the_query_overrides_the_part_before_it() {
        let places = |url: &str| -> Vec<String> {
            Target::parse_in(url, |_| None).unwrap().hosts.iter().map(Place::name).collect()
        };
        assert_eq!(places("postgres://h/d?port=5433"), ["h:5433"]);
        assert_eq!(places("postgres://h:1/d?port=5433"), ["h:5433"]);
        assert_eq!(places("postgres://h/d?host=/run/postgresql"), ["/run/postgresql/.s.PGSQL.5432"]);
        assert_eq!(places("postgres://a,b/d?port=7"), ["a:7", "b:7"]);
        assert_eq!(places("postgres://a:1,b/d"), ["a:1", "b:5432"]);
        assert_eq!(places("postgres:///d?host=a,/s&port=1,2"), ["a:1", "/s/.s.PGSQL.2"]);
        assert_eq!(places("postgres://[::1]:7,[::2]/d"), ["[::1]:7", "[::2]:5432"]);
        let config =
            Target::parse_in("postgres://u:p@h/d?user=w&dbname=e&password=q%26", |_| None).unwrap().config;
        assert_eq!((config.get_user(), config.get_dbname()), (Some("w"), Some("e")));
        assert_eq!(config.get_password(), Some(&b"q&"[..]));
    }

    #[test]
    fn every_parameter_is_taken_or_refused_by_its_name() {
        let parse = |query: &str| Target::parse_in(&format!("postgres://h/d?{query}"), |_| None);
        for query in [
            "client_encoding=UTF8",
            "client_encoding=utf-8",
            "gssencmode=disable",
            "gssencmode=prefer",
            "sslcompression=0",
            "replication=false",
            "fallback_application_name=x",
            "ssl=true",
            "sslnegotiation=postgres",
            "sslnegotiation=direct&sslmode=require",
            "ssl_min_protocol_version=TLSv1.3",
            "ssl_max_protocol_version=TLSv1.2",
            "sslsni=0",
            "sslcertmode=disable",
            "max_protocol_version=3.2",
            "keepalives=0&keepalives_idle=1&keepalives_interval=2&keepalives_count=3",
            "connect_timeout=0",
            "connect_timeout=",
        ] {
            assert!(parse(query).is_ok(), "{query}: {:?}", parse(query).err());
        }
        for (query, reason) in [
            ("client_encoding=LATIN1", "client_encoding: expected utf8"),
            ("gssencmode=require", "gssencmode: "),
            ("sslcompression=1", "sslcompression: "),
            ("service=app", "service: service files"),
            ("sslcrl=x", "sslcrl: "),
            ("require_auth=scram-sha-256", "require_auth: "),
            ("requirepeer=postgres", "requirepeer: "),
            ("sslpassword=hunter2", "sslpassword: "),
            ("sslnegotiation=direct", "sslmode=require"),
            ("sslnegotiation=indirect", "indirect"),
            ("ssl_min_protocol_version=1.2", "TLSv1.2"),
            ("ssl_max_protocol_version=TLSv1.1", "TLSv1.3"),
            ("ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2", "no version"),
            ("sslcertmode=require", "sslcertmode"),
            ("target_session_attrs=master", "prefer-standby"),
            ("connect_timeout=soon", "connect_timeout=soon: expected a number of seconds"),
            ("hostaddr=h", "hostaddr=h"),
            ("host=a,b&port=1,2,3", "do not fit"),
            ("keepalive=1", "did you mean keepalives"),
            ("a=1&hunter2=b", "parameter 1 "),
            ("user=%00", "%00"),
            ("user=%FF", "UTF-8"),
        ] {
            let error = parse(query).expect_err(query).to_string();
            assert!(error.contains(reason), "{query}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(
            parse("tcp_user_timeout=1500").unwrap().config.get_tcp_user_timeout(),
            Some(&Duration::from_millis(1500))
        );
        assert_eq!(parse("target_session_attrs=prefer-standby").unwrap().wanted, Role::PreferStandby);
    }

    #[test]
    fn a_variable_stands_in_for_a_parameter_that_is_not_given() {
        let parse = |url: &str, variables: &[(&str, &str)]| {
            let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
            Target::parse_in(url, |name| variables.get(name).map(|value| value.as_bytes().to_vec()))
        };
        let all = [
            ("PGHOST", "envhost"),
            ("PGPORT", "7"),
            ("PGUSER", "envuser"),
            ("PGDATABASE", "envdb"),
            ("PGPASSWORD", "hunter2"),
            ("PGSSLMODE", "disable"),
            ("PGTARGETSESSIONATTRS", "primary"),
            ("PGAPPNAME", "psql"),
        ];
        let target = parse("postgres://", &all).unwrap();
        assert_eq!(target.name, "envuser@envhost:7 database envdb");
        assert_eq!(target.config.get_password(), Some(&b"hunter2"[..]));
        assert_eq!(target.wanted, Role::Primary);
        assert_eq!(target.config.get_application_name(), None, "database.application_name is its key");
        let target = parse("postgres://u:p@h:1/d", &all).unwrap();
        assert_eq!(target.name, "u@h:1 database d");
        assert_eq!(target.config.get_password(), Some(&b"p"[..]));
        for (name, value) in [("PGSERVICE", "app"), ("PGCLIENTENCODING", "LATIN1"), ("PGPORT", "hunter2")] {
            let error = parse("postgres://h/d", &[(name, value)]).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(name == "PGPORT" || error.contains(name), "{error}");
        }
    }

    #[test]
    fn the_password_is_never_shown() {
        assert_eq!(
            display("postgres://anna:sec%20ret?@db:1/x?sslmode=require"),
            "postgres://anna@db:1/x?sslmode=require"
        );
        assert_eq!(display("postgres://db/x?user=anna&password=secret"), "postgres://db/x?user=anna");
        assert_eq!(display("postgres://db/x?password=secret"), "postgres://db/x");
        assert_eq!(
            display("postgres://anna:x@db/x?pass%77ord=secret&options=-c%20a.b%3Dsecret&sslmode=disable"),
            "postgres://anna@db/x?sslmode=disable"
        );
        let error = Target::parse("postgres://anna:secret@h/d?nonsense=1").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn a_url_whose_password_has_no_clear_end_is_not_shown() {
        for url in [
            "postgres://anna:hunt@hunter2@h/d",
            "postgres://anna:hunt@hunter2?sslmode=require@h/d",
            "postgres://anna:x@h?hunter2=1@h/d",
            "postgres://anna:x/hunter2@h/d",
            "postgres://h/d?user=anna&password=x@hunter2",
            "postgres://h:1/d?password=hunter2@h",
            "postgres://anna:hunter2/d",
            "host=h user=anna password=hunter2",
            "mysql://anna:hunter2@h/d",
        ] {
            let error = Target::parse(url).expect_err(url).to_string();
            assert!(!error.contains("hunt"), "{error}");
            assert_eq!(display(url), "postgres://…", "{url}");
        }
        let encoded = Target::parse("postgres://an%40na:p%40%2Fw@h/d?application_name=a%40b").unwrap();
        assert_eq!(encoded.config.get_password(), Some(&b"p@/w"[..]));
        assert_eq!(encoded.name, "an@na@h:5432 database d");
    }
}
