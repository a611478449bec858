//! HTTPS and Unix sockets, on a real `wharf serve`.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::server::{Server, ok};
use super::{NEVER_LATE, count, load, ms, report};
use crate::support::{Authority, Exit, Identity, Wharf, assert_says, directory_with};

const ENDPOINTS: &str = "
[database]
url = 'sqlite:load.db'
[endpoint.short]
route = 'GET /short'
sql = 'select 1 as x'
[endpoint.long]
route = 'GET /long'
sql = \"select printf('%.*c', 300000, 'x') as x\"
load = { weight = 0 }
[endpoint.length]
route = 'POST /length'
params = { note = { type = 'text', in = 'body' } }
sql = 'select length(:note) as x'
";

/// The keys of a certificate.
fn shown(identity: &Identity) -> String {
    format!("certificate = '{}'\nkey = '{}'\n", identity.certificate.display(), identity.key.display())
}

fn serve(identity: &Identity, more: &str) -> Wharf {
    Wharf::start(&format!("[tls]\n{}{more}{ENDPOINTS}", shown(identity)))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn https_is_asked_over_connections_that_are_kept() {
    let authority = Authority::new("ours");
    let wharf = serve(&authority.server(&["localhost"]), "");
    let root = authority.file();
    let port = wharf.address().port();
    let (named, by_address) = (format!("https://localhost:{port}/"), format!("https://127.0.0.1:{port}/"));
    for (url, trust) in
        [(&named, &["--ca", text(&root)][..]), (&by_address, &["-k"]), (&by_address, &["--insecure"])]
    {
        // An answer of 300 KB comes in many records.
        for path in ["short", "long"] {
            let run = ["--connections", "3", "--duration", "500ms", "--threads", "1"];
            let report = report(&format!("{url}{path}"), &[&run[..], trust].concat());
            assert!(count(&report, "good") > 3, "{report:#}");
            assert_eq!(count(&report, "good"), count(&report, "scheduled"), "{report:#}");
            assert_eq!(report["connect_ms"]["count"], 3, "each client shakes hands once: {report:#}");
        }
    }
    let report =
        report(&format!("{named}short"), &["--ca", text(&root), "--rate", "50/s", "--duration", "500ms"]);
    assert_eq!(count(&report, "good"), 25, "{report:#}");
}

#[test]
fn a_body_larger_than_the_sockets_goes_through_tls_whole() {
    let authority = Authority::new("ours");
    let wharf = serve(&authority.server(&["localhost"]), "");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("body");
    let note = "x".repeat(900_000);
    fs::write(&file, format!("{{\"note\": \"{note}\"}}")).expect("a file");
    let url = format!("https://127.0.0.1:{}/length", wharf.address().port());
    let body = format!("@{}", file.display());
    let run = ["-k", "--connections", "1", "--duration", "500ms", "--method", "POST", "--body", &body];
    let report = report(&url, &[&run[..], &["--header", "Content-Type: application/json"]].concat());
    assert!(count(&report, "good") > 0, "{report:#}");
    assert_eq!(count(&report, "good"), count(&report, "scheduled"), "{report:#}");
}

#[test]
fn a_certificate_that_is_not_accepted_is_named_before_the_run() {
    let ours = Authority::new("ours");
    let other = Authority::new("other");
    let wharf = serve(&ours.server(&["localhost", "other.example"]), "");
    let port = wharf.address().port();
    let at = |host: &str, arguments: &[&str]| {
        let url = format!("https://{host}:{port}/short");
        load(&[&["--rate", "1/s", "--duration", "100ms"][..], arguments, &[&url]].concat())
    };
    let (root, wrong) = (ours.file(), other.file());
    assert_says(&at("localhost", &["--ca", text(&wrong)]), 2, &["unknown authority", "--ca FILE"]);
    assert_says(
        &at("127.0.0.1", &["--ca", text(&root)]),
        2,
        &["wrong name: the server's certificate is for", "localhost", "and not for 127.0.0.1"],
    );
    // The system's authorities have not signed it, if the system has any.
    assert_says(&at("localhost", &[]), 2, &["--ca FILE"]);
    let expired = serve(&ours.server_between((2000, 1, 1), (2001, 2, 3)), "");
    let url = format!("https://localhost:{}/short", expired.address().port());
    let run = ["--rate", "1/s", "--duration", "100ms", "--ca", text(&root), &url];
    assert_says(&load(&run), 2, &["the server's certificate has expired, on 2001-02-03"]);
    let later = serve(&ours.server_between((2200, 1, 1), (2201, 2, 3)), "");
    let url = format!("https://localhost:{}/short", later.address().port());
    let run = ["--rate", "1/s", "--duration", "100ms", "--ca", text(&root), &url];
    assert_says(&load(&run), 2, &["not valid yet, but from 2200-01-01 on"]);
    // A certificate that is its own authority, as openssl makes one in one step.
    let own = serve(&ours.server(&["localhost"]), "");
    let shown = fs::read_to_string(own.directory().join("wharf.toml")).expect("it was written");
    let file = shown.lines().find_map(|line| line.strip_prefix("certificate = '")).expect("a certificate");
    let file = file.trim_end_matches('\'');
    let at_own = |host: &str| {
        let url = format!("https://{host}:{}/short", own.address().port());
        load(&[&["--rate", "10/s", "--duration", "100ms", "--ca", file][..], &NEVER_LATE, &[&url]].concat())
    };
    assert_says(&at_own("localhost"), 0, &["status 200"]);
    assert_says(&at_own("127.0.0.1"), 2, &["wrong name: the server's certificate is for"]);
    let plain = Server::start(|_| super::server::Reply::Last(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    let url = plain.url().replace("http:", "https:");
    // The server reads no end of a request in the client's hello, so it may also stay silent.
    let run = ["--rate", "1/s", "--duration", "100ms", "-k", &url];
    assert_says(&load(&run), 2, &["TLS: "]);
    assert_says(
        &load(&["--rate", "1/s", "--ca", "nothing.pem", "https://localhost:1/"]),
        2,
        &["nothing.pem"],
    );
    let run = ["--rate", "1/s", "--insecure", "--ca", text(&root), "https://localhost:1/"];
    assert_says(&load(&run), 2, &["cannot be used with"]);
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_it() {
    let authority = Authority::new("ours");
    let asks = format!("client_ca = '{}'\nclient_auth = 'required'\n", authority.file().display());
    let wharf = serve(&authority.server(&["localhost"]), &asks);
    let Identity { certificate, key } = authority.client("somebody");
    let url = format!("https://localhost:{}/short", wharf.address().port());
    let run = ["--ca", text(&authority.file()), "--rate", "50/s", "--duration", "200ms"].map(str::to_owned);
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    let with = report(&url, &[&run[..], &["--cert", text(&certificate), "--key", text(&key)]].concat());
    assert_eq!(count(&with, "good"), 10, "{with:#}");
    let without = report(&url, &run);
    assert_eq!((count(&without, "good"), count(&without, "failed")), (0, 10), "{without:#}");
    assert!(without["failures"]["TLS error"].as_u64() > Some(0), "{without:#}");
}

/// Accepts, waits, and then passes all bytes on to this address and back.
fn slow_to_connect(to: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                thread::sleep(delay);
                let server = TcpStream::connect(to).expect("the server is there");
                server.set_nodelay(true).expect("a TCP socket");
                client.set_nodelay(true).expect("a TCP socket");
                let back = (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
                // Either end may have left.
                thread::spawn(move || io::copy(&mut &back.0, &mut &back.1));
                let _ = io::copy(&mut &client, &mut &server);
            });
        }
    });
    address
}

