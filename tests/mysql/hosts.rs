//! Several hosts in a URL: each has its share of the time, and the first that answers is taken.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{Mariadb, assert_nothing_is_left, wait_until};
use crate::{ask, get, open, serve_with, value};

/// A port on which nobody listens. It stays taken while this is held.
fn closed_port() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
        .expect("the system has sockets");
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let port = socket.local_addr().expect("it is bound").as_socket().expect("IPv4").port();
    (socket, port)
}

#[test]
fn a_host_that_refuses_or_is_silent_is_passed_over() {
    let live = Mariadb::shared().port();
    let (_closed, refusing) = closed_port();
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = silent.local_addr().expect("it is bound").port();
    for (hosts, limit) in [
        (format!("127.0.0.1:{refusing},127.0.0.1:{live}"), Duration::from_secs(2)),
        (format!("127.0.0.1:{live},127.0.0.1:{refusing}"), Duration::from_secs(2)),
        (format!("127.0.0.1:{silent},127.0.0.1:{live}"), Duration::from_secs(8)),
    ] {
        let url = format!("mysql://app:app@{hosts}/main");
        let began = Instant::now();
        let opened = open(&url, Duration::from_secs(6)).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert!(began.elapsed() < limit, "{url}: {:?}", began.elapsed());
        assert!(!opened.display_url().contains(":app@"), "{}", opened.display_url());
    }
    let nobody = format!("mysql://app:app@127.0.0.1:{refusing},127.0.0.1:{refusing}/main");
    let error = open(&nobody, Duration::from_millis(300)).expect_err("nobody is there").to_string();
    assert!(error.contains(&refusing.to_string()), "{error}");
}

/// The first server ends while requests come: the second one serves.
#[test]
fn when_the_first_server_ends_the_second_one_serves() {
    let (first, second) = (Mariadb::start(), Mariadb::start());
    for (server, name) in [(&first, "first"), (&second, "second")] {
        server.sql(
            "main",
            &format!("create table whoami (name varchar(10)); insert into whoami values ('{name}')"),
        );
    }
    let url = format!("mysql://app:app@127.0.0.1:{},127.0.0.1:{}/main", first.port(), second.port());
    let server = serve_with(&url, 2, "", &value("name", "select name from whoami"));
    assert_eq!(get(&server, "/name"), "\"first\"");
    first.kill();
    let ended = Instant::now();
    wait_until("the second server does not serve", || {
        let answer = ask(&server, "GET", "/name");
        assert!(matches!(answer.status, 200 | 503), "{} {}", answer.status, answer.text());
        answer.text() == "\"second\""
    });
    assert!(ended.elapsed() < Duration::from_secs(2), "{:?}", ended.elapsed());
    assert_nothing_is_left(server);
}
