//! `[[listen]]`: the listeners for clients, each with its own address and rules.
//!
//! Main thread. Its keys are in `keys`; this file reads them, holds the rules between them, and says what applies to one listener.

use std::path::PathBuf;

use super::keys::{Key, keys, keys_of_listener};
use super::listen::ListenError;
use super::read::{Flags, Reader, Table};
use super::{ClientAuth, Config, Connector, Listen, Listener, SocketAccess, Tls};

/// The most listeners. Each takes a descriptor, and the acceptor looks at all of them when clients come.
const LISTENERS_MAX: usize = 64;

/// The keys that say for a single listener what `[[listen]]` says for each.
pub(super) const SHORT_FORM: [&str; 5] =
    ["server.listen", "server.unix_mode", "server.unix_owner", "server.unix_group", "proxy.protocol"];

impl Listener {
    /// A listener for plain HTTP at this address, without the PROXY protocol.
    pub fn at(address: impl Into<Listen>) -> Self {
        Self {
            address: address.into(),
            tls: false,
            certificate: None,
            key: None,
            client_ca: None,
            client_auth: None,
            proxy_protocol: false,
            unix_mode: None,
            unix_owner: None,
            unix_group: None,
        }
    }

    /// The permissions, owner and group of its Unix socket's file. `section` has these keys, for messages.
    pub(crate) fn socket_access<'c>(&'c self, section: &'c str) -> SocketAccess<'c> {
        SocketAccess {
            section,
            mode: self.unix_mode,
            owner: self.unix_owner.as_deref(),
            group: self.unix_group.as_deref(),
        }
    }
}

impl Config {
    /// The listeners for clients: those of `[[listen]]`, or else the one that `server.listen` describes. There is always one.
    pub fn listeners(&self) -> Vec<Listener> {
        if !self.listen.is_empty() {
            return self.listen.clone();
        }
        vec![Listener {
            tls: self.tls.certificate.is_some(),
            proxy_protocol: self.proxy.protocol,
            unix_mode: self.server.unix_mode,
            unix_owner: self.server.unix_owner.clone(),
            unix_group: self.server.unix_group.clone(),
            ..Listener::at(self.server.listen.clone())
        }]
    }

    /// The section with the keys of one of the [`listeners`](Self::listeners), for messages.
    pub(crate) fn section_of_listener(&self, index: usize) -> String {
        if self.listen.is_empty() { "server".to_owned() } else { section(index) }
    }

    /// The keys of a listener's files for TLS and the files themselves, as they apply to it. A key that the listener leaves out is
    /// `[tls]`'s.
    pub(crate) fn tls_files(&self, index: usize, listener: &Listener) -> [(String, Option<PathBuf>); 3] {
        let own = section(index);
        let applied = self.tls_of(listener);
        let name = |has_own: bool, key: &str| {
            if has_own { format!("{own}.{key}") } else { format!("tls.{key}") }
        };
        [
            (name(listener.certificate.is_some(), "certificate"), applied.certificate),
            (name(listener.key.is_some(), "key"), applied.key),
            (name(listener.client_ca.is_some(), "client_ca"), applied.client_ca),
        ]
    }

    /// `[tls]` as it applies to a listener that speaks TLS.
    pub(crate) fn tls_of(&self, listener: &Listener) -> Tls {
        let mut tls = self.tls.clone();
        if listener.certificate.is_some() || listener.key.is_some() {
            (tls.certificate, tls.key) = (listener.certificate.clone(), listener.key.clone());
        }
        tls.client_auth = listener.client_auth.unwrap_or(tls.client_auth);
        if listener.client_ca.is_some() {
            tls.client_ca.clone_from(&listener.client_ca);
        } else if tls.client_auth == ClientAuth::Nothing && !self.listen.is_empty() {
            // The authorities of `[tls]` are for the listeners that ask.
            tls.client_ca = None;
        }
        tls
    }
}

/// `listen[2]`, counted from 1.
pub(super) fn section(index: usize) -> String {
    format!("listen[{}]", index + 1)
}