#[test]
fn handshakes_are_connecting_and_not_service() {
    const DELAY: Duration = Duration::from_millis(500);
    let authority = Authority::new("ours");
    let wharf = serve(&authority.server(&["localhost"]), "");
    let url = format!("https://{}/short", slow_to_connect(wharf.address(), DELAY));
    let closed = report(&url, &["-k", "--connections", "2", "--duration", "1500ms", "--threads", "1"]);
    assert_eq!(closed["connect_ms"]["count"], 2, "{closed:#}");
    assert!(ms(&closed, "connect_ms", "min") >= 500.0, "{closed:#}");
    assert!(ms(&closed, "service_ms", "p50") < 250.0, "{closed:#}");
    assert!(ms(&closed, "latency_ms", "p50") < 250.0, "{closed:#}");
    // Users of an open loop wait for their connection, and the first of them have none.
    let open = report(&url, &["-k", "--rate", "20/s", "--duration", "2s"]);
    assert!(ms(&open, "latency_ms", "max") >= 500.0, "{open:#}");
    assert!(ms(&open, "connect_ms", "min") >= 500.0, "{open:#}");
    assert!(ms(&open, "service_ms", "p50") < 250.0, "{open:#}");
}

fn configured(directory: &tempfile::TempDir, arguments: &[&str]) -> Exit {
    let run = ["load", "--config", "wharf.toml", "--json", "-", "--rate", "50/s", "--duration", "200ms"];
    Wharf::run_in(directory, &[&run[..], &NEVER_LATE, arguments].concat(), &[])
}

fn good(exit: &Exit) -> u64 {
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let report: Value = serde_json::from_str(&exit.stdout).expect("a report");
    count(&report, "good")
}

