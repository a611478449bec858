//! The configuration in force as text, for operators of a running server.
//!
//! The thread that reloads. It uses the table of keys, so that no key is forgotten and no possible password is shown.

use std::fmt::{self, Write as _};

use super::keys::{keys, keys_of_listener};
use super::listeners::SHORT_FORM;
use super::setting::show_time;
use super::{Admin, Config, Database, Endpoint, Flags, Source, Tracing};

impl Config {
    /// TOML with every key that has a value, and the route of every endpoint. `url` shows a database's URL without its
    /// password.
    pub fn shown(&self, url: impl Fn(&str) -> String) -> String {
        let mut text = String::from("# The configuration in force.\n");
        let mut config = self.clone();
        let mut section = "";
        for key in keys(&mut config) {
            if key.section != section {
                section = key.section;
                push(&mut text, format_args!("\n[{section}]\n"));
            }
            // Beside `[[listen]]` these keys say nothing, and a file could not have them.
            let says_nothing = !self.listen.is_empty() && SHORT_FORM.contains(&key.path().as_str());
            match key.shown(&url).filter(|_| !says_nothing) {
                Some(value) => push(&mut text, format_args!("{} = {value}\n", key.name)),
                None => push(&mut text, format_args!("# {} is not given\n", key.name)),
            }
        }
        for listener in &mut config.listen {
            push(&mut text, format_args!("\n[[listen]]\n"));
            for key in keys_of_listener(listener) {
                match key.shown(&url) {
                    Some(value) => push(&mut text, format_args!("{} = {value}\n", key.name)),
                    None => push(&mut text, format_args!("# {} is not given\n", key.name)),
                }
            }
        }
        for endpoint in &self.endpoints {
            show_endpoint(&mut text, endpoint);
        }
        text
    }
}

/// `Debug` shows the same as [`Config::shown`], so that no panic and no log of a program with this crate shows a
/// password.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown(hidden))
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_section(f, "database", Config { database: self.clone(), ..Config::default() })
    }
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_section(f, "tracing", Config { tracing: self.clone(), ..Config::default() })
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug_section(f, "admin", Config { admin: self.clone(), ..Config::default() })
    }
}

/// The text of a file may contain passwords.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The database's URL may contain a password.
impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flags").field("listen", &self.listen).finish_non_exhaustive()
    }
}

fn debug_section(f: &mut fmt::Formatter<'_>, section: &str, mut config: Config) -> fmt::Result {
    let mut told = f.debug_map();
    for key in keys(&mut config).into_iter().filter(|key| key.section == section) {
        told.entry(
            &key.name,
            &format_args!("{}", key.shown(&hidden).unwrap_or_else(|| "not given".to_owned())),
        );
    }
    told.finish()
}

fn hidden(_: &str) -> String {
    "…".to_owned()
}

/// Shows the route only. The SQL or the answer of an endpoint may be long, and is in the file.
fn show_endpoint(text: &mut String, endpoint: &Endpoint) {
    let Endpoint { name, method, path, deadline, max_concurrency, .. } = endpoint;
    push(text, format_args!("\n[endpoint.{name}]\nroute = \"{method} {path}\"\n"));
    if let Some(deadline) = deadline {
        push(text, format_args!("deadline = \"{}\"\n", show_time(*deadline)));
    }
    if let Some(max) = max_concurrency {
        push(text, format_args!("max_concurrency = {max}\n"));
    }
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::super::Environment;
    use super::super::keys::REDACTED;
    use super::super::keys::tests::other_value;
    use super::super::read::tests::read;
    use super::super::setting::Setting;
    use super::*;

    /// A configuration in which every key differs from its default.
    fn full() -> Config {
        let mut config = Config::default();
        for key in &mut keys(&mut config) {
            let value = match key.section {
                "tracing" if key.is_secret() => Setting::Text("api-key=hunter2".to_owned()),
                section if key.is_secret() => secret(section),
                _ => other_value(key),
            };
            key.set(value).unwrap_or_else(|error| panic!("{}: {error}", key.path()));
        }
        config
    }

    fn secret(section: &str) -> Setting {
        // The only text that is accepted as a URL, a statement and a token.
        Setting::Text(format!("postgres://{section}:hunter2@h/d"))
    }

    #[test]
    fn the_shown_text_is_what_was_read_without_passwords() {
        let full = full();
        let text = full.shown(|_| "postgres://user@h/d".to_owned());
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(text.matches(REDACTED).count(), 3, "{text}");
        // Keys contradict each other if all are set, but they are read all the same.
        let source = Source { path: None, text };
        let (again, problems) = Config::examine(source, &Environment::new(), &Flags::default());
        assert!(problems.list().iter().all(|problem| problem.message.contains("need")), "{problems}");
        let different: Vec<_> = full.changes_to(&again).keys.into_iter().map(|change| change.key).collect();
        assert_eq!(
            different,
            ["tracing.otlp_headers", "admin.token", "database.url", "database.connection_init_sql"]
        );
    }

    #[test]
    fn listeners_are_shown_as_a_file_has_them() {
        let text = "[[listen]]\naddress = '127.0.0.1:8080'\n[[listen]]\naddress = 'unix:a'\ntls = true\n\
            certificate = 'c'\nkey = 'd'\nclient_ca = 'e'\nclient_auth = 'optional'\nproxy_protocol = true\n\
            unix_mode = '0600'\nunix_owner = 'o'\nunix_group = 'g'\n[proxy]\ntrusted = 'unix'\n";
        let config = read(text);
        let shown = config.shown(str::to_owned);
        assert!(shown.contains("\n[server]\n# listen is not given\n"), "{shown}");
        assert!(shown.contains("\n[[listen]]\naddress = \"127.0.0.1:8080\"\ntls = false\n# cert"), "{shown}");
        assert_eq!(read(&shown), config);
    }

    #[test]
    fn debug_shows_no_password_either() {
        let full = full();
        let Config { database, tracing, admin, .. } = &full;
        for text in
            [format!("{full:?}"), format!("{database:?}"), format!("{tracing:?}"), format!("{admin:?}")]
        {
            assert!(text.len() > 50 && !text.contains("hunter2"), "{text}");
        }
        let source = Source { path: None, text: "token = 'hunter2'".to_owned() };
        assert_eq!(format!("{source:?}"), "Source { path: None, .. }");
    }

    #[test]
    fn endpoints_are_shown_by_their_routes() {
        let text = "database.url = 'sqlite:a'\n[endpoint.a]\nroute = 'GET /a/{id}'\nparams = { id = 'int' }\n\
            deadline = '2s'\nsql = \"select 'hunter2', :id\"\n";
        let shown = read(text).shown(str::to_owned);
        assert!(shown.ends_with("\n[endpoint.a]\nroute = \"GET /a/{id}\"\ndeadline = \"2s\"\n"), "{shown}");
        assert!(shown.contains("\n# workers is not given\n"), "{shown}");
    }
}