impl Reader<'_> {
    /// Reads every `[[listen]]`. A key that cannot be read keeps its default.
    pub(super) fn listeners(&mut self, root: &Table<'_>) -> Vec<Listener> {
        let Some(node) = root.node("listen") else { return Vec::new() };
        let Some(items) = node.items().filter(|items| !items.is_empty()) else {
            self.report(node.span, node.key, "expected tables, [[listen]], each with an `address`");
            return Vec::new();
        };
        if items.len() > LISTENERS_MAX {
            let message =
                format!("{} listeners are more than the {LISTENERS_MAX} that there may be", items.len());
            self.report(node.name_span, node.key, message);
            return Vec::new();
        }
        let mut listeners = Vec::new();
        for item in items {
            let mut listener = Listener::at(Config::default().server.listen);
            if let Some(table) = self.table(&item) {
                let mut keys = keys_of_listener(&mut listener);
                self.only(&table, &keys.iter().map(|key| key.name).collect::<Vec<_>>());
                for key in &mut keys {
                    self.take(&table, key.name, |setting| key.set(setting));
                }
                if !table.has("address") {
                    let message = format!("missing: expected {}", ListenError::ACCEPTED);
                    self.report(table.span, table.key_of("address"), message);
                }
            }
            listeners.push(listener);
        }
        listeners
    }

    /// Reports the keys of the short form, in the file, in a variable or in a flag, that stand beside `[[listen]]`.
    pub(super) fn one_form(&mut self, root: &Table<'_>, flags: &Flags) {
        if !root.has("listen") {
            return;
        }
        let message = "[[listen]] says this for each listener; keep one of the two";
        let mut short = Config::default();
        for key in keys(&mut short).iter().filter(|key| SHORT_FORM.contains(&key.path().as_str())) {
            if let Some(place) = root.place(&key.path()) {
                self.report(place, key.path(), message);
            }
            for name in self.variables_given(key) {
                self.report(
                    None,
                    name,
                    format!("{message}; a variable in the file may stand in each `address`"),
                );
            }
        }
        if flags.listen.is_some() {
            let message = format!("{message}; a variable in the file may stand in each `address`");
            self.report(None, "--listen", message);
        }
    }

    /// Whether a key of some listener was refused.
    pub(super) fn refused_a_listener(&self) -> bool {
        self.refused("listen") || (0..LISTENERS_MAX).any(|index| self.has_problem_in(&section(index)))
    }

    fn variables_given(&self, key: &Key<'_>) -> Vec<String> {
        key.variables().into_iter().filter(|name| self.environment().contains_key(name)).collect()
    }

    /// Reports the broken rules of `[[listen]]`. It skips a listener with a wrong key, because further problems would be guesses.
    pub(super) fn consistent_listeners(&mut self, root: &Table<'_>, config: &Config) {
        let items = root.node("listen").and_then(|node| node.items()).unwrap_or_default();
        for (index, (item, listener)) in items.iter().zip(&config.listen).enumerate() {
            let Some(table) = item.value.as_table().and_then(|_| self.table(item)) else { continue };
            if self.has_problem_in(&section(index)) {
                continue;
            }
            for (name, message) in broken(config, index, listener) {
                let place = table.node(name).map_or(table.span, |node| node.span);
                self.report(place, table.key_of(name), message);
            }
        }
    }
}

