//! `mysql://…` and `mariadb://…` → the server, and the way to connect to it.
//!
//! Main thread, at startup. The parameters have the names of the options of MySQL's client.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::{User, getuid};
use percent_encoding::percent_decode_str;

use super::super::Error;
use super::tls;

/// The beginnings of a URL.
pub(super) const SCHEMES: [&str; 2] = ["mysql://", "mariadb://"];

/// The form of a URL, for messages.
pub(super) const FORM: &str = "mysql://user@host/database";

const PORT: u16 = 3306;

/// A parsed URL.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) user: String,
    pub(super) password: Vec<u8>,
    pub(super) database: Option<String>,
    /// The hosts in their order. There is always one.
    pub(super) hosts: Vec<Place>,
    pub(super) tls: tls::Settings,
    /// The most time for one address, the login included.
    pub(super) connect_timeout: Option<Duration>,
    /// `user@host:port database name`, for messages.
    pub(super) name: String,
}

/// A host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A name or an address, with a port.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Target {
    /// # Errors
    /// [`Error::Url`] names the part that is wrong. It never repeats a value that may be a password.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let Parts { credentials, hosts, database, query } = Parts::of(url)?;
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let mut user = text("user", user)?;
        let password: Vec<u8> = percent_decode_str(password).collect();
        if password.contains(&0) {
            return Err(Error::Url("password: %00 is not allowed".to_owned()));
        }
        let database = Some(text("database", database)?).filter(|name| !name.is_empty());
        let (mut tls, mut socket, mut connect_timeout) = (tls::Settings::default(), None, None);
        for (index, pair) in query.split('&').enumerate().filter(|(_, pair)| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = name.replace('_', "-").to_ascii_lowercase();
            let parameter = PARAMETERS.iter().find(|known| **known == name);
            let parameter = parameter.ok_or_else(|| unknown(&name, index))?;
            let value = text(parameter, value)?;
            match *parameter {
                "socket" => socket = Some(PathBuf::from(&value)),
                "connect-timeout" => {
                    let seconds = value.parse::<u32>().map_err(|_| {
                        Error::Url(format!("connect-timeout={value}: expected a number of seconds"))
                    })?;
                    // As in MySQL's client, 0 is no limit of its own.
                    connect_timeout = Some(Duration::from_secs(seconds.into())).filter(|_| seconds > 0);
                }
                _ => tls.set(parameter, &value).map_err(Error::Url)?,
            }
        }
        let hosts = match socket {
            Some(_) if !hosts.is_empty() && hosts != "localhost" => {
                return Err(Error::Url("write either hosts or socket=PATH".to_owned()));
            }
            Some(path) => vec![Place::Unix(path)],
            None => hosts.split(',').map(place).collect::<Result<_, _>>()?,
        };
        if user.is_empty() {
            // As MySQL's client does.
            let own = User::from_uid(getuid()).ok().flatten().map(|own| own.name);
            user = own.ok_or_else(|| Error::Url(format!("no user; write {FORM}")))?;
        }
        let names: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let of_database = database.as_ref().map_or_else(String::new, |name| format!(" database {name}"));
        let name = format!("{user}@{}{of_database}", names.join(","));
        Ok(Self { user, password, database, hosts, tls, connect_timeout, name })
    }
}

/// The parameters that a URL may have.
const PARAMETERS: [&str; 6] = ["socket", "connect-timeout", "ssl-mode", "ssl-ca", "ssl-cert", "ssl-key"];

fn unknown(name: &str, index: usize) -> Error {
    let like = |known: &&&str| strsim::jaro_winkler(known, name);
    let close = PARAMETERS.iter().max_by(|one, other| like(one).total_cmp(&like(other)));
    let known = PARAMETERS.join(", ");
    Error::Url(match close.filter(|known| like(known) > 0.85) {
        Some(close) => format!("{name:?} is not a parameter; did you mean {close}?"),
        // It may be a piece of a password with an `&` in it, so it is not shown.
        None => format!("parameter {} of the URL is none of {known}", index + 1),
    })
}

/// The parts of a URL, still encoded.
struct Parts<'u> {
    credentials: &'u str,
    hosts: &'u str,
    database: &'u str,
    query: &'u str,
}

impl<'u> Parts<'u> {
    fn of(url: &'u str) -> Result<Self, Error> {
        let rest = SCHEMES.iter().find_map(|scheme| url.strip_prefix(scheme));
        let rest = rest.ok_or_else(|| Error::Url(format!("expected {FORM}")))?;
        let (credentials, rest) = rest.split_once('@').unwrap_or(("", rest));
        if rest.contains('@') || credentials.contains(['/', '?']) {
            let reason = "write %40 for each `@` but the one before the host, and %2F for a `/` and %3F for a `?` in the user or \
                          the password";
            return Err(Error::Url(reason.to_owned()));
        }
        let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, database) = base.split_once('/').unwrap_or((base, ""));
        Ok(Self { credentials, hosts, database, query })
    }
}

