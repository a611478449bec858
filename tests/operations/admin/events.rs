//! `/events`: many look, none costs a thread, and none that does not read costs more than its place.

use std::fs;

use wharf::server::Drained;

use super::{HELLO, get, request, serve};
use crate::support::{Client, Wharf, ask, assert_problem, wait_until};

/// The next event of a stream of chunks, and what was in it.
fn event(client: &mut Client) -> serde_json::Value {
    let chunk = client.chunk();
    let text = std::str::from_utf8(&chunk).expect("events are text");
    let data = text.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n"));
    serde_json::from_str(data.unwrap_or_else(|| panic!("{text:?} is no event"))).expect("JSON")
}

fn view(address: std::net::SocketAddr) -> Client {
    let mut client = Client::connect(address);
    client.request("GET", "/events", &[], "");
    let headers = client.head_answer();
    assert_eq!((headers.status, headers.header("Content-Type")), (200, Some("text/event-stream")));
    assert_eq!(headers.header("Transfer-Encoding"), Some("chunked"));
    client
}

#[test]
fn two_viewers_see_the_same_events() {
    let wharf = Wharf::start(HELLO);
    let (mut one, mut other) = (view(wharf.admin_address()), view(wharf.admin_address()));
    assert_eq!(event(&mut one)["totals"]["requests"], 0);
    event(&mut other);
    wharf.get("/hello");
    assert_eq!(event(&mut one), event(&mut other));
    let mut seen = event(&mut one);
    while seen["totals"]["requests"] != 1 {
        seen = event(&mut one);
    }
}

#[test]
fn a_viewer_without_chunks_or_without_a_body_is_served_too() {
    let wharf = Wharf::start(HELLO);
    let admin = wharf.admin_address();
    let mut old = Client::connect(admin);
    old.send("GET /events HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
    let head = old.head_answer();
    assert_eq!((head.header("Transfer-Encoding"), head.header("Connection")), (None, Some("close")));
    assert!(old.take_through(b"\n\n").starts_with(b"data: {"));
    let head = request(admin, "HEAD", "/events", &[], "");
    assert_eq!((head.status, head.header("Content-Type")), (200, Some("text/event-stream")));
}

#[test]
fn a_drain_ends_the_events_in_peace() {
    let (server, admin, keeper) = serve(|_| {});
    let mut last = ask(&server, "/gate");
    keeper.wait_for_one();
    let mut viewer = view(admin);
    event(&mut viewer);
    let draining = std::thread::spawn(move || server.drain());
    keeper.let_through(1);
    assert_eq!(last.answer().text(), "through");
    while !viewer.chunk().is_empty() {}
    draining.join().expect("no panic");
    assert!(viewer.is_closed());
}

#[test]
fn viewers_leave_room_for_who_asks_for_health() {
    let (server, admin, _keeper) = serve(|config| config.http.max_connections = 16);
    let viewers: Vec<Client> = (0..12).map(|_| view(admin)).collect();
    assert_problem(&get(admin, "/events"), 503, "/events has reached its limit of viewers");
    assert_eq!(get(admin, "/live").status, 200);
    drop(viewers);
    wait_until("their places are lost", || request(admin, "HEAD", "/events", &[], "").status == 200);
    assert_eq!(server.drain(), Drained::Complete);
}

/// Threads of the process.
fn threads(wharf: &Wharf) -> usize {
    fs::read_dir(format!("/proc/{}/task", wharf.id())).expect("Linux tells the threads").count()
}

#[test]
fn a_thousand_viewers_are_served_by_the_threads_that_there_are() {
    const VIEWERS: usize = 1000;
    raise_descriptors();
    let wharf = Wharf::start(HELLO);
    let admin = wharf.admin_address();
    let before = threads(&wharf);
    let mut viewers: Vec<Client> = (0..VIEWERS).map(|_| view(admin)).collect();
    for _ in 0..2 {
        for viewer in &mut viewers {
            event(viewer);
        }
    }
    assert_eq!(threads(&wharf), before);
    assert_eq!(get(admin, "/live").status, 200);
    drop(viewers);
    wait_until("who has left is still counted", || sockets(&wharf) < 100);
    assert_eq!(wharf.get("/hello").text(), "hi");
}

fn sockets(wharf: &Wharf) -> usize {
    fs::read_dir(format!("/proc/{}/fd", wharf.id())).expect("Linux tells the descriptors").count()
}

/// A thousand clients are a thousand descriptors here.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the hard limit");
}

#[test]
fn a_viewer_that_leaves_gives_its_place_back_at_once() {
    let wharf = Wharf::start(HELLO);
    let before = sockets(&wharf);
    let mut viewer = view(wharf.admin_address());
    event(&mut viewer);
    assert!(sockets(&wharf) > before);
    drop(viewer);
    wait_until("it keeps its place", || sockets(&wharf) == before);
}
