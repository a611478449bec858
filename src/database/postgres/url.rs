//! `postgres://…` → whom to connect to, and how.
//!
//! Main thread, at startup. The URL is libpq's (PostgreSQL manual, 34.1.1.2 and 34.1.2); what tokio-postgres does not know
//! of it, the TLS files and three of the six modes, is taken out here before tokio-postgres parses the rest.

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::super::Error;
use super::tls;

/// A parsed URL.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// What tokio-postgres needs.
    pub(super) config: Config,
    /// How to speak TLS.
    pub(super) tls: tls::Settings,
    /// `user@host:port/database`, for messages.
    pub(super) name: String,
}

impl Target {
    /// # Errors
    /// [`Error::Url`] names the part that is wrong.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let (base, query) = split_query(url);
        let mut tls = tls::Settings::default();
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            if !tls.set(key, &value).map_err(Error::Url)? {
                kept.push(pair);
            }
        }
        let rest = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        let mut config: Config = rest.parse().map_err(|error| Error::Url(explain(&error)))?;
        name_hosts(&mut config)?;
        if config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) {
            // "sslmode is ignored for Unix domain socket communication."
            tls = tls::Settings::disabled();
        }
        let name = name(&config);
        Ok(Self { config, tls, name })
    }
}

/// The URL without its password.
pub(in super::super) fn display(url: &str) -> String {
    let (base, query) = split_query(url);
    let (scheme, rest) = base.split_once("://").unwrap_or(("postgres", base));
    let shown = match rest.split_once('@') {
        Some((user, host)) => format!("{}@{host}", user.split(':').next().unwrap_or_default()),
        None => rest.to_owned(),
    };
    let pairs: Vec<&str> =
        query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("password=")).collect();
    let mark = if pairs.is_empty() { "" } else { "?" };
    format!("{scheme}://{shown}{mark}{}", pairs.join("&"))
}

/// The URL before and after its `?`; one inside the credentials does not count.
fn split_query(url: &str) -> (&str, &str) {
    let after_credentials = url.find('@').unwrap_or(0);
    match url[after_credentials..].find('?') {
        Some(mark) => (&url[..after_credentials + mark], &url[after_credentials + mark + 1..]),
        None => (url, ""),
    }
}

/// A `hostaddr` alone names its host too, so that TLS has a name to check; neither is an error here, not at connect.
fn name_hosts(config: &mut Config) -> Result<(), Error> {
    if !config.get_hosts().is_empty() {
        return Ok(());
    }
    if config.get_hostaddrs().is_empty() {
        let reason = "no host; write postgres://user@host/database, or for a unix socket \
                      postgres:///database?host=/directory/of/the/socket";
        return Err(Error::Url(reason.to_owned()));
    }
    for address in config.get_hostaddrs().to_vec() {
        config.host(address.to_string());
    }
    Ok(())
}

fn name(config: &Config) -> String {
    let ports = config.get_ports();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(host) => format!("{host}:{port}"),
                Host::Unix(directory) => format!("{}/.s.PGSQL.{port}", directory.display()),
            }
        })
        .collect();
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
    }

    #[test]
    fn what_is_unknown_or_missing_is_named() {
        let refusal = |url: &str| Target::parse(url).unwrap_err().to_string();
        assert!(refusal("postgres://h/d?sslmod=require").contains("sslmod"));
        assert!(refusal("postgres://h/d?sslmode=sometimes").contains("sometimes"));
        assert!(refusal("postgres:///d").contains("no host"));
        assert!(refusal("postgres://h:port/d").contains("port"));
    }

    #[test]
    fn the_password_is_never_shown() {
        assert_eq!(
            display("postgres://anna:sec%20ret?@db:1/x?sslmode=require"),
            "postgres://anna@db:1/x?sslmode=require"
        );
        assert_eq!(display("postgres://db/x?user=anna&password=secret"), "postgres://db/x?user=anna");
        assert_eq!(display("postgres://db/x?password=secret"), "postgres://db/x");
        let error = Target::parse("postgres://anna:secret@h/d?nonsense=1").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