fn text(name: &str, encoded: &str) -> Result<String, Error> {
    let decoded = percent_decode_str(encoded).decode_utf8();
    let decoded = decoded.map_err(|_| Error::Url(format!("{name}: expected text in UTF-8")))?;
    if decoded.contains('\0') {
        return Err(Error::Url(format!("{name}: %00 is not allowed")));
    }
    Ok(decoded.into_owned())
}

fn place(host: &str) -> Result<Place, Error> {
    let (name, port) = match host.strip_prefix('[') {
        Some(inner) => {
            let parts = inner.split_once(']').filter(|(_, after)| after.is_empty() || after.starts_with(':'));
            let (name, after) = parts
                .ok_or_else(|| Error::Url("host: expected `]`, and `:` and a port behind it".to_owned()))?;
            (name, after.strip_prefix(':').unwrap_or_default())
        }
        None => host.split_once(':').unwrap_or((host, "")),
    };
    let name = text("host", name)?;
    let port = match port {
        "" => PORT,
        port => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
            // It may be a password, if the `@` behind that is missing.
            Error::Url("port: expected a number from 1 to 65535".to_owned())
        })?,
    };
    if name.is_empty() {
        let reason = format!("no host; write {FORM}, or mysql:///database?socket=PATH for a unix socket");
        return Err(Error::Url(reason));
    }
    Ok(if name.starts_with('/') { Place::Unix(name.into()) } else { Place::Tcp(name, port) })
}

/// The URL without its password. A URL whose password has no clear end is not shown.
pub(super) fn display(url: &str) -> String {
    let scheme = SCHEMES.iter().find(|scheme| url.starts_with(**scheme)).unwrap_or(&SCHEMES[0]);
    if Target::parse(url).is_err() {
        return format!("{scheme}…");
    }
    let Ok(Parts { credentials, hosts, database, query }) = Parts::of(url) else {
        return format!("{scheme}…");
    };
    let user = credentials.split_once(':').map_or(credentials, |(user, _)| user);
    let user = if user.is_empty() { String::new() } else { format!("{user}@") };
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    format!("{scheme}{user}{hosts}/{database}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_sockets_and_passwords_are_taken() {
        let parse = |url: &str| Target::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        let target =
            parse("mysql://an%40na:p%40%2Fw%3A%FF@db.example/flights?connect-timeout=3&ssl-mode=disabled");
        assert_eq!(target.name, "an@na@db.example:3306 database flights");
        assert_eq!(target.password, b"p@/w:\xff");
        assert_eq!(target.connect_timeout, Some(Duration::from_secs(3)));
        let hosts = |url: &str| parse(url).hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(hosts("mariadb://u@a:1,b,[::1]:7/x"), ["a:1", "b:3306", "[::1]:7"]);
        assert_eq!(hosts("mysql://u@/x?socket=/run/my.sock"), ["/run/my.sock"]);
        assert_eq!(hosts("mysql://u@%2Frun%2Fmy.sock/x"), ["/run/my.sock"]);
        assert_eq!(parse("mysql://u@h").database, None);
        assert!(!parse("mysql://h/d").user.is_empty());
    }

    #[test]
    fn a_wrong_part_is_named_and_no_password_is_shown() {
        for (url, reason) in [
            ("mysql://u:hunter2@h/d?ssl-mod=required", "did you mean ssl-mode?"),
            ("mysql://u:hunter2@h/d?ssl-mode=sometimes", "ssl-mode=sometimes: expected"),
            ("mysql://u@/d", "no host"),
            ("mysql://u@h:port/d", "port: expected"),
            ("mysql://u:hunter2/d", "port: expected"),
            ("mysql://u:hunt@hunter2@h/d", "%40"),
            ("mysql://u:x/hunter2@h/d", "%2F"),
            ("mysql://u@h/d?a=1&hunter2=b", "parameter 1 "),
            ("mysql://u@h/d?connect-timeout=soon", "a number of seconds"),
            ("mysql://u@h/d?socket=/s", "either hosts or socket"),
            ("mysql://u@h/%00", "%00"),
            ("mysql://u@h/%FF", "UTF-8"),
        ] {
            let error = Target::parse(url).map(|target| target.name).expect_err(url).to_string();
            assert!(error.contains(reason), "{url}: {error}");
            assert!(!error.contains("hunt"), "{error}");
            assert_eq!(display(url), "mysql://…", "{url}");
        }
        assert_eq!(
            display("mysql://anna:sec%20ret@db:1/x?ssl-mode=required"),
            "mysql://anna@db:1/x?ssl-mode=required"
        );
        assert_eq!(display("mariadb://db/x"), "mariadb://db/x");
    }
}
