//! The real binary with TLS: what it says of its files, a new certificate without a restart, its own health check, and what
//! an idle client costs.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::served::VERSIONS;
use super::session::{End, Session};
use crate::support::{Authority, Client, Exit, Identity, Wharf};

const ENDPOINTS: &str = "
[database]
url = 'sqlite:wharf.db'
[endpoint.hello]
route = 'GET /hello'
body = 'hi'
[endpoint.large]
route = 'GET /large'
sql = \"select printf('%.*c', 8000000, 'x') as text\"
returns = 'value'
[endpoint.echo]
route = 'POST /echo'
params = { text = { type = 'text', in = 'body' } }
sql = 'select :text as text'
returns = 'value'
";

/// The configuration of a server that shows this certificate; `more` are more of its lines about TLS.
fn config(identity: &Identity, more: &str) -> String {
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    format!("[tls]\ncertificate = '{certificate}'\nkey = '{key}'\n{more}\n{ENDPOINTS}")
}

fn shown(wharf: &Wharf, client: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let mut session = Session::connect(wharf.address(), Arc::clone(client));
    session.shake_hands();
    let shown = session.tls.peer_certificates().and_then(<[_]>::first).cloned();
    session.send("GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let (answer, end) = session.rest();
    assert!(answer.ends_with(b"\r\n\r\nhi") && end == End::Peace);
    shown.expect("a server shows its certificate")
}

fn written(identity: &Identity) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&identity.certificate).expect("it was written")
}

fn ask_hello(client: &mut Client) {
    client.request("GET", "/hello", &[], "");
    assert_eq!(client.answer().text(), "hi");
}

#[test]
fn a_new_certificate_is_shown_after_sighup_and_a_broken_one_never() {
    for version in VERSIONS {
        let authority = Authority::new("the authority");
        let (used, next) = (authority.server(&["localhost"]), authority.server(&["localhost"]));
        let client = authority.trusting_with(&[version], None);
        let (before, after) = (written(&used), written(&next));
        let wharf = Wharf::start(&config(&used, ""));
        let connect = || Client::connect_tls_with(wharf.address(), Arc::clone(&client));
        let mut kept = connect();
        ask_hello(&mut kept);
        // One request is half sent, the answer to another one is not read yet.
        let (mut sending, mut reading) = (connect(), connect());
        sending.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"text\"");
        reading.request("GET", "/large", &[], "");

        fs::write(&used.key, "no key").expect("the file can be written");
        wharf.signal("HUP");
        wharf.wait_for_log("the certificate stays as it was");
        let why = format!("{}: holds no private key", used.key.display());
        assert!(wharf.log().contains(&why), "{}", wharf.log());
        assert_eq!(shown(&wharf, &client), before);
        ask_hello(&mut kept);

        fs::copy(&next.certificate, &used.certificate).expect("the file can be written");
        fs::copy(&next.key, &used.key).expect("the file can be written");
        wharf.signal("HUP");
        wharf.wait_for_log("the certificate was read again");
        assert_eq!(shown(&wharf, &client), after);
        ask_hello(&mut kept);
        sending.send(":\"abcd\"}");
        assert_eq!(sending.answer().json(), "abcd");
        assert_eq!(reading.answer().body.len(), 8_000_002);
        ask_hello(&mut reading);

        drop((kept, sending, reading));
        wharf.signal("TERM");
        let exit = wharf.wait();
        assert_eq!(exit.code, Some(0), "{}", exit.stderr);
        assert!(!exit.stderr.contains("connections closed"), "{}", exit.stderr);
    }
}

#[test]
fn sighup_without_a_certificate_ends_nothing() {
    let wharf = Wharf::start(ENDPOINTS);
    assert_eq!(wharf.get("/hello").text(), "hi");
    wharf.signal("HUP");
    wharf.wait_for_log("reload: nothing has changed");
    assert_eq!(wharf.get("/hello").text(), "hi");
}

