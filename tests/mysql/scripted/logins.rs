//! The logins of MySQL 5.7 and 8, with TLS and without.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use wharf::deadline::Deadline;

use super::packets::capability;
use super::server::{Login, Script, Scripted};
use crate::support::{Authority, PATIENCE};
use crate::{look, open};

/// The password in the URL of a scripted server.
const PASSWORD: &str = "secret";

fn tls() -> (Arc<ServerConfig>, Authority) {
    let authority = Authority::new("the authority");
    let identity = authority.server(&["localhost"]);
    let certificate = CertificateDer::from_pem_file(&identity.certificate).expect("it was written");
    let key = PrivateKeyDer::from_pem_file(&identity.key).expect("it was written");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for every version")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key is the certificate's");
    (Arc::new(config), authority)
}

/// Logs in and runs a statement. Returns its first value, or the error's text.
fn login(script: Script, parameters: &str) -> Result<String, String> {
    let server = Scripted::start(script);
    let url = format!("{}?{parameters}", server.url());
    let opened = open(&url, PATIENCE).map_err(|error| error.to_string())?;
    let mut session = opened.checkout(Deadline::after(PATIENCE)).map_err(|error| error.to_string())?;
    look(&opened, &mut session, "select 1 as n").map_err(|error| error.to_string())
}

#[test]
fn each_method_of_mysql_gets_in_where_it_is_safe() {
    let (tls, _authority) = tls();
    let ways = [
        (Login::Native, false, true),
        (Login::Native, true, true),
        (Login::FastSha2(PASSWORD), false, true),
        (Login::FastSha2(PASSWORD), true, true),
        (Login::SwitchToSha2(PASSWORD), false, true),
        (Login::SwitchToSha2(PASSWORD), true, true),
        (Login::FullSha2(PASSWORD), true, true),
        // The password would go over the wire as it is, or hidden by a key that nobody vouches for.
        (Login::FullSha2(PASSWORD), false, false),
        (Login::Clear(PASSWORD), true, true),
        (Login::Clear(PASSWORD), false, false),
    ];
    for (number, (way, encrypted, gets_in)) in ways.into_iter().enumerate() {
        let script = Script { login: way, tls: encrypted.then(|| Arc::clone(&tls)), ..Script::default() };
        let mode = if encrypted { "ssl-mode=REQUIRED" } else { "ssl-mode=DISABLED" };
        match login(script, mode) {
            Ok(seen) => assert!(gets_in && seen == "1", "way {number}: {seen}"),
            Err(error) => {
                assert!(!gets_in, "way {number}: {error}");
                assert!(error.contains("TLS") && !error.contains(PASSWORD), "way {number}: {error}");
            }
        }
    }
}

#[test]
fn a_wrong_password_and_an_unknown_method_are_refused_at_once() {
    let (tls, _authority) = tls();
    for (way, said) in [
        (Login::FastSha2("another"), "Access denied"),
        (Login::FullSha2("another"), "Access denied"),
        (Login::SwitchToSha2("another"), "Access denied"),
        (Login::Clear("another"), "Access denied"),
        (Login::Unknown, "authentication_by_smoke"),
    ] {
        let began = std::time::Instant::now();
        let script = Script { login: way, tls: Some(Arc::clone(&tls)), ..Script::default() };
        let error = login(script, "ssl-mode=REQUIRED").expect_err("it is refused");
        assert!(error.contains(said) && !error.contains(PASSWORD), "{error}");
        assert!(began.elapsed() < PATIENCE / 2, "{error}");
    }
}

/// A server that is older, or a proxy that has less.
#[test]
fn servers_with_fewer_capabilities_are_served() {
    use capability::{DEPRECATE_EOF, SESSION_TRACK};
    for version in ["5.7.44-log", "8.0.36", "8.4.0", "5.5.5-10.11.6-MariaDB", "11.4.2-MariaDB"] {
        for without in [0, DEPRECATE_EOF, SESSION_TRACK, DEPRECATE_EOF | SESSION_TRACK] {
            let script = Script { version, without, ..Script::default() };
            let seen =
                login(script, "").unwrap_or_else(|error| panic!("{version} without {without:#x}: {error}"));
            assert_eq!(seen, "1", "{version} without {without:#x}");
        }
    }
}

/// The server refuses before it greets: 1040 and 1129 (a host that had too many errors).
#[test]
fn an_error_in_place_of_the_greeting_is_told() {
    use super::packets::{Wire, error};
    for (code, text) in
        [(1040, "Too many connections"), (1129, "Host 'x' is blocked because of many connection errors")]
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let refusing = std::thread::spawn(move || {
            // Once for each try, until the test closes its side.
            for client in listener.incoming().take(1) {
                let mut wire = Wire::new(client.expect("a client"), super::packets::Mangle::Nothing);
                // It is before the greeting, so the error has no state; a client reads both forms.
                wire.send(&error(code, "08004", text)).expect("the client reads");
            }
        });
        let url = format!("mysql://app:secret@127.0.0.1:{port}/main");
        let error = open(&url, std::time::Duration::from_millis(1)).expect_err("it is refused").to_string();
        assert!(error.contains(text), "{error}");
        refusing.join().expect("it ends");
    }
}

/// The scripted server is a server to MariaDB's own client too, with each login that the client has.
#[test]
fn mariadbs_own_client_takes_the_scripted_server_for_one() {
    let (tls, _authority) = tls();
    for (way, encrypted) in [
        (Login::Native, false),
        (Login::Native, true),
        (Login::FastSha2(PASSWORD), true),
        (Login::FullSha2(PASSWORD), true),
        (Login::SwitchToSha2(PASSWORD), true),
        (Login::Clear(PASSWORD), true),
    ] {
        for without in [0, capability::DEPRECATE_EOF] {
            let script =
                Script { login: way, without, tls: encrypted.then(|| Arc::clone(&tls)), ..Script::default() };
            let server = Scripted::start(script);
            let port =
                server.url().rsplit_once(':').and_then(|(_, rest)| rest.split('/').next().map(str::to_owned));
            let output = std::process::Command::new("mariadb")
                .args([
                    "--no-defaults",
                    "--protocol=tcp",
                    "--host=127.0.0.1",
                    "--user=app",
                    "--batch",
                    "--port",
                ])
                .arg(port.expect("the URL has a port"))
                .args([
                    format!("--password={PASSWORD}").as_str(),
                    if encrypted { "--ssl" } else { "--skip-ssl" },
                    "-e",
                    "select 1 as n",
                ])
                .output()
                .expect("the client mariadb runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(String::from_utf8_lossy(&output.stdout), "n\n1\n", "{said} {:?}", server.asked());
        }
    }
}
