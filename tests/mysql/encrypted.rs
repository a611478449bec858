//! TLS to a real MariaDB, by the modes that MySQL's client has, and a client's certificate.

use std::fmt::Write as _;
use std::sync::OnceLock;

use wharf::database::{Database, Error};
use wharf::deadline::Deadline;

use crate::support::{Authority, Forwarder, Identity, Mariadb, PATIENCE};
use crate::{look, open};

/// A server with a certificate for `localhost`, and its authority.
struct Encrypted {
    server: Mariadb,
    authority: Authority,
}

fn encrypted() -> &'static Encrypted {
    static SERVER: OnceLock<Encrypted> = OnceLock::new();
    SERVER.get_or_init(|| {
        let authority = Authority::new("the authority");
        let Identity { certificate, key } = authority.server(&["localhost"]);
        // The server's user may not read our directory.
        let mut prepare = String::new();
        for (name, file) in [("cert", certificate), ("key", key), ("ca", authority.file())] {
            let text = std::fs::read_to_string(file).expect("it was written");
            write!(prepare, "echo '{text}' > {name}.pem; ").expect("a String takes all");
        }
        let options = "--ssl-cert=$PWD/cert.pem --ssl-key=$PWD/key.pem --ssl-ca=$PWD/ca.pem";
        let server = Mariadb::start_with(&prepare, options);
        server.sql(
            "mysql",
            "create user encrypted@'%' identified by 'x' require ssl; create user certified@'%' identified by 'x' require x509;
             create user ed@'%' identified via ed25519 using password('x') require ssl;
             grant select on main.* to encrypted@'%', certified@'%', ed@'%'",
        );
        Encrypted { server, authority }
    })
}

fn url(user: &str, host: &str, parameters: &str) -> String {
    format!("mysql://{user}:x@{host}:{}/main?{parameters}", encrypted().server.port())
}

/// The cipher of a session, which is empty without TLS.
fn cipher(database: &Database) -> String {
    let mut session = database.checkout(Deadline::after(PATIENCE)).expect("a session is free");
    let cipher = look(
        database,
        &mut session,
        "select variable_value from information_schema.session_status where variable_name = 'Ssl_cipher'",
    );
    cipher.expect("it is read").trim_matches('"').to_owned()
}

fn expect_refused(url: &str, said: &[&str]) {
    let error = open(url, PATIENCE).expect_err(url);
    assert!(matches!(error, Error::Open { transient: false, .. } | Error::Url(_)), "{url}: {error:?}");
    let text = error.to_string();
    assert!(said.iter().any(|said| text.to_lowercase().contains(said)), "{url}: {text}");
}

#[test]
fn each_mode_is_what_mysqls_client_means_by_it() {
    let own = &encrypted().authority;
    let foreign = Authority::new("the authority");
    let ca = |authority: &Authority| format!("ssl-ca={}", authority.file().display());
    for (host, parameters, has_tls) in [
        ("127.0.0.1", "ssl-mode=DISABLED".to_owned(), false),
        ("127.0.0.1", "ssl-mode=PREFERRED".to_owned(), true),
        ("127.0.0.1", String::new(), true),
        ("127.0.0.1", "ssl-mode=REQUIRED".to_owned(), true),
        ("127.0.0.1", format!("ssl-mode=VERIFY_CA&{}", ca(own)), true),
        ("localhost", format!("ssl-mode=VERIFY_CA&{}", ca(own)), true),
        ("localhost", format!("ssl-mode=VERIFY_IDENTITY&{}", ca(own)), true),
        ("localhost", format!("ssl-mode=verify_identity&{}", ca(own)), true),
    ] {
        let url = url("app", host, &parameters).replace(":x@", ":app@");
        let opened = open(&url, PATIENCE).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(!cipher(&opened).is_empty(), has_tls, "{url}");
    }
    for (host, parameters) in [
        ("127.0.0.1", format!("ssl-mode=VERIFY_IDENTITY&{}", ca(own))),
        ("127.0.0.1", format!("ssl-mode=VERIFY_CA&{}", ca(&foreign))),
        ("localhost", format!("ssl-mode=VERIFY_IDENTITY&{}", ca(&foreign))),
    ] {
        expect_refused(
            &url("app", host, &parameters),
            &["certificate", "unknown issuer", "unknownissuer", "not valid for name"],
        );
    }
}

