//! The limit on connections, behind TLS.

use wharf::metrics::{Closing, Reason};

use super::served::{Served, VERSIONS};

#[test]
fn the_connection_that_was_idle_for_longest_makes_room() {
    for version in VERSIONS {
        let server = Served::start_with(|config, _| config.http.max_connections = 2);
        let ask = |client: &mut crate::support::Client| {
            client.request("GET", "/path/x", &[], "");
            assert_eq!(client.answer().text(), "/path/x?", "{version:?}");
        };
        let (mut first, mut second) = (server.connect_with(version), server.connect_with(version));
        ask(&mut second);
        ask(&mut first);
        ask(&mut second);
        let mut third = server.connect_with(version);
        ask(&mut third);
        assert!(first.is_closed() && first.ended_in_peace(), "{version:?}: it was idle for longest");
        ask(&mut second);
        ask(&mut third);
        assert_eq!(server.metrics().closed_for(Closing::Evicted), 1, "{version:?}");
        drop((first, second, third));
        server.finish();
    }
}

#[test]
fn a_tls_client_without_a_place_is_closed_without_an_answer() {
    let server = Served::start_with(|config, _| {
        config.http.max_connections = 2;
        config.server.workers = Some(2);
    });
    let mut busy: Vec<_> = VERSIONS.into_iter().map(|version| server.connect_with(version)).collect();
    for client in &mut busy {
        client.request("GET", "/gate", &[], "");
        server.wait_for_gate();
    }
    for count in 1..=3 {
        let mut refused = server.session();
        assert!(refused.rest_raw().is_empty(), "an answer could not be read");
        assert_eq!(server.metrics().refused_for(Reason::ConnectionLimit), count);
    }
    for _ in &busy {
        server.open_gate();
    }
    for client in &mut busy {
        assert_eq!(client.answer().text(), "through");
    }
    drop(busy);
    server.wait_for_open(0);
    server.serves();
    server.finish();
}
