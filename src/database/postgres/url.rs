//! `postgres://…` → the server, and the way to connect to it.
//!
//! Main thread, at startup. The URL is libpq's (PostgreSQL manual, 34.1.1.2 and 34.1.2). tokio-postgres does not know
//! the TLS files and three of the six modes. They are taken out here before tokio-postgres parses the rest.

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::super::Error;
use super::tls;

/// A parsed URL.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// tokio-postgres's part of the URL.
    pub(super) config: Config,
    /// The TLS settings.
    pub(super) tls: tls::Settings,
    /// `user@host:port/database`, for messages.
    pub(super) name: String,
}

impl Target {
    /// # Errors
    /// [`Error::Url`] names the part that is wrong.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let (base, query) = parts(url)?;
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
        pair_hosts(&config)?;
        if config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) {
            // "sslmode is ignored for Unix domain socket communication."
            tls = tls::Settings::disabled();
        }
        let name = name(&config);
        Ok(Self { config, tls, name })
    }
}

/// The parameters of a URL that are shown. No others are, because any of them may hold a password, as `options` can.
const SHOWN: [&str; 12] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "sslcert",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

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
        SHOWN.contains(&&*key)
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

/// Makes a `hostaddr` without a `host` its own host name, so that TLS has a name to check. If both are missing, that is
/// an error here, not only at connect.
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

/// Refuses lists of hosts, addresses and ports whose lengths differ. One port may stand for all hosts.
fn pair_hosts(config: &Config) -> Result<(), Error> {
    let (hosts, addresses, ports) =
        (config.get_hosts().len(), config.get_hostaddrs().len(), config.get_ports().len());
    let fits = |length: usize, may_be: usize| length == hosts || length <= may_be;
    if fits(addresses, 0) && fits(ports, 1) {
        return Ok(());
    }
    Err(Error::Url(format!("{hosts} hosts, {addresses} hostaddrs and {ports} ports do not fit together")))
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
    fn the_unknown_or_missing_part_is_named() {
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
