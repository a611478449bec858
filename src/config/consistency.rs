//! Rules between keys: keys that exclude each other or need each other.
//!
//! Main thread. If the server could only do something other than the file asks for, that is a problem here. This
//! matters most if the server would run with less protection.

use super::read::{Reader, Table};
use super::{Admin, AdminListen, ClientAuth, Config, Connector, ForwardedBy, Listen, Proxy, Tracing};
use crate::http::is_ours;

/// A broken rule.
struct Conflict {
    /// The key that cannot be satisfied.
    key: &'static str,
    /// The key that prevents it.
    other: &'static str,
    message: String,
}

impl Conflict {
    fn new(key: &'static str, other: &'static str, message: impl Into<String>) -> Self {
        Self { key, other, message: message.into() }
    }

    /// `key` lacks something that it needs. `other` is the key that would give it.
    fn needs(key: &'static str, other: &'static str, why: &str) -> Self {
        Self::new(key, other, format!("needs {other}{why}"))
    }
}

impl Reader<'_> {
    /// Reports broken rules. It skips rules about a key whose given value was refused, because that is reported already
    /// and the key's default would lead to guesses.
    pub(super) fn consistency(&mut self, root: &Table<'_>, config: &Config) {
        let rules = [
            sizes(config),
            server(config),
            admin(&config.admin),
            tracing(&config.tracing),
            proxy(&config.proxy),
            tls(config),
            tiny_http(config),
        ];
        for Conflict { key, other, message } in rules.into_iter().flatten() {
            let is_refused = self.refused(other) || other == "listen" && self.refused_a_listener();
            if !is_refused {
                self.report(root.place(key), key, message);
            }
        }
    }
}

fn sizes(config: &Config) -> Vec<Conflict> {
    let (database, http) = (&config.database, &config.http);
    let idle = database.minimum_idle.unwrap_or(0);
    [
        ("database.minimum_idle", idle, "database.maximum_pool_size", database.maximum_pool_size),
        ("http.max_target_bytes", http.max_target_bytes, "http.max_head_bytes", http.max_head_bytes),
    ]
    .into_iter()
    .filter(|(_, value, _, most)| value > most)
    .map(|(key, value, other, most)| {
        Conflict::new(key, other, format!("{value} is more than {other}, which is {most}"))
    })
    .collect()
}

fn admin(admin: &Admin) -> Vec<Conflict> {
    let why = ": where it is not on loopback, anyone could read and change what the server does";
    match (admin.listen, &admin.token) {
        (Some(AdminListen::At(address)), None) if !address.ip().to_canonical().is_loopback() => {
            vec![Conflict::needs("admin.listen", "admin.token", why)]
        }
        _ => Vec::new(),
    }
}

fn server(config: &Config) -> Vec<Conflict> {
    let server = &config.server;
    let ours = server.request_id_header.iter().filter(|name| is_ours(name));
    let key = "server.request_id_header";
    let header = ours.map(|name| Conflict::new(key, key, format!("{:?} says something else", name.as_str())));
    let given = [
        ("server.unix_mode", server.unix_mode.is_some()),
        ("server.unix_owner", server.unix_owner.is_some()),
        ("server.unix_group", server.unix_group.is_some()),
    ];
    // Beside `[[listen]]` none of these may be given at all.
    let has_file = matches!(server.listen, Listen::Unix(_)) || !config.listen.is_empty();
    let without = given.into_iter().filter(|(_, given)| *given && !has_file);
    let why = " = \"unix:PATH\": there is no file otherwise";
    header.chain(without.map(|(key, _)| Conflict::needs(key, "server.listen", why))).collect()
}