/// SIGHUP ended the process when it came between the line that says where it listens and the handling of signals.
#[test]
fn sighup_as_soon_as_the_server_listens_ends_nothing() {
    for _ in 0..50 {
        let wharf = Wharf::start(ENDPOINTS);
        // Without a shell between, to be soon enough.
        let id = i32::try_from(wharf.id()).ok().and_then(Pid::from_raw).expect("a process has an id");
        kill_process(id, Signal::HUP).expect("it runs");
        wharf.wait_for_log("reload: nothing has changed");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named_at_the_start_and_by_the_check() {
    let authority = Authority::new("the authority");
    let (good, other) = (authority.server(&["localhost"]), authority.server(&["localhost"]));
    let name = |path: &std::path::Path| path.display().to_string();
    let pair = |certificate: &std::path::Path, key: &std::path::Path| Identity {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
    };
    let missing = authority.directory().join("missing.pem");
    let asking = |file: &std::path::Path| format!("client_auth = 'optional'\nclient_ca = '{}'", name(file));
    for (identity, more, key, reason) in [
        (
            pair(&missing, &good.key),
            String::new(),
            "tls.certificate",
            format!("{}: No such file", name(&missing)),
        ),
        (
            pair(&good.certificate, &missing),
            String::new(),
            "tls.key",
            format!("{}: No such file", name(&missing)),
        ),
        (
            pair(&good.key, &good.key),
            String::new(),
            "tls.certificate",
            format!("{}: holds no certificate", name(&good.key)),
        ),
        (
            pair(&good.certificate, &other.key),
            String::new(),
            "tls.key",
            format!("{}: is not the key of the certificate in {}", name(&other.key), name(&good.certificate)),
        ),
        (
            pair(&good.certificate, &good.key),
            asking(&missing),
            "tls.client_ca",
            format!("{}: No such file", name(&missing)),
        ),
    ] {
        let config = config(&identity, &more);
        let serve = ["serve", "--config", "wharf.toml", "--listen", "127.0.0.1:0"];
        let exit = Wharf::run(&config, &serve, &[]);
        assert_eq!(exit.code, Some(2), "{}", exit.stderr);
        assert!(exit.stderr.contains(&reason), "{:?} does not say {reason:?}", exit.stderr);
        let exit = Wharf::run(&config, &["check"], &[]);
        assert_eq!(exit.code, Some(1), "{}{}", exit.stdout, exit.stderr);
        assert!(
            exit.stderr.contains(&format!("{key}: {reason}")),
            "{:?} does not say {reason:?}",
            exit.stderr
        );
    }
    let exit = Wharf::run(&config(&good, &asking(&authority.file())), &["check"], &[]);
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{}", exit.stdout);
}

#[test]
fn the_address_is_shown_as_https() {
    let authority = Authority::new("the authority");
    let wharf = Wharf::start(&config(&authority.server(&["localhost"]), ""));
    assert!(
        wharf.output().contains(&format!("listening on https://{}", wharf.address())),
        "{}",
        wharf.output()
    );
}

fn health(address: &str) -> Exit {
    Wharf::run("", &["health", address], &[])
}

#[test]
fn health_asks_through_tls_whoever_it_is() {
    let authority = Authority::new("the authority");
    // Not for the address that is asked.
    let identity = authority.server(&["wharf.example"]);
    for version in ["1.2", "1.3"] {
        let asking = |how: &str| {
            let (version, file) = (format!("min_version = '{version}'"), authority.file());
            format!("{version}\nclient_auth = '{how}'\nclient_ca = '{}'", file.display())
        };
        for more in [String::new(), asking("optional"), asking("required")] {
            let wharf = Wharf::start(&config(&identity, &more));
            let encrypted = format!("https://{}", wharf.address());
            let exit = health(&encrypted);
            assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{more}");
            let address = wharf.address().to_string();
            let exit = Wharf::run(&config(&identity, &more), &["health"], &[("WHARF_LISTEN", &address)]);
            assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{more}");
            let exit = health(&wharf.address().to_string());
            assert_eq!(exit.code, Some(1), "it was asked without TLS");
            assert!(exit.stderr.contains("400"), "{}", exit.stderr);
            wharf.signal("TERM");
            wharf.wait();
            let exit = health(&encrypted);
            assert_eq!(exit.code, Some(1), "it is not there any more");
            assert!(exit.stderr.contains("cannot connect"), "{}", exit.stderr);
        }
    }
    let wharf = Wharf::start(ENDPOINTS);
    let exit = health(&format!("https://{}", wharf.address()));
    assert_eq!(exit.code, Some(1), "it speaks no TLS");
}

#[test]
fn an_idle_client_costs_no_thread() {
    const CLIENTS: usize = 200;
    let authority = Authority::new("the authority");
    for version in VERSIONS {
        let wharf = Wharf::start(&config(&authority.server(&["localhost"]), ""));
        let threads = || {
            let tasks = fs::read_dir(format!("/proc/{}/task", wharf.id())).expect("Linux tells the threads");
            tasks.count()
        };
        let resident = || {
            let status =
                fs::read_to_string(format!("/proc/{}/status", wharf.id())).expect("Linux tells the memory");
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
        };
        let client = authority.trusting_with(&[version], None);
        let connect = || {
            let mut client = Client::connect_tls_with(wharf.address(), Arc::clone(&client));
            client.request("POST", "/echo", &[("Content-Type", "application/json")], "{\"text\":\"a\"}");
            assert_eq!(client.answer().json(), "a");
            client
        };
        let _first = connect();
        let (threads_before, before) = (threads(), resident());
        let mut idle: Vec<Client> = (0..CLIENTS).map(|_| connect()).collect();
        let each = (resident() - before) * 1024 / CLIENTS as u64;
        println!("{version:?}: {each} bytes for each idle client");
        assert_eq!(threads(), threads_before, "{version:?}");
        idle.iter_mut().for_each(ask_hello);
    }
}

/// The day that many days from now: year, month, day.
fn day(from_now: i64) -> (i32, u8, u8) {
    let day = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(24 * 3600 * from_now);
    let day = jiff::tz::Offset::UTC.to_datetime(day).date();
    (day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs())
}

#[test]
fn a_certificate_that_clients_refuse_now_or_soon_is_named_by_check_start_and_reload() {
    let authority = Authority::new("the authority");
    let good = authority.server(&["localhost"]);
    for (from, until, warning) in [
        (-20, -10, "the certificate expired on "),
        (10, 20, "the certificate is not valid before "),
        (-10, 20, "the certificate expires in 19 days, on "),
    ] {
        let identity = authority.server_between(day(from), day(until));
        let warning = format!("{}: {warning}", identity.certificate.display());
        let exit = Wharf::run(&config(&identity, ""), &["check"], &[]);
        assert_eq!(exit.code, Some(0), "{}", exit.stderr);
        assert!(exit.stderr.contains(&warning), "{:?} does not say {warning:?}", exit.stderr);

        let wharf = Wharf::start(&config(&identity, ""));
        wharf.wait_for_log(&warning);
        let mut admin = Client::connect(wharf.admin_address());
        admin.request("GET", "/metrics", &[], "");
        let metrics = admin.answer().text().to_owned();
        let end =
            metrics.lines().find_map(|line| line.strip_prefix("wharf_tls_certificate_end_time_seconds "));
        let end: f64 = end.and_then(|end| end.parse().ok()).unwrap_or_else(|| panic!("{metrics}"));
        let expected = jiff::Timestamp::now().as_second() + until * 24 * 3600;
        #[allow(clippy::cast_possible_truncation, reason = "a time of this century")]
        let missed = end as i64 - expected;
        assert!((-24 * 3600..=0).contains(&missed), "{end} is not {expected}");

        let before = wharf.log().matches(&warning).count();
        wharf.signal("HUP");
        wharf.wait_for_log("the certificate was read again");
        assert_eq!(wharf.log().matches(&warning).count(), before + 1, "{}", wharf.log());
    }
    let exit = Wharf::run(&config(&good, ""), &["check"], &[]);
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{}", exit.stdout);
    assert!(!Wharf::start(&config(&good, "")).log().contains("WARN"));
}

#[test]
fn a_key_or_a_chain_that_cannot_be_used_is_explained() {
    let authority = Authority::new("the authority");
    let directory = authority.directory();
    let good = authority.server(&["localhost"]);
    let openssl = |script: &str| {
        let script = format!("set -e; cd '{}'; {script}", directory.display());
        let output = Command::new("sh").args(["-c", &script]).output().expect("sh runs");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = good.key.display();
    openssl(&format!("openssl pkey -in {key} -aes256 -passout pass:x -out new.key"));
    openssl("openssl genrsa -aes256 -passout pass:x -traditional -out old.key 2048");
    for curve in ["secp521r1", "secp256k1"] {
        openssl(&format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:{curve} -nodes -subj /CN=localhost \
             -keyout {curve}.key -out {curve}.crt"
        ));
    }
    openssl(&format!("cat root.crt {} > reversed.crt", good.certificate.display()));
    let pair = |certificate: &str, key: &str| Identity {
        certificate: directory.join(certificate),
        key: directory.join(key),
    };
    let own = good.certificate.to_str().expect("a temporary file");
    for (identity, file, reason) in [
        (pair(own, "new.key"), "new.key", "the key is encrypted"),
        (pair(own, "old.key"), "old.key", "the key is encrypted"),
        (pair("secp521r1.crt", "secp521r1.key"), "secp521r1.key", "not supported, the curve secp521r1"),
        (pair("secp256k1.crt", "secp256k1.key"), "secp256k1.key", "not supported, the curve secp256k1"),
        (
            pair("reversed.crt", good.key.to_str().expect("a temporary file")),
            "reversed.crt",
            "the server's own certificate must come first",
        ),
    ] {
        let exit = Wharf::run(&config(&identity, ""), &["check"], &[]);
        assert_eq!(exit.code, Some(1), "{}", exit.stderr);
        let expected = format!("{}: {reason}", directory.join(file).display());
        assert!(
            exit.stderr.contains(&expected) || exit.stderr.contains(reason) && exit.stderr.contains(file),
            "{:?} does not say {expected:?}",
            exit.stderr
        );
    }
    // Behind the server's own certificate the order is only a warning: most clients sort the rest.
    openssl(&format!("cat {own} secp521r1.crt root.crt > mixed.crt"));
    let exit =
        Wharf::run(&config(&pair("mixed.crt", good.key.to_str().expect("a file")), ""), &["check"], &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(exit.stderr.contains("certificate 2 is not the issuer of certificate 1"), "{}", exit.stderr);
}
