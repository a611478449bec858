//! The differences between two configurations, and which of them have to wait for a restart.
//!
//! The thread that reloads. It uses the table of keys, so that no key is forgotten.

use std::fmt;

use super::keys::keys;
use super::{Action, Config, Endpoint, Span, Traffic};

/// A key outside `[endpoint]` whose value has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The full key, such as `server.workers`.
    pub key: String,
    /// The old and the new value, as text. `None` if the key may hold a password.
    pub values: Option<(String, String)>,
    /// A running server keeps the old value.
    pub needs_restart: bool,
}

/// All differences between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// Keys outside `[endpoint]`, in the order of `config/reference.toml`.
    pub keys: Vec<Change>,
    /// NAMEs of `[endpoint.NAME]` that are new, in the order of the file.
    pub added: Vec<String>,
    /// NAMEs of endpoints that do something else now.
    pub changed: Vec<String>,
    /// NAMEs of endpoints that were removed.
    pub removed: Vec<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.values {
            Some((before, now)) => write!(f, "{}: {now}, before {before}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

impl Changes {
    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Config {
    /// The changes from this configuration to `new`. The place of an endpoint in its file makes no difference.
    pub fn changes_to(&self, new: &Self) -> Changes {
        let (mut before, mut now) = (self.clone(), new.clone());
        let pairs = keys(&mut before).into_iter().zip(keys(&mut now));
        let keys = pairs.filter(|(before, now)| before.value() != now.value()).map(|(before, now)| Change {
            key: now.path(),
            values: (!now.is_secret()).then(|| (before.value(), now.value())),
            needs_restart: now.needs_restart(),
        });
        // Nothing of the server depends on it; a program that reads it again may.
        let app = Change { key: "app".to_owned(), values: None, needs_restart: false };
        let keys = keys.chain((!self.has_app_of(new)).then_some(app)).collect();
        let (before, now) = (&self.endpoints, &new.endpoints);
        let names = |of: &[Endpoint], keep: &dyn Fn(&Endpoint) -> bool| {
            of.iter().filter(|endpoint| keep(endpoint)).map(|endpoint| endpoint.name.clone()).collect()
        };
        Changes {
            keys,
            added: names(now, &|endpoint| named(before, &endpoint.name).is_none()),
            changed: names(now, &|endpoint| {
                named(before, &endpoint.name).is_some_and(|before| unplaced(before) != unplaced(endpoint))
            }),
            removed: names(before, &|endpoint| named(now, &endpoint.name).is_none()),
        }
    }

    /// This configuration, with the values of `running` for the keys that need a restart.
    #[must_use]
    pub fn until_restart(mut self, running: &Self) -> Self {
        let mut running = running.clone();
        for (mut key, before) in keys(&mut self).into_iter().zip(keys(&mut running)) {
            if key.needs_restart() {
                key.copy(&before);
            }
        }
        self
    }
}

fn named<'e>(endpoints: &'e [Endpoint], name: &str) -> Option<&'e Endpoint> {
    endpoints.iter().find(|endpoint| endpoint.name == name)
}

/// An endpoint without its place in the file and without the parts that a server does not use.
fn unplaced(endpoint: &Endpoint) -> Endpoint {
    let mut endpoint = Endpoint { span: Span::default(), traffic: Traffic::default(), ..endpoint.clone() };
    if let Action::Sql { steps, .. } = &mut endpoint.action {
        for step in steps {
            step.span = Span::default();
        }
    }
    endpoint
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::other_value;
    use super::super::read::tests::read;
    use super::*;

    const REFERENCE: &str = include_str!("../../config/reference.toml");

    /// The keys that need a restart, according to the reference.
    fn listed() -> Vec<&'static str> {
        let (_, list) = REFERENCE.split_once("what needs a restart: ").expect("the reference has the list");
        let (list, _) = list.split_once(". ").expect("the list has an end");
        list.split([' ', ',', '#', '\n']).filter(|word| !word.is_empty()).collect()
    }

    #[test]
    fn each_change_of_a_key_is_seen_and_waits_for_a_restart_only_if_needed() {
        let before = Config::default();
        let (count, restart) = (keys(&mut before.clone()).len(), listed());
        assert!(
            restart.contains(&"server.listen") && restart.contains(&"database.initialization_fail_timeout")
        );
        for index in 0..count {
            let mut new = before.clone();
            let path = {
                let key = &mut keys(&mut new)[index];
                let other = other_value(key);
                key.set(other).unwrap_or_else(|error| panic!("{}: {error}", key.path()));
                key.path()
            };
            assert_ne!(new, before, "{path}");
            let changes = before.changes_to(&new);
            assert_eq!(changes.keys.len(), 1, "{path}: {changes:?}");
            let change = &changes.keys[0];
            assert_eq!((change.key.as_str(), change.needs_restart), (&*path, restart.contains(&&*path)));
            let kept = new.clone().until_restart(&before);
            assert_eq!(kept, if change.needs_restart { before.clone() } else { new.clone() }, "{path}");
            // And back to the state without a value.
            let kept = before.clone().until_restart(&new);
            assert_eq!(kept, if change.needs_restart { new } else { before.clone() }, "{path}");
        }
    }

    #[test]
    fn a_change_shows_both_values_but_no_password() {
        let change = |before: &str, now: &str| read(before).changes_to(&read(now)).keys[0].to_string();
        assert_eq!(change("server.workers = 2", ""), "server.workers: not given, before 2");
        assert_eq!(change("", "http.idle_timeout = '1s'"), "http.idle_timeout: 1s, before 60s");
        assert_eq!(change("", "log.level = 'debug'"), "log.level: debug, before info");
        assert_eq!(change("", "proxy.trusted = ['::1']"), "proxy.trusted: [::1], before []");
        let secret = "database.connection_init_sql = \"set role x password 'y'\"";
        assert_eq!(change("", secret), "database.connection_init_sql");
    }

    #[test]
    fn endpoints_are_compared_by_their_action_and_not_by_their_place() {
        let one = "[endpoint.a]\nroute = 'GET /a'\nsql = 'select 1'\n";
        let other = "[endpoint.b]\nroute = 'GET /b'\nbody = 'b'\n";
        let changes = |before: &str, now: &str| read(before).changes_to(&read(now));
        assert!(changes(&format!("{one}{other}"), &format!("# moved\n{other}{one}")).is_empty());
        let changes =
            changes(&format!("{one}{other}"), &one.replace("select 1", "select 2").replace(".a]", ".c]"));
        assert_eq!(
            (changes.added, changes.removed),
            (vec!["c".to_owned()], vec!["a".to_owned(), "b".to_owned()])
        );
        let changes = read(one).changes_to(&read(&one.replace("select 1", "select 2")));
        assert_eq!(changes.changed, ["a"]);
    }
}
