//! The client's address in the PROXY protocol and in proxies' headers, and the proxies that the server trusts.

use std::time::Duration;

use wharf::config::{AdminListen, Config, ForwardedBy, Listen};
use wharf::handler::{Context, Error};
use wharf::http::{Request, Response};
use wharf::metrics::Closing;
use wharf::server::{Running, Server};

use crate::support::{Client, assert_nothing_is_left, default_config};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A server whose handlers tell who they think the client is.
fn serve(change: impl FnOnce(&mut Config)) -> Running {
    let mut config = default_config();
    config.server.selectors = Some(1);
    config.server.workers = Some(1);
    change(&mut config);
    let who = |request: &Request| -> String {
        let peer = request.peer().map_or("nobody".to_owned(), |peer| peer.to_string());
        let client = request.client().map_or("nobody".to_owned(), |client| client.to_string());
        format!("{peer} for {client}")
    };
    let by_worker = move |request: &Request, _: &mut Context<'_>| -> Result<Response, Error> {
        Ok(Response::text(who(request)))
    };
    let server = Server::new(config).expect("no database to open").get("/worker", by_worker);
    server.get_immediate("/poller", move |request| Response::text(who(request))).start().expect("a free port")
}

fn with_protocol(change: impl FnOnce(&mut Config)) -> Running {
    serve(|config| {
        config.proxy.protocol = true;
        config.proxy.trusted = "127.0.0.1".parse().expect("an address");
        change(config);
    })
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
}

/// A header of version 2.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a short block");
    [SIGNATURE, &[command, family], &length.to_be_bytes(), block].concat()
}

/// 203.0.113.7:4711 to 192.0.2.1:443.
const IPV4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 0x01, 0xbb];

/// `[2001:db8::7]:4711` to `[2001:db8::1]:443`.
fn ipv6() -> Vec<u8> {
    let mut block = vec![0; 36];
    for start in [0, 16] {
        block[start..start + 4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    }
    (block[15], block[31]) = (7, 1);
    block[32..].copy_from_slice(&[0x12, 0x67, 0x01, 0xbb]);
    block
}

/// Headers that tell a client, and how a handler sees it.
fn headers() -> Vec<(Vec<u8>, &'static str)> {
    let (v4, v6) = ("203.0.113.7:4711 for 203.0.113.7", "[2001:db8::7]:4711 for 2001:db8::7");
    let with_tlv = [&IPV4[..], b"\x04\0\x03abc"].concat();
    vec![
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n".to_vec(), v4),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(), v6),
        (binary(0x21, 0x11, &IPV4), v4),
        (binary(0x21, 0x11, &with_tlv), v4),
        (binary(0x21, 0x21, &ipv6()), v6),
    ]
}

#[test]
fn a_trusted_proxy_tells_the_client_once_for_all_requests_of_the_connection() {
    let server = with_protocol(|_| {});
    for (header, seen) in headers() {
        let mut client = Client::connect(server.address());
        // All in one piece, as most proxies send it.
        client.send([&header[..], &get("/poller"), &get("/worker")].concat());
        for _ in 0..2 {
            assert_eq!(client.answer().text(), seen, "{}", header.escape_ascii());
        }
        client.send(get("/worker"));
        assert_eq!(client.answer().text(), seen);
    }
    assert_nothing_is_left(server);
}

/// A client's certificate behind the addresses is longer than 2,048 bytes, which was once the limit.
#[test]
fn a_header_may_be_as_long_as_its_length_field_says() {
    let server = with_protocol(|_| {});
    for length in [2037, 16_000, usize::from(u16::MAX) - IPV4.len()] {
        let header = binary(0x21, 0x11, &[&IPV4[..], &vec![0xee; length]].concat());
        let mut client = Client::connect(server.address());
        for piece in header.chunks(9000) {
            client.send(piece);
        }
        client.send([get("/poller"), get("/worker")].concat());
        for _ in 0..2 {
            assert_eq!(client.answer().text(), "203.0.113.7:4711 for 203.0.113.7", "{length}");
        }
    }
    assert_nothing_is_left(server);
}

#[test]
fn a_header_may_be_split_wherever_the_network_likes() {
    let server = with_protocol(|_| {});
    // Once this one is answered, the only poller has read what was sent before.
    let mut other = Client::connect(server.address());
    other.send("PROXY UNKNOWN\r\n");
    for (header, seen) in headers() {
        let wire = [&header[..], &get("/worker")].concat();
        for split in 1..=header.len() + 1 {
            let mut client = Client::connect(server.address());
            client.send(&wire[..split]);
            other.send(get("/poller"));
            assert_eq!(other.answer().status, 200);
            client.send(&wire[split..]);
            assert_eq!(client.answer().text(), seen, "split at {split} of {}", header.escape_ascii());
        }
        let mut client = Client::connect(server.address());
        for byte in wire {
            client.send([byte]);
        }
        assert_eq!(client.answer().text(), seen, "byte by byte");
    }
    drop(other);
    assert_nothing_is_left(server);
}

#[test]
fn a_proxy_that_speaks_for_itself_is_the_client() {
    let server = with_protocol(|_| {});
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.7 192.0.2.1 4711 443\r\n".to_vec(),
        binary(0x20, 0x00, b""),
        binary(0x20, 0x11, &IPV4),
        binary(0x21, 0x00, b""),
    ] {
        let mut client = Client::connect(server.address());
        let own = client.stream().local_addr().expect("it is connected");
        client.send([&header[..], &get("/poller")].concat());
        assert_eq!(client.answer().text(), format!("{own} for 127.0.0.1"), "{}", header.escape_ascii());
    }
    assert_nothing_is_left(server);
}