#[test]
fn a_user_who_must_have_tls_is_refused_without() {
    for user in ["encrypted", "ed"] {
        let opened = open(&url(user, "127.0.0.1", "ssl-mode=REQUIRED"), PATIENCE);
        assert!(!cipher(&opened.unwrap_or_else(|error| panic!("{user}: {error}"))).is_empty());
        expect_refused(&url(user, "127.0.0.1", "ssl-mode=DISABLED"), &["access denied"]);
    }
}

#[test]
fn a_client_shows_its_certificate() {
    let Identity { certificate, key } = encrypted().authority.client("certified");
    let shown = format!("ssl-mode=REQUIRED&ssl-cert={}&ssl-key={}", certificate.display(), key.display());
    let opened =
        open(&url("certified", "127.0.0.1", &shown), PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    assert!(!cipher(&opened).is_empty());
    expect_refused(&url("certified", "127.0.0.1", "ssl-mode=REQUIRED"), &["access denied"]);
    let foreign = Authority::new("another").client("certified");
    let shown = format!(
        "ssl-mode=REQUIRED&ssl-cert={}&ssl-key={}",
        foreign.certificate.display(),
        foreign.key.display()
    );
    assert!(open(&url("certified", "127.0.0.1", &shown), PATIENCE).is_err());
    let missing = format!("ssl-mode=REQUIRED&ssl-cert={}", certificate.display());
    expect_refused(&url("certified", "127.0.0.1", &missing), &["ssl-key"]);
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_required() {
    let plain = Mariadb::shared();
    for mode in ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"] {
        let ca = encrypted().authority.file();
        let url = format!("{}?ssl-mode={mode}&ssl-ca={}", plain.url(), ca.display());
        let error = open(&url, PATIENCE).expect_err(mode).to_string();
        assert!(error.to_lowercase().contains("tls") || error.to_lowercase().contains("ssl"), "{error}");
    }
    assert_eq!(
        cipher(&open(&format!("{}?ssl-mode=PREFERRED", plain.url()), PATIENCE).expect("it may be plain")),
        ""
    );
}

/// All that passes is TLS: no text of the request can be read on its way.
#[test]
fn nothing_passes_in_clear() {
    let forwarder = Forwarder::to(encrypted().server.port());
    let url = format!("mysql://app:app@127.0.0.1:{}/main?ssl-mode=REQUIRED", forwarder.port());
    let opened = open(&url, PATIENCE).unwrap_or_else(|error| panic!("{error}"));
    forwarder.once("a text that nobody may read", crate::support::Then::CutBefore);
    let mut session = opened.checkout(Deadline::after(PATIENCE)).expect("a session is free");
    let seen = look(&opened, &mut session, "select 'a text that nobody may read'");
    assert_eq!(seen.expect("it passes"), "\"a text that nobody may read\"");
    assert!(!forwarder.has_broken());
}

/// Large values in both directions, over many records of TLS.
#[test]
fn large_values_pass_through_tls() {
    let opened = open(&url("encrypted", "127.0.0.1", "ssl-mode=REQUIRED"), PATIENCE)
        .unwrap_or_else(|error| panic!("{error}"));
    let mut session = opened.checkout(Deadline::after(PATIENCE)).expect("a session is free");
    let text = "x".repeat(700_000);
    let seen =
        look(&opened, &mut session, &format!("select '{text}'")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(seen.len(), text.len() + 2);
}
