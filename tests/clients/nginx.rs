//! nginx as a reverse proxy that keeps its connections to wharf.

use std::net::SocketAddr;
use std::time::Duration;

use super::curl;
use super::proxy::{ALIVE, Proxy};
use super::served::Served;
use super::traffic::{self, REQUESTS};

/// nginx that serves an admin listener under this path, which begins and ends with a slash.
pub(crate) fn under_a_path(path: &str, admin: SocketAddr) -> Proxy {
    start(
        "",
        &format!(
            "absolute_redirect off;
             location {path} {{
                 proxy_pass http://{admin}/;
                 proxy_http_version 1.1;
                 proxy_buffering off;
             }}"
        ),
    )
}

/// nginx in front of the server. `options` are directives for the proxied location.
fn in_front_of(server: &Served, options: &str) -> Proxy {
    let upstream = server.address();
    start(
        &format!("client_max_body_size 0; upstream wharf {{ server {upstream}; keepalive 8; }}"),
        &format!(
            "location / {{
                 proxy_pass http://wharf;
                 proxy_http_version 1.1;
                 proxy_set_header Connection \"\";
                 {options}
             }}"
        ),
    )
}

/// nginx with these directives in `http` and in its one `server`.
fn start(http: &str, server: &str) -> Proxy {
    // One process without workers: it needs no other user, and killing it leaves nothing behind. Every path is named,
    // because not every user may write to nginx's built-in paths.
    let configuration = |directory: &str, port: u16| {
        format!(
            "daemon off;
             master_process off;
             pid {directory}/pid;
             error_log stderr info;
             events {{ worker_connections 256; }}
             http {{
                 access_log off;
                 client_body_temp_path {directory}/body;
                 proxy_temp_path {directory}/proxy;
                 fastcgi_temp_path {directory}/fastcgi;
                 uwsgi_temp_path {directory}/uwsgi;
                 scgi_temp_path {directory}/scgi;
                 {http}
                 server {{
                     listen 127.0.0.1:{port};
                     location = {ALIVE} {{ return 200 {directory}; }}
                     {server}
                 }}
             }}"
        )
    };
    Proxy::start("nginx", &["-p", ".", "-e", "stderr", "-c", "conf"], configuration)
}

#[test]
fn many_requests_through_nginx_go_over_few_connections() {
    let server = Served::start();
    let nginx = in_front_of(&server, "");
    traffic::many_requests(nginx.address());
    let used = server.connections();
    assert!(used <= REQUESTS / 20, "{REQUESTS} requests over {used} connections");
    server.wait_until_none_is_left();
    drop(nginx);
    server.finish();
}

#[test]
fn large_bodies_go_through_nginx_buffered_and_not() {
    for (options, chunks_become) in [
        ("proxy_request_buffering on; proxy_buffering on;", "length"),
        ("proxy_request_buffering off; proxy_buffering off;", "chunked"),
    ] {
        let server = Served::start();
        let nginx = in_front_of(&server, options);
        traffic::large_bodies(nginx.address(), chunks_become);
        server.wait_until_none_is_left();
        drop(nginx);
        server.finish();
    }
}

#[test]
fn a_413_goes_through_nginx_while_it_sends() {
    for options in ["proxy_request_buffering on;", "proxy_request_buffering off;"] {
        let server = Served::start_with(|config| config.http.max_body_bytes = curl::TOO_MUCH / 100);
        let nginx = in_front_of(&server, options);
        curl::send_too_much(nginx.address());
        server.wait_until_none_is_left();
        drop(nginx);
        server.finish();
    }
}

#[test]
fn clients_that_leave_nginx_early_leave_nothing_behind() {
    for options in ["", "proxy_buffering off;"] {
        let server = Served::start();
        let nginx = in_front_of(&server, options);
        traffic::leave_early(nginx.address(), &server);
        traffic::many_requests(nginx.address());
        server.wait_until_none_is_left();
        drop(nginx);
        server.finish();
    }
}

#[test]
fn nginx_finds_connections_closed_and_no_client_notices() {
    let server = Served::start_with(|config| config.http.idle_timeout = Duration::from_millis(100));
    let nginx = in_front_of(&server, "");
    traffic::meet_the_idle_timeout(nginx.address(), &server);
    server.wait_until_none_is_left();
    drop(nginx);
    server.finish();
}