fn tracing(tracing: &Tracing) -> Vec<Conflict> {
    let (key, built) = ("tracing.otlp_endpoint", cfg!(feature = "otlp"));
    if tracing.otlp_endpoint.is_none() {
        return Vec::new();
    }
    let without = "needs a wharf that is built with the cargo feature otlp; this one cannot send traces";
    [
        (!built, Conflict::new(key, key, without)),
        (
            !tracing.propagate,
            Conflict::needs(key, "tracing.propagate", " = true: without it there are no traces"),
        ),
    ]
    .into_iter()
    .filter_map(|(broken, conflict)| broken.then_some(conflict))
    .collect()
}

fn proxy(proxy: &Proxy) -> Vec<Conflict> {
    let nobody = proxy.trusted.is_empty();
    let why = ": without it anyone could claim any address";
    [("proxy.protocol", proxy.protocol), ("proxy.header", proxy.header != ForwardedBy::Nothing)]
        .into_iter()
        .filter(|(_, asked)| *asked && nobody)
        .map(|(key, _)| Conflict::needs(key, "proxy.trusted", why))
        .collect()
}

fn tls(config: &Config) -> Vec<Conflict> {
    let Config { tls, listen, .. } = config;
    // `[tls]` holds for each of these listeners, as far as the listener leaves a key out.
    let listeners = || listen.iter().filter(|listener| listener.tls);
    let (any, none) = (listeners().next().is_some(), !listen.is_empty() && listeners().next().is_none());
    let asked = listeners().any(|listener| config.tls_of(listener).client_auth != ClientAuth::Nothing);
    let (certificate, key, ca) = (tls.certificate.is_some(), tls.key.is_some(), tls.client_ca.is_some());
    let asks = tls.client_auth != ClientAuth::Nothing;
    [
        (certificate && !key, Conflict::needs("tls.certificate", "tls.key", "")),
        (key && !certificate, Conflict::needs("tls.key", "tls.certificate", "")),
        (asks && !ca, Conflict::needs("tls.client_auth", "tls.client_ca", "")),
        (
            ca && !asks && !asked,
            Conflict::needs("tls.client_ca", "tls.client_auth", " = \"optional\" or \"required\""),
        ),
        (
            asks && !certificate && !any,
            Conflict::needs("tls.client_auth", "tls.certificate", ": without it nothing is encrypted"),
        ),
        (
            certificate && none,
            Conflict::new(
                "tls.certificate",
                "listen",
                "no [[listen]] says tls = true: nothing would be encrypted",
            ),
        ),
    ]
    .into_iter()
    .filter_map(|(broken, conflict)| broken.then_some(conflict))
    .collect()
}