#[test]
fn a_client_that_is_not_trusted_is_closed_whatever_it_sends() {
    let server = with_protocol(|_| {});
    let header = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n".to_vec();
    for (count, wire) in [[&header[..], &get("/poller")].concat(), get("/poller")].iter().enumerate() {
        let mut client = Client::connect_from("127.0.0.2", server.address());
        // The server may close the connection before the client has sent this.
        let _ = std::io::Write::write(&mut client.stream(), wire);
        assert!(client.is_closed());
        assert_eq!(server.metrics().closed_for(Closing::ProxyHeader), count as u64 + 1);
    }
    assert_eq!(server.metrics().requests(), 0);
    assert_nothing_is_left(server);
}

#[test]
fn a_connection_with_a_malformed_or_too_long_proxy_header_is_closed_without_an_answer() {
    let server = with_protocol(|_| {});
    let long = |bytes: usize| [b"PROXY UNKNOWN ", &vec![b'x'; bytes - 14][..]].concat();
    let wires: Vec<Vec<u8>> = vec![
        get("/poller"),
        b"\r\n\r\nGET / HTTP/1.1\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 65536\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\n".to_vec(),
        b"PROXY  UNKNOWN\r\n".to_vec(),
        long(107),
        long(5000),
        binary(0x11, 0x11, &IPV4),
        binary(0x21, 0x41, &IPV4),
        binary(0x21, 0x11, &IPV4[..11]),
        // A TLS client.
        b"\x16\x03\x01\x02\x00".to_vec(),
    ];
    for (count, wire) in wires.iter().enumerate() {
        let mut client = Client::connect(server.address());
        client.send(wire);
        assert!(client.is_closed(), "{}", wire.escape_ascii());
        let closed = server.metrics().closed_for(Closing::ProxyHeader);
        assert_eq!(closed, count as u64 + 1, "{}", wire.escape_ascii());
    }
    assert_eq!(server.metrics().requests(), 0);
    // The client's own bytes begin after the first header: a second is no request.
    let mut client = Client::connect(server.address());
    client.send("PROXY UNKNOWN\r\nPROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    assert_eq!(server.metrics().closed_for(Closing::ProxyHeader), wires.len() as u64);
    drop(client);
    assert_nothing_is_left(server);
}

#[test]
fn a_header_that_does_not_come_in_time_is_not_waited_for() {
    let server = with_protocol(|config| config.http.head_timeout = Duration::from_millis(50));
    for (count, start) in [&b""[..], b"PROXY TCP4 203", SIGNATURE].into_iter().enumerate() {
        let mut client = Client::connect(server.address());
        client.send(start);
        assert!(client.is_closed());
        assert_eq!(server.metrics().closed_for(Closing::ProxyHeader), count as u64 + 1);
    }
    assert_eq!(server.metrics().requests(), 0);
    // After the header the request has a time of its own.
    let mut client = Client::connect(server.address());
    client.send("PROXY UNKNOWN\r\nGET /");
    assert_eq!(client.answer().status, 408);
    drop(client);
    assert_nothing_is_left(server);
}

/// Asserts which address the server takes for the client that sends these headers.
fn assert_client(server: &Running, from: &str, headers: &[(&str, &str)], expected: &str) {
    for path in ["/poller", "/worker"] {
        let mut client = Client::connect_from(from, server.address());
        let own = client.stream().local_addr().expect("it is connected");
        client.request("GET", path, headers, "");
        assert_eq!(client.answer().text(), format!("{own} for {expected}"), "{headers:?} from {from}");
    }
}

#[test]
fn only_a_trusted_proxys_header_names_the_client() {
    let trust = |config: &mut Config| {
        config.proxy.trusted = "127.0.0.1, 10.0.0.0/8".parse().expect("networks");
    };
    let forwarded = serve(|config| {
        trust(config);
        config.proxy.header = ForwardedBy::Forwarded;
    });
    let x_forwarded = serve(|config| {
        trust(config);
        config.proxy.header = ForwardedBy::XForwardedFor;
    });
    let neither = serve(trust);
    for (server, name, other, [one, spoofed, hops, six]) in [
        (
            &forwarded,
            "Forwarded",
            "X-Forwarded-For",
            [
                "for=203.0.113.7;proto=https",
                "for=6.6.6.6, for=203.0.113.7",
                "for=6.6.6.6, for=203.0.113.7:4711, for=10.1.2.3, for=10.3.2.1",
                "for=\"[2001:db8::7]:4711\"",
            ],
        ),
        (
            &x_forwarded,
            "X-Forwarded-For",
            "Forwarded",
            [
                "203.0.113.7",
                "6.6.6.6, 203.0.113.7",
                "6.6.6.6, 203.0.113.7, 10.1.2.3, 10.3.2.1",
                "2001:db8::7",
            ],
        ),
    ] {
        let client = "203.0.113.7";
        assert_client(server, "127.0.0.1", &[(name, one)], client);
        assert_client(server, "127.0.0.1", &[(name, spoofed)], client);
        assert_client(server, "127.0.0.1", &[(name, hops)], client);
        assert_client(server, "127.0.0.1", &[(name, six)], "2001:db8::7");
        // Several lines are one list, and its end is the nearest.
        assert_client(server, "127.0.0.1", &[(name, spoofed), ("X", "y"), (name, one)], client);
        assert_client(server, "127.0.0.1", &[], "127.0.0.1");
        assert_client(server, "127.0.0.1", &[(name, "nonsense")], "127.0.0.1");
        // A client that is not a trusted proxy cannot name another client. A trusted proxy can do so only by the
        // configured header.
        for lines in [one, spoofed, hops] {
            assert_client(server, "127.0.0.2", &[(name, lines)], "127.0.0.2");
            assert_client(server, "127.0.0.1", &[(other, lines)], "127.0.0.1");
            assert_client(&neither, "127.0.0.1", &[(name, lines)], "127.0.0.1");
        }
    }
    for server in [forwarded, x_forwarded, neither] {
        assert_nothing_is_left(server);
    }
}

#[test]
fn a_header_counts_after_what_the_proxy_protocol_has_said() {
    let server = with_protocol(|config| {
        config.proxy.trusted = "127.0.0.1, 203.0.113.7".parse().expect("addresses");
        config.proxy.header = ForwardedBy::XForwardedFor;
    });
    for (protocol, seen) in [
        // The proxy in between is trusted, and it has a client; the next is a client, and says what it likes.
        ("PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n", "203.0.113.7:4711 for 198.51.100.9"),
        ("PROXY TCP4 203.0.113.8 192.0.2.1 4711 443\r\n", "203.0.113.8:4711 for 203.0.113.8"),
    ] {
        let mut client = Client::connect(server.address());
        client.send(protocol);
        client.request("GET", "/poller", &[("X-Forwarded-For", "198.51.100.9")], "");
        assert_eq!(client.answer().text(), seen);
    }
    assert_nothing_is_left(server);
}

#[test]
fn a_client_on_a_unix_socket_may_be_a_proxy() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, trusted, seen) in
        [("trusted", "unix", "nobody for 203.0.113.7"), ("other", "127.0.0.1", "nobody for nobody")]
    {
        let path = directory.path().join(name);
        let server = serve(|config| {
            config.server.listen = Listen::Unix(path.clone());
            config.admin.listen = Some(AdminListen::Off);
            config.proxy.trusted = trusted.parse().expect("a network");
            config.proxy.header = ForwardedBy::Forwarded;
        });
        let mut client = Client::connect_unix(&path);
        client.request("GET", "/worker", &[("Forwarded", "for=203.0.113.7")], "");
        assert_eq!(client.answer().text(), seen);
        drop(client);
        assert_nothing_is_left(server);
    }
}
