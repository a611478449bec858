//! Python's and Node's clients. Their requests are in the scripts beside this file; the scripts check every answer
//! themselves.

use super::program::run_script;
use super::served::{LARGE, Served};

const CONNECTIONS: usize = 20;
const SOCKETS: usize = 10;

#[test]
fn http_client_keeps_its_connection_sends_chunks_and_reads_slowly() {
    let server = Served::start();
    let (host, port) = (server.address().ip().to_string(), server.address().port().to_string());
    run_script("python3", "http_client.py", &[&host, &port, &LARGE.to_string()]);
    server.finish();
}

#[test]
fn aiohttp_sends_many_requests_at_once_over_few_connections() {
    let server = Served::start();
    run_script("python3", "pooled.py", &[&server.url(""), &CONNECTIONS.to_string()]);
    let used = server.connections();
    assert!((2..=CONNECTIONS).contains(&used), "{used} connections");
    server.finish();
}

#[test]
fn fetch_of_node_sends_many_requests_at_once() {
    let server = Served::start();
    run_script("node", "fetch.mjs", &[&server.url("")]);
    server.finish();
}

#[test]
fn an_agent_of_node_uses_its_sockets_again() {
    let server = Served::start();
    let used = run_script("node", "agent.mjs", &[&server.url(""), &SOCKETS.to_string()]);
    assert_eq!(used, SOCKETS.to_string(), "sockets");
    assert_eq!(server.connections(), SOCKETS);
    server.finish();
}