/// The rules that a listener breaks: the key, and why its value cannot be.
fn broken(config: &Config, index: usize, listener: &Listener) -> Vec<(&'static str, String)> {
    let Listener { certificate, key, client_ca, .. } = listener;
    let applied = config.tls_of(listener);
    let asks = applied.client_auth != ClientAuth::Nothing;
    let asks_itself = listener.client_auth.is_some_and(|asks| asks != ClientAuth::Nothing);
    let is_unix = matches!(listener.address, Listen::Unix(_));
    let no_file = "needs address = \"unix:PATH\": there is no file otherwise";
    let no_tls = "needs tls = true: without it nothing is encrypted";
    let tls = listener.tls;
    let mut broken: Vec<(&'static str, String)> = [
        ("unix_mode", listener.unix_mode.is_some() && !is_unix, no_file),
        ("unix_owner", listener.unix_owner.is_some() && !is_unix, no_file),
        ("unix_group", listener.unix_group.is_some() && !is_unix, no_file),
        ("certificate", certificate.is_some() && !tls, no_tls),
        ("key", key.is_some() && !tls, no_tls),
        ("client_ca", client_ca.is_some() && !tls, no_tls),
        ("client_auth", asks_itself && !tls, no_tls),
        ("certificate", tls && certificate.is_some() && key.is_none(), "needs the `key` beside it"),
        ("key", tls && key.is_some() && certificate.is_none(), "needs the `certificate` beside it"),
        (
            "tls",
            tls && certificate.is_none() && key.is_none() && applied.certificate.is_none(),
            "needs tls.certificate and tls.key, or `certificate` and `key` beside it",
        ),
        (
            "client_auth",
            tls && asks_itself && applied.client_ca.is_none(),
            "needs `client_ca` beside it, or tls.client_ca",
        ),
        (
            "client_ca",
            tls && client_ca.is_some() && !asks,
            "needs client_auth = \"optional\" or \"required\"",
        ),
        (
            "proxy_protocol",
            listener.proxy_protocol && config.proxy.trusted.is_empty(),
            "needs proxy.trusted: without it anyone could claim any address",
        ),
    ]
    .into_iter()
    .filter(|(_, broken, _)| *broken)
    .map(|(name, _, message)| (name, message.to_owned()))
    .collect();
    if let Some(other) =
        config.listen[..index].iter().position(|other| is_same(&other.address, &listener.address))
    {
        broken.push(("address", format!("{} has {} already", section(other), listener.address)));
    }
    if config.server.connector == Connector::TinyHttp {
        let features = [
            ("address", index > 0, "a second listener"),
            ("address", is_unix, "a Unix socket"),
            ("proxy_protocol", listener.proxy_protocol, "the PROXY protocol"),
            ("tls", tls, "TLS"),
        ];
        let lacks = features.into_iter().filter(|(_, asked, _)| *asked);
        broken.extend(
            lacks.map(|(name, _, what)| (name, format!("{what} needs server.connector = \"native\""))),
        );
    }
    broken
}

