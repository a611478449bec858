//! Several listeners of one server, each with its own address and rules.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::Method;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use wharf::config::{AdminListen, Config, Listen, Listener};
use wharf::http::Response;
use wharf::server::{Drained, Running, Server, StartError};

use super::session::Session;
use crate::support::{
    Authority, Client, Identity, Keeper, PATIENCE, Wharf, assert_nothing_is_left, assert_says,
    default_config, directory_with, gate, wait_until,
};

const HELLO: &str = "[endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n";
const SERVE: [&str; 2] = ["--config", "wharf.toml"];
const PROXY: &str = "PROXY TCP4 192.0.2.7 192.0.2.1 4000 443\r\n";

fn loopback() -> Listener {
    Listener::at(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn encrypted() -> Listener {
    let mut listener = loopback();
    listener.tls = true;
    listener
}

/// A server on these listeners. `GET /seen` says whether the connection speaks TLS and who the client is, `POST /seen` the same,
/// and `GET /gate` waits.
fn serve(
    authority: &Authority,
    listeners: Vec<Listener>,
    change: impl FnOnce(&mut Config),
) -> (Running, Keeper) {
    let mut config = configured(authority, listeners);
    change(&mut config);
    let (gate, keeper) = gate();
    let seen = |request: &wharf::http::Request| {
        let client = request.client().map_or("nobody".to_owned(), |client| client.to_string());
        Response::text(format!("{} {client}", request.is_encrypted()))
    };
    let server = Server::new(config).expect("no database to open").route(Method::GET, "/gate", gate);
    let server = server.get_immediate("/seen", seen).post("/seen", move |request, _| Ok(seen(request)));
    (server.start().expect("free ports"), keeper)
}

fn configured(authority: &Authority, listeners: Vec<Listener>) -> Config {
    let Identity { certificate, key } = authority.server(&["localhost"]);
    let mut config = default_config();
    config.server.workers = Some(4);
    config.server.deadline = PATIENCE;
    config.queue.max_wait = PATIENCE;
    config.tls.certificate = Some(certificate);
    config.tls.key = Some(key);
    config.listen = listeners;
    config
}

fn tcp(server: &Running, index: usize) -> SocketAddr {
    match server.listeners()[index].address() {
        wharf::server::Address::Tcp(address) => *address,
        other @ wharf::server::Address::Unix(_) => panic!("{other} is no TCP address"),
    }
}

fn seen(client: &mut Client) -> String {
    client.request("GET", "/seen", &[], "");
    client.answer().text().to_owned()
}

fn address_in_use() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// Waits until nothing listens there. A program that another test starts has this process's sockets for a moment, until it has begun.
fn wait_until_free(address: SocketAddr) {
    wait_until("the address is still bound", || TcpListener::bind(address).is_ok());
}

#[test]
fn http_https_and_a_unix_socket_side_by_side_answer_each_in_its_own_way() {
    let authority = Authority::new("the authority");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("w.sock");
    let listeners = vec![loopback(), encrypted(), Listener::at(Listen::Unix(path.clone()))];
    let (server, _keeper) = serve(&authority, listeners, |_| {});
    let (plain, tls) = (tcp(&server, 0), tcp(&server, 1));
    let shown: Vec<_> = server.listeners().iter().map(ToString::to_string).collect();
    let unix = format!("unix:{}", path.display());
    assert_eq!(shown, [format!("http://{plain}"), format!("https://{tls}"), unix]);
    assert_eq!((server.address(), server.is_encrypted()), (plain, false));

    for _ in 0..3 {
        assert_eq!(seen(&mut Client::connect(plain)), "false 127.0.0.1");
        assert_eq!(seen(&mut Client::connect_tls(tls, &authority)), "true 127.0.0.1");
        assert_eq!(seen(&mut Client::connect_unix(&path)), "false nobody");
    }
    // A client that speaks the other protocol is told so, as with one listener.
    let mut client = Client::connect(tls);
    client.request("GET", "/seen", &[], "");
    let answer = client.answer();
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("this is an HTTPS port"), "{}", answer.text());
    assert!(client.is_closed());
    Client::connect_tls(plain, &authority).tls_failure();

    // A page of http://h is a page of this server only where clients speak plain HTTP, perhaps to a proxy with TLS.
    for (origin, by_http, by_https) in
        [("http://h", 200, 403), ("https://h", 200, 200), ("http://x", 403, 403)]
    {
        for (mut client, status) in
            [(Client::connect(plain), by_http), (Client::connect_tls(tls, &authority), by_https)]
        {
            client.send(format!(
                "POST /seen HTTP/1.1\r\nHost: h\r\nOrigin: {origin}\r\nContent-Length: 0\r\n\r\n"
            ));
            assert_eq!(client.answer().status, status, "{origin}");
        }
    }
    assert_nothing_is_left(server);
    assert!(!path.exists());
}

#[test]
fn the_proxy_protocol_is_expected_only_where_a_listener_says_so() {
    let authority = Authority::new("the authority");
    let proxied = |mut listener: Listener| {
        listener.proxy_protocol = true;
        listener
    };
    let listeners = vec![loopback(), proxied(loopback()), encrypted(), proxied(encrypted())];
    let (server, _keeper) = serve(&authority, listeners, |config| {
        config.proxy.trusted = "127.0.0.1".parse().expect("an address");
    });
    assert_eq!(seen(&mut Client::connect(tcp(&server, 0))), "false 127.0.0.1");
    let mut behind = Client::connect(tcp(&server, 1));
    behind.send(PROXY);
    assert_eq!(seen(&mut behind), "false 192.0.2.7");
    assert_eq!(seen(&mut Client::connect_tls(tcp(&server, 2), &authority)), "true 127.0.0.1");
    let mut session = Session::connect(tcp(&server, 3), authority.trusting(None));
    session.send_raw(PROXY.as_bytes());
    session.shake_hands();
    session.send("GET /seen HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let (answer, _) = session.rest();
    assert!(answer.ends_with(b"true 192.0.2.7"), "{}", String::from_utf8_lossy(&answer));

    let mut without = Client::connect(tcp(&server, 1));
    without.send("GET /seen HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(without.is_closed(), "a request is no PROXY header");
    let mut unasked = Client::connect(tcp(&server, 0));
    unasked.send(format!("{PROXY}GET /seen HTTP/1.1\r\nHost: h\r\n\r\n"));
    assert_eq!(unasked.answer().status, 400, "a PROXY header is no request");
    drop((behind, session, without, unasked));
    assert_nothing_is_left(server);
}

#[test]
fn each_listener_has_its_own_certificate_and_asks_its_own_clients() {
    let (authority, other) = (Authority::new("the authority"), Authority::new("another"));
    let own = authority.server(&["localhost"]);
    let written = CertificateDer::from_pem_file(&own.certificate).expect("it was written");
    let mut asking = encrypted();
    (asking.certificate, asking.key) = (Some(own.certificate), Some(own.key));
    asking.client_ca = Some(authority.file());
    asking.client_auth = Some(wharf::config::ClientAuth::Required);
    let (server, _keeper) = serve(&authority, vec![encrypted(), asking], |_| {});
    let shown = |index: usize, client: Arc<ClientConfig>| {
        let mut session = Session::connect(tcp(&server, index), client);
        session.shake_hands();
        let shown = session.tls.peer_certificates().and_then(<[_]>::first).cloned();
        session.send("GET /seen HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let (answer, _) = session.rest();
        assert!(answer.ends_with(b"true 127.0.0.1"), "{}", String::from_utf8_lossy(&answer));
        shown.expect("a server shows its certificate")
    };
    assert_ne!(shown(0, authority.trusting(None)), written);
    assert_eq!(shown(1, authority.trusting(Some(&authority.client("good")))), written);
    for refused in [authority.trusting(None), authority.trusting(Some(&other.client("unknown")))] {
        Client::connect_tls_with(tcp(&server, 1), refused).tls_failure();
    }
    assert_nothing_is_left(server);
}

#[test]
fn connections_are_counted_over_all_listeners() {
    let authority = Authority::new("the authority");
    let (server, keeper) =
        serve(&authority, vec![loopback(), encrypted()], |config| config.http.max_connections = 2);
    // Both have a request in progress, so neither makes room.
    let mut plain = Client::connect(tcp(&server, 0));
    plain.request("GET", "/gate", &[], "");
    keeper.wait_for_one();
    let mut tls = Client::connect_tls(tcp(&server, 1), &authority);
    tls.request("GET", "/gate", &[], "");
    keeper.wait_for_one();
    let mut third = Client::connect(tcp(&server, 0));
    assert_eq!(third.answer().status, 503);
    keeper.let_through(2);
    assert_eq!((plain.answer().status, tls.answer().status), (200, 200));
    drop((plain, tls, third));
    assert_nothing_is_left(server);
}

/// Clients of one listener come without a pause. The other's wait no longer for that.
#[test]
fn a_listener_that_many_clients_come_to_holds_up_no_other() {
    const CLIENTS: usize = 300;
    let authority = Authority::new("the authority");
    let (server, _keeper) = serve(&authority, vec![loopback(), loopback(), encrypted()], |_| {});
    let addresses = [tcp(&server, 0), tcp(&server, 1)];
    let clients = addresses.map(|address| {
        thread::spawn(move || (0..CLIENTS).for_each(|_| drop(seen(&mut Client::connect(address)))))
    });
    for _ in 0..20 {
        assert_eq!(seen(&mut Client::connect_tls(tcp(&server, 2), &authority)), "true 127.0.0.1");
    }
    for client in clients {
        client.join().expect("each client had its answer");
    }
    assert_nothing_is_left(server);
}

#[test]
fn a_drain_answers_the_requests_of_every_listener_and_closes_all() {
    let authority = Authority::new("the authority");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("w.sock");
    let listeners = vec![Listener::at(Listen::Unix(path.clone())), loopback(), encrypted()];
    let (server, keeper) = serve(&authority, listeners, |_| {});
    let (plain, tls) = (tcp(&server, 1), tcp(&server, 2));
    let mut clients =
        [Client::connect_unix(&path), Client::connect(plain), Client::connect_tls(tls, &authority)];
    for client in &mut clients {
        client.request("GET", "/gate", &[], "");
        keeper.wait_for_one();
    }
    let draining = thread::spawn(|| server.drain());
    // A system may let a client wait where there was a listener a moment ago.
    let is_closed =
        |address: &SocketAddr| TcpStream::connect_timeout(address, Duration::from_millis(200)).is_err();
    wait_until("a listener is still open", || is_closed(&plain) && is_closed(&tls) && !path.exists());
    keeper.let_through(clients.len());
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    drop(clients);
    assert_eq!(draining.join().expect("no panic"), Drained::Complete);
    wait_until_free(plain);
    wait_until_free(tls);
}

/// The file of a Unix socket stayed when another address was taken.
#[test]
fn an_address_in_use_fails_the_start_by_its_name_and_leaves_nothing_bound() {
    let authority = Authority::new("the authority");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("w.sock");
    let (taken, in_use) = address_in_use();
    // No other test has this address, so its port stays free.
    let own = TcpListener::bind("127.66.1.1:0").and_then(|free| free.local_addr()).expect("a free port");
    let listeners = || {
        vec![Listener::at(Listen::Unix(path.clone())), Listener::at(own), Listener::at(in_use), encrypted()]
    };
    let start = |config: Config| Server::new(config).expect("no database to open").start().map(|_| ());
    let error = start(configured(&authority, listeners())).expect_err("it is in use");
    assert!(matches!(&error, StartError::Listen { address, .. } if *address == in_use.into()), "{error}");
    assert!(
        error.to_string().starts_with(&format!("cannot listen on {in_use}: Address already in use")),
        "{error}"
    );
    assert!(!path.exists());
    wait_until_free(own);

    let mut config =
        configured(&authority, vec![Listener::at(Listen::Unix(path.clone())), Listener::at(own)]);
    config.admin.listen = Some(AdminListen::At(in_use));
    let error = start(config).expect_err("it is in use").to_string();
    assert!(error.contains("admin.listen"), "{error}");
    assert!(!path.exists());
    wait_until_free(own);
    drop(taken);
    wait_until_free(in_use);
    let (server, _keeper) = serve(&authority, listeners(), |_| {});
    assert_eq!(seen(&mut Client::connect(in_use)), "false 127.0.0.1");
    assert_nothing_is_left(server);
}

#[test]
fn every_ipv4_and_every_ipv6_address_may_share_a_port() {
    let authority = Authority::new("the authority");
    let free = |address: &str| TcpListener::bind(address).and_then(|free| free.local_addr());
    // A machine without IPv6 has nothing to share.
    let Ok(v6) = free("[::]:0") else { return };
    let v4 = SocketAddr::from(([0, 0, 0, 0], v6.port()));
    let (server, _keeper) = serve(&authority, vec![Listener::at(v4), Listener::at(v6)], |_| {});
    for (address, client) in
        [(format!("127.0.0.1:{}", v6.port()), "127.0.0.1"), (format!("[::1]:{}", v6.port()), "::1")]
    {
        let address = address.parse().expect("an address");
        assert_eq!(seen(&mut Client::connect(address)), format!("false {client}"));
    }
    assert_nothing_is_left(server);
}

/// The lines of a listener that speaks TLS with this certificate.
fn own(identity: &Identity) -> String {
    let Identity { certificate, key } = identity;
    format!(
        "[[listen]]\naddress = '127.0.0.1:0'\ntls = true\ncertificate = '{}'\nkey = '{}'\n",
        certificate.display(),
        key.display()
    )
}

const PLAIN: &str = "[[listen]]\naddress = '127.0.0.1:0'\n";

fn start(config: &str) -> Wharf {
    Wharf::start_in(&Arc::new(directory_with(config)), &SERVE, &[])
}

/// The addresses of a server, in the order of its listeners.
fn addresses(wharf: &Wharf) -> Vec<SocketAddr> {
    let listening = wharf.listening_on().split(", ");
    listening.filter_map(|place| place.split_once("://")?.1.parse().ok()).collect()
}

fn shown(address: SocketAddr, client: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let mut session = Session::connect(address, Arc::clone(client));
    session.shake_hands();
    session.tls.peer_certificates().and_then(<[_]>::first).cloned().expect("a server shows its certificate")
}

fn replace(wharf: &Wharf, config: &str) {
    fs::write(wharf.directory().join("wharf.toml"), config).expect("a temporary file");
}

#[test]
fn sighup_reads_the_certificates_of_all_listeners_or_of_none() {
    let authority = Authority::new("the authority");
    let client = authority.trusting(None);
    let used = [authority.server(&["localhost"]), authority.server(&["localhost"])];
    let next = [authority.server(&["localhost"]), authority.server(&["localhost"])];
    let written =
        |identity: &Identity| CertificateDer::from_pem_file(&identity.certificate).expect("it was written");
    let before = [written(&used[0]), written(&used[1])];
    let wharf = start(&format!("{}{PLAIN}{}{HELLO}", own(&used[0]), own(&used[1])));
    let [first, plain, second] = addresses(&wharf)[..] else { panic!("{}", wharf.output()) };
    let both = || [shown(first, &client), shown(second, &client)];
    assert_eq!(both(), before);
    let copy = |from: &Path, to: &Path| fs::copy(from, to).map(drop).expect("the file can be written");
    copy(&next[0].certificate, &used[0].certificate);
    copy(&next[0].key, &used[0].key);
    fs::write(&used[1].key, "no key").expect("the file can be written");
    wharf.signal("HUP");
    wharf.wait_for_log(&format!("the certificate stays as it was: {}", used[1].key.display()));
    assert_eq!(both(), before);
    copy(&next[1].certificate, &used[1].certificate);
    copy(&next[1].key, &used[1].key);
    wharf.signal("HUP");
    wharf.wait_for_log("the certificate was read again");
    assert_eq!(both(), [written(&next[0]), written(&next[1])]);
    let mut client = Client::connect(plain);
    client.request("GET", "/hello", &[], "");
    assert_eq!(client.answer().text(), "hi");
}

#[test]
fn a_reload_names_the_keys_of_listeners_that_need_a_restart_and_applies_the_rest() {
    let authority = Authority::new("the authority");
    let tls = own(&authority.server(&["localhost"]));
    let wharf = start(&format!("{PLAIN}{tls}{HELLO}"));
    let [plain, _] = addresses(&wharf)[..] else { panic!("{}", wharf.output()) };
    let hello = || {
        let mut client = Client::connect(plain);
        client.request("GET", "/hello", &[], "");
        client.answer().text().to_owned()
    };
    let restart = "this needs a restart, and the old value applies until then";
    let two = HELLO.replace("'hi'", "'two'");
    replace(&wharf, &format!("[[listen]]\naddress = '127.0.0.2:0'\n{tls}{two}"));
    wharf.signal("HUP");
    wharf.wait_for_log(&format!("listen[1].address: 127.0.0.2:0, before 127.0.0.1:0; {restart}"));
    wait_until("the endpoint stays", || hello() == "two");

    let three = HELLO.replace("'hi'", "'three'");
    replace(&wharf, &format!("{PLAIN}{tls}[[listen]]\naddress = '127.0.0.3:0'\n{three}"));
    wharf.signal("HUP");
    let addresses = "127.0.0.1:0 and 127.0.0.1:0 and 127.0.0.3:0, before 127.0.0.1:0 and 127.0.0.1:0";
    wharf.wait_for_log(&format!("listen: {addresses}; {restart}"));
    wait_until("the endpoint stays", || hello() == "three");

    // Endpoints may be written for clients that show a certificate, and such a listener comes with the restart only.
    let asking = format!("client_ca = '{}'\nclient_auth = 'required'\n", authority.file().display());
    replace(&wharf, &format!("{PLAIN}{tls}{asking}{HELLO}"));
    wharf.signal("HUP");
    wharf.wait_for_log(
        "nothing has changed: listen[2].client_ca, listen[2].client_auth: a new value needs a restart",
    );
    // And the short form, with which the listeners stay too.
    replace(&wharf, HELLO);
    wharf.signal("HUP");
    wharf.wait_for_log(&format!("listen: not given, before 127.0.0.1:0 and 127.0.0.1:0; {restart}"));
    wait_until("the endpoint stays", || hello() == "hi");
}

/// Every client would have been closed: a header is expected, and no proxy may send one.
#[test]
fn a_reload_that_trusts_no_proxy_is_refused_while_a_listener_expects_its_header() {
    let proxied = "[[listen]]\naddress = '127.0.0.1:0'\nproxy_protocol = true\n";
    let wharf = start(&format!("{PLAIN}{proxied}[proxy]\ntrusted = '127.0.0.1'\n{HELLO}"));
    let [_, behind] = addresses(&wharf)[..] else { panic!("{}", wharf.output()) };
    replace(&wharf, &format!("{PLAIN}{PLAIN}{HELLO}"));
    wharf.signal("HUP");
    wharf.wait_for_log("nothing has changed: listen[2].proxy_protocol: a new value needs a restart");
    let mut client = Client::connect(behind);
    client.send(PROXY);
    client.request("GET", "/hello", &[], "");
    assert_eq!(client.answer().text(), "hi");
}

#[test]
fn the_start_and_the_admin_listener_show_every_listener() {
    let authority = Authority::new("the authority");
    let wharf = start(&format!(
        "{PLAIN}{}[[listen]]\naddress = 'unix:w.sock'\n{HELLO}",
        own(&authority.server(&["localhost"]))
    ));
    let [plain, tls] = addresses(&wharf)[..] else { panic!("{}", wharf.output()) };
    assert_eq!(wharf.listening_on(), format!("http://{plain}, https://{tls}, unix:w.sock"));
    wharf.wait_for_log(&format!("serving on {plain}, {tls}, unix:w.sock: "));
    let mut admin = Client::connect(wharf.admin_address());
    admin.request("GET", "/config", &[], "");
    let text = admin.answer().text().to_owned();
    assert_eq!(text.matches("\n[[listen]]\n").count(), 3, "{text}");
    assert!(
        text.contains("\n# listen is not given\n") && text.contains("\naddress = \"unix:w.sock\"\n"),
        "{text}"
    );
}

#[test]
fn the_check_names_the_wrong_files_of_every_listener() {
    let authority = Authority::new("the authority");
    let [one, two] = [authority.server(&["localhost"]), authority.server(&["localhost"])];
    let mixed = Identity { certificate: one.certificate.clone(), key: two.key.clone() };
    let missing = Identity { certificate: authority.directory().join("missing.pem"), key: one.key.clone() };
    let config = |first: &Identity, second: &Identity| format!("{}{}{PLAIN}{HELLO}", own(first), own(second));
    assert_says(&Wharf::run(&config(&one, &two), &["check"], &[]), 0, &[]);
    let wrong = [
        format!("listen[1].key: {}: is not the key of", two.key.display()),
        format!("listen[2].certificate: {}: No such file", missing.certificate.display()),
    ];
    let wrong = [wrong[0].as_str(), wrong[1].as_str()];
    assert_says(&Wharf::run(&config(&mixed, &missing), &["check"], &[]), 1, &wrong);
    let start = Wharf::run(&config(&one, &missing), &["serve", "--config", "wharf.toml"], &[]);
    assert_says(&start, 2, &["missing.pem: No such file"]);
}

#[test]
fn a_flag_or_a_variable_with_an_address_is_refused_beside_the_tables() {
    let config = format!("{PLAIN}{HELLO}");
    let said = "[[listen]] says this for each listener; keep one of the two";
    let serve = ["serve", "--config", "wharf.toml", "--listen", "127.0.0.1:0"];
    assert_says(&Wharf::run(&config, &serve, &[]), 2, &[&format!("--listen: {said}")]);
    for name in ["WHARF_LISTEN", "WHARF_SERVER_LISTEN", "WHARF_PROXY_PROTOCOL"] {
        let value = if name == "WHARF_PROXY_PROTOCOL" { "false" } else { "127.0.0.1:0" };
        let exit = Wharf::run(&config, &["check"], &[(name, value)]);
        assert_says(&exit, 1, &[&format!("{name}: {said}")]);
    }
    let both = format!("server = {{ listen = '127.0.0.1:0', unix_mode = '0600' }}\n{config}");
    let in_file = [format!("server.listen: {said}"), format!("server.unix_mode: {said}")];
    assert_says(&Wharf::run(&both, &["check"], &[]), 1, &[&in_file[0], &in_file[1]]);
    // A variable within the file is the way.
    let variable = format!("[[listen]]\naddress = '${{PLACE:-127.0.0.1:1}}'\n{HELLO}");
    assert_says(
        &Wharf::run(&variable, &["check"], &[("PLACE", "nowhere")]),
        1,
        &["listen[1].address: \"nowhere\""],
    );
}

#[test]
fn health_asks_the_listener_that_demands_least() {
    let authority = Authority::new("the authority");
    let tls = own(&authority.server(&["localhost"]));
    let proxied = "proxy_protocol = true\n";
    let wharf = start(&format!("{PLAIN}{proxied}{tls}[proxy]\ntrusted = '127.0.0.1'\n{HELLO}"));
    let [behind, encrypted] = addresses(&wharf)[..] else { panic!("{}", wharf.output()) };
    let (_silent, nowhere) = address_in_use();
    let listening = |address: SocketAddr, more: &str| format!("[[listen]]\naddress = '{address}'\n{more}");
    let encrypted = tls.replace("127.0.0.1:0", &encrypted.to_string());
    let asked = |config: &str| {
        Wharf::run(&format!("{config}[proxy]\ntrusted = '127.0.0.1'\n{HELLO}"), &["health"], &[])
    };
    // The first listener would not answer, and the second one does.
    assert_says(&asked(&format!("{}{encrypted}", listening(nowhere, proxied))), 0, &[]);
    assert_says(&asked(&format!("[[listen]]\naddress = 'systemd'\n{PLAIN}{encrypted}")), 0, &[]);
    assert_says(&asked(&listening(behind, proxied)), 0, &[]);
    let exit = asked(&format!("[[listen]]\naddress = 'systemd:a'\n{PLAIN}"));
    assert_says(&exit, 2, &["listen[1].address: systemd has the socket"]);
    let wrong = Wharf::run(&format!("[[listen]]\nport = 8080\n{HELLO}"), &["health"], &[]);
    assert_says(&wrong, 2, &["listen[1].port: unknown key"]);
}
