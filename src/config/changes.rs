//! The differences between two configurations, and which of them have to wait for a restart.
//!
//! The thread that reloads. It uses the table of keys, so that no key is forgotten.

use std::fmt;

use super::keys::{keys, keys_of_listener};
use super::listeners::section;
use super::{Action, Config, Endpoint, Listener, Span, Traffic};

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
            needs_restart: now.needs_restart() || now.path() == PROTOCOL && !self.has_form_of(new),
        });
        let keys = keys.chain(listener_changes(&self.listen, &new.listen));
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
        if !self.has_form_of(&running) {
            self.proxy.protocol = running.proxy.protocol;
        }
        self.listen = running.listen;
        self
    }
}

/// The key that says for `server.listen` what `[[listen]]` says for each listener. It takes effect at once, except where the other
/// form comes: the listeners stay as they were then, and so does this.
const PROTOCOL: &str = "proxy.protocol";

impl Config {
    /// Whether both have `[[listen]]`, or neither has.
    fn has_form_of(&self, other: &Self) -> bool {
        self.listen.is_empty() == other.listen.is_empty()
    }
}

/// The changes of `[[listen]]`, all of which need a restart. Another number of listeners is one change.
fn listener_changes(before: &[Listener], now: &[Listener]) -> Vec<Change> {
    if before.len() != now.len() {
        let shown = |listeners: &[Listener]| {
            let addresses: Vec<_> = listeners.iter().map(|listener| listener.address.to_string()).collect();
            if addresses.is_empty() { "not given".to_owned() } else { addresses.join(" and ") }
        };
        let values = Some((shown(before), shown(now)));
        return vec![Change { key: "listen".to_owned(), values, needs_restart: true }];
    }
    let mut changes = Vec::new();
    for (index, (before, now)) in before.iter().zip(now).enumerate() {
        let (mut before, mut now) = (before.clone(), now.clone());
        let pairs = keys_of_listener(&mut before).into_iter().zip(keys_of_listener(&mut now));
        changes.extend(pairs.filter(|(before, now)| before.value() != now.value()).map(|(before, now)| {
            let key = format!("{}.{}", section(index), now.name);
            Change { key, values: Some((before.value(), now.value())), needs_restart: true }
        }));
    }
    changes
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
    fn each_change_of_a_listener_waits_for_a_restart() {
        let two = "[[listen]]\naddress = '127.0.0.1:1'\n[[listen]]\naddress = 'unix:a'\n";
        let before = read(two);
        for index in 0..keys_of_listener(&mut before.listen[0].clone()).len() {
            let mut new = before.clone();
            let name = {
                let mut keys = keys_of_listener(&mut new.listen[1]);
                let other = other_value(&mut keys[index]);
                keys[index].set(other).unwrap_or_else(|error| panic!("{}: {error}", keys[index].name));
                keys[index].name
            };
            let changes = before.changes_to(&new);
            let told: Vec<_> =
                changes.keys.iter().map(|change| (&*change.key, change.needs_restart)).collect();
            assert_eq!(told, [(&*format!("listen[2].{name}"), true)]);
            assert_eq!(new.until_restart(&before), before);
        }
        let one = read("[[listen]]\naddress = '127.0.0.1:1'");
        let told: Vec<_> = before.changes_to(&one).keys.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["listen: 127.0.0.1:1, before 127.0.0.1:1 and unix:a"]);
        assert_eq!(one.until_restart(&before), before);
    }

    /// The header would have been expected no more, although the proxy went on sending it.
    #[test]
    fn the_protocol_of_the_short_form_stays_until_the_other_form_comes_with_a_restart() {
        let short = read("proxy = { protocol = true, trusted = '::1' }");
        let tables =
            read("[[listen]]\naddress = '127.0.0.1:1'\nproxy_protocol = true\n[proxy]\ntrusted = '::1'");
        let changes = short.changes_to(&tables);
        assert!(changes.keys.iter().all(|change| change.needs_restart), "{changes:?}");
        assert_eq!(tables.clone().until_restart(&short), short);
        assert_eq!(short.clone().until_restart(&tables), tables);
        let without = read("proxy = { trusted = '::1' }");
        assert!(!short.changes_to(&without).keys[0].needs_restart);
        assert_eq!(without.clone().until_restart(&short), without);
    }

    #[test]
    fn a_change_shows_both_values_but_no_password() {
        let change = |before: &str, now: &str| read(before).changes_to(&read(now)).keys[0].to_string();
        assert_eq!(change("server.workers = 2", ""), "server.workers: not given, before 2");
        assert_eq!(change("", "http.idle_timeout = '1s'"), "http.idle_timeout: 1s, before 75s");
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