/// Whether two listeners cannot both have their address. Port 0 and systemd's sockets are another one each time.
fn is_same(one: &Listen, other: &Listen) -> bool {
    match one {
        Listen::Tcp(address) => address.port() != 0 && one == other,
        Listen::Unix(_) => one == other,
        Listen::Inherited | Listen::Named(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::{problems, read};
    use super::*;

    const REFERENCE: &str = include_str!("../../config/reference.toml");

    /// The listeners that the reference shows as comments, as a file would have them.
    fn shown() -> String {
        let begin = REFERENCE.find("\n# [[listen]]\n").expect("the reference shows a listener");
        let end = begin + REFERENCE[begin..].find("\n\n\n").expect("the section has an end");
        let is_key = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let is_toml = |line: &&str| {
            *line == "[[listen]]" || line.split_once(" = ").is_some_and(|(name, _)| is_key(name))
        };
        let lines = REFERENCE[begin..end].lines().filter_map(|line| line.strip_prefix("# "));
        lines.filter(is_toml).collect::<Vec<_>>().join("\n")
    }

    fn two(first: &str, second: &str) -> String {
        format!(
            "[[listen]]\naddress = '127.0.0.1:1'\n{first}\n[[listen]]\naddress = '127.0.0.1:2'\n{second}\n"
        )
    }

    #[test]
    fn the_reference_shows_every_key_and_reads_as_it_stands() {
        let text = shown();
        for key in keys_of_listener(&mut Listener::at(Listen::Inherited)) {
            assert!(
                text.lines().any(|line| line.starts_with(&format!("{} = ", key.name))),
                "{}\n{text}",
                key.name
            );
        }
        let config = read(&format!("{text}\n[proxy]\ntrusted = '10.0.0.0/8'"));
        assert_eq!(config.listeners(), config.listen);
        assert!(config.listen.len() > 1, "{text}");
    }

    #[test]
    fn each_listener_has_its_own_rules() {
        let config = read(
            "[[listen]]\naddress = '127.0.0.1:8080'\n\
             [[listen]]\naddress = '127.0.0.1:8443'\ntls = true\n\
             [[listen]]\naddress = '[::1]:8444'\ntls = true\ncertificate = 'c'\nkey = 'd'\nclient_ca = 'e'\n\
             client_auth = 'required'\nproxy_protocol = true\n\
             [[listen]]\naddress = 'unix:w.sock'\nunix_mode = '0660'\nunix_owner = 'a'\nunix_group = 'b'\n\
             [[listen]]\naddress = 'systemd:https'\n\
             [tls]\ncertificate = 'a'\nkey = 'b'\n[proxy]\ntrusted = '::1'",
        );
        let [plain, tls, own, unix, named] = &config.listeners()[..] else { panic!("{config:?}") };
        assert_eq!(*plain, Listener::at(plain.address.clone()));
        assert_eq!((tls.tls, tls.proxy_protocol), (true, false));
        let files = |listener: &Listener| {
            let tls = config.tls_of(listener);
            [tls.certificate, tls.key, tls.client_ca].map(|file| file.map(|file| file.display().to_string()))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(files(tls), [some("a"), some("b"), None]);
        assert_eq!(files(own), [some("c"), some("d"), some("e")]);
        assert_eq!(config.tls_of(own).client_auth, ClientAuth::Required);
        assert!(own.proxy_protocol);
        assert_eq!(unix.socket_access("x").owner, Some("a"));
        assert_eq!(named.address, Listen::Named("https".to_owned()));
    }

    #[test]
    fn a_listener_that_leaves_out_the_rules_for_clients_has_those_of_tls() {
        let config = read(&format!(
            "{}[tls]\ncertificate = 'a'\nkey = 'b'\nclient_ca = 'c'\nclient_auth = 'required'",
            two("tls = true", "tls = true\nclient_auth = 'none'")
        ));
        let asked = |index: usize| {
            let tls = config.tls_of(&config.listen[index]);
            (tls.client_auth, tls.client_ca.is_some())
        };
        assert_eq!((asked(0), asked(1)), ((ClientAuth::Required, true), (ClientAuth::Nothing, false)));
        // The authorities stand in `[tls]`, and only one listener asks.
        let config = read(&format!(
            "{}[tls]\ncertificate = 'a'\nkey = 'b'\nclient_ca = 'c'",
            two("tls = true", "tls = true\nclient_auth = 'optional'")
        ));
        assert_eq!(config.tls_of(&config.listen[0]).client_ca, None);
        assert_eq!(config.tls_of(&config.listen[1]).client_ca, Some("c".into()));
    }

    #[test]
    fn without_the_tables_there_is_the_one_listener_of_the_short_form() {
        let config = read(
            "server = { listen = 'unix:a', unix_mode = '0600', unix_owner = 'o', unix_group = 'g' }\n\
             tls = { certificate = 'a', key = 'b' }\nproxy = { protocol = true, trusted = 'unix' }",
        );
        let [one] = &config.listeners()[..] else { panic!("{config:?}") };
        assert_eq!(one.address, Listen::Unix("a".into()));
        assert!(one.tls && one.proxy_protocol && one.unix_mode.is_some());
        assert_eq!((one.unix_owner.as_deref(), one.unix_group.as_deref()), (Some("o"), Some("g")));
        assert_eq!(config.tls_of(one), config.tls);
        assert_eq!(config.section_of_listener(0), "server");
    }

    #[test]
    fn rules_of_one_listener_are_held() {
        for (first, second, problem) in [
            (
                "",
                "unix_mode = '0600'",
                "listen[2].unix_mode: needs address = \"unix:PATH\": there is no file otherwise",
            ),
            (
                "",
                "unix_owner = 'a'",
                "listen[2].unix_owner: needs address = \"unix:PATH\": there is no file otherwise",
            ),
            (
                "",
                "unix_group = 'a'",
                "listen[2].unix_group: needs address = \"unix:PATH\": there is no file otherwise",
            ),
            (
                "tls = true",
                "",
                "listen[1].tls: needs tls.certificate and tls.key, or `certificate` and `key` beside it",
            ),
            ("", "tls = true\ncertificate = 'a'", "listen[2].certificate: needs the `key` beside it"),
            ("", "tls = true\nkey = 'a'", "listen[2].key: needs the `certificate` beside it"),
            (
                "tls = true\ncertificate = 'a'\nkey = 'b'\nclient_auth = 'optional'",
                "",
                "listen[1].client_auth: needs `client_ca` beside it, or tls.client_ca",
            ),
            (
                "tls = true\ncertificate = 'a'\nkey = 'b'\nclient_ca = 'c'",
                "",
                "listen[1].client_ca: needs client_auth = \"optional\" or \"required\"",
            ),
            (
                "client_auth = 'required'",
                "",
                "listen[1].client_auth: needs tls = true: without it nothing is encrypted",
            ),
            (
                "proxy_protocol = true",
                "",
                "listen[1].proxy_protocol: needs proxy.trusted: without it anyone could claim any address",
            ),
            ("tsl = true", "", "listen[1].tsl: unknown key; did you mean \"tls\"?"),
            ("tls = 1", "", "listen[1].tls: 1 is not true or false"),
        ] {
            assert_eq!(problems(&two(first, second)), [problem]);
        }
        let named = problems("[[listen]]\ntls = false");
        assert_eq!(named, [format!("listen[1].address: missing: expected {}", ListenError::ACCEPTED)]);
        let same = "[[listen]]\naddress = 'unix:a'\n[[listen]]\naddress = 'unix:a'";
        assert_eq!(problems(same), ["listen[2].address: listen[1] has unix:a already"]);
        let free = "[[listen]]\naddress = '127.0.0.1:0'\n";
        let systemds = "[[listen]]\naddress = 'systemd'\n";
        assert!(problems(&format!("{free}{free}{systemds}{systemds}")).is_empty());
        for wrong in ["listen = '127.0.0.1:8080'", "listen = []", "listen = { address = '127.0.0.1:8080' }"] {
            assert_eq!(
                problems(wrong),
                ["listen: expected tables, [[listen]], each with an `address`"],
                "{wrong}"
            );
        }
        assert_eq!(problems("listen = [1]"), ["listen[1]: expected a table, not an integer"]);
        assert_eq!(
            problems(&free.repeat(LISTENERS_MAX + 1)),
            ["listen: 65 listeners are more than the 64 that there may be"]
        );
    }

    #[test]
    fn a_certificate_that_no_listener_would_use_is_a_problem() {
        let text = format!("{}[tls]\ncertificate = 'a'\nkey = 'b'", two("", ""));
        let message = "tls.certificate: no [[listen]] says tls = true: nothing would be encrypted";
        assert_eq!(problems(&text), [message]);
    }

    #[test]
    fn the_simple_connector_serves_one_plain_listener() {
        let simple = "[server]\nconnector = 'tiny_http'\n";
        assert!(problems(&format!("{simple}[[listen]]\naddress = '127.0.0.1:1'")).is_empty());
        let native = "needs server.connector = \"native\"";
        assert_eq!(
            problems(&format!("{simple}{}", two("", ""))),
            [format!("listen[2].address: a second listener {native}")]
        );
        let more = "[[listen]]\naddress = 'unix:a'\ntls = true\ncertificate = 'a'\nkey = 'b'\nproxy_protocol = true\n\
                    [proxy]\ntrusted = 'unix'";
        let expected = ["address: a Unix socket", "proxy_protocol: the PROXY protocol", "tls: TLS"];
        let mut found = problems(&format!("{simple}{more}"));
        found.sort();
        assert_eq!(found, expected.map(|what| format!("listen[1].{what} {native}")));
    }
}