/// The conflicts with features that the simple connector does not have. `listeners.rs` has these rules for `[[listen]]`.
fn tiny_http(config: &Config) -> Vec<Conflict> {
    if !config.listen.is_empty() {
        return Vec::new();
    }
    let unix = matches!(config.server.listen, Listen::Unix(_));
    [
        ("server.listen", unix, "a Unix socket"),
        ("proxy.protocol", config.proxy.protocol, "the PROXY protocol"),
        ("tls.certificate", config.tls.certificate.is_some(), "TLS"),
    ]
    .into_iter()
    .filter(|(_, asked, _)| *asked && config.server.connector == Connector::TinyHttp)
    .map(|(key, _, what)| {
        Conflict::new(key, "server.connector", format!("{what} needs server.connector = \"native\""))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::{problems, read};
    use super::super::{ClientAuth, ForwardedBy, TlsVersion};

    #[test]
    fn keys_that_contradict_each_other_are_problems() {
        let why = ": without it anyone could claim any address";
        for (text, problem) in [
            (
                "http.max_head_bytes = 1024",
                "http.max_target_bytes: 8192 is more than http.max_head_bytes, which is 1024",
            ),
            (
                "database.minimum_idle = 11",
                "database.minimum_idle: 11 is more than database.maximum_pool_size, which is 10",
            ),
            ("proxy.protocol = true", &*format!("proxy.protocol: needs proxy.trusted{why}")),
            ("proxy.header = 'forwarded'", &format!("proxy.header: needs proxy.trusted{why}")),
            (
                "admin.listen = '0.0.0.0:1'",
                "admin.listen: needs admin.token: where it is not on loopback, anyone could read and change what the \
                 server does",
            ),
            (
                "server.request_id_header = 'Content-Length'",
                "server.request_id_header: \"content-length\" says something else",
            ),
            ("tls.certificate = 'a.pem'", "tls.certificate: needs tls.key"),
            ("tls.key = 'a.pem'", "tls.key: needs tls.certificate"),
            (
                "tls = { certificate = 'a', key = 'b', client_auth = 'optional' }",
                "tls.client_auth: needs tls.client_ca",
            ),
            (
                "tls = { certificate = 'a', key = 'b', client_ca = 'c' }",
                "tls.client_ca: needs tls.client_auth = \"optional\" or \"required\"",
            ),
            (
                "tls = { client_ca = 'c', client_auth = 'required' }",
                "tls.client_auth: needs tls.certificate: without it nothing is encrypted",
            ),
            (
                "server = { connector = 'tiny_http', listen = 'unix:a' }",
                "server.listen: a Unix socket needs server.connector = \"native\"",
            ),
            (
                "server.connector = 'tiny_http'\nproxy = { protocol = true, trusted = '::1' }",
                "proxy.protocol: the PROXY protocol needs server.connector = \"native\"",
            ),
            (
                "server.connector = 'tiny_http'\ntls = { certificate = 'a', key = 'b' }",
                "tls.certificate: TLS needs server.connector = \"native\"",
            ),
        ] {
            assert_eq!(problems(text), [problem], "{text}");
        }
    }

    #[test]
    fn a_collector_is_accepted_only_if_traces_can_be_sent() {
        let text = "tracing.otlp_endpoint = 'http://127.0.0.1:4318'";
        if cfg!(feature = "otlp") {
            assert_eq!(read(text).tracing.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4318"));
            let contradiction = "tracing = { otlp_endpoint = 'http://127.0.0.1:4318', propagate = false }";
            let message =
                "tracing.otlp_endpoint: needs tracing.propagate = true: without it there are no traces";
            assert_eq!(problems(contradiction), [message]);
        } else {
            let message = "tracing.otlp_endpoint: needs a wharf that is built with the cargo feature otlp; this one \
                           cannot send traces";
            assert_eq!(problems(text), [message]);
        }
    }

    #[test]
    fn keys_that_need_each_other_are_accepted_together() {
        let config = read(
            "proxy = { trusted = ['10.0.0.0/8'], protocol = true, header = 'x-forwarded-for' }\n\
             tls = { certificate = 'a', key = 'b', min_version = '1.3', client_ca = 'c', client_auth = 'required' }",
        );
        assert_eq!((config.proxy.protocol, config.proxy.header), (true, ForwardedBy::XForwardedFor));
        assert_eq!((config.tls.min_version, config.tls.client_auth), (TlsVersion::V13, ClientAuth::Required));
        let _ = read("admin = { listen = '[::]:1', token = 'only-for-tests' }");
        let _ = read("admin.listen = '[::ffff:127.0.0.9]:1'");
        let _ = read("server = { connector = 'tiny_http', listen = 'systemd' }");
    }

    #[test]
    fn a_key_that_was_refused_is_reported_once() {
        for (text, key) in [
            ("proxy = { protocol = true, trusted = [1] }", "proxy.trusted: "),
            ("admin = { listen = '0.0.0.0:1', token = 'short' }", "admin.token: "),
            ("tls = { certificate = 'a', key = 1 }", "tls.key: "),
            (
                "tls = { certificate = 'a', key = 'b', client_ca = 'c', client_auth = 'yes' }",
                "tls.client_auth: ",
            ),
        ] {
            let problems = problems(text);
            assert!(problems.len() == 1 && problems[0].starts_with(key), "{text}: {problems:?}");
        }
    }
}
