//! `haproxy` as a reverse proxy that shares its connections to wharf among its clients, and asks wharf for its health.

use std::time::Duration;

use wharf::config::ForwardedBy;

use super::curl;
use super::proxy::{ALIVE, Proxy};
use super::served::Served;
use super::traffic::{self, REQUESTS};
use crate::support::{Client, wait_for};

/// `OPTIONS * HTTP/1.0` without any header.
const ASKS_OPTIONS: &str = "option httpchk OPTIONS *
    http-check expect status 204";

const ASKS_A_PATH: &str = "option httpchk
    http-check send meth GET uri /immediate ver HTTP/1.1 hdr Host localhost
    http-check expect status 200";

/// This number of bad answers in a row makes haproxy take the server for dead. One late answer on a busy machine does
/// not.
const FALL: u64 = 4;

/// `haproxy` in front of the server. `check` is how it asks for its health; `server_options` are more words for the line that
/// names the server, such as `send-proxy` and `send-proxy-v2`.
fn in_front_of(server: &Served, check: &str, server_options: &str) -> Proxy {
    let upstream = server.address();
    // Without `noreuseport` it would share a port that another HAProxy has. Its 3 retries may all meet connections that
    // were closed together with the first one, so that it needs more of them than it keeps connections here.
    let configuration = |directory: &str, port: u16| {
        format!(
            "global
    noreuseport
defaults
    mode http
    timeout connect 20s
    timeout client 20s
    timeout server 20s
    timeout check 20s
    http-reuse always
    retries 20
    retry-on conn-failure empty-response
frontend clients
    bind 127.0.0.1:{port}
    http-request return status 200 content-type text/plain lf-string \"%[nbsrv(wharf)] {directory}\" if {{ path {ALIVE} }}
    default_backend wharf
backend wharf
    {check}
    server wharf {upstream} check inter 100ms fall {FALL} {server_options}
"
        )
    };
    Proxy::start("haproxy", &["-db", "-f", "conf"], configuration)
}

/// Whether `haproxy` takes the server for alive.
fn is_up(haproxy: &Proxy) -> bool {
    let mut client = haproxy.connect();
    client.request("GET", ALIVE, &[], "");
    client.answer().text().starts_with("1 ")
}

#[test]
fn many_requests_through_haproxy_go_over_few_connections() {
    let server = Served::start();
    let haproxy = in_front_of(&server, ASKS_OPTIONS, "");
    traffic::many_requests(haproxy.address());
    let used = server.connections();
    assert!(used <= REQUESTS / 20, "{REQUESTS} requests over {used} connections");
    drop(haproxy);
    server.finish();
}

#[test]
fn haproxy_finds_wharf_alive_whichever_way_it_asks() {
    for check in [ASKS_OPTIONS, ASKS_A_PATH] {
        let server = Served::start();
        let haproxy = in_front_of(&server, check, "");
        // It takes every server for alive until it has had that many bad answers.
        let asked = || server.metrics().requests();
        wait_for(|| asked() > 2 * FALL, || format!("asked {} times", asked()));
        assert!(is_up(&haproxy), "{check}");
        traffic::many_requests(haproxy.address());
        assert!(is_up(&haproxy), "{check}");
        drop(haproxy);
        server.finish();
    }
}

#[test]
fn haproxy_finds_wharf_dead_when_it_refuses() {
    let server = Served::start();
    let haproxy = in_front_of(&server, "option httpchk GET /nowhere", "");
    wait_for(|| !is_up(&haproxy), || "404 passes for health".into());
    drop(haproxy);
    server.finish();
}

#[test]
fn the_client_behind_haproxy_is_known_by_each_way_it_can_tell() {
    for (options, header) in [
        ("send-proxy", ForwardedBy::Nothing),
        ("send-proxy-v2", ForwardedBy::Nothing),
        ("", ForwardedBy::XForwardedFor),
    ] {
        let server = Served::start_with(|config| {
            config.proxy.trusted = "127.0.0.1".parse().expect("an address");
            config.proxy.protocol = !options.is_empty();
            config.proxy.header = header;
        });
        let haproxy = in_front_of(&server, &format!("{ASKS_OPTIONS}\n    option forwardfor"), options);
        // A loopback address that is not the trusted one.
        let mut client = Client::connect_from("127.0.0.9", haproxy.address());
        client.request("GET", "/client", &[("X-Forwarded-For", "192.0.2.1")], "");
        assert_eq!(client.answer().text(), "127.0.0.9", "{options:?} {header:?}");
        drop((client, haproxy));
        server.finish();
    }
}

#[test]
fn large_bodies_go_through_haproxy() {
    let server = Served::start();
    let haproxy = in_front_of(&server, ASKS_OPTIONS, "");
    traffic::large_bodies(haproxy.address(), "chunked");
    drop(haproxy);
    server.finish();
}

#[test]
fn a_413_goes_through_haproxy_while_it_sends() {
    let server = Served::start_with(|config| config.http.max_body_bytes = curl::TOO_MUCH / 100);
    let haproxy = in_front_of(&server, ASKS_OPTIONS, "");
    curl::send_too_much(haproxy.address());
    drop(haproxy);
    server.finish();
}

#[test]
fn clients_that_leave_haproxy_early_leave_nothing_behind() {
    let server = Served::start();
    let haproxy = in_front_of(&server, ASKS_OPTIONS, "");
    traffic::leave_early(haproxy.address(), &server);
    traffic::many_requests(haproxy.address());
    drop(haproxy);
    server.finish();
}

#[test]
fn haproxy_finds_connections_closed_and_no_client_notices() {
    let server = Served::start_with(|config| config.http.idle_timeout = Duration::from_millis(100));
    let haproxy = in_front_of(&server, ASKS_OPTIONS, "");
    traffic::meet_the_idle_timeout(haproxy.address(), &server);
    drop(haproxy);
    server.finish();
}