#[test]
fn a_configuration_with_tls_or_unix_listeners_is_asked_there() {
    let authority = Authority::new("ours");
    let identity = authority.server(&["nobody.example"]);
    for listen in [
        "[server]\nlisten = 'unix:plain.sock'\n".to_owned(),
        // The certificate is the one in the file, whatever its name.
        format!("[[listen]]\naddress = 'unix:tls.sock'\ntls = true\n{}", shown(&identity)),
        format!(
            "[[listen]]\naddress = 'unix:tls.sock'\ntls = true\n{}[[listen]]\naddress = 'unix:plain.sock'\n",
            shown(&identity)
        ),
    ] {
        let directory = Arc::new(directory_with(&format!("{listen}{ENDPOINTS}")));
        let _wharf = Wharf::start_in(&directory, &["--config", "wharf.toml"], &[]);
        assert_eq!(good(&configured(&directory, &[])), 10, "{listen}");
    }
}

#[test]
fn at_says_where_with_tls_or_a_unix_socket() {
    let authority = Authority::new("ours");
    let identity = authority.server(&["localhost"]);
    let listen = format!(
        "[[listen]]\naddress = '127.0.0.1:0'\ntls = true\n{}[[listen]]\naddress = 'unix:plain.sock'\n",
        shown(&identity)
    );
    let directory = Arc::new(directory_with(&format!("{listen}{ENDPOINTS}")));
    let wharf = Wharf::start_in(&directory, &["--config", "wharf.toml"], &[]);
    let (at, _) = wharf.listening_on().split_once(", ").expect("two listeners");
    assert_eq!(good(&configured(&directory, &["--at", at])), 10);
    assert_eq!(good(&configured(&directory, &["--at", "unix:plain.sock"])), 10);
    assert_says(
        &configured(&directory, &["--at", "somewhere"]),
        2,
        &[
            "\"somewhere\" is not a place such as 127.0.0.1:8080, unix:/run/wharf.sock or https://127.0.0.1:8443",
        ],
    );
    // Another certificate than the server's.
    let other = authority.server(&["localhost"]);
    let text = listen.replace(text(&identity.certificate), text(&other.certificate));
    let text = text.replace(identity.key.to_str().expect("UTF-8"), other.key.to_str().expect("UTF-8"));
    fs::write(directory.path().join("wharf.toml"), format!("{text}{ENDPOINTS}"))
        .expect("the file is written");
    assert_says(
        &configured(&directory, &["--at", at]),
        2,
        &["the server's certificate is not the one in the configuration's file"],
    );
    assert_eq!(good(&configured(&directory, &["--at", at, "-k"])), 10);
}

#[test]
fn a_unix_socket_is_asked_in_place_of_the_host() {
    let directory = Arc::new(directory_with(&format!("[server]\nlisten = 'unix:wharf.sock'\n{ENDPOINTS}")));
    let wharf = Wharf::start_in(&directory, &["--config", "wharf.toml"], &[]);
    let path = directory.path().join("wharf.sock");
    let run = ["--unix-socket", text(&path), "--connections", "2", "--duration", "300ms"];
    let of_urls = report("http://no.such.host.invalid/short", &run);
    assert!(count(&of_urls, "good") > 2, "{of_urls:#}");
    assert_eq!(count(&of_urls, "good"), count(&of_urls, "scheduled"), "{of_urls:#}");
    drop(wharf);
    let gone = load(&["--unix-socket", text(&path), "--rate", "1/s", "http://localhost/short"]);
    assert_says(&gone, 2, &["http://localhost/short: no connection: "]);
}

#[test]
fn one_server_is_known_by_its_address_and_its_name() {
    // Two names of one server: connections are not shared, because each has its own handshake.
    let authority = Authority::new("ours");
    let wharf = serve(&authority.server(&["localhost", "127.0.0.1"]), "");
    let root = authority.file();
    let urls =
        ["localhost", "127.0.0.1"].map(|host| format!("https://{host}:{}/short", wharf.address().port()));
    let run = ["--ca", text(&root), "--rate", "40/s", "--duration", "500ms", &urls[0]];
    let report = report(&urls[1], &run);
    assert_eq!(count(&report, "good"), 20, "{report:#}");
    assert!(report["connect_ms"]["count"].as_u64() >= Some(2), "{report:#}");
}

#[test]
fn a_plain_server_needs_no_certificate() {
    let server = Server::start(|_| ok());
    let report = report(&server.url(), &["-k", "--rate", "20/s", "--duration", "200ms"]);
    assert_eq!(count(&report, "good"), 4, "{report:#}");
}
