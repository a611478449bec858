//! `target_session_attrs` on a primary and its real standby, and a server that does not take sessions yet.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use wharf::config;
use wharf::database::{Database, Error};

use crate::read;
use crate::support::{PATIENCE, Postgres};

struct Servers {
    primary: Postgres,
    /// It takes reading sessions.
    standby: Postgres,
    /// It is in recovery and takes no session (57P03).
    closed: Postgres,
}

fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let primary = Postgres::start();
        let standby = primary.start_standby("");
        let closed = primary.start_standby("-c hot_standby=off");
        Servers { primary, standby, closed }
    })
}

fn open(ports: &[u16], parameters: &str, patience: Duration) -> Result<Database, Error> {
    let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut settings = config::Database::default();
    settings.maximum_pool_size = 1;
    settings.initialization_fail_timeout = patience;
    settings.connection_timeout = PATIENCE;
    Database::open(&settings, &format!("postgres://postgres@{}/postgres?{parameters}", hosts.join(",")))
}

fn port(database: &Database) -> String {
    read(database, "select current_setting('port')::int as port")
}

#[test]
fn the_kind_of_server_is_as_asked() {
    let Servers { primary, standby, .. } = servers();
    let (primary, standby) = (primary.port(), standby.port());
    let both = [[primary, standby], [standby, primary]];
    for ports in both {
        for (wanted, expected) in [
            ("any", ports[0]),
            ("primary", primary),
            ("read-write", primary),
            ("standby", standby),
            ("prefer-standby", standby),
            ("read-only", standby),
        ] {
            let parameters = format!("target_session_attrs={wanted}");
            let database = open(&ports, &parameters, Duration::ZERO).expect(wanted);
            assert_eq!(port(&database), format!("{{\"port\":{expected}}}"), "{wanted} of {ports:?}");
        }
    }
    let database = open(&[primary], "target_session_attrs=prefer-standby", Duration::ZERO).unwrap();
    assert_eq!(port(&database), format!("{{\"port\":{primary}}}"), "there is no standby");
    for (port, wanted, is) in [
        (standby, "primary", "a standby"),
        (standby, "read-write", "a standby"),
        (primary, "standby", "a primary that takes writes"),
        (primary, "read-only", "a primary that takes writes"),
    ] {
        let error = open(&[port], &format!("target_session_attrs={wanted}"), Duration::ZERO).unwrap_err();
        // A failover may change it, so a start waits for that.
        assert!(matches!(error, Error::Open { transient: true, .. }), "{error}");
        assert!(error.to_string().contains(is), "{error}");
    }
}

#[test]
fn a_primary_whose_transactions_only_read_is_read_only() {
    let server = Postgres::start_with("true", "-c default_transaction_read_only=on");
    for (wanted, is_good) in
        [("read-only", true), ("primary", true), ("any", true), ("read-write", false), ("standby", false)]
    {
        let opened = open(&[server.port()], &format!("target_session_attrs={wanted}"), Duration::ZERO);
        assert_eq!(opened.is_ok(), is_good, "{wanted}: {:?}", opened.err());
    }
}

#[test]
fn a_server_that_takes_no_session_yet_is_waited_for_or_left_for_the_next() {
    let Servers { primary, closed, .. } = servers();
    let began = Instant::now();
    let error = open(&[closed.port()], "", Duration::from_millis(500)).unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(400), "it is tried again");
    assert!(matches!(error, Error::Open { transient: true, .. }), "{error}");
    assert!(error.to_string().contains("not accepting connections"), "{error}");
    let database = open(&[closed.port(), primary.port()], "", PATIENCE).unwrap();
    assert_eq!(port(&database), format!("{{\"port\":{}}}", primary.port()));
}
