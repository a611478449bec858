//! The admin listener: its answers, the clients that may have them, and that it answers in every state of the server.

mod access;
mod endpoints;
mod events;
mod operations;
mod ready;

use std::net::SocketAddr;

use http::Method;
use wharf::config::Config;
use wharf::server::{Running, Server};

use crate::support::{Answer, Client, Gate, Keeper, Wharf, default_config, gate};

const HELLO: &str = "[endpoint.hello]\nroute = 'GET /hello'\nbody = 'hi'\n";

/// A request to the admin listener there, on a connection of its own.
fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut client = Client::connect(address);
    client.request(method, path, headers, body);
    if method == "HEAD" { client.head_answer() } else { client.answer() }
}

fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, &[], "")
}

fn post(wharf: &Wharf, path: &str, body: &str) -> Answer {
    request(wharf.admin_address(), "POST", path, &[], body)
}

/// The names of the reasons why the server is not ready.
fn reasons(address: SocketAddr) -> Vec<String> {
    let answer = get(address, "/ready");
    let names = answer.json()["reasons"].as_array().expect("there are reasons, or none").clone();
    assert_eq!(answer.status, if names.is_empty() { 200 } else { 503 }, "{}", answer.text());
    assert_eq!(answer.json()["ready"], names.is_empty());
    names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

/// A server with one worker that waits for the test, changed by `change`, and where its admin listener is.
fn serve(change: impl FnOnce(&mut Config)) -> (Running, SocketAddr, Keeper) {
    let (gate, keeper) = gate();
    let mut config = default_config();
    config.server.workers = Some(1);
    change(&mut config);
    let server = Server::new(config).expect("no database to open");
    let running = server.route(Method::GET, "/gate", Gate::clone(&gate)).start().expect("free ports");
    let admin = running.admin_address().expect("there is one until told otherwise");
    (running, admin, keeper)
}
